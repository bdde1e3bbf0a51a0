//! The second factor: what demands one stays closed without it, and a code is good once.

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::approvals::{Approval, Choice, DecideApprovalRequest};
use proto::identity::principal::Kind;
use proto::me::factor::State as FactorState;
use proto::me::{
    ConfirmTotpRequest, EnrollTotpRequest, GetMeRequest, RemoveTotpRequest, ResetTotpRequest,
};

use crate::common::desk::{Desk, approve, decide, one_rule};
use crate::common::phone::Phone;
use crate::common::refusal;
use crate::stages::id_of;

async fn with_code(who: &Client, on: &Action, code: &str) -> Result<Approval, client::Error> {
    let request = DecideApprovalRequest {
        approval_id: on.approval_id.clone(),
        decision: Choice::Approve.into(),
        plan_digest: on.plan_digest.clone(),
        totp_code: code.to_owned(),
        ..Default::default()
    };
    who.decide_approval(&request, None).await
}

fn forbidden(code: &str) -> (u16, String) {
    (403, code.to_owned())
}

async fn desk() -> Desk {
    Desk::new(&one_rule("REQUIRE_STEP_UP", "{}")).await
}

async fn state(who: &Client) -> FactorState {
    who.get_me(&GetMeRequest {}).await.unwrap().factor.unwrap().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_second_factor_approves_once_for_each_code() {
    let desk = desk().await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    assert!(desk.approval(&held.approval_id).await.step_up_required);
    assert_eq!(refusal(approve(&approver, &held).await), forbidden("step_up_required"));
    let none = refusal(with_code(&approver, &held, "123456").await);
    assert_eq!(none, forbidden("step_up_not_enrolled"));
    let mut phone = Phone::of(&approver).await;
    assert_eq!(state(&approver).await, FactorState::Confirmed);
    let confirmed = refusal(with_code(&approver, &held, &phone.again()).await);
    phone.assert_replayed(confirmed, "it confirmed the factor");
    assert_eq!(refusal(approve(&approver, &held).await), forbidden("step_up_required"));
    assert_eq!(refusal(with_code(&approver, &held, "12345").await).0, 400);
    let wrong = refusal(with_code(&approver, &held, &phone.wrong()).await);
    assert_eq!(wrong, forbidden("step_up_failed"));
    assert_eq!((desk.effects(), desk.documents()), (0, 1));

    let approved = with_code(&approver, &held, &phone.code().await).await.unwrap();
    assert!(approved.approvals[0].step_up);
    desk.reaches(&held, State::Executed).await;
    let other = desk.held().await;
    let again = refusal(with_code(&approver, &other, &phone.again()).await);
    phone.assert_replayed(again, "a code for one approval serves no other");
    assert_eq!(desk.effects(), 1);
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_not_used_up_by_what_is_refused_anyway() {
    let desk = desk().await;
    let approver = desk.approver().await;
    let mut phone = Phone::of(&approver).await;
    let held = desk.held().await;
    let code = phone.code().await;
    let unseen = Action { plan_digest: format!("sha256:{}", "0".repeat(64)), ..held.clone() };
    let refused = refusal(with_code(&approver, &unseen, &code).await);
    assert_eq!(refused, (409, "plan_digest_mismatch".to_owned()));
    with_code(&approver, &held, &phone.still().await).await.unwrap();
    desk.reaches(&held, State::Executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_locks_and_stays_locked_after_a_restart() {
    let mut desk = desk().await;
    let approver = desk.approver().await;
    let mut phone = Phone::of(&approver).await;
    let held = desk.held().await;
    let wrong = phone.wrong();
    for _ in 0..4 {
        let refused = refusal(with_code(&approver, &held, &wrong).await);
        assert_eq!(refused, forbidden("step_up_failed"));
    }
    let fifth = refusal(with_code(&approver, &held, &wrong).await);
    assert_eq!(fifth, forbidden("step_up_locked"));
    let right = phone.code().await;
    let locked = || async { refusal(with_code(&approver, &held, &right).await) };
    assert_eq!(locked().await, forbidden("step_up_locked"));
    assert!(desk.server.terminate().success());
    assert!(desk.server.log().contains("a wrong code"));
    desk.server.restart();
    assert_eq!(locked().await, forbidden("step_up_locked"), "it is in the log");
    let me = approver.get_me(&GetMeRequest {}).await.unwrap();
    assert!(me.factor.unwrap().locked_until.is_some());
    // A no needs no second factor.
    decide(&approver, &held, Choice::Reject).await.unwrap();
    desk.reaches(&held, State::Denied).await;
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_factor_is_its_holders_until_an_admin_resets_it() {
    let desk = desk().await;
    let approver = desk.approver().await;
    assert_eq!(state(&approver).await, FactorState::None);
    let first = approver.enroll_totp(&EnrollTotpRequest {}, None).await.unwrap();
    assert!(first.otpauth_uri.starts_with("otpauth://totp/Tally:usr_"), "{first:?}");
    assert!(first.otpauth_uri.contains(&format!("secret={}&issuer=Tally", first.secret)));
    assert_eq!(state(&approver).await, FactorState::Enrolled);
    let mut phone = Phone::of(&approver).await;
    let again = refusal(approver.enroll_totp(&EnrollTotpRequest {}, None).await);
    assert_eq!(again, (409, "already_exists".to_owned()), "it is not silently replaced");
    let confirm = ConfirmTotpRequest { code: phone.again() };
    assert_eq!(refusal(approver.confirm_totp(&confirm, None).await).0, 409);
    let wrong = RemoveTotpRequest { code: phone.wrong() };
    assert_eq!(refusal(approver.remove_totp(&wrong, None).await), forbidden("step_up_failed"));
    assert_eq!(state(&approver).await, FactorState::Confirmed);
    let remove = RemoveTotpRequest { code: phone.code().await };
    approver.remove_totp(&remove, None).await.unwrap();
    assert_eq!(state(&approver).await, FactorState::Removed);

    let _other_phone = Phone::of(&approver).await;
    let reset = ResetTotpRequest { principal_id: id_of(&approver).await };
    let viewer = desk.server.principal(Kind::User, &["viewer"]).await;
    assert_eq!(refusal(viewer.reset_totp(&reset, None).await), forbidden("permission_denied"));
    let admin = desk.server.principal(Kind::User, &["admin"]).await;
    let own = ResetTotpRequest { principal_id: id_of(&admin).await };
    assert_eq!(refusal(admin.reset_totp(&own, None).await), forbidden("self_reset"));
    let owner = ResetTotpRequest { principal_id: id_of(&desk.server.owner).await };
    assert_eq!(refusal(admin.reset_totp(&owner, None).await), forbidden("permission_denied"));
    admin.reset_totp(&reset, None).await.unwrap();
    assert_eq!(state(&approver).await, FactorState::Removed);
    assert_eq!(refusal(admin.reset_totp(&reset, None).await), forbidden("step_up_not_enrolled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_services_have_none() {
    let desk = desk().await;
    let enroll = EnrollTotpRequest {};
    let refused = refusal(desk.agent.enroll_totp(&enroll, None).await);
    assert_eq!(refused, forbidden("permission_denied"));
    let watcher = desk.server.principal(Kind::Agent, &["viewer"]).await;
    assert_eq!(refusal(watcher.enroll_totp(&enroll, None).await), forbidden("not_a_user"));
    let service = desk.server.principal(Kind::Service, &["operator"]).await;
    assert_eq!(refusal(service.enroll_totp(&enroll, None).await), forbidden("not_a_user"));
    let me = desk.agent.get_me(&GetMeRequest {}).await.unwrap();
    assert_eq!((me.kind.as_str(), me.roles), ("agent", vec!["agent".to_owned()]));
    assert_eq!((me.workspace.as_str(), me.environment.as_str()), ("main", "dev"));
}
