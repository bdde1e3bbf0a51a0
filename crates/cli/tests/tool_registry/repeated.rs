//! Requests that come twice under one idempotency key: one effect, one answer; another request
//! under it is a conflict.

use proto::tools::GrantToolRequest;
use proto::tools::tool_registration::State;

use super::*;

const CONFLICT: (u16, &str) = (409, "idempotency_conflict");

fn conflicts<T: std::fmt::Debug>(answer: Answer<T>) {
    let (status, code) = refusal(answer);
    assert_eq!((status, code.as_str()), CONFLICT);
}

fn registration(version: &str, mark: &str) -> RegisterToolRequest {
    let manifest = Some(Json::of(&manifest("acme.echo", version)).unwrap());
    RegisterToolRequest { manifest, component: echo(mark), ..Default::default() }
}

fn granting(tool: &ToolRegistration, env: &str) -> GrantToolRequest {
    let capabilities = ToolCapabilities { env: vec![env.to_owned()], ..Default::default() };
    GrantToolRequest {
        tool_id: tool.tool_id.clone(),
        code_digest: tool.code_digest.clone(),
        capabilities: Some(capabilities),
        limits: None,
    }
}

/// Two answers that say the same, checkpoints and times of reading aside.
fn same(one: &ToolRegistration, other: &ToolRegistration) {
    assert_eq!(one, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_made_once() {
    let (_server, builder, _) = desk().await;
    let first = registration("1.0.0", "one");
    let made = builder.register_tool(&first, Some("k1")).await.unwrap();
    same(&builder.register_tool(&first, Some("k1")).await.unwrap(), &made);
    // Another request under the key: a higher version, a lower one, other code of the same.
    for (version, mark) in [("2.0.0", "one"), ("0.9.0", "one"), ("1.0.0", "two")] {
        conflicts(builder.register_tool(&registration(version, mark), Some("k1")).await);
        same(&inspect(&builder, "acme.echo").await.unwrap(), &made);
    }
    // What changes nothing takes its key all the same.
    same(&builder.register_tool(&first, Some("k2")).await.unwrap(), &made);
    conflicts(builder.register_tool(&registration("2.0.0", "two"), Some("k2")).await);
    // A key is each principal's own.
    let second = registration("2.0.0", "two");
    let next = builder.register_tool(&second, Some("k3")).await.unwrap();
    assert_eq!((next.version.as_str(), next.revision > made.revision), ("2.0.0", true));
    // Repeated late, the first request is no attempt to go back.
    let late = builder.register_tool(&first, Some("k1")).await.unwrap();
    same(&late, &next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_given_once() {
    let (server, builder, agent) = desk().await;
    let owner = &server.owner;
    let tool = builder.register_tool(&registration("1.0.0", "one"), None).await.unwrap();
    let (region, zone) = (granting(&tool, "ACME_REGION"), granting(&tool, "ACME_ZONE"));
    let granted = owner.grant_tool(&region, Some("k1")).await.unwrap();
    same(&owner.grant_tool(&region, Some("k1")).await.unwrap(), &granted);
    conflicts(owner.grant_tool(&zone, Some("k1")).await);
    same(&inspect(owner, "acme.echo").await.unwrap(), &granted);
    runs(&agent, "acme.echo").await;

    // Repeated late, it does not give back what was taken since.
    revoke(owner, "acme.echo").await.unwrap();
    let late = owner.grant_tool(&region, Some("k1")).await.unwrap();
    assert_eq!((late.state(), late.granted_by.as_str()), (State::Revoked, ""));
    out_of_reach(&agent, "acme.echo").await;
    // Nor when the code is other code by now.
    builder.register_tool(&registration("2.0.0", "two"), None).await.unwrap();
    let late = owner.grant_tool(&region, Some("k1")).await.unwrap();
    assert_eq!((late.state(), late.version.as_str()), (State::Registered, "2.0.0"));
    let mismatch = (409, "digest_mismatch".to_owned());
    assert_eq!(refusal(owner.grant_tool(&region, Some("k2")).await), mismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_made_once() {
    let (server, builder, agent) = desk().await;
    let owner = &server.owner;
    let tool = builder.register_tool(&registration("1.0.0", "one"), None).await.unwrap();
    let mut other = manifest("acme.other", "1.0.0");
    other["description"] = json!("Another one.");
    register(&builder, &other, echo("other")).await.unwrap();
    grant(owner, &tool).await.unwrap();
    let request = |id: &str| RevokeToolRequest { tool_id: id.to_owned() };
    let revoked = owner.revoke_tool(&request("acme.echo"), Some("k1")).await.unwrap();
    same(&owner.revoke_tool(&request("acme.echo"), Some("k1")).await.unwrap(), &revoked);
    conflicts(owner.revoke_tool(&request("acme.other"), Some("k1")).await);
    assert_eq!(inspect(owner, "acme.other").await.unwrap().state(), State::Registered);

    // Repeated late, it does not take away what was granted anew.
    grant(owner, &tool).await.unwrap();
    let late = owner.revoke_tool(&request("acme.echo"), Some("k1")).await.unwrap();
    assert_eq!(late.state(), State::Active);
    runs(&agent, "acme.echo").await;
}
