//! What the caller may do at this moment, and what bounds it: as things stand, not as they were
//! configured.

use std::collections::BTreeMap;

use kernel::account::Account;
use kernel::experience::Experience;
use kernel::failure::Category;
use kernel::ids::{AccountId, ToolId};
use kernel::machine::{Kind, State};
use kernel::principal::Role;
use kernel::simulate::cents;
use kernel::values::MicroUsd;
use proto::runtime::{
    BudgetLeft, ConcurrencyLeft, GetCapabilitiesRequest, GetCapabilitiesResponse, RateLeft,
    ResourceContract, TimeBounds,
};
use proto::wire::Json;
use serde::Serialize;

use super::skills;
use super::verdict;
use super::wire::{signed, unsigned};
use crate::actions;
use crate::error::{Refused, Result};
use crate::limits;
use crate::rate::Allowance;
use crate::shared::{Caller, Shared};
use crate::toolbox::{self, Found};

/// Micro-USD in a cent.
const CENT: i64 = 10_000;

/// A skill as the caller has it now.
#[derive(Serialize)]
struct Capability {
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    tool_id: String,
    cost_estimate_cents: i32,
    avg_latency_ms: u32,
    rate_limit_remaining: u32,
    known_failure_patterns: Vec<String>,
}

pub(super) fn get(
    shared: &Shared,
    caller: &Caller,
    allowance: Allowance,
    wire: &GetCapabilitiesRequest,
) -> Result<GetCapabilitiesResponse> {
    check_own(caller, wire)?;
    let account = account_of(shared, caller, caller.account.as_ref())?;
    let mut capabilities = BTreeMap::new();
    let listed = skills::listed(shared, caller)?;
    let mut learnt = learnt(shared, caller, &listed)?;
    for tool in &listed {
        let manifest = tool.manifest();
        let model = skills::model(manifest)?;
        let cost = model.per_call_micro_usd;
        let reason = lack(account.as_ref(), cost, allowance);
        let effect = verdict::in_general(shared, caller, tool, shared.now())?;
        let capability = Capability {
            available: reason.is_none(),
            reason,
            policy: effect.map(|effect| actions::effect(effect).as_str_name()),
            tool_id: manifest.id.to_string(),
            cost_estimate_cents: signed(cents(cost)),
            avg_latency_ms: unsigned(*learnt.ms.get(&manifest.id).unwrap_or(&model.latency_ms)),
            rate_limit_remaining: allowance.remaining,
            known_failure_patterns: learnt.failures.remove(&manifest.id).unwrap_or_default(),
        };
        capabilities.insert(skills::name(tool).to_owned(), capability);
    }
    let mut permissions: Vec<String> = Role::ALL
        .iter()
        .flat_map(|role| role.permissions())
        .filter(|permission| caller.may(permission))
        .map(|permission| (*permission).to_owned())
        .collect();
    permissions.sort();
    permissions.dedup();
    Ok(GetCapabilitiesResponse {
        agent_id: caller.id.to_string(),
        skills: Some(Json::of(&capabilities).map_err(Refused::internal)?),
        budget: account.as_ref().map(budget),
        rate_limits: Some(rate(allowance)),
        permissions,
    })
}

/// What is known of earlier attempts.
struct Learnt {
    /// How long they usually take.
    ms: BTreeMap<ToolId, u64>,
    /// The codes of how they failed, the most frequent first.
    failures: BTreeMap<ToolId, Vec<String>>,
}

fn learnt(shared: &Shared, caller: &Caller, tools: &[Found<'_>]) -> Result<Learnt> {
    let now = shared.now();
    shared.experiences.read(&shared.ledger, &caller.log(), |experience| {
        let ids = tools.iter().map(|tool| &tool.manifest().id);
        let usual = |id: &ToolId| {
            let ms = experience.history(&caller.environment, id, now)?.usual_ms()?;
            Some((id.clone(), ms))
        };
        Learnt { ms: ids.filter_map(usual).collect(), failures: failures(experience) }
    })
}

/// The failures of each tool, by their codes.
fn failures(experience: &Experience) -> BTreeMap<ToolId, Vec<String>> {
    let mut failures: BTreeMap<ToolId, Vec<(u64, &str)>> = BTreeMap::new();
    for (tool, code, lesson) in experience.lessons().all() {
        failures.entry(tool.clone()).or_default().push((lesson.count, code));
    }
    let ordered = |(tool, mut known): (ToolId, Vec<(u64, &str)>)| {
        known.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then(one.cmp(other)));
        known.truncate(limits::FAILURE_PATTERNS_MAX);
        (tool, known.into_iter().map(|(_, code)| code.to_owned()).collect())
    };
    failures.into_iter().map(ordered).collect()
}

/// A request may name the caller, and nobody else.
fn check_own(caller: &Caller, wire: &GetCapabilitiesRequest) -> Result<()> {
    let other = |field: &str| {
        let message = format!("`{field}` is not the credential's own: leave it out");
        Err(Refused::new(Category::Permission, "credential_binding", message))
    };
    if !wire.tenant_id.is_empty() && wire.tenant_id != caller.tenant.as_str() {
        return other("tenant_id");
    }
    let actors = caller.actors();
    let known = actors.actors().iter().any(|actor| actor.id.as_str() == wire.agent_id);
    if !wire.agent_id.is_empty() && !known {
        return other("agent_id");
    }
    Ok(())
}

/// Why a call that costs so much would not run now, whatever policy says.
fn lack(account: Option<&Account>, cost: MicroUsd, allowance: Allowance) -> Option<&'static str> {
    let paid = cost > MicroUsd::ZERO;
    match account {
        None if paid => Some("budget_account_missing"),
        Some(account) if paid && account.frozen => Some("account_frozen"),
        Some(account) if paid && account.available() < cost => Some("budget_exceeded"),
        _ if allowance.remaining == 0 => Some("rate_limited"),
        _ => None,
    }
}

/// An account of the caller's workspace.
fn account_of(shared: &Shared, caller: &Caller, id: Option<&AccountId>) -> Result<Option<Account>> {
    let Some(id) = id else { return Ok(None) };
    match shared.ledger.read(&caller.log(), Kind::Account, id.as_str())? {
        Some(State::Account(account)) => Ok(Some(account)),
        _ => Ok(None),
    }
}

/// Rounded down: never more than there is.
fn whole_cents(amount: MicroUsd) -> i32 {
    signed(amount.0.div_euclid(CENT))
}

fn budget(account: &Account) -> BudgetLeft {
    let left = if account.frozen { MicroUsd::ZERO } else { account.available() };
    BudgetLeft {
        account_id: account.id.to_string(),
        total_cents: whole_cents(account.credits),
        remaining_cents: whole_cents(left),
        // A step is paid for as a whole before it begins.
        per_step_max_cents: whole_cents(left),
        spent_cents: signed(cents(account.debits)),
        held_cents: signed(cents(account.held)),
        remaining_micro_usd: left.0,
        frozen: account.frozen,
    }
}

fn rate(allowance: Allowance) -> RateLeft {
    RateLeft {
        requests_per_minute: allowance.limit,
        remaining: allowance.remaining,
        resets_in_seconds: unsigned(allowance.reset_ms.div_ceil(1_000)),
    }
}

/// What a resource is.
enum Resource {
    Principal,
    /// How long one attempt may take, in milliseconds.
    Skill(u64),
    Account(Box<Account>),
}

pub(super) fn contract(
    shared: &Shared,
    caller: &Caller,
    allowance: Allowance,
    id: &str,
) -> Result<ResourceContract> {
    let resource = resource(shared, caller, id)?;
    let own = || account_of(shared, caller, caller.account.as_ref());
    let (kind, account, attempt_ms) = match &resource {
        Resource::Principal => ("principal", own()?, None),
        Resource::Skill(ms) => ("skill", own()?, Some(*ms)),
        Resource::Account(account) => ("account", Some(Account::clone(account)), None),
    };
    let (runs_max, running) = shared.runs.places(&caller.tenant);
    let longest = || {
        let all = toolbox::all(shared, &caller.tenant);
        all.iter().map(|tool| tool.manifest().timeout_ms).max().unwrap_or(0)
    };
    Ok(ResourceContract {
        resource_id: id.to_owned(),
        kind: kind.to_owned(),
        budget: account.as_ref().map(budget),
        rate_limits: Some(rate(allowance)),
        concurrency: Some(ConcurrencyLeft {
            max_concurrent: u32::try_from(runs_max).unwrap_or(u32::MAX),
            current_running: u32::try_from(running).unwrap_or(u32::MAX),
        }),
        time: Some(TimeBounds { max_attempt_ms: unsigned(attempt_ms.unwrap_or_else(longest)) }),
    })
}

/// What the caller may know of by that id. What does not exist answers like what may not be seen.
fn resource(shared: &Shared, caller: &Caller, id: &str) -> Result<Resource> {
    let actors = caller.actors();
    if actors.actors().iter().any(|actor| actor.id.as_str() == id) {
        return Ok(Resource::Principal);
    }
    if let Ok(tool) = skills::find(shared, caller, id) {
        return Ok(Resource::Skill(tool.manifest().timeout_ms));
    }
    let absent = || Refused::not_found("resource");
    let account = AccountId::new(id).map_err(|_| absent())?;
    let own = caller.account.as_ref() == Some(&account);
    if !own && !caller.may("accounts:read") {
        return Err(absent());
    }
    account_of(shared, caller, Some(&account))?
        .map(|account| Resource::Account(account.into()))
        .ok_or_else(absent)
}
