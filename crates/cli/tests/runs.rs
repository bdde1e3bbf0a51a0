//! Runs, over HTTP: what they do, how they end, and how they are steered.

mod again;
mod allowance;
mod bounds;
mod clock;
mod doubt;
mod full;
mod kill;
mod money;
mod steer;
mod turns;
mod upstream;

use std::collections::BTreeMap;

use client::Client;
use proto::actions::GetActionRequest;
use proto::approvals::Approval;
use proto::identity::principal::Kind;
use proto::runs::{GetRunRequest, Run, RunState, StartRunRequest};
use proto::types::Json;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::common::desk::approve;
use crate::common::target::Target;
use crate::common::{LOOK_EVERY, PATIENCE, Server, allow_all};

/// A server, a host to call, a folder to write to, and an agent.
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) target: Target,
    pub(crate) files: TempDir,
    pub(crate) agent: Client,
    /// Its configuration, but for what a test adds.
    pub(crate) base: String,
}

impl Place {
    pub(crate) async fn new(yaml: &str) -> Self {
        Self::on(None, yaml).await
    }

    pub(crate) async fn on(database: Option<&testkit::Database>, yaml: &str) -> Self {
        let start = |yaml: &str| match database {
            None => Server::start(yaml),
            Some(database) => Server::start_on(database, yaml),
        };
        Self::by(start, yaml).await
    }

    /// The same with a server that is started in another way.
    async fn by(start: impl FnOnce(&str) -> Server, yaml: &str) -> Self {
        Self::calling(Target::start().await, start, yaml).await
    }

    /// The same with a host that behaves in another way.
    async fn calling(target: Target, start: impl FnOnce(&str) -> Server, yaml: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let folder = files.path();
        let base = format!(
            "grants: {{http: [{}], fs_read: [{folder:?}], fs_write: [{folder:?}]}}\n\
             policy: {{decision_limit_ms: 5000}}\n",
            target.grant(),
        );
        let server = start(&format!("{base}{yaml}"));
        server.publish(&allow_all()).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, target, files, agent, base }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.target.port())
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn call(&self, id: &str, method: &str, path: &str) -> Value {
        let input = json!({"method": method, "url": self.url(path)});
        json!({"id": id, "action": "core.http_call", "input": input})
    }

    /// How often each path was called.
    pub(crate) fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        for delivery in self.target.seen() {
            *calls.entry(delivery.path).or_default() += 1;
        }
        calls
    }
}

pub(crate) fn workflow(steps: &[Value]) -> StartRunRequest {
    let document = json!({
        "apiVersion": "tally/v1",
        "kind": "Workflow",
        "metadata": {"name": "story", "version": "1.0.0"},
        "spec": {"riskTier": "low", "steps": steps},
    });
    // JSON is YAML.
    StartRunRequest {
        workflow: document.to_string(),
        wait_ms: Some(60_000),
        ..StartRunRequest::default()
    }
}

pub(crate) fn with(mut step: Value, more: Value) -> Value {
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

pub(crate) fn transform(id: &str, input: Value, filter: &str) -> Value {
    json!({"id": id, "action": "core.json_transform", "input": {"input": input, "filter": filter}})
}

pub(crate) async fn read(client: &Client, id: &str) -> Run {
    let request = GetRunRequest { run_id: id.to_owned(), ..GetRunRequest::default() };
    client.get_run(&request).await.unwrap()
}

/// The run once `is` holds of it.
pub(crate) async fn until(client: &Client, id: &str, what: &str, is: impl Fn(&Run) -> bool) -> Run {
    let end = Instant::now() + PATIENCE;
    loop {
        let run = read(client, id).await;
        if is(&run) {
            return run;
        }
        assert!(Instant::now() < end, "{what} never comes: {run:?}");
        sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn reaches(client: &Client, id: &str, state: RunState) -> Run {
    until(client, id, state.as_str_name(), |run| run.state() == state).await
}

/// A run that waits for so many seconds and then calls `path`; its timer is set.
async fn timed_run(place: &Place, seconds: i64, path: &str) -> String {
    let timer = json!({"id": "timer", "action": "time.wait", "input": {"seconds": seconds}});
    let steps = [timer, place.call("then", "PUT", path)];
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    until(&place.agent, &id, "the timer", |run| run.steps[0].wait_until.is_some()).await;
    id
}

fn states(run: &Run) -> Vec<&str> {
    run.steps.iter().map(|step| step.state.as_str()).collect()
}

pub(crate) fn value(json: &Option<Json>) -> Value {
    json.as_ref().map_or(Value::Null, |json| serde_json::from_str(&json.text).unwrap())
}

/// Approves what a step of the run waits for.
pub(crate) async fn approve_step(approver: &Client, run: &Run, step: &str) -> Approval {
    let step = run.steps.iter().find(|one| one.step_id == step).unwrap();
    let request = GetActionRequest { action_id: step.action_id.clone() };
    let action = approver.get_action(&request).await.unwrap();
    approve(approver, &action).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_passes_on_what_its_steps_give() {
    let place = Place::new("").await;
    let steps = [
        transform("first", json!({"who": "{{input.who}}"}), "{n: 1, who: .who}"),
        with(
            transform("never", json!(null), "."),
            json!({"when": "{{steps.first.output.output.0.n}} == 2"}),
        ),
        with(place.call("left", "PUT", "/left"), json!({"group": "both"})),
        with(place.call("right", "PUT", "/right"), json!({"group": "both"})),
        with(place.call("thrice", "PUT", "/thrice"), json!({"iterations": 3})),
        transform(
            "last",
            json!({
                "a": "{{steps.first.output.output.0.who}}",
                "b": "{{steps.thrice.output.status}}",
            }),
            ".",
        ),
    ];
    let mut request = workflow(&steps);
    request.input = Some(Json::of(&json!({"who": "Ada"})).unwrap());
    let run = place.agent.start_run(&request, Some("one")).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!(states(&run), ["succeeded"; 6]);
    assert!(run.steps[1].skipped && run.steps[1].action_id.is_empty());
    assert_eq!(value(&run.output)["output"][0], json!({"a": "Ada", "b": 200}));
    assert_eq!(place.calls(), [("/left", 1), ("/right", 1), ("/thrice", 3)].map(named).into());
    assert_eq!((run.name.as_str(), run.version.as_str()), ("story", "1.0.0"));
    // The same key is the same run.
    let again = place.agent.start_run(&request, Some("one")).await.unwrap();
    assert_eq!(again.run_id, run.run_id);
    let other = place.agent.start_run(&request, Some("two")).await.unwrap();
    assert_ne!(other.run_id, run.run_id);
}

fn named((path, times): (&str, usize)) -> (String, usize) {
    (path.to_owned(), times)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_may_want_people_where_policy_does_not() {
    let place = Place::new("").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let held = with(place.call("held", "PUT", "/held"), json!({"approval": {"quorum": 1}}));
    let steps =
        [place.call("before", "PUT", "/before"), held, place.call("after", "PUT", "/after")];
    let request = StartRunRequest { wait_ms: None, ..workflow(&steps) };
    let run = place.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::WaitingApproval, "{run:?}");
    assert_eq!(states(&run), ["succeeded", "waiting_approval", "ready"]);
    assert_eq!(place.calls(), [("/before", 1)].map(named).into());
    approve_step(&approver, &run, "held").await;
    let run = reaches(&place.agent, &run.run_id, RunState::Succeeded).await;
    assert_eq!(place.calls(), [("/before", 1), ("/held", 1), ("/after", 1)].map(named).into());
    assert_eq!(states(&run), ["succeeded"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_must_fit_its_schema() {
    let place = Place::new("").await;
    let schema = json!({"outputSchema": {
        "type": "object",
        "properties": {"output": {"type": "array", "items": {"type": "string"}}},
    }});
    let steps =
        [with(transform("junk", json!(1), "."), schema), place.call("write", "POST", "/never")];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.as_ref().unwrap().code, "output_schema_mismatch");
    assert_eq!(states(&run), ["failed_terminal", "canceled"]);
    assert!(place.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_or_fails_as_data() {
    let place = Place::new("").await;
    let unknown = json!({"id": "a", "action": "no.such", "input": {}});
    let refused = place.agent.start_run(&workflow(&[unknown]), None).await;
    assert_eq!(crate::common::refusal(refused), (404, "unknown_tool".to_owned()));
    // A template that reads what is not there ends the run, not the request.
    let steps = [
        transform("first", json!(1), "."),
        transform("second", json!("{{previous_output.nothing}}"), "."),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal);
    assert_eq!(run.error.unwrap().code, "template_missing");
    // At most so many calls may write.
    let steps = [place.call("one", "PUT", "/1"), place.call("two", "PUT", "/2")];
    let request = StartRunRequest { max_writes: Some(1), ..workflow(&steps) };
    let run = place.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.unwrap().code, "writes_exceeded");
    assert_eq!(place.calls(), [("/1", 1)].map(named).into());
}
