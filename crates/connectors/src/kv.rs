//! `kv.get`, `kv.set` and `kv.delete`: the values of a workspace, with their versions.
//!
//! What is kept, and where, is for the host of the tools. It keeps a change together with the
//! outcome of its action or not at all, so that an attempt can be repeated after a crash.

use async_trait::async_trait;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::limits;
use crate::tools::{Done, Fault, Meta};

/// A value as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which version of the key it is, from 1. No version comes twice, also after a deletion.
    pub version: u64,
    /// Any JSON value.
    pub value: RawJson,
}

/// What a key was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its version from now on.
    pub version: u64,
    /// Whether it had no value before.
    pub created: bool,
}

/// The values of the workspace that one attempt works for.
#[async_trait]
pub trait KeyValues: Send + Sync {
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Failure>;

    /// Gives a key another value, where it is at `if_version` (0: where it has none). The change
    /// is made with the attempt's outcome.
    async fn set(
        &self,
        key: &str,
        value: &RawJson,
        if_version: Option<u64>,
    ) -> Result<Written, Failure>;

    /// Takes the value of a key away in the same manner; answers whether it had one.
    async fn delete(&self, key: &str, if_version: Option<u64>) -> Result<bool, Failure>;
}

/// No values at all.
#[derive(Clone, Copy, Debug)]
pub struct NoKeyValues;

fn none() -> Failure {
    let message = "there is no key-value store here";
    Failure::new(Category::Internal, "store_failed", message)
}

#[async_trait]
impl KeyValues for NoKeyValues {
    async fn get(&self, _: &str) -> Result<Option<Entry>, Failure> {
        Err(none())
    }

    async fn set(&self, _: &str, _: &RawJson, _: Option<u64>) -> Result<Written, Failure> {
        Err(none())
    }

    async fn delete(&self, _: &str, _: Option<u64>) -> Result<bool, Failure> {
        Err(none())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    key: String,
    #[serde(default, borrow)]
    value: Option<&'a RawValue>,
    if_version: Option<u64>,
}

fn parse(params: &RawJson) -> Result<Params<'_>, Failure> {
    serde_json::from_str(params.as_str())
        .map_err(|e| Failure::new(Category::Validation, "params_invalid", e.to_string()))
}

fn done(result: Map<String, Value>) -> Done {
    Done { result: Value::Object(result).to_string(), meta: Meta::default() }
}

/// What `work` comes to, within the time that a call has. Cut off, it changes nothing.
async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limits::KV_TIMEOUT, work).await.unwrap_or_else(|_| {
        let message = format!("no end within {} s", limits::KV_TIMEOUT.as_secs());
        Err(Failure::new(Category::Timeout, "timeout", message))
    })
}

pub(crate) async fn get(params: &RawJson, store: &dyn KeyValues) -> Result<Done, Fault> {
    let Params { key, .. } = parse(params)?;
    // The text of the value goes into the result as it is: a value would round large numbers.
    let result = match within(store.get(&key)).await? {
        Some(Entry { version, value }) => {
            format!("{{\"found\":true,\"value\":{},\"version\":{version}}}", value.as_str())
        }
        None => "{\"found\":false,\"version\":0}".to_owned(),
    };
    let bytes_in = u64::try_from(result.len()).unwrap_or(u64::MAX);
    Ok(Done { result, meta: Meta { bytes_in, ..Meta::default() } })
}

pub(crate) async fn set(params: &RawJson, store: &dyn KeyValues) -> Result<Done, Fault> {
    let Params { key, value, if_version } = parse(params)?;
    // `null` is a value, which is not told apart from none by the parser of optional ones.
    let text = value.map_or("null", RawValue::get);
    if text.len() > limits::KV_VALUE_BYTES_MAX {
        let message = format!("value: at most {} bytes", limits::KV_VALUE_BYTES_MAX);
        return Err(Failure::new(Category::Validation, "value_too_large", message).into());
    }
    let value = RawJson::parse(text)
        .map_err(|e| Failure::new(Category::Validation, "params_invalid", e.to_string()))?;
    let Written { version, created } = within(store.set(&key, &value, if_version)).await?;
    let result = Map::from_iter([
        ("version".to_owned(), json!(version)),
        ("created".to_owned(), json!(created)),
    ]);
    let bytes_out = u64::try_from(text.len()).unwrap_or(u64::MAX);
    Ok(Done { meta: Meta { bytes_out, ..Meta::default() }, ..done(result) })
}

pub(crate) async fn delete(params: &RawJson, store: &dyn KeyValues) -> Result<Done, Fault> {
    let Params { key, if_version, .. } = parse(params)?;
    let deleted = within(store.delete(&key, if_version)).await?;
    Ok(done(Map::from_iter([("deleted".to_owned(), json!(deleted))])))
}
