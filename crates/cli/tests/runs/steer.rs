//! Runs that are held, ended, replayed, given up, compared, and made to wait.

use client::Client;
use proto::identity::principal::Kind;
use proto::runs::{
    CancelRunRequest, DiffRunsRequest, DiscardRunRequest, ListRunsRequest, PauseRunRequest,
    ReplayRunRequest, ResumeRunRequest, Run, RunState, StartRunRequest,
};
use serde_json::json;

use super::{Place, approve_step, named, reaches, states, transform, until, with, workflow};
use crate::common::{assert_code, refusal, text};

fn waiting(request: StartRunRequest) -> StartRunRequest {
    StartRunRequest { wait_ms: Some(0), ..request }
}

/// A run of three steps that waits for people before the first, and will again before the last;
/// and who approves them.
async fn held() -> (Place, Client, Run) {
    let place = Place::new("").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let held = |id: &str, path: &str| {
        with(place.call(id, "PUT", path), json!({"approval": {"quorum": 1}}))
    };
    let steps = [held("one", "/1"), place.call("two", "PUT", "/2"), held("three", "/3")];
    let run = place.agent.start_run(&waiting(workflow(&steps)), None).await.unwrap();
    let run = reaches(&place.agent, &run.run_id, RunState::WaitingApproval).await;
    (place, approver, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_resumed_and_canceled() {
    let (place, approver, run) = held().await;
    let id = run.run_id.clone();
    let pause = PauseRunRequest { run_id: id.clone() };
    assert_eq!(place.agent.pause_run(&pause, None).await.unwrap().state(), RunState::Paused);
    // What was under way goes on; nothing new starts.
    approve_step(&approver, &run, "one").await;
    let run = until(&place.agent, &id, "the first step", |run| states(run)[0] == "succeeded").await;
    assert_eq!((run.state(), states(&run)[1]), (RunState::Paused, "ready"));
    let resume = ResumeRunRequest { run_id: id.clone() };
    place.agent.resume_run(&resume, None).await.unwrap();
    let run = reaches(&place.agent, &id, RunState::WaitingApproval).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "waiting_approval"]);
    // Somebody else's run is none.
    let stranger = place.server.principal(Kind::Agent, &["agent"]).await;
    let cancel = CancelRunRequest { run_id: id.clone() };
    assert_eq!(refusal(stranger.cancel_run(&cancel, None).await), (404, "not_found".to_owned()));
    place.agent.cancel_run(&cancel, None).await.unwrap();
    let run = reaches(&place.agent, &id, RunState::Canceled).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "canceled"]);
    assert_eq!(place.calls(), [("/1", 1), ("/2", 1)].map(named).into());
    let resumed = place.agent.resume_run(&resume, None).await;
    assert_eq!(refusal(resumed), (409, "state_conflict".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_steered_by_the_program() {
    let (place, approver, run) = held().await;
    let id = run.run_id.clone();
    let key = place.server.owner_key();
    let tell = |what: &str| place.server.tally(&key, &["run", what, &id]);
    let paused = tell("pause");
    assert_code(&paused, 0);
    assert!(text(&paused).contains("paused"), "{}", text(&paused));
    approve_step(&approver, &run, "one").await;
    let run = until(&place.agent, &id, "the first step", |run| states(run)[0] == "succeeded").await;
    assert_eq!((run.state(), states(&run)[1]), (RunState::Paused, "ready"));
    assert_code(&tell("resume"), 0);
    let run = reaches(&place.agent, &id, RunState::WaitingApproval).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "waiting_approval"]);
    assert_code(&tell("cancel"), 0);
    let run = reaches(&place.agent, &id, RunState::Canceled).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "canceled"]);
    for late in ["pause", "resume", "cancel"] {
        let refused = tell(late);
        assert_code(&refused, 3);
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(why.contains("state_conflict"), "{late}: {why}");
    }
    // How it ended is the exit code of who watches it.
    assert_code(&tell("watch"), 4);
    assert_eq!(place.calls(), [("/1", 1), ("/2", 1)].map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_or_discarded() {
    let place = Place::new("").await;
    let once = json!({"retry": {"attempts": 1}});
    let steps = [
        place.call("before", "PUT", "/before"),
        with(place.call("fails", "PUT", "/unavailable/x"), once.clone()),
        place.call("after", "PUT", "/after"),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedRetryable, "{run:?}");
    assert_eq!(states(&run), ["succeeded", "failed_retryable", "ready"]);
    let letters =
        ListRunsRequest { state: RunState::FailedRetryable.into(), ..ListRunsRequest::default() };
    assert_eq!(place.agent.list_runs(&letters).await.unwrap().runs[0].run_id, run.run_id);
    // It answers 503 twice.
    let replay = |from: &str| ReplayRunRequest {
        run_id: run.run_id.clone(),
        mode: "resume".to_owned(),
        from_step: from.to_owned(),
    };
    let refused = place.agent.replay_run(&replay("after"), None).await;
    assert_eq!(refusal(refused), (400, "invalid_argument".to_owned()));
    place.agent.replay_run(&replay(""), None).await.unwrap();
    let again = until(&place.agent, &run.run_id, "its second end", |run| {
        run.replays == 1 && run.state() == RunState::FailedRetryable
    });
    again.await;
    place.agent.replay_run(&replay("before"), None).await.unwrap();
    let run = reaches(&place.agent, &run.run_id, RunState::Succeeded).await;
    assert_eq!(run.replays, 2);
    let calls = [("/before", 2), ("/unavailable/x", 3), ("/after", 1)].map(named).into();
    assert_eq!(place.calls(), calls);

    let steps = [with(place.call("fails", "PUT", "/broken/x"), once)];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    let discard = DiscardRunRequest { run_id: run.run_id.clone() };
    let discarded = place.agent.discard_run(&discard, None).await.unwrap();
    assert_eq!(discarded.state(), RunState::FailedTerminal);
    let refused = place.agent.discard_run(&discard, None).await;
    assert_eq!(refusal(refused), (409, "state_conflict".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_tried_again_as_often_as_its_plan_says() {
    let place = Place::new("").await;
    // A POST that surely failed may be asked for anew; 429 with Retry-After is honoured.
    let retry = json!({"retry": {"attempts": 3, "backoffMs": 50}});
    let steps = [with(place.call("limited", "POST", "/limited/x"), retry)];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!((run.steps[0].tries, place.calls()["/limited/x"]), (2, 2));
    let waited = |run: &Run| {
        let micros = |at: &Option<proto::types::Timestamp>| at.unwrap().micros();
        micros(&run.ended_at) - micros(&run.created_at)
    };
    assert!(waited(&run) >= 2_000_000, "it asked for two seconds: {run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_compared_and_replayed() {
    let place = Place::new("").await;
    let steps = |second: i32| {
        [transform("one", json!(1), "."), transform("two", json!({"n": second}), ".")]
    };
    let run = place.agent.start_run(&workflow(&steps(2)), None).await.unwrap();
    assert!(!run.root_hash.is_empty(), "{run:?}");
    let replay = |mode: &str| ReplayRunRequest {
        run_id: run.run_id.clone(),
        mode: mode.to_owned(),
        from_step: String::new(),
    };
    let full = place.agent.replay_run(&replay("full_replay"), None).await.unwrap().run.unwrap();
    let full = reaches(&place.agent, &full.run_id, RunState::Succeeded).await;
    assert_eq!((full.replay_of.as_str(), &full.root_hash), (run.run_id.as_str(), &run.root_hash));
    let mock = place.agent.replay_run(&replay("mock_replay"), None).await.unwrap();
    assert!(mock.matches && mock.steps.len() == 2, "{mock:?}");
    let dry = place.agent.replay_run(&replay("dry_run"), None).await.unwrap();
    assert!(dry.matches && dry.steps.iter().all(|step| step.reasons == ["all"]), "{dry:?}");
    let diff =
        |other: &str| DiffRunsRequest { run_id: run.run_id.clone(), other_id: other.to_owned() };
    assert!(place.agent.diff_runs(&diff(&full.run_id)).await.unwrap().equal);
    let other = place.agent.start_run(&workflow(&steps(3)), None).await.unwrap();
    let compared = place.agent.diff_runs(&diff(&other.run_id)).await.unwrap();
    let first = &compared.differences[0];
    assert!(!compared.equal && compared.root_hash != compared.other_root_hash);
    assert_eq!((first.step_id.as_str(), first.field.as_str()), ("two", "params.input.n"));
    // The same by the program.
    let key = place.server.owner_key();
    let same = place.server.tally(&key, &["run", "diff", &run.run_id, &full.run_id]);
    assert_code(&same, 0);
    let differ = place.server.tally(&key, &["run", "diff", &run.run_id, &other.run_id]);
    assert_code(&differ, 1);
    assert!(text(&differ).contains("params.input.n"), "{}", text(&differ));
    let watched = place.server.tally(&key, &["run", "watch", &run.run_id]);
    assert_code(&watched, 0);
    assert!(text(&watched).contains("two succeeded act_"), "{}", text(&watched));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_does_nothing_does_nothing() {
    let place = Place::new("").await;
    let steps = [place.call("one", "PUT", "/1"), place.call("two", "PUT", "/broken/2")];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedRetryable, "{run:?}");
    let before = place.calls();
    for mode in ["mock_replay", "dry_run"] {
        let request = ReplayRunRequest {
            run_id: run.run_id.clone(),
            mode: mode.to_owned(),
            from_step: String::new(),
        };
        let replayed = place.agent.replay_run(&request, None).await.unwrap();
        assert!(replayed.matches, "{replayed:?}");
    }
    assert_eq!(place.calls(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_begin_and_wait() {
    let mut place = Place::new("runs: {per_minute_per_tenant: 1, queued_per_tenant: 2}").await;
    let steps = [place.call("one", "PUT", "/1")];
    let first = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(first.state(), RunState::Succeeded, "{first:?}");
    let mut queued = Vec::new();
    for _ in 0..2 {
        let run = place.agent.start_run(&waiting(workflow(&steps)), None).await.unwrap();
        assert_eq!(run.state(), RunState::Queued, "{run:?}");
        queued.push(run.run_id);
    }
    let refused = place.agent.start_run(&waiting(workflow(&steps)), None).await;
    assert_eq!(refusal(refused), (429, "runs_queue_full".to_owned()));
    // Whoever leaves the queue makes room in it.
    let cancel = CancelRunRequest { run_id: queued.remove(0) };
    let canceled = place.agent.cancel_run(&cancel, None).await.unwrap();
    assert_eq!(canceled.state(), RunState::Canceled);
    let run = place.agent.start_run(&waiting(workflow(&steps)), None).await.unwrap();
    assert_eq!(run.state(), RunState::Queued, "{run:?}");
    queued.push(run.run_id);
    assert_eq!(place.calls(), [("/1", 1)].map(named).into());
    // The queue outlives the server.
    place.server.kill();
    place.server.configure(&place.base);
    place.server.restart();
    for id in &queued {
        reaches(&place.agent, id, RunState::Succeeded).await;
    }
    assert_eq!(place.calls(), [("/1", 3)].map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_its_deadline() {
    let place = Place::new("").await;
    let steps = [
        json!({"id": "wait", "action": "time.wait", "input": {"seconds": 3600}}),
        place.call("never", "PUT", "/never"),
    ];
    let request = StartRunRequest { timeout_s: Some(1), ..workflow(&steps) };
    let run = place.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.unwrap().code, "run_timeout");
    assert!(place.calls().is_empty());
}
