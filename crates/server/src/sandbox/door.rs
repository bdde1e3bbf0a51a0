//! The one door out of a sandbox: a call of a tool is an action of its own, asked for by whoever
//! asked for the execution, decided, priced, held and receipted like any other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kernel::action::{Action, Status};
use kernel::failure::{Category, Failure};
use kernel::ids::{AccountId, ActionId, RunId, ToolId};
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::values::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits;
use super::under::Under;
use crate::actions::{
    Answer, Asked, Claims, Document, Keyed, Submitted, cancel, present_caller, submit,
};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use ::sandbox::{Door, DoorAnswer, DoorFailure};

/// The permission that each call takes.
const SUBMIT: &str = "actions:submit";

/// Failures of a call after which code cannot go on.
const ENDS: [&str; 2] = ["result_expired", "principal_disabled"];

/// A call as it is recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    /// From 1.
    pub(crate) seq: u32,
    /// As the code named it.
    pub(crate) name: String,
    /// The tool of that name, and the digest of its manifest.
    pub(crate) tool: Option<(ToolId, Digest)>,
    /// What it became, and how that ended.
    pub(crate) action: Option<(ActionId, Status)>,
    /// JSON text, as the code wrote it.
    pub(crate) args: String,
    /// JSON text; or the code and words of a failure.
    pub(crate) result: std::result::Result<String, (String, String)>,
}

impl Call {
    /// Whether it failed with `code` because the tool was not granted: there is none of the name,
    /// or policy or people said no.
    pub(crate) fn denied(&self, code: &str) -> bool {
        let said_no = |(_, status): &(ActionId, Status)| *status == Status::Denied;
        code == "unknown_tool" || self.action.as_ref().is_some_and(said_no)
    }
}

/// The door of one attempt at an execution.
pub(super) struct GovernedDoor {
    shared: Arc<Shared>,
    execution: ActionId,
    /// Who pays: whoever pays for the execution.
    account: Option<AccountId>,
    /// The run that it is a step of.
    run: Option<RunId>,
    log: LogId,
    /// Whose execution it is. It has no parameters any more.
    document: Document,
    trace_id: Option<String>,
    cancel: CancellationToken,
    /// What is left of the time that people may take.
    patience: Mutex<Duration>,
    calls: Mutex<Vec<Call>>,
    /// The call that is under way.
    open: Mutex<Option<ActionId>>,
    /// Why the code could not go on.
    fatal: Mutex<Option<Failure>>,
    /// Bytes of arguments and results.
    said: Mutex<usize>,
}

impl std::fmt::Debug for GovernedDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GovernedDoor").field("execution", &self.execution).finish_non_exhaustive()
    }
}

/// What came of the action of a call.
struct Settled {
    action: Action,
    held: Duration,
}

/// How a call fails: told to the code, or the end of it.
struct Fault {
    failure: Failure,
    fatal: bool,
}

impl Fault {
    fn told(failure: Failure) -> Self {
        Self { failure, fatal: false }
    }

    fn fatal(category: Category, code: &str, message: &str) -> Self {
        Self { failure: Failure::new(category, code, message), fatal: true }
    }
}

impl From<Refused> for Fault {
    fn from(Refused(failure): Refused) -> Self {
        // What is wrong with us is not for code to go on with.
        let fatal = failure.category == Category::Internal;
        Self { failure, fatal }
    }
}

impl From<ledger::Error> for Fault {
    fn from(error: ledger::Error) -> Self {
        Refused::from(error).into()
    }
}

impl GovernedDoor {
    pub(super) fn new(
        shared: &Arc<Shared>,
        caller: &Caller,
        (execution, document): (&Action, &Document),
        cancel: CancellationToken,
    ) -> Self {
        Self {
            shared: shared.clone(),
            execution: execution.id.clone(),
            account: execution.request.account.clone(),
            run: execution.request.run().cloned(),
            log: caller.log(),
            document: Document { params: RawJson::empty_object(), ..document.clone() },
            trace_id: caller.trace_id.clone(),
            cancel,
            patience: Mutex::new(Duration::from_secs(shared.config.sandbox.hold_s.into())),
            calls: Mutex::default(),
            open: Mutex::default(),
            fatal: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Why the code could not go on, where a call ended it.
    pub(super) fn fatal(&self) -> Option<Failure> {
        self.fatal.lock().clone()
    }

    /// What was called, in order.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// Withdraws the call that is under way: nobody waits for its result any more.
    pub(super) async fn close(&self) {
        let open = self.open.lock().take();
        let Some(id) = open else { return };
        if let Err(Refused(error)) = self.withdraw(&id).await {
            // Whoever decides about it sees whose it was.
            tracing::warn!(action = %id, %error, "the call of an ended sandbox stays open");
        }
    }

    async fn withdraw(&self, id: &ActionId) -> Result<()> {
        let state = self.shared.ledger.read(&self.log, Kind::Action, id.as_str())?;
        let Some(State::Action(action)) = state else { return Ok(()) };
        let waits = matches!(action.status, Status::AwaitingApproval | Status::Quarantined);
        match present_caller(&self.shared, &self.document) {
            Some(caller) if waits => cancel(&self.shared, &caller, &action).await.map(drop),
            _ => Ok(()),
        }
    }

    /// The caller as it is now: whoever lost what they had loses it here too.
    fn caller(&self) -> std::result::Result<Caller, Fault> {
        let Some(caller) = present_caller(&self.shared, &self.document) else {
            let message = "the principal that asked is disabled";
            return Err(Fault::fatal(Category::Permission, "principal_disabled", message));
        };
        if !caller.may(SUBMIT) {
            let message = "the principal that asked may not submit actions any more";
            return Err(Fault::fatal(Category::Permission, "permission_denied", message));
        }
        Ok(Caller { trace_id: self.trace_id.clone(), ..caller })
    }

    /// The action that an earlier attempt at the execution made of this call.
    fn earlier(&self, under: &Under, body: Digest) -> std::result::Result<Option<Action>, Fault> {
        let name = under.name();
        let held = self.shared.ledger.read(&self.log, Kind::Idempotency, &name)?;
        let Some(State::Reservation(held)) = held else { return Ok(None) };
        if held.body != body {
            return Err(diverged());
        }
        match self.shared.ledger.read(&self.log, Kind::Action, &held.target)? {
            Some(State::Action(action)) => Ok(Some(action)),
            _ => Err(Refused::internal("a call without its action").into()),
        }
    }

    /// All that is said through the door is kept to be repeated from: only so much of it.
    fn within(&self, bytes: usize) -> std::result::Result<(), Fault> {
        let mut said = self.said.lock();
        *said = said.saturating_add(bytes);
        if *said <= limits::SAID_BYTES_MAX {
            return Ok(());
        }
        let message = "its tools were told and gave more than is kept of one execution";
        Err(Fault::fatal(Category::Sandbox, "tool_results_too_long", message))
    }

    /// One call. `held` is told how long people were waited for.
    async fn carry_out(
        &self,
        seq: u32,
        call: &mut Call,
        held: &mut Duration,
    ) -> std::result::Result<String, Fault> {
        let asked = self.asked(seq, call)?;
        let mut round = 1;
        loop {
            let settled = self.ask(&asked).await?;
            *held += settled.held;
            let Settled { action, .. } = settled;
            call.action = Some((action.id.clone(), action.status));
            call.tool = Some((action.request.tool.clone(), action.request.tool_digest));
            // Not for now: policy throttles, or waits to be confirmed. Nothing was reserved.
            let later = action.status == Status::Denied
                && action.decision.as_ref().is_some_and(|decision| decision.retryable());
            let result = self.result(action);
            let Err(Fault { failure, .. }) = &result else { return result };
            if !later || round == limits::ASK_AGAIN_MAX {
                return result;
            }
            round += 1;
            let ms = failure.retry_after_ms.unwrap_or(limits::ASK_AGAIN_MS);
            let rest = Duration::from_millis(ms.min(limits::ASK_AGAIN_MS_MAX));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(canceled()),
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    fn asked(&self, seq: u32, call: &Call) -> std::result::Result<(Under, ToolId, RawJson), Fault> {
        let tool = ToolId::new(&call.name).map_err(|_| {
            let message = "no tool can have this name: tools are `vendor.operation`";
            Fault::told(Failure::new(Category::NotFound, "unknown_tool", message))
        })?;
        let params = RawJson::parse(&call.args).map_err(|error| {
            Fault::told(Failure::new(Category::Validation, error.code(), error.to_string()))
        })?;
        let (execution, run) = (self.execution.clone(), self.run.clone());
        Ok((Under { execution, seq, run }, tool, params))
    }

    /// Asks for the action, or finds the one that was asked for before, and waits for its end.
    async fn ask(
        &self,
        (under, tool, params): &(Under, ToolId, RawJson),
    ) -> std::result::Result<Settled, Fault> {
        let caller = self.caller()?;
        let body = Under::body(tool, params)?;
        if let Some(action) = self.earlier(under, body)? {
            return self.wait(&caller, action).await;
        }
        let asked = Asked {
            tool: tool.clone(),
            params: params.clone(),
            claims: Claims::new(None)?,
            account: self.account.clone().or_else(|| caller.account.clone()),
            through: None,
            under: Some(Arc::new(under.clone())),
            step: None,
            reverses: None,
        };
        let submitting = {
            let (shared, caller) = (self.shared.clone(), caller.clone());
            // A task of its own: a sandbox that ends does not take the action along.
            tokio::spawn(async move { submit(&shared, &caller, asked, Keyed::action(body)).await })
        };
        match submitting.await.map_err(Refused::internal)? {
            Ok(Submitted::New(answer, _)) => self.wait(&caller, answer.action).await,
            Ok(Submitted::Repeat(_)) => match self.earlier(under, body)? {
                Some(action) => self.wait(&caller, action).await,
                None => Err(Refused::internal("a call that is and is not").into()),
            },
            Err(Refused(failure)) if failure.code == "idempotency_conflict" => Err(diverged()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// The action once it is settled. People may take what is left of the patience.
    async fn wait(
        &self,
        caller: &Caller,
        mut action: Action,
    ) -> std::result::Result<Settled, Fault> {
        let shared = &self.shared;
        *self.open.lock() = Some(action.id.clone());
        let place = shared.waiters.enter(&action.id);
        let mut held = Duration::ZERO;
        let mut looked = Instant::now();
        loop {
            let changed = place.changed();
            tokio::pin!(changed);
            // From here on a change is noticed.
            changed.as_mut().enable();
            let state = shared.ledger.read(&self.log, Kind::Action, action.id.as_str())?;
            if let Some(State::Action(now)) = state {
                action = now;
            }
            if action.status.is_settled() {
                *self.open.lock() = None;
                return Ok(Settled { action, held });
            }
            let people = matches!(action.status, Status::AwaitingApproval | Status::Quarantined);
            let left = *self.patience.lock();
            if people && left.is_zero() {
                // Nobody waits for it any more: a late yes must not run it.
                match cancel(shared, caller, &action).await {
                    // Somebody decided at the same moment: look again.
                    Err(Refused(failure)) if failure.category != Category::Conflict => {
                        return Err(Refused(failure).into());
                    }
                    _ => continue,
                }
            }
            let rest = if people { left } else { crate::limits::QUEUE_IDLE };
            tokio::select! {
                () = self.cancel.cancelled() => return Err(canceled()),
                () = changed => {}
                // Whoever wakes may be another server: look again now and then.
                () = tokio::time::sleep(rest.min(crate::limits::QUEUE_IDLE)) => {}
            }
            let passed = looked.elapsed();
            looked = Instant::now();
            if people {
                held += passed;
                let mut patience = self.patience.lock();
                *patience = patience.saturating_sub(passed);
            }
        }
    }

    /// What the code is told of a settled action.
    fn result(&self, action: Action) -> std::result::Result<String, Fault> {
        let status = action.status;
        let mut answer = Answer::new(action, Arc::default()).opened(&self.shared, &self.log)?;
        let failure = answer.failure();
        match (status, answer.served(), failure) {
            (Status::Executed, (Some(json), _), _) => Ok(json.as_str().to_owned()),
            // What it was told before it cannot be told again; who lost what they had ends here.
            (_, _, Some(failure)) if ENDS.contains(&failure.code.as_str()) => {
                Err(Fault { failure, fatal: true })
            }
            (_, _, Some(failure)) => Err(Fault::told(failure)),
            _ => Err(Fault::told(ended_without(status))),
        }
    }
}

/// The failure of a call that ended without one of its own.
fn ended_without(status: Status) -> Failure {
    let (code, message) = match status {
        Status::Expired => {
            ("approval_expired", "nobody approved this call in time: it did not run")
        }
        Status::Canceled => ("canceled", "this call was withdrawn before it ran"),
        _ => ("ended", "this call has ended"),
    };
    Failure::new(Category::Conflict, code, message)
}

fn diverged() -> Fault {
    let message = "repeated after a crash, the code called something else than before";
    Fault::fatal(Category::Conflict, "replay_diverged", message)
}

fn canceled() -> Fault {
    Fault::fatal(Category::Sandbox, "canceled", "the execution is being ended")
}

#[async_trait]
impl Door for GovernedDoor {
    async fn call(&self, seq: u32, tool: &str, args: &str) -> DoorAnswer {
        let mut call = Call {
            seq,
            name: tool.chars().take(limits::NAME_CHARS_MAX).collect(),
            tool: None,
            action: None,
            args: args.to_owned(),
            result: Ok(String::new()),
        };
        let mut held = Duration::ZERO;
        let result = self.carry_out(seq, &mut call, &mut held).await;
        let result = result.and_then(|text| self.within(args.len() + text.len()).map(|()| text));
        let result = result.map_err(|Fault { failure, fatal }| {
            if fatal {
                self.fatal.lock().get_or_insert_with(|| failure.clone());
            }
            let Failure { code, message, .. } = failure;
            let denied = call.denied(&code);
            DoorFailure { code, message, fatal, denied }
        });
        call.result = match &result {
            Ok(text) => Ok(text.clone()),
            Err(failure) => Err((failure.code.clone(), failure.message.clone())),
        };
        self.calls.lock().push(call);
        DoorAnswer { result, held_ms: u64::try_from(held.as_millis()).unwrap_or(u64::MAX) }
    }
}
