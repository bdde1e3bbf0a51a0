//! Many runs on one budget: nothing is overspent, and what is left goes back.

use proto::runs::{RunState, StartRunRequest};
use tokio::task::JoinSet;

use super::{Place, reaches, workflow};

/// What one call costs, in micro-USD.
const PRICE: i64 = 3;
const RUNS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_runs_on_one_budget_overspend_nothing() {
    let place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    // Enough for a third of the calls.
    let funded = PRICE * 100 + 1;
    let agent = place.server.paying_agent("shared", funded).await;
    let mut started = JoinSet::new();
    for n in 0..RUNS {
        let steps = [1, 2, 3]
            .map(|step| place.call(&format!("step_{step}"), "PUT", &format!("/{n}/{step}")));
        // Every other run has an account of its own, filled from the shared one.
        let budget = (n % 2 == 0).then_some(PRICE * 3);
        let request = StartRunRequest { budget_micro_usd: budget, ..workflow(&steps) };
        let agent = agent.clone();
        started.spawn(async move { agent.start_run(&request, None).await });
    }
    let (mut spent, mut refused, mut failed) = (0, 0, 0);
    for started in started.join_all().await {
        match started {
            Ok(run) => {
                spent += run.cost_micro_usd;
                if run.state() != RunState::Succeeded {
                    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
                    assert_eq!(run.error.unwrap().code, "budget_exceeded");
                    failed += 1;
                }
            }
            Err(error) => {
                let error = crate::common::refusal::<()>(Err(error));
                assert_eq!(error, (402, "budget_exceeded".to_owned()));
                refused += 1;
            }
        }
    }
    assert!(failed + refused > 0, "the budget was too large for this test");
    let calls = i64::try_from(place.target.seen().len()).unwrap();
    assert_eq!(spent, calls * PRICE, "what was spent is what was called");
    // What a run has left comes back in a commit of its own.
    let end = tokio::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let account = place.server.account("shared").await;
        assert!(account.available_micro_usd >= 0 && spent <= funded, "{account:?}");
        if account.available_micro_usd == funded - spent {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{spent} of {funded}: {account:?}");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_spends_no_more_than_its_budget() {
    let place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    let agent = place.server.paying_agent("pays", 1_000).await;
    let steps = [place.call("one", "PUT", "/1"), place.call("two", "PUT", "/2")];
    let request = StartRunRequest { budget_micro_usd: Some(PRICE), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.as_ref().unwrap().code, "budget_exceeded");
    assert_eq!((run.cost_micro_usd, place.target.seen().len()), (PRICE, 1));
    let request = StartRunRequest { budget_micro_usd: Some(100), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    reaches(&agent, &run.run_id, RunState::Succeeded).await;
    assert_eq!(run.cost_micro_usd, 2 * PRICE);
}
