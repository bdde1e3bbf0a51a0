//! Policy as agents meet it: whatever is wrong with it denies, and a change counts at once.

use std::fs;
use std::path::PathBuf;

use client::Client;
use kernel::values::Digest;
use policy::{P256Signer, Source, TrustedKeys};
use proto::actions::action::State;
use proto::actions::{Action, Claims, ReleaseActionRequest, SubmitActionRequest};
use proto::identity::principal::Kind;
use proto::policies::policy::State as PolicyState;
use proto::policies::{
    CreatePolicyDraftRequest, GetPolicyStatusRequest, Policy, PublishPolicyRequest,
    RollbackPolicyRequest, SimulatePolicyRequest,
};
use proto::receipts::ListReceiptsRequest;
use proto::tools::{GetToolRequest, ListToolsRequest};
use proto::types::{Json, decision::Effect};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::common::{
    LOOK_EVERY, PATIENCE, Server, action, allow_all, assert_code, granting, reaches, refusal, rego,
    tally,
};

/// A server with an agent, and a folder where they may write.
struct Desk {
    server: Server,
    agent: Client,
    folder: TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let server = Server::start(&granting(&root));
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, agent, folder }
    }

    /// The same under a policy.
    async fn under(policy: &Source) -> Self {
        let desk = Self::new().await;
        desk.server.publish(policy).await;
        desk
    }

    fn file(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("file")
    }

    fn write(&self, content: &str) -> SubmitActionRequest {
        action("core.fs_write", &json!({"path": self.file(), "content": content}))
    }

    /// What becomes of the agent's write of `content`.
    async fn writes(&self, content: &str) -> Action {
        self.agent.submit_action(&self.write(content), None).await.unwrap()
    }

    /// The write is denied for want of an answer from policy, and did not happen.
    async fn denies(&self, content: &str, code: &str) -> Action {
        let action = self.writes(content).await;
        assert_denied(&action, code);
        assert_ne!(fs::read_to_string(self.file()).ok().as_deref(), Some(content));
        action
    }

    /// The write is allowed and happens.
    async fn allows(&self, content: &str) -> Action {
        let action = self.writes(content).await;
        assert_eq!(action.state(), State::Executed, "{action:?}");
        assert_eq!(fs::read_to_string(self.file()).unwrap(), content);
        action
    }
}

#[track_caller]
fn assert_denied(action: &Action, code: &str) {
    let decision = action.decision.as_ref().unwrap();
    let found = (action.state(), decision.effect(), decision.reasons.as_slice());
    assert_eq!(found, (State::Denied, Effect::Deny, [code.to_owned()].as_slice()), "{action:?}");
    assert_eq!(action.error.as_ref().unwrap().code, code);
    assert_eq!(action.receipts.len(), 1, "a denial is one receipt");
}

fn rule(effect: &str, name: &str, more: &str, condition: &str) -> String {
    format!(
        r#"decisions contains {{"effect": "{effect}", "rule": "{name}", "reason": "asked" {more}}}
        if {{ {condition} }}
        "#
    )
}

fn allow_if(condition: &str) -> String {
    rule("ALLOW", "R-ALLOW", "", condition)
}

fn deny_if(condition: &str) -> String {
    rule("DENY", "R-DENY", "", condition)
}

async fn draft(author: &Client, source: &Source) -> Result<Policy, client::Error> {
    let bundle = source.pack_unsigned().unwrap();
    let request = CreatePolicyDraftRequest { bundle, description: String::new() };
    author.create_policy_draft(&request, None).await
}

async fn publish(publisher: &Client, draft: &Policy) -> Result<Policy, client::Error> {
    let policy_id = draft.policy_id.clone();
    publisher.publish_policy(&PublishPolicyRequest { policy_id }, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_all_is_denied() {
    let desk = Desk::new().await;
    let denied = desk.denies("x", "policy_absent").await;
    assert_eq!(denied.decision.unwrap().policy_revision, 0);
    let tools = desk.agent.list_tools(&ListToolsRequest::default()).await.unwrap();
    assert!(tools.tools.is_empty(), "{tools:?}");
    // A draft decides nothing.
    draft(&desk.server.owner, &allow_all()).await.unwrap();
    desk.denies("x", "policy_absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_policy_denies_and_may_be_tried_again() {
    let server = Server::start("policy: {ttl_s: 1, confirm_every_s: 3600}");
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let policy = server.publish(&allow_all()).await;
    let until = Instant::now() + PATIENCE;
    while server.owner.get_policy_status(&GetPolicyStatusRequest {}).await.unwrap().fresh {
        assert!(Instant::now() < until, "it never becomes stale");
        sleep(LOOK_EVERY).await;
    }
    let request = action("core.fs_read", &json!({"path": "/no/grant"}));
    let denied = agent.submit_action(&request, Some("once")).await.unwrap();
    assert_denied(&denied, "policy_stale");
    assert!(denied.error.unwrap().retryable, "it may be confirmed again");
    assert_eq!(denied.decision.unwrap().policy_revision, policy.revision);
    // So the same idempotency key asks anew.
    let again = agent.submit_action(&request, Some("once")).await.unwrap();
    assert_denied(&again, "policy_stale");
    assert_ne!(again.action_id, denied.action_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_changed_on_disk_denies() {
    let mut desk = Desk::new().await;
    let first = desk.server.publish(&allow_all()).await;
    let strict = desk.server.publish(&rego(&allow_if("input.environment == \"test\""))).await;
    let digest = Digest::parse(&strict.digest).unwrap();
    assert!(desk.server.terminate().success());
    let original = blob(&desk, digest);

    let stranger = P256Signer::generate("stranger").unwrap().0;
    let namesake = P256Signer::generate(key_id(&original)).unwrap().0;
    let evil = allow_all();
    for (bytes, code) in [
        (evil.pack_unsigned().unwrap(), "policy_unsigned"),
        (evil.pack(&stranger).unwrap(), "policy_unsigned"),
        (evil.pack(&namesake).unwrap(), "policy_tampered"),
        // Signed by the right key, but not what was published.
        (blob(&desk, Digest::parse(&first.digest).unwrap()), "policy_tampered"),
        (b"no bundle".to_vec(), "policy_tampered"),
        (original, "policy_no_match"),
    ] {
        put_blob(&desk, digest, &bytes);
        desk.server.restart();
        let denied = desk.denies("x", code).await;
        assert_eq!(denied.decision.unwrap().policy_digest, strict.digest);
        assert!(desk.server.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_say_is_not_believed() {
    let mut desk = Desk::new().await;
    let first = desk.server.publish(&allow_all()).await;
    desk.allows("before").await;
    let second = desk.server.publish(&rego(&deny_if("true"))).await;
    assert!(desk.server.terminate().success());
    // The stored state says that the first policy, which is signed, is in force; that it was
    // never replaced; that the agent is an admin.
    let hex = |policy: &Policy| Digest::parse(&policy.digest).unwrap().hex();
    let changed = change_states(&desk, &hex(&second), &hex(&first))
        + change_states(&desk, "[\"agent\"]", "[\"admin\"]");
    assert_eq!(changed, 2);
    desk.server.restart();
    let denied = desk.writes("after").await;
    assert_eq!(denied.decision.unwrap().rules, ["R-DENY"]);
    assert_eq!(refusal(draft(&desk.agent, &allow_all()).await).0, 403);

    // A receipt that does not verify stops the start.
    assert!(desk.server.terminate().success());
    let data = desk.server.data.to_str().unwrap();
    let config = desk.folder.path().join("tally.yaml");
    fs::write(&config, "host: tally.test").unwrap();
    let config = config.to_str().unwrap();
    let sql = "UPDATE receipt SET envelope = \
        CAST(replace(CAST(envelope AS TEXT), 'a', 'b') AS BLOB) WHERE idx = 1";
    assert!(control(&desk).execute(sql, []).unwrap() > 0);
    let ended = tally(&["serve", "--data", data, "--config", config, "--listen", "127.0.0.1:0"]);
    assert_code(&ended, 1);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.stdout.is_empty() && said.contains("does not verify: receipt 1:"), "{said}");
}

fn control(desk: &Desk) -> Connection {
    Connection::open(desk.server.data.join("control.sqlite")).unwrap()
}

fn blob(desk: &Desk, digest: Digest) -> Vec<u8> {
    let sql = "SELECT bytes FROM blob WHERE digest = ?1";
    control(desk).query_row(sql, params![digest.0], |row| row.get(0)).unwrap()
}

fn put_blob(desk: &Desk, digest: Digest, bytes: &[u8]) {
    let sql = "INSERT OR REPLACE INTO blob (tenant, digest, bytes) VALUES ('main', ?1, ?2)";
    assert_eq!(control(desk).execute(sql, params![digest.0, bytes]).unwrap(), 1);
}

/// Changes the text of stored states behind the log's back.
fn change_states(desk: &Desk, from: &str, to: &str) -> usize {
    let sql = "UPDATE entity SET body = replace(body, ?1, ?2) WHERE instr(body, ?1) > 0";
    control(desk).execute(sql, params![from, to]).unwrap()
}

/// The id of the key by which a bundle says that it is signed.
fn key_id(signed: &[u8]) -> String {
    match policy::open(signed, &TrustedKeys::default()) {
        Err(policy::bundle::Error::UnknownKey(id)) => id,
        opened => panic!("it should be signed by a key that is not known here: {opened:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_on_an_action_denies_it() {
    let desk = Desk::under(&rego(&allow_if("to_number(input.params.content) > 5"))).await;
    desk.allows("6").await;
    desk.denies("5", "policy_no_match").await;
    desk.denies("five", "policy_error").await;
    // A failure lasts no longer than its action.
    desk.allows("7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_deny_rule_beside_a_broad_allow_denies() {
    let deny = deny_if("to_number(input.params.content) > 5");
    let desk = Desk::under(&rego(&format!("{}\n{deny}", allow_if("true")))).await;
    desk.allows("5").await;
    let denied = desk.writes("6").await;
    assert_eq!(denied.state(), State::Denied);
    assert_eq!(denied.decision.unwrap().rules, ["R-ALLOW", "R-DENY"]);
    let failed = desk.denies("six", "policy_error").await;
    assert!(failed.decision.unwrap().rules.is_empty());
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_policy_denies() {
    let server = Server::start("policy: {decision_limit_ms: 200}");
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let slow = r#"
        letters := split(input.params.path, "")
        some x in letters
        some y in letters
        some z in letters
        concat("", [x, y, z]) == "no such word"
    "#;
    let policy = rego(&format!("{}\n{}", allow_if("true"), deny_if(slow)));
    server.publish(&policy).await;
    let read = async |path: &str| {
        let request = action("core.fs_read", &json!({"path": path}));
        agent.submit_action(&request, None).await.unwrap()
    };
    let quick = read("/a").await;
    assert_eq!(quick.decision.unwrap().effect(), Effect::Allow);
    assert_denied(&read(&format!("/{}", "a".repeat(2_000))).await, "policy_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_comes_from_the_credential() {
    let desk = Desk::new().await;
    let admin = desk.server.principal(Kind::User, &["admin"]).await;
    desk.server.publish_by(&admin, &rego(&allow_if("input.environment == \"dev\""))).await;
    let prod = desk.server.principal_in(Kind::Agent, &["agent"], "prod").await;
    for request in [
        SubmitActionRequest { environment: "dev".to_owned(), ..desk.write("x") },
        SubmitActionRequest { workspace: "another".to_owned(), ..desk.write("x") },
    ] {
        let refused = refusal(prod.submit_action(&request, None).await);
        assert_eq!(refused, (403, "credential_binding".to_owned()));
    }
    // What the agent says of itself changes nothing.
    let said = Claims {
        target: "dev".to_owned(),
        extra: Some(Json::of(&json!({"environment": "dev"})).unwrap()),
        ..Default::default()
    };
    let request = SubmitActionRequest {
        environment: "prod".to_owned(),
        claims: Some(said),
        ..desk.write("x")
    };
    let denied = prod.submit_action(&request, None).await.unwrap();
    assert_denied(&denied, "policy_no_match");
    assert_eq!(denied.environment, "prod");
    assert!(!desk.file().exists());
    desk.allows("x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_allow_rule_reads_claims() {
    let server = Server::start("");
    let safe = r#"safe if input.claims.target == "safe""#;
    for (rules, line) in [
        (allow_if(r#"input.claims.target == "safe""#), 3),
        (format!("{safe}\n\n{}", allow_if("safe")), 5),
        (format!("{safe}\n\n{}", allow_if("input.environment == \"dev\"; not safe")), 5),
    ] {
        let answer = draft(&server.owner, &rego(&rules)).await;
        let Err(client::Error::Refused { status: 400, error }) = answer else {
            panic!("{rules} should be refused: {answer:?}")
        };
        assert!(error.message.contains(&format!("tally.rego:{line}")), "{}", error.message);
        assert!(error.message.contains("claims"), "{}", error.message);
    }
    // To deny by what an agent admits is fine.
    let deny = deny_if(r#"input.claims.target == "forbidden""#);
    draft(&server.owner, &rego(&format!("{}\n{deny}", allow_if("true")))).await.unwrap();
}

/// The decisions in the receipts of an action: effect, rules and policy revision.
async fn receipted(desk: &Desk, action: &Action) -> Vec<(Value, Value, Value)> {
    let request = ListReceiptsRequest { action_id: action.action_id.clone(), ..Default::default() };
    let page = desk.server.owner.list_receipts(&request).await.unwrap();
    let mut decisions = Vec::new();
    for receipt in page.receipts {
        let statement: Value = receipt.statement.unwrap().decode().unwrap();
        for transition in statement["predicate"]["transitions"].as_array().unwrap() {
            let decision = &transition["change"]["decision"];
            if decision.is_object() {
                let (effect, rules) = (decision["effect"].clone(), decision["rules"].clone());
                decisions.push((effect, rules, decision["policy"]["revision"].clone()));
            }
        }
    }
    decisions
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_rolling_back_count_at_once() {
    let desk = Desk::new().await;
    let first = desk.server.publish(&allow_all()).await;
    let allowed = desk.allows("one").await;
    let second = desk.server.publish(&rego(&deny_if("true"))).await;
    let denied = desk.writes("two").await;
    assert_eq!((first.revision, second.revision), (1, 2));
    assert_eq!(receipted(&desk, &allowed).await, [(json!("ALLOW"), json!(["R-ALL"]), json!(1))]);
    assert_eq!(receipted(&desk, &denied).await, [(json!("DENY"), json!(["R-DENY"]), json!(2))]);

    let back = RollbackPolicyRequest::default();
    let back = desk.server.owner.rollback_policy(&back, None).await.unwrap();
    assert_eq!((&back.policy_id, &back.digest), (&first.policy_id, &first.digest));
    assert_eq!((back.revision, back.state()), (3, PolicyState::Published));
    let again = desk.allows("three").await;
    assert_eq!(receipted(&desk, &again).await, [(json!("ALLOW"), json!(["R-ALL"]), json!(3))]);
    let status = desk.server.owner.get_policy_status(&GetPolicyStatusRequest {}).await.unwrap();
    assert_eq!((status.revision, status.fresh), (3, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_its_own_tests_is_refused() {
    let desk = Desk::under(&allow_all()).await;
    let policy = format!("package tally\n\n{}\nlisting contains d if some d in decisions", {
        allow_if("true")
    });
    let test = "package tally_test\nimport data.tally\ntest_denied if count(tally.decisions) == 0";
    let source = Source::new([
        ("tally.rego".to_owned(), policy.into_bytes()),
        ("tally_test.rego".to_owned(), test.into()),
    ]);
    let refused = refusal(draft(&desk.server.owner, &source.unwrap()).await);
    assert_eq!(refused, (400, "policy_test_failed".to_owned()));
    // A rule that fails on what agents may well send is found before it is in force.
    let fails = draft(&desk.server.owner, &rego(&deny_if("input.params.list[0] > \"a\""))).await;
    assert_eq!(refusal(fails), (400, "policy_fails_on_valid_input".to_owned()));
    desk.allows("the policy in force stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_prod_the_author_does_not_publish() {
    let server = Server::start("");
    let author = server.principal_in(Kind::User, &["admin"], "prod").await;
    let other = server.principal_in(Kind::User, &["admin"], "prod").await;
    let builder = server.principal_in(Kind::User, &["builder"], "prod").await;
    let drafted = draft(&author, &allow_all()).await.unwrap();
    assert_eq!((drafted.state(), drafted.revision), (PolicyState::Draft, 0));
    let refused = refusal(publish(&author, &drafted).await);
    assert_eq!(refused, (403, "author_is_publisher".to_owned()));
    assert_eq!(refusal(publish(&builder, &drafted).await).0, 403, "a builder publishes nothing");
    let status = server.owner.get_policy_status(&GetPolicyStatusRequest {}).await.unwrap();
    assert_eq!(status.revision, 0);

    let published = publish(&other, &drafted).await.unwrap();
    assert_eq!((published.state(), published.revision), (PolicyState::Published, 1));
    assert_eq!(published.author, drafted.author);
    assert_ne!(published.publisher, published.author);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_is_decided_anew() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    let grant = format!("{{host: 127.0.0.1, port: {port}, private: true}}");
    let patient = "policy: {decision_limit_ms: 5000}";
    let server = Server::start(&format!("grants: {{http: [{grant}]}}\n{patient}"));
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let call = action("core.http_call", &json!({"url": format!("http://127.0.0.1:{port}/")}));
    let call = SubmitActionRequest { wait_ms: Some(0), ..call };
    let asked = agent.submit_action(&call, None).await.unwrap();

    // While the first attempt is under way, policy changes; then the attempt fails.
    let (mut attempt, _) = target.accept().await.unwrap();
    let read = attempt.read(&mut [0; 4096]).await.unwrap();
    assert!(read > 0);
    server.publish(&rego(&deny_if("true"))).await;
    attempt.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await.unwrap();

    let denied = reaches(&agent, &asked.action_id, State::Denied).await;
    let error = denied.error.unwrap();
    assert_eq!((error.code.as_str(), error.retryable, denied.attempt), ("asked", false, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_decides_and_changes_nothing() {
    let desk = Desk::under(&rego(&deny_if("input.tool.id == \"core.fs_write\""))).await;
    let owner = &desk.server.owner;
    let source = rego(&allow_if("input.environment == \"dev\""));
    let drafted = draft(owner, &source).await.unwrap();
    let inputs: Vec<Json> = [
        json!({"tool": {"id": "core.fs_write", "labels": ["write"]}}),
        json!({"tool": {"id": "core.fs_read"}, "environment": "prod"}),
    ]
    .iter()
    .map(|input| Json::of(input).unwrap())
    .collect();
    let simulate = async |bundle: Vec<u8>, policy_id: &str| {
        let request =
            SimulatePolicyRequest { bundle, policy_id: policy_id.into(), inputs: inputs.clone() };
        let decisions = owner.simulate_policy(&request).await.map(|answer| answer.decisions)?;
        let of = |d: proto::types::Decision| (d.effect(), [d.rules, d.reasons].concat());
        Ok::<_, client::Error>(decisions.into_iter().map(of).collect::<Vec<_>>())
    };
    let both = |rule: &str, reason: &str| vec![rule.to_owned(), reason.to_owned()];
    let nothing = (Effect::Deny, vec!["policy_no_match".to_owned()]);
    let in_force = vec![(Effect::Deny, both("R-DENY", "asked")), nothing.clone()];
    let proposed = vec![(Effect::Allow, both("R-ALLOW", "asked")), nothing];
    assert_eq!(simulate(Vec::new(), "").await.unwrap(), in_force);
    assert_eq!(simulate(Vec::new(), &drafted.policy_id).await.unwrap(), proposed);
    assert_eq!(simulate(source.pack_unsigned().unwrap(), "").await.unwrap(), proposed);
    assert_eq!(refusal(simulate(vec![1], &drafted.policy_id).await).0, 400, "one of them");
    assert_eq!(refusal(simulate(Vec::new(), "pol_none").await).0, 404);
    let denied = desk.writes("x").await;
    assert_eq!(denied.decision.unwrap().policy_revision, 1, "nothing was put into force");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_throttled_may_come_again_under_its_key() {
    let more = r#", "obligations": {"retry_after_ms": 1500}"#;
    let desk = Desk::under(&rego(&rule("THROTTLE", "R-SLOW", more, "true"))).await;
    let (request, key) = (desk.write("x"), Some("the-agents-key"));
    let throttled = desk.agent.submit_action(&request, key).await.unwrap();
    let decision = throttled.decision.as_ref().unwrap();
    assert_eq!((decision.effect(), decision.retry_after_ms), (Effect::Throttle, Some(1500)));
    let error = throttled.error.as_ref().unwrap();
    assert_eq!((error.retryable, error.retry_after_ms), (true, Some(1500)));
    assert_eq!(throttled.state(), State::Denied);
    assert!(!desk.file().exists());

    desk.server.publish(&rego(&deny_if("input.params.content != \"x\""))).await;
    let decided = desk.agent.submit_action(&request, key).await.unwrap();
    assert_denied(&decided, "policy_no_match");
    assert_ne!(decided.action_id, throttled.action_id);
    // That decision is remembered.
    desk.server.publish(&allow_all()).await;
    let again = desk.agent.submit_action(&request, key).await.unwrap();
    assert_eq!((again.state(), again.action_id), (State::Denied, decided.action_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_followed_once() {
    let to = |tool: &str| {
        let more = format!(r#", "obligations": {{"route": "{tool}"}}"#);
        rule("ROUTE", "R-ROUTE", &more, "input.tool.id == \"core.fs_write\"")
    };
    let desk = Desk::under(&rego(&to("core.fs_write"))).await;
    let looped = desk.writes("x").await;
    let decision = looped.decision.as_ref().unwrap();
    assert_eq!((looped.state(), decision.effect()), (State::Denied, Effect::Route));
    // Where the parameters do not fit, or there is nothing, the policy is at fault.
    for tool in ["core.json_transform", "core.no_such_tool"] {
        desk.server.publish(&rego(&format!("{}\n{}", to(tool), allow_if("true")))).await;
        desk.denies("x", "policy_error").await;
    }
    assert!(!desk.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_quarantine_is_decided_anew_when_an_admin_releases_it() {
    let desk = Desk::under(&rego(&rule("QUARANTINE", "R-ODD", "", "true"))).await;
    let operator = desk.server.principal(Kind::User, &["operator", "approver"]).await;
    let admin = desk.server.principal(Kind::User, &["admin"]).await;
    let hold = async |content: &str| {
        let request = SubmitActionRequest { wait_ms: Some(0), ..desk.write(content) };
        let held = desk.agent.submit_action(&request, None).await.unwrap();
        assert_eq!(held.state(), State::Quarantined, "{held:?}");
        ReleaseActionRequest { action_id: held.action_id, reason: "looked at".to_owned() }
    };
    let (one, other) = (hold("one").await, hold("other").await);
    for who in [&desk.agent, &operator] {
        assert_eq!(refusal(who.release_action(&one, None).await).0, 403);
    }
    let released = admin.release_action(&one, None).await.unwrap();
    assert_eq!(released.state(), State::Quarantined, "the policy still says so");
    assert!(!desk.file().exists());

    desk.server.publish(&allow_all()).await;
    admin.release_action(&one, None).await.unwrap();
    reaches(&admin, &one.action_id, State::Executed).await;
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), "one");
    desk.server.publish(&rego(&deny_if("true"))).await;
    let denied = admin.release_action(&other, None).await.unwrap();
    assert_eq!((denied.state(), denied.error.unwrap().code), (State::Denied, "asked".into()));
    let late = refusal(admin.release_action(&other, None).await);
    assert_eq!(late, (409, "state_conflict".to_owned()));
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_without_parameters_is_not_listed() {
    let rules = [
        rule("ALLOW", "R-READ", "", "input.tool.id == \"core.fs_read\""),
        rule("REQUIRE_APPROVAL", "R-WRITE", "", "input.tool.id == \"core.fs_write\""),
        rule("ALLOW", "R-HTTP", "", "input.tool.id == \"core.http_call\""),
        rule("DENY", "R-EXTERNAL", "", "\"external\" in input.tool.labels"),
    ];
    let desk = Desk::under(&rego(&rules.join("\n"))).await;
    let listed = desk.agent.list_tools(&ListToolsRequest::default()).await.unwrap();
    let ids: Vec<String> = listed.tools.into_iter().map(|tool| tool.tool_id).collect();
    assert_eq!(ids, ["core.fs_read", "core.fs_write"]);
    let get =
        async |tool: &str| desk.agent.get_tool(&GetToolRequest { tool_id: tool.to_owned() }).await;
    get("core.fs_write").await.unwrap();
    for tool in ["core.http_call", "core.json_transform", "core.no_such_tool"] {
        assert_eq!(refusal(get(tool).await), (404, "unknown_tool".to_owned()), "{tool}");
    }
    let call = action("core.http_call", &json!({"url": "http://127.0.0.1:9/"}));
    let denied = desk.agent.submit_action(&call, None).await.unwrap();
    assert_eq!(denied.state(), State::Denied, "what is not listed is not callable: {denied:?}");
}
