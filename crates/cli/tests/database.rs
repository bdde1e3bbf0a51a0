//! A server on PostgreSQL, `tally migrate`, and that nobody is shown a password.

use proto::actions::GetActionRequest;
use proto::actions::action::State;
use proto::approvals::{Choice, DecideApprovalRequest, ListApprovalsRequest};
use proto::identity::principal::Kind;
use serde_json::json;
use testkit::Cluster;

use crate::common::postgres::migrated;
use crate::common::{
    Server, action, assert_code, command, granting, json as document, reaches, rego, tally, text,
};

const HELD: &str = r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R", "reason": "r"}
if true"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_submitted_approved_executed_and_verified() {
    let database = migrated(Cluster::shared());
    let files = tempfile::tempdir().unwrap();
    let mut server = Server::start_on(&database, &granting(files.path()));
    server.publish(&rego(HELD)).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let approver = server.principal(Kind::User, &["approver"]).await;
    let path = files.path().join("report");
    let request = action("core.fs_write", &json!({"path": path, "content": "42"}));
    let held = agent.submit_action(&request, Some("one")).await.unwrap();
    assert_eq!(held.state(), State::AwaitingApproval);
    let open = approver.list_approvals(&ListApprovalsRequest::default()).await.unwrap().approvals;
    let approve = DecideApprovalRequest {
        approval_id: open[0].approval_id.clone(),
        decision: Choice::Approve.into(),
        plan_digest: open[0].plan_digest.clone(),
        ..Default::default()
    };
    approver.decide_approval(&approve, None).await.unwrap();
    let done = reaches(&agent, &held.action_id, State::Executed).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
    // A NUL in an id is a thing that does not exist, not a fault.
    let absent = GetActionRequest { action_id: "act_\0".to_owned() };
    assert!(matches!(
        agent.get_action(&absent).await,
        Err(client::Error::Refused { status: 404 | 400, .. })
    ));

    assert!(server.terminate().success());
    server.offline("verify");
    server.offline("rebuild");
    server.offline("verify");
    server.restart();
    let request = GetActionRequest { action_id: done.action_id.clone() };
    assert_eq!(agent.get_action(&request).await.unwrap().receipts, done.receipts);
    // Not while a server writes.
    let ledger = command(&["ledger", "verify", "--host", "tally.test", "--data"])
        .arg(&server.data)
        .env("TALLY_DATABASE", database.server_url())
        .output()
        .unwrap();
    assert_code(&ledger, 2);
}

#[test]
fn a_database_is_migrated_first_and_drift_is_refused() {
    let database = Cluster::shared().database();
    let (owner, login) = (database.owner_url(), database.server_url());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = || {
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--data"]);
        serve.arg(&data).env("TALLY_DATABASE", &login).output().unwrap()
    };
    let check = || tally(&["migrate", "--check", "--json", "--database", &owner]);
    let missing = check();
    assert_code(&missing, 64);
    assert_eq!(document(&missing)["missing"].as_array().unwrap().len(), 2);
    assert_code(&tally(&["migrate", "--database", &owner]), 0);
    database.grant();
    let checked = check();
    assert_code(&checked, 0);
    assert_eq!(document(&checked)["missing"], json!([]));
    assert_eq!(text(&tally(&["migrate", "--database", &owner])), "nothing is missing\n");

    let refused = |change: &str, back: &str, named: &str| {
        database.sql(&format!("SET search_path = tally_runtime; {change}"));
        for output in [check(), tally(&["migrate", "--database", &owner]), serve()] {
            assert_code(&output, 64);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(named), "{change}: {said}");
        }
        database.sql(&format!("SET search_path = tally_runtime; {back}"));
        assert_code(&check(), 0);
    };
    refused(
        "ALTER TABLE receipt ADD COLUMN note TEXT",
        "ALTER TABLE receipt DROP COLUMN note",
        "`receipt` was changed",
    );
    refused(
        "GRANT UPDATE ON receipt TO tally_writer",
        "REVOKE UPDATE ON receipt FROM tally_writer",
        "`receipt` was changed",
    );
    refused(
        "ALTER TABLE entity NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE entity FORCE ROW LEVEL SECURITY",
        "`entity` was changed",
    );
    refused("CREATE TABLE mine (id BIGINT)", "DROP TABLE mine", "`mine` is not of tally");
    refused(
        "UPDATE migration SET checksum = 'x' || checksum WHERE number = 1",
        "UPDATE migration SET checksum = substr(checksum, 2) WHERE number = 1",
        "migration 1",
    );
    refused(
        "INSERT INTO migration VALUES (99, 'of tomorrow', '', '{}')",
        "DELETE FROM migration WHERE number = 99",
        "migration 99 (of tomorrow) is of a later version",
    );
    refused(
        "UPDATE migration SET number = 7",
        "UPDATE migration SET number = 1",
        "migration 1 is not in it, but 7 is",
    );
}

#[test]
fn serve_says_to_migrate_and_shows_no_password() {
    let database = Cluster::shared().database();
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("tally.yaml"));
    let url = database.owner_url().replace("postgres@", "postgres:geheim@");
    std::fs::write(&config, format!("database: {url:?}\n")).unwrap();
    let serve = |url: Option<&str>| {
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--data"]);
        serve.arg(&data).env("TALLY_LOG", "trace").arg("--config").arg(&config);
        if let Some(url) = url {
            serve.args(["--database", url]);
        }
        let output = serve.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("geheim"), "{said}");
        assert_code(&output, 64);
        said
    };
    database.sql("CREATE TABLE IF NOT EXISTS public.nothing ()");
    assert!(serve(None).contains("run `tally migrate`"));
    assert!(serve(Some("postgres://tally:geheim@db.example/x")).contains("sslmode"));
    serve(Some("mysql://tally:geheim@127.0.0.1/x"));
    serve(Some("postgres://tally:gehe#im?geheim@127.0.0.1:port/x"));
}
