//! The golden vectors in `spec/vectors`, which another implementation can be tested with.
//!
//! `TALLY_WRITE_VECTORS=1 cargo test -p kernel --test vectors` writes them anew; otherwise what we
//! compute has to equal what the files say.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod golden;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::Signer as _;
use kernel::json::{self, RawJson};
use kernel::note::{Checkpoint, Note, NoteSignature, VerifierKey};
use kernel::proof::TlogProof;
use kernel::tree::{self, Frontier};
use kernel::values::Digest;
use kernel::verify::{Keys, SignatureVerifier, Trust, verify_checkpoint, verify_envelope};
use kernel::{dsse, tile};
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use serde_json::{Value, json};

use golden::golden;

/// The algorithms as the pure Rust crates have them.
struct Pure;

impl SignatureVerifier for Pure {
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool {
        let key = p256::ecdsa::VerifyingKey::from_public_key_der(spki_der);
        let signature = p256::ecdsa::DerSignature::from_bytes(sig_der);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify(message, &sig).is_ok()))
    }

    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
        let key = ed25519_dalek::VerifyingKey::from_bytes(public);
        let signature = ed25519_dalek::Signature::from_slice(sig);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify_strict(message, &sig).is_ok()))
    }
}

const ORIGIN: &str = "log.example/acme/shop";
const LOG_SEED: [u8; 32] = [7; 32];

fn note_key(name: &str, seed: [u8; 32]) -> (VerifierKey, ed25519_dalek::SigningKey) {
    let signing = ed25519_dalek::SigningKey::from_bytes(&seed);
    (VerifierKey::new(name, signing.verifying_key().to_bytes()).unwrap(), signing)
}

fn log_key() -> VerifierKey {
    note_key(ORIGIN, LOG_SEED).0
}

fn sign_note(text: &str, name: &str, seed: [u8; 32]) -> NoteSignature {
    let (key, signing) = note_key(name, seed);
    NoteSignature::by(&key, signing.sign(text.as_bytes()).to_bytes().to_vec())
}

/// A note that the log signed.
fn signed(text: &str) -> Note {
    Note::new(text, vec![sign_note(text, ORIGIN, LOG_SEED)]).unwrap()
}

fn entry(index: u64) -> String {
    format!("entry {index}")
}

fn leaf(index: u64) -> Digest {
    tree::leaf_hash(entry(index).as_bytes())
}

fn leaves(size: u64) -> Vec<Digest> {
    (0..size).map(leaf).collect()
}

fn root(size: u64) -> Digest {
    let mut frontier = Frontier::default();
    leaves(size).into_iter().for_each(|leaf| frontier.push(leaf));
    frontier.root()
}

fn checkpoint(origin: &str, size: u64) -> String {
    Checkpoint { origin: origin.to_owned(), size, root: root(size) }.text().unwrap()
}

const JSON_ABOUT: &str = "Which JSON texts are accepted as parameters. Each `text` of accepted is \
    accepted and has the RFC 8785 form `canonical`; each of refused is refused, with `code`. \
    Limits: 1048576 bytes, 64 levels, numbers within +-2^53 that a 64-bit float keeps exactly.";

const JSON_ACCEPTED: &[&str] = &[
    "{}",
    " [ ] ",
    "null",
    "-0",
    "0e5000",
    "1.50",
    "1E1",
    "9007199254740992",
    "-9007199254740992",
    "1e-7",
    "5e-324",
    "0.30000000000000004",
    r#""\u20ac\u0024\u000F\u000aA'\u0042\u0022\u005c\\\"\/""#,
    r#""\ud83d\ude00""#,
    r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#,
    r#"{"b":{"z":[1,{"y":2,"x":3}],"a":true},"a":false}"#,
];

const JSON_REFUSED: &[&str] = &[
    "",
    "01",
    "1.",
    "NaN",
    "{\"a\":1,}",
    "[1 2]",
    "{'a':1}",
    "\"\t\"",
    "\u{feff}{}",
    "{} {}",
    "9007199254740993",
    "-9007199254740994",
    "1e16",
    "1e400",
    "1e-400",
    "0.1000000000000000055511151231257827",
    r#"{"a":1,"a":1}"#,
    r#"{"a":{"b":1,"\u0062":2}}"#,
    r#""\ud800""#,
    r#""\ude00\ud83d""#,
];

#[test]
fn json_texts() {
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let accept = |text: &str| {
        let form = json::canonical(&RawJson::parse(text).unwrap()).unwrap();
        json!({ "text": text, "canonical": String::from_utf8(form).unwrap() })
    };
    let refuse =
        |text: &str| json!({ "text": text, "code": RawJson::parse(text).unwrap_err().code() });
    let mut accepted: Vec<Value> = JSON_ACCEPTED.iter().map(|text| accept(text)).collect();
    accepted.push(accept(&deep(64)));
    let mut refused: Vec<Value> = JSON_REFUSED.iter().map(|text| refuse(text)).collect();
    refused.push(refuse(&deep(65)));
    golden(
        "json-accept",
        &json!({ "about": JSON_ABOUT, "accepted": accepted, "refused": refused }),
    );
}

#[test]
fn a_number_that_names_a_member_keeps_its_digits() {
    let named = BTreeMap::from([(u64::MAX, i64::MAX), (9_007_199_254_740_993, 2)]);
    let form = String::from_utf8(json::canonical(&named).unwrap()).unwrap();
    let expected = r#"{"18446744073709551615":9223372036854776000,"9007199254740993":2}"#;
    assert_eq!(form, expected);
    let below = BTreeMap::from([(i64::MIN, ()), (-9_007_199_254_740_993, ())]);
    let form = String::from_utf8(json::canonical(&below).unwrap()).unwrap();
    assert_eq!(form, r#"{"-9007199254740993":null,"-9223372036854775808":null}"#);
}

const TREE_ABOUT: &str = "The RFC 6962 SHA-256 tree whose leaf i is the text `entry i` (i in \
    decimal). Hashes are in hex. roots, inclusion and consistency have to be computed and verified \
    as given; each of refused_inclusion has to be refused, with `code` (its numbers are text, for \
    they exceed what some JSON readers keep). tiles: how many hash tiles (C2SP tlog-tiles) a tree \
    has, and the paths of the last four, level by level.";

const SIZES: [u64; 9] = [0, 1, 2, 3, 7, 8, 255, 256, 257];

fn inclusion(index: u64, size: u64) -> Value {
    let proof = tree::inclusion_proof(index, size, leaves(size).as_slice()).unwrap();
    assert_eq!(tree::verify_inclusion(&leaf(index), index, size, &root(size), &proof), Ok(()));
    json!({ "index": index, "size": size, "leaf_hash": leaf(index), "root": root(size),
        "proof": proof })
}

fn consistency(old: u64, new: u64) -> Value {
    let proof = tree::consistency_proof(old, new, leaves(new).as_slice()).unwrap();
    assert_eq!(tree::verify_consistency(old, new, &root(old), &root(new), &proof), Ok(()));
    json!({ "old": old, "new": new, "old_root": root(old), "new_root": root(new), "proof": proof })
}

/// Proofs of leaf 3 of 7, each changed so that it proves nothing.
fn refused_inclusions() -> Vec<Value> {
    let proof = tree::inclusion_proof(3, 7, leaves(7).as_slice()).unwrap();
    let cases = [
        (4, 7, proof.clone()),
        (3, 9, proof.clone()),
        (7, 7, proof.clone()),
        (u64::MAX, u64::MAX, proof.clone()),
        (3, 7, proof[1..].to_vec()),
        (3, 7, [&proof[..], &[root(7)]].concat()),
        (3, 7, proof.iter().rev().copied().collect()),
        (3, 7, Vec::new()),
    ];
    let refuse = |(index, size, proof): (u64, u64, Vec<Digest>)| {
        let error = tree::verify_inclusion(&leaf(3), index, size, &root(7), &proof).unwrap_err();
        json!({ "index": index.to_string(), "size": size.to_string(), "leaf_hash": leaf(3),
            "root": root(7), "proof": proof, "code": error.code() })
    };
    cases.into_iter().map(refuse).collect()
}

#[test]
fn trees() {
    let roots: Vec<Value> =
        SIZES.iter().map(|size| json!({ "size": size, "root": root(*size) })).collect();
    let mut inclusions = Vec::new();
    let mut consistencies = Vec::new();
    for (at, size) in SIZES.iter().enumerate() {
        let mut indexes = vec![0, size / 2, size.saturating_sub(1)];
        indexes.dedup();
        indexes.retain(|index| index < size);
        inclusions.extend(indexes.into_iter().map(|index| inclusion(index, *size)));
        consistencies.extend(SIZES[..=at].iter().map(|old| consistency(*old, *size)));
    }
    let tiles = [0, 1, 256, 257, 65_793].map(|size| {
        let paths: Vec<String> = tile::hash_tiles(0, size).map(|t| t.to_string()).collect();
        let last = &paths[paths.len().saturating_sub(4)..];
        json!({ "size": size, "count": paths.len(), "last": last })
    });
    golden(
        "tree",
        &json!({
            "about": TREE_ABOUT,
            "roots": roots,
            "inclusion": inclusions,
            "consistency": consistencies,
            "refused_inclusion": refused_inclusions(),
            "tiles": tiles,
        }),
    );
}

const NOTE_ABOUT: &str = "Checkpoints as C2SP signed notes. Each of accepted is signed by the \
    log's key `vkey` and says `origin`, `size` and `root` (hex); each of refused has to be \
    refused, with `code`. The log's key has the Ed25519 seed of 32 times 0x07.";

#[test]
fn notes() {
    let (key, text) = (log_key(), checkpoint(ORIGIN, 7));
    let own = sign_note(&text, ORIGIN, LOG_SEED);
    let witness = sign_note(&text, "witness.example/w1", [8; 32]);
    let same_id = NoteSignature { key_id: key.key_id(), ..witness.clone() };
    let same_name = sign_note(&text, ORIGIN, [8; 32]);
    let broken = NoteSignature { sig: vec![1; 64], ..own.clone() };
    let note = |signatures: &[&NoteSignature]| {
        Note::new(&text, signatures.iter().map(|s| (*s).clone()).collect()).unwrap()
    };
    let accept = |note: Note| {
        let Checkpoint { origin, size, root } = verify_checkpoint(&note, &key, &Pure).unwrap();
        json!({ "note": note.to_string(), "origin": origin, "size": size, "root": root })
    };
    let accepted = [
        note(&[&own]),
        note(&[&witness, &own]),
        note(&[&same_id, &same_name, &own]),
        signed(&checkpoint(ORIGIN, 0)),
    ];
    let refuse = |note: Note| {
        let error = verify_checkpoint(&note, &key, &Pure).unwrap_err();
        json!({ "note": note.to_string(), "code": error.code() })
    };
    let refused = [
        note(&[&witness]),
        note(&[&same_id, &same_name]),
        note(&[&broken]),
        note(&[&own, &broken]),
        Note::new(&checkpoint(ORIGIN, 8), vec![own.clone()]).unwrap(),
        signed(&checkpoint("log.example/acme/other", 7)),
        signed(&text.replace("\n7\n", "\n07\n")),
        signed(&format!("{text}extension\n")),
        signed("hello\n"),
    ];
    golden(
        "note",
        &json!({
            "about": NOTE_ABOUT,
            "vkey": key.to_string(),
            "key_id": hex::encode(key.key_id()),
            "public": hex::encode(key.public()),
            "accepted": accepted.map(accept),
            "refused": refused.map(refuse),
        }),
    );
}

#[test]
fn another_implementation_reads_our_notes_and_we_read_its() {
    use signed_note::{StandardSigner, StandardVerifier, VerifierList};
    let (key, text) = (log_key(), checkpoint(ORIGIN, 257));
    let ours = signed(&text);
    let known = StandardVerifier::new(&key.to_string()).unwrap();
    let read = signed_note::Note::from_bytes(ours.to_string().as_bytes()).unwrap();
    let (verified, _) = read.verify(&VerifierList::new(vec![Box::new(known)])).unwrap();
    assert_eq!((verified.len(), read.text()), (1, text.as_bytes()));
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(read.text()).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size()), (ORIGIN, 257));
    assert_eq!(checkpoint.hash().0, root(257).0);

    let secret = BASE64.encode([&[1], LOG_SEED.as_slice()].concat());
    let secret = format!("PRIVATE+KEY+{ORIGIN}+{}+{secret}", hex::encode(key.key_id()));
    let mut theirs = signed_note::Note::new(text.as_bytes(), &[]).unwrap();
    theirs.add_sigs(&[&StandardSigner::new(&secret).unwrap()]).unwrap();
    assert_eq!(theirs.to_bytes(), ours.to_string().as_bytes());
    let read = Note::parse(&theirs.to_bytes()).unwrap();
    assert_eq!(verify_checkpoint(&read, &key, &Pure).unwrap().size, 257);
}

const DSSE_ABOUT: &str = "DSSE v1 envelopes in their one compact form, signed with ECDSA \
    P-256/SHA-256 over `pae`. The key is `spki_der` (base64); `keyid` is the SHA-256 of that in \
    hex. Each of accepted has to verify and yield `payload`; each of refused has to be refused, \
    with `code`. The key's scalar is 32 times 0x01; signatures follow RFC 6979.";

fn receipt_key(scalar: u8) -> (p256::ecdsa::SigningKey, Vec<u8>) {
    let key = p256::ecdsa::SigningKey::from_slice(&[scalar; 32]).unwrap();
    let spki = key.verifying_key().to_public_key_der().unwrap();
    (key, spki.as_bytes().to_vec())
}

/// An envelope that names `key_id`, signed by the key of `scalar`.
fn sealed(payload: &str, key_id: &Digest, scalar: u8) -> String {
    let message = dsse::pae(payload.as_bytes());
    let signature: p256::ecdsa::DerSignature = receipt_key(scalar).0.sign(&message);
    let bytes = dsse::envelope(payload.as_bytes(), key_id, signature.as_bytes());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn envelopes() {
    let mut keys = Keys::default();
    let (_, spki) = receipt_key(1);
    let key_id = keys.insert(&spki, Trust::Pinned);
    keys.insert(&spki, Trust::Unknown);
    let statement = r#"{"_type":"https://in-toto.io/Statement/v1","subject":[]}"#;
    let accept = |payload: &str| {
        let envelope = sealed(payload, &key_id, 1);
        let verified = verify_envelope(envelope.as_bytes(), &keys, &Pure).unwrap();
        assert_eq!((&verified.payload[..], verified.key_id), (payload.as_bytes(), key_id));
        assert_eq!(verified.trust, Trust::Pinned, "the stronger of both counts");
        let pae = String::from_utf8(dsse::pae(payload.as_bytes())).unwrap();
        json!({ "payload": payload, "pae": pae, "envelope": envelope })
    };
    let refuse = |envelope: String| {
        let error = verify_envelope(envelope.as_bytes(), &keys, &Pure).unwrap_err();
        json!({ "envelope": envelope, "code": error.code() })
    };
    let accepted = [statement, "", "no JSON, ü"];
    let good = sealed(statement, &key_id, 1);
    let (before, after) = (BASE64.encode(statement), BASE64.encode(statement.replace("v1", "v2")));
    let unsigned = dsse::envelope(statement.as_bytes(), &key_id, b"");
    let refused = [
        good.replace(&before, &after),
        sealed(statement, &key_id, 2),
        sealed(statement, &Digest::of(&receipt_key(2).1), 2),
        String::from_utf8(unsigned).unwrap(),
        good.replace(",\"payload\"", ", \"payload\""),
        good.replace("}]}", "}],\"extra\":1}"),
        good.replace("\"sig\":\"", "\"sig\":\"\\u0041"),
        good.replace("vnd.in-toto+json", "json"),
        good.replace(&key_id.hex(), &key_id.hex().to_uppercase()),
        good.clone() + "\n",
    ];
    golden(
        "dsse",
        &json!({
            "about": DSSE_ABOUT,
            "payloadType": dsse::PAYLOAD_TYPE,
            "spki_der": BASE64.encode(&spki),
            "keyid": key_id,
            "accepted": accepted.map(accept),
            "refused": refused.map(refuse),
        }),
    );
}

const PROOF_ABOUT: &str = "C2SP tlog-proofs. Each of accepted proves, to who trusts `vkey`, that \
    `entry` is number `index` of a log of `size` entries; each of refused has to be refused, with \
    `code`. The log is that of tree.json, its key that of note.json.";

fn tlog_proof(index: u64, size: u64, extra: &str) -> TlogProof {
    TlogProof {
        extra: extra.as_bytes().to_vec(),
        index,
        hashes: tree::inclusion_proof(index, size, leaves(size).as_slice()).unwrap(),
        checkpoint: signed(&checkpoint(ORIGIN, size)),
    }
}

fn check_proof(entry: &str, proof: &str) -> Result<Checkpoint, kernel::proof::Error> {
    TlogProof::parse(proof.as_bytes())?.verify(entry.as_bytes(), &log_key(), &Pure)
}

#[test]
fn proofs() {
    let accept = |(index, size, extra): (u64, u64, &str)| {
        let proof = tlog_proof(index, size, extra).to_string();
        let checkpoint = check_proof(&entry(index), &proof).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (size, root(size)));
        json!({ "entry": entry(index), "index": index, "size": size, "proof": proof })
    };
    let refuse = |(index, proof): (u64, String)| {
        let error = check_proof(&entry(index), &proof).unwrap_err();
        json!({ "entry": entry(index), "proof": proof, "code": error.code() })
    };
    let accepted = [(0, 1, ""), (3, 7, "extra data"), (255, 256, ""), (256, 257, "")];
    let proof = tlog_proof(3, 7, "");
    let good = proof.to_string();
    let text = proof.checkpoint.text();
    let forged = Note::new(text, vec![sign_note(text, ORIGIN, [9; 32])]).unwrap();
    let larger = signed(&checkpoint(ORIGIN, 9));
    let refused = [
        (4, good.clone()),
        (3, good.replace("index 3", "index 2")),
        (3, good.replace("index 3", "index 7")),
        (3, good.replace("index 3", "index 03")),
        (3, good.replace("index 3\n", "")),
        (3, good.replace("\n7\n", "\n8\n")),
        (3, good.replace("@v1", "@v2")),
        (3, TlogProof { checkpoint: larger, ..proof.clone() }.to_string()),
        (3, TlogProof { checkpoint: forged, ..proof.clone() }.to_string()),
        (3, good.trim_end().to_owned()),
    ];
    golden(
        "proof",
        &json!({
            "about": PROOF_ABOUT,
            "vkey": log_key().to_string(),
            "accepted": accepted.map(accept),
            "refused": refused.map(refuse),
        }),
    );
}
