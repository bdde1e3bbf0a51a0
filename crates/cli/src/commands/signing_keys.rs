//! `tally tenant keys` and `tally tenant rotate`; the keys of a tenant, as a file keeps them.

use std::fs;
use std::path::Path;

use kernel::note::VerifierKey;
use kernel::signing_key::{KeyRange, LogKeys};
use kernel::values::Digest;
use kernel::verify::Trust;
use ledger::evidence::Pinned;
use ledger::keys::from_pem;
use proto::identity::trust_key::Purpose;
use proto::identity::{
    GetTenantKeysRequest, GetTenantKeysResponse, RotateSigningKeysRequest, TrustKey,
};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::page;

/// Shows the public keys of a tenant.
pub(super) async fn show(tenant: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let tenant = match tenant {
        Some(tenant) => tenant,
        None => context.session()?.tenant(None)?,
    };
    let keys = context.public_client()?.get_tenant_keys(&GetTenantKeysRequest { tenant }).await?;
    context.output().show(&keys, describe)?;
    Ok(Exit::Done)
}

/// Rotates the receipt key of a tenant.
pub(super) async fn rotate(tenant: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let session = context.session()?;
    let request = RotateSigningKeysRequest { tenant: session.tenant(tenant)? };
    let keys = session.client.rotate_signing_keys(&request, None).await?;
    context.output().show(&keys, describe)?;
    Ok(Exit::Done)
}

fn describe(keys: &GetTenantKeysResponse) -> String {
    let header = ["purpose", "state", "valid for", "log", "key id"];
    page(header, keys.keys.iter().map(row), "")
}

fn row(key: &TrustKey) -> [String; 5] {
    let valid_for = match (key.purpose(), key.to_index) {
        (Purpose::Receipt, Some(to)) => format!("{}..{to}", key.from_index),
        (Purpose::Receipt, None) => format!("{}..", key.from_index),
        _ => String::new(),
    };
    [
        key.purpose().as_str_name().to_owned(),
        key.state().as_str_name().to_owned(),
        valid_for,
        key.origin.clone(),
        key.key_id.clone(),
    ]
}

/// What a tenant publishes of its keys, as a verifier needs it.
pub(crate) struct Published {
    keys: Vec<TrustKey>,
}

impl Published {
    /// Of an answer of the API.
    pub(crate) fn new(keys: Vec<TrustKey>) -> Self {
        Self { keys }
    }

    /// Reads a file that `tally tenant keys --json` has written.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |reason: String| Failure::Usage(format!("--keys `{}`: {reason}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let keys: GetTenantKeysResponse =
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        Ok(Self::new(keys.keys))
    }

    /// The receipt keys, and for each log what they are valid for.
    pub(crate) fn pinned(&self, vkey: Option<VerifierKey>) -> Result<Pinned, Failure> {
        let bad = |key: &TrustKey| Failure::Usage(format!("key {}: it cannot be read", key.key_id));
        let (mut keys, mut ranges) = (Vec::new(), Vec::new());
        for key in self.keys.iter().filter(|key| key.purpose() == Purpose::Receipt) {
            let spki = from_pem(&key.public_key_pem).ok_or_else(|| bad(key))?;
            let key_id = Digest::of(&spki);
            let range = KeyRange { key_id, from: key.from_index, to: key.to_index };
            ranges.push((key.origin.as_str(), range));
            keys.push(spki);
        }
        // Without any, the keys that a bundle brings would count.
        if keys.is_empty() {
            return Err(Failure::Usage("the keys name no receipt key".to_owned()));
        }
        let logs = LogKeys::of_ranges(ranges);
        let logs = logs.map_err(|error| Failure::Usage(format!("the keys: {error}")))?;
        Ok(Pinned { keys, vkey, trust: Trust::CallerSupplied, logs })
    }

    /// The key of the log with this name in the tenant.
    pub(crate) fn log_key(&self, name: &str) -> Option<VerifierKey> {
        let ends = format!("/{name}");
        let of_logs = self.keys.iter().filter(|key| key.purpose() == Purpose::Log);
        let key = of_logs.into_iter().find(|key| key.origin.ends_with(&ends))?;
        key.vkey.parse().ok()
    }
}
