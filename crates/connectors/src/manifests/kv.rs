//! The key-value store.

use kernel::failure::Category::{Conflict, Internal, Validation};
use kernel::tool::FailureMode;
use serde_json::{Value, json};

use super::failures::{failures, mode};
use super::{millis, object};
use crate::limits;

fn key() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": limits::KV_KEY_BYTES_MAX,
        "pattern": "^[A-Za-z0-9._:/@-]+$",
        "description": "Of letters, digits and `. _ : / @ -`. A workspace has its keys to itself.",
    })
}

fn if_version() -> Value {
    json!({
        "type": "integer",
        "minimum": 0,
        "description": "Only where the key is at this version; 0: only where there is no value.",
    })
}

fn own(write: bool) -> Vec<FailureMode> {
    let mut own = vec![mode(
        "store_failed",
        Internal,
        "the store could not be read or written, and nothing changed",
        "try again later; the operator finds the cause in the log",
    )];
    if write {
        own.push(mode(
            "version_conflict",
            Conflict,
            "the key is not at the version of if_version",
            "read the key, and decide with its present value and version",
        ));
    }
    own
}

pub(super) fn get() -> Value {
    json!({
        "description": "Reads a value of the workspace's key-value store.",
        "labels": ["read"],
        "idempotent": true,
        "capabilities": ["kv"],
        "timeout_ms": millis(limits::KV_TIMEOUT),
        "input_schema": object(&["key"], &json!({"key": key()})),
        "output_schema": object(&["found", "version"], &json!({
            "found": {"type": "boolean"},
            "value": {"description": "Any JSON value; absent where there is none."},
            "version": {"type": "integer", "minimum": 0},
        })),
        "failure_modes": failures(own(false)),
    })
}

pub(super) fn set() -> Value {
    let mut modes = own(true);
    modes.push(mode(
        "value_too_large",
        Validation,
        "the value is longer than one may be",
        "keep the value elsewhere, such as in a file, and its place here",
    ));
    modes.push(mode(
        "store_full",
        Conflict,
        "the workspace has as many keys, or as many bytes of values, as it may",
        "delete keys that are no longer needed",
    ));
    json!({
        "description": "Sets a value of the workspace's key-value store. The value and the outcome \
            of the action are kept together or not at all.",
        "labels": ["write"],
        "idempotent": true,
        "capabilities": ["kv"],
        "timeout_ms": millis(limits::KV_TIMEOUT),
        "input_schema": object(&["key", "value"], &json!({
            "key": key(),
            "value": {"description": "Any JSON value."},
            "if_version": if_version(),
        })),
        "output_schema": object(&["version", "created"], &json!({
            "version": {"type": "integer", "minimum": 1},
            "created": {"type": "boolean"},
        })),
        "failure_modes": failures(modes),
    })
}

pub(super) fn delete() -> Value {
    json!({
        "description": "Deletes a value of the workspace's key-value store.",
        "labels": ["write", "destructive"],
        "idempotent": true,
        "capabilities": ["kv"],
        "timeout_ms": millis(limits::KV_TIMEOUT),
        "input_schema": object(&["key"], &json!({"key": key(), "if_version": if_version()})),
        "output_schema": object(&["deleted"], &json!({"deleted": {"type": "boolean"}})),
        "failure_modes": failures(own(true)),
    })
}
