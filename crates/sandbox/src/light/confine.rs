//! LIGHT's child: this program again, which gives up what its successor does not need and then
//! becomes it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope,
};
use rustix::process::Resource;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use crate::child::limit;

/// What a process under LIGHT may use and reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// Bytes of memory that it can write to.
    pub memory_bytes: u64,
    /// Seconds of processor time; none for a server, which goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Bytes of a file that it writes.
    pub file_bytes: u64,
    /// Files that it can have open.
    pub open_files: u64,
    /// What it may read and run, besides the system's programs and its own folder.
    pub read: Vec<PathBuf>,
    /// Its own folder, which it may write; where it starts.
    pub folder: PathBuf,
    /// Whether it may use the network.
    pub network: bool,
    /// Whether it may start processes.
    pub processes: bool,
}

impl Confinement {
    /// The arguments that follow what makes this program LIGHT's child: these settings, then
    /// `program` and its `args`.
    pub fn arguments(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = OsString>,
    ) -> Vec<OsString> {
        let settings = serde_json::to_string(self).unwrap_or_default();
        [settings.into(), program.into()].into_iter().chain(args).collect()
    }
}

/// What the system's programs are made of.
const SYSTEM: [&str; 8] =
    ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/dev/null", "/dev/urandom"];

/// `main` of LIGHT's child. `args` are the settings, the program, and its arguments; what
/// [`Confinement::arguments`] gives. Returns only where it fails.
pub fn light_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match become_program(args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("cannot confine a process: {error}");
            ExitCode::from(EXIT_UNCONFINED)
        }
    }
}

/// The exit code of a child that could not confine itself, and so ran nothing.
pub(crate) const EXIT_UNCONFINED: u8 = 125;

type Failed = Box<dyn std::error::Error>;

fn become_program(
    args: impl IntoIterator<Item = OsString>,
) -> Result<std::convert::Infallible, Failed> {
    let mut args = args.into_iter();
    let settings = args.next().and_then(|text| text.into_string().ok()).ok_or("no settings")?;
    let settings: Confinement = serde_json::from_str(&settings)?;
    let program = args.next().ok_or("no program")?;
    limit(Resource::Data, settings.memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, settings.file_bytes)?;
    limit(Resource::Nofile, settings.open_files)?;
    if let Some(seconds) = settings.cpu_seconds {
        limit(Resource::Cpu, seconds)?;
    }
    files(&settings, Path::new(&program))?;
    seccompiler::apply_filter(&filter(&settings)?)?;
    let mut command = std::process::Command::new(program);
    Err(command.args(args).current_dir(&settings.folder).exec().into())
}

/// Files and TCP, as far as the kernel can say so.
fn files(settings: &Confinement, program: &Path) -> Result<(), Failed> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?;
    if !settings.network {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    let mut rules = rules.scope(Scope::Signal)?.create()?.no_new_privs(true);
    let prefix = program.canonicalize().ok();
    let prefix = prefix.as_deref().and_then(Path::parent).and_then(Path::parent);
    let system = SYSTEM.iter().map(Path::new);
    let readable = system.chain(prefix).chain(settings.read.iter().map(PathBuf::as_path));
    // What starts no processes becomes its program and then no other.
    let run = if settings.processes { BitFlags::EMPTY } else { AccessFs::Execute.into() };
    for path in readable {
        if let Ok(path) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(path, AccessFs::from_read(abi) & !run))?;
        }
    }
    for path in std::iter::once(program.to_owned()).chain(loader(program)) {
        let path = PathFd::new(path)?;
        rules = rules.add_rule(PathBeneath::new(path, AccessFs::Execute | AccessFs::ReadFile))?;
    }
    // What nearly every script throws its output into.
    if let Ok(null) = PathFd::new("/dev/null") {
        rules = rules.add_rule(PathBeneath::new(null, AccessFs::from_file(abi)))?;
    }
    let folder = PathFd::new(&settings.folder)?;
    rules = rules.add_rule(PathBeneath::new(folder, AccessFs::from_all(abi) & !run))?;
    rules.restrict_self()?;
    Ok(())
}

/// What loads a program, as its file says. Where it does not, the program is loaded by itself.
fn loader(program: &Path) -> Option<PathBuf> {
    /// The type of a segment that names it.
    const NAMES_LOADER: usize = 3;
    let bytes = std::fs::read(program).ok()?;
    let number = |at: usize, bytes_long: usize| {
        let bytes = bytes.get(at..at.checked_add(bytes_long)?)?;
        let more = |sum: usize, byte: &u8| sum.checked_mul(256)?.checked_add(usize::from(*byte));
        bytes.iter().rev().try_fold(0_usize, more)
    };
    // The 64-bit, little-endian form: what all machines here have.
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let segment = |nth: usize| table.checked_add(nth.checked_mul(size)?);
    let at = (0..count).filter_map(segment).find(|at| number(*at, 4) == Some(NAMES_LOADER))?;
    let (begin, long) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(0x20)?, 8)?);
    let path = bytes.get(begin..begin.checked_add(long)?)?;
    let path = std::str::from_utf8(path.strip_suffix(b"\0")?).ok()?;
    Some(PathBuf::from(path))
}

/// What no program under LIGHT needs.
const NEVER: [i64; 21] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
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
    libc::SYS_pivot_root,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_setsid,
    libc::SYS_setpgid,
];

/// What runs programs that have no path, besides.
const NAMELESS: [i64; 2] = [libc::SYS_memfd_create, libc::SYS_execveat];

/// What makes processes, other than `clone` and `clone3`, which make threads too.
#[cfg(target_arch = "x86_64")]
const FORKS: [i64; 2] = [libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: [i64; 0] = [];

fn filter(settings: &Confinement) -> Result<BpfProgram, Failed> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().map(|call| (*call, Vec::new())).collect();
    if !settings.network {
        rules.insert(libc::SYS_socket, Vec::new());
    }
    if !settings.processes {
        rules.extend(FORKS.iter().chain(&NAMELESS).map(|call| (*call, Vec::new())));
        let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
        let no_thread =
            SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
        rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()?;
    if !settings.processes {
        // The flags of `clone3` are in memory, where a filter cannot look: without it, programs
        // fall back to `clone`.
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let second: BpfProgram =
            SeccompFilter::new(clone3, SeccompAction::Allow, absent, architecture)?.try_into()?;
        seccompiler::apply_filter(&second)?;
    }
    Ok(program)
}
