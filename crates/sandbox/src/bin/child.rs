//! The children of a sandbox, for tests and benchmarks that run without `tally`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("sandbox-compile") => sandbox::compile_main(),
        Some("sandbox-light") => sandbox::light_main(std::env::args_os().skip(2)),
        _ => ExitCode::FAILURE,
    }
}
