//! Starting a run: one commit, with its first action where it begins at once.

use std::sync::Arc;
use std::time::Instant;

use kernel::failure::{Category, Failure};
use kernel::ids::{AccountId, RunId};
use kernel::json::RawJson;
use kernel::machine::{Command, Kind, Refusal, State};
use kernel::plan;
use kernel::run::{Input, Pinned, Request, Run, StepSpec, Trigger};
use kernel::values::{Digest, MicroUsd, Shared as Held, Timestamp};
use kernel::workflow::{Plan, Retention, Step};
use ledger::store::Class;
use ledger::{Batch, Committed, Error};

use super::admission::Entry;
use super::ahead::{Ahead, ahead, command};
use super::document::{DOCUMENT, Document};
use super::join::carry_out;
use super::live::{self, Live};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared, new_run_id};
use crate::toolbox;

/// What is to be run, and under which terms.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) plan: Plan,
    pub(super) input: RawJson,
    pub(super) account: Option<AccountId>,
    pub(super) budget: Option<MicroUsd>,
    pub(super) writes_max: Option<u32>,
    pub(super) timeout_s: Option<u32>,
    pub(super) of: Option<RunId>,
    pub(super) trigger: Trigger,
    /// The id that it is to have, where what it is follows from that.
    pub(super) id: Option<RunId>,
    /// The kept workflow that it is of.
    pub(super) pinned: Option<Pinned>,
    /// When it was looked up what is in force.
    pub(super) looked_up: Timestamp,
}

/// What a start came to.
pub(super) enum Started {
    New(Box<Run>, Arc<str>, Option<Arc<Live>>),
    /// The same request started this run before.
    Repeat(RunId),
}

/// Carries out a start. `body` is the digest of the request, for the idempotency key.
pub(super) async fn start(
    shared: &Arc<Shared>,
    caller: &Caller,
    wanted: Wanted,
    body: Digest,
) -> Result<Started> {
    callable(shared, caller, &wanted.plan)?;
    let id = wanted.id.clone().map_or_else(new_run_id, Ok)?;
    let entry = shared.runs.admission.lock().enter(&caller.tenant, &id, Instant::now());
    if entry == Entry::Full {
        return Err(full().into());
    }
    let started = begin(shared, caller, &id, wanted, body, entry == Entry::Admitted).await;
    if entry == Entry::Admitted && !matches!(started, Ok(Started::New(..))) {
        shared.runs.live.lock().remove(&id);
        shared.runs.admission.lock().leave(&caller.tenant, &id);
        shared.runs.wake.notify_one();
    }
    started
}

fn full() -> Failure {
    let message = "as many runs of this tenant wait for their turn as may: try again later";
    let failure = Failure::new(Category::RateLimited, "runs_queue_full", message);
    failure.retry_after_ms(limits::RUNS_FULL_RETRY_MS)
}

/// A plan with a tool that is not there never begins.
fn callable(shared: &Shared, caller: &Caller, plan: &Plan) -> Result<()> {
    for (index, step) in plan.steps.iter().enumerate() {
        let found = toolbox::find(shared, &caller.tenant, &step.tool);
        if found.is_none_or(|tool| !tool.may_run(caller)) {
            let message = format!("steps[{index}]: there is no tool `{}`", step.tool);
            return Err(Refused::new(Category::NotFound, "unknown_tool", message));
        }
    }
    Ok(())
}

fn spec(step: &Step) -> StepSpec {
    StepSpec {
        id: step.id.clone(),
        group: step.group.clone(),
        iterations: step.iterations,
        attempts: step.retry.map_or(1, |retry| retry.attempts),
        backoff_ms: step.retry.map_or(0, |retry| retry.backoff_ms),
    }
}

fn request(
    caller: &Caller,
    id: &RunId,
    wanted: &Wanted,
    document: &Document,
    now: Timestamp,
) -> Result<Request> {
    let own = wanted.budget.map(|_| AccountId::new(id.as_str()).map_err(Refused::internal));
    let own = own.transpose()?;
    if own.is_some() && wanted.account.is_none() {
        let message = "a budget is set aside from an account: name `account_id`";
        return Err(Refused::new(Category::Budget, "budget_account_missing", message));
    }
    let payer = wanted.account.clone().filter(|_| own.is_some());
    let micros = |s: u32| now.plus_micros(i64::from(s).saturating_mul(1_000_000));
    Ok(Request {
        document: document.digest()?,
        environment: caller.environment.clone(),
        actors: caller.actors(),
        trigger: Trigger::clone(&wanted.trigger),
        of: wanted.of.clone(),
        steps: wanted.plan.steps.iter().map(spec).collect(),
        account: own.or_else(|| wanted.account.clone()),
        payer,
        budget: wanted.budget,
        writes_max: wanted.writes_max,
        deadline: wanted.timeout_s.map(micros),
        metadata_only: metadata_only(wanted),
        release: wanted.pinned.clone(),
    })
}

/// Whether a run leaves no content behind: where its plan does not say, that of a workflow that was
/// started by its name, or by something that happened elsewhere.
fn metadata_only(wanted: &Wanted) -> bool {
    let asked_for = matches!(wanted.trigger, Trigger::Manual | Trigger::Replay);
    let usual = wanted.pinned.is_some() || !asked_for;
    let said = wanted.plan.content_retention;
    said.map_or(usual, |retention| retention == Retention::MetadataOnly)
}

async fn begin(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &RunId,
    wanted: Wanted,
    body: Digest,
    admitted: bool,
) -> Result<Started> {
    let now = shared.now();
    let document = Document::new(caller, wanted.plan.clone(), wanted.input.clone())?;
    let most = shared.config.runs.writes_per_run;
    let wanted =
        Wanted { writes_max: Some(wanted.writes_max.map_or(most, |own| own.min(most))), ..wanted };
    let request = Held::new(request(caller, id, &wanted, &document, now)?);
    let absent = || Refused::internal("a request that makes no run");
    let mut run = Run::requested(id, request.clone(), now).ok_or_else(absent)?;
    let mut batch = Batch::new(caller.log(), Vec::new());
    batch.trace_id = caller.trace_id.clone();
    if let Some((key, input)) = caller.reserve("runs", body, id.as_str(), now) {
        let input = kernel::machine::Input::Reserve(input);
        batch.commands.push(Command::new(Kind::Idempotency, key, input));
    }
    if let (Some(from), Some(to), Some(money)) = (&request.payer, &request.account, request.budget)
    {
        batch.commands.extend(plan::allot(from, to, money, &kernel::units::Units::NONE));
    }
    let ask = match &request.release {
        Some(_) => Input::Take { request: request.clone(), at: wanted.looked_up },
        None => Input::Request(request.clone()),
    };
    batch.commands.push(command(&run, ask));
    let text = serde_json::to_vec(&document).map_err(Refused::internal)?;
    let (tenant, class) = (caller.tenant.as_str(), Class::Request);
    let sealed = shared.vault.seal(tenant, id.as_str(), DOCUMENT, class, &text, now).await?;
    batch.side.push(sealed);
    batch.fresh.push(kernel::machine::Stream::new(Kind::Run, id.as_str()));
    let (mut next, mut known) = (Ahead::default(), None);
    if admitted {
        batch.commands.push(command(&run, Input::Admit {}));
        run = run.foresee(Input::Admit {}, now)?;
        let live = Arc::new(Live::new(document));
        live::keep(shared, id, &live);
        known = Some(live.clone());
        next = ahead(shared, &live, caller, run, now).await.unwrap_or_default();
    }
    let committed = commit(shared, caller, batch, next).await;
    match committed {
        Ok(committed) => match committed.state(Kind::Run, id.as_str()) {
            Some(State::Run(run)) => {
                Ok(Started::New(Box::new(run.clone()), committed.checkpoint.clone(), known))
            }
            _ => Err(Refused::internal("a start left no run behind")),
        },
        Err(Error::Refused(Refusal::Duplicate { target })) => {
            Ok(Started::Repeat(RunId::new(target).map_err(Refused::internal)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// With its first step, or, where that is refused, without: the run is due then.
async fn commit(
    shared: &Arc<Shared>,
    caller: &Caller,
    batch: Batch,
    next: Ahead,
) -> std::result::Result<Committed, Error> {
    let Ahead { commands, made } = next;
    let mut whole = copy(&batch);
    whole.commands.extend(commands);
    let Some(mut made) = made else { return shared.ledger.commit(whole).await };
    whole.fresh.push(made.stream());
    whole.commands.append(&mut made.commands);
    whole.side.append(&mut made.side);
    match shared.ledger.commit(whole).await {
        Ok(committed) => {
            carry_out(shared, caller, made, &committed);
            Ok(committed)
        }
        Err(Error::Refused(refusal @ (Refusal::Duplicate { .. } | Refusal::KeyReused))) => {
            Err(Error::Refused(refusal))
        }
        Err(Error::Refused(_)) => shared.ledger.commit(batch).await,
        Err(error) => Err(error),
    }
}

fn copy(batch: &Batch) -> Batch {
    Batch {
        log: batch.log.clone(),
        commands: batch.commands.clone(),
        expect: batch.expect.clone(),
        fresh: batch.fresh.clone(),
        side: batch.side.clone(),
        trace_id: batch.trace_id.clone(),
    }
}
