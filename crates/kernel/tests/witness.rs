//! The golden vectors of cosignatures, of what a witness answers, and of a log's growth: see
//! `vectors.rs` for how they are written anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;

use ed25519_dalek::{Signer as _, SigningKey};
use kernel::cosignature::{CosignerKey, message, verify_cosignature};
use kernel::history::{Demands, verify_demands};
use kernel::note::{Checkpoint, Note, NoteSignature, VerifierKey};
use kernel::tree::{self, Frontier};
use kernel::values::Digest;
use kernel::verify::{SignatureVerifier, verify_checkpoint};
use kernel::witness::{AddCheckpoint, Answer, Seen, judge};
use serde_json::{Value, json};

use golden::golden;

const ORIGIN: &str = "log.example/acme/shop";
const LOG_SEED: [u8; 32] = [7; 32];
const WITNESS: &str = "witness.example/w1";
const WITNESS_SEED: [u8; 32] = [8; 32];
const TIME_S: u64 = 1_795_226_400;

struct Pure;

impl SignatureVerifier for Pure {
    fn p256_sha256(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
        let key = ed25519_dalek::VerifyingKey::from_bytes(public);
        let signature = ed25519_dalek::Signature::from_slice(sig);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify_strict(message, &sig).is_ok()))
    }
}

fn public(seed: [u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(&seed).verifying_key().to_bytes()
}

fn log_key() -> VerifierKey {
    VerifierKey::new(ORIGIN, public(LOG_SEED)).unwrap()
}

fn cosigner(name: &str, seed: [u8; 32]) -> CosignerKey {
    CosignerKey::new(name, public(seed)).unwrap()
}

fn sign(seed: [u8; 32], text: &str) -> Vec<u8> {
    SigningKey::from_bytes(&seed).sign(text.as_bytes()).to_bytes().to_vec()
}

fn cosign(name: &str, seed: [u8; 32], time_s: u64, text: &str) -> NoteSignature {
    cosigner(name, seed).signature(time_s, &sign(seed, &message(time_s, text)))
}

/// The log of tree.json; from leaf `forked` on with other entries.
fn leaves(size: u64, forked: u64) -> Vec<Digest> {
    let entry = |i| if i < forked { format!("entry {i}") } else { format!("other entry {i}") };
    (0..size).map(|index| tree::leaf_hash(entry(index).as_bytes())).collect()
}

fn signed(size: u64, forked: u64) -> Note {
    let mut tree = Frontier::default();
    leaves(size, forked).into_iter().for_each(|leaf| tree.push(leaf));
    let head = Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root() };
    let text = head.text().unwrap();
    Note::new(&text, vec![NoteSignature::by(&log_key(), sign(LOG_SEED, &text))]).unwrap()
}

const COSIGNATURE_ABOUT: &str = "C2SP cosignatures, version 1 (timestamped Ed25519). Each of \
    accepted is cosigned by the witness `vkey` at `time_s`, the latest where there are several; \
    `message` is what it signed then. Each of refused has to be refused, with `code`. The \
    witness's key has the Ed25519 seed of 32 times 0x08, the log's that of note.json.";

#[test]
fn cosignatures() {
    let note = signed(7, 99);
    let text = note.text();
    let own = cosign(WITNESS, WITNESS_SEED, TIME_S, text);
    let later = cosign(WITNESS, WITNESS_SEED, TIME_S + 9, text);
    let other = cosign("witness.example/w2", [9; 32], TIME_S, text);
    let key = cosigner(WITNESS, WITNESS_SEED);
    let with = |more: &[&NoteSignature]| {
        let signatures = note.signatures().iter().chain(more.iter().copied());
        Note::new(text, signatures.cloned().collect()).unwrap()
    };
    let accept = |note: Note| {
        let time_s = verify_cosignature(&note, &key, &Pure).unwrap();
        let message = message(time_s, note.text());
        json!({ "note": note.to_string(), "time_s": time_s, "message": message })
    };
    let refuse = |note: Note| {
        let error = verify_cosignature(&note, &key, &Pure).unwrap_err();
        json!({ "note": note.to_string(), "code": error.code() })
    };
    // The witness's key as a log would use it, over the bare text: another type, another id.
    let plain = VerifierKey::new(WITNESS, public(WITNESS_SEED)).unwrap();
    let plain = NoteSignature::by(&plain, sign(WITNESS_SEED, text));
    let retimed = NoteSignature {
        sig: [(TIME_S + 1).to_be_bytes().as_slice(), &own.sig[8..]].concat(),
        ..own.clone()
    };
    let untimed = NoteSignature { sig: own.sig[8..].to_vec(), ..own.clone() };
    let beyond = cosign(WITNESS, WITNESS_SEED, u64::MAX, text);
    let elsewhere = cosign(WITNESS, WITNESS_SEED, TIME_S, signed(8, 99).text());
    let accepted = [with(&[&own]), with(&[&other, &own, &plain]), with(&[&own, &later])];
    let refused = [
        with(&[]),
        with(&[&other]),
        with(&[&plain]),
        with(&[&retimed]),
        with(&[&own, &retimed]),
        with(&[&untimed]),
        with(&[&beyond]),
        with(&[&elsewhere]),
    ];
    golden(
        "cosignature",
        &json!({
            "about": COSIGNATURE_ABOUT,
            "vkey": key.to_string(),
            "key_id": hex::encode(key.key_id()),
            "accepted": accepted.map(accept),
            "refused": refused.map(refuse),
        }),
    );
}

const WITNESS_ABOUT: &str = "What a witness (C2SP tlog-witness) that watches the log `vkey` \
    answers to these requests, one after the other, beginning without a memory: the HTTP status; \
    with 409, the size in its body where it has one; and the alarm that the request raises. The \
    log is that of tree.json, its key that of note.json.";

/// A request: from which old size, with the proof from which, to which size, of a log forked where.
type Ask = (u64, u64, u64, u64);

const ASKS: &[Ask] = &[
    (0, 0, 7, 99),
    (7, 7, 7, 99),
    (0, 0, 9, 99),
    (9, 7, 7, 99),
    (7, 7, 7, 5),
    (0, 0, 7, 5),
    (7, 7, 9, 5),
    (7, 6, 9, 99),
    (7, 7, 9, 99),
    (9, 9, 16, 99),
    (16, 16, 17, 5),
    (16, 16, 17, 99),
    (7, 7, 9, 99),
];

#[test]
fn what_a_witness_answers() {
    let mut cosigned: Vec<(u64, Digest)> = Vec::new();
    let mut answer = |(old, from, size, forked): &Ask| {
        let leaves = leaves(*size, *forked);
        let proof = tree::consistency_proof(*from, *size, leaves.as_slice()).unwrap();
        let request = AddCheckpoint { old: *old, proof, checkpoint: signed(*size, *forked) };
        let read = AddCheckpoint::parse(request.to_string().as_bytes()).unwrap();
        let checkpoint = verify_checkpoint(&read.checkpoint, &log_key(), &Pure).unwrap();
        let same = cosigned.iter().find(|(known, _)| known == size);
        let at_this_size = same.map(|(_, root)| *root);
        let seen = Seen { latest: cosigned.last().copied(), at_this_size };
        let verdict = judge(&seen, read.old, &read.proof, &checkpoint);
        let (status, conflict) = match verdict.answer {
            Answer::Cosign => (200, None),
            Answer::OldAboveNew => (400, None),
            Answer::Conflict(size) => (409, Some(size)),
            Answer::OtherRoot => (409, None),
            Answer::BadProof => (422, None),
        };
        if status == 200 && at_this_size.is_none() {
            cosigned.push((checkpoint.size, checkpoint.root));
        }
        json!({ "request": request.to_string(), "status": status, "size": conflict,
            "alarm": verdict.alarm })
    };
    let steps: Vec<Value> = ASKS.iter().map(&mut answer).collect();
    golden(
        "witness",
        &json!({ "about": WITNESS_ABOUT, "vkey": log_key().to_string(), "steps": steps }),
    );
}

const HISTORY_ABOUT: &str = "Whether a log kept its word. `newer` is a checkpoint of the log \
    `vkey`, `since` an older one that somebody held, `proof` (hex) the consistency proof between \
    them, and `quorum` of `witnesses` have to have cosigned. `code` is null where all holds, else \
    what has to be reported.";

#[test]
fn whether_a_log_kept_its_word() {
    let key = cosigner(WITNESS, WITNESS_SEED);
    let dressed =
        |note: &Note| note.with(&[cosign(WITNESS, WITNESS_SEED, TIME_S, note.text())]).unwrap();
    let forged = |note: &Note| {
        let own = NoteSignature::by(&log_key(), sign([9; 32], note.text()));
        Note::new(note.text(), vec![own]).unwrap()
    };
    let check = |since: Option<Note>, newer: Note, of: (u64, u64, u64), quorum: usize| {
        let (old, new, forked) = of;
        let proof = tree::consistency_proof(old, new, leaves(new, forked).as_slice()).unwrap();
        let demands = Demands {
            since: since.as_ref().map(|note| note.to_string().into_bytes()),
            witnesses: vec![key.clone()],
            quorum,
        };
        let bytes = newer.to_string();
        let prove = |_, _| Ok(proof.clone());
        let checked = verify_demands(bytes.as_bytes(), &log_key(), &demands, &Pure, prove);
        let code = checked.as_ref().err().map(kernel::history::Error::code);
        json!({ "since": since.map(|note| note.to_string()), "newer": bytes, "proof": proof,
            "witnesses": [key.to_string()], "quorum": quorum, "code": code })
    };
    let cases = [
        check(Some(signed(7, 99)), signed(9, 99), (7, 9, 99), 0),
        check(Some(signed(8, 99)), signed(9, 99), (8, 9, 99), 0),
        check(Some(signed(0, 99)), signed(9, 99), (0, 9, 99), 0),
        check(Some(signed(9, 99)), signed(9, 99), (9, 9, 99), 0),
        check(None, dressed(&signed(9, 99)), (0, 9, 99), 1),
        check(Some(signed(9, 99)), signed(7, 99), (0, 7, 99), 0),
        check(Some(signed(7, 5)), signed(9, 99), (7, 9, 99), 0),
        check(Some(signed(8, 5)), signed(9, 99), (8, 9, 99), 0),
        check(Some(signed(9, 5)), signed(9, 99), (9, 9, 99), 0),
        check(Some(signed(7, 99)), signed(9, 99), (0, 9, 99), 0),
        check(Some(forged(&signed(7, 99))), signed(9, 99), (7, 9, 99), 0),
        check(Some(signed(7, 99)), forged(&signed(9, 99)), (7, 9, 99), 0),
        check(None, signed(9, 99), (0, 9, 99), 1),
        check(Some(signed(9, 5)), signed(9, 99), (9, 9, 99), 1),
    ];
    golden(
        "history",
        &json!({ "about": HISTORY_ABOUT, "vkey": log_key().to_string(), "cases": cases }),
    );
}
