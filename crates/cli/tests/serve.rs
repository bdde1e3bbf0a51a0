//! `tally serve`: its one line, its credentials, its end, and TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proto::identity::ListPrincipalsRequest;
use proto::policies::GetPolicyStatusRequest;

use crate::common::{Server, allow_all, assert_code, command, credentials, json, tally};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_ends_and_starts_again() {
    let mut server = Server::start("");
    let file = server.data.join("credentials.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = credentials(&server.data);
    assert_eq!(written["url"], server.url.as_str());
    assert_eq!((&written["workspace"], &written["environment"]), (&"main".into(), &"dev".into()));

    let published = server.publish(&allow_all()).await;
    assert!(server.terminate().success(), "SIGTERM ends it cleanly");
    server.restart();
    assert_eq!(credentials(&server.data), written, "the first start's file stays");
    server.kill();
    server.restart();
    let status = server.owner.get_policy_status(&GetPolicyStatusRequest {}).await.unwrap();
    assert_eq!((status.digest, status.fresh), (published.digest, true));
    let principals = server.owner.list_principals(&ListPrincipalsRequest::default()).await.unwrap();
    assert_eq!(principals.principals.len(), 1);
}

#[test]
fn one_server_for_one_folder() {
    let server = Server::start("");
    let data = server.data.to_str().unwrap();
    let second = tally(&["serve", "--data", data, "--listen", "127.0.0.1:0"]);
    assert_code(&second, 1);
    assert!(second.stdout.is_empty());
    let ledger = tally(&["ledger", "verify", "--data", data, "--host", "tally.test"]);
    assert_code(&ledger, 2);
}

#[test]
fn bad_configuration_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tally.yaml");
    for text in [
        "listen: nowhere",
        "unknown: 1",
        "policy: {ttl_s: 0}",
        "host: 'a b'",
        "[",
        "keys: {provider: paper}",
        "keys: {provider: pkcs11, pin_env: PIN}",
        "keys: {provider: pkcs11, module: /no/such/module.so}",
        "keys: {provider: pkcs11, module: /no/such/module.so, pin_env: TALLY_NO_SUCH_PIN}",
        "keys: {pin_file: pin}",
    ] {
        fs::write(&file, text).unwrap();
        let refused = tally(&["serve", "--config", file.to_str().unwrap()]);
        assert_code(&refused, 64);
        assert!(refused.stdout.is_empty(), "{text}");
        assert_eq!(String::from_utf8_lossy(&refused.stderr).lines().count(), 1, "{text}");
    }
    assert_code(&tally(&["serve", "--config", "/no/such/file"]), 64);
}

#[test]
fn https_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls: {{cert: {cert:?}, key: {key:?}}}");
    let server = Server::start(&tls);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);

    let trusting = command(&["version", "--json", "--url", &server.url])
        .env("TALLY_CA_FILE", &cert)
        .output()
        .unwrap();
    assert_code(&trusting, 0);
    assert_eq!(json(&trusting)["version"], env!("CARGO_PKG_VERSION"));
    assert_code(&tally(&["version", "--url", &server.url]), 7);
}
