//! From parameters to a request. Values reach the URL percent-encoded within one segment or one
//! member of the query, headers only as visible characters, and bodies as JSON values or form
//! members: none of them can become another part of the request, let alone another host.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::document::{BodyDocument, RequestDocument};
use super::template::{Member, Scope, Text, Tree, Unrendered, values};
use crate::http::request::{Request, Target, parse_url};
use crate::limits;

/// Everything but what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Headers that are Tally's to set: they authorise, frame the message or route it.
const OURS: [&str; 19] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method-override",
];

#[derive(Debug)]
enum Body {
    Json(Tree),
    Form(Vec<Member>),
}

/// How a request is made.
#[derive(Debug)]
pub(super) struct Plan {
    method: Method,
    /// The path between its slashes.
    segments: Vec<Text>,
    query: Vec<Member>,
    headers: Vec<(HeaderName, Text)>,
    body: Option<Body>,
}

type Wrong = (&'static str, String);

impl Plan {
    /// Checks it; an error names the member that is wrong.
    pub(super) fn new(
        source: &RequestDocument,
        common: &BTreeMap<String, String>,
    ) -> Result<Self, Wrong> {
        let method = match source.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            _ => return Err(("method", "one of GET, POST, PUT, PATCH and DELETE".to_owned())),
        };
        let mut headers: BTreeMap<String, (HeaderName, Text)> = BTreeMap::new();
        for (name, value) in common.iter().chain(&source.headers) {
            let wrong = |why: String| ("headers", why);
            let name = settable(name).map_err(wrong)?;
            let text = Text::new(value).map_err(wrong)?;
            headers.insert(name.to_string(), (name, text));
        }
        let plan = Self {
            segments: segments(&source.path).map_err(|why| ("path", why))?,
            query: Tree::members(source.query.iter()).map_err(|why| ("query", why))?,
            headers: headers.into_values().collect(),
            body: body(source.body.as_ref()).map_err(|why| ("body", why))?,
            method,
        };
        if plan.safe() && plan.body.is_some() {
            return Err(("body", "GET takes no body".to_owned()));
        }
        Ok(plan)
    }

    /// Whether the method only reads.
    pub(super) fn safe(&self) -> bool {
        self.method == Method::GET
    }

    /// What its templates read.
    pub(super) fn reads(&self) -> Vec<String> {
        let mut reads: Vec<String> = self.segments.iter().flat_map(Text::reads).collect();
        reads.extend(self.query.iter().flat_map(|member| member.tree.reads()));
        reads.extend(self.headers.iter().flat_map(|(_, text)| text.reads()));
        match &self.body {
            Some(Body::Json(tree)) => reads.extend(tree.reads()),
            Some(Body::Form(form)) => reads.extend(form.iter().flat_map(|m| m.tree.reads())),
            None => {}
        }
        reads
    }

    /// The request to the system at `base`.
    pub(super) fn build(
        &self,
        base: &Target,
        scope: &Scope,
        (timeout, max_bytes): (Duration, usize),
    ) -> Result<Request, Failure> {
        let target = self.target(base, scope)?;
        let mut headers = HeaderMap::new();
        for (name, text) in &self.headers {
            let text = text.render(scope).map_err(|why| unmade(&why))?;
            // The type itself lets bytes beyond ASCII through.
            let value = HeaderValue::from_str(&text).ok().filter(|_| text.is_ascii());
            let value = value.ok_or_else(|| {
                refused(format!("the header `{name}` would not be visible ASCII"))
            })?;
            headers.insert(name.clone(), value);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !headers.contains_key(header::USER_AGENT) {
            headers.insert(header::USER_AGENT, HeaderValue::from_static("tally/1"));
        }
        let (kind, body) = self.body(scope)?;
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if body.len() > limits::CONNECTOR_REQUEST_BYTES_MAX {
            return Err(refused("the request would be too large".to_owned()));
        }
        Ok(Request {
            method: self.method.clone(),
            target,
            headers,
            body: Bytes::from(body),
            timeout,
            max_bytes,
        })
    }

    fn target(&self, base: &Target, scope: &Scope) -> Result<Target, Failure> {
        let mut path = base.url.path().trim_end_matches('/').to_owned();
        for segment in &self.segments {
            path.push('/');
            match segment.fixed() {
                Some(text) => path.push_str(text),
                None => path.push_str(&encoded_segment(segment, scope)?),
            }
        }
        let query = values(&self.query, scope).map_err(|why| unmade(&why))?;
        let query = encoded_query(&query)?;
        let mut url = format!("{}{path}", origin(base));
        if !query.is_empty() {
            url.push('?');
            url.push_str(&query);
        }
        let target = parse_url(&url).and_then(Target::new)?;
        // What was built is what will be sent, and to nobody else.
        if target.origin() != base.origin() || target.url.path() != path {
            return Err(refused("the parameters would change where the request goes".to_owned()));
        }
        Ok(target)
    }

    fn body(&self, scope: &Scope) -> Result<(Option<&'static str>, Vec<u8>), Failure> {
        match &self.body {
            None => Ok((None, Vec::new())),
            Some(Body::Json(tree)) => {
                let value = tree.value(scope).map_err(|why| unmade(&why))?;
                Ok((Some("application/json; charset=utf-8"), value.to_string().into_bytes()))
            }
            Some(Body::Form(form)) => {
                let form = values(form, scope).map_err(|why| unmade(&why))?;
                let text = encoded_query(&form)?;
                Ok((Some("application/x-www-form-urlencoded"), text.into_bytes()))
            }
        }
    }
}

/// `scheme://authority` as URLs have it.
fn origin(base: &Target) -> String {
    format!("{}://{}", base.url.scheme(), base.authority())
}

fn body(source: Option<&BodyDocument>) -> Result<Option<Body>, String> {
    let Some(source) = source else { return Ok(None) };
    match (&source.json, &source.form) {
        (Some(json), None) => Ok(Some(Body::Json(Tree::new(json)?))),
        (None, Some(form)) => Ok(Some(Body::Form(Tree::members(form.iter())?))),
        _ => Err("either `json` or `form`".to_owned()),
    }
}

/// A path, split at those of its slashes that are in no expression.
fn segments(path: &str) -> Result<Vec<Text>, String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("a path begins with `/`".to_owned());
    };
    let mut parts = vec![String::new()];
    let mut inside = false;
    let mut before = ' ';
    for c in rest.chars() {
        match (before, c) {
            ('{', '{') => inside = true,
            ('}', '}') => inside = false,
            _ => {}
        }
        match (c, parts.last_mut()) {
            ('/', _) if !inside => parts.push(String::new()),
            (c, Some(last)) => last.push(c),
            _ => {}
        }
        before = c;
    }
    parts.iter().map(|part| segment(part)).collect()
}

fn segment(source: &str) -> Result<Text, String> {
    let text = Text::new(source)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    if let Some(wrong) = text.literals().find(|part| !part.bytes().all(plain)) {
        return Err(format!("`{wrong}` is no part of a path: no `?`, no `#`, no `%`"));
    }
    match text.fixed() {
        Some("" | "." | "..") => Err("no segment is empty, `.` or `..`".to_owned()),
        _ => Ok(text),
    }
}

/// A segment with values in it: they stay within it, whatever they are.
fn encoded_segment(segment: &Text, scope: &Scope) -> Result<String, Failure> {
    let text = segment.render(scope).map_err(|why| unmade(&why))?;
    if matches!(text.as_str(), "" | "." | "..") || text.chars().any(char::is_control) {
        let message = "a parameter would be no segment of a path: it is empty, `.`, `..` or has \
                       control characters";
        return Err(refused(message.to_owned()));
    }
    Ok(utf8_percent_encode(&text, ENCODED).to_string())
}

fn encoded_query(members: &Map<String, Value>) -> Result<String, Failure> {
    let mut pairs = Vec::with_capacity(members.len());
    for (name, value) in members {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            _ => return Err(refused(format!("`{name}` would be no single value"))),
        };
        let name = utf8_percent_encode(name, ENCODED);
        pairs.push(format!("{name}={}", utf8_percent_encode(&text, ENCODED)));
    }
    Ok(pairs.join("&"))
}

/// A header that a definition may set.
pub(super) fn settable(name: &str) -> Result<HeaderName, String> {
    let name = header_name(name)?;
    let text = name.as_str();
    let routes = ["x-forwarded-", "x-original-", "x-rewrite-", "proxy-"];
    if OURS.contains(&text) || routes.iter().any(|prefix| text.starts_with(prefix)) {
        return Err(format!("`{text}` is set by Tally: leave it out"));
    }
    Ok(name)
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header's name"))
}

fn unmade(why: &Unrendered) -> Failure {
    refused(format!("no request can be made of the parameters: {why}"))
}

fn refused(message: String) -> Failure {
    Failure::new(Category::Validation, "request_unmade", message)
}
