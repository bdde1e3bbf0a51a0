//! What a call costs while the circuit of its system is open: no longer than it takes to write
//! down that it was refused. The system is a port of this machine at which nobody listens, and the
//! operation is none that could be repeated: each call is answered for good at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use client::Client;
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use proto::secrets::PutSecretRequest;
use proto::types::Json;
use serde_json::{Value, json};

use super::install::{self, SLACK};
use super::world::{Process, SECRET, WRITES_PER_MIN};
use crate::fsync::Probe;
use crate::load::{self, Target, Until};
use crate::metrics::Metrics;
use crate::report::{Cell, Report, Table};
use crate::stats::figure;

/// Calls that are measured.
const CALLS: u64 = 300;
const PROBES: u64 = 200;
const P95_MS: f64 = 5.0;
const HOST: &str = "127.0.0.1";
/// No port that is given to anybody who asks for any.
const PORT: u16 = 1;
/// Longer than this takes, so that no call goes through as a probe.
const OPEN_MS: u64 = 3_600_000;
/// Calls after which the circuit is open by its settings, many times over.
const CALLS_TO_OPEN: usize = 50;
/// How long one call, and all that comes before the measurement, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shows a message to one person: nobody can look up whether that was done.
const TOOL: &str = "slack.post_ephemeral";
const ALLOW: &str = r#"package tally
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
listing contains decision if some decision in decisions
"#;

/// Measures it with a server of its own below `dir`.
pub(super) fn measure(program: &Path, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("tally.yaml");
    // JSON is YAML.
    std::fs::write(&path, config(dir).to_string())?;
    let server = Process::start(program, &["serve"], ("--config", &path))?;
    let key = set_up(server.address, dir)?;
    let probe = Probe::new(dir)?;
    let mut synced = probe.run(PROBES)?;
    let before = refusals(server.address)?;
    let body = json!({"tool": TOOL, "params": params()}).to_string();
    let target = Target::post(server.address, "/v1/actions", &key, &body);
    let mut load = load::run(&target, 1, Until::Sent(CALLS))?.all_ok()?;
    let refused = refusals(server.address)? - before;
    synced.extend(probe.run(PROBES)?);
    // Each was refused by the circuit, before anything is opened or sent.
    let expected = figure(CALLS);
    ensure!((refused - expected).abs() < 0.5, "{refused} of {expected} calls met the open circuit");
    let [p50, p95, p99] = [50, 95, 99].map(|percent| load.times.percentile(percent));
    let columns =
        ["calls", "refused by the circuit", "p50 ms", "p95 ms", "p99 ms", "p50/fdatasync"];
    let mut table = Table::new("a call while the circuit of its system is open", &columns);
    let counts = [load.count().to_string(), refused.to_string()].map(Cell::from);
    let times = [p50, p95, p99].map(|micros| Cell::from(micros / 1_000.0));
    let floor = Cell::from(p50 / synced.percentile(50));
    table.row(counts.into_iter().chain(times).chain([floor]));
    report.table(table);
    report.at_most("p95 ms of a call while the circuit is open", p95 / 1_000.0, P95_MS);
    Ok(())
}

fn config(dir: &Path) -> Value {
    json!({
        "data": dir.join("data"),
        "listen": "127.0.0.1:0",
        "grants": {"connectors": [{"host": HOST, "port": PORT, "private": true}]},
        "circuits": {"open_ms": OPEN_MS, "open_max_ms": OPEN_MS},
        "caps": {
            "writes_per_min_workflow": WRITES_PER_MIN,
            "writes_per_min_tenant": WRITES_PER_MIN,
        },
    })
}

fn params() -> Value {
    json!({"channel": "C0SIM", "user": "U0ADA", "text": "is anybody there?"})
}

/// Installs the connector, has its circuit open, and gives the key of an agent.
fn set_up(server: SocketAddr, dir: &Path) -> anyhow::Result<String> {
    let owner = install::owner_key(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ready = async {
            let url = format!("http://{server}");
            let client = Client::new(&url, &owner)?;
            connector(&client).await?;
            allow(&client).await?;
            let key = agent(&client).await?;
            open(&Client::new(&url, &key)?).await?;
            anyhow::Ok(key)
        };
        tokio::time::timeout(PATIENCE, ready).await.context("the circuit never opens")?
    })
}

async fn connector(client: &Client) -> anyhow::Result<()> {
    let (name, value) = (SECRET.to_owned(), SECRET.to_owned());
    client.put_secret(&PutSecretRequest { name, value }, None).await?;
    let (name, definition) = ("slack".to_owned(), SLACK.to_owned());
    let request = InstallConnectorRequest { name: name.clone(), definition };
    client.install_connector(&request, None).await?;
    let token = ConnectorCredential { role: "token".to_owned(), secret: SECRET.to_owned() };
    let config = ConnectorConfig {
        base_url: format!("http://{HOST}:{PORT}"),
        credentials: vec![token],
        ..Default::default()
    };
    let definition_digest = String::new();
    let request = ConfigureConnectorRequest { name, config: Some(config), definition_digest };
    client.configure_connector(&request, None).await?;
    Ok(())
}

async fn allow(client: &Client) -> anyhow::Result<()> {
    let source = Source::new([("tally.rego".to_owned(), ALLOW.as_bytes().to_vec())])?;
    let bundle = source.pack_unsigned()?;
    let request = CreatePolicyDraftRequest { bundle, description: "all".to_owned() };
    let policy_id = client.create_policy_draft(&request, None).await?.policy_id;
    client.publish_policy(&PublishPolicyRequest { policy_id }, None).await?;
    Ok(())
}

async fn agent(client: &Client) -> anyhow::Result<String> {
    let agent = CreatePrincipalRequest {
        kind: Kind::Agent.into(),
        name: "the agent".to_owned(),
        roles: vec!["agent".to_owned()],
        account_id: String::new(),
    };
    let key = CreateKeyRequest {
        principal_id: client.create_principal(&agent, None).await?.principal_id,
        workspace: "main".to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    Ok(client.create_key(&key, None).await?.key)
}

/// Calls until one is refused because the circuit is open.
async fn open(agent: &Client) -> anyhow::Result<()> {
    let params = Some(Json::of(&params())?);
    let request = SubmitActionRequest { tool: TOOL.to_owned(), params, ..Default::default() };
    for _ in 0..CALLS_TO_OPEN {
        let Action { state, error, .. } = agent.submit_action(&request, None).await?;
        let failed = state == i32::from(State::Failed);
        let code = error.map(|error| error.code).unwrap_or_default();
        ensure!(failed, "a call to nobody has not failed: {state} {code}");
        if code == "circuit_open" {
            return Ok(());
        }
    }
    anyhow::bail!("the circuit is closed after {CALLS_TO_OPEN} calls that failed");
}

/// How many calls were refused because a circuit was open.
fn refusals(server: SocketAddr) -> anyhow::Result<f64> {
    Ok(Metrics::read(server)?.sum("tally_connector_circuit_refusals"))
}
