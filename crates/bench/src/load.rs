//! The load generator: HTTP/1.1 clients on kept connections, each with one request in flight.
//!
//! It writes prepared bytes and reads no more of an answer than its head and its length, so that
//! little of the shared processors goes to it. One thread serves all clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::stats::{Times, figure};

/// Headers of an answer that are looked at.
const HEADERS_MAX: usize = 32;
/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Digits of the number that makes each request of a connection another one.
const NUMBER_DIGITS: usize = 9;

/// What is sent where.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) request: Arc<[u8]>,
    /// Where in the request its number stands, if it has one.
    number_at: Option<usize>,
}

impl Target {
    /// A request without a body.
    pub(crate) fn get(address: SocketAddr, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        Self { address, request: request.into_bytes().into(), number_at: None }
    }

    /// A request with a JSON body.
    pub(crate) fn post(address: SocketAddr, path: &str, key: &str, body: &str) -> Self {
        Self::send(address, path, &format!("X-API-Key: {key}\r\n"), body)
    }

    /// A request with these headers and a JSON body.
    pub(crate) fn send(address: SocketAddr, path: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Self { address, request: request.into_bytes().into(), number_at: None }
    }

    /// The same, with `place` in it replaced by a number that each request of a connection has for
    /// itself.
    pub(crate) fn numbered(mut self, place: &str) -> anyhow::Result<Self> {
        ensure!(place.len() == NUMBER_DIGITS, "a number has {NUMBER_DIGITS} digits");
        let mut places = self.request.windows(NUMBER_DIGITS);
        let at = places.position(|window| window == place.as_bytes());
        self.number_at = Some(at.context("the request has no place for a number")?);
        Ok(self)
    }
}

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After this long.
    Over(Duration),
    /// After so many requests.
    Sent(u64),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    pub(crate) times: Times,
    pub(crate) statuses: BTreeMap<u16, u64>,
}

impl Load {
    pub(crate) fn count(&self) -> u64 {
        self.statuses.values().sum()
    }

    pub(crate) fn per_second(&self) -> f64 {
        figure(self.count()) / self.seconds
    }

    /// An error where any answer was not 200.
    pub(crate) fn all_ok(self) -> anyhow::Result<Self> {
        if self.statuses.keys().any(|status| *status != 200) {
            bail!("not every answer was 200: {:?}", self.statuses);
        }
        Ok(self)
    }
}

/// Sends `target` from `clients` connections until it is time.
pub(crate) fn run(target: &Target, clients: usize, until: Until) -> anyhow::Result<Load> {
    run_each(&vec![target.clone(); clients], until)
}

/// Sends each of `targets` from a connection of its own until it is time.
pub(crate) fn run_each(targets: &[Target], until: Until) -> anyhow::Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ended = tokio::time::timeout(PATIENCE, generate(targets, until)).await;
        ended.context("the server has stopped answering")?
    })
}

async fn generate(targets: &[Target], until: Until) -> anyhow::Result<Load> {
    let ready = Arc::new(Barrier::new(targets.len() + 1));
    let left = Arc::new(AtomicU64::new(match until {
        Until::Over(_) => u64::MAX,
        Until::Sent(count) => count,
    }));
    let mut running = Vec::new();
    for target in targets {
        let client = Client::connect(target).await?;
        let (ready, left) = (ready.clone(), left.clone());
        running.push(tokio::spawn(async move {
            ready.wait().await;
            client.run(until, &left).await
        }));
    }
    ready.wait().await;
    let started = Instant::now();
    let mut load = Load::default();
    for client in running {
        let (times, statuses) = client.await??;
        load.times.extend(times);
        for (status, count) in statuses {
            *load.statuses.entry(status).or_default() += count;
        }
    }
    load.seconds = started.elapsed().as_secs_f64();
    Ok(load)
}

pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    number: Option<Range<usize>>,
    sent: u64,
    answer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let number = target.number_at.map(|at| at..at + NUMBER_DIGITS);
        let request = target.request.to_vec();
        Ok(Self { stream, request, number, sent: 0, answer: Vec::new() })
    }

    /// Sends one request and returns the status of its answer.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<u16> {
        self.sent += 1;
        if let Some(number) = self.number.clone().and_then(|at| self.request.get_mut(at)) {
            // Never with a zero in front, which would be no number of JSON.
            let text = (10_u64.pow(8) + self.sent).to_string();
            number.copy_from_slice(text.as_bytes());
        }
        self.stream.write_all(&self.request).await?;
        self.read().await
    }

    async fn run(
        mut self,
        until: Until,
        left: &AtomicU64,
    ) -> anyhow::Result<(Times, BTreeMap<u16, u64>)> {
        let begun = Instant::now();
        let (mut times, mut statuses) = (Times::default(), BTreeMap::new());
        let take = |left: u64| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let started = Instant::now();
            if matches!(until, Until::Over(limit) if started - begun >= limit) {
                break;
            }
            let status = self.exchange().await?;
            times.push(started.elapsed());
            *statuses.entry(status).or_default() += 1;
        }
        Ok((times, statuses))
    }

    /// Reads one answer and returns its status.
    async fn read(&mut self) -> anyhow::Result<u16> {
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the server closed a connection");
            }
            if let Some((status, length)) = parse(&self.answer)?
                && self.answer.len() >= length
            {
                return Ok(status);
            }
        }
    }
}

/// The status and the whole length of an answer, where its head is complete.
fn parse(answer: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body_at) = head.parse(answer)? else { return Ok(None) };
    let length = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without Content-Length")?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    Ok(Some((head.code.context("an answer without a status")?, body_at + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let check = |answer: &str, expect| assert_eq!(parse(answer.as_bytes()).unwrap(), expect);
        check("HTTP/1.1 200 OK\r\ncontent-le", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Some((200, 40)));
        check("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", Some((429, 40)));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }
}
