//! `cargo xtask test`: every check and every test, the cheap ones first.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{deny, foreign, generate, hang, licences, repo, runtimes, tidy, tools, wasm};

/// What the tests get in place of a verifier in WebAssembly that cannot be built here.
const NOT_CHECKED: &str = "not-checked";

/// What to leave out or add.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    fast: bool,
    deny: bool,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            match *word {
                "--fast" => options.fast = true,
                "--deny" => options.deny = true,
                _ => bail!("unknown option `{word}`: use --fast or --deny"),
            }
        }
        Ok(options)
    }
}

/// Runs all stages, also after one has failed, and ends with how long they took and with
/// `N passed, N failed`.
pub(crate) fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let mut report = Report::default();
    report.check("fmt", || repo::run(repo::cargo().args(["fmt", "--all", "--check"])));
    report.check("tidy", || tidy::run(tidy::Mode::Check));
    report.check("licences", licences::check);
    if options.deny {
        report.check("deny", deny::run);
    }
    if !options.fast {
        report.check("buf lint", buf_lint);
        report.check("openssl", tools::openssl);
        report.check("softhsm2", tools::softhsm);
        report.check("clippy", clippy);
    }
    report.check("gen", generate::check);
    report.check("postgresql", tools::postgres);
    let mut found = Vec::new();
    if !options.fast {
        report.check("foreign verifiers", || {
            found.extend(foreign::verifiers()?);
            Ok(())
        });
        report.check("foreign MCP", || {
            found.extend(foreign::mcp()?);
            Ok(())
        });
        report.check("foreign models", || {
            found.extend(foreign::models()?);
            Ok(())
        });
        report.check("foreign mail server", || {
            found.extend(foreign::smtp()?);
            found.extend(foreign::slack()?);
            Ok(())
        });
        report.check("foreign senders of events", || {
            found.extend(foreign::hooks()?);
            Ok(())
        });
        report.check("foreign systems", || {
            found.extend(foreign::systems()?);
            Ok(())
        });
        report.check("sandbox runtimes", || {
            found.extend(runtimes::variables()?);
            Ok(())
        });
        found.push((foreign::WASM_VAR, verifier(&mut report)));
    }
    report.check("build of the tests", build_tests);
    report.stage("tests", || cargo_test(&found));
    println!("== all: {}", minutes(started.elapsed()));
    report.close()
}

/// `3 min 07 s`.
fn minutes(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

fn buf_lint() -> Result<()> {
    repo::run(repo::command(tools::buf()?).args(["lint", "proto"]))
}

fn clippy() -> Result<()> {
    let mut cargo = repo::cargo();
    cargo.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    repo::run(&mut cargo)
}

/// The verifier built for the browser, which proves too that the kernel is pure; where it is.
fn verifier(report: &mut Report) -> PathBuf {
    if let Err(error) = wasm::add_target() {
        println!("== wasm32 verifier: NOT CHECKED ({error:#})\n");
        return NOT_CHECKED.into();
    }
    let mut built = PathBuf::new();
    report.check("wasm32 verifier", || {
        built = wasm::build(wasm::Build::Fast)?;
        wasm::test(&built)
    });
    built
}

/// Building says nothing on standard output, for longer than any test may.
fn build_tests() -> Result<()> {
    repo::run(repo::cargo().args(["test", "--workspace", "--no-run"]))
}

fn cargo_test(found: &[(&str, PathBuf)]) -> Result<Counts> {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    cargo.envs(found.iter().map(|(name, path)| (name, path)));
    let (mut counts, succeeded) = count_tests(&mut cargo)?;
    if !succeeded && counts.failed == 0 {
        println!("cargo test failed without a failing test: see above");
        counts.failed = 1;
    }
    if counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(counts)
}

/// Runs `cargo test`, passing its output on, and adds up what it says of each test binary.
fn count_tests(cargo: &mut Command) -> Result<(Counts, bool)> {
    let mut counts = Counts::default();
    let mut child = hang::watched(cargo, |line| {
        println!("{line}");
        counts.add(parse_result(line));
    })?;
    Ok((counts, child.wait()?.success()))
}

/// Reads `test result: ok. 3 passed; 1 failed; …`; any other line counts nothing.
fn parse_result(line: &str) -> Counts {
    let Some(rest) = line.strip_prefix("test result: ") else {
        return Counts::default();
    };
    let words: Vec<&str> = rest.split(|c: char| !c.is_alphanumeric()).collect();
    let before = |name| {
        let at = words.windows(2).find(|pair| pair.last() == Some(&name));
        at.and_then(|pair| pair.first()?.parse().ok()).unwrap_or(0)
    };
    Counts { passed: before("passed"), failed: before("failed") }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

#[derive(Debug, Default)]
struct Report {
    counts: Counts,
    failed: Vec<&'static str>,
}

impl Report {
    /// A stage that counts as one test.
    fn check(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        self.stage(name, || work().map(|()| Counts { passed: 1, failed: 0 }));
    }

    fn stage(&mut self, name: &'static str, work: impl FnOnce() -> Result<Counts>) {
        println!("== {name}");
        let started = Instant::now();
        let counts = work().unwrap_or_else(|error| {
            println!("{error:#}");
            Counts { passed: 0, failed: 1 }
        });
        let seconds = started.elapsed().as_secs_f64();
        let outcome = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!("== {name}: {outcome}, {seconds:.1} s\n");
        if counts.failed > 0 {
            self.failed.push(name);
        }
        self.counts.add(counts);
    }

    fn close(self) -> Result<()> {
        let Counts { passed, failed } = self.counts;
        println!("{passed} passed, {failed} failed");
        if failed > 0 {
            bail!("failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{Counts, Options, Report, minutes, parse_result};

    #[test]
    fn reads_the_totals_of_cargo_test() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; finished in 0.00s";
        assert_eq!(parse_result(line), Counts { passed: 12, failed: 3 });
        assert_eq!(parse_result("test a::b ... ok"), Counts::default());
    }

    #[test]
    fn a_failed_stage_fails_the_report() {
        let mut report = Report::default();
        report.check("good", || Ok(()));
        report.stage("tests", || Ok(Counts { passed: 5, failed: 0 }));
        report.check("bad", || bail!("broken"));
        report.check("good again", || Ok(()));
        assert_eq!(report.counts, Counts { passed: 7, failed: 1 });
        assert_eq!(report.close().unwrap_err().to_string(), "failed: bad");
    }

    #[test]
    fn says_the_time_in_minutes() {
        assert_eq!(minutes(std::time::Duration::from_millis(187_900)), "3 min 07 s");
    }

    #[test]
    fn refuses_unknown_options() {
        assert!(Options::parse(&["--fast", "--deny"]).is_ok());
        assert!(Options::parse(&["--fats"]).is_err());
    }
}
