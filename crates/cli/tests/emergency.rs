//! Breaking glass: an emergency takes the place of a quorum, loudly, and of nothing else.

use client::Client;
use proto::actions::action::State;
use proto::actions::{Action, CancelActionRequest, ListActionsRequest};
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::{Approval, BreakGlassRequest, ListApprovalsRequest};
use proto::identity::principal::Kind;

use crate::common::desk::{Desk, TWO, approve, conflict, held_by, one_rule};
use crate::common::phone::Phone;
use crate::common::wire::Wire;
use crate::common::{refusal, rego};
use crate::stages::id_of;

pub(crate) const REASONS: [&str; 2] =
    ["customers see each other's orders", "nobody of security answers"];

pub(crate) async fn break_glass(
    who: &Client,
    on: &Action,
    reasons: &[&str],
    code: &str,
) -> Result<Approval, client::Error> {
    let request = BreakGlassRequest {
        action_id: on.action_id.clone(),
        plan_digest: on.plan_digest.clone(),
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        totp_code: code.to_owned(),
    };
    who.break_glass(&request, None).await
}

fn forbidden(code: &str) -> (u16, String) {
    (403, code.to_owned())
}

async fn responder(desk: &Desk) -> Client {
    desk.server.principal(Kind::User, &["responder"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn glass_is_broken_loudly_and_on_record() {
    let mut desk = Desk::new(&held_by(TWO)).await;
    let who = responder(&desk).await;
    let mut phone = Phone::of(&who).await;
    let held = desk.held().await;
    let code = phone.code().await;
    let broken = break_glass(&who, &held, &REASONS, &code).await.unwrap();
    assert!(broken.broken_glass, "{broken:?}");
    assert_eq!(broken.broken_glass_by, id_of(&who).await);
    let executed = desk.reaches(&held, State::Executed).await;
    assert!(executed.broken_glass);
    assert_eq!(desk.effects(), 1);
    let actions = desk.server.owner.list_actions(&ListActionsRequest::default()).await.unwrap();
    assert!(actions.actions[0].broken_glass, "lists say so too");
    let approvals = ListApprovalsRequest::default();
    let approvals = desk.server.owner.list_approvals(&approvals).await.unwrap();
    assert!(approvals.approvals[0].broken_glass);

    let changes = desk.changes(&desk.approval(&held.approval_id).await).await;
    let change = &changes[1];
    assert_eq!(change["type"], "approval.glass_broken");
    assert_eq!(change["by"], id_of(&who).await);
    assert_eq!(change["reasons"].as_array().unwrap().len(), 2, "a commitment of each");
    let told = serde_json::to_string(&changes).unwrap();
    assert!(!told.contains("customers") && !told.contains("security"), "{told}");
    let metrics = Wire::new(&desk.server.url).ask("GET", "/metrics").send().await;
    assert!(metrics.text().contains("tally_break_glass_total 1"), "{}", metrics.text());
    desk.verify().await;
    desk.server.kill();
    let log = desk.server.log();
    let line = log.lines().find(|line| line.contains("GLASS BROKEN")).unwrap();
    assert!(line.contains("ERROR") && line.contains(&held.action_id), "{line}");
    assert!(!log.contains("customers"), "the reasons are content");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_break_glass_and_how() {
    let desk = Desk::new(&held_by(TWO)).await;
    let who = responder(&desk).await;
    let held = desk.held().await;
    let plain = desk.approver().await;
    for nobody in [&plain, &desk.agent, &desk.server.owner] {
        let refused = refusal(break_glass(nobody, &held, &REASONS, "123456").await);
        assert_eq!(refused, forbidden("permission_denied"));
    }
    let without = refusal(break_glass(&who, &held, &REASONS, "").await);
    assert_eq!(without, forbidden("step_up_required"));
    let none = refusal(break_glass(&who, &held, &REASONS, "123456").await);
    assert_eq!(none, forbidden("step_up_not_enrolled"));
    let mut phone = Phone::of(&who).await;
    let code = phone.code().await;
    let long = "x".repeat(2_001);
    for reasons in [
        &[][..],
        &["one"],
        &["one", ""],
        &["one", " One "],
        &["one", "two", "three"],
        &["one", &long],
    ] {
        let refused = refusal(break_glass(&who, &held, reasons, &code).await);
        assert_eq!(refused, (400, "invalid_argument".to_owned()), "{reasons:?}");
    }
    let wrong = refusal(break_glass(&who, &held, &REASONS, &phone.wrong()).await);
    assert_eq!(wrong, forbidden("step_up_failed"));
    let code = phone.still().await;
    let replayed = refusal(approve_and_break(&desk, &who, &code).await);
    phone.assert_replayed(replayed, "an earlier emergency used the code");
    let unseen = Action { plan_digest: format!("sha256:{}", "0".repeat(64)), ..held.clone() };
    assert_eq!(refusal(break_glass(&who, &unseen, &REASONS, &code).await).0, 409);
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Requested);
}

/// Breaks glass for one action by `code`, and again for another by the same code.
async fn approve_and_break(
    desk: &Desk,
    who: &Client,
    code: &str,
) -> Result<Approval, client::Error> {
    let (first, second) = (desk.held().await, desk.held().await);
    break_glass(who, &first, &REASONS, code).await.unwrap();
    desk.reaches(&first, State::Executed).await;
    break_glass(who, &second, &REASONS, code).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_breaks_glass_for_themselves_or_against_policy() {
    let forbids = r#"{"approval": {"quorum": 2}, "break_glass": "forbidden"}"#;
    let desk = Desk::new(&held_by(TWO)).await;
    let roles = &["responder", "operator"];
    let who = desk.server.principal(Kind::User, roles).await;
    let mut phone = Phone::of(&who).await;
    let code = phone.code().await;
    let own = desk.held_for(&who).await;
    let refused = refusal(break_glass(&who, &own, &REASONS, &code).await);
    assert_eq!(refused, forbidden("self_approval"));

    desk.server.publish(&held_by(forbids)).await;
    let held = desk.held().await;
    assert!(desk.approval(&held.approval_id).await.break_glass_forbidden);
    let refused = refusal(break_glass(&who, &held, &REASONS, &code).await);
    assert_eq!(refused, forbidden("break_glass_forbidden"));
    for effect in ["DENY", "QUARANTINE"] {
        desk.server.publish(&one_rule(effect, "{}")).await;
        let refused = desk.agent.submit_action(&desk.request(), None).await.unwrap();
        assert_ne!(refused.state(), State::AwaitingApproval);
        assert_eq!(refusal(break_glass(&who, &refused, &REASONS, &code).await), conflict());
    }
    desk.server.publish(&held_by(TWO)).await;
    let gone = desk.held().await;
    let cancel = CancelActionRequest { action_id: gone.action_id.clone(), reason: String::new() };
    desk.agent.cancel_action(&cancel, None).await.unwrap();
    assert_eq!(refusal(break_glass(&who, &gone, &REASONS, &code).await), conflict());
    // None of this used the code up, and what policy says at the end still counts.
    let held = desk.held().await;
    desk.server.publish(&one_rule("DENY", "{}")).await;
    break_glass(&who, &held, &REASONS, &phone.still().await).await.unwrap();
    let denied = desk.reaches(&held, State::Denied).await;
    assert!(denied.broken_glass, "it stays on record");
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_forbids_it_by_now_asks_people_again() {
    let desk = Desk::new(&held_by(r#"{"approval": {"quorum": 1}}"#)).await;
    let who = responder(&desk).await;
    let mut phone = Phone::of(&who).await;
    let held = desk.held().await;
    let now = r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-NOW",
        "reason": "now", "obligations": {"break_glass": "forbidden"}} if true"#;
    desk.server.publish(&rego(now)).await;
    break_glass(&who, &held, &REASONS, &phone.code().await).await.unwrap();
    let until = tokio::time::Instant::now() + crate::common::PATIENCE;
    let again = loop {
        let action = desk.action(&held.action_id).await;
        if action.approval_id != held.approval_id {
            break action;
        }
        assert!(tokio::time::Instant::now() < until, "{action:?}");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    };
    assert_eq!((again.state(), desk.effects()), (State::AwaitingApproval, 0));
    approve(&desk.approver().await, &again).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}
