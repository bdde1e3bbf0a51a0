//! What was asked, and when: for whoever wants to know what a client does with an answer.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

use super::asked::Asked;

/// The file, if there is one, and since when it is kept.
#[derive(Debug)]
pub(super) struct Record {
    file: Option<Mutex<File>>,
    since: Instant,
}

impl Record {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        let file = path.map(create).transpose()?.map(Mutex::new);
        Ok(Self { file, since: Instant::now() })
    }

    /// Notes a request that came at `at`, before it is answered. No status: it never is.
    pub(super) fn note(
        &self,
        at: Instant,
        asked: &Asked,
        status: Option<u16>,
    ) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let at_ms = u64::try_from(at.duration_since(self.since).as_millis())?;
        let line = json!({"at_ms": at_ms, "model": asked.model, "status": status});
        let mut file = file.lock().map_err(|_| anyhow::anyhow!("the record is broken"))?;
        file.write_all(format!("{line}\n").as_bytes()).context("the record cannot be written")
    }
}
