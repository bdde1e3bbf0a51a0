//! Identifiers. An id is a short lower-case ASCII string; what it names is in its type.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::limits;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{kind}` must be 1 to {max} characters of a-z, 0-9, `_` and `-` (a tool's also `.`), \
     and start with a letter or digit",
    max = limits::ID_BYTES_MAX
)]
pub struct InvalidId {
    /// The kind of id that was expected, e.g. `tenant`.
    pub kind: &'static str,
}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidId> {
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
        pub struct $name(Box<str>);

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
                id.0.into()
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
    /// A tool, `vendor.operation`.
    ToolId, "tool");

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
}
