//! What is revoked, rotated or suspended stops at once, on open connections too.

use proto::actions::SubmitActionRequest;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreateTenantRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::target::Target;
use crate::common::wire::{Reply, Wire};
use crate::common::{LOOK_EVERY, PATIENCE, Server, WORKSPACE, allow_all, reaches, rego};
use crate::tokens::{Desk, enrol};

/// Holds every action for people.
fn held() -> policy::Source {
    rego(r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R", "reason": "r"} if true"#)
}

/// Submits what is held and waits for people, longer than any test does.
async fn wait_for_people(wire: Wire, credential: String, file: String) -> Reply {
    let params = json!({"path": file, "content": "x", "mode": "append"});
    let body = json!({"tool": "core.fs_write", "params": params, "wait_ms": 60_000});
    wire.ask_as(&credential, "POST", "/v1/actions").json(&body).send().await
}

/// Returns once `count` actions wait for people.
async fn waiting(desk: &Desk, count: usize) {
    let (owner, until) = (desk.server.owner_key(), Instant::now() + PATIENCE);
    loop {
        let list = desk.wire.ask_as(&owner, "GET", "/v1/approvals").send().await.good();
        if list["approvals"].as_array().unwrap().len() >= count {
            return;
        }
        assert!(Instant::now() < until, "nothing waits");
        sleep(LOOK_EVERY).await;
    }
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, why: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{why}: {}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_on_open_connections() {
    let desk = Desk::new(&held()).await;
    let owner = desk.server.owner_key();
    let file = desk.file.to_str().unwrap().to_owned();
    let wires = [Wire::new(&desk.server.url), Wire::http2(&desk.server.url)];
    for (round, wire) in wires.into_iter().enumerate() {
        let user = desk.enrol(Kind::User, &["operator"]).await;
        let agent = desk.enrol(Kind::Agent, &["agent"]).await;
        // A token of the key, one of the agent for its principal, and one of that.
        let own = desk.token(&user.key, "", &[]).await;
        let handed = desk.token(&own, &agent.key, &[]).await;
        let narrowed = desk.token(&handed, "", &[("scope", "actions:read actions:submit")]).await;
        let all = [user.key.clone(), own, handed, narrowed];
        let mut requests = Vec::new();
        for credential in &all {
            let reply = wire.ask_as(credential, "GET", "/v1/actions").send().await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let waits = wait_for_people(wire.clone(), credential.clone(), file.clone());
            requests.push(tokio::spawn(waits));
        }
        waiting(&desk, all.len() * (round + 1)).await;
        let path = format!("/v1/keys/{}/revoke", user.key_id);
        desk.wire.ask_as(&owner, "POST", &path).send().await.good();
        for credential in &all {
            let reply = wire.ask_as(credential, "GET", "/v1/actions").send().await;
            refused(&reply, 401, "credential_invalid", "the very next request");
        }
        for request in requests {
            refused(&request.await.unwrap(), 401, "credential_invalid", "one that waits");
        }
        let reply = wire.ask_as(&agent.key, "GET", "/v1/actions").send().await;
        assert_eq!(reply.status, 200, "the agent's own key is another");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_actor_ends_what_it_acts_by() {
    let desk = Desk::new(&allow_all()).await;
    let owner = desk.server.owner_key();
    let user = desk.enrol(Kind::User, &["operator"]).await;
    let agent = desk.enrol(Kind::Agent, &["agent"]).await;
    let token = desk.token(&user.key, &agent.key, &[]).await;
    assert_eq!(desk.status(&token).await.0, 200);
    let path = format!("/v1/keys/{}/revoke", agent.key_id);
    desk.wire.ask_as(&owner, "POST", &path).send().await.good();
    assert_eq!(desk.status(&token).await, (401, "credential_invalid".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_overlaps_as_long_as_it_was_told() {
    let desk = Desk::new(&allow_all()).await;
    let owner = desk.server.owner_key();
    let user = desk.enrol(Kind::User, &["viewer"]).await;
    let rotate = async |overlap_s: u32| {
        let path = format!("/v1/keys/{}/rotate", user.key_id);
        let body = json!({"overlap_s": overlap_s});
        desk.wire.ask_as(&owner, "POST", &path).json(&body).send().await
    };
    let new = |reply: &Reply| reply.good()["key"].as_str().unwrap().to_owned();
    let second = new(&rotate(3600).await);
    for key in [&user.key, &second] {
        assert_eq!(desk.status(key).await.0, 200, "both are good during the overlap");
    }
    let third = new(&rotate(0).await);
    for key in [&user.key, &second] {
        assert_eq!(desk.status(key).await.0, 401, "without overlap the old ones end at once");
    }
    let fourth = new(&rotate(1).await);
    let until = Instant::now() + PATIENCE;
    while desk.status(&third).await.0 == 200 {
        assert!(Instant::now() < until, "the overlap never ends");
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(desk.status(&fourth).await.0, 200);
    refused(&rotate(86_401).await, 400, "invalid_argument", "more than a day");
    let path = format!("/v1/keys/{}/revoke", user.key_id);
    desk.wire.ask_as(&owner, "POST", &path).send().await.good();
    refused(&rotate(0).await, 409, "state_conflict", "what is revoked gets no other secret");
    assert_eq!(desk.status(&fourth).await.0, 401);
    assert_keys_show_no_secret(&desk.wire, &owner).await;
}

async fn assert_keys_show_no_secret(wire: &Wire, owner: &str) {
    let list: Value = wire.ask_as(owner, "GET", "/v1/keys").send().await.good();
    assert!(list["keys"].as_array().unwrap().iter().all(|key| key.get("key").is_none()), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_rests_and_resumes() {
    let target = Target::start().await;
    let settings = "policy: {decision_limit_ms: 5000}";
    let server = Server::start(&format!("grants: {{http: [{}]}}\n{settings}", target.grant()));
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let acme = server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap();
    let founder = client::Client::new(&server.url, &acme.key).unwrap();
    server.publish(&allow_all()).await;
    let bundle = allow_all().pack_unsigned().unwrap();
    let draft = CreatePolicyDraftRequest { bundle, description: "acme's".to_owned() };
    let policy_id = founder.create_policy_draft(&draft, None).await.unwrap().policy_id;
    founder.publish_policy(&PublishPolicyRequest { policy_id }, None).await.unwrap();
    let theirs = enrol(&founder, Kind::Agent, &["agent"], "dev").await;
    let ours = enrol(&server.owner, Kind::Agent, &["agent"], "dev").await;
    // Each is put off by its target once, for two seconds: acme's comes due before ours.
    let submit = async |key: &str, path: &str| {
        let agent = client::Client::new(&server.url, key).unwrap();
        let call = SubmitActionRequest { wait_ms: Some(0), ..target.call("GET", path) };
        agent.submit_action(&call, None).await.unwrap().action_id
    };
    let set = async |word: &str| {
        let path = format!("/v1/tenants/acme/{word}");
        wire.ask_as(&owner, "POST", &path).send().await
    };
    let seen_at = |path: &str| target.seen().iter().filter(|seen| seen.path == path).count();
    let mut round = 0;
    let (held, path) = loop {
        let path = format!("/limited/acme-{round}");
        let held = submit(&theirs.key, &path).await;
        reaches(&founder, &held, State::Approved).await;
        assert_eq!(set("suspend").await.good()["suspended"], true);
        if seen_at(&path) == 1 {
            break (held, path);
        }
        // The machine was so busy that its time came before the suspension.
        set("resume").await.good();
        round += 1;
        assert!(round < 10, "never in time");
    };
    let mine = submit(&ours.key, "/limited/main").await;
    for key in [&acme.key, &theirs.key] {
        let reply = wire.ask_as(key, "GET", "/v1/actions").send().await;
        refused(&reply, 403, "tenant_suspended", "every credential of it");
    }
    reaches(&server.owner, &mine, State::Executed).await;
    assert_eq!(seen_at(&path), 1, "its queue rests");
    refused(&set("suspend").await, 409, "state_conflict", "once is enough");
    assert_eq!(set("resume").await.good()["suspended"], false);
    reaches(&founder, &held, State::Executed).await;
    assert_eq!(seen_at(&path), 2);
    // Only who operates the server suspends, and never their own tenant.
    let ask = |key: &str, path: &str| wire.ask_as(key, "POST", path).send();
    refused(&ask(&owner, "/v1/tenants/main/suspend").await, 400, "invalid_argument", "their own");
    refused(&ask(&acme.key, "/v1/tenants/main/suspend").await, 404, "not_found", "another's");
    refused(&ask(&acme.key, "/v1/tenants/acme/suspend").await, 403, "permission_denied", "own");
    let admin = enrol(&server.owner, Kind::User, &["admin"], "dev").await;
    refused(&ask(&admin.key, "/v1/tenants/acme/suspend").await, 403, "permission_denied", "admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_stays_so_after_a_restart() {
    let mut server = Server::start("");
    let wire = Wire::new(&server.url);
    let owner = server.owner_key();
    let user = enrol(&server.owner, Kind::User, &["viewer"], "dev").await;
    let request = CreateKeyRequest {
        principal_id: user.id.clone(),
        workspace: WORKSPACE.to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    let other = server.owner.create_key(&request, None).await.unwrap();
    let rotated = wire.ask_as(&owner, "POST", &format!("/v1/keys/{}/rotate", other.key_id));
    let rotated = rotated.json(&json!({"overlap_s": 3600})).send().await.good();
    wire.ask_as(&owner, "POST", &format!("/v1/keys/{}/revoke", user.key_id)).send().await.good();
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let acme = server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap();
    wire.ask_as(&owner, "POST", "/v1/tenants/acme/suspend").send().await.good();
    server.kill();
    server.restart();
    for (key, status) in [
        (&user.key, 401),
        (&other.key, 200),
        (&rotated["key"].as_str().unwrap().to_owned(), 200),
        (&acme.key, 403),
        (&owner, 200),
    ] {
        let reply = wire.ask_as(key, "GET", "/v1/sessions").send().await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}
