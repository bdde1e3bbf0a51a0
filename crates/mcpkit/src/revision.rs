//! Which revisions of MCP a fixture speaks.

use std::str::FromStr;

use rmcp::model::ProtocolVersion;

/// What a server supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revisions {
    /// Up to 2025-11-25, with sessions.
    Old,
    /// 2026-07-28 alone, without sessions.
    New,
    /// All of them.
    #[default]
    Both,
}

impl Revisions {
    /// As the command line names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Old => "2025-11-25",
            Self::New => "2026-07-28",
            Self::Both => "both",
        }
    }

    pub(crate) fn versions(self) -> &'static [ProtocolVersion] {
        const NEW: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];
        match self {
            Self::Old => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
            Self::New => NEW,
            Self::Both => ProtocolVersion::KNOWN_VERSIONS,
        }
    }

    pub(crate) fn has_old(self) -> bool {
        self != Self::New
    }

    pub(crate) fn has_new(self) -> bool {
        self != Self::Old
    }
}

impl FromStr for Revisions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Old, Self::New, Self::Both]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| format!("`{text}`: use 2025-11-25, 2026-07-28 or both"))
    }
}
