//! What an operator says of an upstream.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::action::Isolation;
use kernel::attestation::SandboxType;
use kernel::failure::{Category, Failure};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::auth::{AuthSpec, Authorizer};
use super::error::Error;
use crate::address::{Resolver, SystemResolver};
use crate::limits;

/// A revision of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// With sessions. 2025-06-18, 2025-03-26 and 2024-11-05 count as it.
    #[serde(rename = "2025-11-25")]
    V2025_11_25,
    /// Stateless.
    #[serde(rename = "2026-07-28")]
    V2026_07_28,
}

impl Revision {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision that a version counts as.
    pub fn of(version: &str) -> Option<Self> {
        match version {
            "2026-07-28" => Some(Self::V2026_07_28),
            "2025-11-25" | "2025-06-18" | "2025-03-26" | "2024-11-05" => Some(Self::V2025_11_25),
            _ => None,
        }
    }
}

/// An upstream as the operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Unique in its tenant.
    pub name: String,
    /// How it is reached.
    pub transport: Transport,
    /// How long one call may take, without the time that people take to answer.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How calls are authorised; HTTP only.
    #[serde(default)]
    pub auth: AuthSpec,
    /// The revision to speak. Without it the newest that the upstream speaks is found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What keeps its process apart: `light`; a process like any other where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxType>,
}

fn timeout_ms() -> u64 {
    limits::MCP_TIMEOUT_MS
}

/// How an upstream is reached. Values may hold `${secret:NAME}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transport {
    /// A child process that is spoken to by its standard input and output.
    Stdio {
        /// The program: a path, or a name that is looked for in `PATH`.
        command: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
        /// What its environment has besides PATH, HOME, LANG and TMPDIR.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// Where it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<PathBuf>,
    },
    /// Streamable HTTP.
    Http {
        /// The MCP endpoint. Secrets may stand in its path and query only.
        url: String,
        /// Headers of each request.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// Whether its host may have an address of this machine or its network.
        #[serde(default)]
        private: bool,
    },
}

/// Shows no value that may be a secret.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio { command, args, env, cwd } => f
                .debug_struct("Stdio")
                .field("command", command)
                .field("args", &args.len())
                .field("env", &env.keys())
                .field("cwd", cwd)
                .finish(),
            Self::Http { url, headers, private } => f
                .debug_struct("Http")
                .field("url", &url.split('?').next().unwrap_or_default())
                .field("headers", &headers.keys())
                .field("private", private)
                .finish(),
        }
    }
}

impl Spec {
    /// Checks what can be checked without the upstream.
    pub fn check(&self) -> Result<(), Error> {
        if !name_valid(&self.name) {
            return Err(Error::Name);
        }
        if !(1..=limits::MCP_TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return Err(Error::Timeout { max: limits::MCP_TIMEOUT_MS_MAX });
        }
        self.auth.check().map_err(Error::Auth)?;
        let stdio = matches!(self.transport, Transport::Stdio { .. });
        if stdio && self.auth != AuthSpec::None {
            return Err(Error::Auth("auth: a process is authorised by its environment"));
        }
        self.check_sandbox()?;
        match &self.transport {
            Transport::Stdio { command, args, env, .. } => check_command(command, args, env),
            Transport::Http { headers, .. } => headers.iter().try_for_each(|(name, value)| {
                secret_names(value).map(drop).ok_or_else(|| Error::Secret { place: name.clone() })
            }),
        }
    }

    fn check_sandbox(&self) -> Result<(), Error> {
        match (self.sandbox, &self.transport) {
            (None, _) | (Some(SandboxType::Light), Transport::Stdio { cwd: None, .. }) => Ok(()),
            (Some(SandboxType::Light), Transport::Stdio { .. }) => {
                Err(Error::Sandbox("has a folder of its own: leave `cwd` out"))
            }
            (Some(SandboxType::Light), Transport::Http { .. }) => {
                Err(Error::Sandbox("is for servers that are commands"))
            }
            (Some(_), _) => Err(Error::Sandbox("of an MCP server can be `light` alone")),
        }
    }

    /// What keeps its process apart; none where it is no process of ours.
    pub(super) fn isolation(&self) -> Option<Isolation> {
        match (&self.transport, self.sandbox) {
            (Transport::Http { .. }, _) => None,
            (Transport::Stdio { .. }, None) => Some(Isolation::None),
            (Transport::Stdio { .. }, Some(_)) => Some(Isolation::Process),
        }
    }

    /// The names of the secrets that it refers to.
    pub fn secrets(&self) -> Vec<String> {
        let mut texts: Vec<&String> = Vec::new();
        match &self.transport {
            Transport::Stdio { args, env, .. } => texts.extend(args.iter().chain(env.values())),
            Transport::Http { url, headers, .. } => {
                texts.push(url);
                texts.extend(headers.values());
            }
        }
        let named = texts.into_iter().filter_map(|text| secret_names(text)).flatten();
        let of_auth = self.auth.secrets().into_iter().map(str::to_owned);
        let mut names: Vec<String> = named.chain(of_auth).collect();
        names.sort();
        names.dedup();
        names
    }
}

fn check_command(
    command: &str,
    args: &[String],
    env: &BTreeMap<String, String>,
) -> Result<(), Error> {
    if command.is_empty() || command.contains('\0') {
        return Err(Error::Command("is empty or holds a zero byte"));
    }
    if args.len() > limits::MCP_ARGS_MAX || env.len() > limits::MCP_ENV_MAX {
        return Err(Error::Command("has too many arguments or variables"));
    }
    let nul = |text: &String| text.contains('\0');
    if args.iter().any(nul) || env.iter().any(|(key, value)| nul(key) || nul(value)) {
        return Err(Error::Command("has an argument or variable with a zero byte"));
    }
    if env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return Err(Error::Command("has a variable whose name is empty or holds `=`"));
    }
    for (place, text) in args
        .iter()
        .map(|arg| ("an argument", arg))
        .chain(env.iter().map(|(name, value)| (name.as_str(), value)))
    {
        if secret_names(text).is_none() {
            return Err(Error::Secret { place: place.to_owned() });
        }
    }
    Ok(())
}

fn name_valid(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first
        && name.len() <= limits::MCP_NAME_BYTES_MAX
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// The secrets of one tenant.
pub trait Secrets: Send + Sync {
    /// The value of the secret `name`, as it is now.
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure>;
}

/// No secret at all.
#[derive(Clone, Copy, Debug)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        let message = format!("there is no secret `{name}`: put it with `tally secret put`");
        Err(Failure::new(Category::NotFound, "secret_not_found", message))
    }
}

const OPEN: &str = "${secret:";

/// The names of the secrets in `text`, or nothing where a reference is malformed.
pub(super) fn secret_names(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(OPEN) {
        let (name, after) = after.split_once('}')?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty()
            || name.len() > limits::MCP_SECRET_NAME_BYTES_MAX
            || !name.bytes().all(plain)
        {
            return None;
        }
        names.push(name.to_owned());
        rest = after;
    }
    Some(names)
}

/// `text` with its secrets in place.
pub(super) fn reveal(text: &str, secrets: &dyn Secrets) -> Result<Zeroizing<String>, Failure> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(&secrets.reveal(name)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What starts the process of an upstream apart from everything else.
pub trait Confine: Send + Sync {
    /// What to start in place of `program` with `args` for the upstream `name`.
    fn confine(&self, name: &str, program: &Path, args: Vec<OsString>)
    -> Result<Confined, Failure>;
}

/// A command that starts another one apart from everything else.
#[derive(Clone, PartialEq, Eq)]
pub struct Confined {
    /// What to start.
    pub program: PathBuf,
    /// Its arguments. They hold those of the other command, and so may hold secrets.
    pub args: Vec<OsString>,
    /// The folder of its own, which is its home and where it starts.
    pub folder: PathBuf,
}

impl fmt::Debug for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confined").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What an upstream needs of its surroundings.
#[derive(Clone)]
pub struct Parts {
    /// What turns host names into addresses.
    pub resolver: Arc<dyn Resolver>,
    /// A PEM file's text with further certificate authorities to trust.
    pub extra_ca_pem: Option<String>,
    /// The secrets of the tenant.
    pub secrets: Arc<dyn Secrets>,
    /// What authorises requests, where the specification has them authorised.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// What starts processes apart. Without it, none that is to be apart starts.
    pub confine: Option<Arc<dyn Confine>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            resolver: Arc::new(SystemResolver),
            extra_ca_pem: None,
            secrets: Arc::new(NoSecrets),
            authorizer: None,
            confine: None,
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}
