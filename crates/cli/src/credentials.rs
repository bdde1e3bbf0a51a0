//! Credentials files: one principal's key and the server that it is for.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// The URL of a server whose address changes: whichever serves the folder of the file.
pub(crate) const LOCAL: &str = "local";

/// Readable and writable by its owner alone.
const MODE: u32 = 0o600;

/// The content of a credentials file.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// Where the server is, or [`LOCAL`].
    pub(crate) url: String,
    /// The tenant of the principal.
    pub(crate) tenant: String,
    /// The workspace that the key works in.
    pub(crate) workspace: String,
    /// The environment that the key works in.
    pub(crate) environment: String,
    /// Whose key it is.
    pub(crate) principal_id: String,
    /// The key.
    pub(crate) key: String,
}

impl Credentials {
    /// Reads a credentials file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |reason: String| {
            let path = path.display();
            Failure::Configuration(format!("the credentials file `{path}`: {reason}"))
        };
        let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
    }

    /// Writes a credentials file with mode 0600. A file that is there already is replaced only
    /// where `replace` says so, since it may hold a key that is nowhere else.
    pub(crate) fn write(&self, path: &Path, replace: bool) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).mode(MODE);
        let options =
            if replace { options.create(true).truncate(true) } else { options.create_new(true) };
        let written = options.open(path).and_then(|mut file| {
            // The mode above is for new files only.
            file.set_permissions(Permissions::from_mode(MODE))?;
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(|error| {
            Failure::Configuration(format!("cannot write `{}`: {error}", path.display())).into()
        })
    }
}
