//! Bodies on their way, each with a limit of its own.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::EgressBody;
use crate::limits;

pub(super) const UPLOAD_TOO_LONG: &str = "the request's body is longer than 16 MiB";
const ANSWER_TOO_LONG: &str = "the answer's body is longer than 64 MiB";

/// The body of a request.
pub(super) struct Upload {
    body: EgressBody,
    room: u64,
}

impl Upload {
    pub(super) fn new(body: EgressBody) -> Self {
        Self { body, room: limits::EGRESS_REQUEST_BYTES_MAX }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let taken = frame.map(|frame| take(frame?, &mut self.room, UPLOAD_TOO_LONG));
        Poll::Ready(taken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, and the connection that it comes from.
pub(super) struct Answer {
    body: Incoming,
    room: u64,
    silence: Pin<Box<Sleep>>,
    /// Ends with the answer: connections are not reused.
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    pub(super) fn new(body: Incoming, connection: AbortOnDropHandle<()>) -> Self {
        Self {
            body,
            room: limits::EGRESS_ANSWER_BYTES_MAX,
            silence: Box::pin(sleep(limits::EGRESS_SILENCE_TIMEOUT)),
            _connection: connection,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.silence.as_mut().poll(context));
            let message = "the answer's body stopped arriving";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, message))));
        };
        let until = Instant::now() + limits::EGRESS_SILENCE_TIMEOUT;
        self.silence.as_mut().reset(until);
        let taken = frame.map(|frame| {
            let frame = frame.map_err(|e| io::Error::new(io::ErrorKind::ConnectionAborted, e))?;
            take(frame, &mut self.room, ANSWER_TOO_LONG)
        });
        Poll::Ready(taken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The frame, where there is room for it.
fn take(frame: Frame<Bytes>, room: &mut u64, message: &str) -> io::Result<Frame<Bytes>> {
    let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
    match room.checked_sub(bytes) {
        Some(left) => {
            *room = left;
            Ok(frame)
        }
        None => Err(io::Error::new(io::ErrorKind::FileTooLarge, message)),
    }
}
