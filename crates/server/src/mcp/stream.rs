//! Streams of events (SSE): written by whoever has something to say, read by one client at a
//! time, and read again from where a connection broke.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, header};
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::time::{Interval, MissedTickBehavior};

use super::limits;

/// The events of one stream.
#[derive(Debug)]
pub(super) struct Log {
    /// The number of the stream in its session; none where events are not numbered.
    number: Option<u64>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Bytes>,
    /// The place of the first of them. Place 0 is the event that a numbered stream begins with.
    first: u64,
    bytes: usize,
    /// The place up to which events were sent to somebody.
    sent: u64,
    ended: bool,
    /// Which of the readers is the last that came; the others end.
    reader: u64,
    /// How many there are.
    readers: usize,
    waker: Option<Waker>,
}

impl Inner {
    /// Forgets the oldest event, where there is one.
    fn drop_first(&mut self) -> bool {
        let Some(event) = self.events.pop_front() else { return false };
        self.bytes = self.bytes.saturating_sub(event.len());
        self.first += 1;
        true
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Log {
    /// A stream that is read once.
    pub(super) fn plain() -> Arc<Self> {
        Arc::new(Self { number: None, inner: Mutex::default() })
    }

    /// A stream that can be read again.
    pub(super) fn numbered(number: u64) -> Arc<Self> {
        let inner = Inner { first: 1, ..Inner::default() };
        Arc::new(Self { number: Some(number), inner: Mutex::new(inner) })
    }

    /// Adds a message that has to arrive.
    pub(super) fn push(&self, message: &str) {
        self.add(message, usize::MAX, usize::MAX);
    }

    /// Adds a message that is left out where the reader is slow.
    pub(super) fn offer(&self, message: &str) {
        self.add(message, limits::STREAM_EVENTS_MAX, limits::STREAM_BYTES_MAX);
    }

    fn add(&self, message: &str, events_max: usize, bytes_max: usize) {
        let mut inner = self.inner.lock();
        let full = |inner: &Inner| {
            let bytes = inner.bytes.saturating_add(message.len());
            inner.events.len() >= events_max || bytes > bytes_max
        };
        // What was sent before makes room first.
        while full(&inner) && inner.first < inner.sent && inner.drop_first() {}
        if inner.ended || full(&inner) {
            return;
        }
        let place = inner.first + inner.events.len() as u64;
        let event = event(self.number.map(|number| (number, place)), message);
        inner.bytes += event.len();
        inner.events.push_back(event);
        inner.wake();
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.ended = true;
        inner.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.inner.lock().ended
    }

    /// Whether somebody reads it.
    pub(super) fn is_read(&self) -> bool {
        self.inner.lock().readers > 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Reads what comes after the event `after`; None is the beginning. Who read before ends.
    pub(super) fn read(self: &Arc<Self>, after: Option<u64>) -> Response {
        respond(Body::new(self.reader(after, None)))
    }

    /// Reads from the beginning; `guard` goes with the connection.
    pub(super) fn read_guarded(self: &Arc<Self>, guard: impl Send + Sync + 'static) -> Response {
        respond(Body::new(self.reader(None, Some(Box::new(guard)))))
    }

    fn reader(self: &Arc<Self>, after: Option<u64>, guard: Option<Guard>) -> Reader {
        let mut inner = self.inner.lock();
        inner.reader += 1;
        inner.readers += 1;
        inner.wake();
        let begins = self.number.is_some() && after.is_none();
        Reader {
            log: self.clone(),
            generation: inner.reader,
            next: after.map_or(inner.sent, |after| after.saturating_add(1)).max(inner.first),
            greeting: begins.then(|| self.greeting()),
            alive: interval(),
            _guard: guard,
        }
    }

    /// The event that a numbered stream begins with, so that a client can come back at once.
    fn greeting(&self) -> Bytes {
        let number = self.number.unwrap_or_default();
        format!("id: {number}-0\nretry: {}\ndata: \n\n", limits::RETRY_MS).into()
    }
}

fn interval() -> Interval {
    let every = limits::ALIVE_EVERY;
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The answer that is a stream.
fn respond(body: Body) -> Response {
    let buffering = HeaderName::from_static("x-accel-buffering");
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (buffering, "no"),
    ];
    (headers, body).into_response()
}

/// An event. A line break in a message is white space of its JSON, where a space does as well.
fn event(id: Option<(u64, u64)>, message: &str) -> Bytes {
    let id = id.map_or_else(String::new, |(number, place)| format!("id: {number}-{place}\n"));
    let data = match message.contains(['\n', '\r']) {
        true => message.replace(['\n', '\r'], " "),
        false => message.to_owned(),
    };
    format!("{id}event: message\ndata: {data}\n\n").into()
}

/// The stream and the place that a `Last-Event-ID` names.
pub(super) fn place(id: &str) -> Option<(u64, u64)> {
    let (number, place) = id.split_once('-')?;
    Some((number.parse().ok()?, place.parse().ok()?))
}

/// One connection that reads a stream.
struct Reader {
    log: Arc<Log>,
    generation: u64,
    next: u64,
    greeting: Option<Bytes>,
    alive: Interval,
    _guard: Option<Guard>,
}

/// What ends with a connection.
type Guard = Box<dyn std::any::Any + Send + Sync>;

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.log.inner.lock();
        inner.readers = inner.readers.saturating_sub(1);
    }
}

impl Reader {
    /// What there is to be sent; `Err` where the connection ends.
    fn ready(&mut self, context: &Context<'_>) -> Result<Option<Bytes>, ()> {
        let log = self.log.clone();
        let mut inner = log.inner.lock();
        if inner.reader != self.generation {
            return Err(());
        }
        let from = usize::try_from(self.next.saturating_sub(inner.first)).unwrap_or(usize::MAX);
        let waiting = inner.events.len().saturating_sub(from);
        if self.greeting.is_none() && waiting == 0 {
            if inner.ended {
                return Err(());
            }
            inner.waker = Some(context.waker().clone());
            return Ok(None);
        }
        let mut sent: Vec<u8> = self.greeting.take().map(Vec::from).unwrap_or_default();
        inner.events.iter().skip(from).for_each(|event| sent.extend_from_slice(event));
        self.next = inner.first + inner.events.len() as u64;
        inner.sent = inner.sent.max(self.next);
        while log.number.is_none() && inner.drop_first() {}
        Ok(Some(sent.into()))
    }
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match this.ready(context) {
            Err(()) => Poll::Ready(None),
            Ok(Some(sent)) => {
                this.alive.reset();
                Poll::Ready(Some(Ok(Frame::data(sent))))
            }
            Ok(None) => {
                std::task::ready!(this.alive.poll_tick(context));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))))
            }
        }
    }
}
