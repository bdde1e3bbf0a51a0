//! The contracts of skills, for programs: what a skill takes and gives, how it fails, what helps.

use std::collections::BTreeMap;

use kernel::action::Action;
use kernel::ids::ToolId;
use kernel::machine::{Kind, State};
use kernel::retry;
use kernel::simulate::{Model, Models, cents};
use kernel::tool::{FailureMode, Manifest};
use kernel::workflow::skills::{skill_of, tool_of};
use ledger::store::Page;
use proto::runtime::{
    CompositionHints, ListSkillsResponse, RetryRule, Skill, SkillConstraints, SkillCost,
    SkillFailure,
};
use proto::wire::Json;
use serde::Serialize;

use super::wire::{signed, unsigned};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use crate::toolbox::{self, Found};
use crate::tools::visible;

/// Actions that are looked at for what goes with a skill.
const RECENT: u32 = 200;
/// Skills that a hint names.
const HINTS_MAX: usize = 3;

/// The tools that the caller may call by policy, in the order of their names as skills.
pub(super) fn listed<'a>(shared: &'a Shared, caller: &Caller) -> Result<Vec<Found<'a>>> {
    let mut listed = Vec::new();
    for tool in toolbox::all(shared, &caller.tenant) {
        if tool.may_run(caller) && visible(shared, caller, tool.manifest(), tool.digest())? {
            listed.push(tool);
        }
    }
    listed.sort_by(|a, b| name(a).cmp(name(b)));
    Ok(listed)
}

pub(super) fn name<'a>(tool: &'a Found<'_>) -> &'a str {
    skill_of(&tool.manifest().id)
}

/// The skill of that name, where the caller may know of it.
pub(super) fn find<'a>(shared: &'a Shared, caller: &Caller, skill: &str) -> Result<Found<'a>> {
    let absent = || Refused::not_found("skill");
    let id = tool_of(skill).map_err(|_| absent())?;
    let tool = toolbox::find(shared, &caller.tenant, &id).ok_or_else(absent)?;
    let known = tool.may_run(caller) && visible(shared, caller, tool.manifest(), tool.digest())?;
    if known { Ok(tool) } else { Err(absent()) }
}

/// What a call of the tool costs and takes, as plans are simulated with.
pub(super) fn model(manifest: &Manifest) -> Result<Model> {
    let mut models = Models::priors();
    models.learn(manifest);
    models.get(&manifest.id).cloned().ok_or_else(|| Refused::internal("a tool without a model"))
}

pub(super) fn list(shared: &Shared, caller: &Caller) -> Result<ListSkillsResponse> {
    #[derive(Serialize)]
    struct Cost {
        base_cents: i32,
    }
    #[derive(Serialize)]
    struct Descriptor<'a> {
        skill_id: &'a str,
        name: &'a str,
        version: &'a str,
        description: &'a str,
        tool_id: &'a str,
        cost_model: Cost,
        labels: Vec<&'a str>,
    }
    let tools = listed(shared, caller)?;
    let mut descriptors = BTreeMap::new();
    for tool in &tools {
        let (manifest, name) = (tool.manifest(), name(tool));
        let base_cents = signed(cents(model(manifest)?.per_call_micro_usd));
        let descriptor = Descriptor {
            skill_id: name,
            name,
            version: &manifest.version,
            description: &manifest.description,
            tool_id: manifest.id.as_str(),
            cost_model: Cost { base_cents },
            labels: manifest.labels.iter().map(String::as_str).collect(),
        };
        descriptors.insert(name, descriptor);
    }
    let skills: Vec<String> = descriptors.keys().map(|name| (*name).to_owned()).collect();
    Ok(ListSkillsResponse {
        count: u32::try_from(skills.len()).unwrap_or(u32::MAX),
        descriptors: Some(Json::of(&descriptors).map_err(Refused::internal)?),
        skills,
    })
}

pub(super) fn describe(shared: &Shared, caller: &Caller, skill: &str) -> Result<Skill> {
    let tool = find(shared, caller, skill)?;
    let (manifest, name) = (tool.manifest(), name(&tool));
    let model = model(manifest)?;
    let recent = Recent::of(shared, caller)?;
    let failures = recent.failures(&manifest.id);
    let json = |value: &serde_json::Value| Json::of(value).map_err(Refused::internal);
    Ok(Skill {
        skill_id: name.to_owned(),
        name: name.to_owned(),
        version: manifest.version.clone(),
        description: manifest.description.clone(),
        inputs_schema: Some(json(&manifest.input_schema)?),
        outputs_schema: Some(json(&manifest.output_schema)?),
        cost_model: Some(SkillCost {
            base_cents: signed(cents(model.per_call_micro_usd)),
            base_micro_usd: model.per_call_micro_usd.0,
            per_char_micro_usd: model.text.as_ref().map_or(0, |text| text.per_char_micro_usd.0),
        }),
        failure_modes: manifest
            .failure_modes
            .iter()
            .map(|mode| failure(mode, manifest.idempotent, failures.as_ref()))
            .collect(),
        constraints: Some(SkillConstraints {
            max_timeout_ms: unsigned(manifest.timeout_ms),
            max_params_bytes: u32::try_from(kernel::limits::PARAMS_BYTES_MAX).unwrap_or(u32::MAX),
            idempotent: manifest.idempotent,
            reversible: manifest.reversible,
            labels: manifest.labels.iter().cloned().collect(),
            capabilities: manifest.capabilities.iter().cloned().collect(),
        }),
        composition_hints: Some(recent.hints(manifest)),
        tool_id: manifest.id.to_string(),
        digest: tool.digest().to_string(),
    })
}

/// One way of failing, with how often it happened and how attempts are repeated after it: never
/// where a repeat may change something more.
fn failure(mode: &FailureMode, idempotent: bool, seen: Option<&Failures>) -> SkillFailure {
    let rule = retry::rule(mode.category);
    let attempts = if idempotent && mode.retryable { rule.attempts } else { 1 };
    let probability = seen.map(|seen| {
        let times = seen.by_code.get(mode.code.as_str()).copied().unwrap_or(0);
        f64::from(times) / f64::from(seen.ended.max(1))
    });
    SkillFailure {
        code: mode.code.clone(),
        category: mode.category.as_str().to_owned(),
        meaning: mode.meaning.clone(),
        recovery_hint: mode.recovery_hint.clone(),
        retryable: mode.retryable,
        probability,
        retry: Some(RetryRule {
            attempts,
            base_ms: unsigned(rule.base_ms),
            max_ms: unsigned(rule.max_ms),
            factor: f64::from(rule.factor_percent) / 100.0,
        }),
    }
}

/// The newest actions of the workspace that the caller sees, the newest first.
struct Recent(Vec<Action>);

/// How the actions of one tool failed.
struct Failures {
    ended: u32,
    by_code: BTreeMap<String, u32>,
}

impl Recent {
    fn of(shared: &Shared, caller: &Caller) -> Result<Self> {
        let page = Page { limit: RECENT, ..Page::default() };
        let states = shared.ledger.list(&caller.log(), Kind::Action, &page)?;
        let seen = states.into_iter().filter_map(|state| match state {
            State::Action(action) => Some(action),
            _ => None,
        });
        let sees = |action: &Action| caller.sees("actions:read", &action.request.actors);
        Ok(Self(seen.filter(sees).collect()))
    }

    /// How the tool's actions failed, where enough of them ended for that to say anything.
    fn failures(&self, tool: &ToolId) -> Option<Failures> {
        let mut failures = Failures { ended: 0, by_code: BTreeMap::new() };
        for action in self.0.iter().filter(|action| action.request.tool == *tool) {
            let Some(outcome) = &action.outcome else { continue };
            failures.ended += 1;
            if let Some(failure) = &outcome.failure {
                *failures.by_code.entry(failure.code.clone()).or_default() += 1;
            }
        }
        (u64::from(failures.ended) >= kernel::limits::HISTORY_MIN).then_some(failures)
    }

    fn hints(&self, manifest: &Manifest) -> CompositionHints {
        let (mut after, mut before) = (Counted::default(), Counted::default());
        // The newest first, so what comes next in the list went before.
        let mut last: BTreeMap<String, &ToolId> = BTreeMap::new();
        for action in &self.0 {
            let tool = &action.request.tool;
            let actors = action.request.actors.actors();
            let who: Vec<&str> = actors.iter().map(|actor| actor.id.as_str()).collect();
            if let Some(next) = last.insert(who.join("/"), tool)
                && next != tool
            {
                if *tool == manifest.id {
                    after.add(next);
                }
                if *next == manifest.id {
                    before.add(tool);
                }
            }
        }
        CompositionHints {
            often_followed_by: after.most(),
            often_preceded_by: before.most(),
            anti_patterns: anti_patterns(manifest),
        }
    }
}

#[derive(Default)]
struct Counted<'a>(BTreeMap<&'a ToolId, u32>);

impl<'a> Counted<'a> {
    fn add(&mut self, tool: &'a ToolId) {
        *self.0.entry(tool).or_default() += 1;
    }

    fn most(self) -> Vec<String> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
        all.into_iter().take(HINTS_MAX).map(|(tool, _)| skill_of(tool).to_owned()).collect()
    }
}

/// What goes wrong with a tool like this, by what it says of itself.
fn anti_patterns(manifest: &Manifest) -> Vec<String> {
    let has = |label: &str| manifest.labels.contains(label);
    let mut patterns = Vec::new();
    if !manifest.idempotent {
        let text = "submitting it again while its outcome is unknown: reconcile it first";
        patterns.push(text.to_owned());
    }
    if has("destructive") && !manifest.reversible {
        patterns.push("calling it on what nothing can bring back".to_owned());
    }
    if has("external") && has("write") {
        patterns.push("sending the same thing twice as two actions".to_owned());
    }
    patterns
}
