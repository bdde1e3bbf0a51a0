//! What an upstream says in the middle of a call: questions for the caller, progress, and the rest.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::call::{Back, RpcError};
use super::message;
use crate::limits;

/// The time of a call. It stands still while people are asked.
#[derive(Debug)]
pub(super) struct Clock {
    state: Mutex<ClockState>,
    resumed: Notify,
}

#[derive(Debug)]
struct ClockState {
    deadline: Instant,
    last: Instant,
    asking: u32,
    since: Instant,
}

impl Clock {
    pub(super) fn new(within: Duration) -> Self {
        let now = Instant::now();
        let state = ClockState {
            deadline: now + within,
            last: now + within.max(limits::MCP_CALL_MAX),
            asking: 0,
            since: now,
        };
        Self { state: Mutex::new(state), resumed: Notify::new() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut ClockState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pause(&self) -> Pause<'_> {
        self.with(|state| {
            if state.asking == 0 {
                state.since = Instant::now();
            }
            state.asking += 1;
        });
        Pause(self)
    }

    /// Returns when the time is over.
    pub(super) async fn expired(&self) {
        loop {
            let (asking, deadline, last) = self.with(|s| (s.asking > 0, s.deadline, s.last));
            let until = if asking { last } else { deadline.min(last) };
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.resumed.notified() => {}
            }
        }
    }
}

struct Pause<'a>(&'a Clock);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.asking = state.asking.saturating_sub(1);
            if state.asking == 0 {
                state.deadline += state.since.elapsed();
            }
        });
        self.0.resumed.notify_one();
    }
}

/// The caller's side of one request on the wire.
pub(super) struct Caller {
    pub(super) back: Arc<dyn Back>,
    /// The client's own progress token.
    token: Option<Box<RawValue>>,
    pub(super) clock: Clock,
    sent: AtomicBool,
    asked: AtomicUsize,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Caller {
    pub(super) fn new(back: Arc<dyn Back>, token: Option<&RawValue>, within: Duration) -> Self {
        Self {
            back,
            token: token.map(ToOwned::to_owned),
            clock: Clock::new(within),
            sent: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
        }
    }

    /// From here on the upstream may have the request.
    pub(super) fn sending(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    /// The upstream cannot have acted on it.
    pub(super) fn not_sent(&self) {
        self.sent.store(false, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether progress is wanted.
    pub(super) fn wants_progress(&self) -> bool {
        self.token.is_some()
    }

    /// Hands on what the upstream tells of this request.
    pub(super) fn notified(&self, method: &str, params: &RawValue) {
        match (method, &self.token) {
            ("notifications/progress", Some(token)) => {
                if let Some(params) = message::with_token(params, token) {
                    self.back.notify(method, &params);
                }
            }
            ("notifications/progress", None) => {}
            _ => self.back.notify(method, params),
        }
    }

    /// Asks the client. The call's time stands still meanwhile.
    pub(super) async fn ask(
        &self,
        method: &str,
        params: &RawValue,
    ) -> Result<Box<RawValue>, RpcError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) >= limits::MCP_ASKS_MAX {
            let message = format!("at most {} questions in one call", limits::MCP_ASKS_MAX);
            return Err(RpcError::new(-32600, message));
        }
        if kernel::json::RawJson::parse(params.get()).is_err() {
            return Err(RpcError::new(-32602, "the parameters are not JSON that Tally accepts"));
        }
        let _paused = self.clock.pause();
        self.back.ask(method, params).await
    }
}

/// What the client of a lane can be asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Askable {
    sampling: bool,
    elicitation: bool,
    roots: bool,
}

impl Askable {
    /// By the declared capabilities.
    pub(super) fn of(capabilities: &RawValue) -> Self {
        let entries = message::entries(capabilities).unwrap_or_default();
        let has = |name: &str| entries.iter().any(|(key, _)| key == name);
        Self { sampling: has("sampling"), elicitation: has("elicitation"), roots: has("roots") }
    }

    fn covers(self, method: &str) -> bool {
        match method {
            "sampling/createMessage" => self.sampling,
            "elicitation/create" => self.elicitation,
            "roots/list" => self.roots,
            _ => false,
        }
    }
}

/// Answers a question of an upstream: `caller` is asked where it can be.
pub(super) async fn answer(
    askable: Askable,
    caller: Option<Arc<Caller>>,
    id: Box<RawValue>,
    method: String,
    params: Option<Box<RawValue>>,
) -> Vec<u8> {
    let outcome = match (method.as_str(), caller) {
        ("ping", _) => Ok(empty()),
        (asked, _) if !askable.covers(asked) => Err(RpcError::method_not_found(asked)),
        (_, None) => Err(RpcError::new(-32600, "no call is in flight that this belongs to")),
        (asked, Some(caller)) => caller.ask(asked, &params.unwrap_or_else(empty)).await,
    };
    message::answer(&id, &outcome)
}

/// `{}`.
pub(super) fn empty() -> Box<RawValue> {
    RawValue::from_string(String::from("{}")).unwrap_or_default()
}

/// Lets so many notifications a second through.
#[derive(Debug)]
pub(super) struct Gate {
    second: Instant,
    passed: u32,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), passed: 0 }
    }

    /// Whether one more may pass.
    pub(super) fn pass(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.passed = self.passed.saturating_add(1);
        self.passed <= limits::MCP_NOTIFICATIONS_PER_SECOND
    }
}
