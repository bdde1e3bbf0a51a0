//! All sandboxes of a server.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use kernel::attestation::{CodeKind, Ending, Runtime, SandboxType};
use kernel::capability::Capabilities;
use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;
use kernel::values::Digest;
use wasmtime::component::Linker;

use crate::compile::{Cache, Compiler, private_folder};
use crate::engine::{Engines, Watch};
use crate::error::{Error, refused};
use crate::execute::{End, Handed, Outcome, execute};
use crate::host::files::Files;
use crate::loaded::{Loaded, World, read_interpreter, runtime_name};
use crate::run::{Code, Report, Run, Written};
use crate::staging::{Stage, Unwritten, put_in_place};
use crate::state::{Given, State};
use crate::{engine, host, limits};

/// How the sandboxes of a server are set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where executions have their folders: `<data>/sandbox`.
    pub folder: PathBuf,
    /// Where compiled code is kept.
    pub cache: PathBuf,
    /// Where the interpreters and `runtimes.json` are.
    pub runtimes: Option<PathBuf>,
    /// The interpreters' digests, by name, where they are pinned.
    pub runtime_digests: BTreeMap<String, Digest>,
    /// What compiles: this program with `sandbox-compile`.
    pub compiler: Compiler,
    /// Sandboxes that can be live at once.
    pub live_max: usize,
    /// Sandboxes of one tenant that can be live at once.
    pub per_tenant_max: usize,
    /// The programs for LIGHT; none where it is off.
    pub light: Option<Light>,
    /// The most that any execution may be granted.
    pub ceiling: Capabilities,
}

/// The programs for LIGHT.
#[derive(Clone, Debug, Default)]
pub struct Light {
    /// Python's.
    pub python: Option<PathBuf>,
    /// Node's.
    pub node: Option<PathBuf>,
    /// What confines itself and then becomes one of them: this program with `sandbox-light`.
    pub confine: Option<Compiler>,
}

/// A component that was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// SHA-256 of the machine code that it was compiled to, on this machine.
    pub compiled: Digest,
    /// What it was compiled with and for: other engines and machines compile it anew.
    pub engine: String,
    /// What it imports.
    pub imports: Vec<String>,
}

/// All sandboxes of a server. A copy is the same.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Inner>);

struct Inner {
    config: Config,
    engines: Engines,
    pooled: Linker<State>,
    large: Linker<State>,
    cache: Cache,
    /// An empty folder, for code that can ask for files and was granted none.
    empty: PathBuf,
    live: AtomicUsize,
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    runtimes: Mutex<HashMap<CodeKind, Arc<Loaded>>>,
    nothing: Arc<Capabilities>,
}

/// What is one tenant's own.
#[derive(Default)]
struct Tenant {
    live: AtomicUsize,
    components: RwLock<HashMap<Digest, Arc<Loaded>>>,
}

impl Tenant {
    fn find(&self, digest: Digest) -> Option<Arc<Loaded>> {
        let components = self.components.read().unwrap_or_else(PoisonError::into_inner);
        components.get(&digest).map(Arc::clone)
    }

    fn keep(&self, digest: Digest, loaded: &Arc<Loaded>) -> Result<(), Error> {
        let mut components = self.components.write().unwrap_or_else(PoisonError::into_inner);
        if components.len() >= limits::COMPONENTS_MAX && !components.contains_key(&digest) {
            return Err(Error::TooMany { most: limits::COMPONENTS_MAX });
        }
        components.insert(digest, Arc::clone(loaded));
        Ok(())
    }

    fn forget(&self, digest: Digest) {
        self.components.write().unwrap_or_else(PoisonError::into_inner).remove(&digest);
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Sandboxes {
    /// Makes the folders and the engines, and removes what earlier runs left behind. One server
    /// alone has the folder.
    pub fn new(mut config: Config) -> Result<Self, Error> {
        config.live_max = config.live_max.min(limits::LIVE_MAX);
        private_folder(&config.folder)?;
        let runs = config.folder.join("runs");
        if let Err(error) = std::fs::remove_dir_all(&runs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error::io("cannot remove what earlier executions left")(error));
        }
        private_folder(&runs)?;
        let empty = config.folder.join("empty");
        private_folder(&empty)?;
        let engines = Engines::new(config.live_max)?;
        let pooled = host::linker(&engines.pooled)?;
        let large = host::linker(&engines.large)?;
        let cache = Cache::open(
            config.cache.clone(),
            config.compiler.clone(),
            engines.fingerprint.clone(),
        )?;
        Ok(Self(Arc::new(Inner {
            config,
            engines,
            pooled,
            large,
            cache,
            empty,
            live: AtomicUsize::new(0),
            tenants: RwLock::default(),
            runtimes: Mutex::default(),
            nothing: Arc::default(),
        })))
    }

    /// Compiles a component for a tenant, or finds it compiled, and checks that it is of the world
    /// `agent`. From then on the tenant can run it.
    pub async fn bind(&self, tenant: &TenantId, wasm: &[u8]) -> Result<Bound, Error> {
        self.bind_to(tenant, wasm, None).await
    }

    /// The same where its machine code must have the digest `compiled`, as it was bound before on
    /// this machine with this version.
    pub async fn bind_pinned(
        &self,
        tenant: &TenantId,
        wasm: &[u8],
        compiled: Digest,
    ) -> Result<Bound, Error> {
        self.bind_to(tenant, wasm, Some(compiled)).await
    }

    async fn bind_to(
        &self,
        tenant: &TenantId,
        wasm: &[u8],
        pinned: Option<Digest>,
    ) -> Result<Bound, Error> {
        let most = limits::COMPONENT_BYTES_MAX;
        if wasm.len() > most {
            return Err(Error::TooLong { what: "a component", bytes: wasm.len(), most });
        }
        let digest = Digest::of(wasm);
        let books = self.tenant(tenant);
        let loaded = match books.find(digest) {
            Some(loaded) if pinned.is_none_or(|pin| loaded.runtime.compiled == Some(pin)) => loaded,
            _ => {
                let own = Arc::from([]);
                let bytes = (wasm, digest);
                let loaded = self.load(bytes, pinned, World::Agent, own, Some(tenant)).await?;
                books.keep(digest, &loaded)?;
                loaded
            }
        };
        Ok(Bound {
            digest,
            compiled: loaded.runtime.compiled.unwrap_or(digest),
            engine: self.engine(),
            imports: loaded.imports.to_vec(),
        })
    }

    /// What compiles components here: the engine, its settings and the processor.
    pub fn engine(&self) -> String {
        format!("{} {}", engine::NAME, self.0.engines.fingerprint)
    }

    /// Forgets a component of a tenant. Executions that are under way go on.
    pub fn unbind(&self, tenant: &TenantId, digest: Digest) {
        self.tenant(tenant).forget(digest);
    }

    async fn load(
        &self,
        (wasm, digest): (&[u8], Digest),
        pinned: Option<Digest>,
        world: World,
        own: Arc<[String]>,
        whose: Option<&TenantId>,
    ) -> Result<Arc<Loaded>, Error> {
        let inner = &self.0;
        if wasm.len() <= limits::POOLED_BYTES_MAX {
            let engine = &inner.engines.pooled;
            let compiled = inner.cache.get(engine, wasm, digest, pinned, whose).await?;
            if fits_pool(&compiled.component) {
                let loaded = Loaded::new(&inner.pooled, compiled, digest, world, own)?;
                return Ok(Arc::new(loaded));
            }
        }
        let engine = &inner.engines.large;
        let compiled = inner.cache.get(engine, wasm, digest, pinned, whose).await?;
        Ok(Arc::new(Loaded::new(&inner.large, compiled, digest, world, own)?))
    }

    /// What is the tenant's own. It is there from the first time that the tenant is named.
    fn tenant(&self, id: &TenantId) -> Arc<Tenant> {
        let tenants = self.0.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = tenants.get(id) {
            return Arc::clone(tenant);
        }
        drop(tenants);
        let mut tenants = self.0.tenants.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(id.clone()).or_default())
    }

    /// Has the interpreter of `kind` ready. The first time, it is compiled, which takes a while.
    pub async fn prepare(&self, kind: CodeKind) -> Result<Runtime, Error> {
        self.interpreter(kind).await.map(|loaded| loaded.runtime.clone())
    }

    async fn interpreter(&self, kind: CodeKind) -> Result<Arc<Loaded>, Error> {
        let found = self.runtimes().get(&kind).map(Arc::clone);
        if let Some(loaded) = found {
            return Ok(loaded);
        }
        let name = runtime_name(kind)
            .ok_or_else(|| Error::RuntimeMissing("a component has no interpreter".to_owned()))?;
        let config = &self.0.config;
        let (folder, pins) = (config.runtimes.clone(), config.runtime_digests.clone());
        let read = move || read_interpreter(folder.as_deref(), &pins, name);
        let read = tokio::task::spawn_blocking(read).await;
        let interpreter = read.map_err(|error| Error::RuntimeMissing(error.to_string()))??;
        let (bytes, own) = ((&*interpreter.wasm, interpreter.digest), interpreter.own);
        let loaded = self.load(bytes, None, World::Interpreter, own, None).await?;
        Ok(Arc::clone(self.runtimes().entry(kind).or_insert(loaded)))
    }

    /// Runs code. An error says that nothing ran.
    pub async fn run(&self, run: Run<'_>) -> Result<Report, Failure> {
        run.permit.check(run.plan_digest, run.now).map_err(|error| {
            Failure::new(Category::Permanent, "permit_invalid", error.to_string())
        })?;
        self.check(&run)?;
        let tenant = self.tenant(run.tenant);
        let _slot = self.slot(&tenant)?;
        match run.sandbox_type {
            SandboxType::Standard => self.run_standard(run, &tenant).await,
            SandboxType::Light => crate::light::run(&self.0.config, run).await,
            other => Err(unavailable(other)),
        }
    }

    fn check(&self, run: &Run<'_>) -> Result<(), Failure> {
        let too_long = |what, bytes, most| -> Result<(), Failure> {
            if bytes <= most { Ok(()) } else { Err(Error::TooLong { what, bytes, most }.into()) }
        };
        if let Code::Source { text, .. } = &run.code {
            too_long("the source", text.len(), limits::SOURCE_BYTES_MAX)?;
        }
        too_long("the input", run.input.len(), limits::INPUT_BYTES_MAX)?;
        if serde_json::from_str::<serde::de::IgnoredAny>(run.input).is_err() {
            let why = "the input of an execution must be JSON";
            return Err(Failure::new(Category::Validation, "input_not_json", why));
        }
        let id = run.sandbox_id.as_bytes();
        if id.len() != 32 || !id.iter().all(u8::is_ascii_hexdigit) {
            let why = "the id of a sandbox has 32 hexadecimal digits";
            return Err(Failure::new(Category::Validation, "sandbox_id_invalid", why));
        }
        check_limits(&run.limits)?;
        if !run.capabilities.is_none() {
            run.capabilities.validate().map_err(|invalid| {
                Failure::new(Category::Validation, invalid.code(), invalid.to_string())
            })?;
            let covered = self.0.config.ceiling.covers(run.capabilities);
            covered.map_err(|beyond| refused(beyond.code(), beyond.to_string()))?;
        }
        Ok(())
    }

    async fn run_standard(&self, run: Run<'_>, tenant: &Tenant) -> Result<Report, Failure> {
        let loaded = match &run.code {
            Code::Source { kind, .. } => self.interpreter(*kind).await?,
            Code::Component { digest } => tenant.find(*digest).ok_or_else(|| {
                let why = format!("this tenant has no component {}: register it", digest.hex());
                Failure::new(Category::NotFound, "component_unknown", why)
            })?,
        };
        let stage = self.stage(&run).await?;
        let state = self.state(&run, &loaded, stage.as_ref())?;
        let source = match &run.code {
            Code::Source { text, .. } => Some(&**text),
            Code::Component { .. } => None,
        };
        let handed = Handed { source, input: run.input };
        let watch: Watch = self.0.engines.watch();
        let outcome = execute(&loaded, state, handed, &run.cancel).await;
        drop(watch);
        Ok(close(&run, outcome, stage, loaded.runtime.clone()).await)
    }

    async fn stage(&self, run: &Run<'_>) -> Result<Option<Stage>, Failure> {
        if run.capabilities.file_read.is_empty() && run.capabilities.file_write.is_empty() {
            return Ok(None);
        }
        let folder = run_folder(&self.0.config.folder, run);
        let capabilities = run.capabilities.clone();
        let made = tokio::task::spawn_blocking(move || Stage::make(folder, &capabilities)).await;
        made.map_err(|error| refused("staging_failed", error.to_string()))?.map(Some)
    }

    fn state(
        &self,
        run: &Run<'_>,
        loaded: &Loaded,
        stage: Option<&Stage>,
    ) -> Result<State, Failure> {
        let capabilities = if run.capabilities.is_none() {
            Arc::clone(&self.0.nothing)
        } else {
            Arc::new(run.capabilities.clone())
        };
        let granted = run.environment.iter().filter(|(name, _)| capabilities.may_env(name));
        let environment =
            granted.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>();
        let folder = loaded
            .files
            .then(|| stage.map_or_else(|| self.0.empty.clone(), |stage| stage.folder.clone()));
        let files = Files::new(
            folder,
            Arc::clone(&capabilities),
            Arc::clone(&loaded.own),
            run.limits.output_bytes,
        );
        let files = files.without(stage.map(|stage| stage.left_out.clone()).unwrap_or_default());
        let given = Given {
            capabilities,
            environment,
            limits: run.limits,
            seed: run.seed,
            door: Arc::clone(&run.door),
            egress: Arc::clone(&run.egress),
        };
        let mut state = State::new(given, run.started_at, files);
        if loaded.world {
            state.open_world().map_err(|error| refused("staging_failed", error.to_string()))?;
        }
        Ok(state)
    }

    /// How many sandboxes are live.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    fn slot<'a>(&'a self, tenant: &'a Tenant) -> Result<Slot<'a>, Failure> {
        let full = |message: String| {
            Err(Failure::new(Category::RateLimited, "too_many_sandboxes", message))
        };
        let Config { live_max, per_tenant_max, .. } = self.0.config;
        let Some(all) = Place::take(&self.0.live, live_max) else {
            return full(format!("{live_max} sandboxes are live on this server"));
        };
        let Some(own) = Place::take(&tenant.live, per_tenant_max) else {
            let most = per_tenant_max;
            return full(format!("{most} sandboxes of this tenant are live (max_sandboxes)"));
        };
        Ok(Slot { _all: all, _own: own })
    }

    fn runtimes(&self) -> MutexGuard<'_, HashMap<CodeKind, Arc<Loaded>>> {
        self.0.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox that is live: it is counted for the server and for its tenant.
struct Slot<'a> {
    _all: Place<'a>,
    _own: Place<'a>,
}

/// One of so many, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |live: usize| (live < most).then(|| live + 1);
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self(count))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether a ready-made store has room for it.
fn fits_pool(component: &wasmtime::component::Component) -> bool {
    let Some(needs) = component.resources_required() else { return false };
    let most = limits::POOLED_MEMORIES_MAX;
    let entries = u64::try_from(limits::POOLED_TABLE_ENTRIES_MAX).unwrap_or(u64::MAX);
    needs.num_memories <= most
        && needs.num_tables <= most
        && needs.max_initial_table_size.is_none_or(|size| size <= entries)
}

pub(crate) fn run_folder(folder: &Path, run: &Run<'_>) -> PathBuf {
    folder.join("runs").join(run.tenant.as_str()).join(run.sandbox_id)
}

fn check_limits(asked: &kernel::attestation::Limits) -> Result<(), Failure> {
    let most = &limits::MOST;
    let pairs = [
        ("memory_bytes", asked.memory_bytes, most.memory_bytes),
        ("cpu_ms", asked.cpu_ms, most.cpu_ms),
        ("wall_ms", asked.wall_ms, most.wall_ms),
        ("fuel", asked.fuel, most.fuel),
        ("output_bytes", asked.output_bytes, most.output_bytes),
        ("tool_calls", asked.tool_calls.into(), most.tool_calls.into()),
    ];
    for (name, asked, most) in pairs {
        if asked > most {
            let why = format!("limits.{name} is {asked}; it may be {most} at most");
            return Err(Failure::new(Category::Validation, "limit_too_high", why));
        }
    }
    Ok(())
}

fn unavailable(asked: SandboxType) -> Failure {
    let why = match asked {
        SandboxType::Hardened => {
            "HARDENED needs a confined process for each execution, which this version does not \
             have: ask for STANDARD, or wait for it; nothing weaker is used in its place"
        }
        _ => {
            "TEE needs hardware that attests what runs in it (SGX, TDX or SEV-SNP), which this \
             version does not use: ask for STANDARD; nothing weaker is used in its place"
        }
    };
    refused("sandbox_type_unavailable", why)
}

/// Puts files in place where it succeeded, and reports.
pub(crate) async fn close(
    run: &Run<'_>,
    outcome: Outcome,
    stage: Option<Stage>,
    runtime: Runtime,
) -> Report {
    let Outcome { mut end, denied, fuel_used, memory_peak, cpu } = outcome;
    let mut written = Vec::new();
    let mut files_read = BTreeMap::new();
    if let Some(mut stage) = stage {
        files_read = std::mem::take(&mut stage.read);
        stage.read.clone_from(&files_read);
        let succeeded = end.ending == Ending::Success;
        let put = succeeded && !run.rehearsal;
        let (id, most) = (run.sandbox_id.to_owned(), run.limits.output_bytes);
        let capabilities = run.capabilities.clone();
        let writable = succeeded && !capabilities.file_write.is_empty();
        let done = tokio::task::spawn_blocking(move || {
            let found = if writable { stage.changed(&capabilities, most)? } else { Vec::new() };
            if put {
                put_in_place(&found, &id)?;
            }
            Ok::<Vec<Written>, Unwritten>(found.into_iter().map(|(written, _)| written).collect())
        });
        match done.await {
            Ok(Ok(list)) => written = list,
            Ok(Err(error)) => end = unwritten(&error),
            Err(error) => end = End::failed(Ending::Crash, "write_failed", error.to_string()),
        }
    }
    Report {
        ending: end.ending,
        output: end.output,
        code: end.code,
        denials: denied.list,
        denied: denied.counts,
        fuel_used,
        memory_peak_bytes: memory_peak,
        cpu_us: u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX),
        written,
        files_read,
        runtime,
    }
}

fn unwritten(error: &Unwritten) -> End {
    let code = match error {
        Unwritten::TooLong { .. } | Unwritten::TooMuch => "output_too_long",
        Unwritten::Refused { .. } | Unwritten::Io(_) => "write_failed",
    };
    End::failed(Ending::Crash, code, error.to_string())
}
