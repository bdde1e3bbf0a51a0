//! How far estimates were off.

use kernel::experience::{Comparison, Estimator, Experience, Report, Track};
use kernel::ids::ToolId;
use kernel::simulate::Divergence;
use kernel::values::Timestamp;
use proto::runtime::{
    AttemptDivergence, EstimatorReport, FailureCount, GetDivergenceRequest, GetDivergenceResponse,
    ToolDivergence,
};

use crate::actions::find;
use crate::error::Result;
use crate::shared::{Caller, Shared};

/// Parts in a whole.
const MILLION: f64 = 1_000_000.0;

/// The report, or what is remembered of one action.
pub(super) fn report(
    shared: &Shared,
    caller: &Caller,
    wire: &GetDivergenceRequest,
) -> Result<GetDivergenceResponse> {
    let (log, now) = (caller.log(), shared.now());
    let action = match wire.action_id.as_str() {
        "" => None,
        id => Some(find(shared, caller, id)?),
    };
    let see = |experience: &Experience| {
        let wanted = |tool: &ToolId| wire.tool_id.is_empty() || tool.as_str() == wire.tool_id;
        let tracks = experience.tracks(&caller.environment);
        let tracks = tracks.filter(|(tool, _)| action.is_none() && wanted(tool));
        let tools = tracks.map(|(tool, track)| tool_wire(tool, track, now)).collect();
        let compared = action.as_ref().map(|action| experience.compare(action));
        let attempts = compared.into_iter().flatten();
        GetDivergenceResponse {
            calibrated_to: experience.next,
            environment: caller.environment.to_string(),
            tools,
            attempts: attempts.map(|one| attempt(one, |at| log.receipt_id(at))).collect(),
        }
    };
    shared.experiences.read(&shared.ledger, &log, see)
}

fn tool_wire(tool: &ToolId, track: &Track, now: Timestamp) -> ToolDivergence {
    let (attempts_ever, retried_ever) = track.totals();
    let failures = track.failures();
    let failed = failures.values().sum();
    let by_category = failures
        .into_iter()
        .map(|(category, count)| FailureCount { category: category.as_str().to_owned(), count });
    ToolDivergence {
        tool_id: tool.to_string(),
        attempts: track.remembered(),
        fail_ratio: share(failed, track.remembered()),
        failures: by_category.collect(),
        attempts_ever,
        retried_ever,
        estimators: Estimator::ALL.map(|what| estimator(track.report(what, now))).into(),
    }
}

fn estimator(report: Report) -> EstimatorReport {
    EstimatorReport {
        estimator: report.estimator.as_str().to_owned(),
        samples: report.samples,
        delta_p50: ratio(report.delta_p50_ppm),
        delta_p90: ratio(report.delta_p90_ppm),
        outlier_count: report.outliers,
        matching_rate: share(report.matches, report.samples),
        verdict: report.verdict.map_or("", Divergence::as_str).to_owned(),
        drift: match u64::try_from(report.drift_ppm) {
            Ok(ppm) => ratio(ppm),
            Err(_) => -ratio(report.drift_ppm.unsigned_abs()),
        },
        disabled_until: report.disabled_until.map(|at| proto::wire::Timestamp::from_micros(at.0)),
        times_disabled: report.times_disabled,
    }
}

/// One attempt beside what was estimated of it.
pub(crate) fn attempt(one: Comparison, receipt_id: impl Fn(u64) -> String) -> AttemptDivergence {
    let Comparison { attempt, latency, cost } = one;
    AttemptDivergence {
        receipt_id: receipt_id(attempt.index),
        estimated_latency_ms: attempt.estimated_ms,
        latency_ms: attempt.took_ms,
        latency_verdict: latency.as_str().to_owned(),
        estimated_cost_micro_usd: attempt.estimated_cost.0,
        cost_micro_usd: attempt.cost.0,
        cost_verdict: cost.as_str().to_owned(),
        failure: attempt.failure.map_or("", |category| category.as_str()).to_owned(),
    }
}

/// Millionths as a ratio; what is beyond four thousandfold is that.
fn ratio(ppm: u64) -> f64 {
    f64::from(u32::try_from(ppm).unwrap_or(u32::MAX)) / MILLION
}

fn share(part: u64, whole: u64) -> f64 {
    let ppm = part.saturating_mul(1_000_000).checked_div(whole).unwrap_or(0);
    ratio(ppm)
}
