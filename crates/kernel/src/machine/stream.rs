//! The name of one thing that changes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Kind;

/// One thing that changes: `action/act_01…`. Its changes are numbered from 1 without a gap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// What kind of thing.
    pub kind: Kind,
    /// Which.
    pub id: Arc<str>,
}

impl Stream {
    /// The stream of one thing.
    pub fn new(kind: Kind, id: impl AsRef<str>) -> Self {
        Self { kind, id: id.as_ref().into() }
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.id)
    }
}

impl Serialize for Stream {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let (kind, id) = text
            .split_once('/')
            .ok_or_else(|| serde::de::Error::custom("a stream is `kind/id`"))?;
        let kind = Kind::parse(kind)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown stream kind `{kind}`")))?;
        Ok(Self { kind, id: id.into() })
    }
}
