//! `cargo xtask kill [ROUNDS]`: the kill -9 test of the command line's crate, at length.

use anyhow::{Context, Result};

use crate::repo;

pub(crate) const ROUNDS_DEFAULT: u32 = 100;

pub(crate) fn parse_rounds(rounds: &str) -> Result<u32> {
    rounds.parse().with_context(|| format!("`{rounds}` is not a number of rounds"))
}

/// The test reads `TALLY_KILL_ROUNDS`; `cargo xtask test` leaves it at its own small number.
pub(crate) fn run(rounds: u32) -> Result<()> {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--package", "tally", "--test", "suite", "--"]);
    cargo.args(["kill::", "--nocapture"]);
    repo::run(cargo.env("TALLY_KILL_ROUNDS", rounds.to_string()))
}
