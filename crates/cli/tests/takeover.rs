//! Two servers on one database: one writes, the other stands by and takes over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Client, Error};
use kernel::receipt::parse_receipt_id;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest};
use proto::identity::principal::Kind;
use proto::ledger::VerifyLedgerRequest;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use testkit::Cluster;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::common::postgres::migrated;
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, PATIENCE, Server, WORKSPACE, action, allow_all, granting};
use crate::kill::tree::Tree;

const CLIENTS: usize = 6;
/// What must be acknowledged before a server dies.
const ACKNOWLEDGED: usize = 40;

/// What clients asked for, each under its own place as Idempotency-Key, and what they were told.
#[derive(Default)]
struct Asked(Mutex<Vec<Option<Action>>>);

struct World {
    files: TempDir,
    key: String,
    asked: Arc<Asked>,
}

impl World {
    async fn submit(&self, client: &Client, n: usize) -> bool {
        submit(client, &self.asked, &self.files.path().join(n.to_string()), n).await
    }

    /// Clients that write files until the server is gone. Returns once enough was acknowledged.
    async fn load(&self, server: &Server) -> JoinSet<()> {
        let acknowledged = self.acknowledged();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client::new(&server.url, &self.key).unwrap();
            let (asked, files) = (self.asked.clone(), self.files.path().to_owned());
            clients.spawn(async move {
                loop {
                    let n = {
                        let mut asked = asked.0.lock().unwrap();
                        asked.push(None);
                        asked.len() - 1
                    };
                    if !submit(&client, &asked, &files.join(n.to_string()), n).await {
                        return;
                    }
                }
            });
        }
        let until = Instant::now() + PATIENCE;
        while self.acknowledged() < acknowledged + ACKNOWLEDGED {
            assert!(Instant::now() < until, "the load does not move");
            sleep(LOOK_EVERY).await;
        }
        clients
    }

    fn acknowledged(&self) -> usize {
        self.asked.0.lock().unwrap().iter().flatten().count()
    }

    /// Nothing acknowledged is lost, what was not is answered now, and the log has neither fork
    /// nor gap.
    async fn check(&self, server: &Server, tree: &mut Tree) {
        let client = Client::new(&server.url, &self.key).unwrap();
        let asked = self.asked.0.lock().unwrap().clone();
        for (n, told) in asked.iter().enumerate() {
            if told.is_none() {
                assert!(self.submit(&client, n).await, "{n} is not answered");
            }
        }
        tree.grow(&server.owner).await;
        let asked = self.asked.0.lock().unwrap().clone();
        for (n, told) in asked.into_iter().enumerate() {
            let told = told.unwrap();
            let request = GetActionRequest { action_id: told.action_id.clone() };
            let now = client.get_action(&request).await.unwrap();
            assert_eq!((now.state(), &now.receipts), (told.state(), &told.receipts), "{n}");
            assert_eq!(now.state(), State::Executed, "{now:?}");
            let (_, last) = parse_receipt_id(told.receipts.last().unwrap()).unwrap();
            assert!(tree.check(&told.checkpoint) > last);
            let content = std::fs::read_to_string(self.files.path().join(n.to_string())).unwrap();
            assert_eq!(content, format!("content of {n}"));
        }
        let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
        let verified = server.owner.verify_ledger(&request).await.unwrap();
        assert!(verified.valid, "{:?}", verified.errors);
    }
}

/// Submits under the key `n` until it is answered. False where the server is gone, or is not the
/// one that does the work.
async fn submit(client: &Client, asked: &Asked, path: &std::path::Path, n: usize) -> bool {
    let params = json!({"path": path, "content": format!("content of {n}")});
    let mut request = action("core.fs_write", &params);
    request.wait_ms = Some(30_000);
    let until = Instant::now() + PATIENCE;
    loop {
        match client.submit_action(&request, Some(&n.to_string())).await {
            Ok(answer) if answer.state() == State::Executed => {
                let before = asked.0.lock().unwrap()[n].replace(answer.clone());
                assert!(before.is_none_or(|before| before.action_id == answer.action_id));
                return true;
            }
            // An attempt of the server that is gone: it is repeated once its lease is over.
            Ok(answer) => assert!(Instant::now() < until, "{answer:?}"),
            Err(Error::Transport(_) | Error::Refused { status: 503, .. }) => return false,
            Err(error) => panic!("{n}: {error}"),
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn stands_by(server: &Server) {
    let wire = Wire::new(&server.url);
    wire.ask("GET", "/healthz").send().await.good();
    for (method, path) in [("GET", "/readyz"), ("GET", "/v1/actions"), ("POST", "/v1/actions")] {
        let reply = wire.ask(method, path).send().await;
        let error = reply.error();
        assert_eq!((reply.status, &error["code"]), (503, &"standby".into()), "{path}");
        assert_eq!(error["retryable"], true, "{error}");
        assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_who_wakes_up_too_late_is_fenced() {
    let database = migrated(Cluster::shared());
    let files = tempfile::tempdir().unwrap();
    let yaml = granting(files.path());
    let mut first = Server::start_on(&database, &yaml);
    first.publish(&allow_all()).await;
    let key = first.key(Kind::Agent, &["agent"], "dev").await;
    let mut second = first.start_beside(&yaml);
    stands_by(&second).await;

    let world = World { files, key, asked: Arc::default() };
    let mut tree = Tree::default();
    let load = world.load(&first).await;
    first.kill();
    load.join_all().await;
    second.ready().await;
    world.check(&second, &mut tree).await;

    // The first is back, and finds its place taken.
    first.restart();
    stands_by(&first).await;
    let load = world.load(&second).await;
    second.signal(Signal::STOP);
    first.ready().await;
    world.check(&first, &mut tree).await;
    second.signal(Signal::CONT);
    assert_eq!(second.ends().code(), Some(1), "a server without its place ends");
    assert!(second.log().contains("another server has taken over"));
    load.join_all().await;
    world.check(&first, &mut tree).await;

    // Whoever stops in order is followed at once.
    let third = first.start_beside(&yaml);
    stands_by(&third).await;
    assert!(first.terminate().success());
    let let_go = Instant::now();
    third.ready().await;
    assert!(let_go.elapsed() < Duration::from_secs(60));
    world.check(&third, &mut tree).await;
}
