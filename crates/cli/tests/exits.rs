//! Exit codes and JSON, as scripts rely on them.

use proto::identity::principal::Kind;
use serde_json::json;

use crate::common::{Server, assert_code, json, tally, text};

#[test]
fn without_a_server() {
    for (args, code) in [
        (&["version"][..], 0),
        (&["help"], 0),
        (&[], 2),
        (&["no-such-command"], 2),
        (&["actions", "list", "--state", "no-such-state"], 2),
        (&["actions", "list"], 64),
        (&["actions", "list", "--url", "http://127.0.0.1:1"], 64),
        (&["actions", "list", "--url", "nonsense", "--api-key", "k"], 64),
        (&["actions", "list", "--credentials", "/no/such/file"], 64),
        (&["actions", "list", "--url", "http://127.0.0.1:1", "--api-key", "k"], 7),
        (&["verify", "/no/such/bundle"], 6),
        (&["ledger", "rebuild"], 2),
        (&["ledger", "rebuild", "--data", "/no/such/folder"], 2),
    ] {
        assert_code(&tally(args), code);
    }
    assert!(text(&tally(&["help"])).contains("Exit codes:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server() {
    let server = Server::start("");
    let agent = server.key(Kind::Agent, &["agent"], "dev").await;
    let approver = server.key(Kind::User, &["approver"], "dev").await;
    let write = r#"{"path": "/no/grant", "content": "x"}"#;
    let submit = ["submit", "core.fs_write", "--params", write, "--json", "--wait-ms", "0"];

    // No policy yet: denied, and the document says so.
    let denied = server.tally(&agent, &submit);
    assert_code(&denied, 4);
    assert_eq!(json(&denied)["state"], "denied");

    server.publish(&policy::baseline().unwrap()).await;
    let pure = ["submit", "core.json_transform", "--json", "--wait-ms", "20000", "--params"];
    let pure = [&pure[..], &[r#"{"input": {"n": 1}, "filter": ".n + 1"}"#]].concat();
    let executed = server.tally(&agent, &pure);
    assert_code(&executed, 0);
    assert_eq!(json(&executed)["result"], json!({"output": [2]}));

    let held = server.tally(&agent, &submit);
    assert_code(&held, 5);
    let held = json(&held);
    let (id, approval) =
        (held["action_id"].as_str().unwrap(), held["approval_id"].as_str().unwrap());

    let refused = server.tally(&agent, &["approve", approval, "--json"]);
    assert_code(&refused, 3);
    assert_eq!(json(&refused)["error"]["category"], "PERMISSION");
    let other = ["approve", approval, "--plan-digest", &format!("sha256:{:064}", 0)];
    assert_code(&server.tally(&approver, &other), 3);
    let rejected = server.tally(&approver, &["reject", approval, "--reason", "no", "--json"]);
    assert_code(&rejected, 0);
    assert_eq!(json(&rejected)["state"], "rejected");
    let shown = String::from_utf8_lossy(&rejected.stderr).into_owned();
    assert!(shown.contains("/no/grant"), "the document is shown before: {shown}");

    for (args, code) in [
        (&["actions", "show", id, "--json"][..], 0),
        (&["actions", "list", "--json", "--page-size", "1"], 0),
        (&["approvals", "list", "--json"], 0),
        (&["receipts", "list", "--action", id, "--json"], 0),
        (&["tools", "list", "--json"], 0),
        (&["tools", "show", "core.fs_read", "--json"], 0),
        (&["actions", "show", "act_none", "--json"], 3),
        (&["principal", "list", "--json"], 3),
    ] {
        let answer = server.tally(&agent, args);
        assert_code(&answer, code);
        let document = json(&answer);
        let request = document["error"]["request_id"].as_str().unwrap_or_default();
        assert_eq!(!request.is_empty(), code == 3, "{document}");
    }
    assert_code(&server.tally("no-such-key", &["actions", "list"]), 3);
}

#[test]
fn the_owner_manages() {
    let server = Server::start("");
    let key = server.owner_key();
    let run = |args: &[&str]| {
        let answer = server.tally(&key, &[args, &["--json"]].concat());
        assert_code(&answer, 0);
        json(&answer)
    };
    let agent = run(&["principal", "create", "--kind", "agent", "--name", "a", "--role", "agent"]);
    let id = agent["principal_id"].as_str().unwrap();
    let made = ["key", "create", "--principal", id, "--workspace", "main", "--environment", "test"];
    let made = run(&made);
    run(&["key", "revoke", made["key_id"].as_str().unwrap()]);
    let secret = made["key"].as_str().unwrap();
    assert_code(&server.tally(secret, &["tools", "list"]), 3);
    let keys = run(&["key", "list", "--principal", id]);
    assert_eq!(keys["keys"][0]["revoked"], true);
    run(&["principal", "roles", id, "agent", "viewer"]);
    assert_eq!(run(&["principal", "disable", id])["disabled"], true);
    assert_eq!(run(&["principal", "show", id])["roles"], json!(["viewer", "agent"]));

    let account = run(&["account", "create", "--name", "ops"]);
    let id = account["account_id"].as_str().unwrap();
    run(&["account", "fund", id, "--amount-micro-usd", "100"]);
    assert_eq!(run(&["account", "show", id])["available_micro_usd"], "100");
    run(&["workspace", "create", "second", "--tenant", "main"]);
    let workspaces = run(&["workspace", "list", "--tenant", "main"]);
    assert_eq!(workspaces["workspaces"].as_array().unwrap().len(), 2);
    run(&["tenant", "list"]);
    run(&["version"]);
    assert_eq!(run(&["policy", "status"])["revision"], 0);
}
