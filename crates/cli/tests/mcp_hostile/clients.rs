//! What a client gets that lies about what it calls, who it is, or what it was told.

use hyper::HeaderMap;
use mcpkit::Revisions;
use mcpkit::everything::Everything;
use mcpkit::misbehave::{Misbehave, Vice};
use proto::actions::action::State;
use proto::identity::CreateTenantRequest;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{INVALID_PARAMS, Scene, all_but};
use crate::common::wire::Wire;
use crate::common::{PATIENCE, rego};
use crate::mcp::gateway::{Gateway, over_http};
use crate::mcp::raw::{Raw, answer, code, said};

/// What servers answer where a header and the body are at odds.
const HEADER_MISMATCH: i64 = -32020;

#[tokio::test(flavor = "multi_thread")]
async fn the_header_never_chooses_the_tool() {
    let scene = Scene::new(Vice::None).await;
    scene.gateway.raw().lists("victim").await;
    scene.gateway.server.publish(&all_but(r#"input.tool.id == "mcp.bad.victim""#)).await;
    let raw = scene.gateway.raw();
    let params = raw.params(json!({"name": "victim", "arguments": {}}));
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let cases = [
        ("tools/call", "bystander"),
        ("tools/list", "victim"),
        ("tools/call", "Victim"),
        ("tools/call", "victim, bystander"),
    ];
    for (method, name) in cases {
        let post = raw.post().header("mcp-method", method).header("mcp-name", name).json(&body);
        let reply = post.send().await;
        assert_eq!(reply.status, 400, "{method} {name}: {}", reply.text());
        assert_eq!(code(&reply.json()), HEADER_MISMATCH, "{method} {name}");
        assert_eq!(reply.json()["id"], 7);
    }
    // Two headers of one name are no name.
    let twice = raw.post().header("mcp-method", "tools/call");
    let twice = twice.header("mcp-name", "victim").header("mcp-name", "bystander").json(&body);
    assert_eq!(twice.send().await.status, 400);
    // None at all.
    assert_eq!(raw.post().json(&body).send().await.status, 400);
    assert_eq!(scene.calls(), 0);
    assert_eq!(scene.gateway.actions(State::Unspecified).await.len(), 0, "nothing was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_exact() {
    let scene = Scene::new(Vice::None).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    let absent = raw.call("no_such_tool", json!({})).await;
    assert_eq!(code(&absent), INVALID_PARAMS);
    for name in [
        "Victim",
        "VICTIM",
        "vict\u{456}m",
        "\u{ff56}\u{ff49}\u{ff43}\u{ff54}\u{ff49}\u{ff4d}",
        "vic\u{200b}tim",
        "victim ",
        " victim",
        "victim\0",
        "victim\n",
        "mcp.bad.victim",
        "bad.victim",
        "bad__victim",
        "victim/../bystander",
        "resources/read",
        "prompts/get",
        "completion/complete",
    ] {
        let refused = raw.call(name, json!({})).await;
        assert_eq!(code(&refused), INVALID_PARAMS, "{name:?}: {refused}");
    }
    assert_eq!(scene.calls(), 0);
    assert_eq!(scene.gateway.actions(State::Unspecified).await.len(), 0, "nothing was asked for");
    assert_eq!(said(&raw.call("victim", json!({})).await), "victim did it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_in_no_list_search_or_completion() {
    let everything = Everything::new(Revisions::Both).http().await;
    let many = Misbehave::new(Revisions::Both, Vice::Many);
    let running = many.http().await;
    let upstreams = [over_http("everything", &everything), over_http("many", &running)];
    let gateway = Gateway::start(&upstreams).await;
    let raw = gateway.raw();
    raw.lists("tool_899").await;
    raw.lists("add").await;
    let prompt = "test_prompt_with_arguments";
    assert!(raw.tools().await.contains(&"tool_450".to_owned()));
    let denied = all_but(&format!(
        r#"input.tool.id in {{"mcp.many.tool_450", "mcp.everything.write_note"}}
        }}

        decisions contains {{"effect": "DENY", "rule": "R-PROMPT", "reason": "no"}} if {{
            input.tool.id == "mcp.everything.prompts/get"
            input.params.name == "{prompt}"
        }}

        decisions contains {{"effect": "DENY", "rule": "R-URI", "reason": "no"}} if {{
            input.tool.id == "mcp.everything.resources/read"
            input.params.uri == "test://static-binary"
        }}

        decisions contains {{"effect": "DENY", "rule": "R-REF", "reason": "no"}} if {{
            input.tool.id == "mcp.everything.completion/complete"
            input.params.ref.name == "{prompt}""#
    ));
    gateway.server.publish(&denied).await;
    raw.lists_no_more("tool_450").await;

    let tools = raw.tools().await;
    assert!(tools.contains(&"tool_449".to_owned()) && tools.contains(&"tool_451".to_owned()));
    assert!(!tools.contains(&"write_note".to_owned()));
    let prompts = raw.all("prompts/list", "prompts", "name").await;
    assert!(prompts.contains(&"test_simple_prompt".to_owned()));
    assert!(!prompts.contains(&prompt.to_owned()), "{prompts:?}");
    let resources = raw.all("resources/list", "resources", "uri").await;
    assert!(resources.contains(&"test://static-text".to_owned()));
    assert!(!resources.contains(&"test://static-binary".to_owned()), "{resources:?}");

    let reference = json!({"type": "ref/prompt", "name": prompt});
    let complete = json!({"ref": reference, "argument": {"name": "arg1", "value": "par"}});
    let completed = raw.ask("completion/complete", complete).await;
    assert!(!completed.to_string().contains("paris"), "{completed}");
    for (method, params) in [
        ("tools/call", json!({"name": "write_note", "arguments": {"text": "x"}})),
        ("prompts/get", json!({"name": prompt, "arguments": {"arg1": "a", "arg2": "b"}})),
        ("resources/read", json!({"uri": "test://static-binary"})),
    ] {
        let answer = raw.ask(method, params).await;
        let refused = answer.get("error").is_some() || answer["result"]["isError"] == true;
        assert!(refused, "{method}: {answer}");
    }
    let denied = gateway.actions(State::Denied).await;
    let tools: Vec<&str> = denied.iter().map(|action| action.tool.as_str()).collect();
    assert!(tools.contains(&"mcp.everything.write_note"), "a denial is on record: {tools:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_principals_alone() {
    let scene = Scene::new(Vice::None).await;
    scene.gateway.raw().lists("victim").await;
    let other = scene.gateway.other().await;
    let wire = Wire::new(&scene.gateway.server.url);
    let post = |key: &str, session: Option<&str>, body: &Value| {
        let ask = wire.ask("POST", "/mcp").header("authorization", &format!("Bearer {key}"));
        let ask = ask.header("accept", "application/json, text/event-stream").json(body);
        match session {
            Some(id) => ask.header("mcp-session-id", id).header("mcp-protocol-version", OLD),
            None => ask,
        }
    };
    const OLD: &str = "2025-11-25";
    let info = json!({"name": "thief", "version": "1"});
    let params = json!({"protocolVersion": OLD, "capabilities": {}, "clientInfo": info});
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let opened = post(&scene.gateway.key, None, &initialize).send().await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let session = opened.header("mcp-session-id").to_owned();
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let told = post(&scene.gateway.key, Some(&session), &initialized).send().await;
    assert_eq!(told.status, 202);

    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let stolen = post(&other, Some(&session), &list).send().await;
    let invented = post(&other, Some("no-such-session"), &list).send().await;
    assert_eq!((stolen.status, invented.status), (404, 404), "{}", stolen.text());
    assert_eq!(stolen.text(), invented.text(), "a thief learns nothing");
    for method in ["GET", "DELETE"] {
        let ask = wire.ask(method, "/mcp").header("authorization", &format!("Bearer {other}"));
        let ask = ask.header("accept", "text/event-stream").header("mcp-session-id", &session);
        let reply = ask.header("mcp-protocol-version", OLD).send().await;
        assert_eq!(reply.status, 404, "{method}: {}", reply.text());
    }
    let owned = post(&scene.gateway.key, Some(&session), &list).send().await;
    assert_eq!(answer(&owned)["result"]["tools"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_state_is_good_for_its_principal_and_call_alone() {
    let everything = Everything::new(Revisions::New);
    let running = everything.http().await;
    let gateway = Gateway::start(&[over_http("everything", &running)]).await;
    gateway.raw().lists("add").await;
    let asked_back = json!({"elicitation": {}});
    let one = gateway.raw().with(asked_back.clone());
    let other = gateway.raw_of(&gateway.other().await).with(asked_back);
    const TOOL: &str = "test_input_required_result_request_state";
    let asked = one.call(TOOL, json!({})).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();
    let confirm = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let retry = async |who: &Raw, tool: &str, arguments: Value, state: &str| {
        let params = json!({"name": tool, "arguments": arguments,
            "inputResponses": confirm, "requestState": state});
        who.ask("tools/call", params).await
    };
    let before = gateway.actions(State::Executed).await.len();

    let mut tampered = state.clone().into_bytes();
    for at in [0, tampered.len() / 2, tampered.len() - 1] {
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        let text = String::from_utf8(tampered.clone()).unwrap();
        assert_eq!(code(&retry(&one, TOOL, json!({}), &text).await), INVALID_PARAMS);
    }
    assert_eq!(code(&retry(&one, TOOL, json!({}), "").await), INVALID_PARAMS);
    let replayed = retry(&other, TOOL, json!({}), &state).await;
    assert_eq!(code(&replayed), INVALID_PARAMS, "somebody else's");
    let elsewhere = "test_input_required_result_multi_round";
    let moved = retry(&one, elsewhere, json!({}), &state).await;
    assert_eq!(code(&moved), INVALID_PARAMS, "another tool's");
    let changed = retry(&one, TOOL, json!({"more": true}), &state).await;
    assert_eq!(code(&changed), INVALID_PARAMS, "other arguments");
    assert_eq!(gateway.actions(State::Executed).await.len(), before, "nothing ran");

    assert_eq!(said(&retry(&one, TOOL, json!({}), &state).await), "state-ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_its_principals_alone() {
    let everything = Everything::new(Revisions::Both);
    let running = everything.http().await;
    let gateway = Gateway::start(&[over_http("everything", &running)]).await;
    gateway.raw().lists("write_note").await;
    let held = rego(
        r#"decisions contains {
            "effect": "REQUIRE_APPROVAL", "rule": "R-HELD", "reason": "held",
        } if {
            input.tool.id == "mcp.everything.write_note"
        }"#,
    );
    gateway.server.publish(&held).await;
    let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let one = gateway.raw().with(tasks.clone());
    let other = gateway.raw_of(&gateway.other().await).with(tasks.clone());
    let created = one.call("write_note", json!({"text": "held"})).await;
    assert_eq!(created["result"]["resultType"], "task", "{created}");
    let task = created["result"]["taskId"].as_str().unwrap().to_owned();
    let got = one.ask("tasks/get", json!({"taskId": task})).await;
    assert_eq!(got["result"]["taskId"], json!(task), "{got}");

    let invented = "act_00000000000000000000000000";
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let ask = async |id: &str| {
            let params = json!({"taskId": id, "inputResponses": {}});
            let answer = other.ask(method, params).await;
            assert_eq!(code(&answer), INVALID_PARAMS, "{method} {id}: {answer}");
            answer["error"].to_string().replace(id, "ID")
        };
        assert_eq!(ask(&task).await, ask(invented).await, "{method}: a stranger learns nothing");
    }
    assert_eq!(gateway.actions(State::AwaitingApproval).await.len(), 1, "nobody canceled it");
    assert!(everything.notes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_much_reach_nobody() {
    let scene = Scene::new(Vice::None).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    let meta = raw.params(json!({}))["_meta"].to_string();
    let call = |arguments: &str| {
        let params = format!(r#"{{"name":"victim","_meta":{meta},"arguments":{arguments}}}"#);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    };
    let deep = format!(r#"{{"mark":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let cases = [
        ("10 MB", call(&format!(r#"{{"mark":"{}"}}"#, "x".repeat(10_000_000)))),
        ("deep nesting", call(&deep)),
        ("a duplicate key of the arguments", call(r#"{"mark":"a","mark":"b"}"#)),
        ("a duplicate key further down", call(r#"{"mark":"a","more":{"b":1,"b":2}}"#)),
        ("a duplicate key of the message", call("{}").replacen(r#""id":1"#, r#""id":1,"id":2"#, 1)),
        (
            "two names of tools",
            call("{}").replacen(r#""name":"victim""#, r#""name":"bystander","name":"victim""#, 1),
        ),
        ("a batch", format!("[{}]", call("{}"))),
        ("no JSON", "}{".to_owned()),
        ("no UTF-8", String::new()),
        ("arguments that are no object", call("[1]")),
        ("an id that is null", call("{}").replacen(r#""id":1"#, r#""id":null"#, 1)),
    ];
    for (what, body) in cases {
        let body = if what == "no UTF-8" { b"\xff\xfe{}".to_vec() } else { body.into_bytes() };
        let post = raw.post().header("mcp-method", "tools/call").header("mcp-name", "victim");
        // A server may stop reading: then there is no answer at all.
        let Ok(reply) = post.bytes(body).try_send().await else { continue };
        let refused = (400..500).contains(&reply.status)
            || (reply.status == 200 && (reply.json().get("error").is_some()))
            || reply.json()["result"]["isError"] == true;
        assert!(refused, "{what}: {} {}", reply.status, reply.text());
    }
    assert_eq!(scene.calls(), 0);
    assert_eq!(scene.gateway.actions(State::Executed).await.len(), 0);
    assert_eq!(said(&raw.call("victim", json!({})).await), "victim did it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_streams() {
    let scene = Scene::new(Vice::None).await;
    scene.gateway.raw().lists("victim").await;
    let server = &scene.gateway.server;
    let agent = scene.gateway.agent().await;
    let raw = scene.gateway.raw_of(&agent.key);
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let request = raw.request("subscriptions/listen", wanted);
    let stream = tokio::spawn(request.try_send());
    // The stream is open once the server has said so to somebody who came later.
    raw.lists("victim").await;
    assert!(!stream.is_finished(), "it lasts while the key is good");
    let path = format!("/v1/keys/{}/revoke", agent.key_id);
    Wire::new(&server.url).ask_as(&server.owner_key(), "POST", &path).send().await.good();
    let ended = timeout(PATIENCE, stream).await.expect("the stream goes on").unwrap();
    if let Ok(reply) = ended {
        assert!(reply.text().contains("subscriptions/acknowledged"), "{}", reply.text());
    }
    let refused = raw.request("tools/list", json!({})).send().await;
    assert_eq!(refused.status, 401);
    assert!(!refused.header("www-authenticate").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_on_this_machine_is_none_for_web_pages() {
    let scene = Scene::new(Vice::None).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    for (header, value) in [
        ("origin", "https://evil.example.com"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1.evil.example.com"),
        ("host", "evil.example.com"),
    ] {
        let reply = raw.request("tools/list", json!({})).header(header, value).send().await;
        assert_eq!(reply.status, 403, "{header}: {value}: {}", reply.text());
    }
    let cookie = Wire::new(&scene.gateway.server.url)
        .ask("POST", "/mcp")
        .header("cookie", &format!("tally_session={}", scene.gateway.key))
        .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}));
    let reply = cookie.send().await;
    assert_eq!(reply.status, 401, "a cookie opens nothing: {}", reply.text());
    let headers: &HeaderMap = &reply.headers;
    assert!(headers.get("www-authenticate").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_see_each_others_servers() {
    let scene = Scene::new(Vice::None).await;
    scene.gateway.raw().lists("victim").await;
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let made = scene.gateway.server.owner.create_tenant(&request, None).await.unwrap();
    let raw = scene.gateway.raw_of(&made.owner.unwrap().key);
    assert_eq!(raw.tools().await, Vec::<String>::new());
    assert_eq!(code(&raw.call("victim", json!({})).await), INVALID_PARAMS);
    assert_eq!(scene.calls(), 0);
}
