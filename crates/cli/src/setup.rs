//! What `init` and `demo` set up through the API: principals with keys, and a published policy.

use client::Client;
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, Policy, PublishPolicyRequest};

use crate::credentials::Credentials;

/// Creates a principal of `owner`'s tenant with a key for the owner's workspace and environment.
pub(crate) async fn enrol(
    client: &Client,
    owner: &Credentials,
    kind: Kind,
    name: &str,
    role: &str,
) -> anyhow::Result<Credentials> {
    let request = CreatePrincipalRequest {
        kind: kind.into(),
        name: name.to_owned(),
        roles: vec![role.to_owned()],
        account_id: String::new(),
    };
    let principal = client.create_principal(&request, None).await?;
    let request = CreateKeyRequest {
        principal_id: principal.principal_id,
        workspace: owner.workspace.clone(),
        environment: owner.environment.clone(),
        ..Default::default()
    };
    let made = client.create_key(&request, None).await?;
    Ok(Credentials { principal_id: made.principal_id, key: made.key, ..owner.clone() })
}

/// Keeps a bundle as a draft.
pub(crate) async fn draft(
    author: &Client,
    bundle: Vec<u8>,
    description: String,
) -> anyhow::Result<Policy> {
    let request = CreatePolicyDraftRequest { bundle, description };
    Ok(author.create_policy_draft(&request, None).await?)
}

/// Publishes a draft.
pub(crate) async fn publish(publisher: &Client, policy_id: String) -> anyhow::Result<Policy> {
    let request = PublishPolicyRequest { policy_id };
    Ok(publisher.publish_policy(&request, None).await?)
}

/// Publishes the baseline policy: drafted by one principal, published by
/// another.
pub(crate) async fn publish_baseline(
    author: &Client,
    publisher: &Client,
) -> anyhow::Result<Policy> {
    let bundle = policy::baseline()?.pack_unsigned()?;
    let draft = draft(author, bundle, "the baseline".to_owned()).await?;
    publish(publisher, draft.policy_id).await
}
