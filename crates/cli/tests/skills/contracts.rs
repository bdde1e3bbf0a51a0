//! What callers are told of skills, of what they may do now, and of what bounds it.

use client::Client;
use proto::identity::principal::Kind;
use proto::runtime::{GetCapabilitiesRequest, GetResourceContractRequest, GetSkillRequest};
use serde_json::{Value, json};

use super::result;
use crate::common::wire::Wire;
use crate::common::{Server, allow_all, assert_code, json as printed, refusal, rego, text};

/// A cent for each value, and a policy that denies one of the skills.
const PRICES: &str = "policy: {decision_limit_ms: 5000}\nprices: {kv.set: 10000}";

const RULES: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
decisions contains {"effect": "DENY", "rule": "R-NO-HOOKS", "reason": "no_hooks"} if {
    input.tool.id == "webhook.send"
}
decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-ASK", "reason": "asks"} if {
    input.tool.id == "kv.delete"
}
"#;

async fn capabilities(client: &Client) -> (Value, Option<proto::runtime::BudgetLeft>) {
    let now = client.get_capabilities(&GetCapabilitiesRequest::default()).await.unwrap();
    (serde_json::from_str(&now.skills.unwrap().text).unwrap(), now.budget)
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_change_with_what_is_spent() {
    let server = Server::start(PRICES);
    server.publish(&rego(RULES)).await;
    let agent = server.paying_agent("till", 25_000).await;
    let (skills, budget) = capabilities(&agent).await;
    let budget = budget.unwrap();
    assert_eq!((budget.total_cents, budget.remaining_cents, budget.spent_cents), (2, 2, 0));
    assert_eq!(budget.remaining_micro_usd, 25_000);
    let set = &skills["kv_set"];
    assert_eq!((&set["available"], &set["cost_estimate_cents"]), (&json!(true), &json!(1)));
    assert_eq!((&set["tool_id"], &set["policy"]), (&json!("kv.set"), &json!("ALLOW")));
    assert_eq!(skills["kv.delete"]["policy"], "REQUIRE_APPROVAL");
    // What policy denies, and what there is not, is not there.
    assert!(skills.get("webhook_send").is_none() && skills.get("email_send").is_none());
    for n in 0..2 {
        result(&agent, "kv.set", &json!({"key": "a", "value": n})).await;
    }
    let (skills, budget) = capabilities(&agent).await;
    let budget = budget.unwrap();
    assert_eq!((budget.remaining_cents, budget.spent_cents), (0, 2));
    assert_eq!((budget.per_step_max_cents, budget.remaining_micro_usd), (0, 5_000));
    let set = &skills["kv_set"];
    assert_eq!((&set["available"], &set["reason"]), (&json!(false), &json!("budget_exceeded")));
    assert_eq!(skills["kv_get"]["available"], true);
    server.fund("till", 10_000).await;
    assert_eq!(capabilities(&agent).await.0["kv_set"]["available"], true);
}

/// The key of a new agent, for so many requests a minute.
async fn key(server: &Server, per_min: u32) -> String {
    use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
    let request = CreatePrincipalRequest {
        kind: Kind::Agent.into(),
        name: "an agent with few requests".to_owned(),
        roles: vec!["agent".to_owned()],
        account_id: String::new(),
    };
    let principal_id = server.owner.create_principal(&request, None).await.unwrap().principal_id;
    let request = CreateKeyRequest {
        principal_id,
        workspace: "main".to_owned(),
        environment: "dev".to_owned(),
        rate_limit_per_min: Some(per_min),
        ..Default::default()
    };
    server.owner.create_key(&request, None).await.unwrap().key
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_change_with_each_request() {
    let server = Server::start(PRICES);
    server.publish(&allow_all()).await;
    let wire = Wire::new(&server.url);
    let few = key(&server, 4).await;
    let mut last = None;
    for path in ["/api/v1/runtime/capabilities", "/v1/runtime/capabilities"].repeat(50) {
        let reply = wire.ask_as(&few, "GET", path).send().await;
        let remaining = reply.header("x-ratelimit-remaining").parse::<u64>().unwrap();
        let now = reply.good();
        // What is nothing is left out.
        let left = &now["rate_limits"]["remaining"];
        assert_eq!(left.as_u64().unwrap_or(0), remaining, "{now}");
        assert_eq!(now["rate_limits"]["requests_per_minute"], 4);
        let call = &now["skills"]["http_call"];
        assert_eq!(call["rate_limit_remaining"], remaining);
        assert_eq!(call["available"], remaining > 0, "{call}");
        assert_eq!(now["budget"], Value::Null, "it has no account");
        // What costs something needs one.
        let set = &now["skills"]["kv_set"];
        assert_eq!(
            (&set["available"], &set["reason"]),
            (&json!(false), &json!("budget_account_missing"))
        );
        let permissions: Vec<_> = now["permissions"].as_array().unwrap().iter().collect();
        assert!(permissions.contains(&&json!("actions:submit")));
        assert!(!permissions.contains(&&json!("approvals:decide")));
        last = Some((remaining, call["reason"].clone()));
        if remaining == 0 {
            break;
        }
    }
    assert_eq!(last, Some((0, json!("rate_limited"))));
    let key = key(&server, 1_000).await;
    let other = wire.ask_as(&key, "GET", "/v1/runtime/capabilities?agent_id=somebody");
    assert_eq!(other.send().await.code(), "credential_binding");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_of_a_skill() {
    let server = Server::start(PRICES);
    server.publish(&rego(RULES)).await;
    let (key, wire) = (server.key(Kind::Agent, &["agent"], "dev").await, Wire::new(&server.url));
    let agent = server.paying_agent("till", 1_000_000).await;
    let get = |path: String| wire.ask_as(&key, "GET", &path).send();
    let listed = get("/api/v1/runtime/skills".to_owned()).await.good();
    let skills: Vec<&str> =
        listed["skills"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    for skill in ["fs_read", "fs_write", "http_call", "json_transform", "kv_get", "kv_set"] {
        assert!(skills.contains(&skill), "{skill}: {skills:?}");
    }
    assert_eq!(listed["count"], skills.len());
    assert_eq!(listed["descriptors"]["kv_set"]["cost_model"]["base_cents"], 1);
    for skill in &skills {
        let one = get(format!("/v1/runtime/skills/{skill}")).await.good();
        assert_eq!(one["skill_id"], *skill);
        assert!(one["inputs_schema"]["properties"].is_object() || skill.contains("sandbox"));
        for mode in one["failure_modes"].as_array().unwrap() {
            for field in ["code", "category", "meaning", "recovery_hint"] {
                let said = mode[field].as_str().is_some_and(|text| !text.is_empty());
                assert!(said, "{skill}: {field}: {mode}");
            }
            assert!(mode["probability"].is_null(), "there is no history: {mode}");
        }
    }
    // By the tool's id as well; and what is denied is like what there is not.
    assert_eq!(get("/v1/runtime/skills/kv.set".to_owned()).await.good()["skill_id"], "kv_set");
    let (denied, absent) = (
        get("/v1/runtime/skills/webhook_send".to_owned()).await,
        get("/v1/runtime/skills/absent".to_owned()).await,
    );
    assert_eq!((denied.status, absent.status), (404, 404));
    assert_eq!(denied.error()["message"], absent.error()["message"]);
    assert_eq!(
        refusal(agent.get_skill(&GetSkillRequest { skill_id: "a b".to_owned() }).await).0,
        404
    );

    // What happened shows: how often it failed, and what went before.
    let set = json!({"key": "a", "value": 1, "if_version": 7});
    for _ in 0..10 {
        super::failure(&agent, "kv.set", &set).await;
        result(&agent, "kv.get", &json!({"key": "a"})).await;
    }
    let one = agent.get_skill(&GetSkillRequest { skill_id: "kv_set".to_owned() }).await.unwrap();
    let mode = one.failure_modes.iter().find(|mode| mode.code == "version_conflict").unwrap();
    assert_eq!(mode.probability, Some(1.0));
    let hints = one.composition_hints.unwrap();
    assert_eq!(
        (hints.often_followed_by, hints.often_preceded_by),
        (vec!["kv_get".to_owned()], vec!["kv_get".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bounds_a_resource_now() {
    let server = Server::start(PRICES);
    server.publish(&rego(RULES)).await;
    let agent = server.paying_agent("till", 25_000).await;
    let poor = server.principal(Kind::Agent, &["agent"]).await;
    let me = agent.get_capabilities(&GetCapabilitiesRequest::default()).await.unwrap().agent_id;
    let ask = |client: &Client, id: &str| {
        let (client, request) =
            (client.clone(), GetResourceContractRequest { resource_id: id.to_owned() });
        async move { client.get_resource_contract(&request).await }
    };
    for (id, kind) in [(me.as_str(), "principal"), ("kv_set", "skill"), ("till", "account")] {
        let contract = ask(&agent, id).await.unwrap();
        assert_eq!((contract.resource_id.as_str(), contract.kind.as_str()), (id, kind));
        assert_eq!(contract.budget.unwrap().remaining_cents, 2);
        assert!(contract.rate_limits.unwrap().requests_per_minute > 0);
        assert_eq!(contract.concurrency.unwrap().current_running, 0);
        assert!(contract.time.unwrap().max_attempt_ms > 0);
    }
    result(&agent, "kv.set", &json!({"key": "a", "value": 1})).await;
    assert_eq!(ask(&agent, "till").await.unwrap().budget.unwrap().remaining_cents, 1);
    assert!(ask(&poor, "kv_set").await.unwrap().budget.is_none());
    for absent in ["webhook_send", "p_absent", "absent", me.as_str()] {
        let client = if absent == me { &poor } else { &agent };
        assert_eq!(refusal(ask(client, absent).await).0, 404, "{absent}");
    }
    // And on the command line.
    let key = server.key(Kind::Agent, &["agent"], "dev").await;
    let run = |args: &[&str]| server.tally(&key, &[&["runtime"], args].concat());
    for (args, shows) in [
        (&["skills"] as &[&str], "kv_set"),
        (&["skill", "kv_set"], "version_conflict"),
        (&["capabilities"], "no account"),
        (&["contract", "kv_set"], "requests a minute left"),
    ] {
        let output = run(args);
        assert_code(&output, 0);
        assert!(text(&output).contains(shows), "{args:?}: {}", text(&output));
    }
    let output = run(&["skill", "kv_get", "--json"]);
    assert_code(&output, 0);
    assert_eq!(printed(&output)["tool_id"], "kv.get");
    assert_eq!(
        run(&["skill", "webhook_send"]).status.code(),
        run(&["skill", "absent"]).status.code()
    );
}
