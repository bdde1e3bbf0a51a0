//! The load: clients that submit and approve, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Error};
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::{Choice, DecideApprovalRequest, ListApprovalsRequest};
use proto::identity::CreatePrincipalRequest;
use proto::identity::principal::Kind;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Random, World};
use crate::common::action;

/// Clients of the load, besides the approver.
const CLIENTS: usize = 8;

/// What is asked for. A PUT and the write may be repeated, a POST may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Write,
    Put,
    Post,
    HeldPut,
    HeldPost,
    PoorPost,
}

impl What {
    const ALL: [Self; 6] =
        [Self::Write, Self::Put, Self::Post, Self::HeldPut, Self::HeldPost, Self::PoorPost];

    pub(crate) fn idempotent(self) -> bool {
        matches!(self, Self::Write | Self::Put | Self::HeldPut)
    }

    pub(crate) fn held(self) -> bool {
        matches!(self, Self::HeldPut | Self::HeldPost)
    }
}

/// One request of a client. Its Idempotency-Key is its place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) what: What,
    /// What the client was told last.
    pub(crate) answer: Option<Action>,
}

/// Where the effect of an op shows: a file, or a path of the target.
pub(crate) fn place(world: &World, n: usize, what: What) -> String {
    match what {
        What::Write => world.files.path().join(n.to_string()).to_str().unwrap().to_owned(),
        _ if what.held() => format!("/held/{n}"),
        _ => format!("/{n}"),
    }
}

fn request(world: &World, n: usize, what: What) -> SubmitActionRequest {
    let place = place(world, n, what);
    match what {
        What::Write => {
            action("core.fs_write", &json!({"path": place, "content": format!("content of {n}")}))
        }
        _ if what.idempotent() => world.target.call("PUT", &place),
        _ => world.target.call("POST", &place),
    }
}

/// Submits an op. False where the server did not answer.
async fn submit(world: &World, n: usize, what: What, wait_ms: u32) -> bool {
    let client = if what == What::PoorPost { &world.poor } else { &world.rich };
    let request = SubmitActionRequest { wait_ms: Some(wait_ms), ..request(world, n, what) };
    match client.submit_action(&request, Some(&n.to_string())).await {
        Ok(answer) => {
            let mut ops = world.ops.lock().unwrap();
            if let Some(before) = &ops[n].answer {
                assert_eq!(before.action_id, answer.action_id, "two actions for {n} {what:?}");
            }
            ops[n].answer = Some(answer);
            true
        }
        Err(error) if is_down(&error) => false,
        Err(error) => panic!("{n} {what:?}: {error}"),
    }
}

/// Whether the server does not answer, or says that it cannot at the moment. What was asked may
/// have happened all the same.
fn is_down(error: &Error) -> bool {
    match error {
        Error::Transport(_) => true,
        Error::Refused { status, .. } => *status == 503,
        _ => false,
    }
}

/// Load that runs.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// No more requests; those under way go on.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns when every client has an answer or knows that there is none.
    pub(crate) async fn end(self) {
        self.tasks.join_all().await;
    }
}

/// Starts the clients.
pub(crate) fn start(world: &Arc<World>, random: &mut Random) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let random = Random(random.below(u64::MAX));
        tasks.spawn(client(world.clone(), random, stop.clone()));
    }
    let random = Random(random.below(u64::MAX));
    tasks.spawn(approver(world.clone(), random, stop.clone()));
    tasks.spawn(registrar(world.clone(), stop.clone()));
    Load { stop, tasks }
}

async fn client(world: Arc<World>, mut random: Random, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let what = What::ALL[usize::try_from(random.below(6)).unwrap()];
        let n = {
            let mut ops = world.ops.lock().unwrap();
            ops.push(Op { what, answer: None });
            ops.len() - 1
        };
        // Whoever does not wait learns of a start; whoever waits, of the end.
        let patient = !what.held() && random.below(4) != 0;
        if !submit(&world, n, what, if patient { 10_000 } else { 0 }).await {
            return;
        }
    }
}

async fn approver(world: Arc<World>, mut random: Random, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match approve(&world.approver, || random.below(2) == 0).await {
            Ok(_) => tokio::time::sleep(random.pause(20)).await,
            Err(error) if is_down(&error) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes to the control log: makes principals, one after the other.
async fn registrar(world: Arc<World>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let n = {
            let mut principals = world.principals.lock().unwrap();
            principals.push(None);
            principals.len() - 1
        };
        if !register(&world, n).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes principal `n`, under a key of its own. False where the server did not answer.
async fn register(world: &World, n: usize) -> bool {
    let request = CreatePrincipalRequest {
        kind: Kind::Service.into(),
        name: format!("principal {n}"),
        roles: vec!["viewer".to_owned()],
        account_id: String::new(),
    };
    match world.owner.create_principal(&request, Some(&n.to_string())).await {
        Ok(made) => {
            let mut principals = world.principals.lock().unwrap();
            let before = principals[n].replace(made.principal_id.clone());
            assert!(before.is_none_or(|before| before == made.principal_id), "two for {n}");
            true
        }
        Err(error) if is_down(&error) => false,
        Err(error) => panic!("principal {n}: {error}"),
    }
}

/// Approves those of the open approvals that `chosen` says. Returns how many were open.
async fn approve(client: &Client, mut chosen: impl FnMut() -> bool) -> Result<usize, Error> {
    let state = ApprovalState::Requested.into();
    let open = ListApprovalsRequest { state, page_size: 50, ..Default::default() };
    let open = client.list_approvals(&open).await?.approvals;
    for approval in &open {
        if chosen() {
            let approve = DecideApprovalRequest {
                approval_id: approval.approval_id.clone(),
                decision: Choice::Approve.into(),
                plan_digest: approval.plan_digest.clone(),
                ..Default::default()
            };
            client.decide_approval(&approve, None).await?;
        }
    }
    Ok(open.len())
}

/// Approves everything.
pub(crate) async fn approve_all(world: &World) {
    while approve(&world.approver, || true).await.unwrap() > 0 {}
}

/// Submits again, under the same key, what has no answer or was pending when it was answered.
pub(crate) async fn answer_all(world: &World) {
    let open: Vec<_> = {
        let ops = world.ops.lock().unwrap();
        let open = |op: &Op| op.answer.as_ref().is_none_or(|a| a.state() == State::Executing);
        ops.iter().enumerate().filter(|(_, op)| open(op)).map(|(n, op)| (n, op.what)).collect()
    };
    // Those that were answered are asked for again, too: the answer is the same.
    let principals = world.principals.lock().unwrap().len();
    for n in principals.saturating_sub(3)..principals {
        assert!(register(world, n).await, "no answer after the restart");
    }
    for (n, what) in open {
        let wait_ms = if what.held() { 0 } else { 30_000 };
        assert!(submit(world, n, what, wait_ms).await, "no answer after the restart");
    }
}
