//! An instance: a definition made usable for a tenant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernel::failure::{Category, Failure};
use kernel::values::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::auth::Scheme;
use super::definition::Definition;
use super::error::Error;
use crate::http::request::{Target, parse_url};
use crate::limits;

/// What makes a definition usable. Credentials are names of secrets, never their values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceConfig {
    /// Where the system is: `https://acme.service-now.com`.
    pub base_url: String,
    /// In which of the definition's ways requests are authorised.
    pub auth: String,
    /// What it needs, by role: the name of a secret of the tenant.
    pub credentials: BTreeMap<String, String>,
    /// Calls under way at once; 0 for as many as the definition says.
    pub in_flight: usize,
}

impl InstanceConfig {
    /// The digest of it in its canonical form.
    pub fn digest(&self) -> Result<Digest, kernel::json::Error> {
        kernel::json::canonical(self).map(|bytes| Digest::of(&bytes))
    }
}

/// A definition with what makes it usable.
#[derive(Debug)]
pub struct Instance {
    /// What its tools are named by: `<name>.<operation>`.
    pub name: String,
    /// What it is an instance of.
    pub definition: Arc<Definition>,
    /// What makes it usable.
    pub config: InstanceConfig,
    /// The digest of that.
    pub config_digest: Digest,
    pub(super) base: Target,
    pub(super) scheme: Scheme,
    in_flight: Arc<tokio::sync::Semaphore>,
    /// Calls that wait for their turn.
    waiting: AtomicUsize,
}

impl Instance {
    /// Checks what is to make `definition` usable. Says nothing of what is granted: that is for
    /// the call.
    pub fn new(
        name: &str,
        definition: Arc<Definition>,
        config: InstanceConfig,
    ) -> Result<Self, Error> {
        if !kernel::connector::is_name(name) {
            return Err(Error::instance("name", "is no name for an instance, or is taken"));
        }
        let url = match (config.base_url.as_str(), definition.base_url.as_deref()) {
            ("", Some(usual)) => usual,
            ("", None) => return Err(Error::instance("base_url", "say where the system is")),
            (given, _) => given,
        };
        let base = base(url).map_err(|reason| Error::instance("base_url", reason))?;
        let mut schemes = definition.schemes.iter();
        let found = match config.auth.as_str() {
            "" => schemes.next(),
            auth => schemes.find(|(name, _)| name == auth),
        };
        let Some((_, scheme)) = found else {
            let known: Vec<&str> = definition.auth().map(|(name, _)| name).collect();
            let reason = format!("must be one of {}", known.join(", "));
            return Err(Error::instance("auth", reason));
        };
        check_credentials(scheme, &config.credentials)?;
        let scheme = scheme.clone();
        let in_flight = match config.in_flight {
            0 => definition.in_flight,
            n if n <= definition.in_flight => n,
            _ => {
                let reason = format!("at most {}, as the definition says", definition.in_flight);
                return Err(Error::instance("in_flight", reason));
            }
        };
        let config_digest =
            config.digest().map_err(|error| Error::instance("config", error.to_string()))?;
        let in_flight = Arc::new(tokio::sync::Semaphore::new(in_flight));
        let name = name.to_owned();
        let waiting = AtomicUsize::new(0);
        Ok(Self { name, definition, config, config_digest, base, scheme, in_flight, waiting })
    }

    /// Waits until no more calls are under way than there may be. Only so many wait, and not for
    /// long: whoever is refused comes back later.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        let full = || {
            let message = format!("`{}` has as many calls under way as it may", self.name);
            Failure::new(Category::RateLimited, "too_many_calls", message)
                .retry_after_ms(limits::CONNECTOR_TURN_RETRY_MS)
        };
        if let Ok(turn) = self.in_flight.clone().try_acquire_owned() {
            return Ok(turn);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= limits::CONNECTOR_WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(full());
        }
        let _waits = Waits(&self.waiting);
        let turn = tokio::time::timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(full)
    }

    /// Where its requests go: `scheme://host:port`.
    pub fn origin(&self) -> String {
        self.base.origin()
    }

    /// The name of the secret that has the credential of a role.
    pub(super) fn secret(&self, role: &str) -> &str {
        self.config.credentials.get(role).map(String::as_str).unwrap_or_default()
    }
}

/// One call that waits, until it does not, however that ends.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_credentials(scheme: &Scheme, given: &BTreeMap<String, String>) -> Result<(), Error> {
    let roles = scheme.roles();
    for role in roles {
        match given.get(*role) {
            None => return Err(Error::instance("credentials", format!("`{role}` is missing"))),
            Some(secret) if !kernel::secret::is_name(secret) => {
                let reason = format!("`{role}`: write the name of a secret, never its value");
                return Err(Error::instance("credentials", reason));
            }
            Some(_) => {}
        }
    }
    match given.keys().find(|role| !roles.contains(&role.as_str())) {
        Some(role) => {
            let reason = format!("`{role}` is not needed: {} are", roles.join(", "));
            Err(Error::instance("credentials", reason))
        }
        None => Ok(()),
    }
}

/// Where a system is: an origin, and perhaps a path that all others go below.
pub(super) fn base(url: &str) -> Result<Target, String> {
    let url = parse_url(url).map_err(|failure| failure.message)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("takes no query and no fragment".to_owned());
    }
    if url.path().len() > limits::URL_BYTES_MAX / 2 {
        return Err("its path is too long".to_owned());
    }
    Target::new(url).map_err(|failure| failure.message)
}
