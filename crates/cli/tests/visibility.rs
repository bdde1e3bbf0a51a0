//! What an agent sees: its own actions and approvals, and of nobody else's.

use client::Client;
use proto::actions::action::State;
use proto::actions::{Action, CancelActionRequest, GetActionRequest, ListActionsRequest};
use proto::approvals::{Approval, GetApprovalRequest, ListApprovalsRequest};
use proto::identity::principal::Kind;
use proto::receipts::ListReceiptsRequest;
use serde_json::{Value, json};

use crate::common::{Server, action, granting, refusal, rego};

/// Reads run, writes wait for people.
fn policy() -> policy::Source {
    rego(
        r#"decisions contains {"effect": "ALLOW", "rule": "R-READ", "reason": "read"} if {
            input.tool.id == "core.fs_read"
        }

        decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-WRITE", "reason": "write"} if {
            input.tool.id == "core.fs_write"
        }"#,
    )
}

async fn read(who: &Client, action: &Action) -> Result<Action, client::Error> {
    who.get_action(&GetActionRequest { action_id: action.action_id.clone() }).await
}

async fn approval(who: &Client, held: &Action) -> Result<Approval, client::Error> {
    who.get_approval(&GetApprovalRequest { approval_id: held.approval_id.clone() }).await
}

async fn receipts(who: &Client, action: &Action) -> Result<usize, client::Error> {
    let action_id = action.action_id.clone();
    let request = ListReceiptsRequest { action_id, ..Default::default() };
    Ok(who.list_receipts(&request).await?.receipts.len())
}

/// The ids of all actions that `who` finds, in pages of two.
async fn actions(who: &Client) -> Vec<String> {
    let mut request = ListActionsRequest { page_size: 2, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = who.list_actions(&request).await.unwrap();
        assert!(page.actions.len() <= 2);
        for action in page.actions {
            assert!(action.result.is_none() && action.error.is_none(), "{action:?}");
            found.push(action.action_id);
        }
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

async fn approvals(who: &Client) -> Vec<Approval> {
    who.list_approvals(&ListApprovalsRequest::default()).await.unwrap().approvals
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sees_what_it_asked_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::write(root.join("file"), "secret").unwrap();
    let server = Server::start(&granting(&root));
    server.publish(&policy()).await;
    let one = server.principal(Kind::Agent, &["agent"]).await;
    let other = server.principal(Kind::Agent, &["agent"]).await;
    let reading = action("core.fs_read", &json!({"path": root.join("file")}));
    let writing = action("core.fs_write", &json!({"path": root.join("new"), "content": "x"}));
    let mut own = Vec::new();
    for _ in 0..3 {
        own.insert(0, one.submit_action(&reading, None).await.unwrap().action_id);
        other.submit_action(&reading, None).await.unwrap();
    }
    let executed = one.submit_action(&reading, None).await.unwrap();
    let held = one.submit_action(&writing, None).await.unwrap();
    let foreign = other.submit_action(&writing, None).await.unwrap();
    own.splice(0..0, [held.action_id.clone(), executed.action_id.clone()]);
    assert_eq!((executed.state(), held.state()), (State::Executed, State::AwaitingApproval));

    let absent = || (404, "not_found".to_owned());
    for action in [&executed, &held] {
        assert_eq!(read(&one, action).await.unwrap().action_id, action.action_id);
        assert_eq!(refusal(read(&other, action).await), absent());
        assert!(receipts(&one, action).await.unwrap() > 0);
        assert_eq!(refusal(receipts(&other, action).await), absent());
    }
    let cancel = CancelActionRequest { action_id: held.action_id.clone(), ..Default::default() };
    assert_eq!(refusal(other.cancel_action(&cancel, None).await), absent());
    assert_eq!(refusal(approval(&other, &held).await), absent());
    assert_eq!(actions(&one).await, own);
    let listed = approvals(&one).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].approval_id, held.approval_id);
    assert!(approvals(&other).await.iter().all(|found| found.action_id == foreign.action_id));

    // Everybody else who may read reads everything; the document is for who asks and who answers.
    let approver = server.principal(Kind::User, &["approver"]).await;
    let viewer = server.principal(Kind::User, &["viewer"]).await;
    let watching = server.principal(Kind::Agent, &["agent", "viewer"]).await;
    for who in [&approver, &viewer, &watching, &server.owner] {
        assert_eq!(read(who, &executed).await.unwrap().result, executed.result);
        assert_eq!(actions(who).await.len(), 9);
        assert_eq!(approvals(who).await.len(), 2);
    }
    for (who, shown) in [
        (&one, true),
        (&approver, true),
        (&viewer, false),
        (&watching, false),
        (&server.owner, false),
    ] {
        let seen = approval(who, &held).await.unwrap();
        assert_eq!(seen.plan_digest, held.plan_digest);
        assert_eq!(seen.action_document.is_some(), shown);
    }
    let document = approval(&approver, &held).await.unwrap().action_document.unwrap();
    assert_eq!(document.decode::<Value>().unwrap()["params"]["content"], "x");
}
