//! What helped after which failure: what came of the attempts that followed it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Ended;
use crate::failure::Category;
use crate::ids::{ActionId, PrincipalId, ToolId};
use crate::limits;
use crate::recovery::Strategy;
use crate::values::Timestamp;

/// What came of something that was tried after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Timestamp, bool)", into = "(Timestamp, bool)")]
pub struct Trial {
    /// When that was known.
    pub at: Timestamp,
    /// Whether it helped.
    pub helped: bool,
}

impl From<(Timestamp, bool)> for Trial {
    fn from((at, helped): (Timestamp, bool)) -> Self {
        Self { at, helped }
    }
}

impl From<Trial> for (Timestamp, bool) {
    fn from(trial: Trial) -> Self {
        (trial.at, trial.helped)
    }
}

/// What is known of one failure of one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lesson {
    /// What kind of failure.
    pub category: Category,
    /// How often it happened.
    pub count: u64,
    /// When it last did.
    pub last: Timestamp,
    /// What was tried then, the latest trials of each.
    pub tried: BTreeMap<Strategy, VecDeque<Trial>>,
}

/// A failure by name.
type Named = (ToolId, String);

/// How a principal's last action failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fallen {
    failure: Named,
    at: Timestamp,
}

/// What is known of all failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lessons {
    known: BTreeMap<ToolId, BTreeMap<String, Lesson>>,
    /// Actions of which another attempt follows, and why.
    retrying: BTreeMap<ActionId, Named>,
    /// Principals whose last action failed.
    fallen: BTreeMap<PrincipalId, Fallen>,
}

impl Lessons {
    /// Every failure that is known, in the order of tool and code.
    pub fn all(&self) -> impl Iterator<Item = (&ToolId, &str, &Lesson)> {
        self.known.iter().flat_map(|(tool, codes)| {
            codes.iter().map(move |(code, lesson)| (tool, code.as_str(), lesson))
        })
    }

    /// What is known of a failure.
    pub fn of(&self, tool: &ToolId, code: &str) -> Option<&Lesson> {
        self.known.get(tool)?.get(code)
    }

    /// No attempt of this action follows any more.
    pub(super) fn forget(&mut self, action: &ActionId) {
        self.retrying.remove(action);
    }

    pub(super) fn observe(&mut self, ended: &Ended<'_>) {
        let trial = Trial { at: ended.at, helped: ended.failure.is_none() };
        // What the server does by itself between attempts: it waits longer each time, spread.
        if let Some(failure) = self.retrying.remove(ended.id) {
            self.tried(&failure, Strategy::RetryWithJitter, trial);
        }
        if !ended.retried {
            self.followed(ended, trial);
        }
        let Some((code, category)) = ended.failure else { return };
        let failure = (ended.request.tool.clone(), code.to_owned());
        self.happened(&failure, category, ended.at);
        if ended.retried {
            if self.retrying.len() < limits::EXPERIENCE_RUNNING_MAX {
                self.retrying.insert(ended.id.clone(), failure);
            }
        } else if let Some(agent) = ended.agent {
            if self.fallen.len() >= limits::EXPERIENCE_AGENTS_MAX {
                let oldest = self.fallen.iter().min_by_key(|(_, fallen)| fallen.at);
                let oldest = oldest.map(|(agent, _)| agent.clone());
                oldest.and_then(|agent| self.fallen.remove(&agent));
            }
            self.fallen.insert(agent.clone(), Fallen { failure, at: ended.at });
        }
    }

    /// What a principal did after its last action had failed for good: the same again, at once or
    /// after a while, or something else in its place. What it had begun before does not count.
    fn followed(&mut self, ended: &Ended<'_>, trial: Trial) {
        let Some(agent) = ended.agent else { return };
        let Some(fallen) = self.fallen.get(agent) else { return };
        if ended.since < fallen.at {
            return;
        }
        let waited = ended.since.0.saturating_sub(fallen.at.0);
        let same = fallen.failure.0 == ended.request.tool;
        let strategy = match (same, waited) {
            (_, micros) if micros > limits::FOLLOWS_MICROS_MAX => None,
            (true, micros) if micros < limits::AT_ONCE_MICROS => Some(Strategy::RetryImmediate),
            (true, _) => Some(Strategy::RetryExponential),
            (false, _) => Some(Strategy::Fallback),
        };
        let failure = fallen.failure.clone();
        self.fallen.remove(agent);
        if let Some(strategy) = strategy {
            self.tried(&failure, strategy, trial);
        }
    }

    fn happened(&mut self, (tool, code): &Named, category: Category, at: Timestamp) {
        let count: usize = self.known.values().map(BTreeMap::len).sum();
        if self.of(tool, code).is_none() && count >= limits::LESSONS_MAX {
            let oldest = self.all().min_by_key(|(tool, code, lesson)| (lesson.last, *tool, *code));
            let oldest = oldest.map(|(tool, code, _)| (tool.clone(), code.to_owned()));
            if let Some((tool, code)) = oldest {
                self.known.get_mut(&tool).map(|codes| codes.remove(&code));
            }
        }
        let codes = self.known.entry(tool.clone()).or_default();
        let new = || Lesson { category, count: 0, last: at, tried: BTreeMap::new() };
        let lesson = codes.entry(code.clone()).or_insert_with(new);
        lesson.category = category;
        lesson.count = lesson.count.saturating_add(1);
        lesson.last = at;
    }

    fn tried(&mut self, (tool, code): &Named, strategy: Strategy, trial: Trial) {
        let lesson = self.known.get_mut(tool).and_then(|codes| codes.get_mut(code));
        let Some(lesson) = lesson else { return };
        let trials = lesson.tried.entry(strategy).or_default();
        if trials.len() >= limits::TRIALS_MAX {
            trials.pop_front();
        }
        trials.push_back(trial);
    }
}
