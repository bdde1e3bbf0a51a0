//! `cargo xtask gen`: files in version control that are made from others.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repo;

const OPENAPI: &str = "spec/openapi.json";

/// Writes the generated files.
pub(crate) fn write() -> Result<()> {
    let path = repo::root().join(OPENAPI);
    fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    fs::write(&path, openapi()?).with_context(|| format!("cannot write {OPENAPI}"))?;
    println!("wrote {OPENAPI}");
    Ok(())
}

/// Fails when a generated file is not what `gen` would write.
pub(crate) fn check() -> Result<()> {
    let expected = openapi()?;
    let found = fs::read_to_string(repo::root().join(OPENAPI))
        .with_context(|| format!("cannot read {OPENAPI}: run `cargo xtask gen`"))?;
    if let Some(difference) = first_difference(&expected, &found) {
        bail!("{OPENAPI} has drifted from proto/: run `cargo xtask gen`\n{difference}");
    }
    println!("gen: no drift");
    Ok(())
}

/// The document that `proto` makes from the protobuf files, keys sorted, indented.
///
/// Read from an example's output: linking `proto` here would build it for every command.
fn openapi() -> Result<String> {
    let mut cargo = repo::cargo();
    cargo.args(["run", "--quiet", "--package", "proto", "--example", "openapi"]);
    let mut document: Value = serde_json::from_str(&repo::output(&mut cargo)?)
        .context("proto::OPENAPI_JSON is not JSON")?;
    document.sort_all_objects();
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

fn first_difference(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let (mut expected, mut found) = (expected.lines(), found.lines());
    let mut line = 1;
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return Some("only the line ends differ".to_owned()),
            (wanted, present) if wanted != present => {
                let [wanted, present] = [wanted, present].map(|side| side.unwrap_or("(nothing)"));
                return Some(format!("line {line}\n- {present}\n+ {wanted}"));
            }
            _ => line += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn names_the_first_difference() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let difference = first_difference("a\nb\n", "a\nc\n").unwrap();
        assert_eq!(difference, "line 2\n- c\n+ b");
        assert!(first_difference("a\nb\n", "a\n").unwrap().contains("- (nothing)\n+ b"));
        assert!(first_difference("a\n", "a").is_some());
    }
}
