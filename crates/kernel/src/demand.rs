//! What policy demands of people before an action runs: stages, quorums, and two expiries.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::ids::PrincipalId;
use crate::limits;
use crate::principal::Role;

/// Who may speak: anybody with one of the roles who, where names are given, is named too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Electorate {
    /// Any of these roles may approve. Empty: `approver`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// Where not empty, only these principals may approve.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub approvers: BTreeSet<PrincipalId>,
}

impl Electorate {
    /// Whether somebody with these roles is one of them.
    pub fn has(&self, who: &PrincipalId, roles: &BTreeSet<Role>) -> bool {
        let by_role = if self.roles.is_empty() {
            roles.contains(&Role::Approver)
        } else {
            !self.roles.is_disjoint(roles)
        };
        by_role && (self.approvers.is_empty() || self.approvers.contains(who))
    }

    /// Only those who are of both.
    fn both(self, other: Self) -> Result<Self, Contradiction> {
        Ok(Self {
            roles: intersect(self.roles, other.roles)?,
            approvers: intersect(self.approvers, other.approvers)?,
        })
    }
}

/// A number of people who say yes together. Stages of one approval take different people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name among the stages: `legal`. Empty for the one that a demand without stages is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How many distinct people must approve.
    #[serde(default = "one")]
    pub quorum: u32,
    /// Any of these roles may approve. Empty: `approver`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// Where not empty, only these principals may approve.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub approvers: BTreeSet<PrincipalId>,
    /// Seconds from the opening of the stage until it is escalated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla_s: Option<u32>,
    /// Who may approve too, once it is escalated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate_to: Option<Electorate>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            name: String::new(),
            quorum: one(),
            roles: BTreeSet::new(),
            approvers: BTreeSet::new(),
            sla_s: None,
            escalate_to: None,
        }
    }
}

impl Stage {
    /// Who may speak from the beginning.
    pub fn electorate(&self) -> Electorate {
        Electorate { roles: self.roles.clone(), approvers: self.approvers.clone() }
    }

    /// Whether somebody may speak; `escalated` lets those in to whom it was escalated.
    pub fn admits(&self, who: &PrincipalId, roles: &BTreeSet<Role>, escalated: bool) -> bool {
        let later = self.escalate_to.as_ref().filter(|_| escalated);
        self.electorate().has(who, roles) || later.is_some_and(|later| later.has(who, roles))
    }

    /// The strictest of two stages of one name. Others are let in only where both rules say so, by
    /// the later of both times.
    fn strictest(self, other: Self) -> Result<Self, Contradiction> {
        let electorate = self.electorate().both(other.electorate())?;
        let wider = match (self.escalate_to, other.escalate_to) {
            (Some(one), Some(other)) => one.both(other).ok(),
            _ => None,
        };
        let sla_s = match (self.sla_s, other.sla_s) {
            (Some(one), Some(other)) if wider.is_some() => Some(one.max(other)),
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(Self {
            name: self.name,
            quorum: self.quorum.max(other.quorum),
            roles: electorate.roles,
            approvers: electorate.approvers,
            sla_s,
            escalate_to: wider,
        })
    }

    fn well_formed(&self) -> bool {
        let second = |s: u32| (1..=limits::APPROVAL_EXPIRES_S_MAX).contains(&s);
        let wider = self.escalate_to.as_ref().is_none_or(|to| {
            let names_somebody = !to.roles.is_empty() || !to.approvers.is_empty();
            names_somebody && self.sla_s.is_some()
        });
        (1..=limits::QUORUM_MAX).contains(&self.quorum)
            && (self.name.is_empty() || is_word(&self.name))
            && self.sla_s.is_none_or(second)
            && wider
    }

    fn names(&self) -> usize {
        let wider = self.escalate_to.as_ref().map_or(0, |to| to.approvers.len());
        self.approvers.len().saturating_add(wider)
    }
}

/// Whether a text is a stage's name or a reason code: 1 to 64 of `a-z 0-9 _`.
pub fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=limits::RULE_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether stages open one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All at once.
    Parallel,
    /// Each when the one before is complete.
    Serial,
}

/// What an approval needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct ApprovalDemand {
    /// At least one.
    pub stages: Vec<Stage>,
    /// Whether they open one after the other.
    pub mode: Mode,
    /// Seconds until the request expires, undecided.
    pub expires_s: u32,
    /// Seconds from the grant until the approval expires, unused. None: it does when its request
    /// would have.
    pub valid_s: Option<u32>,
    /// Whether each approver signs with a key of their own.
    pub signed: bool,
}

/// The form of a demand in policies and receipts: either `stages`, or the fields of the one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quorum: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roles: Option<BTreeSet<Role>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approvers: Option<BTreeSet<PrincipalId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sla_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    escalate_to: Option<Electorate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stages: Option<Vec<Stage>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    #[serde(default = "default_expiry")]
    expires_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_s: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    signed: bool,
}

fn one() -> u32 {
    1
}

fn default_expiry() -> u32 {
    limits::APPROVAL_EXPIRES_S_DEFAULT
}

/// Why a demand is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Both forms at once.
    #[error("an approval has either `stages` or a quorum, roles and approvers of its own")]
    BothForms,
    /// Nothing to ask.
    #[error("`stages` has at least one stage")]
    NoStage,
}

impl TryFrom<Wire> for ApprovalDemand {
    type Error = Malformed;

    fn try_from(wire: Wire) -> Result<Self, Malformed> {
        let Wire { quorum, roles, approvers, sla_s, escalate_to, stages, .. } = wire;
        let flat = quorum.is_some()
            || roles.is_some()
            || approvers.is_some()
            || sla_s.is_some()
            || escalate_to.is_some();
        let stages = match stages {
            Some(_) if flat => return Err(Malformed::BothForms),
            Some(stages) if stages.is_empty() => return Err(Malformed::NoStage),
            Some(stages) => stages,
            None => vec![Stage {
                name: String::new(),
                quorum: quorum.unwrap_or_else(one),
                roles: roles.unwrap_or_default(),
                approvers: approvers.unwrap_or_default(),
                sla_s,
                escalate_to,
            }],
        };
        // Who names several stages and no order wants them in theirs.
        let mode =
            wire.mode.unwrap_or(if stages.len() > 1 { Mode::Serial } else { Mode::Parallel });
        let (expires_s, valid_s, signed) = (wire.expires_s, wire.valid_s, wire.signed);
        Ok(Self { stages, mode, expires_s, valid_s, signed })
    }
}

impl From<ApprovalDemand> for Wire {
    fn from(demand: ApprovalDemand) -> Self {
        let ApprovalDemand { stages, mode, expires_s, valid_s, signed } = demand;
        let usual = if stages.len() > 1 { Mode::Serial } else { Mode::Parallel };
        let mode = (mode != usual).then_some(mode);
        let bare = Self {
            quorum: None,
            roles: None,
            approvers: None,
            sla_s: None,
            escalate_to: None,
            stages: None,
            mode,
            expires_s,
            valid_s,
            signed,
        };
        match <[Stage; 1]>::try_from(stages) {
            Ok([stage]) if stage.name.is_empty() => Self {
                quorum: Some(stage.quorum),
                roles: Some(stage.roles).filter(|roles| !roles.is_empty()),
                approvers: Some(stage.approvers).filter(|names| !names.is_empty()),
                sla_s: stage.sla_s,
                escalate_to: stage.escalate_to,
                ..bare
            },
            Ok([stage]) => Self { stages: Some(vec![stage]), ..bare },
            Err(stages) => Self { stages: Some(stages), ..bare },
        }
    }
}

impl Default for ApprovalDemand {
    fn default() -> Self {
        Self::one(Stage::default())
    }
}

impl ApprovalDemand {
    /// A demand of one stage.
    pub fn one(stage: Stage) -> Self {
        Self {
            stages: vec![stage],
            mode: Mode::Parallel,
            expires_s: default_expiry(),
            valid_s: None,
            signed: false,
        }
    }

    /// How many people must approve in all.
    pub fn people(&self) -> u32 {
        self.stages.iter().fold(0, |sum, stage| sum.saturating_add(stage.quorum))
    }

    /// Whether stages open one after the other.
    pub fn in_turn(&self) -> bool {
        self.mode == Mode::Serial && self.stages.len() > 1
    }

    /// The stage of that name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// How long a granted approval is good for at most, in seconds.
    pub fn valid_s_max(&self) -> u32 {
        self.valid_s.unwrap_or(self.expires_s)
    }

    /// The strictest of both: every stage of either, those of one name at their strictest, one
    /// after the other where either says so, and the shorter times. A rule that does not say how
    /// long a granted approval is good for counts with the time that its request has.
    pub(crate) fn strictest(self, other: Self) -> Result<Self, Contradiction> {
        let valid_s = match (self.valid_s, other.valid_s) {
            (None, None) => None,
            _ => Some(self.valid_s_max().min(other.valid_s_max())),
        };
        let mut stages = self.stages;
        for stage in other.stages {
            match stages.iter_mut().find(|known| known.name == stage.name) {
                Some(known) => *known = std::mem::take(known).strictest(stage)?,
                None => stages.push(stage),
            }
        }
        let both = Self {
            stages,
            mode: self.mode.max(other.mode),
            expires_s: self.expires_s.min(other.expires_s),
            valid_s,
            signed: self.signed || other.signed,
        };
        // Each is within the limits; together they may ask for more people than there can be.
        if both.well_formed() { Ok(both) } else { Err(Contradiction) }
    }

    /// Whether it is within the limits and names each stage once.
    pub(crate) fn well_formed(&self) -> bool {
        let second = |s: u32| (1..=limits::APPROVAL_EXPIRES_S_MAX).contains(&s);
        let names: BTreeSet<&str> = self.stages.iter().map(|stage| stage.name.as_str()).collect();
        let named: usize = self.stages.iter().map(Stage::names).sum();
        (1..=limits::STAGES_MAX).contains(&self.stages.len())
            && names.len() == self.stages.len()
            && self.stages.iter().all(Stage::well_formed)
            && self.people() <= limits::QUORUM_MAX
            && named <= limits::APPROVERS_MAX
            && second(self.expires_s)
            && self.valid_s.is_none_or(second)
    }
}

/// Two rules that no approver can satisfy together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contradiction;

/// Both sets at once, where the empty set means "anyone".
fn intersect<T: Ord>(left: BTreeSet<T>, right: BTreeSet<T>) -> Result<BTreeSet<T>, Contradiction> {
    if left.is_empty() {
        return Ok(right);
    }
    if right.is_empty() {
        return Ok(left);
    }
    let both: BTreeSet<T> = left.into_iter().filter(|item| right.contains(item)).collect();
    if both.is_empty() { Err(Contradiction) } else { Ok(both) }
}
