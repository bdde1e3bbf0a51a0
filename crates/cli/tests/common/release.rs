//! Workflows that are in force.

use client::Client;
use proto::releases::{ApproveReleaseRequest, CreateReleaseRequest, PromoteReleaseRequest};
use proto::workflows::PublishWorkflowRequest;
use serde_json::Value;

/// Has version 1.0.0 of a workflow in force for all: its author published it, an approver agreed,
/// and an operator let it loose.
pub(crate) async fn in_force(
    (author, approver, operator): (&Client, &Client, &Client),
    document: &Value,
) {
    let publish = PublishWorkflowRequest { yaml: document.to_string() };
    author.publish_workflow(&publish, None).await.unwrap();
    let request = CreateReleaseRequest {
        workflow: document["metadata"]["name"].as_str().unwrap().to_owned(),
        version: "1.0.0".to_owned(),
        ..CreateReleaseRequest::default()
    };
    let release_id = author.create_release(&request, None).await.unwrap().release_id;
    let approve = ApproveReleaseRequest {
        release_id: release_id.clone(),
        ..ApproveReleaseRequest::default()
    };
    approver.approve_release(&approve, None).await.unwrap();
    let promote = PromoteReleaseRequest { release_id, canary_percent: None };
    operator.promote_release(&promote, None).await.unwrap();
}
