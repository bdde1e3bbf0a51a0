//! What earlier attempts came to: the fold of a workspace's log into what each tool costs, takes
//! and fails with, how far its estimates were off, and what helped after which failure.
//!
//! It follows from the receipts before an index and from nothing else, so the same log gives the
//! same answers wherever and whenever it is folded.

mod drift;
mod lessons;
mod track;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::{self, Action, FailureCode, INTERRUPTED, LOST, Outcome, Request, Status};
use crate::failure::Category;
use crate::ids::{ActionId, EnvironmentId, PrincipalId, ToolId};
use crate::limits;
use crate::machine::Change;
use crate::receipt::Statement;
use crate::simulate::History;
use crate::values::{Shared, Timestamp};

pub use drift::Drift;
pub use lessons::{Lesson, Lessons, Trial};
pub use track::{Comparison, Estimator, Observation, Report, Track};

/// What is known from the receipts of one log before `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experience {
    /// How many receipts it follows from: the index of the first that it does not know.
    pub next: u64,
    tracks: BTreeMap<EnvironmentId, BTreeMap<ToolId, Track>>,
    /// Attempts under way, and since when.
    running: BTreeMap<ActionId, Timestamp>,
    agents: BTreeMap<PrincipalId, Activity>,
    lessons: Lessons,
}

/// What a principal asked for, and how attempts at it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// Actions that it asked for.
    pub actions: u64,
    /// How many of them executed.
    pub executed: u64,
    /// How many of them failed, or ended nobody knows how.
    pub failed: u64,
    /// When it was last heard of.
    pub last: Timestamp,
}

/// What a receipt says last of one action.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and most have an outcome")]
enum Last {
    /// An attempt began.
    Started,
    /// An attempt ended; whether another follows.
    Ended { outcome: Outcome, retried: bool },
    /// Nothing can follow.
    Closed,
    /// Nothing that counts here.
    Other,
}

/// What a receipt says of one action.
struct Seen<'a> {
    id: &'a ActionId,
    requested: bool,
    last: Last,
}

/// An attempt that ended, with all that is known of it.
pub(crate) struct Ended<'a> {
    id: &'a ActionId,
    request: &'a Request,
    /// The principal that acts.
    agent: Option<&'a PrincipalId>,
    since: Timestamp,
    at: Timestamp,
    index: u64,
    /// Why it failed; none where it executed.
    failure: Option<(&'a str, Category)>,
    retried: bool,
}

/// The code of a result of which the tool itself says that it is an error.
pub const TOOL_ERROR: &str = "tool_error";

impl Ended<'_> {
    fn took_ms(&self) -> u32 {
        let micros = self.at.0.saturating_sub(self.since.0).max(0);
        u32::try_from(micros.saturating_add(999) / 1_000).unwrap_or(u32::MAX)
    }
}

/// Why an attempt failed, where that is the doing of the tool or of what it calls. A server of
/// ours that went away, and a permit that was overtaken, say nothing of the tool.
fn blamed(outcome: &Outcome) -> Option<Option<(&str, Category)>> {
    match &outcome.failure {
        Some(FailureCode { code, .. }) if code == LOST || code == INTERRUPTED => None,
        Some(FailureCode { category: Category::PolicyDenied | Category::Budget, .. }) => None,
        Some(FailureCode { code, category }) => Some(Some((code, *category))),
        None if outcome.is_error => Some(Some((TOOL_ERROR, Category::Upstream))),
        None => Some(None),
    }
}

impl Experience {
    /// Takes what the receipt at `index` left behind: `actions` as they are after it.
    pub fn take<'a>(
        &mut self,
        index: u64,
        time: Timestamp,
        actions: impl IntoIterator<Item = &'a Action>,
    ) {
        let mut actions: Vec<&Action> = actions.into_iter().collect();
        actions.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for action in actions {
            let last = match (action.status, &action.outcome) {
                (Status::Executing, _) => Last::Started,
                (status, Some(outcome)) if self.running.contains_key(&action.id) => {
                    Last::Ended { outcome: outcome.clone(), retried: !status.is_settled() }
                }
                (status, _) if status.is_settled() => Last::Closed,
                _ => Last::Other,
            };
            let requested = action.receipts.first() == Some(&index);
            let seen = Seen { id: &action.id, requested, last };
            self.see(index, time, Some(&action.request), seen);
        }
        self.next = index.saturating_add(1);
    }

    /// Takes a receipt that was read back. `find` knows what an action asked for that began
    /// earlier.
    pub fn replay<E>(
        &mut self,
        statement: &Statement,
        mut find: impl FnMut(&ActionId) -> Result<Shared<Request>, E>,
    ) -> Result<(), E> {
        let (index, time) = (statement.predicate.log.index, statement.predicate.time_us);
        let mut changes: BTreeMap<ActionId, Vec<&action::Change>> = BTreeMap::new();
        for transition in &statement.predicate.transitions {
            let Change::Action(change) = &transition.change else { continue };
            let Ok(id) = ActionId::new(&*transition.stream.id) else { continue };
            changes.entry(id).or_default().push(change);
        }
        for (id, changes) in changes {
            let asked = changes.iter().find_map(|change| match change {
                action::Change::Requested(request) => Some(request.clone()),
                _ => None,
            });
            let runs = self.running.contains_key(&id);
            let last = changes.last().map_or(Last::Other, |change| last(change, runs));
            let requested = asked.is_some();
            let request = match (asked, &last) {
                (None, Last::Ended { .. }) => Some(find(&id)?),
                (asked, _) => asked,
            };
            self.see(index, time, request.as_deref(), Seen { id: &id, requested, last });
        }
        self.next = index.saturating_add(1);
        Ok(())
    }

    /// `request` is there where the action is asked for or an attempt of it ends.
    fn see(&mut self, index: u64, at: Timestamp, request: Option<&Request>, seen: Seen<'_>) {
        let Seen { id, requested, last } = seen;
        let agent = request.and_then(|request| request.actors.acting()).map(|actor| &actor.id);
        if let Some(agent) = agent.filter(|_| requested) {
            self.active(agent, at, |activity| activity.actions += 1);
        }
        match last {
            Last::Started => {
                if self.running.len() >= limits::EXPERIENCE_RUNNING_MAX {
                    let oldest = self.running.iter().min_by_key(|(_, since)| **since);
                    let oldest = oldest.map(|(id, _)| id.clone());
                    oldest.and_then(|id| self.running.remove(&id));
                }
                self.running.insert(id.clone(), at);
            }
            Last::Ended { outcome, retried } => {
                let (Some(since), Some(request)) = (self.running.remove(id), request) else {
                    return;
                };
                if let Some(agent) = agent.filter(|_| !retried) {
                    let well = outcome.status == Status::Executed;
                    self.active(agent, at, |activity| {
                        activity.executed += u64::from(well);
                        activity.failed += u64::from(!well);
                    });
                }
                let Some(failure) = blamed(&outcome) else {
                    self.lessons.forget(id);
                    return;
                };
                let ended = Ended { id, request, agent, since, at, index, failure, retried };
                self.track(request, index).observe(&ended, outcome.cost);
                self.lessons.observe(&ended);
            }
            Last::Closed => {
                self.running.remove(id);
                self.lessons.forget(id);
            }
            Last::Other => {}
        }
    }

    fn active(&mut self, agent: &PrincipalId, at: Timestamp, change: impl FnOnce(&mut Activity)) {
        let full = self.agents.len() >= limits::EXPERIENCE_AGENTS_MAX;
        if full && !self.agents.contains_key(agent) {
            let oldest = self.agents.iter().min_by_key(|(_, activity)| activity.last);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.and_then(|id| self.agents.remove(&id));
        }
        let activity = self.agents.entry(agent.clone()).or_default();
        activity.last = at;
        change(activity);
    }

    /// The track of a tool in an environment. Where there are too many, the one that was used
    /// longest ago is forgotten.
    fn track(&mut self, request: &Request, index: u64) -> &mut Track {
        let known = self.tracks.get(&request.environment);
        let known = known.is_some_and(|tools| tools.contains_key(&request.tool));
        let count: usize = self.tracks.values().map(BTreeMap::len).sum();
        if !known && count >= limits::EXPERIENCE_TOOLS_MAX {
            let all = self.tracks.iter().flat_map(|(environment, tools)| {
                tools.iter().map(move |(tool, track)| (track.last_index(), environment, tool))
            });
            let oldest =
                all.min().map(|(_, environment, tool)| (environment.clone(), tool.clone()));
            if let Some((environment, tool)) = oldest {
                self.tracks.get_mut(&environment).map(|tools| tools.remove(&tool));
            }
        }
        let tools = self.tracks.entry(request.environment.clone()).or_default();
        tools.entry(request.tool.clone()).or_insert_with(|| Track::new(&request.tool, index))
    }

    /// What earlier attempts of a tool came to, for a simulation; none where there were none.
    pub fn history(
        &self,
        environment: &EnvironmentId,
        tool: &ToolId,
        now: Timestamp,
    ) -> Option<History> {
        self.tracks.get(environment)?.get(tool).map(|track| track.history(now))
    }

    /// What is known of the tools of an environment, in the order of their ids.
    pub fn tracks(&self, environment: &EnvironmentId) -> impl Iterator<Item = (&ToolId, &Track)> {
        self.tracks.get(environment).into_iter().flatten()
    }

    /// How an action compares with what was estimated of it, while that is remembered: an entry
    /// for each of its attempts, the oldest first.
    pub fn compare(&self, action: &Action) -> Vec<Comparison> {
        let tools = self.tracks.get(&action.request.environment);
        let track = tools.and_then(|tools| tools.get(&action.request.tool));
        // The first receipt asks for it, perhaps in the commit that ended another.
        let after = action.receipts.get(1..).unwrap_or_default();
        track.map_or_else(Vec::new, |track| track.comparisons(after))
    }

    /// What a principal asked for.
    pub fn activity(&self, agent: &PrincipalId) -> Option<&Activity> {
        self.agents.get(agent)
    }

    /// What helped after which failure.
    pub fn lessons(&self) -> &Lessons {
        &self.lessons
    }
}

/// What a change says of an action whose attempt runs, or does not.
fn last(change: &action::Change, runs: bool) -> Last {
    use action::Change as C;
    match change {
        C::Started(_) => Last::Started,
        C::Finished { outcome, .. } if runs => {
            Last::Ended { outcome: outcome.clone(), retried: false }
        }
        C::Retried { failure, cost, units, .. } if runs => {
            let (cost, units) = (*cost, *units);
            let outcome = Outcome { cost, units, ..action::failed(failure) };
            Last::Ended { outcome, retried: true }
        }
        C::Finished { .. }
        | C::Denied { .. }
        | C::Reconciled { .. }
        | C::Canceled { .. }
        | C::Expired {}
        | C::ReversalBegun { .. }
        | C::Reversed { .. }
        | C::ReversalEnded { .. } => Last::Closed,
        C::Decided { status, .. } if status.is_settled() => Last::Closed,
        C::Requested(_) | C::Decided { .. } | C::Approved { .. } | C::Retried { .. } => Last::Other,
    }
}
