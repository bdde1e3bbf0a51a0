//! The request of a call: parameters turned into something that is safe to send.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use url::{Host, Url};

use crate::grants::normal;
use crate::limits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    #[serde(default, borrow, deserialize_with = "present")]
    json: Option<&'a RawValue>,
    timeout_ms: Option<u64>,
    max_bytes: Option<usize>,
}

/// Keeps `"json": null`, a body, apart from no `json`, which is none.
fn present<'de, D: Deserializer<'de>>(source: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(source).map(Some)
}

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Target {
    /// Checks a URL; everything later works on the parsed form only.
    pub(crate) fn new(url: Url) -> Result<Self, Failure> {
        if url.as_str().len() > limits::URL_BYTES_MAX {
            return Err(url_invalid(&format!("is longer than {} bytes", limits::URL_BYTES_MAX)));
        }
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(url_invalid("must start with http:// or https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            let message = "the URL carries a user or password: use the header authorization";
            return Err(Failure::new(Category::Validation, "url_credentials", message));
        }
        let host = url.host().map(normal).ok_or_else(|| url_invalid("names no host"))?;
        if matches!(&host, Host::Domain(name) if name.is_empty()) {
            return Err(url_invalid("names no host"));
        }
        let port = match url.port().unwrap_or(scheme.port()) {
            0 => return Err(url_invalid("has port 0")),
            port => port,
        };
        Ok(Self { url, scheme, host, port })
    }

    /// `scheme://host:port`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }

    /// The value of the header `host`.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What the request line asks for.
    pub(crate) fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }
}

/// A request, ready for any number of hops.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) timeout: Duration,
    pub(crate) max_bytes: usize,
}

impl Request {
    /// Reads parameters that are valid by the schema.
    pub(crate) fn parse(params: &RawJson) -> Result<Self, Failure> {
        let params: Params<'_> = serde_json::from_str(params.as_str())
            .map_err(|e| invalid("params_invalid", &e.to_string()))?;
        let method = method(params.method.as_deref().unwrap_or("GET"))?;
        let url = parse_url(&params.url)?;
        let mut headers = header_map(&params.headers)?;
        let body = body(&params, &mut headers)?;
        if safe(&method) && body.is_some() {
            let message = format!("{method} takes no body: leave out body and json");
            return Err(invalid("body_refused", &message));
        }
        let timeout = params.timeout_ms.map_or(limits::HTTP_TIMEOUT, Duration::from_millis);
        let max_bytes = params.max_bytes.unwrap_or(limits::RESPONSE_BYTES_MAX);
        Ok(Self {
            method,
            target: Target::new(url)?,
            headers,
            body: body.unwrap_or_default(),
            timeout: timeout.min(limits::HTTP_TIMEOUT),
            max_bytes: max_bytes.min(limits::RESPONSE_BYTES_MAX),
        })
    }

    /// Whether the method only reads.
    pub(crate) fn safe(&self) -> bool {
        safe(&self.method)
    }

    /// Lets the host recognise a repeated attempt.
    pub(crate) fn set_idempotency_key(&mut self, key: &str) -> Result<(), Failure> {
        if !self.safe() {
            let value = HeaderValue::from_str(key)
                .map_err(|e| Failure::new(Category::Internal, "header_refused", e.to_string()))?;
            self.headers.insert("idempotency-key", value);
        }
        Ok(())
    }
}

fn safe(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS
}

fn method(name: &str) -> Result<Method, Failure> {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let found = KNOWN.into_iter().find(|method| method.as_str() == name);
    found.ok_or_else(|| invalid("params_invalid", "`/params/method` is not one that is offered"))
}

/// Reads a URL. The parser drops white space and control characters silently; what was approved
/// must be what runs, so they are refused.
pub(crate) fn parse_url(text: &str) -> Result<Url, Failure> {
    if text.len() > limits::URL_BYTES_MAX {
        return Err(url_invalid(&format!("is longer than {} bytes", limits::URL_BYTES_MAX)));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(url_invalid("holds white space, a control character or a backslash"));
    }
    Url::parse(text).map_err(|e| url_invalid(&format!("is malformed: {e}")))
}

/// Checks and reads the headers that a caller sets, and adds our own.
pub(crate) fn header_map(given: &BTreeMap<String, String>) -> Result<HeaderMap, Failure> {
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if given.len() > limits::HEADERS_MAX || bytes > limits::HEADER_BYTES_MAX {
        let (count, bytes) = (limits::HEADERS_MAX, limits::HEADER_BYTES_MAX);
        let message = format!("headers: at most {count} of together {bytes} bytes");
        return Err(invalid("header_refused", &message));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid("header_refused", "headers: a name is malformed"))?;
        if reserved(&parsed) {
            let message = format!("headers: `{parsed}` is set by Tally: leave it out");
            return Err(invalid("header_refused", &message));
        }
        let value = HeaderValue::from_str(value).map_err(|_| {
            let message = format!("headers: the value of `{parsed}` is not printable ASCII");
            invalid("header_refused", &message)
        })?;
        if headers.insert(parsed.clone(), value).is_some() {
            let message = format!("headers: `{parsed}` is given twice");
            return Err(invalid("header_refused", &message));
        }
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, HeaderValue::from_static("tally/1"));
    }
    Ok(headers)
}

/// Headers that frame the message, route it past the check of its host, or are Tally's to set.
fn reserved(name: &HeaderName) -> bool {
    const RESERVED: [&str; 13] = [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "forwarded",
    ];
    let name = name.as_str();
    RESERVED.contains(&name)
        || ["proxy-", "x-forwarded-", "x-original-", "x-rewrite-", "x-http-method"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn body(params: &Params<'_>, headers: &mut HeaderMap) -> Result<Option<Bytes>, Failure> {
    let (body, kind) = match (&params.body, params.json) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(invalid("body_refused", "give either body or json, not both"));
        }
        (Some(text), None) => (text.as_bytes(), "text/plain; charset=utf-8"),
        (None, Some(json)) => (json.get().as_bytes(), "application/json"),
    };
    if !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    Ok(Some(Bytes::copy_from_slice(body)))
}

fn url_invalid(reason: &str) -> Failure {
    invalid("url_invalid", &format!("the URL {reason}"))
}

fn invalid(code: &str, message: &str) -> Failure {
    Failure::new(Category::Validation, code, message)
}
