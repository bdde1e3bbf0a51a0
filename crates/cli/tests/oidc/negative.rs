//! Answers that open no session.

use serde_json::json;

use super::idp::Browser;
use super::{VIEWERS, World};
use crate::common::wire::{Reply, Wire};

impl World {
    /// Asserts that `reply` refuses, and that nobody is logged in or known by it.
    async fn refuses(&self, browser: &Browser, reply: &Reply, code: &str, why: &str) {
        assert!((400..500).contains(&reply.status), "{why}: {} {}", reply.status, reply.text());
        assert!(reply.text().contains(&format!("<small>{code} ")), "{why}: {}", reply.text());
        let session = browser.cookie(&self.server.url, "tally_session");
        assert_eq!(session, None, "{why}");
        assert!(self.principals().await.is_empty(), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_fits_the_login_that_it_ends() {
    let world = World::start(VIEWERS).await;
    let replace = |callback: &str, name: &str, value: &str| {
        let (path, query) = callback.split_once('?').unwrap();
        let kept = query.split('&').filter(|pair| !pair.starts_with(&format!("{name}=")));
        let mut pairs: Vec<_> = kept.map(str::to_owned).collect();
        if !value.is_empty() {
            pairs.push(format!("{name}={value}"));
        }
        format!("{path}?{}", pairs.join("&"))
    };
    for (name, value, code) in [
        ("state", "", "login_state_mismatch"),
        ("state", "another", "login_state_mismatch"),
        ("iss", "", "login_provider_mismatch"),
        ("iss", "https%3A%2F%2Fevil.example", "login_provider_mismatch"),
        ("code", "", "invalid_argument"),
        ("code", "another", "login_code_refused"),
        ("error", "access_denied", "login_denied"),
        ("error", "%3Cscript%3E", "login_denied"),
    ] {
        let mut browser = Browser::of("ann");
        let callback = browser.until_callback(&world.login()).await;
        let reply = browser.get(&replace(&callback, name, value)).await;
        world.refuses(&browser, &reply, code, &format!("{name}={value}")).await;
        assert!(!reply.text().contains("<script>"), "{}", reply.text());
        // Nor does the right answer end it, once a wrong one has.
        let reply = browser.get(&callback).await;
        world.refuses(&browser, &reply, "login_not_begun", "after a wrong answer").await;
    }
    let mut browser = Browser::of("ann");
    let callback = browser.until_callback(&world.login()).await;
    let reply = browser.get(&format!("{callback}&state=again")).await;
    world.refuses(&browser, &reply, "invalid_argument", "a parameter twice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_of_one_browser_and_ends_once() {
    let world = World::start(VIEWERS).await;
    let url = &world.server.url;
    let (mut ann, mut mallory) = (Browser::of("ann"), Browser::of("mallory"));
    let of_ann = ann.until_callback(&world.login()).await;
    let of_mallory = mallory.until_callback(&world.login()).await;
    let begun = ann.cookie(url, "tally_login").unwrap().to_owned();
    // Somebody is sent the answer to another's login: theirs, or none, is under way here.
    let mut nobody = Browser::of("nobody");
    let reply = nobody.get(&of_mallory).await;
    world.refuses(&nobody, &reply, "login_not_begun", "another's login").await;
    let shorter = begun.split_at(begun.len() - 4).0;
    for garbage in ["", "x", shorter, &format!("{begun}AAAA")] {
        nobody.set_cookie(url, "tally_login", garbage);
        let reply = nobody.get(&of_ann).await;
        world.refuses(&nobody, &reply, "login_not_begun", garbage).await;
    }
    let reply = ann.get(&of_mallory).await;
    world.refuses(&ann, &reply, "login_state_mismatch", "another's answer").await;

    ann.set_cookie(url, "tally_login", &begun);
    assert_eq!(ann.get(&of_ann).await.status, 303);
    let mut again = Browser::of("ann");
    again.set_cookie(url, "tally_login", &begun);
    let reply = again.get(&of_ann).await;
    assert_eq!(reply.status, 401);
    assert!(reply.text().contains("login_code_refused"), "{}", reply.text());
    assert_eq!(again.cookie(url, "tally_session"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_to_be_believed() {
    let world = World::start(VIEWERS).await;
    for (forge, says) in [
        (json!({"claims": {"nonce": "another"}}), "another login"),
        (json!({"claims": {"nonce": null}}), "another login"),
        (json!({"claims": {"aud": "another"}}), "somebody else"),
        (json!({"claims": {"iss": "https://evil.example"}}), "another issuer"),
        (json!({"claims": {"exp": 1_000_000}}), "expired"),
        (json!({"claims": {"iat": 9_000_000_000_i64}}), "not good yet"),
        (json!({"by": "other"}), "signature is wrong"),
        (json!({"by": "other", "header": {"kid": "new"}}), "does not publish the key"),
        (json!({"by": "nobody", "header": {"alg": "none"}}), "not signed by"),
        (json!({"by": "hmac", "header": {"alg": "HS256"}}), "not signed by"),
        (json!({"by": "own", "header": {"crit": ["x"]}}), "malformed"),
    ] {
        world.idp.set(json!({"forge": forge})).await;
        let mut browser = Browser::of("ann");
        let reply = browser.log_in(&world.login()).await;
        let why = forge.to_string();
        world.refuses(&browser, &reply, "id_token_invalid", &why).await;
        assert!(reply.text().contains(says), "{why}: {}", reply.text());
    }
    world.idp.set(json!({"forge": {}})).await;
    world.session("ann").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_begin_no_login() {
    let world = World::start(VIEWERS).await;
    let wire = Wire::new(&world.server.url);
    let challenge = "a".repeat(43);
    for (query, code) in [
        ("", "provider_unknown"),
        ("provider=none", "provider_unknown"),
        ("provider=corp&provider=corp", "invalid_argument"),
        ("provider=corp&return_to=//evil.example", "return_to_refused"),
        ("provider=corp&return_to=https://evil.example/", "return_to_refused"),
        ("provider=corp&return_to=/%5Cevil.example", "return_to_refused"),
        ("provider=corp&return_to=%09//evil.example", "return_to_refused"),
        ("provider=corp&return_to=/%0D%0Aset-cookie:%20a=b", "return_to_refused"),
        ("provider=corp&return_to=javascript:alert(1)", "return_to_refused"),
        ("provider=corp&return_to=", "return_to_refused"),
        ("provider=corp&cli_port=0", "invalid_argument"),
        ("provider=corp&cli_port=80", "invalid_argument"),
        (&format!("provider=corp&cli_port=80&code_challenge={challenge}"), "invalid_argument"),
        (
            &format!(
                "provider=corp&cli_port=@evil.example&code_challenge={challenge}&state={challenge}"
            ),
            "invalid_argument",
        ),
    ] {
        let reply = wire.ask("GET", &format!("/auth/login?{query}")).send().await;
        assert_eq!((reply.status, reply.code()), (400, code.to_owned()), "{query}");
        assert_eq!(reply.header("set-cookie"), "", "{query}");
    }
    for (body, code) in [
        (json!({}), "invalid_argument"),
        (json!({"code": "x", "code_verifier": "y"}), "login_code_refused"),
        (json!({"code": "x", "code_verifier": "y", "more": 1}), "invalid_argument"),
    ] {
        let reply = wire.ask("POST", "/auth/cli-token").json(&body).send().await;
        assert_eq!(reply.code(), code, "{body}");
    }
}
