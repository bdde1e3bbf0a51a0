//! Complete inputs: the default one that cases are merged over, and generated valid ones.

use kernel::risk::Risk;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A complete input: an agent reads in `dev`.
pub(crate) fn default_input() -> Value {
    json!({
        "phase": "submit",
        "tenant": "acme",
        "workspace": "ops",
        "environment": "dev",
        "principal": {"id": "p_7", "kind": "agent", "roles": ["agent"]},
        "actor_chain": [{"id": "p_7", "kind": "agent"}],
        "tool": {
            "id": "core.example",
            "labels": ["read"],
            "digest": "0000000000000000000000000000000000000000000000000000000000000000",
        },
        "params": {},
        "claims": {},
        "risk": {"score": 10, "tier": "low", "signals": []},
        "budget": {"remaining_micro_usd": null, "estimate_micro_usd": 0},
        "approval": null,
        "operational": {"within_write_caps": true},
        "now": {"epoch_us": 1_795_226_400_000_000_i64, "hour_utc": 2, "weekday": 6},
        "run": null,
    })
}

/// A complete run: of no kept workflow, with nothing approved.
fn default_run() -> Value {
    json!({
        "id": "run_1", "workflow": null, "version": null, "release": null, "ring": null,
        "approved_steps": [],
    })
}

/// The default input with the fields of `part` laid over it, objects merged.
pub(crate) fn complete(part: &Value) -> Value {
    let mut input = default_input();
    let in_run = part.get("run").is_some_and(Value::is_object);
    if let (Some(run), true) = (input.get_mut("run"), in_run) {
        *run = default_run();
    }
    merge(&mut input, part);
    input
}

fn merge(base: &mut Value, part: &Value) {
    match (base, part) {
        (Value::Object(base), Value::Object(part)) => {
            for (key, value) in part {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, part) => *base = part.clone(),
    }
}

/// A small deterministic generator (SplitMix64), so that a refusal can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n.max(1)).unwrap_or(1);
        usize::try_from(self.next() % n).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    fn text(&mut self, items: &[&str]) -> String {
        self.pick(items).map(|text| (*text).to_owned()).unwrap_or_default()
    }

    /// Up to `most` of the items.
    fn some(&mut self, items: &[&str], most: usize) -> BTreeSet<String> {
        (0..self.below(most + 1)).map(|_| self.text(items)).collect()
    }
}

const LABELS: &[&str] = &[
    "read",
    "write",
    "pure",
    "destructive",
    "external",
    "financial",
    "privileged",
    "irreversible",
    "reversible",
    "execute",
];
const DATA: &[&str] = &["pii", "phi", "pci", "credentials", "finance", "public"];
const ROLES: &[&str] = &[
    "viewer",
    "auditor",
    "agent",
    "operator",
    "builder",
    "approver",
    "admin",
    "owner",
    "responder",
];

/// `count` valid inputs, the same for the same `words`: strings of the policy that stand in for
/// tools, environments, labels and targets, so that rules about them are reached.
pub(crate) fn generate(words: &[String], count: usize) -> Vec<Value> {
    let mut random = Random(0x7461_6c6c_7921);
    let ids: Vec<&str> = words.iter().map(String::as_str).filter(|word| is_id(word)).collect();
    let mut labels = LABELS.to_vec();
    labels.extend(&ids);
    (0..count).map(|_| one(&mut random, &ids, &labels)).collect()
}

fn is_id(word: &str) -> bool {
    kernel::ids::ToolId::new(word).is_ok()
}

fn one(random: &mut Random, ids: &[&str], labels: &[&str]) -> Value {
    let environment = match random.below(8) {
        0 => random.pick(ids).map_or_else(|| "qa".to_owned(), |id| (*id).to_owned()),
        _ => random.text(&["dev", "test", "prod"]),
    };
    let tool = match random.below(2) {
        0 => random.pick(ids).map_or_else(|| "core.example".to_owned(), |id| (*id).to_owned()),
        _ => random.text(&["core.http_call", "core.fs_write", "core.json_transform"]),
    };
    let labels = random.some(labels, 4);
    let data = random.some(DATA, 2);
    let risk = Risk::assess(&labels, &environment, &data);
    let kind = random.text(&["user", "agent", "service"]);
    let mut chain = vec![json!({"id": "p_7", "kind": kind})];
    if random.below(2) == 0 {
        chain.insert(0, json!({"id": "u_1", "kind": "user"}));
    }
    json!({
        "phase": random.text(&["submit", "execute", "effect", "list"]),
        "tenant": "acme",
        "workspace": random.text(&["ops", "finance"]),
        "environment": environment,
        "principal": {"id": "p_7", "kind": kind, "roles": random.some(ROLES, 3)},
        "actor_chain": chain,
        "tool": {"id": tool, "labels": labels, "digest": "0".repeat(64)},
        "params": params(random, ids),
        "claims": claims(random, ids, &data),
        "risk": risk,
        "budget": {
            "remaining_micro_usd": amount(random),
            "estimate_micro_usd": random.below(1_000_000),
        },
        "approval": approval(random),
        "operational": {"within_write_caps": random.below(4) != 0},
        "now": {
            "epoch_us": 1_795_226_400_000_000_i64,
            "hour_utc": random.below(24),
            "weekday": random.below(7) + 1,
        },
        "run": run(random, ids),
    })
}

/// What an agent says: nothing, the usual, or anything at all.
fn claims(random: &mut Random, ids: &[&str], data: &BTreeSet<String>) -> Value {
    match random.below(3) {
        0 => json!({}),
        1 => json!({"target": random.text(ids), "data_types": data}),
        _ => json!({"target": null, "data_types": data, "note": {"any": [1, true]}}),
    }
}

fn params(random: &mut Random, ids: &[&str]) -> Value {
    match random.below(3) {
        0 => json!({}),
        1 => json!({"method": "GET", "url": "https://example.com/a", "path": random.text(ids)}),
        _ => json!({"amount": random.below(100_000), "list": [1, "two", null], "on": true}),
    }
}

fn amount(random: &mut Random) -> Value {
    match random.below(3) {
        0 => Value::Null,
        1 => json!(0),
        _ => json!(random.below(10_000_000)),
    }
}

/// No run, one of an inline plan, or one of a kept workflow, released or not.
fn run(random: &mut Random, ids: &[&str]) -> Value {
    let kept = random.below(4);
    let approved = random.some(ids, 2);
    let more = match kept {
        0 | 1 => return Value::Null,
        2 => json!({"approved_steps": approved}),
        _ => {
            let released = random.below(2) == 0;
            json!({
                "workflow": random.text(ids),
                "version": "1.0.0",
                "release": released.then_some("rel_1"),
                "ring": released.then(|| random.text(&["canary", "all"])),
                "approved_steps": approved,
            })
        }
    };
    let mut run = default_run();
    merge(&mut run, &more);
    run
}

fn approval(random: &mut Random) -> Value {
    match random.below(3) {
        0 => json!({"approvals": 1 + random.below(3), "step_up": random.below(2) == 0}),
        _ => Value::Null,
    }
}
