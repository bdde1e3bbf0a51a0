//! Workflow documents: YAML, with the line of what is wrong in it.

use connectors::yaml;
use kernel::failure::{Category, Failure};
use kernel::limits;
use kernel::workflow::document::Document;
use kernel::workflow::{Plan, Refused};
use serde::de::DeserializeOwned;

/// Why a text is no document.
const INVALID: &str = "workflow_invalid";

/// The plan of the document, or why it is none.
pub(crate) fn plan(text: &str) -> Result<Plan, Failure> {
    let document: Document = document(text, limits::WORKFLOW_BYTES_MAX, INVALID)?;
    document.compile().map_err(|refused| located(text, refused))
}

/// The document of a text of at most `max` bytes, or why it is none: `code`, with the line.
pub(crate) fn document<T: DeserializeOwned>(
    text: &str,
    max: usize,
    code: &str,
) -> Result<T, Failure> {
    yaml::read(text, max).map_err(|error| {
        let message = match error.line {
            Some(line) => format!("line {line}: {}", error.reason),
            None => error.reason,
        };
        Failure::new(Category::Validation, code, message)
    })
}

/// A refusal with its line.
pub(crate) fn located(text: &str, refused: Refused) -> Failure {
    let place = refused.place.clone();
    with_line(text, &place, Failure::from(refused))
}

/// `failure` with the line on which `place` stands.
pub(crate) fn with_line(text: &str, place: &str, mut failure: Failure) -> Failure {
    if let Some(line) = line_of(text, place) {
        failure.message = format!("line {line}: {}", failure.message);
    }
    failure
}

/// The line on which `place`, such as `spec.steps[2].when`, stands; or what it would stand in.
pub(crate) fn line_of(text: &str, place: &str) -> Option<usize> {
    let path: Vec<&str> = place.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
    yaml::line_of(text, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAGE: &str = "apiVersion: tally/v1
kind: Workflow
metadata: {name: triage, version: 1.2.0}
spec:
  riskTier: med
  modelPin: {provider: anthropic, model: m-1, allowFallback: false}
  triggers:
    - {type: event, event: incident.created}
  steps:
    - id: read
      toolAction: servicenow.get_incident
      input: {number: '{{input.number}}'}
    - id: think
      action: core.llm_invoke
      input:
        prompt: 'Triage {{steps.read.output.short_description}}'
      outputSchema: {type: object}
      retry: {attempts: 3, backoffMs: 100}
    - id: write
      toolAction: servicenow.update_incident_reversible
      input: {category: '{{previous_output.category}}'}
      when: '{{steps.think.output.sure}} == true'
      approval: {quorum: 2}
";

    #[test]
    fn a_document_is_a_plan() {
        let made = plan(TRIAGE).unwrap();
        assert_eq!(made.steps.len(), 3);
        assert_eq!(made.version.as_ref().unwrap().as_str(), "1.2.0");
        assert_eq!(made.steps[2].tool.as_str(), "servicenow.update_incident_reversible");
        // How it is laid out and in which order changes nothing.
        let json =
            serde_json::to_string(&serde_yaml_ng::from_str::<serde_json::Value>(TRIAGE).unwrap());
        assert_eq!(plan(&json.unwrap()).unwrap().digest(), made.digest());
        let other = plan(&TRIAGE.replace("m-1", "m-2")).unwrap();
        assert_ne!(other.digest(), made.digest());
        assert_eq!(other.may_follow(&made).unwrap_err().code(), "plan_version_invalid");
        let higher = plan(&TRIAGE.replace("m-1", "m-2").replace("1.2.0", "1.3.0")).unwrap();
        assert_eq!(higher.may_follow(&made), Ok(()));
    }

    #[test]
    fn a_refusal_names_line_and_reason() {
        for (from, to, line, code) in [
            ("kind: Workflow", "kind: Job", 2, "plan_kind_invalid"),
            ("version: 1.2.0", "version: 1.2", 3, INVALID),
            ("riskTier: med", "riskTier: none", 5, INVALID),
            ("type: event", "type: dream", 8, INVALID),
            ("- id: read", "- id: read\n      idd: x", 11, INVALID),
            ("- id: think", "- id: read", 13, "plan_step_twice"),
            (
                "action: core.llm",
                "toolAction: a.b\n      action: core.llm",
                14,
                "plan_tool_invalid",
            ),
            ("steps.read.output", "steps.write.output", 16, "plan_reference_invalid"),
            ("{{steps.read.output.s", "{{nothing.s", 16, "plan_template_invalid"),
            ("attempts: 3", "attempts: 9", 18, "plan_out_of_range"),
            ("== true", "= true", 22, "plan_condition_invalid"),
            ("steps.think.output.sure", "steps.thin.output.sure", 22, "plan_reference_invalid"),
            ("quorum: 2", "quorum: 99", 23, "plan_approval_invalid"),
            ("kind: Workflow", "kind: Workflow\nkind: Workflow", 1, INVALID),
            ("number: '{{input.number}}'", "a: 1, a: 2", 12, INVALID),
            ("    - id: read", "   - id: read\n    -", 11, INVALID),
        ] {
            let text = TRIAGE.replacen(from, to, 1);
            assert_ne!(text, TRIAGE, "{from}");
            let failure = plan(&text).unwrap_err();
            assert_eq!(failure.code, code, "{to}: {failure}");
            assert_eq!(failure.category, Category::Validation);
            assert!(failure.message.starts_with(&format!("line {line}:")), "{to}: {failure}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let input = "{number: '{{input.number}}'}";
        for other in ["{n: .nan}", "{n: -.inf}", "{n: !tag x}", "{1: x}", "{n: 1e17}"] {
            let text = TRIAGE.replace(input, other);
            assert!(plan(&text).is_err(), "{other}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        assert!(plan(bomb).is_err());
        assert!(plan(&" ".repeat(limits::WORKFLOW_BYTES_MAX + 1)).is_err());
    }
}
