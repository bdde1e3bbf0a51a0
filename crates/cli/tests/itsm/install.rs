//! The connectors of the catalog, made usable for the simulators.

use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};

use super::scene::Scene;
use crate::common::simulator::Simulator;

const SERVICENOW: &str = include_str!("../../../../catalog/connectors/servicenow.yaml");
const SLACK: &str = include_str!("../../../../catalog/connectors/slack.yaml");

/// Installs both.
pub(super) async fn connectors(scene: &Scene) {
    let now = [("client_id", "servicenow-id"), ("client_secret", "servicenow")];
    install(scene, "servicenow", SERVICENOW, &scene.servicenow, &now).await;
    install(scene, "slack", SLACK, &scene.slack, &[("token", "slack")]).await;
}

async fn install(
    scene: &Scene,
    name: &str,
    definition: &str,
    simulator: &Simulator,
    credentials: &[(&str, &str)],
) {
    let owner = scene.owner();
    let (name, definition) = (name.to_owned(), definition.to_owned());
    let request = InstallConnectorRequest { name: name.clone(), definition };
    owner.install_connector(&request, None).await.unwrap();
    let credential = |(role, secret): &(&str, &str)| ConnectorCredential {
        role: (*role).to_owned(),
        secret: (*secret).to_owned(),
    };
    let config = ConnectorConfig {
        base_url: simulator.url.clone(),
        credentials: credentials.iter().map(credential).collect(),
        ..ConnectorConfig::default()
    };
    let definition_digest = String::new();
    let request = ConfigureConnectorRequest { name, config: Some(config), definition_digest };
    let made = owner.configure_connector(&request, None).await.unwrap();
    assert!(made.unusable.is_empty() && !made.tools.is_empty(), "{made:?}");
}
