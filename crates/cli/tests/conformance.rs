//! The official conformance suite of MCP: its server leg through a gateway that governs every
//! call, and its client leg with the client that speaks to upstreams, each on both revisions.

pub(crate) mod suite;

use std::collections::{BTreeMap, BTreeSet};

use mcpkit::Revisions;
use mcpkit::everything::Everything;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use serde_json::{Value, json};

use self::suite::{Checks, Leg, Status};
use crate::common::{Server, allow_all};
use crate::mcp::door::Door;
use crate::mcp::gateway::{Gateway, over_http, section};

/// What does not pass, and why: `{leg: {revision: {scenario: reason}}}`.
const EXPECTED: &str = include_str!("conformance/expected-failures.json");

/// The actions that the suite asks for at least: its calls, reads, prompts and completions.
const ACTIONS_MIN: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_server_leg_of_2025_11_25_passes_through_the_gateway() {
    server_leg("2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_leg_of_2026_07_28_passes_through_the_gateway() {
    server_leg("2026-07-28").await;
}

async fn server_leg(revision: &str) {
    let everything = Everything::new(Revisions::Both).http().await;
    let directly = suite::run(Leg::Server(everything.url.clone()), revision).await;
    assert_eq!(directly.with(Status::Failed), BTreeSet::new(), "the fixture itself fails");

    let door = Door::new().await;
    let settings = json!({"allowed_hosts": [door.authority()]});
    let server = Server::start(&section(&[over_http("everything", &everything)], &settings));
    server.publish(&allow_all()).await;
    let key = server.key(Kind::Agent, &["agent"], "dev").await;
    door.leads_to(&server.url, &key);
    let gateway = Gateway { server, key };
    gateway.raw().lists("test_simple_text").await;
    let before = receipts(&gateway).await;

    let through = suite::run(Leg::Server(door.url()), revision).await;
    judge("server", revision, &directly.with(Status::Passed), &through);

    let executed = gateway.actions(State::Executed).await;
    assert!(executed.len() >= ACTIONS_MIN, "{} actions", executed.len());
    assert!(executed.iter().all(|action| action.tool.starts_with("mcp.everything.")));
    // Each was asked for, decided and permitted, and came to an outcome.
    let of_actions: usize = executed.iter().map(|action| action.receipts.len()).sum();
    assert!(of_actions >= 2 * executed.len(), "{of_actions} receipts of {}", executed.len());
    assert!(receipts(&gateway).await - before >= of_actions);
    gateway.verify();
}

/// Not a test: the client that the suite starts, which is the one that speaks to upstreams.
#[test]
#[ignore = "a program that the conformance suite starts"]
fn client() {
    mcpkit::conformance::main();
}

#[tokio::test]
async fn the_client_leg_of_2025_11_25_passes() {
    client_leg("2025-11-25", 18).await;
}

#[tokio::test]
async fn the_client_leg_of_2026_07_28_passes() {
    client_leg("2026-07-28", 32).await;
}

async fn client_leg(revision: &str, required: usize) {
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let command = format!("{this} --exact conformance::client --ignored --nocapture");
    let checks = suite::run(Leg::Client(command), revision).await;
    assert!(checks.scenarios().len() >= required, "{:?}", checks.scenarios());
    judge("client", revision, &BTreeSet::new(), &checks);
}

/// How many receipts the actions of the workspace have.
async fn receipts(gateway: &Gateway) -> usize {
    gateway.actions(State::Unspecified).await.iter().map(|action| action.receipts.len()).sum()
}

/// Nothing fails, and what passes directly passes, but for the scenarios that are expected to fail
/// and do.
fn judge(leg: &str, revision: &str, should: &BTreeSet<String>, checks: &Checks) {
    let expected: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>> =
        serde_json::from_str(EXPECTED).unwrap();
    let expected = &expected[leg][revision];
    let mut good = checks.with(Status::Passed);
    good.extend(checks.with(Status::Told));
    let mut failing = checks.with(Status::Failed);
    failing.extend(should.difference(&good).cloned());
    let (known, unexpected): (Vec<_>, Vec<_>) = failing
        .iter()
        .partition(|name| expected.contains_key(name.split(' ').next().unwrap_or_default()));
    let unexpected: Vec<Value> = unexpected.into_iter().map(|name| checks.explain(name)).collect();
    assert!(unexpected.is_empty(), "{revision}: {:#}", json!(unexpected));
    let fails = |scenario: &str| known.iter().any(|name| name.split(' ').next() == Some(scenario));
    let stale: Vec<&String> = expected.keys().filter(|scenario| !fails(scenario)).collect();
    assert!(stale.is_empty(), "{revision}: expected to fail, but pass: {stale:?}");
}
