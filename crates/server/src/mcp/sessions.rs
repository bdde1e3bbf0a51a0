//! Sessions of the legacy revisions. They live in memory, as the protocol expects: a client whose
//! session is unknown begins another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use connectors::mcp::{Lane, RpcError, SessionLane};
use kernel::failure::{Category, Failure};
use kernel::ids::{EnvironmentId, TenantId, WorkspaceId};
use kernel::principal::ActorChain;
use kernel::values::Digest;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::limits;
use super::lists::Kind;
use super::rpc::Id;
use super::stream::Log;
use crate::auth::Standing;
use crate::error::{Refused, Result};
use crate::shared::Caller;

/// Whose something is. A session that somebody else names is unknown to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    tenant: TenantId,
    workspace: WorkspaceId,
    environment: EnvironmentId,
    actors: ActorChain,
}

impl Owner {
    pub(crate) fn of(caller: &Caller) -> Self {
        Self {
            tenant: caller.tenant.clone(),
            workspace: caller.workspace.clone(),
            environment: caller.environment.clone(),
            actors: caller.actors(),
        }
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The same for the same owner, and for no other.
    pub(crate) fn key(&self) -> String {
        let Self { tenant, workspace, environment, actors } = self;
        let ids: Vec<&str> = actors.actors().iter().map(|actor| actor.id.as_str()).collect();
        format!("{tenant}/{workspace}/{environment}/{}", ids.join("/"))
    }
}

/// Of which upstreams a client sees something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct View(pub(crate) Option<String>);

impl View {
    pub(crate) fn shows(&self, upstream: &str) -> bool {
        self.0.as_deref().is_none_or(|only| only == upstream)
    }
}

/// How severe a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(usize);

impl Level {
    const NAMES: [&'static str; 8] =
        ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().position(|known| *known == name).map(Self)
    }
}

/// What a client says of itself when a session begins.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) view: View,
    pub(crate) revision: &'static str,
    pub(crate) client: Box<RawValue>,
    pub(crate) capabilities: Box<RawValue>,
}

/// What a client answers to a question.
type Answer = std::result::Result<Box<RawValue>, RpcError>;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) intro: Introduction,
    /// What belongs to no request: read by GET.
    pub(crate) standalone: Arc<Log>,
    /// Ends with the session.
    pub(crate) ended: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    used: Instant,
    standing: Standing,
    level: Option<Level>,
    /// The lanes that were opened, by upstream.
    lanes: BTreeSet<String>,
    /// Which upstream tells of a resource.
    subscriptions: BTreeMap<String, String>,
    streams: BTreeMap<u64, Arc<Log>>,
    streams_made: u64,
    in_flight: HashMap<Id, CancellationToken>,
    asked: HashMap<Id, oneshot::Sender<Answer>>,
    asks_made: u64,
    listed: HashMap<Kind, Digest>,
}

impl Session {
    fn new(id: String, owner: Owner, standing: Standing, intro: Introduction) -> Self {
        let state = State {
            used: Instant::now(),
            standing,
            level: None,
            lanes: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            in_flight: HashMap::new(),
            asked: HashMap::new(),
            asks_made: 0,
            listed: HashMap::new(),
        };
        let ended = CancellationToken::new();
        let standalone = Log::numbered(0);
        Self { id, owner, intro, standalone, ended, state: Mutex::new(state) }
    }

    pub(super) fn touch(&self, standing: &Standing) {
        let mut state = self.state.lock();
        state.used = Instant::now();
        state.standing = standing.clone();
    }

    /// The credential that was shown last.
    pub(super) fn standing(&self) -> Standing {
        self.state.lock().standing.clone()
    }

    fn used(&self) -> Instant {
        self.state.lock().used
    }

    /// Whether something of it is under way or read.
    fn busy(&self) -> bool {
        self.standalone.is_read() || !self.state.lock().in_flight.is_empty()
    }

    pub(super) fn level(&self) -> Option<Level> {
        self.state.lock().level
    }

    pub(super) fn set_level(&self, level: Level) {
        self.state.lock().level = Some(level);
    }

    /// Begins a request: the token that cancels it.
    pub(super) fn begin(&self, id: &Id) -> std::result::Result<CancellationToken, Failure> {
        let mut state = self.state.lock();
        if state.in_flight.len() >= limits::IN_FLIGHT_MAX {
            let message = "too many requests of this session are under way";
            return Err(Failure::new(Category::RateLimited, "too_many_requests", message));
        }
        if state.in_flight.contains_key(id) {
            let message = "a request with this id is under way: ids are used once";
            return Err(Failure::new(Category::Validation, "id_in_use", message));
        }
        let token = self.ended.child_token();
        state.in_flight.insert(id.clone(), token.clone());
        Ok(token)
    }

    pub(super) fn finish(&self, id: &Id) {
        let mut state = self.state.lock();
        state.in_flight.remove(id);
        state.used = Instant::now();
    }

    /// Cancels a request that is under way.
    pub(super) fn cancel(&self, id: &str) {
        let state = self.state.lock();
        let found = state.in_flight.iter().find(|(known, _)| known.as_json() == id);
        if let Some((_, token)) = found {
            token.cancel();
        }
    }

    /// Opens a stream for a request. Streams that ended long ago make room.
    pub(super) fn open_stream(&self) -> Arc<Log> {
        let mut state = self.state.lock();
        state.streams_made += 1;
        let log = Log::numbered(state.streams_made);
        let number = state.streams_made;
        state.streams.insert(number, log.clone());
        let mut kept = (0_usize, 0_usize);
        let ended: Vec<u64> = state
            .streams
            .iter()
            .rev()
            .filter(|(_, log)| log.has_ended())
            .filter_map(|(number, log)| {
                kept = (kept.0 + 1, kept.1.saturating_add(log.bytes()));
                let fits = kept.0 <= limits::STREAMS_KEPT && kept.1 <= limits::KEPT_BYTES_MAX;
                (!fits).then_some(*number)
            })
            .collect();
        for number in ended {
            state.streams.remove(&number);
        }
        log
    }

    /// A stream of the session by its number.
    pub(super) fn stream(&self, number: u64) -> Option<Arc<Log>> {
        if number == 0 {
            return Some(self.standalone.clone());
        }
        self.state.lock().streams.get(&number).cloned()
    }

    /// Registers a question to the client: its id, and where its answer comes.
    pub(super) fn ask(&self) -> std::result::Result<(Id, oneshot::Receiver<Answer>), RpcError> {
        let mut state = self.state.lock();
        state.asked.retain(|_, answer| !answer.is_closed());
        if state.asked.len() >= limits::ASKS_MAX {
            return Err(RpcError::new(-32603, "too many questions to the client are open"));
        }
        state.asks_made += 1;
        let id = Id::number(state.asks_made);
        let (sender, receiver) = oneshot::channel();
        state.asked.insert(id.clone(), sender);
        Ok((id, receiver))
    }

    /// Takes the client's answer to a question. What nobody asked is dropped.
    pub(super) fn answered(&self, id: &Id, answer: Answer) {
        let asked = self.state.lock().asked.remove(id);
        if let Some(asked) = asked {
            // Who asked may have gone.
            let _gone = asked.send(answer);
        }
    }

    /// Remembers that the session is told of a resource by an upstream.
    pub(super) fn subscribe(&self, uri: &str, upstream: &str) -> std::result::Result<(), Failure> {
        let mut state = self.state.lock();
        let many = state.subscriptions.len() >= limits::SUBSCRIPTIONS_MAX;
        if many && !state.subscriptions.contains_key(uri) {
            let message = "this session is told of as many resources as one may be";
            return Err(Failure::new(Category::RateLimited, "too_many_subscriptions", message));
        }
        state.subscriptions.insert(uri.to_owned(), upstream.to_owned());
        Ok(())
    }

    /// Forgets it: the upstream that told.
    pub(super) fn unsubscribe(&self, uri: &str) -> Option<String> {
        self.state.lock().subscriptions.remove(uri)
    }

    pub(super) fn is_told_of(&self, uri: &str, upstream: &str) -> bool {
        self.state.lock().subscriptions.get(uri).is_some_and(|known| known == upstream)
    }

    /// Whether the session needs a connection of its own at `upstream`.
    fn needs_lane(&self) -> bool {
        let capable = super::back::can_be_asked(&self.intro.capabilities);
        let state = self.state.lock();
        capable || state.level.is_some() || !state.subscriptions.is_empty()
    }

    /// The lane of the session at `upstream`.
    pub(super) fn lane(&self, upstream: &str) -> Lane {
        if !self.needs_lane() {
            return Lane::Shared;
        }
        self.own_lane(upstream)
    }

    /// The same, where it needs one in any case.
    pub(super) fn own_lane(&self, upstream: &str) -> Lane {
        self.state.lock().lanes.insert(upstream.to_owned());
        Lane::Session(SessionLane {
            id: self.id.clone(),
            client: self.intro.client.clone(),
            capabilities: self.intro.capabilities.clone(),
        })
    }

    /// The upstreams at which the session has a lane.
    pub(super) fn lanes(&self) -> Vec<String> {
        self.state.lock().lanes.iter().cloned().collect()
    }

    /// The client was sent this list.
    pub(super) fn saw(&self, kind: Kind, digest: Digest) {
        self.state.lock().listed.insert(kind, digest);
    }

    /// Whether the client was sent a list of this kind.
    pub(super) fn listed(&self, kind: Kind) -> bool {
        self.state.lock().listed.contains_key(&kind)
    }

    /// Takes what the client would see now; whether what it was sent or told of is another. Who
    /// never asked for a list is told nothing of it.
    pub(super) fn sees(&self, kind: Kind, digest: Digest) -> bool {
        let mut state = self.state.lock();
        match state.listed.get_mut(&kind) {
            Some(known) if *known != digest => {
                *known = digest;
                true
            }
            _ => false,
        }
    }

    fn end(&self) {
        self.ended.cancel();
        let mut state = self.state.lock();
        self.standalone.end();
        state.asked.clear();
        for log in state.streams.values() {
            log.end();
        }
    }
}

/// The sessions of all.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Begins a session. What had to end to make room for it is given back.
    pub(super) fn open(
        &self,
        caller: &Caller,
        standing: &Standing,
        intro: Introduction,
    ) -> Result<(Arc<Session>, Vec<Arc<Session>>)> {
        let random = ledger::keys::random::<24>()?;
        let session =
            Session::new(hex::encode(random.as_ref()), Owner::of(caller), standing.clone(), intro);
        let session = Arc::new(session);
        let mut sessions = self.0.lock();
        let mut ended = Vec::new();
        let mut own: Vec<Arc<Session>> =
            sessions.values().filter(|other| other.owner == session.owner).cloned().collect();
        if own.len() >= limits::SESSIONS_PER_PRINCIPAL {
            own.sort_by_key(|other| other.used());
            let Some(rested) = own.into_iter().find(|other| !other.busy()) else {
                let message = "all of your sessions are busy: end one by DELETE";
                return Err(Refused::new(Category::RateLimited, "too_many_sessions", message));
            };
            sessions.remove(&rested.id);
            ended.push(rested);
        }
        if sessions.len() >= limits::SESSIONS_MAX {
            let message = "this server has as many sessions as it may have";
            return Err(Refused::new(Category::RateLimited, "too_many_sessions", message));
        }
        sessions.insert(session.id.clone(), session.clone());
        drop(sessions);
        ended.iter().for_each(|session| session.end());
        Ok((session, ended))
    }

    /// The caller's session of that id.
    pub(super) fn get(&self, caller: &Caller, id: &str) -> Option<Arc<Session>> {
        let session = self.0.lock().get(id).cloned()?;
        (session.owner == Owner::of(caller)).then_some(session)
    }

    /// Ends a session of the caller's.
    pub(super) fn close(&self, caller: &Caller, id: &str) -> Option<Arc<Session>> {
        let session = self.get(caller, id)?;
        self.0.lock().remove(id);
        session.end();
        Some(session)
    }

    /// Ends those that rested too long.
    pub(super) fn sweep(&self) -> Vec<Arc<Session>> {
        let mut ended = Vec::new();
        self.0.lock().retain(|_, session| {
            let stays = session.busy() || session.used().elapsed() < limits::SESSION_IDLE;
            if !stays {
                ended.push(session.clone());
            }
            stays
        });
        ended.iter().for_each(|session| session.end());
        ended
    }

    /// Ends all: the server stops.
    pub(super) fn end_all(&self) {
        self.0.lock().values().for_each(|session| session.end());
    }

    /// The sessions of a tenant.
    pub(super) fn of(&self, tenant: &TenantId) -> Vec<Arc<Session>> {
        let sessions = self.0.lock();
        sessions.values().filter(|session| session.owner.tenant() == tenant).cloned().collect()
    }

    /// Every session.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().values().cloned().collect()
    }
}
