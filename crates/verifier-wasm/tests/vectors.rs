//! The golden vectors, asked as JavaScript asks; and that the algorithms here say what the server's
//! say.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use kernel::pem;
use kernel::verify::SignatureVerifier;
use ledger::keys::NativeVerifier;
use proptest::prelude::*;
use serde_json::{Value, json};
use verifier_wasm::{PureVerifier, answer};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn dsse() -> Value {
    vectors(include_str!("../../../spec/vectors/dsse.json"))
}

fn note() -> Value {
    vectors(include_str!("../../../spec/vectors/note.json"))
}

fn proof() -> Value {
    vectors(include_str!("../../../spec/vectors/proof.json"))
}

fn base64(text: &Value) -> String {
    BASE64.encode(text.as_str().unwrap())
}

fn ask(question: &Value) -> Value {
    serde_json::from_slice(&answer(question.to_string().as_bytes())).unwrap()
}

#[track_caller]
fn accepted(question: &Value) -> Value {
    let answer = ask(question);
    assert_eq!((&answer["valid"], &answer["errors"]), (&json!(true), &json!([])), "{question}");
    answer
}

#[track_caller]
fn refused(question: &Value, code: &Value) {
    let answer = ask(question);
    let codes = answer["errors"].as_array().unwrap();
    let (valid, trust) = (&answer["valid"], &answer["trust"]);
    assert_eq!((valid, trust), (&json!(false), &json!("unknown")), "{question}");
    assert_eq!((codes.len(), &codes[0]["code"]), (1, code), "{question}");
}

#[test]
fn notes() {
    let note = note();
    let ask_about = |case: &Value| {
        let checkpoint = base64(&case["note"]);
        json!({"check": "checkpoint", "checkpoint": checkpoint, "log_key": note["vkey"]})
    };
    for case in note["accepted"].as_array().unwrap() {
        let answer = accepted(&ask_about(case));
        assert_eq!(answer["trust"], "caller_supplied");
        let expected =
            json!({"origin": case["origin"], "size": case["size"], "root": case["root"]});
        assert_eq!(answer["checkpoint"], expected);
    }
    for case in note["refused"].as_array().unwrap() {
        refused(&ask_about(case), &case["code"]);
    }
}

#[test]
fn attestations() {
    let vectors = vectors(include_str!("../../../spec/vectors/attestation.json"));
    let ask_about = |document: &Value| {
        json!({
            "check": "attestation",
            "document": BASE64.encode(document.to_string()),
            "now_us": vectors["now_us"],
            "agent": base64(&vectors["agent"]),
            "input": base64(&vectors["input"]),
            "output": base64(&vectors["output"]),
            "level": "full",
        })
    };
    let good = &vectors["accepted"];
    let answer = accepted(&ask_about(good));
    assert_eq!((&answer["trust"], &answer["attestation"]["index"]), (&json!("unknown"), &json!(7)));
    assert_eq!(answer["attestation"]["attestation"], good["attestation"]);
    let with = |name: &str, value: Value| {
        let mut question = ask_about(good);
        question[name] = value;
        question
    };
    let pinned = with("log_key", good["log_key"].clone());
    assert_eq!(accepted(&pinned)["trust"], "unknown", "the other key came with it");
    let mut pinned = with("keys", json!([good["receipt_key"]]));
    pinned["log_key"] = good["log_key"].clone();
    assert_eq!(accepted(&pinned)["trust"], "caller_supplied");
    refused(&with("max_age_s", json!(1)), &json!("attestation_too_old"));
    refused(&ask_about(&vectors["expired"]), &json!("attestation_expired"));
    refused(&with("agent", json!("eA==")), &json!("attestation_other_content"));
    refused(&with("execution_id", json!("act_2")), &json!("attestation_other_execution"));
    refused(&with("execution_id", json!("A")), &json!("question_execution"));
    for case in vectors["refused"].as_array().unwrap() {
        let mut changed = good.clone();
        *changed.pointer_mut(case["field"].as_str().unwrap()).unwrap() = case["value"].clone();
        refused(&ask_about(&changed), &case["code"]);
    }
}

#[test]
fn proofs() {
    let proof = proof();
    let ask_about = |case: &Value| {
        json!({
            "check": "inclusion", "trust": "pinned", "log_key": proof["vkey"],
            "envelope": base64(&case["entry"]), "proof": base64(&case["proof"]),
        })
    };
    for case in proof["accepted"].as_array().unwrap() {
        let answer = accepted(&ask_about(case));
        assert_eq!(answer["trust"], "pinned");
        assert_eq!(answer["checkpoint"]["size"], case["size"]);
    }
    for case in proof["refused"].as_array().unwrap() {
        refused(&ask_about(case), &case["code"]);
    }
}

#[test]
fn envelopes() {
    let dsse = dsse();
    let spki = BASE64.decode(dsse["spki_der"].as_str().unwrap()).unwrap();
    let ask_about = |case: &Value, keys: Value| {
        let envelope = base64(&case["envelope"]);
        json!({"check": "receipt", "envelope": envelope, "keys": keys})
    };
    for case in dsse["refused"].as_array().unwrap() {
        refused(&ask_about(case, json!([pem::encode(&spki)])), &case["code"]);
    }
    for case in dsse["accepted"].as_array().unwrap() {
        // Signed, but no receipts.
        let malformed = json!("receipt_malformed");
        refused(&ask_about(case, json!([pem::encode(&spki)])), &malformed);
        refused(&ask_about(case, json!([])), &json!("verify_unknown_key"));
        refused(&ask_about(case, json!(["a key"])), &json!("question_key"));
    }
}

/// The keys of the log of `signing-key.json` as a tenant publishes them, beside a key of another
/// purpose.
fn published(vectors: &Value) -> Value {
    let ranges = vectors["ranges"].as_array().unwrap().iter();
    let keys = ranges.zip(vectors["keys"].as_array().unwrap()).map(|(range, key)| {
        let spki = BASE64.decode(key.as_str().unwrap()).unwrap();
        let mut key = json!({
            "key_id": range["key_id"], "purpose": "receipt", "origin": vectors["origin"],
            "public_key_pem": pem::encode(&spki), "from_index": range["from"].to_string(),
        });
        if !range["to"].is_null() {
            key["to_index"] = json!(range["to"].to_string());
        }
        key
    });
    let log = json!({"purpose": "log", "origin": vectors["origin"], "vkey": "x"});
    json!({"keys": keys.chain([log]).collect::<Vec<_>>()})
}

#[test]
fn receipt_keys_and_their_ranges() {
    let vectors = vectors(include_str!("../../../spec/vectors/signing-key.json"));
    let published = published(&vectors);
    let ask_about = |envelope: &Value, with: (&str, &Value)| {
        let mut question = json!({"check": "receipt", "envelope": base64(envelope)});
        question[with.0] = with.1.clone();
        question
    };
    let pems: Value = published["keys"]
        .as_array()
        .unwrap()
        .iter()
        .take(3)
        .map(|key| key["public_key_pem"].clone())
        .collect();
    for (index, envelope) in vectors["accepted"].as_array().unwrap().iter().enumerate() {
        let answer = accepted(&ask_about(envelope, ("published", &published)));
        assert_eq!(answer["receipt"]["index"], index);
        accepted(&ask_about(envelope, ("keys", &pems)));
    }
    let refused_ones = vectors["refused"].as_array().unwrap();
    for case in refused_ones {
        let question = ask_about(&case["envelope"], ("published", &published));
        refused(&question, &json!("key_outside_range"));
        // Which key is the log's there, the keys alone do not say.
        accepted(&ask_about(&case["envelope"], ("keys", &pems)));
    }
    assert!(!refused_ones.is_empty());

    let envelope = &vectors["accepted"][0];
    let mut gap = published.clone();
    gap["keys"][1]["from_index"] = json!(3);
    refused(&ask_about(envelope, ("published", &gap)), &json!("key_ranges_invalid"));
    let mut none = published.clone();
    none["keys"].as_array_mut().unwrap().drain(..3);
    refused(&ask_about(envelope, ("published", &none)), &json!("question_malformed"));
    let mut both = ask_about(envelope, ("published", &published));
    both["keys"] = pems;
    refused(&both, &json!("question_malformed"));
    let bundle = json!({"check": "bundle", "files": {}, "published": none});
    refused(&bundle, &json!("question_malformed"));
    let mut unreadable = published;
    unreadable["keys"][0]["to_index"] = json!("two");
    refused(&ask_about(envelope, ("published", &unreadable)), &json!("question_malformed"));
}

#[test]
fn a_key_has_one_encoding() {
    let dsse = dsse();
    let case = &dsse["accepted"][0];
    let envelope = vectors(case["envelope"].as_str().unwrap());
    let text = |value: &Value| BASE64.decode(value.as_str().unwrap()).unwrap();
    let (spki, sig) = (text(&dsse["spki_der"]), text(&envelope["signatures"][0]["sig"]));
    let pae = case["pae"].as_str().unwrap().as_bytes();
    let (header, point) = spki.split_at(spki.len() - 65);
    let parity = point[64] & 1;
    let hybrid = [header, &[6 | parity], &point[1..]].concat();
    let compressed = [header, &[2 | parity], &point[1..33]].concat();
    for (spki, good) in [(&spki, true), (&hybrid, false), (&compressed, false)] {
        assert_eq!(PureVerifier.p256_sha256(spki, pae, &sig), good, "{spki:x?}");
        assert_eq!(NativeVerifier.p256_sha256(spki, pae, &sig), good, "{spki:x?}");
    }
}

#[test]
fn questions_that_make_no_sense() {
    for question in [
        json!({}),
        json!([]),
        json!({"check": "weather"}),
        json!({"check": "receipt", "envelope": "e30=", "keys": [], "trust": "unknown"}),
        json!({"check": "receipt", "envelope": "e30", "keys": []}),
        json!({"check": "receipt", "envelope": "e30=", "keys": [], "more": 1}),
        json!({"check": "bundle"}),
        json!({"check": "bundle", "tar": "", "files": {}}),
    ] {
        refused(&question, &json!("question_malformed"));
    }
    let none = json!({"check": "bundle", "tar": ""});
    refused(&none, &json!("bundle_archive"));
    let empty = ask(&json!({"check": "bundle", "files": {}}));
    assert_eq!((&empty["valid"], &empty["receipts"]), (&json!(false), &json!(0)));
    let key = json!({"check": "checkpoint", "checkpoint": "", "log_key": "x"});
    refused(&key, &json!("note_verifier_key"));
}

proptest! {
    #[test]
    fn the_algorithms_agree_with_the_servers(
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        part in 0..3_usize,
        case in 0..3_usize,
    ) {
        let dsse = dsse();
        let case = &dsse["accepted"][case];
        let envelope = vectors(case["envelope"].as_str().unwrap());
        let text = |value: &Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let mut parts = [
            text(&dsse["spki_der"]),
            case["pae"].as_str().unwrap().as_bytes().to_vec(),
            text(&envelope["signatures"][0]["sig"]),
        ];
        let check = |parts: &[Vec<u8>; 3]| {
            let [spki, message, sig] = parts;
            let (pure, native) = (PureVerifier, NativeVerifier);
            (pure.p256_sha256(spki, message, sig), native.p256_sha256(spki, message, sig))
        };
        prop_assert_eq!(check(&parts), (true, true));
        let at = at.index(parts[part].len());
        parts[part][at] ^= 1 << bit;
        prop_assert_eq!(check(&parts), (false, false));
    }

    #[test]
    fn any_question_is_answered(question in prop::collection::vec(any::<u8>(), 0..200)) {
        let answer: Value = serde_json::from_slice(&answer(&question)).unwrap();
        prop_assert_eq!(&answer["valid"], false);
    }
}
