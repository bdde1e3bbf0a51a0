//! What an upstream is to tell of on its own: changed lists, changed resources, log messages.
//!
//! An upstream with sessions is asked once in each session. A stateless one tells for as long as
//! a request `subscriptions/listen` is open, which is made anew where what is wanted changes.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::failure::{Category, Failure};
use tokio::sync::watch;

use super::connection::{self, Connection, Features, Reply};
use super::health::Hub;
use super::message::{member, object, string};
use crate::limits;

/// What one lane wants to hear of.
#[derive(Debug, Default)]
struct Wishes {
    resources: BTreeSet<String>,
    level: Option<String>,
}

/// What all lanes of an upstream want to hear of.
#[derive(Debug)]
pub(super) struct Watch {
    wishes: Mutex<HashMap<Option<String>, Wishes>>,
    /// Counts the changes of the wishes.
    version: watch::Sender<u64>,
    /// Which of them a stateless upstream has taken up.
    heard: watch::Sender<Heard>,
}

/// What a stateless upstream answered last.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Up to which change of the wishes.
    version: u64,
    /// Whether it does not tell anything.
    refused: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (version, heard) = (watch::Sender::new(0), watch::Sender::default());
        Self { wishes: Mutex::default(), version, heard }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<String>, Wishes>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Waits until a stateless upstream has taken up what is wanted now.
    pub(super) async fn in_force(&self) -> Result<(), Failure> {
        let wanted = *self.version.borrow();
        let mut heard = self.heard.subscribe();
        let taken = heard.wait_for(|heard| heard.version >= wanted);
        match tokio::time::timeout(limits::MCP_SUBSCRIBE_TIMEOUT, taken).await {
            Ok(Ok(heard)) if !heard.refused => Ok(()),
            Ok(Ok(_)) => {
                let message = "the MCP server refuses subscriptions";
                Err(Failure::new(Category::NotFound, "subscribe_refused", message))
            }
            Ok(Err(_)) | Err(_) => {
                let message = "the MCP server did not take up the subscription in time";
                Err(Failure::new(Category::Timeout, "subscribe_timeout", message))
            }
        }
    }

    fn heard(&self, version: u64, refused: bool) {
        self.heard.send_replace(Heard { version, refused });
    }

    /// Notes that a lane wants to hear of a resource.
    pub(super) fn subscribe(&self, lane: Option<&str>, uri: &str) -> Result<(), Failure> {
        let mut wishes = self.lock();
        let lane = wishes.entry(lane.map(str::to_owned)).or_default();
        if lane.resources.len() >= limits::MCP_SUBSCRIPTIONS_MAX && !lane.resources.contains(uri) {
            let message = format!("{} resources are subscribed to", limits::MCP_SUBSCRIPTIONS_MAX);
            let code = "too_many_subscriptions";
            return Err(Failure::new(Category::RateLimited, code, message));
        }
        lane.resources.insert(uri.to_owned());
        drop(wishes);
        self.changed();
        Ok(())
    }

    /// Notes that it does not any more.
    pub(super) fn unsubscribe(&self, lane: Option<&str>, uri: &str) {
        if let Some(lane) = self.lock().get_mut(&lane.map(str::to_owned)) {
            lane.resources.remove(uri);
        }
        self.changed();
    }

    /// Notes from which level on a lane wants log messages.
    pub(super) fn set_level(&self, lane: Option<&str>, level: &str) {
        self.lock().entry(lane.map(str::to_owned)).or_default().level = Some(level.to_owned());
    }

    /// From which level on a lane wants log messages.
    pub(super) fn level(&self, lane: Option<&str>) -> Option<String> {
        let wishes = self.lock();
        if wishes.is_empty() {
            return None;
        }
        wishes.get(&lane.map(str::to_owned))?.level.clone()
    }

    /// Forgets what a lane wanted.
    pub(super) fn forget(&self, lane: &str) {
        if self.lock().remove(&Some(lane.to_owned())).is_some() {
            self.changed();
        }
    }

    /// Tells a new session what its lane wants.
    pub(super) async fn restore(&self, connection: &Connection, hub: &Hub, lane: Option<&str>) {
        let (resources, level) = match self.lock().get(&lane.map(str::to_owned)) {
            Some(wishes) => (wishes.resources.clone(), wishes.level.clone()),
            None => return,
        };
        let mut asks = Vec::new();
        if let Some(level) = level.filter(|_| connection.facts.features.logging) {
            asks.push(("logging/setLevel", member("level", &string(&level))));
        }
        for uri in resources {
            asks.push(("resources/subscribe", member("uri", &string(&uri))));
        }
        for (method, params) in asks {
            let asked = connection.ask(hub, method, None, &object(&[&params])).await;
            if let Err(failure) = asked.map_err(connection::failure) {
                let code = failure.code;
                tracing::warn!(code, method, "an MCP server does not take up a subscription again");
            }
        }
    }

    /// The filter of what is to be told, or nothing.
    fn filter(&self, features: Features) -> Option<String> {
        let resources: BTreeSet<String> =
            self.lock().values().flat_map(|wishes| wishes.resources.iter().cloned()).collect();
        let flag = |on: bool, name: &str| if on { member(name, "true") } else { String::new() };
        let uris: Vec<String> = resources.iter().map(|uri| string(uri)).collect();
        let subscribed = match uris.is_empty() {
            true => String::new(),
            false => member("resourceSubscriptions", &format!("[{}]", uris.join(","))),
        };
        let filter = object(&[
            &flag(features.tools_change, "toolsListChanged"),
            &flag(features.prompts_change, "promptsListChanged"),
            &flag(features.resources_change, "resourcesListChanged"),
            &subscribed,
        ]);
        (filter != "{}").then_some(filter)
    }
}

type Listening = Pin<Box<dyn Future<Output = Result<Reply, connection::Lost>> + Send>>;

fn open(connection: &Arc<Connection>, hub: &Hub, filter: &str) -> Listening {
    let (connection, id) = (Arc::clone(connection), hub.next_id());
    let meta = connection::protocol_meta(&connection::client_info(), "{}");
    let meta = member("_meta", &object(&[&meta]));
    let params = object(&[&member("notifications", filter), &meta]);
    Box::pin(async move {
        let out = connection::out(id, "subscriptions/listen", None, &params);
        connection.request(out).await
    })
}

/// Listens to a stateless upstream for as long as it is polled and the connection lasts.
pub(super) async fn listen(watch: Arc<Watch>, hub: Arc<Hub>, connection: Arc<Connection>) {
    let mut version = watch.version.subscribe();
    let mut wait = limits::MCP_BACKOFF_MIN;
    let mut before: Option<Listening> = None;
    while connection.alive() {
        let wanted = *version.borrow_and_update();
        let Some(filter) = watch.filter(connection.facts.features) else {
            before = None;
            watch.heard(wanted, false);
            if version.changed().await.is_err() {
                return;
            }
            continue;
        };
        let acknowledged = hub.acknowledged();
        let mut now = open(&connection, &hub, &filter);
        // The stream before goes on until this one is heard of: nothing is missed in between.
        let ended = tokio::select! {
            ended = &mut now => Some(ended),
            () = acknowledged => None,
            never = kept(before.take()) => match never {},
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                wait = limits::MCP_BACKOFF_MIN;
                watch.heard(wanted, false);
                tokio::select! {
                    ended = &mut now => ended,
                    changed = version.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        before = Some(now);
                        continue;
                    }
                }
            }
        };
        // One that does not know the method is not asked again before something else is wanted.
        if matches!(ended, Ok(Err(_))) {
            watch.heard(wanted, true);
            if version.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(limits::MCP_BACKOFF_MAX);
        // What changed meanwhile is not known.
        hub.all_changed();
    }
}

/// Keeps listening, with no end.
async fn kept(listening: Option<Listening>) -> std::convert::Infallible {
    if let Some(listening) = listening {
        // That it ended early makes no difference: the next one is on its way.
        drop(listening.await);
    }
    std::future::pending().await
}
