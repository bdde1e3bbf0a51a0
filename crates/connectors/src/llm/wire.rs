//! One request to a provider and its answer, whole or as a stream.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use kernel::failure::{Category, Failure};
use kernel::values::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use super::answer::{self, Answer};
use super::ask::Ask;
use super::config::Form;
use super::meter::{Bound, Meter};
use super::{Provider, anthropic};
use crate::http::answer::retry_after;
use crate::http::request::Request;
use crate::http::wire::{self, Exchange};
use crate::http::{Progress, address_refused};
use crate::limits;
use crate::mcp::sse::Reader;
use crate::tools::Fault;
use crate::{address, address::Refused};

/// Sends `body` and reads the answer. `meter` knows at any time what may have to be paid for.
pub(super) async fn exchange(
    llm: &super::Llm,
    ask: &Ask<'_>,
    body: String,
    key: Option<&Zeroizing<String>>,
    (now, bound): (Timestamp, Bound),
    meter: &mut Meter,
) -> Result<Answer, Failure> {
    let provider = ask.provider;
    let request = request(provider, &ask.model, body, key)?;
    let progress = meter.begin(bound);
    meter.bytes_out = meter.bytes_out.saturating_add(bytes(request.body.len()));
    let within = provider.config.first_byte();
    let sent = tokio::time::timeout(within, send(llm, provider, &request, &progress)).await;
    let exchange = match sent {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(failure)) => return Err(failure),
        Err(_) => return Err(silent("no answer began", within)),
    };
    let Exchange { response, connection } = exchange;
    let (head, content) = response.into_parts();
    let mut content = Content { body: content, idle: provider.config.idle(), taken: 0 };
    let answered = match head.status {
        StatusCode::OK if ask.stream => stream(&mut content, ask, meter).await,
        StatusCode::OK => whole(&mut content, provider, meter).await,
        status => {
            // Nobody charges for a request that was refused.
            meter.free();
            Err(refused(status, &head.headers, &mut content, now).await)
        }
    };
    meter.bytes_in = meter.bytes_in.saturating_add(bytes(content.taken));
    drop(connection);
    answered
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn request(
    provider: &Provider,
    model: &str,
    body: String,
    key: Option<&Zeroizing<String>>,
) -> Result<Request, Failure> {
    let mut headers = HeaderMap::new();
    let fixed = [
        (header::ACCEPT_ENCODING, "identity"),
        (header::CONTENT_TYPE, "application/json"),
        (header::USER_AGENT, "tally/1"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if provider.config.form == Form::Anthropic {
        let name = HeaderName::from_static("anthropic-version");
        headers.insert(name, HeaderValue::from_static(anthropic::VERSION));
    }
    if let Some(key) = key {
        let (name, value) = match provider.config.form {
            Form::Anthropic => (HeaderName::from_static("x-api-key"), (*key).clone()),
            Form::AzureOpenai => (HeaderName::from_static("api-key"), (*key).clone()),
            Form::Openai | Form::OpenaiResponses => {
                (header::AUTHORIZATION, Zeroizing::new(format!("Bearer {}", key.as_str())))
            }
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            let message = "the secret with the provider's key is not printable ASCII";
            Failure::new(Category::Auth, "provider_auth_failed", message)
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(Request {
        method: Method::POST,
        target: provider.config.place(&provider.target, model),
        headers,
        body: Bytes::from(body),
        timeout: provider.config.total(),
        max_bytes: limits::LLM_ANSWER_BYTES_MAX,
    })
}

async fn send(
    llm: &super::Llm,
    provider: &Provider,
    request: &Request,
    progress: &Progress,
) -> Result<Exchange, Failure> {
    let target = &provider.target;
    let (host, port, private) = (&target.host, target.port, provider.rule.private);
    let found = address::allowed(llm.resolver.as_ref(), host, port, private).await;
    let addresses = found.map_err(|refused| match refused {
        Refused::Address => address_refused(target),
        Refused::LookUp(why) => {
            let message = format!("no address found for {host}: {why}");
            Failure::new(Category::Network, "dns_failed", message)
        }
    })?;
    let sent = wire::exchange(&llm.tls, request, &addresses, progress).await;
    sent.map_err(|fault| match fault {
        Fault::Failed(failure) | Fault::Unknown(failure) => failure,
    })
}

/// The body of an answer, which must go on and end.
struct Content {
    body: Incoming,
    idle: Duration,
    taken: usize,
}

impl Content {
    /// The next bytes of it; none at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let frame = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(cut()),
                Err(_) => return Err(silent("the answer paused", self.idle)),
            };
            let Ok(data) = frame.into_data() else { continue };
            self.taken = self.taken.saturating_add(data.len());
            if self.taken > limits::LLM_ANSWER_BYTES_MAX {
                return Err(too_long());
            }
            return Ok(Some(data));
        }
    }

    /// All of it.
    async fn all(&mut self) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(data) = self.next().await? {
            all.extend_from_slice(&data);
        }
        Ok(all)
    }
}

async fn whole(
    content: &mut Content,
    provider: &Provider,
    meter: &mut Meter,
) -> Result<Answer, Failure> {
    let all = content.all().await?;
    let value: Value = serde_json::from_slice(&all).map_err(|_| no_answer("it is no JSON"))?;
    if !value.is_object() {
        return Err(no_answer("it is no JSON object"));
    }
    let answer = provider.read(&value);
    meter.settle(answer.usage);
    Ok(answer)
}

/// Reads a stream, and cuts it off where the model writes more than it was asked for: what it
/// goes on to write would have to be paid for.
async fn stream(
    content: &mut Content,
    ask: &Ask<'_>,
    meter: &mut Meter,
) -> Result<Answer, Failure> {
    let mut reader = Reader::bounded(limits::LLM_EVENT_BYTES_MAX);
    let mut answer = Answer::default();
    while let Some(data) = content.next().await? {
        for event in reader.feed(&data).map_err(|_| too_long())? {
            if event.data.is_empty() {
                continue;
            }
            if event.data == b"[DONE]" {
                answer.ended = true;
                continue;
            }
            let value: Value = serde_json::from_slice(&event.data)
                .map_err(|_| no_answer("an event of its stream is no JSON"))?;
            if value.get("error").is_some_and(|error| !error.is_null()) {
                return Err(broken(&value));
            }
            ask.provider.event(&mut answer, &value);
            let least = answer.output_at_least();
            if least > ask.max_tokens {
                meter.overran(least);
                let message = format!(
                    "the model wrote at least {least} tokens where {} were asked for: the stream \
                     was cut off",
                    ask.max_tokens
                );
                return Err(Failure::new(Category::Permanent, "model_overran", message));
            }
        }
    }
    if !answer.ended || answer.finish.is_none() {
        return Err(cut());
    }
    meter.settle(answer.usage);
    Ok(answer)
}

/// An error in the middle of a stream.
fn broken(value: &Value) -> Failure {
    let status = match answer::text(value, "/error/type") {
        "rate_limit_error" => 429,
        "invalid_request_error" => 400,
        _ => 500,
    };
    answer::refusal(status, value)
}

/// Why the provider refused a request.
async fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    content: &mut Content,
    now: Timestamp,
) -> Failure {
    if status.is_redirection() || status.is_success() || status.is_informational() {
        return no_answer(&format!("its status is {status}"));
    }
    // What it says is of help where there is something; its status says enough where not.
    let all = content.all().await.unwrap_or_default();
    let error = serde_json::from_slice(&all).unwrap_or(Value::Null);
    let failure = answer::refusal(status.as_u16(), &error);
    let wait = headers.get("retry-after-ms").and_then(|ms| ms.to_str().ok()?.parse().ok());
    let most = limits::RETRY_AFTER_MAX.as_secs().saturating_mul(1_000);
    let wait = wait.map(|ms: u64| ms.min(most)).or_else(|| retry_after(headers, now));
    match wait {
        Some(ms) if failure.retryable => failure.retry_after_ms(ms),
        _ => failure,
    }
}

pub(super) fn silent(what: &str, within: Duration) -> Failure {
    let message = format!("{what} within {} ms", within.as_millis());
    Failure::new(Category::Timeout, "timeout", message)
}

fn cut() -> Failure {
    let message = "the connection was lost before the answer was complete";
    Failure::new(Category::Network, "connection_lost", message)
}

fn too_long() -> Failure {
    let message = "the provider's answer is longer than Tally takes";
    Failure::new(Category::Permanent, "answer_too_long", message)
}

fn no_answer(why: &str) -> Failure {
    let message = format!("the provider's answer is not of its form: {why}");
    Failure::new(Category::Upstream, "answer_invalid", message).retryable(false)
}
