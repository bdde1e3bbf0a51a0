//! One execution in WebAssembly, and what its end is called.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kernel::attestation::{Ending, Limits};
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use crate::limits;
use crate::loaded::Loaded;
use crate::run::Denial;
use crate::state::{Denied, State, Stop, Waits, shorten};

/// What is handed to `run`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed<'a> {
    /// Source text, for an interpreter.
    pub(crate) source: Option<&'a str>,
    pub(crate) input: &'a str,
}

/// How it went.
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) denied: Denied,
    pub(crate) fuel_used: u64,
    pub(crate) memory_peak: u64,
    pub(crate) cpu: Duration,
}

/// The end of an execution.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) ending: Ending,
    pub(crate) output: Result<String, String>,
    pub(crate) code: Option<&'static str>,
}

impl End {
    pub(crate) fn failed(ending: Ending, code: &'static str, why: impl Into<String>) -> Self {
        Self { ending, output: Err(why.into()), code: Some(code) }
    }
}

type Given = Result<String, String>;

/// Runs `loaded` with `state`, whose world is open.
pub(crate) async fn execute(
    loaded: &Loaded,
    state: State,
    handed: Handed<'_>,
    cancel: &CancellationToken,
) -> Outcome {
    let limits = state.given.limits;
    let books = Arc::clone(&state.books);
    let mut store = Store::new(&loaded.engine, state);
    let ended = match prepare(&mut store, &limits) {
        Ok(()) => {
            let run = books.meter.run(call(loaded, &mut store, handed));
            let mut run = std::pin::pin!(run);
            // Most code ends without ever waiting: nothing needs to watch over it.
            match std::future::poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await {
                Poll::Ready(ended) => Ended::Itself(ended),
                Poll::Pending => watched(run, &books.waits, cancel).await,
            }
        }
        Err(error) => Ended::Itself(Err(error)),
    };
    let fuel_used = limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    let denied = books.denials.take();
    let end = end(ended, store.data(), &denied);
    Outcome {
        end,
        denied,
        fuel_used,
        memory_peak: store.data().memory.peak,
        cpu: books.meter.used(),
    }
}

/// Lets code go on that waits for something, until its time is over.
async fn watched(
    mut run: Pin<&mut impl Future<Output = wasmtime::Result<Given>>>,
    waits: &Waits,
    cancel: &CancellationToken,
) -> Ended {
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return Ended::Itself(ended),
            () = cancel.cancelled() => return Ended::Canceled,
            () = tokio::time::sleep(waits.rest()) => {
                if waits.rest().is_zero() {
                    return Ended::Wall;
                }
            }
        }
    }
}

enum Ended {
    Itself(wasmtime::Result<Given>),
    Wall,
    Canceled,
}

fn prepare(store: &mut Store<State>, limits: &Limits) -> wasmtime::Result<()> {
    store.limiter(|state| &mut state.memory);
    store.set_fuel(limits.fuel)?;
    store.set_hostcall_fuel(limits::HANDED_BYTES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| {
        let state = store.data_mut();
        if state.books.meter.used_within() >= Duration::from_millis(state.given.limits.cpu_ms) {
            return Err(Stop::Cpu.into());
        }
        state.looks = state.looks.wrapping_add(1);
        if state.looks.is_multiple_of(limits::TICKS_UNTIL_YIELD) {
            return Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())));
        }
        Ok(UpdateDeadline::Continue(1))
    });
    Ok(())
}

async fn call(
    loaded: &Loaded,
    store: &mut Store<State>,
    handed: Handed<'_>,
) -> wasmtime::Result<Given> {
    let instance = loaded.pre.instantiate_async(&mut *store).await?;
    let (given,) = match handed.source {
        None => {
            let run = instance.get_typed_func::<(&str,), (Given,)>(&mut *store, &loaded.run)?;
            run.call_async(&mut *store, (handed.input,)).await?
        }
        Some(source) => {
            let run =
                instance.get_typed_func::<(&str, &str), (Given,)>(&mut *store, &loaded.run)?;
            run.call_async(&mut *store, (source, handed.input)).await?
        }
    };
    Ok(given)
}

fn end(ended: Ended, state: &State, denied: &Denied) -> End {
    let given = &state.given.limits;
    match ended {
        Ended::Wall => wall(given.wall_ms),
        Ended::Canceled => End::failed(Ending::Crash, "canceled", "it was canceled"),
        Ended::Itself(Ok(Ok(output))) => finished(output, given.output_bytes),
        Ended::Itself(Ok(Err(text))) => raised(&text, state, denied),
        Ended::Itself(Err(error)) => trapped(&error, state, denied),
    }
}

fn wall(wall_ms: u64) -> End {
    let why = format!("it took longer than the {wall_ms} ms that it was given (wall_ms)");
    End::failed(Ending::Timeout, "wall_time_exceeded", why)
}

pub(crate) fn finished(output: String, most: u64) -> End {
    let bytes = output.len();
    if u64::try_from(bytes).unwrap_or(u64::MAX) > most {
        let why = format!("its result has {bytes} bytes; it may have {most} (output_bytes)");
        return End::failed(Ending::Crash, "output_too_long", why);
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&output) {
        let why = format!("its result is no JSON: {error}");
        return End::failed(Ending::Crash, "output_not_json", why);
    }
    End { ending: Ending::Success, output: Ok(output), code: None }
}

/// The code says itself that it failed. Where that is over a limit or a denial, this is the reason.
pub(crate) fn raised(text: &str, state: &State, denied: &Denied) -> End {
    let text = shorten(text, limits::FAILURE_TEXT_BYTES_MAX);
    // Code may have had memory refused, gone on with less, and failed over something else.
    if let Some(what) = state.memory.refused
        && MEMORY_WORDS.iter().any(|word| text.contains(word))
    {
        return memory(state, what, &text);
    }
    over_denial(&text, denied).unwrap_or_else(|| End::failed(Ending::Crash, "raised", text.clone()))
}

/// What a failure for want of memory says, in one language or the other.
const MEMORY_WORDS: [&str; 3] = ["MemoryError", "memory", "alloc"];

/// What a failure over a denial says, in one language or the other.
const DENIAL_WORDS: [&str; 9] = [
    "denied",
    "not permitted",
    "NotPermitted",
    "PermissionError",
    "FileNotFoundError",
    "NetworkError",
    "not granted",
    "No such file",
    "process",
];

/// The end where `text` tells of something denied.
pub(crate) fn over_denial(text: &str, denied: &Denied) -> Option<End> {
    let about = |denial: &Denial| text.contains(denial.wanted.as_str());
    let told = |[words, within]: &[String; 2]| text.contains(words) || text.contains(within);
    let over = denied.list.iter().any(about)
        || denied.told.iter().any(told)
        || (!denied.list.is_empty() && DENIAL_WORDS.iter().any(|word| text.contains(word)));
    over.then(|| {
        let why = format!("{}; it failed with: {text}", named(denied));
        End::failed(Ending::PermissionDenied, "capability_denied", why)
    })
}

/// What was denied, in words.
fn named(denied: &Denied) -> String {
    let list: Vec<String> = denied
        .list
        .iter()
        .take(5)
        .map(|Denial { capability, wanted }| match denied.why.get(wanted) {
            Some(why) => format!("{} `{wanted}` ({why})", capability.as_str()),
            None => format!("{} `{wanted}`", capability.as_str()),
        })
        .collect();
    format!("it was not granted {}", list.join(", "))
}

fn memory(state: &State, what: &str, text: &str) -> End {
    let most = state.given.limits.memory_bytes;
    let why = format!("it wanted {what} ({most} bytes, memory_bytes); it failed with: {text}");
    End::failed(Ending::MemoryExceeded, "memory_exceeded", why)
}

fn trapped(error: &wasmtime::Error, state: &State, denied: &Denied) -> End {
    let given = &state.given.limits;
    let text = shorten(&format!("{error:#}"), limits::FAILURE_TEXT_BYTES_MAX);
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stopped(stop, given);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            let why = format!("it used up its {} units of fuel (fuel)", given.fuel);
            return End::failed(Ending::Timeout, "fuel_exhausted", why);
        }
        Some(Trap::StackOverflow) => {
            let why =
                format!("its calls go deeper than {} bytes of stack", limits::WASM_STACK_BYTES);
            return End::failed(Ending::Crash, "stack_exhausted", why);
        }
        _ => {}
    }
    if let Some(what) = state.memory.refused {
        return memory(state, what, &text);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let why = format!("it ended itself with exit code {}", exit.0);
        return over_denial(&why, denied)
            .unwrap_or_else(|| End::failed(Ending::Crash, "exited", why));
    }
    if text.contains("fuel allocated for hostcalls") {
        let most = limits::HANDED_BYTES_MAX;
        let why = format!("it handed over more than {most} bytes at once");
        return End::failed(Ending::Crash, "output_too_long", why);
    }
    if !denied.list.is_empty() {
        let why = format!("{}; it failed with: {text}", named(denied));
        return End::failed(Ending::PermissionDenied, "capability_denied", why);
    }
    End::failed(Ending::Crash, "trap", text)
}

pub(crate) fn stopped(stop: &Stop, given: &kernel::attestation::Limits) -> End {
    match stop {
        Stop::Cpu => {
            let why = format!("its code ran for longer than {} ms (cpu_ms)", given.cpu_ms);
            End::failed(Ending::Timeout, "cpu_time_exceeded", why)
        }
        Stop::Wall => wall(given.wall_ms),
        Stop::ToolCalls => {
            let why = format!("it called tools more than {} times (tool_calls)", given.tool_calls);
            End::failed(Ending::Crash, "too_many_tool_calls", why)
        }
        Stop::Door { code, message } => End::failed(Ending::Crash, code, message.clone()),
    }
}
