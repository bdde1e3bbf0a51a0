//! An admin says whose a login elsewhere is.

use kernel::identity::Input;
use kernel::machine::{self, Command, Kind};
use kernel::principal::PrincipalKind;
use kernel::values::Digest;
use ledger::Batch;
use proto::identity::{LinkPrincipalRequest, Principal as WirePrincipal, UnlinkPrincipalRequest};

use super::admit::identity_id;
use crate::error::{Refused, Result};
use crate::identity::{Identity, may_have_key_of};
use crate::limits;
use crate::shared::Caller;

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
        let mut own = shared.config.oidc.iter().filter(|known| known.tenant == caller.tenant);
        let known = own.find(|known| known.name == provider);
        let known = known.ok_or_else(|| Refused::not_found("provider"))?;
        if subject.is_empty() || subject.len() > limits::SUBJECT_BYTES_MAX {
            return Err(Refused::invalid("subject: 1 to 255 bytes, the claim `sub` of the person"));
        }
        let id = identity_id(shared, &caller.tenant, &known.issuer, subject).await;
        let id = id.map_err(|error| Refused(error.into()))?;
        Ok(Self { id, issuer: Digest::of(known.issuer.as_bytes()) })
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
