//! `cargo xtask wasm`: the verifier for browsers and Node, as a folder that can be served or
//! imported as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{repo, tools};

const TARGET: &str = "wasm32-unknown-unknown";
/// Where the module and its face are, below `crates/`.
const CRATE: &str = "verifier-wasm";
/// What goes beside the module.
const FACE: [&str; 3] = ["js/verifier.mjs", "js/verifier.d.mts", "README.md"];
/// Tests of the folder as JavaScript sees it.
const TEST: &str = "tests/verifier.test.mjs";

/// How it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// For tests.
    Fast,
    /// As it is shipped.
    Small,
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// `cargo xtask wasm`: builds, tests and says where it is and how large.
pub(crate) fn run() -> Result<()> {
    add_target()?;
    let folder = build(Build::Small)?;
    test(&folder)?;
    let wasm = folder.join("verifier.wasm");
    println!("{}: {} bytes", wasm.display(), fs::metadata(&wasm)?.len());
    Ok(())
}

/// Sees to it that the toolchain can build for WebAssembly.
pub(crate) fn add_target() -> Result<()> {
    if tools::has_target(TARGET)? {
        return Ok(());
    }
    println!("installing the target {TARGET} with rustup");
    repo::run(repo::command("rustup").args(["target", "add", TARGET]))
        .with_context(|| format!("no target {TARGET}: install it as you installed Rust"))
}

/// Builds the folder and says where it is.
pub(crate) fn build(build: Build) -> Result<PathBuf> {
    let (profile, compiled, kept) = match build {
        Build::Fast => ("dev", "debug", "verifier-wasm-fast"),
        Build::Small => ("wasm", "wasm", "verifier-wasm"),
    };
    let mut cargo = repo::cargo();
    cargo.args(["build", "--package", CRATE, "--target", TARGET, "--profile", profile]);
    repo::run(&mut cargo)?;
    let metadata =
        repo::cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Metadata = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let target = metadata.target_directory;
    let folder = target.join(kept);
    fs::create_dir_all(&folder)?;
    let module = target.join(TARGET).join(compiled).join("verifier_wasm.wasm");
    copy(&module, &folder.join("verifier.wasm"))?;
    for file in FACE {
        let from = repo::root().join("crates").join(CRATE).join(file);
        copy(&from, &folder.join(Path::new(file).file_name().unwrap_or_default()))?;
    }
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Runs the tests in JavaScript on the folder.
pub(crate) fn test(folder: &Path) -> Result<()> {
    let mut node: Command = repo::command("node");
    node.arg("--test").arg(Path::new("crates").join(CRATE).join(TEST));
    repo::run(node.env("TALLY_VERIFIER", folder)).context("install Node.js 20 or later")
}
