//! What the machines of identity take and refuse: keys, tenants, principals, sessions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::control::{self, Entity, Issue, Rotation};
use kernel::delegation::Delegation;
use kernel::ids::{EnvironmentId, PrincipalId, WorkspaceId};
use kernel::limits;
use kernel::machine::{self, Applied, Input, Refusal, State};
use kernel::principal::{ActorChain, PrincipalKind, Role};
use kernel::session::{self, Open};
use kernel::values::{Digest, Timestamp};

const NOW: Timestamp = Timestamp(1_000_000_000);

fn id(text: &str) -> PrincipalId {
    PrincipalId::new(text).unwrap()
}

/// Carries out each input in turn, as far as none is refused.
fn run(inputs: Vec<Input>, now: Timestamp) -> Result<Option<State>, Refusal> {
    let mut state = None;
    for (index, input) in (0..).zip(inputs) {
        for change in machine::step(state.as_ref(), input, now)? {
            machine::apply(&mut state, &change, &Applied { id: "some-1", index, time: now });
        }
    }
    Ok(state)
}

fn control(input: control::Input) -> Input {
    Input::Control(input)
}

fn delegation() -> Box<Delegation> {
    Box::new(Delegation {
        token: "tok_1".to_owned(),
        actors: ActorChain::direct(id("u_1"), PrincipalKind::User),
        scope: ["actions:read".to_owned()].into(),
        expires_at: NOW,
    })
}

fn issue() -> Input {
    control(control::Input::IssueKey(Box::new(Issue {
        principal: id("u_1"),
        secret: Digest::of(b"first"),
        workspace: WorkspaceId::new("ops").unwrap(),
        environment: EnvironmentId::new("dev").unwrap(),
        expires_at: None,
        rate_per_min: 1,
    })))
}

fn rotate(secret: &[u8], previous_until: Option<Timestamp>) -> Input {
    let secret = Digest::of(secret);
    control(control::Input::RotateKey(Rotation { secret, previous_until }))
}

fn open(method: &str, micros: i64) -> Input {
    Input::Session(session::Input::Open(Box::new(Open {
        principal: id("u_1"),
        workspace: WorkspaceId::new("ops").unwrap(),
        environment: EnvironmentId::new("dev").unwrap(),
        method: method.to_owned(),
        secret: Digest::of(b"secret"),
        expires_at: NOW.plus_micros(micros),
    })))
}

fn end() -> Input {
    Input::Session(session::Input::End { by: id("u_1") })
}

#[test]
fn a_key_keeps_the_last_secret_as_long_as_it_was_told() {
    let until = NOW.plus_micros(5);
    let state = run(vec![issue(), rotate(b"second", Some(until))], NOW).unwrap();
    let Some(State::Control(Entity::Key(key))) = state else { panic!("no key") };
    assert_eq!(key.issue.secret, Digest::of(b"second"));
    assert_eq!(key.previous, Some((Digest::of(b"first"), until)));
    let inputs = vec![issue(), rotate(b"second", Some(until)), rotate(b"third", None)];
    let Some(State::Control(Entity::Key(key))) = run(inputs, NOW).unwrap() else {
        panic!("no key")
    };
    assert_eq!((key.previous, key.revision), (None, 3), "without overlap none is left");
}

#[test]
fn what_has_ended_is_neither_rotated_nor_delegated() {
    let revoke = || control(control::Input::RevokeKey {});
    let hand_on = || control(control::Input::DelegateKey(delegation()));
    let refused = |inputs| run(inputs, NOW).unwrap_err();
    assert_eq!(refused(vec![issue(), revoke(), rotate(b"x", None)]), Refusal::State("revoked"));
    assert_eq!(refused(vec![issue(), revoke(), hand_on()]), Refusal::State("revoked"));
    assert!(run(vec![issue(), hand_on(), revoke()], NOW).is_ok());
    let session = || Input::Session(session::Input::Delegate(delegation()));
    assert_eq!(refused(vec![open("oidc:a", 5), end(), session()]), Refusal::State("ended"));
    assert_eq!(refused(vec![open("oidc:a", 5), end(), end()]), Refusal::State("ended"));
    assert_eq!(refused(vec![end()]), Refusal::Absent);
    assert_eq!(refused(vec![open("oidc:a", 5), open("oidc:a", 5)]), Refusal::Exists);
}

#[test]
fn a_session_ends_by_itself() {
    let check = |method: &str, micros, good: bool| {
        assert_eq!(run(vec![open(method, micros)], NOW).is_ok(), good, "{method} {micros}");
    };
    check("oidc:main", 1, true);
    check("oidc:main", limits::SESSION_MICROS_MAX, true);
    check("oidc:main", limits::SESSION_MICROS_MAX + 1, false);
    check("oidc:main", 0, false);
    check("", 1, false);
    check("OIDC main", 1, false);
    check(&"a".repeat(limits::SESSION_METHOD_BYTES_MAX + 1), 1, false);
    let Some(State::Session(session)) = run(vec![open("oidc:main", 2)], NOW).unwrap() else {
        panic!("no session")
    };
    assert!(session.is_live(NOW.plus_micros(1)) && !session.is_live(NOW.plus_micros(2)));
}

#[test]
fn tenants_and_principals_come_back() {
    use control::Input::{
        CreatePrincipal, CreateTenant, DisablePrincipal, EnablePrincipal, ResumeTenant,
        SuspendTenant,
    };
    let create =
        CreatePrincipal { kind: PrincipalKind::User, roles: [Role::Viewer].into(), account: None };
    let refused =
        |inputs: Vec<control::Input>| run(inputs.into_iter().map(control).collect(), NOW).err();
    for (inputs, expected) in [
        (vec![CreateTenant {}, SuspendTenant {}, ResumeTenant {}, SuspendTenant {}], None),
        (
            vec![CreateTenant {}, SuspendTenant {}, SuspendTenant {}],
            Some(Refusal::State("suspended")),
        ),
        (vec![CreateTenant {}, ResumeTenant {}], Some(Refusal::State("active"))),
        (vec![SuspendTenant {}], Some(Refusal::Absent)),
        (vec![create.clone(), DisablePrincipal {}, EnablePrincipal {}, DisablePrincipal {}], None),
        (vec![create, EnablePrincipal {}], Some(Refusal::State("enabled"))),
        (vec![EnablePrincipal {}], Some(Refusal::Absent)),
    ] {
        assert_eq!(refused(inputs.clone()), expected, "{inputs:?}");
    }
}

#[test]
fn the_key_of_tokens_overlaps_with_the_one_before() {
    let rotate = |micros| {
        control(control::Input::RotateTokenKey { previous_until: NOW.plus_micros(micros) })
    };
    let accepted = |inputs: Vec<Input>, micros| {
        let key = match run(inputs, NOW).unwrap() {
            None => control::TokenKey::default(),
            Some(State::Control(Entity::TokenKey(key))) => key,
            other => panic!("{other:?}"),
        };
        key.accepted(NOW.plus_micros(micros)).collect::<Vec<_>>()
    };
    assert_eq!(accepted(vec![], 0), [0]);
    assert_eq!(accepted(vec![rotate(5)], 4), [1, 0]);
    assert_eq!(accepted(vec![rotate(5)], 5), [1]);
    assert_eq!(accepted(vec![rotate(5), rotate(0)], 0), [2], "a third is never taken");
}
