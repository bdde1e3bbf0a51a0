//! `tally attest verify`: attestations checked without a server.

use std::fs;
use std::path::Path;

use serde_json::{Value, json as value};
use tempfile::TempDir;

use crate::common::{assert_code, json, tally, text};

/// The golden document and what ran, as files.
struct Files {
    folder: TempDir,
    vectors: Value,
}

impl Files {
    fn new() -> Self {
        let vectors = include_str!("../../../spec/vectors/attestation.json");
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            vectors: serde_json::from_str(vectors).unwrap(),
        };
        let good = files.vectors["accepted"].clone();
        files.document("good.json", &good);
        for name in ["agent", "input", "output"] {
            files.write(name, files.vectors[name].as_str().unwrap());
        }
        files.write("receipt.pem", good["receipt_key"].as_str().unwrap());
        files.write("log.vkey", good["log_key"].as_str().unwrap());
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(Path::new(&self.path(name)), content).unwrap();
    }

    fn document(&self, name: &str, document: &Value) {
        self.write(name, &document.to_string());
    }

    /// Verifies a file, by a clock that may differ from that of the vectors by years.
    fn verify(&self, name: &str, options: &[&str]) -> std::process::Output {
        let path = self.path(name);
        let fixed = ["attest", "verify", &path, "--clock-skew", "4294967295", "--json"];
        tally(&[&fixed, options].concat())
    }
}

#[test]
fn an_attestation_verifies_offline() {
    let files = Files::new();
    let [agent, input, output] = ["agent", "input", "output"].map(|name| files.path(name));
    let (key, log_key) = (files.path("receipt.pem"), format!("@{}", files.path("log.vkey")));
    let ran = ["--agent", &agent, "--input", &input, "--output", &output];
    let found = files.verify("good.json", &ran);
    assert_code(&found, 0);
    let found = json(&found);
    assert_eq!((&found["valid"], &found["trust"]), (&value!(true), &value!("unknown")));
    assert_eq!(found["attestation"], files.vectors["accepted"]["attestation"]);

    let pinned = ["--receipt-key", &key, "--log-key", &log_key, "--level", "full"];
    let found = files.verify("good.json", &[&pinned[..], &ran, &["--execution", "act_1"]].concat());
    assert_code(&found, 0);
    assert_eq!(json(&found)["trust"], "caller_supplied");

    let shown =
        tally(&["attest", "verify", &files.path("good.json"), "--clock-skew", "4294967295"]);
    assert_code(&shown, 0);
    assert!(text(&shown).contains("by keys that came with it"), "{}", text(&shown));
}

#[test]
fn a_changed_attestation_does_not_verify() {
    let files = Files::new();
    let refused = |name: &str, options: &[&str], code: &str| {
        let found = files.verify(name, options);
        assert_code(&found, 6);
        let found = json(&found);
        assert_eq!((&found["valid"], &found["error"]["code"]), (&value!(false), &value!(code)));
        found["error"]["field"].as_str().unwrap().to_owned()
    };
    for case in files.vectors["refused"].as_array().unwrap() {
        let (field, code) = (case["field"].as_str().unwrap(), case["code"].as_str().unwrap());
        let mut changed = files.vectors["accepted"].clone();
        *changed.pointer_mut(field).unwrap() = case["value"].clone();
        files.document("changed.json", &changed);
        let named = refused("changed.json", &[], code);
        let field = field.trim_start_matches('/').replace('/', ".");
        // Of a key and what another one signed, nobody can tell which was changed.
        let named = if named == "proof" && field == "log_key" { "log_key" } else { &named };
        assert!(field.starts_with(named), "{field} was changed, and {named} is named");
    }
    // What is there is not what ran.
    let input = files.path("input");
    let other = refused("good.json", &["--agent", &input], "attestation_other_content");
    assert_eq!(other, "attestation.agent_hash");
    let other = refused("good.json", &["--output", &input], "attestation_other_content");
    assert_eq!(other, "attestation.output_hash");
    refused("good.json", &["--execution", "act_2"], "attestation_other_execution");
    // A key that is trusted, and is not the one that signed.
    let cases = files.vectors["refused"].as_array().unwrap();
    let other = cases.iter().find(|case| case["field"] == "/receipt_key").unwrap();
    files.write("other.pem", other["value"].as_str().unwrap());
    let key = files.path("other.pem");
    refused("good.json", &["--receipt-key", &key], "verify_unknown_key");
}

#[test]
fn an_attestation_is_good_for_its_time() {
    let files = Files::new();
    files.document("expired.json", &files.vectors["expired"]);
    let found = files.verify("expired.json", &[]);
    assert_code(&found, 6);
    let error = json(&found)["error"].clone();
    assert_eq!(error["code"], "attestation_expired");
    assert_eq!(error["field"], "attestation.not_after");
    // By whichever clock it is read: the vectors are of one day.
    let young = files.verify("good.json", &["--max-age", "4294967295"]);
    assert_code(&young, 0);
    assert_code(&files.verify("good.json", &["--max-age", "-1"]), 2);
}

#[test]
fn what_cannot_be_read_is_wrong_usage() {
    let files = Files::new();
    let missing = files.path("missing");
    assert_code(&tally(&["attest", "verify", &missing]), 2);
    for options in [
        ["--agent", &missing],
        ["--receipt-key", &missing],
        ["--receipt-key", &files.path("agent")],
        ["--log-key", "nonsense"],
        ["--execution", "Not An Id"],
        ["--level", "some"],
    ] {
        assert_code(&files.verify("good.json", &options), 2);
    }
}
