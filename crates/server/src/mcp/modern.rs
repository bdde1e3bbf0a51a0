//! The modern revision: every request stands by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::response::Response;
use connectors::mcp::RpcError;
use http::{HeaderMap, StatusCode};
use kernel::json::RawJson;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::act::{self, Act, Running};
use super::back::{Attendance, InRequest, Outgoing};
use super::governed::{self, Ask, Live, Outcome};
use super::headers;
use super::limits;
use super::lists::{self, Kind, Lister};
use super::parked::Waiting;
use super::revision::{Era, MODERN, SUPPORTED, VERSION};
use super::rpc::{self, Asked, Id, Meta};
use super::sessions::{Level, Owner};
use super::state::{self, State};
use super::stream::Log;
use super::surface::{self, Place, Visit};
use super::target::{self, Target};
use super::{errors, greeting, listen, raw, tasks};
use crate::error::Refused;

type Reply = Result<Response, Response>;

/// Answers a request.
pub(super) async fn request(
    visit: Visit,
    headers: &HeaderMap,
    id: Id,
    asked: Asked<'_>,
    meta: Meta<'_>,
) -> Reply {
    let wants = check(headers, &id, &asked, &meta)?;
    let method = asked.method.as_ref();
    if target::ACTS.contains(&method) {
        return act(visit, headers, id, &asked, &meta, wants).await;
    }
    if let Some(kind) = Kind::of(method) {
        let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
        let items = lister.items(kind, Era::Modern).await;
        let page = lists::page(kind, &items, asked.params.cursor.as_deref());
        let listed = page.map(|page| result(&format!("{page},{}", cacheable())));
        return Ok(answer(&id, listed));
    }
    match method {
        "server/discover" => Ok(answer(&id, Ok(greeting::discover(&visit).await))),
        "subscriptions/listen" => listen::open(visit, id, &asked).await,
        "tasks/get" | "tasks/update" | "tasks/cancel" => {
            let capabilities = wants.capabilities;
            let declared = act::declared(Era::Modern, &asked, capabilities);
            if !declared.tasks {
                return Err(lacks_tasks(&id));
            }
            let (shared, caller) = (visit.shared(), &visit.caller);
            let params = RawValue::from_string(asked.text.to_owned()).ok();
            let params = params.as_deref();
            let told = match method {
                "tasks/get" => tasks::get(shared, caller, params, declared),
                "tasks/update" => tasks::update(shared, caller, params),
                _ => tasks::cancel(shared, caller, params, declared).await,
            };
            Ok(answer(&id, told))
        }
        _ => Ok(answer(&id, Err(RpcError::method_not_found(method)))),
    }
}

/// What a request says it wants.
struct Wants<'a> {
    capabilities: &'a RawValue,
    level: Option<Level>,
}

/// Checks the headers and `_meta` of a request, before anything else happens.
fn check<'a>(
    headers: &HeaderMap,
    id: &Id,
    asked: &Asked<'_>,
    meta: &Meta<'a>,
) -> Result<Wants<'a>, Response> {
    let bad = |code, message: String| {
        errors::refused(StatusCode::BAD_REQUEST, Some(id), &RpcError::new(code, message))
    };
    let named = headers.get(VERSION).and_then(|value| value.to_str().ok()).map(str::trim);
    let version = meta.version.as_deref();
    if let Some(named) = named
        && named != MODERN
        && version.is_none_or(|version| version == named)
    {
        let data = format!(r#"{{"supported":{SUPPORTED},"requested":{}}}"#, raw::quoted(named));
        let error = RpcError {
            code: rpc::UNSUPPORTED_VERSION,
            message: "Unsupported protocol version".to_owned(),
            data: RawValue::from_string(data).ok(),
        };
        return Err(errors::refused(StatusCode::BAD_REQUEST, Some(id), &error));
    }
    headers::repeat(headers, version, &asked.method, target::name(asked))
        .map_err(|reason| bad(rpc::HEADER_MISMATCH, reason))?;
    let missing = |what: &str| {
        let key = format!("io.modelcontextprotocol/{what}");
        bad(rpc::INVALID_PARAMS, format!("`_meta` has no `{key}`"))
    };
    version.ok_or_else(|| missing("protocolVersion"))?;
    let capabilities = meta.capabilities.ok_or_else(|| missing("clientCapabilities"))?;
    let level = match meta.log_level.as_deref() {
        None => None,
        Some(name) => Some(Level::parse(name).ok_or_else(|| {
            bad(rpc::INVALID_PARAMS, "the log level is none of syslog's".to_owned())
        })?),
    };
    Ok(Wants { capabilities, level })
}

fn lacks_tasks(id: &Id) -> Response {
    const NEEDS: &str =
        r#"{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;
    let error = RpcError {
        code: -32021,
        message: "this takes the extension io.modelcontextprotocol/tasks".to_owned(),
        data: RawValue::from_string(NEEDS.to_owned()).ok(),
    };
    errors::refused(StatusCode::BAD_REQUEST, Some(id), &error)
}

/// What every list says of how long it may be kept.
fn cacheable() -> String {
    format!(r#""ttlMs":{},"cacheScope":"private""#, limits::LIST_TTL_MS)
}

/// A result of our own, of these members.
pub(super) fn result(members: &str) -> String {
    let server = greeting::server_info();
    let meta = format!(r#"{{"io.modelcontextprotocol/serverInfo":{server}}}"#);
    format!(r#"{{"resultType":"complete",{members},"_meta":{meta}}}"#)
}

fn answer(id: &Id, answer: Result<String, RpcError>) -> Response {
    match answer {
        Ok(result) => errors::json(StatusCode::OK, rpc::result(id, &result)),
        Err(error) => errors::refused(errors::status(&error), Some(id), &error),
    }
}

/// A call and everything that answers it.
struct Round {
    act: Act,
    running: Running,
    /// The client's side, where the call may ask and tell it something.
    back: Option<Arc<InRequest>>,
    out: Arc<Outgoing>,
    cancel: CancellationToken,
    _place: Place,
}

async fn act(
    visit: Visit,
    headers: &HeaderMap,
    id: Id,
    asked: &Asked<'_>,
    meta: &Meta<'_>,
    wants: Wants<'_>,
) -> Reply {
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    let found = target::find(&lister, Era::Modern, asked).await;
    let target =
        found.map_err(|error| errors::refused(errors::status(&error), Some(&id), &error))?;
    if let Some(definition) = &target.tool.definition {
        headers::repeat_arguments(headers, definition.as_str(), asked.params.arguments).map_err(
            |reason| {
                let error = RpcError::new(rpc::HEADER_MISMATCH, reason);
                errors::refused(StatusCode::BAD_REQUEST, Some(&id), &error)
            },
        )?;
    }
    let owner = Owner::of(&visit.caller);
    let place = visit.surface.place(&owner).map_err(|failure| surface::failed(&id, &failure))?;
    let out = Arc::new(Outgoing::default());
    let attendance = Attendance {
        out: out.clone(),
        level: wants.level,
        progress_token: meta.progress_token.map(ToOwned::to_owned),
    };
    let declared = act::declared(Era::Modern, asked, wants.capabilities);
    let params = &asked.params;
    let retried = params.request_state.is_some() || params.input_responses.is_some();
    let act = Act { visit, era: Era::Modern, id, target, declared, retried };
    let begun = begin(&act, asked, meta, &wants, attendance)
        .await
        .map_err(|Refused(failure)| surface::failed(&act.id, &failure))?;
    let (running, back, cancel) = begun;
    Round { act, running, back, out, cancel, _place: place }.attend().await
}

type Begun = (Running, Option<Arc<InRequest>>, CancellationToken);

/// Begins a call, or takes up the one that the client goes on with.
async fn begin(
    act: &Act,
    asked: &Asked<'_>,
    meta: &Meta<'_>,
    wants: &Wants<'_>,
    attendance: Attendance,
) -> crate::error::Result<Begun> {
    let (visit, params) = (&act.visit, &asked.params);
    let state = match &params.request_state {
        None => None,
        Some(text) => Some(state::unseal(visit.shared(), act.bound(), text).await?),
    };
    let inner = match state {
        Some(State::Held { action }) => return Ok(resume(act, action)),
        Some(State::Parked { id }) => {
            let owner = Owner::of(&visit.caller);
            let Some(waiting) = visit.surface.parked.take(&owner, &id) else {
                return Err(Refused::invalid(
                    "requestState: the call that it names is over, or another request waits for \
                     it; send the request again without it",
                ));
            };
            let Waiting { running, back, cancel } = waiting;
            back.attend(Some(attendance));
            if let Some(responses) = params.input_responses {
                back.answered(responses);
            }
            return Ok((running, Some(back), cancel));
        }
        Some(State::Upstream { state }) => state,
        None => None,
    };
    let continuation = continuation(params.input_responses, inner.as_deref())?;
    let back = InRequest::new(wants.capabilities, attendance);
    let cancel = CancellationToken::new();
    let owner = Owner::of(&visit.caller);
    let upstream = &act.target.tool.upstream;
    let live = Live {
        back: back.clone(),
        lane: visit.surface.lanes.of(&owner, upstream, meta.client, wants.capabilities),
        meta: meta.passed_on(),
        progress_token: meta.progress_token.map(ToOwned::to_owned),
        cancel: cancel.clone(),
    };
    let Target { tool, params, .. } = act.target.clone();
    let ask = Ask { tool, params, continuation, live, declared: act.declared };
    let (shared, caller) = (visit.shared().clone(), visit.caller.clone());
    let running = Running::new(async move { governed::call(&shared, &caller, ask).await });
    Ok((running, Some(back), cancel))
}

/// Goes on with a call that people had to decide about.
fn resume(act: &Act, action: kernel::ids::ActionId) -> Begun {
    let (shared, caller) = (act.visit.shared().clone(), act.visit.caller.clone());
    let cancel = CancellationToken::new();
    let heeded = cancel.clone();
    let running =
        Running::new(async move { governed::resume(&shared, &caller, &action, &heeded).await });
    (running, None, cancel)
}

/// What the client answers an upstream that asked by its result.
fn continuation(
    responses: Option<&RawValue>,
    state: Option<&str>,
) -> crate::error::Result<Option<RawJson>> {
    if responses.is_none() && state.is_none() {
        return Ok(None);
    }
    if responses.is_some_and(|responses| !responses.get().starts_with('{')) {
        return Err(Refused::invalid("`inputResponses` is an object"));
    }
    let state = state.map(raw::quoted);
    let responses = responses.map(|responses| ("inputResponses", responses.get()));
    let state = state.as_deref().map(|state| ("requestState", state));
    let text = raw::object(responses.into_iter().chain(state));
    let parsed = RawJson::parse(&text).map_err(|error| Refused::invalid(error.to_string()))?;
    Ok(Some(parsed))
}

/// Cancels a call when its client goes away before it is answered.
#[derive(Clone, Debug)]
struct Departure(Arc<Leaving>);

#[derive(Debug)]
struct Leaving {
    cancel: CancellationToken,
    answered: AtomicBool,
}

impl Departure {
    fn new(cancel: CancellationToken) -> Self {
        Self(Arc::new(Leaving { cancel, answered: AtomicBool::new(false) }))
    }

    /// The client has its answer: it may go.
    fn answered(&self) {
        self.0.answered.store(true, Ordering::Release);
    }

    /// What goes away with the client.
    fn guard(&self) -> Present {
        Present(self.0.clone())
    }
}

/// The client is there.
#[derive(Debug)]
struct Present(Arc<Leaving>);

impl Drop for Present {
    fn drop(&mut self) {
        if !self.0.answered.load(Ordering::Acquire) {
            self.0.cancel.cancel();
        }
    }
}

/// What a round came to.
enum Turn {
    Ended(Outcome),
    /// The upstream asks the client.
    Asks,
    /// Something was said before the end.
    Streams(Arc<Log>),
}

impl Round {
    /// Waits for the next thing that happens.
    async fn turn(&mut self, streamed: bool) -> Turn {
        let back = self.back.clone();
        let asks = async {
            match back {
                Some(back) => back.asks().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut self.running => Turn::Ended(outcome),
            () = asks => Turn::Asks,
            log = self.out.opened(), if !streamed => Turn::Streams(log),
            () = tokio::time::sleep(limits::SILENCE), if !streamed => {
                Turn::Streams(self.out.open(Log::plain))
            }
        }
    }

    /// Waits for what there is to answer. A client that goes away cancels the call.
    async fn attend(mut self) -> Reply {
        let departure = Departure::new(self.cancel.clone());
        let present = departure.guard();
        match self.turn(false).await {
            Turn::Ended(outcome) => {
                departure.answered();
                let (status, text) = self.act.answer(outcome).await;
                Ok(match self.out.log() {
                    // Something was said in the very last moment.
                    Some(log) => {
                        log.push(&text);
                        log.end();
                        log.read(None)
                    }
                    None => errors::json(status, text),
                })
            }
            Turn::Asks => {
                let text = self.ask(&departure).await;
                Ok(errors::json(StatusCode::OK, text))
            }
            Turn::Streams(log) => {
                let response = log.read_guarded(present);
                tokio::spawn(self.stream(log, departure));
                Ok(response)
            }
        }
    }

    /// Goes on with the answer as a stream.
    async fn stream(mut self, log: Arc<Log>, departure: Departure) {
        let text = match self.turn(true).await {
            Turn::Ended(outcome) => {
                departure.answered();
                self.act.answer(outcome).await.1
            }
            _ => self.ask(&departure).await,
        };
        log.push(&text);
        log.end();
    }

    /// Answers what the upstream asks, and has the call wait for the client to come back.
    async fn ask(self, departure: &Departure) -> String {
        let Self { act, mut running, back, cancel, .. } = self;
        let Some(back) = back else { return String::new() };
        let questions = back.questions();
        back.attend(None);
        running.set_off();
        let owner = Owner::of(&act.visit.caller);
        let parked = act.visit.surface.parked.park(owner, Waiting { running, back, cancel });
        let sealed = match parked {
            Ok(id) => act.seal(State::Parked { id }).await,
            Err(refused) => Err(refused),
        };
        match sealed {
            Ok(state) => {
                departure.answered();
                let state = raw::quoted(&state);
                let members = format!(r#""inputRequests":{questions},"requestState":{state}"#);
                rpc::result(&act.id, &format!(r#"{{"resultType":"input_required",{members}}}"#))
            }
            Err(Refused(failure)) => errors::text(Some(&act.id), &errors::rpc_error(&failure)),
        }
    }
}
