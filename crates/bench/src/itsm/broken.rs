//! A system that nobody answers for: how fast its open circuit refuses calls.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use client::Client;
use policy::Source;
use proto::actions::SubmitActionRequest;
use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use proto::types::Json;
use serde_json::json;

use super::install::{SLACK, owner_key};
use super::world::SECRET;
use crate::stats::Times;

/// The instance.
const NAME: &str = "broken";
/// Calls until its circuit must be open.
const OPENING_MAX: usize = 50;
const OPEN: &str = "circuit_open";
/// It is not what this measures.
const POLICY: &str = r#"package tally

decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

listing contains decision if some decision in decisions
"#;

/// An address of this machine that nobody listens on.
pub(super) fn nobody() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// How long so many calls took to be refused, each from the request to the answer of the server.
pub(super) fn refused(
    server: SocketAddr,
    dir: &Path,
    nobody: SocketAddr,
    calls: usize,
) -> anyhow::Result<Times> {
    let key = owner_key(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&format!("http://{server}"), &key)?;
        install(&client, nobody).await?;
        let mut broken = 0;
        while call(&client).await? != OPEN {
            broken += 1;
            ensure!(broken < OPENING_MAX, "the circuit does not open");
        }
        let mut times = Times::default();
        for _ in 0..calls {
            let began = Instant::now();
            let code = call(&client).await?;
            times.push(began.elapsed());
            ensure!(code == OPEN, "the circuit is not open any more: `{code}`");
        }
        Ok(times)
    })
}

async fn install(client: &Client, nobody: SocketAddr) -> anyhow::Result<()> {
    let source = Source::new([("tally.rego".to_owned(), POLICY.as_bytes().to_vec())])?;
    let bundle = source.pack_unsigned()?;
    let request = CreatePolicyDraftRequest { bundle, description: "all".to_owned() };
    let policy_id = client.create_policy_draft(&request, None).await?.policy_id;
    client.publish_policy(&PublishPolicyRequest { policy_id }, None).await?;
    let (name, definition) = (NAME.to_owned(), SLACK.to_owned());
    client.install_connector(&InstallConnectorRequest { name, definition }, None).await?;
    let credential = ConnectorCredential { role: "token".to_owned(), secret: SECRET.to_owned() };
    let config = ConnectorConfig {
        base_url: format!("http://{nobody}"),
        credentials: vec![credential],
        ..Default::default()
    };
    let request = ConfigureConnectorRequest {
        name: NAME.to_owned(),
        config: Some(config),
        definition_digest: String::new(),
    };
    client.configure_connector(&request, None).await?;
    Ok(())
}

/// Calls it once: the code that the call fails with.
async fn call(client: &Client) -> anyhow::Result<String> {
    let request = SubmitActionRequest {
        tool: format!("{NAME}.post_message"),
        params: Some(Json::of(&json!({"channel": "C0SIM", "text": "x"}))?),
        wait_ms: Some(60_000),
        ..Default::default()
    };
    let done = client.submit_action(&request, None).await?;
    Ok(done.error.map(|error| error.code).unwrap_or_default())
}
