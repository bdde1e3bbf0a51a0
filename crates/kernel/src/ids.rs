//! Identifiers. An id is a short lower-case ASCII string; what it names is in its type. A copy of
//! an id is a pointer: they go along everywhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use crate::limits;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{kind}` must be 1 to {max} characters of a-z, 0-9, `_` and `-` (a tool's also `.`), \
     and start with a letter or digit; a tool of an MCP server is `mcp.<server>.<tool>`, where the \
     tool's own name has A-Z and `/` too",
    max = limits::ID_BYTES_MAX
)]
pub struct InvalidId {
    /// The kind of id that was expected, e.g. `tenant`.
    pub kind: &'static str,
}

/// What begins the id of a tool of an MCP server.
const MCP_PREFIX: &str = "mcp.";

fn check(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    if kind == "tool" && text.starts_with(MCP_PREFIX) {
        return match ToolId::split_mcp(text) {
            Some(_) if text.len() <= limits::MCP_TOOL_ID_BYTES_MAX => Ok(()),
            _ => Err(InvalidId { kind }),
        };
    }
    let mut bytes = text.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let tail = bytes.all(|b| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || matches!(b, b'_' | b'-')
            || (b == b'.' && kind == "tool")
    });
    if head && tail && text.len() <= limits::ID_BYTES_MAX {
        Ok(())
    } else {
        Err(InvalidId { kind })
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl $name {
            /// Checks `text` and makes an id of it.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                check($kind, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                check($kind, &text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A customer: the outermost boundary of data, keys and policy.
    TenantId, "tenant");
id!(
    /// A workspace of a tenant; owns one log.
    WorkspaceId, "workspace");
id!(
    /// An environment of a workspace (`dev`, `test`, `prod`).
    EnvironmentId, "environment");
id!(
    /// A user, agent or service.
    PrincipalId, "principal");
id!(
    /// An API key. The secret is never part of the id.
    ApiKeyId, "key");
id!(
    /// One action.
    ActionId, "action");
id!(
    /// One approval request.
    ApprovalId, "approval");
id!(
    /// A budget account.
    AccountId, "account");
id!(
    /// A tool, `vendor.operation`; of an MCP server, `mcp.<server>.<tool>`.
    ToolId, "tool");
id!(
    /// One run of a plan.
    RunId, "run");
id!(
    /// A workflow that is kept: its name.
    WorkflowId, "workflow");
id!(
    /// A release of a workflow.
    ReleaseId, "release");
id!(
    /// What a workflow is for.
    UseCaseId, "use case");
id!(
    /// Money on its way from one workspace to another.
    TransferId, "transfer");
id!(
    /// A step of a plan; also a group of steps.
    StepId, "step");

/// Whether `name` can name an MCP server within its tenant. Without `__`, and without `_` at its
/// end, `<server>__<tool>` is read in one way only.
pub fn is_server_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'_' | b'-'))
        && name.len() <= limits::SERVER_NAME_BYTES_MAX
        && !name.contains("__")
        && !name.ends_with('_')
}

/// Whether an MCP server's own name for a tool can be part of a tool's id.
pub fn is_mcp_tool_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
    (1..=limits::MCP_TOOL_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

impl ToolId {
    /// The id of an MCP server's tool: names are exact, nothing is folded or normalised.
    pub fn mcp(server: &str, tool: &str) -> Result<Self, InvalidId> {
        Self::new(format!("{MCP_PREFIX}{server}.{tool}"))
    }

    /// The MCP server and its own name for the tool, where the tool is of one.
    pub fn as_mcp(&self) -> Option<(&str, &str)> {
        Self::split_mcp(&self.0)
    }

    fn split_mcp(text: &str) -> Option<(&str, &str)> {
        let (server, tool) = text.strip_prefix(MCP_PREFIX)?.split_once('.')?;
        (is_server_name(server) && is_mcp_tool_name(tool)).then_some((server, tool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        for good in ["a", "acme", "act_01j9", "0-9", &"a".repeat(64)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        assert!(ToolId::new("core.http_call").is_ok());
        for bad in ["", "_a", ".a", "a.b", "A", "a b", "a/b", "ä", "a\0", &"a".repeat(65)] {
            assert!(TenantId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tools_of_mcp_servers() {
        let long = "a".repeat(128);
        for (server, tool) in [
            ("files", "read_file"),
            ("a-b_c", "Get.Thing/now"),
            ("0", "_x"),
            ("files", "resources/read"),
            ("files", &long),
            (&"s".repeat(32), &long),
        ] {
            let id = ToolId::mcp(server, tool).unwrap();
            assert_eq!(id.as_mcp(), Some((server, tool)));
            assert_eq!(ToolId::new(id.as_str()).unwrap(), id);
        }
        for (server, tool) in [
            ("Files", "x"),
            ("a__b", "x"),
            ("a_", "x"),
            ("_a", "x"),
            ("", "x"),
            ("files", ""),
            ("files", "a b"),
            ("files", "r\u{e9}ad"),
            ("files", "r\u{0435}ad"),
            ("files", "a\u{200b}"),
            ("files", &"a".repeat(129)),
            (&"s".repeat(33), "x"),
        ] {
            assert!(ToolId::mcp(server, tool).is_err(), "{server:?} {tool:?}");
        }
        for bad in ["mcp.", "mcp.files", "mcp.files.", "core.Read", "core.a/b"] {
            assert!(ToolId::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ToolId::new("core.http_call").unwrap().as_mcp(), None);
    }
}
