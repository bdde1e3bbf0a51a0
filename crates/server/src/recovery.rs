//! What failed, what helped, and what to do about a failure. Nothing is carried out.

use std::sync::Arc;

use kernel::action::Status as ActionStatus;
use kernel::experience::{Experience, Lesson, TOOL_ERROR};
use kernel::failure::Category;
use kernel::ids::ToolId;
use kernel::recovery::{
    self, Candidate, Problem, STRATEGIES, Source, Strategy, StrategyFacts, measured_ppm,
};
use kernel::values::Timestamp;
use proto::recovery::recovery_service_server::RecoveryService;
use proto::recovery::{
    Candidate as WireCandidate, GetRecoveryStatsRequest, GetRecoveryStatsResponse, KnownFailure,
    Strategy as WireStrategy, StrategyRecord, SuggestRecoveryRequest, SuggestRecoveryResponse,
};
use proto::wire::Json;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::actions::find;
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

/// Parts in a whole.
const MILLION: f64 = 1_000_000.0;

/// Serves recovery.
pub(crate) struct RecoveryApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// A failure that something is to be done about.
struct Failed {
    tool: ToolId,
    code: String,
    category: Category,
    in_doubt: bool,
}

impl RecoveryApi {
    fn stats(&self, caller: &Caller, tool: &str) -> Result<GetRecoveryStatsResponse> {
        let now = self.0.now();
        let strategies = STRATEGIES.iter().map(strategy).collect::<Result<_>>()?;
        let see = |experience: &Experience| {
            let mut stats = GetRecoveryStatsResponse {
                known_to: experience.next,
                strategies,
                ..GetRecoveryStatsResponse::default()
            };
            for (of, code, lesson) in experience.lessons().all() {
                if !tool.is_empty() && of.as_str() != tool {
                    continue;
                }
                let (trials, helped) = recovery::trials(lesson);
                stats.failures = stats.failures.saturating_add(lesson.count);
                stats.trials = stats.trials.saturating_add(count(trials));
                stats.helped = stats.helped.saturating_add(count(helped));
                stats.known.push(known(of, code, lesson, now));
            }
            stats
        };
        self.0.experiences.read(&self.0.ledger, &caller.log(), see)
    }

    fn suggest(
        &self,
        caller: &Caller,
        wire: &SuggestRecoveryRequest,
    ) -> Result<SuggestRecoveryResponse> {
        let failed = self.failed(caller, wire)?;
        let now = self.0.now();
        let see = |experience: &Experience| {
            let lesson = experience.lessons().of(&failed.tool, &failed.code);
            let Failed { category, in_doubt, .. } = failed;
            let candidates = recovery::candidates(Problem { category, lesson, in_doubt }, now);
            (candidates, lesson.map_or(0, |lesson| lesson.count))
        };
        let (candidates, count) = self.0.experiences.read(&self.0.ledger, &caller.log(), see)?;
        let selected = recovery::select(&candidates);
        let facts = STRATEGIES.iter().find(|facts| facts.strategy == selected);
        let confidence = candidates.iter().find(|one| one.strategy == selected);
        Ok(SuggestRecoveryResponse {
            tool_id: failed.tool.to_string(),
            code: failed.code,
            category: failed.category.as_str().to_owned(),
            count,
            selected: facts.map(strategy).transpose()?,
            confidence: confidence.map_or(0.0, |one| ratio(one.confidence_ppm)),
            candidates: candidates.iter().map(candidate).collect(),
        })
    }

    /// The failure that is meant: of an action, or as it is described.
    fn failed(&self, caller: &Caller, wire: &SuggestRecoveryRequest) -> Result<Failed> {
        if wire.action_id.is_empty() {
            return described(wire);
        }
        if !(wire.tool_id.is_empty() && wire.code.is_empty() && wire.category.is_empty()) {
            return Err(Refused::invalid("name an action_id or a failure, not both"));
        }
        let action = find(&self.0, caller, &wire.action_id)?;
        let outcome = action.outcome.as_ref();
        let failure = outcome.and_then(|outcome| outcome.failure.clone());
        let (code, category) = match (failure, outcome) {
            (Some(failure), _) => (failure.code, failure.category),
            (None, Some(outcome)) if outcome.is_error => {
                (TOOL_ERROR.to_owned(), Category::Upstream)
            }
            _ => {
                let message =
                    format!("the action is {}: no attempt failed", action.status.as_str());
                return Err(Refused::new(Category::Conflict, "nothing_failed", message));
            }
        };
        let unknown = action.status == ActionStatus::Unknown || action.in_doubt;
        let in_doubt = unknown && !action.request.idempotent;
        Ok(Failed { tool: action.request.tool.clone(), code, category, in_doubt })
    }
}

/// A failure as the request describes it.
fn described(wire: &SuggestRecoveryRequest) -> Result<Failed> {
    let tool = ToolId::new(&wire.tool_id).map_err(|error| Refused::invalid(error.to_string()))?;
    let code_fits = (1..=kernel::limits::RULE_BYTES_MAX).contains(&wire.code.len());
    if !code_fits {
        return Err(Refused::invalid("code: 1 to 64 characters"));
    }
    let category = serde_json::from_value(Value::String(wire.category.clone()));
    let category: Category = category.map_err(|_| {
        Refused::invalid("category is one such as TIMEOUT, RATE_LIMITED, NETWORK or UPSTREAM")
    })?;
    Ok(Failed { tool, code: wire.code.clone(), category, in_doubt: false })
}

fn known(tool: &ToolId, code: &str, lesson: &Lesson, now: Timestamp) -> KnownFailure {
    let tried = lesson.tried.iter().map(|(strategy, trials)| StrategyRecord {
        strategy: strategy.as_str().to_owned(),
        trials: u32::try_from(trials.len()).unwrap_or(u32::MAX),
        helped: u32::try_from(trials.iter().filter(|one| one.helped).count()).unwrap_or(u32::MAX),
        confidence: ratio(measured_ppm(trials, now).unwrap_or(recovery::UNTRIED_PPM)),
    });
    KnownFailure {
        tool_id: tool.to_string(),
        code: code.to_owned(),
        category: lesson.category.as_str().to_owned(),
        count: lesson.count,
        last_at: Some(proto::wire::Timestamp::from_micros(lesson.last.0)),
        tried: tried.collect(),
    }
}

fn strategy(facts: &StrategyFacts) -> Result<WireStrategy> {
    let parameters: serde_json::Map<String, Value> = facts
        .parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    Ok(WireStrategy {
        strategy: facts.strategy.as_str().to_owned(),
        meaning: facts.meaning.to_owned(),
        parameters: Some(Json::of(&parameters).map_err(Refused::internal)?),
    })
}

fn candidate(one: &Candidate) -> WireCandidate {
    let source = match one.source {
        Source::Rule(id) => id,
        Source::Category => "category",
        Source::Global => "default",
    };
    WireCandidate {
        strategy: Strategy::as_str(one.strategy).to_owned(),
        source: source.to_owned(),
        confidence: ratio(one.confidence_ppm),
        measured: one.measured_ppm.map(ratio),
        trials: one.trials,
        helped: one.helped,
    }
}

fn ratio(ppm: u64) -> f64 {
    f64::from(u32::try_from(ppm).unwrap_or(u32::MAX)) / MILLION
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[tonic::async_trait]
impl RecoveryService for RecoveryApi {
    async fn get_recovery_stats(
        &self,
        request: Request<GetRecoveryStatsRequest>,
    ) -> Reply<GetRecoveryStatsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.stats(&caller, &request.get_ref().tool_id)?))
    }

    async fn suggest_recovery(
        &self,
        request: Request<SuggestRecoveryRequest>,
    ) -> Reply<SuggestRecoveryResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.suggest(&caller, request.get_ref())?))
    }
}
