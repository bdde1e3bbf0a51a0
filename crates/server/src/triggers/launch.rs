//! What happened, or the time that came, starts its workflow: as the trigger's own service, with
//! that service's permissions, and once.

use std::sync::Arc;

use kernel::failure::Category;
use kernel::ids::{RunId, TenantId};
use kernel::json::RawJson;
use kernel::principal::PrincipalKind;
use kernel::run;
use kernel::trigger::definition::Definition;

use crate::error::{Refused, Result};
use crate::runs::{Launch, launch};
use crate::shared::{Caller, Shared};

/// The permission that the service must have.
const START: &str = "runs:start";

/// The service that acts for a trigger, as it is now.
pub(crate) fn service(
    shared: &Shared,
    tenant: &TenantId,
    definition: &Definition,
) -> Result<Caller> {
    if shared.control.directory.suspended(tenant) {
        return Err(Refused(crate::credentials::suspended()));
    }
    let principal = shared.control.directory.principal(tenant, &definition.principal);
    let principal = principal.filter(|known| !known.disabled);
    let principal = principal.filter(|known| known.kind == PrincipalKind::Service);
    let message = "the service of this trigger is gone, or disabled";
    let gone = || Refused::new(Category::Permission, "principal_disabled", message);
    let principal = principal.ok_or_else(gone)?;
    let (workspace, environment) = (definition.workspace.clone(), definition.environment.clone());
    Ok(Caller::new(tenant.clone(), workspace, environment, &principal))
}

/// Starts the trigger's workflow. `key` tells one occasion from all others.
pub(super) async fn start(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    definition: &Definition,
    (key, trigger): (String, run::Trigger),
    input: RawJson,
) -> Result<RunId> {
    let caller = service(shared, tenant, definition)?;
    if !caller.may(START) {
        let message = format!("the service of this trigger lacks the permission `{START}`");
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    let Some(workflow) = definition.workflow.clone() else {
        return Err(Refused::invalid("this trigger starts no workflow"));
    };
    let caller = caller.once(key.clone());
    launch(shared, &caller, Launch { workflow, input, key: Some(key), trigger }).await
}
