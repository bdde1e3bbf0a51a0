//! A witness (C2SP tlog-witness): a small server of its own that cosigns the checkpoints of logs
//! on other servers, as long as they only grow, and keeps the evidence where one does not.
//!
//! What it cosigned is its whole worth: a witness that lost its memory must not sign again under
//! the same key, so it refuses to start.

mod http;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::cosignature::{CosignerKey, message};
use kernel::note::{NoteSignature, VerifierKey};
use kernel::values::Timestamp;
use ledger::keys::{FileKeys, KeyProvider, NoteSigner};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::system_clock;
use crate::config::Tls;
use crate::listen::{self, Listener};

pub use self::store::AlarmRow;
use self::store::Store;

/// Logs that one witness watches.
const LOGS_MAX: usize = 10_000;
/// The name of a witness that was given none.
const NAME_DEFAULT: &str = "localhost/witness";
/// The folder of the key below that of all keys.
const TENANT: &str = "witness";

/// Why a witness does not start or cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be.
    #[error("{0}")]
    Configuration(String),
    /// The data folder cannot be used.
    #[error("cannot use `{path}`")]
    Data {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its memory failed.
    #[error("the witness's memory failed: {0}")]
    Store(String),
    /// Its key cannot be used.
    #[error(transparent)]
    Key(#[from] ledger::Error),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] listen::Error),
}

impl Error {
    /// Whether it takes other settings to start.
    pub fn is_configuration(&self) -> bool {
        let tls = matches!(self, Self::Listen(listen::Error::Tls { .. }));
        tls || matches!(self, Self::Configuration(_))
    }
}

/// What a witness is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of its memory and key.
    pub data: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: String,
    /// Certificate and key; without them it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Its name, which never changes; without one that of its folder, or a default.
    pub name: Option<String>,
    /// The keys of the logs that it watches, each named like its log.
    pub logs: Vec<VerifierKey>,
}

/// A witness that runs.
#[derive(Debug)]
pub struct Running {
    url: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops: no new requests, and those under way may end, for a while.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Returns when it has stopped by itself.
    pub async fn wait(&self) {
        self.tasks.wait().await;
    }
}

/// What requests share.
struct Witness {
    key: CosignerKey,
    signer: Arc<dyn NoteSigner>,
    logs: BTreeMap<String, Vec<VerifierKey>>,
    store: Store,
    registry: Registry,
    metrics: http::Metrics,
}

impl Witness {
    /// The signature line for the text of a checkpoint.
    fn cosign(&self, time_s: u64, text: &str) -> Result<NoteSignature, Error> {
        let sig = self.signer.sign(message(time_s, text).as_bytes())?;
        Ok(self.key.signature(time_s, &sig))
    }

    fn now() -> Timestamp {
        system_clock()()
    }
}

/// Starts a witness. It serves when this returns.
pub async fn start(config: Config) -> Result<Running, Error> {
    if config.logs.is_empty() || config.logs.len() > LOGS_MAX {
        let message = format!("name the keys of 1 to {LOGS_MAX} logs: a witness watches no others");
        return Err(Error::Configuration(message));
    }
    let listener = Listener::bind(&config.listen, config.tls.as_ref()).await?;
    let url = format!("{}://{}", listener.scheme(), listener.address);
    let (store, key, signer) = open(&config.data, config.name.as_deref())?;
    let mut logs: BTreeMap<String, Vec<VerifierKey>> = BTreeMap::new();
    for log in config.logs {
        logs.entry(log.name().to_owned()).or_default().push(log);
    }
    let mut registry = Registry::with_prefix("tally_witness");
    let metrics = http::Metrics::new(&mut registry);
    let witness = Arc::new(Witness { key, signer, logs, store, registry, metrics });
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(listener.serve(http::router(witness), stop.clone()));
    tasks.close();
    Ok(Running { url, stop, tasks })
}

/// The key of the witness of this folder, which is made where there is none.
pub fn key(data: &Path, name: Option<&str>) -> Result<CosignerKey, Error> {
    Ok(open(data, name)?.1)
}

/// The alarms of the witness of this folder, the newest first.
pub fn alarms(data: &Path) -> Result<Vec<AlarmRow>, Error> {
    let path = data.join(store::FILE);
    if !path.is_file() {
        let message = format!("`{}` is no folder of a witness", data.display());
        return Err(Error::Configuration(message));
    }
    Store::open(&path)?.alarms()
}

type Opened = (Store, CosignerKey, Arc<dyn NoteSigner>);

/// Opens memory and key, which are one: neither serves without the other.
fn open(data: &Path, name: Option<&str>) -> Result<Opened, Error> {
    let failed = |source| Error::Data { path: data.to_owned(), source };
    let (memory, keys) = (data.join(store::FILE), data.join("keys"));
    if !memory.is_file() && keys.join("master.key").is_file() {
        let message = format!(
            "`{}` has the witness's key but no memory of what it cosigned: a witness that forgot \
             must not sign again; begin anew with another folder and another name",
            data.display()
        );
        return Err(Error::Configuration(message));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
    let store = Store::open(&memory)?;
    let name = store.name(name, NAME_DEFAULT)?;
    let signer = FileKeys::open(&keys)?.note(TENANT, &name)?;
    let key = CosignerKey::new(&name, *signer.verifier_key().public())
        .map_err(|error| Error::Configuration(error.to_string()))?;
    store.bind(&key.to_string())?;
    Ok((store, key, signer))
}
