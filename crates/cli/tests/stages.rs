//! Approvals in stages: who speaks when, who steps in, who speaks for whom, and when it ends.

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::stage::State as StageState;
use proto::approvals::{
    Approval, Choice, DecideApprovalRequest, DelegateApprovalRequest, GetApprovalRequest,
    ListApprovalsRequest,
};
use proto::identity::DisablePrincipalRequest;
use proto::identity::principal::Kind;
use proto::me::GetMeRequest;
use proto::receipts::GetReceiptRequest;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::common::desk::{Desk, ONE, approve, conflict, decide, held_by};
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, PATIENCE, refusal, rego};

/// First one who may manage, then two who audit; each has the role to decide as well.
const SERIAL: &str = r#"{"approval": {"mode": "serial", "stages": [
    {"name": "legal", "roles": ["admin"]},
    {"name": "security", "roles": ["auditor"], "quorum": 2}
]}}"#;

impl Desk {
    /// An approver with one more role.
    pub(crate) async fn approver_and(&self, role: &str) -> Client {
        self.server.principal(Kind::User, &["approver", role]).await
    }

    /// The transitions of the receipts of an approval, as JSON, in order.
    pub(crate) async fn changes(&self, approval: &Approval) -> Vec<Value> {
        let mut changes = Vec::new();
        for receipt_id in &approval.receipts {
            let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
            let receipt = self.server.owner.get_receipt(&request).await.unwrap();
            let statement: Value = receipt.statement.unwrap().decode().unwrap();
            let transitions = statement["predicate"]["transitions"].as_array().unwrap().clone();
            let stream = format!("approval/{}", approval.approval_id);
            let own = transitions.into_iter().filter(|t| t["stream"] == stream.as_str());
            changes.extend(own.map(|transition| transition["change"].clone()));
        }
        changes
    }
}

async fn in_stage(who: &Client, on: &Action, stage: &str) -> Result<Approval, client::Error> {
    let request = DecideApprovalRequest {
        approval_id: on.approval_id.clone(),
        decision: Choice::Approve.into(),
        plan_digest: on.plan_digest.clone(),
        stage: Some(stage.to_owned()),
        ..Default::default()
    };
    who.decide_approval(&request, None).await
}

pub(crate) async fn id_of(who: &Client) -> String {
    who.get_me(&GetMeRequest {}).await.unwrap().principal_id
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_are_two_people() {
    let people = r#"{"approval": {"quorum": 2}}"#;
    let desk = Desk::new(&held_by(people)).await;
    let (a, b, c) = (desk.approver().await, desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    approve(&a, &held).await.unwrap();
    assert_eq!(refusal(approve(&a, &held).await), code(409, "already_decided"));
    assert_eq!(desk.effects(), 0);
    approve(&c, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    assert_eq!(refusal(approve(&b, &held).await), conflict(), "the third is not needed");
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_gone_through_in_their_order() {
    let desk = Desk::new(&held_by(SERIAL)).await;
    let legal = desk.approver_and("admin").await;
    let (sam, sue) = (desk.approver_and("auditor").await, desk.approver_and("auditor").await);
    let held = desk.held().await;
    let seen = desk.approval(&held.approval_id).await;
    let stages = |approval: &Approval| {
        let state = |s: &proto::approvals::Stage| (s.name.clone(), s.state(), s.approvals);
        approval.stages.iter().map(state).collect::<Vec<_>>()
    };
    let expect = |legal, security, count| {
        let (one, two) = ("legal".to_owned(), "security".to_owned());
        let first = u32::from(legal == StageState::Complete);
        vec![(one, legal, first), (two, security, count)]
    };
    assert_eq!(stages(&seen), expect(StageState::Open, StageState::Waiting, 0));
    assert_eq!((seen.quorum, seen.mode.as_str()), (3, "serial"));
    assert_eq!(refusal(approve(&sam, &held).await), code(409, "stage_not_open"));
    let refused = refusal(in_stage(&sam, &held, "legal").await);
    assert_eq!(refused, code(403, "not_an_approver"));
    assert_eq!(refusal(in_stage(&sam, &held, "nowhere").await).0, 400);
    let first = approve(&legal, &held).await.unwrap();
    assert_eq!(stages(&first), expect(StageState::Complete, StageState::Open, 0));
    assert_eq!(first.state(), ApprovalState::Requested);
    in_stage(&sam, &held, "security").await.unwrap();
    assert_eq!(desk.effects(), 0);
    approve(&sue, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    let voted: Vec<_> =
        desk.approval(&held.approval_id).await.approvals.into_iter().map(|v| v.stage).collect();
    assert_eq!(voted, ["legal", "security", "security"]);
    assert_eq!(desk.effects(), 1);
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_stages_take_anybody_in_any_order() {
    let parallel = SERIAL.replace("serial", "parallel");
    let desk = Desk::new(&held_by(&parallel)).await;
    let legal = desk.approver_and("admin").await;
    let (sam, sue) = (desk.approver_and("auditor").await, desk.approver_and("auditor").await);
    let held = desk.held().await;
    for who in [&sam, &sue] {
        approve(who, &held).await.unwrap();
    }
    assert_eq!(desk.action(&held.action_id).await.state(), State::AwaitingApproval);
    approve(&legal, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    // One no in any stage ends another.
    let held = desk.held().await;
    decide(&sam, &held, Choice::Reject).await.unwrap();
    desk.reaches(&held, State::Denied).await;
    assert_eq!(desk.effects(), 1);
}

/// The approval once `good`. Reading it moves nothing.
async fn becomes(desk: &Desk, id: &str, good: impl Fn(&Approval) -> bool) -> Approval {
    let until = Instant::now() + PATIENCE;
    loop {
        let approval = desk.approval(id).await;
        if good(&approval) {
            return approval;
        }
        assert!(Instant::now() < until, "{approval:?}");
        sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overdue_escalates_without_any_call() {
    let late = r#"{"approval": {"stages": [{"name": "legal", "roles": ["admin"], "sla_s": 2,
        "escalate_to": {"roles": ["operator"]}}]}}"#;
    let desk = Desk::new(&held_by(late)).await;
    let on_call = desk.approver_and("operator").await;
    let held = desk.held().await;
    let early = approve(&on_call, &held).await;
    let seen = desk.approval(&held.approval_id).await;
    if !seen.escalated {
        assert_eq!(refusal(early), code(403, "not_an_approver"));
    }
    // Only the file of the database is read: nobody asks the server anything.
    let path = desk.server.data.join("runtime.sqlite");
    let until = Instant::now() + PATIENCE;
    let escalated = || {
        let runtime = rusqlite::Connection::open(&path).unwrap();
        let sql = "SELECT count(*) FROM entity WHERE body LIKE '%\"escalated_at\":1%'";
        runtime.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap() == 1
    };
    while !escalated() {
        assert!(Instant::now() < until, "nothing escalates");
        sleep(LOOK_EVERY).await;
    }
    let seen = becomes(&desk, &held.approval_id, |approval| approval.escalated).await;
    assert_eq!((seen.state(), seen.stages[0].escalated), (ApprovalState::Requested, true));
    let text = Wire::new(&desk.server.url).ask("GET", "/metrics").send().await;
    assert!(text.text().contains("tally_approval_escalations_total 1"), "{}", text.text());
    if seen.approvals.is_empty() {
        approve(&on_call, &held).await.unwrap();
    }
    desk.reaches(&held, State::Executed).await;
    let changes = desk.changes(&desk.approval(&held.approval_id).await).await;
    let kinds: Vec<_> = changes.iter().map(|change| change["type"].as_str().unwrap()).collect();
    let expect = ["approval.requested", "approval.escalated", "approval.decided", "approval.used"];
    assert_eq!(kinds, expect);
    assert_eq!(changes[1]["stage"], "legal");
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecided_request_expires() {
    let desk = Desk::new(&held_by(r#"{"approval": {"expires_s": 1, "valid_s": 3600}}"#)).await;
    let held = desk.held().await;
    desk.reaches(&held, State::Expired).await;
    let approver = desk.approver().await;
    assert_eq!(refusal(approve(&approver, &held).await), conflict());
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Expired);
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_expires_before_it_is_used() {
    let desk = Desk::new(&held_by(r#"{"approval": {"expires_s": 3600, "valid_s": 1}}"#)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    // From now on what is approved has to wait, for longer than its approval is good for.
    let waits = r#"{"approval": {"expires_s": 3600, "valid_s": 1}, "retry_after_ms": 3600000}"#;
    let throttled = rego(&format!(
        r#"decisions contains {{"effect": "THROTTLE", "rule": "R-WAIT", "reason": "wait",
            "obligations": {waits}}} if true"#
    ));
    desk.server.publish(&throttled).await;
    let granted = approve(&approver, &held).await.unwrap();
    let until = granted.valid_until.unwrap().micros();
    let decided = granted.approvals[0].decided_at.as_ref().unwrap().micros();
    assert_eq!(until - decided, 1_000_000, "not as long as the request could wait");
    desk.reaches(&held, State::Expired).await;
    assert_eq!(desk.approval(&held.approval_id).await.state(), ApprovalState::Expired);
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}

async fn delegate(from: &Client, on: &Action, to: &str) -> Result<Approval, client::Error> {
    let request = DelegateApprovalRequest {
        approval_id: on.approval_id.clone(),
        to: to.to_owned(),
        reason: "on leave".to_owned(),
    };
    from.delegate_approval(&request, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_say_is_handed_over_and_no_further() {
    let desk = Desk::new(&held_by(r#"{"approval": {"roles": ["admin"]}}"#)).await;
    let lea = desk.approver_and("admin").await;
    let (ann, bob) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    let viewer = desk.server.principal(Kind::User, &["viewer"]).await;
    let refused = code(403, "delegation_refused");
    for to in [&viewer, &desk.agent, &lea] {
        assert_eq!(refusal(delegate(&lea, &held, &id_of(to).await).await), refused);
    }
    assert_eq!(refusal(delegate(&lea, &held, "usr_absent").await).0, 404);
    let gone = desk.approver().await;
    let principal_id = id_of(&gone).await;
    let disable = DisablePrincipalRequest { principal_id: principal_id.clone() };
    desk.server.owner.disable_principal(&disable, None).await.unwrap();
    assert_eq!(refusal(delegate(&lea, &held, &principal_id).await).0, 404);
    let not_theirs = refusal(delegate(&ann, &held, &id_of(&bob).await).await);
    assert_eq!(not_theirs, code(403, "not_an_approver"));
    assert_eq!(refusal(approve(&ann, &held).await), code(403, "not_an_approver"));

    let handed = delegate(&lea, &held, &id_of(&ann).await).await.unwrap();
    let (from, to) = (id_of(&lea).await, id_of(&ann).await);
    assert_eq!((&handed.delegations[0].from, &handed.delegations[0].to), (&from, &to));
    assert_eq!(refusal(approve(&lea, &held).await), code(409, "say_delegated"));
    assert_eq!(refusal(delegate(&ann, &held, &id_of(&bob).await).await), refused);
    approve(&ann, &held).await.unwrap();
    desk.reaches(&held, State::Executed).await;
    let approval = desk.approval(&held.approval_id).await;
    assert_eq!(
        (&approval.approvals[0].principal_id, &approval.approvals[0].delegated_by),
        (&to, &from)
    );
    assert_eq!(desk.effects(), 1);
    let told = serde_json::to_string(&desk.changes(&approval).await).unwrap();
    assert!(told.contains("approval.delegated") && !told.contains("on leave"), "{told}");
    desk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_says_why_by_a_code() {
    let desk = Desk::new(&held_by(ONE)).await;
    let approver = desk.approver().await;
    let held = desk.held().await;
    let reject = |reason_code: &str| DecideApprovalRequest {
        approval_id: held.approval_id.clone(),
        decision: Choice::Reject.into(),
        plan_digest: held.plan_digest.clone(),
        reason: "the wrong project altogether".to_owned(),
        reason_code: reason_code.to_owned(),
        ..Default::default()
    };
    let yes = DecideApprovalRequest { decision: Choice::Approve.into(), ..reject("fine") };
    assert_eq!(refusal(approver.decide_approval(&yes, None).await).0, 400);
    assert_eq!(refusal(approver.decide_approval(&reject("Not so"), None).await).0, 400);
    approver.decide_approval(&reject("wrong_target"), None).await.unwrap();
    desk.reaches(&held, State::Denied).await;
    let approval = desk.approval(&held.approval_id).await;
    assert_eq!(approval.approvals[0].reason_code, "wrong_target");
    let told = serde_json::to_string(&desk.changes(&approval).await).unwrap();
    assert!(told.contains(r#""reason_code":"wrong_target""#), "{told}");
    assert!(!told.contains("altogether"), "free text stays out of receipts");
    let list = ListApprovalsRequest { state: ApprovalState::Rejected.into(), ..Default::default() };
    let listed = approver.list_approvals(&list).await.unwrap().approvals;
    assert_eq!(listed[0].approvals[0].reason_code, "wrong_target");
    let again = GetApprovalRequest { approval_id: held.approval_id.clone() };
    assert!(approver.get_approval(&again).await.unwrap().action_document.is_none());
}
