//! How long code runs: only while it does, not while it waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Below this, code is measured by the clock alone, which costs no system call.
const SHORT_NANOS: u64 = 1_000_000;
const NOT_TAKEN: u64 = u64::MAX;

/// What one execution has used of a processor. All but `spent` is about the present stretch, in
/// which one thread runs it.
#[derive(Debug)]
pub(crate) struct Meter {
    origin: Instant,
    /// Nanoseconds of all stretches before.
    spent: AtomicU64,
    /// When this stretch began, after `origin`.
    since: AtomicU64,
    /// What the clock of the thread said at `since` or soon after.
    thread_since: AtomicU64,
}

impl Meter {
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            spent: AtomicU64::new(0),
            since: AtomicU64::new(0),
            thread_since: AtomicU64::new(NOT_TAKEN),
        }
    }

    /// Runs `future` and counts the time in which it is polled.
    pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            self.enter();
            let poll = future.as_mut().poll(context);
            self.leave();
            if poll.is_ready() { poll } else { Poll::Pending }
        })
        .await
    }

    fn enter(&self) {
        self.since.store(nanos(self.origin.elapsed()), Ordering::Relaxed);
        let taken = if self.spent.load(Ordering::Relaxed) < SHORT_NANOS {
            NOT_TAKEN
        } else {
            nanos(thread_time())
        };
        self.thread_since.store(taken, Ordering::Relaxed);
    }

    fn leave(&self) {
        let spent = self.stretch();
        self.spent.fetch_add(spent, Ordering::Relaxed);
    }

    /// Nanoseconds of the present stretch. Called by the thread that runs it.
    fn stretch(&self) -> u64 {
        let taken = self.thread_since.load(Ordering::Relaxed);
        if taken == NOT_TAKEN {
            let since = self.since.load(Ordering::Relaxed);
            return nanos(self.origin.elapsed()).saturating_sub(since);
        }
        nanos(thread_time()).saturating_sub(taken)
    }

    /// What was used up to now. Called by the thread that runs the code, from within it: from here
    /// on its own clock is read, since it may be made to wait for others.
    pub(crate) fn used_within(&self) -> Duration {
        let stretch = self.stretch();
        if self.thread_since.load(Ordering::Relaxed) == NOT_TAKEN {
            self.spent.fetch_add(stretch, Ordering::Relaxed);
            self.thread_since.store(nanos(thread_time()), Ordering::Relaxed);
            return self.used();
        }
        self.used() + Duration::from_nanos(stretch)
    }

    /// What was used by the stretches that are over.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
