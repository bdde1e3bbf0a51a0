//! What a message has to be, and what is refused before anything happens.

use mcpkit::Revisions;
use serde_json::{Value, json};

use super::Place;
use super::client::{MODERN, Mcp, message, meta};

/// The HTTP status, the code and the id of an answer that is an error.
async fn refused(ask: crate::common::wire::Ask) -> (u16, i64, Value) {
    let reply = ask.send().await;
    let body = reply.json();
    (reply.status, body["error"]["code"].as_i64().unwrap(), body["id"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused() {
    let place = Place::new(Revisions::Both).await;
    let client = place.modern(json!({})).await;
    let post = |text: &str| client.post().bytes(text);
    let twice = concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","#,
        r#""params":{"name":"echo","name":"write_note"}}"#,
    );
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"arguments":{{"a":{}{}}}}}}}"#,
        "[".repeat(200),
        "]".repeat(200),
    );
    for (text, status, code) in [
        ("", 400, -32700),
        ("{\"jsonrpc\":", 400, -32700),
        ("\"text\"", 400, -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, 400, -32600),
        (twice, 400, -32600),
        (deep.as_str(), 400, -32600),
    ] {
        assert_eq!(refused(post(text)).await, (status, code, Value::Null), "{text}");
    }
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(5 << 20));
    assert_eq!(refused(post(&large)).await.0, 413);
    let ping = message(1, "ping", &json!({})).to_string();
    let wrong = client.ask("POST").raw(ping.clone()).header("content-type", "text/plain");
    assert_eq!(refused(wrong).await.0, 415);
    let wrong = client.ask("POST").bytes(ping).header("accept", "application/json");
    assert_eq!(refused(wrong).await.0, 406);
    assert!(place.actions().await.is_empty(), "nothing of this is an action");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_say_what_the_body_says() {
    let place = Place::new(Revisions::Both).await;
    let client = place.modern(json!({})).await;
    let params = json!({
        "name": "write_note", "arguments": {"text": "x"}, "_meta": meta(&json!({})),
    });
    let body = message(9, "tools/call", &params);
    let post = |headers: &[(&str, &str)]| {
        headers.iter().fold(client.post().json(&body), |ask, (name, value)| ask.header(name, value))
    };
    let version = ("mcp-protocol-version", MODERN);
    let method = ("mcp-method", "tools/call");
    for headers in [
        &[method, ("mcp-name", "write_note")][..],
        &[version, ("mcp-name", "write_note")],
        &[version, method],
        &[version, method, ("mcp-name", "echo")],
        &[version, method, ("mcp-name", "Write_note")],
        &[version, ("mcp-method", "tools/list"), ("mcp-name", "write_note")],
        &[("mcp-protocol-version", "2025-11-25"), method, ("mcp-name", "write_note")],
    ] {
        assert_eq!(refused(post(headers)).await, (400, -32020, json!(9)), "{headers:?}");
    }
    assert!(place.actions().await.is_empty() && place.kit.notes().is_empty());
    let reply = post(&[version, method, ("mcp-name", " write_note ")]).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(place.kit.notes().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_request_says_its_revision_and_capabilities() {
    let place = Place::new(Revisions::Both).await;
    let client = place.modern(json!({})).await;
    let ask = |meta: &Value, version: &str, method: &str| {
        let body = message(5, method, &json!({"_meta": meta}));
        let ask = client.post().json(&body).header("mcp-protocol-version", version);
        ask.header("mcp-method", method)
    };
    let whole = meta(&json!({}));
    let without = |key: &str| {
        let mut meta = whole.clone();
        meta.as_object_mut().unwrap().remove(&format!("io.modelcontextprotocol/{key}"));
        meta
    };
    let discover = "server/discover";
    for lacking in [json!({}), without("protocolVersion"), without("clientCapabilities")] {
        assert_eq!(refused(ask(&lacking, MODERN, discover)).await, (400, -32602, json!(5)));
    }
    assert_eq!(ask(&without("clientInfo"), MODERN, discover).send().await.status, 200);
    let mut other = whole.clone();
    other["io.modelcontextprotocol/protocolVersion"] = json!("v9");
    assert_eq!(refused(ask(&other, MODERN, discover)).await, (400, -32020, json!(5)));
    let reply = ask(&other, "v9", discover).send().await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!(-32022)));
    assert_eq!(reply.json()["error"]["data"]["requested"], "v9");
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such"] {
        assert_eq!(refused(ask(&whole, MODERN, method)).await, (404, -32601, json!(5)), "{method}");
    }
    let reply = client.send(1, discover, json!({})).await;
    let result = &reply.json()["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["supportedVersions"][0], MODERN);
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "tally");
    assert!(reply.headers.get("mcp-session-id").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_and_origins_are_turned_away() {
    let more = "  allowed_hosts: [tally.lan]\n  allowed_origins: ['https://console.example.com']";
    let place = Place::under(Revisions::Both, &crate::common::allow_all(), more).await;
    let client = place.modern(json!({})).await;
    let ask = |host: Option<&str>, origin: Option<&str>| {
        let mut ask = client.initialize();
        if let Some(host) = host {
            ask = ask.header("host", host);
        }
        match origin {
            Some(origin) => ask.header("origin", origin),
            None => ask,
        }
    };
    for (host, origin) in [
        (Some("evil.example.com"), None),
        (Some("evil.example.com"), Some("http://evil.example.com")),
        (None, Some("http://evil.example.com")),
        (None, Some("null")),
        (Some("tally.lan.evil.com"), None),
    ] {
        assert_eq!(refused(ask(host, origin)).await.0, 403, "{host:?} {origin:?}");
    }
    for (host, origin) in [
        (None, None),
        (Some("localhost:8480"), Some("http://localhost:8480")),
        (Some("tally.lan"), Some("http://tally.lan")),
        (None, Some("https://console.example.com")),
    ] {
        assert_eq!(ask(host, origin).send().await.status, 200, "{host:?} {origin:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tool_does_not_take_is_told_to_the_model() {
    let place = Place::new(Revisions::Both).await;
    for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
        let result = client.call("add", json!({"a": "one"})).await;
        assert_eq!(result["isError"], true, "{result}");
        assert!(super::text(&result).contains("params_invalid"), "{result}");
        let unknown = client.answer("tools/call", json!({"name": "nothing"})).await;
        assert_eq!(unknown["error"]["code"], -32602);
        assert_eq!(unknown["error"]["message"], "Unknown tool: nothing");
        let wrong = json!({"name": "echo", "arguments": [1]});
        assert_eq!(client.answer("tools/call", wrong).await["error"]["code"], -32602);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upstream_can_be_looked_at_alone() {
    let place = Place::new(Revisions::Both).await;
    let client = place.modern(json!({})).await;
    let body = message(1, "tools/list", &json!({"_meta": meta(&json!({}))}));
    let ask = async |server: &str| {
        let wire = crate::common::wire::Wire::new(&place.server.url);
        let ask = wire.ask("POST", &format!("/mcp?server={server}"));
        let key = format!("Bearer {}", place.server.owner_key());
        let ask = ask.header("authorization", &key).header("mcp-protocol-version", MODERN);
        ask.header("mcp-method", "tools/list").json(&body).send().await
    };
    let alone = ask("kit").await.good();
    assert_eq!(alone["result"]["tools"].as_array().unwrap().len(), client.tools().await.len());
    let none = ask("nobody").await;
    assert_eq!((none.status, &none.json()["error"]["code"]), (404, &json!(-32602)));
    let _unused: &Mcp = &client;
}
