//! The key-value store: versions, isolation, and that a crash neither loses nor repeats a change.

use std::fs;

use client::Client;
use proto::actions::action::State;
use proto::actions::{GetActionRequest, ListActionsRequest};
use proto::identity::principal::Kind;
use serde_json::{Value, json};
use testkit::Cluster;
use tokio::time::{Instant, sleep};

use super::{failure, result};
use crate::common::postgres::migrated;
use crate::common::{LOOK_EVERY, PATIENCE, Server, action, allow_all};

const PATIENT: &str = "policy: {decision_limit_ms: 5000}";
/// A text that is in a store by nobody's chance.
const MARK: &str = "mark-Jx7Qm2-of-a-value";

async fn agent(server: &Server) -> Client {
    server.principal(Kind::Agent, &["agent"]).await
}

async fn get(client: &Client, key: &str) -> Value {
    result(client, "kv.get", &json!({"key": key})).await
}

async fn values(server: &mut Server) {
    server.publish(&allow_all()).await;
    let agent = agent(server).await;
    assert_eq!(get(&agent, "a").await, json!({"found": false, "version": 0}));
    let set = |value: Value| json!({"key": "a", "value": value});
    let value = json!({"big": 9007199254740991_u64, "deep": [null, {"ü": MARK}]});
    let first = result(&agent, "kv.set", &set(value.clone())).await;
    assert_eq!(first, json!({"version": 1, "created": true}));
    assert_eq!(get(&agent, "a").await, json!({"found": true, "value": value, "version": 1}));
    let second = result(&agent, "kv.set", &set(Value::Null)).await;
    assert_eq!(second, json!({"version": 2, "created": false}));
    assert_eq!(get(&agent, "a").await, json!({"found": true, "value": null, "version": 2}));
    let guarded = |version: u64| json!({"key": "a", "value": 3, "if_version": version});
    for other in [0, 1, 3] {
        assert_eq!(failure(&agent, "kv.set", &guarded(other)).await, "version_conflict");
    }
    assert_eq!(result(&agent, "kv.set", &guarded(2)).await["version"], 3);
    let long = json!({"key": "b", "value": "x".repeat(300_000)});
    assert_eq!(failure(&agent, "kv.set", &long).await, "value_too_large");
    // What goes and comes again is at a version that it was never at before.
    let gone = |version: u64| json!({"key": "a", "if_version": version});
    assert_eq!(failure(&agent, "kv.delete", &gone(2)).await, "version_conflict");
    assert_eq!(result(&agent, "kv.delete", &gone(3)).await, json!({"deleted": true}));
    let again = json!({"key": "a"});
    assert_eq!(result(&agent, "kv.delete", &again).await, json!({"deleted": false}));
    assert_eq!(get(&agent, "a").await["found"], false);
    let anew = json!({"key": "a", "value": MARK, "if_version": 0});
    assert_eq!(result(&agent, "kv.set", &anew).await, json!({"version": 4, "created": true}));
    server.kill();
    server.restart();
    server.ready().await;
    let kept = json!({"found": true, "value": MARK, "version": 4});
    assert_eq!(get(&agent, "a").await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_have_versions_and_last() {
    let mut server = Server::start(PATIENT);
    values(&mut server).await;
    // Neither keys nor values are readable where they are kept.
    assert!(server.terminate().success());
    for entry in fs::read_dir(&server.data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    server.offline("verify");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_postgresql() {
    let database = migrated(Cluster::shared());
    let mut server = Server::start_on(&database, PATIENT);
    values(&mut server).await;
}

/// Adds one to the counter, as often as it takes to be the one who does.
async fn increment(client: &Client) {
    loop {
        let present = get(client, "counter").await;
        let next = present["value"].as_u64().unwrap_or(0) + 1;
        let version = present["version"].as_u64().unwrap();
        let set = json!({"key": "counter", "value": next, "if_version": version});
        let set = super::submit(client, "kv.set", &set).await;
        match set.state() {
            State::Executed => return,
            _ => assert_eq!(set.error.unwrap().code, "version_conflict"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_would_be_next_one_is() {
    let server = Server::start(PATIENT);
    server.publish(&allow_all()).await;
    let agent = agent(&server).await;
    let adding = (0..8).map(|_| {
        let agent = agent.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                increment(&agent).await;
            }
        })
    });
    for one in adding.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let counter = get(&agent, "counter").await;
    assert_eq!(counter, json!({"found": true, "value": 40, "version": 40}));
}

/// Every executed set made one version, whenever the server was killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_no_change_and_makes_none_twice() {
    let mut server = Server::start(PATIENT);
    server.publish(&allow_all()).await;
    let agent = agent(&server).await;
    let mut asked = 0;
    for round in 0..3 {
        let sending = (0..24).map(|n| {
            let agent = agent.clone();
            let mut set = action("kv.set", &json!({"key": "a", "value": n}));
            set.wait_ms = Some(0);
            let key = format!("set-{round}-{n}");
            tokio::spawn(async move { agent.submit_action(&set, Some(&key)).await.is_ok() })
        });
        let sending: Vec<_> = sending.collect();
        // In the middle of it.
        let until = Instant::now() + PATIENCE;
        while all(&agent).await.len() <= asked {
            assert!(Instant::now() < until, "nothing is ever asked for");
        }
        server.kill();
        for one in sending {
            one.await.unwrap();
        }
        server.restart();
        server.ready().await;
        asked = all(&agent).await.len();
    }
    let ids = all(&agent).await;
    let mut executed = 0;
    for id in &ids {
        let until = Instant::now() + PATIENCE;
        let state = loop {
            let request = GetActionRequest { action_id: id.clone() };
            let state = agent.get_action(&request).await.unwrap().state();
            if !matches!(state, State::Requested | State::Approved | State::Executing) {
                break state;
            }
            assert!(Instant::now() < until, "{id} never ends");
            sleep(LOOK_EVERY).await;
        };
        assert_eq!(state, State::Executed, "it can be repeated, so it is");
        executed += 1;
    }
    assert!(executed > 0);
    assert_eq!(get(&agent, "a").await["version"], executed);
    assert!(server.terminate().success());
    server.offline("verify");
}

/// The ids of all actions that set something.
async fn all(client: &Client) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListActionsRequest { page_token, ..Default::default() };
        let listed = client.list_actions(&request).await.unwrap();
        let sets = listed.actions.into_iter().filter(|action| action.tool == "kv.set");
        ids.extend(sets.map(|action| action.action_id));
        page_token = listed.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_belong_to_one_workspace_of_one_tenant() {
    use proto::identity::{CreateKeyRequest, CreatePrincipalRequest, CreateTenantRequest};
    let server = Server::start(PATIENT);
    server.publish(&allow_all()).await;
    let agent = agent(&server).await;
    result(&agent, "kv.set", &json!({"key": "a", "value": "ours"})).await;
    // Another environment of the workspace is the same workspace.
    let prod = server.principal_in(Kind::Agent, &["agent"], "test").await;
    assert_eq!(get(&prod, "a").await["value"], "ours");
    // Another workspace of the tenant.
    let request = proto::identity::CreateWorkspaceRequest {
        tenant: "main".to_owned(),
        workspace: "other".to_owned(),
        environments: vec!["dev".to_owned()],
    };
    server.owner.create_workspace(&request, None).await.unwrap();
    let request = CreatePrincipalRequest {
        kind: Kind::Agent.into(),
        name: "an agent elsewhere".to_owned(),
        roles: vec!["agent".to_owned()],
        account_id: String::new(),
    };
    let principal_id = server.owner.create_principal(&request, None).await.unwrap().principal_id;
    let request = CreateKeyRequest {
        principal_id,
        workspace: "other".to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    let key = server.owner.create_key(&request, None).await.unwrap().key;
    let elsewhere = Client::new(&server.url, &key).unwrap();
    // Another tenant.
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let made = server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap();
    let stranger = Client::new(&server.url, &made.key).unwrap();
    let bundle = allow_all().pack_unsigned().unwrap();
    let request =
        proto::policies::CreatePolicyDraftRequest { bundle, description: "a test's".to_owned() };
    let policy_id = stranger.create_policy_draft(&request, None).await.unwrap().policy_id;
    let request = proto::policies::PublishPolicyRequest { policy_id };
    stranger.publish_policy(&request, None).await.unwrap();
    for other in [&elsewhere, &stranger] {
        assert_eq!(get(other, "a").await["found"], false);
        let set = json!({"key": "a", "value": "theirs", "if_version": 0});
        assert_eq!(result(other, "kv.set", &set).await["version"], 1);
    }
    assert_eq!(get(&agent, "a").await, json!({"found": true, "value": "ours", "version": 1}));
    assert_eq!(get(&elsewhere, "a").await["value"], "theirs");
}
