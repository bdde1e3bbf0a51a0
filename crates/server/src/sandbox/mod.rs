//! Untrusted code: what it runs in, which tools are made of it, and what is attested of it.

mod api;
mod attest;
mod confine;
mod door;
mod egress;
mod execute;
mod job;
mod limits;
mod recording;
pub(crate) mod registry;
mod replay;
mod runs;
mod settings;
mod tool;
mod under;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use kernel::attestation::CodeKind;
use kernel::ids::{TenantId, ToolId};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::{Config, StartError};
use ::sandbox::{Compiler, Config as BoxesConfig, Light, Sandboxes};

pub(crate) use api::SandboxesApi;
pub(crate) use attest::attest;
pub(crate) use confine::{Servers, forget_folder};
pub(crate) use execute::{Ran, call};
pub(crate) use limits::CANCEL_WAIT;
pub(crate) use recording::{drop_recording, keep};
pub use settings::{
    AttestationConfig, LightConfig, SandboxConfig, SandboxPolicies, TeeConfig, Variables,
    WasmConfig,
};
pub(crate) use tool::{CodeTool, attempt_ms, is_code};
pub(crate) use under::{Under, abandon, called};

/// The variable that names the folder of the interpreters.
const RUNTIMES: &str = "TALLY_RUNTIMES";

/// Everything about sandboxes that handlers share. What was configured is in `Shared.config`:
/// `config.sandbox` and `config.attestation`.
pub(crate) struct Sandbox {
    /// What code runs in.
    pub(crate) boxes: Sandboxes,
    /// The executions under way.
    pub(crate) runs: runs::Runs,
    /// The tools that run code.
    tools: [CodeTool; 2],
    /// The same as tenants have them that pay something else.
    priced: BTreeMap<TenantId, [CodeTool; 2]>,
    /// The way to granted hosts.
    pub(crate) hosts: Arc<egress::Hosts>,
}

impl Sandbox {
    /// Makes the folders and clears what an earlier server left. Nothing is compiled yet.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let folder = config.data.join("sandbox");
        let program = std::env::current_exe().map_err(|source| StartError::Data {
            path: PathBuf::from("the program itself"),
            source,
        })?;
        let own = |name: &str| Compiler {
            program: program.clone(),
            args: vec!["internal".into(), name.into()],
        };
        let light = &config.sandbox.light;
        let light = light.enabled.then(|| Light {
            python: light.python.clone(),
            node: light.node.clone(),
            confine: Some(own("sandbox-light")),
        });
        let boxes = Sandboxes::new(BoxesConfig {
            cache: config.sandbox.cache.clone().unwrap_or_else(|| folder.join("compiled")),
            folder,
            runtimes: runtimes(config),
            runtime_digests: config.sandbox.runtime_digests.clone(),
            compiler: own("sandbox-compile"),
            live_max: limits::SANDBOXES_LIVE_MAX,
            per_tenant_max: usize::try_from(config.sandbox.policies.max_sandboxes)
                .unwrap_or(limits::SANDBOXES_LIVE_MAX),
            light,
            ceiling: config.sandbox.ceiling(),
        });
        let priced = config.tenant_prices.iter().filter(|(_, own)| own.tools.keys().any(is_code));
        let priced = priced.map(|(tenant, _)| {
            CodeTool::all(config, Some(tenant)).map(|tools| (tenant.clone(), tools))
        });
        Ok(Self {
            boxes: boxes.map_err(|error| StartError::Start(error.to_string()))?,
            runs: runs::Runs::default(),
            tools: CodeTool::all(config, None)?,
            priced: priced.collect::<Result<_, _>>()?,
            hosts: Arc::new(egress::Hosts::new(config)?),
        })
    }

    /// The tools that run code, as a tenant has them.
    pub(crate) fn tools(&self, tenant: &TenantId) -> &[CodeTool; 2] {
        self.priced.get(tenant).unwrap_or(&self.tools)
    }
}

/// The folder of the interpreters, where one is named.
fn runtimes(config: &Config) -> Option<PathBuf> {
    let named = || std::env::var_os(RUNTIMES).map(PathBuf::from);
    config.sandbox.runtimes.clone().or_else(named)
}

/// Whether calling the tool runs code in a sandbox.
pub(crate) fn serves(shared: &Shared, tenant: &TenantId, tool: &ToolId) -> bool {
    is_code(tool) || shared.registry.tool(tenant, tool).is_some()
}

/// Has the interpreters ready before anybody waits for one: the first time, each is compiled, which
/// takes a while. The server serves meanwhile.
pub(crate) async fn prepare(shared: Arc<Shared>, stop: CancellationToken) {
    if runtimes(&shared.config).is_none() {
        return;
    }
    for (kind, language) in [(CodeKind::Python, "python"), (CodeKind::Javascript, "javascript")] {
        let began = Instant::now();
        let prepared = tokio::select! {
            () = stop.cancelled() => return,
            prepared = shared.sandbox.boxes.prepare(kind) => prepared,
        };
        let ms = began.elapsed().as_millis();
        match prepared {
            Ok(runtime) => tracing::info!(language, digest = %runtime.digest, ms, "ready to run"),
            // Whoever runs code in it is told the same.
            Err(error) => tracing::warn!(language, %error, "there is no interpreter"),
        }
    }
}

/// Interrupts what runs when the server stops: the next one repeats it.
pub(crate) async fn interrupt(shared: Arc<Shared>, stop: CancellationToken) {
    stop.cancelled().await;
    shared.sandbox.runs.stop();
}
