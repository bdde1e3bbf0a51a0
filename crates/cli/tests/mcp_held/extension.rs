//! The official suite's scenarios for the tasks extension, as far as they are about tasks at all
//! and not about the tools of one server: here what is held for people is a task.

use std::collections::BTreeSet;
use std::time::Duration;

use client::Client;
use mcpkit::Revisions;
use mcpkit::everything::Everything;
use proto::approvals::approval::State;
use proto::approvals::{Choice, DecideApprovalRequest, ListApprovalsRequest};
use proto::identity::principal::Kind;
use serde_json::json;

use crate::common::{Server, rego};
use crate::conformance::suite::{self, Status};
use crate::mcp::door::Door;
use crate::mcp::gateway::{Gateway, over_http, section};

/// How long people take.
const THOUGHT: Duration = Duration::from_secs(1);
const SCENARIOS: [&str; 10] = [
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-status-notifications",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
];

/// What fails, and why. All but the last come of one thing: the gateway declares no tasks to its
/// upstreams, so the jobs of the fixture that run as its own tasks alone are errors, and no
/// upstream asks anything in the middle of one.
const EXPECTED: [&str; 7] = [
    "tasks-dispatch-and-envelope tasks-server-directed-creation-no-hint",
    "tasks-lifecycle sep-2663-tool-error-uses-completed-status",
    "tasks-mrtr-composition sep-2663-mrtr-synchronous-before-task-creation",
    "tasks-mrtr-input sep-2663-tasks-get-status-input-required",
    "tasks-mrtr-input tasks-mrtr-partial-fulfillment",
    "tasks-mrtr-input tasks-mrtr-tasks-update-resumes",
    // A client without the extension is told in words that its call is held: no error.
    "tasks-required-task-error sep-2663-server-returns-missing-capability-when-required",
];

/// Says yes to everything, a while after it was asked for.
async fn approve_all(approver: Client) {
    loop {
        let request = ListApprovalsRequest { state: State::Requested.into(), ..Default::default() };
        let waiting = approver.list_approvals(&request).await.unwrap().approvals;
        tokio::time::sleep(THOUGHT).await;
        for approval in waiting {
            let request = DecideApprovalRequest {
                approval_id: approval.approval_id,
                decision: Choice::Approve.into(),
                plan_digest: approval.plan_digest,
                ..Default::default()
            };
            // It may have been withdrawn meanwhile.
            let _decided = approver.decide_approval(&request, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_tasks_as_the_extension_has_them() {
    let everything = Everything::new(Revisions::Both).http().await;
    let door = Door::new().await;
    let settings = json!({"allowed_hosts": [door.authority()]});
    let server = Server::start(&section(&[over_http("everything", &everything)], &settings));
    let rules = r#"
held := {"slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input"}
name := trim_prefix(input.tool.id, "mcp.everything.")
decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-JOB", "reason": "job",
    "obligations": {"approval": {"quorum": 1}}} if name in held
decisions contains {"effect": "ALLOW", "rule": "R-REST", "reason": "rest"} if not name in held
"#;
    server.publish(&rego(rules)).await;
    let key = server.key(Kind::Agent, &["agent"], "dev").await;
    door.leads_to(&server.url, &key);
    let approver = server.principal(Kind::User, &["approver"]).await;
    let approving = tokio::spawn(approve_all(approver));
    let gateway = Gateway { server, key };
    gateway.raw().lists("slow_compute").await;
    let (mut failed, mut said) = (BTreeSet::new(), Vec::new());
    for scenario in SCENARIOS {
        let checks = suite::scenario_of(&door.url(), scenario).await;
        let bad = checks.with(Status::Failed);
        let unexpected = bad.iter().filter(|name| !EXPECTED.contains(&name.as_str()));
        said.extend(unexpected.map(|name| checks.explain(name)));
        failed.extend(bad);
    }
    approving.abort();
    assert!(said.is_empty(), "{:#}", json!(said));
    let expected: BTreeSet<String> = EXPECTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(failed, expected, "what is expected to fail passes");
}
