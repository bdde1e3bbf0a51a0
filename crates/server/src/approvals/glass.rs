//! An emergency that takes the place of those who must approve: loud, and on record for ever.

use kernel::approval::{self, GlassBroken};
use kernel::machine::Refusal;
use kernel::plan;
use kernel::values::Digest;
use proto::approvals::{Approval as WireApproval, BreakGlassRequest};
use serde::Serialize;

use super::{ApprovalsApi, seen_plan};
use crate::actions::find;
use crate::error::{Refused, Result};
use crate::limits;
use crate::me;
use crate::shared::Caller;

/// The reasons as they are kept, sealed: with their salts, so that the commitments in the receipt
/// can be opened.
#[derive(Serialize)]
struct Kept<'a> {
    reasons: [&'a str; 2],
    salts: [String; 2],
}

/// Two texts that say different things.
fn reasons(wire: &[String]) -> Result<[&str; 2]> {
    let message = "reasons: two different texts of 1 to 2000 characters";
    let [one, other] = wire else { return Err(Refused::invalid(message)) };
    let (one, other) = (one.trim(), other.trim());
    let good = |text: &str| (1..=limits::TEXT_BYTES_MAX).contains(&text.len());
    if !good(one) || !good(other) || one.to_lowercase() == other.to_lowercase() {
        return Err(Refused::invalid(message));
    }
    Ok([one, other])
}

impl ApprovalsApi {
    pub(super) async fn break_glass(
        &self,
        caller: &Caller,
        wire: BreakGlassRequest,
    ) -> Result<WireApproval> {
        let action = find(&self.0, caller, &wire.action_id)?;
        let reasons = reasons(&wire.reasons)?;
        let plan_digest = seen_plan(&wire.plan_digest)?;
        let id = action.open_approval().ok_or(Refusal::State(action.status.as_str()))?;
        let approval = self.find(caller, id.as_str())?;
        let mut salts = [String::new(), String::new()];
        for salt in &mut salts {
            *salt = hex::encode(ledger::keys::random::<16>()?.as_ref());
        }
        let kept = Kept { reasons, salts };
        let [one, other] = &kept.salts;
        let commit =
            |salt: &str, text: &str| Digest::of(&[salt.as_bytes(), text.as_bytes()].concat());
        let broken = GlassBroken {
            by: caller.id.clone(),
            roles: caller.roles.clone(),
            reasons: [commit(one, reasons[0]), commit(other, reasons[1])],
        };
        let input = approval::Input::BreakGlass {
            plan_digest,
            kind: caller.kind,
            step_up: !wire.totp_code.is_empty(),
            broken: Box::new(broken),
        };
        // Whatever else is wrong is said before a code is used up.
        approval::step(Some(&approval), input.clone(), self.0.now())?;
        me::prove(&self.0, caller, &wire.totp_code).await?;
        let text = serde_json::to_vec(&kept).map_err(Refused::internal)?;
        let content = format!("{}/{}/glass", approval.id, caller.id);
        let side = [self.seal_reason(caller, &content, &text).await?];
        let changed = self
            .change(caller, approval.id.as_str(), &side, |approval, now| {
                plan::decide(approval, input.clone(), now)
            })
            .await?;
        self.0.metrics.break_glass();
        tracing::error!(
            tenant = %caller.tenant,
            action = %action.id,
            approval = %approval.id,
            tool = %action.request.tool,
            by = %caller.id,
            "GLASS BROKEN: an action runs without those who must approve it"
        );
        Ok(changed)
    }
}
