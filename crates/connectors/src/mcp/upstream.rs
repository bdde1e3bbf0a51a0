//! One upstream: its connections, and the calls that go over them.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::action::Isolation;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, broadcast};

use super::call::{Call, Ended, Lane, Method, RpcError, SessionLane};
use super::connection::{self, Connection, Link, Lost, Out, Reply};
use super::endpoint::Endpoint;
use super::error::Error;
use super::headers;
use super::health::{Event, Health, Hub};
use super::lists::{self, Definition, Kind, Lists, Offer};
use super::message::{self, member, members, object, string};
use super::serve::Caller;
use super::slot::Slot;
use super::spec::{Parts, Revision, Spec, Transport};
use super::stdio::{Apart, Launch};
use super::watch::Watch;
use crate::limits;
use crate::tools::permit_failure;

/// An upstream, cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    spec: Spec,
    link: Arc<Link>,
    hub: Arc<Hub>,
    shared: Arc<Slot>,
    lanes: Mutex<HashMap<String, Arc<Slot>>>,
    lists: Lists,
    calls: Semaphore,
    watch: Arc<Watch>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("spec", &self.spec).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// Checks the specification. Nothing is connected to yet.
    pub fn new(spec: Spec, parts: Parts) -> Result<Self, Error> {
        spec.check()?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let link = match &spec.transport {
            Transport::Stdio { command, args, env, cwd } => Link::Stdio(Launch {
                command: command.clone(),
                args: args.clone(),
                env: env.clone(),
                cwd: cwd.clone(),
                apart: spec.sandbox.map(|_| Apart::new(&spec.name, parts.confine.clone())),
                secrets: Arc::clone(&parts.secrets),
                stderr: Arc::clone(&stderr),
            }),
            Transport::Http { url, headers, private } => {
                Link::Http(Arc::new(Endpoint::new(url, headers, *private, &parts)?))
            }
        };
        let (link, hub, watch) = (Arc::new(link), Arc::new(Hub::new()), Arc::new(Watch::new()));
        let shared = Arc::new(Slot::new(&link, &hub, &watch, None, spec.revision));
        Ok(Self(Arc::new(Inner {
            spec,
            link,
            hub,
            shared,
            lanes: Mutex::default(),
            lists: Lists::default(),
            calls: Semaphore::new(limits::MCP_IN_FLIGHT_MAX),
            watch,
            stderr,
        })))
    }

    /// What the operator said of it.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// What outcome receipts say of how its process is kept apart.
    pub fn isolation(&self) -> Option<Isolation> {
        self.0.spec.isolation()
    }

    /// How it is.
    pub fn health(&self) -> Health {
        let in_flight = limits::MCP_IN_FLIGHT_MAX - self.0.calls.available_permits();
        self.0.hub.health(in_flight)
    }

    /// What it tells from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.hub.subscribe()
    }

    /// The end of what its processes wrote to their standard error.
    pub fn stderr(&self) -> String {
        let bytes: Vec<u8> = lock(&self.0.stderr).iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Connects, and reads everything that it offers.
    pub async fn offer(&self) -> Result<Offer, Failure> {
        let connection = self.0.shared.connection().await?;
        let offered = lists::offer(&connection, &self.0.hub, &self.0.lists).await;
        match offered {
            // Once more over a new session.
            Err(failure) if failure.code == "session_ended" => {
                self.0.shared.discard(&connection);
                let connection = self.0.shared.connection().await?;
                lists::offer(&connection, &self.0.hub, &self.0.lists).await
            }
            offered => offered,
        }
    }

    /// Its tools.
    pub async fn tools(&self) -> Result<Arc<[Definition]>, Failure> {
        self.0.list(Kind::Tools).await
    }

    /// Its resources.
    pub async fn resources(&self) -> Result<Arc<[Definition]>, Failure> {
        self.0.list(Kind::Resources).await
    }

    /// Its templates of resources.
    pub async fn templates(&self) -> Result<Arc<[Definition]>, Failure> {
        self.0.list(Kind::Templates).await
    }

    /// Its prompts.
    pub async fn prompts(&self) -> Result<Arc<[Definition]>, Failure> {
        self.0.list(Kind::Prompts).await
    }

    /// Runs one attempt. The permit comes first: nothing happens before it is found valid.
    pub async fn call(&self, call: Call<'_>) -> Ended {
        if let Err(invalid) = call.permit.check(call.plan_digest, call.now) {
            return Ended::NotSent(permit_failure(invalid));
        }
        if call.cancel.is_cancelled() {
            return Ended::NotSent(canceled());
        }
        let Ok(_place) = self.0.calls.try_acquire() else {
            let most = limits::MCP_IN_FLIGHT_MAX;
            let message = format!("{most} calls of this MCP server are in flight already");
            return Ended::NotSent(Failure::new(Category::RateLimited, "upstream_busy", message));
        };
        let within = Duration::from_millis(self.0.spec.timeout_ms);
        let caller = Arc::new(Caller::new(Arc::clone(&call.back), call.progress_token, within));
        let ended = tokio::select! {
            biased;
            // These first: an upstream that floods keeps the call busy with reading.
            () = call.cancel.cancelled() => stopped(&caller, canceled()),
            () = caller.clock.expired() => {
                let message = format!("no answer within {} ms", within.as_millis());
                stopped(&caller, Failure::new(Category::Timeout, "timeout", message))
            }
            ended = self.0.rounds(&call, &caller) => ended,
        };
        match ended {
            // Repeating such a call changes nothing more, so there is nothing to reconcile.
            Ended::Unknown(failure) if call.idempotent => Ended::NotSent(failure),
            ended => ended,
        }
    }

    /// Hears of changes of a resource.
    pub async fn subscribe(&self, lane: &Lane, uri: &str) -> Result<(), Failure> {
        self.0.watch.subscribe(lane.id(), uri)?;
        let params = object(&[&member("uri", &string(uri))]);
        let asked = self.0.subscribe(lane, &params).await;
        asked.inspect_err(|_| self.0.watch.unsubscribe(lane.id(), uri))
    }

    /// Hears of them no more.
    pub async fn unsubscribe(&self, lane: &Lane, uri: &str) -> Result<(), Failure> {
        self.0.watch.unsubscribe(lane.id(), uri);
        let params = object(&[&member("uri", &string(uri))]);
        self.0.ask(lane, "resources/unsubscribe", &params).await
    }

    /// Sets from which level on log messages are sent.
    pub async fn set_level(&self, lane: &Lane, level: &str) -> Result<(), Failure> {
        self.0.watch.set_level(lane.id(), level);
        let params = object(&[&member("level", &string(level))]);
        self.0.ask(lane, "logging/setLevel", &params).await
    }

    /// Ends the connection of a session.
    pub async fn close_lane(&self, id: &str) {
        self.0.watch.forget(id);
        let slot = lock(&self.0.lanes).remove(id);
        if let Some(slot) = slot {
            slot.close().await;
        }
    }

    /// Whether there is any connection to it.
    pub fn is_connected(&self) -> bool {
        let lanes = || lock(&self.0.lanes).values().any(|slot| slot.current().is_some());
        self.0.shared.current().is_some() || lanes()
    }

    /// Something is different now, such as a login: the next call connects without waiting for
    /// the time that failures before it ask for.
    pub async fn retry(&self) {
        let slots: Vec<_> = lock(&self.0.lanes).values().cloned().collect();
        for slot in slots {
            slot.retry().await;
        }
        self.0.shared.retry().await;
    }

    /// Ends all its connections; the next call makes another.
    pub async fn close(&self) {
        let slots: Vec<_> = lock(&self.0.lanes).drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            slot.close().await;
        }
        self.0.shared.close().await;
    }
}

fn canceled() -> Failure {
    Failure::new(Category::Conflict, "canceled", "the caller ended the call")
}

/// How a call ends that is not waited for any more.
fn stopped(caller: &Caller, failure: Failure) -> Ended {
    if caller.sent() { Ended::Unknown(failure) } else { Ended::NotSent(failure) }
}

/// What a result says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kindness<'a> {
    #[serde(borrow, default)]
    result_type: Option<Cow<'a, str>>,
    #[serde(default)]
    is_error: Option<bool>,
}

impl Inner {
    async fn list(&self, kind: Kind) -> Result<Arc<[Definition]>, Failure> {
        for _ in 0..2 {
            let connection = self.shared.connection().await?;
            match self.lists.get(&connection, &self.hub, kind).await {
                Ok(listed) => return Ok(listed.entries),
                Err(Lost::Expired) => self.shared.discard(&connection),
                Err(lost) => return Err(connection::failure(lost)),
            }
        }
        Err(connection::failure(Lost::Expired))
    }

    /// The place of the connection for `lane`.
    async fn slot(&self, lane: &Lane) -> Result<Arc<Slot>, Failure> {
        let Lane::Session(lane) = lane else { return Ok(Arc::clone(&self.shared)) };
        // A stateless upstream has one connection for all: which it is has to be known.
        let revision = match self.spec.revision.or(self.hub.revision()) {
            Some(revision) => revision,
            None => self.shared.connection().await?.facts.revision,
        };
        if revision == Revision::V2026_07_28 {
            return Ok(Arc::clone(&self.shared));
        }
        let mut lanes = lock(&self.lanes);
        if let Some(slot) = lanes.get(&lane.id) {
            return Ok(Arc::clone(slot));
        }
        if lanes.len() >= limits::MCP_LANES_MAX {
            let message = format!("{} sessions of this MCP server are open", lanes.len());
            return Err(Failure::new(Category::RateLimited, "upstream_busy", message));
        }
        let pin = Some(Revision::V2025_11_25);
        let lane_of = Some(lane.clone());
        let slot = Arc::new(Slot::new(&self.link, &self.hub, &self.watch, lane_of, pin));
        lanes.insert(lane.id.clone(), Arc::clone(&slot));
        Ok(slot)
    }

    /// A call, and its repetitions with what the upstream asked for.
    async fn rounds(&self, call: &Call<'_>, caller: &Arc<Caller>) -> Ended {
        let mut continuation = call.continuation.map(|json| Cow::Borrowed(json.as_str()));
        for _ in 0..=limits::MCP_ROUNDS_MAX {
            let reply = match self.attempt(call, caller, continuation.as_deref()).await {
                Ok(reply) => reply,
                Err(Lost::NotSent(failure)) => return Ended::NotSent(failure),
                Err(Lost::Unknown(failure)) => return Ended::Unknown(failure),
                Err(Lost::Expired) => return Ended::NotSent(connection::failure(Lost::Expired)),
            };
            let result = match reply {
                Ok(result) => result,
                Err(rpc) => return Ended::Error { failure: connection::rpc_failure(&rpc), rpc },
            };
            let Ok(kind) = serde_json::from_str::<Kindness<'_>>(result.get()) else {
                return Ended::Unknown(message::invalid("is no result"));
            };
            let is_error = kind.is_error == Some(true);
            match kind.result_type.as_deref() {
                None | Some("complete") => return complete(result, is_error),
                Some("input_required") if caller.back.rounds() => return complete(result, false),
                Some("input_required") => match answers(&result, caller).await {
                    Ok(next) => continuation = Some(Cow::Owned(next)),
                    Err(ended) => return ended,
                },
                Some(_) => return Ended::Unknown(message::invalid("is a result of another kind")),
            }
        }
        let message = format!("more than {} rounds of questions", limits::MCP_ROUNDS_MAX);
        Ended::Unknown(Failure::new(Category::Permanent, "too_many_rounds", message))
    }

    /// One request. It is repeated where the upstream did not act on it: over a new connection, or
    /// with the headers of the tool's new definition.
    async fn attempt(
        &self,
        call: &Call<'_>,
        caller: &Arc<Caller>,
        continuation: Option<&str>,
    ) -> Result<Reply, Lost> {
        let slot = self.slot(&call.lane).await?;
        let connection = slot.connection().await?;
        let ended = self.send(&connection, call, caller, continuation).await;
        let connection = match &ended {
            Ok(Err(error)) if error.code == HEADER_MISMATCH && connection.modern() => {
                self.lists.fresh(&connection, &self.hub, Kind::Tools).await?;
                connection
            }
            ended if changed(ended, &connection) => {
                self.hub.forget();
                slot.discard(&connection);
                self.slot(&call.lane).await?.connection().await?
            }
            Err(Lost::Expired) => {
                slot.discard(&connection);
                slot.connection().await?
            }
            _ => return self.noted(ended, &connection),
        };
        caller.not_sent();
        let ended = self.send(&connection, call, caller, continuation).await;
        self.noted(ended, &connection)
    }

    /// Notes whether the upstream can be reached; a process says itself that it ended.
    fn noted(&self, ended: Result<Reply, Lost>, connection: &Connection) -> Result<Reply, Lost> {
        match &ended {
            Ok(_) => self.hub.well(),
            Err(Lost::NotSent(failure) | Lost::Unknown(failure))
                if connection.over_http() && failure.category == Category::Network =>
            {
                self.hub.down(&failure.message);
            }
            Err(_) => {}
        }
        ended
    }

    async fn send(
        &self,
        connection: &Connection,
        call: &Call<'_>,
        caller: &Arc<Caller>,
        continuation: Option<&str>,
    ) -> Result<Reply, Lost> {
        let mirrored = if connection.modern() && connection.over_http() {
            match call.method {
                Method::CallTool => {
                    let known = self.lists.mirrors(connection, &self.hub, call.tool).await?;
                    headers::values(&known, call.params)
                }
                Method::ReadResource | Method::GetPrompt | Method::Complete => Vec::new(),
            }
        } else {
            Vec::new()
        };
        let id = self.hub.next_id();
        let meta = self.meta(connection, call, caller, id);
        let own = match call.method {
            Method::CallTool => {
                let name = member("name", &string(call.tool));
                Cow::Owned([name, member("arguments", call.params.as_str())].join(","))
            }
            _ => Cow::Borrowed(members(call.params.as_str())),
        };
        let continuation = continuation.filter(|_| connection.modern()).map(members);
        let params = object(&[&own, continuation.unwrap_or_default(), &meta]);
        let name = name_of(call);
        let out = Out {
            id,
            method: call.method.as_str(),
            name: name.as_deref(),
            mirrored,
            body: message::request(id, call.method.as_str(), &params),
            caller: Some(caller),
            subject: call.subject,
            repeatable: call.idempotent,
        };
        let _in_flight = match &call.lane {
            Lane::Session(lane) if !connection.modern() => {
                Some(self.hub.begin(&lane.id, id, caller))
            }
            _ => None,
        };
        connection.request(out).await
    }

    /// The member `_meta` of a call, or nothing.
    fn meta(&self, connection: &Connection, call: &Call<'_>, caller: &Caller, id: u64) -> String {
        let own = call.meta.map(message::own_meta).unwrap_or_default();
        let token = match caller.wants_progress() {
            true => member("progressToken", &id.to_string()),
            false => String::new(),
        };
        let (mut protocol, mut level) = (String::new(), String::new());
        if connection.modern() {
            let capabilities = caller.back.capabilities().map_or("{}", RawValue::get);
            let client = match &call.lane {
                Lane::Shared => connection::client_info(),
                Lane::Session(SessionLane { client, .. }) => client.get().to_owned(),
            };
            protocol = connection::protocol_meta(&client, capabilities);
            if let Some(wanted) = self.watch.level(call.lane.id()) {
                level = member("io.modelcontextprotocol/logLevel", &string(&wanted));
            }
        }
        if own.is_empty() && token.is_empty() && protocol.is_empty() {
            return String::new();
        }
        member("_meta", &object(&[&own, &token, &protocol, &level]))
    }

    /// Subscribes, and returns once that is in force.
    async fn subscribe(&self, lane: &Lane, params: &str) -> Result<(), Failure> {
        self.ask(lane, "resources/subscribe", params).await?;
        let connection = self.slot(lane).await?.connection().await?;
        if connection.modern() { self.watch.in_force().await } else { Ok(()) }
    }

    /// Asks an upstream with sessions on a lane's behalf; a stateless one is told otherwise.
    async fn ask(&self, lane: &Lane, method: &'static str, params: &str) -> Result<(), Failure> {
        let slot = self.slot(lane).await?;
        let connection = slot.connection().await?;
        let features = connection.facts.features;
        if method == "resources/subscribe" && !features.subscribe {
            let message = "the MCP server does not offer subscriptions";
            return Err(Failure::new(Category::NotFound, "subscribe_not_offered", message));
        }
        if connection.modern() || (method == "logging/setLevel" && !features.logging) {
            return Ok(());
        }
        let asked = connection.ask(&self.hub, method, None, params).await;
        asked.map(drop).map_err(connection::failure)
    }
}

/// The error of a stateless upstream that misses a header, or has one too many.
const HEADER_MISMATCH: i64 = -32020;

/// Whether the upstream refused a request because it does not speak the connection's revision any
/// more: another one may have taken its place.
fn changed(ended: &Result<Reply, Lost>, connection: &Connection) -> bool {
    match ended {
        Ok(Err(error)) if connection.modern() => error.code == UNSUPPORTED_VERSION,
        Ok(Err(error)) => {
            [HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION].contains(&error.code)
        }
        Err(Lost::NotSent(failure)) => connection.modern() && failure.code == "upstream_refused",
        Err(_) | Ok(Ok(_)) => false,
    }
}

/// The error of an upstream that wants a capability of the client.
const MISSING_CAPABILITY: i64 = -32021;
/// The error of an upstream that does not speak the revision of a request.
const UNSUPPORTED_VERSION: i64 = -32022;

/// What a call is about, for a header of its own.
fn name_of<'a>(call: &Call<'a>) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct About<'a> {
        #[serde(borrow, default)]
        uri: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        name: Option<Cow<'a, str>>,
    }
    let about = || serde_json::from_str::<About<'a>>(call.params.as_str()).ok();
    match call.method {
        Method::CallTool => Some(Cow::Borrowed(call.tool)),
        Method::ReadResource => about()?.uri,
        Method::GetPrompt => about()?.name,
        Method::Complete => None,
    }
}

/// A result as the caller gets it.
fn complete(result: Box<RawValue>, is_error: bool) -> Ended {
    match RawJson::result(result) {
        Ok(json) => Ended::Result { json, is_error },
        Err(error) => {
            let message = format!("the tool's result cannot be kept: {error}");
            Ended::Unknown(Failure::new(Category::Permanent, "result_invalid", message))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputRequired<'a> {
    #[serde(borrow, default)]
    input_requests: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_state: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// Asks the caller what the upstream wants to know, and gives what its request is repeated with.
async fn answers(result: &RawValue, caller: &Caller) -> Result<String, Ended> {
    let invalid = || Ended::Unknown(message::invalid("asks for input in a form of its own"));
    let required: InputRequired<'_> = serde_json::from_str(result.get()).map_err(|_| invalid())?;
    let questions = match required.input_requests {
        Some(questions) => message::entries(questions).ok_or_else(invalid)?,
        None if required.request_state.is_none() => return Err(invalid()),
        None => Vec::new(),
    };
    let mut responses = Vec::new();
    for (key, question) in &questions {
        let question: Question<'_> = serde_json::from_str(question.get()).map_err(|_| invalid())?;
        let params = question.params.map_or_else(super::serve::empty, ToOwned::to_owned);
        let answer = match caller.ask(&question.method, &params).await {
            Ok(answer) => answer.get().to_owned(),
            // Whoever is asked may always decline; the upstream goes on from there.
            Err(_) if question.method == "elicitation/create" => {
                String::from("{\"action\":\"cancel\"}")
            }
            Err(rpc) => return Err(unanswered(rpc)),
        };
        responses.push(format!("{}:{answer}", string(key)));
    }
    let responses = match questions.is_empty() {
        true => String::new(),
        false => member("inputResponses", &format!("{{{}}}", responses.join(","))),
    };
    let state = required.request_state.map(|state| member("requestState", state.get()));
    Ok(object(&[&responses, &state.unwrap_or_default()]))
}

/// The upstream asked what nobody answers.
fn unanswered(rpc: RpcError) -> Ended {
    let message = "the MCP server asked for input that the caller does not give";
    let failure = Failure::new(Category::Upstream, "input_refused", message).retryable(false);
    Ended::Error { failure, rpc }
}
