//! `core.json_transform`: jq, in a process of its own.
//!
//! A filter can loop without end, eat all memory or recurse until the stack is gone, and nothing
//! inside a process can stop that. So each filter runs in a fresh worker process without
//! environment, under limits of the operating system, and is killed when its time is over.

mod filter;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::limits;
use crate::tools::{Done, Fault, Meta};

pub use worker::{WorkerError, worker_main};

/// How to start a worker: a program that calls [`worker_main`], such as Tally itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The program.
    pub program: PathBuf,
    /// What tells it to be a worker.
    pub args: Vec<OsString>,
    /// All of its environment. Its address space is limited, so what sets memory aside in
    /// advance, as allocators do, must be told here not to.
    pub env: Vec<(OsString, OsString)>,
}

/// What a worker answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Output(Vec<Box<RawValue>>),
    Refused { code: String, message: String },
}

/// Starts workers.
#[derive(Debug)]
pub(crate) struct Transform {
    worker: Worker,
    running: Semaphore,
}

impl Transform {
    pub(crate) fn new(worker: Worker) -> Self {
        Self { worker, running: Semaphore::new(limits::TRANSFORM_WORKERS_MAX) }
    }

    pub(crate) async fn run(&self, params: &RawJson) -> Result<Done, Fault> {
        let ended = tokio::time::timeout(limits::TRANSFORM_TIMEOUT, self.ask(params)).await;
        let text = ended.unwrap_or_else(|_| Err(timed_out()))?;
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|e| broken(&format!("its answer is {e}")))?;
        let output = match answer {
            Answer::Output(output) => output,
            Answer::Refused { code, message } => {
                return Err(Failure::new(Category::Validation, &code, message).into());
            }
        };
        // The texts go into the result as they are: a value would round large numbers silently.
        let output: Vec<_> = output.iter().map(|value| value.get()).collect();
        let result = format!("{{\"output\":[{}]}}", output.join(","));
        let bytes = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let meta = Meta {
            bytes_out: bytes(params.as_str().len()),
            bytes_in: bytes(text.len()),
            ..Meta::default()
        };
        Ok(Done { result, meta })
    }

    /// Hands `params` to a fresh worker. Dropping this future kills the worker.
    async fn ask(&self, params: &RawJson) -> Result<Vec<u8>, Failure> {
        let _running = self.running.acquire().await.map_err(|e| broken(&e.to_string()))?;
        let mut worker = self.start()?;
        let (Some(mut stdin), Some(stdout)) = (worker.stdin.take(), worker.stdout.take()) else {
            return Err(broken("it has no input or output"));
        };
        let most = bytes_of_answer();
        let mut answer = Vec::new();
        let mut limited = stdout.take(most + 1);
        let write = async {
            // A worker that ends early says why, by its answer or its status.
            let written = stdin.write_all(params.as_str().as_bytes()).await;
            drop(stdin);
            written
        };
        let (_written, read) = tokio::join!(write, limited.read_to_end(&mut answer));
        read.map_err(|e| broken(&e.to_string()))?;
        if u64::try_from(answer.len()).unwrap_or(u64::MAX) > most {
            return Err(broken("its answer is too long"));
        }
        let status = worker.wait().await.map_err(|e| broken(&e.to_string()))?;
        match status.code() {
            Some(0) => Ok(answer),
            Some(code) => Err(broken(&format!("it ended with status {code}"))),
            // Killed by a signal: out of memory, stack or processor time.
            None => Err(over_limit("the filter used more memory or time than it may")),
        }
    }

    fn start(&self) -> Result<Child, Failure> {
        Command::new(&self.worker.program)
            .args(&self.worker.args)
            .env_clear()
            .envs(self.worker.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| broken(&format!("it cannot be started: {e}")))
    }
}

/// The output, its brackets and commas, and the name of the answer.
fn bytes_of_answer() -> u64 {
    let most = limits::TRANSFORM_OUTPUT_BYTES_MAX + limits::TRANSFORM_OUTPUTS_MAX + 64;
    u64::try_from(most).unwrap_or(u64::MAX)
}

fn timed_out() -> Failure {
    let message =
        format!("the filter did not end within {} ms", limits::TRANSFORM_TIMEOUT.as_millis());
    // The same filter on the same input takes as long again.
    Failure::new(Category::Timeout, "timeout", message).retryable(false)
}

fn over_limit(message: &str) -> Failure {
    Failure::new(Category::Sandbox, "filter_limit", message)
}

fn broken(why: &str) -> Failure {
    Failure::new(Category::Internal, "worker_failed", format!("the jq worker failed: {why}"))
}
