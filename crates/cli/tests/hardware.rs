//! Keys in a token: SoftHSM stands for the hardware module, the rest is the real program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::identity::principal::Kind;
use proto::identity::{ListPrincipalsRequest, ListPrincipalsResponse};
use rusqlite::Connection;
use serde_json::json as value;
use tempfile::TempDir;

use crate::common::wire::Wire;
use crate::common::{Server, action, allow_all, assert_code, command, tally};
use crate::signing_keys::{KEYS, ROTATE, receipt_keys, verify_with_openssl};

const PIN: &str = "4321";
/// Where distributions put the module.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

fn module() -> &'static str {
    let found = MODULES.into_iter().find(|path| Path::new(path).is_file());
    found.unwrap_or_else(|| panic!("SoftHSM is missing: install the package softhsm2"))
}

/// A token in a folder.
struct Token {
    folder: TempDir,
}

impl Token {
    fn new() -> Self {
        let token = Self { folder: tempfile::tempdir().unwrap() };
        let path = token.folder.path();
        fs::create_dir(path.join("tokens")).unwrap();
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\n",
            path.join("tokens").display()
        );
        fs::write(token.conf(), conf).unwrap();
        fs::write(path.join("pin"), format!("{PIN}\n")).unwrap();
        fs::write(path.join("wrong"), "0000\n").unwrap();
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "tally", "--so-pin", "8765", "--pin", PIN])
            .env("SOFTHSM2_CONF", token.conf())
            .output()
            .unwrap_or_else(|error| panic!("softhsm2-util, of the package softhsm2: {error}"));
        assert!(made.status.success(), "{made:?}");
        token
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    fn yaml(&self, pin_file: &str) -> String {
        let pin = self.folder.path().join(pin_file);
        format!("keys: {{provider: pkcs11, module: {:?}, pin_file: {pin:?}}}", module())
    }

    fn start(&self) -> Server {
        let env = vec![("SOFTHSM2_CONF".to_owned(), self.conf())];
        Server::start_with(tempfile::tempdir().unwrap(), &self.yaml("pin"), env)
    }

    /// Runs the program where it finds the token.
    fn tally(&self, args: &[&str]) -> std::process::Output {
        command(args).env("SOFTHSM2_CONF", self.conf()).output().unwrap()
    }
}

async fn submit(server: &Server, agent: &client::Client) {
    let params = value!({"input": [1, 2], "filter": "length"});
    let done = agent.submit_action(&action("core.json_transform", &params), None).await.unwrap();
    assert_eq!(done.state(), proto::actions::action::State::Executed, "{}", server.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_its_keys_in_a_token() {
    let token = Token::new();
    let mut server = token.start();
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    submit(&server, &agent).await;
    wire.ask_as(&owner, "POST", ROTATE).send().await.good();
    submit(&server, &agent).await;
    assert!(!server.data.join("keys").exists(), "no key is a file");

    let body = value!({"tenant": "acme"});
    wire.ask_as(&owner, "POST", "/v1/tenants").json(&body).send().await.good();
    let theirs = wire.ask("GET", "/v1/trust/tenants/acme/keys").send().await.good();
    let ours = wire.ask("GET", KEYS).send().await.good();
    let ids = |keys: &serde_json::Value| -> Vec<String> {
        let keys = keys["keys"].as_array().unwrap().iter();
        keys.map(|key| key["key_id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(ids(&theirs).iter().all(|id| !ids(&ours).contains(id)), "{theirs} {ours}");
    let main = receipt_keys(&ours, "main/main");
    let states: Vec<_> = main.iter().map(|key| key.0.as_str()).collect();
    assert_eq!(states, ["retired", "active"]);

    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("all.tar");
    let name = bundle.to_str().unwrap();
    assert_code(&server.tally(&owner, &["evidence", "export", "--full-log", "--out", name]), 0);
    assert_code(&tally(&["verify", name]), 0);
    verify_with_openssl(&bundle).unwrap();

    server.kill();
    server.restart();
    submit(&server, &agent).await;
    assert_eq!(wire.ask("GET", KEYS).send().await.good(), ours, "the same keys");
    server.terminate();
    let config = server.data.with_file_name("tally.yaml");
    let (data, config) = (server.data.to_str().unwrap(), config.to_str().unwrap());
    let verify = ["ledger", "verify", "--data", data, "--host", "tally.test", "--config", config];
    assert_code(&token.tally(&verify), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_key_that_was_changed_or_moved_is_refused() {
    let token = Token::new();
    let mut server = token.start();
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let body = value!({"tenant": "acme"});
    wire.ask_as(&owner, "POST", "/v1/tenants").json(&body).send().await.good();
    let names = |answer: ListPrincipalsResponse| -> Vec<String> {
        answer.principals.into_iter().map(|principal| principal.name).collect()
    };
    let request = ListPrincipalsRequest::default();
    let known = server.owner.list_principals(&request).await.unwrap();
    assert_eq!(names(known), ["owner"]);

    let database = server.data.join("control.sqlite");
    let of = |tenant: &str| -> Vec<u8> {
        let sql = "SELECT wrapped FROM content_key WHERE tenant = ?1";
        let control = Connection::open(&database).unwrap();
        control.query_row(sql, [tenant], |row| row.get(0)).unwrap()
    };
    let put = |wrapped: &[u8]| {
        let control = Connection::open(&database).unwrap();
        let sql = "UPDATE content_key SET wrapped = ?1 WHERE tenant = 'main'";
        assert_eq!(control.execute(sql, [wrapped]).unwrap(), 1);
    };
    let (own, others) = (of("main"), of("acme"));
    let mut flipped = own.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for wrong in [&flipped, &others] {
        server.terminate();
        put(wrong);
        server.restart();
        let refused = server.owner.list_principals(&request).await;
        assert!(refused.is_err(), "{refused:?}");
        server.terminate();
        put(&own);
        server.restart();
        let known = server.owner.list_principals(&request).await.unwrap();
        assert_eq!(names(known), ["owner"]);
    }
}

#[test]
fn a_wrong_pin_or_token_refuses_the_start() {
    let token = Token::new();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tally.yaml");
    let data = folder.path().join("data");
    let other = token.yaml("pin").replace("pin_file", "token: other, pin_file");
    for (yaml, sentence) in [
        (token.yaml("wrong"), "the token `tally` refuses the PIN"),
        (other, "0 tokens have the label `other`"),
    ] {
        fs::write(&config, yaml).unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
        let refused = token.tally(&[&serve[..], &["--data", data.to_str().unwrap()]].concat());
        assert_code(&refused, 64);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains(sentence) && told.lines().count() == 1, "{told}");
        assert!(!told.contains("0000"), "the PIN is not shown: {told}");
        assert!(!data.exists(), "nothing was made");
    }
}
