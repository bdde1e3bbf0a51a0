//! What runs cost, by day and by status: the same whether it is asked of the report, of the meters
//! or of the runs, also after crashes and once everything is folded anew.

use std::collections::BTreeMap;

use ledger::rebuild;
use proto::identity::principal::Kind;
use proto::metering::{GetRunReportRequest, GetUsageRequest, RunReport};
use proto::runs::{ListRunsRequest, Run, RunState, StartRunRequest};
use serde_json::{Value, json};

use crate::common::{Server, assert_code, text};
use crate::runs::{Place, approve_step, reaches, transform, with, workflow};

const PRICE: i64 = 7;

/// A deterministic stream of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

async fn report(server: &Server, group_by: &str) -> (Vec<RunReport>, RunReport) {
    let request = GetRunReportRequest { group_by: group_by.to_owned(), ..Default::default() };
    let report = server.owner.get_run_report(&request).await.unwrap();
    (report.rows, report.total.unwrap())
}

async fn runs(server: &Server) -> Vec<Run> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRunsRequest { page_size: 200, page_token, ..Default::default() };
        let page = server.owner.list_runs(&request).await.unwrap();
        all.extend(page.runs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// The report, the meters and the runs say the same.
async fn assert_same(server: &Server) -> RunReport {
    let runs = runs(server).await;
    let request = GetUsageRequest { group_by: "run".to_owned(), ..Default::default() };
    let usage = server.owner.get_usage(&request).await.unwrap().rows;
    let metered: BTreeMap<&str, i64> =
        usage.iter().map(|row| (row.key.as_str(), row.cost_micro_usd)).collect();
    for run in &runs {
        let metered = metered.get(run.run_id.as_str()).copied().unwrap_or(0);
        assert_eq!(run.cost_micro_usd, metered, "{run:?}");
    }
    let mut totals = Vec::new();
    for group_by in ["day", "workflow", "environment", "agent"] {
        let (rows, total) = report(server, group_by).await;
        assert_eq!(rows.iter().map(|row| row.cost_micro_usd).sum::<i64>(), total.cost_micro_usd);
        assert_eq!(rows.iter().map(|row| row.runs).sum::<u64>(), total.runs);
        assert_eq!(rows.iter().map(|r| r.writes_executed).sum::<u64>(), total.writes_executed);
        totals.push(total);
    }
    let total = totals.pop().unwrap();
    assert!(totals.iter().all(|other| *other == total), "{totals:?}");
    let mut costs: Vec<i64> = runs.iter().map(|run| run.cost_micro_usd).collect();
    costs.sort_unstable();
    let rank = |percent: usize| costs[(costs.len() * percent).div_ceil(100) - 1];
    let sum: i64 = costs.iter().sum();
    let count = i64::try_from(costs.len()).unwrap();
    assert_eq!((total.cost_micro_usd, total.mean_micro_usd), (sum, sum / count));
    assert_eq!((total.p50_micro_usd, total.p95_micro_usd), (rank(50), rank(95)));
    let in_state = |state| runs.iter().filter(|run| run.state() == state).count() as u64;
    assert_eq!(
        [
            total.runs,
            total.succeeded,
            total.failed_retryable,
            total.failed_terminal,
            total.waiting_approval
        ],
        [
            runs.len() as u64,
            in_state(RunState::Succeeded),
            in_state(RunState::FailedRetryable),
            in_state(RunState::FailedTerminal),
            in_state(RunState::WaitingApproval),
        ]
    );
    assert_eq!(
        total.writes_attempted,
        total.writes_allowed + total.writes_denied + total.writes_awaiting,
        "{total:?}"
    );
    total
}

fn steps(place: &Place, dice: &mut Dice, run: u64) -> Vec<Value> {
    let count = 1 + dice.below(4);
    let step = |number: u64, dice: &mut Dice| {
        let (id, path) = (format!("s{number}"), format!("/{run}/{number}"));
        match dice.below(8) {
            0 => place.call(&id, "POST", &format!("/broken/{run}/{number}")),
            1 => with(
                place.call(&id, "PUT", &format!("/unavailable/{run}/{number}")),
                json!({"retry": {"attempts": 4, "backoffMs": 10}}),
            ),
            2 => with(place.call(&id, "PUT", &path), json!({"approval": {"quorum": 1}})),
            3 | 4 => place.call(&id, "GET", &path),
            5 => transform(&id, json!({"n": number}), "."),
            _ => place.call(&id, "PUT", &path),
        }
    };
    (0..count).map(|number| step(number, dice)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_runs_and_reports_agree_over_many_runs_and_crashes() {
    let mut place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let agent = place.server.paying_agent("till", 1_000_000).await;
    let mut dice = Dice(7);
    let mut waiting = Vec::new();
    for run in 0..60 {
        let request =
            StartRunRequest { wait_ms: Some(0), ..workflow(&steps(&place, &mut dice, run)) };
        waiting.push(agent.start_run(&request, None).await.unwrap().run_id);
        if run % 20 == 13 {
            place.server.kill();
            place.server.restart();
        }
    }
    // Every other approval is given.
    for (number, id) in waiting.iter().enumerate() {
        loop {
            let settled = |run: &Run| !matches!(run.state(), RunState::Queued | RunState::Running);
            let run = crate::runs::until(&agent, id, "the end, or a wait", settled).await;
            if run.state() != RunState::WaitingApproval || number % 2 == 0 {
                break;
            }
            let step = run.steps.iter().find(|step| step.state == "waiting_approval").unwrap();
            // An outcome that nobody knows waits too, for whoever finds it out.
            if step.error.is_some() {
                break;
            }
            approve_step(&approver, &run, &step.step_id).await;
        }
    }
    let before = assert_same(&place.server).await;
    assert!(before.succeeded > 5 && before.failed_retryable > 0, "{before:?}");
    assert!(before.writes_awaiting > 0 && before.writes_executed > 0, "{before:?}");
    place.server.kill();
    place.server.restart();
    assert_eq!(assert_same(&place.server).await, before);
    assert!(place.server.terminate().success());
    for store in place.server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_a_table_or_csv() {
    let place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    let agent = place.server.paying_agent("till", 1_000).await;
    let run = workflow(&[place.call("a", "PUT", "/a"), place.call("b", "PUT", "/b")]);
    let run = agent.start_run(&run, None).await.unwrap();
    reaches(&agent, &run.run_id, RunState::Succeeded).await;
    let key = place.server.owner_key();
    let csv = place.server.tally(&key, &["cost", "tickets", "--by", "environment", "--csv"]);
    assert_code(&csv, 0);
    let lines: Vec<String> = text(&csv).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("environment,runs,succeeded,"), "{lines:?}");
    assert_eq!(lines[1], format!("dev,1,1,0,0,0,0,0,{0},{0},{0},{0},2,2,0,0,2", 2 * PRICE));
    let shown = place.server.tally(&key, &["cost", "tickets"]);
    assert_code(&shown, 0);
    assert!(text(&shown).contains("total"), "{}", text(&shown));
}
