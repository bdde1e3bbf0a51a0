//! LIGHT: a process of its own with a clean environment and a private folder, for development. It
//! has no network; its tools are called through the same door.

mod confine;
mod talk;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kernel::attestation::{CodeKind, Ending, Runtime};
use kernel::capability::Capabilities;
use kernel::failure::{Category, Failure};
use kernel::values::Digest;
use tokio::process::{Child, Command};

use crate::error::refused;
use crate::execute::{End, Outcome};
use crate::limits;
use crate::run::{Code, Report, Run};
use crate::sandboxes::{Config, Light, close, run_folder};
use crate::staging::Stage;
use crate::state::Denials;

pub use confine::{Confinement, light_main};

const PYTHON: &str = include_str!("python.py");
const NODE: &str = include_str!("node.js");

pub(crate) async fn run(config: &Config, run: Run<'_>) -> Result<Report, Failure> {
    let light = config.light.as_ref().ok_or_else(|| unavailable(OFF))?;
    let Code::Source { kind, text } = &run.code else {
        return Err(unavailable("a component runs under STANDARD alone: LIGHT is for source text"));
    };
    if !run.capabilities.network.is_none() {
        let why = "there is no network under LIGHT: ask for none, or for STANDARD";
        return Err(refused("capability_not_grantable", why));
    }
    let program = program(light, *kind)?;
    let folder = run_folder(&config.folder, &run);
    let capabilities = run.capabilities.clone();
    let read = program.clone();
    let made = tokio::task::spawn_blocking(move || {
        let digest = digest(&read)?;
        Ok::<_, Failure>((Stage::make(folder, &capabilities)?, digest))
    });
    let made = made.await.map_err(|error| refused("staging_failed", error.to_string()))?;
    let (stage, digest) = made?;
    let child = start(light, &run, *kind, &program, &stage.folder)?;
    let mut group = Group(child);
    let denials = Denials::default();
    let (end, used) = talk::converse(&mut group.0, &run, text, &denials).await?;
    group.end().await;
    let outcome = Outcome {
        end,
        denied: denials.take(),
        fuel_used: 0,
        memory_peak: used.memory_peak,
        cpu: used.cpu,
    };
    let engine = format!("process {}", program.file_name().unwrap_or_default().to_string_lossy());
    Ok(close(&run, outcome, Some(stage), Runtime { engine, digest, compiled: None }).await)
}

const OFF: &str = "LIGHT is off: set sandbox.light.enabled, or ask for STANDARD";

fn unavailable(why: impl Into<String>) -> Failure {
    refused("sandbox_type_unavailable", why)
}

fn program(light: &Light, kind: CodeKind) -> Result<PathBuf, Failure> {
    let (program, name) = match kind {
        CodeKind::Python => (&light.python, "sandbox.light.python"),
        CodeKind::Javascript => (&light.node, "sandbox.light.node"),
        CodeKind::Component => return Err(unavailable("a component has no program")),
    };
    let program = program.as_ref().ok_or_else(|| {
        unavailable(format!("LIGHT has no program for this language: set {name}"))
    })?;
    program
        .canonicalize()
        .map_err(|error| unavailable(format!("{name}: cannot find {}: {error}", program.display())))
}

fn digest(program: &Path) -> Result<Digest, Failure> {
    let bytes = std::fs::read(program)
        .map_err(|error| unavailable(format!("cannot read {}: {error}", program.display())))?;
    Ok(Digest::of(&bytes))
}

fn start(
    light: &Light,
    run: &Run<'_>,
    kind: CodeKind,
    program: &Path,
    folder: &Path,
) -> Result<Child, Failure> {
    let confine = light.confine.as_ref().ok_or_else(|| {
        Failure::new(Category::Internal, "sandbox_io_failed", "LIGHT has nothing that confines it")
    })?;
    let megabytes = (run.limits.memory_bytes >> 20).max(16);
    let args: Vec<OsString> = match kind {
        CodeKind::Python => ["-I", "-B", "-X", "utf8", "-c", PYTHON].map(Into::into).into(),
        _ => vec![
            "--no-warnings".into(),
            "--openssl-config=/dev/null".into(),
            format!("--max-old-space-size={megabytes}").into(),
            "-e".into(),
            NODE.into(),
        ],
    };
    let settings = Confinement {
        memory_bytes: memory(kind, run.limits.memory_bytes),
        cpu_seconds: Some(run.limits.cpu_ms / 1_000 + 2),
        file_bytes: run.limits.output_bytes,
        open_files: limits::LIGHT_FILES,
        read: Vec::new(),
        folder: folder.to_owned(),
        network: false,
        processes: false,
    };
    Command::new(&confine.program)
        .args(&confine.args)
        .args(settings.arguments(program, args))
        .env_clear()
        .envs(granted(run.capabilities, run))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unavailable(format!("cannot start {}: {error}", program.display())))
}

/// Node itself takes memory that its code cannot use.
fn memory(kind: CodeKind, bytes: u64) -> u64 {
    match kind {
        CodeKind::Javascript => bytes.saturating_add(limits::LIGHT_NODE_BYTES),
        _ => bytes,
    }
}

fn granted<'a>(
    capabilities: &'a Capabilities,
    run: &'a Run<'_>,
) -> impl Iterator<Item = (&'a String, &'a String)> {
    run.environment.iter().filter(|(name, _)| capabilities.may_env(name))
}

/// A process and all that it started.
struct Group(Child);

impl Group {
    async fn end(mut self) {
        self.kill();
        if let Err(error) = self.0.wait().await {
            tracing::error!(%error, "cannot wait for a process under LIGHT");
        }
    }

    fn kill(&self) {
        let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
        let killed = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        if let Err(error) = killed
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(%error, "cannot end a process under LIGHT");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu: Duration,
    memory_peak: u64,
}

impl Used {
    /// As the kernel says; as before where the process is gone.
    fn look(&mut self, child: &Child) {
        let Some(pid) = child.id() else { return };
        if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            // After the name, which is in parentheses: the 12th and 13th are user and system time.
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
            let ticks: u64 = fields
                .into_iter()
                .flatten()
                .skip(11)
                .take(2)
                .filter_map(|f| f.parse::<u64>().ok())
                .sum();
            let per_second = rustix::param::clock_ticks_per_second().max(1);
            self.cpu = self.cpu.max(Duration::from_millis(ticks * 1_000 / per_second));
        }
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            self.memory_peak = self.memory_peak.max(kilobytes.unwrap_or(0) << 10);
        }
    }
}

fn failed(ending: Ending, code: &'static str, why: impl Into<String>) -> End {
    End::failed(ending, code, why)
}
