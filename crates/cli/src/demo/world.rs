//! Where the story takes place: a folder, a target, a server, and four principals.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use client::Client;
use connectors::{Grants, HttpGrant};
use proto::identity::principal::Kind;
use server::{Config, Running};
use tempfile::TempDir;

use super::say::{say, step};
use super::target::Target;
use crate::credentials::Credentials;
use crate::setup;

/// One principal with its own key.
pub(super) struct Party {
    pub(super) id: String,
    pub(super) client: Client,
}

impl Place {
    pub(super) fn new(dir: PathBuf, owner: &Credentials) -> anyhow::Result<Self> {
        let log = format!("{}/{}", owner.tenant, owner.workspace);
        Ok(Self { dir, tenant: owner.tenant.clone(), log, owner: Party::new(owner)? })
    }
}

impl Party {
    pub(super) fn new(credentials: &Credentials) -> anyhow::Result<Self> {
        let client = Client::new(&credentials.url, &credentials.key)?;
        Ok(Self { id: credentials.principal_id.clone(), client })
    }
}

/// A server in a folder, and who owns it.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) tenant: String,
    /// The log of the workspace, `tenant/workspace`.
    pub(super) log: String,
    pub(super) owner: Party,
}

/// Everything that the story needs.
pub(super) struct World {
    pub(super) place: Place,
    pub(super) target: Target,
    pub(super) author: Party,
    pub(super) agent: Party,
    pub(super) approver: Party,
    running: Running,
    /// Removes the folder in the end, where it is not to be kept.
    _temporary: Option<TempDir>,
}

impl World {
    /// Starts target and server in a new folder, and creates the principals.
    pub(super) async fn start(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        step("A server in an empty folder")?;
        let (dir, temporary) = folder(keep)?;
        fs::create_dir(dir.join("files"))?;
        fs::write(dir.join("files").join("report.txt"), "42 orders are open\n")?;
        let target = Target::start().await.context("cannot start the target")?;
        let running = server::start(config(&dir, &target)?).await?;
        say(&format!("folder   {}", dir.display()))?;
        say(&format!("server   {}", running.url()))?;
        say(&format!("target   http://{} (the one address granted)", target.address))?;
        let path = running.credentials_path().context("the server wrote no credentials")?;
        let owner = Credentials::read(path)?;
        let owner_client = Client::new(&owner.url, &owner.key)?;
        let mut parties = Vec::new();
        for (kind, name, role) in [
            (Kind::User, "policy author", "builder"),
            (Kind::Agent, "the agent", "agent"),
            (Kind::User, "a colleague", "approver"),
        ] {
            let credentials = setup::enrol(&owner_client, &owner, kind, name, role).await?;
            say(&format!("{role:<9}{} ({name})", credentials.principal_id))?;
            parties.push(Party::new(&credentials)?);
        }
        let [author, agent, approver] =
            <[Party; 3]>::try_from(parties).map_err(|_| anyhow::anyhow!("three parties"))?;
        Ok(Self {
            place: Place::new(dir, &owner)?,
            target,
            author,
            agent,
            approver,
            running,
            _temporary: temporary,
        })
    }

    /// The file that the agent may read.
    pub(super) fn report(&self) -> PathBuf {
        self.place.dir.join("files").join("report.txt")
    }

    /// Stops the server.
    pub(super) async fn stop(self) {
        self.running.stop().await;
    }
}

/// A new folder, and its guard where it is temporary.
pub(super) fn folder(keep: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    let (dir, temporary) = match keep {
        Some(dir) => {
            let context = || format!("--keep `{}` must be a new folder", dir.display());
            fs::create_dir(&dir).with_context(context)?;
            (dir, None)
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("tally-demo-").tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    Ok((fs::canonicalize(dir)?, temporary))
}

/// Grants exactly the target and the one folder.
fn config(dir: &std::path::Path, target: &Target) -> anyhow::Result<Config> {
    let target = HttpGrant {
        host: target.address.ip().to_string(),
        port: Some(target.address.port()),
        private: true,
    };
    let grants =
        Grants { http: vec![target], fs_read: vec![dir.join("files")], ..Grants::default() };
    let listen = "127.0.0.1:0".to_owned();
    Ok(Config { data: dir.join("data"), listen, grants, ..Config::default() })
}
