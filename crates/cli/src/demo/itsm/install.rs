//! What is installed: secrets, connectors, the policy, the workflow and its release, the triggers.

use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};
use proto::releases::{ApproveReleaseRequest, CreateReleaseRequest, PromoteReleaseRequest};
use proto::secrets::PutSecretRequest;
use proto::triggers::{CreateTriggerRequest, Mapping, Slack};
use proto::workflows::PublishWorkflowRequest;
use serde_json::json;

use super::desk::{CHANNEL, CLIENT_ID, Desk, TEAM};
use crate::demo::say::{expect, say, step};
use crate::setup;

/// The workflow, as it lies in the catalog.
const WORKFLOW: &str = include_str!("../../../../../catalog/workflows/itsm-triage.yaml");
const NAME: &str = "itsm-triage";
/// The connectors, as they lie there.
const SERVICENOW: &str = include_str!("../../../../../catalog/connectors/servicenow.yaml");
const SLACK: &str = include_str!("../../../../../catalog/connectors/slack.yaml");

/// Installs all of it.
pub(super) async fn all(desk: &Desk) -> anyhow::Result<()> {
    step("1. Credentials, connectors, policy, workflow, release, triggers")?;
    secrets(desk).await?;
    connectors(desk).await?;
    policy(desk).await?;
    workflow(desk).await?;
    triggers(desk).await
}

async fn secrets(desk: &Desk) -> anyhow::Result<()> {
    let own = &desk.secrets;
    for (name, value) in [
        ("servicenow-id", CLIENT_ID),
        ("servicenow-secret", &own.now_client),
        ("slack", &own.slack_token),
        ("slack-signing", &own.slack_signing),
        ("hook", &own.hook),
        ("model", &own.model),
    ] {
        let request = PutSecretRequest { name: name.to_owned(), value: value.to_owned() };
        desk.place.owner.client.put_secret(&request, None).await?;
    }
    say("secrets    six, sealed in the vault: no value ever comes out again")
}

/// Definitions of the catalog, each with where its system is and which secrets it is shown.
async fn connectors(desk: &Desk) -> anyhow::Result<()> {
    let client = &desk.place.owner.client;
    for (name, definition, system, credentials) in [
        (
            "servicenow",
            SERVICENOW,
            &desk.servicenow,
            vec![("client_id", "servicenow-id"), ("client_secret", "servicenow-secret")],
        ),
        ("slack", SLACK, &desk.slack, vec![("token", "slack")]),
    ] {
        let (name, definition) = (name.to_owned(), definition.to_owned());
        let request = InstallConnectorRequest { name: name.clone(), definition };
        client.install_connector(&request, None).await?;
        let credential = |(role, secret): (&str, &str)| ConnectorCredential {
            role: role.to_owned(),
            secret: secret.to_owned(),
        };
        let config = ConnectorConfig {
            base_url: system.url(),
            credentials: credentials.into_iter().map(credential).collect(),
            ..Default::default()
        };
        let definition_digest = String::new();
        let request = ConfigureConnectorRequest { name, config: Some(config), definition_digest };
        let made = client.configure_connector(&request, None).await?;
        say(&format!("connector  {} {}: {}", made.name, made.version, made.tools.join(", ")))?;
    }
    Ok(())
}

/// Drafted by one, tested by the server, published by another.
async fn policy(desk: &Desk) -> anyhow::Result<()> {
    let bundle = policy::itsm()?.pack_unsigned()?;
    let draft = setup::draft(&desk.author.client, bundle, "triage of incidents".to_owned()).await?;
    let policy = setup::publish(&desk.place.owner.client, draft.policy_id).await?;
    let tests = policy.test_report.clone().unwrap_or_default();
    say(&format!("policy     {} revision {}", policy.policy_id, policy.revision))?;
    let passed = tests.failed == 0 && tests.passed > 0;
    let what = format!("its {} tests pass", tests.passed);
    expect(passed, &what, || format!("{} failed", tests.failed))
}

/// Kept, and released to every run.
async fn workflow(desk: &Desk) -> anyhow::Result<()> {
    let (author, owner) = (&desk.author.client, &desk.place.owner.client);
    let request = PublishWorkflowRequest { yaml: WORKFLOW.to_owned() };
    let kept = author.publish_workflow(&request, None).await?;
    say(&format!("workflow   {} {}", kept.name, kept.latest_version))?;
    let request = CreateReleaseRequest { workflow: NAME.to_owned(), ..Default::default() };
    let release_id = author.create_release(&request, None).await?.release_id;
    let request =
        ApproveReleaseRequest { release_id: release_id.clone(), evaluation: String::new() };
    desk.approver.client.approve_release(&request, None).await?;
    let request = PromoteReleaseRequest { release_id, canary_percent: None };
    let release = owner.promote_release(&request, None).await?;
    let pin = release.model_pin.clone().unwrap_or_default();
    say(&format!(
        "release    {} ({}): policy {}, model {} of {}",
        release.release_id, release.ring, release.policy_revision, pin.model, pin.provider,
    ))
}

/// ServiceNow's events start runs; people are asked on Slack.
async fn triggers(desk: &Desk) -> anyhow::Result<()> {
    let owner = &desk.place.owner.client;
    let request = CreateTriggerRequest {
        name: "incidents".to_owned(),
        source: "servicenow".to_owned(),
        principal_id: desk.service.clone(),
        secret: "hook".to_owned(),
        workflow: NAME.to_owned(),
        events: vec!["incident.created".to_owned()],
        input: vec![Mapping { name: "sys_id".to_owned(), pointer: "/sys_id".to_owned() }],
        ..Default::default()
    };
    let incidents = owner.create_trigger(&request, None).await?;
    say(&format!("trigger    {} at {}", incidents.name, incidents.path))?;
    let slack = Slack { team: TEAM.to_owned(), channel: CHANNEL.to_owned(), ..Default::default() };
    let request = CreateTriggerRequest {
        name: "slack".to_owned(),
        source: "slack".to_owned(),
        principal_id: desk.service.clone(),
        secret: "slack-signing".to_owned(),
        slack: Some(slack),
        ..Default::default()
    };
    let cards = owner.create_trigger(&request, None).await?;
    say(&format!("trigger    {} at {}", cards.name, cards.path))?;
    let url = format!("{}{}", desk.url, incidents.path);
    let webhook = json!({"url": url, "secret": desk.secrets.hook});
    desk.tell(&desk.servicenow, "webhook", &webhook).await?;
    let url = format!("{}{}", desk.url, cards.path);
    let buttons = json!({"url": url, "signing_secret": desk.secrets.slack_signing});
    desk.tell(&desk.slack, "interactivity", &buttons).await?;
    Ok(())
}
