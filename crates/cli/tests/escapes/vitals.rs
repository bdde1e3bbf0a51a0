//! What a server is made of besides its answers: memory, handles, processes and files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kernel::values::Digest;

/// Files up to this many bytes are compared by their content.
const READ_BYTES_MAX: u64 = 1 << 20;

/// What a process has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    /// MiB of memory that are resident and its own: not mapped from files.
    pub(crate) own_mb: u64,
    /// The most MiB that were resident at once since it began.
    pub(crate) peak_mb: u64,
    /// Open file handles.
    pub(crate) handles: usize,
}

impl Vitals {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let number = line.split_whitespace().next().unwrap();
            number.parse::<u64>().unwrap() >> 10
        };
        let handles = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { own_mb: mb("RssAnon:") + mb("RssShmem:"), peak_mb: mb("VmHWM:"), handles }
    }
}

/// The processes that `pid` started, and those that are in a folder below `folder`, whoever started
/// them.
pub(crate) fn processes(pid: u32, folder: &Path) -> Vec<String> {
    let told = |entry: &Path| {
        let stat = fs::read_to_string(entry.join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        let cwd = fs::read_link(entry.join("cwd")).unwrap_or_default();
        let ours = parent == pid.to_string() || cwd.starts_with(folder);
        ours.then(|| format!("{} in {}", stat.trim(), cwd.display()))
    };
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| told(&entry.ok()?.path())).collect()
}

/// Everything below a folder, each with what tells it from a changed one.
pub(crate) type Snapshot = BTreeMap<PathBuf, String>;

/// What is below `folder`; links are not followed. The files of stores change with every action,
/// and are left out.
pub(crate) fn snapshot(folder: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains(".sqlite") {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = if meta.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_file() && meta.len() <= READ_BYTES_MAX {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                format!("{} bytes of {}", meta.len(), meta.mtime())
            };
            found.insert(path, format!("{:o} {} {kind}", meta.mode(), meta.uid()));
        }
    }
    found
}
