//! The house rules that no lint can hold: sizes, layering, effects, words and links.

mod effects;
mod layout;
mod mask;
mod prose;
mod source;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo;

/// Whether `tidy` may change files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Run rustfmt first.
    Format,
    /// Change nothing.
    Check,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: PathBuf,
    /// Counted from 1; 0 is the file as a whole.
    line: usize,
    message: String,
}

impl Finding {
    fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::line(path, 0, message)
    }

    fn line(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), line, message: message.into() }
    }
}

/// A text file of the repository.
pub(crate) struct Text {
    /// Relative to the root.
    path: PathBuf,
    body: String,
}

impl Text {
    fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }
}

/// `cargo xtask tidy`: prints each finding and fails when there is one.
pub(crate) fn run(mode: Mode) -> Result<()> {
    if mode == Mode::Format {
        repo::run(repo::cargo().args(["fmt", "--all"]))?;
    }
    let findings = check()?;
    for Finding { path, line, message } in &findings {
        println!("{}:{line}: {message}", path.display());
    }
    if !findings.is_empty() {
        bail!("tidy: {} broken rules", findings.len());
    }
    println!("tidy: no broken rule");
    Ok(())
}

/// Every broken rule of the repository, sorted by file and line.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let texts = read_texts()?;
    let mut findings = layout::check(&repo::root())?;
    for text in &texts {
        findings.extend(words::check(text));
        if text.has_extension("rs") {
            let code = mask::mask(&text.body);
            findings.extend(source::check(text, &code));
            findings.extend(effects::check(text, &code));
        }
        if text.has_extension("md") {
            findings.extend(prose::check(text, &repo::root()));
        }
    }
    findings.sort();
    Ok(findings)
}

/// Reads all files but the binary ones.
fn read_texts() -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    for path in repo::files()? {
        let bytes = fs::read(repo::root().join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(body) = String::from_utf8(bytes) {
            texts.push(Text { path, body });
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let findings = super::check().unwrap();
        assert!(findings.is_empty(), "run `cargo xtask tidy --check`: {findings:#?}");
    }
}
