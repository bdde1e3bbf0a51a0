//! The manifests of the built-in tools. Their digests are part of plans: any change here is seen.

mod failures;
mod kv;
mod messages;

use std::time::Duration;

use kernel::failure::Category::{
    Conflict, Internal, Network, NotFound, Permanent, Permission, RateLimited, Sandbox, Timeout,
    Upstream, Validation,
};
use kernel::tool::{FailureMode, Manifest};
use serde_json::{Value, json};

use crate::limits;
use crate::llm::{self, ModelsConfig};
use failures::mode;
pub(crate) use failures::{CHANGE, failures};

/// The built-in tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    EmailSend,
    FsRead,
    FsWrite,
    HttpCall,
    JsonTransform,
    KvDelete,
    KvGet,
    KvSet,
    LlmInvoke,
    Wait,
    WebhookSend,
}

impl Builtin {
    pub(crate) const ALL: [Self; 11] = [
        Self::EmailSend,
        Self::FsRead,
        Self::FsWrite,
        Self::HttpCall,
        Self::JsonTransform,
        Self::KvDelete,
        Self::KvGet,
        Self::KvSet,
        Self::LlmInvoke,
        Self::Wait,
        Self::WebhookSend,
    ];

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::EmailSend => "email.send",
            Self::FsRead => "core.fs_read",
            Self::FsWrite => "core.fs_write",
            Self::HttpCall => "core.http_call",
            Self::JsonTransform => "core.json_transform",
            Self::KvDelete => "kv.delete",
            Self::KvGet => "kv.get",
            Self::KvSet => "kv.set",
            Self::LlmInvoke => "llm.invoke",
            Self::Wait => kernel::run::TIMER,
            Self::WebhookSend => "webhook.send",
        }
    }
}

/// The manifest of `tool`, free of charge.
pub(crate) fn manifest(
    tool: Builtin,
    models: &ModelsConfig,
) -> Result<Manifest, serde_json::Error> {
    let own = match tool {
        Builtin::EmailSend => messages::email_send(),
        Builtin::FsRead => fs_read(),
        Builtin::FsWrite => fs_write(),
        Builtin::HttpCall => http_call(),
        Builtin::JsonTransform => json_transform(),
        Builtin::KvDelete => kv::delete(),
        Builtin::KvGet => kv::get(),
        Builtin::KvSet => kv::set(),
        Builtin::LlmInvoke => llm::manifest(models),
        Builtin::Wait => wait(),
        Builtin::WebhookSend => messages::webhook_send(),
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

pub(crate) fn object(required: &[&str], properties: &Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
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
        "failure_modes": failures(http_failures()),
    })
}

/// How a call of an HTTP host fails.
fn http_failures() -> Vec<FailureMode> {
    let grant = "ask the operator for a grant, or call another host";
    let again = "try again";
    let reconcile = "find out whether the host acted, then reconcile the action";
    vec![
        mode("url_invalid", Validation, "the URL is malformed, too long, or no http(s)", CHANGE),
        mode("url_credentials", Validation, "the URL carries a user or password", "use a header"),
        mode("header_refused", Validation, "a header is malformed or set by Tally itself", CHANGE),
        mode(
            "body_refused",
            Validation,
            "this method takes no body, or both body and json are given",
            CHANGE,
        ),
        mode("host_not_granted", Permission, "no grant covers this host and port", grant),
        mode("address_not_granted", Permission, "the host's address is private", grant),
        mode("dns_failed", Network, "the host's name has no address", "check the name"),
        mode("connect_failed", Network, "no connection, so nothing was sent", again),
        mode("tls_failed", Network, "no trusted TLS connection, so nothing was sent", again),
        mode(
            "connection_lost",
            Network,
            "the connection broke after the request was sent",
            reconcile,
        ),
        mode("redirect_refused", Permanent, "the redirect leads where this may not go", CHANGE),
        mode("too_many_redirects", Permanent, "the redirects did not end", "call the last URL"),
        mode("rate_limited", RateLimited, "the host answered 429", "wait as long as it says"),
        mode("upstream_error", Upstream, "the host answered with a status of 500 or above", again),
        mode(
            "answer_invalid",
            Upstream,
            "the host's answer is not HTTP that Tally accepts",
            reconcile,
        )
        .retryable(false),
    ]
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

fn wait() -> Value {
    json!({
        "description": "Has a run wait: for so many seconds, or until a time. The run is kept \
            meanwhile, whatever happens to the server.",
        "labels": ["pure"],
        "idempotent": true,
        "capabilities": [],
        "timeout_ms": 1_000,
        "input_schema": {
            "type": "object",
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                "seconds": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": kernel::limits::RUN_WAIT_MICROS_MAX / 1_000_000,
                },
                "until_us": {
                    "type": "integer",
                    "description": "Microseconds since 1970-01-01T00:00:00Z.",
                },
            },
        },
        "output_schema": object(&["ended"], &json!({"ended": {"type": "boolean"}})),
        "failure_modes": failures(Vec::new()),
    })
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

fn file_failures(own: Vec<FailureMode>) -> Vec<FailureMode> {
    let grant = "ask the operator for a grant of the folder";
    let mut all = vec![
        mode("path_invalid", Validation, "the path is relative, or has `..` or NUL in it", CHANGE),
        mode(
            "path_not_granted",
            Permission,
            "no granted folder holds this path, links followed",
            grant,
        ),
        mode("path_not_found", NotFound, "no such file, or no such folder to hold it", CHANGE),
        mode("not_a_file", Validation, "the path is a folder, device, pipe or socket", CHANGE),
        mode(
            "permission_denied",
            Permission,
            "the operating system refuses Tally this file",
            "have the operator look at the file's owner and mode",
        ),
        mode(
            "io_error",
            Permanent,
            "the operating system reports an error, such as a full disk",
            "have the operator look at the disk",
        ),
    ];
    all.extend(own);
    failures(all)
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
        "failure_modes": file_failures(vec![mode(
            "not_utf8",
            Validation,
            "the file is not UTF-8 text",
            "read it with encoding base64",
        )]),
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
        "failure_modes": file_failures(vec![
            mode("content_invalid", Validation, "the content is no base64", CHANGE),
            mode(
                "file_exists",
                Conflict,
                "mode is create_new and the path is taken",
                "take another path, or mode overwrite",
            ),
            mode(
                "write_interrupted",
                Permanent,
                "an append stopped part way",
                "look at the file, then reconcile the action",
            ),
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
        "failure_modes": failures(vec![
            mode("filter_invalid", Validation, "no jq, or not what is offered here", CHANGE),
            mode("filter_failed", Validation, "the filter broke on this input", CHANGE),
            mode(
                "filter_limit",
                Sandbox,
                "the filter took too much memory or put out too much",
                "give it less to do",
            ),
            mode("worker_failed", Internal, "the jq worker did not start, or broke", "try again"),
            mode("timeout", Timeout, "the filter took too long", "give it less to do")
                .retryable(false),
        ]),
    })
}
