//! `run.json`: what a run did, who said what about it and what it cost, told from the receipts of a
//! bundle and from nothing else. Whoever checks a bundle tells it again and compares.

mod governance;
mod parts;
mod taken;
mod tell;

use serde::Deserialize;

pub use self::governance::{Control, Governance, Needs, Said};
pub use self::parts::{
    ActionPart, ApprovalPart, AttemptPart, DecisionPart, KeyPart, Pins, ReversalPart, RunPart,
    StepPart, Story, Total, Undone, VotePart,
};
pub use self::tell::{Teller, tell};
use crate::ids::RunId;
use crate::json;
use crate::machine::Stream;
use crate::receipt::Transition;
use crate::values::Timestamp;

/// The type of a `run.json`.
pub const TYPE: &str = "https://tally.dev/run/v1";

/// What one receipt says.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its place in the log.
    pub index: u64,
    /// When.
    pub time: Timestamp,
    /// What changed.
    pub transitions: &'a [Transition],
}

/// Why the receipts of a bundle do not tell of a run, or why a `run.json` is not what they tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It names no run.
    #[error("run.json is not an account of a run: {0}")]
    Malformed(String),
    /// There is no receipt of something that the others name.
    #[error("the receipts of {0} are missing")]
    Absent(Stream),
    /// A change is not there, though a later one is.
    #[error("change {version} of {stream} is missing: its receipt is not here")]
    Gap {
        /// Of what.
        stream: Stream,
        /// Which.
        version: u64,
    },
    /// The log has a receipt of the run that is not among those of the bundle.
    #[error("receipt {index} tells of {stream} and is not here")]
    Omitted {
        /// Its index.
        index: u64,
        /// What it is about.
        stream: Stream,
    },
    /// The run says another thing of an action than the action itself.
    #[error("receipt {0}: a step is not where its action is")]
    Contradiction(u64),
    /// The control log does not say what the run rests on, or says something else.
    #[error("the receipts of the control log do not bear the run out: {0}")]
    Governance(&'static str),
    /// It says other things than the receipts.
    #[error("run.json says something else than the receipts: {0}")]
    Differs(String),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "bundle_run",
            Self::Absent(_) => "bundle_run_absent",
            Self::Gap { .. } => "bundle_run_gap",
            Self::Omitted { .. } => "bundle_run_omitted",
            Self::Contradiction(_) => "bundle_run_contradiction",
            Self::Governance(_) => "bundle_run_governance",
            Self::Differs(_) => "bundle_run_differs",
        }
    }
}

#[derive(Deserialize)]
struct Named {
    run: NamedRun,
}

#[derive(Deserialize)]
struct NamedRun {
    id: RunId,
}

/// The run that a `run.json` names.
pub fn named(bytes: &[u8]) -> Result<RunId, Error> {
    let named = serde_json::from_slice::<Named>(bytes);
    named.map(|named| named.run.id).map_err(|error| Error::Malformed(error.to_string()))
}

/// Checks that `bytes` say what the receipts say, and nothing else. What comes back knows which
/// streams the run is made of, and what it rests on.
pub fn check(
    bytes: &[u8],
    origin: &str,
    told: &[Told<'_>],
    control: Option<&Control<'_>>,
) -> Result<(Teller, Needs), Error> {
    let teller = Teller::new(&named(bytes)?, told)?;
    let due = teller.story(origin, control)?;
    if due.bytes()? == bytes {
        let needs = teller.needs()?;
        return Ok((teller, needs));
    }
    let said: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let due = serde_json::to_value(&due).map_err(|error| Error::Malformed(error.to_string()))?;
    Err(Error::Differs(place("", &said, &due)))
}

/// Where two values first part.
fn place(at: &str, said: &serde_json::Value, due: &serde_json::Value) -> String {
    use serde_json::Value::{Array, Object};
    match (said, due) {
        (Object(said), Object(due)) => {
            let names = said.keys().chain(due.keys());
            let parted = names.into_iter().find(|name| said.get(*name) != due.get(*name));
            match parted.map(|name| (name, said.get(name), due.get(name))) {
                Some((name, Some(said), Some(due))) => place(&format!("{at}/{name}"), said, due),
                Some((name, ..)) => format!("{at}/{name}"),
                None => "its form".to_owned(),
            }
        }
        (Array(said), Array(due)) if said.len() == due.len() => {
            let parted = said.iter().zip(due).enumerate().find(|(_, (said, due))| said != due);
            parted.map_or_else(
                || at.to_owned(),
                |(index, (said, due))| place(&format!("{at}/{index}"), said, due),
            )
        }
        _ => at.to_owned(),
    }
}

impl Story {
    /// The bytes of `run.json`: its canonical form (RFC 8785).
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        json::canonical(self).map_err(|error| Error::Malformed(error.to_string()))
    }
}
