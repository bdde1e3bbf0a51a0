//! In prod a policy decides by the word of two: its author, and another who publishes it.

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::policies::{
    CreatePolicyDraftRequest, GetPolicyStatusRequest, Policy, PublishPolicyRequest,
    RollbackPolicyRequest,
};
use proto::tools::ListToolsRequest;
use proto::types::decision::Effect;
use serde_json::json;

use crate::common::{Server, action, allow_all, assert_code, refusal, rego, text};

/// A server with an agent in dev and one in prod, an author of policies, and another admin.
struct Desk {
    server: Server,
    dev: Client,
    prod: Client,
    author: Client,
    other: Client,
    /// The author's key, which is bound to dev.
    key: String,
}

impl Desk {
    async fn new() -> Self {
        let server = Server::start("policy: {decision_limit_ms: 5000}");
        let dev = server.principal(Kind::Agent, &["agent"]).await;
        let prod = server.principal_in(Kind::Agent, &["agent"], "prod").await;
        let key = server.key(Kind::User, &["admin"], "dev").await;
        let author = Client::new(&server.url, &key).unwrap();
        let other = server.principal(Kind::User, &["admin"]).await;
        Self { server, dev, prod, author, other, key }
    }

    async fn draft(&self) -> Policy {
        let bundle = allow_all().pack_unsigned().unwrap();
        let request = CreatePolicyDraftRequest { bundle, description: String::new() };
        self.author.create_policy_draft(&request, None).await.unwrap()
    }

    /// The policy in force lets both environments act.
    async fn open_to_all(&self) {
        for agent in [&self.dev, &self.prod] {
            assert_eq!(effect(&read(agent).await), Effect::Allow);
            assert!(!listed(agent).await.is_empty());
        }
        assert!(self.reviewed().await);
    }

    /// The policy in force lets dev act and, for want of a second word, not prod.
    async fn closed_to_prod(&self, revision: u32) {
        assert_eq!(effect(&read(&self.dev).await), Effect::Allow);
        assert!(!listed(&self.dev).await.is_empty());
        let denied = read(&self.prod).await;
        assert_eq!((denied.state(), effect(&denied)), (State::Denied, Effect::Deny));
        let decision = denied.decision.unwrap();
        assert_eq!(decision.reasons, ["policy_unreviewed"]);
        assert_eq!(decision.policy_revision, revision);
        let error = denied.error.unwrap();
        assert_eq!((error.code.as_str(), error.retryable), ("policy_unreviewed", false));
        assert!(listed(&self.prod).await.is_empty(), "what is not callable is not listed");
        assert!(!self.reviewed().await);
        let told = self.server.tally(&self.key, &["policy", "status"]);
        assert_code(&told, 0);
        assert!(text(&told).contains("everything is denied in prod"), "{}", text(&told));
    }

    async fn reviewed(&self) -> bool {
        let status = self.server.owner.get_policy_status(&GetPolicyStatusRequest {}).await;
        status.unwrap().reviewed
    }
}

/// What becomes of a read. No folder is granted, so one that is allowed fails.
async fn read(agent: &Client) -> Action {
    let request = action("core.fs_read", &json!({"path": "/no/grant"}));
    agent.submit_action(&request, None).await.unwrap()
}

fn effect(action: &Action) -> Effect {
    action.decision.as_ref().unwrap().effect()
}

async fn listed(agent: &Client) -> Vec<String> {
    let tools = agent.list_tools(&ListToolsRequest::default()).await.unwrap().tools;
    tools.into_iter().map(|tool| tool.tool_id).collect()
}

async fn publish(publisher: &Client, draft: &Policy) -> Policy {
    let request = PublishPolicyRequest { policy_id: draft.policy_id.clone() };
    publisher.publish_policy(&request, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_the_author_alone_counts_for_nothing_in_prod() {
    let mut desk = Desk::new().await;
    let drafted = desk.draft().await;
    let alone = publish(&desk.author, &drafted).await;
    desk.closed_to_prod(alone.revision).await;

    // The other one looks at it and publishes the same again.
    let reviewed = publish(&desk.other, &drafted).await;
    assert_eq!(reviewed.revision, alone.revision + 1);
    desk.open_to_all().await;

    // Nor does a later word of the author's, or one from before a restart.
    let alone = publish(&desk.author, &drafted).await;
    desk.closed_to_prod(alone.revision).await;
    assert!(desk.server.terminate().success());
    desk.server.restart();
    desk.closed_to_prod(alone.revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_author_alone_does_not_bring_a_policy_back_to_prod() {
    let desk = Desk::new().await;
    let first = publish(&desk.other, &desk.draft().await).await;
    desk.open_to_all().await;
    let deny = r#"decisions contains {"effect": "DENY", "rule": "R-NO", "reason": "no"} if true"#;
    desk.server.publish_by(&desk.other, &rego(deny)).await;
    assert_eq!(effect(&read(&desk.prod).await), Effect::Deny);

    let back = RollbackPolicyRequest { to_policy_id: first.policy_id };
    let alone = desk.author.rollback_policy(&back, None).await.unwrap();
    desk.closed_to_prod(alone.revision).await;
    desk.other.rollback_policy(&back, None).await.unwrap();
    desk.open_to_all().await;

    // A key of prod is told before it closes prod.
    let author = desk.server.principal_in(Kind::User, &["admin"], "prod").await;
    let bundle = allow_all().pack_unsigned().unwrap();
    let request = CreatePolicyDraftRequest { bundle, description: String::new() };
    let own = author.create_policy_draft(&request, None).await.unwrap();
    publish(&desk.other, &own).await;
    desk.other.rollback_policy(&back, None).await.unwrap();
    let request = RollbackPolicyRequest { to_policy_id: own.policy_id };
    let refused = refusal(author.rollback_policy(&request, None).await);
    assert_eq!(refused, (403, "author_is_publisher".to_owned()));
    desk.open_to_all().await;
}
