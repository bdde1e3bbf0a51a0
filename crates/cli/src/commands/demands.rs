//! What `verify` and `ledger verify` may demand of a log besides its signature: that it continues
//! an older checkpoint, and that witnesses vouch for it.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use kernel::cosignature::CosignerKey;
use kernel::history::{Demands, Error};
use kernel::limits::{NOTE_BYTES_MAX, WITNESSES_MAX};
use kernel::note::VerifierKey;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// The options.
#[derive(Debug, Args)]
pub(crate) struct Demanded {
    /// An older checkpoint of the log that you kept: demand that the log has only grown since.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// The key of a witness that counts, or @FILE; may be repeated.
    #[arg(long, value_name = "VKEY")]
    witness: Vec<String>,
    /// How many of these witnesses must have cosigned; without it all of them.
    #[arg(long, value_name = "N", requires = "witness")]
    witness_quorum: Option<usize>,
}

/// What came of the demands.
#[derive(Debug, Serialize)]
pub(crate) struct Met {
    met: bool,
    /// The code of what is wrong.
    code: Option<&'static str>,
    error: Option<String>,
}

impl Demanded {
    /// Reads the files that the options name. None where nothing is demanded.
    pub(crate) fn read(&self) -> Result<Option<Demands>, Failure> {
        let bad = |reason: String| Failure::Usage(format!("--since: {reason}"));
        let read = |path: &PathBuf| {
            let named = |error: std::io::Error| bad(format!("`{}`: {error}", path.display()));
            let length = fs::metadata(path).map_err(named)?.len();
            if usize::try_from(length).map_or(true, |length| length > NOTE_BYTES_MAX) {
                return Err(bad(format!("`{}` is too long for a checkpoint", path.display())));
            }
            fs::read(path).map_err(named)
        };
        let since = self.since.as_ref().map(read).transpose()?;
        let witnesses: Vec<CosignerKey> =
            self.witness.iter().map(|key| vkey("--witness", key)).collect::<Result<_, _>>()?;
        let quorum = self.witness_quorum.unwrap_or(witnesses.len());
        if witnesses.len() > WITNESSES_MAX {
            return Err(Failure::Usage(format!("give at most {WITNESSES_MAX} witnesses")));
        }
        if quorum > witnesses.len() || (quorum == 0 && !witnesses.is_empty()) {
            let most = witnesses.len();
            return Err(Failure::Usage(format!("--witness-quorum: write 1 to {most}")));
        }
        let demands = Demands { since, witnesses, quorum };
        Ok(Some(demands).filter(|demands| !demands.is_empty()))
    }

    /// Whether any of the options is given.
    pub(crate) fn given(&self) -> bool {
        self.since.is_some() || !self.witness.is_empty()
    }
}

/// A key given as text, or as `@FILE`.
fn vkey<K: std::str::FromStr<Err = kernel::note::Error>>(
    option: &str,
    argument: &str,
) -> Result<K, Failure> {
    let bad = |reason: String| Failure::Usage(format!("{option}: {reason}"));
    let text = match argument.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(|e| bad(format!("`{path}`: {e}")))?,
        None => argument.to_owned(),
    };
    text.trim().parse().map_err(|error: kernel::note::Error| bad(error.to_string()))
}

/// The key of a log.
pub(crate) fn log_key(argument: &str) -> Result<VerifierKey, Failure> {
    vkey("--log-key", argument)
}

impl Met {
    pub(crate) fn of<T>(checked: &Result<T, Error>) -> Self {
        let error = checked.as_ref().err();
        Self {
            met: error.is_none(),
            code: error.map(Error::code),
            error: error.map(ToString::to_string),
        }
    }

    /// A line for people.
    pub(crate) fn describe(&self) -> String {
        let met = || "the log continues what you hold, and the witnesses that you name cosigned it";
        self.error.as_ref().map_or_else(|| met().to_owned(), |error| format!("NOT good: {error}"))
    }
}

/// How a check that was not met ends the program.
pub(crate) fn exit(error: &Error) -> Exit {
    match error {
        Error::Truncated { .. } | Error::Forked { .. } => Exit::Inconsistent,
        Error::Witnesses { .. } => Exit::NotWitnessed,
        Error::Checkpoint { .. } | Error::Unproven { .. } => Exit::NotVerified,
    }
}
