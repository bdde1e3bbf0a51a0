//! What is run, and the sandboxes that it runs in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, anyhow, bail};
use async_trait::async_trait;
use kernel::attestation::{CodeKind, Ending, Limits, SandboxType};
use kernel::capability::{Capabilities, Network};
use kernel::ids::TenantId;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use sandbox::{
    Code, Compiler, Config, Door, DoorAnswer, Egress, EgressBody, EgressFailure, Run, Sandboxes,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The argument that makes this program the compiler of sandboxes.
pub(crate) const COMPILE: &str = "sandbox-compile";
/// What each execution may use.
pub(super) const LIMITS: Limits = Limits { wall_ms: 600_000, ..sandbox::limits::DEFAULT };

/// Gives back its input.
const TINY: &str = include_str!("tiny.wat");
/// Calls the tool `wait`.
const WAITING: &str = include_str!("waiting.wat");

/// Something to run.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) name: &'static str,
    pub(super) kind: CodeKind,
    /// The component, or the interpreter.
    pub(super) wasm: Arc<[u8]>,
    /// For an interpreter.
    pub(super) source: Option<Arc<str>>,
    pub(super) input: &'static str,
}

/// An agent each of a component, JavaScript and Python, by what it does.
pub(super) struct Guests {
    /// They do next to nothing.
    pub(super) short: Vec<Guest>,
    /// They call a tool, once.
    pub(super) waiting: Vec<Guest>,
}

impl Guests {
    /// Reads the interpreters in `runtimes`.
    pub(super) fn read(runtimes: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| -> anyhow::Result<Arc<[u8]>> {
            let path = runtimes.join(name);
            Ok(std::fs::read(&path).with_context(|| format!("{}", path.display()))?.into())
        };
        let (javascript, python) = (read("javascript.wasm")?, read("python.wasm")?);
        let of = |wat: &str, js: &str, py: &str| -> anyhow::Result<Vec<Guest>> {
            let input = "{\"n\":1}";
            let tiny = wat::parse_str(wat)?.into();
            let component = CodeKind::Component;
            Ok(vec![
                Guest { name: "tiny component", kind: component, wasm: tiny, source: None, input },
                Guest {
                    name: "JavaScript",
                    kind: CodeKind::Javascript,
                    wasm: Arc::clone(&javascript),
                    source: Some(js.into()),
                    input,
                },
                Guest {
                    name: "Python",
                    kind: CodeKind::Python,
                    wasm: Arc::clone(&python),
                    source: Some(py.into()),
                    input,
                },
            ])
        };
        Ok(Self {
            short: of(
                TINY,
                "export function run(input) { return input.n }",
                "def run(input): return input['n']",
            )?,
            waiting: of(
                WAITING,
                "export function run() { return callTool('wait') }",
                "from tally import call_tool\ndef run(input): return call_tool('wait')",
            )?,
        })
    }
}

/// A tool that answers once everybody is there.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) arrived: AtomicUsize,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self { arrived: AtomicUsize::new(0), open: Semaphore::new(0) }
    }
}

impl Gate {
    pub(super) fn open(&self) {
        self.open.close();
    }
}

#[async_trait]
impl Door for Gate {
    async fn call(&self, _seq: u32, _tool: &str, args: &str) -> DoorAnswer {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        // Closed is open: nobody is ever handed a permit.
        drop(self.open.acquire().await);
        DoorAnswer { result: Ok(args.to_owned()), held_ms: 0 }
    }
}

#[derive(Debug)]
struct NoHosts;

#[async_trait]
impl Egress for NoHosts {
    async fn send(
        &self,
        _network: &Network,
        _request: http::Request<EgressBody>,
    ) -> Result<http::Response<EgressBody>, EgressFailure> {
        let (code, message) = ("host_not_granted".to_owned(), "no host is granted".to_owned());
        Err(EgressFailure { code, message, denied: true })
    }
}

/// The sandboxes that are measured, and what each execution is given.
pub(super) struct Host {
    boxes: Sandboxes,
    tenant: TenantId,
    plan: Digest,
    permit: Permit,
    nothing: Capabilities,
    environment: BTreeMap<String, String>,
    egress: Arc<dyn Egress>,
}

impl Host {
    pub(super) fn new(dir: &Path, runtimes: PathBuf, live_max: usize) -> anyhow::Result<Self> {
        let plan = Digest::of(b"plan");
        let boxes = Sandboxes::new(Config {
            folder: dir.join("sandbox"),
            cache: dir.join("compiled"),
            runtimes: Some(runtimes),
            runtime_digests: BTreeMap::new(),
            compiler: Compiler { program: std::env::current_exe()?, args: vec![COMPILE.into()] },
            live_max,
            per_tenant_max: live_max,
            light: None,
            ceiling: Capabilities::default(),
        })?;
        Ok(Self {
            boxes,
            tenant: TenantId::new("bench")?,
            plan,
            permit: testkit::permit(plan),
            nothing: Capabilities::default(),
            environment: BTreeMap::new(),
            egress: Arc::new(NoHosts),
        })
    }

    /// Has the code of a guest compiled and loaded.
    pub(super) async fn prepare(&self, guest: &Guest) -> anyhow::Result<()> {
        match guest.source {
            None => drop(self.boxes.bind(&self.tenant, &guest.wasm).await?),
            Some(_) => drop(self.boxes.prepare(guest.kind).await?),
        }
        Ok(())
    }

    /// What `guest` is, as an execution names it.
    pub(super) fn code(guest: &Guest) -> Code {
        match &guest.source {
            None => Code::Component { digest: Digest::of(&guest.wasm) },
            Some(text) => Code::Source { kind: guest.kind, text: Arc::clone(text) },
        }
    }

    /// One execution.
    pub(super) async fn run(
        &self,
        code: Code,
        input: &str,
        door: &Arc<Gate>,
    ) -> anyhow::Result<()> {
        let report = self.boxes.run(Run {
            permit: &self.permit,
            plan_digest: self.plan,
            now: Timestamp(0),
            tenant: &self.tenant,
            // Whoever asks makes the id; nothing is kept under it here.
            sandbox_id: "00000000000000000000000000000000",
            sandbox_type: SandboxType::Standard,
            code,
            input,
            capabilities: &self.nothing,
            environment: &self.environment,
            limits: LIMITS,
            seed: [7; 32],
            started_at: Timestamp(0),
            door: Arc::clone(door) as Arc<dyn Door>,
            egress: Arc::clone(&self.egress),
            rehearsal: false,
            cancel: CancellationToken::new(),
        });
        let report = report.await.map_err(|failure| anyhow!("{failure:?}"))?;
        if report.ending != Ending::Success {
            bail!("an execution has failed: {report:?}");
        }
        Ok(())
    }
}
