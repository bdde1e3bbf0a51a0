//! The plan of a team: a document that is kept, versioned and released. Its text is YAML, which is
//! read outside the kernel into these types.

use serde::{Deserialize, Serialize};

use super::claims::Claims;
use super::condition::Condition;
use super::{Draft, ModelPin, Plan, Refused, Retention, Retry, Step, StepId, Trigger, Why};
use crate::decision::ApprovalDemand;
use crate::ids::ToolId;
use crate::json::RawJson;
use crate::risk::Tier;
use crate::version::Version;
use crate::workflow::skills::tool_of;

/// The version of this format.
pub const API_VERSION: &str = "tally/v1";
/// What a document is.
pub const KIND: &str = "Workflow";

/// A workflow document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// What it is called.
    pub metadata: Metadata,
    /// What it does.
    pub spec: Spec,
}

/// What a workflow is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Its name, which all its versions share.
    pub name: String,
    /// Which of them.
    pub version: Version,
}

/// What a workflow does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// How risky it is.
    pub risk_tier: RiskTier,
    /// Which model it works with.
    #[serde(default)]
    pub model_pin: Option<ModelPin>,
    /// What starts it.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// What becomes of the content of its runs.
    #[serde(default)]
    pub content_retention: Option<Retention>,
    /// Its steps.
    pub steps: Vec<DocumentStep>,
}

/// How risky a workflow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskTier {
    /// Low.
    Low,
    /// Medium.
    #[serde(alias = "med")]
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl From<RiskTier> for Tier {
    fn from(tier: RiskTier) -> Self {
        match tier {
            RiskTier::Low => Self::Low,
            RiskTier::Medium => Self::Medium,
            RiskTier::High => Self::High,
            RiskTier::Critical => Self::Critical,
        }
    }
}

/// One step of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentStep {
    /// Its name.
    pub id: StepId,
    /// The tool; or `action`.
    #[serde(default)]
    pub tool_action: Option<ToolId>,
    /// The tool; or `toolAction`.
    #[serde(default)]
    pub action: Option<ToolId>,
    /// The tool's parameters; texts may be templates.
    #[serde(default)]
    pub input: serde_json::Map<String, serde_json::Value>,
    /// How often it runs.
    #[serde(default = "once")]
    pub iterations: u32,
    /// Whether it runs: a condition.
    #[serde(default)]
    pub when: Option<String>,
    /// JSON Schema of its output.
    #[serde(default)]
    pub output_schema: Option<serde_json::Value>,
    /// How failures are met.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// How long one call may take.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Neighbouring steps of one group run at the same time.
    #[serde(default)]
    pub group: Option<StepId>,
    /// Who must approve it.
    #[serde(default)]
    pub approval: Option<ApprovalDemand>,
    /// What it says of itself; texts may be templates.
    #[serde(default)]
    pub claims: Option<Claims>,
}

fn once() -> u32 {
    1
}

impl Document {
    /// The plan of the document. Places in a refusal are those of the document.
    pub fn compile(self) -> Result<Plan, Refused> {
        let must_be = |place: &str, text: &str, expected: &'static str| match text == expected {
            true => Ok(()),
            false => Err(Refused::at(place, Why::Kind(expected))),
        };
        must_be("apiVersion", &self.api_version, API_VERSION)?;
        must_be("kind", &self.kind, KIND)?;
        let steps = self.spec.steps.into_iter().enumerate().map(|(index, step)| {
            step.compile()
                .map_err(|(field, why)| Refused::at(format!("spec.steps[{index}].{field}"), why))
        });
        let draft = Draft {
            name: self.metadata.name,
            version: Some(self.metadata.version),
            risk_tier: Some(self.spec.risk_tier.into()),
            model_pin: self.spec.model_pin,
            triggers: self.spec.triggers,
            content_retention: self.spec.content_retention,
            steps: steps.collect::<Result<_, Refused>>()?,
        };
        Plan::new(draft).map_err(in_document)
    }
}

impl DocumentStep {
    fn compile(self) -> Result<Step, (&'static str, Why)> {
        let tool = match (self.tool_action, self.action) {
            (Some(tool), None) | (None, Some(tool)) => tool,
            _ => return Err(("toolAction", Why::OneTool)),
        };
        let tool = tool_of(tool.as_str());
        let tool = tool.map_err(|error| ("toolAction", Why::Name(error.to_string())))?;
        let text = serde_json::Value::Object(self.input).to_string();
        let params = RawJson::parse(&text).map_err(|error| ("input", Why::Json(error)))?;
        let when = self.when.as_deref().map(Condition::parse).transpose();
        Ok(Step {
            id: self.id,
            tool,
            params,
            iterations: self.iterations,
            when: when.map_err(|invalid| ("when", Why::Condition(invalid)))?,
            output_schema: self.output_schema,
            retry: self.retry,
            timeout_ms: self.timeout_ms,
            group: self.group,
            approval: self.approval,
            claims: self.claims,
        })
    }
}

/// The same refusal with the names that the document has for its places.
fn in_document(refused: Refused) -> Refused {
    let names = [
        (".params", ".input"),
        (".timeout_ms", ".timeoutMs"),
        (".output_schema", ".outputSchema"),
        (".backoff_ms", ".backoffMs"),
        ("model_pin", "modelPin"),
    ];
    let Refused { place, why } = refused;
    let renamed = names.iter().find(|(own, _)| place.contains(own));
    let place = renamed.map_or(place.clone(), |(own, name)| place.replacen(own, name, 1));
    let whole = if place == "name" { "metadata.name".to_owned() } else { format!("spec.{place}") };
    Refused::at(whole, why)
}
