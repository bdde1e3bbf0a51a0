//! Sandboxes as the server sets them up, and components made of text.

pub(crate) mod wat;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kernel::attestation::{CodeKind, Limits, SandboxType};
use kernel::capability::{Capabilities, Network};
use kernel::failure::Failure;
use kernel::ids::TenantId;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use sandbox::{
    Code, Compiler, Config, Door, DoorAnswer, DoorFailure, Egress, EgressBody, EgressFailure,
    Report, Run, Sandboxes,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) use testkit::permit;

pub(crate) const NOW: Timestamp = Timestamp(1_000);

/// A data folder with sandboxes.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) boxes: Sandboxes,
}

pub(crate) fn compiler() -> Compiler {
    Compiler {
        program: env!("CARGO_BIN_EXE_sandbox-child").into(),
        args: vec!["sandbox-compile".into()],
    }
}

pub(crate) fn config(folder: &Path) -> Config {
    Config {
        folder: folder.join("sandbox"),
        cache: folder.join("sandbox/compiled"),
        runtimes: None,
        runtime_digests: BTreeMap::new(),
        compiler: compiler(),
        live_max: 64,
        per_tenant_max: 10,
        light: None,
        ceiling: Capabilities {
            file_read: vec!["/**".to_owned()],
            file_write: vec!["/**".to_owned()],
            network: Network::default(),
            env: vec!["*".to_owned()],
        },
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(folder.path());
        change(&mut config);
        let boxes = Sandboxes::new(config).expect("sandboxes");
        Self { folder, boxes }
    }

    pub(crate) async fn bind(&self, tenant: &TenantId, text: &str) -> Digest {
        let wasm = wat::component(text);
        self.boxes.bind(tenant, &wasm).await.expect("it binds").digest
    }

    /// Runs a component of tenant `acme`.
    pub(crate) async fn run(&self, text: &str, job: Job) -> Result<Report, Failure> {
        let digest = self.bind(&tenant("acme"), text).await;
        job.run(&self.boxes, Code::Component { digest }).await
    }
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a tenant")
}

/// What an execution is given. What is not said is the default.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) tenant: TenantId,
    pub(crate) sandbox_id: String,
    pub(crate) sandbox_type: SandboxType,
    pub(crate) input: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    pub(crate) seed: [u8; 32],
    pub(crate) door: Arc<dyn Door>,
    pub(crate) egress: Arc<dyn Egress>,
    pub(crate) now: Timestamp,
    pub(crate) rehearsal: bool,
    pub(crate) cancel: CancellationToken,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            tenant: tenant("acme"),
            sandbox_id: "0123456789abcdef0123456789abcdef".to_owned(),
            sandbox_type: SandboxType::Standard,
            input: "null".to_owned(),
            capabilities: Capabilities::default(),
            environment: BTreeMap::new(),
            limits: sandbox::limits::DEFAULT,
            seed: [7; 32],
            door: Arc::new(Tools::default()),
            egress: Arc::new(NoHosts),
            now: NOW,
            rehearsal: false,
            cancel: CancellationToken::new(),
        }
    }
}

impl Job {
    pub(crate) fn of(input: &str) -> Self {
        Self { input: input.to_owned(), ..Self::default() }
    }

    pub(crate) async fn run(&self, boxes: &Sandboxes, code: Code) -> Result<Report, Failure> {
        let plan = Digest::of(b"plan");
        self.run_with(boxes, code, &permit(plan), plan).await
    }

    pub(crate) async fn run_with(
        &self,
        boxes: &Sandboxes,
        code: Code,
        permit: &Permit,
        plan_digest: Digest,
    ) -> Result<Report, Failure> {
        boxes
            .run(Run {
                permit,
                plan_digest,
                now: self.now,
                tenant: &self.tenant,
                sandbox_id: &self.sandbox_id,
                sandbox_type: self.sandbox_type,
                code,
                input: &self.input,
                capabilities: &self.capabilities,
                environment: &self.environment,
                limits: self.limits,
                seed: self.seed,
                started_at: Timestamp(1_700_000_000_000_000),
                door: Arc::clone(&self.door),
                egress: Arc::clone(&self.egress),
                rehearsal: self.rehearsal,
                cancel: self.cancel.clone(),
            })
            .await
    }
}

/// Source text of a language.
pub(crate) fn source(kind: CodeKind, text: &str) -> Code {
    Code::Source { kind, text: text.into() }
}

/// Tools: `echo` gives back its arguments, `refuse` is not granted, `diverge` ends the sandbox,
/// `slow` takes as long as it says, `hold` waits for people.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    pub(crate) calls: Mutex<Vec<(u32, String, String)>>,
}

#[async_trait]
impl Door for Tools {
    async fn call(&self, seq: u32, tool: &str, args: &str) -> DoorAnswer {
        self.calls.lock().expect("calls").push((seq, tool.to_owned(), args.to_owned()));
        let fail = |code: &str, fatal| {
            let message = format!("the tool {tool} is not to be called");
            Err(DoorFailure { code: code.to_owned(), message, fatal, denied: !fatal })
        };
        let pause = std::time::Duration::from_millis(300);
        let mut held_ms = 0;
        let result = match tool {
            "echo" => Ok(args.to_owned()),
            "refuse" => fail("policy_denied", false),
            "diverge" => fail("replay_diverged", true),
            "slow" => {
                tokio::time::sleep(pause).await;
                Ok("1".to_owned())
            }
            "hold" => {
                let began = std::time::Instant::now();
                tokio::time::sleep(pause).await;
                held_ms = u64::try_from(began.elapsed().as_millis()).expect("a short time");
                Ok("1".to_owned())
            }
            "never" => std::future::pending().await,
            _ => fail("tool_not_found", false),
        };
        DoorAnswer { result, held_ms }
    }
}

/// No host is granted.
#[derive(Debug)]
pub(crate) struct NoHosts;

#[async_trait]
impl Egress for NoHosts {
    async fn send(
        &self,
        _network: &Network,
        request: http::Request<EgressBody>,
    ) -> Result<http::Response<EgressBody>, EgressFailure> {
        let message = format!("{} is not granted", request.uri());
        Err(EgressFailure { code: "host_not_granted".to_owned(), message, denied: true })
    }
}
