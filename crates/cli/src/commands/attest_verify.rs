//! `tally attest verify`: an attestation, checked offline.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use kernel::attestation::{self, Check, Given, Refused, Verified};
use kernel::ids::ActionId;
use kernel::limits;
use kernel::signing_key::LogKeys;
use kernel::values::Timestamp;
use kernel::verify::Trust;
use ledger::evidence::Pinned;
use ledger::keys::{NativeVerifier, from_pem};
use serde::Serialize;

use super::demands::log_key;
use super::signing_keys::Published;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::fields;

const MICROS: i64 = 1_000_000;

/// `tally attest verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The attestation, as `tally attest show ID --out FILE` writes it.
    path: PathBuf,
    /// The code that is said to have run.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// What it is said to have been given: JSON.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What it is said to have given: JSON, or the text of its failure.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The execution that it has to be of.
    #[arg(long, value_name = "ID")]
    execution: Option<String>,
    /// How many seconds ago the execution may have ended.
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u32>,
    /// By how many seconds the clocks may differ.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    clock_skew: u32,
    /// What it has to tell at least.
    #[arg(long, value_name = "LEVEL", default_value = "basic")]
    level: Level,
    /// A receipt key that you trust, PEM; may be repeated. Without one the key in the document
    /// counts, and says nothing of whose it is.
    #[arg(long, value_name = "PEM")]
    receipt_key: Vec<PathBuf>,
    /// What `tally tenant keys --json` wrote, when you trusted it: the receipt keys with what each
    /// is valid for.
    #[arg(long, value_name = "JSON", conflicts_with = "receipt_key")]
    keys: Option<PathBuf>,
    /// The key of the log that you trust, or @FILE.
    #[arg(long, value_name = "VKEY")]
    log_key: Option<String>,
}

/// How much is attested.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Basic,
    Full,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    valid: bool,
    #[serde(flatten)]
    verified: Option<Verified>,
    /// What is wrong, and with which field.
    error: Option<Wrong>,
}

#[derive(Debug, Serialize)]
struct Wrong {
    code: &'static str,
    field: String,
    message: String,
}

impl Verify {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let found = Found::of(self.check(Timestamp(i64::try_from(now)?))?);
        context.output().show(&found, describe)?;
        Ok(Exit::of_verification(found.valid))
    }

    fn check(&self, now: Timestamp) -> Result<Result<Verified, Refused>, Failure> {
        let document = read(&self.path, "FILE", limits::ATTESTATION_BYTES_MAX)?;
        let content = |path: &Option<PathBuf>, option| {
            path.as_ref().map(|path| read(path, option, limits::RESULT_BYTES_MAX)).transpose()
        };
        let component = self.agent.as_ref().map(|path| read(path, "--agent", COMPONENT_BYTES_MAX));
        let (agent, input) = (component.transpose()?, content(&self.input, "--input")?);
        let output = content(&self.output, "--output")?;
        let execution_id = self.execution.as_ref().map(ActionId::new).transpose();
        let execution_id = execution_id.map_err(|e| Failure::Usage(format!("--execution: {e}")))?;
        let pinned = self.pinned()?;
        let check = Check {
            pinned: Some(&pinned).filter(|p| !p.keys.is_empty() || p.vkey.is_some()),
            max_age_micros: self.max_age.map(|seconds| i64::from(seconds) * MICROS),
            skew_micros: i64::from(self.clock_skew) * MICROS,
            execution_id,
            level: match self.level {
                Level::Basic => attestation::Level::Basic,
                Level::Full => attestation::Level::Full,
            },
            given: Given {
                agent: agent.as_deref(),
                input: input.as_deref(),
                output: output.as_deref(),
            },
            ..Check::at(now)
        };
        Ok(attestation::verify(&document, &check, &NativeVerifier))
    }

    fn pinned(&self) -> Result<Pinned, Failure> {
        let vkey = self.log_key.as_deref().map(log_key).transpose()?;
        if let Some(path) = &self.keys {
            return Published::read(path)?.pinned(vkey);
        }
        let key = |path: &PathBuf| {
            let bad =
                |why: &str| Failure::Usage(format!("--receipt-key `{}`: {why}", path.display()));
            let pem = fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
            from_pem(&pem).ok_or_else(|| bad("no PEM of a public key"))
        };
        Ok(Pinned {
            keys: self.receipt_key.iter().map(key).collect::<Result<_, _>>()?,
            vkey,
            trust: Trust::CallerSupplied,
            logs: LogKeys::default(),
        })
    }
}

/// Bytes of the code of an agent.
const COMPONENT_BYTES_MAX: usize = 64 << 20;

/// Reads a file of at most `max` bytes.
fn read(path: &Path, option: &str, max: usize) -> Result<Vec<u8>, Failure> {
    let bad = |why: String| Failure::Usage(format!("{option} `{}`: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
    match bytes.len() <= max {
        true => Ok(bytes),
        false => Err(bad(format!("it has more than {max} bytes"))),
    }
}

impl Found {
    fn of(checked: Result<Verified, Refused>) -> Self {
        match checked {
            Ok(verified) => Self { valid: true, verified: Some(verified), error: None },
            Err(Refused { code, field, message }) => {
                Self { valid: false, verified: None, error: Some(Wrong { code, field, message }) }
            }
        }
    }
}

/// A finding for people.
fn describe(found: &Found) -> String {
    let Some(verified) = &found.verified else {
        let wrong = |wrong: &Wrong| match wrong.field.is_empty() {
            true => format!("NOT valid: {} ({})", wrong.message, wrong.code),
            false => format!("NOT valid: {}: {} ({})", wrong.field, wrong.message, wrong.code),
        };
        return found.error.as_ref().map(wrong).unwrap_or_default();
    };
    let whose = match verified.trust {
        Trust::Unknown => {
            "by keys that came with it: get them another way and give --receipt-key and --log-key"
        }
        Trust::CallerSupplied | Trust::Pinned => "by the keys that you gave",
    };
    let attested = &verified.attestation;
    let calls = attested.tool_calls_made.map(|made| made.to_string()).unwrap_or_default();
    fields([
        ("valid", whose.to_owned()),
        ("execution", verified.execution_id.to_string()),
        ("ending", word(&attested.ending)),
        ("level", word(&attested.level)),
        ("sandbox", format!("{} {}", word(&attested.sandbox_type), attested.sandbox_id)),
        ("agent", format!("{} {}", word(&attested.code_kind), attested.agent_hash)),
        ("tool calls", calls),
        ("fuel used", attested.fuel_used.map(|fuel| fuel.to_string()).unwrap_or_default()),
        ("log", format!("{} at {} of {}", verified.origin, verified.index, verified.size)),
    ])
}

/// How a word of the document is written.
fn word<T: Serialize>(value: &T) -> String {
    let written = serde_json::to_value(value).ok();
    written.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
