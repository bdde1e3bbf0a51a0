//! Who gets in at `/mcp`, and what upstreams are shown: never what the client showed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mcpkit::guarded::{Guarded, SCOPE};
use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::{Revisions, Running};
use proto::identity::RevokeKeyRequest;
use proto::identity::principal::Kind;
use proto::types::Json;
use proto::upstreams::{AddUpstreamRequest, RefreshUpstreamRequest};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::wire::Reply;
use crate::common::{LOOK_EVERY, PATIENCE, allow_all, command};
use crate::mcp::gateway::Gateway;
use crate::oidc::idp::{Browser, Idp};
use crate::tokens::Desk;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// A request to `/mcp` with that credential, and what it is answered.
async fn knock(desk: &Desk, credential: Option<&str>) -> Reply {
    let ask = desk.wire.ask("POST", "/mcp").bytes(LIST);
    let ask = ask.header("accept", "application/json, text/event-stream");
    match credential {
        Some(text) => ask.header("authorization", &format!("Bearer {text}")).send().await,
        None => ask.send().await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resource_says_what_it_is_and_what_a_client_lacks() {
    let desk = Desk::new(&allow_all()).await;
    let url = desk.server.url.clone();
    let place = "/.well-known/oauth-protected-resource";
    for path in [place.to_owned(), format!("{place}/mcp")] {
        let told = desk.wire.ask("GET", &path).send().await.good();
        assert_eq!(told["resource"], format!("{url}/mcp"), "{path}");
        assert_eq!(told["authorization_servers"], json!([url]));
        assert_eq!(told["bearer_methods_supported"], json!(["header"]));
        assert!(told["scopes_supported"].as_array().unwrap().contains(&"actions:submit".into()));
    }
    let metadata = format!("resource_metadata=\"{url}{place}/mcp\"");
    let scope = "scope=\"actions:submit\"";
    let none = knock(&desk, None).await;
    assert_eq!((none.status, none.code().as_str()), (401, "credential_missing"));
    assert_eq!(none.header("www-authenticate"), format!("Bearer {metadata}, {scope}"));
    let bad = knock(&desk, Some("garbage")).await;
    let error = "error=\"invalid_token\"";
    assert_eq!((bad.status, bad.code().as_str()), (401, "credential_invalid"));
    assert_eq!(bad.header("www-authenticate"), format!("Bearer {error}, {metadata}, {scope}"));
    // Known, but not for this: more scope would help, and which.
    let judge = desk.enrol(Kind::User, &["approver"]).await;
    let short = knock(&desk, Some(&judge.key)).await;
    let error = "error=\"insufficient_scope\"";
    assert_eq!((short.status, short.code().as_str()), (403, "permission_denied"));
    assert_eq!(short.header("www-authenticate"), format!("Bearer {error}, {metadata}, {scope}"));
    // The cookie of a browser is nothing here.
    let cookie = desk.wire.ask("POST", "/mcp").bytes(LIST).header("sec-fetch-site", "same-origin");
    let cookie = cookie.header("cookie", "tally_session=tses_x_y").send().await;
    assert_eq!((cookie.status, cookie.code().as_str()), (401, "credential_missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_audience() {
    let desk = Desk::new(&allow_all()).await;
    let mcp = format!("{}/mcp", desk.server.url);
    let agent = desk.enrol(Kind::Agent, &["agent"]).await;
    let person = desk.enrol(Kind::User, &["operator"]).await;
    let issue = async |more: &[(&str, &str)]| desk.token(&person.key, &agent.key, more).await;
    let everywhere = issue(&[]).await;
    let here = issue(&[("resource", &mcp)]).await;
    let elsewhere = issue(&[("resource", "https://elsewhere.example/mcp")]).await;
    assert_eq!(crate::tokens::claims(&here)["aud"], mcp.as_str());
    let let_in = |reply: &Reply| reply.status != 401 && reply.status != 403;
    assert!(let_in(&knock(&desk, Some(&everywhere)).await));
    assert!(let_in(&knock(&desk, Some(&here)).await));
    let refused = knock(&desk, Some(&elsewhere)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").contains("error=\"invalid_token\""));
    assert_eq!(desk.status(&everywhere).await.0, 200);
    for token in [&here, &elsewhere] {
        assert_eq!(desk.status(token).await, (401, "credential_invalid".to_owned()));
        // Nor is it a way to a token that is good for more.
        let reply = desk.exchanged(token, "", &[]).await;
        assert_eq!((reply.status, &reply.json()["error"]), (400, &"invalid_grant".into()));
    }
    for (more, why) in [
        ([("resource", mcp.as_str()), ("audience", "https://other.example")], "two targets"),
        ([("resource", "relative"), ("scope", "actions:read")], "no absolute URI"),
        ([("resource", "https://a.example/#x"), ("scope", "actions:read")], "a fragment"),
    ] {
        let reply = desk.exchanged(&person.key, &agent.key, &more).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (400, &"invalid_target".into()),
            "{why}"
        );
    }
}

/// An upstream over HTTP of this machine with these further settings.
fn upstream(name: &str, url: &str, more: &Value) -> Value {
    let transport = json!({"type": "http", "url": url, "private": true});
    let mut upstream = json!({"name": name, "transport": transport});
    for (key, value) in more.as_object().unwrap() {
        upstream[key] = value.clone();
    }
    upstream
}

async fn put(gateway: &Gateway, path: &str, body: &Value) {
    let (wire, owner) =
        (crate::common::wire::Wire::new(&gateway.server.url), gateway.server.owner_key());
    wire.ask_as(&owner, "POST", path).json(body).send().await.good();
}

async fn add(gateway: &Gateway, upstream: &Value) -> proto::upstreams::Upstream {
    let upstream = Some(Json::of(upstream).unwrap());
    let request = AddUpstreamRequest { upstream, ..Default::default() };
    gateway.server.owner.add_upstream(&request, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_in_the_next_request() {
    let gateway = Gateway::start(&[]).await;
    let fixture = Misbehave::new(Revisions::New, Vice::None);
    let running: Running = fixture.http().await;
    put(&gateway, "/v1/secrets", &json!({"name": "key", "value": "one-Zk4"})).await;
    let mut settings = upstream("files", &running.url, &json!({}));
    settings["transport"]["headers"] = json!({"authorization": "Bearer ${secret:key}"});
    add(&gateway, &settings).await;
    assert!(fixture.credentials().iter().all(|shown| shown == "Bearer one-Zk4"));
    put(&gateway, "/v1/secrets/key/rotate", &json!({"value": "two-Wp9"})).await;
    let before = fixture.credentials().len();
    let refresh = RefreshUpstreamRequest { name: "files".to_owned() };
    gateway.server.owner.refresh_upstream(&refresh, None).await.unwrap();
    let shown = fixture.credentials().split_off(before);
    assert!(!shown.is_empty() && shown.iter().all(|shown| shown == "Bearer two-Wp9"), "{shown:?}");
    // A value that is gone fails what needs it, and only that.
    put(&gateway, "/v1/secrets/key/remove", &json!({})).await;
    let failed = gateway.server.owner.refresh_upstream(&refresh, None).await.unwrap_err();
    assert!(format!("{failed}").contains("secret"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_gets_a_token_of_its_own_for_each_chain() {
    let gateway = Gateway::start(&[]).await;
    let guarded = Guarded::start("https://nobody.example").await;
    put(&gateway, "/v1/secrets", &json!({"name": "sts", "value": "of-the-client"})).await;
    let auth = json!({
        "type": "exchange",
        "token_endpoint": guarded.token_endpoint(),
        "client_id": "tally",
        "client_secret": "${secret:sts}",
        "audience": "the upstream",
    });
    add(&gateway, &upstream("guarded", guarded.url(), &json!({"auth": auth}))).await;
    // The list is the client's own business.
    assert_eq!(guarded.exchanges()[0]["grant_type"], "client_credentials");
    let first = gateway.raw();
    first.lists("work").await;
    for _ in 0..2 {
        first.request("tools/call", json!({"name": "work", "arguments": {}})).send().await.good();
    }
    let other = gateway.other().await;
    let second = gateway.raw_of(&other);
    second.request("tools/call", json!({"name": "work", "arguments": {}})).send().await.good();
    let exchanges: Vec<_> =
        guarded.exchanges().into_iter().filter(|f| f.contains_key("subject_token")).collect();
    assert_eq!(exchanges.len(), 2, "one for each chain, kept for its next call: {exchanges:?}");
    let shown = guarded.shown();
    assert_eq!((shown.len(), &shown[0]), (3, &shown[1]));
    assert_ne!(shown[1], shown[2]);
    assert!(shown.iter().all(|header| header.starts_with("Bearer exchanged-")), "{shown:?}");
    // What is exchanged is a token for that endpoint, of the chain, and good for nothing here.
    let keys = crate::common::wire::Wire::new(&gateway.server.url);
    let keys = keys.ask("GET", "/.well-known/jwks.json").send().await.good();
    let keys: JwkSet = serde_json::from_value(keys).unwrap();
    for exchange in &exchanges {
        assert_eq!(exchange["audience"], "the upstream");
        assert_eq!(exchange["resource"], guarded.url());
        let token = &exchange["subject_token"];
        assert!(![&gateway.key, &other].contains(&token), "nothing is passed on");
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[guarded.token_endpoint()]);
        validation.set_issuer(&[&gateway.server.url]);
        let key = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
        let read = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
        assert!(read.claims["sub"].as_str().unwrap().starts_with("agt_"), "{}", read.claims);
        for path in ["/v1/actions", "/v1/me"] {
            let wire = crate::common::wire::Wire::new(&gateway.server.url);
            let bearer = format!("Bearer {token}");
            let reply = wire.ask("GET", path).header("authorization", &bearer).send().await;
            assert_eq!(reply.code(), "credential_invalid");
        }
    }
    // One that is refused is exchanged anew.
    guarded.refuse(&shown[0]);
    first.request("tools/call", json!({"name": "work", "arguments": {}})).send().await.good();
    assert_ne!(guarded.shown().last(), Some(&shown[0]));
    gateway.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_once_for_an_upstream() {
    let mut gateway = Gateway::start(&[]).await;
    let idp = Idp::start();
    let guarded = Guarded::start(&idp.url).await;
    let settings = upstream("guarded", guarded.url(), &json!({"auth": {"type": "oauth"}}));
    let added = add(&gateway, &settings).await;
    assert!(!added.pinned && added.tools_active == 0, "nobody has logged in: {added:?}");
    let mut login = command(&["mcp", "login", "guarded", "--json"]);
    login.env("TALLY_URL", &gateway.server.url).env("TALLY_API_KEY", gateway.server.owner_key());
    let login = login.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut login = login.spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "log in here:");
    let url = lines.next().unwrap().unwrap().trim().to_owned();
    assert!(url.starts_with(&idp.url) && url.contains("code_challenge_method=S256"), "{url}");
    assert!(url.contains("resource=http"), "{url}");
    Browser::of("ann").through(&url).await;
    let mut answer = String::new();
    login.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(login.wait().unwrap().success(), "{answer} {rest:?}");
    let shown: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&shown["pinned"], &shown["tools_active"]), (&json!(true), &json!(1)), "{shown}");
    let call = async |gateway: &Gateway| {
        let raw = gateway.raw();
        raw.lists("work").await;
        raw.request("tools/call", json!({"name": "work", "arguments": {}})).send().await.good()
    };
    call(&gateway).await;
    let token = guarded.shown().pop().unwrap();
    assert!(token.starts_with("Bearer ") && !token.contains(&gateway.key));
    // The login lasts, and its tokens are nowhere to be read.
    gateway.server.terminate();
    let log = gateway.server.log();
    let bare = token.strip_prefix("Bearer ").unwrap();
    assert!(!log.contains(bare), "a token is in the log");
    for file in ["control.sqlite", "control.sqlite-wal", "runtime.sqlite", "runtime.sqlite-wal"] {
        let bytes = std::fs::read(gateway.server.data.join(file)).unwrap_or_default();
        let found = bytes.windows(bare.len()).any(|window| window == bare.as_bytes());
        assert!(!found, "a token is in {file}");
    }
    gateway.server.restart();
    call(&gateway).await;
    assert_eq!(guarded.shown().pop().unwrap(), token);
    // Whoever removes the login ends it.
    put(&gateway, "/v1/secrets/oauth:guarded/remove", &json!({})).await;
    let refresh = RefreshUpstreamRequest { name: "guarded".to_owned() };
    let failed = gateway.server.owner.refresh_upstream(&refresh, None).await.unwrap_err();
    assert!(format!("{failed}").contains("tally mcp login guarded"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_ended_by_who_began_it_on_their_own_machine() {
    let gateway = Gateway::start(&[]).await;
    let idp = Idp::start();
    let guarded = Guarded::start(&idp.url).await;
    add(&gateway, &upstream("guarded", guarded.url(), &json!({"auth": {"type": "oauth"}}))).await;
    add_plain(&gateway).await;
    let wire = crate::common::wire::Wire::new(&gateway.server.url);
    let (owner, admin) =
        (gateway.server.owner_key(), gateway.server.key(Kind::User, &["admin"], "dev").await);
    let begin = async |name: &str, uri: &str| {
        let body = json!({"redirect_uri": uri});
        let path = format!("/v1/upstreams/{name}/login");
        wire.ask_as(&owner, "POST", &path).json(&body).send().await
    };
    for uri in ["https://elsewhere.example/", "http://10.0.0.1/", "http://127.0.0.1:1/?x", "x"] {
        assert_eq!(begin("guarded", uri).await.code(), "invalid_argument", "{uri}");
    }
    assert_eq!(begin("plain", "http://127.0.0.1:9/").await.code(), "login_not_taken");
    assert_eq!(begin("absent", "http://127.0.0.1:9/").await.code(), "not_found");
    let begun = begin("guarded", "http://127.0.0.1:9/").await.good();
    let url = begun["authorization_url"].as_str().unwrap();
    let callback = Browser::of("ann").sent_to(url, "http://127.0.0.1:9").await;
    let finish = async |key: &str, callback: &str| {
        let body = json!({"callback_url": callback});
        let path = "/v1/upstreams/guarded/login/finish";
        wire.ask_as(key, "POST", path).json(&body).send().await
    };
    assert_eq!(finish(&admin, &callback).await.code(), "authorization_failed", "another's login");
    let forged = format!("{callback}&iss=https%3A%2F%2Fevil.example");
    let forged = forged.replacen("iss=http%3A", "was=http%3A", 1);
    assert_eq!(finish(&owner, &forged).await.code(), "authorization_issuer_mismatch");
    assert_eq!(finish(&owner, &callback).await.good()["pinned"], true);
    assert_eq!(finish(&owner, &callback).await.code(), "authorization_failed", "once");
}

/// An upstream where nobody logs in.
async fn add_plain(gateway: &Gateway) {
    let plain = Misbehave::new(Revisions::New, Vice::None);
    let running = plain.http().await;
    add(gateway, &upstream("plain", &running.url, &json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_credential() {
    let gateway = Gateway::start(&[]).await;
    let agent = gateway.agent().await;
    let wire = crate::common::wire::Wire::new(&gateway.server.url);
    let bearer = format!("Bearer {}", agent.key);
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }});
    let ask = |method: &str| {
        let ask = wire.ask(method, "/mcp").header("authorization", &bearer);
        ask.header("accept", "application/json, text/event-stream")
    };
    let begun = ask("POST").json(&initialize).send().await;
    let session = begun.header("mcp-session-id").to_owned();
    assert!(!session.is_empty(), "{}", begun.text());
    let stream = ask("GET").header("mcp-session-id", &session);
    let stream = stream.header("mcp-protocol-version", "2025-11-25");
    let stream = tokio::spawn(stream.send());
    // It is open for as long as the key is good: there is no end to wait for before.
    let until = Instant::now() + PATIENCE;
    while ask("POST")
        .json(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}))
        .header("mcp-session-id", &session)
        .header("mcp-protocol-version", "2025-11-25")
        .send()
        .await
        .status
        != 200
    {
        assert!(Instant::now() < until);
        sleep(LOOK_EVERY).await;
    }
    assert!(!stream.is_finished());
    let revoke = RevokeKeyRequest { key_id: agent.key_id.clone() };
    gateway.server.owner.revoke_key(&revoke, None).await.unwrap();
    let ended = stream.await.unwrap();
    assert!([200, 401].contains(&ended.status), "{}", ended.status);
    assert_eq!(ask("POST").json(&initialize).send().await.status, 401);
}

/// The scope that the fixture wants is the provider's to give.
#[test]
fn the_fixtures_agree() {
    let provider = include_str!("oidc/idp.mjs");
    assert!(provider.contains(SCOPE));
}
