//! Receipts as stored bytes: the chain they form, what they fold to, and what is refused.
//!
//! `spec/vectors/receipt.json` is the golden log: `apply` has to read it for ever.
//! `TALLY_WRITE_VECTORS=1 cargo test -p kernel --test receipts` writes it anew.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod golden;
mod story;

use std::collections::{BTreeMap, BTreeSet};

use kernel::limits;
use kernel::machine::{self, Applied, State, Stream};
use kernel::receipt::{Body, ChainEnd, Error, LogId, Position, Statement, parse_receipt_id};
use kernel::values::{Digest, Timestamp};
use serde_json::{Value, json};

use golden::golden;

const HOST: &str = "tally.example";
const ABOUT: &str = "Logs of receipts. `payload` is the text that is signed, `digest` its SHA-256 \
    in hex, which the next receipt names as `prev`. `states` is what the payloads of a log fold \
    to, by stream. Every type of transition occurs.";

/// The payloads of a log that makes `commits`, one a second.
fn payloads(log: &LogId, commits: Vec<Body>) -> Vec<Vec<u8>> {
    let mut chain = ChainEnd::start(log.origin(HOST));
    let mut payloads = Vec::new();
    for body in commits {
        let origin = chain.origin.clone();
        let position = Position { origin, index: chain.size, prev: chain.prev };
        let time = story::time(i64::try_from(chain.size).unwrap());
        let payload = Statement::new(log, position, time, body).payload().unwrap();
        chain.advance(&payload, time);
        payloads.push(payload);
    }
    payloads
}

/// What payloads fold to.
fn fold(log: &LogId, payloads: &[Vec<u8>]) -> BTreeMap<Stream, State> {
    let mut chain = ChainEnd::start(log.origin(HOST));
    let mut states = BTreeMap::new();
    for payload in payloads {
        let read = chain.follow(payload).unwrap();
        assert_eq!(read.payload().unwrap(), *payload, "what was read is written the same");
        let (index, time) = (read.predicate.log.index, read.predicate.time_us);
        for transition in read.predicate.transitions {
            let mut state = states.remove(&transition.stream);
            let id = &transition.stream.id;
            machine::apply(&mut state, &transition.change, &Applied { id, index, time });
            states.extend(state.map(|state| (transition.stream, state)));
        }
    }
    states
}

#[test]
fn the_golden_log_is_read_and_written_the_same() {
    let mut types = BTreeSet::new();
    let logs: Vec<Value> = story::logs()
        .into_iter()
        .map(|(log, commits)| {
            let payloads = payloads(&log, commits);
            for payload in &payloads {
                let value: Value = serde_json::from_slice(payload).unwrap();
                let transitions = value["predicate"]["transitions"].as_array().unwrap();
                let name = |t: &Value| t["change"]["type"].as_str().unwrap().to_owned();
                types.extend(transitions.iter().map(name));
            }
            let states: BTreeMap<String, State> = fold(&log, &payloads)
                .into_iter()
                .map(|(s, state)| (s.to_string(), state))
                .collect();
            let receipts: Vec<Value> = payloads
                .iter()
                .map(|payload| {
                    let text = std::str::from_utf8(payload).unwrap();
                    json!({ "payload": text, "digest": Digest::of(payload) })
                })
                .collect();
            json!({ "origin": log.origin(HOST), "receipts": receipts, "states": states })
        })
        .collect();
    let names: BTreeSet<String> = story::TYPES
        .iter()
        .chain(&story::runs::TYPES)
        .chain(&story::undo::TYPES)
        .chain(&story::workflows::TYPES)
        .chain(&story::hooks::TYPES)
        .chain(&story::transfers::TYPES)
        .map(|name| (*name).to_owned())
        .collect();
    assert_eq!(types, names, "every type of transition is told");
    golden("receipt", &json!({ "about": ABOUT, "logs": logs }));
}

fn objects(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(pointer.to_owned());
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                objects(value, &format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                objects(value, &format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_object_of_a_receipt_takes_an_unknown_field() {
    for payload in story::logs().into_iter().flat_map(|(log, commits)| payloads(&log, commits)) {
        let value: Value = serde_json::from_slice(&payload).unwrap();
        let mut found = Vec::new();
        objects(&value, "", &mut found);
        for pointer in found {
            let mut more = value.clone();
            let object = more.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
            object.insert("unheard".to_owned(), json!(1));
            let parsed = Statement::parse(&serde_json::to_vec(&more).unwrap());
            assert!(matches!(parsed, Err(Error::Malformed(_))), "{pointer} of {value}");
        }
    }
}

/// The third receipt of a log, once `spoil` has changed it, is refused as `expect` says, and the
/// true one is accepted after that.
fn check_refused(spoil: impl Fn(&mut Value), expect: &Error) {
    let (log, commits) = story::logs().remove(0);
    let payloads = payloads(&log, commits);
    let mut chain = ChainEnd::start(log.origin(HOST));
    chain.follow(&payloads[0]).unwrap();
    chain.follow(&payloads[1]).unwrap();
    let before = chain.clone();
    let mut value = serde_json::from_slice(&payloads[2]).unwrap();
    spoil(&mut value);
    assert_eq!(chain.follow(&serde_json::to_vec(&value).unwrap()), Err(expect.clone()));
    assert_eq!(chain, before, "a refused receipt moves nothing");
    chain.follow(&payloads[2]).unwrap();
}

#[test]
fn what_does_not_follow_is_refused() {
    let predicate = |value: &mut Value, field: &str, to: Value| value["predicate"][field] = to;
    let position =
        |value: &mut Value, field: &str, to: Value| value["predicate"]["log"][field] = to;
    check_refused(|v| position(v, "index", json!(3)), &Error::Index { found: 3, expected: 2 });
    check_refused(|v| position(v, "index", json!(1)), &Error::Index { found: 1, expected: 2 });
    let found = "tally.example/acme/other".to_owned();
    let other = Error::OtherLog { index: 2, found, expected: "tally.example/acme/ops".to_owned() };
    check_refused(|v| position(v, "origin", json!("tally.example/acme/other")), &other);
    check_refused(|v| position(v, "prev", json!(Digest::of(b"another"))), &Error::Chain(2));
    for id in ["ops.3", "ops.02", "dev.2", "acme/ops.2"] {
        check_refused(|v| predicate(v, "id", json!(id)), &Error::Id(2));
    }
    check_refused(|v| predicate(v, "time_us", json!(story::time(1).0 - 1)), &Error::Time(2));
    let kind = Error::Malformed("the type of the statement or predicate".to_owned());
    check_refused(|v| v["predicateType"] = json!("https://tally.dev/receipt/v2"), &kind);
    check_refused(|v| v["_type"] = json!("https://in-toto.io/Statement/v0.1"), &kind);
}

#[test]
fn a_repeated_or_missing_receipt_is_refused() {
    let (log, commits) = story::logs().remove(0);
    let payloads = payloads(&log, commits);
    let mut chain = ChainEnd::start(log.origin(HOST));
    let gap = Error::Index { found: 1, expected: 0 };
    assert_eq!(chain.follow(&payloads[1]), Err(gap));
    chain.follow(&payloads[0]).unwrap();
    let again = Error::Index { found: 0, expected: 1 };
    assert_eq!(chain.follow(&payloads[0]), Err(again));
}

#[test]
fn what_is_no_receipt_is_refused() {
    let (log, commits) = story::logs().remove(0);
    let payload = payloads(&log, commits).remove(0);
    let text = String::from_utf8(payload).unwrap();
    let stream = |from: &str, to: &str| text.replace(&format!("\"stream\":\"{from}"), to);
    for bad in [
        String::new(),
        "{}".to_owned(),
        text.clone() + "{}",
        stream("account/", "\"stream\":\"ledger/"),
        stream("account/", "\"stream\":\"account-"),
        stream("account/", "\"stream\":\"approval/"),
        text.replace("account.opened", "account.upended"),
        text.replace("\"version\":1", "\"version\":1,\"version\":1"),
        text.replace("\"version\":1", "\"version\":-1"),
    ] {
        assert_ne!(bad, text);
        let parsed = Statement::parse(bad.as_bytes());
        assert!(matches!(parsed, Err(Error::Malformed(_))), "{bad}");
    }
}

#[test]
fn a_receipt_has_a_limit() {
    let max = limits::RECEIPT_PAYLOAD_BYTES_MAX;
    let (log, commits) = story::logs().remove(0);
    let mut payload = payloads(&log, commits).remove(0);
    payload.resize(max, b' ');
    assert!(Statement::parse(&payload).is_ok());
    payload.push(b' ');
    assert_eq!(Statement::parse(&payload), Err(Error::TooLong(max + 1)));

    let (log, commits) = story::logs().remove(0);
    let transitions: Vec<_> = commits[0].transitions.iter().cycle().take(800).cloned().collect();
    let body = Body { trace_id: None, transitions };
    let position = Position { origin: log.origin(HOST), index: 0, prev: Digest::of(b"") };
    let long = Statement::new(&log, position, Timestamp(0), body).payload();
    assert!(matches!(long, Err(Error::TooLong(bytes)) if bytes > max));
}

#[test]
fn receipt_ids() {
    for log in story::logs().into_iter().map(|(log, _)| log) {
        for index in [0, 17, u64::MAX] {
            let id = log.receipt_id(index);
            assert_eq!(parse_receipt_id(&id), Some((log.name(), index)), "{id}");
        }
        let read = LogId::from_parts(log.tenant(), log.name());
        assert_eq!(read.as_ref(), Ok(&log));
        assert!(log.origin(HOST).ends_with(log.name()));
    }
    assert_eq!(parse_receipt_id("a.b.7"), Some(("a.b", 7)));
    for bad in ["", "ops", "ops.", "ops.x", "ops.01", "ops.+1", "ops.-1", "ops. 1"] {
        assert_eq!(parse_receipt_id(bad), None, "{bad}");
    }
    let beyond = format!("ops.{}0", u64::MAX);
    assert_eq!(parse_receipt_id(&beyond), None);
}
