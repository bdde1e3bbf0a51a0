//! An estimator that is wrong again and again is not believed for a day.

use proto::runtime::{
    EstimatorReport, GetDivergenceRequest, PlanStep, SimulateRequest, SimulateResponse,
};
use proto::types::Json;
use serde_json::json;

use super::{PRICES, Scene, result};

/// What an answer of so many tokens costs, as many of them read as written.
const fn cost(tokens: i64) -> i64 {
    tokens * (PRICES.0 + PRICES.1)
}

impl Scene {
    async fn simulated(&self) -> SimulateResponse {
        let params = json!({"provider": "openai", "model": "sim-small", "prompt": "say something"});
        let params = Some(Json::of(&params).unwrap());
        let step = PlanStep { skill: "llm_invoke".to_owned(), params, iterations: None };
        let request = SimulateRequest { plan: vec![step], ..SimulateRequest::default() };
        self.agent.simulate(&request).await.unwrap()
    }

    /// How well the cost of calls was foreseen.
    async fn foreseen(&self) -> EstimatorReport {
        let request = GetDivergenceRequest::default();
        let report = self.server.owner.get_divergence(&request).await.unwrap();
        let [tool] = &report.tools[..] else { panic!("{report:?}") };
        let cost = tool.estimators.iter().find(|one| one.estimator == "cost");
        cost.unwrap().clone()
    }

    async fn asks(&self, times: usize, expected: i64) {
        for _ in 0..times {
            let done = self.ask("openai", &json!({})).await;
            result(&done);
            assert_eq!(done.cost_micro_usd, expected);
        }
    }
}

/// Whether a simulation says that what a call costs is only assumed.
fn doubts(simulated: &SimulateResponse) -> bool {
    let mut warnings = simulated.warnings.iter();
    warnings.any(|one| one.code == "estimator_disabled" && one.message.contains("the cost"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimator_that_drifts_is_disabled_for_a_time() {
    // Ten times as much, from the 21st call on.
    let rules = json!([
        {"match": "say", "times": 20, "usage": {"input": 10, "output": 10}},
        {"match": "say", "usage": {"input": 100, "output": 100}},
    ]);
    let mut scene = Scene::new(&rules, &json!({})).await;
    scene.asks(20, cost(10)).await;
    let known = scene.simulated().await;
    assert!(!doubts(&known), "{known:?}");
    assert_eq!(known.steps[0].p90_cost_micro_usd, Some(cost(10)));
    // Two samples of ten that are off are not enough.
    scene.asks(29, cost(100)).await;
    let before = scene.foreseen().await;
    assert_eq!((before.disabled_until, before.times_disabled), (None, 0), "{before:?}");
    assert!(!doubts(&scene.simulated().await));
    scene.asks(1, cost(100)).await;
    let after = scene.foreseen().await;
    assert_eq!(after.times_disabled, 1, "{after:?}");
    let until = after.disabled_until.unwrap();
    let doubted = scene.simulated().await;
    assert!(doubts(&doubted), "{doubted:?}");
    assert_eq!(doubted.steps[0].p90_cost_micro_usd, None, "{doubted:?}");
    // It follows from the receipts, so a crash changes nothing; nor do further calls.
    scene.server.kill();
    scene.server.restart();
    scene.asks(2, cost(100)).await;
    let again = scene.foreseen().await;
    assert_eq!((again.disabled_until, again.times_disabled), (Some(until), 1), "{again:?}");
    assert!(doubts(&scene.simulated().await));
}
