//! The plan of an agent: a list of skills, each with parameters and how often it runs.

use serde::{Deserialize, Serialize};

use super::{Draft, Plan, Refused, Step, StepId, Why};
use crate::ids::ToolId;
use crate::json::RawJson;
use crate::limits;

/// What the short name of a skill means, where it is not the tool `core.` and the name.
const ALIASES: [(&str, &str); 9] = [
    ("email_send", "email.send"),
    ("fs_read", "core.fs_read"),
    ("fs_write", "core.fs_write"),
    ("http_call", "core.http_call"),
    ("json_transform", "core.json_transform"),
    ("kv_get", "kv.get"),
    ("kv_set", "kv.set"),
    ("llm_invoke", "llm.invoke"),
    ("webhook_send", "webhook.send"),
];

/// The vendor of the tools that any other short name means.
const VENDOR: &str = "core.";

/// One step of such a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillStep {
    /// `http_call` for the tool `core.http_call`, `kv_get` for `kv.get`, or the id of any tool.
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

/// The tool that a skill's name means. `core.` in front of a short name changes nothing.
pub fn tool_of(skill: &str) -> Result<ToolId, crate::ids::InvalidId> {
    let short = skill.strip_prefix(VENDOR).unwrap_or(skill);
    if let Some((_, tool)) = ALIASES.iter().find(|(alias, _)| *alias == short) {
        return ToolId::new(tool);
    }
    let whole = skill.is_empty() || skill.contains('.');
    if whole { ToolId::new(skill) } else { ToolId::new(format!("{VENDOR}{skill}")) }
}

/// The name of a tool as a skill.
pub fn skill_of(tool: &ToolId) -> &str {
    if let Some((alias, _)) = ALIASES.iter().find(|(_, id)| *id == tool.as_str()) {
        return alias;
    }
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
            claims: None,
        })
    });
    let draft = Draft {
        name: "plan".to_owned(),
        version: None,
        risk_tier: None,
        model_pin: None,
        triggers: Vec::new(),
        content_retention: None,
        steps: steps.collect::<Result<_, Refused>>()?,
    };
    Plan::new(draft).map_err(|refused| refused.in_list("plan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_is_a_tool_by_another_name() {
        let check = |skill: &str, tool: &str, name: &str| {
            let found = tool_of(skill).unwrap();
            assert_eq!((found.as_str(), skill_of(&found)), (tool, name), "{skill}");
        };
        for (alias, tool) in ALIASES {
            check(alias, tool, alias);
            check(&format!("core.{alias}"), tool, alias);
            check(tool, tool, alias);
        }
        check("shell_lite", "core.shell_lite", "shell_lite");
        check("mcp.files.read_file", "mcp.files.read_file", "mcp.files.read_file");
        check("kv.delete", "kv.delete", "kv.delete");
        assert!(tool_of("").is_err());
    }
}
