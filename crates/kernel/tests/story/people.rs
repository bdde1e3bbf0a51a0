//! What people prove themselves with.

use kernel::machine::{Change, Kind};
use kernel::values::Digest;
use kernel::{factor, signer};

use super::{Told, principal, time};

/// A second factor that is taken into use, guessed at, and removed; a signing key that comes and
/// goes.
pub(super) fn commits() -> Vec<Vec<Told>> {
    let factor = |change| vec![(Kind::Factor, "u_2", Change::Factor(change))];
    let signer = |change| vec![(Kind::Signer, "u_2", Change::Signer(change))];
    let registered = |key: &[u8], algorithm| signer::Change::Registered {
        key_id: Digest::of(key),
        algorithm,
        public_key: "c3BraQ==".to_owned(),
    };
    vec![
        factor(factor::Change::Enrolled {}),
        factor(factor::Change::Confirmed { counter: 59_840_880 }),
        factor(factor::Change::Used { counter: 59_840_881 }),
        factor(factor::Change::Failed { locked_until: None }),
        factor(factor::Change::Failed { locked_until: Some(time(900)) }),
        factor(factor::Change::Removed { by: principal("u_1") }),
        signer(registered(b"spki", signer::Algorithm::Ed25519)),
        signer(registered(b"other", signer::Algorithm::EcdsaP256Sha256)),
        signer(signer::Change::Removed { key_id: Digest::of(b"spki") }),
    ]
    .into_iter()
    .chain(super::mcp::commits())
    .chain(super::sandbox::commits())
    .chain(super::hooks::triggers())
    .collect()
}
