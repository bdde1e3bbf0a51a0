//! The one toolbox of the repository: `cargo xtask COMMAND`.

mod bench;
mod deny;
mod foreign;
mod generate;
mod hang;
mod kill;
mod licences;
mod repo;
mod runtimes;
mod test;
mod tidy;
mod tools;
mod wasm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--fast] [--deny]   every check and every test; --fast leaves out clippy, buf, openssl,
                           softhsm2 and wasm32; --deny adds cargo-deny, which takes minutes to
                           build once
  ci                       what .ci/run calls: test, all of it
  tidy [--check]           rustfmt, then the house rules; --check changes no file
  gen [--check]            write generated files; --check fails when one has drifted
  licences                 the licences of all dependencies against deny.toml, in a second
  deny                     cargo-deny: bans, licences and sources
  wasm                     the verifier for browsers and Node, built small and tested
  foreign                  install the programs of others that tests need; prints variables
  runtimes                 the interpreters of the sandbox (Python, JavaScript), built once;
                           prints the variable by which `tally` finds them
  bench NAME [ARG...]      measure: action, itsm, ledger, mcp, policy, runs, sandbox, store or
                           verify
  kill [ROUNDS] [--postgres]
                           kill -9 the daemon under load and restart it, ROUNDS times; on
                           PostgreSQL the database too";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["test", options @ ..] => test::run(test::Options::parse(options)?),
        ["ci"] => test::run(test::Options::default()),
        ["tidy"] => tidy::run(tidy::Mode::Format),
        ["tidy", "--check"] => tidy::run(tidy::Mode::Check),
        ["gen"] => generate::write(),
        ["gen", "--check"] => generate::check(),
        ["licences"] => licences::check(),
        ["deny"] => deny::run(),
        ["wasm"] => wasm::run(),
        ["foreign"] => foreign::run(),
        ["runtimes"] => runtimes::run(),
        ["bench", name, rest @ ..] => bench::run(name, rest),
        ["kill", words @ ..] => kill::run(kill::Options::parse(words)?),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => bail!("name a command\n{USAGE}"),
        _ => bail!("unknown command or option `{}`\n{USAGE}", args.join(" ")),
    }
}
