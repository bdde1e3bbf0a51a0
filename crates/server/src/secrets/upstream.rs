//! What upstreams get of the secrets: the values that their settings name, and the tokens of the
//! login that somebody made at them.

use std::sync::Arc;

use async_trait::async_trait;
use connectors::mcp::auth::{self, AuthParts, LoginAuthorizer, TokenStore};
use connectors::mcp::{self, Authorizer, Challenge, Parts, Spec, Subject, Transport};
use http::HeaderValue;
use kernel::failure::Failure;
use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{self, Command, Kind};
use kernel::receipt::LogId;
use kernel::secret::Input;
use ledger::{Batch, Committed};
use zeroize::Zeroizing;

use super::{Secrets, drop_value};
use crate::error::{Refused, Result};
use crate::follow::Follower;
use crate::shared::commit;

/// The secret that has the tokens of a login at an upstream. Nobody else can name it.
fn tokens_of(upstream: &str) -> String {
    format!("oauth:{upstream}")
}

/// The secrets of one tenant.
pub(crate) struct OfTenant {
    secrets: Arc<Secrets>,
    tenant: TenantId,
}

impl OfTenant {
    /// Keeps another value of a secret: the system that it is for replaced it.
    pub(crate) async fn replace(
        &self,
        name: &str,
        value: &str,
    ) -> std::result::Result<(), Failure> {
        let kept = self.secrets.keep(&self.tenant, name, value, None).await;
        kept.map_err(|refused| refused.0)
    }
}

impl mcp::Secrets for OfTenant {
    fn reveal(&self, name: &str) -> std::result::Result<Zeroizing<String>, Failure> {
        self.secrets.reveal(&self.tenant, name)
    }
}

/// The tokens of the login at one upstream.
struct Tokens {
    secrets: Arc<Secrets>,
    tenant: TenantId,
    name: String,
}

#[async_trait]
impl TokenStore for Tokens {
    fn version(&self) -> Option<u64> {
        self.secrets.live(&self.tenant, &self.name).map(|secret| secret.version)
    }

    fn load(&self) -> std::result::Result<Option<Zeroizing<String>>, Failure> {
        if self.version().is_none() {
            return Ok(None);
        }
        self.secrets.reveal(&self.tenant, &self.name).map(Some)
    }

    async fn save(&self, text: &str, by: Option<&str>) -> std::result::Result<u64, Failure> {
        let by = by.map(PrincipalId::new).transpose();
        let by = by.map_err(|error| Refused::internal(error).0)?;
        let kept = self.secrets.keep(&self.tenant, &self.name, text, by).await;
        kept.map_err(|refused| refused.0)?;
        Ok(self.version().unwrap_or_default())
    }
}

/// Authorises nothing, and says why.
struct Unusable(Failure);

#[async_trait]
impl Authorizer for Unusable {
    async fn authorization(
        &self,
        _: Option<&Subject>,
        _: Option<&Challenge>,
    ) -> std::result::Result<Option<HeaderValue>, Failure> {
        Err(self.0.clone())
    }
}

impl Secrets {
    /// The secrets of a tenant, for a tool that was told their names by the operator.
    pub(crate) fn of_tenant(self: &Arc<Self>, tenant: &TenantId) -> OfTenant {
        OfTenant { secrets: self.clone(), tenant: tenant.clone() }
    }

    /// `parts` with the secrets of the tenant, and with what authorises at the upstream.
    pub(crate) fn authorise(
        self: &Arc<Self>,
        tenant: &TenantId,
        spec: &Spec,
        parts: Parts,
    ) -> Parts {
        let secrets = Arc::new(OfTenant { secrets: self.clone(), tenant: tenant.clone() });
        let parts = Parts { secrets: secrets.clone(), ..parts };
        let Transport::Http { url, private, .. } = &spec.transport else { return parts };
        let name = tokens_of(&spec.name);
        let tokens = Tokens { secrets: self.clone(), tenant: tenant.clone(), name };
        let made = auth::authorization(
            &spec.auth,
            AuthParts {
                name: spec.name.clone(),
                url: url.clone(),
                private: *private,
                resolver: parts.resolver.clone(),
                extra_ca_pem: parts.extra_ca_pem.clone(),
                secrets,
                tokens: Arc::new(tokens),
                browser: None,
            },
        );
        let key = (tenant.clone(), spec.name.clone());
        let (authorizer, login): (Option<Arc<dyn Authorizer>>, _) = match made {
            Ok(None) => (None, None),
            Ok(Some(made)) => (Some(made.authorizer), made.login),
            Err(failure) => (Some(Arc::new(Unusable(failure))), None),
        };
        match login {
            Some(login) => drop(self.logins.lock().insert(key, Arc::downgrade(&login))),
            None => drop(self.logins.lock().remove(&key)),
        }
        Parts { authorizer, ..parts }
    }

    /// What people log in with at that upstream, where they do.
    pub(crate) fn login(&self, tenant: &TenantId, upstream: &str) -> Option<Arc<LoginAuthorizer>> {
        let key = (tenant.clone(), upstream.to_owned());
        self.logins.lock().get(&key).and_then(std::sync::Weak::upgrade)
    }

    /// Forgets the login at an upstream: of one that was removed, or that is another from now on.
    pub(crate) async fn forget_login(
        &self,
        tenant: &TenantId,
        upstream: &str,
        by: &PrincipalId,
    ) -> Result<()> {
        let name = tokens_of(upstream);
        if self.live(tenant, &name).is_none() {
            return Ok(());
        }
        let input = machine::Input::Secret(Input::Remove { by: by.clone() });
        let commands = vec![Command::new(Kind::Secret, &name, input)];
        let side = vec![drop_value(tenant, &name)];
        let batch = Batch { side, ..Batch::new(LogId::Control(tenant.clone()), commands) };
        let (directory, doubt) = (self.directory.clone(), self.doubt.clone());
        let moved =
            move |log: &LogId, committed: &Committed| directory.take(log, &committed.states);
        commit(self.ledger.clone(), doubt, batch, moved).await?;
        Ok(())
    }
}
