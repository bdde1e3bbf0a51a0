//! A small service that answers with what it was asked.

use std::sync::Arc;

use axum::Router;
use http::{HeaderName, HeaderValue};
use proto::{
    HttpBody,
    actions::{
        Action, CancelActionRequest, GetActionRequest, ListActionsRequest, ListActionsResponse,
        ReconcileActionRequest, ReleaseActionRequest, ReverseActionRequest, SubmitActionRequest,
        action::State, actions_service_server::ActionsService,
    },
    evidence::{
        ExportEvidenceRequest, GetCoverageRequest, GetCoverageResponse, VerifyEvidenceResponse,
        evidence_service_server::EvidenceService,
    },
    rest::{self, BodyLimits, HttpHeaders, HttpStatus},
    types::{Error, Timestamp, error::Category},
};
use tonic::{Response, Status};

pub(crate) const LIMITS: BodyLimits = BodyLimits { json: 1_000, raw: 2_000 };

/// What an auth middleware would leave behind.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) &'static str);

/// Answers with what it was asked.
#[derive(Debug)]
pub(crate) struct Echo;

#[tonic::async_trait]
impl ActionsService for Echo {
    async fn submit_action(
        &self,
        request: tonic::Request<SubmitActionRequest>,
    ) -> Result<Response<Action>, Status> {
        let caller = request.extensions().get::<Caller>().map_or("", |caller| caller.0);
        let seen: Vec<_> = request.metadata().keys().map(|key| format!("{key:?}")).collect();
        let (checkpoint, receipts) = (caller.to_owned(), seen);
        let SubmitActionRequest { tool, params, claims, .. } = request.into_inner();
        let target = claims.map(|claims| claims.target).unwrap_or_default();
        let action = Action {
            tool,
            result: params,
            plan_digest: target,
            checkpoint,
            receipts,
            cost_micro_usd: 9_007_199_254_740_993,
            state: State::AwaitingApproval.into(),
            created_at: Some(Timestamp::from_micros(1_700_000_000_000_001)),
            ..Action::default()
        };
        let mut response = Response::new(action);
        response.extensions_mut().insert(HttpStatus(202));
        let header = (HeaderName::from_static("x-test"), HeaderValue::from_static("yes"));
        response.extensions_mut().insert(HttpHeaders(vec![header]));
        Ok(response)
    }

    async fn get_action(
        &self,
        request: tonic::Request<GetActionRequest>,
    ) -> Result<Response<Action>, Status> {
        let mut error =
            Error::new(Category::RateLimited, "slow_down", request.into_inner().action_id);
        error.retry_after_ms = Some(1_500);
        error.cause.push("first".to_owned());
        Err(error.retryable().into())
    }

    async fn list_actions(
        &self,
        request: tonic::Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let asked = format!("{:?}", request.into_inner());
        Ok(Response::new(ListActionsResponse { actions: Vec::new(), next_page_token: asked }))
    }

    async fn cancel_action(
        &self,
        request: tonic::Request<CancelActionRequest>,
    ) -> Result<Response<Action>, Status> {
        let CancelActionRequest { action_id, .. } = request.into_inner();
        Ok(Response::new(Action { action_id, ..Action::default() }))
    }

    async fn release_action(
        &self,
        _: tonic::Request<ReleaseActionRequest>,
    ) -> Result<Response<Action>, Status> {
        Err(Status::unauthenticated("not from us"))
    }

    async fn reconcile_action(
        &self,
        request: tonic::Request<ReconcileActionRequest>,
    ) -> Result<Response<Action>, Status> {
        let ReconcileActionRequest { cost_micro_usd, .. } = request.into_inner();
        Ok(Response::new(Action { cost_micro_usd, ..Action::default() }))
    }

    async fn reverse_action(
        &self,
        request: tonic::Request<ReverseActionRequest>,
    ) -> Result<Response<Action>, Status> {
        let ReverseActionRequest { action_id, .. } = request.into_inner();
        Ok(Response::new(Action { action_id, ..Action::default() }))
    }
}

#[tonic::async_trait]
impl EvidenceService for Echo {
    async fn export_evidence(
        &self,
        request: tonic::Request<ExportEvidenceRequest>,
    ) -> Result<Response<HttpBody>, Status> {
        let data = vec![0, 255, u8::from(request.into_inner().full_log)];
        let content_type = "application/x-tar".to_owned();
        Ok(Response::new(HttpBody { content_type, data, extensions: Vec::new() }))
    }

    async fn verify_evidence(
        &self,
        request: tonic::Request<HttpBody>,
    ) -> Result<Response<VerifyEvidenceResponse>, Status> {
        let HttpBody { content_type, data, .. } = request.into_inner();
        let errors = vec![content_type, format!("{data:?}")];
        Ok(Response::new(VerifyEvidenceResponse { errors, ..Default::default() }))
    }

    async fn get_coverage(
        &self,
        _: tonic::Request<GetCoverageRequest>,
    ) -> Result<Response<GetCoverageResponse>, Status> {
        Err(Status::unimplemented("nothing is covered here"))
    }
}

pub(crate) fn app() -> Router {
    let echo = Arc::new(Echo);
    let actions = rest::actions(Arc::clone(&echo), LIMITS);
    actions.merge(rest::evidence(echo, LIMITS)).fallback(rest::not_found)
}
