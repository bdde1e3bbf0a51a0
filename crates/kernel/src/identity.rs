//! Identities: a login elsewhere (one subject of one issuer), and whose it is here.
//!
//! An identity's id is a keyed digest of issuer and subject, so that the log does not say, even
//! to those who guess, who logs in.

use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What changes an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was linked to a principal.
    #[serde(rename = "identity.linked")]
    Linked {
        /// Whose it is from then on.
        principal: PrincipalId,
        /// SHA-256 of the issuer's URL.
        issuer: Digest,
    },
    /// It is nobody's any more.
    #[serde(rename = "identity.unlinked")]
    Unlinked {},
}

/// What is asked of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Link it to a principal.
    Link {
        /// To whom.
        principal: PrincipalId,
        /// SHA-256 of the issuer's URL.
        issuer: Digest,
    },
    /// Take it from the principal that has it.
    Unlink {
        /// From whom.
        principal: PrincipalId,
    },
}

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Whose it is; nobody's once it was taken away.
    pub principal: Option<PrincipalId>,
    /// SHA-256 of the issuer's URL.
    pub issuer: Digest,
    /// Since when it is known.
    pub created_at: Timestamp,
}

/// The change that `input` makes, or why it makes none. An identity is one principal's at most.
pub fn step(state: Option<&Identity>, input: Input) -> Result<Change, Refusal> {
    let holder = state.and_then(|identity| identity.principal.as_ref());
    match input {
        Input::Link { .. } if holder.is_some() => Err(Refusal::Exists),
        Input::Link { principal, issuer } => Ok(Change::Linked { principal, issuer }),
        Input::Unlink { principal } if holder == Some(&principal) => Ok(Change::Unlinked {}),
        Input::Unlink { .. } => Err(Refusal::Absent),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Identity>, change: &Change, applied: &Applied<'_>) {
    match (state.as_mut(), change) {
        (None, Change::Linked { principal, issuer }) => {
            let (principal, issuer) = (Some(principal.clone()), *issuer);
            *state = Some(Identity { principal, issuer, created_at: applied.time });
        }
        (Some(identity), Change::Linked { principal, issuer }) => {
            (identity.principal, identity.issuer) = (Some(principal.clone()), *issuer);
        }
        (Some(identity), Change::Unlinked {}) => identity.principal = None,
        (None, Change::Unlinked {}) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(inputs: &[Input]) -> (Option<Identity>, Option<Refusal>) {
        let mut state = None;
        let applied = Applied { id: "x", index: 0, time: Timestamp(1) };
        for input in inputs {
            match step(state.as_ref(), input.clone()) {
                Ok(change) => apply(&mut state, &change, &applied),
                Err(refusal) => return (state, Some(refusal)),
            }
        }
        (state, None)
    }

    #[test]
    fn an_identity_has_one_holder_at_most() {
        let id = |id: &str| PrincipalId::new(id).unwrap();
        let link = |to: &str| Input::Link { principal: id(to), issuer: Digest::of(b"i") };
        let unlink = |from: &str| Input::Unlink { principal: id(from) };
        let check = |inputs: &[Input], holder: Option<&str>, refusal: Option<Refusal>| {
            let (state, refused) = fold(inputs);
            assert_eq!(state.and_then(|state| state.principal), holder.map(id), "{inputs:?}");
            assert_eq!(refused, refusal, "{inputs:?}");
        };
        check(&[link("ann")], Some("ann"), None);
        check(&[link("ann"), link("bob")], Some("ann"), Some(Refusal::Exists));
        check(&[link("ann"), link("ann")], Some("ann"), Some(Refusal::Exists));
        check(&[unlink("ann")], None, Some(Refusal::Absent));
        check(&[link("ann"), unlink("bob")], Some("ann"), Some(Refusal::Absent));
        check(&[link("ann"), unlink("ann"), unlink("ann")], None, Some(Refusal::Absent));
        check(&[link("ann"), unlink("ann"), link("bob")], Some("bob"), None);
    }
}
