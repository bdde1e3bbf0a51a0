//! How many writes there may be.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// How many writes there may be in a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapsConfig {
    /// Of one workflow in one workspace.
    pub writes_per_min_workflow: u32,
    /// Of one tenant.
    pub writes_per_min_tenant: u32,
    /// Which writes count.
    pub counted: Counted,
}

/// Which writes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Those at systems behind connectors.
    #[default]
    Connectors,
    /// Every call with the label `write`, whatever carries it out.
    All,
}

impl Default for CapsConfig {
    fn default() -> Self {
        Self {
            writes_per_min_workflow: 30,
            writes_per_min_tenant: 300,
            counted: Counted::default(),
        }
    }
}

impl CapsConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let range = 1..=1_000_000;
        let good = range.contains(&self.writes_per_min_workflow)
            && range.contains(&self.writes_per_min_tenant);
        if good {
            return Ok(());
        }
        let reason = "each number is 1 to 1000000".to_owned();
        Err(ConfigError::Value { key: "caps", reason })
    }
}
