//! The way of a call: what is in doubt is looked up, what is expected is compared, what will be
//! overwritten is kept, and then one request changes something.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, StatusCode};
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::answer::{self, Judged, judge};
use super::auth::{Authority, Credentials, Tokens};
use super::definition::{Confirm, Operation, Read};
use super::instance::Instance;
use super::manifest::Offered;
use super::rules::Refusal;
use super::template::Scope;
use super::transport::{Answer, Guarded, Transport};
use crate::address::Resolver;
use crate::breaker::{self, Breakers};
use crate::grants::{self, ConnectorRule, Grants};
use crate::http::request::Request;
use crate::http::{Http, Progress};
use crate::limits;
use crate::tools::{Executed, Fault, Meta, Outcome, permit_failure};

/// What templates read of a call besides its parameters: the key that all its attempts share, and
/// a time before the first of them.
pub(super) const GIVEN: [&str; 3] = ["key", "since", "since_epoch"];

/// One attempt at one action.
pub struct ConnectorCall<'a> {
    /// The right to run it.
    pub permit: &'a Permit,
    /// The digest of the plan that is about to run, computed from what will run.
    pub plan_digest: Digest,
    /// The parameters as received.
    pub params: &'a RawJson,
    /// Now.
    pub now: Timestamp,
    /// Whether an earlier attempt was lost, so that nobody knows what became of it.
    pub in_doubt: bool,
    /// Whose instance it is.
    pub tenant: &'a str,
    /// The secrets of the tenant.
    pub credentials: &'a dyn Credentials,
}

impl std::fmt::Debug for ConnectorCall<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectorCall").field("permit", self.permit).finish_non_exhaustive()
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it came to.
    pub outcome: Outcome,
    /// Whether an attempt of unknown outcome can be followed by another one, which looks first.
    pub repeatable: bool,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, repeatable: false }
    }
}

fn failed(failure: Failure) -> Ended {
    Outcome::Failed(failure).into()
}

/// Carries out the calls of every tenant's instances.
pub struct Engine {
    rules: Vec<ConnectorRule>,
    resolver: Arc<dyn Resolver>,
    tls: tokio_rustls::TlsConnector,
    tokens: Tokens,
    breakers: Breakers,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(
        grants: &Grants,
        breaker: breaker::Settings,
        resolver: Arc<dyn Resolver>,
        tls: tokio_rustls::TlsConnector,
    ) -> Result<Self, grants::Error> {
        let rules = grants.connector_rules()?;
        let (tokens, breakers) = (Tokens::default(), Breakers::new(breaker));
        Ok(Self { rules, resolver, tls, tokens, breakers })
    }

    /// The circuits of the instances, by `<tenant>/<instance>`.
    pub fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// Runs one attempt. The permit comes first: nothing happens before it is found valid.
    pub async fn call(&self, tool: &Offered, call: ConnectorCall<'_>) -> Ended {
        if let Err(invalid) = call.permit.check(call.plan_digest, call.now) {
            return failed(permit_failure(invalid));
        }
        // Decided long ago, perhaps: what runs is checked again.
        if let Err(failure) = tool.validate(call.params) {
            return failed(failure);
        }
        let instance = tool.instance.as_ref();
        let Some(operation) = tool.operation() else {
            let message = "the connector has no such operation";
            return failed(Failure::new(Category::NotFound, "tool_not_found", message));
        };
        let deadline = Instant::now() + instance.definition.timeout;
        let turn = match instance.turn(deadline).await {
            Ok(turn) => turn,
            Err(failure) => return failed(failure),
        };
        let rules = self.rules.iter().filter(|rule| rule.is_for(call.tenant));
        let rules = rules.map(|rule| rule.rule.clone()).collect();
        let guarded = Guarded(Http::new(rules, self.resolver.clone(), self.tls.clone()));
        let watched = Watched {
            inner: &guarded,
            breakers: &self.breakers,
            key: format!("{}/{}", call.tenant, instance.name),
            operation,
            now: call.now,
        };
        let attempt = Attempt {
            transport: &watched,
            authority: Authority {
                tenant: call.tenant,
                instance,
                credentials: call.credentials,
                tokens: &self.tokens,
                now: call.now,
            },
            instance,
            key: call.permit.idempotency_key(),
            now: call.now,
            deadline,
        };
        let again = call.in_doubt || call.permit.attempt() > 1;
        let ended = attempt.run(operation, &call.params.to_value(), again).await;
        drop(turn);
        ended
    }
}

/// A transport that a circuit breaker watches.
struct Watched<'a> {
    inner: &'a dyn Transport,
    breakers: &'a Breakers,
    key: String,
    /// Whose rules say what an answer means.
    operation: &'a Operation,
    now: Timestamp,
}

#[async_trait]
impl Transport for Watched<'_> {
    async fn send(&self, request: &Request, progress: &Progress) -> Result<Answer, Fault> {
        let pass = self.breakers.enter(&self.key, self.now)?;
        let answered = self.inner.send(request, progress).await;
        let how = match &answered {
            Ok(answer) if answer.status.is_server_error() => breaker::Ended::Broken,
            // Some systems say so under another status.
            Ok(answer) if answer::is_broken(self.operation, answer, self.now) => {
                breaker::Ended::Broken
            }
            Ok(_) => breaker::Ended::Healthy,
            Err(Fault::Failed(failure) | Fault::Unknown(failure)) => match failure.category {
                Category::Network | Category::Timeout | Category::Upstream => {
                    breaker::Ended::Broken
                }
                // Nothing of it says how the system is.
                _ => return answered,
            },
        };
        pass.ended(how);
        answered
    }
}

/// One attempt at one operation, over whichever transport.
pub(super) struct Attempt<'a> {
    pub(super) transport: &'a dyn Transport,
    pub(super) authority: Authority<'a>,
    pub(super) instance: &'a Instance,
    /// The same for each attempt at the action.
    pub(super) key: String,
    pub(super) now: Timestamp,
    pub(super) deadline: Instant,
}

/// What was sent and what came back, in figures.
#[derive(Clone, Copy, Default)]
struct Figures {
    status: Option<StatusCode>,
    bytes_out: usize,
    bytes_in: usize,
}

impl Figures {
    fn meta(self) -> Meta {
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Meta {
            status: self.status.map(|status| status.as_u16()),
            bytes_out: bytes(self.bytes_out),
            bytes_in: bytes(self.bytes_in),
            ..Meta::default()
        }
    }
}

impl Attempt<'_> {
    pub(super) async fn run(&self, operation: &Operation, params: &Value, again: bool) -> Ended {
        let scope = Scope::default().with("params", params).with("call", &self.given());
        if let Some(confirm) = operation.confirm.as_ref().filter(|_| again) {
            match self.confirmed(confirm, &scope).await {
                Ok(Some(result)) => return executed(operation, &result, None, Figures::default()),
                Ok(None) => {}
                Err(failure) => {
                    return Ended { outcome: Outcome::Unknown(failure), repeatable: true };
                }
            }
        }
        let record = match &operation.record {
            None => None,
            Some(read) => match self.read(read, &scope).await {
                Ok(record) => Some(record),
                Err(failure) => return failed(failure),
            },
        };
        let mut prior = None;
        if let Some(record) = &record {
            let fields = operation.reverse.as_ref().and_then(|at| params.pointer(at));
            let expected = operation.expect.as_ref().and_then(|at| params.pointer(at));
            if let Some(ended) =
                written_before(operation, &scope, record, (fields, expected), again)
            {
                return ended;
            }
            if let Err(failure) = compare(expected, record) {
                return failed(failure);
            }
            prior = fields.and_then(|fields| pick(fields, record));
        }
        self.change(operation, scope, prior).await
    }

    /// The request that changes something, or the only one.
    async fn change(&self, operation: &Operation, scope: Scope, prior: Option<Value>) -> Ended {
        let mut figures = Figures::default();
        let exchanged = self.exchange(operation, &scope, &mut figures).await;
        let unsettled = |failure| match (operation.naturally(), &operation.confirm) {
            // Repeating it changes nothing more, so there is nothing to reconcile.
            (true, _) => failed(failure),
            (false, confirm) => {
                Ended { outcome: Outcome::Unknown(failure), repeatable: confirm.is_some() }
            }
        };
        let answer = match exchanged {
            Ok(answer) => answer,
            Err(Fault::Failed(failure)) => return failed(failure),
            Err(Fault::Unknown(failure)) => return unsettled(failure),
        };
        let failure = match judge(operation, &answer, scope.clone(), self.now) {
            Judged::Done(result) => return executed(operation, &result, prior.as_ref(), figures),
            Judged::Refused(Refusal { failure, unknown: false }) => return failed(failure),
            Judged::Refused(Refusal { failure, unknown: true }) | Judged::Unusable(failure) => {
                failure
            }
        };
        let Some(confirm) = operation.confirm.as_ref().filter(|_| !operation.naturally()) else {
            return unsettled(failure);
        };
        // The system has spoken, so what it did is there by now.
        match self.confirmed(confirm, &scope).await {
            Ok(Some(result)) => executed(operation, &result, None, figures),
            Ok(None) => failed(failure),
            Err(_) => unsettled(failure),
        }
    }

    /// The result of an earlier attempt, where its effect is there; none where it surely is not.
    async fn confirmed(&self, confirm: &Confirm, scope: &Scope) -> Result<Option<Value>, Failure> {
        let result = self.read(&confirm.read, scope).await?;
        let scope = scope.clone().with("result", &result);
        let holds = |text: &super::template::Text| {
            text.holds(&scope).map_err(|why| answer::invalid(&why.to_string()))
        };
        if holds(&confirm.found)? {
            return answer::made(&confirm.result, &scope).map(Some);
        }
        if holds(&confirm.certain)? {
            return Ok(None);
        }
        let message = "it cannot be told whether an earlier attempt was carried out";
        Err(Failure::new(Category::Upstream, "effect_unknown", message).retryable(false))
    }

    /// What a reading operation gives.
    async fn read(&self, read: &Read, scope: &Scope) -> Result<Value, Failure> {
        let operations = &self.instance.definition.operations;
        let Some(operation) = operations.get(&read.operation) else {
            return Err(answer::invalid("there is no such operation"));
        };
        let params = answer::made(&read.params, scope)?;
        operation.input_validator.check(&params)?;
        let scope = Scope::default().with("params", &params).with("call", &self.given());
        let exchanged = self.exchange(operation, &scope, &mut Figures::default()).await;
        let answer = exchanged.map_err(|fault| match fault {
            Fault::Failed(failure) | Fault::Unknown(failure) => failure,
        })?;
        match judge(operation, &answer, scope, self.now) {
            Judged::Done(result) => Ok(result),
            Judged::Refused(Refusal { failure, .. }) | Judged::Unusable(failure) => Err(failure),
        }
    }

    /// One request and its answer; a second one where its token had ended.
    async fn exchange(
        &self,
        operation: &Operation,
        scope: &Scope,
        figures: &mut Figures,
    ) -> Result<Answer, Fault> {
        let definition = &self.instance.definition;
        let mut anew = false;
        loop {
            let bounds = (self.left()?, definition.response_bytes);
            let mut request = operation.request.build(&self.instance.base, scope, bounds)?;
            if let Some(name) = &operation.idempotency {
                let value = HeaderValue::from_str(&self.key).map_err(|error| {
                    Failure::new(Category::Internal, "header_refused", error.to_string())
                })?;
                request.headers.insert(name.clone(), value);
            }
            let (authority, within) = (&self.authority, self.left()?);
            let authorised = authority.authorise(&mut request, self.transport, anew);
            tokio::time::timeout(within, authorised).await.map_err(|_| late(within))??;
            request.timeout = self.left()?;
            figures.bytes_out = request.body.len();
            let answer = self.transport.send(&request, &Progress::default()).await?;
            figures.status = Some(answer.status);
            figures.bytes_in = answer.body.len();
            if answer.status == StatusCode::UNAUTHORIZED && self.instance.scheme.renews() && !anew {
                // Refused, so not acted upon.
                anew = true;
                continue;
            }
            return Ok(answer);
        }
    }

    /// What is left of the attempt's time.
    fn left(&self) -> Result<Duration, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late(self.instance.definition.timeout)) } else { Ok(left) }
    }

    fn given(&self) -> Value {
        let since = since(&self.key, self.now);
        let at = OffsetDateTime::from_unix_timestamp(since).ok();
        let text = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
        json!({"key": self.key, "since": text, "since_epoch": since})
    }
}

fn late(within: Duration) -> Failure {
    let message = format!("no full answer within {} ms", within.as_millis());
    Failure::new(Category::Timeout, "timeout", message)
}

/// A time before the first attempt at an action, in seconds: its id says when it was made. Clocks
/// of other systems may be behind ours.
fn since(key: &str, now: Timestamp) -> i64 {
    const DIGITS: &str = "0123456789abcdefghjkmnpqrstvwxyz";
    let digits = key.rsplit('_').next().filter(|ulid| ulid.len() == 26);
    let digits = digits.and_then(|ulid| ulid.get(..10));
    let millis = digits.and_then(|digits| {
        digits
            .chars()
            .try_fold(0_i64, |sum, c| Some(sum * 32 + i64::try_from(DIGITS.find(c)?).ok()?))
    });
    let now = now.0.div_euclid(1_000_000);
    let day = Duration::from_secs(86_400).as_secs().cast_signed();
    let made = millis.map(|ms| ms / 1_000).filter(|made| *made <= now).unwrap_or(now - day);
    made - limits::CONNECTOR_CLOCK_SKEW.as_secs().cast_signed()
}

fn executed(
    operation: &Operation,
    result: &Value,
    prior: Option<&Value>,
    figures: Figures,
) -> Ended {
    let kept = answer::kept(result);
    let prior = prior.map(answer::kept).transpose();
    match (kept, prior) {
        (Ok(result), Ok(prior)) => {
            let (cost, meta) = (operation.cost, figures.meta());
            Outcome::Executed(Executed { result, cost, meta, prior, model: None }).into()
        }
        (Err(failure), _) | (_, Err(failure)) => match operation.naturally() {
            true => failed(failure),
            // It happened; only its result is unusable.
            false => Outcome::Unknown(failure).into(),
        },
    }
}

/// What has been written already by an attempt before this one: then there is nothing to do, and
/// what was there before is what was expected.
fn written_before(
    operation: &Operation,
    scope: &Scope,
    record: &Value,
    (fields, expected): (Option<&Value>, Option<&Value>),
    again: bool,
) -> Option<Ended> {
    let (written, fields) = (operation.written.as_ref()?, fields?.as_object()?);
    let same = |(name, value): (&String, &Value)| record.get(name) == Some(value);
    if !again || !fields.iter().all(same) {
        return None;
    }
    let prior = expected.and_then(|expected| pick(&Value::Object(fields.clone()), expected));
    let scope = scope.clone().with("record", record);
    let made = answer::made(written, &scope);
    let made = made.and_then(|made| answer::check(operation, &made).map(|()| made));
    Some(match made {
        Ok(result) => executed(operation, &result, prior.as_ref(), Figures::default()),
        Err(failure) => failed(failure),
    })
}

/// Whether the record is what it is expected to be. The failure names the fields and not what is
/// in them.
fn compare(expected: Option<&Value>, record: &Value) -> Result<(), Failure> {
    let Some(expected) = expected.and_then(Value::as_object) else { return Ok(()) };
    let differs = |(name, value): (&String, &Value)| record.get(name) != Some(value);
    let changed = expected.iter().filter(|(name, value)| differs((name, value)));
    let changed: Vec<String> = changed.map(|(name, _)| format!("`{name}`")).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the record is not what it was expected to be: {} changed: read it again",
        changed.join(", ")
    );
    Err(Failure::new(Category::Conflict, "record_changed", message))
}

/// What `record` has under the names of `fields`; none unless it has all of them.
fn pick(fields: &Value, record: &Value) -> Option<Value> {
    let picked = fields.as_object()?.keys();
    let picked = picked.map(|name| Some((name.clone(), record.get(name)?.clone())));
    picked.collect::<Option<Map<_, _>>>().map(Value::Object)
}
