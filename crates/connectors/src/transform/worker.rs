//! The worker's side: one request on standard input, one answer on standard output.

use std::io::{Read, Write};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Answer, filter};
use crate::limits;

/// Why a worker gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The limits of the operating system cannot be set, so nothing is run.
    #[error("cannot limit the jq worker: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// The request cannot be read, or the answer not be written.
    #[error("the jq worker's pipe: {0}")]
    Pipe(#[from] std::io::Error),
    /// The request is malformed.
    #[error("the jq worker's request: {0}")]
    Request(#[from] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    filter: String,
    #[serde(borrow)]
    input: &'a RawValue,
}

/// The main function of a jq worker: limits itself, reads `{filter, input}` from standard input,
/// answers on standard output. Call it first thing in the process, without arguments or threads.
pub fn worker_main() -> Result<(), WorkerError> {
    limit(Resource::As, limits::TRANSFORM_MEMORY_BYTES)?;
    limit(Resource::Cpu, limits::TRANSFORM_CPU_SECONDS)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    let mut text = String::new();
    std::io::stdin().lock().take(limits::TRANSFORM_REQUEST_BYTES_MAX).read_to_string(&mut text)?;
    let request: Request<'_> = serde_json::from_str(&text)?;
    let answer = match filter::run(&request.filter, request.input.get()) {
        Ok(output) => Answer::Output(output),
        Err(error) => Answer::Refused { code: error.code().to_owned(), message: error.to_string() },
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&serde_json::to_vec(&answer)?)?;
    stdout.flush()?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<(), rustix::io::Errno> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}
