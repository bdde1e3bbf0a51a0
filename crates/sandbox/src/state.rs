//! What belongs to one execution: its clock, randomness, memory, and what it was denied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng as _;
use kernel::attestation::Limits;
use kernel::capability::{Capabilities, Capability};
use kernel::values::{Digest, Timestamp};
use serde::Deserialize;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtx;

use crate::host::files::Files;
use crate::host::http::Way;
use crate::limits;
use crate::meter::Meter;
use crate::run::{Denial, Door, Egress, Seed};

/// Why the host ends a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("its processor time is used up")]
    Cpu,
    #[error("its time is over")]
    Wall,
    #[error("it called more tools than it may")]
    ToolCalls,
    #[error("{message}")]
    Door { code: &'static str, message: String },
}

/// What one execution has.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    /// Made when first asked for: small components never ask. It is most of a state's size, and
    /// states are moved.
    pub(crate) wasi: Option<Box<WasiCtx>>,
    pub(crate) http: WasiHttpCtx,
    pub(crate) way: Option<Way>,
    pub(crate) memory: Memory,
    pub(crate) clock: Clock,
    pub(crate) given: Given,
    pub(crate) files: Files,
    pub(crate) calls: u32,
    /// How often its code was looked at.
    pub(crate) looks: u32,
    pub(crate) books: Arc<Books>,
}

/// What is counted of one execution, by the code, its host calls and whoever watches over it.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) waits: Waits,
    pub(crate) denials: Denials,
    pub(crate) meter: Meter,
    /// Bytes that may yet be written into files.
    left: AtomicU64,
    /// Nanoseconds of the clock since the start.
    nanos: AtomicU64,
}

impl Books {
    fn new(wall_ms: u64) -> Self {
        let now = Instant::now();
        Self {
            waits: Waits::new(wall_ms, now),
            denials: Denials::default(),
            meter: Meter::new(now),
            left: AtomicU64::new(limits::STAGED_BYTES_MAX),
            nanos: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` that are about to be written; false where they are too many.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let taken = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }
}

/// What it was given.
pub(crate) struct Given {
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) seed: Seed,
    pub(crate) door: Arc<dyn Door>,
    pub(crate) egress: Arc<dyn Egress>,
}

/// How long it has been there, without the time in which people were waited for.
#[derive(Debug)]
pub(crate) struct Waits {
    began: Instant,
    wall: Duration,
    held_ms: AtomicU64,
    calling: AtomicBool,
}

impl Waits {
    pub(crate) fn new(wall_ms: u64, began: Instant) -> Self {
        Self {
            began,
            wall: Duration::from_millis(wall_ms),
            held_ms: AtomicU64::new(0),
            calling: AtomicBool::new(false),
        }
    }

    pub(crate) fn begin_call(&self) -> Instant {
        self.calling.store(true, Ordering::Release);
        Instant::now()
    }

    /// A call that began at `began` is over, in which people were waited for `held_ms`. False where
    /// the time of the sandbox is over.
    pub(crate) fn end_call(&self, began: Instant, held_ms: u64) -> bool {
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.held_ms.fetch_add(held_ms.min(took), Ordering::AcqRel);
        self.calling.store(false, Ordering::Release);
        !self.rest().is_zero()
    }

    /// How long it may go on; none where it is over. While a tool is called, nothing is over.
    pub(crate) fn rest(&self) -> Duration {
        let held = Duration::from_millis(self.held_ms.load(Ordering::Acquire));
        let rest = (self.wall + held).saturating_sub(self.began.elapsed());
        if rest.is_zero() && self.calling.load(Ordering::Acquire) {
            limits::CALL_ASKED_EVERY
        } else {
            rest
        }
    }
}

impl State {
    pub(crate) fn new(given: Given, started_at: Timestamp, files: Files) -> Self {
        let books = Arc::new(Books::new(given.limits.wall_ms));
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::HANDLES_MAX);
        Self {
            table,
            wasi: None,
            http: WasiHttpCtx::new(),
            way: None,
            memory: Memory::new(given.limits.memory_bytes),
            clock: Clock::new(started_at, Arc::clone(&books)),
            given,
            files,
            calls: 0,
            looks: 0,
            books,
        }
    }

    /// Makes what the code sees of the world, with its files. Fails where they cannot be opened.
    pub(crate) fn open_world(&mut self) -> wasmtime::Result<()> {
        let mut builder = WasiCtx::builder();
        builder
            .envs(&self.given.environment)
            .wall_clock(self.clock.clone())
            .monotonic_clock(self.clock.clone())
            .secure_random(stream(&self.given.seed, b"random"))
            .insecure_random(stream(&self.given.seed, b"insecure"))
            .insecure_random_seed(u128_of(&self.given.seed))
            .max_random_size(limits::RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        self.files.preopen(&mut builder)?;
        self.wasi = Some(Box::new(builder.build()));
        Ok(())
    }

    pub(crate) fn deny(&self, capability: Capability, wanted: impl AsRef<str>) {
        self.books.denials.add(capability, wanted.as_ref());
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // A component that imports any interface of WASI has had its world opened before it
        // started. What is given here reaches nothing.
        let ctx = self.wasi.get_or_insert_with(|| Box::new(WasiCtx::builder().build()));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// Randomness that the seed gives again.
fn stream(seed: &Seed, purpose: &[u8]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(derive(seed, purpose).0)
}

fn derive(seed: &Seed, purpose: &[u8]) -> Digest {
    let mut bytes = seed.to_vec();
    bytes.extend_from_slice(purpose);
    Digest::of(&bytes)
}

fn u128_of(seed: &Seed) -> u128 {
    let derived = derive(seed, b"insecure-seed").0;
    derived.iter().take(16).fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

/// A clock that begins when it is told to and moves by being read and by what is slept.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    started_at: Duration,
    books: Arc<Books>,
}

impl Clock {
    fn new(started_at: Timestamp, books: Arc<Books>) -> Self {
        let micros = u64::try_from(started_at.0).unwrap_or(0);
        Self { started_at: Duration::from_micros(micros), books }
    }

    /// Nanoseconds since the start, without moving.
    pub(crate) fn peek(&self) -> u64 {
        self.books.nanos.load(Ordering::Relaxed)
    }

    /// Moves to `nanos` after the start, unless it is later.
    pub(crate) fn move_to(&self, nanos: u64) {
        self.books.nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(crate) fn started_at(&self) -> Duration {
        self.started_at
    }

    fn read(&self) -> u64 {
        let step = limits::CLOCK_STEP_NANOS;
        self.books.nanos.fetch_add(step, Ordering::Relaxed).saturating_add(step)
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        limits::CLOCK_STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.read()
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(limits::CLOCK_STEP_NANOS)
    }

    fn now(&self) -> Duration {
        self.started_at + Duration::from_nanos(self.read())
    }
}

/// Holds all memories of a store to one limit.
#[derive(Debug)]
pub(crate) struct Memory {
    most: u64,
    bytes: u64,
    /// What was added last, in case that it comes to nothing.
    added: u64,
    pub(crate) peak: u64,
    entries: usize,
    /// What was refused, in words.
    pub(crate) refused: Option<&'static str>,
}

impl Memory {
    fn new(most: u64) -> Self {
        Self { most, bytes: 0, added: 0, peak: 0, entries: 0, refused: None }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
        let bytes = self.bytes.saturating_add(more);
        if bytes > self.most {
            self.refused = Some("more memory than it was given");
            return Ok(false);
        }
        (self.bytes, self.added) = (bytes, more);
        self.peak = self.peak.max(bytes);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut self.added));
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let pooled = limits::POOLED_TABLE_ENTRIES_MAX;
        let entries = self.entries.saturating_add(desired.saturating_sub(current));
        if entries > limits::TABLE_ENTRIES_MAX || (maximum == Some(pooled) && desired > pooled) {
            self.refused = Some("larger tables than there may be");
            return Ok(false);
        }
        self.entries = entries;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        limits::INSTANCES_MAX
    }
}

/// What was denied, without repeats, and how often.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<Denied>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Denied {
    pub(crate) list: Vec<Denial>,
    pub(crate) counts: BTreeMap<Capability, u32>,
    /// What code was told of tools that were denied, as far as it tells one from another: in words,
    /// and as they are within JSON.
    pub(crate) told: Vec<[String; 2]>,
    /// Why something was denied, by what was wanted, where more can be said than that it was not
    /// granted.
    pub(crate) why: BTreeMap<String, String>,
}

/// What code is told of a call that failed.
#[derive(Deserialize)]
struct Told {
    message: String,
}

impl Denials {
    /// A tool that was denied, and what code was told of that.
    pub(crate) fn add_tool(&self, name: &str, told: &str) {
        self.add(Capability::Tool, name);
        let Ok(Told { message }) = serde_json::from_str(told) else { return };
        let words: String = message.chars().take(limits::TOLD_CHARS_MAX).collect();
        let within = serde_json::to_string(&words).unwrap_or_default();
        let told = [words, within.trim_matches('"').to_owned()];
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.told.len() < limits::DENIALS_MAX && !denied.told.contains(&told) {
            denied.told.push(told);
        }
    }

    /// The same as [`Self::add`], with why.
    pub(crate) fn add_for(&self, capability: Capability, wanted: &str, why: &str) {
        self.add(capability, wanted);
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.why.len() < limits::DENIALS_MAX {
            let wanted = shorten(wanted, limits::WANTED_BYTES_MAX);
            let why = shorten(why, limits::WANTED_BYTES_MAX);
            denied.why.entry(wanted).or_insert(why);
        }
    }

    pub(crate) fn add(&self, capability: Capability, wanted: &str) {
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = denied.counts.entry(capability).or_default();
        *count = count.saturating_add(1);
        let denial = Denial { capability, wanted: shorten(wanted, limits::WANTED_BYTES_MAX) };
        if denied.list.len() < limits::DENIALS_MAX && !denied.list.contains(&denial) {
            denied.list.push(denial);
        }
    }

    pub(crate) fn look(&self) -> Denied {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn take(&self) -> Denied {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The first `most` bytes of a text, as characters, with control characters made visible.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let mut short = String::new();
    for c in text.chars() {
        if short.len() + c.len_utf8() > most {
            short.push('…');
            break;
        }
        short.push(if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c });
    }
    short
}
