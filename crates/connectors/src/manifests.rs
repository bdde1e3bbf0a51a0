//! The manifests of the built-in tools. Their digests are part of plans: any change here is seen.

use std::time::Duration;

use kernel::tool::Manifest;
use serde_json::{Value, json};

use crate::limits;

/// The built-in tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    FsRead,
    FsWrite,
    HttpCall,
    JsonTransform,
}

impl Builtin {
    pub(crate) const ALL: [Self; 4] =
        [Self::FsRead, Self::FsWrite, Self::HttpCall, Self::JsonTransform];

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::FsRead => "core.fs_read",
            Self::FsWrite => "core.fs_write",
            Self::HttpCall => "core.http_call",
            Self::JsonTransform => "core.json_transform",
        }
    }
}

/// The manifest of `tool`, free of charge.
pub(crate) fn manifest(tool: Builtin) -> Result<Manifest, serde_json::Error> {
    let own = match tool {
        Builtin::FsRead => fs_read(),
        Builtin::FsWrite => fs_write(),
        Builtin::HttpCall => http_call(),
        Builtin::JsonTransform => json_transform(),
    };
    let mut whole = json!({
        "id": tool.id(),
        "version": "1.0.0",
        "executor": "builtin",
        "reversible": false,
        "cost": {"per_call_micro_usd": 0},
    });
    if let (Value::Object(whole), Value::Object(own)) = (&mut whole, own) {
        whole.extend(own);
    }
    serde_json::from_value(whole)
}

fn object(required: &[&str], properties: &Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn failures(own: &[(&str, &str)]) -> Value {
    let common = [
        ("params_invalid", "the parameters break the input schema: change what is named"),
        ("permit_expired", "the effect began too late: submit again"),
        ("permit_other_plan", "the permit is for another plan: submit again"),
        ("result_invalid", "the result is not JSON that Tally accepts, such as nested too deep"),
        ("timeout", "it took too long: ask for less, or try again"),
    ];
    let mode = |(code, meaning): &(&str, &str)| json!({"code": code, "meaning": meaning});
    common.iter().chain(own).map(mode).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn http_call() -> Value {
    let variant = |methods: &[&str], labels: &[&str]| {
        json!({
            "when": {"method": methods},
            "labels": labels,
            "idempotent": true,
            "reversible": false,
        })
    };
    json!({
        "description": "Calls a granted HTTP host. Headers are parameters: whoever may read the \
            action reads them, so keep long-lived credentials out.",
        "labels": ["write", "external"],
        "idempotent": false,
        "variants": [
            variant(&["GET", "HEAD", "OPTIONS"], &["read", "external"]),
            variant(&["PUT"], &["write", "external"]),
            variant(&["DELETE"], &["destructive", "external"]),
        ],
        "capabilities": ["network"],
        "timeout_ms": millis(limits::HTTP_TIMEOUT),
        "input_schema": http_input(),
        "output_schema": object(&["status", "headers", "truncated"], &json!({
            "status": {"type": "integer", "minimum": 200, "maximum": 499},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "body": {"type": "string"},
            "body_base64": {"type": "string"},
            "truncated": {"type": "boolean"},
        })),
        "failure_modes": failures(&[
            ("url_invalid", "the URL is malformed, too long, or not http or https"),
            ("url_credentials", "the URL carries a user or password: use a header"),
            ("header_refused", "a header is malformed or set by Tally itself"),
            ("body_refused", "this method takes no body, or both body and json are given"),
            ("host_not_granted", "no grant covers this host and port: ask for one"),
            ("address_not_granted", "the host's address is private: ask for a private grant"),
            ("dns_failed", "the host's name has no address"),
            ("connect_failed", "no connection, so nothing was sent"),
            ("tls_failed", "no trusted TLS connection, so nothing was sent"),
            ("connection_lost", "the connection broke after the request was sent"),
            ("redirect_refused", "the redirect leads where this call may not go"),
            ("too_many_redirects", "the redirects did not end"),
            ("rate_limited", "the host answered 429: wait as long as it says"),
            ("upstream_error", "the host answered with a status of 500 or above"),
            ("answer_invalid", "the host's answer is not HTTP that Tally accepts"),
        ]),
    })
}

fn http_input() -> Value {
    object(
        &["url"],
        &json!({
            "method": {
                "type": "string",
                "enum": ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"],
                "default": "GET",
            },
            "url": {"type": "string", "minLength": 1, "maxLength": limits::URL_BYTES_MAX},
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "maxProperties": limits::HEADERS_MAX,
            },
            "body": {"type": "string", "description": "Sent as it is, in UTF-8."},
            "json": {"description": "Sent as JSON, in place of body."},
            "timeout_ms": {
                "type": "integer",
                "minimum": 1,
                "maximum": millis(limits::HTTP_TIMEOUT),
                "default": millis(limits::HTTP_TIMEOUT),
            },
            "max_bytes": {
                "type": "integer",
                "minimum": 0,
                "maximum": limits::RESPONSE_BYTES_MAX,
                "default": limits::RESPONSE_BYTES_MAX,
            },
        }),
    )
}

fn file_properties(own: Value) -> Value {
    let mut properties = json!({
        "path": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits::PATH_BYTES_MAX,
            "description": "Absolute, free of `..`, below a granted folder.",
        },
        "encoding": {"type": "string", "enum": ["utf8", "base64"], "default": "utf8"},
    });
    if let (Value::Object(properties), Value::Object(own)) = (&mut properties, own) {
        properties.extend(own);
    }
    properties
}

fn file_failures(own: &[(&str, &str)]) -> Value {
    let common = [
        ("path_invalid", "the path must be absolute and free of `..` and NUL"),
        ("path_not_granted", "no granted folder holds this path, links followed: ask for a grant"),
        ("path_not_found", "no such file, or no such folder to hold it"),
        ("not_a_file", "the path is a folder, device, pipe or socket"),
        ("permission_denied", "the operating system refuses Tally this file"),
        ("io_error", "the operating system reports an error"),
    ];
    failures(&[&common, own].concat())
}

fn fs_read() -> Value {
    json!({
        "description": "Reads a file below a granted folder.",
        "labels": ["read"],
        "idempotent": true,
        "capabilities": ["filesystem"],
        "timeout_ms": millis(limits::FILE_TIMEOUT),
        "input_schema": object(&["path"], &file_properties(json!({
            "max_bytes": {
                "type": "integer",
                "minimum": 0,
                "maximum": limits::FILE_READ_BYTES_MAX,
                "default": limits::FILE_READ_BYTES_MAX,
            },
        }))),
        "output_schema": object(&["content", "bytes", "truncated"], &json!({
            "content": {"type": "string"},
            "bytes": {"type": "integer", "minimum": 0},
            "truncated": {"type": "boolean"},
        })),
        "failure_modes": file_failures(&[
            ("not_utf8", "the file is not UTF-8 text: read it with encoding base64"),
        ]),
    })
}

fn fs_write() -> Value {
    json!({
        "description": "Writes a file below a granted folder.",
        "labels": ["write"],
        "idempotent": false,
        "variants": [{
            "when": {"mode": ["overwrite"]},
            "labels": ["write"],
            "idempotent": true,
            "reversible": false,
        }],
        "capabilities": ["filesystem"],
        "timeout_ms": millis(limits::FILE_TIMEOUT),
        "input_schema": object(&["path", "content"], &file_properties(json!({
            "content": {"type": "string"},
            "mode": {
                "type": "string",
                "enum": ["overwrite", "create_new", "append"],
                "default": "overwrite",
                "description": "Append also creates the file where there is none.",
            },
        }))),
        "output_schema": object(&["bytes"], &json!({
            "bytes": {"type": "integer", "minimum": 0},
        })),
        "failure_modes": file_failures(&[
            ("content_invalid", "the content is not base64 as encoding says"),
            ("file_exists", "mode is create_new and the path is taken"),
            ("write_interrupted", "an append stopped part way: look at the file"),
        ]),
    })
}

fn json_transform() -> Value {
    json!({
        "description": "Runs a jq filter on a JSON value. It sees nothing else: no clock, \
            environment, file or further input.",
        "labels": ["read", "pure"],
        "idempotent": true,
        "timeout_ms": millis(limits::TRANSFORM_TIMEOUT),
        "input_schema": object(&["input", "filter"], &json!({
            "input": {"description": "Any JSON value."},
            "filter": {"type": "string", "minLength": 1, "maxLength": limits::FILTER_BYTES_MAX},
        })),
        "output_schema": object(&["output"], &json!({
            "output": {"type": "array", "maxItems": limits::TRANSFORM_OUTPUTS_MAX},
        })),
        "failure_modes": failures(&[
            ("filter_invalid", "the filter is not jq, or uses what is not offered here"),
            ("filter_failed", "the filter ended with an error on this input"),
            ("filter_limit", "the filter took too much memory or put out too much"),
            ("worker_failed", "the jq worker could not be started or broke"),
        ]),
    })
}
