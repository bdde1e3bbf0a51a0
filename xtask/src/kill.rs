//! `cargo xtask kill [ROUNDS] [--postgres]`: the kill -9 tests of the crate `tally`, at length.

use anyhow::{Context, Result};

use crate::{repo, tools};

const ROUNDS_DEFAULT: u32 = 100;

/// How often, and on which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    rounds: u32,
    postgres: bool,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: ROUNDS_DEFAULT, postgres: false };
        for word in words {
            match *word {
                "--postgres" => options.postgres = true,
                rounds => {
                    let context = || format!("`{rounds}` is not a number of rounds");
                    options.rounds = rounds.parse().with_context(context)?;
                }
            }
        }
        Ok(options)
    }
}

/// The tests read `TALLY_KILL_ROUNDS`; `cargo xtask test` leaves it at its own small number.
pub(crate) fn run(options: Options) -> Result<()> {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--package", "tally", "--test", "suite", "--", "--nocapture"]);
    if options.postgres {
        tools::postgres()?;
        cargo.arg("kill::postgres::");
    } else {
        cargo.args(["kill::", "--skip", "kill::postgres::"]);
    }
    repo::run(cargo.env("TALLY_KILL_ROUNDS", options.rounds.to_string()))
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn reads_rounds_and_engine() {
        let parse = |words: &[&str]| Options::parse(words).ok();
        let options = |rounds, postgres| Some(Options { rounds, postgres });
        assert_eq!(parse(&[]), options(100, false));
        assert_eq!(parse(&["--postgres", "7"]), options(7, true));
        assert_eq!(parse(&["many"]), None);
    }
}
