//! A ledger in a folder of its own, and the receipts of allowed actions for it: for each action a
//! permit, then its outcome, as the server commits them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use kernel::action::{Action, Outcome, Request, Status};
use kernel::decision::{Decision, Effect, Obligations, PolicyRef};
use kernel::ids::{
    ActionId, ApprovalId, EnvironmentId, PrincipalId, TenantId, ToolId, WorkspaceId,
};
use kernel::machine::{Kind, State};
use kernel::plan::{self, Revisions, Submission};
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::receipt::LogId;
use kernel::risk::Risk;
use kernel::values::{Digest, MicroUsd, Timestamp};
use ledger::keys::{FileKeys, KeyProvider};
use ledger::sqlite::Sqlite;
use ledger::store::Store;
use ledger::{Batch, Clock, Committed, Ledger};

use crate::stats::Times;

pub(crate) const HOST: &str = "bench.example";

/// A ledger and what acts in it.
#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) ledger: Ledger,
    pub(crate) log: LogId,
    next: Arc<AtomicU64>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl Workload {
    /// An empty ledger in `dir`.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        Self::on(dir, Arc::new(Sqlite::open(&dir.join("log.sqlite"))?))
    }

    /// An empty ledger on `store`, with its keys in `dir`.
    pub(crate) fn on(dir: &Path, store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let keys: Arc<dyn KeyProvider> = Arc::new(FileKeys::open(&dir.join("keys"))?);
        let clock: Clock = Arc::new(now);
        let ledger = Ledger::start(store, keys, clock, HOST)?;
        let log = LogId::Workspace(TenantId::new("acme")?, WorkspaceId::new("ops")?);
        Ok(Self { ledger, log, next: Arc::default() })
    }

    /// How long the last receipts are, on the average.
    pub(crate) fn mean_length(&self) -> anyhow::Result<usize> {
        let head = self.ledger.store().head(&self.log)?.context("an empty log")?;
        let from = head.frontier.size().saturating_sub(64);
        let rows = self.ledger.store().receipts(&self.log, from, 64)?;
        let bytes: usize = rows.iter().map(|row| row.envelope.len()).sum();
        Ok(bytes / rows.len().max(1))
    }

    /// Commits an action's permit, then its outcome; the time of each is added to `times`.
    pub(crate) async fn action(&self, times: &mut Times) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let submission = submission(number, self.ledger.epoch())?;
        let id = submission.id.clone();
        let permit = self.commit(plan::submit(submission, now()), times).await?;
        let Some(State::Action(action)) = permit.state(Kind::Action, id.as_str()) else {
            anyhow::bail!("a permit left no action behind");
        };
        self.commit(finish(action), times).await?;
        Ok(())
    }

    async fn commit(
        &self,
        commands: Vec<kernel::machine::Command>,
        times: &mut Times,
    ) -> anyhow::Result<Committed> {
        let started = Instant::now();
        let committed = self.ledger.commit(Batch::new(self.log.clone(), commands)).await?;
        times.push(started.elapsed());
        Ok(committed)
    }

    /// Commits from `tasks` tasks for as long as `goes_on` says, which is told the receipts so
    /// far each time. Returns how long each commit took.
    pub(crate) async fn run(
        &self,
        tasks: usize,
        goes_on: impl Fn(u64) -> bool + Clone + Send + 'static,
    ) -> anyhow::Result<Times> {
        let mut running = Vec::new();
        for _ in 0..tasks {
            let (own, goes_on) = (self.clone(), goes_on.clone());
            running.push(tokio::spawn(async move {
                let mut times = Times::default();
                while goes_on(own.next.load(Ordering::Relaxed) * 2) {
                    own.action(&mut times).await?;
                }
                anyhow::Ok(times)
            }));
        }
        let mut times = Times::default();
        for task in running {
            times.extend(task.await.context("a task")??);
        }
        Ok(times)
    }
}

/// An action that policy has allowed.
fn submission(number: u64, epoch: u64) -> anyhow::Result<Submission> {
    let digest = Digest::of(&number.to_be_bytes());
    let labels = ["read".to_owned()].into();
    let request = Request {
        tool: ToolId::new("core.fs_read")?,
        tool_digest: Digest::of(b"tool"),
        execution: None,
        step: None,
        within: None,
        max_attempts: None,
        reverses: None,
        routed_from: None,
        environment: EnvironmentId::new("dev")?,
        actors: ActorChain::direct(PrincipalId::new("p_7")?, PrincipalKind::Agent),
        action_digest: digest,
        plan_digest: digest,
        risk: Risk::assess(&labels, "dev", &[].into()),
        estimate: MicroUsd::ZERO,
        units: kernel::units::Units::NONE,
        account: None,
        idempotent: true,
        timeout_ms: 10_000,
    };
    let decision = Decision {
        effect: Effect::Allow,
        rules: vec!["R-READ-WORKSHOP".to_owned()],
        reasons: vec!["read_in_workshop".to_owned()],
        obligations: Obligations::default(),
        policy: PolicyRef { revision: 1, digest: Digest::of(b"policy") },
        input_digest: digest,
    };
    Ok(Submission {
        // In order of time, as the server's are.
        id: ActionId::new(format!("act_{number:026}"))?,
        request: request.into(),
        decision: decision.into(),
        approval: ApprovalId::new("apr_none")?,
        reserve: None,
        revisions: Revisions { policy: 1, principal: 1, epoch },
    })
}

fn finish(action: &Action) -> Vec<kernel::machine::Command> {
    let outcome = Outcome {
        status: Status::Executed,
        output: Some(action.request.plan_digest),
        output_bytes: 64,
        cost: MicroUsd::ZERO,
        units: kernel::units::Units::NONE,
        failure: None,
        is_error: false,
        isolation: None,
        attestation: None,
        prior: None,
        model: None,
    };
    plan::finish(action, action.attempts, outcome, None)
}
