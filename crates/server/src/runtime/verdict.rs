//! What policy would say of a step, without anything being done.

use std::collections::BTreeSet;

use kernel::decision::{
    Decision, DecisionInput, DecisionPoint as _, Effect, InputBudget, InputOperational,
    InputPrincipal, InputTool, Phase,
};
use kernel::json::RawJson;
use kernel::risk::Risk;
use kernel::simulate::Verdict;
use kernel::values::{MicroUsd, Timestamp};
use kernel::workflow::{Step, template};

use crate::actions::{Claims, remaining};
use crate::error::Result;
use crate::policies::reviewed;
use crate::shared::{Caller, Shared};
use crate::toolbox::Found;

/// What policy says of `step`, whose tool was found. Parameters without templates are decided as
/// they would be when they are submitted; with templates, policy can only say whether the tool may
/// be called at all, in its least restricted variant.
pub(super) fn of(
    shared: &Shared,
    caller: &Caller,
    tool: &Found<'_>,
    step: &Step,
    now: Timestamp,
) -> Result<Verdict> {
    let asking = Asking { shared, caller, tool, now, claims: Claims::new(None)? };
    let constant = template::is_constant(&step.params);
    let valid = tool.validate(shared, caller, &step.params).map(|()| tool.facts(&step.params));
    let exact = constant && valid.is_ok();
    let decision = match &valid {
        Ok(facts) if constant => {
            Some(asking.ask(Phase::Submit, &facts.labels, &step.params, facts.estimate))
        }
        _ => asking.in_general(),
    };
    let (rules, reasons, effect) = match decision {
        Some(decision) => (decision.rules, decision.reasons, Some(decision.effect)),
        None => (Vec::new(), Vec::new(), None),
    };
    // What it costs at most, where that follows from more than the tool. A template counts as the
    // text that it is written with, and what is wrong with that is not held against it.
    let usual = tool.manifest().cost.per_call_micro_usd;
    let (worst, problem) = match valid {
        Ok(facts) => (Some(facts.estimate).filter(|estimate| *estimate != usual), None),
        Err(problem) => (None, Some(problem).filter(|_| constant)),
    };
    Ok(Verdict { available: true, effect, rules, reasons, exact, problem, worst })
}

/// What policy announces of a tool, whatever it is called with: its least restrictive effect.
pub(super) fn in_general(
    shared: &Shared,
    caller: &Caller,
    tool: &Found<'_>,
    now: Timestamp,
) -> Result<Option<Effect>> {
    let asking = Asking { shared, caller, tool, now, claims: Claims::new(None)? };
    Ok(asking.in_general().map(|decision| decision.effect))
}

struct Asking<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    tool: &'a Found<'a>,
    now: Timestamp,
    claims: Claims,
}

impl Asking<'_> {
    /// The least restrictive answer of all variants of the tool.
    fn in_general(&self) -> Option<Decision> {
        let manifest = self.tool.manifest();
        let variants = manifest.variants.iter().map(|variant| &variant.labels);
        let (params, estimate) = (RawJson::empty_object(), manifest.cost.per_call_micro_usd);
        let labels = std::iter::once(&manifest.labels).chain(variants);
        let decisions = labels.map(|labels| self.ask(Phase::List, labels, &params, estimate));
        decisions.min_by_key(|decision| decision.effect)
    }

    fn ask(
        &self,
        phase: Phase,
        labels: &BTreeSet<String>,
        params: &RawJson,
        estimate: MicroUsd,
    ) -> Decision {
        let Self { shared, caller, tool, now, claims } = self;
        let (actors, environment) = (caller.actors(), &caller.environment);
        let account = caller.account.as_ref();
        let input = DecisionInput {
            phase,
            tenant: &caller.tenant,
            workspace: &caller.workspace,
            environment,
            principal: InputPrincipal { id: &caller.id, kind: caller.kind, roles: &caller.roles },
            actor_chain: actors.actors(),
            tool: InputTool { id: &tool.manifest().id, labels, digest: tool.digest() },
            params,
            claims: &claims.json,
            risk: &Risk::assess(labels, environment.as_str(), &claims.data_types),
            budget: InputBudget {
                remaining_micro_usd: account.and_then(|id| remaining(shared, caller, id)),
                estimate_micro_usd: estimate,
            },
            approval: None,
            operational: InputOperational::default(),
            run: None,
            now: (*now).into(),
        };
        let decision = match phase {
            Phase::List => shared.policy.list(&input),
            _ => shared.policy.decide(&input),
        };
        reviewed(shared, caller, decision)
    }
}
