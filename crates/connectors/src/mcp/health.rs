//! How an upstream is, and what it tells of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, broadcast};

use super::serve::Caller;
use super::spec::Revision;
use crate::limits;

/// Whether an upstream can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is known yet, or a connection is being made.
    Connecting,
    /// The last connection or request succeeded.
    Up,
    /// The last connection failed or broke.
    Down,
}

/// How an upstream is.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Whether it can be called.
    pub state: State,
    /// Since when, in microseconds of the Unix epoch.
    pub since: i64,
    /// Why it is or was down; free of secrets and content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Calls in flight.
    pub in_flight: usize,
    /// Connections that failed in a row.
    pub failures: u32,
    /// Notifications that were dropped because there were too many.
    pub dropped: u64,
    /// Messages that were not understood or belonged to nothing.
    pub ignored: u64,
    /// The revision that it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What it says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_info: Option<Box<RawValue>>,
}

/// What an upstream tells of itself.
#[derive(Clone, Debug)]
pub enum Event {
    /// Its tools changed, or may have: it was connected to anew.
    ToolsChanged,
    /// Its resources changed.
    ResourcesChanged,
    /// Its prompts changed.
    PromptsChanged,
    /// A resource that was subscribed to changed.
    ResourceUpdated {
        /// Which.
        uri: String,
    },
    /// A log message that belongs to no call.
    Message {
        /// The lane that it came over; none is the shared one.
        lane: Option<String>,
        /// As received.
        params: Box<RawValue>,
    },
    /// A connection was made.
    Up,
    /// A connection failed or broke.
    Down {
        /// Why; free of secrets and content.
        reason: String,
    },
}

/// What the connections of one upstream share.
#[derive(Debug)]
pub(super) struct Hub {
    events: broadcast::Sender<Event>,
    state: Mutex<Condition>,
    /// Whether the state is down, to be read without the lock.
    failing: AtomicBool,
    ids: AtomicU64,
    dropped: AtomicU64,
    ignored: AtomicU64,
    /// How often the lists changed: tools, resources, prompts.
    changes: [AtomicU64; 3],
    /// A stateless upstream took up a subscription.
    acknowledged: Notify,
    /// Calls in flight over connections of sessions, the newest last.
    calls: Mutex<Vec<(String, u64, Arc<Caller>)>>,
}

#[derive(Debug)]
struct Condition {
    state: State,
    since: i64,
    last_error: Option<String>,
    failures: u32,
    revision: Option<Revision>,
    server_info: Option<Box<RawValue>>,
}

/// The lists that an upstream says have changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum List {
    Tools = 0,
    Resources = 1,
    Prompts = 2,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            events: broadcast::Sender::new(limits::MCP_EVENTS),
            state: Mutex::new(Condition {
                state: State::Connecting,
                since: now(),
                last_error: None,
                failures: 0,
                revision: None,
                server_info: None,
            }),
            failing: AtomicBool::new(false),
            ids: AtomicU64::new(1),
            dropped: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            changes: Default::default(),
            acknowledged: Notify::new(),
            calls: Mutex::default(),
        }
    }

    /// An id for a request: no other has it.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The revision that the upstream was found to speak.
    pub(super) fn revision(&self) -> Option<Revision> {
        lock(&self.state).revision
    }

    /// Forgets the revision: what was found out about the upstream no longer holds.
    pub(super) fn forget(&self) {
        lock(&self.state).revision = None;
    }

    pub(super) fn health(&self, in_flight: usize) -> Health {
        let state = lock(&self.state);
        Health {
            state: state.state,
            since: state.since,
            last_error: state.last_error.clone(),
            in_flight,
            failures: state.failures,
            dropped: self.dropped.load(Ordering::Relaxed),
            ignored: self.ignored.load(Ordering::Relaxed),
            revision: state.revision,
            server_info: state.server_info.clone(),
        }
    }

    /// A connection was made. That of a session says nothing new of the lists.
    pub(super) fn up(&self, revision: Revision, server_info: Option<&RawValue>, shared: bool) {
        let mut state = lock(&self.state);
        if state.state != State::Up {
            (state.state, state.since) = (State::Up, now());
        }
        state.failures = 0;
        self.failing.store(false, Ordering::Relaxed);
        state.revision = Some(revision);
        state.server_info = server_info.map(ToOwned::to_owned);
        drop(state);
        if shared {
            self.emit(Event::Up);
            // What changed while nobody was listening is not known.
            self.all_changed();
        }
    }

    /// The upstream answered.
    pub(super) fn well(&self) {
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        let mut state = lock(&self.state);
        if state.state == State::Down {
            (state.state, state.since) = (State::Up, now());
            state.failures = 0;
            self.failing.store(false, Ordering::Relaxed);
            drop(state);
            self.emit(Event::Up);
        }
    }

    /// Any list may have changed.
    pub(super) fn all_changed(&self) {
        for list in [List::Tools, List::Resources, List::Prompts] {
            self.changed(list);
        }
    }

    /// Returns when a subscription is taken up after now.
    pub(super) fn acknowledged(&self) -> impl Future<Output = ()> + Send {
        self.acknowledged.notified()
    }

    /// A connection failed or broke.
    pub(super) fn down(&self, reason: &str) {
        let mut state = lock(&self.state);
        if state.state != State::Down {
            (state.state, state.since) = (State::Down, now());
        }
        self.failing.store(true, Ordering::Relaxed);
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(reason.to_owned());
        drop(state);
        self.emit(Event::Down { reason: reason.to_owned() });
    }

    fn emit(&self, event: Event) {
        // Nobody may be listening.
        let _receivers = self.events.send(event);
    }

    /// A notification was dropped.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was ignored.
    pub(super) fn ignored(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }

    /// How often `list` changed.
    pub(super) fn changes(&self, list: List) -> u64 {
        self.change(list).load(Ordering::Acquire)
    }

    fn change(&self, list: List) -> &AtomicU64 {
        let [tools, resources, prompts] = &self.changes;
        match list {
            List::Tools => tools,
            List::Resources => resources,
            List::Prompts => prompts,
        }
    }

    fn changed(&self, list: List) {
        self.change(list).fetch_add(1, Ordering::AcqRel);
        self.emit(match list {
            List::Tools => Event::ToolsChanged,
            List::Resources => Event::ResourcesChanged,
            List::Prompts => Event::PromptsChanged,
        });
    }

    /// Notes a call that is in flight over the connection of a session.
    pub(super) fn begin(self: &Arc<Self>, lane: &str, id: u64, caller: &Arc<Caller>) -> InFlight {
        lock(&self.calls).push((lane.to_owned(), id, Arc::clone(caller)));
        InFlight { hub: Arc::clone(self), id }
    }

    /// The newest call in flight over the connection of a session.
    pub(super) fn newest(&self, lane: Option<&str>) -> Option<Arc<Caller>> {
        let calls = lock(&self.calls);
        let newest = calls.iter().rev().find(|(of, _, _)| Some(of.as_str()) == lane);
        newest.map(|(_, _, caller)| Arc::clone(caller))
    }

    /// Takes what an upstream tells; `caller` is whose request it belongs to.
    pub(super) fn notified(
        &self,
        lane: Option<&str>,
        caller: Option<&Arc<Caller>>,
        method: &str,
        params: Option<&RawValue>,
    ) {
        match (method, params, caller) {
            // The lists are read over the shared connection, which is told as well.
            (of, ..) if of.ends_with("/list_changed") && lane.is_some() => {}
            ("notifications/tools/list_changed", ..) => self.changed(List::Tools),
            ("notifications/resources/list_changed", ..) => self.changed(List::Resources),
            ("notifications/prompts/list_changed", ..) => self.changed(List::Prompts),
            ("notifications/resources/updated", Some(params), _) => self.updated(params),
            ("notifications/subscriptions/acknowledged", ..) => self.acknowledged.notify_one(),
            (_, Some(params), Some(caller)) => caller.notified(method, params),
            ("notifications/message", Some(params), None) => {
                let lane = lane.map(str::to_owned);
                self.emit(Event::Message { lane, params: params.to_owned() });
            }
            ("notifications/elicitation/complete", Some(params), None) => match self.newest(lane) {
                Some(caller) => caller.notified(method, params),
                None => self.ignored(),
            },
            _ => self.ignored(),
        }
    }

    fn updated(&self, params: &RawValue) {
        #[derive(serde::Deserialize)]
        struct Updated {
            uri: String,
        }
        match serde_json::from_str::<Updated>(params.get()) {
            Ok(Updated { uri }) => self.emit(Event::ResourceUpdated { uri }),
            Err(_) => self.ignored(),
        }
    }
}

/// A call is in flight for as long as this is kept.
#[derive(Debug)]
pub(super) struct InFlight {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.hub.calls).retain(|(_, id, _)| *id != self.id);
    }
}
