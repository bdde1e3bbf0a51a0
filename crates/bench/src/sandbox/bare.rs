//! The peer: the least that a host of WebAssembly components does. It meters as a sandbox does
//! (fuel, epochs, memory), for no host of strangers' code can do without, and keeps no books.

use anyhow::{Context as _, anyhow};
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreLimits,
    StoreLimitsBuilder,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use super::guests::{Guest, LIMITS};

/// What one store has.
struct State {
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    limits: StoreLimits,
}

/// No host is reached.
struct Hooks;

type Io = Box<dyn Future<Output = Result<(), HttpError>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Io), HttpError>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(HttpError::HttpRequestDenied) })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// A component that is ready to be instantiated.
#[derive(Clone)]
pub(super) struct Bare {
    engine: Engine,
    pre: InstancePre<State>,
    guest: Guest,
}

impl Bare {
    pub(super) fn new(guest: &Guest, live_max: u32) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.consume_fuel(true).epoch_interruption(true);
        if guest.source.is_none() {
            let mut pool = PoolingAllocationConfig::new();
            pool.total_component_instances(live_max)
                .total_core_instances(live_max * 8)
                .total_memories(live_max)
                .total_tables(live_max)
                .total_stacks(live_max)
                .linear_memory_keep_resident(64 << 10);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        let engine = Engine::new(&config).map_err(|error| anyhow!("{error:#}"))?;
        let component =
            Component::new(&engine, &guest.wasm).map_err(|error| anyhow!("{error:#}"))?;
        let mut linker = Linker::<State>::new(&engine);
        let linked = wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
            .and_then(|()| {
                linker.root().func_wrap("call-tool", |_, (_, args): (String, String)| {
                    Ok((Ok::<String, String>(args),))
                })
            });
        linked.map_err(|error| anyhow!("{error:#}"))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| anyhow!("{error:#}"))?;
        Ok(Self { engine, pre, guest: guest.clone() })
    }

    /// Makes a store and an instance, runs it and drops both.
    pub(super) async fn run(&self) -> anyhow::Result<()> {
        self.call().await.map_err(|error| anyhow!("{error:#}"))?.map_err(|why| anyhow!(why))?;
        Ok(())
    }

    async fn call(&self) -> wasmtime::Result<Result<String, String>> {
        let memory = usize::try_from(LIMITS.memory_bytes).unwrap_or(usize::MAX);
        let state = State {
            wasi: None,
            http: WasiHttpCtx::new(),
            hooks: Hooks,
            table: ResourceTable::new(),
            limits: StoreLimitsBuilder::new().memory_size(memory).build(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_fuel(LIMITS.fuel)?;
        store.set_epoch_deadline(1_000);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let (given,) = match &self.guest.source {
            None => {
                let run = instance
                    .get_typed_func::<(&str,), (Result<String, String>,)>(&mut store, "run")?;
                run.call_async(&mut store, (self.guest.input,)).await?
            }
            Some(source) => {
                let run = instance
                    .get_typed_func::<(&str, &str), (Result<String, String>,)>(&mut store, "run")?;
                run.call_async(&mut store, (source, self.guest.input)).await?
            }
        };
        Ok(given)
    }
}

/// The bare hosts of `guests`.
pub(super) fn all(guests: &[Guest], live_max: u32) -> anyhow::Result<Vec<Bare>> {
    let bare = guests.iter().map(|guest| Bare::new(guest, live_max));
    bare.collect::<anyhow::Result<_>>().context("the bare host")
}
