//! Secrets: what goes in comes out nowhere.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use proto::identity::principal::Kind;
use serde_json::json;
use testkit::Cluster;

use crate::common::postgres::migrated;
use crate::common::wire::Wire;
use crate::common::{Server, assert_code, command, json as printed, text};

/// Values that are nowhere by chance.
const VALUES: [&str; 4] = [
    "first-Jx7Qm2-value-of-a-secret",
    "second-Vb9Rt4-value-of-a-secret",
    "third-Kd3Wz8-value-of-a-secret",
    "fourth-Ly6Pn1-value-of-a-secret",
];

/// Runs the program with `value` on its standard input.
fn piped(server: &Server, args: &[&str], value: &str) -> Output {
    let mut command = command(args);
    command.env("TALLY_URL", &server.url).env("TALLY_API_KEY", server.owner_key());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

/// Every form in which a value could be written down by mistake.
fn traces(value: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use kernel::values::Digest;
    let digest = Digest::of(value.as_bytes());
    vec![
        value.as_bytes().to_vec(),
        STANDARD.encode(value).trim_end_matches('=').as_bytes().to_vec(),
        URL_SAFE_NO_PAD.encode(value).into_bytes(),
        digest.hex().into_bytes(),
        digest.0.to_vec(),
    ]
}

#[track_caller]
fn nowhere(what: &str, bytes: &[u8]) {
    for value in VALUES {
        for trace in traces(value) {
            let found = bytes.windows(trace.len()).any(|window| window == trace);
            assert!(!found, "{what} has a trace of {value}");
        }
    }
}

fn files(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path);
        } else {
            nowhere(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
}

/// Puts, rotates and removes secrets in every way there is; whatever is answered has no value.
async fn use_them(server: &Server) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, format!("{}\n", VALUES[1])).unwrap();
    let put = piped(server, &["secret", "put", "github", "--json"], VALUES[0]);
    assert_code(&put, 0);
    assert_eq!(
        (&printed(&put)["name"], &printed(&put)["version"]),
        (&"github".into(), &"1".into())
    );
    let mut outputs = vec![put];
    let path = file.to_str().unwrap();
    let owner = server.owner_key();
    let rotated = server.tally(&owner, &["secret", "rotate", "github", "--from-file", path]);
    assert_code(&rotated, 0);
    let mut from_env = command(&["secret", "put", "other", "--from-env", "THE_VALUE"]);
    from_env.env("TALLY_URL", &server.url).env("TALLY_API_KEY", &owner);
    let from_env = from_env.env("THE_VALUE", VALUES[2]).output().unwrap();
    assert_code(&from_env, 0);
    let twice = piped(server, &["secret", "put", "github", "--json"], VALUES[3]);
    assert_eq!(printed(&twice)["error"]["code"], "already_exists");
    let removed = server.tally(&owner, &["secret", "remove", "other"]);
    assert_code(&removed, 0);
    let list = server.tally(&owner, &["secret", "list"]);
    assert!(text(&list).contains("github") && !text(&list).contains("other"), "{list:?}");
    outputs.extend([rotated, from_env, twice, removed, list]);
    for output in &outputs {
        nowhere("standard output", &output.stdout);
        nowhere("standard error", &output.stderr);
    }
    refused(server, &owner).await;
}

/// Requests that fail in every way, with the value in them.
async fn refused(server: &Server, owner: &str) {
    let wire = Wire::new(&server.url);
    let value = VALUES[3];
    let cases = [
        ("/v1/secrets", json!({"name": "bad name", "value": value}), "invalid_argument"),
        ("/v1/secrets", json!({"name": "oauth:x", "value": value}), "invalid_argument"),
        ("/v1/secrets", json!({"name": "github", "value": value}), "already_exists"),
        ("/v1/secrets", json!({"name": "empty", "value": ""}), "invalid_argument"),
        ("/v1/secrets", json!({"name": "x", "value": value, "more": value}), "invalid_body"),
        ("/v1/secrets", json!({"name": "x", "value": [value]}), "invalid_body"),
        ("/v1/secrets/absent/rotate", json!({"value": value}), "not_found"),
        ("/v1/secrets/other/rotate", json!({"value": value}), "not_found"),
        ("/v1/secrets/absent/remove", json!({}), "not_found"),
    ];
    for (path, body, code) in cases {
        let reply = wire.ask_as(owner, "POST", path).json(&body).send().await;
        assert_eq!(reply.code(), code, "{path}");
        nowhere(path, reply.text().as_bytes());
    }
    for path in ["/v1/secrets", "/v1/receipts?page_size=200", "/metrics"] {
        let reply = wire.ask_as(owner, "GET", path).send().await;
        assert_eq!(reply.status, 200, "{path}");
        nowhere(path, &reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_in_no_file_no_log_no_receipt_and_no_answer() {
    let mut server = Server::start("");
    use_them(&server).await;
    server.terminate();
    nowhere("the log of the server", server.log().as_bytes());
    files(&server.data);
    server.offline("verify");
    server.restart();
    let list = server.tally(&server.owner_key(), &["secret", "list", "--json"]);
    assert_eq!(printed(&list)["secrets"][0]["version"], "2", "it lasts");
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_the_store_is_postgresql() {
    let cluster = Cluster::start();
    let database = migrated(&cluster);
    let mut server = Server::start_on(&database, "");
    use_them(&server).await;
    server.terminate();
    nowhere("the log of the server", server.log().as_bytes());
    for store in server.stores() {
        for log in store.logs().unwrap() {
            let content = store.content("main", "secret/github", "value").unwrap();
            if let Some(row) = content {
                nowhere("the sealed row", &row.sealed);
            }
            assert!(store.content("main", "secret/other", "value").unwrap().is_none(), "{log:?}");
        }
    }
    server.offline("verify");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_for_operators_and_values_for_admins_and_never_delegated() {
    let server = Server::start("");
    let wire = Wire::new(&server.url);
    let put = |name: &str| json!({"name": name, "value": VALUES[0]});
    for (kind, role, reads, writes) in [
        (Kind::User, "admin", true, true),
        (Kind::User, "operator", true, false),
        (Kind::User, "auditor", false, false),
        (Kind::Agent, "agent", false, false),
    ] {
        let key = server.key(kind, &[role], "dev").await;
        let list = wire.ask_as(&key, "GET", "/v1/secrets").send().await;
        assert_eq!(list.status, if reads { 200 } else { 403 }, "{role}");
        let made = wire.ask_as(&key, "POST", "/v1/secrets").json(&put(role)).send().await;
        assert_eq!(made.status, if writes { 200 } else { 403 }, "{role}");
    }
    assert!(!kernel::delegation::delegable("secrets:write"));
    assert!(!kernel::delegation::delegable("secrets:read"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_secrets_of_its_own() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let body = json!({"tenant": "acme"});
    let made = wire.ask_as(&owner, "POST", "/v1/tenants").json(&body).send().await.good();
    let other = made["owner"]["key"].as_str().unwrap();
    let body = json!({"name": "github", "value": VALUES[0]});
    wire.ask_as(&owner, "POST", "/v1/secrets").json(&body).send().await.good();
    let list = wire.ask_as(other, "GET", "/v1/secrets").send().await.good();
    assert_eq!(list["secrets"].as_array().unwrap().len(), 0);
    let path = "/v1/secrets/github/remove";
    assert_eq!(wire.ask_as(other, "POST", path).json(&json!({})).send().await.code(), "not_found");
    let body = json!({"name": "github", "value": VALUES[1]});
    let theirs = wire.ask_as(other, "POST", "/v1/secrets").json(&body).send().await.good();
    assert_eq!(theirs["version"], "1");
}
