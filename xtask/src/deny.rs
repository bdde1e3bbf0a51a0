//! `cargo xtask deny`: cargo-deny on bans, licences and sources, by `deny.toml`.

use anyhow::Result;

use crate::{repo, tools};

pub(crate) fn run() -> Result<()> {
    println!("advisories: NOT CHECKED (they need a database from the network)");
    let mut deny = repo::command(tools::cargo_deny()?);
    repo::run(deny.args(["check", "bans", "licenses", "sources"]))
}
