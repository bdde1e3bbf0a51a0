//! Servers over stdio, without a program of their own: the test program starts itself.
//!
//! Cargo builds no binaries of other packages for a test, and builds that tests start are slow and
//! disagree about features. So a test program has one more test, which others start as a process:
//!
//! ```ignore
//! #[test]
//! #[ignore = "a program that other tests start"]
//! fn fixture() {
//!     mcpkit::program::run();
//! }
//! ```
//!
//! The harness writes to standard output what is no MCP. So a shell keeps the real one as
//! descriptor 3, gives the harness none, and then becomes the test program.

use std::env;
use std::fs::OpenOptions;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Revisions;
use crate::everything::Everything;
use crate::misbehave::{Misbehave, Vice};

/// Names what to run; unset where the test runs as a test.
const VARIABLE: &str = "MCPKIT_PROGRAM";

/// What to run.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// A server that offers everything.
    Everything(Revisions),
    /// A server that does what no server should.
    Misbehave(Revisions, Vice),
}

/// The words of the command that starts `program` over stdio. `test` is the path of the test that
/// calls [`run`], such as `mcp::fixture`.
#[must_use]
pub fn command(test: &str, program: Program) -> Vec<String> {
    let name = match program {
        Program::Everything(revisions) => format!("everything {}", revisions.as_str()),
        Program::Misbehave(revisions, vice) => {
            format!("misbehave {} {}", revisions.as_str(), vice.as_str())
        }
    };
    let this = env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let script = format!(
        r#"{VARIABLE}='{name}' exec "$0" --exact {test} --ignored --nocapture 3>&1 >/dev/null"#
    );
    vec!["sh".to_owned(), "-c".to_owned(), script, this]
}

/// Runs what [`command`] asked for, and nothing where the test was started in another way.
///
/// # Panics
/// Where the client breaks the protocol.
pub fn run() {
    let Ok(name) = env::var(VARIABLE) else { return };
    let words: Vec<&str> = name.split(' ').collect();
    let out = OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
    let serve = serve(&words, tokio::io::stdin(), tokio::fs::File::from_std(out));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(serve);
    // A read of standard input cannot be given up: it would keep the process.
    std::process::exit(0);
}

async fn serve<R, W>(words: &[&str], read: R, write: W)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    match words {
        ["everything", revisions] => {
            Everything::new(revisions.parse().unwrap()).stdio(read, write).await;
        }
        ["misbehave", revisions, vice] => {
            let server = Misbehave::new(revisions.parse().unwrap(), vice.parse().unwrap());
            server.stdio(read, write).await;
        }
        _ => panic!("unknown program: {words:?}"),
    }
}
