//! Three logs in which every type of transition happens.

mod connectors;
pub(crate) mod hooks;
mod mcp;
mod money;
mod people;
pub(crate) mod runs;
pub(crate) mod sandbox;
pub(crate) mod transfers;
pub(crate) mod undo;
pub(crate) mod workflows;

use std::collections::BTreeSet;

use kernel::account::{Change as Account, Measure, Opening, Purpose};
use kernel::action::{Attempt, Change as Action, FailureCode, Outcome, Request, Status};
use kernel::approval::{self, Change as Approval, GlassBroken, Narrow, Signature, Verdict, Vote};
use kernel::control::{Change as Control, Issue, Rotation};
use kernel::decision::{
    ApprovalDemand, BreakGlass, Decision, Effect, Electorate, Mode, Obligations, Phase, PolicyRef,
    SeparationOfDuties, Stage,
};
use kernel::delegation::Delegation;
use kernel::failure::Category;
use kernel::ids::{
    AccountId, ActionId, ApprovalId, EnvironmentId, PrincipalId, TenantId, ToolId, WorkspaceId,
};
use kernel::machine::{Change, Kind, Stream};
use kernel::principal::{Actor, ActorChain, PrincipalKind, Role};
use kernel::receipt::{Body, LogId, Transition};
use kernel::reservation;
use kernel::risk::Risk;
use kernel::session::{Change as Session, Open};
use kernel::signing_key::{self, Algorithm};
use kernel::units::{Unit, Units};
use kernel::values::{Digest, MicroUsd, Shared, Timestamp};

/// The type of every transition.
pub(crate) const TYPES: [&str; 79] = [
    "action.requested",
    "action.decided",
    "action.approved",
    "action.started",
    "action.retried",
    "action.finished",
    "action.denied",
    "action.reconciled",
    "action.canceled",
    "action.expired",
    "approval.requested",
    "approval.decided",
    "approval.delegated",
    "approval.escalated",
    "approval.glass_broken",
    "approval.used",
    "approval.expired",
    "approval.canceled",
    "account.opened",
    "account.credited",
    "account.debited",
    "account.held",
    "account.posted",
    "account.voided",
    "account.frozen",
    "account.thawed",
    "account.allotted",
    "account.returned",
    "account.gave_back",
    "account.alerted",
    "account.watched",
    "account.closed",
    "idempotency.reserved",
    "tenant.created",
    "tenant.suspended",
    "tenant.resumed",
    "workspace.created",
    "principal.created",
    "principal.roles_set",
    "principal.disabled",
    "principal.enabled",
    "key.issued",
    "key.revoked",
    "key.rotated",
    "key.delegated",
    "token_key.rotated",
    "session.opened",
    "session.ended",
    "session.delegated",
    "policy.drafted",
    "policy.published",
    "factor.enrolled",
    "factor.confirmed",
    "factor.used",
    "factor.failed",
    "factor.removed",
    "signer.key_registered",
    "signer.key_removed",
    "signing_key.activated",
    "secret.put",
    "secret.rotated",
    "secret.removed",
    "upstream.added",
    "upstream.changed",
    "upstream.pinned",
    "upstream.removed",
    "upstream_tool.pinned",
    "upstream_tool.changed",
    "upstream_tool.returned",
    "upstream_tool.released",
    "upstream_tool.gone",
    "wasm_tool.registered",
    "wasm_tool.bound",
    "wasm_tool.granted",
    "wasm_tool.revoked",
    "connector.installed",
    "connector.configured",
    "connector.enabled",
    "connector.disabled",
];

/// The time that is `second` seconds after the first receipt.
pub(crate) fn time(second: i64) -> Timestamp {
    Timestamp(1_795_226_400_000_000).plus_micros(second * 1_000_000)
}

/// The logs of a workspace, of a tenant and of the host.
pub(crate) fn logs() -> Vec<(LogId, Vec<Body>)> {
    let tenant = || TenantId::new("acme").unwrap();
    let workspace = LogId::Workspace(tenant(), WorkspaceId::new("ops").unwrap());
    vec![
        (workspace, numbered(workspace_commits())),
        (LogId::Control(tenant()), numbered([control_commits(), workflows::commits()].concat())),
        (LogId::System, numbered(system_commits())),
    ]
}

type Told = (Kind, &'static str, Change);

fn system_commits() -> Vec<Vec<Told>> {
    let rotated = Control::TokenKeyRotated { generation: 1, previous_until: time(3600) };
    vec![
        control(Kind::Tenant, "acme", Control::TenantCreated {}),
        control(Kind::Tenant, "acme", Control::TenantSuspended {}),
        control(Kind::Tenant, "acme", Control::TenantResumed {}),
        control(Kind::TokenKey, "tokens", rotated),
    ]
}

/// Gives each change its number among those of its stream.
fn numbered(commits: Vec<Vec<Told>>) -> Vec<Body> {
    let mut seen: Vec<Stream> = Vec::new();
    let mut body = |commit: Vec<Told>| {
        let transitions = commit.into_iter().map(|(kind, id, change)| {
            let stream = Stream::new(kind, id);
            seen.push(stream.clone());
            let version = seen.iter().filter(|other| **other == stream).count();
            Transition { stream, version: u64::try_from(version).unwrap(), change }
        });
        let transitions = transitions.collect();
        Body { trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()), transitions }
    };
    commits.into_iter().map(&mut body).collect()
}

fn action(id: &'static str, change: Action) -> Told {
    (Kind::Action, id, Change::Action(change))
}

fn approval(id: &'static str, change: Approval) -> Told {
    (Kind::Approval, id, Change::Approval(change))
}

fn account(id: &'static str, change: Account) -> Told {
    (Kind::Account, id, Change::Account(change))
}

fn workspace_commits() -> Vec<Vec<Told>> {
    let mut commits = money();
    commits.extend(money::approved_and_repeated());
    commits.extend(unknown_and_reconciled());
    commits.extend(ended_before_they_ran());
    commits.extend(staged_and_broken());
    commits.extend(money::allotted_and_given_back());
    commits.extend(runs::commits());
    commits.extend(undo::commits());
    commits.extend(hooks::cards());
    commits.extend(transfers::commits());
    commits
}

fn budget() -> AccountId {
    AccountId::new("acc_1").unwrap()
}

fn named(id: &str) -> AccountId {
    AccountId::new(id).unwrap()
}

fn money() -> Vec<Vec<Told>> {
    let amount = MicroUsd(1_000_000);
    vec![
        vec![account("acc_1", Account::Opened(Opening::of(Purpose::Budget)))],
        vec![
            account("funding", Account::Opened(Opening::of(Purpose::Funding))),
            account("funding", Account::Debited { amount, units: worst(), to: budget() }),
            account("acc_1", Account::Credited { amount, units: worst(), from: named("funding") }),
        ],
    ]
}

fn principal(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

fn actors() -> ActorChain {
    let user = Actor { id: principal("u_1"), kind: PrincipalKind::User };
    let agent = Actor { id: principal("p_7"), kind: PrincipalKind::Agent };
    ActorChain::try_from(vec![user, agent]).unwrap()
}

fn request() -> Shared<Request> {
    Shared::new(Request {
        tool: ToolId::new("servicenow.update_incident").unwrap(),
        tool_digest: Digest::of(b"tool"),
        execution: None,
        routed_from: Some(ToolId::new("servicenow.close_incident").unwrap()),
        environment: EnvironmentId::new("prod").unwrap(),
        actors: actors(),
        action_digest: Digest::of(b"action"),
        plan_digest: Digest::of(b"plan"),
        risk: Risk::assess(&["write".to_owned()].into(), "prod", &["pii".to_owned()].into()),
        estimate: MicroUsd(5_000),
        units: worst(),
        account: Some(budget()),
        idempotent: true,
        timeout_ms: 30_000,
        step: None,
        within: None,
        max_attempts: None,
        reverses: None,
    })
}

/// What one attempt uses at most.
fn worst() -> Units {
    [(Unit::Tokens, 500), (Unit::Calls, 1), (Unit::Writes, 1), (Unit::CpuMs, 20)]
        .into_iter()
        .collect()
}

/// What one really used.
fn used() -> Units {
    [(Unit::Tokens, 320), (Unit::Calls, 1), (Unit::Writes, 1), (Unit::CpuMs, 3)]
        .into_iter()
        .collect()
}

/// A request of little ado.
fn plain() -> Shared<Request> {
    let estimate = MicroUsd::ZERO;
    Shared::new(Request {
        execution: None,
        routed_from: None,
        account: None,
        estimate,
        units: Units::NONE,
        ..Request::clone(&request())
    })
}

fn demand() -> ApprovalDemand {
    let stage = Stage {
        quorum: 1,
        roles: [Role::Approver, Role::Owner].into(),
        approvers: [principal("u_2")].into(),
        ..Stage::default()
    };
    ApprovalDemand { expires_s: 3_600, ..ApprovalDemand::one(stage) }
}

/// Two stages, one after the other, with everything that a demand can say.
fn staged() -> ApprovalDemand {
    let stage = |name: &str| Stage { name: name.to_owned(), ..Stage::default() };
    let on_call = Electorate { roles: [Role::Admin].into(), approvers: [principal("u_6")].into() };
    let legal = Stage { sla_s: Some(900), escalate_to: Some(on_call), ..stage("legal") };
    let stages = vec![legal, Stage { quorum: 2, ..stage("security") }];
    let mode = Mode::Serial;
    ApprovalDemand { stages, mode, expires_s: 3_600, valid_s: Some(600), signed: true }
}

fn decision(effect: Effect) -> Shared<Decision> {
    let gated = effect == Effect::RequireApproval;
    Shared::new(Decision {
        effect,
        rules: vec!["R-PROD-WRITE".to_owned()],
        reasons: vec!["prod_write".to_owned()],
        obligations: Obligations {
            approval: gated.then(demand),
            sod: if gated { SeparationOfDuties::Strict } else { SeparationOfDuties::Normal },
            break_glass: BreakGlass::Allowed,
            retry_after_ms: (effect == Effect::Throttle).then_some(1_500),
            route: None,
            max_cost_micro_usd: gated.then_some(MicroUsd(10_000)),
        },
        policy: PolicyRef { revision: 3, digest: Digest::of(b"bundle") },
        input_digest: Digest::of(b"input"),
    })
}

fn decided(status: Status, effect: Effect, approval: Option<&str>) -> Action {
    let approval = approval.map(|id| ApprovalId::new(id).unwrap());
    let (phase, decision) = (Phase::Submit, decision(effect));
    Action::Decided { phase, status, decision, principal_revision: 2, approval }
}

fn started(number: u32, second: i64, hold: Option<MicroUsd>) -> Action {
    let (not_after, lease_until) = (time(second + 5), time(second + 35));
    Action::Started(Attempt { number, epoch: 1, not_after, lease_until, hold })
}

fn failure(code: &str, category: Category) -> FailureCode {
    FailureCode { code: code.to_owned(), category }
}

fn asks() -> Approval {
    asks_by(demand(), BreakGlass::Allowed)
}

fn asks_by(demand: ApprovalDemand, break_glass: BreakGlass) -> Approval {
    Approval::Requested(Box::new(approval::Request {
        action: ActionId::new("act_1").unwrap(),
        plan_digest: Digest::of(b"plan"),
        actors: actors(),
        demand,
        step_up: true,
        sod: SeparationOfDuties::Strict,
        break_glass,
        expires_at: time(3_600),
    }))
}

fn says(status: approval::Status, verdict: Verdict) -> Approval {
    let yes = verdict == Verdict::Approve;
    let signature = Signature {
        key_id: Digest::of(b"spki"),
        public_key: "c3BraQ==".to_owned(),
        not_after: time(1_800),
        sig: "c2lnbmF0dXJl".to_owned(),
    };
    let vote = Vote {
        step_up: yes,
        reason_code: (!yes).then(|| "wrong_target".to_owned()),
        signature: yes.then_some(signature),
        ..Vote::new(principal("u_2"), [Role::Approver].into(), verdict)
    };
    Approval::Decided { status, vote: Box::new(vote) }
}

fn granted(id: &str, narrow: Narrow, broken_glass: bool) -> Action {
    let approval = ApprovalId::new(id).unwrap();
    Action::Approved { approval, narrow, broken_glass }
}

/// One approval goes through its stages, escalated and delegated; another is overtaken by an
/// emergency.
fn staged_and_broken() -> Vec<Vec<Told>> {
    let waits = |id| decided(Status::AwaitingApproval, Effect::RequireApproval, Some(id));
    let narrow = Narrow { valid_s: Some(60), max_attempts: Some(1), exact: true };
    let vote = |by, roles: &[Role]| {
        let roles = roles.iter().copied().collect();
        Vote { step_up: true, ..Vote::new(principal(by), roles, Verdict::Approve) }
    };
    let said = |status, vote| Approval::Decided { status, vote: Box::new(vote) };
    let legal = Vote { stage: "legal".to_owned(), narrow, ..vote("u_6", &[Role::Admin]) };
    let by = Some(principal("u_2"));
    let handed =
        Vote { stage: "security".to_owned(), delegated_by: by, ..vote("u_8", &[Role::Approver]) };
    let last = Vote { stage: "security".to_owned(), ..vote("u_9", &[Role::Approver]) };
    let delegation = approval::Delegation {
        from: principal("u_2"),
        roles: [Role::Approver].into(),
        to: principal("u_8"),
        stages: ["security".to_owned()].into(),
    };
    let broken = GlassBroken {
        by: principal("u_9"),
        roles: [Role::Responder].into(),
        reasons: [Digest::of(b"one reason"), Digest::of(b"another")],
    };
    vec![
        vec![
            action("act_8", Action::Requested(plain())),
            action("act_8", waits("apr_8")),
            approval("apr_8", asks_by(staged(), BreakGlass::Forbidden)),
        ],
        vec![approval("apr_8", Approval::Escalated { stage: "legal".to_owned() })],
        vec![approval("apr_8", said(approval::Status::Requested, legal))],
        vec![approval("apr_8", Approval::Delegated(Box::new(delegation)))],
        vec![approval("apr_8", said(approval::Status::Requested, handed))],
        vec![
            approval("apr_8", said(approval::Status::Approved, last)),
            action("act_8", granted("apr_8", narrow, false)),
        ],
        vec![
            action("act_9", Action::Requested(plain())),
            action("act_9", waits("apr_9")),
            approval("apr_9", asks()),
        ],
        vec![
            approval("apr_9", Approval::GlassBroken(Box::new(broken))),
            action("act_9", granted("apr_9", Narrow::default(), true)),
        ],
    ]
}

/// An action whose server is lost, so that an operator has to find out what it did.
fn unknown_and_reconciled() -> Vec<Vec<Told>> {
    let outcome = Outcome {
        status: Status::Unknown,
        output: None,
        output_bytes: 0,
        cost: MicroUsd::ZERO,
        units: Units::NONE,
        failure: Some(failure("attempt_lost", Category::Internal)),
        is_error: false,
        isolation: None,
        attestation: None,
        prior: None,
        model: None,
    };
    let (status, cost, by) = (Status::Executed, MicroUsd::ZERO, principal("u_3"));
    vec![
        vec![
            action("act_2", Action::Requested(plain())),
            action("act_2", decided(Status::Approved, Effect::Allow, None)),
            action("act_2", started(1, 9, None)),
        ],
        vec![action("act_2", Action::Finished { attempt: 1, outcome })],
        vec![action("act_2", Action::Reconciled { status, cost, units: Units::NONE, by })],
    ]
}

fn ended_before_they_ran() -> Vec<Vec<Told>> {
    let waits = || decided(Status::AwaitingApproval, Effect::RequireApproval, Some("apr_3"));
    let rejected = failure("approval_rejected", Category::PolicyDenied);
    vec![
        vec![
            action("act_3", Action::Requested(plain())),
            action("act_3", waits()),
            approval("apr_3", asks()),
        ],
        vec![
            approval("apr_3", says(approval::Status::Rejected, Verdict::Reject)),
            action("act_3", Action::Denied { failure: rejected }),
        ],
        vec![
            action("act_4", Action::Requested(plain())),
            action("act_4", waits()),
            approval("apr_4", asks()),
            approval("apr_4", Approval::Canceled {}),
            action("act_4", Action::Canceled { by: principal("p_7") }),
        ],
        vec![
            action("act_5", Action::Requested(plain())),
            action("act_5", waits()),
            approval("apr_5", asks()),
            approval("apr_5", Approval::Expired {}),
            action("act_5", Action::Expired {}),
        ],
        vec![
            action("act_6", Action::Requested(plain())),
            action("act_6", decided(Status::Denied, Effect::Throttle, None)),
        ],
        vec![
            action("act_7", Action::Requested(plain())),
            action("act_7", decided(Status::Quarantined, Effect::Quarantine, None)),
        ],
    ]
}

/// The base point of P-256, whose private key everybody knows.
const NEW_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5Rd\
    iYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==";
const NEW_KEY_ID: &str = "5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3";

fn new_key() -> Vec<Told> {
    let change = signing_key::Change::Activated {
        public_key: NEW_KEY.to_owned(),
        algorithm: Algorithm::EcdsaP256Sha256,
        replaces: Digest::of(b"the key before"),
    };
    vec![(Kind::SigningKey, NEW_KEY_ID, Change::SigningKey(change))]
}

fn control(kind: Kind, id: &'static str, change: Control) -> Vec<Told> {
    vec![(kind, id, Change::Control(change))]
}

fn control_commits() -> Vec<Vec<Told>> {
    let environment = EnvironmentId::new("prod").unwrap();
    let environments = BTreeSet::from([environment.clone()]);
    let created = |kind, role, account| {
        let roles = [role].into();
        Control::PrincipalCreated { kind, roles, account }
    };
    let issue = |expires_at| {
        Control::KeyIssued(Box::new(Issue {
            principal: principal("p_7"),
            secret: Digest::of(b"secret"),
            workspace: WorkspaceId::new("ops").unwrap(),
            environment: environment.clone(),
            expires_at,
            rate_per_min: 600,
        }))
    };
    let published = |revision, rollback| Control::PolicyPublished {
        revision,
        policy: "pol_1".to_owned(),
        digest: Digest::of(b"bundle"),
        publisher: principal("u_1"),
        author: principal("u_4"),
        rollback,
    };
    let drafted = Control::PolicyDrafted { digest: Digest::of(b"files"), author: principal("u_4") };
    let roles = BTreeSet::from([Role::Approver, Role::Viewer]);
    let rotated = |previous_until| {
        Control::KeyRotated(Rotation { secret: Digest::of(b"next secret"), previous_until })
    };
    let actor = |id, kind| Actor { id: principal(id), kind };
    let actors = vec![actor("u_2", PrincipalKind::User), actor("p_7", PrincipalKind::Agent)];
    let delegation = Box::new(Delegation {
        token: "tok_1".to_owned(),
        actors: ActorChain::try_from(actors).unwrap(),
        scope: ["actions:read".to_owned(), "actions:submit".to_owned()].into(),
        expires_at: time(900),
    });
    let open = Box::new(Open {
        principal: principal("u_2"),
        workspace: WorkspaceId::new("ops").unwrap(),
        environment: environment.clone(),
        method: "oidc:main".to_owned(),
        secret: Digest::of(b"session secret"),
        expires_at: time(3600),
    });
    let session = |change| vec![(Kind::Session, "ses_1", Change::Session(change))];
    vec![
        control(Kind::Workspace, "ops", Control::WorkspaceCreated { environments }),
        control(Kind::Principal, "p_7", created(PrincipalKind::Agent, Role::Agent, Some(budget()))),
        control(Kind::Principal, "u_2", created(PrincipalKind::User, Role::Viewer, None)),
        control(Kind::Principal, "u_2", Control::RolesSet { roles }),
        control(Kind::Principal, "p_7", Control::PrincipalDisabled {}),
        control(Kind::Key, "key_1", issue(None)),
        control(Kind::Key, "key_2", issue(Some(time(60)))),
        control(Kind::Key, "key_1", Control::KeyRevoked {}),
        control(Kind::Principal, "p_7", Control::PrincipalEnabled {}),
        control(Kind::Key, "key_2", rotated(None)),
        control(Kind::Key, "key_2", rotated(Some(time(30)))),
        control(Kind::Key, "key_2", Control::KeyDelegated(delegation.clone())),
        session(Session::Opened(open)),
        session(Session::Delegated(delegation)),
        session(Session::Ended { by: principal("u_2") }),
        control(Kind::Policy, "pol_1", drafted),
        control(Kind::PolicyHistory, "current", published(1, false)),
        control(Kind::PolicyHistory, "current", published(2, true)),
        new_key(),
    ]
    .into_iter()
    .chain(people::commits())
    .chain(connectors::commits())
    .collect()
}
