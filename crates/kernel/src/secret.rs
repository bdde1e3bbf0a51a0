//! The state machine of one secret that upstreams are shown: a password, a key, a token.
//!
//! The value is content, sealed beside the log, and the log has no digest of it either: whoever
//! reads receipts must not be able to try out guesses. It has who put, rotated and removed what.

use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::Timestamp;

/// What changes a secret. Each new value is a further version, also after a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was given a value, having had none.
    #[serde(rename = "secret.put")]
    Put {
        /// Which version that is.
        version: u64,
        /// By whom.
        by: PrincipalId,
    },
    /// It was given another value.
    #[serde(rename = "secret.rotated")]
    Rotated {
        /// Which version that is.
        version: u64,
        /// By whom.
        by: PrincipalId,
    },
    /// Its value was deleted.
    #[serde(rename = "secret.removed")]
    Removed {
        /// By whom.
        by: PrincipalId,
    },
}

/// What is asked of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Give it a first value.
    Put {
        /// What it is to be called: the id of the stream.
        name: String,
        /// By whom.
        by: PrincipalId,
    },
    /// Give it another value.
    Rotate {
        /// By whom.
        by: PrincipalId,
    },
    /// Delete its value.
    Remove {
        /// By whom.
        by: PrincipalId,
    },
}

/// A secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// What it is called.
    pub name: String,
    /// Which version of its value is the present one.
    pub version: u64,
    /// Whether the value was deleted.
    pub removed: bool,
    /// Who changed it last.
    pub by: PrincipalId,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub changed_at: Timestamp,
}

/// Whether a secret can have this name: 1 to 64 of `A-Z a-z 0-9 _ . : -`, a letter or digit first.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    name.len() <= limits::SECRET_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(plain)
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Secret>, input: Input) -> Result<Change, Refusal> {
    let next = state.map_or(1, |secret| secret.version.saturating_add(1));
    match (state.filter(|secret| !secret.removed), input) {
        (Some(_), Input::Put { .. }) => Err(Refusal::Exists),
        (None, Input::Put { name, .. }) if !is_name(&name) => Err(Refusal::InvalidInput(
            "a secret's name: 1 to 64 of A-Z a-z 0-9 _ . : - beginning with a letter or digit",
        )),
        (None, Input::Put { by, .. }) => Ok(Change::Put { version: next, by }),
        (None, Input::Rotate { .. } | Input::Remove { .. }) => Err(Refusal::Absent),
        (Some(_), Input::Rotate { by }) => Ok(Change::Rotated { version: next, by }),
        (Some(_), Input::Remove { by }) => Ok(Change::Removed { by }),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Secret>, change: &Change, applied: &Applied<'_>) {
    let (version, removed, by) = match (change, state.as_ref()) {
        (Change::Put { version, by } | Change::Rotated { version, by }, _) => (*version, false, by),
        (Change::Removed { by }, Some(secret)) => (secret.version, true, by),
        (Change::Removed { .. }, None) => return,
    };
    let created_at = state.as_ref().map_or(applied.time, |secret| secret.created_at);
    *state = Some(Secret {
        name: applied.id.to_owned(),
        version,
        removed,
        by: by.clone(),
        created_at,
        changed_at: applied.time,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by() -> PrincipalId {
        PrincipalId::new("u_1").unwrap()
    }

    fn run(inputs: &[Input]) -> Result<Secret, Refusal> {
        let mut state = None;
        for (index, input) in (0..).zip(inputs) {
            let change = step(state.as_ref(), input.clone())?;
            let time = Timestamp(i64::try_from(index).unwrap());
            apply(&mut state, &change, &Applied { id: "github", index, time });
        }
        state.ok_or(Refusal::Absent)
    }

    #[test]
    fn each_value_is_a_further_version() {
        let put = || Input::Put { name: "github".to_owned(), by: by() };
        let (rotate, remove) = (|| Input::Rotate { by: by() }, || Input::Remove { by: by() });
        let check = |inputs: &[Input], expect: Result<(u64, bool), Refusal>| {
            let secret = run(inputs).map(|secret| (secret.version, secret.removed));
            assert_eq!(secret, expect, "{inputs:?}");
        };
        check(&[put()], Ok((1, false)));
        check(&[put(), rotate(), rotate()], Ok((3, false)));
        check(&[put(), put()], Err(Refusal::Exists));
        check(&[put(), remove()], Ok((1, true)));
        check(&[put(), remove(), put()], Ok((2, false)));
        for inputs in [vec![rotate()], vec![remove()]] {
            check(&inputs, Err(Refusal::Absent));
            check(&[vec![put(), remove()], inputs].concat(), Err(Refusal::Absent));
        }
        let whole = run(&[put(), rotate()]).unwrap();
        assert_eq!((whole.created_at, whole.changed_at), (Timestamp(0), Timestamp(1)));
    }

    #[test]
    fn names() {
        for name in ["a", "GITHUB_TOKEN", "x.y-z", "oauth:github", "9"] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", "a}", long.as_str()] {
            assert!(!is_name(name), "{name}");
        }
    }
}
