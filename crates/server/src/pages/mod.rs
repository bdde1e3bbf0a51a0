//! Pages for people: the approval that an agent's call waits for, in a browser.
//!
//! They are small and have no scripts. Who is not logged in learns nothing, not even whether there
//! is such an approval. What a page lets a person do goes through the same service as the API.

mod approval;
mod html;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use kernel::failure::{Category, Failure};
use kernel::ids::ApprovalId;
use subtle::ConstantTimeEq as _;

pub(crate) use self::html::visible;

use self::html::page;
use crate::approvals::ApprovalsApi;
use crate::credentials::{self, Holder};
use crate::error::{Refused, Result};
use crate::rate::Rates;
use crate::shared::{Caller, Shared};
use crate::{limits, sessions};

/// The permission to see approvals.
const READ: &str = "approvals:read";
/// The permission to decide them.
const DECIDE: &str = "approvals:decide";
/// The bucket of everybody who is not logged in.
const STRANGERS: &str = "strangers";

#[derive(Clone)]
struct Pages {
    shared: Arc<Shared>,
    rates: Arc<Rates>,
}

/// Who is logged in, by a session's cookie.
struct Visitor {
    caller: Caller,
    /// The session.
    base: String,
}

/// The routes of the pages.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/approvals/{approval_id}", get(show).post(decide))
        .layer(DefaultBodyLimit::max(limits::PAGE_FORM_BYTES_MAX))
        .with_state(Pages { shared, rates: Arc::default() })
}

impl Pages {
    /// Who comes with this cookie: nobody, where it opens nothing.
    fn visitor(&self, headers: &HeaderMap) -> Result<Option<Visitor>> {
        let shared = &self.shared;
        if shared.control.doubt.is_open() {
            let message = "it is not known for the moment who may do what: try again";
            return Err(Refused::new(Category::Internal, "unavailable", message));
        }
        let read = sessions::cookie(headers).and_then(|text| credentials::read(shared, text));
        let holder = read.and_then(|credential| credentials::holder(shared, &credential).ok());
        let holder = holder.filter(|holder| holder.base.starts_with("ses_"));
        let (bucket, per_min) = match &holder {
            Some(Holder { base, rate_per_min, .. }) => (base.as_str(), *rate_per_min),
            None => (STRANGERS, limits::LOGINS_PER_MIN),
        };
        let taken = self.rates.take(bucket, per_min, shared.now());
        taken.map_err(|(_, wait_ms)| {
            let failure = Failure::new(Category::RateLimited, "rate_limited", "too many requests");
            Refused(failure.retry_after_ms(wait_ms))
        })?;
        Ok(holder.map(|Holder { caller, base, .. }| Visitor { caller, base }))
    }

    async fn show(&self, headers: &HeaderMap, id: &str) -> Result<Response> {
        let visitor = self.visitor(headers)?;
        // An id of another form is answered as one that is nobody's.
        let Ok(id) = ApprovalId::new(id) else { return Ok(approval::none(visitor.is_some())) };
        match visitor {
            None => Ok(approval::stranger(&self.shared, &id)),
            Some(visitor) => self.shown(&visitor, &id, None).await,
        }
    }

    /// The approval as the visitor may see it; with `said`, what came of what they did.
    async fn shown(
        &self,
        visitor: &Visitor,
        id: &ApprovalId,
        said: Option<Failure>,
    ) -> Result<Response> {
        let Visitor { caller, .. } = visitor;
        let api = ApprovalsApi(self.shared.clone());
        let seen = if caller.may(READ) { api.seen(caller, id.as_str()) } else { Ok(None) };
        let Some((state, wire)) = seen? else { return Ok(approval::none(true)) };
        let refusal = match caller.may(DECIDE) {
            true => api.would_refuse(caller, &state),
            false => Some("your roles do not let you decide this".to_owned()),
        };
        let token = self.token(visitor, id, &wire.plan_digest).await?;
        Ok(approval::shown(&state, &wire, refusal, &token, said.as_ref()))
    }

    async fn decide(
        &self,
        method: &Method,
        headers: &HeaderMap,
        id: &str,
        body: &[u8],
    ) -> Result<Response> {
        let visitor = self.visitor(headers)?;
        let Ok(id) = ApprovalId::new(id) else { return Ok(approval::none(visitor.is_some())) };
        let Some(visitor) = visitor else { return Ok(approval::stranger(&self.shared, &id)) };
        sessions::same_site(&self.shared, method, headers)?;
        let form: BTreeMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let token = self.token(&visitor, &id, field("plan_digest")).await?;
        if !bool::from(token.as_bytes().ct_eq(field("token").as_bytes())) {
            let message = "this form is not of this session: open the page again";
            return Err(Refused::new(Category::Permission, "form_token", message));
        }
        if !visitor.caller.may(DECIDE) {
            let message = format!("this takes the permission `{DECIDE}`");
            return Err(Refused::new(Category::Permission, "permission_denied", message));
        }
        let wire = approval::decision(&id, &form);
        let api = ApprovalsApi(self.shared.clone());
        match api.decide(&visitor.caller, wire).await {
            Ok(_) => seen_again(&id),
            Err(Refused(failure)) => self.shown(&visitor, &id, Some(failure)).await,
        }
    }

    /// What a form of this session about this plan carries, and no other.
    async fn token(&self, visitor: &Visitor, id: &ApprovalId, plan: &str) -> Result<String> {
        let Visitor { caller, base } = visitor;
        let sealer = self.shared.gateway.keys.of(&self.shared, &caller.tenant).await?;
        let text = format!("form/approval\n{base}\n{id}\n{plan}");
        Ok(hex::encode(sealer.name(text.as_bytes())))
    }
}

/// A redirect to the approval's page: reloading it sends nothing twice.
fn seen_again(id: &ApprovalId) -> Result<Response> {
    let path = format!("/approvals/{id}");
    let path = HeaderValue::try_from(path).map_err(Refused::internal)?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, path);
    Ok(crate::oidc::private(response))
}

async fn show(State(pages): State<Pages>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    pages.show(&headers, &id).await.unwrap_or_else(|Refused(failure)| refuse(failure))
}

async fn decide(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let decided = pages.decide(&method, &headers, &id, &body).await;
    decided.unwrap_or_else(|Refused(failure)| refuse(failure))
}

fn refuse(failure: Failure) -> Response {
    let wire = crate::error::wire(failure);
    let status = proto::error::http_status(&wire);
    let text = format!("<p>{}</p>", html::escape(&wire.message));
    page(status, "Not done", &text)
}
