//! Instances of connectors: which definition makes a tenant's tools, and what makes it usable.
//!
//! A definition is installed under the name of the instance, somebody says where its system is and
//! with which secrets (configured), and it may be turned off and on. Definition and configuration
//! are content, kept beside the log under their digests; the receipt that the tenant's key signs
//! pins them. Another definition is not in force until it was configured or enabled anew.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::ids::{PrincipalId, ToolId};
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};
use crate::version::Version;
use crate::{limits, wasm_tool};

/// What changes an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It has a definition, or another one.
    #[serde(rename = "connector.installed")]
    Installed(Installation),
    /// Somebody says where its system is and with which secrets.
    #[serde(rename = "connector.configured")]
    Configured {
        /// Of the definition that was looked at.
        definition: Digest,
        /// Of what was said, in its canonical form.
        config: Digest,
        /// Who.
        by: PrincipalId,
    },
    /// It may be called.
    #[serde(rename = "connector.enabled")]
    Enabled {
        /// Of the definition that was looked at.
        definition: Digest,
        /// Who says so.
        by: PrincipalId,
    },
    /// It may be called no more.
    #[serde(rename = "connector.disabled")]
    Disabled {
        /// Who says so.
        by: PrincipalId,
    },
}

impl Change {
    /// Of the definition that it is about.
    pub fn definition(&self) -> Option<Digest> {
        match self {
            Self::Installed(installation) => Some(installation.definition),
            Self::Configured { definition, .. } | Self::Enabled { definition, .. } => {
                Some(*definition)
            }
            Self::Disabled { .. } => None,
        }
    }
}

/// Which definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// Of its text.
    pub definition: Digest,
    /// Its version.
    pub version: Version,
    /// Who installed it.
    pub by: PrincipalId,
}

/// What makes a definition usable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Of the definition that was looked at.
    pub definition: Digest,
    /// Of it in its canonical form.
    pub config: Digest,
    /// Who said so.
    pub by: PrincipalId,
}

/// What is asked of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Give it a definition.
    Install(Installation),
    /// Say what makes it usable.
    Configure {
        /// Of the definition that was looked at.
        definition: Digest,
        /// Of what is said.
        config: Digest,
        /// Who.
        by: PrincipalId,
    },
    /// Let it be called, as it is configured.
    Enable {
        /// Of the definition that was looked at.
        definition: Digest,
        /// Who.
        by: PrincipalId,
    },
    /// Let it be called no more.
    Disable {
        /// Who.
        by: PrincipalId,
    },
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// What makes its definition usable is still to come.
    Installed,
    /// It may be called.
    Enabled,
    /// Somebody turned it off.
    Disabled,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

/// An instance of a connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    /// What its tools are named by.
    pub name: String,
    /// Its definition.
    pub installation: Installation,
    /// What makes it usable; kept over another definition, which is not in force by that.
    pub configuration: Option<Configuration>,
    /// Who let the present definition be called as it is configured, besides who configured it.
    pub enabled_by: Option<PrincipalId>,
    /// Whether somebody said that it may be called, of the present definition.
    pub enabled: bool,
    /// Whether somebody turned it off.
    pub disabled: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl Connector {
    /// Where it stands.
    pub fn status(&self) -> Status {
        match (self.disabled, self.enabled) {
            (true, _) => Status::Disabled,
            (false, true) => Status::Enabled,
            (false, false) => Status::Installed,
        }
    }

    /// Whether another than who installed the definition let it be called as it is configured.
    pub fn reviewed(&self) -> bool {
        let Installation { definition, by: installer, .. } = &self.installation;
        let looked_at = |one: &&Configuration| one.definition == *definition;
        let configurer = self.configuration.as_ref().filter(looked_at).map(|one| &one.by);
        let mut words = configurer.into_iter().chain(&self.enabled_by);
        self.enabled && words.any(|by| by != installer)
    }
}

/// Whether `name` can name an instance: 1 to 32 of `a-z 0-9 _ -`, beginning with a letter, and no
/// vendor of Tally's own tools.
pub fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let tool = || ToolId::new(format!("{name}.x")).is_ok_and(|id| wasm_tool::may_be_named(&id));
    first && name.len() <= limits::CONNECTOR_NAME_BYTES_MAX && name.bytes().all(good) && tool()
}

/// The change that `input` makes to an instance, or why it makes none.
pub fn step(state: Option<&Connector>, input: Input) -> Result<Change, Refusal> {
    let connector = match input {
        Input::Install(installation) => return install(state, installation),
        _ => state.ok_or(Refusal::Absent)?,
    };
    let present = |definition: Digest| match definition == connector.installation.definition {
        true => Ok(()),
        false => Err(Refusal::Moved),
    };
    match input {
        Input::Install(_) => Err(Refusal::KindMismatch),
        Input::Configure { definition, config, by } => {
            present(definition)?;
            let same = |known: &Configuration| {
                (known.definition, known.config, &known.by) == (definition, config, &by)
            };
            let known = connector.configuration.as_ref();
            if connector.status() == Status::Enabled && known.is_some_and(same) {
                return Err(Refusal::State("unchanged"));
            }
            Ok(Change::Configured { definition, config, by })
        }
        Input::Enable { definition, by } => {
            present(definition)?;
            if connector.configuration.is_none() {
                return Err(Refusal::State("not configured"));
            }
            let same = connector.enabled_by.as_ref() == Some(&by);
            if connector.status() == Status::Enabled && same {
                return Err(Refusal::State("enabled"));
            }
            Ok(Change::Enabled { definition, by })
        }
        Input::Disable { by } => match connector.disabled {
            true => Err(Refusal::State("disabled")),
            false => Ok(Change::Disabled { by }),
        },
    }
}

fn install(state: Option<&Connector>, installation: Installation) -> Result<Change, Refusal> {
    if let Some(Connector { installation: last, .. }) = state {
        let order = last.version.precedence(&installation.version);
        if last.definition == installation.definition {
            return Err(Refusal::State("unchanged"));
        }
        if order == Ordering::Equal {
            return Err(Refusal::InvalidInput(
                "this version is installed with another text: give what changed another version",
            ));
        }
    }
    Ok(Change::Installed(installation))
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Connector>, change: &Change, applied: &Applied<'_>) {
    let Some(connector) = state else {
        let Change::Installed(installation) = change else { return };
        if is_name(applied.id) {
            *state = Some(Connector {
                name: applied.id.to_owned(),
                installation: installation.clone(),
                configuration: None,
                enabled_by: None,
                enabled: false,
                disabled: false,
                revision: 1,
                created_at: applied.time,
                changed_at: applied.time,
            });
        }
        return;
    };
    let current = connector.installation.definition;
    match change {
        Change::Installed(installation) => {
            connector.installation = installation.clone();
            (connector.enabled_by, connector.enabled) = (None, false);
        }
        Change::Configured { definition, config, by } if *definition == current => {
            let (definition, config, by) = (*definition, *config, by.clone());
            connector.configuration = Some(Configuration { definition, config, by });
            // What was said of another configuration says nothing of this one. Off stays off.
            (connector.enabled_by, connector.enabled) = (None, true);
        }
        Change::Enabled { definition, by } if *definition == current => {
            connector.enabled_by = Some(by.clone());
            (connector.enabled, connector.disabled) = (true, false);
        }
        Change::Disabled { .. } => connector.disabled = true,
        // Of a definition that is not the present one any more: no step makes it.
        Change::Configured { .. } | Change::Enabled { .. } => {}
    }
    connector.revision = connector.revision.saturating_add(1);
    connector.changed_at = applied.time;
}
