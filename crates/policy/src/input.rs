//! An input twice: as the text that is digested, and as the value that the machine reads.
//!
//! The value is that of the text. Yet most of an input's parts (who, with which tool, where) are
//! the same from decision to decision, and the same text is the same value: so each thread keeps
//! the values of texts that it read before, and builds the rest.

use kernel::decision::{DecisionInput, InputBudget, InputTime};
use kernel::json::RawJson;
use regorus::Value;
use serde::Serialize;
use std::ops::Range;

use crate::limits;
use crate::machine::Failure;

/// The parts that are kept by their text, in the order of the text.
#[derive(Debug, Default)]
struct Parts {
    phase: Range<usize>,
    tenant: Range<usize>,
    workspace: Range<usize>,
    environment: Range<usize>,
    principal: Range<usize>,
    actor_chain: Range<usize>,
    tool: Range<usize>,
    risk: Range<usize>,
    approval: Range<usize>,
    operational: Range<usize>,
    run: Range<usize>,
}

/// An input without content: what the fields are called.
const BLANK: &str = r#"{
    "phase": null, "tenant": null, "workspace": null, "environment": null, "principal": null,
    "actor_chain": null, "tool": null, "params": null, "claims": null, "risk": null,
    "budget": {"remaining_micro_usd": null, "estimate_micro_usd": null},
    "approval": null, "operational": null,
    "now": {"epoch_us": null, "hour_utc": null, "weekday": null},
    "run": null
}"#;

/// A text and its value.
struct Known {
    text: Box<[u8]>,
    value: Value,
}

/// Writes and reads inputs, one after the other.
pub(crate) struct Reader {
    json: Vec<u8>,
    parts: Parts,
    empty: Value,
    /// By the hash of the text; whoever comes last has the place.
    known: Vec<Option<Known>>,
    /// The last value and the one before, to be filled again: a machine lets go of a value when
    /// it is given the next. One that is still held is copied by `regorus` before it is changed.
    last: Value,
    before: Value,
}

impl Reader {
    pub(crate) fn new() -> Self {
        let blank = || parse(BLANK.as_bytes()).unwrap_or(Value::Null);
        Self {
            json: Vec::new(),
            parts: Parts::default(),
            empty: Value::new_object(),
            known: std::iter::repeat_with(|| None).take(limits::KNOWN_PARTS).collect(),
            last: blank(),
            before: blank(),
        }
    }

    /// Writes the text: what serde_json makes of the input.
    pub(crate) fn write(&mut self, input: &DecisionInput<'_>) -> serde_json::Result<&[u8]> {
        // Taken apart so that a new field cannot be forgotten.
        let DecisionInput {
            phase,
            tenant,
            workspace,
            environment,
            principal,
            actor_chain,
            tool,
            params,
            claims,
            risk,
            budget,
            approval,
            operational,
            now,
            run,
        } = input;
        self.json.clear();
        let phase = self.part(b"{\"phase\":", phase)?;
        let tenant = self.part(b",\"tenant\":", tenant)?;
        let workspace = self.part(b",\"workspace\":", workspace)?;
        let environment = self.part(b",\"environment\":", environment)?;
        let principal = self.part(b",\"principal\":", principal)?;
        let actor_chain = self.part(b",\"actor_chain\":", actor_chain)?;
        let tool = self.part(b",\"tool\":", tool)?;
        self.part(b",\"params\":", params)?;
        self.part(b",\"claims\":", claims)?;
        let risk = self.part(b",\"risk\":", risk)?;
        self.part(b",\"budget\":", budget)?;
        let approval = self.part(b",\"approval\":", approval)?;
        let operational = self.part(b",\"operational\":", operational)?;
        self.part(b",\"now\":", now)?;
        let run = self.part(b",\"run\":", run)?;
        self.json.push(b'}');
        self.parts = Parts {
            phase,
            tenant,
            workspace,
            environment,
            principal,
            actor_chain,
            tool,
            risk,
            approval,
            operational,
            run,
        };
        Ok(&self.json)
    }

    fn part(&mut self, name: &[u8], value: &impl Serialize) -> serde_json::Result<Range<usize>> {
        self.json.extend_from_slice(name);
        let start = self.json.len();
        serde_json::to_writer(&mut self.json, value)?;
        Ok(start..self.json.len())
    }

    /// The value of `input`, which was the last to be written.
    pub(crate) fn value(&mut self, input: &DecisionInput<'_>) -> Result<Value, Failure> {
        self.fill(input)?;
        std::mem::swap(&mut self.last, &mut self.before);
        Ok(self.last.clone())
    }

    fn fill(&mut self, input: &DecisionInput<'_>) -> Result<(), Failure> {
        let Self { json, parts, empty, known, before, .. } = self;
        let mut part = |range: &Range<usize>| {
            value_of_part(known, json.get(range.clone()).unwrap_or_default())
        };
        let root = &mut fields(before)?;
        *next(root, "actor_chain")? = part(&parts.actor_chain)?;
        *next(root, "approval")? = part(&parts.approval)?;
        fill_budget(next(root, "budget")?, input.budget)?;
        *next(root, "claims")? = content(input.claims, empty)?;
        *next(root, "environment")? = part(&parts.environment)?;
        fill_now(next(root, "now")?, input.now)?;
        *next(root, "operational")? = part(&parts.operational)?;
        *next(root, "params")? = content(input.params, empty)?;
        *next(root, "phase")? = part(&parts.phase)?;
        *next(root, "principal")? = part(&parts.principal)?;
        *next(root, "risk")? = part(&parts.risk)?;
        *next(root, "run")? = part(&parts.run)?;
        *next(root, "tenant")? = part(&parts.tenant)?;
        *next(root, "tool")? = part(&parts.tool)?;
        *next(root, "workspace")? = part(&parts.workspace)?;
        Ok(())
    }
}

/// The value of a part: the one it had before, or else read anew and kept.
fn value_of_part(known: &mut [Option<Known>], text: &[u8]) -> Result<Value, Failure> {
    let place = usize::try_from(hash(text)).unwrap_or(0) % limits::KNOWN_PARTS;
    if let Some(Some(known)) = known.get(place)
        && *known.text == *text
    {
        return Ok(known.value.clone());
    }
    let value = parse(text)?;
    if let Some(place) = known.get_mut(place)
        && text.len() <= limits::KNOWN_PART_BYTES_MAX
    {
        *place = Some(Known { text: text.into(), value: value.clone() });
    }
    Ok(value)
}

/// Spreads texts over places. Nothing hangs on its quality: a clash costs one parse.
fn hash(text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    let last = rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    words
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .chain([last])
        .fold(0, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

/// Parameters and claims differ each time, so that keeping them would gain nothing.
fn content(raw: &RawJson, empty: &Value) -> Result<Value, Failure> {
    match raw.as_str() {
        "{}" => Ok(empty.clone()),
        text => parse(text.as_bytes()),
    }
}

fn fill_budget(object: &mut Value, budget: InputBudget) -> Result<(), Failure> {
    let InputBudget { remaining_micro_usd, estimate_micro_usd } = budget;
    let fields = &mut fields(object)?;
    *next(fields, "estimate_micro_usd")? = integer(estimate_micro_usd.0);
    *next(fields, "remaining_micro_usd")? =
        remaining_micro_usd.map_or(Value::Null, |amount| integer(amount.0));
    Ok(())
}

fn fill_now(object: &mut Value, now: InputTime) -> Result<(), Failure> {
    let InputTime { epoch_us, hour_utc, weekday } = now;
    let fields = &mut fields(object)?;
    *next(fields, "epoch_us")? = integer(epoch_us);
    *next(fields, "hour_utc")? = integer(hour_utc.into());
    *next(fields, "weekday")? = integer(weekday.into());
    Ok(())
}

/// A number as the parser would make it: unsigned unless negative.
fn integer(number: i64) -> Value {
    u64::try_from(number).map_or(Value::from(number), Value::from)
}

/// The fields of an object, in order of their names.
fn fields(object: &mut Value) -> Result<impl Iterator<Item = (&Value, &mut Value)>, Failure> {
    let object = object.as_object_mut().map_err(|e| Failure::error(e.to_string()))?;
    Ok(object.iter_mut())
}

/// The next field, which is `name`.
fn next<'a>(
    fields: &mut impl Iterator<Item = (&'a Value, &'a mut Value)>,
    name: &str,
) -> Result<&'a mut Value, Failure> {
    match fields.next() {
        Some((Value::String(key), value)) if **key == *name => Ok(value),
        _ => Err(Failure::error(format!("the next field of the input is not `{name}`"))),
    }
}

/// The value of a JSON text.
pub(crate) fn parse(json: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(json).map_err(|e| Failure::error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::decision::{
        InputApproval, InputOperational, InputPrincipal, InputRun, InputTool, Phase,
    };
    use kernel::ids::{
        EnvironmentId, PrincipalId, ReleaseId, RunId, StepId, TenantId, ToolId, WorkflowId,
        WorkspaceId,
    };
    use kernel::principal::{Actor, PrincipalKind, Role};
    use kernel::risk::Risk;
    use kernel::values::{Digest, MicroUsd};
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeSet;

    /// What an input borrows from, and what it owns.
    #[derive(Clone, Debug)]
    struct Facts {
        phase: Phase,
        kind: PrincipalKind,
        ids: [&'static str; 5],
        roles: BTreeSet<Role>,
        labels: BTreeSet<String>,
        params: RawJson,
        claims: RawJson,
        budget: InputBudget,
        approval: Option<InputApproval>,
        within: bool,
        now: InputTime,
        run: Option<InputRun>,
    }

    fn json() -> impl Strategy<Value = RawJson> {
        let texts = vec![
            "{}",
            " {} ",
            "{ }",
            "[]",
            "null",
            "true",
            "-0",
            "-7",
            "0.5",
            "1e3",
            "9007199254740992",
            r#""\u00e9\n\ud83d\ude00""#,
            r#"{"b": [1, {"a": null}], "a": "x", "": -1.25e-3}"#,
        ];
        select(texts).prop_map(|text| RawJson::parse(text).unwrap())
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let amount = || prop_oneof![select(vec![0, 1, -1, i64::MIN, i64::MAX]), any::<i64>()];
        let phases = vec![Phase::Submit, Phase::Execute, Phase::Effect, Phase::List];
        let kinds = vec![PrincipalKind::User, PrincipalKind::Agent, PrincipalKind::Service];
        let id = || select(vec!["a", "b", "a_1"]);
        let role = select(vec![Role::Agent, Role::Approver, Role::Admin]);
        let label = prop_oneof!["[a-c\"\\\\é]{0,3}", "x{1100}"];
        let approval = (any::<u32>(), any::<bool>())
            .prop_map(|(approvals, step_up)| InputApproval { approvals, step_up });
        let budget =
            (prop::option::of(amount()), amount()).prop_map(|(remaining, estimate)| InputBudget {
                remaining_micro_usd: remaining.map(MicroUsd),
                estimate_micro_usd: MicroUsd(estimate),
            });
        let now = (amount(), any::<u8>(), any::<u8>())
            .prop_map(|(epoch_us, hour_utc, weekday)| InputTime { epoch_us, hour_utc, weekday });
        let who = (select(phases), select(kinds), [id(), id(), id(), id(), id()]);
        let what = (
            prop::collection::btree_set(role, 0..3),
            prop::collection::btree_set(label, 0..3),
            [json(), json()],
        );
        let kept = prop::option::of((select(vec!["triage", "a"]), any::<bool>()));
        let run = (select(vec!["run_1", "run_2"]), kept, 0..3_usize).prop_map(|(id, kept, n)| {
            let released = kept.filter(|(_, released)| *released);
            InputRun {
                id: RunId::new(id).unwrap(),
                workflow: kept.map(|(name, _)| WorkflowId::new(name).unwrap()),
                version: kept.map(|_| "1.0.0".parse().unwrap()),
                release: released.map(|_| ReleaseId::new("rel_1").unwrap()),
                ring: released.map(|_| "canary"),
                approved_steps: (0..n).map(|n| StepId::new(format!("s{n}")).unwrap()).collect(),
            }
        });
        let last = (prop::option::of(approval), any::<bool>(), now, prop::option::of(run));
        (who, what, budget, last).prop_map(
            |((phase, kind, ids), (roles, labels, [params, claims]), budget, last)| {
                let (approval, within, now, run) = last;
                Facts {
                    phase,
                    kind,
                    ids,
                    roles,
                    labels,
                    params,
                    claims,
                    budget,
                    approval,
                    within,
                    now,
                    run,
                }
            },
        )
    }

    /// Has `job` look at the input that `facts` make.
    fn with_input(facts: &Facts, job: impl FnOnce(&DecisionInput<'_>)) {
        let [tenant, workspace, environment, principal, tool] = facts.ids;
        let principal = PrincipalId::new(principal).unwrap();
        job(&DecisionInput {
            phase: facts.phase,
            tenant: &TenantId::new(tenant).unwrap(),
            workspace: &WorkspaceId::new(workspace).unwrap(),
            environment: &EnvironmentId::new(environment).unwrap(),
            principal: InputPrincipal { id: &principal, kind: facts.kind, roles: &facts.roles },
            actor_chain: &[Actor { id: principal.clone(), kind: facts.kind }],
            tool: InputTool {
                id: &ToolId::new(tool).unwrap(),
                labels: &facts.labels,
                digest: Digest::of(tool.as_bytes()),
            },
            params: &facts.params,
            claims: &facts.claims,
            risk: &Risk::assess(&facts.labels, environment, &BTreeSet::new()),
            budget: facts.budget,
            approval: facts.approval.clone(),
            operational: InputOperational { within_write_caps: facts.within },
            now: facts.now,
            run: facts.run.as_ref(),
        });
    }

    proptest! {
        /// Whatever was read before, and whoever still holds it: the text is serde_json's, the
        /// value is that of the text, and stays so.
        #[test]
        fn the_value_is_that_of_the_text(
            inputs in prop::collection::vec((facts(), any::<bool>()), 1..12)
        ) {
            let mut reader = Reader::new();
            let mut held = Vec::new();
            for (facts, hold) in &inputs {
                with_input(facts, |input| {
                    let json = serde_json::to_vec(input).unwrap();
                    assert_eq!(reader.write(input).unwrap(), json);
                    let (value, parsed) = (reader.value(input).unwrap(), parse(&json).unwrap());
                    assert_eq!(value, parsed);
                    assert_eq!(value.to_string(), parsed.to_string());
                    held.extend(hold.then_some((value, parsed)));
                });
            }
            for (value, parsed) in held {
                prop_assert_eq!(value, parsed);
            }
        }
    }

    #[test]
    fn a_failure_leaves_no_trace() {
        let mut reader = Reader::new();
        let mut runner = TestRunner::deterministic();
        let mut facts = || facts().new_tree(&mut runner).unwrap().current();
        let (first, second) = (facts(), facts());
        with_input(&first, |input| {
            reader.write(input).unwrap();
            reader.json.truncate(20);
            assert!(reader.value(input).is_err());
        });
        with_input(&second, |input| {
            let json = reader.write(input).unwrap().to_vec();
            assert_eq!(reader.value(input).unwrap(), parse(&json).unwrap());
        });
    }
}
