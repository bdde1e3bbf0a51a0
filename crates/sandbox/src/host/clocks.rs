//! Time: what is slept passes for real, and moves the clock by exactly that.

use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::HostMonotonicClock as _;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::state::{Clock, State};

struct Clocks;

struct View<'a> {
    clock: &'a Clock,
    table: &'a mut ResourceTable,
}

impl HasData for Clocks {
    type Data<'a> = View<'a>;
}

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    monotonic_clock::add_to_linker::<State, Clocks>(linker, |state| View {
        clock: &state.clock,
        table: &mut state.table,
    })
}

impl monotonic_clock::Host for View<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.now())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.resolution())
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let sleep = self.table.push(Sleep { until: when, clock: self.clock.clone() })?;
        subscribe(self.table, sleep)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let when = self.clock.peek().saturating_add(duration);
        self.subscribe_instant(when)
    }
}

struct Sleep {
    until: u64,
    clock: Clock,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        let rest = self.until.saturating_sub(self.clock.peek());
        if rest == 0 {
            // Others on this thread have their turn, so that a loop of polls starves nobody.
            tokio::task::yield_now().await;
            return;
        }
        tokio::time::sleep(Duration::from_nanos(rest)).await;
        self.clock.move_to(self.until);
    }
}
