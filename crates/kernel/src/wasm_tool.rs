//! Tools given as code, run in a sandbox: which bytes may run, and what they may reach.
//!
//! A tool is registered with its code, the code is compiled and the result bound by its digest, and
//! somebody grants what it may reach and use. Grant and binding are of exactly that code: other
//! code is another version, which begins with neither.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::attestation::{CodeKind, Limits};
use crate::capability::Capabilities;
use crate::ids::{PrincipalId, ToolId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Shared, Timestamp};
use crate::version::Version;

/// What changes a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It is there in a new version, without grant or binding.
    #[serde(rename = "wasm_tool.registered")]
    Registered(Registration),
    /// Its code was compiled.
    #[serde(rename = "wasm_tool.bound")]
    Bound {
        /// Of the code that was compiled.
        component: Digest,
        /// Of the machine code that it was compiled to.
        compiled: Digest,
        /// What compiled it, with all that the machine code depends on.
        engine: String,
    },
    /// Somebody says what it may reach and use.
    #[serde(rename = "wasm_tool.granted")]
    Granted {
        /// Of the code that may.
        component: Digest,
        /// What it may reach.
        capabilities: Shared<Capabilities>,
        /// SHA-256 of their canonical JSON.
        capabilities_hash: Digest,
        /// What it may use.
        limits: Limits,
        /// Who.
        by: PrincipalId,
    },
    /// It may run no more.
    #[serde(rename = "wasm_tool.revoked")]
    Revoked {
        /// Who says so.
        by: PrincipalId,
    },
}

/// One version of a tool, by digests: manifest and code themselves are content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Of the manifest in its canonical form.
    pub manifest: Digest,
    /// Higher than every version before it.
    pub version: Version,
    /// Of the code.
    pub component: Digest,
    /// What the code is.
    pub kind: CodeKind,
    /// Who registered it.
    pub by: PrincipalId,
}

/// What code was compiled to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Of the machine code.
    pub compiled: Digest,
    /// What compiled it, with all that the machine code depends on.
    pub engine: String,
}

/// What a tool may reach and use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What it may reach.
    pub capabilities: Shared<Capabilities>,
    /// SHA-256 of their canonical JSON.
    pub capabilities_hash: Digest,
    /// What it may use.
    pub limits: Limits,
    /// Who granted it.
    pub by: PrincipalId,
    /// When.
    pub at: Timestamp,
}

/// What is asked of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Register it, or a new version of it.
    Register(Registration),
    /// Take note of what its code was compiled to.
    Bind {
        /// Of the code that was compiled.
        component: Digest,
        /// What it was compiled to.
        binding: Binding,
    },
    /// Say what it may reach and use, in place of what was said before.
    Grant {
        /// Of the code that was looked at.
        component: Digest,
        /// What it may reach.
        capabilities: Capabilities,
        /// What it may use.
        limits: Limits,
        /// Who.
        by: PrincipalId,
    },
    /// Take the grant away.
    Revoke {
        /// Who.
        by: PrincipalId,
    },
}

/// Where a tool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its grant or its binding is still to come.
    Registered,
    /// It may run.
    Active,
    /// Its grant was taken away.
    Revoked,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// A tool that is run in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmTool {
    /// Which.
    pub id: ToolId,
    /// Its last version.
    pub registration: Registration,
    /// What the code of that version was compiled to.
    pub binding: Option<Binding>,
    /// What the code of that version may reach and use.
    pub grant: Option<Grant>,
    /// Whether its grant was taken away.
    pub revoked: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl WasmTool {
    /// Where it stands.
    pub fn status(&self) -> Status {
        match (&self.binding, &self.grant) {
            _ if self.revoked => Status::Revoked,
            (Some(_), Some(_)) => Status::Active,
            _ => Status::Registered,
        }
    }
}

/// Vendors whose tools are Tally's own or an MCP server's.
const RESERVED: [&str; 9] =
    ["core", "email", "kv", "llm", "mcp", "sandbox", "tally", "time", "webhook"];

/// Whether a tool of this id can be registered: `vendor.operation`, of no vendor that is reserved.
pub fn may_be_named(id: &ToolId) -> bool {
    let parts = id.as_str().split_once('.');
    parts.is_some_and(|(vendor, operation)| {
        !vendor.is_empty() && !operation.is_empty() && !RESERVED.contains(&vendor)
    })
}

/// The change that `input` makes to a tool, or why it makes none.
pub fn step(state: Option<&WasmTool>, input: Input) -> Result<Change, Refusal> {
    let tool = match input {
        Input::Register(registration) => return register(state, registration),
        _ => state.ok_or(Refusal::Absent)?,
    };
    let present = |component: Digest| match component == tool.registration.component {
        true => Ok(()),
        false => Err(Refusal::Moved),
    };
    match input {
        Input::Register(_) => Err(Refusal::KindMismatch),
        Input::Bind { component, binding } => {
            present(component)?;
            let plain = binding.engine.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            if !plain || !(1..=limits::ENGINE_BYTES_MAX).contains(&binding.engine.len()) {
                return Err(Refusal::InvalidInput("an engine is named in 1 to 128 characters"));
            }
            if tool.binding.as_ref() == Some(&binding) {
                return Err(Refusal::State("bound"));
            }
            let Binding { compiled, engine } = binding;
            Ok(Change::Bound { component, compiled, engine })
        }
        Input::Grant { component, capabilities, limits, by } => {
            present(component)?;
            grant(tool, component, capabilities, limits, by)
        }
        Input::Revoke { by } => match &tool.grant {
            Some(_) => Ok(Change::Revoked { by }),
            None => Err(Refusal::State(tool.status().as_str())),
        },
    }
}

fn register(state: Option<&WasmTool>, registration: Registration) -> Result<Change, Refusal> {
    if let Some(WasmTool { registration: last, .. }) = state {
        let same = last.manifest == registration.manifest
            && last.version == registration.version
            && last.component == registration.component
            && last.kind == registration.kind;
        if same {
            return Err(Refusal::State("unchanged"));
        }
        if last.version.precedence(&registration.version) != Ordering::Less {
            return Err(Refusal::InvalidInput(
                "the tool is registered in this version or a higher one: give changed code or a \
                 changed manifest a higher version",
            ));
        }
    }
    Ok(Change::Registered(registration))
}

fn grant(
    tool: &WasmTool,
    component: Digest,
    capabilities: Capabilities,
    limits: Limits,
    by: PrincipalId,
) -> Result<Change, Refusal> {
    let capabilities = capabilities
        .parse()
        .map_err(|_| Refusal::InvalidInput("the capabilities have an entry that does not read"))?;
    let Limits { memory_bytes, cpu_ms, wall_ms, fuel, output_bytes, tool_calls: _ } = limits;
    if [memory_bytes, cpu_ms, wall_ms, fuel, output_bytes].contains(&0) {
        return Err(Refusal::InvalidInput(
            "of a limit other than of tool calls, grant more than 0",
        ));
    }
    let granted = tool.grant.as_ref();
    let same = |g: &Grant| (&*g.capabilities, &g.limits, &g.by) == (&capabilities, &limits, &by);
    if granted.is_some_and(same) {
        return Err(Refusal::State("unchanged"));
    }
    let capabilities_hash = capabilities.digest();
    let capabilities = Shared::new(capabilities);
    Ok(Change::Granted { component, capabilities, capabilities_hash, limits, by })
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<WasmTool>, change: &Change, applied: &Applied<'_>) {
    let Some(tool) = state else {
        let Change::Registered(registration) = change else { return };
        if let Some(id) = ToolId::new(applied.id).ok().filter(may_be_named) {
            *state = Some(WasmTool {
                id,
                registration: registration.clone(),
                binding: None,
                grant: None,
                revoked: false,
                revision: 1,
                created_at: applied.time,
                changed_at: applied.time,
            });
        }
        return;
    };
    let current = tool.registration.component;
    match change {
        Change::Registered(registration) => {
            tool.registration = registration.clone();
            (tool.binding, tool.grant, tool.revoked) = (None, None, false);
        }
        Change::Bound { component, compiled, engine } if *component == current => {
            tool.binding = Some(Binding { compiled: *compiled, engine: engine.clone() });
        }
        Change::Granted { component, capabilities, capabilities_hash, limits, by }
            if *component == current =>
        {
            tool.grant = Some(Grant {
                capabilities: capabilities.clone(),
                capabilities_hash: *capabilities_hash,
                limits: *limits,
                by: by.clone(),
                at: applied.time,
            });
            tool.revoked = false;
        }
        Change::Revoked { .. } => (tool.grant, tool.revoked) = (None, true),
        // Of code that is not the tool's any more: no step makes it.
        Change::Bound { .. } | Change::Granted { .. } => {}
    }
    tool.revision = tool.revision.saturating_add(1);
    tool.changed_at = applied.time;
}
