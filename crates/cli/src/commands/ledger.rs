//! `tally ledger`: offline on the folder of a stopped server, or through the API.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use kernel::receipt::LogId;
use ledger::postgres::{Owner, Plane, Postgres, limits};
use ledger::rebuild::{Report, rebuild, verify_states};
use ledger::sqlite::Sqlite;
use ledger::store::Store;
use proto::ledger::{VerifyLedgerRequest, VerifyLedgerResponse};
use serde::Serialize;
use server::{Config, DatabaseUrl, KeyProviderConfig, Overrides};

use super::demands::{Demanded, log_key as log_key_of};
use super::growth;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// The stores of a data folder: one for each plane.
const STORES: [&str; 2] = ["control.sqlite", "runtime.sqlite"];
/// How long a database is watched for a server that still writes.
const WATCH: Duration = limits::TAKEOVER.saturating_mul(2);

/// `tally ledger`.
#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Verify every receipt: signatures, chain and tree. With --data also that every stored state
    /// is what the receipts say.
    Verify {
        #[command(flatten)]
        folder: Folder,
        /// Through the API: the workspace; without it that of the credentials file.
        #[arg(long, value_name = "NAME", conflicts_with = "data")]
        workspace: Option<String>,
        /// The key of the log that you trust, or @FILE: needed for what follows.
        #[arg(long, value_name = "VKEY", conflicts_with = "data")]
        log_key: Option<String>,
        #[command(flatten)]
        demanded: Demanded,
    },
    /// Print the log's signed checkpoint. Keep it: whoever holds one notices when the log is cut
    /// off or rewritten.
    Checkpoint {
        /// The workspace, or `control`; without it that of the credentials file.
        #[arg(long, value_name = "NAME")]
        workspace: Option<String>,
        /// The newest one that enough witnesses cosigned.
        #[arg(long)]
        cosigned: bool,
    },
    /// Drop what is derived from the logs of a stopped server and make it anew.
    Rebuild(Folder),
}

/// The folder of a stopped server.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The data folder of a stopped server.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The host that begins the origin of its logs, as in tally.yaml.
    #[arg(long, default_value = "localhost", value_name = "NAME")]
    host: String,
    /// The configuration of the server, where its keys are not in the folder.
    #[arg(long, value_name = "FILE", requires = "data")]
    config: Option<PathBuf>,
    /// The database, where the logs are in one.
    #[arg(
        long,
        env = "TALLY_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        requires = "data"
    )]
    database: Option<String>,
}

/// What was found in a data folder.
#[derive(Serialize)]
struct Found {
    valid: bool,
    logs: Vec<Report>,
}

impl Ledger {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Verify { folder: Folder { data: Some(_), .. }, demanded, .. }
                if demanded.given() =>
            {
                let message = "--since and --witness go with the API, or with `tally verify`";
                Err(Failure::Usage(message.to_owned()).into())
            }
            Self::Verify {
                folder: Folder { data: Some(data), host, config, database }, ..
            } => {
                let overrides = Overrides { data: Some(data.clone()), ..Overrides::default() };
                let config = Config::load(config.as_deref(), overrides)?;
                let in_folder = config.keys.provider == KeyProviderConfig::File;
                let with = in_folder.then(|| config.keys_dir().join("master.key"));
                let stopped = Stopped::open(&data, with.as_deref(), database).await?;
                let keys = server::open_keys(&config)?;
                let keys = keys.as_ref();
                stopped.each_log(context, |store, log| verify_states(store, &host, keys, log))
            }
            Self::Verify { workspace, log_key, demanded, .. } => {
                match (demanded.read()?, log_key) {
                    (None, _) => online(workspace, context).await,
                    (Some(demands), Some(key)) => {
                        growth::verify(workspace, &log_key_of(&key)?, demands, context).await
                    }
                    (Some(_), None) => {
                        let message = "give --log-key: the key of the log that you trust";
                        Err(Failure::Usage(message.to_owned()).into())
                    }
                }
            }
            Self::Checkpoint { workspace, cosigned } => {
                growth::show(workspace, cosigned, context).await
            }
            Self::Rebuild(Folder { data: Some(data), database, .. }) => {
                let stopped = Stopped::open(&data, None, database).await?;
                stopped.each_log(context, rebuild)
            }
            Self::Rebuild(_) => Err(Failure::Usage("give --data DIR".to_owned()).into()),
        }
    }
}

/// The stores of a server that does not run, and cannot be started meanwhile.
struct Stopped {
    stores: Vec<Arc<dyn Store>>,
    /// On a database: the same, held as a server would hold them.
    held: Vec<Arc<Postgres>>,
    _lock: File,
}

impl Stopped {
    /// `key`: the file with the key of keys, where it must be there too.
    async fn open(
        data: &Path,
        key: Option<&Path>,
        database: Option<String>,
    ) -> anyhow::Result<Self> {
        let bad = |reason: String| {
            let data = data.display();
            Failure::Usage(format!("--data `{data}`: {reason}"))
        };
        // Opening would make what is absent, and new keys would verify nothing.
        let files = if database.is_none() { &STORES[..] } else { &[] };
        let files = files.iter().chain(&["lock"]).map(|name| data.join(name));
        for path in files.chain(key.map(Path::to_owned)) {
            if !path.is_file() {
                let path = path.display();
                return Err(bad(format!("is no data folder: there is no `{path}`")).into());
            }
        }
        let lock = OpenOptions::new().write(true).open(data.join("lock"));
        let lock = lock.map_err(|error| bad(error.to_string()))?;
        lock.try_lock().map_err(|_| bad("is in use: stop the server first".to_owned()))?;
        let (mut stores, mut held) = (Vec::<Arc<dyn Store>>::new(), Vec::new());
        match database {
            None => {
                for name in STORES {
                    stores.push(Arc::new(Sqlite::open(&data.join(name))?));
                }
            }
            Some(url) => {
                held = hold(data, DatabaseUrl(url)).await?;
                for store in &held {
                    stores.push(store.clone());
                }
            }
        }
        Ok(Self { stores, held, _lock: lock })
    }

    fn each_log(
        &self,
        context: &Context,
        check: impl Fn(&dyn Store, &LogId) -> Result<Report, ledger::Error>,
    ) -> anyhow::Result<Exit> {
        let mut logs = Vec::new();
        for store in &self.stores {
            for log in store.logs()? {
                logs.push(check(store.as_ref(), &log)?);
            }
        }
        for store in &self.held {
            store.release()?;
        }
        let valid = logs.iter().all(Report::valid);
        context.output().show(&Found { valid, logs }, describe)?;
        Ok(Exit::of_verification(valid))
    }
}

/// Takes both planes of a database, as a server that starts would: none writes meanwhile.
async fn hold(data: &Path, database: DatabaseUrl) -> anyhow::Result<Vec<Arc<Postgres>>> {
    let database = database.open()?;
    // A server that crashed on this folder need not be waited for.
    let owner = std::fs::read_to_string(data.join("owner")).unwrap_or_default();
    let id = if owner.is_empty() { format!("check {}", std::process::id()) } else { owner };
    let owner = Owner { id, address: "tally ledger".to_owned() };
    let mut held = Vec::new();
    for plane in Plane::ALL {
        let store = Postgres::open(&database, plane, owner.clone())?;
        let free = tokio::time::timeout(WATCH, store.stand_by()).await;
        free.map_err(|_| Failure::Usage("--database: a server writes to it".to_owned()))??;
        store.acquire()?;
        held.push(Arc::new(store));
    }
    Ok(held)
}

fn describe(found: &Found) -> String {
    let logs = found.logs.iter().map(|report| {
        let verdict = if report.valid() { "valid" } else { "NOT valid" };
        let head = format!("{}: {verdict}, {} receipts", report.origin, report.size);
        std::iter::once(head).chain(report.errors.iter().cloned()).collect::<Vec<_>>().join("\n  ")
    });
    logs.collect::<Vec<_>>().join("\n")
}

/// Has the server verify the log of a workspace.
async fn online(workspace: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let session = context.session()?;
    let request = VerifyLedgerRequest { workspace: session.workspace(workspace)? };
    let verified = session.client.verify_ledger(&request).await?;
    context.output().show(&verified, describe_online)?;
    Ok(Exit::of_verification(verified.valid))
}

fn describe_online(verified: &VerifyLedgerResponse) -> String {
    let VerifyLedgerResponse { valid, size, checked, errors, .. } = verified;
    if *valid {
        format!("valid: {checked} of {size} receipts checked")
    } else {
        format!("NOT valid:\n{}", errors.join("\n"))
    }
}
