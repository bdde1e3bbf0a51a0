//! What a stranger does with the attestation of a real run: the commands, without a server.

use std::fs;
use std::path::PathBuf;

use proto::sandboxes::Execution;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::place::Place;
use super::verified;
use crate::common::{assert_code, json as json_of, tally};

/// What is attested besides the execution itself, as pointers into the document.
const ATTESTED: [&str; 14] = [
    "/execution_id",
    "/attestation/sandbox_id",
    "/attestation/sandbox_type",
    "/attestation/agent_hash",
    "/attestation/tool_hashes/core.fs_read",
    "/attestation/input_hash",
    "/attestation/output_hash",
    "/attestation/tool_calls/0/args",
    "/attestation/limits/memory_bytes",
    "/attestation/fuel_used",
    "/attestation/capabilities_hash",
    "/disclosure/capabilities/env/0",
    "/attestation/runtime/digest",
    "/attestation/not_after",
];

/// Files with a document and what ran.
struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// What the command finds wrong with a document.
    fn refused(&self, document: &Value, options: &[&str]) -> (String, String) {
        let path = self.with("document.json", &document.to_string());
        let found = tally(&[&["attest", "verify", &path, "--json"], options].concat());
        assert_code(&found, 6);
        let found = json_of(&found);
        assert_eq!(found["valid"], false);
        let said = |name: &str| found["error"][name].as_str().unwrap().to_owned();
        (said("code"), said("field"))
    }
}

/// The document verifies by the command with the files that ran, and does not once any field that
/// it attests is another, the files are others, or it is too old.
pub(super) fn verifies(document: &[u8], [agent, input, output]: [&str; 3]) {
    let files = Files(tempfile::tempdir().unwrap());
    let whole: Value = serde_json::from_slice(document).unwrap();
    let good = files.with("good.json", &whole.to_string());
    let [agent, input, output] = [("agent", agent), ("input", input), ("output", output)]
        .map(|(name, content)| files.with(name, content));
    let verify = ["attest", "verify", &good, "--level", "full", "--json"];
    let ran = ["--agent", &agent, "--input", &input, "--output", &output, "--max-age", "86400"];
    let found = tally(&[&verify[..], &ran].concat());
    assert_code(&found, 0);
    assert_eq!(json_of(&found)["attestation"], whole["attestation"]);

    for pointer in ATTESTED {
        let mut forged = whole.clone();
        let leaf = forged.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}: {whole}"));
        *leaf = flips(leaf).swap_remove(0);
        let (_, named) = files.refused(&forged, &[]);
        names(pointer, &named);
    }
    let mut forged = whole.clone();
    forged["attestation"]["tee_quote"] = json!("AAAA");
    let (_, named) = files.refused(&forged, &[]);
    names("/attestation/tee_quote", &named);
    let too_old = files.refused(&whole, &["--max-age", "0"]);
    assert_eq!(too_old, ("attestation_too_old".into(), "attestation.ended_at".into()));
    for (option, field) in [
        ("--agent", "attestation.agent_hash"),
        ("--input", "attestation.input_hash"),
        ("--output", "attestation.output_hash"),
    ] {
        let other = files.with("other", "\"other\"");
        let found = files.refused(&whole, &[option, &other]);
        assert_eq!(found, ("attestation_other_content".into(), field.into()));
    }
}

/// The receipts of each call that it made verify as evidence, and do not once a byte is another.
pub(super) fn calls_are_evident(place: &Place, ended: &Execution) {
    let files = Files(tempfile::tempdir().unwrap());
    for call in &ended.tool_calls {
        let bundle = files.path(&format!("{}.tar", call.seq));
        let bundle = bundle.to_str().unwrap();
        let export = ["evidence", "export", "--action-id", &call.action_id, "--out", bundle];
        assert_code(&place.server.tally(&place.server.owner_key(), &export), 0);
        let found = tally(&["verify", bundle, "--json"]);
        assert_code(&found, 0);
        let found = json_of(&found);
        assert!(found["receipts"].as_u64().is_some_and(|count| count > 0), "{found}");
        let mut bytes = fs::read(bundle).unwrap();
        let receipt = b"\"payload\":\"";
        let at = bytes.windows(receipt.len()).position(|window| window == receipt).unwrap();
        bytes[at + receipt.len() + 40] ^= 1;
        fs::write(bundle, bytes).unwrap();
        assert_code(&tally(&["verify", bundle]), 6);
    }
}

/// Each leaf of a document, changed alone and in its own form, is refused and named.
pub(super) fn each_leaf_flipped_fails(document: &[u8]) {
    let whole: Value = serde_json::from_slice(document).unwrap();
    let (mut leaves, mut flipped) = (Vec::new(), 0);
    collect(String::new(), &whole, &mut leaves);
    for pointer in leaves {
        for other in flips(whole.pointer(&pointer).unwrap()) {
            let mut forged = whole.clone();
            *forged.pointer_mut(&pointer).unwrap() = other;
            match verified(forged.to_string().as_bytes()) {
                Err(refused) => names(&pointer, &refused.field),
                Ok(_) => panic!("{pointer} is another, and it is believed: {forged}"),
            }
            flipped += 1;
        }
    }
    assert!(flipped > 60, "{flipped}");
}

/// The pointers of all leaves. What is empty is one.
fn collect(at: String, value: &Value, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, inner) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(format!("{at}/{name}"), inner, leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, inner) in items.iter().enumerate() {
                collect(format!("{at}/{index}"), inner, leaves);
            }
        }
        _ => leaves.push(at),
    }
}

/// Other values of the same form.
fn flips(leaf: &Value) -> Vec<Value> {
    match leaf {
        Value::String(text) => vec![flipped(text).into()],
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            let fewer = number.checked_sub(1).map(Value::from);
            fewer.into_iter().chain([json!(number + 1)]).collect()
        }
        Value::Bool(yes) => vec![json!(!yes)],
        Value::Array(_) => vec![json!(["x"])],
        Value::Object(_) => vec![json!({"x": 1})],
        Value::Null => vec![json!(0)],
    }
}

/// A text with a digit or letter in its middle changed to another one: of hex, hex.
fn flipped(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let half = bytes.len() / 2;
    let plain = |at: &usize| bytes[*at].is_ascii_alphanumeric();
    let at = (half..bytes.len()).find(plain).or_else(|| (0..half).find(plain));
    match at {
        Some(at) => bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' },
        None => bytes.push(b'a'),
    }
    String::from_utf8(bytes).unwrap()
}

/// The field that is named is the one at the pointer, or what it is in, down to a member of what
/// is attested or disclosed.
#[track_caller]
fn names(pointer: &str, named: &str) {
    let field = pointer.trim_start_matches('/').replace("~1", "/").replace('/', ".");
    // Of a key and what another one signed, nobody can tell which was changed.
    let signed = ["log_key", "receipt_key", "permit_receipt_key"].contains(&&*field);
    let of_two = signed && ["proof", "receipt", "permit_receipt", "checkpoint"].contains(&named);
    let within = field.strip_prefix(named);
    let within = within.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let part = ["attestation", "disclosure"].contains(&named);
    assert!(of_two || (within && !part), "{field} was changed, and {named} is named");
}
