//! `email.send`: one e-mail through the operator's own server, by SMTP.
//!
//! A server that took the end of a mail may deliver it, whatever is heard of it afterwards: from
//! then on what is not answered is unknown, and nothing is sent again.

mod message;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_rustls::TlsConnector;
use url::Host;

use crate::address::{self, Refused, Resolver};
use crate::grants::parse_host;
use crate::limits;
use crate::tools::{Context, Done, Fault, Meta};
use message::Senders;

/// Why the settings of e-mail are refused.
#[derive(Debug, thiserror::Error)]
#[error("email.{key}: {reason}")]
pub struct Error {
    /// Which setting.
    pub key: &'static str,
    /// What to write instead.
    pub reason: String,
}

/// How the connection to a mail server is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// By STARTTLS, without which nothing is sent.
    #[default]
    Starttls,
    /// By TLS from the start.
    Tls,
    /// Not at all: only to a loopback address.
    None,
}

impl Security {
    fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// The server that `email.send` hands mail to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// A name or an address.
    pub host: String,
    /// The port; without it 587, with `tls: tls` 465, with `tls: none` 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `starttls`, `tls` or `none`.
    #[serde(default)]
    pub tls: Security,
    /// The user to log in as, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The name of the secret that has the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whom mail may be from: `bot@example.com`, or `*@example.com` for every address there. The
    /// first is used where a call names none.
    pub from: Vec<String>,
}

/// Sends e-mail.
pub(crate) struct Email {
    host: Host,
    port: u16,
    security: Security,
    tls: TlsConnector,
    login: Option<(String, String)>,
    senders: Senders,
    resolver: Arc<dyn Resolver>,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("host", &self.host).field("port", &self.port).finish()
    }
}

/// Whether the server may have the whole mail.
#[derive(Debug, Default)]
struct Progress(AtomicBool);

impl Progress {
    fn sending(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn sent(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Email {
    pub(crate) fn new(
        config: &EmailConfig,
        resolver: Arc<dyn Resolver>,
        tls: TlsConnector,
    ) -> Result<Self, Error> {
        let error = |key, reason: &str| Error { key, reason: reason.to_owned() };
        let host = parse_host(&config.host)
            .ok_or_else(|| error("host", "write a name or an address, without scheme or port"))?;
        let login = match (&config.user, &config.password) {
            (None, None) => None,
            (Some(user), Some(secret)) if !user.is_empty() && kernel::secret::is_name(secret) => {
                Some((user.clone(), secret.clone()))
            }
            (Some(_), Some(_)) => return Err(error("password", "write the name of a secret")),
            _ => return Err(error("user", "user and password come together")),
        };
        let port = config.port.unwrap_or(config.tls.port());
        if port == 0 {
            return Err(error("port", "write a port from 1 to 65535"));
        }
        let senders = Senders::new(&config.from)?;
        Ok(Self { host, port, security: config.tls, tls, login, senders, resolver })
    }

    /// Checks what the schema cannot say of the parameters.
    pub(crate) fn check(&self, params: &RawJson) -> Result<(), Failure> {
        message::Mail::parse(params, &self.senders).map(|_| ())
    }

    pub(crate) async fn send(
        &self,
        params: &RawJson,
        context: &Context<'_>,
    ) -> Result<Done, Fault> {
        let mail = message::Mail::parse(params, &self.senders)?;
        let made = mail.build(&context.idempotency_key, context.now)?;
        let login = match &self.login {
            None => None,
            Some((user, secret)) => Some((user.as_str(), context.secrets.reveal(secret)?)),
        };
        let progress = Progress::default();
        let sending = self.hand_over(&made, login, &progress);
        match tokio::time::timeout(limits::EMAIL_TIMEOUT, sending).await {
            Ok(ended) => ended?,
            Err(_) => {
                let message = format!("no end within {} s", limits::EMAIL_TIMEOUT.as_secs());
                let failure = Failure::new(Category::Timeout, "timeout", message);
                return Err(match progress.sent() {
                    true => Fault::Unknown(failure),
                    false => Fault::Failed(failure),
                });
            }
        }
        let recipients = made.envelope.to().len();
        let result = json!({"message_id": made.message_id, "recipients": recipients});
        let bytes_out = u64::try_from(made.bytes.len()).unwrap_or(u64::MAX);
        Ok(Done { result: result.to_string(), meta: Meta { bytes_out, ..Meta::default() } })
    }

    /// The addresses of the server. The operator names it, so it may be a private one; in the
    /// clear, only this machine.
    async fn addresses(&self) -> Result<Vec<std::net::SocketAddr>, Failure> {
        let plain = self.security == Security::None;
        let allowed = |ip: IpAddr| !plain || ip.is_loopback();
        let found =
            address::allowed_by(self.resolver.as_ref(), &self.host, self.port, allowed).await;
        found.map_err(|refused| match refused {
            Refused::Address => {
                let message = "email.tls: none is only for a server on a loopback address";
                Failure::new(Category::Permanent, "smtp_refused", message)
            }
            Refused::LookUp(why) => {
                let message = format!("no address found for {}: {why}", self.host);
                Failure::new(Category::Network, "dns_failed", message)
            }
        })
    }
}
