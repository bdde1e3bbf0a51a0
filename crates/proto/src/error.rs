//! One error for every surface: REST status and body, gRPC code and details.
//!
//! Between handler and surface an [`Error`] travels in a [`Status`]: its details are a
//! `google.rpc.Status` (the `grpc-status-details-bin` of gRPC) that holds the encoded [`Error`].

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::types::{Error, error::Category};

/// The body is larger than the limit of the route (413).
pub const REQUEST_TOO_LARGE: &str = "request_too_large";
/// The path exists, the verb does not (405).
pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
/// The client is too old or too new (426).
pub const UPGRADE_REQUIRED: &str = "upgrade_required";
/// The path does not exist (404).
pub const ROUTE_NOT_FOUND: &str = "route_not_found";

/// The type of an [`Error`] inside the details of a [`Status`].
const ERROR_TYPE_URL: &str = "type.googleapis.com/tally.type.v1.Error";

/// The body of every refused REST request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Why it was refused.
    pub error: Error,
}

impl Error {
    /// An error that will not go away by itself.
    pub fn new(category: Category, code: impl Into<String>, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { code, category: category.into(), message, ..Self::default() }
    }

    /// A request that is malformed (400).
    pub fn validation(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Category::Validation, code, message)
    }

    /// Marks it as one that may go away.
    #[must_use]
    pub fn retryable(self) -> Self {
        Self { retryable: true, ..self }
    }
}

/// The HTTP status of an error: by its code where HTTP has a status of its own, else by category.
#[must_use]
pub fn http_status(error: &Error) -> StatusCode {
    match error.code.as_str() {
        REQUEST_TOO_LARGE => return StatusCode::PAYLOAD_TOO_LARGE,
        METHOD_NOT_ALLOWED => return StatusCode::METHOD_NOT_ALLOWED,
        UPGRADE_REQUIRED => return StatusCode::UPGRADE_REQUIRED,
        _ => {}
    }
    match error.category() {
        Category::Validation => StatusCode::BAD_REQUEST,
        Category::Auth => StatusCode::UNAUTHORIZED,
        Category::Budget => StatusCode::PAYMENT_REQUIRED,
        Category::PolicyDenied | Category::Permission => StatusCode::FORBIDDEN,
        Category::NotFound => StatusCode::NOT_FOUND,
        Category::Conflict => StatusCode::CONFLICT,
        Category::Sandbox | Category::Permanent => StatusCode::UNPROCESSABLE_ENTITY,
        Category::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Category::Upstream | Category::Network => StatusCode::BAD_GATEWAY,
        Category::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Category::Internal if error.retryable => StatusCode::SERVICE_UNAVAILABLE,
        Category::Internal | Category::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The gRPC code of an error.
#[must_use]
pub fn grpc_code(error: &Error) -> Code {
    match error.category() {
        Category::Validation => Code::InvalidArgument,
        Category::Auth => Code::Unauthenticated,
        Category::PolicyDenied | Category::Permission => Code::PermissionDenied,
        Category::NotFound => Code::NotFound,
        Category::Conflict => Code::Aborted,
        Category::Budget | Category::Sandbox | Category::Permanent => Code::FailedPrecondition,
        Category::RateLimited => Code::ResourceExhausted,
        Category::Upstream | Category::Network => Code::Unavailable,
        Category::Timeout => Code::DeadlineExceeded,
        Category::Internal if error.retryable => Code::Unavailable,
        Category::Internal | Category::Unspecified => Code::Internal,
    }
}

/// Packs an error for its way to a surface.
#[must_use]
pub fn status_from_error(error: Error) -> Status {
    let code = grpc_code(&error);
    let detail =
        prost_types::Any { type_url: ERROR_TYPE_URL.to_owned(), value: error.encode_to_vec() };
    let status = tonic_types::pb::Status {
        code: code.into(),
        message: error.message.clone(),
        details: vec![detail],
    };
    Status::with_details(code, error.message, status.encode_to_vec().into())
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status_from_error(error)
    }
}

/// Unpacks the error of a status. One that was not packed by [`status_from_error`] (tonic's own
/// refusals) becomes an error of the nearest category.
#[must_use]
pub fn error_from_status(status: &Status) -> Error {
    let packed = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    let mut details = packed.details.iter();
    let found = details.find(|detail| detail.type_url == ERROR_TYPE_URL);
    match found.map(|detail| Error::decode(detail.value.as_slice())) {
        Some(Ok(error)) => error,
        _ => foreign(status),
    }
}

/// The error nearest to a status that carries none.
fn foreign(status: &Status) -> Error {
    let (category, code) = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => (Category::Validation, "invalid_argument"),
        Code::Unauthenticated => (Category::Auth, "unauthenticated"),
        Code::PermissionDenied => (Category::Permission, "permission_denied"),
        Code::NotFound => (Category::NotFound, "not_found"),
        Code::AlreadyExists | Code::Aborted => (Category::Conflict, "conflict"),
        Code::FailedPrecondition => (Category::Permanent, "failed_precondition"),
        Code::ResourceExhausted => (Category::RateLimited, "resource_exhausted"),
        Code::DeadlineExceeded | Code::Cancelled => (Category::Timeout, "timeout"),
        Code::Unavailable => (Category::Internal, "unavailable"),
        Code::Unimplemented => (Category::Permanent, "unimplemented"),
        _ => (Category::Internal, "internal"),
    };
    let retryable = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    Error { retryable, ..Error::new(category, code, status.message()) }
}

/// The REST answer that refuses a request: `{"error":{…}}` with the headers that go with it.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = http_status(&self);
        let retry_after = self.retry_after_ms;
        let body = match serde_json::to_vec(&ErrorBody { error: self }) {
            Ok(body) => body,
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(millis) = retry_after {
            headers.insert(header::RETRY_AFTER, millis.div_ceil(1_000).into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
