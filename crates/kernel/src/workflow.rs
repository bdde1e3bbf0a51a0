//! The one form of a plan, and the two that people and agents write it in.
//!
//! An agent sends a list of skills ([`skills`]), a team keeps a document ([`document`]); both are
//! compiled to a [`Plan`], which is checked once and cannot be had unchecked. What a step passes on
//! stands in templates ([`template`]), whether it runs in a condition ([`condition`]).

mod check;
pub mod claims;
pub mod condition;
pub mod document;
mod reads;
pub mod skills;
pub mod template;

use std::ops::Deref;

use serde::{Deserialize, Serialize, Serializer};

pub use crate::ids::StepId;

use crate::decision::ApprovalDemand;
use crate::failure::{Category, Failure};
use crate::ids::ToolId;
use crate::json::{self, RawJson};
use crate::limits;
use crate::risk::Tier;
use crate::values::Digest;
use crate::version::Version;

use claims::Claims;
use condition::Condition;

/// Which model a plan works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPin {
    /// Who offers it: `anthropic`.
    pub provider: String,
    /// Its exact name there.
    pub model: String,
    /// Whether another may take its place where policy allows that too.
    #[serde(default, alias = "allowFallback")]
    pub allow_fallback: bool,
}

/// The tool that asks models.
pub const MODEL_TOOL: &str = "llm.invoke";

impl ModelPin {
    /// Whether a call of [`MODEL_TOOL`] with these parameters asks the pinned model.
    pub fn is_asked(&self, params: &serde_json::Value) -> bool {
        params.get("provider").and_then(|name| name.as_str()) == Some(&self.provider)
            && params.get("model").and_then(|name| name.as_str()) == Some(&self.model)
    }
}

/// What starts a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Trigger {
    /// Somebody who may.
    Manual,
    /// An event of this name: `incident.created`.
    Event {
        /// Its name.
        event: String,
    },
}

/// What becomes of the content of a run once it has ended: its input, what its steps were called
/// with and gave, and the reasons that people gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// It is kept for its time, sealed.
    Keep,
    /// It is deleted; digests, codes, times and costs are in the log.
    MetadataOnly,
}

/// How often a step is tried, and what lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts, the first included.
    pub attempts: u32,
    /// Before the second attempt; it doubles with each.
    #[serde(default, alias = "backoffMs")]
    pub backoff_ms: u64,
}

/// One step: calls of one tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name within the plan.
    pub id: StepId,
    /// What it calls.
    pub tool: ToolId,
    /// With which parameters; their texts may be templates.
    pub params: RawJson,
    /// How often, one call after the other. The step's output is that of the last.
    pub iterations: u32,
    /// Whether it runs at all. A step that does not has the output `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// JSON Schema of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<serde_json::Value>,
    /// How failures are met; by the rule of the tool where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How long one call may take, where that is less than the tool's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Neighbouring steps of one group run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<StepId>,
    /// Who must approve it, beside those whom policy names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalDemand>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Claims>,
}

/// A plan that was not checked yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// What it is called.
    pub name: String,
    /// Which one of its name, where it is kept under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// How risky its author says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk_tier: Option<Tier>,
    /// Which model it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_pin: Option<ModelPin>,
    /// What starts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// What becomes of the content of its runs; by how they are started where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_retention: Option<Retention>,
    /// What it does, in this order.
    pub steps: Vec<Step>,
}

/// A plan that keeps the rules: each step has a name of its own and refers to earlier ones alone,
/// so that there is no circle, and everything is within its limit.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Draft")]
pub struct Plan {
    draft: Draft,
    digest: Digest,
}

impl Plan {
    /// Checks `draft`. A place in the refusal starts with `steps`, the field of the draft.
    pub fn new(draft: Draft) -> Result<Self, Refused> {
        let digest = Digest::of(&check::check(&draft)?);
        Ok(Self { draft, digest })
    }

    /// The canonical JSON.
    pub fn canonical(&self) -> Result<Vec<u8>, json::Error> {
        json::canonical(&self.draft)
    }

    /// The digest of the canonical JSON.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The step whose output `{{previous_output}}` is in the step at `index`.
    pub fn previous(&self, index: usize) -> Option<&StepId> {
        check::previous(&self.draft.steps, index).map(|step| &step.id)
    }

    /// Whether this plan may take the place of `previous`: what changed has a higher version.
    pub fn may_follow(&self, previous: &Self) -> Result<(), Why> {
        if self.name != previous.name {
            return Err(Why::OtherName);
        }
        let (Some(new), Some(old)) = (&self.version, &previous.version) else {
            return Err(Why::NoVersion);
        };
        let order = new.precedence(old);
        let contents = |plan: &Self| Draft { version: None, ..plan.draft.clone() };
        let kept = new == old && contents(self) == contents(previous);
        if order.is_gt() || kept {
            return Ok(());
        }
        let changed = match self.model_pin == previous.model_pin {
            true => "the plan",
            false => "the model pin",
        };
        Err(Why::NotHigher { changed, version: old.to_string() })
    }
}

impl Deref for Plan {
    type Target = Draft;

    fn deref(&self) -> &Draft {
        &self.draft
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.draft.serialize(serializer)
    }
}

impl TryFrom<Draft> for Plan {
    type Error = Refused;

    fn try_from(draft: Draft) -> Result<Self, Refused> {
        Self::new(draft)
    }
}

impl From<Plan> for Draft {
    fn from(plan: Plan) -> Self {
        plan.draft
    }
}

/// Why there is no plan, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Refused {
    /// The place in what was sent: `steps[2].when`.
    pub place: String,
    /// What is wrong there.
    pub why: Why,
}

impl Refused {
    /// `why`, at `place`.
    pub fn at(place: impl Into<String>, why: Why) -> Self {
        Self { place: place.into(), why }
    }

    /// The same with `list[…]` in place of the `steps[…]` that the place begins with.
    #[must_use]
    pub fn in_list(mut self, list: &str) -> Self {
        if let Some(rest) = self.place.strip_prefix("steps") {
            self.place = format!("{list}{rest}");
        }
        self
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::new(Category::Validation, refused.why.code(), refused.to_string())
    }
}

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It has no step.
    #[error("a plan has at least one step")]
    Empty,
    /// There is too much of something.
    #[error("at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How much there may be.
        max: u64,
    },
    /// A name is empty, too long or has other characters.
    #[error("{0}")]
    Name(String),
    /// Two steps of one name.
    #[error("the step `{0}` was named before: give each a name of its own")]
    Twice(String),
    /// A number lies outside its range.
    #[error("from {min} to {max}")]
    Range {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The steps of a group are not next to each other.
    #[error("the steps of the group `{0}` stand apart: put them next to each other")]
    GroupApart(String),
    /// A reference to a step that is not there, or not earlier.
    #[error("`{0}` is no earlier step: a step reads what was before it")]
    NotEarlier(String),
    /// A reference to a step that runs at the same time.
    #[error("`{0}` runs at the same time: a step reads what was before it")]
    SameTime(String),
    /// `{{previous_output}}` where there is no step before.
    #[error("there is no step before the first")]
    NoPrevious,
    /// `{{previous_output}}` after several steps at the same time.
    #[error("several steps run before it at the same time: write {{{{steps.NAME.output}}}}")]
    ManyPrevious,
    /// Text that is no template.
    #[error("{0}")]
    Template(template::Invalid),
    /// A template in the name of a member.
    #[error("a template stands in a value, not in the name of a member")]
    TemplateInName,
    /// Text that is no condition.
    #[error("{0}")]
    Condition(condition::Invalid),
    /// Parameters that are no object.
    #[error("parameters are a JSON object")]
    Params,
    /// JSON that is not accepted.
    #[error("{0}")]
    Json(json::Error),
    /// A schema that is none.
    #[error("a JSON Schema is an object")]
    Schema,
    /// Claims beyond their limits.
    #[error("at most 32 types of data of 64 characters, and texts of 2000 characters")]
    Claims,
    /// The model is not the one that the plan works with.
    #[error("the plan works with `{pinned}`: name that model, or leave the pin out")]
    OtherModel {
        /// The model of the plan.
        pinned: String,
    },
    /// Nobody can meet the demand.
    #[error("nobody can give such an approval")]
    Approval,
    /// The document is of another kind.
    #[error("must be `{0}`")]
    Kind(&'static str),
    /// A step names no tool, or two.
    #[error("name the tool once: `toolAction` or `action`")]
    OneTool,
    /// A version without a name it is one of, or none where there must be one.
    #[error("a workflow has a version")]
    NoVersion,
    /// The version is not higher though something changed.
    #[error("{changed} changed: give it a higher version than {version}")]
    NotHigher {
        /// What changed.
        changed: &'static str,
        /// The version before.
        version: String,
    },
    /// It is another plan.
    #[error("a version follows one of the same name")]
    OtherName,
}

impl Why {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "plan_empty",
            Self::TooMany { .. } => "plan_too_large",
            Self::Name(_) => "plan_name_invalid",
            Self::Twice(_) => "plan_step_twice",
            Self::Range { .. } => "plan_out_of_range",
            Self::GroupApart(_) => "plan_group_apart",
            Self::NotEarlier(_) | Self::SameTime(_) | Self::NoPrevious | Self::ManyPrevious => {
                "plan_reference_invalid"
            }
            Self::Template(_) | Self::TemplateInName => "plan_template_invalid",
            Self::Condition(_) => "plan_condition_invalid",
            Self::Params => "plan_params_invalid",
            Self::Json(error) => error.code(),
            Self::Schema => "plan_schema_invalid",
            Self::Claims => "plan_claims_invalid",
            Self::OtherModel { .. } => "plan_model_not_pinned",
            Self::Approval => "plan_approval_invalid",
            Self::Kind(_) => "plan_kind_invalid",
            Self::OneTool => "plan_tool_invalid",
            Self::NoVersion | Self::NotHigher { .. } => "plan_version_invalid",
            Self::OtherName => "plan_name_changed",
        }
    }

    /// There are more than `max`.
    fn too_many(what: &'static str, max: usize) -> Self {
        Self::TooMany { what, max: u64::try_from(max).unwrap_or(u64::MAX) }
    }
}

/// Whether `text` names something: printable, and not too long.
fn is_name(text: &str) -> bool {
    (1..=limits::PLAN_NAME_BYTES_MAX).contains(&text.len())
        && text.trim() == text
        && !text.chars().any(char::is_control)
}
