//! How a simulator calls back, and how the demo calls it: on this machine alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// An answer that takes longer counts as none.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) kind: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// Whether a URL names this machine, which is the only one that a simulator calls.
pub(super) fn is_local(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    uri.scheme_str() == Some("http") && ["127.0.0.1", "localhost", "[::1]"].contains(&host)
}

impl Call {
    /// A document to be posted.
    pub(crate) fn post(url: String, body: &Value) -> Self {
        let (method, kind) = (Method::POST, "application/json");
        Self { method, url, kind, headers: Vec::new(), body: body.to_string() }
    }

    /// A document to be read.
    pub(crate) fn get(url: String) -> Self {
        let (method, kind) = (Method::GET, "application/json");
        Self { method, url, kind, headers: Vec::new(), body: String::new() }
    }

    /// Sends it. The answer is its status and its text; the error says why there is none.
    pub(crate) async fn send(&self) -> Result<(u16, String), String> {
        if !is_local(&self.url) {
            return Err("a simulator calls this machine alone".to_owned());
        }
        let request = Request::builder().method(&self.method).uri(&self.url);
        let mut request = request.header("content-type", self.kind);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let body = Full::new(Bytes::from(self.body.clone()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let answer = async {
            let response = client.request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let answered = tokio::time::timeout(ANSWER_TIME, answer).await;
        answered.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// HMAC-SHA256 as hex.
pub(super) fn signature(secret: &str, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

/// Bytes as hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    now_us() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called() {
        for url in ["http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]:8/x"] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "https://127.0.0.1/x",
            "http://127.0.0.1.example.com/x",
            "http://example.com/",
            "http://localhost@example.com/",
            "http://localhost:1@example.com/",
            "",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }

    /// RFC 4231, case 2.
    #[test]
    fn the_signature_is_hmac_sha256() {
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature("Jefe", "what do ya want for nothing?"), known);
    }
}
