//! The second factors and signing keys with which people prove who they are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::factor::{self, Factor, Purpose};
use kernel::ids::PrincipalId;
use kernel::machine::{Applied, Refusal};
use kernel::signer::{self, Algorithm, Signer};
use kernel::values::{Digest, Timestamp};
use serde_json::Value;

fn at(second: i64) -> Timestamp {
    Timestamp(1_000_000).plus_micros(second * 1_000_000)
}

fn principal(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

/// One second factor that things happen to.
struct Phone(Option<Factor>);

impl Phone {
    #[track_caller]
    fn then(&mut self, second: i64, input: factor::Input, expect: &str) -> &mut Self {
        let what = format!("{input:?} at {second}");
        let got = match factor::step(self.0.as_ref(), input, at(second)) {
            Ok(change) => {
                let applied = Applied { id: "ann", index: 0, time: at(second) };
                factor::apply(&mut self.0, &change, &applied);
                let name = serde_json::to_value(&change).unwrap();
                name.get("type").and_then(Value::as_str).unwrap().to_owned()
            }
            Err(refusal) => refusal.code().0.to_owned(),
        };
        assert_eq!(got, expect, "{what}");
        self
    }
}

fn code(purpose: Purpose, counter: impl Into<Option<u64>>) -> factor::Input {
    factor::Input::Prove { purpose, counter: counter.into() }
}

#[test]
fn a_code_is_good_once_and_guessing_locks() {
    use Purpose::{Confirm, Use};
    let (enroll, wrong) = (|| factor::Input::Enroll {}, || code(Use, None));
    let remove = || factor::Input::Remove { by: principal("ann") };
    let mut phone = Phone(None);
    phone
        .then(0, code(Use, 5), "step_up_not_enrolled")
        .then(0, remove(), "step_up_not_enrolled")
        .then(0, enroll(), "factor.enrolled")
        .then(1, code(Use, 5), "step_up_not_enrolled")
        .then(1, enroll(), "factor.enrolled")
        .then(2, code(Confirm, 5), "factor.confirmed")
        .then(3, code(Confirm, 6), "already_exists")
        .then(3, enroll(), "already_exists")
        .then(3, code(Use, 5), "step_up_replayed")
        .then(3, code(Use, 4), "step_up_replayed")
        .then(3, code(Use, 6), "factor.used")
        .then(3, code(Use, 6), "step_up_replayed");
    for _ in 0..4 {
        phone.then(4, wrong(), "factor.failed");
    }
    phone.then(4, code(Use, 7), "factor.used");
    for _ in 0..5 {
        phone.then(5, wrong(), "factor.failed");
    }
    let quarter = 15 * 60;
    phone
        .then(5, code(Use, 8), "step_up_locked")
        .then(4 + quarter, code(Use, 8), "step_up_locked")
        .then(5 + quarter, code(Use, 7), "step_up_replayed")
        .then(5 + quarter, wrong(), "factor.failed")
        .then(5 + quarter, code(Use, 8), "factor.used")
        .then(6 + quarter, remove(), "factor.removed")
        .then(6 + quarter, code(Use, 9), "step_up_not_enrolled")
        .then(6 + quarter, enroll(), "factor.enrolled");
    for _ in 0..5 {
        phone.then(5_000, code(Confirm, None), "factor.failed");
    }
    phone.then(5_001, enroll(), "step_up_locked").then(5_001, code(Confirm, 200), "step_up_locked");
}

#[test]
fn codes_of_three_steps_are_taken() {
    let counters = |second: i64| factor::counters(Timestamp(second * 1_000_000));
    assert_eq!(counters(59).collect::<Vec<_>>(), [1, 0, 2]);
    assert_eq!(counters(60).collect::<Vec<_>>(), [2, 1, 3]);
    assert_eq!(counters(0).collect::<Vec<_>>(), [0, 1], "before 1970 there is none");
}

#[test]
fn signing_keys_come_and_go_for_good() {
    let mut state: Option<Signer> = None;
    let mut then = |input: signer::Input| {
        let change = signer::step(state.as_ref(), input)?;
        signer::apply(&mut state, &change, &Applied { id: "ann", index: 0, time: at(0) });
        Ok::<_, Refusal>(state.as_ref().unwrap().active().count())
    };
    let add = |name: u8| signer::Input::Register {
        key_id: Digest::of(&[name]),
        algorithm: Algorithm::Ed25519,
        public_key: "a2V5".to_owned(),
    };
    let remove = |name: u8| signer::Input::Remove { key_id: Digest::of(&[name]) };
    assert_eq!(then(remove(0)), Err(Refusal::Absent));
    for name in 0..8 {
        assert_eq!(then(add(name)), Ok(usize::from(name) + 1));
    }
    assert!(then(add(8)).is_err(), "eight at once");
    assert_eq!(then(add(0)), Err(Refusal::Exists));
    assert_eq!(then(remove(0)), Ok(7));
    assert_eq!(then(remove(0)), Err(Refusal::Absent));
    assert_eq!(then(add(0)), Err(Refusal::Exists), "it may be in other hands");
    assert_eq!(then(add(8)), Ok(8));
}
