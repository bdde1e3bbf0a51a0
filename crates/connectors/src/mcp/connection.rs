//! A connection to an upstream: how it is opened, in which revision, and what goes over it.

use std::pin::pin;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use kernel::failure::{Category, Failure};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::auth::Subject;
use super::call::{RpcError, SessionLane};
use super::endpoint::Endpoint;
use super::health::Hub;
use super::http::Session;
use super::message::{self, member, object};
use super::serve::{Askable, Caller, empty};
use super::spec::Revision;
use super::stdio::{Child, Launch};
use crate::limits;

/// The answer to a request.
pub(super) type Reply = Result<Box<RawValue>, RpcError>;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The upstream did not act on it.
    NotSent(Failure),
    /// The upstream may have acted on it.
    Unknown(Failure),
    /// The upstream did not act on it, since it ended the session: a new one is to be opened.
    Expired,
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::NotSent(failure)
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) id: u64,
    pub(super) method: &'static str,
    /// The name or URI that it is about.
    pub(super) name: Option<&'a str>,
    /// Parameters that the upstream wants in headers.
    pub(super) mirrored: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
    pub(super) caller: Option<&'a Arc<Caller>>,
    pub(super) subject: Option<&'a Subject>,
    /// Whether it may be sent again over another connection.
    pub(super) repeatable: bool,
}

/// How an upstream is reached.
#[derive(Debug)]
pub(super) enum Link {
    Stdio(Launch),
    Http(Arc<Endpoint>),
}

#[derive(Debug)]
enum Wire {
    Stdio(Child),
    Http(Arc<Session>),
}

/// What an upstream says of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) revision: Revision,
    /// The version as negotiated.
    pub(super) version: String,
    pub(super) server_info: Option<Box<RawValue>>,
    pub(super) capabilities: Box<RawValue>,
    pub(super) instructions: Option<String>,
    pub(super) features: Features,
}

/// What an upstream offers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Features {
    pub(super) tools: bool,
    pub(super) resources: bool,
    pub(super) prompts: bool,
    pub(super) tools_change: bool,
    pub(super) resources_change: bool,
    pub(super) prompts_change: bool,
    pub(super) subscribe: bool,
    pub(super) logging: bool,
}

impl Features {
    fn of(capabilities: &RawValue) -> Self {
        let value: serde_json::Value = serde_json::from_str(capabilities.get()).unwrap_or_default();
        let has = |name: &str| value.get(name).is_some_and(serde_json::Value::is_object);
        let says = |name: &str, flag: &str| {
            value.get(name).and_then(|of| of.get(flag)) == Some(&serde_json::Value::Bool(true))
        };
        Self {
            tools: has("tools"),
            resources: has("resources"),
            prompts: has("prompts"),
            tools_change: says("tools", "listChanged"),
            resources_change: says("resources", "listChanged"),
            prompts_change: says("prompts", "listChanged"),
            subscribe: says("resources", "subscribe"),
            logging: has("logging"),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
    pub(super) facts: Facts,
    /// Listens for what belongs to no request; with sessions only.
    _listener: Option<AbortOnDropHandle<()>>,
}

/// What this client is called where no other client stands behind it.
pub(super) fn client_info() -> String {
    let version = message::string(env!("CARGO_PKG_VERSION"));
    format!("{{\"name\":\"tally\",\"title\":\"Tally\",\"version\":{version}}}")
}

/// The members of `_meta` that the stateless revision wants in each request.
pub(super) fn protocol_meta(client: &str, capabilities: &str) -> String {
    format!(
        "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
         \"io.modelcontextprotocol/clientInfo\":{client},\
         \"io.modelcontextprotocol/clientCapabilities\":{capabilities}"
    )
}

impl Connection {
    pub(super) fn modern(&self) -> bool {
        self.facts.revision == Revision::V2026_07_28
    }

    pub(super) fn over_http(&self) -> bool {
        matches!(self.wire, Wire::Http(_))
    }

    /// Whether requests can still go over it.
    pub(super) fn alive(&self) -> bool {
        match &self.wire {
            Wire::Stdio(child) => child.alive(),
            Wire::Http(_) => true,
        }
    }

    /// Sends a request and waits for its answer, for as long as it is polled.
    pub(super) async fn request(&self, out: Out<'_>) -> Result<Reply, Lost> {
        match &self.wire {
            Wire::Stdio(child) => child.request(out).await,
            Wire::Http(session) => session.request(out).await.map(|(reply, _)| reply),
        }
    }

    /// Sends what needs no answer.
    pub(super) async fn tell(&self, message: Vec<u8>) -> Result<(), Failure> {
        match &self.wire {
            Wire::Stdio(child) => child.tell(message).await,
            Wire::Http(session) => session.tell(message).await,
        }
    }

    /// Ends it.
    pub(super) async fn close(&self) {
        match &self.wire {
            Wire::Stdio(child) => child.stop(),
            Wire::Http(session) => session.end().await,
        }
    }

    /// Sends a request that is no action, within its own time.
    pub(super) async fn ask(
        &self,
        hub: &Hub,
        method: &'static str,
        name: Option<&str>,
        params: &str,
    ) -> Result<Box<RawValue>, Lost> {
        let meta = match self.modern() {
            true => member("_meta", &object(&[&protocol_meta(&client_info(), "{}")])),
            false => String::new(),
        };
        let id = hub.next_id();
        let params = object(&[message::members(params), &meta]);
        let out = out(id, method, name, &params);
        let asked = tokio::time::timeout(limits::MCP_REQUEST_TIMEOUT, self.request(out)).await;
        match asked.unwrap_or_else(|_| Err(late().into()))? {
            Ok(result) => Ok(result),
            Err(error) => Err(rpc_failure(&error).into()),
        }
    }
}

/// A request that is no action.
pub(super) fn out<'a>(
    id: u64,
    method: &'static str,
    name: Option<&'a str>,
    params: &str,
) -> Out<'a> {
    Out {
        id,
        method,
        name,
        mirrored: Vec::new(),
        body: message::request(id, method, params),
        caller: None,
        subject: None,
        repeatable: true,
    }
}

fn late() -> Failure {
    let within = limits::MCP_REQUEST_TIMEOUT.as_secs();
    Failure::new(Category::Timeout, "timeout", format!("no answer within {within} s"))
}

/// What receipts say of an error: its code, but none of its content.
pub(super) fn rpc_failure(error: &RpcError) -> Failure {
    let message = format!("the MCP server answered with the error {}", error.code);
    Failure::new(Category::Upstream, "upstream_error", message).retryable(false)
}

/// Opens a connection, for a session of a client or for all.
pub(super) async fn open(
    link: &Link,
    hub: &Arc<Hub>,
    lane: Option<&SessionLane>,
    pin: Option<Revision>,
) -> Result<Connection, Failure> {
    let opening = async {
        match link {
            Link::Stdio(launch) => open_stdio(launch, hub, lane, pin).await,
            Link::Http(endpoint) => open_http(endpoint, hub, lane, pin).await,
        }
    };
    let opened = tokio::time::timeout(limits::MCP_CONNECT_TIMEOUT, opening).await;
    opened.unwrap_or_else(|_| {
        let within = limits::MCP_CONNECT_TIMEOUT.as_secs();
        let message = format!("the MCP server did not open a connection within {within} s");
        Err(Failure::new(Category::Timeout, "timeout", message))
    })
}

/// What the answer to `server/discover` tells.
enum Era {
    Modern(Facts),
    Legacy,
    /// The stateless revision, which was refused at first.
    Again,
}

async fn open_http(
    endpoint: &Arc<Endpoint>,
    hub: &Arc<Hub>,
    lane: Option<&SessionLane>,
    pin: Option<Revision>,
) -> Result<Connection, Failure> {
    if pin.or(hub.revision()) != Some(Revision::V2025_11_25) {
        let modern = Revision::V2026_07_28;
        let session = Session::new(endpoint, hub, modern, None, Askable::default());
        let found = match asked(&session, hub).await? {
            Era::Again => asked(&session, hub).await?,
            found => found,
        };
        match found {
            Era::Modern(facts) => {
                let wire = Wire::Http(Arc::new(session));
                return Ok(Connection { wire, facts, _listener: None });
            }
            Era::Legacy if pin != Some(modern) => {}
            Era::Legacy | Era::Again => return Err(other_revision()),
        }
    }
    let askable = lane.map(|lane| Askable::of(&lane.capabilities)).unwrap_or_default();
    let id = lane.map(|lane| lane.id.clone());
    let mut session = Session::new(endpoint, hub, Revision::V2025_11_25, id, askable);
    let (reply, assigned) =
        session.request(initialize(hub.next_id(), lane)).await.map_err(failure)?;
    let facts = initialized(reply)?;
    session.opened(&facts.version, assigned);
    session.tell(message::notification("notifications/initialized", None)).await?;
    let session = Arc::new(session);
    let listening = Arc::clone(&session);
    let (opened, open) = oneshot::channel();
    let listener = tokio::spawn(async move { listening.listen(opened).await });
    let listener = Some(AbortOnDropHandle::new(listener));
    // What a server asks or tells before somebody listens is lost. One that does not answer before
    // it has something to tell is not waited for longer than this.
    let _open = tokio::time::timeout(limits::MCP_LISTEN_TIMEOUT, open).await;
    Ok(Connection { wire: Wire::Http(session), facts, _listener: listener })
}

/// What an endpoint says that it speaks.
async fn asked(session: &Session, hub: &Hub) -> Result<Era, Failure> {
    let asked = session.request(discover(hub.next_id()));
    match tokio::time::timeout(limits::MCP_PROBE_TIMEOUT, asked).await {
        Ok(reply) => era(reply.map(|(reply, _)| reply)),
        // Silence is what an older server may answer.
        Err(_) => Ok(Era::Legacy),
    }
}

async fn open_stdio(
    launch: &Launch,
    hub: &Arc<Hub>,
    lane: Option<&SessionLane>,
    pin: Option<Revision>,
) -> Result<Connection, Failure> {
    let askable = lane.map(|lane| Askable::of(&lane.capabilities)).unwrap_or_default();
    let id = lane.map(|lane| lane.id.clone());
    let start = || launch.start(hub, id.clone(), askable);
    let connection = |child, facts| Connection { wire: Wire::Stdio(child), facts, _listener: None };
    let mut child = start()?;
    if pin.or(hub.revision()) != Some(Revision::V2025_11_25) {
        let found = match probe(&child, hub, lane, pin).await {
            Ok((Era::Again, _)) => probe(&child, hub, lane, pin).await,
            found => found,
        };
        match found {
            Ok((Era::Again, _)) => return Err(other_revision()),
            Ok((Era::Modern(facts), _)) => return Ok(connection(child, facts)),
            Ok((Era::Legacy, Some(facts))) => return settled(connection(child, facts)).await,
            Ok((Era::Legacy, None)) => {}
            // Some end when they are sent what they do not know.
            Err(_) if !child.alive() && pin.is_none() => child = start()?,
            Err(failure) => return Err(failure),
        }
        if pin == Some(Revision::V2026_07_28) {
            return Err(other_revision());
        }
    }
    let reply = child.request(initialize(hub.next_id(), lane)).await.map_err(failure)?;
    let facts = initialized(reply)?;
    settled(connection(child, facts)).await
}

/// Tells the upstream that the handshake is over.
async fn settled(connection: Connection) -> Result<Connection, Failure> {
    connection.tell(message::notification("notifications/initialized", None)).await?;
    Ok(connection)
}

/// Finds out what a child speaks. One that stays silent is sent `initialize` as well, and what it
/// answers first counts: it may be an older server, or one that takes long to start.
async fn probe(
    child: &Child,
    hub: &Hub,
    lane: Option<&SessionLane>,
    pin: Option<Revision>,
) -> Result<(Era, Option<Facts>), Failure> {
    let mut discovered = pin!(child.request(discover(hub.next_id())));
    let first = tokio::time::timeout(limits::MCP_PROBE_TIMEOUT, &mut discovered).await;
    if let Ok(reply) = first {
        return Ok((era(reply)?, None));
    }
    if pin.is_some() {
        return Ok((era(discovered.await)?, None));
    }
    let mut opened = pin!(child.request(initialize(hub.next_id(), lane)));
    tokio::select! {
        reply = &mut discovered => match era(reply)? {
            found @ (Era::Modern(_) | Era::Again) => Ok((found, None)),
            Era::Legacy => {
                let facts = initialized(opened.await.map_err(failure)?)?;
                Ok((Era::Legacy, Some(facts)))
            }
        },
        reply = &mut opened => match reply.map_err(failure)? {
            Ok(result) => Ok((Era::Legacy, Some(initialized(Ok(result))?))),
            // A stateless server that took its time knows no such method.
            Err(_) => Ok((era(discovered.await)?, None)),
        },
    }
}

fn discover(id: u64) -> Out<'static> {
    let meta = object(&[&protocol_meta(&client_info(), "{}")]);
    out(id, "server/discover", None, &object(&[&member("_meta", &meta)]))
}

fn initialize(id: u64, lane: Option<&SessionLane>) -> Out<'static> {
    let (client, capabilities) = match lane {
        Some(lane) => (lane.client.get().to_owned(), lane.capabilities.get()),
        None => (client_info(), "{}"),
    };
    let params = object(&[
        "\"protocolVersion\":\"2025-11-25\"",
        &member("capabilities", capabilities),
        &member("clientInfo", &client),
    ]);
    out(id, "initialize", None, &params)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovered {
    supported_versions: Vec<String>,
    #[serde(default)]
    capabilities: Option<Box<RawValue>>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default, rename = "_meta")]
    meta: Option<DiscoveredMeta>,
    #[serde(default)]
    server_info: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct DiscoveredMeta {
    #[serde(default, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Box<RawValue>>,
}

/// What the answer to `server/discover` says of the upstream.
fn era(reply: Result<Reply, Lost>) -> Result<Era, Failure> {
    match reply {
        Ok(Ok(result)) => match serde_json::from_str::<Discovered>(result.get()) {
            Ok(found) => offered(&found.supported_versions).map(|modern| match modern {
                true => Era::Modern(discovered(found)),
                false => Era::Legacy,
            }),
            // An older server that answers what it does not know.
            Err(_) => Ok(Era::Legacy),
        },
        Ok(Err(error)) => match error.code {
            -32022 => match offered(&supported(&error))? {
                true => Ok(Era::Again),
                false => Ok(Era::Legacy),
            },
            -32021 | -32020 => Err(rpc_failure(&error)),
            _ => Ok(Era::Legacy),
        },
        Err(Lost::NotSent(refused) | Lost::Unknown(refused))
            if matches!(
                refused.code.as_str(),
                "upstream_refused" | "upstream_failed" | "answer_invalid"
            ) =>
        {
            Ok(Era::Legacy)
        }
        Err(lost) => Err(failure(lost)),
    }
}

/// Whether the stateless revision is among `versions`; an error if nothing is that is spoken here.
fn offered(versions: &[String]) -> Result<bool, Failure> {
    let spoken = |of: Revision| versions.iter().any(|v| Revision::of(v) == Some(of));
    match (spoken(Revision::V2026_07_28), spoken(Revision::V2025_11_25)) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(other_revision()),
    }
}

fn supported(error: &RpcError) -> Vec<String> {
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let data = error.data.as_deref().map(RawValue::get).unwrap_or_default();
    serde_json::from_str::<Data>(data).map(|data| data.supported).unwrap_or_default()
}

fn discovered(found: Discovered) -> Facts {
    let capabilities = found.capabilities.unwrap_or_else(empty);
    Facts {
        revision: Revision::V2026_07_28,
        version: Revision::V2026_07_28.as_str().to_owned(),
        server_info: found.meta.and_then(|meta| meta.server_info).or(found.server_info),
        features: Features::of(&capabilities),
        capabilities,
        instructions: found.instructions,
    }
}

/// Reads the answer to `initialize`.
fn initialized(reply: Reply) -> Result<Facts, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
        #[serde(default)]
        capabilities: Option<Box<RawValue>>,
        #[serde(default)]
        server_info: Option<Box<RawValue>>,
        #[serde(default)]
        instructions: Option<String>,
    }
    let result = reply.map_err(|error| rpc_failure(&error))?;
    let found: Initialized = serde_json::from_str(result.get())
        .map_err(|_| message::invalid("is no result of initialize"))?;
    if Revision::of(&found.protocol_version) != Some(Revision::V2025_11_25) {
        return Err(other_revision());
    }
    let capabilities = found.capabilities.unwrap_or_else(empty);
    Ok(Facts {
        revision: Revision::V2025_11_25,
        version: found.protocol_version,
        server_info: found.server_info,
        features: Features::of(&capabilities),
        capabilities,
        instructions: found.instructions,
    })
}

fn other_revision() -> Failure {
    let message = "the MCP server speaks no revision that is spoken here, or not the one demanded";
    Failure::new(Category::Permanent, "revision_unsupported", message)
}

/// A request that is no action failed.
pub(super) fn failure(lost: Lost) -> Failure {
    match lost {
        Lost::NotSent(failure) | Lost::Unknown(failure) => failure,
        Lost::Expired => {
            let message = "the MCP server ended the session";
            Failure::new(Category::Network, "session_ended", message)
        }
    }
}
