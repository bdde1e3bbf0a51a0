//! Budgets of one workspace that go to another.

use std::sync::Arc;

use client::Client;
use kernel::ids::{AccountId, PrincipalId, TenantId, TransferId, WorkspaceId};
use kernel::plan;
use kernel::receipt::LogId;
use kernel::transfer::Terms;
use kernel::units::{Unit, Units as Counted};
use kernel::values::{MicroUsd, Timestamp};
use ledger::keys::FileKeys;
use ledger::sqlite::Sqlite;
use ledger::{Batch, Ledger};
use proto::accounts::{
    Account, CreateAccountRequest, FundAccountRequest, GetAccountRequest, GetTransferRequest,
    GiveBackAccountRequest, Transfer, TransferAccountRequest,
};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest, CreateWorkspaceRequest};
use proto::types::Units;
use tokio::time::{Instant, sleep};

use crate::common::{LOOK_EVERY, PATIENCE, Server, WORKSPACE, assert_code, refusal, text};

const DESK: &str = "desk";

/// A server with a second workspace, and somebody who manages budgets there.
async fn start() -> (Server, Client) {
    let server = Server::start("");
    let request = CreateWorkspaceRequest {
        tenant: "main".to_owned(),
        workspace: DESK.to_owned(),
        environments: vec!["dev".to_owned()],
    };
    server.owner.create_workspace(&request, None).await.unwrap();
    let request = CreatePrincipalRequest {
        kind: Kind::User.into(),
        name: "who manages the desk".to_owned(),
        roles: vec!["admin".to_owned()],
        account_id: String::new(),
    };
    let principal_id = server.owner.create_principal(&request, None).await.unwrap().principal_id;
    let request = CreateKeyRequest {
        principal_id,
        workspace: DESK.to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    let key = server.owner.create_key(&request, None).await.unwrap().key;
    let desk = Client::new(&server.url, &key).unwrap();
    open(&server.owner, "company").await;
    let request = FundAccountRequest {
        account_id: "company".to_owned(),
        amount_micro_usd: 1_000,
        units: Some(Units { calls: 100, ..Units::default() }),
    };
    server.owner.fund_account(&request, None).await.unwrap();
    (server, desk)
}

async fn open(client: &Client, id: &str) {
    let request = CreateAccountRequest { account_id: id.to_owned(), ..Default::default() };
    client.create_account(&request, None).await.unwrap();
}

async fn account(client: &Client, id: &str) -> Account {
    client.get_account(&GetAccountRequest { account_id: id.to_owned() }).await.unwrap()
}

async fn left(client: &Client, id: &str) -> (i64, u64) {
    let account = account(client, id).await;
    (account.available_micro_usd, account.units.iter().map(|unit| unit.available).sum())
}

async fn transfer(client: &Client, id: &str) -> Transfer {
    let request = GetTransferRequest { transfer_id: id.to_owned() };
    client.get_transfer(&request).await.unwrap()
}

fn to_team(amount: i64, calls: u64) -> TransferAccountRequest {
    TransferAccountRequest {
        account_id: "company".to_owned(),
        to_workspace: DESK.to_owned(),
        to_account_id: "team".to_owned(),
        amount_micro_usd: amount,
        units: Some(Units { calls, ..Units::default() }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_funds_another_workspace_once() {
    let (server, desk) = start().await;
    let absent = server.owner.transfer_account(&to_team(300, 10), None).await;
    assert_eq!(refusal(absent), (404, "not_found".to_owned()));
    open(&desk, "team").await;
    let sent = server.owner.transfer_account(&to_team(300, 10), Some("once")).await.unwrap();
    assert_eq!(sent.state, "arrived", "{sent:?}");
    let again = server.owner.transfer_account(&to_team(300, 10), Some("once")).await.unwrap();
    assert_eq!(again.transfer_id, sent.transfer_id);
    assert_eq!(left(&server.owner, "company").await, (700, 90));
    assert_eq!(left(&desk, "team").await, (300, 10));
    let there = transfer(&desk, &sent.transfer_id).await;
    assert_eq!((there.state.as_str(), there.amount_micro_usd), ("received", 300));
    assert_eq!(account(&server.owner, "company").await.allotted_micro_usd, 300);
    // More than there is, without the units that are bounded, and to nowhere.
    let much = server.owner.transfer_account(&to_team(701, 1), None).await;
    assert_eq!(refusal(much), (402, "budget_exceeded".to_owned()));
    let unbounded = server.owner.transfer_account(&to_team(1, 0), None).await;
    assert_eq!(refusal(unbounded).1, "unit_not_allotted");
    let nowhere = TransferAccountRequest { to_workspace: "nowhere".to_owned(), ..to_team(1, 1) };
    assert_eq!(refusal(server.owner.transfer_account(&nowhere, None).await).0, 404);
    // What is closed there takes nothing: it comes back.
    let close = GiveBackAccountRequest { account_id: "team".to_owned() };
    desk.give_back_account(&close, None).await.unwrap();
    let back = server.owner.transfer_account(&to_team(200, 5), None).await.unwrap();
    assert_eq!(back.state, "returned", "{back:?}");
    assert_eq!(back.error.as_ref().unwrap().code, "account_closed");
    assert_eq!(left(&server.owner, "company").await, (700, 90));
    assert_eq!(transfer(&desk, &back.transfer_id).await.state, "refused");
    let key = server.owner_key();
    let args = ["account", "transfer", "company", "--to-workspace", DESK, "--to-account", "team"];
    let shown =
        server.tally(&key, &[&args[..], &["--amount-micro-usd", "1", "--calls", "1"]].concat());
    assert!(text(&shown).contains("returned"), "{}", text(&shown));
    let shown = server.tally(&key, &["account", "show-transfer", &sent.transfer_id]);
    assert_code(&shown, 0);
    assert!(text(&shown).contains("arrived"), "{}", text(&shown));
}

/// What has left when the server dies arrives when it is there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_a_crash_cut_off_is_completed() {
    let (mut server, desk) = start().await;
    open(&desk, "team").await;
    open(&desk, "closed").await;
    let close = GiveBackAccountRequest { account_id: "closed".to_owned() };
    desk.give_back_account(&close, None).await.unwrap();
    server.kill();
    // The first of its commits, as the server makes it.
    for (id, receiver) in [("trf_1", "team"), ("trf_2", "closed")] {
        leave(&server, id, receiver).await;
    }
    server.restart();
    let end = Instant::now() + PATIENCE;
    loop {
        let one = transfer(&server.owner, "trf_1").await.state;
        let two = transfer(&server.owner, "trf_2").await.state;
        if (one.as_str(), two.as_str()) == ("arrived", "returned") {
            break;
        }
        assert!(Instant::now() < end, "{one} {two}");
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(left(&server.owner, "company").await, (900, 95));
    assert_eq!(left(&desk, "team").await, (100, 5));
    assert!(server.terminate().success());
    server.offline("verify");
}

async fn leave(server: &Server, id: &str, receiver: &str) {
    let store = Arc::new(Sqlite::open(&server.data.join("runtime.sqlite")).unwrap());
    let keys = Arc::new(FileKeys::open(&server.data.join("keys")).unwrap());
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    let now = Timestamp(i64::try_from(since.as_micros()).unwrap());
    let ledger = Ledger::start(store, keys, Arc::new(move || now), "tally.test").unwrap();
    let workspace = |id: &str| WorkspaceId::new(id).unwrap();
    let terms = Terms {
        from: workspace(WORKSPACE),
        payer: AccountId::new("company").unwrap(),
        to: workspace(DESK),
        receiver: AccountId::new(receiver).unwrap(),
        amount: MicroUsd(100),
        units: Counted::of(Unit::Calls, 5),
        by: PrincipalId::new("u_1").unwrap(),
    };
    let id = TransferId::new(id).unwrap();
    let log = LogId::Workspace(TenantId::new("main").unwrap(), workspace(WORKSPACE));
    let batch = plan::transfer::send(&id, &terms.into()).unwrap();
    ledger.commit(Batch::new(log, batch)).await.unwrap();
}
