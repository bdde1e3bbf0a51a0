//! Instances of connectors.

use kernel::connector::{Change as Connector, Installation};
use kernel::machine::{Change, Kind};
use kernel::values::Digest;

use super::{Told, principal};

/// One that is installed, configured, turned off and on, and given another definition.
pub(super) fn commits() -> Vec<Vec<Told>> {
    let of = |change| vec![(Kind::Connector, "servicenow", Change::Connector(change))];
    let installed = |version: &str| {
        Connector::Installed(Installation {
            definition: Digest::of(version.as_bytes()),
            version: version.parse().unwrap(),
            by: principal("u_4"),
        })
    };
    let definition = Digest::of(b"1.0.0");
    let config = Digest::of(b"config");
    vec![
        of(installed("1.0.0")),
        of(Connector::Configured { definition, config, by: principal("u_1") }),
        of(Connector::Disabled { by: principal("u_1") }),
        of(Connector::Enabled { definition, by: principal("u_1") }),
        of(installed("1.1.0")),
    ]
}
