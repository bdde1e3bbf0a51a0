//! Content at rest: sealed with AES-256-GCM under one key per tenant, class and day.
//!
//! Destroying a day's key deletes what it sealed wherever a copy of it is; a copy of the wrapped
//! key itself, as in a backup of the store, lives as long as the backup. The log has digests only.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use parking_lot::RwLock;

use crate::keys::{self, KeyProvider};
use crate::store::{Class, ContentKeyRow, ContentRow, SideRow, Store};
use crate::{Batch, Error, Ledger};

type KeyOf = (String, Class, i64);

/// Seals and opens content.
pub struct Vault {
    ledger: Ledger,
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyProvider>,
    open: RwLock<BTreeMap<KeyOf, Arc<RandomizedNonceKey>>>,
    making: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

fn label(tenant: &str, id: &str, part: &str) -> String {
    format!("{tenant}/{id}/{part}")
}

fn key_label(class: Class, day: i64) -> String {
    format!("content/{}/{day}", class.as_str())
}

/// The day of the key that seals content of `class` at `now`. Records share one key for ever.
fn day_of(class: Class, now: Timestamp) -> i64 {
    if class == Class::Record { 0 } else { now.day() }
}

/// How many days after its own a class's key is kept: what may still be read then.
pub fn days_kept(class: Class) -> Option<i64> {
    match class {
        Class::Request => Some(32),
        Class::Result => Some(2),
        // For thirty days at least: the day itself may have just ended.
        Class::Prior => Some(31),
        // Configured: see `Vault::sweep_attestations`.
        Class::Attestation | Class::Record => None,
    }
}

impl Vault {
    /// A vault beside `ledger`.
    pub fn new(ledger: Ledger, keys: Arc<dyn KeyProvider>) -> Self {
        let store = ledger.store().clone();
        Self { ledger, store, keys, open: RwLock::default(), making: tokio::sync::Mutex::default() }
    }

    /// Seals `plain` as one part of `id`, to be stored with the commit that makes it true.
    pub async fn seal(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
        class: Class,
        plain: &[u8],
        now: Timestamp,
    ) -> Result<SideRow, Error> {
        let day = day_of(class, now);
        let key = self.sealing_key(tenant, class, day).await?;
        let sealed = keys::seal(&key, &label(tenant, id, part), plain)?;
        Ok(SideRow::Content(ContentRow {
            tenant: tenant.to_owned(),
            id: id.to_owned(),
            part,
            class,
            day,
            sealed,
        }))
    }

    /// Opens a part of `id`; none where it was never kept or has been deleted.
    pub fn open(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(row) = self.store.content(tenant, id, part)? else { return Ok(None) };
        let key = match self.known_key(tenant, row.class, row.day)? {
            Some(key) => key,
            None => return Ok(None),
        };
        keys::open(&key, &label(tenant, id, part), &row.sealed).map(Some)
    }

    /// Destroys the keys of what attestations disclose, `days` after the day that sealed it.
    pub fn sweep_attestations(&self, now: Timestamp, days: u32) -> Result<u64, Error> {
        // The day itself may have just begun when an attestation was made at its end.
        let before = now.day().saturating_sub(i64::from(days)).saturating_sub(1);
        self.destroy(Class::Attestation, before)
    }

    /// Destroys the keys that no longer serve at `now`, and what they sealed.
    pub fn sweep(&self, now: Timestamp) -> Result<u64, Error> {
        let mut destroyed = 0;
        for class in [Class::Request, Class::Result, Class::Prior] {
            if let Some(days) = days_kept(class) {
                let before = now.day().saturating_sub(days);
                destroyed += self.destroy(class, before)?;
            }
        }
        Ok(destroyed)
    }

    fn destroy(&self, class: Class, before: i64) -> Result<u64, Error> {
        let destroyed = self.store.destroy_content(class, before)?;
        self.open.write().retain(|(_, c, day), _| *c != class || *day >= before);
        Ok(destroyed)
    }

    async fn sealing_key(
        &self,
        tenant: &str,
        class: Class,
        day: i64,
    ) -> Result<Arc<RandomizedNonceKey>, Error> {
        if let Some(key) = self.open.read().get(&(tenant.to_owned(), class, day)) {
            return Ok(key.clone());
        }
        let _one_at_a_time = self.making.lock().await;
        if let Some(key) = self.known_key(tenant, class, day)? {
            return Ok(key);
        }
        let secret = keys::random::<32>()?;
        let wrapped = self.keys.wrap(tenant, &key_label(class, day), secret.as_ref())?;
        // The key is durable before anything is sealed with it.
        let row = ContentKeyRow { tenant: tenant.to_owned(), class, day, wrapped };
        let batch = Batch::side(LogId::System, vec![SideRow::ContentKey(row)]);
        self.ledger.commit(batch).await?;
        self.known_key(tenant, class, day)?.ok_or(Error::Sealed)
    }

    /// The key as stored, kept open from then on.
    fn known_key(
        &self,
        tenant: &str,
        class: Class,
        day: i64,
    ) -> Result<Option<Arc<RandomizedNonceKey>>, Error> {
        let id = (tenant.to_owned(), class, day);
        if let Some(key) = self.open.read().get(&id) {
            return Ok(Some(key.clone()));
        }
        let Some(wrapped) = self.store.content_key(tenant, class, day)? else { return Ok(None) };
        let secret = self.keys.unwrap(tenant, &key_label(class, day), &wrapped)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &secret).map_err(|_| Error::Sealed)?;
        let key = Arc::new(key);
        self.open.write().insert(id, key.clone());
        Ok(Some(key))
    }
}
