//! The server that is measured: the real program, started on a folder of its own and set up
//! through its API.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use client::Client;
use proto::accounts::{CreateAccountRequest, FundAccountRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use serde::Deserialize;
use serde_json::json;

use crate::cpu::Cpu;
use crate::load::Target;

/// The tool that is called: a read in dev, which the baseline allows. It has a real effect behind
/// the permit (open, read, close) and needs no process and no network of its own.
pub(crate) const TOOL: &str = "core.fs_read";
const CONTENT: &str = "42 orders are open\n";
/// The most that a key may have; what is measured must not be a limit.
const RATE_PER_MIN: u32 = 6_000_000;
const ACCOUNT: &str = "bench";
/// Enough for every action of a run at its price.
const FUNDS_MICRO_USD: i64 = 1_000_000_000_000;

/// Builds the program with the profile that this one was built with, and says where it is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    let profile = match folder.context("this program is in no folder")? {
        "debug" => "dev",
        profile => profile,
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "tally", "--profile", profile]);
    if !build.status()?.success() {
        bail!("`cargo build --package tally --profile {profile}` has failed");
    }
    let program = own.with_file_name("tally");
    if !program.is_file() {
        bail!("`{}` is not there: run this by `cargo xtask bench`", program.display());
    }
    Ok(program)
}

/// Makes the tables of a database.
pub(crate) fn migrate(program: &Path, url: &str) -> anyhow::Result<()> {
    let status = Command::new(program).args(["migrate", "--database", url]).status()?;
    if !status.success() {
        bail!("`tally migrate` has failed");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Owner {
    key: String,
    workspace: String,
}

/// A running server and what is asked of it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The action that the agent asks for.
    pub(crate) action: Target,
    pub(crate) health: Target,
    /// The agent's.
    pub(crate) key: String,
}

/// What differs from one server to another.
#[derive(Default)]
pub(crate) struct Setup {
    /// The price of a call, and so an account that pays for it.
    pub(crate) price: Option<i64>,
    /// Where a server of MCP is, and its name.
    pub(crate) upstream: Option<(&'static str, SocketAddr)>,
    /// The URL of its database, where its logs are in one.
    pub(crate) database: Option<String>,
}

impl Setup {
    /// The section `mcp` of the configuration.
    fn mcp(&self) -> serde_json::Value {
        let upstreams = self.upstream.iter().map(|(name, address)| {
            let url = format!("http://{address}/mcp");
            let transport = json!({"type": "http", "url": url, "private": true});
            json!({"name": name, "transport": transport, "trust_annotations": true})
        });
        json!({"upstreams": upstreams.collect::<Vec<_>>()})
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is left to be done about a server that cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts `program` in the folder `dir`.
    pub(crate) fn start(program: &Path, dir: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let files = dir.join("files");
        std::fs::create_dir_all(&files)?;
        let file = files.join("report.txt");
        std::fs::write(&file, CONTENT)?;
        let prices = setup.price.map_or_else(|| json!({}), |price| json!({TOOL: price}));
        // JSON is YAML.
        let config = json!({
            "data": dir.join("data"),
            "listen": "127.0.0.1:0",
            "grants": {"fs_read": [files]},
            "prices": prices,
            "mcp": setup.mcp(),
            "database": setup.database,
        });
        let config_file = dir.join("tally.yaml");
        std::fs::write(&config_file, config.to_string())?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config_file)
            // Interpreters would be compiled beside what is measured.
            .env_remove("TALLY_RUNTIMES")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", program.display()))?;
        let address = address(&mut child)?;
        let target = Target::get(address, "/healthz");
        let credentials = dir.join("data").join("credentials.json");
        let (action, health) = (target.clone(), target);
        let mut server = Self { child, address, action, health, key: String::new() };
        let key = set_up(address, &credentials, setup.price.is_some())?;
        let body = json!({"tool": TOOL, "params": {"path": file}}).to_string();
        server.action = Target::post(address, "/v1/actions", &key, &body);
        server.key = key;
        Ok(server)
    }

    /// The processor time that it has taken.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of(self.child.id())
    }
}

/// Waits for the line that says where the server listens.
fn address(child: &mut Child) -> anyhow::Result<SocketAddr> {
    let out = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on http://");
    let address = address.with_context(|| format!("the server said `{}`", line.trim()))?;
    Ok(address.parse()?)
}

/// Creates the agent, publishes the baseline, and returns the agent's key.
fn set_up(address: SocketAddr, credentials: &Path, pays: bool) -> anyhow::Result<String> {
    let owner: Owner = serde_json::from_slice(&std::fs::read(credentials)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&format!("http://{address}"), &owner.key)?;
        let account_id = if pays { ACCOUNT.to_owned() } else { String::new() };
        if pays {
            open_account(&client, &account_id).await?;
        }
        let agent = CreatePrincipalRequest {
            kind: Kind::Agent.into(),
            name: "the agent".to_owned(),
            roles: vec!["agent".to_owned()],
            account_id,
        };
        let agent = client.create_principal(&agent, None).await?;
        let key = CreateKeyRequest {
            principal_id: agent.principal_id,
            workspace: owner.workspace.clone(),
            environment: "dev".to_owned(),
            rate_limit_per_min: Some(RATE_PER_MIN),
            ..Default::default()
        };
        let key = client.create_key(&key, None).await?.key;
        publish_baseline(&client).await?;
        Ok(key)
    })
}

async fn open_account(client: &Client, account_id: &str) -> anyhow::Result<()> {
    let account_id = account_id.to_owned();
    let request = CreateAccountRequest { account_id: account_id.clone(), ..Default::default() };
    client.create_account(&request, None).await?;
    let request = FundAccountRequest { account_id, amount_micro_usd: FUNDS_MICRO_USD, units: None };
    client.fund_account(&request, None).await?;
    Ok(())
}

async fn publish_baseline(client: &Client) -> anyhow::Result<()> {
    let bundle = policy::baseline()?.pack_unsigned()?;
    let request = CreatePolicyDraftRequest { bundle, description: "the baseline".to_owned() };
    let draft = client.create_policy_draft(&request, None).await?;
    let policy_id = draft.policy_id;
    let request = PublishPolicyRequest { policy_id };
    client.publish_policy(&request, None).await?;
    Ok(())
}
