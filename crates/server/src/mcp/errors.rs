//! Failures on their way to an MCP client, in one place.

use axum::response::{IntoResponse, Response};
use connectors::mcp::RpcError;
use http::{StatusCode, header};
use kernel::failure::{Category, Failure};
use serde_json::json;
use serde_json::value::RawValue;

use super::raw;
use super::revision::Era;
use super::rpc::{self, Id};

/// What legacy servers say of a resource that is not there.
pub(super) const RESOURCE_NOT_FOUND: i64 = -32002;
/// What legacy servers say where somebody has to visit a page first.
const URL_ELICITATION: i64 = -32042;

/// What a failure is as an error of JSON-RPC. Codes of our own lie outside of what JSON-RPC
/// reserves; `data` has the stable code.
pub(super) fn rpc_error(failure: &Failure) -> RpcError {
    let code = match failure.category {
        Category::Validation | Category::NotFound => rpc::INVALID_PARAMS,
        Category::Internal => rpc::INTERNAL_ERROR,
        Category::Auth => 401,
        Category::Budget => 402,
        Category::PolicyDenied | Category::Permission => 403,
        Category::Conflict => 409,
        Category::RateLimited => 429,
        Category::Sandbox | Category::Permanent => 500,
        Category::Upstream | Category::Network => 502,
        Category::Timeout => 504,
    };
    let mut data = json!({
        "code": failure.code,
        "category": failure.category.as_str(),
        "retryable": failure.retryable,
    });
    if let (Some(ms), Some(data)) = (failure.retry_after_ms, data.as_object_mut()) {
        data.insert("retryAfterMs".to_owned(), ms.into());
    }
    let data = RawValue::from_string(data.to_string()).ok();
    RpcError { code, message: failure.message.clone(), data }
}

/// What a failure is as the result of a tool: what a model can read and act on.
pub(super) fn tool_result(failure: &Failure) -> String {
    let text = raw::quoted(&failure.to_string());
    let content = format!(r#"[{{"type":"text","text":{text}}}]"#);
    let failure = json!({
        "code": failure.code,
        "category": failure.category.as_str(),
        "retryable": failure.retryable,
        "retryAfterMs": failure.retry_after_ms,
    });
    let meta = format!(r#"{{"dev.tally/failure":{failure}}}"#);
    format!(r#"{{"content":{content},"isError":true,"_meta":{meta}}}"#)
}

/// A tool, prompt or resource that is not there, and one that may not be seen, answer alike.
pub(super) fn unknown(era: Era, kind: &str, name: &str) -> RpcError {
    if kind != "resource" {
        return RpcError::new(rpc::INVALID_PARAMS, format!("Unknown {kind}: {name}"));
    }
    let code = match era {
        Era::Modern => rpc::INVALID_PARAMS,
        Era::Legacy => RESOURCE_NOT_FOUND,
    };
    let data = RawValue::from_string(json!({"uri": name}).to_string()).ok();
    RpcError { code, message: "Resource not found".to_owned(), data }
}

/// An upstream's error as a client of `era` may be told it: codes of one revision mean nothing, or
/// are forbidden, in another.
pub(super) fn translated(era: Era, mut error: RpcError) -> RpcError {
    if era == Era::Modern {
        error.code = match error.code {
            RESOURCE_NOT_FOUND => rpc::INVALID_PARAMS,
            URL_ELICITATION => rpc::INTERNAL_ERROR,
            code => code,
        };
    }
    error
}

/// The HTTP status with which an error answers a modern request.
pub(super) fn status(error: &RpcError) -> StatusCode {
    match error.code {
        rpc::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        // Those that the revision defines.
        -32099..=-32020 => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// The text of a response that is an error.
pub(super) fn text(id: Option<&Id>, error: &RpcError) -> String {
    let id = id.map_or_else(String::new, |id| format!(r#""id":{},"#, id.as_json()));
    let message = raw::quoted(&error.message);
    let data = error.data.as_ref();
    let data = data.map_or_else(String::new, |data| format!(r#","data":{}"#, data.get()));
    let error = format!(r#"{{"code":{},"message":{message}{data}}}"#, error.code);
    format!(r#"{{"jsonrpc":"2.0",{id}"error":{error}}}"#)
}

/// One message as the whole answer.
pub(super) fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The answer that is an error.
pub(super) fn refused(status: StatusCode, id: Option<&Id>, error: &RpcError) -> Response {
    json(status, text(id, error))
}
