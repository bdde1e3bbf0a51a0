//! MCP servers: which ones a tenant's agents may use, and how they are reached.

use serde::{Deserialize, Serialize};

use crate::ids::{self, PrincipalId};
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What changes a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was added, for the first time or after it was removed.
    #[serde(rename = "upstream.added")]
    Added(Settings),
    /// Its tools have other labels or prices.
    #[serde(rename = "upstream.changed")]
    Changed(Settings),
    /// The first contact is over: what it offered is pinned.
    #[serde(rename = "upstream.pinned")]
    Pinned {},
    /// It was removed: none of its tools can be called.
    #[serde(rename = "upstream.removed")]
    Removed {
        /// By whom; by the configuration where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<PrincipalId>,
    },
}

/// How a server is reached and judged, by digests: the settings themselves are content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The digest of how it is reached, without the values of secrets.
    pub spec: Digest,
    /// The digest of that and of the labels and prices that its operator gives its tools.
    pub settings: Digest,
    /// Who set it; the configuration where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<PrincipalId>,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Add it.
    Add(Settings),
    /// Give its tools other labels or prices. A server that is reached in another way is another
    /// one: it is removed and added.
    Change(Settings),
    /// End the first contact.
    Pin {},
    /// Remove it.
    Remove {
        /// By whom.
        by: Option<PrincipalId>,
    },
}

/// An MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// How it is reached and judged.
    pub settings: Settings,
    /// How often it was added.
    pub generation: u32,
    /// Whether the first contact since then is over.
    pub pinned: bool,
    /// Whether it was removed.
    pub removed: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

/// The change that `input` makes to the server `name`, or why it makes none.
pub fn step(state: Option<&Upstream>, input: Input) -> Result<Change, Refusal> {
    let live = state.filter(|upstream| !upstream.removed);
    match (live, input) {
        (None, Input::Add(settings)) => Ok(Change::Added(settings)),
        (Some(_), Input::Add(_)) => Err(Refusal::Exists),
        (None, _) => Err(Refusal::Absent),
        (Some(upstream), Input::Change(settings)) if upstream.settings.spec != settings.spec => {
            Err(Refusal::InvalidInput("a server that is reached in another way is added anew"))
        }
        (Some(upstream), Input::Change(settings)) if upstream.settings == settings => {
            Err(Refusal::State("unchanged"))
        }
        (Some(_), Input::Change(settings)) => Ok(Change::Changed(settings)),
        (Some(upstream), Input::Pin {}) if upstream.pinned => Err(Refusal::State("pinned")),
        (Some(_), Input::Pin {}) => Ok(Change::Pinned {}),
        (Some(_), Input::Remove { by }) => Ok(Change::Removed { by }),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Upstream>, change: &Change, applied: &Applied<'_>) {
    let Some(upstream) = state else {
        let Change::Added(settings) = change else { return };
        if ids::is_server_name(applied.id) {
            *state = Some(Upstream {
                name: applied.id.to_owned(),
                settings: settings.clone(),
                generation: 1,
                pinned: false,
                removed: false,
                revision: 1,
                created_at: applied.time,
                changed_at: applied.time,
            });
        }
        return;
    };
    match change {
        Change::Added(settings) => {
            upstream.settings = settings.clone();
            upstream.generation = upstream.generation.saturating_add(1);
            (upstream.pinned, upstream.removed) = (false, false);
        }
        Change::Changed(settings) => upstream.settings = settings.clone(),
        Change::Pinned {} => upstream.pinned = true,
        Change::Removed { .. } => upstream.removed = true,
    }
    upstream.revision = upstream.revision.saturating_add(1);
    upstream.changed_at = applied.time;
}
