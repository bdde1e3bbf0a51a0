//! The rules of decisions and approvals, case by case.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use kernel::approval::{self, Approval, Change, Input, Request, Verdict, Vote};
use kernel::decision::{
    ApprovalDemand, BreakGlass, Decision, Effect, MatchedRule, NoAnswer, Obligations, PolicyRef,
    SeparationOfDuties, Stage,
};
use kernel::ids::{ActionId, PrincipalId, ToolId};
use kernel::machine::Applied;
use kernel::principal::{Actor, ActorChain, PrincipalKind, Role};
use kernel::values::{Digest, MicroUsd, Timestamp};

use SeparationOfDuties::{Normal, Strict};

const START: Timestamp = Timestamp(1_000_000);
const END: Timestamp = Timestamp(61_000_000);

fn principal(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

fn principals(ids: &[&str]) -> BTreeSet<PrincipalId> {
    ids.iter().map(|id| principal(id)).collect()
}

fn plan() -> Digest {
    Digest::of(b"plan")
}

fn demand(quorum: u32) -> ApprovalDemand {
    of_stage(Stage { quorum, ..Stage::default() })
}

fn of_stage(stage: Stage) -> ApprovalDemand {
    ApprovalDemand { expires_s: 60, ..ApprovalDemand::one(stage) }
}

fn of_roles(roles: &[Role]) -> ApprovalDemand {
    of_stage(Stage { roles: roles.iter().copied().collect(), ..Stage::default() })
}

fn of_names(names: &[&str]) -> ApprovalDemand {
    of_stage(Stage { approvers: principals(names), ..Stage::default() })
}

/// What `uma`'s agent `bot` asks for.
fn request(demand: ApprovalDemand, step_up: bool, sod: SeparationOfDuties) -> Request {
    let actor = |id, kind| Actor { id: principal(id), kind };
    let actors = vec![actor("uma", PrincipalKind::User), actor("bot", PrincipalKind::Agent)];
    Request {
        action: ActionId::new("act-1").unwrap(),
        plan_digest: plan(),
        actors: ActorChain::try_from(actors).unwrap(),
        demand,
        step_up,
        sod,
        break_glass: BreakGlass::Allowed,
        expires_at: END,
    }
}

fn fold(state: &mut Option<Approval>, change: &Change) {
    approval::apply(state, change, &Applied { id: "apr-1", index: 0, time: START });
}

fn open(request: Request) -> Option<Approval> {
    let mut state = None;
    fold(&mut state, &Change::Requested(request.into()));
    state
}

fn vote(by: &str, verdict: Verdict, step_up: bool) -> Box<Vote> {
    let roles = [Role::Approver].into();
    Box::new(Vote { step_up, ..Vote::new(principal(by), roles, verdict) })
}

fn yes(by: &str) -> Input {
    let kind = if by == "bot" { PrincipalKind::Agent } else { PrincipalKind::User };
    Input::Decide {
        plan_digest: plan(),
        kind,
        stage: None,
        vote: vote(by, Verdict::Approve, false),
    }
}

fn no(by: &str) -> Input {
    let vote = vote(by, Verdict::Reject, false);
    Input::Decide { plan_digest: plan(), kind: PrincipalKind::User, stage: None, vote }
}

fn stepped_up(by: &str) -> Input {
    let vote = vote(by, Verdict::Approve, true);
    Input::Decide { plan_digest: plan(), kind: PrincipalKind::User, stage: None, vote }
}

fn with_roles(by: &str, kind: PrincipalKind, roles: &[Role]) -> Input {
    let mut vote = vote(by, Verdict::Approve, false);
    vote.roles = roles.iter().copied().collect();
    Input::Decide { plan_digest: plan(), kind, stage: None, vote }
}

/// Makes `steps` one after another, each `at` its time; all but the last are accepted. `expect`
/// is the state after the last, or the code with which it is refused.
fn check(request: Request, steps: Vec<(i64, Input)>, expect: &str) {
    let mut state = open(request);
    let last = steps.len() - 1;
    for (number, (second, input)) in steps.into_iter().enumerate() {
        let at = START.plus_micros(second * 1_000_000);
        match approval::step(state.as_ref(), input.clone(), at) {
            Ok(change) => fold(&mut state, &change),
            Err(refusal) => {
                assert_eq!((number, refusal.code().0), (last, expect), "{input:?}");
                return;
            }
        }
    }
    let approval = state.unwrap();
    let status = approval.used_at.map_or(approval.status.as_str(), |_| "used");
    assert_eq!(status, expect);
}

#[test]
fn who_may_approve() {
    let one = || request(demand(1), false, Normal);
    check(one(), vec![(1, yes("ann"))], "approved");
    check(one(), vec![(1, no("ann"))], "rejected");
    check(one(), vec![(1, yes("bot"))], "self_approval");
    check(one(), vec![(1, yes("uma"))], "approved");
    check(request(demand(1), false, Strict), vec![(1, yes("uma"))], "self_approval");
    check(request(demand(1), false, Strict), vec![(1, no("uma"))], "self_approval");
    let agent = with_roles("ned", PrincipalKind::Agent, &[Role::Approver]);
    check(one(), vec![(1, agent)], "not_an_approver");
    let owner = || with_roles("pat", PrincipalKind::User, &[Role::Owner, Role::Admin]);
    check(one(), vec![(1, owner())], "not_an_approver");
    let owners = of_roles(&[Role::Owner]);
    check(request(owners.clone(), false, Normal), vec![(1, owner())], "approved");
    check(request(owners, false, Normal), vec![(1, yes("ann"))], "not_an_approver");
    let named = of_names(&["bob"]);
    check(request(named.clone(), false, Normal), vec![(1, yes("ann"))], "not_an_approver");
    check(request(named, false, Normal), vec![(1, yes("bob"))], "approved");
    let myself = Request {
        actors: ActorChain::direct(principal("ann"), PrincipalKind::User),
        ..request(demand(1), false, Normal)
    };
    check(myself, vec![(1, yes("ann"))], "self_approval");
}

#[test]
fn how_many_must_approve_and_how() {
    let two = || request(demand(2), false, Normal);
    check(two(), vec![(1, yes("ann"))], "requested");
    check(two(), vec![(1, yes("ann")), (2, yes("ann"))], "already_decided");
    check(two(), vec![(1, yes("ann")), (2, no("ann"))], "already_decided");
    check(two(), vec![(1, yes("ann")), (2, yes("bob"))], "approved");
    check(two(), vec![(1, yes("ann")), (2, no("bob"))], "rejected");
    check(two(), vec![(1, no("ann")), (2, yes("bob"))], "state_conflict");
    let step_up = || request(demand(1), true, Normal);
    check(step_up(), vec![(1, yes("ann"))], "step_up_required");
    check(step_up(), vec![(1, stepped_up("ann"))], "approved");
    check(step_up(), vec![(1, no("ann"))], "rejected");
}

#[test]
fn an_approval_is_for_one_plan_once_in_time() {
    let one = || request(demand(1), false, Normal);
    let other = || Digest::of(b"another plan");
    let vote = || vote("ann", Verdict::Approve, false);
    let kind = PrincipalKind::User;
    let unseen = Input::Decide { plan_digest: other(), kind, stage: None, vote: vote() };
    let run = || Input::Use { plan_digest: plan() };
    check(one(), vec![(1, unseen)], "plan_digest_mismatch");
    check(one(), vec![(1, yes("ann")), (2, run())], "used");
    check(one(), vec![(1, yes("ann")), (59, run())], "used");
    check(one(), vec![(1, yes("ann")), (60, run())], "approval_expired");
    let another = Input::Use { plan_digest: other() };
    check(one(), vec![(1, yes("ann")), (2, another)], "plan_digest_mismatch");
    check(one(), vec![(1, yes("ann")), (2, run()), (3, run())], "approval_used");
    check(one(), vec![(1, run())], "state_conflict");
    check(one(), vec![(1, no("ann")), (2, run())], "state_conflict");
    check(one(), vec![(59, yes("ann"))], "approved");
    check(one(), vec![(60, yes("ann"))], "approval_expired");
    check(one(), vec![(59, Input::Expire {})], "not_due");
    check(one(), vec![(60, Input::Expire {})], "expired");
    check(one(), vec![(1, yes("ann")), (60, Input::Expire {})], "expired");
    check(one(), vec![(1, yes("ann")), (2, run()), (60, Input::Expire {})], "state_conflict");
    check(one(), vec![(1, yes("ann")), (2, Input::Cancel {}), (3, run())], "state_conflict");
    check(one(), vec![(1, Input::Cancel {}), (2, yes("ann"))], "state_conflict");
    check(one(), vec![(1, Input::Request(Box::new(one())))], "already_exists");
}

/// Whether what `votes` granted satisfies what is demanded at `second`.
fn check_satisfies(
    votes: &[Input],
    now: (&ApprovalDemand, bool, SeparationOfDuties),
    second: i64,
    expect: bool,
) {
    let quorum = u32::try_from(votes.len()).unwrap();
    let mut state = open(request(demand(quorum), false, Normal));
    for vote in votes {
        let change = approval::step(state.as_ref(), vote.clone(), START).unwrap();
        fold(&mut state, &change);
    }
    let (demand, step_up, sod) = now;
    let at = START.plus_micros(second * 1_000_000);
    assert_eq!(
        state.unwrap().satisfies(demand, step_up, sod, BreakGlass::Allowed, at),
        expect,
        "{votes:?} {now:?}"
    );
}

#[test]
fn what_was_granted_satisfies_what_is_no_stricter() {
    let named = of_names(&["bob"]);
    let admins = of_roles(&[Role::Admin]);
    let either = of_roles(&[Role::Admin, Role::Approver]);
    let (ann, uma) = ([yes("ann")], [yes("uma")]);
    let both = [yes("ann"), yes("bob")];
    check_satisfies(&ann, (&demand(1), false, Normal), 1, true);
    check_satisfies(&ann, (&demand(1), false, Strict), 1, true);
    check_satisfies(&ann, (&demand(1), false, Normal), 60, false);
    check_satisfies(&ann, (&demand(2), false, Normal), 1, false);
    check_satisfies(&both, (&demand(2), false, Normal), 1, true);
    check_satisfies(&both, (&demand(1), false, Normal), 1, true);
    check_satisfies(&ann, (&demand(1), true, Normal), 1, false);
    check_satisfies(&[stepped_up("ann")], (&demand(1), true, Normal), 1, true);
    check_satisfies(&[stepped_up("ann"), yes("bob")], (&demand(1), true, Normal), 1, true);
    check_satisfies(&[stepped_up("ann"), yes("bob")], (&demand(2), true, Normal), 1, false);
    check_satisfies(&uma, (&demand(1), false, Normal), 1, true);
    check_satisfies(&uma, (&demand(1), false, Strict), 1, false);
    check_satisfies(&[yes("uma"), yes("ann")], (&demand(1), false, Strict), 1, true);
    check_satisfies(&ann, (&named, false, Normal), 1, false);
    check_satisfies(&both, (&named, false, Normal), 1, true);
    check_satisfies(&ann, (&admins, false, Normal), 1, false);
    check_satisfies(&ann, (&either, false, Normal), 1, true);
}

fn rule(name: &str, effect: Effect) -> MatchedRule {
    let obligations = Obligations {
        retry_after_ms: (effect == Effect::Throttle).then_some(5),
        route: (effect == Effect::Route).then(|| ToolId::new("other.tool").unwrap()),
        ..Obligations::default()
    };
    MatchedRule { effect, rule: name.to_owned(), reason: format!("by_{name}"), obligations }
}

fn obliged(name: &str, obligations: Obligations) -> MatchedRule {
    MatchedRule { obligations, ..rule(name, Effect::RequireApproval) }
}

fn approval_by(demand: ApprovalDemand) -> Obligations {
    Obligations { approval: Some(demand), ..Obligations::default() }
}

fn combine(rules: Vec<MatchedRule>) -> Decision {
    Decision::combine(rules, PolicyRef::none(), Digest::of(b"input"))
}

#[test]
fn the_most_restrictive_effect_wins() {
    let ranked = [
        Effect::Allow,
        Effect::Route,
        Effect::Throttle,
        Effect::RequireApproval,
        Effect::RequireStepUp,
        Effect::Quarantine,
        Effect::Deny,
    ];
    for (weak, strong) in ranked
        .iter()
        .enumerate()
        .flat_map(|(rank, strong)| ranked.iter().take(rank + 1).map(move |weak| (*weak, *strong)))
    {
        for pair in [[weak, strong], [strong, weak]] {
            let decision = combine(vec![rule("a", pair[0]), rule("b", pair[1])]);
            assert_eq!(decision.effect, strong, "{pair:?}");
            assert_eq!(decision.rules, ["a", "b"]);
            let gated = matches!(strong, Effect::RequireApproval | Effect::RequireStepUp);
            let obligations = &decision.obligations;
            assert_eq!(obligations.approval, gated.then(ApprovalDemand::default), "{pair:?}");
            assert_eq!(obligations.retry_after_ms.is_some(), strong == Effect::Throttle);
            assert_eq!(obligations.route.is_some(), strong == Effect::Route);
        }
    }
}

/// `rules` decide the same in whichever order they matched: DENY for `reason`.
fn check_deny(rules: Vec<MatchedRule>, reason: &str) {
    let decision = combine(rules.iter().cloned().rev().collect());
    assert_eq!(decision, combine(rules));
    assert_eq!((decision.effect, decision.reasons), (Effect::Deny, vec![reason.to_owned()]));
}

#[test]
fn what_is_no_answer_is_a_deny() {
    let allow = || rule("a", Effect::Allow);
    check_deny(vec![], "policy_no_match");
    check_deny(vec![allow(), rule("", Effect::Allow)], "policy_error");
    check_deny(vec![rule(&"r".repeat(65), Effect::Allow)], "policy_error");
    check_deny(vec![allow(); 65], "policy_error");
    check_deny(vec![MatchedRule { reason: String::new(), ..allow() }], "policy_error");
    check_deny(vec![allow(), obliged("b", approval_by(demand(0)))], "policy_error");
    check_deny(vec![allow(), obliged("b", approval_by(demand(17)))], "policy_error");
    let endless = ApprovalDemand { expires_s: 30 * 24 * 3600 + 1, ..demand(1) };
    check_deny(vec![obliged("b", approval_by(endless))], "policy_error");
    let bare = |effect| MatchedRule { effect, ..allow() };
    check_deny(vec![bare(Effect::Throttle)], "policy_error");
    check_deny(vec![bare(Effect::Route)], "policy_error");
    let by_role = |role| of_roles(&[role]);
    let by_name = |name| of_names(&[name]);
    let pair =
        |left, right| vec![obliged("a", approval_by(left)), obliged("b", approval_by(right))];
    check_deny(pair(by_role(Role::Admin), by_role(Role::Owner)), "policy_contradiction");
    check_deny(pair(by_name("ann"), by_name("bob")), "policy_contradiction");
}

/// The demands of two rules unite to `expect`, whichever came first.
fn check_unite(left: Obligations, right: Obligations, expect: &Obligations) {
    for [a, b] in [[&left, &right], [&right, &left]] {
        let decision = combine(vec![obliged("a", a.clone()), obliged("b", b.clone())]);
        assert_eq!(decision.obligations, *expect);
        let below = MatchedRule { effect: Effect::Allow, ..obliged("b", b.clone()) };
        let decision = combine(vec![obliged("a", a.clone()), below]);
        assert_eq!(decision.obligations, *expect, "a weaker rule's obligations count too");
    }
}

#[test]
fn obligations_unite_to_the_strictest_of_each() {
    let demand = |quorum, roles: &[Role], names: &[&str], expires_s| {
        let (roles, approvers) = (roles.iter().copied().collect(), principals(names));
        let stage = Stage { quorum, roles, approvers, ..Stage::default() };
        ApprovalDemand { expires_s, ..ApprovalDemand::one(stage) }
    };
    let (owner, admin) = (Role::Owner, Role::Admin);
    for (left, right, both) in [
        (demand(1, &[], &[], 60), demand(3, &[], &[], 90), demand(3, &[], &[], 60)),
        (demand(2, &[admin], &[], 9), demand(1, &[], &[], 3), demand(2, &[admin], &[], 3)),
        (
            demand(1, &[owner, admin], &["ann", "bob"], 60),
            demand(1, &[admin, Role::Approver], &["bob", "tim"], 60),
            demand(1, &[admin], &["bob"], 60),
        ),
    ] {
        check_unite(approval_by(left), approval_by(right), &approval_by(both));
    }
    let none = || approval_by(ApprovalDemand::default());
    let capped = |usd| Obligations { max_cost_micro_usd: Some(MicroUsd(usd)), ..none() };
    check_unite(capped(5), capped(7), &capped(5));
    check_unite(capped(5), none(), &capped(5));
    let strict = || Obligations { sod: Strict, ..none() };
    check_unite(strict(), none(), &strict());
}

#[test]
fn only_what_may_change_by_itself_is_retryable() {
    let no_answer = |why| Decision::deny(why, PolicyRef::none(), Digest::of(b"input"));
    assert!(no_answer(NoAnswer::PolicyStale).retryable());
    for why in [NoAnswer::PolicyAbsent, NoAnswer::PolicyError, NoAnswer::PolicyUnreviewed] {
        assert!(!no_answer(why).retryable(), "{why:?}");
    }
    let wait = Obligations { retry_after_ms: Some(1), ..Obligations::default() };
    let throttle = MatchedRule { effect: Effect::Throttle, ..obliged("R-1", wait) };
    assert!(combine(vec![throttle]).retryable());
    assert!(!combine(vec![rule("R-1", Effect::Allow)]).retryable());
    // The policy's own word, whatever it calls its reason.
    let deny = MatchedRule { reason: "policy_stale".to_owned(), ..rule("R-1", Effect::Deny) };
    assert!(!combine(vec![deny]).retryable());
}

#[test]
fn the_longest_throttle_counts() {
    let wait = |name: &str, ms| MatchedRule {
        obligations: Obligations { retry_after_ms: Some(ms), ..Obligations::default() },
        ..rule(name, Effect::Throttle)
    };
    let decision = combine(vec![wait("a", 7), wait("b", 90), wait("c", 20)]);
    assert_eq!(decision.obligations.retry_after_ms, Some(90));
}

#[test]
fn a_name_is_free_again_where_what_it_names_is_over() {
    use kernel::machine::Refusal;
    use kernel::reservation::{self, Reservation};
    let input = |target: &str, replaces: Option<&str>| reservation::Input {
        body: Digest::of(b"call"),
        target: target.to_owned(),
        until: END,
        replaces: replaces.map(str::to_owned),
    };
    let held = Reservation { body: Digest::of(b"call"), target: "act_1".to_owned(), until: END };
    let step = |input| reservation::step(Some(&held), input, START);
    let duplicate = Err(Refusal::Duplicate { target: "act_1".to_owned() });
    assert_eq!(step(input("act_2", None)), duplicate);
    assert_eq!(step(input("act_2", Some("act_0"))), duplicate, "of another that is over");
    let change = step(input("act_2", Some("act_1"))).unwrap();
    let mut state = Some(held.clone());
    reservation::apply(&mut state, &change, &Applied { id: "held", index: 1, time: START });
    assert_eq!(state.unwrap().target, "act_2");
    let other = reservation::Input { body: Digest::of(b"other"), ..input("act_2", None) };
    assert_eq!(step(other), Err(Refusal::KeyReused));
}

#[test]
fn outcomes_say_no_more_than_there_is() {
    use kernel::action::{Isolation, Outcome, Status};
    let plain = Outcome {
        status: Status::Executed,
        output: None,
        output_bytes: 0,
        cost: MicroUsd::ZERO,
        units: kernel::units::Units::NONE,
        failure: None,
        is_error: false,
        isolation: None,
        attestation: None,
        prior: None,
        model: None,
    };
    let form = r#"{"status":"executed","output_bytes":0,"cost":0}"#;
    assert_eq!(serde_json::to_string(&plain).unwrap(), form);
    let served = Outcome { is_error: true, isolation: Some(Isolation::None), ..plain };
    let form = format!(r#"{},"is_error":true,"isolation":"none"}}"#, form.trim_end_matches('}'));
    assert_eq!(serde_json::to_string(&served).unwrap(), form);
    assert_eq!(serde_json::from_str::<Outcome>(&form).unwrap(), served);
}
