//! What belongs to one tenant or workspace does not exist for another.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::routes::ROUTES;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::wire::{Reply, Wire, fill, fresh};
use crate::common::{Server, rego};
use crate::sandbox::agents::echo;

/// Reads run; writes wait for two approvers.
const POLICY: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-READ", "reason": "read"} if {
    "read" in input.tool.labels
}

decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R-WRITE", "reason": "write",
    "obligations": {"approval": {"quorum": 2, "roles": ["approver"], "expires_s": 3600}},
} if "write" in input.tool.labels
"#;

/// Roles that together have every permission.
const EVERY_ROLE: [&str; 5] = ["owner", "approver", "auditor", "builder", "responder"];

/// One who acts: their key, for one tenant and workspace.
struct Side {
    wire: Wire,
    tenant: String,
    workspace: String,
    key: String,
    /// Text of theirs that nobody else may see.
    mark: String,
}

/// What a side made, by the names that paths have.
struct Things {
    action_id: String,
    plan_digest: String,
    approval_id: String,
    receipt_id: String,
    account_id: String,
    principal_id: String,
    key_id: String,
    policy_id: String,
    export: Vec<u8>,
}

impl Side {
    async fn get(&self, path: &str) -> Reply {
        self.wire.ask_as(&self.key, "GET", path).send().await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.wire.ask_as(&self.key, "POST", path).json(body).send().await
    }

    /// Somebody new of the same tenant, with a key for `workspace`.
    async fn enrol(&self, roles: &[&str], workspace: &str) -> Side {
        let mark = fresh("canary");
        let body = json!({"kind": "user", "name": mark, "roles": roles});
        let principal = self.post("/v1/principals", &body).await.good();
        let body = json!({
            "principal_id": principal["principal_id"],
            "workspace": workspace,
            "environment": "dev",
        });
        let key = self.post("/v1/keys", &body).await.good();
        Side {
            wire: self.wire.clone(),
            tenant: self.tenant.clone(),
            workspace: workspace.to_owned(),
            key: text(&key, "key"),
            mark,
        }
    }

    async fn publish(&self) -> String {
        let bundle = proto::policies::CreatePolicyDraftRequest {
            bundle: rego(POLICY).pack_unsigned().unwrap(),
            description: self.mark.clone(),
        };
        let body = serde_json::to_value(bundle).unwrap();
        let draft = text(&self.post("/v1/policies", &body).await.good(), "policy_id");
        self.post(&format!("/v1/policies/{draft}/publish"), &json!({})).await.good();
        draft
    }

    async fn submit(&self, tool: &str, params: Value) -> Value {
        let claims = json!({"target": self.mark});
        let body = json!({"tool": tool, "params": params, "claims": claims, "wait_ms": 0});
        self.post("/v1/actions", &body).await.good()
    }

    /// One of everything.
    async fn make(&self, file: &str) -> Things {
        let policy_id = self.publish().await;
        self.submit("core.fs_read", json!({"path": file})).await;
        let params = json!({"path": format!("{file}.new"), "content": self.mark});
        let held = self.submit("core.fs_write", params).await;
        assert_eq!(held["state"], "awaiting_approval", "{held}");
        let account = json!({"account_id": fresh("till"), "name": self.mark});
        let account = self.post("/v1/accounts", &account).await.good();
        let viewer = self.enrol(&["viewer"], &self.workspace).await;
        let principals = self.get("/v1/principals").await.good();
        let named = |principal: &&Value| principal["name"] == viewer.mark.as_str();
        let principal = principals["principals"].as_array().unwrap().iter().find(named).unwrap();
        let principal_id = text(principal, "principal_id");
        let keys = self.get(&format!("/v1/keys?principal_id={principal_id}")).await.good();
        let export = self.post("/v1/evidence/exports", &json!({})).await;
        assert_eq!(export.status, 200, "{}", export.text());
        Things {
            action_id: text(&held, "action_id"),
            plan_digest: text(&held, "plan_digest"),
            approval_id: text(&held, "approval_id"),
            receipt_id: held["receipts"][0].as_str().unwrap().to_owned(),
            account_id: text(&account, "account_id"),
            key_id: text(&keys["keys"][0], "key_id"),
            principal_id,
            policy_id,
            export: export.body.to_vec(),
        }
    }

    async fn checkpoint(&self) -> String {
        let reply = self.get(&format!("/v1/ledger/{}/checkpoint", self.workspace)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text()
    }

    async fn trust(&self) -> Vec<String> {
        let keys = self.get(&format!("/v1/trust/tenants/{}/keys", self.tenant)).await.good();
        let keys = keys["keys"].as_array().unwrap().iter();
        keys.map(|key| text(key, "key_id")).collect()
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name}: {value}")).to_owned()
}

impl Things {
    /// The value of a variable in a path. `workspace` is one that the other side has not.
    fn of(&self, name: &str, tenant: &str, workspace: &str) -> Option<String> {
        Some(match name {
            "action_id" => self.action_id.clone(),
            "approval_id" => self.approval_id.clone(),
            "receipt_id" => self.receipt_id.clone(),
            "account_id" | "resource_id" => self.account_id.clone(),
            "principal_id" => self.principal_id.clone(),
            "key_id" => self.key_id.clone(),
            "session_id" => "ses_absent".to_owned(),
            "policy_id" => self.policy_id.clone(),
            "tenant" => tenant.to_owned(),
            "workspace" => workspace.to_owned(),
            "path" => "0/000.p/1".to_owned(),
            _ => return None,
        })
    }

    /// Everything that must not show.
    fn ids(&self) -> [&str; 7] {
        [
            &self.action_id,
            &self.approval_id,
            &self.account_id,
            &self.principal_id,
            &self.key_id,
            &self.policy_id,
            &self.plan_digest,
        ]
    }

    /// A body that would do for the owner of these things.
    fn body(&self, rpc: &str) -> Value {
        match rpc {
            "DecideApproval" => json!({"decision": "approve", "plan_digest": self.plan_digest}),
            "ReconcileAction" => json!({"outcome": "failed"}),
            "FundAccount" | "AllotAccount" => json!({"amount_micro_usd": 1}),
            "UpdatePrincipal" => json!({"roles": ["viewer"]}),
            "CreateWorkspace" => json!({"workspace": "mine", "environments": ["dev"]}),
            _ => json!({}),
        }
    }
}

/// A folder with a file to read, and a server that may.
fn start() -> (Server, TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let file = root.join("file.txt");
    fs::write(&file, "content").unwrap();
    let server = Server::start(&format!("grants: {{fs_read: [{root:?}], fs_write: [{root:?}]}}"));
    (server, folder, file.to_str().unwrap().to_owned())
}

/// The first tenant's side, in `workspace`, which is made where it is not there.
async fn first_side(server: &Server, workspace: &str) -> Side {
    let owner = owner_side(server);
    if workspace != "main" {
        let body = json!({"workspace": workspace, "environments": ["dev"]});
        owner.post("/v1/tenants/main/workspaces", &body).await.good();
    }
    owner.enrol(&EVERY_ROLE, workspace).await
}

fn owner_side(server: &Server) -> Side {
    Side {
        wire: Wire::new(&server.url),
        tenant: "main".to_owned(),
        workspace: "main".to_owned(),
        key: server.owner_key(),
        mark: fresh("canary"),
    }
}

/// A new tenant's side.
async fn other_side(server: &Server, tenant: &str) -> Side {
    let owner = owner_side(server);
    let made = owner.post("/v1/tenants", &json!({"tenant": tenant})).await.good();
    let key = text(&made["owner"], "key");
    let founder = Side { tenant: tenant.to_owned(), key, ..owner };
    founder.enrol(&EVERY_ROLE, "main").await
}

/// Asks for what is in a path of every route with `things`, as `stranger`: all of it is 404.
async fn all_absent(stranger: &Side, things: &Things, names: &[&str], tenant: &str, other: &str) {
    let mut asked = 0;
    for route in ROUTES.iter().filter(|route| route.permission.is_some()) {
        for path in std::iter::once(&route.path).chain(route.aliases) {
            if !names.iter().any(|name| path.contains(&format!("{{{name}}}"))) {
                continue;
            }
            let path = fill(path, |name| things.of(name, tenant, other).unwrap());
            let ask = stranger.wire.ask_as(&stranger.key, route.http_method, &path);
            let get = route.http_method == "GET";
            let ask = if get { ask } else { ask.json(&things.body(route.rpc)) };
            let reply = ask.send().await;
            let what = format!("{} {path}: {}", route.http_method, reply.text());
            assert_eq!(reply.status, 404, "{what}");
            assert_eq!(reply.code(), "not_found", "{what}");
            asked += 1;
        }
    }
    assert!(asked > 10, "{asked}");
}

/// Asks for things that are named in bodies and queries.
async fn absent_in_bodies(stranger: &Side, things: &Things) {
    let action = &things.action_id;
    let reply = stranger.get(&format!("/v1/receipts?action_id={action}")).await;
    assert_eq!(reply.status, 404, "{}", reply.text());
    let export = json!({"action_id": action});
    assert_eq!(stranger.post("/v1/evidence/exports", &export).await.status, 404);
}

/// Asks what only whole tenants keep apart.
async fn absent_between_tenants(stranger: &Side, things: &Things, workspace: &str) {
    for (path, body) in [
        ("/v1/keys", json!({"principal_id": things.principal_id})),
        ("/v1/policies/simulate", json!({"policy_id": things.policy_id, "inputs": []})),
        ("/v1/policies/rollback", json!({"to_policy_id": things.policy_id})),
        ("/v1/receipts/verify", json!({"receipt_id": format!("{workspace}.0")})),
    ] {
        let reply = stranger.post(path, &body).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
    }
    let keys = stranger.get(&format!("/v1/keys?principal_id={}", things.principal_id)).await;
    assert_eq!(keys.good()["keys"], json!([]));
}

/// Every list of `stranger` is free of `side` and what it made.
async fn lists_show_nothing(stranger: &Side, side: &Side, things: &Things, routes: &[&str]) {
    for rpc in routes {
        let route = ROUTES.iter().find(|route| route.rpc == *rpc).unwrap();
        let path = fill(route.path, |_| stranger.tenant.clone());
        let mut listed = 0;
        // Other people's ids as page tokens are no way in either.
        for token in ["", &things.action_id, &things.policy_id, "zzz"] {
            let query = if *rpc == "ListReceipts" {
                "page_size=200".to_owned()
            } else {
                format!("page_size=200&page_token={token}")
            };
            let reply = stranger.get(&format!("{path}?{query}")).await;
            let shown = reply.good().to_string();
            listed += shown.len();
            for secret in things.ids().into_iter().chain([side.mark.as_str()]) {
                assert!(!shown.contains(secret), "{rpc} shows {secret}: {shown}");
            }
        }
        assert!(listed > 0);
    }
}

const OF_A_WORKSPACE: [&str; 4] = ["ListActions", "ListApprovals", "ListReceipts", "ListAccounts"];
const OF_A_TENANT: [&str; 5] =
    ["ListPrincipals", "ListKeys", "ListPolicies", "ListTenants", "ListWorkspaces"];

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_nothing_to_another() {
    let (server, _folder, file) = start();
    let a = first_side(&server, "vault").await;
    let b = other_side(&server, "acme").await;
    let (of_a, of_b) = (a.make(&file).await, b.make(&file).await);

    let names = [
        "action_id",
        "approval_id",
        "receipt_id",
        "account_id",
        "principal_id",
        "key_id",
        "policy_id",
        "tenant",
        "workspace",
    ];
    all_absent(&b, &of_a, &names, "main", "vault").await;
    absent_in_bodies(&b, &of_a).await;
    absent_between_tenants(&b, &of_a, "vault").await;
    lists_show_nothing(&b, &a, &of_a, &[&OF_A_WORKSPACE[..], &OF_A_TENANT].concat()).await;
    // The first tenant operates the server and sees that others are there, but not into them.
    // Its workspace `main` is not theirs, so names of that are left out here.
    let shared = ["tenant", "workspace", "receipt_id"];
    let into: Vec<&str> = names.into_iter().filter(|name| !shared.contains(name)).collect();
    all_absent(&a, &of_b, &into, "acme", "main").await;
    absent_in_bodies(&a, &of_b).await;
    let lists: Vec<&str> = OF_A_WORKSPACE.into_iter().chain(OF_A_TENANT).collect();
    lists_show_nothing(&a, &b, &of_b, &lists).await;
    for path in ["/v1/tenants/acme/workspaces", "/v1/ledger/main/checkpoint"] {
        assert_eq!(a.get(path).await.status, 404, "{path}");
    }
    // Nothing of all that changed anything.
    let approval = a.get(&format!("/v1/approvals/{}", of_a.approval_id)).await.good();
    assert_eq!((&approval["state"], &approval["approvals"]), (&"requested".into(), &json!([])));
    let principal = a.get(&format!("/v1/principals/{}", of_a.principal_id)).await.good();
    assert_eq!((&principal["disabled"], &principal["revision"]), (&false.into(), &1.into()));
    // Only the tenant that operates the server makes tenants.
    let reply = b.post("/v1/tenants", &json!({"tenant": "third"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "permission_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_nothing_to_another() {
    let (server, _folder, file) = start();
    let a = first_side(&server, "vault").await;
    let b = first_side(&server, "main").await;
    let things = a.make(&file).await;
    b.make(&file).await;
    let names = ["action_id", "approval_id", "receipt_id", "account_id", "workspace"];
    let own_tenant = "nobody";
    all_absent(&b, &things, &names, own_tenant, "vault").await;
    absent_in_bodies(&b, &things).await;
    let shown = [&things.action_id, &things.approval_id, &things.account_id, &things.plan_digest];
    for rpc in OF_A_WORKSPACE {
        let route = ROUTES.iter().find(|route| route.rpc == rpc).unwrap();
        let list = b.get(&format!("{}?page_size=200", route.path)).await.good().to_string();
        assert!(shown.into_iter().all(|id| !list.contains(id)), "{rpc}: {list}");
    }
    for body in [json!({"workspace": "vault"}), json!({"workspace": "vault", "full_log": true})] {
        let reply = b.post("/v1/evidence/exports", &body).await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "credential_binding"));
    }
    let action = json!({"tool": "core.fs_read", "params": {"path": file}, "workspace": "vault"});
    let reply = b.post("/v1/actions", &action).await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "credential_binding"));
    assert_ne!(first_line(&a.checkpoint().await), first_line(&b.checkpoint().await));
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_no_key_log_or_evidence() {
    let (server, _folder, file) = start();
    // Both have a workspace `main`: the same names, and nothing the same behind them.
    let a = first_side(&server, "main").await;
    let b = other_side(&server, "acme").await;
    let (of_a, of_b) = (a.make(&file).await, b.make(&file).await);

    let (trust_a, trust_b) = (a.trust().await, b.trust().await);
    assert!(trust_a.len() >= 4 && trust_b.len() >= 4, "{trust_a:?} {trust_b:?}");
    assert!(trust_a.iter().all(|key| !trust_b.contains(key)), "{trust_a:?} {trust_b:?}");
    assert_eq!(first_line(&a.checkpoint().await), "tally.test/main/main");
    assert_eq!(first_line(&b.checkpoint().await), "tally.test/acme/main");
    for (side, origin) in [(&a, "tally.test/main/main"), (&b, "tally.test/acme/main")] {
        let receipt = side.get("/v1/receipts/main.0").await.good();
        assert_eq!(receipt["statement"]["predicate"]["log"]["origin"], origin);
        let control = side.get("/v1/receipts/control.0").await.good();
        let control = text(&control["statement"]["predicate"]["log"], "origin");
        assert_eq!(control, format!("tally.test/{}/control", side.tenant));
    }
    for (own, other, side) in [(&of_a, &of_b, &a), (&of_b, &of_a, &b)] {
        for secret in other.ids() {
            assert!(!contains(&own.export, secret.as_bytes()), "the export shows {secret}");
        }
        for (bundle, valid) in [(own, true), (other, false)] {
            let ask = side.wire.ask_as(&side.key, "POST", "/v1/evidence/verify");
            let report = ask.bytes(bundle.export.clone()).send().await.good();
            assert_eq!(report["valid"], valid, "{report}");
        }
        // The other's receipt, in an envelope: its key is none that this tenant trusts.
        let foreign = if side.tenant == "main" { &b } else { &a };
        let receipt = foreign.get("/v1/receipts/main.0").await.good();
        let body = json!({"envelope": receipt["envelope"]});
        let report = side.post("/v1/receipts/verify", &body).await.good();
        assert_eq!((&report["valid"], &report["trust"]), (&false.into(), &"unknown".into()));
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_are_each_callers_own() {
    let (server, _folder, file) = start();
    let a = first_side(&server, "main").await;
    let b = other_side(&server, "acme").await;
    let c = first_side(&server, "main").await;
    a.publish().await;
    b.publish().await;
    let code = STANDARD.encode(echo());
    let bodies = [
        ("/v1/accounts", "account_id", json!({"name": "till"})),
        (
            "/v1/principals",
            "principal_id",
            json!({"kind": "user", "name": "p", "roles": ["viewer"]}),
        ),
        ("/v1/actions", "action_id", json!({"tool": "core.fs_read", "params": {"path": file}})),
        ("/v1/sandboxes/executions", "execution_id", json!({"component": code, "input": 1})),
    ];
    for (path, id, body) in bodies {
        // Whatever ends as an action shares the keys of actions.
        let key = format!("the-same-{id}");
        let mut made = Vec::new();
        for side in [&a, &b, &c] {
            let ask = || side.wire.ask("POST", path).header("x-api-key", &side.key).json(&body);
            let first = text(&ask().idempotency(&key).send().await.good(), id);
            let again = text(&ask().idempotency(&key).send().await.good(), id);
            assert_eq!(first, again, "{path}");
            made.push(first);
        }
        made.dedup();
        assert_eq!(made.len(), 3, "{path}: {made:?}");
    }
}
