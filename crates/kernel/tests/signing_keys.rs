//! The keys of a log: which may sign what, and how one hands over to the next.
//!
//! `TALLY_WRITE_VECTORS=1 cargo test -p kernel --test signing_keys` writes
//! `spec/vectors/signing-key.json` anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;

use kernel::account::{Opening, Purpose};
use kernel::ids::{TenantId, WorkspaceId};
use kernel::machine::{self, Applied, Change, Command, Input, Kind, Refusal, State};
use kernel::receipt::{Body, ChainEnd, LogId, Position, Statement, Transition};
use kernel::signing_key::{self, Error, Handover, KeyRange, KeyRanges, LogKeys};
use kernel::values::{Digest, Timestamp};
use kernel::verify::{self, Keys, SignatureVerifier, Trust, verify_receipt};
use kernel::{dsse, limits};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use proptest::prelude::*;
use serde_json::{Value, json};

use golden::golden;

struct Pure;

impl SignatureVerifier for Pure {
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool {
        let key = p256::ecdsa::VerifyingKey::from_public_key_der(spki_der);
        let signature = p256::ecdsa::DerSignature::from_bytes(sig_der);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify(message, &sig).is_ok()))
    }

    fn ed25519(&self, _: &[u8; 32], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

const ABOUT: &str = "A log whose receipt key is rotated at index 1 and at index 3. `keys` are the \
    SPKIs in base64, their scalars 32 times 0x01, 0x02 and 0x03; signatures follow RFC 6979. \
    `ranges` says which key is valid for which indices. Each envelope of accepted has to be \
    accepted by whoever trusts the first key alone; each of refused has a good signature by a key \
    of the log and has to be refused with `code` where it stands in for the one at `index`.";

fn log() -> LogId {
    LogId::Workspace(TenantId::new("acme").unwrap(), WorkspaceId::new("ops").unwrap())
}

fn origin() -> String {
    log().origin("tally.example")
}

fn key(scalar: u8) -> (p256::ecdsa::SigningKey, Vec<u8>) {
    let key = p256::ecdsa::SigningKey::from_slice(&[scalar; 32]).unwrap();
    let spki = key.verifying_key().to_public_key_der().unwrap();
    (key, spki.as_bytes().to_vec())
}

fn id(scalar: u8) -> Digest {
    Digest::of(&key(scalar).1)
}

fn sign(payload: &[u8], scalar: u8) -> Vec<u8> {
    let (key, spki) = key(scalar);
    let signature: p256::ecdsa::DerSignature = key.sign(&dsse::pae(payload));
    dsse::envelope(payload, &Digest::of(&spki), signature.as_bytes())
}

/// The transition that brings in the key of a scalar.
fn activation(new: u8, old: u8) -> Transition {
    let input = signing_key::Input { spki_der: key(new).1, replaces: id(old) };
    let command = Command::new(Kind::SigningKey, id(new).hex(), Input::SigningKey(input));
    let change = machine::step(None, command.input, Timestamp(0)).unwrap().remove(0);
    Transition { stream: command.stream, version: 1, change }
}

fn workspace(id: &str) -> Transition {
    let change = kernel::account::Change::Opened(Opening::of(Purpose::Budget));
    let stream = machine::Stream::new(Kind::Account, id);
    Transition { stream, version: 1, change: Change::Account(change) }
}

/// The payloads of a log that goes from key 1 to 2 at index 1 and to 3 at index 3.
fn payloads() -> Vec<Vec<u8>> {
    let told = [
        workspace("acc_0"),
        activation(2, 1),
        workspace("acc_2"),
        activation(3, 2),
        workspace("acc_4"),
    ];
    let mut chain = ChainEnd::start(origin());
    let mut payloads = Vec::new();
    for transition in told {
        let position =
            Position { origin: chain.origin.clone(), index: chain.size, prev: chain.prev };
        let time = Timestamp(1_795_226_400_000_000 + i64::try_from(chain.size).unwrap());
        let body = Body { trace_id: None, transitions: vec![transition] };
        let payload = Statement::new(&log(), position, time, body).payload().unwrap();
        chain.advance(&payload, time);
        payloads.push(payload);
    }
    payloads
}

/// Who signs receipt 0 to 4.
const SIGNERS: [u8; 5] = [1, 1, 2, 2, 3];

/// Follows a log as a stranger does who trusts its first key alone.
fn follow(envelopes: &[Vec<u8>]) -> Result<KeyRanges, verify::Error> {
    let (mut keys, mut logs) = (Keys::default(), LogKeys::default());
    keys.insert(&key(1).1, Trust::Pinned);
    let mut ranges = KeyRanges::start(id(1));
    for envelope in envelopes {
        logs.insert(origin(), ranges.clone());
        let (verified, statement) = verify_receipt(envelope, &keys, &logs, &Pure)?;
        let predicate = statement.predicate;
        if let Some(next) = Handover::read(predicate.log.index, &predicate.transitions)? {
            ranges.hand_over(&next)?;
            keys.insert(&next.spki_der, verified.trust);
        }
    }
    Ok(ranges)
}

fn text(envelope: &[u8]) -> Value {
    String::from_utf8(envelope.to_vec()).unwrap().into()
}

#[test]
fn a_log_is_followed_from_its_first_key() {
    let payloads = payloads();
    let signed: Vec<Vec<u8>> =
        payloads.iter().zip(SIGNERS).map(|(payload, by)| sign(payload, by)).collect();
    let ranges = follow(&signed).unwrap();
    assert_eq!(ranges.current(), Some(id(3)));

    let mut refused = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        for scalar in [1, 2, 3] {
            if scalar == SIGNERS[index] {
                continue;
            }
            let mut forged = signed.clone();
            forged[index] = sign(payload, scalar);
            let error = follow(&forged).unwrap_err();
            // A key that no receipt has brought in yet is unknown; one that was, is out of range.
            let known =
                (1..=scalar).all(|k| k == 1 || ranges.of(&id(k)).unwrap().from <= index as u64);
            let expected = if known { "key_outside_range" } else { "verify_unknown_key" };
            assert_eq!(error.code(), expected, "{scalar} at {index}: {error}");
            refused.push(json!({
                "index": index, "code": expected, "envelope": text(&forged[index]),
            }));
        }
    }
    let all: Vec<Value> = [1, 2, 3]
        .into_iter()
        .map(|scalar| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(key(scalar).1).into()
        })
        .collect();
    let accepted: Vec<Value> = signed.iter().map(|envelope| text(envelope)).collect();
    let vectors = json!({
        "about": ABOUT, "origin": origin(), "keys": all, "ranges": ranges,
        "accepted": accepted, "refused": refused,
    });
    golden("signing-key", &vectors);
}

#[test]
fn a_key_signs_nothing_but_what_is_known_of_it() {
    let payload = payloads().remove(0);
    let mut keys = Keys::default();
    for scalar in [1, 2, 3] {
        keys.insert(&key(scalar).1, Trust::Pinned);
    }
    let check = |origin: &str, scalar: u8, by: u8| {
        let mut logs = LogKeys::default();
        logs.insert(origin, KeyRanges::start(id(scalar)));
        let verified = verify_receipt(&sign(&payload, by), &keys, &logs, &Pure);
        verified.err().map(|error| error.code())
    };
    assert_eq!(check(&origin(), 1, 1), None);
    assert_eq!(check("tally.example/acme/other", 1, 1), Some("key_outside_range"), "no such log");
    // Of a key that is named nowhere nothing is known but that it is trusted.
    assert_eq!(check("tally.example/acme/other", 1, 2), None);
}

#[test]
fn what_hands_over_wrongly_is_refused() {
    let handover = |index, replaces, new: u8| Handover {
        index,
        replaces: id(replaces),
        key_id: id(new),
        spki_der: key(new).1,
    };
    let mut ranges = KeyRanges::start(id(1));
    ranges.hand_over(&handover(4, 1, 2)).unwrap();
    let before = ranges.clone();
    for (wrong, expect) in [
        (handover(6, 1, 3), Error::NotCurrent(6)),
        (handover(4, 2, 3), Error::NotCurrent(4)),
        (handover(6, 2, 1), Error::Returned(6)),
        (handover(6, 2, 2), Error::Returned(6)),
        (handover(u64::MAX, 2, 3), Error::Ranges),
    ] {
        assert_eq!(ranges.hand_over(&wrong), Err(expect));
        assert_eq!(ranges, before, "a refused handover moves nothing");
    }

    let mut named_otherwise = activation(2, 1);
    named_otherwise.stream.id = id(3).hex().into();
    assert_eq!(Handover::read(7, &[named_otherwise]), Err(Error::OtherKey(7)));
    assert_eq!(Handover::read(7, &[activation(2, 1), activation(3, 2)]), Err(Error::Twice(7)));
    assert_eq!(Handover::read(7, &[workspace("acc_1")]), Ok(None));
}

#[test]
fn a_key_takes_over_once() {
    let input = signing_key::Input { spki_der: key(2).1, replaces: id(1) };
    let change = machine::step(None, Input::SigningKey(input.clone()), Timestamp(0)).unwrap();
    let mut state = None;
    let key_id = id(2).hex();
    let applied = Applied { id: &key_id, index: 7, time: Timestamp(9) };
    machine::apply(&mut state, &change[0], &applied);
    let Some(State::SigningKey(known)) = &state else { panic!("{state:?}") };
    assert_eq!((known.index, known.replaces, known.id.as_str()), (7, id(1), key_id.as_str()));
    let again = machine::step(state.as_ref(), Input::SigningKey(input), Timestamp(0));
    assert_eq!(again, Err(Refusal::Exists));
    let itself = signing_key::Input { spki_der: key(1).1, replaces: id(1) };
    let itself = machine::step(None, Input::SigningKey(itself), Timestamp(0));
    assert!(matches!(itself, Err(Refusal::InvalidInput(_))));
}

fn numbered(key: u64) -> Digest {
    Digest::of(&key.to_be_bytes())
}

proptest! {
    /// Whatever the handovers, each index has one key, and the account of it survives JSON.
    #[test]
    fn every_index_has_one_key(gaps in prop::collection::vec(0u64..5, 0..12), ahead in 0u64..9) {
        let mut ranges = KeyRanges::start(numbered(0));
        let mut due = 0;
        for (number, gap) in gaps.iter().enumerate() {
            let number = number as u64;
            let (index, replaces, key_id) = (due + gap, numbered(number), numbered(number + 1));
            let handover = Handover { index, replaces, key_id, spki_der: Vec::new() };
            let early = due.checked_sub(1).map(|index| Handover { index, ..handover.clone() });
            prop_assert!(early.is_none_or(|early| ranges.clone().hand_over(&early).is_err()));
            ranges.hand_over(&handover).unwrap();
            due = index + 1;
        }
        let size = due + ahead;
        for index in 0..=size {
            let valid: Vec<Digest> = ranges
                .as_slice()
                .iter()
                .map(|range| range.key_id)
                .filter(|key| ranges.check(index, key).is_ok())
                .collect();
            prop_assert_eq!(valid, [ranges.at(index).unwrap()]);
            let then = ranges.as_of(index);
            prop_assert_eq!(then.current(), ranges.at(index));
            prop_assert!(then.agrees(&ranges) && ranges.agrees(&then));
            prop_assert!((0..=index).all(|i| then.at(i) == ranges.at(i)));
        }
        let read: KeyRanges =
            serde_json::from_value(serde_json::to_value(&ranges).unwrap()).unwrap();
        prop_assert_eq!(read, ranges);
    }

    /// Ranges that were not made by handovers are taken only where they could have been.
    #[test]
    fn ranges_have_no_gap(cuts in prop::collection::btree_set(1u64..40, 0..6), spoil in 0usize..9) {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let from = std::iter::once(0).chain(cuts.iter().copied());
        let to = cuts.iter().copied().map(Some).chain([None]);
        let mut ranges: Vec<KeyRange> = from
            .zip(to)
            .enumerate()
            .map(|(n, (from, to))| KeyRange { key_id: numbered(n as u64), from, to })
            .collect();
        prop_assert!(KeyRanges::try_from(ranges.clone()).is_ok());
        let last = ranges.len() - 1;
        match spoil {
            0 => ranges[0].from = 1,
            1 => ranges[last].to = Some(99),
            2 => ranges[last].from += 1,
            3 => ranges.clear(),
            4 => { ranges.remove(0); }
            5 => { ranges.pop(); }
            6 => ranges.reverse(),
            7 => ranges.push(ranges[0]),
            _ => ranges[0].key_id = ranges[last].key_id,
        }
        let unspoilt = last == 0 && matches!(spoil, 6 | 8);
        prop_assert_eq!(KeyRanges::try_from(ranges).is_ok(), unspoilt);
    }
}

#[test]
fn a_log_has_so_many_keys() {
    let mut ranges = KeyRanges::start(numbered(0));
    let last = limits::SIGNING_KEYS_PER_LOG_MAX as u64 - 1;
    let handover = |n: u64| {
        let (replaces, key_id) = (numbered(n - 1), numbered(n));
        Handover { index: n, replaces, key_id, spki_der: Vec::new() }
    };
    (1..=last).for_each(|n| ranges.hand_over(&handover(n)).unwrap());
    assert_eq!(ranges.hand_over(&handover(last + 1)), Err(Error::TooMany));
}
