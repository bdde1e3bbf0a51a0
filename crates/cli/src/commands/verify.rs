//! `tally verify`: evidence, checked offline.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use kernel::note::VerifierKey;
use kernel::verify::Trust;
use ledger::evidence::{BundleReport, Pinned, verify_path};
use ledger::keys::from_pem;

use crate::context::Context;
use crate::exit::{Exit, Failure};

/// `tally verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A bundle, an unpacked bundle, or one receipt (.dsse.json).
    path: PathBuf,
    /// A receipt key that you trust, PEM; may be repeated. Keys in the bundle do not count then.
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// The key of the log that you trust, or @FILE.
    #[arg(long, value_name = "VKEY")]
    log_key: Option<String>,
}

impl Verify {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let pinned = Pinned {
            keys: self.key.iter().map(read_key).collect::<Result<_, _>>()?,
            vkey: self.log_key.as_deref().map(log_key).transpose()?,
            trust: Trust::CallerSupplied,
        };
        let is_pinned = !pinned.keys.is_empty() || pinned.vkey.is_some();
        let report = verify_path(&self.path, is_pinned.then_some(&pinned));
        context.output().show(&report, describe)?;
        Ok(Exit::of_verification(report.valid))
    }
}

fn read_key(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let bad = |reason: &str| Failure::Usage(format!("--key `{}`: {reason}", path.display()));
    let pem = fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
    from_pem(&pem).ok_or_else(|| bad("no PEM of a public key"))
}

fn log_key(argument: &str) -> Result<VerifierKey, Failure> {
    let bad = |reason: String| Failure::Usage(format!("--log-key: {reason}"));
    let text = match argument.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(|e| bad(format!("`{path}`: {e}")))?,
        None => argument.to_owned(),
    };
    text.trim().parse().map_err(|error: kernel::note::Error| bad(error.to_string()))
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
