//! Tools of MCP servers: which definition of each may be called.
//!
//! A server can change what a tool says of itself after people have trusted it. So definitions
//! are pinned by digest: the first contact pins what is there, and whatever is new or differs
//! later is quarantined until somebody who has seen the difference releases it.

use serde::{Deserialize, Serialize};

use crate::ids::{PrincipalId, ToolId};
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What changes a tool of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// The first contact found it: it may be called with this definition.
    #[serde(rename = "upstream_tool.pinned")]
    Pinned {
        /// Of the definition.
        digest: Digest,
        /// Which adding of the server this contact belongs to.
        generation: u32,
    },
    /// The server offers another definition than the one that is pinned, or offers it anew: it is
    /// in quarantine.
    #[serde(rename = "upstream_tool.changed")]
    Changed {
        /// Of the definition that is offered.
        digest: Digest,
        /// Which adding of the server offers it.
        generation: u32,
    },
    /// The server offers the pinned definition again.
    #[serde(rename = "upstream_tool.returned")]
    Returned {
        /// Which adding of the server offers it.
        generation: u32,
    },
    /// Somebody has seen the offered definition, and pins it.
    #[serde(rename = "upstream_tool.released")]
    Released {
        /// Of that definition.
        digest: Digest,
        /// Who.
        by: PrincipalId,
    },
    /// The server offers it no more.
    #[serde(rename = "upstream_tool.gone")]
    Gone {},
}

/// What is asked of a tool of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Take note of what the server offers.
    Observe {
        /// The digest of its definition; none where the server does not offer it.
        offered: Option<Digest>,
        /// Which adding of the server offers it.
        generation: u32,
        /// Whether this is the first contact since then.
        first: bool,
    },
    /// Release it from quarantine.
    Release {
        /// The definition that was seen.
        digest: Digest,
        /// By whom.
        by: PrincipalId,
    },
}

/// Where a tool of a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It may be called.
    Active,
    /// What is offered is not what was pinned.
    Quarantined,
    /// The server does not offer it.
    Gone,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Gone => "gone",
        }
    }
}

/// A tool of an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTool {
    /// Which.
    pub id: ToolId,
    /// Where it stands.
    pub status: Status,
    /// The definition that may be called; none before one was released.
    pub pinned: Option<Digest>,
    /// The definition that the server offered last, where that is another one.
    pub offered: Option<Digest>,
    /// The adding of the server that it was seen with.
    pub generation: u32,
    /// Who released the pinned definition; nobody where the first contact pinned it.
    pub released_by: Option<PrincipalId>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

/// The change that `input` makes to a tool, if it makes one, or why it is refused.
pub fn step(state: Option<&UpstreamTool>, input: Input) -> Result<Option<Change>, Refusal> {
    match input {
        Input::Observe { offered: Some(digest), generation, first } => {
            Ok(observe(state, digest, generation, first))
        }
        Input::Observe { offered: None, .. } => {
            let there = state.is_some_and(|tool| tool.status != Status::Gone);
            Ok(there.then_some(Change::Gone {}))
        }
        Input::Release { digest, by } => {
            let tool = state.ok_or(Refusal::Absent)?;
            if tool.status != Status::Quarantined {
                return Err(Refusal::State(tool.status.as_str()));
            }
            if tool.offered != Some(digest) {
                return Err(Refusal::Moved);
            }
            Ok(Some(Change::Released { digest, by }))
        }
    }
}

/// The first contact pins what it finds, once for each adding of the server; from then on only
/// the pinned definition comes back by itself.
fn observe(
    state: Option<&UpstreamTool>,
    digest: Digest,
    generation: u32,
    first: bool,
) -> Option<Change> {
    let Some(tool) = state else {
        return Some(match first {
            true => Change::Pinned { digest, generation },
            false => Change::Changed { digest, generation },
        });
    };
    let anew = tool.generation < generation;
    if first && anew {
        return Some(Change::Pinned { digest, generation });
    }
    if tool.pinned == Some(digest) {
        let unchanged = tool.status == Status::Active && !anew;
        return (!unchanged).then_some(Change::Returned { generation });
    }
    let known = tool.status == Status::Quarantined && tool.offered == Some(digest) && !anew;
    (!known).then_some(Change::Changed { digest, generation })
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<UpstreamTool>, change: &Change, applied: &Applied<'_>) {
    if state.is_none() {
        let (Change::Pinned { .. } | Change::Changed { .. }) = change else { return };
        let Some(id) = ToolId::new(applied.id).ok().filter(|id| id.as_mcp().is_some()) else {
            return;
        };
        *state = Some(UpstreamTool {
            id,
            status: Status::Gone,
            pinned: None,
            offered: None,
            generation: 0,
            released_by: None,
            revision: 0,
            created_at: applied.time,
            changed_at: applied.time,
        });
    }
    let Some(tool) = state else { return };
    match change {
        Change::Pinned { digest, generation } => {
            (tool.status, tool.pinned, tool.offered) = (Status::Active, Some(*digest), None);
            (tool.generation, tool.released_by) = (*generation, None);
        }
        Change::Changed { digest, generation } => {
            (tool.status, tool.offered) = (Status::Quarantined, Some(*digest));
            tool.generation = *generation;
        }
        Change::Returned { generation } => {
            (tool.status, tool.offered) = (Status::Active, None);
            tool.generation = *generation;
        }
        Change::Released { digest, by } => {
            (tool.status, tool.pinned, tool.offered) = (Status::Active, Some(*digest), None);
            tool.released_by = Some(by.clone());
        }
        Change::Gone {} => (tool.status, tool.offered) = (Status::Gone, None),
    }
    tool.revision = tool.revision.saturating_add(1);
    tool.changed_at = applied.time;
}
