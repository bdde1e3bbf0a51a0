//! What is refused before anything runs, each with its reason: what does not read is no action, and
//! what the operator does not let be is one that is denied, with a receipt.

use kernel::capability::Capability;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::sandboxes::{Capabilities, ExecuteRequest, Limits, Network};

use super::agents::echo;
use super::place::{Place, component};
use super::source::interpreters_and;
use super::verified;
use crate::common::target::Target;
use crate::common::wire::fresh;
use crate::common::{Server, allow_all};

fn of_type(name: &str) -> ExecuteRequest {
    ExecuteRequest { r#type: name.to_owned(), ..component(echo()) }
}

fn granting(granted: Capabilities) -> ExecuteRequest {
    ExecuteRequest { capabilities: Some(granted), ..component(echo()) }
}

fn source(language: &str, text: &str) -> ExecuteRequest {
    let (language, source) = (language.to_owned(), text.to_owned());
    ExecuteRequest { language, source, ..Default::default() }
}

/// That nothing runs, and that it is on record why, under one idempotency key once.
async fn denied(place: &Place, request: ExecuteRequest, (code, names): (&str, &str)) {
    let key = fresh("denied");
    let ended = place.agent.execute(&request, Some(&key)).await.unwrap();
    let error = ended.error.as_ref().unwrap();
    assert_eq!((ended.state(), error.code.as_str()), (State::Denied, code), "{ended:?}");
    assert!(error.message.contains(names), "{code} names {names}: {}", error.message);
    assert_eq!((ended.outcome.as_str(), ended.receipts.len()), ("", 1), "{ended:?}");
    assert_eq!(error.receipt_id, ended.receipts[0]);
    let again = place.agent.execute(&request, Some(&key)).await.unwrap();
    assert_eq!((again.execution_id, again.error), (ended.execution_id, ended.error));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_refused_by_name() {
    let ceiling = "sandbox: {capabilities: {file_read: ['/data/*'], env: ['APP_*']}}";
    let place = Place::new(ceiling).await;
    let many = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let network = |host: &str| {
        let network = Network { allowlist: many(&[host]), ..Default::default() };
        Capabilities { network: Some(network), ..Default::default() }
    };
    let files = |read: &[&str], write: &[&str]| Capabilities {
        file_read: many(read),
        file_write: many(write),
        ..Default::default()
    };
    let fuel = Limits { fuel: Some(u64::MAX >> 12), ..Default::default() };
    let malformed = [
        (of_type("loose"), "params_invalid", "type"),
        (granting(files(&["data"], &[])), "capability_invalid", "data"),
        (source("ruby", "1"), "params_invalid", "language"),
        (source("", "1"), "params_invalid", "language"),
        (ExecuteRequest { source: "x".to_owned(), ..component(echo()) }, "params_invalid", "one"),
        (ExecuteRequest { tool: "no.tool".to_owned(), ..Default::default() }, "unknown_tool", "no"),
        (ExecuteRequest::default(), "params_invalid", "source"),
    ];
    for (request, code, names) in malformed {
        match place.agent.execute(&request, None).await {
            Err(client::Error::Refused { error, .. }) => {
                assert_eq!(error.code, code, "{}", error.message);
                assert!(error.message.contains(names), "{code} names {names}: {}", error.message);
            }
            other => panic!("{code}: this should have been refused: {other:?}"),
        }
    }
    let list = place.server.owner.list_actions(&Default::default()).await.unwrap();
    assert_eq!(list.actions, [], "nothing was asked of policy");

    for (request, code, names) in [
        (of_type("hardened"), "sandbox_type_unavailable", "hardened"),
        (of_type("tee"), "sandbox_type_unavailable", "tee"),
        (of_type("light"), "sandbox_type_unavailable", "light"),
        (granting(files(&["/data/**"], &[])), "capability_not_grantable", "/data/**"),
        (granting(files(&["/etc/passwd"], &[])), "capability_not_grantable", "/etc/passwd"),
        (granting(files(&[], &["/data/x"])), "capability_not_grantable", "/data/x"),
        (granting(network("example.com:443")), "capability_not_grantable", "example.com:443"),
        (ExecuteRequest { limits: Some(fuel), ..component(echo()) }, "limit_not_grantable", "fuel"),
        (source("python", "def run(i): return i"), "runtime_missing", "cargo xtask runtimes"),
        (source("python", &"#".repeat((512 << 10) + 1)), "source_too_long", "source"),
    ] {
        denied(&place, request, (code, names)).await;
    }

    // What is no component of an agent is known only once it is looked at.
    let ended = place.run(component(b"no component".to_vec())).await;
    assert_eq!(ended.outcome, "", "nothing ran: {ended:?}");
    assert!(!ended.error.unwrap().code.is_empty());
}

/// Under `network_isolation` no host can be granted, and code that asks for one without is told so.
#[tokio::test(flavor = "multi_thread")]
async fn no_host_is_spoken_to_in_isolation() {
    let isolated = interpreters_and(", policies: {network_isolation: true}");
    let place = Place::with(&isolated, &allow_all()).await;
    let target = Target::start().await;
    let host = format!("127.0.0.1:{}", target.port());
    let fetch =
        format!("export const run = async () => await (await fetch('http://{host}/')).text()");
    let network = Network { allowlist: vec![host.clone()], ..Default::default() };
    let granted = Capabilities { network: Some(network), ..Default::default() };
    let request = ExecuteRequest { capabilities: Some(granted), ..source("javascript", &fetch) };
    denied(&place, request, ("capability_not_grantable", &host)).await;

    let request = ExecuteRequest { wait_ms: Some(60_000), ..source("javascript", &fetch) };
    let ended = place.run(request).await;
    let ended = place.reaches(&ended, State::Failed).await;
    assert_eq!(ended.outcome, "PERMISSION_DENIED", "{ended:?}");
    let wanted: Vec<_> = ended.denials.iter().map(|denial| denial.wanted.as_str()).collect();
    assert_eq!(wanted, [&host]);
    let told = verified(&place.attestation(&ended).await).unwrap();
    assert_eq!(told.attestation.denied.get(&Capability::Network), Some(&1));
    assert_eq!(target.seen(), []);
}

/// Every execution is attested: a server that is told otherwise does not start.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_without_an_attestation() {
    let mut server = Server::start("");
    assert!(server.terminate().success());
    server.configure("sandbox: {policies: {require_attestation: false}}");
    let said = server.refuses_to_start();
    assert!(said.contains("`sandbox.policies.require_attestation`"), "{said}");
    server.configure("sandbox: {policies: {require_attestation: true}}");
    server.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_no_sandbox_in_prod() {
    let light = "sandbox: {light: {enabled: true, python: /usr/bin/python3}}";
    let place = Place::new(light).await;
    let request = ExecuteRequest { r#type: "light".to_owned(), ..source("python", "x = 1") };
    let prod = place.server.principal_in(Kind::Agent, &["agent"], "prod").await;
    // Nothing weaker than policy says either: in prod none is in force, and that comes first.
    place
        .server
        .publish_by(&place.server.principal(Kind::User, &["admin"]).await, &allow_all())
        .await;
    let refused = prod.execute(&request, None).await.unwrap();
    assert_eq!(refused.error.unwrap().code, "sandbox_type_unavailable");
    let full = ExecuteRequest { attestation: "full".to_owned(), ..request.clone() };
    let refused = place.agent.execute(&full, None).await.unwrap();
    assert_eq!(refused.error.unwrap().code, "attestation_level_unavailable");
}
