//! The processor time that a process has taken, by the names of its threads.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

/// Nanoseconds of processor time by thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu(BTreeMap<String, (String, u64)>);

impl Cpu {
    /// What the process `pid` has taken so far. Threads that have ended are not in it.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(&tasks).with_context(|| format!("{}", tasks.display()))? {
            let path = task?.path();
            // A thread may end between being listed and being read.
            let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else { continue };
            let ran = stat.split(' ').next().and_then(|ran| ran.parse().ok());
            let ran = ran.with_context(|| format!("{}: no number", path.display()))?;
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            threads.insert(id, (name.trim_end().to_owned(), ran));
        }
        Ok(Self(threads))
    }

    /// Microseconds taken since `before`, by thread name.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let mut taken: BTreeMap<String, f64> = BTreeMap::new();
        for (id, (name, ran)) in &self.0 {
            let earlier = before.0.get(id).map_or(0, |(_, ran)| *ran);
            let micros = crate::stats::figure(ran.saturating_sub(earlier)) / 1e3;
            *taken.entry(name.clone()).or_default() += micros;
        }
        taken
    }
}
