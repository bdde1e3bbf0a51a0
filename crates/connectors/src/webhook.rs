//! `webhook.send`: JSON to a granted URL, signed by Standard Webhooks (standardwebhooks.com, 1.0).
//!
//! The operator grants a receiver together with the name of the secret that signs for it: an agent
//! that could choose the secret could have anything signed for another receiver.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::time::Duration;
use url::Host;
use zeroize::Zeroizing;

use crate::grants::Rule;
use crate::http::Http;
use crate::http::request::{Request, Target, parse_url};
use crate::limits;
use crate::mcp::Secrets;
use crate::tools::{Context, Done, Fault};

/// What a secret in text begins with.
const PREFIX: &str = "whsec_";
/// Bytes that a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    url: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    timeout_ms: Option<u64>,
}

/// Checks what the schema cannot say of the parameters.
pub(crate) fn check(params: &RawJson) -> Result<(), Failure> {
    request(params).map(|_| ())
}

/// A receiver that is granted, and the secret that signs for it.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) rule: Rule,
    pub(crate) secret: String,
}

/// Sends webhooks.
#[derive(Debug)]
pub(crate) struct Webhooks {
    http: Http,
    receivers: Vec<Receiver>,
}

impl Webhooks {
    pub(crate) fn new(http: Http, receivers: Vec<Receiver>) -> Self {
        Self { http, receivers }
    }

    pub(crate) async fn send(
        &self,
        params: &RawJson,
        idempotent: bool,
        context: &Context<'_>,
    ) -> Result<Done, Fault> {
        let mut request = request(params)?;
        let secret = self.secret(&request.target, context.secrets)?;
        let id = &context.idempotency_key;
        let at = context.now.0.div_euclid(1_000_000);
        sign(&mut request.headers, &secret, id, at, &request.body)?;
        let done = self.http.send(request, idempotent, context).await?;
        match done.meta.status {
            Some(status @ 200..=299) => {
                let result = json!({"status": status, "webhook_id": id}).to_string();
                Ok(Done { result, meta: done.meta })
            }
            status => {
                let status = status.unwrap_or_default();
                let message = format!("the receiver answered {status}");
                Err(Failure::new(Category::Permanent, "webhook_refused", message).into())
            }
        }
    }

    /// The secret that signs for `target`: of the grant that names it most exactly.
    fn secret(
        &self,
        target: &Target,
        secrets: &dyn Secrets,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let covers =
            |one: &&Receiver| one.rule.covers(&target.host, target.port, target.scheme.port());
        let exact = |one: &&Receiver| one.rule.names(&target.host);
        let covering = || self.receivers.iter().filter(covers);
        let found = covering().find(exact).or_else(|| covering().next());
        let receiver = found.ok_or_else(|| not_granted(&target.host, target.port))?;
        decode(&receiver.secret, &secrets.reveal(&receiver.secret)?)
    }
}

fn not_granted(host: &Host, port: u16) -> Failure {
    let message = format!("no grant covers {host} port {port}: add it to grants.webhook");
    Failure::new(Category::Permission, "host_not_granted", message)
}

fn request(params: &RawJson) -> Result<Request, Failure> {
    let params: Params<'_> = serde_json::from_str(params.as_str())
        .map_err(|e| Failure::new(Category::Validation, "params_invalid", e.to_string()))?;
    let payload = params.payload.get();
    if payload.len() > limits::WEBHOOK_BYTES_MAX {
        let message = format!("payload: at most {} bytes", limits::WEBHOOK_BYTES_MAX);
        return Err(Failure::new(Category::Validation, "payload_too_large", message));
    }
    let target = Target::new(parse_url(&params.url)?)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("tally/1"));
    let timeout = params.timeout_ms.map_or(limits::HTTP_TIMEOUT, Duration::from_millis);
    Ok(Request {
        method: Method::POST,
        target,
        headers,
        body: Bytes::copy_from_slice(payload.as_bytes()),
        timeout: timeout.min(limits::HTTP_TIMEOUT),
        max_bytes: limits::WEBHOOK_ANSWER_BYTES_MAX,
    })
}

/// The bytes of a secret. Its text is not said again.
fn decode(name: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bytes = text.trim().strip_prefix(PREFIX).and_then(|rest| STANDARD.decode(rest).ok());
    let bytes = bytes.map(Zeroizing::new).filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
    bytes.ok_or_else(|| {
        let message = format!("secret `{name}`: must be whsec_ and the base64 of 24 to 64 bytes");
        Failure::new(Category::Permanent, "secret_invalid", message)
    })
}

/// Signs `body` as the message `id`, sent at `at` (seconds).
fn sign(
    headers: &mut HeaderMap,
    secret: &[u8],
    id: &str,
    at: i64,
    body: &[u8],
) -> Result<(), Failure> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut signed = hmac::Context::with_key(&key);
    signed.update(format!("{id}.{at}.").as_bytes());
    signed.update(body);
    let signature = format!("v1,{}", STANDARD.encode(signed.sign().as_ref()));
    let own = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signature),
    ];
    for (name, value) in own {
        let value = HeaderValue::from_str(&value)
            .map_err(|e| Failure::new(Category::Internal, "header_refused", e.to_string()))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let secret = decode("hooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut headers = HeaderMap::new();
        let body = br#"{"test": 2432232314}"#;
        sign(&mut headers, &secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap();
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_no_webhooks_is_refused_and_not_told() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for text in ["", "hunter2hunter2hunter2hunter2", "whsec_", "whsec_%%%", &short, &long] {
            let failure = decode("hooks", text).unwrap_err();
            assert_eq!(failure.code, "secret_invalid");
            assert!(text.is_empty() || !failure.message.contains(text) || text == "whsec_");
        }
        assert!(decode("hooks", &format!(" whsec_{}\n", STANDARD.encode([7; 24]))).is_ok());
    }
}
