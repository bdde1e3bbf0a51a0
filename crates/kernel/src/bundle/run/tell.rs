//! Telling what a run did: its state machines are folded again, and on the way it is noted what
//! policy, people and tools said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::parts::{
    ActionPart, ApprovalPart, AttemptPart, DecisionPart, KeyPart, Pins, ReversalPart, RunPart,
    StepPart, Story, Total, Undone, VotePart,
};
use super::{Control, Error, Needs, Told};
use crate::action::{self, Action, FailureCode, Outcome};
use crate::approval::{self, Approval};
use crate::ids::{ActionId, ApprovalId, PrincipalId, RunId};
use crate::machine::{self, Applied, Change, Kind, State, Stream};
use crate::receipt::Transition;
use crate::run::{self, Run};
use crate::values::{MicroUsd, Timestamp};

/// What the receipts of a bundle say of one run. They are given in the order of the log.
pub fn tell(
    run: &RunId,
    origin: &str,
    told: &[Told<'_>],
    control: Option<&Control<'_>>,
) -> Result<Story, Error> {
    Teller::new(run, told)?.story(origin, control)
}

/// What was noted of one action besides its state.
#[derive(Default)]
struct Noted {
    decisions: Vec<DecisionPart>,
    approvals: Vec<ApprovalId>,
    attempts: Vec<AttemptPart>,
    reversals: Vec<ReversalPart>,
    reconciled_by: Option<PrincipalId>,
    canceled_by: Option<PrincipalId>,
}

/// What was noted of one approval besides its state.
#[derive(Default)]
struct Said {
    votes: Vec<VotePart>,
    glass_broken_by: Option<PrincipalId>,
}

/// One stream, as far as it was read.
#[derive(Default)]
struct Folded {
    version: u64,
    state: Option<State>,
}

/// Tells what a run did.
pub struct Teller {
    run: Stream,
    /// What the run is made of.
    streams: BTreeMap<Stream, Folded>,
    /// Its actions in the order in which they were asked for.
    order: Vec<ActionId>,
    actions: BTreeMap<ActionId, Noted>,
    approvals: BTreeMap<ApprovalId, Said>,
    keys: BTreeSet<KeyPart>,
    receipts: BTreeSet<u64>,
    /// The time of the last of them.
    until: Timestamp,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("run", &self.run).finish_non_exhaustive()
    }
}

/// Where and when something was said.
type At = (u64, Timestamp);

impl Teller {
    /// Reads the receipts. Every change of whatever belongs to the run must be there, from its
    /// first on.
    pub fn new(run: &RunId, told: &[Told<'_>]) -> Result<Self, Error> {
        let stream = Stream::new(Kind::Run, run.as_str());
        let mut streams: BTreeMap<Stream, Folded> = BTreeMap::new();
        streams.extend(members(&stream, told).into_iter().map(|s| (s, Folded::default())));
        let mut teller = Self {
            run: stream,
            streams,
            order: Vec::new(),
            actions: BTreeMap::new(),
            approvals: BTreeMap::new(),
            keys: BTreeSet::new(),
            receipts: BTreeSet::new(),
            until: Timestamp(0),
        };
        for Told { index, time, transitions } in told {
            for transition in *transitions {
                teller.take(transition, (*index, *time))?;
            }
        }
        let absent = teller.streams.iter().find(|(_, folded)| folded.version == 0);
        match absent {
            Some((stream, _)) => Err(Error::Absent(stream.clone())),
            None => Ok(teller),
        }
    }

    /// Whether the run is made of `stream`, among others.
    pub fn is_about(&self, stream: &Stream) -> bool {
        self.streams.contains_key(stream)
    }

    fn take(&mut self, transition: &Transition, at: At) -> Result<(), Error> {
        let Transition { stream, version, change } = transition;
        if let Change::Reservation(reserved) = change {
            self.key(stream, reserved);
        }
        let moved = match change {
            Change::Run(run::Change::StepMoved { action, state, .. }) => Some((action, state)),
            _ => None,
        };
        let apart = moved.filter(|_| *stream == self.run).is_some_and(|(action, state)| {
            self.action(action).is_none_or(|action| action.status != *state)
        });
        let Some(folded) = self.streams.get_mut(stream) else { return Ok(()) };
        let due = folded.version.saturating_add(1);
        if *version != due {
            return Err(Error::Gap { stream: stream.clone(), version: due });
        }
        if apart {
            return Err(Error::Contradiction(at.0));
        }
        folded.version = due;
        let applied = Applied { id: &stream.id, index: at.0, time: at.1 };
        machine::apply(&mut folded.state, change, &applied);
        self.receipts.insert(at.0);
        self.until = self.until.max(at.1);
        match change {
            Change::Action(change) => self.note_action(stream, change, at),
            Change::Approval(change) => self.note_approval(stream, change, at),
            _ => {}
        }
        Ok(())
    }

    fn key(&mut self, stream: &Stream, reserved: &crate::reservation::Change) {
        let crate::reservation::Change::Reserved { body, target, .. } = reserved;
        let named = [Kind::Run, Kind::Action].map(|kind| Stream::new(kind, target.as_str()));
        if named.iter().any(|stream| self.streams.contains_key(stream)) {
            let (key, target) = (stream.id.to_string(), target.clone());
            self.keys.insert(KeyPart { key, target, body: *body });
        }
    }

    fn action(&self, id: &ActionId) -> Option<&Action> {
        match self.streams.get(&Stream::new(Kind::Action, id.as_str()))?.state.as_ref()? {
            State::Action(action) => Some(action),
            _ => None,
        }
    }

    fn approval(&self, id: &ApprovalId) -> Option<&Approval> {
        match self.streams.get(&Stream::new(Kind::Approval, id.as_str()))?.state.as_ref()? {
            State::Approval(approval) => Some(approval),
            _ => None,
        }
    }

    fn note_action(&mut self, stream: &Stream, change: &action::Change, (receipt, at_us): At) {
        use action::Change;
        let Ok(id) = ActionId::new(&*stream.id) else { return };
        if matches!(change, Change::Requested(_)) {
            self.order.push(id.clone());
        }
        let noted = self.actions.entry(id).or_default();
        match change {
            Change::Decided { phase, status, decision, approval, .. } => {
                noted.decisions.push(DecisionPart {
                    receipt,
                    at_us,
                    phase: *phase,
                    effect: decision.effect,
                    status: *status,
                    rules: decision.rules.clone(),
                    reasons: decision.reasons.clone(),
                    policy: decision.policy.clone(),
                    input_digest: decision.input_digest,
                });
                let new = approval.iter().filter(|id| !noted.approvals.contains(id));
                let new: Vec<ApprovalId> = new.cloned().collect();
                noted.approvals.extend(new);
            }
            Change::Started(attempt) => noted.attempts.push(began(attempt.number, receipt, at_us)),
            Change::Retried { failure, cost, units, .. } => {
                if let Some(attempt) = noted.attempts.last_mut() {
                    end(attempt, (receipt, at_us), action::Status::Approved, Some(failure));
                    (attempt.cost_micro_usd, attempt.units) = (*cost, *units);
                }
            }
            Change::Finished { outcome, .. } => {
                if let Some(attempt) = noted.attempts.last_mut() {
                    let Outcome { status, failure, output, output_bytes, .. } = outcome;
                    end(attempt, (receipt, at_us), *status, failure.as_ref());
                    (attempt.output, attempt.output_bytes) = (*output, *output_bytes);
                    (attempt.cost_micro_usd, attempt.units) = (outcome.cost, outcome.units);
                }
            }
            Change::Reconciled { by, .. } => noted.reconciled_by = Some(by.clone()),
            Change::Canceled { by } => noted.canceled_by = Some(by.clone()),
            Change::ReversalBegun { by }
            | Change::Reversed { by }
            | Change::ReversalEnded { by } => {
                let state = match change {
                    Change::ReversalBegun { .. } => Undone::Begun,
                    Change::Reversed { .. } => Undone::Reversed,
                    _ => Undone::Ended,
                };
                noted.reversals.push(ReversalPart { receipt, at_us, by: by.clone(), state });
            }
            Change::Requested(_)
            | Change::Approved { .. }
            | Change::Denied { .. }
            | Change::Expired {} => {}
        }
    }

    fn note_approval(&mut self, stream: &Stream, change: &approval::Change, at: At) {
        let Ok(id) = ApprovalId::new(&*stream.id) else { return };
        let said = self.approvals.entry(id).or_default();
        match change {
            approval::Change::Decided { vote, .. } => said.votes.push(VotePart {
                receipt: at.0,
                at_us: at.1,
                by: vote.by.clone(),
                roles: vote.roles.clone(),
                verdict: vote.verdict,
                stage: vote.stage.clone(),
                delegated_by: vote.delegated_by.clone(),
                step_up: vote.step_up,
                reason_code: vote.reason_code.clone(),
                signed_by: vote.signature.as_ref().map(|signature| signature.key_id),
            }),
            approval::Change::GlassBroken(broken) => {
                said.glass_broken_by = Some(broken.by.clone());
            }
            _ => {}
        }
    }

    fn run(&self) -> Result<&Run, Error> {
        match self.streams.get(&self.run).and_then(|folded| folded.state.as_ref()) {
            Some(State::Run(run)) => Ok(run),
            _ => Err(Error::Absent(self.run.clone())),
        }
    }

    /// What the control log has to say about it.
    pub fn needs(&self) -> Result<Needs, Error> {
        let decided = self.actions.values().flat_map(|noted| &noted.decisions);
        let decided = decided.filter(|decision| decision.policy.revision > 0);
        let decided = decided.map(|decision| (decision.policy.clone(), decision.at_us));
        Needs::new(self.run()?, decided, self.until)
    }

    /// All of it. `control`: what the control log says, as far as the run rests on it.
    pub fn story(&self, origin: &str, control: Option<&Control<'_>>) -> Result<Story, Error> {
        let absent = || Error::Absent(self.run.clone());
        let run = self.run()?;
        let governance = self.needs()?.tell(control)?;
        let release = run.request.release.clone();
        let mut pins = Pins { release, ..Pins::default() };
        let (mut total, mut total_of_code) = (Total::default(), Total::default());
        let mut total_of_reversals = Total::default();
        let mut actions = Vec::with_capacity(self.order.len());
        for id in &self.order {
            let (action, noted) = self.action(id).zip(self.actions.get(id)).ok_or_else(absent)?;
            let request = &action.request;
            let tool = pins.tools.entry(request.tool.to_string()).or_default();
            tool.insert(request.tool_digest);
            let policies = noted.decisions.iter().map(|decision| &decision.policy);
            let policies = policies.filter(|policy| policy.revision > 0);
            pins.policies.extend(policies.map(|policy| (policy.revision, policy.digest)));
            let sum = match (&request.step, &request.reverses) {
                (Some(step), _) if step.run == run.id => &mut total,
                (_, Some(_)) => &mut total_of_reversals,
                _ => &mut total_of_code,
            };
            add(sum, action);
            actions.push(action_part(action, noted));
        }
        let approvals = self.approvals.iter().filter_map(|(id, said)| {
            let approval = self.approval(id)?;
            Some(approval_part(id, approval, said))
        });
        Ok(Story {
            form: super::TYPE,
            log: origin.to_owned(),
            run: run_part(run),
            pins,
            steps: self.steps(run),
            approvals: approvals.collect(),
            idempotency_keys: self.keys.iter().cloned().collect(),
            governance,
            total,
            total_of_code,
            total_of_reversals,
            receipts: self.receipts.iter().copied().collect(),
            actions,
        })
    }

    fn steps(&self, run: &Run) -> Vec<StepPart> {
        let of = |step: &run::StepSpec| {
            let ids = self.order.iter().filter(|id| {
                let asked = self.action(id).and_then(|action| action.request.step.as_ref());
                asked.is_some_and(|asked| asked.step == step.id && asked.run == run.id)
            });
            ids.cloned().collect()
        };
        let part = |(spec, step): (&run::StepSpec, &run::Step)| StepPart {
            step: spec.id.clone(),
            group: spec.group.clone(),
            iterations: spec.iterations,
            status: step.status,
            skipped: step.skipped,
            failure: step.failure.clone(),
            cost_micro_usd: step.cost,
            actions: of(spec),
        };
        run.each().map(part).collect()
    }
}

/// The streams that a run is made of: the run, the actions of its steps, those of the code that
/// they ran, those that undid any of them, and the approvals of all of these.
fn members(run: &Stream, told: &[Told<'_>]) -> BTreeSet<Stream> {
    let mut leads: BTreeMap<&Stream, Vec<Stream>> = BTreeMap::new();
    let mut called: BTreeMap<Stream, Vec<Stream>> = BTreeMap::new();
    let action = |id: &ActionId| Stream::new(Kind::Action, id.as_str());
    for Transition { stream, change, .. } in told.iter().flat_map(|told| told.transitions) {
        let led = match change {
            Change::Run(run::Change::StepStarted { action: id, .. }) => vec![action(id)],
            Change::Action(action::Change::ReversalBegun { by }) => vec![action(by)],
            Change::Action(action::Change::Requested(request)) => {
                if let Some(execution) = &request.execution {
                    called.entry(action(execution)).or_default().push(stream.clone());
                }
                continue;
            }
            Change::Action(action::Change::Decided { approval: Some(id), .. }) => {
                vec![Stream::new(Kind::Approval, id.as_str())]
            }
            Change::Action(action::Change::Finished { outcome, .. }) => {
                let calls = outcome.attestation.iter().flat_map(|a| &a.tool_calls);
                calls.filter_map(|call| call.action.as_ref().map(action)).collect()
            }
            _ => continue,
        };
        leads.entry(stream).or_default().extend(led);
    }
    let (mut found, mut next) = (BTreeSet::new(), VecDeque::from([run.clone()]));
    while let Some(stream) = next.pop_front() {
        if found.contains(&stream) {
            continue;
        }
        next.extend(leads.get(&stream).into_iter().flatten().cloned());
        next.extend(called.get(&stream).into_iter().flatten().cloned());
        found.insert(stream);
    }
    found
}

fn began(number: u32, receipt: u64, began_us: Timestamp) -> AttemptPart {
    AttemptPart {
        number,
        receipt,
        began_us,
        ended_receipt: None,
        ended_us: None,
        status: None,
        failure: None,
        output: None,
        output_bytes: 0,
        cost_micro_usd: MicroUsd::ZERO,
        units: crate::units::Units::NONE,
    }
}

fn end(attempt: &mut AttemptPart, at: At, status: action::Status, failure: Option<&FailureCode>) {
    (attempt.ended_receipt, attempt.ended_us) = (Some(at.0), Some(at.1));
    (attempt.status, attempt.failure) = (Some(status), failure.cloned());
}

fn add(total: &mut Total, action: &Action) {
    total.actions = total.actions.saturating_add(1);
    total.cost_micro_usd.0 = total.cost_micro_usd.0.saturating_add(action.spent.0);
    total.units = total.units.saturating_add(&action.used);
}

fn run_part(run: &Run) -> RunPart {
    let request = &run.request;
    RunPart {
        id: run.id.clone(),
        status: run.status,
        trigger: run::Trigger::clone(&request.trigger),
        of: request.of.clone(),
        environment: request.environment.clone(),
        actors: request.actors.clone(),
        document: request.document,
        account: request.account.clone(),
        budget_micro_usd: request.budget,
        writes_max: request.writes_max,
        writes: run.writes,
        replays: run.replays,
        requested_us: run.requested_at,
        ended_us: run.ended_at,
        failure: run.ending.as_ref().and_then(|ending| ending.failure.clone()),
        content_dropped: run.content_dropped,
    }
}

fn action_part(action: &Action, noted: &Noted) -> ActionPart {
    let request = &action.request;
    let step = request.step.as_ref();
    ActionPart {
        action: action.id.clone(),
        step: step.map(|step| step.step.clone()),
        iteration: step.map(|step| step.iteration),
        execution: request.execution.clone(),
        tool: request.tool.clone(),
        tool_digest: request.tool_digest,
        routed_from: request.routed_from.clone(),
        actors: request.actors.clone(),
        action_digest: request.action_digest,
        plan_digest: request.plan_digest,
        risk: request.risk.clone(),
        estimate_micro_usd: request.estimate,
        requested_us: action.requested_at,
        decisions: noted.decisions.clone(),
        approvals: noted.approvals.clone(),
        attempts: noted.attempts.clone(),
        status: action.status,
        failure: action.outcome.as_ref().and_then(|outcome| outcome.failure.clone()),
        reconciled_by: noted.reconciled_by.clone(),
        canceled_by: noted.canceled_by.clone(),
        cost_micro_usd: action.spent,
        units: action.used,
        reverses: request.reverses.clone(),
        reversals: noted.reversals.clone(),
    }
}

fn approval_part(id: &ApprovalId, approval: &Approval, said: &Said) -> ApprovalPart {
    let request = &approval.request;
    ApprovalPart {
        approval: id.clone(),
        action: request.action.clone(),
        plan_digest: request.plan_digest,
        demand: request.demand.clone(),
        step_up: request.step_up,
        requested_us: approval.requested_at,
        status: approval.status,
        votes: said.votes.clone(),
        glass_broken_by: said.glass_broken_by.clone(),
        used_us: approval.used_at,
    }
}
