//! How often operations are called: by what their definition says, and by the bounds on writes of
//! a server whose configuration says nothing.

use std::collections::BTreeMap;

use kernel::action::Change as ActionChange;
use kernel::dsse::Envelope;
use kernel::machine::Change;
use kernel::receipt::{LogId, Statement};
use proto::actions::SubmitActionRequest;
use proto::runs::{GetRunRequest, Run, RunState, StartRunRequest};
use proto::types::decision::Effect;
use tokio::time::{Duration, Instant, sleep};

use super::*;
use crate::common::LOOK_EVERY;

const MINUTE_MICROS: i64 = 60_000_000;
/// For what has to wait for a minute to be over.
const PATIENCE: Duration = Duration::from_secs(240);
const NOTE: &str = "servicenow.add_work_note";

/// What the log of a stopped server says: how many actions were asked for of each tool, and when
/// their attempts began.
struct Logged {
    asked: BTreeMap<String, usize>,
    began: BTreeMap<String, Vec<i64>>,
    /// Those that were steps of a run.
    of_steps: Vec<i64>,
}

fn logged(server: &Server) -> Logged {
    let (mut asked, mut began) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    let (mut of_steps, mut tools) = (Vec::new(), BTreeMap::new());
    for store in server.stores() {
        for log in store.logs().unwrap() {
            if !matches!(log, LogId::Workspace(..)) {
                continue;
            }
            for row in store.receipts(&log, 0, 100_000).unwrap() {
                let payload = Envelope::parse(&row.envelope).unwrap().payload;
                let statement: Statement = serde_json::from_slice(&payload).unwrap();
                let time = statement.predicate.time_us.0;
                for transition in statement.predicate.transitions {
                    let id = transition.stream.id.to_string();
                    match &transition.change {
                        Change::Action(ActionChange::Requested(request)) => {
                            let tool = request.tool.as_str().to_owned();
                            *asked.entry(tool.clone()).or_default() += 1;
                            tools.insert(id, (tool, request.step.is_some()));
                        }
                        Change::Action(ActionChange::Started(_)) => {
                            let (tool, step) = &tools[&id];
                            began.entry(tool.clone()).or_default().push(time);
                            of_steps.extend(step.then_some(time));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Logged { asked, began, of_steps }
}

#[track_caller]
fn assert_bound(began: &[i64], most: usize) {
    for (first, last) in began.iter().zip(began.iter().skip(most)) {
        assert!(last - first >= MINUTE_MICROS, "more than {most} in a minute: {began:?}");
    }
}

/// How often calls were put off by this bound.
async fn put_off(server: &Server, bound: &str) -> u64 {
    let metrics = Wire::new(&server.url).ask("GET", "/metrics").send().await.text();
    let mine = format!("tally_writes_put_off_total{{bound=\"{bound}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&mine));
    line.map_or(0, |count| count.parse().unwrap())
}

fn start(steps: &[Value]) -> StartRunRequest {
    let document = json!({
        "apiVersion": "tally/v1", "kind": "Workflow",
        "metadata": {"name": "triage", "version": "1.0.0"},
        "spec": {"riskTier": "low", "steps": steps},
    });
    StartRunRequest { workflow: document.to_string(), wait_ms: Some(0), ..Default::default() }
}

async fn run(agent: &Client, id: &str) -> Run {
    agent.get_run(&GetRunRequest { run_id: id.to_owned(), ..Default::default() }).await.unwrap()
}

/// Calls until it is put off: how often it was carried out, and how it was put off. On a machine
/// so slow that a minute is over before that, it goes on.
async fn until_put_off(agent: &Client, tool: &str, params: &Value, most: usize) -> (usize, Action) {
    for done in 0..most {
        let request = SubmitActionRequest { wait_ms: Some(60_000), ..action(tool, params) };
        let called = agent.submit_action(&request, None).await.unwrap();
        if called.state() == State::Denied {
            return (done, called);
        }
        reaches(agent, &called.action_id, State::Executed).await;
    }
    panic!("{tool} was called {most} times and never put off");
}

#[track_caller]
fn assert_put_off(action: &Action, code: &str, words: &str) {
    let error = action.error.clone().unwrap();
    assert_eq!((error.code.as_str(), error.retryable), (code, true), "{error:?}");
    assert_eq!(error.category().as_str_name(), "RATE_LIMITED");
    assert!(error.message.contains(words), "{error:?}");
    assert!((1..=60_000).contains(&error.retry_after_ms.unwrap()), "{error:?}");
    let decision = action.decision.as_ref().unwrap();
    assert_eq!(
        (decision.effect(), decision.reasons.as_slice()),
        (Effect::Throttle, &[code.to_owned()][..])
    );
}

/// The shipped definition, with the calls of what reads an incident bounded.
fn bounded(per_minute: &str) -> String {
    let shipped = include_str!("../../../../catalog/connectors/servicenow.yaml");
    let operation = "    get_incident:\n";
    let caps = format!("{operation}      caps: {{perMinute: {per_minute}}}\n");
    let text = shipped.replacen(operation, &caps, 1);
    assert_ne!(text, shipped);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_called_as_often_as_its_definition_says() {
    let Desk { mut server, agent, system } = Desk::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bounded.yaml");
    let path = path.to_str().unwrap();
    let install = ["connector", "install", path, "--name", "bounded"];
    for wrong in ["0", "1000001"] {
        fs::write(path, bounded(wrong)).unwrap();
        let refused = server.tally(&server.owner_key(), &install);
        assert_ne!(refused.status.code(), Some(0));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("line ") && said.contains("must be 1 to 1000000"), "{said}");
    }
    fs::write(path, bounded("2")).unwrap();
    done(&server, &install);
    let url = system.url();
    let configure = ["connector", "configure", "bounded", "--base-url", &url];
    let secrets = ["--secret", "client_id=sn-id", "--secret", "client_secret=sn-secret"];
    done(&server, &[&configure[..], &secrets[..]].concat());
    let (tool, params) = ("bounded.get_incident", json!({"sys_id": INCIDENT}));
    let (done, refused) = until_put_off(&agent, tool, &params, 20).await;
    assert!(done >= 2, "{done}");
    assert_put_off(&refused, "call_cap", "calls of this operation");
    // A start gives no second allowance, as the log shows in the end.
    server.kill();
    server.restart();
    let (_, refused) = until_put_off(&agent, tool, &params, 20).await;
    assert_put_off(&refused, "call_cap", "calls of this operation");
    // The other instance of the same system, and other operations, have nothing to do with it.
    for _ in 0..3 {
        result(&agent, "servicenow.get_incident", &params).await;
    }
    let note = json!({"sys_id": INCIDENT, "text": "seen"});
    result(&agent, "bounded.add_work_note", &note).await;
    // A step of a run waits for its turn, and nothing is written down meanwhile.
    let step = json!({"id": "read", "action": tool, "input": params});
    let id = agent.start_run(&start(&[step]), None).await.unwrap().run_id;
    let end = Instant::now() + PATIENCE;
    let ended = loop {
        let run = run(&agent, &id).await;
        if run.state() == RunState::Succeeded {
            break run;
        }
        assert_eq!((run.state(), run.steps[0].tries <= 1), (RunState::Running, true), "{run:?}");
        assert!(Instant::now() < end, "it never gets its turn: {run:?}");
        sleep(LOOK_EVERY).await;
    };
    assert_eq!(ended.steps[0].tries, 1);
    assert!(put_off(&server, "operation").await > 0);
    assert!(server.terminate().success());
    let logged = logged(&server);
    let began = &logged.began[tool];
    assert_bound(began, 2);
    // Each of them was asked for once, the two that were refused too.
    assert_eq!(logged.asked[tool], began.len() + 2);
    assert_eq!(logged.of_steps, began.last().copied().into_iter().collect::<Vec<_>>());
}

/// The configuration says nothing of `caps`: 30 writes in a minute of a workflow, 300 of a tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_has_30_writes_a_minute_and_a_tenant_300() {
    let Desk { mut server, agent, system: _system } = Desk::new().await;
    let note = json!({"sys_id": INCIDENT, "text": "seen"});
    let step = |n: usize| json!({"id": format!("note_{n}"), "action": NOTE, "input": note});
    let steps: Vec<_> = (0..31).map(step).collect();
    let id = agent.start_run(&start(&steps), None).await.unwrap().run_id;
    let end = Instant::now() + PATIENCE;
    loop {
        // In this order: what is done when it is put off is done a moment later, too.
        let waits = put_off(&server, "workflow").await > 0;
        let run = run(&agent, &id).await;
        let succeeded = run.steps.iter().filter(|step| step.state == "succeeded").count();
        if waits || run.state() == RunState::Succeeded {
            assert!(succeeded >= 30, "only {succeeded} in a minute");
            break;
        }
        assert!(Instant::now() < end, "it neither waits nor ends: {run:?}");
        sleep(LOOK_EVERY).await;
    }
    // Writes by themselves are the tenant's alone.
    let mut executed = 0;
    let refused = loop {
        let called = call(&agent, NOTE, &note).await;
        if called.state() == State::Denied {
            break Some(called);
        }
        reaches(&agent, &called.action_id, State::Executed).await;
        executed += 1;
        // A machine on which that many take longer than a minute shows no more than the log does.
        if executed == 400 {
            break None;
        }
    };
    assert!(server.terminate().success());
    let logged = logged(&server);
    let began = &logged.began[NOTE];
    if let Some(refused) = refused {
        assert_put_off(&refused, "write_cap", "writes");
        assert!(began.len() >= 300, "only {} in a minute", began.len());
    }
    assert!(logged.of_steps.len() >= 30);
    assert_bound(&logged.of_steps, 30);
    assert_bound(began, 300);
}
