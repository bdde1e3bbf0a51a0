//! `subscriptions/listen`: the one stream of a modern client that outlives a request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::response::Response;
use connectors::mcp::{Lane, RpcError, SessionLane};
use http::StatusCode;
use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;
use kernel::values::Digest;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::limits;
use super::lists::{self, Kind, Lister};
use super::revision::Era;
use super::rpc::{self, Asked, Id};
use super::sessions::{Owner, View};
use super::stream::Log;
use super::surface::{self, Surface, Visit};
use super::{errors, greeting, raw};
use crate::auth::Standing;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What a client wants to hear of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wanted {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// A client that listens.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) owner: Owner,
    pub(super) standing: Standing,
    pub(super) view: View,
    id: Id,
    kinds: Vec<Kind>,
    /// Which upstream tells of a resource.
    resources: BTreeMap<String, String>,
    log: Arc<Log>,
    lane: String,
    listed: Mutex<HashMap<Kind, Digest>>,
}

impl Listener {
    pub(super) fn wants(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    pub(super) fn is_told_of(&self, uri: &str, upstream: &str) -> bool {
        self.resources.get(uri).is_some_and(|known| known == upstream)
    }

    /// Takes what the client would see of a kind; whether it saw something else before.
    pub(super) fn sees(&self, kind: Kind, digest: Digest) -> bool {
        let before = self.listed.lock().insert(kind, digest);
        before.is_some_and(|before| before != digest)
    }

    /// Tells the client. `members` are those of the parameters besides `_meta`.
    pub(super) fn tell(&self, method: &str, members: &str) {
        let comma = if members.is_empty() { "" } else { "," };
        let params = format!("{{{}{comma}{members}}}", self.meta());
        self.log.offer(&rpc::notification(method, &params));
    }

    fn meta(&self) -> String {
        format!(r#""_meta":{{"{SUBSCRIPTION}":{}}}"#, self.id.as_json())
    }

    /// Ends the stream in good order.
    fn end(&self) {
        let server = greeting::server_info();
        let id = self.id.as_json();
        let meta =
            format!(r#"{{"{SUBSCRIPTION}":{id},"io.modelcontextprotocol/serverInfo":{server}}}"#);
        let result = format!(r#"{{"resultType":"complete","_meta":{meta}}}"#);
        self.log.push(&rpc::result(&self.id, &result));
        self.log.end();
    }
}

/// Everybody who listens.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<HashMap<u64, Arc<Listener>>>);

impl Listeners {
    fn enter(&self, listener: Listener) -> Result<u64, Failure> {
        let mut listeners = self.0.lock();
        let own = listeners.values().filter(|other| other.owner == listener.owner).count();
        if own >= limits::LISTENERS_PER_PRINCIPAL {
            let message = "too many of your streams are open: close one";
            return Err(Failure::new(Category::RateLimited, "too_many_listeners", message));
        }
        let number = listeners.keys().max().map_or(0, |last| last + 1);
        listeners.insert(number, Arc::new(listener));
        Ok(number)
    }

    pub(super) fn all(&self) -> Vec<Arc<Listener>> {
        self.0.lock().values().cloned().collect()
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Vec<Arc<Listener>> {
        let listeners = self.0.lock();
        let own = listeners.values().filter(|listener| listener.owner.tenant() == tenant);
        own.cloned().collect()
    }

    /// Ends all: the server stops.
    pub(super) fn end_all(&self) {
        self.0.lock().values().for_each(|listener| listener.end());
    }
}

/// Leaves the listeners with the connection.
struct Leave {
    surface: Arc<Surface>,
    number: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(gone) = self.surface.listeners.0.lock().remove(&self.number) else { return };
        let upstreams = &self.surface.shared.upstreams;
        let told: std::collections::BTreeSet<&String> = gone.resources.values().collect();
        for name in told {
            let Some(upstream) = upstreams.get(gone.owner.tenant(), name) else { continue };
            let lane = gone.lane.clone();
            // A server that is ending has no runtime any more, and nothing to close.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { upstream.client.close_lane(&lane).await });
            }
        }
    }
}

/// Opens a stream.
pub(super) async fn open(visit: Visit, id: Id, asked: &Asked<'_>) -> Result<Response, Response> {
    let bad = |message: String| {
        let error = RpcError::new(rpc::INVALID_PARAMS, message);
        errors::refused(StatusCode::BAD_REQUEST, Some(&id), &error)
    };
    let filter = asked.params.notifications;
    let filter = filter.ok_or_else(|| bad("`notifications` is missing".to_owned()))?;
    let wanted: Wanted = serde_json::from_str(filter.get())
        .map_err(|error| bad(format!("`notifications`: {error}")))?;
    if wanted.resource_subscriptions.len() > limits::SUBSCRIPTIONS_MAX {
        return Err(bad("`resourceSubscriptions` names too many resources".to_owned()));
    }
    let kinds = [
        (wanted.tools_list_changed, Kind::Tools),
        (wanted.prompts_list_changed, Kind::Prompts),
        (wanted.resources_list_changed, Kind::Resources),
    ];
    let kinds: Vec<Kind> = kinds.into_iter().filter(|(on, _)| *on).map(|(_, kind)| kind).collect();
    let lane = format!("listen-{}", crate::shared::new_id("mcp"));
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    let mut resources = BTreeMap::new();
    for uri in wanted.resource_subscriptions {
        if let Some(name) = subscribed(&visit.surface, &lister, &lane, &uri).await {
            resources.insert(uri, name);
        }
    }
    let mut listed = HashMap::new();
    for kind in &kinds {
        listed.insert(*kind, lists::digest(&lister.items(*kind, Era::Modern).await));
    }
    let log = Log::plain();
    let listener = Listener {
        owner: Owner::of(&visit.caller),
        standing: visit.standing.clone(),
        view: visit.view.clone(),
        id: id.clone(),
        kinds,
        resources,
        log: log.clone(),
        lane,
        listed: Mutex::new(listed),
    };
    // Before anybody else knows of the stream: this comes first.
    listener.tell("notifications/subscriptions/acknowledged", &acknowledged(&listener));
    let entered = visit.surface.listeners.enter(listener);
    let number = entered.map_err(|failure| surface::failed(&id, &failure))?;
    Ok(log.read_guarded(Leave { surface: visit.surface.clone(), number }))
}

/// What of the client's wishes is heeded.
fn acknowledged(listener: &Listener) -> String {
    let mut members: Vec<String> = Vec::new();
    for (kind, name) in [
        (Kind::Tools, "toolsListChanged"),
        (Kind::Prompts, "promptsListChanged"),
        (Kind::Resources, "resourcesListChanged"),
    ] {
        if listener.wants(kind) {
            members.push(format!(r#""{name}":true"#));
        }
    }
    if !listener.resources.is_empty() {
        let uris: Vec<String> = listener.resources.keys().map(|uri| raw::quoted(uri)).collect();
        members.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
    }
    format!(r#""notifications":{{{}}}"#, members.join(","))
}

/// Has an upstream tell of a resource that the caller may read; the upstream's name.
async fn subscribed(
    surface: &Arc<Surface>,
    lister: &Lister<'_>,
    lane: &str,
    uri: &str,
) -> Option<String> {
    let upstream = lister.readable(uri).await?;
    surface.followed.follow(surface, &upstream);
    let nobody = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let lane = Lane::Session(SessionLane {
        id: lane.to_owned(),
        client: nobody(greeting::server_info())?,
        capabilities: nobody("{}")?,
    });
    match upstream.client.subscribe(&lane, uri).await {
        Ok(()) => Some(upstream.name.clone()),
        Err(error) => {
            tracing::debug!(upstream = upstream.name, %error, "no subscription");
            None
        }
    }
}
