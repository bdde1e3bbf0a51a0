//! Control catalogs: which receipts a control is shown by, and whether a period has them.
//!
//! A control of a framework names kinds of receipts with filters. It is covered by receipts that
//! pass them and by nothing else: that there are receipts of that kind says nothing.

mod cover;

use serde::{Deserialize, Serialize};

pub use self::cover::{Coverage, Evidence, Gap, Met, Seen};
use crate::decision::Effect;
use crate::limits;
use crate::machine::Kind;
use crate::receipt::Transition;

/// The version of this format.
pub const API_VERSION: &str = "tally/v1";
/// What a document is.
pub const KIND: &str = "ControlCatalog";

/// The controls of one framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Catalog {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// What it is called.
    pub metadata: Metadata,
    /// What it asks for.
    pub controls: Vec<Control>,
}

/// What a catalog is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// `soc2`.
    pub name: String,
    /// In words.
    pub title: String,
    /// Which edition of the catalog.
    pub version: String,
}

/// One control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Its number in the framework.
    pub id: String,
    /// What it is about, in the catalog's words.
    pub title: String,
    /// What shows it: all of these.
    pub requires: Vec<Requirement>,
}

/// Receipts that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// What they show.
    pub shows: String,
    /// Changes that count: any of these types.
    pub receipts: Vec<String>,
    /// Which of them count.
    #[serde(default, rename = "where")]
    pub filter: Filter,
    /// How many there must be.
    #[serde(default = "one")]
    pub at_least: u64,
    /// In how many days at least one is expected, again and again.
    #[serde(default)]
    pub every_days: Option<u32>,
}

fn one() -> u64 {
    1
}

/// What a change must be about to count. A list that is empty lets all pass; of several lists all
/// must let it pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Any of these tools; `servicenow.*` stands for all that begin so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// All of these labels of the tool, as far as receipts have them: those that weigh in the risk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Any of these effects of the decision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// Any of these rules took part in the decision; `R-PROD*` stands for all that begin so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Any of these environments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// The change says that the thing is in any of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<String>,
}

/// Why a document is no catalog, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Refused {
    /// The place in the document: `controls[2].requires[0].receipts[1]`.
    pub place: String,
    /// What is wrong there.
    pub why: String,
}

/// In which log changes of a type are: none where there is no such type.
pub fn log_of(change: &str) -> Option<Log> {
    let (prefix, _) = change.split_once('.')?;
    let kind = Kind::parse(prefix)?;
    let text = serde_json::json!({
        "stream": format!("{prefix}/x"), "version": 1, "change": {"type": change},
    });
    // Only what is no type at all is refused with these words; a type lacks its fields here.
    let parsed = serde_json::from_str::<Transition>(&text.to_string());
    let known =
        parsed.map_or_else(|error| !error.to_string().contains("unknown variant"), |_| true);
    known.then_some(match kind {
        // In the log of the whole host, which is no tenant's.
        // A meter has no changes of its own.
        Kind::Tenant | Kind::TokenKey | Kind::Meter => return None,
        Kind::Action
        | Kind::Approval
        | Kind::Account
        | Kind::Idempotency
        | Kind::Run
        | Kind::Card
        | Kind::Delivery
        | Kind::Transfer => Log::Workspace,
        _ => Log::Control,
    })
}

/// A log that receipts are looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// What happens.
    Workspace,
    /// What may exist.
    Control,
}

impl Catalog {
    /// Checks what the form of the document does not say.
    pub fn check(&self) -> Result<(), Refused> {
        let must_be = |place: &str, text: &str, expected: &str| match text == expected {
            true => Ok(()),
            false => Err(refused(place, format!("must be `{expected}`"))),
        };
        must_be("apiVersion", &self.api_version, API_VERSION)?;
        must_be("kind", &self.kind, KIND)?;
        text("metadata.name", &self.metadata.name)?;
        text("metadata.title", &self.metadata.title)?;
        text("metadata.version", &self.metadata.version)?;
        count("controls", self.controls.len(), limits::CONTROLS_MAX)?;
        for (at, control) in self.controls.iter().enumerate() {
            let place = format!("controls[{at}]");
            text(&format!("{place}.id"), &control.id)?;
            text(&format!("{place}.title"), &control.title)?;
            let mut before = self.controls.iter().take(at);
            if before.any(|other| other.id == control.id) {
                return Err(refused(
                    &format!("{place}.id"),
                    "this control was named before".into(),
                ));
            }
            let place = format!("{place}.requires");
            count(&place, control.requires.len(), limits::REQUIREMENTS_MAX)?;
            for (at, requirement) in control.requires.iter().enumerate() {
                requirement.check(&format!("{place}[{at}]"))?;
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn check(&self, place: &str) -> Result<(), Refused> {
        text(&format!("{place}.shows"), &self.shows)?;
        let receipts = format!("{place}.receipts");
        count(&receipts, self.receipts.len(), limits::REQUIREMENTS_MAX)?;
        for (at, change) in self.receipts.iter().enumerate() {
            if log_of(change).is_none() {
                let why = format!("no receipt has a change of the type `{change}`");
                return Err(refused(&format!("{receipts}[{at}]"), why));
            }
        }
        if self.at_least == 0 {
            return Err(refused(&format!("{place}.at_least"), "at least 1".into()));
        }
        if self.every_days.is_some_and(|days| !(1..=limits::CADENCE_DAYS_MAX).contains(&days)) {
            let why = format!("1 to {} days", limits::CADENCE_DAYS_MAX);
            return Err(refused(&format!("{place}.every_days"), why));
        }
        self.filter.check(&format!("{place}.where"))
    }
}

impl Filter {
    fn check(&self, place: &str) -> Result<(), Refused> {
        let lists = [
            ("tools", &self.tools),
            ("labels", &self.labels),
            ("rules", &self.rules),
            ("environments", &self.environments),
            ("statuses", &self.statuses),
        ];
        for (name, list) in lists {
            let place = format!("{place}.{name}");
            if list.len() > limits::REQUIREMENTS_MAX {
                return Err(refused(&place, format!("at most {}", limits::REQUIREMENTS_MAX)));
            }
            for (at, item) in list.iter().enumerate() {
                text(&format!("{place}[{at}]"), item)?;
            }
        }
        Ok(())
    }
}

fn refused(place: &str, why: String) -> Refused {
    Refused { place: place.to_owned(), why }
}

fn text(place: &str, text: &str) -> Result<(), Refused> {
    let fits = (1..=limits::CONTROL_TEXT_BYTES_MAX).contains(&text.len());
    if fits && text.trim() == text && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let why = format!("1 to {} printable characters", limits::CONTROL_TEXT_BYTES_MAX);
    Err(refused(place, why))
}

fn count(place: &str, count: usize, max: usize) -> Result<(), Refused> {
    match (1..=max).contains(&count) {
        true => Ok(()),
        false => Err(refused(place, format!("1 to {max} of them"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_changes_are_known_by_their_log() {
        for (change, log) in [
            ("action.decided", Some(Log::Workspace)),
            ("run.ended", Some(Log::Workspace)),
            ("approval.glass_broken", Some(Log::Workspace)),
            ("card.posted", Some(Log::Workspace)),
            ("delivery.died", Some(Log::Workspace)),
            ("trigger.created", Some(Log::Control)),
            ("policy.published", Some(Log::Control)),
            ("key.revoked", Some(Log::Control)),
            ("principal.roles_set", Some(Log::Control)),
            ("action.decide", None),
            ("policy.publish", None),
            ("tenant.created", None),
            ("meter.added", None),
            ("nothing", None),
        ] {
            assert_eq!(log_of(change), log, "{change}");
        }
    }
}
