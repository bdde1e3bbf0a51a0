//! Where the planes' logs are: two SQLite files of the data folder, or two schemas of a database.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use ledger::postgres::{Owner, Plane, Postgres};
use ledger::sqlite::Sqlite;
use ledger::store::Store;

use crate::shared::new_id;
use crate::start::Error;
use crate::{Config, folder};

/// Both planes' stores.
pub(crate) struct Stores {
    pub(crate) control: Arc<dyn Store>,
    pub(crate) runtime: Arc<dyn Store>,
    /// On a database: the same, in the order in which they are acquired.
    pub(crate) leases: Vec<Arc<Postgres>>,
}

/// The epochs of a server that writes both planes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epochs {
    pub(crate) control: u64,
    pub(crate) runtime: u64,
}

impl Stores {
    /// Makes the data folder where it is absent, locks it and opens the stores. `url` is where this
    /// server listens.
    pub(crate) fn open(config: &Config, url: &str) -> Result<Self, Error> {
        let data = |source| Error::Data { path: config.data.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data).map_err(data)?;
        folder::lock(&config.data, url)?;
        let Some(database) = config.database()? else {
            let open = |file: &str| Sqlite::open(&config.data.join(file)).map(Arc::new);
            let (control, runtime) = (open("control.sqlite")?, open("runtime.sqlite")?);
            return Ok(Self { control, runtime, leases: Vec::new() });
        };
        let owner = Owner { id: owner_id(&config.data)?, address: url.to_owned() };
        let open = |plane| Postgres::open(&database, plane, owner.clone()).map(Arc::new);
        let (control, runtime) = (open(Plane::Control)?, open(Plane::Runtime)?);
        tracing::info!(%database, "the logs are in a database");
        let leases = vec![control.clone(), runtime.clone()];
        Ok(Self { control, runtime, leases })
    }

    /// Where another server writes, if one does.
    pub(crate) fn occupied(&self) -> Result<Option<String>, Error> {
        for lease in &self.leases {
            if let Err(address) = lease.vacant()? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Becomes the writer of both planes.
    pub(crate) fn acquire(&self) -> Result<Epochs, Error> {
        let control = self.control.acquire()?;
        let runtime = self.runtime.acquire()?;
        Ok(Epochs { control, runtime })
    }
}

/// Tells this data folder's server from others, over restarts: it need not wait for itself.
fn owner_id(data: &Path) -> Result<String, Error> {
    let path = data.join("owner");
    let failed = |source| Error::Data { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(id) if !id.is_empty() => return Ok(id),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        // Absent, or cut off while it was made.
        _ => {}
    }
    let id = new_id("srv");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.write_all(id.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(id)
}
