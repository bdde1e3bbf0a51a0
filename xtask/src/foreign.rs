//! Programs that are not ours, from PyPI and npm: verifiers that read our evidence, an OpenID
//! Connect provider that people log in with, MCP's conformance suite, servers and SDKs, what
//! providers of models publish for their clients, a mail server, an emulator of systems that
//! connectors call, and the libraries of those who deliver to triggers.

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

/// What MCP's own people publish: the conformance suite, with the Node 22 that it needs, a server
/// that is in wide use, and the TypeScript SDK of the older revisions and of the newest.
const MCP_NODE_FOLDER: &str =
    "mcp-node-22.23.3-conformance-0.2.0-alpha.12-filesystem-2026.8.31-sdk-1.32.2-client-2.4.0";
const MCP_NODE: [&str; 5] = [
    "node@22.23.3",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
];

/// The Python SDK.
const MCP_PYTHON_FOLDER: &str = "mcp-python-2.3.0";
const MCP_PYTHON: [&str; 1] = ["mcp==2.3.0"];

/// The SDKs of those whose models `llm.invoke` asks.
const MODEL_NODE_FOLDER: &str = "model-node-openai-7.57.0-anthropic-1.12.0";
const MODEL_NODE: [&str; 2] = ["openai@7.57.0", "@anthropic-ai/sdk@1.12.0"];
const MODEL_PYTHON_FOLDER: &str = "model-python-openai-3.54.0-anthropic-2.12.0";
const MODEL_PYTHON: [&str; 2] = ["openai==3.54.0", "anthropic==2.12.0"];
/// A mail server.
const SMTP_PYTHON_FOLDER: &str = "smtp-aiosmtpd-1.4.6";
const SMTP_PYTHON: [&str; 3] = ["aiosmtpd==1.4.6", "atpublic==9.0.0", "attrs==26.1.0"];

/// An emulator of Slack and GitHub, with the Node 22 that it needs.
const SYSTEMS_NODE_FOLDER: &str = "systems-node-22.23.3-emulate-0.12.2";
const SYSTEMS_NODE: [&str; 2] = ["node@22.23.3", "emulate@0.12.2"];
/// What those publish who deliver to triggers: how their signatures are checked.
const HOOK_NODE_FOLDER: &str = "hook-node-bolt-5.1.0-webhooks-methods-6.0.0";
const HOOK_NODE: [&str; 2] = ["@slack/bolt@5.1.0", "@octokit/webhooks-methods@6.0.0"];
/// The SDK of those who ask people on Slack.
const SLACK_NODE_FOLDER: &str = "slack-node-web-api-8.2.0";
const SLACK_NODE: [&str; 1] = ["@slack/web-api@8.2.0"];

/// The file that says that a folder is complete.
const COMPLETE: &str = "complete";

/// A Python that has the packages.
fn python(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = repo::cache()?.join(folder);
    let python = folder.join("bin/python");
    if !folder.join(COMPLETE).is_file() {
        println!("installing {} into {}", packages.join(" "), folder.display());
        let mut venv = repo::command("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        repo::run(&mut venv).context("install Python 3.10 or later with venv, or pass --fast")?;
        let mut pip = repo::command(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        repo::run(pip.args(packages))?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(python)
}

/// A `node_modules` that has the packages.
fn node_modules(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = repo::cache()?.join(folder);
    if !folder.join(COMPLETE).is_file() {
        println!("installing {} into {}", packages.join(" "), folder.display());
        let mut npm = repo::command("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--silent", "--prefix"]);
        npm.arg(&folder).args(packages);
        repo::run(&mut npm).context("install Node.js 20 or later, or pass --fast")?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(folder.join("node_modules"))
}

/// Installs the verifiers; the variables by which the tests find them.
pub(crate) fn verifiers() -> Result<[(&'static str, PathBuf); 2]> {
    Ok([
        ("TALLY_FOREIGN_PYTHON", python(PYTHON_FOLDER, &PYTHON)?),
        ("TALLY_FOREIGN_NODE_MODULES", node_modules(NODE_FOLDER, &NODE)?),
    ])
}

/// Installs what there is of MCP; the variables by which the tests find it.
pub(crate) fn mcp() -> Result<[(&'static str, PathBuf); 2]> {
    Ok([
        ("TALLY_MCP_PYTHON", python(MCP_PYTHON_FOLDER, &MCP_PYTHON)?),
        ("TALLY_MCP_NODE_MODULES", node_modules(MCP_NODE_FOLDER, &MCP_NODE)?),
    ])
}

/// Installs the SDKs for models; the variables by which the tests find them.
pub(crate) fn models() -> Result<[(&'static str, PathBuf); 2]> {
    Ok([
        ("TALLY_MODEL_PYTHON", python(MODEL_PYTHON_FOLDER, &MODEL_PYTHON)?),
        ("TALLY_MODEL_NODE_MODULES", node_modules(MODEL_NODE_FOLDER, &MODEL_NODE)?),
    ])
}

/// Installs the mail server; the variable by which the tests find it.
pub(crate) fn smtp() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("TALLY_SMTP_PYTHON", python(SMTP_PYTHON_FOLDER, &SMTP_PYTHON)?)])
}

/// Installs the emulator; the variable by which the tests find it.
pub(crate) fn systems() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("TALLY_SYSTEMS_NODE_MODULES", node_modules(SYSTEMS_NODE_FOLDER, &SYSTEMS_NODE)?)])
}

/// Installs what checks deliveries; the variable by which the tests find it.
pub(crate) fn hooks() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("TALLY_HOOK_NODE_MODULES", node_modules(HOOK_NODE_FOLDER, &HOOK_NODE)?)])
}

/// Installs the SDK of Slack; the variable by which the tests find it.
pub(crate) fn slack() -> Result<[(&'static str, PathBuf); 1]> {
    Ok([("TALLY_SLACK_NODE_MODULES", node_modules(SLACK_NODE_FOLDER, &SLACK_NODE)?)])
}

/// `cargo xtask foreign`: installs them all and prints where they are, for a shell to read.
pub(crate) fn run() -> Result<()> {
    let found = verifiers()?.into_iter().chain(mcp()?).chain(models()?).chain(smtp()?);
    let found = found.chain(systems()?).chain(hooks()?).chain(slack()?);
    for (variable, path) in found {
        println!("export {variable}={}", path.display());
    }
    for (variable, path) in crate::runtimes::variables()? {
        println!("export {variable}={}", path.display());
    }
    crate::wasm::add_target()?;
    let verifier = crate::wasm::build(crate::wasm::Build::Fast)?;
    println!("export {WASM_VAR}={}", verifier.display());
    Ok(())
}

/// The variable by which the tests find the verifier that is built for the browser.
pub(crate) const WASM_VAR: &str = "TALLY_FOREIGN_VERIFIER";
