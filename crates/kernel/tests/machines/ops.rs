//! What people, agents, time and failures do, and how a server carries it out.

use kernel::action::{Action, FailureCode, Outcome, Status};
use kernel::approval::{self, GlassBroken, Narrow, Verdict, Vote};
use kernel::decision::{
    ApprovalDemand, BreakGlass, Decision, Effect, Electorate, MatchedRule, Mode, Obligations,
    PolicyRef, SeparationOfDuties, Stage,
};
use kernel::failure::Category;
use kernel::ids::{ActionId, ApprovalId};
use kernel::machine::{Command, Input, Kind, Refusal};
use kernel::plan::{self, Revisions, Submission};
use kernel::principal::{PrincipalKind, Role};
use kernel::values::{Digest, MicroUsd, Shared};
use kernel::{account, action, reservation};
use proptest::prelude::*;
use proptest::sample::select;

use crate::world::{self, World};

/// Ids of budgets; the last is none, but what every post credits.
pub(crate) const ACCOUNTS: [&str; 3] = ["acc-1", "acc-2", plan::SPEND_ACCOUNT];

/// What policy says.
#[derive(Clone, Debug)]
pub(crate) struct Says {
    pub(crate) effect: Effect,
    pub(crate) quorum: u32,
    pub(crate) operators: bool,
    pub(crate) strict: bool,
    /// Whether there is a second stage, and how it follows the first.
    pub(crate) second: Option<Mode>,
    pub(crate) glass: BreakGlass,
}

impl Says {
    pub(crate) fn decision(&self, revision: u64) -> Decision {
        let roles = if self.operators { [Role::Operator].into() } else { Default::default() };
        let demand = self.demand(roles);
        let sod = if self.strict { SeparationOfDuties::Strict } else { SeparationOfDuties::Normal };
        let rule = MatchedRule {
            effect: self.effect,
            rule: "R-1".to_owned(),
            reason: "because".to_owned(),
            obligations: Obligations {
                approval: Some(demand),
                sod,
                break_glass: self.glass,
                retry_after_ms: Some(1),
                route: Some(kernel::ids::ToolId::new("other.tool").unwrap()),
                max_cost_micro_usd: None,
            },
        };
        let policy = PolicyRef { revision, digest: Digest::of(b"bundle") };
        Decision::combine(vec![rule], policy, Digest::of(b"input"))
    }

    /// Whoever is let in after two seconds is let into the first stage only.
    fn demand(&self, roles: std::collections::BTreeSet<Role>) -> ApprovalDemand {
        let first = Stage { quorum: self.quorum, roles, ..Stage::default() };
        let Some(mode) = self.second else { return ApprovalDemand::one(first) };
        let name = |name: &str| name.to_owned();
        let late = Electorate { roles: [Role::Operator].into(), ..Electorate::default() };
        let first = Stage { name: name("first"), sla_s: Some(2), escalate_to: Some(late), ..first };
        let second = Stage { name: name("second"), ..Stage::default() };
        ApprovalDemand { mode, stages: vec![first, second], ..ApprovalDemand::default() }
    }
}

/// A request as somebody makes it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) says: Says,
    pub(crate) plan: u8,
    pub(crate) chain: u8,
    pub(crate) estimate: i64,
    pub(crate) account: Option<usize>,
    pub(crate) idempotent: bool,
    pub(crate) key: Option<(u8, u8)>,
    pub(crate) refused: bool,
    /// Among the actions that there are: the one that it undoes.
    pub(crate) reverses: Option<usize>,
}

/// One thing that happens. A number picks among the actions or approvals that there are; `stale`
/// acts on the action as it was some time ago.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Submit(Ask),
    Vote { which: usize, who: usize, verdict: Verdict, how: How },
    Delegate { which: usize, from: usize, to: usize },
    Escalate { which: usize },
    BreakGlass { which: usize, who: usize, step_up: bool },
    Execute { which: usize, says: Says, stale: bool, old_revision: bool },
    Start { which: usize, epoch: u64 },
    Finish { which: usize, stale: bool, late: u32, status: Status, cost: i64, category: Category },
    Lost { which: usize, stale: bool },
    Reconcile { which: usize, stale: bool, status: Status, cost: i64 },
    Cancel { which: usize, stale: bool },
    Expire { which: usize, stale: bool },
    Deny { which: usize, stale: bool },
    Release { which: usize, stale: bool, says: Says },
    Fund { account: usize, amount: i64 },
    Thaw { account: usize },
    Look { which: usize },
    Wait { micros: i64 },
    Publish,
    ChangePrincipal,
    Restart,
}

/// How somebody votes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    pub(crate) step_up: bool,
    pub(crate) other_plan: bool,
    pub(crate) max_attempts: Option<u32>,
}

/// Who may vote: the delegating user, an outsider, another, one who is no approver, the agent
/// itself, and an agent that was given the role of an approver.
pub(crate) const VOTERS: [(&str, PrincipalKind, &[Role]); 6] = [
    ("uma", PrincipalKind::User, &[Role::Approver]),
    ("ann", PrincipalKind::User, &[Role::Approver, Role::Operator]),
    ("bob", PrincipalKind::User, &[Role::Approver]),
    ("tim", PrincipalKind::User, &[Role::Operator]),
    ("bot", PrincipalKind::Agent, &[Role::Approver]),
    ("ned", PrincipalKind::Agent, &[Role::Approver, Role::Operator]),
];

fn says() -> impl Strategy<Value = Says> {
    let effect = prop_oneof![
        4 => Just(Effect::Allow),
        6 => Just(Effect::RequireApproval),
        2 => Just(Effect::RequireStepUp),
        1 => Just(Effect::Quarantine),
        1 => Just(Effect::Throttle),
        1 => Just(Effect::Route),
        1 => Just(Effect::Deny),
    ];
    let second = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Mode::Serial)),
        1 => Just(Some(Mode::Parallel)),
    ];
    let glass = prop_oneof![4 => Just(BreakGlass::Allowed), 1 => Just(BreakGlass::Forbidden)];
    let (operators, strict) = (prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    (effect, 1..=2u32, operators, strict, second, glass).prop_map(
        |(effect, quorum, operators, strict, second, glass)| Says {
            effect,
            quorum,
            operators,
            strict,
            second,
            glass,
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    (
        says(),
        0..3u8,
        0..3u8,
        select(vec![0, 30, 60]),
        prop::option::weighted(0.9, prop_oneof![8 => 0..2usize, 1 => Just(2)]),
        any::<bool>(),
        prop::option::of((0..3u8, 0..2u8)),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.4, any::<usize>()),
    )
        .prop_map(
            |(says, plan, chain, estimate, account, idempotent, key, refused, reverses)| Ask {
                says,
                plan,
                chain,
                estimate,
                account,
                idempotent,
                key,
                refused,
                reverses,
            },
        )
}

fn finish() -> impl Strategy<Value = Op> {
    let status = select(vec![
        Status::Executed,
        Status::Failed,
        Status::Failed,
        Status::Unknown,
        Status::Canceled,
    ]);
    let late = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(u32::MAX)];
    let category = select(vec![Category::Network, Category::Upstream, Category::Permanent]);
    (any::<usize>(), rarely(), late, status, -1..70i64, category).prop_map(
        |(which, stale, late, status, cost, category)| Op::Finish {
            which,
            stale,
            late,
            status,
            cost,
            category,
        },
    )
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn vote() -> impl Strategy<Value = Op> {
    let verdict = prop_oneof![5 => Just(Verdict::Approve), 1 => Just(Verdict::Reject)];
    let max_attempts = prop::option::weighted(0.2, 0..=6u32);
    let how = (prop::bool::weighted(0.7), rarely(), max_attempts)
        .prop_map(|(step_up, other_plan, max_attempts)| How { step_up, other_plan, max_attempts });
    (any::<usize>(), 0..VOTERS.len(), verdict, how)
        .prop_map(|(which, who, verdict, how)| Op::Vote { which, who, verdict, how })
}

/// What else people and time do to an approval.
fn meanwhile() -> impl Strategy<Value = Op> {
    let (which, who) = (any::<usize>, 0..VOTERS.len());
    prop_oneof![
        2 => (which(), who.clone(), who.clone())
            .prop_map(|(which, from, to)| Op::Delegate { which, from, to }),
        2 => which().prop_map(|which| Op::Escalate { which }),
        1 => (which(), who, any::<bool>())
            .prop_map(|(which, who, step_up)| Op::BreakGlass { which, who, step_up }),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let which = any::<usize>;
    let wait = select(vec![1, 1_000_000, 6_000_000, 3_600_000_000, 90_000_000_000]);
    let ended = select(vec![Status::Executed, Status::Failed, Status::Unknown]);
    prop_oneof![
        6 => ask().prop_map(Op::Submit),
        12 => vote(),
        4 => meanwhile(),
        8 => (which(), says(), rarely(), rarely()).prop_map(|(which, says, stale, old_revision)| {
            Op::Execute { which, says, stale, old_revision }
        }),
        1 => (which(), 1..3u64).prop_map(|(which, epoch)| Op::Start { which, epoch }),
        6 => finish(),
        2 => (which(), rarely()).prop_map(|(which, stale)| Op::Lost { which, stale }),
        2 => (which(), rarely(), ended, -1..70i64).prop_map(|(which, stale, status, cost)| {
            Op::Reconcile { which, stale, status, cost }
        }),
        1 => (which(), rarely()).prop_map(|(which, stale)| Op::Cancel { which, stale }),
        1 => (which(), rarely()).prop_map(|(which, stale)| Op::Expire { which, stale }),
        1 => (which(), rarely()).prop_map(|(which, stale)| Op::Deny { which, stale }),
        2 => (which(), rarely(), says())
            .prop_map(|(which, stale, says)| Op::Release { which, stale, says }),
        3 => (0..ACCOUNTS.len(), -1..150i64)
            .prop_map(|(account, amount)| Op::Fund { account, amount }),
        1 => (0..ACCOUNTS.len()).prop_map(|account| Op::Thaw { account }),
        2 => which().prop_map(|which| Op::Look { which }),
        4 => wait.prop_map(|micros| Op::Wait { micros }),
        1 => Just(Op::Publish),
        1 => Just(Op::ChangePrincipal),
        1 => Just(Op::Restart),
    ]
}

impl World {
    /// The batch that a server would commit for `op`; none where there is nothing to do it to.
    pub(crate) fn batch(&mut self, op: &Op) -> Option<Result<Vec<Command>, Refusal>> {
        let now = self.now;
        Some(Ok(match op {
            Op::Submit(ask) => self.submit(ask),
            Op::Vote { .. } | Op::Delegate { .. } | Op::Escalate { .. } | Op::BreakGlass { .. } => {
                return self.speak(op);
            }
            Op::Execute { which, says, stale, old_revision } => {
                let action = self.pick(which, *stale)?;
                let granted = action.approval.as_ref().map(|id| self.approval(id));
                let decided = self.revisions.policy - u64::from(*old_revision);
                let decision = says.decision(decided).into();
                plan::execute(&action, granted, decision, self.new_approval(), self.revisions, now)
            }
            Op::Start { which, epoch } => vec![self.bare_start(&self.pick(which, false)?, *epoch)],
            Op::Finish { which, stale, late, status, cost, category } => {
                let action = self.pick(which, *stale)?;
                let attempt = action.attempts.wrapping_add(*late);
                let outcome = outcome(*status, *cost, *category);
                plan::finish(&action, attempt, outcome, Some(now.plus_millis(1)))
            }
            Op::Lost { which, stale } => {
                plan::lost(&self.pick(which, *stale)?, self.revisions.epoch)
            }
            Op::Reconcile { which, stale, status, cost } => {
                let by = world::principal("tim");
                plan::reconcile(&self.pick(which, *stale)?, *status, MicroUsd(*cost), by)
            }
            Op::Cancel { which, stale } => {
                plan::cancel(&self.pick(which, *stale)?, world::principal("tim"))
            }
            Op::Expire { which, stale } => {
                let action = self.pick(which, *stale)?;
                let approval = self.approval(action.approval.as_ref()?);
                plan::expire(approval, Some(&action))
            }
            Op::Deny { which, stale } => plan::deny(&self.pick(which, *stale)?, failure()),
            Op::Release { which, stale, says } => {
                let action = self.pick(which, *stale)?;
                let decision = says.decision(self.revisions.policy).into();
                plan::release(&action, decision, self.new_approval(), self.revisions, now)
            }
            Op::Fund { account, amount } => {
                plan::fund(&world::account(ACCOUNTS[*account]), MicroUsd(*amount))
            }
            Op::Thaw { account } => {
                let input = Input::Account(account::Input::Thaw {});
                vec![Command::new(Kind::Account, ACCOUNTS[*account], input)]
            }
            _ => return None,
        }))
    }

    /// What is no commit: time passes, revisions and servers change, somebody looks.
    pub(crate) fn happen(&mut self, op: &Op) {
        match op {
            Op::Wait { micros } => self.now = self.now.plus_micros(*micros),
            Op::Publish => self.revisions.policy += 1,
            Op::ChangePrincipal => self.revisions.principal += 1,
            Op::Restart => self.revisions.epoch += 1,
            Op::Look { which } => {
                if let Some(action) = self.pick(which, false) {
                    self.seen.insert(action.id.clone(), action);
                }
            }
            _ => {}
        }
    }

    fn pick(&self, which: &usize, stale: bool) -> Option<Action> {
        let all: Vec<&Action> = self.actions().collect();
        let now = (*all.get(which % all.len().max(1))?).clone();
        let before = self.seen.get(&now.id).filter(|_| stale).cloned();
        Some(before.unwrap_or(now))
    }

    /// An id that no approval has: every one is opened in a commit of its own.
    fn new_approval(&self) -> ApprovalId {
        ApprovalId::new(format!("apr-{}", self.receipts.len())).unwrap()
    }

    fn submit(&self, ask: &Ask) -> Vec<Command> {
        let id = ActionId::new(format!("act-{}", self.receipts.len())).unwrap();
        let request = Shared::new(action::Request {
            estimate: MicroUsd(ask.estimate),
            account: ask.account.map(|which| world::account(ACCOUNTS[which])),
            idempotent: ask.idempotent,
            reverses: ask.reverses.and_then(|which| Some(self.pick(&which, false)?.id)),
            ..world::request(ask.plan, world::chain(ask.chain))
        });
        let reserve = ask.key.map(|(key, body)| {
            let until = self.now.plus_micros(kernel::limits::RESULT_TTL_MICROS);
            let (body, target) = (Digest::of(&[body]), id.to_string());
            (format!("key-{key}"), reservation::Input { body, target, until, replaces: None })
        });
        let submission = Submission {
            id,
            request,
            decision: ask.says.decision(self.revisions.policy).into(),
            approval: self.new_approval(),
            reserve,
            revisions: self.revisions,
        };
        if ask.refused {
            plan::submit_refused(submission, failure())
        } else {
            plan::submit(submission, self.now)
        }
    }

    /// What people and time do to an approval.
    fn speak(&self, op: &Op) -> Option<Result<Vec<Command>, Refusal>> {
        let (Op::Vote { which, .. }
        | Op::Delegate { which, .. }
        | Op::Escalate { which }
        | Op::BreakGlass { which, .. }) = op
        else {
            return None;
        };
        let all: Vec<_> = self.approvals().collect();
        let approval = all.get(which % all.len().max(1))?;
        let person = |who: usize| {
            let (by, kind, roles) = VOTERS[who];
            (world::principal(by), kind, roles.iter().copied().collect())
        };
        let input = match op {
            Op::Vote { who, verdict, how, .. } => {
                let (by, kind, roles) = person(*who);
                let narrow = Narrow { max_attempts: how.max_attempts, ..Narrow::default() };
                let vote = Vote { step_up: how.step_up, narrow, ..Vote::new(by, roles, *verdict) };
                let digest = approval.request.plan_digest;
                let plan_digest = if how.other_plan { Digest::of(b"another") } else { digest };
                let stage = None;
                approval::Input::Decide { plan_digest, kind, stage, vote: Box::new(vote) }
            }
            Op::Delegate { from, to, .. } => {
                let (by, _, roles) = person(*from);
                let input = approval::Input::Delegate { from: (by, roles), to: person(*to) };
                return Some(Ok(plan::delegate(approval, input)));
            }
            Op::BreakGlass { who, step_up, .. } => {
                let (by, kind, roles) = person(*who);
                let reasons = [Digest::of(b"one"), Digest::of(b"two")];
                let broken = Box::new(GlassBroken { by, roles, reasons });
                let plan_digest = approval.request.plan_digest;
                approval::Input::BreakGlass { plan_digest, kind, step_up: *step_up, broken }
            }
            _ => return Some(Ok(plan::escalate(approval, self.now))),
        };
        Some(plan::decide(approval, input, self.now))
    }

    /// A permit asked for without a new decision, an approval or money.
    fn bare_start(&self, action: &Action, epoch: u64) -> Command {
        let Revisions { policy, principal, .. } = self.revisions;
        let input = action::Input::Start {
            policy_revision: policy,
            principal_revision: principal,
            consumed: None,
            hold: None,
            held: action.held(),
            epoch,
        };
        Command::new(Kind::Action, action.id.as_str(), Input::Action(input))
    }
}

pub(crate) fn failure() -> FailureCode {
    FailureCode { code: "budget_exceeded".to_owned(), category: Category::Budget }
}

pub(crate) fn outcome(status: Status, cost: i64, category: Category) -> Outcome {
    let failed = status != Status::Executed;
    Outcome {
        status,
        output: (!failed).then(|| Digest::of(b"result")),
        output_bytes: 6,
        cost: MicroUsd(cost),
        units: kernel::units::Units::NONE,
        failure: failed.then(|| FailureCode { code: "it_failed".to_owned(), category }),
        is_error: false,
        isolation: None,
        attestation: None,
        prior: (!failed).then(|| Digest::of(b"prior")),
        model: None,
    }
}
