//! Between a client on standard input and output and the endpoint `/mcp` of a server.
//!
//! Messages pass through as they are. Every request is an HTTP request of its own, so that none
//! waits for another; notifications go in their order. A request that did not reach the server is
//! sent again, wherever the server is by then; one that may have reached it is sent again only
//! where that can do no harm.

mod exchange;
mod link;
mod message;
mod mirror;
mod session;
mod sse;
pub(crate) mod stdio;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::Method;
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::exchange::{Ended, Parts};
use self::link::Wire;
pub(crate) use self::link::{Link, Place};
use self::message::{INTERNAL, INVALID_REQUEST, Kind, Message, Request};
use self::session::{Handle, Session};
use self::stdio::Line;
use super::limits;

/// The pump of one client.
pub(crate) struct Pump<P> {
    wire: Wire<P>,
    out: mpsc::Sender<Vec<u8>>,
    /// Requests under way, by their ids as JSON.
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    session: tokio::sync::Mutex<Option<Session>>,
    tasks: TaskTracker,
    /// Ends what has no end of its own.
    end: CancellationToken,
}

/// A request under way.
#[derive(Debug, Default)]
struct Flight {
    /// The client wants no answer any more.
    canceled: AtomicBool,
    /// Lets go of the request, which cancels one that belongs to no session.
    drop: CancellationToken,
    /// Whether it names its own revision.
    stateless: bool,
    /// Whether it lasts until it is canceled.
    lasting: bool,
}

impl<P: Place> Pump<P> {
    pub(crate) fn new(place: P, out: mpsc::Sender<Vec<u8>>) -> Arc<Self> {
        Arc::new(Self {
            wire: Wire::new(place),
            out,
            flights: Mutex::default(),
            session: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        })
    }

    /// What knows where calls go.
    pub(crate) fn place(&self) -> &P {
        &self.wire.place
    }

    /// Finds the server, so that what is wrong shows at once.
    pub(crate) async fn connect(&self) -> anyhow::Result<()> {
        self.wire.link().await.map(drop)
    }

    /// Takes lines until there are no more; then waits, for a while, for the answers under way.
    pub(crate) async fn run(self: &Arc<Self>, mut lines: mpsc::Receiver<Line>) {
        while let Some(line) = lines.recv().await {
            match line {
                Line::Text(text) if text.trim_ascii().is_empty() => {}
                Line::Text(text) => match Message::read(Bytes::from(text)) {
                    Ok(message) => self.take(message).await,
                    Err(no) => self.say(&message::refusal("null", no.code, no.reason, None)).await,
                },
                Line::TooLong => {
                    let reason = format!("a message has at most {} bytes", limits::LINE_BYTES_MAX);
                    self.say(&message::refusal("null", INVALID_REQUEST, &reason, None)).await;
                }
            }
        }
        for flight in self.flights().values().filter(|flight| flight.lasting) {
            flight.drop.cancel();
        }
        self.tasks.close();
        // What takes longer is let go of: nobody may be there any more.
        let _in_time = timeout(limits::DRAIN_TIME, self.tasks.wait()).await;
    }

    /// Ends the session.
    pub(crate) async fn close(&self) {
        self.end.cancel();
        let Some(session) = self.session.lock().await.take() else { return };
        session.listening.cancel();
        if session.handle.id.is_none() {
            return;
        }
        if let Ok((_, link)) = self.wire.link().await {
            let parts = Parts { method: Method::DELETE, ..Parts::of(&session.handle) };
            // It ends by itself too, later.
            let _told = exchange::send(&link, parts).await;
        }
    }

    async fn take(self: &Arc<Self>, message: Message) {
        match message.kind.clone() {
            Kind::Request(request)
                if request.method == "initialize" && request.version.is_none() =>
            {
                self.initialize(&request, message).await;
            }
            Kind::Request(request) => self.start(request, message).await,
            Kind::Notification { method, cancels, version } => {
                let flight = cancels.and_then(|id| self.flights().get(&id).cloned());
                if let Some(flight) = flight {
                    flight.canceled.store(true, Ordering::Relaxed);
                    if flight.stateless {
                        flight.drop.cancel();
                        return;
                    }
                }
                if version.is_none() {
                    self.notify(&method, message.body).await;
                }
            }
            Kind::Response { .. } => {
                let pump = self.clone();
                self.tasks.spawn(async move { pump.post(message.body).await });
            }
        }
    }

    /// Lets a request run beside the others.
    async fn start(self: &Arc<Self>, request: Request, message: Message) {
        let flight = Arc::new(Flight {
            stateless: request.version.is_some(),
            lasting: request.method == "subscriptions/listen",
            ..Flight::default()
        });
        let crowded = {
            let mut flights = self.flights();
            let crowded = flights.len() >= limits::REQUESTS_MAX;
            if !crowded {
                flights.insert(request.id.clone(), flight.clone());
            }
            crowded
        };
        if crowded {
            let reason = format!("{} requests are under way already", limits::REQUESTS_MAX);
            return self.refuse(&request, "too_many_requests", &reason).await;
        }
        let pump = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = flight.drop.cancelled() => {}
                () = pump.serve(&request, &message, &flight) => {}
            }
            let mut flights = pump.flights();
            if flights.get(&request.id).is_some_and(|known| Arc::ptr_eq(known, &flight)) {
                flights.remove(&request.id);
            }
        });
    }

    /// Sends a request until it is answered, or until it would be wrong to send it again.
    async fn serve(self: &Arc<Self>, request: &Request, message: &Message, flight: &Flight) {
        let mut extra = hyper::HeaderMap::new();
        let mut last = String::new();
        for _ in 0..limits::TRIES_MAX {
            let (number, link) = match self.wire.link().await {
                Ok(link) => link,
                Err(error) => {
                    return self.refuse(request, "no_server", &format!("{error:#}")).await;
                }
            };
            let handle = match request.version {
                Some(_) => None,
                None => self.handle(request, message).await,
            };
            let ended =
                self.attempt(&link, request, message, handle.as_ref(), &extra, flight).await;
            match ended {
                Ended::Answered => return,
                Ended::Later(pause) => sleep(pause).await,
                Ended::NotSent(reason) => {
                    last = reason;
                    self.wire.renew(number).await;
                }
                Ended::SessionGone => {
                    last = "the server has ended the session".to_owned();
                    if let Some(handle) = handle {
                        self.revive(handle.epoch).await;
                    }
                }
                Ended::Mismatch(answer) => {
                    if extra.is_empty() {
                        extra = self.mirrored(&link, request, message).await;
                    }
                    if extra.is_empty() {
                        return self.say(&answer).await;
                    }
                }
                Ended::Broken(reason) => {
                    self.wire.renew(number).await;
                    if !is_repeatable(&request.method) {
                        return self.unknown(request, &reason).await;
                    }
                    last = reason;
                }
            }
        }
        self.refuse(request, "no_answer", &format!("the server gave no answer: {last}")).await;
    }

    /// The session as it is now; what would have to be said again in another is kept in mind.
    async fn handle(&self, request: &Request, message: &Message) -> Option<Handle> {
        let mut session = self.session.lock().await;
        let session = session.as_mut()?;
        session.remember(request, message);
        Some(session.handle.clone())
    }

    /// Writes a message to the client.
    async fn say(&self, body: &[u8]) {
        // Where the client is gone, so is everything that could be said to it.
        let _heard = self.out.send(message::line(body)).await;
    }

    /// Answers a request with an error of ours.
    async fn refuse(&self, request: &Request, code: &str, reason: &str) {
        let data = serde_json::value::to_raw_value(&serde_json::json!({ "code": code })).ok();
        self.say(&message::refusal(&request.id, INTERNAL, reason, data.as_deref())).await;
    }

    /// Answers a call that may have been made.
    async fn unknown(&self, request: &Request, reason: &str) {
        let reason = format!(
            "the connection to Tally broke while `{}` was under way, so it may have been done: \
             `tally actions list` says how it ended ({reason})",
            request.method
        );
        self.refuse(request, "outcome_unknown", &reason).await;
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request does nothing that twice is worse than once.
fn is_repeatable(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "server/discover"
            | "completion/complete"
            | "logging/setLevel"
            | "prompts/get"
            | "prompts/list"
            | "resources/list"
            | "resources/read"
            | "resources/subscribe"
            | "resources/templates/list"
            | "resources/unsubscribe"
            | "subscriptions/listen"
            | "tasks/cancel"
            | "tasks/get"
            | "tasks/list"
            | "tasks/result"
            | "tools/list"
    )
}
