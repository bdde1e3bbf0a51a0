//! One wrapped command: its name, its agent, and its place among the server's MCP servers.
//!
//! What is kept of it is one file a name, for its owner alone. A lock beside it says who uses the
//! name, so that a name never changes its command under another `tally mcp`.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use client::Client;
use proto::identity::RotateKeyRequest;
use proto::identity::principal::Kind;
use proto::me::GetMeRequest;
use proto::secrets::{PutSecretRequest, RotateSecretRequest};
use proto::types::Json;
use proto::upstreams::{
    AddUpstreamRequest, DisconnectUpstreamRequest, ListUpstreamsRequest, RefreshUpstreamRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::command::{Command, Variable};
use super::home::{Found, Home};
use super::limits;
use super::pump::{Link, Place};
use crate::credentials::Credentials;
use crate::exit::Failure;
use crate::setup;

/// What is to be wrapped.
pub(crate) struct Wanted {
    /// The name that was asked for.
    pub(crate) name: Option<String>,
    pub(crate) command: Command,
    pub(crate) variables: BTreeMap<String, Variable>,
    pub(crate) labels: BTreeMap<String, Vec<String>>,
    pub(crate) trust_annotations: bool,
}

/// A wrapped command.
pub(crate) struct Wrap {
    home: Home,
    state: PathBuf,
    wanted: Wanted,
    held: OnceLock<Held>,
    /// The server's last administrator, and the command's start.
    admin: Mutex<Option<(Client, JoinHandle<()>)>>,
}

/// The name, for as long as this process uses it.
struct Held {
    name: String,
    lock: File,
}

/// What is kept of a wrapped command.
#[derive(Serialize, Deserialize)]
struct Record {
    command: Command,
    /// The agent and its key; none before it is made.
    agent: Option<Credentials>,
    /// When the key got its secret, in seconds of Unix time.
    minted_at: u64,
    /// Salted digests of the values that are kept as secrets, by variable.
    #[serde(default)]
    secrets: BTreeMap<String, Kept>,
}

/// Tells whether a secret has changed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    salt: String,
    digest: String,
}

impl Kept {
    fn new(salt: String, value: &str) -> Self {
        let digest = kernel::values::Digest::of(format!("{salt}{value}").as_bytes());
        Self { salt, digest: digest.to_string() }
    }
}

impl Place for Wrap {
    async fn settle(&self) -> anyhow::Result<Link> {
        let found = self.home.find().await?;
        let setting_up = exclusive(&self.state.join("lock")).await?;
        let name = self.name(&found.admin).await?;
        let mut record = self.record(name)?;
        let secrets = self.put_secrets(&found.admin, name, &mut record).await?;
        self.add(&found.admin, name, secrets).await?;
        let key = self.agent(&found, name, &mut record).await?;
        drop(setting_up);
        self.awaken(&found.admin, name).await;
        let client = Client::new(found.admin.url(), &key)?;
        Ok(Link { client, path: Arc::from(format!("/mcp?server={name}")) })
    }
}

impl Wrap {
    pub(crate) fn new(home: Home, wanted: Wanted) -> anyhow::Result<Self> {
        let state = home.state()?;
        Ok(Self { home, state, wanted, held: OnceLock::new(), admin: Mutex::default() })
    }

    /// What people are told.
    pub(crate) fn notice(&self) -> String {
        let name = self.held.get().map_or("the server", |held| held.name.as_str());
        format!("tally: `{name}` is governed; people decide and read receipts {}", self.home.desk())
    }

    /// Lets go of everything: of the command, where no other `tally mcp` uses it, and of the
    /// server, where it is in this process.
    pub(crate) async fn leave(&self) {
        if let Some(held) = self.held.get()
            && held.lock.unlock().is_ok()
            && held.lock.try_lock().is_ok()
            && let Some((admin, awakening)) = self.admin.lock().await.take()
        {
            // A command that only just starts is not started again behind our back.
            let _started = timeout(limits::AWAKEN_TIME, awakening).await;
            let request = DisconnectUpstreamRequest { name: held.name.clone() };
            // A server that is gone has ended the command already.
            let _ended = admin.disconnect_upstream(&request, None).await;
        }
        self.home.leave().await;
    }

    /// The name, chosen once.
    async fn name(&self, admin: &Client) -> anyhow::Result<&str> {
        if let Some(held) = self.held.get() {
            return Ok(&held.name);
        }
        let taken = names(admin).await?;
        let held = match &self.wanted.name {
            Some(name) => self.claim(name, &taken, true)?,
            None => {
                let base = self.wanted.command.name();
                let further = (2..=limits::NAMES_MAX).map(|n| format!("{base}-{n}"));
                let mut names = std::iter::once(base.clone()).chain(further);
                names.find_map(|name| self.claim(&name, &taken, false).transpose()).transpose()?
            }
        };
        let held = held.ok_or_else(|| {
            let name = self.wanted.name.clone().unwrap_or_else(|| self.wanted.command.name());
            Failure::Configuration(format!("the name `{name}` is taken: choose one with --name"))
        })?;
        Ok(&self.held.get_or_init(|| held).name)
    }

    /// Takes a name, if it is this command's or nobody's. One that was `asked` for may be taken
    /// from a command that nobody runs.
    fn claim(&self, name: &str, taken: &[String], asked: bool) -> anyhow::Result<Option<Held>> {
        let kept = self.kept(name)?;
        let same = kept.as_ref().is_some_and(|record| record.command == self.wanted.command);
        let free = kept.is_none() && !taken.iter().any(|known| known == name);
        let replaced = asked && kept.is_some();
        if !(same || free || replaced) {
            return Ok(None);
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.state.join(format!("{name}.lock")))?;
        if !same {
            match lock.try_lock() {
                Ok(()) => lock.unlock()?,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        lock.lock_shared()?;
        Ok(Some(Held { name: name.to_owned(), lock }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.json"))
    }

    fn kept(&self, name: &str) -> anyhow::Result<Option<Record>> {
        let path = self.path(name);
        let bad = |reason: String| {
            Failure::Configuration(format!("`{}` cannot be used: {reason}", path.display()))
        };
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(bad(error.to_string()).into()),
        }
    }

    /// What is kept under the name: the agent stays, also where the command is another.
    fn record(&self, name: &str) -> anyhow::Result<Record> {
        let command = self.wanted.command.clone();
        Ok(match self.kept(name)? {
            Some(record) => Record { command, ..record },
            None => Record { command, agent: None, minted_at: 0, secrets: BTreeMap::new() },
        })
    }

    fn keep(&self, name: &str, record: &Record) -> anyhow::Result<()> {
        // A temporary file is for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(&self.state)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.as_file().sync_all()?;
        file.persist(self.path(name))?;
        Ok(())
    }

    /// Keeps the values that came from this process's environment in the server's secrets store.
    /// Each variable's value, as the settings name it.
    async fn put_secrets(
        &self,
        admin: &Client,
        name: &str,
        record: &mut Record,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        for (variable, value) in &self.wanted.variables {
            let value = match value {
                Variable::Plain(value) => {
                    values.insert(variable.clone(), value.clone());
                    continue;
                }
                Variable::Secret(value) => value,
            };
            let secret = format!("mcp.{name}.{variable}");
            values.insert(variable.clone(), format!("${{secret:{secret}}}"));
            let known = record.secrets.get(variable).cloned();
            if known.as_ref().is_some_and(|k| *k == Kept::new(k.salt.clone(), value)) {
                continue;
            }
            let (name, value) = (secret, value.clone());
            match known {
                Some(_) => {
                    let request = RotateSecretRequest { name, value: value.clone() };
                    admin.rotate_secret(&request, None).await?;
                }
                None => {
                    let request = PutSecretRequest { name, value: value.clone() };
                    admin.put_secret(&request, None).await?;
                }
            }
            let salt = crate::browser::random()?;
            record.secrets.insert(variable.clone(), Kept::new(salt, &value));
        }
        Ok(values)
    }

    /// Adds the command to the server's MCP servers; the same once more changes nothing.
    async fn add(
        &self,
        admin: &Client,
        name: &str,
        env: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let Wanted { command, labels, trust_annotations, .. } = &self.wanted;
        let Command { program, args, cwd, .. } = command;
        let upstream = json!({
            "name": name,
            "transport": {
                "type": "stdio", "command": program, "args": args, "env": env, "cwd": cwd,
            },
            "trust_annotations": trust_annotations,
            "labels": labels,
        });
        let upstream = Some(Json::of(&upstream)?);
        let request = AddUpstreamRequest { upstream, replace: true, dry_run: false };
        let added = admin.add_upstream(&request, None).await;
        added.with_context(|| format!("starting `{program}`")).map(drop)
    }

    /// Has the server start the command, if it does not run, and compare what it offers with what
    /// is pinned. The client's first answers need not wait for it.
    async fn awaken(&self, admin: &Client, name: &str) {
        let (asks, name) = (admin.clone(), name.to_owned());
        let awakening = tokio::spawn(async move {
            let request = RefreshUpstreamRequest { name: name.clone() };
            match asks.refresh_upstream(&request, None).await {
                Ok(upstream) if upstream.tools_quarantined > 0 => eprintln!(
                    "tally: {} tools of `{name}` are new or changed and wait for their release: \
                     `tally mcp inspect {name}`",
                    upstream.tools_quarantined
                ),
                Ok(_) => {}
                Err(error) => eprintln!("tally: `{name}`: {error}"),
            }
        });
        *self.admin.lock().await = Some((admin.clone(), awakening));
    }

    /// The key of the command's agent: made once, and given another secret from time to time.
    async fn agent(
        &self,
        found: &Found,
        name: &str,
        record: &mut Record,
    ) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let Found { admin, place } = found;
        let agent = match record.agent.take() {
            None => {
                record.minted_at = now;
                setup::enrol(admin, place, Kind::Agent, &format!("mcp {name}"), "agent").await?
            }
            Some(agent) => {
                let itself = Client::new(admin.url(), &agent.key)?;
                itself.get_me(&GetMeRequest {}).await.with_context(|| {
                    let path = self.path(name);
                    format!("the agent of `{}` (remove the file for a new one)", path.display())
                })?;
                let age = Duration::from_secs(now.saturating_sub(record.minted_at));
                match age > Duration::from_secs(limits::KEY_DAYS * 86_400) {
                    false => agent,
                    true => {
                        record.minted_at = now;
                        rotated(admin, agent).await?
                    }
                }
            }
        };
        let key = agent.key.clone();
        record.agent = Some(agent);
        self.keep(name, record)?;
        Ok(key)
    }
}

/// Gives a key another secret; the one before stays good for a while.
async fn rotated(admin: &Client, agent: Credentials) -> anyhow::Result<Credentials> {
    let id = agent.key.split('_').nth(1).unwrap_or_default();
    let key_id = format!("key_{id}");
    let request = RotateKeyRequest { key_id, overlap_s: limits::KEY_OVERLAP_S };
    let made = admin.rotate_key(&request, None).await?;
    Ok(Credentials { key: made.key, ..agent })
}

/// The names of the server's MCP servers.
async fn names(admin: &Client) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListUpstreamsRequest { page_size: 0, page_token };
        let page = admin.list_upstreams(&request).await?;
        names.extend(page.upstreams.into_iter().map(|upstream| upstream.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(names);
        }
    }
}

/// Waits for a lock that nobody holds for long.
async fn exclusive(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let until = Instant::now() + limits::FIND_TIME;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) => {}
        }
        let waits = Instant::now() < until;
        anyhow::ensure!(waits, "another `tally mcp` does not let go of `{}`", path.display());
        sleep(limits::FIND_EVERY).await;
    }
}
