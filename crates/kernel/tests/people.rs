//! What people do about an approval: stages, escalation, delegation, narrowing, emergencies.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use kernel::approval::{
    self, Approval, Change, GlassBroken, Input, Narrow, Request, Signature, Verdict, Vote,
    signed_bytes, signed_statement,
};
use kernel::decision::{
    ApprovalDemand, BreakGlass, Decision, Effect, Electorate, MatchedRule, Mode, Obligations,
    PolicyRef, SeparationOfDuties, Stage,
};
use kernel::ids::{ActionId, ApprovalId, PrincipalId};
use kernel::machine::Applied;
use kernel::principal::{Actor, ActorChain, PrincipalKind, Role};
use kernel::values::{Digest, Timestamp};
use serde_json::{Value, json};

use SeparationOfDuties::{Normal, Strict};

fn at(second: i64) -> Timestamp {
    Timestamp(1_000_000).plus_micros(second * 1_000_000)
}

fn principal(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

fn plan() -> Digest {
    Digest::of(b"plan")
}

/// A demand as a policy writes it.
fn demand(json: Value) -> ApprovalDemand {
    serde_json::from_value(json).unwrap()
}

/// Approvers of two stages, one after the other or at once; each stage has its own role.
fn two(mode: &str) -> ApprovalDemand {
    demand(json!({"mode": mode, "expires_s": 60, "stages": [
        {"name": "legal", "roles": ["admin"]},
        {"name": "security", "roles": ["auditor"], "quorum": 2},
    ]}))
}

/// What `uma`'s agent `bot` asks for.
fn request(demand: ApprovalDemand) -> Request {
    let actor = |id, kind| Actor { id: principal(id), kind };
    let actors = vec![actor("uma", PrincipalKind::User), actor("bot", PrincipalKind::Agent)];
    let expires_at = at(i64::from(demand.expires_s));
    Request {
        action: ActionId::new("act-1").unwrap(),
        plan_digest: plan(),
        actors: ActorChain::try_from(actors).unwrap(),
        demand,
        step_up: false,
        sod: Normal,
        break_glass: BreakGlass::Allowed,
        expires_at,
    }
}

/// One approval that things happen to.
struct Case(Option<Approval>);

impl Case {
    fn of(demand: ApprovalDemand) -> Self {
        Self::asked(request(demand))
    }

    fn asked(request: Request) -> Self {
        let mut case = Self(None);
        case.fold(&Change::Requested(request.into()), 0);
        case
    }

    fn fold(&mut self, change: &Change, second: i64) {
        let applied = Applied { id: "apr-1", index: 0, time: at(second) };
        approval::apply(&mut self.0, change, &applied);
    }

    fn state(&self) -> &Approval {
        self.0.as_ref().unwrap()
    }

    /// `input` happens at `second`: how the approval stands then, or why it is refused.
    #[track_caller]
    fn then(&mut self, second: i64, input: Input, expect: &str) -> &mut Self {
        let what = format!("{input:?}");
        let got = match approval::step(self.0.as_ref(), input, at(second)) {
            Ok(change) => {
                self.fold(&change, second);
                self.state().used_at.map_or(self.state().status.as_str(), |_| "used")
            }
            Err(refusal) => refusal.code().0,
        };
        assert_eq!(got, expect, "{what}");
        self
    }

    fn satisfies(&self, demand: &ApprovalDemand, sod: SeparationOfDuties) -> bool {
        self.state().satisfies(demand, false, sod, BreakGlass::Allowed, at(2))
    }
}

fn says(by: &str, roles: &[Role], stage: Option<&str>) -> Input {
    vote(Vote::new(principal(by), roles.iter().copied().collect(), Verdict::Approve), stage)
}

fn vote(vote: Vote, stage: Option<&str>) -> Input {
    let (kind, stage) = (PrincipalKind::User, stage.map(str::to_owned));
    Input::Decide { plan_digest: plan(), kind, stage, vote: Box::new(vote) }
}

fn legal(by: &str) -> Input {
    says(by, &[Role::Admin], None)
}

fn security(by: &str) -> Input {
    says(by, &[Role::Auditor], None)
}

fn approver(by: &str) -> Input {
    says(by, &[Role::Approver], None)
}

fn run() -> Input {
    Input::Use { plan_digest: plan() }
}

#[test]
fn serial_stages_open_one_after_the_other() {
    let mut case = Case::of(two("serial"));
    case.then(1, security("sam"), "stage_not_open")
        .then(1, says("sam", &[Role::Auditor], Some("security")), "stage_not_open")
        .then(1, says("sam", &[Role::Auditor], Some("legal")), "not_an_approver")
        .then(1, says("sam", &[Role::Auditor], Some("unheard")), "invalid_argument")
        .then(1, approver("ann"), "not_an_approver")
        .then(2, legal("lea"), "requested")
        .then(3, legal("leo"), "stage_not_open")
        .then(3, says("lea", &[Role::Admin, Role::Auditor], None), "already_decided")
        .then(3, run(), "state_conflict")
        .then(4, security("sam"), "requested")
        .then(5, security("sue"), "approved")
        .then(6, run(), "used");
    let opened: Vec<_> = case.state().progress.iter().map(|p| p.opened_at.unwrap()).collect();
    assert_eq!(opened, [at(0), at(2)]);
}

#[test]
fn parallel_stages_are_open_at_once_and_take_different_people() {
    let both: &[Role] = &[Role::Admin, Role::Auditor];
    Case::of(two("parallel"))
        .then(1, security("sam"), "requested")
        .then(2, says("bea", both, Some("security")), "requested")
        .then(3, says("bea", both, Some("legal")), "already_decided")
        .then(3, security("sue"), "stage_not_open")
        .then(4, says("sue", both, None), "approved");
    // One no in any open stage is enough.
    let no = Vote::new(principal("sam"), [Role::Auditor].into(), Verdict::Reject);
    Case::of(two("parallel")).then(1, vote(no.clone(), None), "rejected");
    Case::of(two("serial")).then(1, vote(no, None), "stage_not_open");
}

#[test]
fn a_late_stage_lets_others_in_and_only_then() {
    let escalate = |stage: &str| Input::Escalate { stage: stage.to_owned() };
    let stages = json!({"expires_s": 60, "stages": [
        {"name": "legal", "approvers": ["lea"], "roles": ["admin"], "sla_s": 10,
         "escalate_to": {"roles": ["owner"]}},
        {"name": "security", "roles": ["auditor"], "sla_s": 5},
    ]});
    let owner = || says("olga", &[Role::Owner], None);
    let mut case = Case::of(demand(stages));
    assert_eq!(case.state().due(), Some(at(10)), "the queue looks when the first is late");
    case.then(9, owner(), "not_an_approver")
        .then(9, escalate("legal"), "not_due")
        .then(20, escalate("security"), "stage_not_open")
        .then(12, escalate("legal"), "requested")
        .then(12, escalate("legal"), "stage_not_open")
        .then(13, owner(), "requested");
    // The next stage's time begins when it opens; nobody else is let in there.
    assert_eq!(case.state().due(), Some(at(18)));
    case.then(18, escalate("security"), "requested");
    assert_eq!(case.state().due(), Some(at(60)), "then it expires");
    case.then(20, owner(), "already_decided").then(60, escalate("legal"), "approval_expired").then(
        60,
        Input::Expire {},
        "expired",
    );
}

#[test]
fn request_and_grant_expire_apart() {
    let mut long = Case::of(demand(json!({"expires_s": 10, "valid_s": 100})));
    long.then(9, approver("ann"), "approved");
    assert_eq!(long.state().due(), Some(at(109)), "longer than the request could wait");
    long.then(50, Input::Expire {}, "not_due").then(108, run(), "used");
    let mut short = Case::of(demand(json!({"expires_s": 60, "valid_s": 5})));
    short
        .then(1, approver("ann"), "approved")
        .then(5, Input::Expire {}, "not_due")
        .then(6, run(), "approval_expired")
        .then(6, Input::Expire {}, "expired");
    Case::of(demand(json!({"expires_s": 10, "valid_s": 100})))
        .then(10, approver("ann"), "approval_expired")
        .then(10, Input::Expire {}, "expired");
    let mut plain = Case::of(demand(json!({"expires_s": 10})));
    plain.then(9, approver("ann"), "approved").then(10, run(), "approval_expired");
}

fn hand(from: &str, roles: &[Role], to: &str) -> Input {
    let to = (principal(to), PrincipalKind::User, [Role::Approver].into());
    Input::Delegate { from: (principal(from), roles.iter().copied().collect()), to }
}

#[test]
fn a_say_is_handed_over_once_and_to_who_may_decide() {
    let mut case = Case::of(two("parallel"));
    let refused = "delegation_refused";
    let to_agent = Input::Delegate {
        from: (principal("lea"), [Role::Admin].into()),
        to: (principal("ned"), PrincipalKind::Agent, [Role::Approver].into()),
    };
    let to_viewer = Input::Delegate {
        from: (principal("lea"), [Role::Admin].into()),
        to: (principal("tim"), PrincipalKind::User, [Role::Viewer].into()),
    };
    case.then(1, to_agent, refused)
        .then(1, to_viewer, refused)
        .then(1, hand("lea", &[Role::Admin], "lea"), refused)
        .then(1, hand("tim", &[Role::Operator], "ann"), "not_an_approver")
        .then(1, hand("bot", &[Role::Admin], "ann"), "self_approval")
        .then(1, approver("ann"), "not_an_approver")
        .then(1, hand("lea", &[Role::Admin], "ann"), "requested")
        .then(2, legal("lea"), "say_delegated")
        .then(2, hand("lea", &[Role::Admin], "bob"), "say_delegated")
        .then(2, hand("ann", &[Role::Admin], "bob"), refused)
        .then(2, hand("sam", &[Role::Auditor], "lea"), refused)
        .then(2, says("ann", &[Role::Approver], Some("security")), "not_an_approver")
        .then(3, approver("ann"), "requested")
        .then(3, hand("ann", &[Role::Auditor], "bob"), "already_decided")
        .then(3, hand("sam", &[Role::Auditor], "ann"), refused);
    let (said, _) = case.state().votes.first().unwrap();
    assert_eq!((said.stage.as_str(), &said.delegated_by), ("legal", &Some(principal("lea"))));
    // Decided anew, it counts as long as who handed it over would.
    let legal_only = |json| demand(json!({"stages": [json]}));
    case.then(4, security("sam"), "requested").then(5, security("sue"), "approved");
    let by = |approvers: &[&str]| {
        legal_only(json!({"name": "legal", "roles": ["admin"], "approvers": approvers}))
    };
    assert!(case.satisfies(&by(&["lea"]), Normal));
    assert!(!case.satisfies(&by(&["ann"]), Normal));
}

#[test]
fn who_delegated_the_action_is_handed_no_say_under_strict_separation() {
    let one = || demand(json!({"expires_s": 60}));
    let handed = || hand("ann", &[Role::Approver], "uma");
    Case::of(one()).then(1, handed(), "requested").then(2, approver("uma"), "approved");
    let strict = Request { sod: Strict, ..request(one()) };
    Case::asked(strict)
        .then(1, handed(), "delegation_refused")
        .then(1, approver("uma"), "self_approval")
        .then(1, hand("ann", &[Role::Approver], "bob"), "requested");
    Case::of(one()).then(1, hand("ann", &[Role::Approver], "bot"), "delegation_refused");
}

fn narrowed(by: &str, narrow: Narrow) -> Input {
    let vote_of = Vote::new(principal(by), [Role::Approver].into(), Verdict::Approve);
    vote(Vote { narrow, ..vote_of }, None)
}

#[test]
fn approvers_narrow_and_never_widen() {
    let narrow = |valid_s, max_attempts, exact| Narrow { valid_s, max_attempts, exact };
    let two_yes = || demand(json!({"quorum": 2, "expires_s": 60, "valid_s": 30}));
    Case::of(two_yes())
        .then(1, narrowed("ann", narrow(Some(31), None, false)), "narrow_widens")
        .then(1, narrowed("ann", narrow(Some(0), None, false)), "narrow_widens")
        .then(1, narrowed("ann", narrow(None, Some(6), false)), "narrow_widens")
        .then(1, narrowed("ann", narrow(None, Some(0), false)), "narrow_widens")
        .then(1, narrowed("ann", narrow(Some(30), Some(5), true)), "requested");
    let mut case = Case::of(two_yes());
    case.then(1, narrowed("ann", narrow(Some(20), Some(2), false)), "requested").then(
        2,
        narrowed("bob", narrow(Some(10), Some(3), true)),
        "approved",
    );
    assert_eq!(case.state().narrow(), narrow(Some(10), Some(2), true), "the strictest of each");
    case.then(11, Input::Expire {}, "not_due").then(12, run(), "approval_expired");
    let no = Vote {
        narrow: narrow(None, None, true),
        ..Vote::new(principal("ann"), [Role::Approver].into(), Verdict::Reject)
    };
    Case::of(two_yes()).then(1, vote(no, None), "invalid_argument");
}

#[test]
fn a_no_has_a_code_and_a_yes_has_none() {
    let coded = |verdict, code: &str| {
        let reason_code = Some(code.to_owned());
        let said = Vote::new(principal("ann"), [Role::Approver].into(), verdict);
        vote(Vote { reason_code, ..said }, None)
    };
    let case = || Case::of(ApprovalDemand::default());
    case().then(1, coded(Verdict::Approve, "fine"), "invalid_argument");
    for code in ["", "Wrong", "wrong-target", "ä", &"x".repeat(65)] {
        case().then(1, coded(Verdict::Reject, code), "invalid_argument");
    }
    let mut rejected = case();
    rejected.then(1, coded(Verdict::Reject, "wrong_target_2"), "rejected");
    let (said, _) = rejected.state().votes.first().unwrap();
    assert_eq!(said.reason_code.as_deref(), Some("wrong_target_2"));
}

fn signed(by: &str, not_after: i64) -> Input {
    let signature = Signature {
        key_id: Digest::of(b"key"),
        public_key: "a2V5".to_owned(),
        not_after: at(not_after),
        sig: "c2ln".to_owned(),
    };
    let said = Vote::new(principal(by), [Role::Approver].into(), Verdict::Approve);
    vote(Vote { signature: Some(signature), ..said }, None)
}

#[test]
fn a_demanded_signature_is_given_and_ends_the_approval_in_time() {
    let wanted = || demand(json!({"expires_s": 60, "signed": true}));
    let no = Vote::new(principal("ann"), [Role::Approver].into(), Verdict::Reject);
    Case::of(wanted()).then(1, vote(no, None), "rejected");
    let mut case = Case::of(wanted());
    case.then(1, approver("ann"), "signature_required")
        .then(9, signed("ann", 9), "invalid_argument")
        .then(9, signed("ann", 20), "approved")
        .then(20, run(), "approval_expired");
    let mut unsigned = Case::of(demand(json!({"expires_s": 60})));
    unsigned.then(1, approver("ann"), "approved");
    assert!(unsigned.satisfies(&demand(json!({})), Normal));
    assert!(!unsigned.satisfies(&wanted(), Normal), "a signature demanded later is missing");
}

#[test]
fn what_an_approver_signs() {
    let id = ApprovalId::new("apr_1").unwrap();
    let statement = signed_statement(&id, plan(), Verdict::Approve, "legal", at(1)).unwrap();
    let expect = format!(
        "{{\"approval_id\":\"apr_1\",\"decision\":\"approve\",\"not_after\":2000000,\
         \"plan_digest\":\"{}\",\"stage\":\"legal\"}}",
        plan().hex()
    );
    assert_eq!(String::from_utf8(statement.clone()).unwrap(), expect);
    let pae = signed_bytes(&statement);
    let head = format!("DSSEv1 35 application/vnd.tally.approval+json {} ", statement.len());
    assert_eq!(pae, [head.as_bytes(), &statement].concat());
}

fn glass(by: &str, step_up: bool) -> Input {
    let broken = GlassBroken {
        by: principal(by),
        roles: [Role::Responder].into(),
        reasons: [Digest::of(b"one"), Digest::of(b"other")],
    };
    let kind = if by == "bot" { PrincipalKind::Agent } else { PrincipalKind::User };
    Input::BreakGlass { plan_digest: plan(), kind, step_up, broken: Box::new(broken) }
}

#[test]
fn glass_is_broken_by_an_outsider_with_a_second_factor() {
    let mut case = Case::of(two("serial"));
    case.then(1, glass("uma", true), "self_approval")
        .then(1, glass("bot", true), "self_approval")
        .then(1, glass("rob", false), "step_up_required")
        .then(1, glass("rob", true), "approved");
    let other = demand(json!({"quorum": 9}));
    assert!(case.satisfies(&other, Strict), "whatever is demanded");
    let now = case.state();
    let forbidden = BreakGlass::Forbidden;
    assert!(!now.satisfies(&other, false, Normal, forbidden, at(2)), "unless it is forbidden now");
    case.then(2, glass("rob", true), "state_conflict").then(3, run(), "used");
    let closed = Request { break_glass: BreakGlass::Forbidden, ..request(two("serial")) };
    Case::asked(closed).then(1, glass("rob", true), "break_glass_forbidden");
    let mut unused = Case::of(demand(json!({"expires_s": 10_000})));
    unused.then(1, glass("rob", true), "approved").then(901, run(), "approval_expired");
    Case::of(two("serial")).then(60, glass("rob", true), "approval_expired");
}

/// A demand does not read as one.
#[test]
fn malformed_demands() {
    for bad in [
        json!({"quorum": 1, "stages": [{"name": "a"}]}),
        json!({"roles": ["admin"], "stages": [{"name": "a"}]}),
        json!({"sla_s": 5, "stages": [{"name": "a"}]}),
        json!({"stages": []}),
        json!({"stages": [{"name": "a", "unheard": 1}]}),
        json!({"mode": "both"}),
        json!({"unheard": 1}),
    ] {
        assert!(serde_json::from_value::<ApprovalDemand>(bad.clone()).is_err(), "{bad}");
    }
    let denied = |json: Value| decide(vec![json]).reasons == ["policy_error"];
    for bad in [
        json!({"stages": [{"name": "a"}, {"name": "a"}]}),
        json!({"stages": [{"name": "A"}]}),
        json!({"stages": [{"name": "a", "sla_s": 0}]}),
        json!({"stages": [{"name": "a", "escalate_to": {"roles": ["admin"]}}]}),
        json!({"stages": [{"name": "a", "sla_s": 5, "escalate_to": {}}]}),
        json!({"stages": [{"name": "a", "quorum": 9}, {"name": "b", "quorum": 8}]}),
        json!({"valid_s": 0}),
        json!({"stages": (0..9).map(|n| json!({"name": format!("s{n}")})).collect::<Vec<_>>()}),
        json!({"approvers": (0..129).map(|n| format!("p{n}")).collect::<Vec<_>>()}),
    ] {
        assert!(denied(bad.clone()), "{bad}");
    }
    assert!(!denied(json!({"stages": [{"name": "a"}, {"name": "b"}]})));
}

/// What rules with these demands decide together.
fn decide(demands: Vec<Value>) -> Decision {
    let rule = |(number, json): (usize, Value)| MatchedRule {
        effect: Effect::RequireApproval,
        rule: format!("R-{number}"),
        reason: "because".to_owned(),
        obligations: Obligations { approval: Some(demand(json)), ..Obligations::default() },
    };
    let matched = demands.into_iter().enumerate().map(rule).collect();
    Decision::combine(matched, PolicyRef::none(), Digest::of(b"input"))
}

#[track_caller]
fn check_unite(left: Value, right: Value, expect: Value) {
    let expect = demand(expect);
    for demands in [vec![left.clone(), right.clone()], vec![right, left]] {
        let mut got = decide(demands).obligations.approval.unwrap();
        got.stages.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(got, expect);
    }
}

#[test]
fn demands_unite_to_the_strictest_of_each() {
    let stage = |name: &str, quorum: u32| json!({"name": name, "quorum": quorum});
    check_unite(
        json!({"mode": "parallel", "stages": [stage("a", 1), stage("b", 3)]}),
        json!({"mode": "serial", "stages": [stage("b", 2), stage("c", 1)], "signed": true}),
        json!({"stages": [stage("a", 1), stage("b", 3), stage("c", 1)], "signed": true}),
    );
    check_unite(
        json!({"quorum": 2}),
        json!({"stages": [stage("a", 1)]}),
        json!({"mode": "parallel", "stages": [{"quorum": 2}, stage("a", 1)]}),
    );
    check_unite(json!({"valid_s": 50}), json!({"valid_s": 70}), json!({"valid_s": 50}));
    check_unite(
        json!({"valid_s": 50, "expires_s": 90}),
        json!({"expires_s": 30}),
        json!({"valid_s": 30, "expires_s": 30}),
    );
    // Others are let in only where both rules let them in, and at the later time.
    let late =
        |sla_s: u32, roles: &[&str]| json!({"sla_s": sla_s, "escalate_to": {"roles": roles}});
    check_unite(late(5, &["admin", "owner"]), late(9, &["owner"]), late(9, &["owner"]));
    check_unite(late(5, &["admin"]), late(9, &["owner"]), json!({"sla_s": 5}));
    check_unite(late(5, &["admin"]), json!({}), json!({"sla_s": 5}));
    let contradiction = decide(vec![json!({"quorum": 10}), json!({"stages": [stage("a", 10)]})]);
    assert_eq!(contradiction.reasons, ["policy_contradiction"]);
    let forbids = |glass| MatchedRule {
        effect: Effect::RequireApproval,
        rule: format!("{glass:?}"),
        reason: "because".to_owned(),
        obligations: Obligations { break_glass: glass, ..Obligations::default() },
    };
    let both = vec![forbids(BreakGlass::Allowed), forbids(BreakGlass::Forbidden)];
    let united = Decision::combine(both, PolicyRef::none(), Digest::of(b"input"));
    assert_eq!(united.obligations.break_glass, BreakGlass::Forbidden);
}

#[test]
fn a_demand_is_written_as_it_is_read() {
    let late = Electorate { roles: [Role::Owner].into(), approvers: BTreeSet::new() };
    let stage = Stage { sla_s: Some(5), escalate_to: Some(late), ..Stage::default() };
    let named = |name: &str| Stage { name: name.to_owned(), ..stage.clone() };
    let base = || ApprovalDemand { valid_s: Some(9), signed: true, ..ApprovalDemand::default() };
    for mode in [Mode::Serial, Mode::Parallel] {
        for stages in [
            vec![Stage::default()],
            vec![stage.clone()],
            vec![named("a")],
            vec![named("a"), named("b")],
            vec![stage.clone(), named("b")],
        ] {
            let demand = ApprovalDemand { stages, mode, ..base() };
            let text = serde_json::to_string(&demand).unwrap();
            assert_eq!(serde_json::from_str::<ApprovalDemand>(&text).unwrap(), demand, "{text}");
        }
    }
    let plain = serde_json::to_value(ApprovalDemand::default()).unwrap();
    assert_eq!(plain, json!({"quorum": 1, "expires_s": 86_400}), "as it always was");
}

#[test]
fn decided_anew_stages_are_compared_by_their_names() {
    let mut case = Case::of(two("serial"));
    case.then(1, legal("lea"), "requested").then(1, security("sam"), "requested").then(
        1,
        security("sue"),
        "approved",
    );
    let check = |json: Value, expect: bool| {
        assert_eq!(case.satisfies(&demand(json.clone()), Normal), expect, "{json}");
    };
    let legal = json!({"name": "legal", "roles": ["admin"]});
    let security =
        |quorum: u32| json!({"name": "security", "roles": ["auditor"], "quorum": quorum});
    check(json!({"stages": [legal, security(2)]}), true);
    check(json!({"stages": [legal, security(1)]}), true);
    check(json!({"stages": [security(2)]}), true);
    check(json!({"stages": [legal, security(3)]}), false);
    check(json!({"stages": [{"name": "legal", "roles": ["owner"]}]}), false);
    check(json!({"stages": [legal, {"name": "board"}]}), false);
    check(json!({"stages": [security(2), legal]}), false);
    check(json!({"mode": "parallel", "stages": [security(2), legal]}), true);
    // One stage without a name asks for people, wherever they spoke.
    check(json!({"quorum": 3, "roles": ["admin", "auditor"]}), true);
    check(json!({"quorum": 2}), false);
    let mut parallel = Case::of(two("parallel"));
    parallel
        .then(1, says("sam", &[Role::Auditor], None), "requested")
        .then(1, says("sue", &[Role::Auditor], None), "requested")
        .then(1, says("lea", &[Role::Admin], None), "approved");
    assert!(!parallel.satisfies(&two("serial"), Normal), "nobody kept the order");
}
