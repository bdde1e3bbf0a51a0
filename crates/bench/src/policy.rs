//! A decision against the bare evaluation of the same policy on the same input.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, ensure};
use kernel::decision::{
    DecisionInput, DecisionPoint, Effect, InputBudget, InputOperational, InputPrincipal, InputTime,
    InputTool, Phase,
};
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, ToolId, WorkspaceId};
use kernel::json::RawJson;
use kernel::principal::{Actor, PrincipalKind, Role};
use kernel::risk::Risk;
use kernel::values::{Digest, MicroUsd, Timestamp};
use policy::{
    BareMachine, Bundle, Config, Confirmation, ControlKey, P256Signer, PolicyPoint, TrustedKeys,
    bare_eval, baseline, open,
};

use crate::report::{Report, Table};
use crate::stats;

/// Decisions in a row that are timed together.
const BATCH: u32 = 1_000;
/// Batches of each kind, by turns, so that a busy neighbour slows both alike.
const BATCHES: usize = 60;

/// Agents that ask by turns, each for a file of its own.
const AGENTS: u8 = 8;

/// What the input borrows from: an agent that reads a file in dev.
struct Facts {
    tenant: TenantId,
    workspace: WorkspaceId,
    environment: EnvironmentId,
    principal: PrincipalId,
    roles: BTreeSet<Role>,
    chain: Vec<Actor>,
    tool: ToolId,
    labels: BTreeSet<String>,
    risk: Risk,
    params: RawJson,
    claims: RawJson,
}

impl Facts {
    fn new(number: u8) -> anyhow::Result<Self> {
        let principal = PrincipalId::new(format!("p_01jd6vq3c4wz8m5k7n9r2t6xy{number}"))?;
        let user = Actor { id: PrincipalId::new("u_1")?, kind: PrincipalKind::User };
        let agent = Actor { id: principal.clone(), kind: PrincipalKind::Agent };
        let labels = BTreeSet::from(["read".to_owned()]);
        Ok(Self {
            tenant: TenantId::new("acme")?,
            workspace: WorkspaceId::new("ops")?,
            environment: EnvironmentId::new("dev")?,
            principal,
            roles: [Role::Agent].into(),
            chain: vec![user, agent],
            tool: ToolId::new("core.fs_read")?,
            risk: Risk::assess(&labels, "dev", &BTreeSet::new()),
            labels,
            params: RawJson::parse(&format!(r#"{{"path":"/srv/reports/orders-{number}.txt"}}"#))?,
            claims: RawJson::parse(r#"{"target":"open orders","data_types":[]}"#)?,
        })
    }

    /// The input of one moment: the time is another in every real one.
    fn input(&self, at: i64) -> DecisionInput<'_> {
        DecisionInput {
            phase: Phase::Submit,
            tenant: &self.tenant,
            workspace: &self.workspace,
            environment: &self.environment,
            principal: InputPrincipal {
                id: &self.principal,
                kind: PrincipalKind::Agent,
                roles: &self.roles,
            },
            actor_chain: &self.chain,
            tool: InputTool { id: &self.tool, labels: &self.labels, digest: Digest::of(b"tool") },
            params: &self.params,
            claims: &self.claims,
            risk: &self.risk,
            budget: InputBudget { remaining_micro_usd: None, estimate_micro_usd: MicroUsd::ZERO },
            approval: None,
            operational: InputOperational::default(),
            run: None,
            now: InputTime::from(Timestamp(at)),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A decision point with the baseline in force, and the bundle.
fn desk(tenant: &TenantId) -> anyhow::Result<(PolicyPoint, Arc<Bundle>)> {
    let (signer, _) = P256Signer::generate("bench")?;
    let bytes = baseline()?.pack(&signer)?;
    let bundle = Arc::new(open(&bytes, &TrustedKeys::of(&signer))?);
    let control = ControlKey::new(&signer.public_key())?;
    let point = PolicyPoint::new(&Config::default(), control, Arc::new(now));
    let confirmation = Confirmation::signed(tenant, 1, bundle.digest, now(), &signer)?;
    point.install(tenant, 1, Arc::clone(&bundle), Some(&confirmation))?;
    Ok((point, bundle))
}

/// Microseconds of one batch, for each of its rounds.
fn batch(mut job: impl FnMut(i64)) -> f64 {
    let started = Instant::now();
    (0..BATCH).for_each(|round| job(round.into()));
    stats::micros(started.elapsed()) / f64::from(BATCH)
}

/// Microseconds of a decision and of a bare evaluation on this thread.
fn measure(point: &PolicyPoint, bundle: &Bundle, agents: &[Facts]) -> anyhow::Result<[f64; 2]> {
    let facts = agents.first().context("no agents")?;
    let mut asked = agents.iter().cycle();
    let mut decide = |at| asked.next().map(|facts| point.decide(&facts.input(at)));
    let mut bare = BareMachine::new(bundle, &facts.input(0))?;
    let matched = bare_eval(&mut bare).map_err(|error| anyhow!("{error}"))?;
    ensure!(matched == 1, "{matched} rules match where one should");
    let decision = point.decide(&facts.input(0));
    ensure!(decision.effect == Effect::Allow, "the decision is {:?}", decision.effect);
    let [mut whole, mut floor] = [Vec::new(), Vec::new()];
    for _ in 0..BATCHES {
        whole.push(batch(|at| drop(black_box(decide(at)))));
        floor.push(batch(|_| drop(black_box(bare_eval(&mut bare)))));
    }
    Ok([stats::median(whole), stats::median(floor)])
}

/// The medians over `threads` threads at once.
fn on_threads(threads: usize) -> anyhow::Result<[f64; 2]> {
    let agents: Vec<Facts> = (0..AGENTS).map(Facts::new).collect::<Result<_, _>>()?;
    let (point, bundle) = desk(&TenantId::new("acme")?)?;
    let each = thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| measure(&point, &bundle, &agents))).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let whole = stats::median(each.iter().map(|[whole, _]| *whole));
    Ok([whole, stats::median(each.iter().map(|[_, floor]| *floor))])
}

pub(crate) fn run() -> anyhow::Result<Report> {
    let mut report = Report::new("policy");
    let title = "baseline policy, reads by eight agents in dev (microseconds a decision)";
    let mut table = Table::new(title, &["threads", "decide", "bare", "decide/bare"]);
    let one = on_threads(1)?;
    for (threads, [whole, floor]) in [("1", one), ("2", on_threads(2)?)] {
        table.row([threads.into(), whole.into(), floor.into(), (whole / floor).into()]);
    }
    report.table(table);
    let [whole, floor] = one;
    report.at_most("decide / bare, one thread", whole / floor, 1.3);
    report.note(
        "Bare is the compiled policy run on an input that is already a value. A decision besides \
         writes and digests the input, makes it a value, looks whether the policy is fresh, and \
         combines what matched.",
    );
    Ok(report)
}
