//! Steps of whose actions nobody knows how they ended: what people establish decides how their run
//! goes on, and no crash has an effect twice that may not be.

use proto::actions::action::State;
use proto::actions::reconcile_action_request::Outcome;
use proto::actions::{Action, GetActionRequest, ReconcileActionRequest};
use proto::runs::{ReplayRunRequest, Run, RunState, StartRunRequest};
use serde_json::{Value, json};

use super::{Place, named, reaches, states, until, with, workflow};
use crate::common::text;

async fn begun(place: &Place, steps: &[Value]) -> String {
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(steps) };
    place.agent.start_run(&request, None).await.unwrap().run_id
}

/// The run once nobody knows how a step of it ended, and all of it waits for that.
pub(super) async fn doubted(place: &Place, id: &str, step: usize) -> Run {
    let in_doubt = |run: &Run| {
        let error = run.steps[step].error.as_ref();
        let unknown = error.is_some_and(|error| error.code == "outcome_unknown");
        unknown && run.state() == RunState::WaitingApproval
    };
    until(&place.agent, id, "the doubt", in_doubt).await
}

/// Has a person say how the action of a step ended.
pub(super) async fn establish(place: &Place, run: &Run, step: usize, outcome: Outcome) {
    let request = ReconcileActionRequest {
        action_id: run.steps[step].action_id.clone(),
        outcome: outcome.into(),
        ..ReconcileActionRequest::default()
    };
    place.server.owner.reconcile_action(&request, None).await.unwrap();
}

async fn replayed(place: &Place, id: &str, mode: &str) -> proto::runs::ReplayRunResponse {
    let (run_id, mode) = (id.to_owned(), mode.to_owned());
    let request = ReplayRunRequest { run_id, mode, from_step: String::new() };
    place.agent.replay_run(&request, None).await.unwrap()
}

async fn action_of(place: &Place, run: &Run, step: usize) -> Action {
    let request = GetActionRequest { action_id: run.steps[step].action_id.clone() };
    place.agent.get_action(&request).await.unwrap()
}

fn crash(place: &mut Place) {
    place.server.kill();
    place.server.restart();
}

fn hurried(step: Value) -> Value {
    with(step, json!({"timeoutMs": 500}))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_heard_is_read_by_nobody() {
    let place = Place::new("").await;
    let reads = [
        place.call("reads", "PUT", "/read/{{steps.post.output.status}}"),
        // Nor is a condition guessed, whichever way it would go.
        with(
            place.call("reads", "PUT", "/never"),
            json!({"when": "{{steps.post.output.status}} != 200"}),
        ),
    ];
    for (n, reading) in reads.into_iter().enumerate() {
        let (silent, after) = (format!("/silent/{n}"), format!("/after/{n}"));
        let steps = [
            hurried(place.call("post", "POST", &silent)),
            place.call("after", "PUT", &after),
            reading,
        ];
        let id = begun(&place, &steps).await;
        let run = doubted(&place, &id, 0).await;
        establish(&place, &run, 0, Outcome::Executed).await;
        let run = reaches(&place.agent, &id, RunState::FailedTerminal).await;
        assert_eq!(states(&run), ["succeeded", "succeeded", "failed_terminal"]);
        let (post, last) = (&run.steps[0], run.steps[2].error.as_ref().unwrap());
        assert!(post.output_unknown && post.output.is_none() && post.error.is_none(), "{post:?}");
        assert!(!run.steps[1].output_unknown && run.steps[1].output.is_some(), "{run:?}");
        let whole = run.error.as_ref().unwrap();
        for error in [last, whole] {
            assert_eq!(error.code, "output_unknown", "{error:?}");
            assert!(error.message.contains("`post`"), "{error:?}");
        }
        assert!(whole.message.contains("`reads`"), "{whole:?}");
        assert_eq!((place.calls()[&silent], place.calls()[&after]), (1, 1));
        // The action says the same of itself, and the rules come to the same again.
        let action = action_of(&place, &run, 0).await;
        assert_eq!((action.state(), &action.result), (State::Executed, &None));
        assert_eq!(action.error.unwrap().code, "output_unknown");
        let played = replayed(&place, &id, "mock_replay").await;
        assert!(played.matches, "{played:?}");
    }
    assert_eq!(place.calls().len(), 4, "something was called besides: {:?}", place.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_happen_is_asked_for_again() {
    let place = Place::new("").await;
    let steps = |path: &str| {
        [hurried(place.call("post", "POST", path)), place.call("after", "PUT", "/after")]
    };
    // By the run itself, where the plan has it tried again.
    let [post, after] = steps("/silent/twice");
    let retry = json!({"retry": {"attempts": 2, "backoffMs": 10}});
    let id = begun(&place, &[with(post, retry), after]).await;
    let run = doubted(&place, &id, 0).await;
    establish(&place, &run, 0, Outcome::Failed).await;
    let run = reaches(&place.agent, &id, RunState::Succeeded).await;
    assert_eq!((run.steps[0].tries, run.steps[0].output_unknown), (2, false), "{run:?}");
    assert_eq!(place.calls(), [("/silent/twice", 2), ("/after", 1)].map(named).into());
    // By people, where it has not.
    let id = begun(&place, &steps("/silent/once")).await;
    let run = doubted(&place, &id, 0).await;
    establish(&place, &run, 0, Outcome::Failed).await;
    let run = reaches(&place.agent, &id, RunState::FailedRetryable).await;
    assert_eq!(run.error.as_ref().unwrap().code, "timeout", "{run:?}");
    assert_eq!(place.calls()["/silent/once"], 1);
    replayed(&place, &id, "resume").await;
    reaches(&place.agent, &id, RunState::Succeeded).await;
    assert_eq!((place.calls()["/silent/once"], place.calls()["/after"]), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_crash_cut_off_may_have_happened() {
    let mut place = Place::new("").await;
    let steps = [place.call("post", "POST", "/waits/post"), place.call("after", "PUT", "/after")];
    let id = begun(&place, &steps).await;
    place.target.asked("/waits/post").await;
    crash(&mut place);
    let run = doubted(&place, &id, 0).await;
    establish(&place, &run, 0, Outcome::Executed).await;
    let run = reaches(&place.agent, &id, RunState::Succeeded).await;
    assert!(run.steps[0].output_unknown, "{run:?}");
    let shown = place.server.tally(&place.server.owner_key(), &["run", "show", &id]);
    assert!(text(&shown).contains("output unknown"), "{shown:?}");
    assert_eq!(place.calls(), [("/waits/post", 1), ("/after", 1)].map(named).into());
    let action = action_of(&place, &run, 0).await;
    assert_eq!(action.error.unwrap().code, "output_unknown");
}

/// The kill comes while the dead letter is durable, and while its replay is held by the other side.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_has_its_effect_once_whatever_crashes() {
    let mut place = Place::new("").await;
    let once = json!({"retry": {"attempts": 1}});
    let steps = [
        place.call("before", "PUT", "/before"),
        with(place.call("fails", "PUT", "/unavailable/x"), once.clone()),
        place.call("held", "PUT", "/waits/held"),
        with(place.call("last", "PUT", "/waits/last"), once),
        place.call("after", "PUT", "/after"),
    ];
    let id = begun(&place, &steps).await;
    for failures in 1..=2 {
        until(&place.agent, &id, "the dead letter", |run| {
            run.state() == RunState::FailedRetryable && run.replays + 1 == failures
        })
        .await;
        crash(&mut place);
        let run = super::read(&place.agent, &id).await;
        assert_eq!(run.state(), RunState::FailedRetryable, "a crash replays nothing: {run:?}");
        assert_eq!(place.calls()["/unavailable/x"], usize::try_from(failures).unwrap());
        replayed(&place, &id, "resume").await;
    }
    // The other side has it: what is idempotent is repeated, as the same action.
    place.target.keys("/waits/held", 1).await;
    crash(&mut place);
    let held = place.target.keys("/waits/held", 2).await;
    assert_eq!(held[0], held[1], "one action, one key");
    place.target.let_go();
    let run = reaches(&place.agent, &id, RunState::Succeeded).await;
    let calls = [
        ("/before", 1),
        ("/unavailable/x", 3),
        ("/waits/held", 2),
        ("/waits/last", 1),
        ("/after", 1),
    ];
    assert_eq!(place.calls(), calls.map(named).into(), "{run:?}");
}

/// What is idempotent and has no attempt left is not repeated either: people find out, and what did
/// not happen is a dead letter, whose replay is another action.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempt_of_a_dead_letter_is_left_to_people() {
    let mut place = Place::new("").await;
    let once = json!({"retry": {"attempts": 1}});
    let steps = [
        with(place.call("last", "PUT", "/waits/last"), once),
        place.call("after", "PUT", "/after"),
    ];
    let id = begun(&place, &steps).await;
    place.target.keys("/waits/last", 1).await;
    crash(&mut place);
    let run = doubted(&place, &id, 0).await;
    crash(&mut place);
    assert_eq!(place.calls(), [("/waits/last", 1)].map(named).into());
    establish(&place, &run, 0, Outcome::Failed).await;
    let run = reaches(&place.agent, &id, RunState::FailedRetryable).await;
    assert_eq!(run.error.as_ref().unwrap().code, "attempt_lost", "{run:?}");
    crash(&mut place);
    replayed(&place, &id, "resume").await;
    let asked = place.target.keys("/waits/last", 2).await;
    assert_ne!(asked[0], asked[1], "another action, another key");
    place.target.let_go();
    reaches(&place.agent, &id, RunState::Succeeded).await;
    assert_eq!(place.calls(), [("/waits/last", 2), ("/after", 1)].map(named).into());
}
