//! The place of one connection: made when it is needed, made anew after it broke, not too often.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::failure::{Category, Failure};
use tokio_util::task::AbortOnDropHandle;

use super::call::SessionLane;
use super::connection::{self, Connection, Link};
use super::health::Hub;
use super::spec::Revision;
use super::watch::{self, Watch};
use crate::limits;

/// Where a connection is or will be.
#[derive(Debug)]
pub(super) struct Slot {
    link: Arc<Link>,
    hub: Arc<Hub>,
    watch: Arc<Watch>,
    lane: Option<SessionLane>,
    pin: Option<Revision>,
    current: Mutex<Option<Current>>,
    /// Held while a connection is made.
    making: tokio::sync::Mutex<Pause>,
}

/// A connection, and what listens over it. The two go together.
#[derive(Debug)]
struct Current {
    connection: Arc<Connection>,
    _listener: Option<AbortOnDropHandle<()>>,
}

/// When the next try may be made.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Option<(Instant, Failure)>,
}

impl Slot {
    pub(super) fn new(
        link: &Arc<Link>,
        hub: &Arc<Hub>,
        watch: &Arc<Watch>,
        lane: Option<SessionLane>,
        pin: Option<Revision>,
    ) -> Self {
        Self {
            link: Arc::clone(link),
            hub: Arc::clone(hub),
            watch: Arc::clone(watch),
            lane,
            pin,
            current: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Current>) -> T) -> T {
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The connection, if there is one that works.
    pub(super) fn current(&self) -> Option<Arc<Connection>> {
        let current = self.with(|current| current.as_ref().map(|c| Arc::clone(&c.connection)));
        current.filter(|connection| connection.alive())
    }

    /// The connection, made if need be. Making it goes on where the caller stops waiting.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Failure> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let slot = Arc::clone(self);
        let made = tokio::spawn(async move { slot.make().await }).await;
        made.unwrap_or_else(|_| {
            let message = "the connection could not be made";
            Err(Failure::new(Category::Internal, "connect_failed", message))
        })
    }

    async fn make(&self) -> Result<Arc<Connection>, Failure> {
        let mut pause = self.making.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        drop(self.with(Option::take));
        if let Some((until, failure)) = &pause.until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                let failure = failure.clone();
                return Err(match failure.retryable {
                    true => failure.retry_after_ms(ms.max(1)),
                    false => failure,
                });
            }
        }
        match connection::open(&self.link, &self.hub, self.lane.as_ref(), self.pin).await {
            Ok(made) => {
                *pause = Pause::default();
                let connection = Arc::new(made);
                let _listener = self.watch_over(&connection).await;
                let current = Current { connection: Arc::clone(&connection), _listener };
                self.with(|place| *place = Some(current));
                let facts = &connection.facts;
                let shared = self.lane.is_none();
                self.hub.up(facts.revision, facts.server_info.as_deref(), shared);
                Ok(connection)
            }
            Err(failure) => {
                // What was found out of an earlier process may not hold for this one.
                self.hub.forget();
                self.hub.down(&failure.message);
                let wait = backoff(pause.failures);
                pause.failures = pause.failures.saturating_add(1);
                pause.until = Some((Instant::now() + wait, failure.clone()));
                Err(failure)
            }
        }
    }

    /// Sees to it that the upstream tells what it is to tell.
    async fn watch_over(&self, connection: &Arc<Connection>) -> Option<AbortOnDropHandle<()>> {
        if !connection.modern() {
            let lane = self.lane.as_ref().map(|lane| lane.id.as_str());
            self.watch.restore(connection, &self.hub, lane).await;
            return None;
        }
        let (watch, hub) = (Arc::clone(&self.watch), Arc::clone(&self.hub));
        let listening = watch::listen(watch, hub, Arc::clone(connection));
        Some(AbortOnDropHandle::new(tokio::spawn(listening)))
    }

    /// Puts `connection` away: the next call makes another.
    pub(super) fn discard(&self, connection: &Arc<Connection>) {
        self.with(|current| {
            if current.as_ref().is_some_and(|c| Arc::ptr_eq(&c.connection, connection)) {
                *current = None;
            }
        });
    }

    /// Waits no longer after a failure: the next call tries at once.
    pub(super) async fn retry(&self) {
        *self.making.lock().await = Pause::default();
    }

    /// Ends the connection.
    pub(super) async fn close(&self) {
        if let Some(Current { connection, .. }) = self.with(Option::take) {
            connection.close().await;
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = limits::MCP_BACKOFF_MIN.saturating_mul(1_u32 << failures.min(16));
    doubled.min(limits::MCP_BACKOFF_MAX)
}
