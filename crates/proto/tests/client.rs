//! The generated client against the generated routes, without a network between them.

mod echo;

use axum::{
    Router,
    body::{Body, to_bytes},
};
use echo::app;
use http::Request;
use proto::{
    HttpBody,
    actions::{
        CancelActionRequest, GetActionRequest, ListActionsRequest, SubmitActionRequest,
        action::State,
    },
    client::{Client, ClientError, HttpCall, HttpReply, Transport},
    evidence::ExportEvidenceRequest,
    types::{Json, error::Category},
};
use tower::ServiceExt as _;

/// Calls the routes directly.
struct Direct(Router);

impl Transport for Direct {
    type Error = axum::Error;

    async fn send(&self, call: HttpCall) -> Result<HttpReply, axum::Error> {
        let mut request = Request::builder().method(call.method).uri(call.path_and_query);
        if let Some(key) = call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(content_type) = call.content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Body::from(call.body)).map_err(axum::Error::new)?;
        let response = self.0.clone().oneshot(request).await.map_err(axum::Error::new)?;
        let status = response.status().as_u16();
        let content_type = response.headers().get("content-type");
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or("");
        let content_type = content_type.to_owned();
        let body = to_bytes(response.into_body(), usize::MAX).await?.to_vec();
        Ok(HttpReply { status, content_type, body })
    }
}

#[tokio::test]
async fn every_kind_of_call_round_trips() {
    let client = Client::new(Direct(app()));
    let params = Json::new("{\"n\": 1.0}").unwrap();
    let request = SubmitActionRequest { params: Some(params.clone()), ..Default::default() };
    let action = client.submit_action(&request, Some("key-1")).await.unwrap();
    assert_eq!(action.result, Some(params));
    assert_eq!(action.state(), State::AwaitingApproval);
    assert!(action.receipts.contains(&"Ascii(\"idempotency-key\")".to_owned()), "{action:?}");

    let action_id = "a/ü?&%".to_owned();
    let request = CancelActionRequest { action_id: action_id.clone(), ..Default::default() };
    assert_eq!(client.cancel_action(&request, None).await.unwrap().action_id, action_id);

    let request = ListActionsRequest {
        state: State::Unknown.into(),
        page_size: 3,
        page_token: "x&y=z é".to_owned(),
    };
    let listed = client.list_actions(&request).await.unwrap();
    assert_eq!(listed.next_page_token, format!("{request:?}"));

    let request = ExportEvidenceRequest { full_log: true, ..Default::default() };
    let body = client.export_evidence(&request).await.unwrap();
    assert_eq!(
        (body.content_type.as_str(), body.data.as_slice()),
        ("application/x-tar", &[0, 255, 1][..])
    );
    let request =
        HttpBody { content_type: "application/x-tar".into(), data: vec![7], extensions: vec![] };
    let verified = client.verify_evidence(&request).await.unwrap();
    assert_eq!(verified.errors, ["application/x-tar", "[7]"]);
}

#[tokio::test]
async fn refusals_come_back_as_errors() {
    let client = Client::new(Direct(app()));
    let request = GetActionRequest { action_id: "a1".into() };
    match client.get_action(&request).await {
        Err(ClientError::Refused { status: 429, error }) => {
            assert_eq!(error.category(), Category::RateLimited);
            assert_eq!((error.retry_after_ms, error.cause.len()), (Some(1_500), 1));
        }
        other => panic!("{other:?}"),
    }
    for action_id in ["", ".", ".."] {
        let request = GetActionRequest { action_id: action_id.into() };
        let refused = client.get_action(&request).await;
        assert!(matches!(refused, Err(ClientError::Request(_))), "{refused:?}");
    }
}
