//! Triggers and cards: what may follow what.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kernel::action::FailureCode;
use kernel::approval::Status;
use kernel::card::{self, Card, Face, Message};
use kernel::failure::Category;
use kernel::ids::{ActionId, EnvironmentId, PrincipalId, RunId, WorkspaceId};
use kernel::machine::{Applied, Refusal};
use kernel::trigger::{self, Binding, Fired, Source, Trigger};
use kernel::values::{Digest, Timestamp};

fn by() -> PrincipalId {
    PrincipalId::new("u_1").unwrap()
}

fn failure() -> FailureCode {
    FailureCode { code: "upstream_error".to_owned(), category: Category::Upstream }
}

fn binding(source: Source, next_at: Option<i64>) -> trigger::Input {
    trigger::Input::Create(Box::new(Binding {
        source,
        definition: Digest::of(b"definition"),
        workspace: WorkspaceId::new("main").unwrap(),
        environment: EnvironmentId::new("dev").unwrap(),
        principal: PrincipalId::new("svc_1").unwrap(),
        by: by(),
        next_at: next_at.map(Timestamp),
    }))
}

fn fire(due: i64, next: i64) -> trigger::Input {
    trigger::Input::Fire(Box::new(Fired {
        due_at: Timestamp(due),
        run: Some(RunId::new("run_1").unwrap()),
        failure: None,
        next_at: Some(Timestamp(next)),
    }))
}

/// What inputs fold to, and the refusal that ends them.
fn trigger(inputs: Vec<trigger::Input>) -> (Option<Trigger>, Option<Refusal>) {
    let mut state = None;
    for (index, input) in inputs.into_iter().enumerate() {
        let index = u64::try_from(index).unwrap();
        let applied = Applied { id: "nightly", index, time: Timestamp(1) };
        match trigger::step(state.as_ref(), input) {
            Ok(change) => trigger::apply(&mut state, &change, &applied),
            Err(refusal) => return (state, Some(refusal)),
        }
    }
    (state, None)
}

#[test]
fn a_schedule_fires_once_for_each_due_time() {
    let made = || binding(Source::Schedule, Some(10));
    let (state, refusal) = trigger(vec![made(), fire(10, 20), fire(20, 30)]);
    assert_eq!(refusal, None);
    assert_eq!(state.unwrap().due(), Some(Timestamp(30)));
    for (inputs, expect) in [
        (vec![made(), fire(10, 20), fire(10, 20)], Refusal::Moved),
        (vec![made(), fire(11, 20)], Refusal::Moved),
        (vec![binding(Source::Github, None), fire(10, 20)], Refusal::Moved),
        (vec![fire(10, 20)], Refusal::Absent),
        (
            vec![made(), trigger::Input::Disable { by: by() }, fire(10, 20)],
            Refusal::State("disabled"),
        ),
        (vec![made(), trigger::Input::Remove { by: by() }, fire(10, 20)], Refusal::Absent),
        (vec![made(), made()], Refusal::Exists),
    ] {
        assert_eq!(trigger(inputs.clone()).1, Some(expect), "{inputs:?}");
    }
    let odd = [
        vec![made(), fire(10, 10)],
        vec![binding(Source::Schedule, None)],
        vec![binding(Source::Github, Some(1))],
        vec![made(), neither()],
    ];
    for inputs in odd {
        let refusal = trigger(inputs.clone()).1;
        assert!(matches!(refusal, Some(Refusal::InvalidInput(_))), "{inputs:?} {refusal:?}");
    }
}

/// A due time that came to neither a run nor a failure.
fn neither() -> trigger::Input {
    let trigger::Input::Fire(fired) = fire(10, 20) else { panic!("it fires") };
    trigger::Input::Fire(Box::new(Fired { run: None, ..*fired }))
}

#[test]
fn a_trigger_rests_while_it_is_disabled() {
    let made = || binding(Source::Schedule, Some(10));
    let disable = || trigger::Input::Disable { by: by() };
    let enable = |at: i64| trigger::Input::Enable { by: by(), next_at: Some(Timestamp(at)) };
    let (state, _) = trigger(vec![made(), disable()]);
    let state = state.unwrap();
    assert_eq!((state.due(), state.status()), (None, "disabled"));
    let (state, _) = trigger(vec![made(), disable(), enable(50)]);
    assert_eq!(state.unwrap().due(), Some(Timestamp(50)));
    assert_eq!(trigger(vec![made(), enable(50)]).1, Some(Refusal::State("enabled")));
    assert_eq!(trigger(vec![made(), disable(), disable()]).1, Some(Refusal::State("disabled")));
    let (state, refusal) = trigger(vec![made(), trigger::Input::Remove { by: by() }, made()]);
    assert_eq!((state.unwrap().status(), refusal), ("enabled", None));
}

fn card(inputs: Vec<card::Input>) -> (Option<Card>, Option<Refusal>) {
    let mut state = None;
    for (index, input) in inputs.into_iter().enumerate() {
        let index = u64::try_from(index).unwrap();
        let applied = Applied { id: "apr_1", index, time: Timestamp(1) };
        match card::step(state.as_ref(), input) {
            Ok(change) => card::apply(&mut state, &change, &applied),
            Err(refusal) => return (state, Some(refusal)),
        }
    }
    (state, None)
}

fn face(status: Status, votes: u32) -> Face {
    Face { status, votes }
}

fn open() -> card::Input {
    card::Input::Open { trigger: "slack".to_owned() }
}

fn post(channel: &str) -> card::Input {
    let message = Message { channel: channel.to_owned(), ts: "17.01".to_owned() };
    let action = ActionId::new("act_1").unwrap();
    card::Input::Post { action, message, face: face(Status::Requested, 0) }
}

fn show(status: Status, votes: u32) -> card::Input {
    card::Input::Show { action: ActionId::new("act_2").unwrap(), face: face(status, votes) }
}

fn miss(in_doubt: bool, retry_at: Option<i64>) -> card::Input {
    let retry_at = retry_at.map(Timestamp);
    card::Input::Miss { action: None, failure: failure(), in_doubt, retry_at }
}

#[test]
fn a_card_is_posted_once_and_shows_each_face_once() {
    let (state, refusal) =
        card(vec![open(), post("C1"), show(Status::Requested, 1), show(Status::Approved, 2)]);
    let state = state.unwrap();
    assert_eq!((refusal, state.over, state.status()), (None, true, "closed"));
    for (inputs, expect) in [
        (vec![post("C1")], Refusal::Absent),
        (vec![open(), open()], Refusal::Exists),
        (vec![open(), show(Status::Approved, 1)], Refusal::State("open")),
        (vec![open(), post("C1"), post("C1")], Refusal::State("posted")),
        (vec![open(), post("C1"), show(Status::Requested, 0)], Refusal::State("unchanged")),
        (vec![open(), post("C1"), card::Input::Withdraw {}], Refusal::State("posted")),
        (vec![open(), card::Input::Withdraw {}, post("C1")], Refusal::State("closed")),
        (vec![open(), post("C1"), show(Status::Expired, 0), open()], Refusal::Exists),
        (
            vec![open(), post("C1"), show(Status::Expired, 0), show(Status::Expired, 1)],
            Refusal::State("closed"),
        ),
        (vec![open(), miss(false, None), post("C1")], Refusal::State("closed")),
    ] {
        assert_eq!(card(inputs.clone()).1, Some(expect), "{inputs:?}");
    }
    let wrong = card(vec![open(), post("#ops")]).1;
    assert!(matches!(wrong, Some(Refusal::InvalidInput(_))), "{wrong:?}");
}

#[test]
fn a_card_that_was_missed_is_due_again() {
    let (state, _) = card(vec![open(), miss(true, Some(5)), miss(false, Some(9))]);
    let state = state.unwrap();
    assert_eq!((state.missed, state.in_doubt, state.due()), (2, true, Some(Timestamp(9))));
    let (state, _) = card(vec![open(), miss(true, Some(5)), post("C1")]);
    let state = state.unwrap();
    assert_eq!((state.missed, state.due(), state.status()), (0, None, "open"));
    let (state, _) = card(vec![open(), miss(false, None)]);
    let state = state.unwrap();
    assert_eq!((state.status(), state.retry_at), ("closed", None));
    assert_eq!(state.failure, Some(failure()));
}
