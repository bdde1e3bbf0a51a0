//! `cargo xtask bench NAME`: the measurements, which live in the crate `bench`.

use anyhow::{Result, bail};

use crate::{repo, runtimes};

const NAMES: [&str; 9] =
    ["action", "itsm", "ledger", "mcp", "policy", "runs", "sandbox", "store", "verify"];

pub(crate) fn run(name: &str, args: &[&str]) -> Result<()> {
    if !NAMES.contains(&name) {
        bail!("no benchmark `{name}`: name one of {}", NAMES.join(", "));
    }
    let mut cargo = repo::cargo();
    if name == "sandbox" {
        cargo.envs(runtimes::variables()?);
    }
    // As it is shipped.
    cargo.args(["run", "--profile", "dist", "--quiet", "--package", "bench", "--", name]);
    cargo.args(args);
    repo::run(&mut cargo)
}
