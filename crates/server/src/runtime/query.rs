//! Questions about the state of an agent, answered from what is there now.

use std::sync::Arc;

use kernel::action::{Action, Status};
use kernel::failure::Category;
use kernel::ids::{PrincipalId, ToolId};
use kernel::machine::{Kind, State};
use kernel::rank::{self, Document};
use kernel::simulate::cents_down;
use kernel::tool::Manifest;
use kernel::values::MicroUsd;
use kernel::workflow::skills::{skill_of, tool_of};
use ledger::store::Page;
use proto::runtime::{QueryRequest, QueryResponse};
use proto::wire::{Json, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::actions::READ;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};
use crate::toolbox;
use crate::tools::visible;

/// The questions that there are.
const TYPES: [&str; 5] = [
    "remaining_budget_cents",
    "what_did_i_try_already",
    "allowed_skills",
    "last_step_outcome",
    "skills_available_for_goal",
];

/// How often the words of a tool's name count, its labels', and its description's.
const WEIGHTS: [usize; 3] = [3, 2, 1];

/// What a question may need.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Params {
    goal: Option<String>,
    tool: Option<String>,
    limit: Option<usize>,
}

impl Params {
    fn read(wire: Option<Json>) -> Result<Self> {
        let Some(wire) = wire.filter(|json| !json.text.is_empty()) else {
            return Ok(Self::default());
        };
        let params: Self =
            wire.decode().map_err(|error| Refused::invalid(format!("params: {error}")))?;
        let limit = params.limit.unwrap_or(limits::QUERY_LIMIT_DEFAULT);
        if !(1..=limits::QUERY_LIMIT_MAX).contains(&limit) {
            return Err(Refused::invalid("params.limit is 1 to 100"));
        }
        Ok(params)
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(limits::QUERY_LIMIT_DEFAULT)
    }

    fn tool(&self) -> Result<Option<ToolId>> {
        let invalid = |error: kernel::ids::InvalidId| Refused::invalid(error.to_string());
        self.tool.as_deref().map(|tool| tool_of(tool).map_err(invalid)).transpose()
    }
}

/// Answers a question.
pub(super) fn answer(
    shared: &Arc<Shared>,
    caller: &Caller,
    wire: QueryRequest,
) -> Result<QueryResponse> {
    let QueryRequest { query_type, agent_id, params } = wire;
    if !TYPES.contains(&query_type.as_str()) {
        let message = format!("query_type is one of {}", TYPES.join(", "));
        return Err(Refused::new(Category::Validation, "unknown_query_type", message));
    }
    let params = Params::read(params)?;
    let agent = about(shared, caller, &agent_id)?;
    let asking = Asking { shared, agent: &agent };
    let result = match query_type.as_str() {
        "remaining_budget_cents" => asking.budget()?,
        "what_did_i_try_already" => asking.tried(&params)?,
        "allowed_skills" => asking.allowed()?,
        "last_step_outcome" => asking.last()?,
        _ => asking.for_goal(&params)?,
    };
    let result = Some(Json::of(&result).map_err(Refused::internal)?);
    Ok(QueryResponse { query_type, agent_id: agent.id.to_string(), result })
}

/// The agent that is asked about, as if it asked itself. An agent asks about itself alone; who
/// sees what others do may ask about any.
fn about(shared: &Shared, caller: &Caller, agent_id: &str) -> Result<Caller> {
    if agent_id.is_empty() || agent_id == caller.id.as_str() {
        return Ok(caller.clone());
    }
    let absent = || Refused::not_found("agent");
    let id = PrincipalId::new(agent_id).map_err(|_| absent())?;
    let other = kernel::principal::ActorChain::direct(id.clone(), caller.kind);
    let known = shared.control.directory.principal(&caller.tenant, &id).ok_or_else(absent)?;
    if !caller.sees(READ, &other) {
        return Err(absent());
    }
    let (tenant, workspace) = (caller.tenant.clone(), caller.workspace.clone());
    Ok(Caller::new(tenant, workspace, caller.environment.clone(), &known))
}

struct Asking<'a> {
    shared: &'a Arc<Shared>,
    agent: &'a Caller,
}

/// An action, as a question about it is answered.
#[derive(Serialize)]
struct Tried {
    action_id: String,
    skill_id: String,
    tool_id: String,
    environment: String,
    status: &'static str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    is_error: bool,
    cost_micro_usd: i64,
    requested_at: Timestamp,
    updated_at: Timestamp,
}

impl Tried {
    fn of(action: &Action) -> Self {
        let outcome = action.outcome.as_ref();
        let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
        let tool = action.request.routed_from.as_ref().unwrap_or(&action.request.tool);
        Self {
            action_id: action.id.to_string(),
            skill_id: skill_of(tool).to_owned(),
            tool_id: action.request.tool.to_string(),
            environment: action.request.environment.to_string(),
            status: action.status.as_str(),
            attempts: action.attempts,
            code: failure.map(|failure| failure.code.clone()),
            category: failure.map(|failure| failure.category.as_str()),
            retryable: failure.map(|failure| failure.category.retryable()),
            is_error: outcome.is_some_and(|outcome| outcome.is_error),
            cost_micro_usd: outcome.map_or(0, |outcome| outcome.cost.0),
            requested_at: Timestamp::from_micros(action.requested_at.0),
            updated_at: Timestamp::from_micros(action.updated_at.0),
        }
    }
}

impl Asking<'_> {
    fn budget(&self) -> Result<Value> {
        let account = match &self.agent.account {
            None => None,
            Some(id) => {
                match self.shared.ledger.read(&self.agent.log(), Kind::Account, id.as_str())? {
                    Some(State::Account(account)) => Some(account),
                    _ => None,
                }
            }
        };
        let Some(account) = account else {
            let none = json!({"account_id": null, "remaining_budget_cents": 0,
                "remaining_micro_usd": 0});
            return Ok(none);
        };
        let left = if account.frozen { MicroUsd::ZERO } else { account.available() };
        Ok(json!({
            "account_id": account.id,
            "remaining_budget_cents": cents_down(left),
            "remaining_micro_usd": left,
            "held_micro_usd": account.held,
            "spent_micro_usd": account.debits,
            "frozen": account.frozen,
        }))
    }

    /// The newest actions of the agent that `wanted` takes, and whether these are all there are.
    fn actions(
        &self,
        limit: usize,
        wanted: impl Fn(&Action) -> bool,
    ) -> Result<(Vec<Action>, bool)> {
        let log = self.agent.log();
        let mut page = Page { before: None, status: None, limit: limits::PAGE_SIZE_MAX };
        let (mut found, mut seen) = (Vec::new(), 0);
        loop {
            let states = self.shared.ledger.list(&log, Kind::Action, &page)?;
            let full = u32::try_from(states.len()).is_ok_and(|len| len >= page.limit);
            seen += states.len();
            for state in states {
                let State::Action(action) = state else { continue };
                page.before = Some(action.id.to_string());
                if action.request.actors.contains(&self.agent.id) && wanted(&action) {
                    if found.len() == limit {
                        return Ok((found, false));
                    }
                    found.push(action);
                }
            }
            if !full {
                return Ok((found, true));
            }
            if seen >= limits::QUERY_ACTIONS_MAX {
                return Ok((found, false));
            }
        }
    }

    fn tried(&self, params: &Params) -> Result<Value> {
        let tool = params.tool()?;
        let same = |action: &Action| {
            let request = &action.request;
            let asked = request.routed_from.as_ref().unwrap_or(&request.tool);
            tool.as_ref().is_none_or(|tool| *tool == request.tool || tool == asked)
        };
        let (actions, complete) = self.actions(params.limit(), same)?;
        let tried: Vec<Tried> = actions.iter().map(Tried::of).collect();
        Ok(json!({"attempts": tried, "complete": complete}))
    }

    fn last(&self) -> Result<Value> {
        let ended =
            |action: &Action| action.status.is_settled() && action.status != Status::Canceled;
        let (mut actions, _) = self.actions(1, ended)?;
        Ok(json!({"outcome": actions.pop().as_ref().map(Tried::of)}))
    }

    /// The tools that policy lets the agent call, in the order of their ids.
    fn manifests(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for tool in toolbox::all(self.shared, &self.agent.tenant) {
            let manifest = tool.manifest();
            if tool.may_run(self.agent)
                && visible(self.shared, self.agent, manifest, tool.digest())?
            {
                manifests.push(manifest.clone());
            }
        }
        Ok(manifests)
    }

    fn allowed(&self) -> Result<Value> {
        let manifests = self.manifests()?;
        let skills: Vec<Value> = manifests.iter().map(skill).collect();
        Ok(json!({"skills": skills}))
    }

    fn for_goal(&self, params: &Params) -> Result<Value> {
        let goal = params.goal.as_deref().unwrap_or_default();
        if goal.is_empty() || goal.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("params.goal: 1 to 2000 characters"));
        }
        let manifests = self.manifests()?;
        let documents: Vec<Document> = manifests.iter().map(document).collect();
        let mut skills = Vec::new();
        for hit in rank::rank(goal, &documents).into_iter().take(params.limit()) {
            let manifest = manifests.iter().find(|manifest| manifest.id.as_str() == hit.name);
            let mut shown = manifest.map_or(Value::Null, skill);
            if let Some(shown) = shown.as_object_mut() {
                shown.insert("score_milli".to_owned(), hit.score_milli.into());
                shown.insert("matched".to_owned(), hit.matched.into());
            }
            skills.push(shown);
        }
        Ok(json!({"goal": goal, "skills": skills}))
    }
}

fn skill(manifest: &Manifest) -> Value {
    json!({
        "skill_id": skill_of(&manifest.id),
        "tool_id": manifest.id,
        "description": manifest.description,
        "labels": manifest.labels,
    })
}

/// What a goal is compared with.
fn document(manifest: &Manifest) -> Document {
    let labels: Vec<&str> = manifest.labels.iter().map(String::as_str).collect();
    let texts = [manifest.id.as_str(), &labels.join(" "), &manifest.description];
    let weighted = texts.into_iter().zip(WEIGHTS).flat_map(|(text, times)| {
        let words = rank::words(text);
        std::iter::repeat_n(words, times).flatten()
    });
    Document { name: manifest.id.to_string(), words: weighted.collect() }
}
