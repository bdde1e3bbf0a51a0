//! `tally login`: a program on the person's own machine.

use std::fs;
use std::io::{BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use kernel::values::Digest;
use serde_json::{Value, json};

use super::idp::Browser;
use super::{VIEWERS, World};
use crate::common::process::{ended, line};
use crate::common::wire::Wire;
use crate::common::{assert_code, command, json as json_of};

impl World {
    /// Runs the program in a home of its own.
    fn tally(&self, home: &Path, args: &[&str]) -> Output {
        let mut command = command(args);
        command.env("XDG_CONFIG_HOME", home).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts `tally login`; the URL that it shows.
    fn begin(&self, home: &Path) -> (Child, BufReader<std::process::ChildStdout>, String) {
        let mut command = command(&["login", "--provider", "corp", "--url", &self.server.url]);
        let command = command.env("XDG_CONFIG_HOME", home).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (_, url) = (line(&mut out).unwrap(), line(&mut out).unwrap());
        (child, out, url.trim().to_owned())
    }

    /// Logs in with the program and a browser; how the program ends, and what it says.
    async fn log_in_by(&self, home: &Path, person: &str) -> (i32, String) {
        let (mut child, mut out, url) = self.begin(home);
        let mut browser = Browser::of(person);
        let reply = browser.log_in(&url).await;
        assert_eq!(reply.status, 303, "{}", reply.text());
        let back = reply.header("location").to_owned();
        assert!(back.starts_with("http://127.0.0.1:"), "{back}");
        // Whoever does not know the state is turned away, and the program waits on.
        let other = back.replace("state=", "state=x");
        assert_eq!(browser.get(&other).await.status, 404);
        assert_eq!(browser.get(&back).await.status, 200);
        assert_eq!(browser.cookie(&self.server.url, "tally_session"), None, "it is the program's");
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (ended(&mut child).code().unwrap(), said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_and_logout_by_the_program() {
    let world = World::start(VIEWERS).await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tally").join("credentials.json");
    let key = || {
        let read: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        read["key"].as_str().unwrap().to_owned()
    };
    assert_code(&world.tally(home.path(), &["tools", "list"]), 64);
    let (code, said) = world.log_in_by(home.path(), "ann").await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!said.contains(&key()), "the secret is in the file alone: {said}");
    assert_code(&world.tally(home.path(), &["tools", "list"]), 0);
    let me = json_of(&world.tally(home.path(), &["whoami", "--json"]));
    assert_eq!(me["principal_id"], world.principals().await[0].principal_id);
    assert_eq!((&me["tenant"], &me["environment"]), (&"main".into(), &"dev".into()));
    // A session goes to the server that opened it, whatever else is asked.
    assert_code(&world.tally(home.path(), &["--url", "http://127.0.0.1:1", "tools", "list"]), 64);
    // Another login replaces it.
    let first = key();
    assert_eq!(world.log_in_by(home.path(), "ann").await.0, 0);
    assert_ne!(key(), first);
    assert_eq!(world.principals().await.len(), 1);

    let last = key();
    assert_code(&world.tally(home.path(), &["logout"]), 0);
    assert!(!file.exists());
    let ask = Wire::new(&world.server.url).ask("GET", "/v1/tools").header("x-api-key", &last);
    assert_eq!(ask.send().await.code(), "credential_invalid");
    // A file with a key is neither replaced nor removed.
    let owner = world.server.data.join("credentials.json");
    let owner = owner.to_str().unwrap();
    assert_code(&world.tally(home.path(), &["logout", "--credentials", owner]), 64);
    assert_code(&world.tally(home.path(), &["login", "--credentials", owner]), 64);
    assert!(fs::exists(owner).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_ends_the_program() {
    let world = World::start("create_principals: false").await;
    let home = tempfile::tempdir().unwrap();
    let (code, said) = world.log_in_by(home.path(), "ann").await;
    assert_eq!(code, 1);
    assert!(said.contains("login_unknown") && said.contains("--subject ann"), "{said}");
    assert!(!home.path().join("tally").join("credentials.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_good_once_and_for_who_began() {
    let world = World::start(VIEWERS).await;
    let wire = Wire::new(&world.server.url);
    let verifier = "v".repeat(43);
    let challenge = BASE64URL.encode(Digest::of(verifier.as_bytes()).0);
    let state = "s".repeat(43);
    let url = format!("{}&cli_port=9&code_challenge={challenge}&state={state}", world.login());
    let reply = Browser::of("ann").log_in(&url).await;
    let back = reply.header("location").to_owned();
    let query = back.strip_prefix("http://127.0.0.1:9/?code=").unwrap();
    let (code, rest) = query.split_once('&').unwrap();
    assert_eq!(rest, format!("state={state}"));
    let redeem = async |code: &str, verifier: &str| {
        let body = json!({"code": code, "code_verifier": verifier});
        wire.ask("POST", "/auth/cli-token").json(&body).send().await
    };
    assert_eq!(redeem(code, &"w".repeat(43)).await.code(), "login_code_refused");
    assert_eq!(
        redeem(code.split_at(code.len() - 2).0, &verifier).await.code(),
        "login_code_refused"
    );
    let made = redeem(code, &verifier).await.good();
    for name in ["key", "access_token"] {
        let bearer = format!("Bearer {}", made[name].as_str().unwrap());
        let reply = wire.ask("GET", "/v1/tools").header("authorization", &bearer).send().await;
        assert_eq!(reply.status, 200, "{name}");
    }
    assert_eq!(redeem(code, &verifier).await.code(), "login_code_refused", "once");
    // What a browser holds of a login is no code, nor the other way round.
    let mut browser = Browser::of("ann");
    let callback = browser.until_callback(&world.login()).await;
    let begun = browser.cookie(&world.server.url, "tally_login").unwrap().to_owned();
    assert_eq!(redeem(&begun, &verifier).await.code(), "login_code_refused");
    browser.set_cookie(&world.server.url, "tally_login", code);
    assert_eq!(browser.get(&callback).await.status, 401);
}
