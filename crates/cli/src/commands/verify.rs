//! `tally verify`: evidence, checked offline.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use kernel::signing_key::LogKeys;
use kernel::verify::Trust;
use ledger::evidence::{BundleReport, Pinned, verify_path_with};
use ledger::keys::from_pem;
use serde::Serialize;

use super::demands::{self, Demanded, Met, log_key};
use super::signing_keys::Published;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// `tally verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A bundle, an unpacked bundle, or one receipt (.dsse.json).
    path: PathBuf,
    /// A receipt key that you trust, PEM; may be repeated. Keys in the bundle do not count then,
    /// but for those that a trusted one hands over to: a log's first key vouches for all of it.
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// What `tally tenant keys --json` wrote, when you trusted it: the receipt keys with what each
    /// is valid for.
    #[arg(long, value_name = "JSON", conflicts_with = "key")]
    keys: Option<PathBuf>,
    /// The key of the log that you trust, or @FILE.
    #[arg(long, value_name = "VKEY")]
    log_key: Option<String>,
    #[command(flatten)]
    demanded: Demanded,
}

/// What was found.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    report: BundleReport,
    /// Present where something was demanded of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    demands: Option<Met>,
}

impl Verify {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let vkey = self.log_key.as_deref().map(log_key).transpose()?;
        let pinned = match &self.keys {
            Some(path) => Published::read(path)?.pinned(vkey)?,
            None => Pinned {
                keys: self.key.iter().map(read_key).collect::<Result<_, _>>()?,
                vkey,
                trust: Trust::CallerSupplied,
                logs: LogKeys::default(),
            },
        };
        let demands = self.demanded.read()?.unwrap_or_default();
        let pinned = is_pinned(&pinned).then_some(&pinned);
        let (report, checked) = verify_path_with(&self.path, pinned, &demands);
        let valid = report.valid;
        let found = Found { report, demands: checked.as_ref().map(Met::of) };
        context.output().show(&found, |found| {
            let demands = found.demands.as_ref().map(Met::describe).unwrap_or_default();
            format!("{}\n{demands}", describe(&found.report))
        })?;
        // What does not verify by itself says nothing about its log.
        Ok(match checked {
            Some(Err(error)) if valid => demands::exit(&error),
            _ => Exit::of_verification(valid),
        })
    }
}

fn is_pinned(pinned: &Pinned) -> bool {
    !pinned.keys.is_empty() || pinned.vkey.is_some()
}

fn read_key(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let bad = |reason: &str| Failure::Usage(format!("--key `{}`: {reason}", path.display()));
    let pem = fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
    from_pem(&pem).ok_or_else(|| bad("no PEM of a public key"))
}

/// A report for people.
pub(crate) fn describe(report: &BundleReport) -> String {
    if !report.valid {
        return format!("NOT valid:\n{}", report.errors.join("\n"));
    }
    let whose = match report.trust {
        Trust::Unknown => {
            "the keys came with it: get them another way and give --key and --log-key"
        }
        Trust::CallerSupplied | Trust::Pinned => "by the keys that you gave",
    };
    let log = report.origin.as_ref().map(|origin| format!(" of the log {origin}"));
    let size = report.size.map(|size| format!(", which had {size}"));
    let (log, size) = (log.unwrap_or_default(), size.unwrap_or_default());
    format!("valid: {} receipts{log}{size}; {whose}", report.receipts)
}
