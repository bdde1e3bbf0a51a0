//! What becomes of tenants, principals and keys after they were made: suspended and resumed,
//! enabled again, given another secret.

use kernel::control::{self, Rotation};
use kernel::failure::Category;
use kernel::ids::TenantId;
use kernel::limits::{KEY_OVERLAP_MICROS_MAX, TOKEN_MICROS_MAX};
use kernel::machine::Kind;
use kernel::receipt::LogId;
use kernel::values::Digest;
use ledger::Batch;
use proto::identity::{
    CreateKeyResponse, Principal as WirePrincipal, RotateTokenKeyResponse, Tenant as WireTenant,
};
use proto::wire::Timestamp;

use crate::credentials::format_key;
use crate::error::{Refused, Result};
use crate::identity::{Identity, command, may_have_key_of, owner_over_owner, shown};
use crate::shared::{Caller, Mutated};
use crate::tokens::Tokens;

/// The one stream of the key that signs tokens.
const TOKEN_KEY: &str = "tokens";

fn micros(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(1_000_000)
}

impl Identity {
    fn only_the_operator(&self, caller: &Caller, what: &str) -> Result<()> {
        if self.operates(caller) {
            return Ok(());
        }
        let message = format!("only the owner of this installation {what}");
        Err(Refused::new(Category::Permission, "permission_denied", message))
    }

    /// Suspends a tenant or resumes it. Another tenant's owner does not learn which there are.
    pub(crate) async fn set_suspended(
        &self,
        caller: &Caller,
        tenant: &str,
        suspended: bool,
        body: Digest,
    ) -> Result<WireTenant> {
        let known = TenantId::new(tenant).ok().filter(|id| {
            let seen = self.operates(caller) || *id == caller.tenant;
            seen && self.0.control.directory.tenant(id).is_some()
        });
        let id = known.ok_or_else(|| Refused::not_found("tenant"))?;
        self.only_the_operator(caller, "suspends tenants")?;
        if id == caller.tenant {
            return Err(Refused::invalid(
                "the tenant that operates the server cannot be suspended",
            ));
        }
        let (endpoint, input) = if suspended {
            ("tenant_suspend", control::Input::SuspendTenant {})
        } else {
            ("tenant_resume", control::Input::ResumeTenant {})
        };
        let commands = vec![command(Kind::Tenant, id.as_str(), input)];
        let batch = Batch::new(LogId::System, commands);
        self.0.mutate(caller, endpoint, body, id.as_str(), batch).await?;
        // What waited goes on.
        self.0.queue.notify_one();
        self.tenant(&id)
    }

    /// Enables a disabled principal again.
    pub(crate) async fn enable_principal(
        &self,
        caller: &Caller,
        id: &str,
        body: Digest,
    ) -> Result<WirePrincipal> {
        let principal = self.find_principal(caller, id)?;
        owner_over_owner(caller, &principal)?;
        let commands = vec![command(Kind::Principal, id, control::Input::EnablePrincipal {})];
        let batch = Batch::new(caller.control_log(), commands);
        self.0.mutate(caller, "principal_enable", body, id, batch).await?;
        self.principal(caller, id)
    }

    /// Gives an API key another secret; the one before is good for `overlap_s` more.
    pub(crate) async fn rotate_key(
        &self,
        caller: &Caller,
        id: &str,
        overlap_s: u32,
        body: Digest,
    ) -> Result<CreateKeyResponse> {
        let key = self.find_key(caller, id)?;
        let principal = self.find_principal(caller, key.issue.principal.as_str())?;
        may_have_key_of(caller, &principal)?;
        let overlap = micros(overlap_s);
        if overlap > KEY_OVERLAP_MICROS_MAX {
            return Err(Refused::invalid("overlap_s is at most 86400"));
        }
        let digits = hex::encode(ledger::keys::random::<32>()?.as_ref());
        let rotation = Rotation {
            secret: Digest::of(digits.as_bytes()),
            previous_until: (overlap > 0).then(|| self.0.now().plus_micros(overlap)),
        };
        let commands = vec![command(Kind::Key, id, control::Input::RotateKey(rotation))];
        let batch = Batch::new(caller.control_log(), commands);
        let secret = match self.0.mutate(caller, "key_rotate", body, id, batch).await? {
            Mutated::Fresh(_) => format_key(id, &digits),
            // It was shown once.
            Mutated::Repeat(_) => String::new(),
        };
        Ok(shown(&*self.find_key(caller, id)?, secret))
    }

    /// Has another key sign tokens; those of the key before are taken for `overlap_s` more.
    pub(crate) async fn rotate_token_key(
        &self,
        caller: &Caller,
        overlap_s: Option<u32>,
        body: Digest,
    ) -> Result<RotateTokenKeyResponse> {
        self.only_the_operator(caller, "rotates the key of tokens")?;
        let overlap = overlap_s.map_or(TOKEN_MICROS_MAX, micros);
        if overlap > TOKEN_MICROS_MAX {
            return Err(Refused::invalid("overlap_s is at most 3600"));
        }
        let previous_until = self.0.now().plus_micros(overlap);
        let input = control::Input::RotateTokenKey { previous_until };
        let commands = vec![command(Kind::TokenKey, TOKEN_KEY, input)];
        let batch = Batch::new(LogId::System, commands);
        self.0.mutate(caller, "token_key_rotate", body, TOKEN_KEY, batch).await?;
        let previous_until = self.0.control.directory.token_key().previous_until;
        Ok(RotateTokenKeyResponse {
            key_id: Tokens::signing_key_id(&self.0)?,
            previous_until: Some(Timestamp::from_micros(previous_until.0)),
        })
    }
}
