//! Where it takes place: three simulators, a server, and the people.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::rand;
use proto::accounts::{CreateAccountRequest, FundAccountRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreatePrincipalRequest, LinkPrincipalRequest};
use serde_json::{Value, json};
use server::Config;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::incident::MODEL;
use crate::commands::dev::post::Call;
use crate::commands::dev::{Running, model, servicenow, slack};
use crate::credentials::Credentials;
use crate::demo::say::{say, step};
use crate::demo::world::{Party, Place, folder};
use crate::setup;

/// How long anything may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Slack's ids in the simulator.
pub(super) const TEAM: &str = "T0SIM";
pub(super) const CHANNEL: &str = "C0SIM";
pub(super) const ADA: &str = "U0ADA";
pub(super) const BOB: &str = "U0BOB";
/// What Tally is called in ServiceNow.
pub(super) const CLIENT_ID: &str = "tally";
/// The account that the runs pay from, and what is in it: five dollars.
pub(super) const ACCOUNT: &str = "triage";
const FUNDS_MICRO_USD: i64 = 5_000_000;

/// What the systems are opened with: made for this demo alone.
pub(super) struct Secrets {
    pub(super) now_client: String,
    pub(super) slack_token: String,
    pub(super) slack_signing: String,
    pub(super) hook: String,
    pub(super) model: String,
    /// Of the person who reports incidents; Tally does not have it.
    reporter: String,
}

impl Secrets {
    fn new() -> anyhow::Result<Self> {
        let fresh = || {
            let mut bytes = [0_u8; 16];
            rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("there is no randomness"))?;
            Ok::<_, anyhow::Error>(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        Ok(Self {
            now_client: fresh()?,
            slack_token: fresh()?,
            slack_signing: fresh()?,
            hook: fresh()?,
            model: fresh()?,
            reporter: fresh()?,
        })
    }

    /// All that Tally keeps.
    pub(super) fn kept(&self) -> [&String; 5] {
        let Self { now_client, slack_token, slack_signing, hook, model, .. } = self;
        [now_client, slack_token, slack_signing, hook, model]
    }
}

/// All of it.
pub(super) struct Desk {
    pub(super) place: Place,
    pub(super) author: Party,
    pub(super) approver: Party,
    /// The service that runs the workflow.
    pub(super) service: String,
    pub(super) servicenow: Running,
    pub(super) slack: Running,
    pub(super) secrets: Secrets,
    pub(super) url: String,
    _model: Running,
    running: server::Running,
    /// Removes the folder in the end, where it is not to be kept.
    _temporary: Option<TempDir>,
}

impl Desk {
    pub(super) async fn start(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        step("Three simulators, a server in an empty folder, and the people")?;
        let (dir, temporary) = folder(keep)?;
        let secrets = Secrets::new()?;
        let script = json!({"key": secrets.model, "rules": MODEL.rules()?}).to_string();
        let model = model::start(&script).await?;
        let users = json!([
            {"name": "tally", "password": secrets.now_client},
            {"name": "reporter", "password": secrets.reporter},
        ]);
        let client = json!({"id": CLIENT_ID, "secret": secrets.now_client, "user": "tally"});
        let script = json!({"users": users, "clients": [client]}).to_string();
        let servicenow = servicenow::start(servicenow::Script::parse(&script)?).await?;
        let script = json!({"token": secrets.slack_token}).to_string();
        let slack = slack::start(slack::Script::parse(&script)?).await?;
        for (name, simulator) in [("ServiceNow", &servicenow), ("Slack", &slack), ("model", &model)]
        {
            say(&format!("{name:<11}{} (a simulator)", simulator.url()))?;
        }
        let running = server::start(config(&dir, &model, [&servicenow, &slack])?).await?;
        say(&format!("{:<11}{}", "server", running.url()))?;
        say(&format!("{:<11}{}", "folder", dir.display()))?;
        let path = running.credentials_path().context("the server wrote no credentials")?;
        let owner = Credentials::read(path)?;
        let place = Place::new(dir, &owner)?;
        let [author, approver] = people(&place, &owner).await?;
        let service = service(&place).await?;
        let url = running.url().to_owned();
        Ok(Self {
            place,
            author,
            approver,
            service,
            servicenow,
            slack,
            secrets,
            url,
            _model: model,
            running,
            _temporary: temporary,
        })
    }

    pub(super) async fn stop(self) {
        self.running.stop().await;
    }

    /// Everything that a simulator holds, and what it was asked.
    pub(super) async fn state(&self, of: &Running) -> anyhow::Result<Value> {
        ask(&Call::get(format!("{}/simulator/state", of.url()))).await
    }

    /// Tells a simulator something, and returns what it says.
    pub(super) async fn tell(
        &self,
        whom: &Running,
        name: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        ask(&Call::post(format!("{}/simulator/{name}", whom.url()), body)).await
    }

    /// Somebody reports an incident, in ServiceNow.
    pub(super) async fn report(&self, incident: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/api/now/table/incident", self.servicenow.url());
        let mut call = Call::post(url, incident);
        call.headers.push(("authorization", basic("reporter", &self.secrets.reporter)));
        let made = ask(&call).await?;
        made.get("result").cloned().context("ServiceNow made no incident")
    }
}

fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    format!("Basic {pair}")
}

/// Sends a call to a simulator and reads its JSON.
async fn ask(call: &Call) -> anyhow::Result<Value> {
    let (status, body) = call.send().await.map_err(|error| anyhow::anyhow!(error))?;
    anyhow::ensure!((200..300).contains(&status), "{}: HTTP {status} {body}", call.url);
    Ok(serde_json::from_str(&body)?)
}

/// Waits until `look` finds what must come.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "{what} did not come in time");
        sleep(LOOK_EVERY).await;
    }
}

/// Who builds, and who approves: both on Slack. Returns the builder and one approver.
async fn people(place: &Place, owner: &Credentials) -> anyhow::Result<[Party; 2]> {
    let client = &place.owner.client;
    let author = setup::enrol(client, owner, Kind::User, "builder", "builder").await?;
    say(&format!("{:<11}{}", "builder", author.principal_id))?;
    let mut approver = None;
    for (name, subject) in [("Ada", ADA), ("Bob", BOB)] {
        let made = setup::enrol(client, owner, Kind::User, name, "approver").await?;
        let request = LinkPrincipalRequest {
            principal_id: made.principal_id.clone(),
            provider: format!("slack:{TEAM}"),
            subject: subject.to_owned(),
        };
        client.link_principal(&request, None).await?;
        say(&format!("{:<11}{} is {name} on Slack, {subject}", "approver", made.principal_id))?;
        approver = Some(Party::new(&made)?);
    }
    Ok([Party::new(&author)?, approver.context("there is no approver")?])
}

/// The service that runs the workflow, with an account to pay from.
async fn service(place: &Place) -> anyhow::Result<String> {
    let client = &place.owner.client;
    let account_id = ACCOUNT.to_owned();
    let request = CreateAccountRequest { account_id: account_id.clone(), ..Default::default() };
    client.create_account(&request, None).await?;
    let amount_micro_usd = FUNDS_MICRO_USD;
    let request =
        FundAccountRequest { account_id: account_id.clone(), amount_micro_usd, units: None };
    client.fund_account(&request, None).await?;
    let request = CreatePrincipalRequest {
        kind: Kind::Service.into(),
        name: "triage".to_owned(),
        roles: vec!["operator".to_owned()],
        account_id,
    };
    let made = client.create_principal(&request, None).await?;
    say(&format!("{:<11}{} runs the workflow and has $5", "service", made.principal_id))?;
    Ok(made.principal_id)
}

/// A server that knows one provider of models and may call two systems: the simulators.
fn config(dir: &Path, model: &Running, systems: [&Running; 2]) -> anyhow::Result<Config> {
    let price = json!({"input": 2_500_000, "output": 10_000_000, "context": 50_000});
    let provider = json!({
        "name": "simulator", "form": "openai", "base_url": format!("{}/v1", model.url()),
        "key": "model", "private": true, "models": {"sim-large": price},
    });
    let grant = |system: &Running| {
        let (host, port) = (system.address.ip(), system.address.port());
        json!({"host": host, "port": port, "private": true})
    };
    let config = json!({
        "data": dir.join("data"),
        "listen": "127.0.0.1:0",
        "models": {"providers": [provider]},
        "grants": {"http": systems.map(grant)},
    });
    Ok(serde_json::from_value(config)?)
}
