//! What is installed, through the API.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use client::Client;
use proto::accounts::{CreateAccountRequest, FundAccountRequest};
use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest, LinkPrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use proto::releases::{ApproveReleaseRequest, CreateReleaseRequest, PromoteReleaseRequest};
use proto::secrets::PutSecretRequest;
use proto::triggers::{CreateTriggerRequest, Mapping, Slack};
use proto::workflows::PublishWorkflowRequest;
use serde::Deserialize;

use super::world::{PATIENCE, SECRET};

const WORKFLOW: &str = include_str!("../../../../catalog/workflows/itsm-triage.yaml");
const SERVICENOW: &str = include_str!("../../../../catalog/connectors/servicenow.yaml");
pub(super) const SLACK: &str = include_str!("../../../../catalog/connectors/slack.yaml");
const NAME: &str = "itsm-triage";
/// What the runs pay from.
const ACCOUNT: &str = "triage";
const FUNDS_MICRO_USD: i64 = 1_000_000_000_000;

/// Where the systems deliver to.
pub(super) struct Hooks {
    pub(super) incidents: String,
    pub(super) cards: String,
}

#[derive(Deserialize)]
struct Owner {
    key: String,
}

/// Installs all of it on the server whose data is below `dir`.
pub(super) fn all(
    server: SocketAddr,
    dir: &Path,
    systems: [SocketAddr; 2],
) -> anyhow::Result<Hooks> {
    let owner = owner_key(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&format!("http://{server}"), &owner)?;
        let installed = async {
            connectors(&client, systems).await?;
            policy(&client).await?;
            let People { service, approver } = people(&client).await?;
            release(&client, &Client::new(&format!("http://{server}"), &approver)?).await?;
            triggers(&client, &service).await
        };
        tokio::time::timeout(PATIENCE, installed).await.context("it is never installed")?
    })
}

/// The key of the owner of the server whose data is below `dir`.
pub(super) fn owner_key(dir: &Path) -> anyhow::Result<String> {
    let credentials = std::fs::read(dir.join("data").join("credentials.json"))?;
    let owner: Owner = serde_json::from_slice(&credentials)?;
    Ok(owner.key)
}

async fn connectors(client: &Client, systems: [SocketAddr; 2]) -> anyhow::Result<()> {
    let (name, value) = (SECRET.to_owned(), SECRET.to_owned());
    client.put_secret(&PutSecretRequest { name, value }, None).await?;
    let [servicenow, slack] = systems;
    for (name, definition, system, roles) in [
        ("servicenow", SERVICENOW, servicenow, vec!["client_id", "client_secret"]),
        ("slack", SLACK, slack, vec!["token"]),
    ] {
        let (name, definition) = (name.to_owned(), definition.to_owned());
        let request = InstallConnectorRequest { name: name.clone(), definition };
        client.install_connector(&request, None).await?;
        let credentials = roles.iter().map(|role| ConnectorCredential {
            role: (*role).to_owned(),
            secret: SECRET.to_owned(),
        });
        let config = ConnectorConfig {
            base_url: format!("http://{system}"),
            credentials: credentials.collect(),
            ..Default::default()
        };
        let definition_digest = String::new();
        let request = ConfigureConnectorRequest { name, config: Some(config), definition_digest };
        client.configure_connector(&request, None).await?;
    }
    Ok(())
}

async fn policy(client: &Client) -> anyhow::Result<()> {
    let bundle = policy::itsm()?.pack_unsigned()?;
    let request = CreatePolicyDraftRequest { bundle, description: "triage".to_owned() };
    let policy_id = client.create_policy_draft(&request, None).await?.policy_id;
    client.publish_policy(&PublishPolicyRequest { policy_id }, None).await?;
    Ok(())
}

/// Who takes part: the service that runs the workflow, and the key of an approver.
struct People {
    service: String,
    approver: String,
}

/// An approver who is on Slack, and the service that runs the workflow.
async fn people(client: &Client) -> anyhow::Result<People> {
    let account_id = ACCOUNT.to_owned();
    let account = CreateAccountRequest { account_id: account_id.clone(), ..Default::default() };
    client.create_account(&account, None).await?;
    let amount_micro_usd = FUNDS_MICRO_USD;
    let funds = FundAccountRequest { account_id, amount_micro_usd, units: None };
    client.fund_account(&funds, None).await?;
    let request = |kind: Kind, role: &str| CreatePrincipalRequest {
        kind: kind.into(),
        name: role.to_owned(),
        roles: vec![role.to_owned()],
        account_id: ACCOUNT.to_owned(),
    };
    let approver = client.create_principal(&request(Kind::User, "approver"), None).await?;
    let key = CreateKeyRequest {
        principal_id: approver.principal_id.clone(),
        workspace: "main".to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    let key = client.create_key(&key, None).await?.key;
    let link = LinkPrincipalRequest {
        principal_id: approver.principal_id,
        provider: "slack:T0SIM".to_owned(),
        subject: "U0ADA".to_owned(),
    };
    client.link_principal(&link, None).await?;
    let service = client.create_principal(&request(Kind::Service, "operator"), None).await?;
    Ok(People { service: service.principal_id, approver: key })
}

async fn release(client: &Client, approver: &Client) -> anyhow::Result<()> {
    let request = PublishWorkflowRequest { yaml: WORKFLOW.to_owned() };
    client.publish_workflow(&request, None).await?;
    let request = CreateReleaseRequest { workflow: NAME.to_owned(), ..Default::default() };
    let release_id = client.create_release(&request, None).await?.release_id;
    let evaluation = String::new();
    let request = ApproveReleaseRequest { release_id: release_id.clone(), evaluation };
    approver.approve_release(&request, None).await?;
    let request = PromoteReleaseRequest { release_id, canary_percent: None };
    client.promote_release(&request, None).await?;
    Ok(())
}

async fn triggers(client: &Client, service: &str) -> anyhow::Result<Hooks> {
    let incidents = CreateTriggerRequest {
        name: "incidents".to_owned(),
        source: "servicenow".to_owned(),
        principal_id: service.to_owned(),
        secret: SECRET.to_owned(),
        workflow: NAME.to_owned(),
        events: vec!["incident.created".to_owned()],
        input: vec![Mapping { name: "sys_id".to_owned(), pointer: "/sys_id".to_owned() }],
        ..Default::default()
    };
    let (team, channel) = ("T0SIM".to_owned(), "C0SIM".to_owned());
    let cards = CreateTriggerRequest {
        name: "cards".to_owned(),
        source: "slack".to_owned(),
        principal_id: service.to_owned(),
        secret: SECRET.to_owned(),
        slack: Some(Slack { team, channel, ..Default::default() }),
        ..Default::default()
    };
    let incidents = client.create_trigger(&incidents, None).await?.path;
    let cards = client.create_trigger(&cards, None).await?.path;
    Ok(Hooks { incidents, cards })
}
