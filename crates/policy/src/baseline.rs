//! The bundles of the catalog that are built into the program.

use crate::bundle::{Error, Source};

/// The files of a folder of `catalog/policies`.
macro_rules! files {
    ($folder:literal) => {
        [".manifest", "cases.json", "tally.rego", "tally_test.rego"].into_iter().zip([
            include_str!(concat!("../../../catalog/policies/", $folder, "/.manifest")),
            include_str!(concat!("../../../catalog/policies/", $folder, "/cases.json")),
            include_str!(concat!("../../../catalog/policies/", $folder, "/tally.rego")),
            include_str!(concat!("../../../catalog/policies/", $folder, "/tally_test.rego")),
        ])
    };
}

fn source(files: impl Iterator<Item = (&'static str, &'static str)>) -> Result<Source, Error> {
    Source::new(files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())))
}

/// The baseline: what `init`, `demo` and `tally mcp` publish.
///
/// # Errors
/// None in practice: the files are those that this crate's tests pass.
pub fn baseline() -> Result<Source, Error> {
    source(files!("baseline"))
}

/// Triage of incidents: what `demo itsm` publishes.
///
/// # Errors
/// None in practice: the files are those that this crate's tests pass.
pub fn itsm() -> Result<Source, Error> {
    source(files!("itsm"))
}
