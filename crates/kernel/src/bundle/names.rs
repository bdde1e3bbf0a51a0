//! The names of a bundle's files.

use super::{CHECKPOINT, CONTROL, COST, MANIFEST, RUN, SUMS, VERIFY, VKEY};
use crate::tile::Tile;
use crate::values::Digest;

fn number(path: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

pub(super) fn receipt_index(path: &str) -> Option<u64> {
    number(path, "receipts/", ".dsse.json")
}

/// The index of the receipt that a file belongs to.
pub(super) fn any_index(path: &str) -> Option<u64> {
    receipt_index(path)
        .or_else(|| number(path, "receipts/", ".sigstore.json"))
        .or_else(|| number(path, "proofs/", ".tlog-proof"))
}

fn digest(path: &str, prefix: &str, suffix: &str) -> Option<Digest> {
    let digest = Digest::parse(path.strip_prefix(prefix)?.strip_suffix(suffix)?)?;
    (path == format!("{prefix}{}{suffix}", digest.hex())).then_some(digest)
}

pub(super) fn tile_of(path: &str) -> Option<Tile> {
    path.strip_prefix(super::LOG)?.parse().ok()
}

/// Whether a bundle has files of this name.
pub(super) fn known(path: &str) -> bool {
    [CHECKPOINT, VKEY, COST, RUN, MANIFEST, SUMS, VERIFY].contains(&path)
        || any_index(path).is_some()
        || tile_of(path).is_some()
        || digest(path, "keys/", ".pem").is_some()
        || digest(path, "policy/", ".tar.gz").is_some()
        || digest(path, "workflow/", ".yaml").is_some()
        || path.strip_prefix(CONTROL).is_some_and(of_control)
}

/// Whether a bundle has files of this name of the control log.
fn of_control(path: &str) -> bool {
    [CHECKPOINT, VKEY].contains(&path)
        || any_index(path).is_some()
        || digest(path, "keys/", ".pem").is_some()
}
