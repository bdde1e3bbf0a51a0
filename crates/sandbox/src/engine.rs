//! The engines, and the thread that looks at running code.

use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::error::Error;
use crate::limits;

/// What a receipt names the engine.
pub(crate) const NAME: &str = "wasmtime 48.0.8";

/// Two engines that load the same compiled code: one with ready-made stores for small components,
/// one that makes them for large ones.
#[derive(Debug)]
pub(crate) struct Engines {
    pub(crate) pooled: Engine,
    pub(crate) large: Engine,
    /// Tells compiled code of other versions, settings and processors apart.
    pub(crate) fingerprint: String,
    ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Ticker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticker").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Engines {
    pub(crate) fn new(live_max: usize) -> Result<Self, Error> {
        let failed = |error: wasmtime::Error| Error::Engine(format!("{error:#}"));
        let large = Engine::new(&settings()).map_err(failed)?;
        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(live_max)));
        let pooled = Engine::new(&config).map_err(failed)?;
        let ticker = Ticker::start([&pooled, &large])?;
        let fingerprint = fingerprint(&large);
        if fingerprint != self::fingerprint(&pooled) {
            return Err(Error::Engine("the engines differ in what they load".to_owned()));
        }
        Ok(Self { pooled, large, fingerprint, ticker })
    }

    /// Running code is looked at while this lives.
    pub(crate) fn watch(&self) -> Watch {
        if self.ticker.live.fetch_add(1, Ordering::AcqRel) == 0 {
            self.ticker.thread.unpark();
        }
        Watch(Arc::clone(&self.ticker))
    }
}

/// The settings that decide what code is compiled to. The compiler has the same.
pub(crate) fn settings() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_multi_memory(true)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .async_stack_size(limits::STACK_BYTES)
        .memory_init_cow(true);
    config
}

fn pool(live_max: usize) -> PoolingAllocationConfig {
    let live = u32::try_from(live_max.clamp(1, limits::LIVE_MAX)).unwrap_or(u32::MAX);
    let memories = live.saturating_mul(limits::POOLED_MEMORIES_MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(live)
        .total_core_instances(live.saturating_mul(limits::POOLED_INSTANCES_MAX))
        .total_memories(memories)
        .total_tables(memories)
        .total_stacks(live)
        .max_core_instances_per_component(limits::POOLED_INSTANCES_MAX)
        .max_memories_per_component(limits::POOLED_MEMORIES_MAX)
        .max_tables_per_component(limits::POOLED_MEMORIES_MAX)
        .table_elements(limits::POOLED_TABLE_ENTRIES_MAX)
        .max_memory_size(usize::try_from(limits::MOST.memory_bytes).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(limits::POOLED_RESIDENT_BYTES)
        .table_keep_resident(4 << 10);
    pool
}

fn fingerprint(engine: &Engine) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    NAME.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Moves the epoch of the engines on while code runs, and sleeps while none does.
struct Ticker {
    live: AtomicUsize,
    thread: std::thread::Thread,
}

impl Ticker {
    fn start(engines: [&Engine; 2]) -> Result<Arc<Self>, Error> {
        let engines = engines.map(Engine::weak);
        let (send, receive) = std::sync::mpsc::sync_channel::<Weak<Self>>(1);
        let handle = std::thread::Builder::new()
            .name("sandbox-ticker".to_owned())
            .spawn(move || {
                let Ok(ticker) = receive.recv() else { return };
                loop {
                    let Some(state) = ticker.upgrade() else { return };
                    let idle = state.live.load(Ordering::Acquire) == 0;
                    drop(state);
                    if idle {
                        std::thread::park_timeout(std::time::Duration::from_secs(1));
                        continue;
                    }
                    std::thread::sleep(limits::TICK);
                    for engine in &engines {
                        if let Some(engine) = engine.upgrade() {
                            engine.increment_epoch();
                        }
                    }
                }
            })
            .map_err(Error::io("cannot start the thread that watches running code"))?;
        let ticker = Arc::new(Self { live: AtomicUsize::new(0), thread: handle.thread().clone() });
        // The thread waits for this message, so it is there to take it.
        send.send(Arc::downgrade(&ticker))
            .map_err(|_| Error::Engine("the watching thread ended".to_owned()))?;
        Ok(ticker)
    }
}

/// Keeps the ticker awake.
pub(crate) struct Watch(Arc<Ticker>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::NAME;

    #[test]
    fn the_name_is_that_of_the_engine_that_is_built_in() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = NAME.replacen(' ', "\"\nversion = \"", 1);
        assert!(lock.contains(&format!("name = \"{entry}\"\n")), "{NAME} is not in Cargo.lock");
    }
}
