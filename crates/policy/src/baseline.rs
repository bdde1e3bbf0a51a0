//! The baseline bundle, built into the program.

use crate::bundle::{Error, Source};

/// The files of `catalog/policies/baseline`.
const FILES: &[(&str, &str)] = &[
    (".manifest", include_str!("../../../catalog/policies/baseline/.manifest")),
    ("cases.json", include_str!("../../../catalog/policies/baseline/cases.json")),
    ("tally.rego", include_str!("../../../catalog/policies/baseline/tally.rego")),
    ("tally_test.rego", include_str!("../../../catalog/policies/baseline/tally_test.rego")),
];

/// The baseline: what `init`, `demo` and `tally mcp` publish.
///
/// # Errors
/// None in practice: the files are those that this crate's tests pass.
pub fn baseline() -> Result<Source, Error> {
    Source::new(FILES.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())))
}
