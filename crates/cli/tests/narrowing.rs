//! Approving less than was asked for: shorter, less often, nothing else than the plan.

use client::Client;
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::approvals::{Approval, Choice, DecideApprovalRequest, Narrow};
use proto::identity::principal::Kind;

use crate::common::desk::{Desk, TWO, held_by};
use crate::common::target::Target;
use crate::common::{Server, reaches, refusal, rego};

async fn approve(who: &Client, on: &Action, narrow: Narrow) -> Result<Approval, client::Error> {
    let request = DecideApprovalRequest {
        approval_id: on.approval_id.clone(),
        decision: Choice::Approve.into(),
        plan_digest: on.plan_digest.clone(),
        narrow: Some(narrow),
        ..Default::default()
    };
    who.decide_approval(&request, None).await
}

/// A policy that holds calls, and lets a call go on elsewhere once it runs.
const HOLDS_AND_FOLLOWS: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-GO-ON", "reason": "go_on"} if {
    input.phase == "effect"
}

decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R-HOLD", "reason": "hold",
    "obligations": {"approval": {"expires_s": 3600, "valid_s": 600}},
} if input.phase != "effect"
"#;

struct Calls {
    server: Server,
    target: Target,
    other: Target,
    agent: Client,
}

impl Calls {
    async fn new() -> Self {
        let (target, other) = (Target::start().await, Target::start().await);
        let grants = format!("grants: {{http: [{}, {}]}}", target.grant(), other.grant());
        let server = Server::start(&format!("{grants}\npolicy: {{decision_limit_ms: 5000}}"));
        server.publish(&rego(HOLDS_AND_FOLLOWS)).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, target, other, agent }
    }

    /// A call that an approver approved with less than was asked for, once it ended.
    async fn ends(&self, path: &str, narrow: Narrow, state: State) -> Action {
        let call = self.target.call("GET", path);
        let call = SubmitActionRequest { wait_ms: Some(0), ..call };
        let held = self.agent.submit_action(&call, None).await.unwrap();
        let approver = self.server.principal(Kind::User, &["approver"]).await;
        approve(&approver, &held, narrow).await.unwrap();
        reaches(&self.server.owner, &held.action_id, state).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_differs_from_the_plan_is_refused_where_exact_was_said() {
    let calls = Calls::new().await;
    let path = format!("/to/{}", calls.other.port());
    let free = calls.ends(&path, Narrow::default(), State::Executed).await;
    assert_eq!((free.attempt, calls.other.seen().len()), (1, 1), "policy lets it go on");
    let exact = Narrow { exact: true, ..Narrow::default() };
    let failed = calls.ends(&path, exact, State::Failed).await;
    assert_eq!(failed.error.unwrap().code, "effect_not_exact");
    assert_eq!(calls.other.seen().len(), 1, "the other system saw nothing more");
    calls.ends("/plain", exact, State::Executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_attempted_as_often_as_was_said() {
    let calls = Calls::new().await;
    let once = Narrow { max_attempts: Some(1), ..Narrow::default() };
    let failed = calls.ends("/unavailable/once", once, State::Failed).await;
    assert_eq!((failed.attempt, calls.target.seen().len()), (1, 1));
    let twice = Narrow { max_attempts: Some(2), ..Narrow::default() };
    let failed = calls.ends("/unavailable/twice", twice, State::Failed).await;
    assert_eq!((failed.attempt, calls.target.seen().len()), (2, 3));
    let thrice = Narrow { max_attempts: Some(3), ..Narrow::default() };
    calls.ends("/unavailable/thrice", thrice, State::Executed).await;
    assert_eq!(calls.target.seen().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strictest_of_all_holds_and_nothing_widens() {
    let quorum = r#"{"approval": {"quorum": 2, "expires_s": 3600, "valid_s": 600}}"#;
    let desk = Desk::new(&held_by(quorum)).await;
    let (ann, bob) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    let narrow = |valid_s, max_attempts, exact| Narrow { valid_s, max_attempts, exact };
    for wide in [narrow(Some(601), None, false), narrow(None, Some(6), false)] {
        let refused = refusal(approve(&ann, &held, wide).await);
        assert_eq!(refused, (400, "narrow_widens".to_owned()));
    }
    approve(&ann, &held, narrow(Some(300), Some(3), false)).await.unwrap();
    let granted = approve(&bob, &held, narrow(Some(400), Some(2), true)).await.unwrap();
    assert_eq!(granted.narrow, Some(narrow(Some(300), Some(2), true)));
    let decided = granted.approvals[1].decided_at.as_ref().unwrap().micros();
    assert_eq!(granted.valid_until.unwrap().micros() - decided, 300_000_000);
    desk.reaches(&held, State::Executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_time_ends_an_approval_unused() {
    let desk = Desk::new(&held_by(TWO)).await;
    let (ann, bob) = (desk.approver().await, desk.approver().await);
    let held = desk.held().await;
    let waits = r#"decisions contains {"effect": "THROTTLE", "rule": "R-WAIT", "reason": "wait",
        "obligations": {"retry_after_ms": 3600000}} if true"#;
    desk.server.publish(&rego(waits)).await;
    let short = Narrow { valid_s: Some(1), ..Narrow::default() };
    approve(&ann, &held, short).await.unwrap();
    approve(&bob, &held, Narrow::default()).await.unwrap();
    desk.reaches(&held, State::Expired).await;
    assert_eq!((desk.effects(), desk.documents()), (0, 0));
}
