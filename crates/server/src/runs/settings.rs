//! How many runs there may be.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// How many runs there may be at once, and how many may wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunsConfig {
    /// Runs whose actions are carried out at once. One that waits for people or for a timer does
    /// not count.
    pub concurrency: usize,
    /// How many of them one tenant may have.
    pub concurrency_per_tenant: usize,
    /// Runs of one tenant that may begin in a minute.
    pub per_minute_per_tenant: u32,
    /// Runs of one tenant that may wait for their turn. A further one is refused.
    pub queued_per_tenant: usize,
    /// Calls of one run that may write, where whoever starts it does not ask for fewer.
    pub writes_per_run: u32,
}

impl Default for RunsConfig {
    fn default() -> Self {
        Self {
            concurrency: 512,
            concurrency_per_tenant: 256,
            per_minute_per_tenant: 600_000,
            queued_per_tenant: 10_000,
            writes_per_run: 10_000,
        }
    }
}

impl RunsConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let least = [self.concurrency, self.concurrency_per_tenant, self.queued_per_tenant];
        if least.contains(&0) || [self.per_minute_per_tenant, self.writes_per_run].contains(&0) {
            let reason = "each number is at least 1".to_owned();
            return Err(ConfigError::Value { key: "runs", reason });
        }
        Ok(())
    }
}
