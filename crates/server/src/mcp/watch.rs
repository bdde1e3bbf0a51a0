//! Tells clients what changes while they are here: lists, resources, log messages. And lets go of
//! what nobody uses any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use connectors::mcp::Event;
use kernel::decision::DecisionPoint;
use kernel::ids::TenantId;
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::limits;
use super::lists::{self, Kind, Lister};
use super::revision::Era;
use super::sessions::{Level, View};
use super::surface::Surface;
use super::{legacy, raw, rpc};
use crate::auth::Standing;
use crate::shared::{Caller, Shared};
use crate::upstreams::{Change, Registered};

/// What decides what a caller sees: where it is the same, so are the lists, unless an upstream
/// says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ground {
    policy: u64,
    principal: u64,
}

/// Follows what changes until `stop`.
pub(crate) async fn serve(surface: Arc<Surface>, stop: CancellationToken) {
    let mut changed = surface.shared.upstreams.changed();
    let mut tick = tokio::time::interval(limits::LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            change = changed.recv() => match change {
                Ok((tenant, change)) => watch.take(tenant, &change),
                // Some were missed: look at everything.
                Err(RecvError::Lagged(_)) => watch.grounds.clear(),
                Err(RecvError::Closed) => break,
            },
            _ = tick.tick() => watch.look(&surface).await,
        }
    }
    surface.followed.stop.cancel();
    surface.listeners.end_all();
    surface.sessions.end_all();
}

#[derive(Default)]
struct Watch {
    /// The lists that changed at some upstream, by tenant.
    dirty: HashMap<TenantId, BTreeSet<Kind>>,
    /// On what the lists of a client were made, by session or listener.
    grounds: HashMap<usize, Ground>,
}

/// The upstreams whose events are followed.
#[derive(Default)]
pub(super) struct Followed {
    upstreams: Mutex<Vec<Weak<Registered>>>,
    stop: CancellationToken,
}

impl Followed {
    /// Hands on what `upstream` says of its own accord from now on.
    pub(super) fn follow(&self, surface: &Arc<Surface>, upstream: &Arc<Registered>) {
        let mut upstreams = self.upstreams.lock();
        upstreams.retain(|upstream| upstream.strong_count() > 0);
        if upstreams.iter().any(|known| known.as_ptr() == Arc::as_ptr(upstream)) {
            return;
        }
        upstreams.push(Arc::downgrade(upstream));
        // Before anything else: what is told from here on is heard.
        let events = upstream.client.events();
        let (surface, stop) = (Arc::clone(surface), self.stop.clone());
        tokio::spawn(hand_on(surface, Arc::clone(upstream), events, stop));
    }
}

/// A client that is told of lists.
struct Client<'a> {
    key: usize,
    tenant: &'a TenantId,
    standing: Standing,
    view: &'a View,
    kinds: Vec<Kind>,
    era: Era,
}

const KINDS: [Kind; 3] = [Kind::Tools, Kind::Prompts, Kind::Resources];

impl Watch {
    fn take(&mut self, tenant: TenantId, change: &Change) {
        let dirty = self.dirty.entry(tenant).or_default();
        match change {
            Change::Tools => dirty.extend([Kind::Tools]),
            Change::Resources { .. } => dirty.extend([Kind::Resources]),
            Change::Prompts { .. } => dirty.extend([Kind::Prompts]),
            _ => dirty.extend(KINDS),
        }
    }

    async fn look(&mut self, surface: &Arc<Surface>) {
        for session in surface.sessions.sweep() {
            legacy::ended(surface, &session).await;
        }
        surface.parked.sweep();
        surface.lanes.sweep().await;
        let (sessions, listeners) = (surface.sessions.all(), surface.listeners.all());
        let tenants: BTreeSet<&TenantId> = sessions
            .iter()
            .map(|session| session.owner.tenant())
            .chain(listeners.iter().map(|listener| listener.owner.tenant()))
            .collect();
        for tenant in tenants {
            for upstream in surface.shared.upstreams.all(tenant) {
                surface.followed.follow(surface, &upstream);
            }
        }
        let mut grounds = HashMap::new();
        for session in &sessions {
            let client = Client {
                key: Arc::as_ptr(session).addr(),
                tenant: session.owner.tenant(),
                standing: session.standing(),
                view: &session.intro.view,
                kinds: KINDS.into_iter().filter(|kind| session.listed(*kind)).collect(),
                era: Era::Legacy,
            };
            for (kind, digest) in self.seen(&surface.shared, &client, &mut grounds).await {
                if session.sees(kind, digest) {
                    let message = rpc::notification(kind.notification(), "{}");
                    session.standalone.offer(&message);
                }
            }
        }
        for listener in &listeners {
            let client = Client {
                key: Arc::as_ptr(listener).addr(),
                tenant: listener.owner.tenant(),
                standing: listener.standing.clone(),
                view: &listener.view,
                kinds: KINDS.into_iter().filter(|kind| listener.wants(*kind)).collect(),
                era: Era::Modern,
            };
            for (kind, digest) in self.seen(&surface.shared, &client, &mut grounds).await {
                if listener.sees(kind, digest) {
                    listener.tell(kind.notification(), "");
                }
            }
        }
        self.grounds = grounds;
        self.dirty.clear();
    }

    /// What a client would see now of the lists that may have changed.
    async fn seen(
        &self,
        shared: &Shared,
        client: &Client<'_>,
        grounds: &mut HashMap<usize, Ground>,
    ) -> Vec<(Kind, kernel::values::Digest)> {
        // Whose credential is no more is told nothing.
        let Ok(caller) = client.standing.caller(shared) else { return Vec::new() };
        let ground = Ground {
            policy: shared.policy.current(&caller.tenant).revision,
            principal: caller.revision,
        };
        let known = self.grounds.get(&client.key);
        let same = known.is_some_and(|known| *known == ground);
        grounds.insert(client.key, ground);
        let dirty = self.dirty.get(client.tenant);
        let mut seen = Vec::new();
        for kind in &client.kinds {
            if same && !dirty.is_some_and(|dirty| dirty.contains(kind)) {
                continue;
            }
            seen.push((*kind, digest(shared, &caller, client, *kind).await));
        }
        seen
    }
}

async fn digest(
    shared: &Shared,
    caller: &Caller,
    client: &Client<'_>,
    kind: Kind,
) -> kernel::values::Digest {
    let lister = Lister { shared, caller, view: client.view };
    lists::digest(&lister.items(kind, client.era).await)
}

/// Hands on what an upstream says of its own accord.
async fn hand_on(
    surface: Arc<Surface>,
    upstream: Arc<Registered>,
    mut events: Receiver<Event>,
    stop: CancellationToken,
) {
    let (tenant, name) = (upstream.tenant.clone(), upstream.name.clone());
    let known = Arc::downgrade(&upstream);
    drop(upstream);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(Event::ResourceUpdated { uri }) => updated(&surface, &tenant, &name, &uri),
            Ok(Event::Message { lane: Some(lane), params }) => {
                message(&surface, &tenant, &lane, params.get());
            }
            Ok(Event::ToolsChanged) => hint(&surface, &tenant, &name, Kind::Tools),
            Ok(Event::ResourcesChanged) => hint(&surface, &tenant, &name, Kind::Resources),
            Ok(Event::PromptsChanged) => hint(&surface, &tenant, &name, Kind::Prompts),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        if known.strong_count() == 0 {
            return;
        }
    }
}

/// An upstream says that a list changed. Its word goes to whoever sees anything of it, at once,
/// whether or not there is a difference to them.
fn hint(surface: &Surface, tenant: &TenantId, upstream: &str, kind: Kind) {
    let sees = |standing: &Standing, view: &View| {
        let caller = standing.caller(&surface.shared);
        view.shows(upstream)
            && caller.is_ok_and(|caller| {
                let lister = Lister { shared: &surface.shared, caller: &caller, view };
                lister.sees_any_of(upstream)
            })
    };
    for session in surface.sessions.of(tenant) {
        if sees(&session.standing(), &session.intro.view) {
            session.standalone.offer(&rpc::notification(kind.notification(), "{}"));
        }
    }
    for listener in surface.listeners.of(tenant) {
        if listener.wants(kind) && sees(&listener.standing, &listener.view) {
            listener.tell(kind.notification(), "");
        }
    }
}

fn updated(surface: &Surface, tenant: &TenantId, upstream: &str, uri: &str) {
    const METHOD: &str = "notifications/resources/updated";
    let member = format!(r#""uri":{}"#, raw::quoted(uri));
    for session in surface.sessions.of(tenant) {
        if session.is_told_of(uri, upstream) {
            session.standalone.offer(&rpc::notification(METHOD, &format!("{{{member}}}")));
        }
    }
    for listener in surface.listeners.of(tenant) {
        if listener.is_told_of(uri, upstream) {
            listener.tell(METHOD, &member);
        }
    }
}

/// A log message that belongs to no call goes to the session whose lane it came over.
fn message(surface: &Surface, tenant: &TenantId, lane: &str, params: &str) {
    let sessions = surface.sessions.of(tenant);
    let Some(session) = sessions.into_iter().find(|session| session.id == lane) else { return };
    let level = raw::member(params, "level");
    let level: Option<String> = level.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let level = level.and_then(|name| Level::parse(&name));
    if session.level().is_none_or(|least| level.is_some_and(|level| level >= least)) {
        session.standalone.offer(&rpc::notification("notifications/message", params));
    }
}
