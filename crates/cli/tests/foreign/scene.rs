//! What real servers export, and the keys that attackers have.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use client::Client;
use kernel::tile;
use kernel::values::Digest;
use ledger::keys::{FileKeys, KeyProvider, NoteSigner, P256Signer, Purpose};
use proto::accounts::CreateAccountRequest;
use proto::identity::principal::Kind;
use proto::identity::trust_key::Purpose as TrustPurpose;
use proto::identity::{CreateTenantRequest, GetTenantKeysRequest};
use proto::runs::{RunState, StartRunRequest};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::bundle::Bundle;
use crate::common::target::Target;
use crate::common::{Server, action, allow_all, assert_code, text};
use crate::factory::{document, echo, named, released};
use crate::runs::{approve_step, reaches, with};

/// What to export for all of a log.
const WHOLE: [&str; 1] = ["--full-log"];

/// The log that all this is about.
pub(super) const ORIGIN: &str = "tally.test/main/main";
/// The log that says what its runs rest on.
const CONTROL_ORIGIN: &str = "tally.test/main/control";

/// The keys of a tenant, as whoever holds its key folder has them.
pub(super) struct Signers {
    /// The receipt keys of the log, in its order.
    pub(super) receipts: Vec<Arc<dyn P256Signer>>,
    pub(super) log: Arc<dyn NoteSigner>,
}

impl Signers {
    /// Those of the operator of a log that `bundle` is all of.
    fn of(dir: &Path, bundle: &Bundle) -> Self {
        let keys = FileKeys::open(dir).unwrap();
        let ranges = bundle.ranges();
        let ids = ranges.as_slice().iter().map(|range| range.key_id);
        let by_id = |id: Digest| keys.p256_by_id("main", Purpose::Receipt, &id).unwrap();
        Self { receipts: ids.map(by_id).collect(), log: keys.note("main", ORIGIN).unwrap() }
    }

    /// As many keys as a log with one rotation has, of whoever makes them.
    fn made(dir: &Path) -> Self {
        let keys = FileKeys::open(dir).unwrap();
        let first = keys.p256("main", Purpose::Receipt).unwrap();
        let second = keys.create_p256("main", Purpose::Receipt).unwrap();
        Self { receipts: vec![first, second], log: keys.note("main", ORIGIN).unwrap() }
    }

    /// The key that was replaced.
    pub(super) fn retired(&self) -> &dyn P256Signer {
        self.receipts.first().unwrap().as_ref()
    }

    /// The key that signs now.
    pub(super) fn current(&self) -> &dyn P256Signer {
        self.receipts.last().unwrap().as_ref()
    }
}

/// Everything that the cases are made of.
pub(super) struct Scene {
    /// A server, still running.
    pub(super) server: Server,
    /// The whole log early on.
    pub(super) early: Bundle,
    /// The whole log later: `early` and more.
    pub(super) late: Bundle,
    /// What belongs to one action of `late`.
    pub(super) selected: Bundle,
    /// What belongs to one run of `late`, in which people had a say.
    pub(super) run: Bundle,
    /// The same log from a copy of the data that was made early and has gone its own way since.
    pub(super) forked: Bundle,
    /// A bundle of another tenant of the same server.
    pub(super) stranger: Bundle,
    /// What the operator can sign with.
    pub(super) operator: Signers,
    /// What anybody can make: keys of their own for the same origin.
    pub(super) forger: Signers,
    /// The tenant's keys as the server publishes them.
    pub(super) published: Value,
    /// The receipt keys among them that are the log's, in its order.
    pub(super) pems: Vec<String>,
    /// The log's verifier key as the server publishes it.
    pub(super) log_key: String,
    /// The same two of the control log.
    pub(super) control_pems: Vec<String>,
    pub(super) control_key: String,
    _keys: TempDir,
}

/// Has the agent act, and returns the id of its last action.
async fn act(agent: &Client, times: u64) -> String {
    let mut last = String::new();
    for number in 0..times {
        let params = json!({"input": number, "filter": "."});
        let done = agent.submit_action(&action("core.json_transform", &params), None).await;
        let done = done.unwrap();
        assert_eq!(done.receipts.len(), 2);
        last = done.action_id;
    }
    last
}

/// A run of a released workflow, which calls a host and then waits for a person, who says yes.
async fn run(server: &Server, agent: &Client, target: &Target) -> String {
    let url = format!("http://127.0.0.1:{}/put", target.port());
    let call = json!({"method": "PUT", "url": url});
    let steps = [
        json!({"id": "first", "action": "core.http_call", "input": call}),
        with(echo("second", &json!("second")), json!({"approval": {"quorum": 1}})),
    ];
    let approver = server.principal(Kind::User, &["approver"]).await;
    released(server, &approver, &document("flagship", "1.0.0", &steps)).await;
    let request = StartRunRequest { wait_ms: None, ..named("flagship") };
    let run = agent.start_run(&request, Some("once")).await.unwrap();
    let run = reaches(agent, &run.run_id, RunState::WaitingApproval).await;
    approve_step(&approver, &run, "second").await;
    assert_eq!(target.arrivals("/put").len(), 1);
    reaches(agent, &run.run_id, RunState::Succeeded).await.run_id
}

/// A bundle that the program exports.
fn exported(server: &Server, key: &str, what: &[&str]) -> Bundle {
    let out = server.data.with_extension("tar");
    let export = [&["evidence", "export", "--out", out.to_str().unwrap()], what].concat();
    assert_code(&server.tally(key, &export), 0);
    let bundle = Bundle::read(&fs::read(&out).unwrap());
    assert!(bundle.size() <= u64::from(tile::TILE_WIDTH), "a small log, of one tile");
    bundle
}

/// A copy of a stopped server's data, started.
fn copy(data: &Path) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(data).arg(folder.path().join("data")).status();
    assert!(copied.unwrap().success());
    Server::start_in(folder, "")
}

/// A log's receipt keys and its own, as everybody may ask for them.
async fn published(server: &Server, origin: &str) -> (Vec<String>, String) {
    let request = GetTenantKeysRequest { tenant: "main".to_owned() };
    let keys = server.owner.get_tenant_keys(&request).await.unwrap().keys;
    let of_log = keys.iter().filter(|key| key.origin == origin);
    let receipt = of_log.clone().filter(|key| key.purpose() == TrustPurpose::Receipt);
    let log = of_log.clone().find(|key| !key.vkey.is_empty()).unwrap();
    (receipt.map(|key| key.public_key_pem.clone()).collect(), log.vkey.clone())
}

/// The log of a new tenant of the same server.
async fn stranger(server: &Server) -> Bundle {
    let request = CreateTenantRequest { tenant: "stranger".to_owned() };
    let made = server.owner.create_tenant(&request, None).await.unwrap();
    let key = made.owner.unwrap().key;
    let founder = Client::new(&server.url, &key).unwrap();
    let account = CreateAccountRequest {
        account_id: "till".to_owned(),
        name: "a till".to_owned(),
        ..Default::default()
    };
    founder.create_account(&account, None).await.unwrap();
    exported(server, &key, &WHOLE)
}

impl Scene {
    pub(super) async fn new() -> Self {
        let target = Target::start().await;
        let settings =
            format!("grants: {{http: [{}]}}\npolicy: {{decision_limit_ms: 5000}}", target.grant());
        let mut server = Server::start(&settings);
        server.publish(&allow_all()).await;
        let agent = server.key(Kind::Agent, &["agent"], "dev").await;
        let as_agent = |server: &Server| Client::new(&server.url, &agent).unwrap();
        act(&as_agent(&server), 4).await;
        assert_code(&server.tally(&server.owner_key(), &["tenant", "rotate", "main"]), 0);
        act(&as_agent(&server), 1).await;
        let early = exported(&server, &server.owner_key(), &WHOLE);
        server.terminate();
        let copy = copy(&server.data);
        act(&as_agent(&copy), 20).await;
        let forked = exported(&copy, &copy.owner_key(), &WHOLE);
        server.restart();
        let action = act(&as_agent(&server), 1).await;
        let run = run(&server, &as_agent(&server), &target).await;
        let late = exported(&server, &server.owner_key(), &WHOLE);
        let selected = exported(&server, &server.owner_key(), &["--action-id", &action]);
        let run = exported(&server, &server.owner_key(), &["--run", &run]);
        assert!(early.size() < late.size() && late.size() < forked.size());
        assert_eq!(early.receipts(), late.receipts()[..early.receipts().len()]);
        let stranger = stranger(&server).await;
        let keys = tempfile::tempdir().unwrap();
        let (pems, log_key) = published(&server, ORIGIN).await;
        let (control_pems, control_key) = published(&server, CONTROL_ORIGIN).await;
        let shown = server.tally(&server.owner_key(), &["tenant", "keys", "main", "--json"]);
        let published = serde_json::from_str(&text(&shown)).unwrap();
        let operator = Signers::of(&server.data.join("keys"), &late);
        let forger = Signers::made(keys.path());
        let sizes = [operator.receipts.len(), forger.receipts.len(), pems.len()];
        assert_eq!(sizes, [2; 3], "the log has one rotation");
        Self {
            server,
            early,
            late,
            selected,
            run,
            forked,
            stranger,
            operator,
            forger,
            published,
            pems,
            log_key,
            control_pems,
            control_key,
            _keys: keys,
        }
    }
}
