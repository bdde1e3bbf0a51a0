//! The plan of an agent: a list of skills, each with parameters and how often it runs.

use serde::{Deserialize, Serialize};

use super::{Draft, Plan, Refused, Step, StepId, Why};
use crate::ids::ToolId;
use crate::json::RawJson;
use crate::limits;

/// The vendor of the tools that a skill's short name means.
const VENDOR: &str = "core.";

/// One step of such a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillStep {
    /// `http_call` for the tool `core.http_call`, or the id of any tool.
    pub skill: String,
    /// Its parameters; texts may be templates.
    #[serde(default = "RawJson::empty_object")]
    pub params: RawJson,
    /// How often it runs.
    #[serde(default = "once")]
    pub iterations: u32,
}

fn once() -> u32 {
    1
}

/// The tool that a skill's name means.
pub fn tool_of(skill: &str) -> Result<ToolId, crate::ids::InvalidId> {
    let whole = skill.is_empty() || skill.contains('.');
    if whole { ToolId::new(skill) } else { ToolId::new(format!("{VENDOR}{skill}")) }
}

/// The name of a tool as a skill.
pub fn skill_of(tool: &ToolId) -> &str {
    let short = tool.as_str().strip_prefix(VENDOR).filter(|short| !short.contains('.'));
    short.unwrap_or(tool.as_str())
}

/// The plan of the list. Its steps are called `step_1`, `step_2` …; places in a refusal start with
/// `plan`, as the list is called where it is sent.
pub fn compile(list: &[SkillStep]) -> Result<Plan, Refused> {
    if list.len() > limits::PLAN_STEPS_MAX {
        return Err(Refused::at("plan", Why::too_many("steps", limits::PLAN_STEPS_MAX)));
    }
    let steps = list.iter().enumerate().map(|(index, step)| {
        let at = |why| Refused::at(format!("plan[{index}].skill"), why);
        let tool = tool_of(&step.skill).map_err(|e| at(Why::Name(e.to_string())))?;
        let number = index.saturating_add(1);
        let id = StepId::new(format!("step_{number}"));
        Ok(Step {
            id: id.map_err(|e| at(Why::Name(e.to_string())))?,
            tool,
            params: step.params.clone(),
            iterations: step.iterations,
            when: None,
            output_schema: None,
            retry: None,
            timeout_ms: None,
            group: None,
            approval: None,
        })
    });
    let draft = Draft {
        name: "plan".to_owned(),
        version: None,
        risk_tier: None,
        model_pin: None,
        triggers: Vec::new(),
        steps: steps.collect::<Result<_, Refused>>()?,
    };
    Plan::new(draft).map_err(|refused| refused.in_list("plan"))
}
