//! The runs service.

use std::sync::Arc;
use std::time::Duration;

use kernel::failure::{Category, Failure};
use kernel::ids::{PrincipalId, StepId};
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::release::Status as ReleaseStatus;
use kernel::run::{Input, Pinned, Run, Status, Trigger};
use kernel::values::{Digest, MicroUsd};
use kernel::workflow::skills::compile;
use ledger::Batch;
use prost::Message;
use proto::rest::HttpStatus;
use proto::runs::runs_service_server::RunsService;
use proto::runs::{
    CancelRunRequest, DiffRunsRequest, DiffRunsResponse, DiscardRunRequest,
    GetRunDivergenceRequest, GetRunRequest, ListRunsRequest, ListRunsResponse, PauseRunRequest,
    ReplayRunRequest, ReplayRunResponse, ResumeRunRequest, Run as WireRun, RunDivergence,
    StartRunRequest,
};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tonic::{Request, Response, Status as RpcStatus};

use super::ahead::command;
use super::dry::dry_run;
use super::launch::{before, take};
use super::live::Live;
use super::replay::{Mode, replay};
use super::retention::gone;
use super::start::{Started, Wanted, start};
use super::trace::{Trace, trace};
use super::view::{brief, named, pinned, whole, wire_state};
use super::{READ, compare, divergence, document};
use crate::actions::{check_place, parse_json, payer};
use crate::error::{Refused, Result};
use crate::factory::PROD;
use crate::limits;
use crate::paging;
use crate::runtime::{listed, yaml};
use crate::shared::{Caller, Shared};

/// Serves runs.
#[derive(Clone)]
pub(crate) struct RunsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

/// What to wait for.
#[derive(Clone, Copy)]
struct Patience {
    until: Instant,
    /// Whether also for people and for timers.
    for_people: bool,
}

impl Patience {
    fn new(wait_ms: Option<u32>) -> Result<Self> {
        let ms = wait_ms.unwrap_or(limits::WAIT_MS_DEFAULT);
        if ms > limits::WAIT_MS_MAX {
            return Err(Refused::invalid("wait_ms is at most 60000"));
        }
        let until = Instant::now() + Duration::from_millis(ms.into());
        Ok(Self { until, for_people: wait_ms.is_some() })
    }

    fn ends_with(&self, run: &Run) -> bool {
        let held = matches!(run.status, Status::WaitingApproval | Status::Paused);
        run.status.has_ended() || (held && !self.for_people) || Instant::now() >= self.until
    }
}

impl RunsApi {
    /// A run that the caller may see, by its id.
    fn find(&self, caller: &Caller, id: &str) -> Result<Run> {
        match self.0.ledger.read(&caller.log(), Kind::Run, id)? {
            Some(State::Run(run)) if caller.sees(READ, &run.request.actors) => Ok(run),
            _ => Err(Refused::not_found("run")),
        }
    }

    fn whole(
        &self,
        caller: &Caller,
        run: &Run,
        checkpoint: Arc<str>,
        live: Option<&Live>,
    ) -> Result<WireRun> {
        whole(&self.0, &caller.log(), run, checkpoint, live)
    }

    /// Where a run stands now: at hand while it is carried out here, and, for who has begun it, at
    /// its end. With a checkpoint that covers that, where one is at hand.
    fn again(
        &self,
        caller: &Caller,
        run: &Run,
        begun: Option<&Arc<Live>>,
    ) -> Result<(Run, Arc<str>)> {
        let live = begun.filter(|live| live.is_whole()).cloned();
        let live = live.or_else(|| self.0.runs.live.lock().get(&run.id).cloned());
        match live.and_then(|live| live.state()) {
            Some(known) => Ok(known),
            None => Ok((self.find(caller, run.id.as_str())?, Arc::default())),
        }
    }

    /// A run that the caller may end or hold: its own, or, for operators, anybody's.
    fn control(&self, caller: &Caller, id: &str) -> Result<Run> {
        let run = self.find(caller, id)?;
        let own = run.request.actors.contains(&caller.id);
        match own || caller.may("actions:reconcile") {
            true => Ok(run),
            false => Err(Refused::not_found("run")),
        }
    }

    async fn start(&self, caller: &Caller, mut wire: StartRunRequest) -> Result<Response<WireRun>> {
        let patience = Patience::new(wire.wait_ms.take())?;
        // How long to wait is not part of what is asked.
        let body = Digest::of(&wire.encode_to_vec());
        check_place(caller, &wire.workspace, &wire.environment)?;
        if !wire.workflow_name.is_empty()
            && let Some(id) = before(&self.0, caller, body)?
        {
            let run = self.find(caller, id.as_str())?;
            return self.answer(caller, (run, Arc::default(), None), patience).await;
        }
        let dry = wire.dry_run;
        let wanted = wanted(&self.0, caller, wire)?;
        if dry {
            let (shared, caller) = (self.0.clone(), caller.clone());
            let foreseeing = spawn_blocking(move || dry_run(&shared, &caller, wanted));
            return Ok(Response::new(foreseeing.await.map_err(Refused::not_ended)??));
        }
        let starting = {
            let (shared, caller) = (self.0.clone(), caller.clone());
            // A task of its own: a caller who goes away does not take the run along.
            tokio::spawn(async move { start(&shared, &caller, wanted, body).await })
        };
        let (run, checkpoint, live) = match starting.await.map_err(Refused::not_ended)?? {
            Started::New(run, checkpoint, live) => (*run, checkpoint, live),
            Started::Repeat(id) => (self.find(caller, id.as_str())?, Arc::default(), None),
        };
        self.answer(caller, (run, checkpoint, live), patience).await
    }

    /// 200 for what has ended, 202 for what goes on.
    async fn answer(
        &self,
        caller: &Caller,
        (run, checkpoint, live): (Run, Arc<str>, Option<Arc<Live>>),
        patience: Patience,
    ) -> Result<Response<WireRun>> {
        let ends = |run: &Run| patience.ends_with(run);
        let waited = self.wait(caller, &run, live.as_ref(), patience.until, ends).await?;
        let (run, checkpoint) = waited.unwrap_or((run, checkpoint));
        let ended = run.status.has_ended();
        let mut response = Response::new(self.whole(caller, &run, checkpoint, live.as_deref())?);
        if !ended {
            response.extensions_mut().insert(HttpStatus(202));
        }
        Ok(response)
    }

    /// The run once `ends` says so, or `until` is there; none where it is so already.
    async fn wait(
        &self,
        caller: &Caller,
        run: &Run,
        begun: Option<&Arc<Live>>,
        until: Instant,
        ends: impl Fn(&Run) -> bool,
    ) -> Result<Option<(Run, Arc<str>)>> {
        if ends(run) {
            return Ok(None);
        }
        let place = self.0.runs.waiters.enter(&run.id);
        loop {
            let changed = place.changed();
            tokio::pin!(changed);
            // From here on a change is noticed.
            changed.as_mut().enable();
            let now = self.again(caller, run, begun)?;
            if ends(&now.0) || Instant::now() >= until {
                return Ok(Some(now));
            }
            let next = until.min(Instant::now() + limits::QUEUE_IDLE);
            let _woken = tokio::time::timeout_at(next, changed).await;
        }
    }

    async fn get(&self, caller: &Caller, wire: GetRunRequest) -> Result<WireRun> {
        let run = self.find(caller, &wire.run_id)?;
        if wire.wait_ms > limits::WAIT_MS_MAX {
            return Err(Refused::invalid("wait_ms is at most 60000"));
        }
        let until = Instant::now() + Duration::from_millis(wire.wait_ms.into());
        let log = caller.log();
        let ends = |run: &Run| match wire.after_receipt.as_str() {
            _ if run.status.has_ended() || wire.wait_ms == 0 => true,
            "" => false,
            after => log.receipt_id(run.last_receipt) != after,
        };
        let waited = self.wait(caller, &run, None, until, ends).await?;
        let (run, checkpoint) = waited.unwrap_or((run, Arc::default()));
        self.whole(caller, &run, checkpoint, None)
    }

    fn list(&self, caller: &Caller, wire: ListRunsRequest) -> Result<ListRunsResponse> {
        let wanted = wire.state();
        let status = Status::ALL.into_iter().find(|status| wire_state(*status) == wanted);
        let page = paging::page(wire.page_size, &wire.page_token, status.map(Status::as_str));
        let agent = match wire.agent_id.as_str() {
            "" => None,
            id => Some(PrincipalId::new(id).map_err(|e| Refused::invalid(e.to_string()))?),
        };
        let log = caller.log();
        let sees = |state: &State| match state {
            State::Run(run) => {
                let of = agent.as_ref().is_none_or(|agent| run.request.actors.contains(agent));
                of && caller.sees(READ, &run.request.actors)
            }
            _ => false,
        };
        let (states, next_page_token) =
            paging::visible(&self.0.ledger, &log, Kind::Run, page, sees)?;
        let mut runs = Vec::with_capacity(states.len());
        for state in states {
            let State::Run(run) = state else { continue };
            let mut wire = brief(&log, &run);
            wire.pinned = pinned(&self.0, &log, &run);
            if let Some(document) = document::open(&self.0, &log, &run.id)? {
                named(&mut wire, &document)?;
            }
            runs.push(wire);
        }
        Ok(ListRunsResponse { runs, next_page_token })
    }

    /// Asks something of a run, once for each idempotency key.
    async fn ask(
        &self,
        caller: &Caller,
        run: &Run,
        (endpoint, body): (&str, Digest),
        input: Input,
    ) -> Result<WireRun> {
        let batch = Batch::new(caller.log(), vec![command(run, input)]);
        self.0.mutate(caller, endpoint, body, run.id.as_str(), batch).await?;
        let run = self.find(caller, run.id.as_str())?;
        self.whole(caller, &run, Arc::default(), None)
    }

    async fn replay(&self, caller: &Caller, wire: ReplayRunRequest) -> Result<ReplayRunResponse> {
        let body = Digest::of(&wire.encode_to_vec());
        let run = self.control(caller, &wire.run_id)?;
        let mode = match wire.mode.as_str() {
            "" | "resume" => {
                let from = match wire.from_step.as_str() {
                    "" => None,
                    id => Some(StepId::new(id).map_err(|e| Refused::invalid(e.to_string()))?),
                };
                let input = Input::Replay { by: caller.id.clone(), from };
                let run = self.ask(caller, &run, ("runs.replay", body), input).await?;
                return Ok(ReplayRunResponse { run: Some(run), steps: Vec::new(), matches: false });
            }
            "full_replay" => return self.full(caller, &run, body).await,
            "mock_replay" => Mode::Mock,
            "dry_run" => Mode::Dry,
            _ => {
                let modes = "mode: `resume`, `full_replay`, `mock_replay` or `dry_run`";
                return Err(Refused::invalid(modes));
            }
        };
        if !run.status.has_ended() {
            return Err(kernel::machine::Refusal::State(run.status.as_str()).into());
        }
        let log = caller.log();
        let document = document::open(&self.0, &log, &run.id)?.ok_or_else(|| gone(&run))?;
        let steps = {
            let (shared, caller, run) = (self.0.clone(), caller.clone(), run.clone());
            // It may have to read the log.
            spawn_blocking(move || replay(&shared, &caller, &log, &run, &document, mode))
        };
        let steps = steps.await.map_err(Refused::not_ended)??;
        let matches = steps.iter().all(|step| step.differs.is_empty() && step.error.is_none());
        let run = self.whole(caller, &run, Arc::default(), None)?;
        Ok(ReplayRunResponse { run: Some(run), steps, matches })
    }

    /// A new run of the same plan.
    async fn full(&self, caller: &Caller, run: &Run, body: Digest) -> Result<ReplayRunResponse> {
        if !caller.may("runs:start") {
            return Err(Refused::new(
                Category::Permission,
                "permission_denied",
                "this takes the permission `runs:start`",
            ));
        }
        let document = document::open(&self.0, &caller.log(), &run.id)?;
        let document = document.ok_or_else(|| gone(run))?;
        let request = &run.request;
        let deadline = request.deadline.map(|at| at.0.saturating_sub(run.requested_at.0));
        let wanted = Wanted {
            plan: document.plan,
            input: document.input,
            account: caller.account.clone(),
            budget: request.budget,
            writes_max: request.writes_max,
            timeout_s: deadline.and_then(|micros| u32::try_from(micros / 1_000_000).ok()),
            of: Some(run.id.clone()),
            trigger: Trigger::Replay,
            id: None,
            looked_up: self.0.now(),
            pinned: in_force(&self.0, caller, run)?,
        };
        let run = match start(&self.0, caller, wanted, body).await? {
            Started::New(run, ..) => *run,
            Started::Repeat(id) => self.find(caller, id.as_str())?,
        };
        let run = self.whole(caller, &run, Arc::default(), None)?;
        Ok(ReplayRunResponse { run: Some(run), steps: Vec::new(), matches: false })
    }

    fn diff(&self, caller: &Caller, wire: &DiffRunsRequest) -> Result<DiffRunsResponse> {
        let log = caller.log();
        let told = |id: &str| -> Result<Trace> {
            let run = self.find(caller, id)?;
            let document = document::open(&self.0, &log, &run.id)?.ok_or_else(|| gone(&run))?;
            let trace = trace(&self.0, &log, &run, &document)?;
            if trace.gone { Err(gone(&run).into()) } else { Ok(trace) }
        };
        compare::compare(&told(&wire.run_id)?, &told(&wire.other_id)?)
    }
}

/// What a run is bound to, for a new run of the same plan: in prod, only as long as its release is
/// in force.
fn in_force(shared: &Shared, caller: &Caller, run: &Run) -> Result<Option<Pinned>> {
    let Some(pinned) = &run.request.release else { return Ok(None) };
    let release = pinned.release.as_ref().and_then(|id| shared.factory.release(&caller.tenant, id));
    let active = release.is_some_and(|release| release.status == ReleaseStatus::Active);
    if active || caller.environment.as_str() != PROD {
        return Ok(Some(pinned.clone()));
    }
    let message = "the release that the run took is in force no more: start a new run";
    Err(Refused::new(Category::Conflict, "release_not_in_force", message))
}

/// What a request wants.
fn wanted(shared: &Shared, caller: &Caller, wire: StartRunRequest) -> Result<Wanted> {
    let named = !wire.workflow_name.is_empty();
    if !named && !wire.workflow_version.is_empty() {
        return Err(Refused::invalid("workflow_version: name the workflow too"));
    }
    let (mut id, mut pinned, looked_up) = (None, None, shared.now());
    let plan = match (wire.plan.is_empty(), wire.workflow.is_empty()) {
        (true, true) if named => {
            let taken = take(shared, caller, &wire.workflow_name, &wire.workflow_version)?;
            (id, pinned) = (Some(taken.id), Some(taken.pinned));
            taken.plan.as_ref().clone()
        }
        (_, true) if !named => compile(&listed(wire.plan)?).map_err(Failure::from)?,
        (true, false) if !named => yaml::plan(&wire.workflow)?,
        _ => {
            let message = "send a plan, a workflow, or the name of one: not two of them";
            return Err(Refused::invalid(message));
        }
    };
    let input = match wire.input.filter(|input| !input.text.is_empty()) {
        Some(input) => parse_json("input", &input.text)?,
        None => RawJson::parse("null").map_err(Refused::internal)?,
    };
    if wire.budget_micro_usd.is_some_and(|budget| budget <= 0) {
        return Err(Refused::invalid("budget_micro_usd: more than 0"));
    }
    if wire.timeout_s == Some(0) {
        return Err(Refused::invalid("timeout_s: more than 0"));
    }
    Ok(Wanted {
        plan,
        input,
        account: payer(caller, &wire.account_id)?,
        budget: wire.budget_micro_usd.map(MicroUsd),
        writes_max: wire.max_writes,
        timeout_s: wire.timeout_s,
        of: None,
        trigger: Trigger::Manual,
        id,
        pinned,
        looked_up,
    })
}

#[tonic::async_trait]
impl RunsService for RunsApi {
    async fn start_run(&self, request: Request<StartRunRequest>) -> Reply<WireRun> {
        let caller = crate::caller(&request)?;
        Ok(self.start(&caller, request.into_inner()).await?)
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Reply<WireRun> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.get(&caller, request.into_inner()).await?))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Reply<ListRunsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner())?))
    }

    async fn get_run_divergence(
        &self,
        request: Request<GetRunDivergenceRequest>,
    ) -> Reply<RunDivergence> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let run = self.find(&caller, &wire.run_id)?;
        let shared = self.0.clone();
        let reporting = spawn_blocking(move || divergence::report(&shared, &caller.log(), &run));
        Ok(Response::new(reporting.await.map_err(Refused::not_ended)??))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Reply<WireRun> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let run = self.control(&caller, &wire.run_id)?;
        let (by, about) = (caller.id.clone(), Digest::of(&wire.encode_to_vec()));
        let asked = self.ask(&caller, &run, ("runs.cancel", about), Input::Cancel { by });
        Ok(Response::new(asked.await?))
    }

    async fn pause_run(&self, request: Request<PauseRunRequest>) -> Reply<WireRun> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let run = self.control(&caller, &wire.run_id)?;
        let (by, about) = (caller.id.clone(), Digest::of(&wire.encode_to_vec()));
        let asked = self.ask(&caller, &run, ("runs.pause", about), Input::Pause { by });
        Ok(Response::new(asked.await?))
    }

    async fn resume_run(&self, request: Request<ResumeRunRequest>) -> Reply<WireRun> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let run = self.control(&caller, &wire.run_id)?;
        let (by, about) = (caller.id.clone(), Digest::of(&wire.encode_to_vec()));
        let asked = self.ask(&caller, &run, ("runs.resume", about), Input::Resume { by });
        Ok(Response::new(asked.await?))
    }

    async fn replay_run(&self, request: Request<ReplayRunRequest>) -> Reply<ReplayRunResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.replay(&caller, request.into_inner()).await?))
    }

    async fn discard_run(&self, request: Request<DiscardRunRequest>) -> Reply<WireRun> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let run = self.control(&caller, &wire.run_id)?;
        let (by, about) = (caller.id.clone(), Digest::of(&wire.encode_to_vec()));
        let asked = self.ask(&caller, &run, ("runs.discard", about), Input::Discard { by });
        Ok(Response::new(asked.await?))
    }

    async fn diff_runs(&self, request: Request<DiffRunsRequest>) -> Reply<DiffRunsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.diff(&caller, request.get_ref())?))
    }
}
