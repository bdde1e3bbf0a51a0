//! REST on axum: reads a request into the message of an rpc, calls the same trait as gRPC does,
//! and writes its answer. The routes themselves are generated.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, RawPathParams, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Status, metadata::MetadataMap};

use crate::{
    HttpBody,
    error::{METHOD_NOT_ALLOWED, REQUEST_TOO_LARGE, ROUTE_NOT_FOUND, error_from_status},
    query::{self, Field},
    types::{Error, error::Category},
};

include!(concat!(env!("OUT_DIR"), "/rest.rs"));

/// The header that names a request. A middleware that makes one up sets it on the request too.
pub const REQUEST_ID: &str = "x-request-id";

/// The headers that a handler sees, as metadata.
const FORWARDED: [HeaderName; 5] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static(REQUEST_ID),
    HeaderName::from_static("traceparent"),
];

/// The largest bodies that are read, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Of a JSON body.
    pub json: usize,
    /// Of a raw body, such as an evidence bundle.
    pub raw: usize,
}

impl BodyLimits {
    /// The limits of a route whose JSON bodies are large.
    fn of_mib(self, mib: usize) -> Self {
        Self { json: mib << 20, ..self }
    }
}

/// Put into the extensions of a `tonic::Response`: the HTTP status, when it is not 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpStatus(pub u16);

/// Put into the extensions of a `tonic::Response`: further HTTP headers.
#[derive(Debug, Clone, Default)]
pub struct HttpHeaders(pub Vec<(HeaderName, HeaderValue)>);

/// What a generated handler gets: the service and its limits.
#[derive(Debug)]
struct Served<S> {
    service: Arc<S>,
    limits: BodyLimits,
}

impl<S> Clone for Served<S> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), limits: self.limits }
    }
}

/// A field that is set from the path.
type Bind<M> = (&'static str, fn(&mut M) -> &mut String);

/// A request that was read: its message for the service, and how to answer it.
type Read<M> = Result<(tonic::Request<M>, Answer), Response>;

/// Answers a path that no route has (404). The server installs it as its fallback.
pub async fn not_found(request: Request) -> Response {
    let message = format!("no route has the path {}", request.uri().path());
    Answer::to(request.headers()).refuse(Error::new(Category::NotFound, ROUTE_NOT_FOUND, message))
}

/// Answers a verb that the path does not have (405).
pub async fn method_not_allowed(request: Request) -> Response {
    let message = format!("{} is not a method of this path", request.method());
    Answer::to(request.headers()).refuse(Error::new(
        Category::Validation,
        METHOD_NOT_ALLOWED,
        message,
    ))
}

/// Reads a message whose fields are the JSON body; no body at all counts as `{}`.
async fn read_json<M>(request: Request, limits: BodyLimits, binds: &[Bind<M>]) -> Read<M>
where
    M: DeserializeOwned,
{
    read(request, limits.json, binds, |parts, body| {
        no_query(parts)?;
        let body = if body.is_empty() { b"{}".as_slice() } else { body };
        serde_json::from_slice(body)
            .map_err(|error| invalid("invalid_body", query::readable(&error)))
    })
    .await
}

/// Reads a message whose fields are in the query string.
async fn read_query<M>(request: Request, fields: &[Field], binds: &[Bind<M>]) -> Read<M>
where
    M: DeserializeOwned,
{
    let (parts, _) = request.into_parts();
    let request = Request::from_parts(parts, Body::empty());
    read(request, 0, binds, |parts, _| query::decode(parts.uri.query().unwrap_or(""), fields)).await
}

/// Reads a body as it is.
async fn read_raw(request: Request, limits: BodyLimits) -> Read<HttpBody> {
    read(request, limits.raw, &[], |parts, body| {
        no_query(parts)?;
        let content_type = parts.headers.get(header::CONTENT_TYPE).map(|value| value.to_str());
        let content_type = content_type
            .transpose()
            .map_err(|_| invalid("invalid_header", "give a Content-Type of plain ASCII"))?;
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        Ok(HttpBody { content_type, data: body.to_vec(), extensions: Vec::new() })
    })
    .await
}

/// Reads path and body, makes the message, and hands on what the handler may see.
async fn read<M>(
    request: Request,
    limit: usize,
    binds: &[Bind<M>],
    message: impl FnOnce(&Parts, &[u8]) -> Result<M, Box<Error>>,
) -> Read<M> {
    let answer = Answer::to(request.headers());
    let (mut parts, body) = request.into_parts();
    let made: Result<M, Box<Error>> = async {
        let params = RawPathParams::from_request_parts(&mut parts, &())
            .await
            .map_err(|_| invalid("invalid_path", "percent-encode the path as UTF-8"))?;
        let body = read_body(body, &parts.headers, limit).await?;
        let mut message = message(&parts, &body)?;
        for (name, field) in binds {
            bind(&params, name, field(&mut message))?;
        }
        Ok(message)
    }
    .await;
    match made {
        Ok(message) => {
            let metadata = MetadataMap::from_headers(forwarded(&parts.headers));
            let request = tonic::Request::from_parts(metadata, parts.extensions, message);
            Ok((request, answer))
        }
        Err(error) => Err(answer.refuse(*error)),
    }
}

/// Reads a body up to a limit in bytes.
async fn read_body(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Box<Error>> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    to_bytes(body, limit).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            too_large(limit)
        } else {
            invalid("body_unreadable", "the body ended before it was complete")
        }
    })
}

/// Refuses a body that is larger than the limit.
fn too_large(limit: usize) -> Box<Error> {
    let message = format!("send a body of at most {limit} bytes");
    invalid(REQUEST_TOO_LARGE, message)
}

/// Refuses a malformed request.
fn invalid(code: &str, message: impl Into<String>) -> Box<Error> {
    Box::new(Error::validation(code, message))
}

/// Refuses a query string where the fields are in the body.
fn no_query(parts: &Parts) -> Result<(), Box<Error>> {
    match parts.uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(invalid("invalid_query", "this method takes no query string")),
    }
}

/// Sets a field from the path; the body may repeat it but not contradict it.
fn bind(params: &RawPathParams, name: &str, field: &mut String) -> Result<(), Box<Error>> {
    let value = params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    if !field.is_empty() && field != value {
        let message = format!("`{name}` in the body differs from the path: leave it out");
        return Err(invalid("path_mismatch", message));
    }
    value.clone_into(field);
    Ok(())
}

/// The headers that a handler may see.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in &FORWARDED {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// How to answer one request.
struct Answer {
    request_id: String,
}

impl Answer {
    fn to(headers: &HeaderMap) -> Self {
        let id = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        Self { request_id: id.unwrap_or("").to_owned() }
    }

    /// The message as JSON, or the error.
    fn json<T: Serialize>(self, result: Result<tonic::Response<T>, Status>) -> Response {
        self.write(result, |message| {
            Ok((HeaderValue::from_static("application/json"), serde_json::to_vec(&message)?))
        })
    }

    /// The bytes as they are, or the error.
    fn raw(self, result: Result<tonic::Response<HttpBody>, Status>) -> Response {
        self.write(result, |body| Ok((HeaderValue::try_from(body.content_type)?, body.data)))
    }

    fn write<T>(
        self,
        result: Result<tonic::Response<T>, Status>,
        body: impl FnOnce(T) -> Result<(HeaderValue, Vec<u8>), Box<dyn std::error::Error>>,
    ) -> Response {
        let (_, message, extensions) = match result {
            Ok(response) => response.into_parts(),
            Err(status) => return self.refuse(error_from_status(&status)),
        };
        let (content_type, bytes) = match body(message) {
            Ok(written) => written,
            Err(error) => {
                let message = format!("the answer cannot be written: {error}");
                return self.refuse(Error::new(Category::Internal, "encoding", message));
            }
        };
        let mut response = ([(header::CONTENT_TYPE, content_type)], bytes).into_response();
        if let Some(HttpStatus(code)) = extensions.get() {
            *response.status_mut() =
                StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if let Some(HttpHeaders(headers)) = extensions.get() {
            response.headers_mut().extend(headers.iter().cloned());
        }
        response
    }

    /// The error as JSON, with the id of the request.
    fn refuse(self, mut error: Error) -> Response {
        if error.request_id.is_empty() {
            error.request_id = self.request_id;
        }
        error.into_response()
    }
}
