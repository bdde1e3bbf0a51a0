//! The tie of an action to the execution whose code asked for it.

use kernel::action::{Action, Status};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, RunId, ToolId};
use kernel::json::{self, RawJson};
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::reservation;
use kernel::values::{Digest, Timestamp};

use super::{limits, serves};
use crate::actions::{cancel, open_document, present_caller};
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// What the names of calls begin with. Those of other reservations are hex digits or `held/`.
const PREFIX: &str = "sandbox/";

/// Which call of which execution an action is.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    pub(crate) execution: ActionId,
    /// From 1.
    pub(crate) seq: u32,
    /// The run that the execution is a step of.
    pub(crate) run: Option<RunId>,
}

impl Under {
    /// The name that the call reserves: a repeat of the execution finds its action by it.
    pub(crate) fn name(&self) -> String {
        format!("{PREFIX}{}/{}", self.execution, self.seq)
    }

    /// What tells the call from another one of the same number.
    pub(crate) fn body(tool: &ToolId, params: &RawJson) -> Result<Digest> {
        json::canonical(&(tool, params)).map(|form| Digest::of(&form)).map_err(Refused::internal)
    }

    /// Reserves the name for the action that the call makes.
    pub(crate) fn reserve(
        &self,
        (tool, params): (&ToolId, &RawJson),
        action: &ActionId,
        now: Timestamp,
    ) -> Result<(String, reservation::Input)> {
        let input = reservation::Input {
            body: Self::body(tool, params)?,
            target: action.to_string(),
            until: now.plus_micros(crate::limits::HELD_MICROS_MAX),
            replaces: None,
        };
        Ok((self.name(), input))
    }

    /// The execution that an action comes from may not be too deep below others: code that runs
    /// code that runs code ends somewhere.
    pub(crate) fn check_depth(&self, shared: &Shared, log: &LogId) -> Result<()> {
        let mut at = Some(self.execution.clone());
        for _ in 0..limits::DEPTH_MAX {
            let Some(id) = at else { return Ok(()) };
            at = match shared.ledger.read(log, Kind::Action, id.as_str())? {
                Some(State::Action(Action { request, .. })) => request.execution.clone(),
                _ => None,
            };
        }
        if at.is_none() {
            return Ok(());
        }
        let most = limits::DEPTH_MAX;
        let message = format!("code in a sandbox runs further code at most {most} deep");
        Err(Failure::new(Category::Sandbox, "sandbox_too_deep", message).into())
    }
}

/// Withdraws the calls of an execution that wait for people, once its code is never run again.
pub(crate) async fn abandon(shared: &Shared, log: &LogId, execution: &Action) {
    let LogId::Workspace(tenant, _) = log else { return };
    if !serves(shared, tenant, &execution.request.tool) {
        return;
    }
    for seq in 1..=shared.config.sandbox.tool_calls {
        let under = Under { execution: execution.id.clone(), seq, run: None };
        if let Err(Refused(error)) = under.withdraw(shared, log).await {
            // Whoever decides about it sees whose it was.
            tracing::warn!(execution = %execution.id, seq, %error, "a call stays open");
        }
    }
}

/// The actions that the code of an execution asked for.
pub(crate) fn called(shared: &Shared, log: &LogId, execution: &Action) -> Result<Vec<ActionId>> {
    let attested = execution.outcome.as_ref().and_then(|outcome| outcome.attestation.as_ref());
    let LogId::Workspace(tenant, _) = log else { return Ok(Vec::new()) };
    if attested.is_none() && !serves(shared, tenant, &execution.request.tool) {
        return Ok(Vec::new());
    }
    let made = attested.and_then(|attested| attested.tool_calls_made);
    let mut called = Vec::new();
    for seq in 1..=made.unwrap_or(shared.config.sandbox.tool_calls) {
        let under = Under { execution: execution.id.clone(), seq, run: None };
        let held = shared.ledger.read(log, Kind::Idempotency, &under.name())?;
        if let Some(State::Reservation(held)) = held {
            called.push(ActionId::new(held.target).map_err(Refused::internal)?);
        }
    }
    Ok(called)
}

impl Under {
    async fn withdraw(&self, shared: &Shared, log: &LogId) -> Result<()> {
        let held = shared.ledger.read(log, Kind::Idempotency, &self.name())?;
        let Some(State::Reservation(held)) = held else { return Ok(()) };
        let state = shared.ledger.read(log, Kind::Action, &held.target)?;
        let Some(State::Action(action)) = state else { return Ok(()) };
        if !matches!(action.status, Status::AwaitingApproval | Status::Quarantined) {
            return Ok(());
        }
        let document = open_document(shared, log, &action.id)?;
        match document.and_then(|document| present_caller(shared, &document)) {
            Some(caller) => cancel(shared, &caller, &action).await.map(drop),
            // Nobody is left to ask for it, so it does not run.
            None => Ok(()),
        }
    }
}
