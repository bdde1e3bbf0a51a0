//! One attempt at an operation of an instance.

use std::sync::Arc;

use async_trait::async_trait;
use connectors::Outcome as ToolOutcome;
use connectors::declared::{ConnectorCall, Credentials, Ended as Called};
use kernel::action::Action;
use kernel::failure::{Category, Failure};
use kernel::permit::Permit;
use kernel::retry;
use kernel::values::Digest;
use zeroize::Zeroizing;

use crate::actions::{Ended, Plan};
use crate::secrets::OfTenant;
use crate::shared::{Caller, Shared};
use crate::toolbox::{self, Found};

/// The secrets of the tenant, some of which systems replace.
struct Shown(OfTenant);

impl connectors::mcp::Secrets for Shown {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        self.0.reveal(name)
    }
}

#[async_trait]
impl Credentials for Shown {
    async fn replace(&self, name: &str, value: &str) -> Result<(), Failure> {
        self.0.replace(name, value).await
    }
}

/// One attempt.
pub(crate) async fn call(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    permit: &Permit,
    plan_digest: Digest,
) -> Ended {
    let request = &action.request;
    let tool = match toolbox::find(shared, &caller.tenant, &request.tool) {
        Some(Found::Http(tool)) if tool.offered.digest == request.tool_digest => tool,
        // Between the decision and here it became another one.
        _ => {
            let message = "the tool is no longer the one that was decided: ask again";
            let failure = Failure::new(Category::PolicyDenied, "tool_changed", message);
            return ToolOutcome::Failed(failure).into();
        }
    };
    if let Err(failure) = tool.validate(caller, &plan.document.params) {
        return ToolOutcome::Failed(failure).into();
    }
    let credentials = Shown(shared.secrets.of_tenant(&caller.tenant));
    let call = ConnectorCall {
        permit,
        plan_digest,
        params: &plan.document.params,
        now: shared.now(),
        in_doubt: action.in_doubt,
        tenant: caller.tenant.as_str(),
        credentials: &credentials,
    };
    let called = shared.tools.declared().call(&tool.offered, call).await;
    settled(action, permit, called).into()
}

/// An attempt of unknown outcome is followed by another one, which looks first, as long as there
/// may be one; the last one stays unknown.
fn settled(action: &Action, permit: &Permit, called: Called) -> ToolOutcome {
    let Called { outcome, repeatable } = called;
    match outcome {
        ToolOutcome::Unknown(failure) if repeatable => {
            let more = permit.attempt() < action.attempts_max();
            let counted = permit.attempt().saturating_sub(action.interrupted);
            let again = retry::wait_ms(&failure, counted, action.id.as_str());
            match more && again.is_some() {
                true => ToolOutcome::Failed(failure),
                false => ToolOutcome::Unknown(failure),
            }
        }
        outcome => outcome,
    }
}
