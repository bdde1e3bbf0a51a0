//! Who may call what: every route of the OpenAPI document against every kind of credential.

use std::collections::BTreeSet;

use kernel::principal::{Role, permitted};
use mcpkit::Revisions;
use mcpkit::misbehave::{Misbehave, Vice};
use proto::identity::principal::Kind;
use proto::routes::{Idempotency, ROUTES, Route};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::release::in_force;
use crate::common::wire::{Reply, Wire, fill, fresh, paths};
use crate::common::{LOOK_EVERY, PATIENCE, Server, allow_all};

/// A path that has its form right and names nothing that is there.
fn absent(path: &str) -> String {
    fill(path, |name| match name {
        "tenant" | "workspace" => "main".to_owned(),
        "path" => "0/000".to_owned(),
        _ => "absent".to_owned(),
    })
}

fn role_name(role: Role) -> String {
    serde_json::to_value(role).unwrap().as_str().unwrap().to_owned()
}

fn kind_for(role: Role) -> Kind {
    if role == Role::Agent { Kind::Agent } else { Kind::User }
}

/// A key with its own id and its principal's.
struct Made {
    key: String,
    key_id: String,
    principal_id: String,
}

async fn made(wire: &Wire, owner: &str, role: &str, expires_in_s: u32) -> Made {
    let body = json!({"kind": "user", "name": "p", "roles": [role]});
    let principal = wire.ask_as(owner, "POST", "/v1/principals").json(&body).send().await.good();
    let mut body = json!({"principal_id": principal["principal_id"]});
    if expires_in_s > 0 {
        body["expires_in_s"] = expires_in_s.into();
    }
    let key = wire.ask_as(owner, "POST", "/v1/keys").json(&body).send().await.good();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    Made { key: text("key"), key_id: text("key_id"), principal_id: text("principal_id") }
}

async fn status_of(wire: &Wire, key: &str) -> u16 {
    wire.ask_as(key, "GET", "/v1/tools").send().await.status
}

/// Keys that were good once, or never, each with what is wrong with it.
async fn bad_keys(wire: &Wire, owner: &str) -> Vec<(&'static str, String)> {
    let revoked = made(wire, owner, "owner", 0).await;
    let disabled = made(wire, owner, "owner", 0).await;
    let expired = made(wire, owner, "owner", 1).await;
    assert_eq!(status_of(wire, &revoked.key).await, 200);
    let path = format!("/v1/keys/{}/revoke", revoked.key_id);
    wire.ask_as(owner, "POST", &path).send().await.good();
    assert_eq!(status_of(wire, &revoked.key).await, 401, "the very next request");
    assert_eq!(status_of(wire, &disabled.key).await, 200);
    let path = format!("/v1/principals/{}/disable", disabled.principal_id);
    wire.ask_as(owner, "POST", &path).send().await.good();
    assert_eq!(status_of(wire, &disabled.key).await, 401, "the very next request");
    let until = Instant::now() + PATIENCE;
    while status_of(wire, &expired.key).await != 401 {
        assert!(Instant::now() < until, "the key never expires");
        sleep(LOOK_EVERY).await;
    }
    let (id, secret) = owner.rsplit_once('_').unwrap();
    let other_secret: String = secret.chars().rev().collect();
    vec![
        ("revoked", revoked.key),
        ("of a disabled principal", disabled.key),
        ("expired", expired.key),
        ("garbage", "garbage".to_owned()),
        ("of another secret", format!("{id}_{other_secret}")),
        ("without its secret", format!("{id}_")),
        ("of no id", format!("tally__{secret}")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_without_a_credential() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let bad = bad_keys(&wire, &owner).await;
    for (route, path) in paths() {
        let path = absent(path);
        let ask = || wire.ask(route.http_method, &path).idempotency("any");
        if route.permission.is_none() {
            assert_eq!(ask().send().await.status, 200, "{path} is public");
            continue;
        }
        let check = |reply: Reply, code: &str, why: &str| {
            assert_eq!(reply.status, 401, "{} {path} {why}: {}", route.http_method, reply.text());
            let error = reply.error();
            assert_eq!((&error["code"], &error["category"]), (&code.into(), &"AUTH".into()));
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        };
        check(ask().send().await, "credential_missing", "without a key");
        let basic = ask().header("authorization", "Basic dGFsbHk6dGFsbHk=").send().await;
        check(basic, "credential_missing", "with another scheme");
        for (why, key) in &bad {
            check(ask().header("x-api-key", key).send().await, "credential_invalid", why);
            let bearer = ask().header("authorization", &format!("Bearer {key}")).send().await;
            check(bearer, "credential_invalid", why);
        }
    }
    // The token endpoint takes credentials as its form has them.
    for path in ["/oauth/token", "/v1/auth/token/exchange", "/v1/auth/service-token"] {
        let form = "application/x-www-form-urlencoded";
        let ask = wire.ask("POST", path).raw("grant_type=client_credentials");
        let reply = ask.header("content-type", form).send().await;
        assert_eq!((reply.status, &reply.json()["error"]), (401, &"invalid_client".into()));
    }
    // What is beside the routes is public by name.
    let keys = "/.well-known/jwks.json";
    let metadata = "/.well-known/oauth-authorization-server";
    for path in ["/metrics", "/openapi.json", keys, metadata] {
        assert_eq!(wire.ask("GET", path).send().await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route() {
    let server = Server::start("");
    let reply = Wire::new(&server.url).ask("GET", "/openapi.json").send().await;
    assert_eq!(reply.header("content-type"), "application/json");
    let document = reply.good();
    let mut said = BTreeSet::new();
    for (path, verbs) in document["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            let permission = operation["x-tally-permission"].as_str().map(str::to_owned);
            let open = operation["security"].as_array().unwrap().is_empty();
            assert_eq!(open, permission.is_none(), "{verb} {path}");
            said.insert((verb.to_uppercase(), path.clone(), permission));
        }
    }
    let told = |(route, path): (&Route, &str)| {
        let permission = route.permission.map(str::to_owned);
        (route.http_method.to_owned(), path.replace("{*", "{"), permission)
    };
    let (aliases, canonical): (Vec<_>, Vec<_>) =
        paths().partition(|(_, path)| path.starts_with("/api/v1/"));
    let served: BTreeSet<_> = canonical.iter().copied().map(told).collect();
    assert_eq!(said, served);
    let versioned = canonical.iter().filter(|(_, path)| path.starts_with("/v1/"));
    let expected: BTreeSet<_> = versioned.map(|(_, path)| format!("/api{path}")).collect();
    assert_eq!(
        aliases.iter().map(|(_, path)| (*path).to_owned()).collect::<BTreeSet<_>>(),
        expected
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_has_its_permissions_and_no_others() {
    let server = Server::start("");
    let wire = Wire::new(&server.url);
    for role in Role::ALL {
        let key = server.key(kind_for(role), &[&role_name(role)], "dev").await;
        for (route, path) in paths() {
            let Some(permission) = route.permission else { continue };
            let ask = wire.ask_as(&key, route.http_method, &absent(path));
            // Nothing to wait for, and nothing that is right: the gate comes before all that.
            let ask = if route.http_method == "GET" { ask } else { ask.bytes("{\"no\":0}") };
            let reply = ask.send().await;
            let what = format!("{role:?} {} {path}: {}", route.http_method, reply.text());
            if permitted([&role], permission) {
                assert!(reply.status != 401 && reply.status < 500, "{what}");
                assert!(reply.status != 403 || reply.code() != "permission_denied", "{what}");
            } else {
                assert_eq!(reply.status, 403, "{what}");
                let error = reply.error();
                assert_eq!(error["code"], "permission_denied", "{what}");
                assert_eq!(error["category"], "PERMISSION", "{what}");
                assert!(error["message"].as_str().unwrap().contains(permission), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_gets_no_further_than_admin() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let admin = made(&wire, &owner, "admin", 0).await;
    let other = made(&wire, &owner, "owner", 0).await;
    let approver = made(&wire, &owner, "approver", 0).await;
    let (id, judge) = (other.principal_id, approver.principal_id);
    let steps = [
        ("/v1/principals".to_owned(), json!({"kind": "user", "name": "p", "roles": ["owner"]})),
        (format!("/v1/principals/{}/roles", admin.principal_id), json!({"roles": ["owner"]})),
        (format!("/v1/principals/{id}/roles"), json!({"roles": ["viewer"]})),
        (format!("/v1/principals/{id}/disable"), json!({})),
        ("/v1/keys".to_owned(), json!({"principal_id": id})),
        (format!("/v1/keys/{}/rotate", other.key_id), json!({})),
        // Nor does it make itself an approver.
        ("/v1/principals".to_owned(), json!({"kind": "user", "name": "p", "roles": ["approver"]})),
        (
            format!("/v1/principals/{}/roles", admin.principal_id),
            json!({"roles": ["admin", "approver"]}),
        ),
        ("/v1/keys".to_owned(), json!({"principal_id": judge})),
        (format!("/v1/keys/{}/rotate", approver.key_id), json!({})),
    ];
    for (path, body) in &steps {
        let reply = wire.ask_as(&admin.key, "POST", path).json(body).send().await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.text());
        assert_eq!(reply.code(), "permission_denied", "{path}");
    }
    // An approver who has the role keeps it through an admin's hands, or loses it.
    for roles in [json!(["approver", "viewer"]), json!(["viewer"])] {
        let path = format!("/v1/principals/{judge}/roles");
        let ask = wire.ask_as(&admin.key, "POST", &path).json(&json!({"roles": roles}));
        ask.send().await.good();
    }
    for (path, body) in steps {
        let reply = wire.ask_as(&owner, "POST", &path).json(&body).send().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_one_shape() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let ask = |method, path| wire.ask_as(&owner, method, path);
    let cases = [
        (ask("GET", "/v1/nothing"), 404, "route_not_found"),
        (wire.ask("GET", "/"), 404, "route_not_found"),
        (ask("GET", "/v1/actions/"), 404, "route_not_found"),
        (ask("GET", "/v1/actions/act_absent"), 404, "not_found"),
        (ask("DELETE", "/v1/actions"), 405, "method_not_allowed"),
        (ask("PUT", "/api/v1/principals"), 405, "method_not_allowed"),
        (ask("POST", "/v1/actions").bytes("{"), 400, "invalid_body"),
        (ask("POST", "/v1/actions").bytes("[]"), 400, "invalid_body"),
        (ask("POST", "/v1/actions").bytes("{\"unknown\":1}"), 400, "invalid_body"),
        (ask("POST", "/v1/actions?x=1").bytes("{}"), 400, "invalid_query"),
        (ask("GET", "/v1/actions?unknown=1"), 400, "invalid_query"),
        (ask("GET", "/v1/actions?page_size=-1"), 400, "invalid_query"),
        (ask("GET", "/v1/actions/%FF"), 400, "invalid_path"),
        (ask("POST", "/v1/accounts").idempotency(""), 400, "invalid_idempotency_key"),
        (wire.ask("GET", "/v1/actions"), 401, "credential_missing"),
    ];
    for (ask, status, code) in cases {
        let given = ask.clone().header("x-request-id", "mine:1.2_3-4").send().await;
        assert_eq!((given.status, given.code().as_str()), (status, code), "{}", given.text());
        assert_eq!(given.header("x-request-id"), "mine:1.2_3-4");
        let own = ask.clone().send().await.error()["request_id"].as_str().unwrap().to_owned();
        assert_ne!(own, ask.send().await.error()["request_id"].as_str().unwrap());
    }
    // An id that could do harm in a log is replaced; a good answer carries one too.
    let long = "x".repeat(129);
    for id in ["a b", "a\tb", "ä", "<script>", long.as_str()] {
        let reply = wire.ask("GET", "/health").header("x-request-id", id).send().await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("x-request-id").starts_with("req_"), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_rate() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let slow = made(&wire, &owner, "viewer", 0).await;
    let body = json!({"principal_id": slow.principal_id, "rate_limit_per_min": 1});
    let key = wire.ask_as(&owner, "POST", "/v1/keys").json(&body).send().await.good();
    let key = key["key"].as_str().unwrap();
    let first = wire.ask_as(key, "GET", "/v1/tools").send().await;
    assert_eq!(first.status, 200);
    assert_eq!(
        (first.header("x-ratelimit-limit"), first.header("x-ratelimit-remaining")),
        ("1", "0")
    );
    let second = wire.ask_as(key, "GET", "/v1/tools").send().await;
    assert_eq!((second.status, second.code().as_str()), (429, "rate_limited"));
    let error = second.error();
    assert_eq!((&error["category"], &error["retryable"]), (&"RATE_LIMITED".into(), &true.into()));
    assert!((1..=60).contains(&second.header("retry-after").parse::<u32>().unwrap()));
    assert!((1..=60).contains(&second.header("x-ratelimit-reset").parse::<u32>().unwrap()));
    assert_eq!(status_of(&wire, &slow.key).await, 200, "the principal's other key has its own");
}

/// One mutation of each route that wants an idempotency key: path and body. What they need is
/// made first.
async fn mutations(
    server: &Server,
    wire: &Wire,
    owner: &str,
    upstream: &str,
) -> Vec<(String, Value)> {
    let a = made(wire, owner, "viewer", 0).await;
    let b = made(wire, owner, "viewer", 0).await;
    let account = json!({"account_id": "till"});
    wire.ask_as(owner, "POST", "/v1/accounts").json(&account).send().await.good();
    let team = json!({"account_id": "team", "parent_account_id": "till"});
    wire.ask_as(owner, "POST", "/v1/accounts").json(&team).send().await.good();
    let first = server.publish(&allow_all()).await.policy_id;
    let second = server.publish(&policy::baseline().unwrap()).await.policy_id;
    let bundle = serde_json::to_value(proto::policies::CreatePolicyDraftRequest {
        bundle: allow_all().pack_unsigned().unwrap(),
        description: String::new(),
    });
    let (a_id, b_id) = (&a.principal_id, &b.principal_id);
    let c = made(wire, owner, "viewer", 0).await;
    wire.ask_as(&c.key, "POST", "/v1/me/totp").json(&json!({})).send().await.good();
    let key = json!({"name": "n", "public_key_pem": PEMS[1]});
    let key = wire.ask_as(owner, "POST", "/v1/me/signing-keys").json(&key).send().await.good();
    let key_id = key["key_id"].as_str().unwrap();
    let transport = json!({"type": "http", "url": upstream, "private": true});
    let agent = json!({"name": "an agent"});
    let agent = wire.ask_as(owner, "POST", "/v1/agents").json(&agent).send().await.good();
    let agent = agent["agent_id"].as_str().unwrap();
    let service = json!({"kind": "service", "name": "s", "roles": ["operator"]});
    let service = wire.ask_as(owner, "POST", "/v1/principals").json(&service).send().await.good();
    let trigger = json!({
        "name": "t", "source": "schedule", "cron": "0 0 29 2 *", "workflow": "w",
        "principal_id": service["principal_id"],
    });
    vec![
        ("/v1/agents".to_owned(), json!({"name": "another"})),
        (format!("/v1/agents/{agent}/roles"), json!({"roles": ["auditor"]})),
        (format!("/v1/agents/{agent}/disable"), json!({})),
        ("/v1/accounts".to_owned(), json!({"name": "an account"})),
        ("/v1/accounts/till/fund".to_owned(), json!({"amount_micro_usd": 7})),
        ("/v1/accounts/team/allot".to_owned(), json!({"amount_micro_usd": 3})),
        ("/v1/accounts/team/give-back".to_owned(), json!({})),
        ("/v1/accounts/till/alerts".to_owned(), json!({"alert_at_percent": [50]})),
        ("/v1/tenants".to_owned(), json!({"tenant": "acme"})),
        (
            "/v1/tenants/main/workspaces".to_owned(),
            json!({"workspace": "w", "environments": ["dev"]}),
        ),
        ("/v1/tenants/main/signing-keys/rotate".to_owned(), json!({})),
        ("/v1/principals".to_owned(), json!({"kind": "user", "name": "n", "roles": ["viewer"]})),
        (format!("/v1/principals/{a_id}/roles"), json!({"roles": ["auditor"]})),
        (format!("/v1/principals/{b_id}/disable"), json!({})),
        (format!("/v1/principals/{b_id}/enable"), json!({})),
        (format!("/v1/principals/{b_id}/link"), json!({"provider": "corp", "subject": "ann"})),
        (format!("/v1/principals/{b_id}/unlink"), json!({"provider": "corp", "subject": "ann"})),
        (format!("/v1/keys/{}/rotate", a.key_id), json!({"overlap_s": 7})),
        ("/v1/token-keys/rotate".to_owned(), json!({"overlap_s": 7})),
        ("/v1/tenants/acme/suspend".to_owned(), json!({})),
        ("/v1/tenants/acme/resume".to_owned(), json!({})),
        ("/v1/keys".to_owned(), json!({"principal_id": a_id})),
        (format!("/v1/keys/{}/revoke", a.key_id), json!({})),
        ("/v1/policies".to_owned(), bundle.unwrap()),
        (format!("/v1/policies/{first}/publish"), json!({})),
        ("/v1/policies/rollback".to_owned(), json!({"to_policy_id": second})),
        ("/v1/me/totp".to_owned(), json!({})),
        (format!("/v1/principals/{}/totp/reset", c.principal_id), json!({})),
        ("/v1/me/signing-keys".to_owned(), json!({"name": "n", "public_key_pem": PEMS[0]})),
        (format!("/v1/me/signing-keys/{key_id}/remove"), json!({})),
        ("/v1/secrets".to_owned(), json!({"name": "s", "value": "user"})),
        ("/v1/secrets/s/rotate".to_owned(), json!({"value": "user"})),
        ("/v1/secrets/s/remove".to_owned(), json!({})),
        ("/v1/upstreams".to_owned(), json!({"upstream": {"name": "u", "transport": transport}})),
        ("/v1/upstreams/u/remove".to_owned(), json!({})),
        ("/v1/triggers".to_owned(), trigger),
        ("/v1/triggers/t/disable".to_owned(), json!({})),
        ("/v1/triggers/t/enable".to_owned(), json!({})),
        ("/v1/triggers/t/remove".to_owned(), json!({})),
    ]
}

/// A workflow of one step.
fn workflow(name: &str) -> Value {
    let input = json!({"input": 1, "filter": "."});
    let step = json!({"id": "one", "action": "core.json_transform", "input": input});
    json!({
        "apiVersion": "tally/v1",
        "kind": "Workflow",
        "metadata": {"name": name, "version": "1.0.0"},
        "spec": {"riskTier": "low", "steps": [step]},
    })
}

/// The same of connectors.
async fn connectors(wire: &Wire, owner: &str) -> Vec<(String, Value)> {
    let secret = json!({"name": "gh", "value": "token"});
    wire.ask_as(owner, "POST", "/v1/secrets").json(&secret).send().await.good();
    let mut shipped = ::connectors::declared::shipped().iter();
    let github = shipped.find(|shipped| shipped.name == "github").unwrap();
    let config = json!({"credentials": [{"role": "token", "secret": "gh"}]});
    vec![
        ("/v1/connectors".to_owned(), json!({"definition": github.text})),
        ("/v1/connectors/github/configure".to_owned(), json!({"config": config})),
        ("/v1/connectors/github/enable".to_owned(), json!({})),
        ("/v1/connectors/github/disable".to_owned(), json!({})),
    ]
}

/// Public keys of nobody.
const PEMS: [&str; 2] = [
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n\
     -----END PUBLIC KEY-----\n",
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA/FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU=\n\
     -----END PUBLIC KEY-----\n",
];

/// A provider that people could log in with; nobody asks it anything here.
const PROVIDER: &str = "oidc: [{name: corp, issuer: 'https://id.example', client_id: tally,
    tenant: main, workspace: main, environment: dev}]";

/// What a repeat must show again; the secret of a key is shown once.
fn shown_again(mut answer: Value) -> Value {
    for path in ["", "/owner"] {
        if let Some(Value::Object(object)) = answer.pointer_mut(path) {
            object.remove("key");
        }
    }
    if let Value::Object(object) = &mut answer {
        object.remove("owner");
        object.remove("secret");
        object.remove("otpauth_uri");
        // When an MCP server was last asked.
        object.remove("contacted_at");
        object.remove("state_since");
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_happens_once_for_its_key() {
    let server = Server::start(PROVIDER);
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let upstream = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let approver = server.principal(Kind::User, &["approver"]).await;
    in_force((&server.owner, &approver, &server.owner), &workflow("w")).await;
    let mut mutations = mutations(&server, &wire, &owner, &upstream.url).await;
    mutations.extend(self::connectors(&wire, &owner).await);
    mutations.push(("/v1/workflows".to_owned(), json!({"yaml": workflow("another").to_string()})));
    mutations.push(("/v1/use_cases".to_owned(), json!({"name": "triage"})));
    // Sessions begin with a login, and releases with a tool that changed: both are elsewhere. To
    // ask an MCP server, and to let go of it, is the same however often it is done.
    // An account is thawed once it is frozen, and that takes an overrun.
    // Tools that are given as code need code that is compiled: they are elsewhere as well.
    let elsewhere = [
        "RevokeSession",
        "ThawAccount",
        // A transfer takes an account in another workspace: it is elsewhere.
        "TransferAccount",
        "ReleaseUpstreamTool",
        "RefreshUpstream",
        "DisconnectUpstream",
        "RegisterTool",
        "GrantTool",
        "RevokeTool",
        // Releases take an approver and a workflow, and use cases a workflow: they are elsewhere.
        "CreateRelease",
        "ApproveRelease",
        "PromoteRelease",
        "RollbackRelease",
        "ScoreUseCase",
        "LinkUseCase",
    ];
    let here = |route: &&Route| !elsewhere.contains(&route.rpc);
    let wanted = ROUTES.iter().filter(here);
    let wanted = wanted.filter(|route| route.idempotency == Idempotency::Required);
    assert_eq!(mutations.len(), wanted.count(), "each route that wants a key is here");
    for (path, body) in mutations {
        let ask = || wire.ask("POST", &path).header("x-api-key", &owner).json(&body);
        let without = ask().send().await;
        assert_eq!((without.status, without.code().as_str()), (400, "idempotency_key_required"));
        let key = fresh("once");
        let first = ask().idempotency(&key).send().await.good();
        let again = ask().idempotency(&key).send().await.good();
        assert!(again.get("key").is_none_or(|key| key == ""), "a secret is shown once");
        assert_eq!(shown_again(again), shown_again(first), "{path}");
        // The body differs where it can, else the path is another request.
        let mut other = body.clone();
        for (_, value) in other.as_object_mut().unwrap().iter_mut() {
            match value {
                Value::String(text) if text.starts_with("agt") || text.starts_with("usr") => {}
                Value::String(text) if text == "user" => *text = "agent".to_owned(),
                Value::Number(_) => *value = 8.into(),
                Value::Array(list) => list.clear(),
                _ => {}
            }
        }
        if other != body {
            let ask = wire.ask("POST", &path).header("x-api-key", &owner).json(&other);
            let reply = ask.idempotency(&key).send().await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (409, "idempotency_conflict"),
                "{path}"
            );
        }
    }
    let till = wire.ask_as(&owner, "GET", "/v1/accounts/till").send().await.good();
    assert_eq!(till["funded_micro_usd"], "7");
    let accounts = wire.ask_as(&owner, "GET", "/v1/accounts").send().await.good();
    let named = |a: &&Value| a["name"] == "an account";
    assert_eq!(accounts["accounts"].as_array().unwrap().iter().filter(named).count(), 1);
}
