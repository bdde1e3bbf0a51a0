//! Recorded exchanges: what a definition asks of its system, what that answered, and what has to
//! come of it. They are replayed through the engine itself, without any network.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use kernel::failure::{Category, Failure};
use kernel::values::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::auth::{Authority, Credentials, Tokens};
use super::call::{Attempt, Ended};
use super::definition::Definition;
use super::document;
use super::error::Error;
use super::instance::{Instance, InstanceConfig};
use super::transport::{Answer, Transport};
use crate::http::Progress;
use crate::http::request::Request;
use crate::mcp::Secrets;
use crate::tools::{Fault, Outcome as ToolOutcome};

/// When every recording happens: 2026-11-21T00:00:00Z.
const NOW: Timestamp = Timestamp(1_795_219_200_000_000);
/// The key of its action, made at that time.
const KEY: &str = "act_01m7xpe6000000000000000000";
/// Where the system is where a definition does not say.
const BASE: &str = "https://system.example";

/// A file of exchanges.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    exchanges: Vec<Exchange>,
    #[serde(default)]
    refusals: Vec<Refused>,
}

/// One call, from its parameters to what came of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Exchange {
    name: String,
    operation: String,
    params: Value,
    /// Which attempt it is, from 1.
    #[serde(default = "first")]
    attempt: u32,
    /// The way of authorising; the first where none is named.
    #[serde(default)]
    auth: String,
    #[serde(default)]
    steps: Vec<Step>,
    result: Option<Value>,
    prior: Option<Value>,
    failure: Option<Expected>,
    /// Whether nobody knows what became of it.
    #[serde(default)]
    unknown: bool,
}

fn first() -> u32 {
    1
}

/// An answer that refuses what the last step of an operation's first exchange asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    /// Of which operations; of all that are tools where none is named.
    #[serde(default)]
    of: Vec<String>,
    answer: AnswerDocument,
    failure: Expected,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    request: Asked,
    /// None where the connection broke.
    answer: Option<AnswerDocument>,
}

/// What is asked. Only headers that are named are compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    method: String,
    path: String,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    form: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerDocument {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    text: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expected {
    code: String,
    category: Category,
    retryable: bool,
    retry_after_ms: Option<u64>,
}

/// What a replayed exchange came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it is called.
    pub name: String,
    /// Of which operation.
    pub operation: String,
    /// The failure that came of it as it should.
    pub failure: Option<String>,
    /// Why it is not as it should be.
    pub problem: Option<String>,
}

/// The exchanges of a text: of a definition that has some, or of a file beside one.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    exchanges: Vec<Exchange>,
    refusals: Vec<Refused>,
}

impl Exchanges {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// The same and those of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.exchanges.extend(other.exchanges);
        self.refusals.extend(other.refusals);
        self
    }
}

/// Reads the exchanges of a definition, or those of a file of kind `ConnectorExchanges`.
pub fn exchanges_of(text: &str) -> Result<Exchanges, Error> {
    #[derive(Deserialize)]
    struct Kind {
        kind: Option<String>,
    }
    let Kind { kind } = document::read(text)?;
    if kind.as_deref() == Some("ConnectorExchanges") {
        let File { exchanges, refusals, .. } = document::read(text)?;
        return Ok(Exchanges { exchanges, refusals });
    }
    let document: document::Document = document::read(text)?;
    Ok(Exchanges { exchanges: document.exchanges, refusals: Vec::new() })
}

/// Replays every exchange.
pub async fn replay(definition: &Arc<Definition>, all: &Exchanges) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for exchange in &all.exchanges {
        outcomes.push(one(definition, exchange).await);
    }
    for refused in &all.refusals {
        let named = |name: &str| refused.of.is_empty() || refused.of.iter().any(|of| of == name);
        for operation in definition.operations().filter(|operation| named(&operation.name)) {
            outcomes.push(refusal(definition, all, &operation.name, refused).await);
        }
    }
    outcomes
}

/// The first exchange of the operation that succeeds, with another answer at its end.
async fn refusal(
    definition: &Arc<Definition>,
    all: &Exchanges,
    operation: &str,
    refused: &Refused,
) -> Outcome {
    let name = format!("{operation}: {} → {}", refused.answer.status, refused.failure.code);
    let good =
        |one: &&Exchange| one.operation == operation && one.result.is_some() && one.attempt == 1;
    let Some(mut exchange) = all.exchanges.iter().find(good).cloned() else {
        let problem = Some("the operation has no exchange that succeeds".to_owned());
        return Outcome { name, operation: operation.to_owned(), failure: None, problem };
    };
    if let Some(last) = exchange.steps.last_mut() {
        last.answer = Some(refused.answer.clone());
    }
    (exchange.name, exchange.result, exchange.prior) = (name, None, None);
    exchange.failure = Some(refused.failure.clone());
    // Whether it is known what became of it is for the rules to say.
    let known = Exchange { unknown: false, ..exchange.clone() };
    let outcome = one(definition, &known).await;
    match outcome.problem {
        Some(_) => one(definition, &Exchange { unknown: true, ..exchange }).await,
        None => outcome,
    }
}

async fn one(definition: &Arc<Definition>, exchange: &Exchange) -> Outcome {
    let failure = exchange.failure.as_ref().map(|failure| failure.code.clone());
    let problem = played(definition, exchange).await.err();
    let (name, operation) = (exchange.name.clone(), exchange.operation.clone());
    Outcome { name, operation, failure, problem }
}

async fn played(definition: &Arc<Definition>, exchange: &Exchange) -> Result<(), String> {
    let operation = definition.operations.get(&exchange.operation);
    let operation = operation.ok_or("there is no such operation")?;
    let instance = instance(definition, &exchange.auth)?;
    operation.input_validator.check(&exchange.params).map_err(|failure| failure.message)?;
    let recorded = Recorded::new(&exchange.steps);
    let tokens = Tokens::default();
    let attempt = Attempt {
        transport: &recorded,
        authority: Authority {
            tenant: "test",
            instance: &instance,
            credentials: &Shown,
            tokens: &tokens,
            now: NOW,
        },
        instance: &instance,
        key: KEY.to_owned(),
        now: NOW,
        deadline: Instant::now() + definition.timeout,
    };
    let ended = attempt.run(operation, &exchange.params, exchange.attempt > 1).await;
    recorded.done()?;
    compare(exchange, ended)
}

fn instance(definition: &Arc<Definition>, auth: &str) -> Result<Instance, String> {
    let mut ways = definition.auth();
    let way = match auth {
        "" => ways.next(),
        auth => ways.find(|(name, _)| *name == auth),
    };
    let (auth, roles) = way.ok_or_else(|| format!("auth: there is no `{auth}`"))?;
    let credentials = roles.iter().map(|role| ((*role).to_owned(), format!("test-{role}")));
    let config = InstanceConfig {
        base_url: definition.base_url.clone().unwrap_or_else(|| BASE.to_owned()),
        auth: auth.to_owned(),
        credentials: credentials.collect(),
        in_flight: 0,
    };
    Instance::new("test", definition.clone(), config).map_err(|error| error.to_string())
}

fn compare(exchange: &Exchange, ended: Ended) -> Result<(), String> {
    let (failure, unknown) = match ended.outcome {
        ToolOutcome::Executed(executed) => {
            let Some(expected) = &exchange.result else {
                return Err("it succeeds, and should not".to_owned());
            };
            same("result", expected, &executed.result.to_value())?;
            let prior = executed.prior.map(|prior| prior.to_value());
            return match (&exchange.prior, prior) {
                (Some(expected), Some(prior)) => same("prior", expected, &prior),
                (Some(_), None) => Err("what was there before is not kept".to_owned()),
                (None, _) => Ok(()),
            };
        }
        ToolOutcome::Failed(failure) => (failure, false),
        ToolOutcome::Charged(charged) => (charged.failure, false),
        ToolOutcome::Unknown(failure) => (failure, true),
    };
    let got = Expected {
        code: failure.code,
        category: failure.category,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
    };
    match &exchange.failure {
        Some(expected) if *expected != got => {
            Err(format!("the failure is {got:?}, and should be {expected:?}"))
        }
        Some(_) if exchange.unknown != unknown => {
            Err(format!("unknown is {unknown}, and should be {}", exchange.unknown))
        }
        Some(_) => Ok(()),
        None => Err(format!("it fails: {} ({})", failure.message, got.code)),
    }
}

fn same(what: &str, expected: &Value, got: &Value) -> Result<(), String> {
    match expected == got {
        true => Ok(()),
        false => Err(format!("{what} is {got}, and should be {expected}")),
    }
}

/// Secrets whose values are their names.
struct Shown;

impl Secrets for Shown {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        Ok(Zeroizing::new(name.to_owned()))
    }
}

#[async_trait]
impl Credentials for Shown {
    async fn replace(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}

/// Answers as was recorded, and takes note of the first request that is another one.
struct Recorded {
    steps: Mutex<VecDeque<Step>>,
    problem: Mutex<Option<String>>,
}

impl Recorded {
    fn new(steps: &[Step]) -> Self {
        let steps = Mutex::new(steps.iter().cloned().collect());
        Self { steps, problem: Mutex::default() }
    }

    fn say(&self, problem: String) -> Fault {
        let mut said = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        said.get_or_insert(problem);
        lost().into()
    }

    /// What was wrong with the requests; requests that did not come as well.
    fn done(&self) -> Result<(), String> {
        if let Some(problem) = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(problem);
        }
        match self.steps.lock().unwrap_or_else(PoisonError::into_inner).front() {
            Some(step) => {
                Err(format!("{} {} is not asked", step.request.method, step.request.path))
            }
            None => Ok(()),
        }
    }
}

fn lost() -> Failure {
    Failure::new(Category::Network, "connection_lost", "the recording ends here")
}

#[async_trait]
impl Transport for Recorded {
    async fn send(&self, request: &Request, progress: &Progress) -> Result<Answer, Fault> {
        progress.sending();
        let next = self.steps.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        // A look after a refusal that says nothing of the effect need not be recorded.
        let Some(step) = next else { return Err(lost().into()) };
        differs(&step.request, request).map_err(|problem| self.say(problem))?;
        let Some(answer) = step.answer else { return Err(Fault::Unknown(lost())) };
        let status = StatusCode::from_u16(answer.status);
        let status = status.map_err(|_| self.say("an answer has no status".to_owned()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &answer.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            match (name, HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                _ => return Err(self.say("an answer has a malformed header".to_owned())),
            }
        }
        let body = match (answer.body, answer.text) {
            (Some(json), _) => json.to_string().into_bytes(),
            (None, text) => text.unwrap_or_default().into_bytes(),
        };
        let cut = body.len() > request.max_bytes;
        Ok(Answer { status, headers, body, cut })
    }
}

/// Why `request` is not what was recorded, where it is not.
fn differs(asked: &Asked, request: &Request) -> Result<(), String> {
    let url = &request.target.url;
    let line = format!("{} {}", request.method, url.path());
    let expected = format!("{} {}", asked.method, asked.path);
    if line != expected {
        return Err(format!("the request is {line}, and should be {expected}"));
    }
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    if query != asked.query {
        return Err(format!("{line}: the query is {query:?}, and should be {:?}", asked.query));
    }
    for (name, value) in &asked.headers {
        let got = request.headers.get(name).and_then(|value| value.to_str().ok());
        if got != Some(value) {
            return Err(format!("{line}: `{name}` is {got:?}, and should be {value:?}"));
        }
    }
    if let Some(form) = &asked.form {
        let got: BTreeMap<String, String> =
            url::form_urlencoded::parse(&request.body).into_owned().collect();
        return match got == *form {
            true => Ok(()),
            false => Err(format!("{line}: the form is {got:?}, and should be {form:?}")),
        };
    }
    let body = match request.body.is_empty() {
        true => None,
        false => Some(serde_json::from_slice(&request.body).unwrap_or(json!("no JSON"))),
    };
    match body == asked.body {
        true => Ok(()),
        false => Err(format!("{line}: the body is {body:?}, and should be {:?}", asked.body)),
    }
}
