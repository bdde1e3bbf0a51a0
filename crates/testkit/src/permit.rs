//! Permits as the server draws them.

use kernel::action::{self, Action};
use kernel::decision::{Decision, Effect, MatchedRule, Obligations, PolicyRef};
use kernel::ids::{ActionId, EnvironmentId, PrincipalId, ToolId};
use kernel::machine::Applied;
use kernel::permit::Permit;
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::risk::Risk;
use kernel::values::{Digest, MicroUsd, Timestamp};

/// A permit drawn at time 0 through the state machine, as the server draws it.
#[must_use]
pub fn permit(plan_digest: Digest) -> Permit {
    let rule = MatchedRule {
        effect: Effect::Allow,
        rule: "R-ALL".to_owned(),
        reason: "all".to_owned(),
        obligations: Obligations::default(),
    };
    let policy = PolicyRef { revision: 1, digest: Digest::of(b"bundle") };
    let request = action::Request {
        tool: ToolId::new("core.fs_write").unwrap(),
        tool_digest: Digest::of(b"tool"),
        execution: None,
        routed_from: None,
        environment: EnvironmentId::new("dev").unwrap(),
        actors: ActorChain::direct(PrincipalId::new("p_1").unwrap(), PrincipalKind::Agent),
        action_digest: Digest::of(b"action"),
        plan_digest,
        risk: Risk::assess(&["write".to_owned()].into(), "dev", &[].into()),
        estimate: MicroUsd::ZERO,
        units: kernel::units::Units::NONE,
        account: None,
        idempotent: true,
        timeout_ms: 1_000,
        step: None,
        within: None,
        max_attempts: None,
        reverses: None,
    };
    let asked = action::Input::Request {
        request: request.into(),
        decision: Decision::combine(vec![rule], policy, Digest::of(b"input")).into(),
        principal_revision: 1,
        approval: None,
    };
    let started = action::Input::Start {
        policy_revision: 1,
        principal_revision: 1,
        consumed: None,
        hold: None,
        held: false,
        epoch: 1,
    };
    let mut state: Option<Action> = None;
    for input in [asked, started] {
        for change in action::step(state.as_ref(), input, Timestamp(0)).unwrap() {
            let applied = Applied { id: "act_1", index: 0, time: Timestamp(0) };
            action::apply(&mut state, &change, &applied);
        }
    }
    let permit = state.unwrap().permit().unwrap();
    assert_eq!(permit.action(), &ActionId::new("act_1").unwrap());
    permit
}
