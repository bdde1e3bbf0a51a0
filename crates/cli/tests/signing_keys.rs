//! Rotating the key that signs receipts, through the real program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kernel::dsse::{self, Envelope};
use kernel::values::Digest;
use ledger::keys::{FileKeys, KeyProvider as _, Purpose};
use proto::identity::principal::Kind;
use proto::receipts::GetReceiptRequest;
use serde_json::{Value, json as value};

use crate::common::wire::{Wire, fresh};
use crate::common::{
    Server, action, allow_all, assert_code, credentials, json, refusal, tally, text,
};

pub(crate) const ROTATE: &str = "/v1/tenants/main/signing-keys/rotate";
pub(crate) const KEYS: &str = "/v1/trust/tenants/main/keys";

/// The receipt keys of a log: state, first index, index after the last, id.
type Entry = (String, u64, Option<u64>, String);

pub(crate) fn receipt_keys(published: &Value, log: &str) -> Vec<Entry> {
    let number = |value: &Value| value.as_str().map(|text| text.parse::<u64>().unwrap());
    let keys = published["keys"].as_array().unwrap().iter();
    let of_log = keys.filter(|key| {
        key["purpose"] == "receipt" && key["origin"].as_str().unwrap().ends_with(&format!("/{log}"))
    });
    of_log
        .map(|key| {
            let text = |name: &str| key[name].as_str().unwrap().to_owned();
            let from = number(&key["from_index"]).unwrap_or_default();
            (text("state"), from, number(&key["to_index"]), text("key_id"))
        })
        .collect()
}

async fn count_words(agent: &client::Client) -> String {
    let params = value!({"input": [1, 2], "filter": "length"});
    agent.submit_action(&action("core.json_transform", &params), None).await.unwrap().action_id
}

fn export(server: &Server, folder: &Path, name: &str, args: &[&str]) -> PathBuf {
    let file = folder.join(name);
    let out = ["evidence", "export", "--out", file.to_str().unwrap()];
    assert_code(&server.tally(&server.owner_key(), &[&out, args].concat()), 0);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_keeps_every_receipt_good() {
    let mut server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let folder = tempfile::tempdir().unwrap();
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    count_words(&agent).await;
    let old = export(&server, folder.path(), "old.tar", &["--full-log"]);

    let load: Vec<_> = (0..4)
        .map(|_| {
            let agent = agent.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    count_words(&agent).await;
                }
            })
        })
        .collect();
    for _ in 0..2 {
        wire.ask_as(&owner, "POST", ROTATE).send().await.good();
    }
    for task in load {
        task.await.unwrap();
    }
    let last = count_words(&agent).await;

    let published = wire.ask("GET", KEYS).send().await.good();
    for log in ["main", "control"] {
        let keys = receipt_keys(&published, &format!("main/{log}"));
        let states: Vec<_> = keys.iter().map(|key| key.0.as_str()).collect();
        assert_eq!(states, ["retired", "retired", "active"], "{log}: {published}");
        assert_eq!((keys[0].1, keys[2].2), (0, None), "{log}");
        assert_eq!((keys[0].2, keys[1].2), (Some(keys[1].1), Some(keys[2].1)), "{log}");
    }
    let others = published["keys"].as_array().unwrap().iter().filter(|k| k["purpose"] != "receipt");
    assert!(others.into_iter().all(|key| key["state"] == "active"), "{published}");

    // The server, this program offline, and a start (which checks the control logs) agree.
    assert_code(&server.tally(&owner, &["ledger", "verify", "--workspace", "main"]), 0);
    let keys = folder.path().join("keys.json");
    let shown = server.tally(&owner, &["tenant", "keys", "main", "--json"]);
    assert_code(&shown, 0);
    fs::write(&keys, text(&shown)).unwrap();
    let first = folder.path().join("first.pem");
    let pem = published["keys"].as_array().unwrap().iter().find(|key| {
        key["purpose"] == "receipt" && key["from_index"].as_str().is_none_or(|from| from == "0")
    });
    fs::write(&first, pem.unwrap()["public_key_pem"].as_str().unwrap()).unwrap();
    let new = export(&server, folder.path(), "new.tar", &["--full-log"]);
    let one = export(&server, folder.path(), "one.tar", &["--action-id", &last]);
    for bundle in [&old, &new, &one] {
        let name = bundle.to_str().unwrap();
        for pins in [["--keys", keys.to_str().unwrap()], ["--key", first.to_str().unwrap()]] {
            assert_code(&tally(&[&["verify", name], pins.as_slice()].concat()), 0);
        }
        assert_code(&server.tally(&owner, &["evidence", "verify", name]), 0);
    }
    server.terminate();
    let data = server.data.to_str().unwrap();
    assert_code(&tally(&["ledger", "verify", "--data", data, "--host", "tally.test"]), 0);
    server.restart();
    assert_eq!(wire.ask("GET", KEYS).send().await.good(), published);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_key_is_refused_outside_its_range() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    count_words(&agent).await;
    let published = wire.ask_as(&owner, "POST", ROTATE).send().await.good();
    count_words(&agent).await;
    let old = &receipt_keys(&published, "main/main")[0];
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    fs::write(&keys, published.to_string()).unwrap();

    // Whoever has the old key still signs what happened after it was retired.
    let files = FileKeys::open(&server.data.join("keys")).unwrap();
    let key_id = Digest::parse(&old.3).unwrap();
    let retired = files.p256_by_id("main", Purpose::Receipt, &key_id).unwrap();
    for (index, valid) in [(old.2.unwrap() - 1, true), (old.2.unwrap(), false)] {
        let request = GetReceiptRequest { receipt_id: format!("main.{index}") };
        let envelope = server.owner.get_receipt(&request).await.unwrap().envelope.unwrap().text;
        let payload = Envelope::parse(envelope.as_bytes()).unwrap().payload;
        let signature = retired.sign(&dsse::pae(&payload)).unwrap();
        let forged = dsse::envelope(&payload, &key_id, &signature);
        let body = format!("{{\"envelope\":{}}}", String::from_utf8(forged.clone()).unwrap());
        let ask = wire.ask_as(&owner, "POST", "/v1/receipts/verify").bytes(body);
        let report = ask.send().await.good();
        assert_eq!(report["valid"], valid, "{report}");
        let file = folder.path().join(format!("{index}.dsse.json"));
        fs::write(&file, forged).unwrap();
        let args = ["verify", file.to_str().unwrap(), "--json", "--keys", keys.to_str().unwrap()];
        let offline = tally(&args);
        assert_code(&offline, if valid { 0 } else { 6 });
        if !valid {
            for report in [report, json(&offline)] {
                let error = report["errors"][0].as_str().unwrap();
                assert!(error.contains(&format!("may not sign receipt {index}")), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_rotate_and_how_often() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let made = wire
        .ask_as(&owner, "POST", "/v1/tenants")
        .json(&value!({"tenant": "acme"}))
        .send()
        .await
        .good();
    let theirs = made["owner"]["key"].as_str().unwrap();
    let foreign = wire.ask_as(theirs, "POST", ROTATE).send().await;
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "not_found"));
    let before = wire.ask("GET", KEYS).send().await.good();

    let auditor = server.principal(Kind::User, &["auditor"]).await;
    let request = proto::identity::RotateSigningKeysRequest { tenant: "main".to_owned() };
    let refused = refusal(auditor.rotate_signing_keys(&request, None).await);
    assert_eq!(refused, (403, "permission_denied".to_owned()));
    let admin = server.key(Kind::User, &["admin"], "dev").await;
    let once = fresh("rotation");
    let ask = |key: &str| wire.ask_as(key, "POST", ROTATE).idempotency(&once);
    let (a, b) = tokio::join!(ask(&admin).send(), ask(&admin).send());
    assert_eq!(a.good(), b.good(), "one key for one idempotency key");
    let after = ask(&admin).send().await.good();
    assert_eq!(receipt_keys(&after, "main/control").len(), 2);
    assert_eq!(receipt_keys(&before, "main/control").len(), 1);
    assert_eq!(fs::read_dir(server.data.join("keys/main")).unwrap().filter(is_later).count(), 1);

    let of_acme = wire.ask("GET", "/v1/trust/tenants/acme/keys").send().await.good();
    assert_eq!(receipt_keys(&of_acme, "acme/control").len(), 1, "another tenant's stay");

    // A workspace that is begun now begins with the newest key.
    let body = value!({"workspace": "late", "environments": ["dev"]});
    wire.ask_as(&owner, "POST", "/v1/tenants/main/workspaces").json(&body).send().await.good();
    let principal_id = credentials(&server.data)["principal_id"].clone();
    let body = value!({"principal_id": principal_id, "workspace": "late", "environment": "dev"});
    let late = wire.ask_as(&owner, "POST", "/v1/keys").json(&body).send().await.good();
    let late = late["key"].as_str().unwrap();
    let account = value!({"name": "till"});
    wire.ask_as(late, "POST", "/v1/accounts").json(&account).send().await.good();
    let published = wire.ask("GET", KEYS).send().await.good();
    let newest = receipt_keys(&published, "main/control").pop().unwrap().3;
    let expected = [("active".to_owned(), 0, None, newest)];
    assert_eq!(receipt_keys(&published, "main/late"), expected);
}

fn is_later(entry: &std::io::Result<fs::DirEntry>) -> bool {
    let name = entry.as_ref().unwrap().file_name();
    name.to_str().unwrap().starts_with("receipt-")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_cut_off_goes_on() {
    const ROUNDS: u64 = 6;
    let mut server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    count_words(&agent).await;
    for round in 0..ROUNDS {
        let key = fresh("cut-off");
        let ask = || wire.ask_as(&owner, "POST", ROTATE).idempotency(&key);
        let asked = tokio::spawn(ask().try_send());
        // Any moment will do, from before the request arrives to after its answer.
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        server.kill();
        // Whether it was answered is not known.
        let _answer = asked.await.unwrap();
        server.restart();
        let published = wire.ask("GET", KEYS).send().await.good();
        let of = |log: &str| receipt_keys(&published, log);
        let (control, main) = (of("main/control"), of("main/main"));
        let ids = |keys: &[Entry]| keys.iter().map(|key| key.3.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&control), ids(&main), "a start goes on with it: {published}");
        assert!(!published.to_string().contains("retiring"), "{published}");
        let again = ask().send().await.good();
        let now = receipt_keys(&again, "main/main").len();
        assert_eq!(now as u64, round + 2, "the same request makes one key");
        count_words(&agent).await;
    }
    assert_code(&server.tally(&owner, &["ledger", "verify", "--workspace", "main"]), 0);
    server.terminate();
    let data = server.data.to_str().unwrap();
    assert_code(&tally(&["ledger", "verify", "--data", data, "--host", "tally.test"]), 0);
}

fn sh_blocks(guide: &str) -> Vec<&str> {
    let blocks = guide.split("```sh\n").skip(1);
    blocks.filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect()
}

/// Runs every `sh` block of the `VERIFY.md` in an unpacked bundle: programs of others alone.
pub(crate) fn verify_with_openssl(bundle: &Path) -> Result<(), String> {
    let folder = bundle.with_extension("unpacked");
    fs::create_dir_all(&folder).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(bundle).arg("-C").arg(&folder).status();
    assert!(unpacked.unwrap().success());
    let guide = fs::read_to_string(folder.join("VERIFY.md")).unwrap();
    let blocks = sh_blocks(&guide);
    assert!(blocks.len() >= 5, "{guide}");
    for block in blocks {
        let run = Command::new("sh").args(["-euc", block]).current_dir(&folder).output().unwrap();
        if !run.status.success() {
            return Err(format!("{block}\n{}", String::from_utf8_lossy(&run.stderr)));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn others_programs_check_the_ranges() {
    let server = Server::start("");
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    count_words(&agent).await;
    wire.ask_as(&owner, "POST", ROTATE).send().await.good();
    count_words(&agent).await;
    let folder = tempfile::tempdir().unwrap();
    let bundle = export(&server, folder.path(), "all.tar", &["--full-log"]);
    verify_with_openssl(&bundle).unwrap();

    // Signed anew by the retired key, and listed and named by the manifest as it is.
    let unpacked = bundle.with_extension("unpacked");
    let path = unpacked.join("receipts");
    let last = fs::read_dir(&path).unwrap().count() / 2 - 1;
    let path = path.join(format!("{last}.dsse.json"));
    let payload = Envelope::parse(&fs::read(&path).unwrap()).unwrap().payload;
    let keys = FileKeys::open(&server.data.join("keys")).unwrap();
    let retired = keys.p256("main", Purpose::Receipt).unwrap();
    let signature = retired.sign(&dsse::pae(&payload)).unwrap();
    fs::write(&path, dsse::envelope(&payload, &retired.key_id(), &signature)).unwrap();
    let guide = fs::read_to_string(unpacked.join("VERIFY.md")).unwrap();
    let blocks = sh_blocks(&guide);
    let runs = |block: &str| {
        let run = Command::new("sh").args(["-euc", block]).current_dir(&unpacked).output().unwrap();
        run.status.success()
    };
    let signatures = blocks.iter().find(|block| block.contains("dgst -sha256 -verify")).unwrap();
    let ranges = blocks.iter().find(|block| block.contains("key_id")).unwrap();
    assert!(runs(signatures), "the signature itself is good");
    assert!(!runs(ranges), "but the key is not the log's there");
}
