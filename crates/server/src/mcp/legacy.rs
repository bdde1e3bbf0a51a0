//! The legacy revisions: sessions, which begin with `initialize`.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use connectors::mcp::RpcError;
use http::{HeaderMap, HeaderValue, StatusCode};
use kernel::failure::Failure;
use serde_json::value::RawValue;

use super::act::{self, Act, Running};
use super::back::InSession;
use super::governed::{self, Ask, Live};
use super::limits;
use super::lists::{self, Kind, Lister};
use super::revision::{Era, negotiated};
use super::rpc::{self, Asked, Id, Meta};
use super::sessions::{Introduction, Level, Session};
use super::surface::{SESSION, Surface, Visit};
use super::target::{self, Target};
use super::{errors, greeting, tasks};

type Reply = Result<Response, Response>;

/// The session that a request names.
pub(super) fn session(
    visit: &Visit,
    headers: &HeaderMap,
    id: Option<&Id>,
) -> Result<Arc<Session>, Response> {
    let Some(named) = headers.get(SESSION) else {
        let error = RpcError::new(
            rpc::INVALID_REQUEST,
            "send the header Mcp-Session-Id, which `initialize` gave, or requests of 2026-07-28",
        );
        return Err(errors::refused(StatusCode::BAD_REQUEST, id, &error));
    };
    let known = named.to_str().ok().and_then(|id| visit.surface.sessions.get(&visit.caller, id));
    match known.filter(|session| visit.view.0.is_none() || session.intro.view == visit.view) {
        Some(session) => {
            session.touch(&visit.standing);
            Ok(session)
        }
        None => {
            let error = RpcError::new(rpc::INVALID_REQUEST, "there is no such session: initialize");
            Err(errors::refused(StatusCode::NOT_FOUND, id, &error))
        }
    }
}

/// Takes a client's answer to a question of ours.
pub(super) fn answered(
    visit: &Visit,
    headers: &HeaderMap,
    id: &Id,
    answer: Result<&RawValue, &RawValue>,
) -> Reply {
    let session = session(visit, headers, None)?;
    let answer = match answer {
        Ok(result) => Ok(result.to_owned()),
        Err(error) => Err(serde_json::from_str(error.get()).unwrap_or_else(|_| {
            RpcError::new(rpc::INTERNAL_ERROR, "the client answered with a malformed error")
        })),
    };
    session.answered(id, answer);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Takes a notification.
pub(super) fn notification(visit: &Visit, headers: &HeaderMap, asked: &Asked<'_>) -> Reply {
    let session = session(visit, headers, None)?;
    if asked.method == "notifications/cancelled"
        && let Some(id) = asked.params.request_id
    {
        session.cancel(id.get());
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Answers a request.
pub(super) async fn request(
    visit: Visit,
    headers: &HeaderMap,
    id: Id,
    asked: Asked<'_>,
    meta: Meta<'_>,
) -> Reply {
    let method = asked.method.as_ref();
    if method == "initialize" {
        return initialize(&visit, headers, &id, &asked).await;
    }
    let session = session(&visit, headers, Some(&id))?;
    let visit = Visit { view: session.intro.view.clone(), ..visit };
    if target::ACTS.contains(&method) {
        return act(visit, session, id, &asked, &meta).await;
    }
    if let Some(kind) = Kind::of(method) {
        let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
        let items = lister.items(kind, Era::Legacy).await;
        let page = lists::page(kind, &items, asked.params.cursor.as_deref());
        session.saw(kind, lists::digest(&items));
        return Ok(answer(&id, page.map(|page| format!("{{{page}}}"))));
    }
    let done = |done: Result<(), RpcError>| done.map(|()| "{}".to_owned());
    let told = match method {
        "ping" => Ok("{}".to_owned()),
        "logging/setLevel" => done(set_level(&visit, &session, &asked).await),
        "resources/subscribe" => done(subscribe(&visit, &session, &asked).await),
        "resources/unsubscribe" => done(unsubscribe(&visit, &session, &asked).await),
        "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel" => {
            about_tasks(&visit, &session, &id, &asked).await
        }
        _ => Err(RpcError::method_not_found(method)),
    };
    Ok(answer(&id, told))
}

fn answer(id: &Id, answer: Result<String, RpcError>) -> Response {
    let text = match answer {
        Ok(result) => rpc::result(id, &result),
        Err(error) => errors::text(Some(id), &error),
    };
    errors::json(StatusCode::OK, text)
}

fn invalid(message: &str) -> RpcError {
    RpcError::new(rpc::INVALID_PARAMS, message)
}

async fn initialize(visit: &Visit, headers: &HeaderMap, id: &Id, asked: &Asked<'_>) -> Reply {
    let params = &asked.params;
    let bad = |message: &str| {
        errors::refused(StatusCode::BAD_REQUEST, Some(id), &RpcError::new(-32602, message))
    };
    if headers.contains_key(SESSION) {
        return Err(bad("`initialize` begins a session: send no Mcp-Session-Id"));
    }
    let version = params.protocol_version.as_deref();
    let version = version.ok_or_else(|| bad("`protocolVersion` is missing"))?;
    let object = |raw: Option<&RawValue>, name: &str| match raw {
        Some(raw) if raw.get().starts_with('{') => Ok(raw.to_owned()),
        _ => Err(bad(&format!("`{name}` is an object"))),
    };
    let intro = Introduction {
        view: visit.view.clone(),
        revision: negotiated(version),
        client: object(params.client_info, "clientInfo")?,
        capabilities: object(params.capabilities, "capabilities")?,
    };
    let opened = visit.surface.sessions.open(&visit.caller, &visit.standing, intro);
    let (session, gone) = opened.map_err(|refused| super::surface::failed(id, &refused.0))?;
    for other in gone {
        ended(&visit.surface, &other).await;
    }
    let result = greeting::initialized(visit, session.intro.revision).await;
    let mut response = errors::json(StatusCode::OK, rpc::result(id, &result));
    let named = HeaderValue::from_str(&session.id).map_err(|_| bad("no session id"))?;
    response.headers_mut().insert(SESSION, named);
    Ok(response)
}

/// Lets go of what a session had, which has ended.
pub(super) async fn ended(surface: &Surface, session: &Session) {
    for name in session.lanes() {
        let upstream = surface.shared.upstreams.get(session.owner.tenant(), &name);
        if let Some(upstream) = upstream {
            upstream.client.close_lane(&session.id).await;
        }
    }
}

/// The level is told to every upstream of the view; one that does not know it need not.
async fn set_level(
    visit: &Visit,
    session: &Arc<Session>,
    asked: &Asked<'_>,
) -> Result<(), RpcError> {
    let name = asked.params.level.as_deref().ok_or_else(|| invalid("`level` is missing"))?;
    let level = Level::parse(name).ok_or_else(|| invalid("`level` is none of syslog's"))?;
    session.set_level(level);
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    for upstream in lister.upstreams() {
        // A lane opens with the first request over it; this one need not wait for that.
        let (session, name) = (session.clone(), name.to_owned());
        tokio::spawn(async move {
            let lane = session.own_lane(&upstream.name);
            if let Err(error) = upstream.client.set_level(&lane, &name).await {
                tracing::debug!(upstream = upstream.name, %error, "no log level was set");
            }
        });
    }
    Ok(())
}

async fn subscribe(
    visit: &Visit,
    session: &Arc<Session>,
    asked: &Asked<'_>,
) -> Result<(), RpcError> {
    let uri = asked.params.uri.as_deref().ok_or_else(|| invalid("`uri` is missing"))?;
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    let unknown = || errors::unknown(Era::Legacy, "resource", uri);
    let upstream = lister.readable(uri).await.ok_or_else(unknown)?;
    let failed = |failure: Failure| errors::rpc_error(&failure);
    session.subscribe(uri, &upstream.name).map_err(failed)?;
    let lane = session.own_lane(&upstream.name);
    visit.surface.followed.follow(&visit.surface, &upstream);
    upstream.client.subscribe(&lane, uri).await.map_err(|failure| {
        session.unsubscribe(uri);
        failed(failure)
    })
}

async fn unsubscribe(
    visit: &Visit,
    session: &Arc<Session>,
    asked: &Asked<'_>,
) -> Result<(), RpcError> {
    let uri = asked.params.uri.as_deref().ok_or_else(|| invalid("`uri` is missing"))?;
    let Some(name) = session.unsubscribe(uri) else { return Ok(()) };
    let Some(upstream) = visit.shared().upstreams.get(&visit.caller.tenant, &name) else {
        return Ok(());
    };
    let lane = session.own_lane(&name);
    let left = upstream.client.unsubscribe(&lane, uri).await;
    left.map_err(|failure| errors::rpc_error(&failure))
}

async fn about_tasks(
    visit: &Visit,
    session: &Arc<Session>,
    id: &Id,
    asked: &Asked<'_>,
) -> Result<String, RpcError> {
    let declared = act::declared(Era::Legacy, asked, &session.intro.capabilities);
    let (shared, caller) = (visit.shared(), &visit.caller);
    let params = RawValue::from_string(asked.text.to_owned()).ok();
    let params = params.as_deref();
    match asked.method.as_ref() {
        "tasks/get" => tasks::get(shared, caller, params, declared),
        "tasks/result" => {
            let begun = session.begin(id).map_err(|failure| errors::rpc_error(&failure))?;
            let _finish = Finish(session.clone(), id.clone());
            tasks::result(shared, caller, params, declared, &begun).await
        }
        "tasks/list" => tasks::list(shared, caller, params, declared),
        _ => tasks::cancel(shared, caller, params, declared).await,
    }
}

/// A request of a session that is under way.
struct Finish(Arc<Session>, Id);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish(&self.1);
    }
}

async fn act(
    visit: Visit,
    session: Arc<Session>,
    id: Id,
    asked: &Asked<'_>,
    meta: &Meta<'_>,
) -> Reply {
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    let target = match target::find(&lister, Era::Legacy, asked).await {
        Ok(target) => target,
        Err(error) => return Ok(answer(&id, Err(error))),
    };
    let cancel = match session.begin(&id) {
        Ok(cancel) => cancel,
        Err(failure) => return Err(super::surface::failed(&id, &failure)),
    };
    let finish = Finish(session.clone(), id.clone());
    let declared = act::declared(Era::Legacy, asked, &session.intro.capabilities);
    let back = InSession::new(session.clone());
    let live = Live {
        back: back.clone(),
        lane: session.lane(&target.tool.upstream.name),
        meta: meta.passed_on(),
        progress_token: meta.progress_token.map(ToOwned::to_owned),
        cancel: cancel.clone(),
    };
    let Target { tool, params, .. } = target.clone();
    let ask = Ask { tool, params, continuation: None, live, declared };
    let (shared, caller) = (visit.shared().clone(), visit.caller.clone());
    let mut running = Running::new(async move {
        let outcome = governed::call(&shared, &caller, ask).await;
        drop(finish);
        outcome
    });
    let act = Act { visit, era: Era::Legacy, id, target, declared, retried: false };
    let log = tokio::select! {
        biased;
        outcome = &mut running => {
            let (status, text) = act.answer(outcome).await;
            let Some(log) = back.out.log() else { return Ok(errors::json(status, text)) };
            // Something was said in the very last moment.
            log.push(&text);
            log.end();
            return Ok(log.read(None));
        }
        log = back.out.opened() => log,
        () = cancel.cancelled() => back.stream(),
        () = tokio::time::sleep(limits::SILENCE) => back.stream(),
    };
    let response = log.read(None);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            outcome = &mut running => log.push(&act.answer(outcome).await.1),
            // Who cancels a request gets no answer to it. What was begun ends by itself.
            () = cancel.cancelled() => {}
        }
        log.end();
    });
    Ok(response)
}
