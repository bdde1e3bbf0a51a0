//! The server behind `tally mcp -- COMMAND`: the one that is named, or one of this machine's own.
//!
//! Each `tally mcp` on a data folder looks for the server there. Where there is none it becomes the
//! server, for itself and for those that come later; when it ends, one of them does.

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use client::Client;
use proto::identity::principal::Kind;
use proto::me::GetMeRequest;
use server::{Config, Overrides, Running, Serving, StartError, serving};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::limits;
use crate::context::Session;
use crate::credentials::{Credentials, LOCAL};
use crate::exit::Failure;
use crate::setup;

/// The configuration that a new data folder gets. `DATA` stands for the folder.
const SAMPLE: &str = include_str!("home.yaml");
/// A folder for its owner alone.
const FOLDER_MODE: u32 = 0o700;

/// Where the server is.
pub(crate) enum Home {
    /// It was named.
    Named(Box<Session>),
    /// It is in this folder, and maybe in this process.
    Embedded { data: PathBuf, running: Mutex<Option<Running>> },
}

/// The server as it was found, and with whose key it is told what to do.
pub(crate) struct Found {
    pub(crate) admin: Client,
    /// Where the agent is to work; its key is that of the admin.
    pub(crate) place: Credentials,
}

impl Home {
    /// The embedded server of a folder.
    pub(crate) fn embedded(data: Option<PathBuf>) -> Result<Self, Failure> {
        let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let share = || folder("HOME").map(|home| home.join(".local").join("share"));
        let default = || folder("XDG_DATA_HOME").or_else(share).map(|base| base.join("tally"));
        let data = data.or_else(default).ok_or_else(|| {
            Failure::Configuration("name a data folder with --data, or set HOME".to_owned())
        })?;
        let data = std::path::absolute(&data).map_err(|error| unusable(&data, &error))?;
        Ok(Self::Embedded { data, running: Mutex::default() })
    }

    /// Where the agents' keys are kept.
    pub(crate) fn state(&self) -> anyhow::Result<PathBuf> {
        let state = match self {
            Self::Embedded { data, .. } => data.join("mcp"),
            Self::Named(session) => {
                let Self::Embedded { data, .. } = Self::embedded(None)? else {
                    anyhow::bail!("no data folder")
                };
                let host = session.client.url().split("://").nth(1).unwrap_or_default();
                let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
                data.join("remote").join(host.chars().map(plain).collect::<String>())
            }
        };
        make(&state)?;
        Ok(state)
    }

    /// Finds the server, or starts it.
    pub(crate) async fn find(&self) -> anyhow::Result<Found> {
        let admin = match self {
            Self::Named(session) => session.client.clone(),
            Self::Embedded { data, running } => {
                let url = embedded(data, running).await?;
                let owner = Credentials::read(&data.join("credentials.json"))?;
                Client::new(&url, &owner.key)?
            }
        };
        let me = admin.get_me(&GetMeRequest {}).await.context("asking who the key stands for")?;
        let place = Credentials {
            url: admin.url().to_owned(),
            tenant: me.tenant,
            workspace: me.workspace,
            environment: me.environment,
            principal_id: me.principal_id,
            key: String::new(),
        };
        Ok(Found { admin, place })
    }

    /// Where people decide, and where they read receipts.
    pub(crate) fn desk(&self) -> String {
        match self {
            Self::Named(session) => {
                let url = session.client.url();
                format!("at {url}: `tally approvals list`, `tally receipts list`")
            }
            Self::Embedded { data, .. } => {
                let file = data.join("approver.json");
                let with = format!("--credentials {}", file.display());
                format!("with `tally approvals list {with}`, `tally receipts list {with}`")
            }
        }
    }

    /// Ends the server, where it is in this process.
    pub(crate) async fn leave(&self) {
        if let Self::Embedded { running, .. } = self
            && let Some(running) = running.lock().await.take()
        {
            running.stop().await;
        }
    }
}

/// The URL of the server of a data folder, which this process becomes where there is none.
async fn embedded(data: &Path, running: &Mutex<Option<Running>>) -> anyhow::Result<String> {
    let mut running = running.lock().await;
    if let Some(running) = &*running {
        return Ok(running.url().to_owned());
    }
    make(data)?;
    let until = Instant::now() + limits::FIND_TIME;
    loop {
        match serving(data).map_err(|error| unusable(data, &error))? {
            // Whoever serves a new folder writes this file last.
            Serving::At(url) if approver(data).is_file() => return Ok(url),
            Serving::At(_) | Serving::Silent => {}
            Serving::Nobody => match start(data).await {
                Ok(started) => {
                    let url = started.url().to_owned();
                    settle(data, &url).await?;
                    *running = Some(started);
                    return Ok(url);
                }
                // Another was faster.
                Err(StartError::InUse { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
        let waits = Instant::now() < until;
        anyhow::ensure!(waits, "the server of `{}` does not answer", data.display());
        sleep(limits::FIND_EVERY).await;
    }
}

/// Serves the folder from this process.
async fn start(data: &Path) -> Result<Running, StartError> {
    let file = data.join("tally.yaml");
    let text = serde_json::to_string(data).map_err(|error| StartError::Start(error.to_string()))?;
    let fresh = !data.join("control.sqlite").exists();
    if fresh && !file.exists() {
        let written = new_file(&file, SAMPLE.replace("DATA", &text).as_bytes());
        written.map_err(|source| StartError::Data { path: file.clone(), source })?;
    }
    let overrides = Overrides { data: Some(data.to_owned()), ..Overrides::default() };
    let config = match file.is_file() {
        true => Config::load(Some(&file), overrides)?,
        // A folder that `tally init` made: its configuration is elsewhere.
        false => {
            let config = Config::load(None, overrides)?;
            let mcp =
                server::McpConfig { allow_stdio: true, on_demand: true, ..config.mcp.clone() };
            Config { listen: "127.0.0.1:0".to_owned(), mcp, ..config }
        }
    };
    server::start(config).await
}

/// Completes a new folder: who approves, and the baseline policy.
async fn settle(data: &Path, url: &str) -> anyhow::Result<()> {
    let approver = approver(data);
    if approver.is_file() {
        return Ok(());
    }
    let path = data.join("credentials.json");
    let owner = Credentials { url: LOCAL.to_owned(), ..Credentials::read(&path)? };
    owner.write(&path, true)?;
    let client = Client::new(url, &owner.key)?;
    setup::publish_baseline(&client, &client).await?;
    let made = setup::enrol(&client, &owner, Kind::User, "approver", "approver").await;
    made.context("creating the approver")?.write(&approver, false)
}

fn approver(data: &Path) -> PathBuf {
    data.join("approver.json")
}

/// Makes a folder for its owner alone, where there is none.
fn make(folder: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(|error| unusable(folder, &error))
}

fn new_file(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn unusable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::Configuration(format!("cannot use the data folder `{}`: {error}", folder.display()))
}
