//! What the headers of a request must be: where it comes from and goes to, and that they say what
//! the body says.
//!
//! Nothing is ever done by a header's word: the body decides, and a header that contradicts it
//! refuses the request.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;
use serde_json::value::RawValue;

use super::raw;
use super::revision::VERSION;

/// The header that repeats the method.
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// The header that repeats whom a request names.
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// What begins the names of headers that repeat arguments.
const PARAM: &str = "mcp-param-";
/// The property of a schema that says that an argument is repeated, and how.
const ANNOTATION: &str = "x-mcp-header";
/// How a value is written that is no plain header.
const ENCODED: (&str, &str) = ("=?base64?", "?=");
/// Depth of properties in a schema that are looked at.
const PROPERTIES_DEPTH_MAX: usize = 16;

/// From where, and to which names, requests may come: against DNS rebinding, where a page that
/// somebody looks at speaks to a server on their own machine under a name of its own.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Whether the server listens on this machine alone.
    loopback: bool,
    hosts: BTreeSet<String>,
    origins: BTreeSet<String>,
}

impl Doors {
    /// `url` is where the server listens, `public_url` where it is reached.
    pub(super) fn new(
        url: &str,
        public_url: Option<&str>,
        hosts: &[String],
        origins: &[String],
    ) -> Self {
        let mut doors = Self::default();
        for url in std::iter::once(url).chain(public_url) {
            if let Some(authority) =
                url.parse::<Uri>().ok().and_then(|uri| uri.into_parts().authority)
            {
                doors.hosts.insert(authority.as_str().to_ascii_lowercase());
                doors.origins.insert(url.to_ascii_lowercase());
            }
        }
        doors.loopback = host_of_url(url).is_some_and(|host| is_loopback(&host));
        doors.hosts.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        doors.origins.extend(origins.iter().map(|origin| origin.to_ascii_lowercase()));
        doors
    }

    /// Checks `Host` and `Origin`. A server that other machines reach checks the name only where
    /// the configuration names some: it is reached by names that it does not know.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
        let named = match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers.get(HOST).and_then(|host| host.to_str().ok()),
        };
        let named = named.map(str::to_ascii_lowercase);
        if self.loopback && !named.is_some_and(|named| self.is_ours(&named)) {
            return Err("this server does not go by that name: see `mcp.allowed_hosts`");
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let local = self.loopback && host_of_url(&origin).is_some_and(|host| is_loopback(&host));
        let named = origin.split_once("://").is_some_and(|(_, named)| self.hosts.contains(named));
        if local || named || self.origins.contains(&origin) {
            return Ok(());
        }
        Err("requests may not come from that origin: see `mcp.allowed_origins`")
    }

    /// A port that somebody forwards has another number; a name that is bound to us has not.
    fn is_ours(&self, named: &str) -> bool {
        let host = named.parse().ok().map(|authority| bare(&authority));
        self.hosts.contains(named)
            || host.is_some_and(|host| is_loopback(&host) || self.hosts.contains(&host))
    }
}

fn bare(authority: &http::uri::Authority) -> String {
    authority.host().to_ascii_lowercase()
}

fn host_of_url(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    uri.scheme_str()?;
    uri.authority().map(bare)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let ip = address.parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whether the client takes every one of `types`. One that says nothing takes all.
pub(super) fn accepts(headers: &HeaderMap, types: &[&str]) -> bool {
    if !headers.contains_key(ACCEPT) {
        return true;
    }
    let ranges: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    types.iter().all(|wanted| {
        let kind = wanted.split('/').next().unwrap_or_default();
        ranges.iter().any(|range| {
            let whole = range.strip_suffix("/*");
            range.eq_ignore_ascii_case(wanted) || *range == "*/*" || whole == Some(kind)
        })
    })
}

/// Whether the body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Checks the headers of the modern revision against the body: the revision that `_meta` names,
/// the method, and the tool, prompt or resource that it is about.
pub(super) fn repeat(
    headers: &HeaderMap,
    version: Option<&str>,
    method: &str,
    name: Option<&str>,
) -> Result<(), String> {
    let sent = plain(headers, &VERSION)?.ok_or("send the header MCP-Protocol-Version")?;
    if version.is_some_and(|version| version != sent) {
        return Err(differs("MCP-Protocol-Version", sent, version.unwrap_or_default()));
    }
    let sent = plain(headers, &METHOD)?.ok_or("send the header Mcp-Method")?;
    if sent != method {
        return Err(differs("Mcp-Method", sent, method));
    }
    let Some(name) = name else { return Ok(()) };
    let sent = decoded(plain(headers, &NAME)?.ok_or("send the header Mcp-Name")?)
        .ok_or("Mcp-Name is not well encoded")?;
    if sent == name { Ok(()) } else { Err(differs("Mcp-Name", &sent, name)) }
}

fn differs(header: &str, sent: &str, body: &str) -> String {
    format!("header mismatch: {header} is {sent:?}, but the body says {body:?}")
}

/// The one value of a header: visible ASCII, spaces and tabs.
fn plain<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(format!("the header {name} is there twice"));
    }
    first.map(|value| text(name.as_str(), value)).transpose()
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, String> {
    let text = value.to_str().map_err(|_| format!("the header {name} has invalid characters"))?;
    Ok(text.trim_matches([' ', '\t']))
}

/// The value that a header stands for.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix(ENCODED.0).and_then(|rest| rest.strip_suffix(ENCODED.1));
    let Some(inner) = inner else { return Some(Cow::Borrowed(text)) };
    let bytes = BASE64.decode(inner).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Checks the headers that repeat arguments, for a tool whose definition wants some.
pub(super) fn repeat_arguments(
    headers: &HeaderMap,
    definition: &str,
    arguments: Option<&RawValue>,
) -> Result<(), String> {
    // Few tools want any: the text tells at once.
    if !definition.contains(ANNOTATION) {
        return Ok(());
    }
    let schema = raw::member(definition, "inputSchema");
    let schema = schema.and_then(|schema| serde_json::from_str::<Value>(schema.get()).ok());
    let arguments = arguments.and_then(|text| serde_json::from_str::<Value>(text.get()).ok());
    let arguments = arguments.unwrap_or(Value::Null);
    match schema {
        Some(schema) => properties(headers, &schema, &arguments, 0),
        None => Ok(()),
    }
}

fn properties(
    headers: &HeaderMap,
    schema: &Value,
    arguments: &Value,
    depth: usize,
) -> Result<(), String> {
    let Some(properties_of) = schema.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    if depth == PROPERTIES_DEPTH_MAX {
        return Ok(());
    }
    for (name, schema) in properties_of {
        let value = arguments.get(name).unwrap_or(&Value::Null);
        if let Some(suffix) = schema.get(ANNOTATION).and_then(Value::as_str) {
            argument(headers, suffix, value)?;
        }
        properties(headers, schema, value, depth + 1)?;
    }
    Ok(())
}

fn argument(headers: &HeaderMap, suffix: &str, value: &Value) -> Result<(), String> {
    let shown = format!("Mcp-Param-{suffix}");
    // A suffix that is no header name cannot have been sent.
    let Ok(name) = HeaderName::from_bytes(format!("{PARAM}{suffix}").as_bytes()) else {
        return Ok(());
    };
    let sent = plain(headers, &name)?;
    let wanted = match value {
        Value::Null => {
            return sent.map_or(Ok(()), |sent| Err(differs(&shown, sent, "nothing")));
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let sent = sent.ok_or_else(|| format!("header mismatch: send the header {shown}"))?;
    let sent = decoded(sent).ok_or_else(|| format!("{shown} is not well encoded"))?;
    let same_number = || {
        let number = value.as_f64()?;
        Some(sent.parse::<f64>().ok()? == number)
    };
    if sent == wanted.as_str() || same_number() == Some(true) {
        return Ok(());
    }
    Err(differs(&shown, &sent, &wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        headers
    }

    #[test]
    fn doors() {
        let local = Doors::new(
            "http://127.0.0.1:8480",
            Some("https://tally.example.com"),
            &["box.lan".to_owned()],
            &["https://console.example.com".to_owned()],
        );
        let check = |doors: &Doors, host: &str, origin: Option<&str>, good: bool| {
            let mut list = vec![("host", host)];
            list.extend(origin.map(|origin| ("origin", origin)));
            let checked = doors.check(&Uri::from_static("/mcp"), &headers(&list));
            assert_eq!(checked.is_ok(), good, "{host} {origin:?} {checked:?}");
        };
        for host in ["127.0.0.1:8480", "localhost:9", "[::1]:8480", "LOCALHOST", "box.lan:8480"] {
            check(&local, host, None, true);
        }
        check(&local, "tally.example.com", None, true);
        for host in ["evil.example.com", "localhost.evil.com", "127.0.0.1.evil.com:8480", ""] {
            check(&local, host, None, false);
        }
        let host = "127.0.0.1:8480";
        for origin in [
            "http://127.0.0.1:8480",
            "http://localhost:3000",
            "https://tally.example.com",
            "https://console.example.com",
        ] {
            check(&local, host, Some(origin), true);
        }
        for origin in ["http://evil.example.com", "null", "http://localhost.evil.com", "localhost"]
        {
            check(&local, host, Some(origin), false);
        }
        let public = Doors::new("http://0.0.0.0:8480", None, &[], &[]);
        check(&public, "anything.example.com", None, true);
        check(&public, "anything.example.com", Some("http://localhost"), false);
    }

    #[test]
    fn media_types() {
        let both = ["application/json", "text/event-stream"];
        let check = |accept: &str, good: bool| {
            assert_eq!(accepts(&headers(&[("accept", accept)]), &both), good, "{accept}");
        };
        assert!(accepts(&HeaderMap::new(), &both));
        check("application/json, text/event-stream", true);
        check("text/event-stream;q=0.5,application/json; charset=utf-8", true);
        check("*/*", true);
        check("application/*, text/*", true);
        check("application/json", false);
        check("text/event-stream", false);
        check("text/html", false);
    }

    #[test]
    fn headers_repeat_the_body() {
        let check = |list: &[(&str, &str)], name: Option<&str>, good: bool| {
            let mut all = vec![("mcp-protocol-version", "2026-07-28")];
            all.extend(list);
            let checked = repeat(&headers(&all), Some("2026-07-28"), "tools/call", name);
            assert_eq!(checked.is_ok(), good, "{list:?} {checked:?}");
        };
        let method = ("mcp-method", "tools/call");
        check(&[method, ("mcp-name", "a")], Some("a"), true);
        check(&[method, ("mcp-name", "  a  ")], Some("a"), true);
        check(&[method, ("mcp-name", "=?base64?w6k=?=")], Some("é"), true);
        check(&[method, ("mcp-name", "=?base64?*?=")], Some("é"), false);
        check(&[method, ("mcp-name", "A")], Some("a"), false);
        check(&[method, ("mcp-name", "a"), ("mcp-name", "b")], Some("a"), false);
        check(&[method], Some("a"), false);
        check(&[method], None, true);
        check(&[("mcp-method", "TOOLS/CALL")], None, false);
        check(&[], None, false);
        assert!(repeat(&headers(&[method]), None, "tools/call", None).is_err());
    }

    #[test]
    fn headers_repeat_arguments() {
        let definition = r#"{"inputSchema":{"properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "in":{"properties":{"n":{"type":"integer","x-mcp-header":"N"}}},"q":{}}}}"#;
        let check = |list: &[(&str, &str)], arguments: &str, good: bool| {
            let arguments: Box<RawValue> = RawValue::from_string(arguments.to_owned()).unwrap();
            let checked = repeat_arguments(&headers(list), definition, Some(&arguments));
            assert_eq!(checked.is_ok(), good, "{list:?} {arguments} {checked:?}");
        };
        check(&[], r#"{"q":"x"}"#, true);
        check(&[("Mcp-Param-Region", "eu")], r#"{"region":"eu"}"#, true);
        check(&[("Mcp-Param-Region", "=?base64?ZXU=?=")], r#"{"region":"eu"}"#, true);
        check(&[("Mcp-Param-Region", "us")], r#"{"region":"eu"}"#, false);
        check(&[("Mcp-Param-Region", "eu")], r#"{"region":null}"#, false);
        check(&[], r#"{"region":"eu"}"#, false);
        check(&[("Mcp-Param-N", "42.0")], r#"{"in":{"n":42}}"#, true);
        check(&[("Mcp-Param-N", "43")], r#"{"in":{"n":42}}"#, false);
        check(&[("Mcp-Param-Other", "x")], "{}", true);
    }
}
