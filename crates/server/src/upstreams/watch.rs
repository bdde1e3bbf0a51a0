//! Watching servers in the background: none of them holds up the start, or another one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use connectors::mcp::{Event, Transport};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contact::{Contact, contact_in_turn};
use super::{Change, Registered, limits};
use crate::shared::Shared;

/// Watches every server there is until `stop`, and lets go of those that are gone.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let watchers = TaskTracker::new();
    let upstreams = &shared.upstreams;
    loop {
        let woken = upstreams.wake.notified();
        for registered in upstreams.everywhere() {
            if !registered.watched.swap(true, Ordering::AcqRel) {
                watchers.spawn(watch(shared.clone(), registered, stop.clone()));
            }
        }
        let retired = std::mem::take(&mut *upstreams.retired.lock());
        for client in retired {
            watchers.spawn(async move { client.close().await });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = woken => {}
        }
    }
    for registered in upstreams.everywhere() {
        watchers.spawn(async move { registered.client.close().await });
    }
    watchers.close();
    watchers.wait().await;
}

async fn watch(shared: Arc<Shared>, registered: Arc<Registered>, stop: CancellationToken) {
    let ended = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = registered.stop.cancelled() => {}
        }
    };
    let subscribed = registered.events.lock().take();
    let events = subscribed.unwrap_or_else(|| registered.client.events());
    tokio::select! {
        () = ended => {}
        () = keep_up(&shared, &registered, events) => {}
    }
    shared.metrics.upstream_gone(&registered.tenant, &registered.name);
}

/// Contacts a server whenever there is a reason to.
async fn keep_up(
    shared: &Shared,
    registered: &Arc<Registered>,
    mut events: broadcast::Receiver<Event>,
) {
    let mut anew = false;
    let mut rest = limits::CONTACT_REST_MIN;
    loop {
        // A tenant that is suspended wants nothing of its servers.
        let suspended = shared.control.directory.suspended(&registered.tenant);
        // One that is being disconnected must not be connected to again.
        let turn = registered.contact.lock().await;
        let wanted = !suspended && !rests(shared, registered);
        let ended = match wanted {
            true => contact_in_turn(shared, registered, turn, anew).await,
            false => {
                drop(turn);
                Ok(Contact::Made)
            }
        };
        anew = true;
        let wait = match ended {
            Ok(Contact::Changed(0) | Contact::Made) => {
                rest = limits::CONTACT_REST_MIN;
                limits::CONTACT_EVERY
            }
            Ok(Contact::Changed(_)) => {
                // One that never stops changing is asked ever more rarely.
                tokio::time::sleep(rest).await;
                rest = longer(rest);
                limits::CONTACT_EVERY
            }
            Err(failure) => {
                let (tenant, server) = (&registered.tenant, &registered.name);
                tracing::warn!(%tenant, server, %failure, "an MCP server does not answer");
                rest = longer(rest);
                rest
            }
        };
        if !until_due(shared, registered, &mut events, wait).await {
            return;
        }
    }
}

/// Whether a server is left alone, since it runs on demand and nobody uses it.
fn rests(shared: &Shared, registered: &Registered) -> bool {
    let stdio = matches!(registered.spec.transport, Transport::Stdio { .. });
    let pinned = shared.upstreams.with_fold(&registered.tenant, |fold| {
        fold.upstreams.get(&registered.name).is_some_and(|upstream| upstream.pinned)
    });
    shared.config.mcp.on_demand && stdio && pinned && !registered.client.is_connected()
}

fn longer(rest: Duration) -> Duration {
    rest.saturating_mul(2).min(limits::CONTACT_REST_MAX)
}

/// Returns when the server should be asked again: it says that its tools changed, or the time is
/// over. Never again where it is closed.
async fn until_due(
    shared: &Shared,
    registered: &Registered,
    events: &mut broadcast::Receiver<Event>,
    wait: Duration,
) -> bool {
    let due = tokio::time::sleep(wait);
    tokio::pin!(due);
    let (tenant, server) = (&registered.tenant, &registered.name);
    loop {
        let event = tokio::select! {
            () = &mut due => return true,
            event = events.recv() => event,
        };
        match event {
            Ok(Event::ToolsChanged) | Err(RecvError::Lagged(_)) => return true,
            Ok(Event::ResourcesChanged) => {
                shared.upstreams.tell(tenant, Change::Resources { server: server.clone() });
            }
            Ok(Event::PromptsChanged) => {
                shared.upstreams.tell(tenant, Change::Prompts { server: server.clone() });
            }
            Ok(Event::Up) => shared.metrics.upstream(tenant, server, true),
            Ok(Event::Down { reason }) => {
                shared.metrics.upstream(tenant, server, false);
                tracing::warn!(%tenant, server, reason, "the connection to an MCP server is down");
            }
            // For those who subscribed to them.
            Ok(Event::ResourceUpdated { .. } | Event::Message { .. }) => {}
            Err(RecvError::Closed) => return false,
        }
    }
}
