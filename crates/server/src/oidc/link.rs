//! An admin says whose a login elsewhere is.

use std::sync::Arc;

use kernel::control::Principal;
use kernel::identity::Input;
use kernel::ids::TenantId;
use kernel::machine::{self, Command, Kind};
use kernel::principal::PrincipalKind;
use kernel::trigger::definition::{is_slack_user, slack_issuer};
use kernel::values::Digest;
use ledger::Batch;
use proto::identity::{LinkPrincipalRequest, Principal as WirePrincipal, UnlinkPrincipalRequest};

use super::admit::{holder, identity_id};
use crate::error::{Refused, Result};
use crate::identity::{Identity, may_have_key_of};
use crate::limits;
use crate::shared::{Caller, Shared};

/// What the provider of Slack's people begins with; its id of their workspace follows.
const SLACK: &str = "slack:";

/// Links a login to a principal. It is as good as a key of the principal, so whoever may not have
/// that does not link either.
pub(crate) async fn link(
    identity: &Identity,
    caller: &Caller,
    wire: &LinkPrincipalRequest,
    body: Digest,
) -> Result<WirePrincipal> {
    let principal = identity.find_principal(caller, &wire.principal_id)?;
    may_have_key_of(caller, &principal)?;
    if principal.kind != PrincipalKind::User {
        return Err(Refused::invalid("people log in: agents and services have keys"));
    }
    let login = Login::new(identity, caller, &wire.provider, &wire.subject).await?;
    let (id, issuer) = (principal.id.clone(), login.issuer);
    let input = Input::Link { principal: id, issuer };
    login.commit(identity, caller, "principal_link", body, input).await?;
    identity.principal(caller, &wire.principal_id)
}

/// Takes a login from a principal. Sessions that it opened go on until they are ended.
pub(crate) async fn unlink(
    identity: &Identity,
    caller: &Caller,
    wire: &UnlinkPrincipalRequest,
    body: Digest,
) -> Result<WirePrincipal> {
    let principal = identity.find_principal(caller, &wire.principal_id)?;
    may_have_key_of(caller, &principal)?;
    let login = Login::new(identity, caller, &wire.provider, &wire.subject).await?;
    let input = Input::Unlink { principal: principal.id.clone() };
    login.commit(identity, caller, "principal_unlink", body, input).await?;
    identity.principal(caller, &wire.principal_id)
}

/// The principal that has this identity, unless it is disabled.
pub(crate) async fn principal_of(
    shared: &Shared,
    tenant: &TenantId,
    issuer: &str,
    subject: &str,
) -> Result<Option<Arc<Principal>>> {
    let refused = |error: super::error::Error| Refused(error.into());
    let identity = identity_id(shared, tenant, issuer, subject).await.map_err(refused)?;
    let holder = holder(shared, tenant, &identity).map_err(refused)?;
    let known = holder.and_then(|id| shared.control.directory.principal(tenant, &id));
    Ok(known.filter(|principal| !principal.disabled))
}

struct Login {
    id: String,
    issuer: Digest,
}

impl Login {
    async fn new(
        identity: &Identity,
        caller: &Caller,
        provider: &str,
        subject: &str,
    ) -> Result<Self> {
        let shared = &identity.0;
        if subject.is_empty() || subject.len() > limits::SUBJECT_BYTES_MAX {
            return Err(Refused::invalid("subject: 1 to 255 bytes, the claim `sub` of the person"));
        }
        let issuer = match provider.strip_prefix(SLACK) {
            Some(team) if is_slack_user(subject) => slack_issuer(team),
            Some(_) => return Err(Refused::invalid("subject: Slack's id of the person, `U…`")),
            None => {
                let own = shared.config.oidc.iter().filter(|known| known.tenant == caller.tenant);
                let known = { own }.find(|known| known.name == provider);
                known.map(|known| known.issuer.clone())
            }
        };
        let issuer = issuer.ok_or_else(|| Refused::not_found("provider"))?;
        let id = identity_id(shared, &caller.tenant, &issuer, subject).await;
        let id = id.map_err(|error| Refused(error.into()))?;
        Ok(Self { id, issuer: Digest::of(issuer.as_bytes()) })
    }

    async fn commit(
        &self,
        identity: &Identity,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
        input: Input,
    ) -> Result<()> {
        let input = machine::Input::Identity(input);
        let commands = vec![Command::new(Kind::Identity, &self.id, input)];
        let batch = Batch::new(caller.control_log(), commands);
        identity.0.mutate(caller, endpoint, body, &self.id, batch).await?;
        Ok(())
    }
}
