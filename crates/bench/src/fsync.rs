//! The floor under everything durable: 4 KiB written and synced.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::stats::Times;

const BLOCK: [u8; 4096] = [0x5a; 4096];
/// Blocks of the file, which are written over in turn: a growing file would cost more.
const BLOCKS: u64 = 256;

/// A file that is written and synced.
pub(crate) struct Probe(File);

impl Probe {
    /// A probe on the file system of `dir`.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let file = tempfile::tempfile_in(dir).with_context(|| format!("{}", dir.display()))?;
        for block in 0..BLOCKS {
            file.write_all_at(&BLOCK, block * 4096)?;
        }
        file.sync_all()?;
        Ok(Self(file))
    }

    /// The times of `count` writes, each followed by fdatasync.
    pub(crate) fn run(&self, count: u64) -> anyhow::Result<Times> {
        let mut times = Times::default();
        for block in 0..count {
            let started = Instant::now();
            self.0.write_all_at(&BLOCK, block % BLOCKS * 4096)?;
            self.0.sync_data()?;
            times.push(started.elapsed());
        }
        Ok(times)
    }
}
