//! Programs that are not ours, from PyPI and npm: verifiers that read our evidence, and an OpenID
//! Connect provider that people log in with.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::repo;

/// What comes from PyPI, with what it needs: named like the folder, so that other versions are
/// another folder.
const PYTHON_FOLDER: &str = "python-securesystemslib-1.6.0-in-toto-attestation-0.9.3";
const PYTHON: [&str; 6] = [
    "securesystemslib==1.6.0",
    "in-toto-attestation==0.9.3",
    "cryptography==50.0.2",
    "protobuf==7.36.2",
    "cffi==2.1.1",
    "pycparser==3.12",
];

/// What comes from npm: the last versions for Node 20.
const NODE_FOLDER: &str = "node-sigstore-verify-3.1.1-oidc-provider-9.13.3";
const NODE: [&str; 5] = [
    "@sigstore/verify@3.1.1",
    "@sigstore/bundle@4.0.0",
    "@sigstore/core@3.2.1",
    "@sigstore/protobuf-specs@0.5.2",
    "oidc-provider@9.13.3",
];

/// The file that says that a folder is complete.
const COMPLETE: &str = "complete";

/// A Python that has the packages.
pub(crate) fn python() -> Result<PathBuf> {
    let folder = repo::cache()?.join(PYTHON_FOLDER);
    let python = folder.join("bin/python");
    if !folder.join(COMPLETE).is_file() {
        println!("installing {} into {}", PYTHON.join(" "), folder.display());
        let mut venv = repo::command("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        repo::run(&mut venv).context("install Python 3.10 or later with venv, or pass --fast")?;
        let mut pip = repo::command(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PYTHON);
        repo::run(&mut pip)?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(python)
}

/// A `node_modules` that has the packages.
pub(crate) fn node_modules() -> Result<PathBuf> {
    let folder = repo::cache()?.join(NODE_FOLDER);
    if !folder.join(COMPLETE).is_file() {
        println!("installing {} into {}", NODE.join(" "), folder.display());
        let mut npm = repo::command("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--silent", "--prefix"]);
        npm.arg(&folder).args(NODE);
        repo::run(&mut npm).context("install Node.js 20 or later, or pass --fast")?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(folder.join("node_modules"))
}

/// `cargo xtask foreign`: installs them all and prints where they are, for a shell to read.
pub(crate) fn run() -> Result<()> {
    let (python, modules) = (python()?, node_modules()?);
    println!("export {PYTHON_VAR}={}", python.display());
    println!("export {NODE_VAR}={}", modules.display());
    crate::wasm::add_target()?;
    let verifier = crate::wasm::build(crate::wasm::Build::Fast)?;
    println!("export {WASM_VAR}={}", verifier.display());
    Ok(())
}

/// The variables by which the tests find them.
pub(crate) const PYTHON_VAR: &str = "TALLY_FOREIGN_PYTHON";
pub(crate) const NODE_VAR: &str = "TALLY_FOREIGN_NODE_MODULES";
pub(crate) const WASM_VAR: &str = "TALLY_FOREIGN_VERIFIER";
