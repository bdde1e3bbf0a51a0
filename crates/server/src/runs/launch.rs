//! Launching: a run of a kept workflow, by whatever starts it.
//!
//! Which version a run takes follows from what is in force in the environment and from the run's
//! own id; it is written into the run's first receipt and holds to its end, whatever is released
//! meanwhile.

use std::sync::Arc;

use kernel::decision::DecisionPoint as _;
use kernel::failure::{Category, Failure};
use kernel::ids::{RunId, WorkflowId};
use kernel::json::RawJson;
use kernel::machine::{Kind, Refusal, State};
use kernel::reservation;
use kernel::run::{Pinned, Trigger};
use kernel::values::Digest;
use kernel::version::Version;
use kernel::workflow::Plan;

use super::start::{Started, Wanted, start};
use crate::error::{Refused, Result};
use crate::factory::PROD;
use crate::shared::{Caller, Shared, new_run_id};

/// What starts a run of a kept workflow, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The name of the workflow.
    pub(crate) workflow: String,
    /// What `{{input}}` stands for.
    pub(crate) input: RawJson,
    /// The same key starts one run, however often it comes.
    pub(crate) key: Option<String>,
    /// What starts it.
    pub(crate) trigger: Trigger,
}

/// Starts a run of the release that is in force where the caller acts.
pub(crate) async fn launch(shared: &Arc<Shared>, caller: &Caller, launch: Launch) -> Result<RunId> {
    let Launch { workflow, input, key, trigger } = launch;
    let caller = Caller { idempotency_key: key, ..caller.clone() };
    let about = (&workflow, &input, &trigger);
    let body = Digest::of(&serde_json::to_vec(&about).map_err(Refused::internal)?);
    if let Some(run) = before(shared, &caller, body)? {
        return Ok(run);
    }
    let looked_up = shared.now();
    let taken = take(shared, &caller, &workflow, "")?;
    let account = caller.account.clone();
    let wanted = Wanted {
        plan: taken.plan.as_ref().clone(),
        input,
        account,
        budget: None,
        writes_max: None,
        timeout_s: None,
        of: None,
        trigger,
        id: Some(taken.id),
        pinned: Some(taken.pinned),
        looked_up,
    };
    match start(shared, &caller, wanted, body).await? {
        Started::New(run, ..) => Ok(run.id.clone()),
        Started::Repeat(id) => Ok(id),
    }
}

/// The run that the same request started before: what is in force now may be something else.
pub(super) fn before(shared: &Shared, caller: &Caller, body: Digest) -> Result<Option<RunId>> {
    let now = shared.now();
    let Some((key, input)) = caller.reserve("runs", body, "", now) else { return Ok(None) };
    let held = match shared.ledger.read(&caller.log(), Kind::Idempotency, &key)? {
        Some(State::Reservation(held)) => held,
        _ => return Ok(None),
    };
    match reservation::step(Some(&held), input, now) {
        Err(Refusal::Duplicate { target }) => {
            RunId::new(target).map(Some).map_err(Refused::internal)
        }
        Err(refusal) => Err(refusal.into()),
        Ok(_) => Ok(None),
    }
}

/// What a run of a kept workflow is.
pub(super) struct Taken {
    pub(super) id: RunId,
    pub(super) plan: Arc<Plan>,
    pub(super) pinned: Pinned,
}

/// A new run of `workflow`: by the release in force, or of `version` where that may be named.
pub(super) fn take(
    shared: &Shared,
    caller: &Caller,
    workflow: &str,
    version: &str,
) -> Result<Taken> {
    let name = WorkflowId::new(workflow).ok();
    let known = name.and_then(|name| shared.factory.workflow(&caller.tenant, &name));
    let known = known.ok_or_else(|| Refused::not_found("workflow"))?;
    let id = new_run_id()?;
    let pinned = match version {
        "" => {
            let taken = shared.factory.taken(&caller.tenant, &known.id, &caller.environment, &id);
            let (release, ring) = taken.ok_or_else(|| unreleased(caller, &known.id))?;
            let request = &release.request;
            Pinned {
                workflow: known.id.clone(),
                version: request.version.clone(),
                digest: request.document,
                release: Some(release.id.clone()),
                ring: Some(ring),
                policy_revision: request.policy_revision,
                model_pin: request.model_pin.clone(),
            }
        }
        _ if caller.environment.as_str() == PROD => {
            let message = "in prod, a run takes the release that is in force: name no version";
            return Err(Refused::new(Category::Permission, "release_required", message));
        }
        text => {
            let version = Version::parse(text);
            let version =
                version.map_err(|e| Refused::invalid(format!("workflow_version: {e}")))?;
            let kept = known.version(&version).ok_or_else(|| Refused::not_found("version"))?;
            Pinned {
                workflow: known.id.clone(),
                version,
                digest: kept.publication.document,
                release: None,
                ring: None,
                policy_revision: shared.policy.current(&caller.tenant).revision,
                model_pin: kept.publication.model_pin.clone(),
            }
        }
    };
    let plan = shared.factory.plan(&caller.tenant, pinned.digest)?;
    Ok(Taken { id, plan, pinned })
}

fn unreleased(caller: &Caller, workflow: &WorkflowId) -> Failure {
    let environment = &caller.environment;
    let message = format!("no release of `{workflow}` is in force in `{environment}`");
    Failure::new(Category::Conflict, "release_missing", message)
}
