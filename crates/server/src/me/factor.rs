//! The second factor: its secret is sealed content, its use is in the control log.

use kernel::factor::{self, Factor, Input, Purpose};
use kernel::failure::Category;
use kernel::machine::{self, Command, Kind, Refusal, State};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::{Class, SideRow};
use proto::me::factor::State as WireState;
use proto::me::{EnrollTotpResponse, Factor as WireFactor};
use proto::wire::Timestamp;

use super::{a_person, totp};
use crate::error::{Refused, Result};
use crate::identity::owner_over_owner;
use crate::shared::{Caller, Mutated, Shared};

/// The part of a principal's content that is the secret of its second factor.
const SECRET: &str = "totp";

fn command(principal: &str, input: Input) -> Command {
    Command::new(Kind::Factor, principal, machine::Input::Factor(input))
}

/// The second factor of a principal of the caller's tenant.
pub(super) fn find(shared: &Shared, caller: &Caller, principal: &str) -> Result<Option<Factor>> {
    match shared.control.ledger.read(&caller.control_log(), Kind::Factor, principal)? {
        Some(State::Factor(factor)) => Ok(Some(factor)),
        _ => Ok(None),
    }
}

/// Its wire form.
pub(super) fn wire(shared: &Shared, factor: Option<&Factor>) -> WireFactor {
    let state = match factor.map(|factor| factor.status) {
        None => WireState::None,
        Some(factor::Status::Enrolled) => WireState::Enrolled,
        Some(factor::Status::Confirmed) => WireState::Confirmed,
        Some(factor::Status::Removed) => WireState::Removed,
    };
    let locked = factor.filter(|factor| factor.locked(shared.now()));
    let until = locked.and_then(|factor| factor.locked_until);
    WireFactor {
        state: state.into(),
        locked_until: until.map(|until| Timestamp::from_micros(until.0)),
    }
}

/// Makes a new secret and shows it once.
pub(super) async fn enroll(
    shared: &Shared,
    caller: &Caller,
    body: Digest,
) -> Result<EnrollTotpResponse> {
    a_person(caller)?;
    let secret = ledger::keys::random::<{ totp::SECRET_BYTES }>()?;
    let (tenant, id) = (caller.tenant.as_str(), caller.id.as_str());
    let vault = &shared.control.vault;
    let row = vault.seal(tenant, id, SECRET, Class::Record, secret.as_ref(), shared.now()).await?;
    let commands = vec![command(id, Input::Enroll {})];
    let batch = Batch { side: vec![row], ..Batch::new(caller.control_log(), commands) };
    match shared.mutate(caller, "me_totp", body, id, batch).await? {
        Mutated::Fresh(_) => {
            let secret = totp::base32(secret.as_ref());
            let otpauth_uri = totp::uri(&secret, id, tenant);
            Ok(EnrollTotpResponse { secret, otpauth_uri })
        }
        // The secret was shown once.
        Mutated::Repeat(_) => Ok(EnrollTotpResponse::default()),
    }
}

/// Takes the caller's second factor into use.
pub(super) async fn confirm(shared: &Shared, caller: &Caller, code: &str) -> Result<()> {
    a_person(caller)?;
    take(shared, caller, code, Purpose::Confirm, false).await
}

/// Removes the caller's own second factor, by a code of it.
pub(super) async fn remove(shared: &Shared, caller: &Caller, code: &str) -> Result<()> {
    a_person(caller)?;
    take(shared, caller, code, Purpose::Use, true).await?;
    tracing::warn!(tenant = %caller.tenant, principal = %caller.id, "a second factor is removed");
    Ok(())
}

/// Proves that the caller has their second factor. The code is used up by it.
pub(crate) async fn prove(shared: &Shared, caller: &Caller, code: &str) -> Result<()> {
    take(shared, caller, code, Purpose::Use, false).await
}

/// Takes a code, right or wrong: both are on record, so that codes cannot be guessed nor repeated,
/// whatever happens to this server.
async fn take(
    shared: &Shared,
    caller: &Caller,
    code: &str,
    purpose: Purpose,
    removes: bool,
) -> Result<()> {
    if !totp::is_code(code) {
        return Err(Refused::invalid("the code of a second factor is six digits"));
    }
    let id = caller.id.as_str();
    let factor = find(shared, caller, id)?.ok_or(Refusal::StepUpNotEnrolled)?;
    let now = shared.now();
    if factor.locked(now) {
        return Err(locked(&factor, now));
    }
    let counter = match shared.control.vault.open(caller.tenant.as_str(), id, SECRET)? {
        Some(secret) => totp::counter(&secret, code, shared.wall()),
        None => return Err(Refusal::StepUpNotEnrolled.into()),
    };
    let mut commands = vec![command(id, Input::Prove { purpose, counter })];
    let mut side = Vec::new();
    if removes && counter.is_some() {
        commands.push(command(id, Input::Remove { by: caller.id.clone() }));
        side.push(drop_secret(caller, id));
    }
    let trace_id = caller.trace_id.clone();
    let batch = Batch { side, trace_id, ..Batch::new(caller.control_log(), commands) };
    let committed = shared.commit_control(batch).await?;
    if counter.is_some() {
        return Ok(());
    }
    tracing::warn!(tenant = %caller.tenant, principal = %caller.id, "a wrong code");
    match committed.state(Kind::Factor, id) {
        Some(State::Factor(factor)) if factor.locked(now) => Err(locked(factor, now)),
        _ => {
            let message = "this is not the present code of your second factor";
            Err(Refused::new(Category::Permission, "step_up_failed", message))
        }
    }
}

fn locked(factor: &Factor, now: kernel::values::Timestamp) -> Refused {
    let until = factor.locked_until.unwrap_or(now);
    let wait_ms = until.0.saturating_sub(now.0).unsigned_abs().div_ceil(1_000);
    let failure = kernel::failure::Failure::from(Refusal::StepUpLocked);
    Refused(failure.retry_after_ms(wait_ms))
}

fn drop_secret(caller: &Caller, principal: &str) -> SideRow {
    let (tenant, id) = (caller.tenant.to_string(), principal.to_owned());
    SideRow::DropContent { tenant, id, part: SECRET }
}

/// Removes another's second factor, which they have lost.
pub(super) async fn reset(
    shared: &Shared,
    caller: &Caller,
    principal: &str,
    body: Digest,
) -> Result<()> {
    if principal == caller.id.as_str() {
        let message = "your own second factor is removed by a code of it: POST /v1/me/totp/remove";
        return Err(Refused::new(Category::Permission, "self_reset", message));
    }
    let known = kernel::ids::PrincipalId::new(principal)
        .ok()
        .and_then(|id| shared.control.directory.principal(&caller.tenant, &id));
    let known = known.ok_or_else(|| Refused::not_found("principal"))?;
    owner_over_owner(caller, &known)?;
    let commands = vec![command(principal, Input::Remove { by: caller.id.clone() })];
    let side = vec![drop_secret(caller, principal)];
    let batch = Batch { side, ..Batch::new(caller.control_log(), commands) };
    if let Mutated::Fresh(_) =
        shared.mutate(caller, "principal_totp_reset", body, principal, batch).await?
    {
        tracing::error!(
            tenant = %caller.tenant,
            %principal,
            by = %caller.id,
            "SECOND FACTOR RESET by another"
        );
    }
    Ok(())
}
