//! Approvals: who may say yes, to exactly what, how often, and what policy still says then.

use proto::actions::action::State;
use proto::actions::{Action, CancelActionRequest, ReleaseActionRequest, SubmitActionRequest};
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::{Choice, GetApprovalRequest, ListApprovalsRequest};
use proto::identity::DisablePrincipalRequest;
use proto::identity::principal::Kind;
use proto::receipts::verify_receipt_response::Trust;
use proto::receipts::{ListReceiptsRequest, VerifyReceiptRequest};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::desk::{Desk, ONE, TWO, approve, conflict, decide, held_by, one_rule};
use crate::common::{LOOK_EVERY, PATIENCE, allow_all, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_write_runs_exactly_once_when_it_is_approved() {
    let desk = Desk::new(&held_by(ONE)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    let seen = first
        .get_approval(&GetApprovalRequest { approval_id: held.approval_id.clone() })
        .await
        .unwrap();
    assert_eq!((seen.state(), &seen.plan_digest), (ApprovalState::Requested, &held.plan_digest));
    let document: Value = seen.action_document.unwrap().decode().unwrap();
    assert_eq!(document["params"]["content"], "once\n", "what is approved is shown");
    assert_eq!((desk.effects(), desk.documents()), (0, 1), "nothing runs while it is held");

    let approved = approve(&first, &held).await.unwrap();
    assert_eq!((approved.state(), approved.approvals.len()), (ApprovalState::Approved, 1));
    let executed = desk.reaches(&held, State::Executed).await;
    assert_eq!((desk.effects(), executed.attempt, desk.documents()), (1, 1, 0));

    // An approval that was used starts nothing again, whoever says yes.
    for who in [&first, &second] {
        assert_eq!(refusal(approve(who, &held).await), conflict());
    }
    assert_eq!(desk.action(&held.action_id).await, executed);
    assert_eq!(desk.effects(), 1);

    let changes = receipted(&desk, &held).await;
    for once in ["approval.requested", "approval.used", "action.started", "action.finished"] {
        assert_eq!(changes.iter().filter(|change| *change == once).count(), 1, "{changes:?}");
    }
    let place = |name: &str| changes.iter().position(|change| change == name).unwrap();
    assert!(place("action.approved") < place("approval.used"), "{changes:?}");
    desk.verify().await;
}

/// The changes in the receipts of an action, in order. Each receipt verifies by the pinned key.
async fn receipted(desk: &Desk, action: &Action) -> Vec<String> {
    let request = ListReceiptsRequest { action_id: action.action_id.clone(), ..Default::default() };
    let page = desk.server.owner.list_receipts(&request).await.unwrap();
    let mut changes = Vec::new();
    for receipt in page.receipts {
        let statement: Value = receipt.statement.unwrap().decode().unwrap();
        let transitions = statement["predicate"]["transitions"].as_array().unwrap();
        changes.extend(transitions.iter().map(|t| t["change"]["type"].as_str().unwrap().into()));
        let request = VerifyReceiptRequest { receipt_id: receipt.receipt_id, ..Default::default() };
        let verified = desk.server.owner.verify_receipt(&request).await.unwrap();
        assert_eq!((verified.valid, verified.trust()), (true, Trust::Pinned), "{verified:?}");
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_never_approves() {
    let desk = Desk::new(&held_by(ONE)).await;
    let held = desk.held().await;
    let (status, _) = refusal(approve(&desk.agent, &held).await);
    assert_eq!(status, 403, "an agent approves nothing");

    let user = desk.server.principal(Kind::User, &["operator", "approver"]).await;
    let own = desk.held_for(&user).await;
    assert_eq!(refusal(approve(&user, &own).await), (403, "self_approval".to_owned()));
    let rejected = decide(&user, &own, Choice::Reject).await;
    assert_eq!(refusal(rejected), (403, "self_approval".to_owned()));

    for action in [&held, &own] {
        assert_eq!(desk.action(&action.action_id).await.state(), State::AwaitingApproval);
    }
    assert_eq!(desk.effects(), 0);
    // The same user may well approve what somebody else asks.
    approve(&user, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_approvers_decide() {
    let desk = Desk::new(&held_by(r#"{"approval": {"roles": ["admin"]}}"#)).await;
    let held = desk.held().await;
    let mut others = vec![desk.server.owner.clone()];
    for role in ["viewer", "auditor", "operator", "builder", "admin"] {
        others.push(desk.server.principal(Kind::User, &[role]).await);
    }
    for other in &others {
        assert_eq!(refusal(approve(other, &held).await).0, 403);
        assert_eq!(refusal(decide(other, &held, Choice::Reject).await).0, 403);
    }
    let plain = desk.approver().await;
    let refused = refusal(approve(&plain, &held).await);
    assert_eq!(refused, (403, "not_an_approver".to_owned()), "policy names the role");
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);

    let both = desk.server.principal(Kind::User, &["admin", "approver"]).await;
    approve(&both, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plan_is_refused() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let (one, other) = (desk.held().await, desk.held().await);
    assert_ne!(one.plan_digest, other.plan_digest, "the same words asked twice are two plans");
    for plan_digest in [other.plan_digest.clone(), format!("sha256:{:064}", 0)] {
        let mixed = Action { plan_digest, ..one.clone() };
        let refused = refusal(approve(&approver, &mixed).await);
        assert_eq!(refused, (409, "plan_digest_mismatch".to_owned()));
    }
    let none = Action { plan_digest: String::new(), ..one.clone() };
    assert_eq!(refusal(approve(&approver, &none).await).0, 400, "a digest must be named");
    assert!(desk.approval(&one.approval_id).await.approvals.is_empty());
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_expires_by_itself() {
    let desk = Desk::new(&held_by(r#"{"approval": {"quorum": 1, "expires_s": 1}}"#)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    desk.reaches(&held, State::Expired).await;
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Expired);
    assert_eq!(refusal(approve(&approver, &held).await), conflict());
    assert_eq!(desk.action(&held.action_id).await.state(), State::Expired);
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
    let changes = receipted(&desk, &held).await;
    assert!(changes.ends_with(&["approval.expired".into(), "action.expired".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_denies() {
    let desk = Desk::new(&held_by(TWO)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    approve(&first, &held).await.unwrap();
    let rejected = decide(&second, &held, Choice::Deny).await.unwrap();
    assert_eq!(rejected.state(), ApprovalState::Rejected, "one no is enough");
    let denied = desk.reaches(&held, State::Denied).await;
    assert_eq!(denied.error.unwrap().code, "approval_rejected");
    for who in [&first, &second] {
        assert_eq!(refusal(approve(who, &held).await), conflict());
    }
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_votes_at_once_both_land_and_run_it_once() {
    let desk = Desk::new(&held_by(TWO)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    for round in 1..=8 {
        let held = desk.held().await;
        let (one, other) = tokio::join!(approve(&first, &held), approve(&second, &held));
        let mut counts = [one.unwrap().approvals.len(), other.unwrap().approvals.len()];
        counts.sort_unstable();
        assert_eq!(counts, [1, 2], "one vote after the other");
        desk.reaches(&held, State::Executed).await;
        assert_eq!(desk.effects(), round);
    }
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_votes_twice() {
    let desk = Desk::new(&held_by(TWO)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    approve(&first, &held).await.unwrap();
    let again = refusal(approve(&first, &held).await);
    assert_eq!(again, (409, "already_decided".to_owned()));
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Requested);
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    assert_eq!(desk.effects(), 0);
    approve(&second, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}

/// The action as it waits for another approval than `held` did, which is of no use any more.
async fn reopened(desk: &Desk, held: &Action) -> Action {
    let until = Instant::now() + PATIENCE;
    let again = loop {
        let action = desk.action(&held.action_id).await;
        if action.approval_id != held.approval_id {
            break action;
        }
        assert!(Instant::now() < until, "it is not reopened: {action:?}");
        sleep(LOOK_EVERY).await;
    };
    assert_eq!(again.state(), State::AwaitingApproval);
    assert_eq!(again.plan_digest, held.plan_digest);
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Canceled);
    assert_eq!(desk.effects(), 0);
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stricter_policy_reopens() {
    let desk = Desk::new(&held_by(ONE)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    let strict = desk.server.publish(&held_by(TWO)).await;
    let approved = approve(&first, &held).await.unwrap();
    assert_eq!(approved.state(), ApprovalState::Approved, "it asked for one and has one");

    let again = reopened(&desk, &held).await;
    assert_eq!(again.decision.as_ref().unwrap().policy_revision, strict.revision);
    assert_eq!(desk.approval(&again.approval_id).await.quorum, 2);
    assert_eq!(refusal(approve(&second, &held).await), conflict(), "the old one stays ended");
    approve(&first, &again).await.unwrap();
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    approve(&second, &again).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_other_approvers_reopens() {
    let desk = Desk::new(&held_by(ONE)).await;
    let plain = desk.approver().await;
    let both = desk.server.principal(Kind::User, &["admin", "approver"]).await;
    let held = desk.held().await;
    desk.server.publish(&held_by(r#"{"approval": {"roles": ["admin"]}}"#)).await;
    approve(&plain, &held).await.unwrap();
    let again = reopened(&desk, &held).await;
    assert_eq!(refusal(approve(&plain, &again).await), (403, "not_an_approver".to_owned()));
    approve(&both, &again).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_now_denies_ends_it() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    let closed = desk.server.publish(&one_rule("DENY", "{}")).await;
    approve(&approver, &held).await.unwrap();
    let denied = desk.reaches(&held, State::Denied).await;
    let decision = denied.decision.unwrap();
    assert_eq!(decision.policy_revision, closed.revision);
    assert_eq!((decision.rules, denied.error.unwrap().code), (vec!["R-ONE".into()], "one".into()));
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Canceled);
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_now_quarantines_holds_it_for_an_admin() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    desk.server.publish(&one_rule("QUARANTINE", "{}")).await;
    approve(&approver, &held).await.unwrap();
    desk.reaches(&held, State::Quarantined).await;
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Canceled);

    // Released, it needs a new approval: the first one is not brought back.
    desk.server.publish(&held_by(ONE)).await;
    let release = ReleaseActionRequest { action_id: held.action_id.clone(), reason: String::new() };
    desk.server.owner.release_action(&release, None).await.unwrap();
    let again = reopened(&desk, &held).await;
    approve(&approver, &again).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_of_a_disabled_principal_is_denied() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    let principal_id = held.actor_chain[0].id.clone();
    let disable = DisablePrincipalRequest { principal_id };
    desk.server.owner.disable_principal(&disable, None).await.unwrap();
    approve(&approver, &held).await.unwrap();
    let denied = desk.reaches(&held, State::Denied).await;
    assert_eq!(denied.error.unwrap().code, "principal_disabled");
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_demands_a_second_factor_stays_closed_without_one() {
    let desk = Desk::new(&one_rule("REQUIRE_STEP_UP", "{}")).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    assert!(desk.approval(&held.approval_id).await.step_up_required);
    let refused = refusal(approve(&approver, &held).await);
    assert_eq!(refused, (403, "step_up_required".to_owned()));
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    assert_eq!(desk.effects(), 0);
    decide(&approver, &held, Choice::Reject).await.unwrap();
    desk.reaches(&held, State::Denied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_action_cancels_its_approval() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let stranger = desk.server.principal(Kind::Agent, &["agent"]).await;
    let held = desk.held().await;
    let cancel = CancelActionRequest { action_id: held.action_id.clone(), reason: String::new() };
    assert_eq!(refusal(stranger.cancel_action(&cancel, None).await).0, 404);
    let canceled = desk.agent.cancel_action(&cancel, None).await.unwrap();
    assert_eq!(canceled.state(), State::Canceled);
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Canceled);
    assert_eq!(refusal(approve(&approver, &held).await), conflict());
    assert_eq!(refusal(desk.agent.cancel_action(&cancel, None).await), conflict());
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_and_a_cancel_at_once_leave_one_of_both() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let mut effects = 0;
    for _ in 0..8 {
        let held = desk.held().await;
        let cancel =
            CancelActionRequest { action_id: held.action_id.clone(), reason: String::new() };
        let (approved, canceled) =
            tokio::join!(approve(&approver, &held), desk.agent.cancel_action(&cancel, None));
        let end = if canceled.is_ok() { State::Canceled } else { State::Executed };
        desk.reaches(&held, end).await;
        if canceled.is_err() {
            assert_eq!(refusal(canceled).0, 409);
            approved.unwrap();
            effects += 1;
        }
        assert_eq!((desk.effects(), desk.documents()), (effects, 0));
        let approval = desk.approval(&held.approval_id).await;
        let left =
            if end == State::Canceled { ApprovalState::Canceled } else { ApprovalState::Approved };
        assert_eq!(approval.state(), left, "nobody is asked for what nobody waits for");
    }
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_waits_for_its_approval() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let request = SubmitActionRequest { wait_ms: Some(60_000), ..desk.request() };
    let approving = async {
        let open =
            ListApprovalsRequest { state: ApprovalState::Requested.into(), ..Default::default() };
        let until = Instant::now() + PATIENCE;
        loop {
            let page = approver.list_approvals(&open).await.unwrap();
            if let Some(found) = page.approvals.first() {
                let on = Action {
                    approval_id: found.approval_id.clone(),
                    plan_digest: found.plan_digest.clone(),
                    ..Default::default()
                };
                return approve(&approver, &on).await.unwrap();
            }
            assert!(Instant::now() < until, "no approval was opened");
            sleep(LOOK_EVERY).await;
        }
    };
    let (answer, approved) = tokio::join!(desk.agent.submit_action(&request, None), approving);
    let answer = answer.unwrap();
    assert_eq!((answer.state(), answer.action_id), (State::Executed, approved.action_id));
    assert_eq!(answer.result.unwrap().decode::<Value>().unwrap(), json!({"bytes": 5}));
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_survives_a_restart() {
    let mut desk = Desk::new(&held_by(TWO)).await;
    let (first, second) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    approve(&first, &held).await.unwrap();
    assert!(desk.server.terminate().success());
    desk.server.restart();
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    let again = refusal(approve(&first, &held).await);
    assert_eq!(again, (409, "already_decided".to_owned()), "votes survive too");
    approve(&second, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_now_allows_uses_no_approval() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    desk.server.publish(&allow_all()).await;
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    approve(&approver, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
    let approval = desk.approval(&held.approval_id).await;
    assert_eq!(approval.state(), ApprovalState::Canceled, "it can serve nothing else");
}
