//! The compiler: a process that reads a component and writes machine code, and can do nothing else.
//! Compiling is the largest piece of code that a stranger's bytes go through.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use wasmtime::Engine;

use crate::engine;
use crate::limits;

/// Exit codes: the component is at fault, or we are.
pub(crate) const EXIT_INVALID: u8 = 3;

/// What goes wrong in the compiler.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot confine itself: {0}")]
    Confine(String),
    #[error("cannot read or write: {0}")]
    Io(#[from] std::io::Error),
    #[error("the engine does not start: {0}")]
    Engine(String),
    #[error("{0}")]
    Invalid(String),
}

/// `main` of the compiler: a component on standard input, machine code on standard output.
pub fn compile_main() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let invalid = matches!(error, Error::Invalid(_));
            ExitCode::from(if invalid { EXIT_INVALID } else { 1 })
        }
    }
}

fn compile() -> Result<(), Error> {
    confine()?;
    let mut wasm = Vec::new();
    let most = u64::try_from(limits::RUNTIME_BYTES_MAX).unwrap_or(u64::MAX);
    std::io::stdin().lock().take(most).read_to_end(&mut wasm)?;
    let engine =
        Engine::new(&engine::settings()).map_err(|error| Error::Engine(format!("{error:#}")))?;
    let code =
        engine.precompile_component(&wasm).map_err(|error| Error::Invalid(format!("{error:#}")))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&code)?;
    stdout.flush()?;
    Ok(())
}

/// Gives up what compiling does not need: files, network, other processes, and more than a share of
/// memory and time.
fn confine() -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Confine(error.to_string());
    limit(Resource::Cpu, limits::COMPILE_CPU_SECONDS).map_err(|error| failed(&error))?;
    limit(Resource::As, limits::COMPILE_MEMORY_BYTES).map_err(|error| failed(&error))?;
    limit(Resource::Core, 0).map_err(|error| failed(&error))?;
    limit(Resource::Fsize, 0).map_err(|error| failed(&error))?;
    no_files().map_err(|error| failed(&error))?;
    let filter = filter().map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&filter).map_err(|error| failed(&error))
}

pub(crate) fn limit(resource: Resource, most: u64) -> Result<(), rustix::io::Errno> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// No file, and no TCP where the kernel can say so. A kernel without Landlock leaves it to the
/// system calls below.
fn no_files() -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .no_new_privs(true)
        .restrict_self()?;
    Ok(())
}

/// System calls by which a process reaches beyond itself. Threads are allowed: compiling uses them.
const REFUSED: [i64; 34] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_shmget,
    libc::SYS_open_by_handle_at,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
];

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, Vec<_>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()
}
