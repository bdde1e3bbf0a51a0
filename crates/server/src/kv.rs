//! The key-value store of a workspace: values sealed beside its log, each under its key's digest.
//!
//! A change is made by the commit that keeps the outcome of its action, or not at all: a crash in
//! between leaves nothing, and the attempt that follows it does the whole again. Until that commit
//! has ended, the workspace has no other change under way here; elsewhere there is no writer.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use connectors::kv::{Entry, KeyValues, Written};
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, WorkspaceId};
use kernel::json::RawJson;
use kernel::values::Digest;
use ledger::store::{Class, SideRow};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::limits;
use crate::shared::{Caller, Shared};

/// The part of a key's content that is its value, and the part that sums a workspace up.
const VALUE: &str = "value";
const SPACE: &str = "space";

type Name = (TenantId, WorkspaceId);

/// Who changes the values of which workspace.
#[derive(Default)]
pub(crate) struct Spaces(Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>);

impl Spaces {
    /// Waits until nobody else changes the workspace's values.
    async fn enter(&self, name: Name) -> OwnedMutexGuard<()> {
        let turn = self.0.lock().entry(name).or_default().clone();
        turn.lock_owned().await
    }
}

/// A value as it is sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// In full: what it is kept under is a digest.
    key: String,
    version: u64,
    value: RawJson,
}

/// What a workspace has in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Space {
    keys: u64,
    /// Of keys and values.
    bytes: u64,
    /// The highest version that a deleted key was at: a key that comes anew begins above it, so
    /// that no version of a key comes twice.
    floor: u64,
}

/// A change that is to be kept with the outcome of the attempt that made it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) side: Vec<SideRow>,
    /// Held until that is done.
    _turn: OwnedMutexGuard<()>,
}

/// The values of a workspace, as one attempt has them.
pub(crate) struct Values<'a> {
    shared: &'a Shared,
    name: Name,
    change: Mutex<Option<Change>>,
}

impl<'a> Values<'a> {
    pub(crate) fn new(shared: &'a Shared, caller: &Caller) -> Self {
        let name = (caller.tenant.clone(), caller.workspace.clone());
        Self { shared, name, change: Mutex::default() }
    }

    /// What the attempt changes, if anything.
    pub(crate) fn change(self) -> Option<Change> {
        self.change.into_inner()
    }

    fn space_id(&self) -> String {
        format!("kv/{}", self.name.1)
    }

    /// What a key's value is kept under. Its text is not for whoever reads the store.
    fn value_id(&self, key: &str) -> String {
        format!("kv/{}/{}", self.name.1, Digest::of(key.as_bytes()).hex())
    }

    fn read<T: DeserializeOwned>(
        &self,
        id: &str,
        part: &'static str,
    ) -> Result<Option<T>, Failure> {
        let sealed = self.shared.vault.open(self.name.0.as_str(), id, part);
        let bytes = sealed.map_err(|error| failed(&error))?;
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        read.map_err(|error| failed(&error))
    }

    fn value(&self, key: &str) -> Result<Option<Kept>, Failure> {
        let kept: Option<Kept> = self.read(&self.value_id(key), VALUE)?;
        match kept {
            Some(kept) if kept.key != key => Err(failed(&"a value under another key's digest")),
            kept => Ok(kept),
        }
    }

    async fn seal(
        &self,
        id: &str,
        part: &'static str,
        value: &impl Serialize,
    ) -> Result<SideRow, Failure> {
        let plain = serde_json::to_vec(value).map_err(|error| failed(&error))?;
        let (tenant, now) = (self.name.0.as_str(), self.shared.now());
        let sealed = self.shared.vault.seal(tenant, id, part, Class::Record, &plain, now);
        sealed.await.map_err(|error| failed(&error))
    }

    /// Takes the turn, and reads what there is.
    async fn begin(&self, key: &str, if_version: Option<u64>) -> Result<Begun, Failure> {
        let turn = self.shared.spaces.enter(self.name.clone()).await;
        let space: Space = self.read(&self.space_id(), SPACE)?.unwrap_or_default();
        let present = self.value(key)?;
        let version = present.as_ref().map_or(0, |kept| kept.version);
        if if_version.is_some_and(|wanted| wanted != version) {
            let message = format!("the key is at version {version}, not the one of if_version");
            return Err(Failure::new(Category::Conflict, "version_conflict", message));
        }
        Ok(Begun { turn, space, present })
    }
}

struct Begun {
    turn: OwnedMutexGuard<()>,
    space: Space,
    present: Option<Kept>,
}

/// Why the store does not work is for the log: an error may name files or hosts.
fn failed(error: &dyn std::fmt::Display) -> Failure {
    tracing::error!(%error, "the key-value store does not work");
    let message = "the key-value store could not be read or written";
    Failure::new(Category::Internal, "store_failed", message)
}

fn bytes(key: &str, value: &RawJson) -> u64 {
    u64::try_from(key.len().saturating_add(value.as_str().len())).unwrap_or(u64::MAX)
}

impl Space {
    /// The space once `key` has `value` in place of `present`.
    fn with(self, key: &str, value: &RawJson, present: Option<&Kept>) -> Result<Self, Failure> {
        let freed = present.map_or(0, |kept| bytes(key, &kept.value));
        let next = Self {
            keys: self.keys.saturating_add(u64::from(present.is_none())),
            bytes: self.bytes.saturating_sub(freed).saturating_add(bytes(key, value)),
            ..self
        };
        // What does not make it fuller is let in, whatever the bound is by now.
        let fuller = next.keys > self.keys || next.bytes > self.bytes;
        if fuller && (next.keys > limits::KV_KEYS_MAX || next.bytes > limits::KV_BYTES_MAX) {
            let (keys, mib) = (limits::KV_KEYS_MAX, limits::KV_BYTES_MAX >> 20);
            let message = format!("the workspace may keep {keys} keys and {mib} MiB: delete some");
            return Err(Failure::new(Category::Conflict, "store_full", message));
        }
        Ok(next)
    }

    /// The space once `key` is gone.
    fn without(self, gone: &Kept) -> Self {
        Self {
            keys: self.keys.saturating_sub(1),
            bytes: self.bytes.saturating_sub(bytes(&gone.key, &gone.value)),
            floor: self.floor.max(gone.version),
        }
    }
}

#[async_trait]
impl KeyValues for Values<'_> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Failure> {
        let kept = self.value(key)?;
        Ok(kept.map(|Kept { version, value, .. }| Entry { version, value }))
    }

    async fn set(
        &self,
        key: &str,
        value: &RawJson,
        if_version: Option<u64>,
    ) -> Result<Written, Failure> {
        let Begun { turn, space, present } = self.begin(key, if_version).await?;
        let next = space.with(key, value, present.as_ref())?;
        let last = present.as_ref().map_or(space.floor, |kept| kept.version);
        let version = last.saturating_add(1);
        let kept = Kept { key: key.to_owned(), version, value: value.clone() };
        let side = vec![
            self.seal(&self.value_id(key), VALUE, &kept).await?,
            self.seal(&self.space_id(), SPACE, &next).await?,
        ];
        *self.change.lock() = Some(Change { side, _turn: turn });
        Ok(Written { version, created: present.is_none() })
    }

    async fn delete(&self, key: &str, if_version: Option<u64>) -> Result<bool, Failure> {
        let Begun { turn, space, present } = self.begin(key, if_version).await?;
        let Some(gone) = present else { return Ok(false) };
        let (tenant, id) = (self.name.0.to_string(), self.value_id(key));
        let side = vec![
            SideRow::DropContent { tenant, id, part: VALUE },
            self.seal(&self.space_id(), SPACE, &space.without(&gone)).await?,
        ];
        *self.change.lock() = Some(Change { side, _turn: turn });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> RawJson {
        RawJson::parse(text).unwrap()
    }

    #[test]
    fn a_space_counts_what_it_has() {
        let kept = |key: &str, version: u64, text: &str| Kept {
            key: key.to_owned(),
            version,
            value: value(text),
        };
        let empty = Space::default();
        let one = empty.with("a", &value("123"), None).unwrap();
        assert_eq!(one, Space { keys: 1, bytes: 4, floor: 0 });
        let other = one.with("a", &value("1"), Some(&kept("a", 1, "123"))).unwrap();
        assert_eq!(other, Space { keys: 1, bytes: 2, floor: 0 });
        let two = other.with("bb", &value("\"\""), None).unwrap();
        assert_eq!(two, Space { keys: 2, bytes: 6, floor: 0 });
        let gone = two.without(&kept("a", 7, "1"));
        assert_eq!(gone, Space { keys: 1, bytes: 4, floor: 7 });
        assert_eq!(gone.without(&kept("bb", 2, "\"\"")), Space { keys: 0, bytes: 0, floor: 7 });
    }

    #[test]
    fn a_full_space_lets_in_what_does_not_fill_it() {
        let full = Space { keys: limits::KV_KEYS_MAX, bytes: limits::KV_BYTES_MAX, floor: 0 };
        let code = |space: Space, key: &str, text: &str, present: Option<&Kept>| {
            space.with(key, &value(text), present).err().map(|failure| failure.code)
        };
        let present = Kept { key: "a".to_owned(), version: 1, value: value("12") };
        assert_eq!(code(full, "b", "1", None).as_deref(), Some("store_full"));
        assert_eq!(code(full, "a", "123", Some(&present)).as_deref(), Some("store_full"));
        assert_eq!(code(full, "a", "12", Some(&present)), None);
        assert_eq!(code(full, "a", "1", Some(&present)), None);
    }
}
