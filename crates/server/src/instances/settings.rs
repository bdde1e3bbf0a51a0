//! Which definitions tenants may install and call.

use std::collections::{BTreeMap, BTreeSet};

use connectors::declared::{Definition, shipped};
use kernel::ids::TenantId;
use kernel::values::Digest;
use serde::{Deserialize, Serialize};

/// What the operator says of connectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectorsConfig {
    /// The definitions that a tenant may install and call: the name of one that ships with Tally
    /// stands for that one as it is, `sha256:…` for the one of that digest. A tenant that is not
    /// listed may use any.
    pub allow: BTreeMap<String, BTreeSet<String>>,
}

impl ConnectorsConfig {
    /// Whether `tenant` may install and call `definition`.
    pub(super) fn allows(&self, tenant: &TenantId, definition: &Definition) -> bool {
        let Some(allowed) = self.allow.get(tenant.as_str()) else { return true };
        let as_it_ships = |name: &String| {
            let shipped = shipped().iter().find(|shipped| shipped.name == name.as_str());
            shipped.is_some_and(|shipped| Digest::of(shipped.text.as_bytes()) == definition.digest)
        };
        allowed.contains(&definition.digest.to_string()) || allowed.iter().any(as_it_ships)
    }
}
