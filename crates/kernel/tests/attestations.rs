//! Attestation documents: what is believed of one, and that no field of it can be changed.
//!
//! `TALLY_WRITE_VECTORS=1 cargo test -p kernel --test attestations` writes
//! `spec/vectors/attestation.json` anew.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod document;
mod golden;
mod story;

use std::collections::BTreeMap;

use ed25519_dalek::Signer as _;
use kernel::action;
use kernel::attestation::{
    Attestation, Check, Disclosure, Document, Given, Level, Refused, ToolCall, Verified, salted,
    verify,
};
use kernel::bundle::Pinned;
use kernel::ids::{ActionId, ToolId};
use kernel::note::{Checkpoint, Note, NoteSignature};
use kernel::proof::TlogProof;
use kernel::receipt::{LogId, Statement};
use kernel::signing_key::LogKeys;
use kernel::tree;
use kernel::values::{Digest, Timestamp};
use kernel::verify::Trust;
use kernel::{dsse, limits, pem};
use serde_json::{Map, Value, json};

use document::{HOST, Pure, document, envelopes, find, log_key, now, seal, spki};
use golden::golden;
use story::sandbox::{AGENT, INPUT, OUTPUT, SALT, attest, attestation, disclosure};

fn good() -> Document {
    document(&attestation(), disclosure())
}

/// The document of an attestation that discloses all.
fn shown(attestation: &Attestation) -> Document {
    document(attestation, disclosure())
}

fn checked(document: &impl serde::Serialize, check: &Check<'_>) -> Result<Verified, Refused> {
    verify(&serde_json::to_vec(document).unwrap(), check, &Pure)
}

fn refused(document: &impl serde::Serialize, check: &Check<'_>) -> (&'static str, String) {
    let refused = checked(document, check).unwrap_err();
    (refused.code, refused.field)
}

fn pinned(scalars: &[u8], seed: Option<u8>) -> Pinned {
    Pinned {
        keys: scalars.iter().map(|scalar| spki(*scalar)).collect(),
        vkey: seed.map(|seed| log_key(seed).0),
        trust: Trust::CallerSupplied,
        logs: LogKeys::default(),
    }
}

#[test]
fn a_document_is_believed() {
    let found = checked(&good(), &Check::at(now())).unwrap();
    assert_eq!(found.execution_id.as_str(), "act_1");
    assert_eq!(found.attestation, attestation());
    assert_eq!(found.trust, Trust::Unknown);
    assert_eq!(found.key_id, Digest::of(&spki(1)));
    let (log, _): (LogId, _) = story::logs().remove(0);
    assert_eq!(found.origin, log.origin(HOST));
    // The receipt names the agent.
    let payload = dsse::Envelope::parse(good().receipt.as_bytes()).unwrap().payload;
    let statement = Statement::parse(&payload).unwrap();
    let agent = statement.subject.iter().find(|s| s.name == "action/act_1/agent/2").unwrap();
    assert_eq!(agent.digest.sha256, Digest::of(AGENT.as_bytes()));
    assert!(story::TYPES.contains(&"action.finished"));
    assert!(story::transfers::TYPES.contains(&"transfer.sent"));
}

/// A way to change a document: the field that must be named, and the changed document.
type Changed = (String, Value);

/// Changes each value, renames each member, adds one to each object and takes one away.
fn changes(at: &str, value: &Value, put: &dyn Fn(Value) -> Value, found: &mut Vec<Changed>) {
    match value {
        Value::Object(fields) => {
            let with = |name: &str, value: Value| {
                let mut more = fields.clone();
                more.insert(name.to_owned(), value);
                put(Value::Object(more))
            };
            found.push((join(at, "extra"), with("extra", json!(1))));
            for (name, inner) in fields {
                let path = join(at, name);
                let mut fewer = fields.clone();
                fewer.remove(name);
                // What is disclosed may be withheld.
                if at != "disclosure" || name == "salt" {
                    found.push((path.clone(), put(Value::Object(fewer.clone()))));
                }
                fewer.insert(format!("{name}x"), inner.clone());
                found.push((at.to_owned(), put(Value::Object(fewer))));
                changes(&path, inner, &|changed| with(name, changed), found);
            }
        }
        Value::Array(items) => {
            let without = items.iter().skip(1).cloned().collect();
            found.push((at.to_owned(), put(Value::Array(without))));
            let twice = items.iter().chain(items).cloned().collect();
            found.push((at.to_owned(), put(Value::Array(twice))));
            for (index, inner) in items.iter().enumerate() {
                let put = |changed| {
                    let mut items = items.clone();
                    items[index] = changed;
                    put(Value::Array(items))
                };
                changes(&join(at, &index.to_string()), inner, &put, found);
            }
        }
        leaf => found.extend(flips(leaf).into_iter().map(|flip| (at.to_owned(), put(flip)))),
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Other values for a leaf: a text with one character changed, in many places.
fn flips(leaf: &Value) -> Vec<Value> {
    match leaf {
        Value::Bool(value) => vec![json!(!value), json!(0)],
        Value::Number(number) => {
            let number = number.as_i64().unwrap();
            vec![json!(number + 1), json!(number - 1), json!(-1), json!("1")]
        }
        Value::String(text) => {
            let count = text.chars().count();
            let places = (0..count).step_by(count.div_ceil(29).max(1)).chain(count.checked_sub(1));
            let flip = |place: usize| {
                let other = |(at, c): (usize, char)| match c {
                    _ if at != place => c,
                    'a' => 'b',
                    '0' => '1',
                    c if c.is_ascii_digit() => '0',
                    _ => 'a',
                };
                json!(text.chars().enumerate().map(other).collect::<String>())
            };
            let others = [json!(format!("{text}a")), json!(""), json!(null), json!(1)];
            places.map(flip).chain(others).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn no_field_can_be_changed() {
    let good = serde_json::to_value(good()).unwrap();
    let check = Check::at(now());
    let given = pinned(&[1], Some(7));
    let pinned = Check { pinned: Some(&given), ..check.clone() };
    let mut found = Vec::new();
    changes("", &good, &|changed| changed, &mut found);
    assert!(found.len() > 700, "{}", found.len());
    for (field, changed) in found {
        assert_ne!(changed, good, "{field}");
        for check in [&check, &pinned] {
            let refused = match checked(&changed, check) {
                Err(refused) => refused,
                Ok(_) => panic!("{field} was changed: {changed}"),
            };
            // What is disclosed is hashed as a whole.
            let part = field.split('.').take(2).collect::<Vec<_>>().join(".");
            let named = match field.starts_with("disclosure") {
                true => part.starts_with(&refused.field) || refused.field.starts_with(&part),
                false => refused.field.starts_with(&field),
            };
            assert!(named, "{field} was changed, and named is {refused}");
        }
    }
}

#[test]
fn only_trusted_keys_count() {
    let check = Check::at(now());
    let document = good();
    let by = |given: &Pinned| {
        let check = Check { pinned: Some(given), ..check.clone() };
        checked(&document, &check).map(|found| found.trust).map_err(|e| (e.code, e.field))
    };
    let err = |code, field: &str| Err((code, field.to_owned()));
    assert_eq!(by(&pinned(&[2, 1], Some(7))), Ok(Trust::CallerSupplied));
    assert_eq!(by(&pinned(&[1], None)), Ok(Trust::Unknown));
    assert_eq!(by(&pinned(&[], Some(7))), Ok(Trust::Unknown));
    assert_eq!(by(&pinned(&[2], Some(7))), err("verify_unknown_key", "receipt"));
    assert_eq!(by(&pinned(&[1], Some(8))), err("attestation_other_log_key", "log_key"));
    // Somebody else signs the same: by their own keys it is right, by the trusted ones it is not.
    let payload = dsse::Envelope::parse(document.receipt.as_bytes()).unwrap().payload;
    let forged = Document {
        receipt: seal(&payload, 2),
        receipt_key: pem::encode(&spki(2)),
        ..document.clone()
    };
    let given = pinned(&[1], Some(7));
    let trusting = Check { pinned: Some(&given), ..check.clone() };
    assert_eq!(refused(&forged, &trusting), ("verify_unknown_key", "receipt".to_owned()));
    // And not in the log.
    let permit = dsse::Envelope::parse(document.permit_receipt.as_bytes()).unwrap().payload;
    let forged = Document { permit_receipt: seal(&permit, 2), ..forged };
    assert_eq!(refused(&forged, &check), ("tree_root", "proof".to_owned()));
    // The key was rotated between the two receipts.
    let rotated = Document {
        permit_receipt: seal(&permit, 3),
        permit_receipt_key: Some(pem::encode(&spki(3))),
        ..document.clone()
    };
    assert_eq!(checked(&rotated, &check).unwrap().trust, Trust::Unknown);
    let given = pinned(&[1, 3], Some(7));
    let trusting = Check { pinned: Some(&given), ..check.clone() };
    assert_eq!(checked(&rotated, &trusting).unwrap().trust, Trust::CallerSupplied);
}

#[test]
fn other_receipts_do_not_stand_in() {
    let check = Check::at(now());
    let all = envelopes(Some(&attestation()), &[1]);
    let first = find(&all, |c| matches!(c, action::Change::Started(a) if a.number == 1));
    let document = good();
    // The permit of another attempt, the outcome itself, and any other receipt.
    for other in [all[first].1.clone(), document.receipt.clone(), all[0].1.clone()] {
        let changed = Document { permit_receipt: other, ..document.clone() };
        let expect = ("attestation_other_permit", "permit_receipt".to_owned());
        assert_eq!(refused(&changed, &check), expect);
    }
    for (_, other) in all.iter().filter(|(_, envelope)| *envelope != document.receipt) {
        let changed = Document { receipt: other.clone(), ..document.clone() };
        assert_eq!(refused(&changed, &check).0, "attestation_other_execution");
    }
    let other = ActionId::new("act_2").unwrap();
    let asked = Check { execution_id: Some(other.clone()), ..check.clone() };
    let expect = ("attestation_other_execution", "execution_id".to_owned());
    assert_eq!(refused(&document, &asked), expect);
    let named = Document { execution_id: other, ..document.clone() };
    assert_eq!(refused(&named, &check), expect);
    // An outcome that attests nothing.
    let silent = envelopes(None, &[1]);
    let ended = find(&silent, |c| matches!(c, action::Change::Finished { .. }));
    let leaf = tree::leaf_hash(silent[ended].1.as_bytes());
    let (key, signing) = log_key(7);
    let index = u64::try_from(ended).unwrap();
    let text = Checkpoint { origin: key.name().to_owned(), size: 1, root: leaf }.text().unwrap();
    let signature = signing.sign(text.as_bytes()).to_bytes().to_vec();
    let checkpoint = Note::new(&text, vec![NoteSignature::by(&key, signature)]).unwrap();
    let proof = |index| {
        let hashes = Vec::new();
        let checkpoint = checkpoint.clone();
        TlogProof { extra: Vec::new(), index, hashes, checkpoint }.to_string()
    };
    let silent = Document {
        receipt: silent[ended].1.clone(),
        proof: proof(0),
        checkpoint: checkpoint.to_string(),
        ..document
    };
    // Its place in the log is what it says.
    assert_ne!(index, 0);
    let expect = ("attestation_other_place", "proof".to_owned());
    assert_eq!(refused(&silent, &check), expect);
}

#[test]
fn an_attestation_is_good_for_a_time() {
    let attestation = attest(Level::Full, &disclosure(), None);
    let ended = attestation.ended_at;
    let document = document(&attestation, disclosure());
    let at = |now: Timestamp, max_age_s: Option<i64>| {
        let max_age_micros = max_age_s.map(|s| s * 1_000_000);
        let check = Check { max_age_micros, ..Check::at(now) };
        checked(&document, &check).map(drop).map_err(|refused| (refused.code, refused.field))
    };
    let second = |s: i64| ended.plus_micros(s * 1_000_000);
    let err = |code, field: &str| Err((code, field.to_owned()));
    assert_eq!(at(second(10), None), Ok(()));
    assert_eq!(at(second(300), Some(300)), Ok(()));
    let old = err("attestation_too_old", "attestation.ended_at");
    assert_eq!(at(second(300).plus_micros(1), Some(300)), old);
    assert_eq!(at(second(1), Some(0)), old);
    let day = 24 * 3_600;
    assert_eq!(at(second(90 * day), None), Ok(()));
    let gone = err("attestation_expired", "attestation.not_after");
    assert_eq!(at(second(90 * day + 1), None), gone);
    assert_eq!(at(Timestamp(i64::MAX), Some(i64::MAX / 1_000_000)), gone);
    // Clocks differ by a minute, and no more.
    let future = "attestation_from_the_future";
    assert_eq!(at(story::time(7).plus_micros(-59_000_000), None), Ok(()));
    assert_eq!(at(story::time(7).plus_micros(-60_000_001), None).unwrap_err().0, future);
    assert_eq!(at(second(-61), None).unwrap_err().0, future);
    assert_eq!(at(Timestamp(i64::MIN), None).unwrap_err().0, future);
}

#[test]
fn what_ran_can_be_compared() {
    let document = good();
    let with = |given: Given<'_>| {
        let check = Check { given, ..Check::at(now()) };
        checked(&document, &check).map(drop).map_err(|refused| (refused.code, refused.field))
    };
    let err = |code, field: &str| Err((code, field.to_owned()));
    let agent = |agent: &'static str| Given { agent: Some(agent.as_bytes()), ..Given::default() };
    let input = |input: &'static str| Given { input: Some(input.as_bytes()), ..Given::default() };
    let output = |text: &'static str| Given { output: Some(text.as_bytes()), ..Given::default() };
    assert_eq!(with(agent(AGENT)), Ok(()));
    assert_eq!(
        with(agent("def run(input): pass")),
        err("attestation_other_content", "attestation.agent_hash")
    );
    assert_eq!(with(input(INPUT)), Ok(()));
    assert_eq!(with(input("{}")), err("attestation_other_content", "attestation.input_hash"));
    assert_eq!(with(output(OUTPUT)), Ok(()));
    assert_eq!(with(output("{\"status\": 200}\n")), Ok(()), "the same JSON in another spelling");
    assert_eq!(with(output("500")), err("attestation_other_content", "attestation.output_hash"));
    // Without the salt nothing can be compared, and nothing is guessed.
    let withheld = document_withheld();
    let check = Check { given: input(INPUT), ..Check::at(now()) };
    let missing = ("attestation_salt_missing", "disclosure.salt".to_owned());
    assert_eq!(refused(&withheld, &check), missing);
    assert!(checked(&withheld, &Check::at(now())).is_ok());
    // The hash of the salt stands for one salt only.
    assert_eq!(attestation().salt_hash, Digest::of(SALT.as_bytes()));
    assert_eq!(attestation().input_hash, salted(SALT, INPUT.as_bytes()));
}

fn document_withheld() -> Document {
    document(&attestation(), Disclosure::default())
}

#[test]
fn a_basic_attestation_tells_hashes_alone() {
    let basic = attest(Level::Basic, &disclosure(), None);
    let fields: Map<String, Value> =
        serde_json::from_value(serde_json::to_value(&basic).unwrap()).unwrap();
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "agent_hash",
            "code_kind",
            "ended_at",
            "ending",
            "input_hash",
            "level",
            "not_after",
            "output_hash",
            "salt_hash",
            "sandbox_id",
            "sandbox_type",
            "seed_hash",
            "started_at"
        ]
    );
    let salt = Some(SALT.to_owned());
    let shown = document(&basic, Disclosure { salt, ..Disclosure::default() });
    assert!(checked(&shown, &Check::at(now())).is_ok());
    let full = Check { level: Level::Full, ..Check::at(now()) };
    let expect = ("attestation_level", "attestation.level".to_owned());
    assert_eq!(refused(&shown, &full), expect);
    assert!(checked(&good(), &full).is_ok());
    // What it has no hash of cannot be shown with it.
    let expect = ("attestation_hash", "disclosure.capabilities".to_owned());
    assert_eq!(refused(&document(&basic, disclosure()), &Check::at(now())), expect);
}

#[test]
fn a_full_attestation_is_whole() {
    let spoil = |spoil: fn(&mut Attestation)| {
        let mut attestation = attestation();
        spoil(&mut attestation);
        refused(&document(&attestation, Disclosure::default()), &Check::at(now()))
    };
    for (spoiled, field) in [
        (spoil(|a| a.limits = None), "limits"),
        (spoil(|a| a.fuel_used = None), "fuel_used"),
        (spoil(|a| a.capabilities_hash = None), "capabilities_hash"),
        (spoil(|a| a.runtime = None), "runtime"),
        (spoil(|a| a.tool_calls_hash = None), "tool_calls_hash"),
        (spoil(|a| a.tool_calls.clear()), "tool_calls"),
    ] {
        assert_eq!(spoiled, ("attestation_incomplete", format!("attestation.{field}")));
    }
    let other = spoil(|a| a.tool_calls[0].failed = false);
    assert_eq!(other, ("attestation_hash", "attestation.tool_calls".to_owned()));
    let other = spoil(|a| a.tool_hashes.clear());
    assert_eq!(other, ("attestation_hash", "attestation.tool_hashes".to_owned()));
    let other = spoil(|a| a.ended_at = Timestamp(a.started_at.0 - 1));
    assert_eq!(other, ("attestation_times", "attestation.ended_at".to_owned()));
}

/// Calls of tools with the longest names there are.
fn many(calls: u32, tools: u32) -> Disclosure {
    let tool = |i: u32| {
        let own = format!("{:0>width$}", i % tools, width = limits::MCP_TOOL_NAME_BYTES_MAX);
        ToolId::mcp(&"s".repeat(limits::SERVER_NAME_BYTES_MAX), &own).unwrap()
    };
    let call = |seq: u32| ToolCall {
        seq,
        tool: Some(tool(seq)),
        action: Some(ActionId::new("a".repeat(limits::ID_BYTES_MAX)).unwrap()),
        args: Digest::of(&seq.to_be_bytes()),
        result: Digest::of(b"result"),
        failed: true,
    };
    Disclosure {
        tools: Some((0..tools).map(|i| (tool(i), Digest::of(b"manifest"))).collect()),
        tool_calls: Some((1..=calls).map(call).collect()),
        ..disclosure()
    }
}

#[test]
fn the_longest_attestation_fits_a_receipt() {
    let disclosed = many(1_000, 100);
    let attestation = attest(Level::Full, &disclosed, None);
    assert_eq!(attestation.tool_calls.len(), limits::ATTESTED_CALLS_MAX);
    assert_eq!(attestation.tool_hashes.len(), limits::ATTESTED_TOOLS_MAX);
    assert_eq!(attestation.tool_calls_made, Some(1_000));
    let shown = document(&attestation, disclosed.clone());
    assert!(checked(&shown, &Check::at(now())).is_ok());
    let envelope = dsse::Envelope::parse(shown.receipt.as_bytes()).unwrap();
    // With room for the budget's transitions, subjects and long names.
    assert!(envelope.payload.len() + 4_000 < limits::RECEIPT_PAYLOAD_BYTES_MAX);
    assert!(envelope.payload.len() > limits::RECEIPT_PAYLOAD_BYTES_MAX / 2);
    // The calls and tools that the receipt does not tell one by one are in their hash.
    let mut fewer = disclosed.clone();
    fewer.tool_calls.as_mut().unwrap()[999].failed = false;
    let expect = ("attestation_hash", "disclosure.tool_calls".to_owned());
    assert_eq!(refused(&document(&attestation, fewer), &Check::at(now())), expect);
    let mut fewer = disclosed;
    let tools: &mut BTreeMap<ToolId, Digest> = fewer.tools.as_mut().unwrap();
    *tools.values_mut().last().unwrap() = Digest::of(b"another");
    let expect = ("attestation_hash", "disclosure.tools".to_owned());
    assert_eq!(refused(&document(&attestation, fewer), &Check::at(now())), expect);
}

#[test]
fn what_is_no_document_is_refused() {
    let check = Check::at(now());
    let text = serde_json::to_string(&good()).unwrap();
    for (bad, code) in [
        (String::new(), "json_syntax"),
        ("{}".to_owned(), "attestation_malformed"),
        ("[]".to_owned(), "attestation_malformed"),
        (text.clone() + "{}", "json_syntax"),
        (text.replacen("\"attempt\":2", "\"attempt\":2,\"attempt\":2", 1), "json_duplicate_key"),
        (" ".repeat(limits::ATTESTATION_BYTES_MAX) + &text, "json_too_long"),
        (text.replacen("\"attempt\":2", "\"attempt\":2.0", 1), "attestation_differs"),
    ] {
        let refused = verify(bad.as_bytes(), &check, &Pure).unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
    }
    assert_eq!(verify(b"\xff", &check, &Pure).unwrap_err().code, "attestation_malformed");
}

const ABOUT: &str = "Attestation documents. `accepted` is believed at `now_us` by whoever trusts \
    the keys in it (the receipt key's scalar is 32 times 0x01, the log key's seed 32 times 0x07), \
    and `agent`, `input` and `output` ran. Each of refused is that document with the value \
    at `field` (an RFC 6901 pointer) replaced by `value`, and has to be refused with `code`. \
    `expired` is as good as `accepted` but for its time, which was over long ago: it has to be \
    refused with `attestation_expired`.";

#[test]
fn golden_documents() {
    let document = serde_json::to_value(good()).unwrap();
    let check = Check::at(now());
    let text = |pointer: &str| document.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let mut cases = Vec::new();
    for (field, value) in [
        ("/execution_id", json!("act_2")),
        ("/attempt", json!(1)),
        ("/status", json!("failed")),
        ("/receipt", json!(text("/permit_receipt"))),
        ("/permit_receipt", json!(text("/receipt"))),
        ("/checkpoint", json!(text("/checkpoint").replacen('\n', "\n1", 1))),
        ("/receipt_key", json!(pem::encode(&spki(2)))),
        ("/log_key", json!(log_key(8).0.to_string())),
        ("/attestation/level", json!("basic")),
        ("/attestation/agent_hash", json!(Digest::of(b"another"))),
        ("/attestation/not_after", json!(9_000_000_000_000_001_i64)),
        ("/attestation/tool_calls/0/failed", json!(false)),
        ("/disclosure/salt", json!("ffeeddccbbaa99887766554433221100")),
        ("/disclosure/capabilities/env/0", json!("*")),
        ("/disclosure/denials", json!([])),
    ] {
        let mut changed = document.clone();
        *changed.pointer_mut(field).unwrap() = value.clone();
        let refused = checked(&changed, &check).unwrap_err();
        cases.push(json!({ "field": field, "value": value, "code": refused.code }));
    }
    let over = attest(Level::Full, &disclosure(), Some(Timestamp(1)));
    let expired = serde_json::to_value(shown(&over)).unwrap();
    let expect = ("attestation_expired", "attestation.not_after".to_owned());
    assert_eq!(refused(&expired, &check), expect);
    golden(
        "attestation",
        &json!({
            "about": ABOUT,
            "now_us": now(),
            "agent": AGENT,
            "input": INPUT,
            "output": OUTPUT,
            "accepted": document,
            "refused": cases,
            "expired": expired,
        }),
    );
}
