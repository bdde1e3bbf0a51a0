//! What is said to a process under LIGHT and heard from it: lines of JSON.

use std::time::{Duration, Instant};

use kernel::attestation::Ending;
use kernel::capability::Capability;
use kernel::failure::Failure;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::confine::EXIT_UNCONFINED;
use super::{Used, failed, unavailable};
use crate::execute::{End, finished, over_denial};
use crate::host::door::{Call, Called};
use crate::limits;
use crate::run::Run;
use crate::state::{Denials, Stop, Waits, shorten};

/// What is heard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Heard {
    Call { tool: String, args: String },
    Denied { capability: Capability, wanted: String },
    Result(String),
    Raised(String),
}

/// Gives the code and hears it out.
pub(super) async fn converse(
    child: &mut Child,
    run: &Run<'_>,
    text: &str,
    denials: &Denials,
) -> Result<(End, Used), Failure> {
    let gone = || unavailable("the process has no pipes");
    let stdin = child.stdin.take().ok_or_else(gone)?;
    let stdout = BufReader::new(child.stdout.take().ok_or_else(gone)?);
    let mut stderr = child.stderr.take().ok_or_else(gone)?;
    let mut said = Vec::new();
    let waits = Waits::new(run.limits.wall_ms, Instant::now());
    let mut used = Used::default();
    let ended = {
        let mut talk = std::pin::pin!(talk(stdin, stdout, run, text, denials, &waits));
        let mut listen = std::pin::pin!(drain(&mut stderr, &mut said));
        let mut listening = true;
        loop {
            tokio::select! {
                biased;
                ended = &mut talk => break ended,
                () = run.cancel.cancelled() => break Ended::With(canceled()),
                () = &mut listen, if listening => listening = false,
                () = tokio::time::sleep(LOOK.min(waits.rest())) => {
                    used.look(child);
                    if used.cpu >= Duration::from_millis(run.limits.cpu_ms) {
                        break Ended::With(cpu(run));
                    }
                    if waits.rest().is_zero() {
                        break Ended::With(wall(run));
                    }
                }
            }
        }
    };
    used.look(child);
    let end = match ended {
        Ended::With(end) => end,
        Ended::Gone => died(child, run, &String::from_utf8_lossy(&said)).await?,
    };
    Ok((decide(end, run, denials), used))
}

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

enum Ended {
    With(End),
    Gone,
}

async fn talk(
    mut stdin: ChildStdin,
    mut stdout: BufReader<ChildStdout>,
    run: &Run<'_>,
    text: &str,
    denials: &Denials,
    waits: &Waits,
) -> Ended {
    let order = serde_json::json!({ "code": text, "input": run.input });
    if say(&mut stdin, &order).await.is_err() {
        return Ended::Gone;
    }
    let mut calls = 0;
    loop {
        let line = match line(&mut stdout).await {
            Ok(Some(line)) => line,
            Ok(None) | Err(Line::Io) => return Ended::Gone,
            Err(Line::TooLong) => {
                let most = limits::LINE_BYTES_MAX;
                let why = format!("it handed over more than {most} bytes at once");
                return Ended::With(failed(Ending::Crash, "output_too_long", why));
            }
        };
        let answer = match serde_json::from_slice(&line) {
            Ok(Heard::Result(output)) => {
                return Ended::With(finished(output, run.limits.output_bytes));
            }
            Ok(Heard::Raised(text)) => {
                let text = shorten(&text, limits::FAILURE_TEXT_BYTES_MAX);
                return Ended::With(failed(Ending::Crash, "raised", text));
            }
            Ok(Heard::Denied { capability, wanted }) => {
                denials.add(capability, &wanted);
                continue;
            }
            Ok(Heard::Call { tool, args }) => {
                let call = Call { door: &*run.door, waits, name: &tool, args: &args };
                match call.make(&mut calls, run.limits.tool_calls).await {
                    Ok(Called::Given(json)) => serde_json::json!({ "given": json }),
                    Ok(Called::Failed { told, denied }) => {
                        if denied {
                            denials.add_tool(&tool, &told);
                        }
                        serde_json::json!({ "failed": told })
                    }
                    Err(stop) => return Ended::With(crate::execute::stopped(&stop, &run.limits)),
                }
            }
            Err(error) => {
                let why = format!("what it says is no message: {error}");
                return Ended::With(failed(Ending::Crash, "trap", why));
            }
        };
        if say(&mut stdin, &answer).await.is_err() {
            return Ended::Gone;
        }
    }
}

async fn say(stdin: &mut ChildStdin, what: &serde_json::Value) -> std::io::Result<()> {
    let mut line = what.to_string().into_bytes();
    line.push(b'\n');
    stdin.write_all(&line).await?;
    stdin.flush().await
}

/// Why there is no line.
enum Line {
    TooLong,
    Io,
}

async fn line(from: &mut BufReader<ChildStdout>) -> Result<Option<Vec<u8>>, Line> {
    let mut line = Vec::new();
    let most = u64::try_from(limits::LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let read = from.take(most).read_until(b'\n', &mut line).await;
    match read {
        Err(_) => Err(Line::Io),
        Ok(_) if line.last() == Some(&b'\n') => Ok(Some(line)),
        Ok(bytes) if bytes >= limits::LINE_BYTES_MAX => Err(Line::TooLong),
        Ok(_) => Ok(None),
    }
}

/// Keeps the last of what it prints.
async fn drain(from: &mut tokio::process::ChildStderr, said: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        said.extend(chunk.iter().take(bytes));
        let spare = said.len().saturating_sub(limits::FAILURE_TEXT_BYTES_MAX);
        said.drain(..spare);
    }
}

/// The end of a process that ended without a result.
async fn died(child: &mut Child, run: &Run<'_>, said: &str) -> Result<End, Failure> {
    let began = Instant::now();
    let status = tokio::time::timeout(limits::LIGHT_END_TIMEOUT, child.wait()).await;
    let status = match status {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(unavailable(format!("cannot wait for it: {error}"))),
        Err(_) => {
            let why = format!("it closed its pipes and went on for {:?}", began.elapsed());
            return Ok(failed(Ending::Crash, "trap", why));
        }
    };
    use std::os::unix::process::ExitStatusExt as _;
    let said = shorten(said.trim(), limits::FAILURE_TEXT_BYTES_MAX);
    if status.code() == Some(EXIT_UNCONFINED.into()) {
        return Err(unavailable(said));
    }
    if status.signal() == Some(libc::SIGXCPU) {
        return Ok(cpu(run));
    }
    if out_of_memory(&said) {
        return Ok(memory(run, &said));
    }
    Ok(failed(Ending::Crash, "exited", format!("it ended itself ({status}): {said}")))
}

/// A failure over a denial or a limit is called after it.
fn decide(end: End, run: &Run<'_>, denials: &Denials) -> End {
    let text = match (&end.output, end.code) {
        (Err(text), Some("raised")) => text.clone(),
        _ => return end,
    };
    if out_of_memory(&text) {
        return memory(run, &text);
    }
    over_denial(&text, &denials.look()).unwrap_or(end)
}

fn out_of_memory(text: &str) -> bool {
    [
        "MemoryError",
        "heap out of memory",
        "Array buffer allocation failed",
        "Cannot allocate memory",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn memory(run: &Run<'_>, text: &str) -> End {
    let most = run.limits.memory_bytes;
    let why = format!("it wanted more memory than the {most} bytes of memory_bytes: {text}");
    failed(Ending::MemoryExceeded, "memory_exceeded", why)
}

fn cpu(run: &Run<'_>) -> End {
    crate::execute::stopped(&Stop::Cpu, &run.limits)
}

fn wall(run: &Run<'_>) -> End {
    crate::execute::stopped(&Stop::Wall, &run.limits)
}

fn canceled() -> End {
    failed(Ending::Crash, "canceled", "it was canceled")
}
