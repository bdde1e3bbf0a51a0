//! What is kept: versions that never change, the word of two, what it is all for, and for whom.

use std::collections::BTreeSet;

use proto::identity::principal::Kind;
use proto::releases::{CreateReleaseRequest, PromoteReleaseRequest, ReleaseState};
use proto::usecases::{CreateUseCaseRequest, LinkUseCaseRequest, UseCaseAnswers};
use serde_json::json;

use super::{Plant, approve, document, echo, named, publish, start};
use crate::common::wire::Wire;
use crate::common::{assert_code, json as printed, refusal, text};

/// Models that are configured, and never called here.
const MODELS: &str = r#"models: {providers: [{name: one, form: openai,
  base_url: "http://127.0.0.1:9/v1", private: true,
  models: {m-1: {input: 1, output: 1, context: 1000, max_tokens: 100},
  m-2: {input: 1, output: 1, context: 1000, max_tokens: 100}}}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_stays_what_it_is() {
    let plant = Plant::new(MODELS).await;
    let pinned = |version: &str, model: &str| {
        let mut document = document("triage", version, &[echo("one", &json!(1))]);
        document["spec"]["modelPin"] = json!({"provider": "one", "model": model});
        document
    };
    let first = publish(&plant.builder, &pinned("1.0.0", "m-1")).await.unwrap();
    assert_eq!((first.latest_version.as_str(), first.revision), ("1.0.0", 1));
    // The same again is the same; under its version there is no other.
    let again = publish(&plant.builder, &pinned("1.0.0", "m-1")).await.unwrap();
    assert_eq!(again, first);
    for (version, model, code, says) in [
        ("1.0.0", "m-2", "plan_version_invalid", "the model pin changed"),
        ("0.9.0", "m-1", "plan_version_invalid", "a higher version than 1.0.0"),
        ("1.1.0", "m-3", "model_unknown", "`one/m-3` is no configured model"),
    ] {
        let refused = publish(&plant.builder, &pinned(version, model)).await;
        let Err(client::Error::Refused { status, error }) = refused else { panic!("{version}") };
        assert_eq!((status, error.code.as_str()), (400, code), "{}", error.message);
        assert!(error.message.starts_with("line 1: "), "{}", error.message);
        assert!(error.message.contains(says), "{}", error.message);
    }
    let second = publish(&plant.builder, &pinned("1.1.0", "m-2")).await.unwrap();
    let versions: Vec<&str> = second.versions.iter().map(|kept| kept.version.as_str()).collect();
    assert_eq!(versions, ["1.1.0", "1.0.0"]);
    assert_ne!(second.versions[0].digest, second.versions[1].digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalid_is_refused_with_its_line() {
    let plant = Plant::new("").await;
    let builder = plant.server.key(Kind::User, &["builder"], "dev").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("triage.yaml");
    let good = "apiVersion: tally/v1
kind: Workflow
metadata: {name: triage, version: 1.0.0}
spec:
  riskTier: low
  steps:
    - id: one
      action: core.json_transform
      input: {input: 1, filter: .}
    - id: two
      action: core.json_transform
      input: {input: '{{previous_output}}', filter: .}
      claims: {target: 'INC {{input.number}}', dataTypes: [pii]}
";
    let run = |command: &str| {
        plant.server.tally(&builder, &["workflow", command, file.to_str().unwrap()])
    };
    for (from, to, line, says) in [
        ("name: triage", "name: Tri Age", 3, "workflow"),
        ("core.json_transform", "no.such", 7, "there is no tool `no.such`"),
        ("filter: .}\n    - id: two", "filters: .}\n    - id: two", 9, "spec.steps[0].input"),
        ("{{previous_output}}", "{{steps.three.output}}", 12, "no earlier step"),
        ("INC {{input.number}}", "INC {{nothing}}", 13, "a template is"),
        ("dataTypes: [pii]", "kind: x", 13, "unknown field"),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        for command in ["validate", "publish"] {
            let output = run(command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{to}");
            assert!(said.contains(&format!("line {line}: ")), "{to}: {said}");
            assert!(said.contains(says), "{to}: {said}");
        }
    }
    std::fs::write(&file, good).unwrap();
    let output = run("validate");
    assert_code(&output, 0);
    assert!(text(&output).contains("triage"), "{}", text(&output));
    let listed = || plant.server.tally(&builder, &["workflow", "list", "--json"]);
    assert!(printed(&listed())["workflows"].as_array().is_none_or(Vec::is_empty), "none is kept");
    assert_code(&run("publish"), 0);
    assert_eq!(printed(&listed())["workflows"][0]["latest_version"], "1.0.0");
    let shown = plant.server.tally(&builder, &["workflow", "show", "triage", "--version", "1.0.0"]);
    assert_eq!(text(&shown), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn prod_takes_the_word_of_two() {
    let plant = Plant::new("").await;
    let in_prod =
        |roles: &'static [&'static str]| plant.server.principal_in(Kind::User, roles, "prod");
    let author = in_prod(&["builder", "approver", "operator"]).await;
    let (first, second) = (in_prod(&["approver"]).await, in_prod(&["approver"]).await);
    let mut grave = document("grave", "1.0.0", &[echo("one", &json!(1))]);
    grave["spec"]["riskTier"] = json!("high");
    publish(&author, &grave).await.unwrap();
    let request = CreateReleaseRequest { workflow: "grave".to_owned(), ..Default::default() };
    let made = author.create_release(&request, Some("once")).await.unwrap();
    let again = author.create_release(&request, Some("once")).await.unwrap();
    assert_eq!((made.release_id.as_str(), made.approvers), (again.release_id.as_str(), 2));
    let id = made.release_id.as_str();
    let alone = refusal(approve(&author, id).await);
    assert_eq!(alone, (403, "self_approval".to_owned()));
    // Nor does who approves elsewhere.
    let elsewhere = refusal(approve(&plant.approver, id).await);
    assert_eq!(elsewhere, (403, "credential_binding".to_owned()));
    let once = approve(&first, id).await.unwrap();
    assert_eq!(once.state(), ReleaseState::Candidate);
    let promote = PromoteReleaseRequest { release_id: id.to_owned(), canary_percent: None };
    let early = refusal(author.promote_release(&promote, None).await);
    assert_eq!(early, (409, "state_conflict".to_owned()));
    assert_eq!(refusal(approve(&first, id).await), (409, "already_decided".to_owned()));
    assert_eq!(approve(&second, id).await.unwrap().state(), ReleaseState::Approved);
    let active = author.promote_release(&promote, Some("now")).await.unwrap();
    assert_eq!((active.state(), active.ring.as_str()), (ReleaseState::Active, "all"));
    let again = author.promote_release(&promote, Some("now")).await.unwrap();
    assert_eq!(again.revision, active.revision);
    // A run in prod takes what was released, and names no version.
    let agent = plant.server.principal_in(Kind::Agent, &["agent"], "prod").await;
    let mut request = named("grave");
    request.workflow_version = "1.0.0".to_owned();
    let named = refusal(agent.start_run(&request, None).await);
    assert_eq!(named, (403, "release_required".to_owned()));
    let missing = refusal(plant.agent.start_run(&super::named("grave"), None).await);
    assert_eq!(missing, (409, "release_missing".to_owned()), "in dev nothing is released");
    let run = start(&agent, "grave").await;
    let pinned = run.pinned.unwrap();
    assert_eq!((pinned.release_id.as_str(), pinned.version.as_str()), (id, "1.0.0"));
    request.workflow_version = "1.0.0".to_owned();
    let run = plant.agent.start_run(&request, None).await.unwrap();
    let pinned = run.pinned.unwrap();
    assert_eq!((pinned.release_id.as_str(), pinned.ring.as_str()), ("", ""));
}

fn answers(data_class: &str) -> UseCaseAnswers {
    UseCaseAnswers {
        data_class: data_class.to_owned(),
        reversibility: "irreversible".to_owned(),
        blast_radius: "team".to_owned(),
        customer_facing: Some(true),
        volume: "daily".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_claims_no_less_than_its_use_case() {
    let plant = Plant::new("").await;
    let builder = &plant.builder;
    let request = CreateUseCaseRequest {
        name: "incident triage".to_owned(),
        description: "say what an incident is".to_owned(),
        owner_principal_id: String::new(),
        answers: None,
    };
    let case = builder.create_use_case(&request, None).await.unwrap();
    assert_eq!((case.score, case.risk_tier.as_str()), (None, "critical"));
    let text = document("triage", "1.0.0", &[echo("one", &json!(1))]);
    let approved = plant.approved(&text, None).await;
    let (use_case_id, workflow) = (case.use_case_id.clone(), "triage".to_owned());
    let link = LinkUseCaseRequest { use_case_id: use_case_id.clone(), workflow };
    builder.link_use_case(&link, None).await.unwrap();
    // Approved before it was linked: that does not help it.
    let release_id = approved.release_id.clone();
    let promote = PromoteReleaseRequest { release_id, canary_percent: None };
    let refused = refusal(plant.operator.promote_release(&promote, None).await);
    assert_eq!(refused, (400, "risk_tier_below_use_case".to_owned()));
    let release = CreateReleaseRequest { workflow: "triage".to_owned(), ..Default::default() };
    let refused = refusal(builder.create_release(&release, None).await);
    assert_eq!(refused, (400, "risk_tier_below_use_case".to_owned()));
    // 20 + 25 + 5 + 15 + 3 is medium, which the workflow says that it is.
    let score = |answers| proto::usecases::ScoreUseCaseRequest {
        use_case_id: use_case_id.clone(),
        answers: Some(answers),
    };
    let mut lacking = answers("confidential");
    lacking.customer_facing = None;
    let refused = refusal(builder.score_use_case(&score(lacking), None).await);
    assert_eq!(refused, (400, "invalid_argument".to_owned()));
    let scored = builder.score_use_case(&score(answers("confidential")), None).await.unwrap();
    assert_eq!((scored.score, scored.risk_tier.as_str()), (Some(68), "medium"));
    assert_eq!((scored.name.as_str(), scored.workflows.len()), ("incident triage", 1));
    plant.operator.promote_release(&promote, None).await.unwrap();
    let made = builder.create_release(&release, Some("first")).await.unwrap();
    assert_eq!(made.use_case_id, case.use_case_id);
    let scored = builder.score_use_case(&score(answers("restricted")), None).await.unwrap();
    assert_eq!((scored.score, scored.risk_tier.as_str()), (Some(78), "high"));
    assert_eq!(scored.release_approvers, 2);
    let refused = refusal(builder.create_release(&release, None).await);
    assert_eq!(refused, (400, "risk_tier_below_use_case".to_owned()));
    // What was made before is told, though it could not be made now.
    let again = builder.create_release(&release, Some("first")).await.unwrap();
    assert_eq!(again.release_id, made.release_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_only_where_it_was() {
    let plant = Plant::new("").await;
    let (wire, owner) = (Wire::new(&plant.server.url), plant.server.owner_key());
    let list = async |path: &str| wire.ask_as(&owner, "GET", path).send().await;
    for n in 0..3 {
        let steps = [echo("one", &json!(n))];
        plant.approved(&document(&format!("triage-{n}"), "1.0.0", &steps), None).await;
        let request = CreateUseCaseRequest { name: format!("case {n}"), ..Default::default() };
        plant.builder.create_use_case(&request, None).await.unwrap();
    }
    for (path, items, id) in [
        ("/v1/workflows", "workflows", "name"),
        ("/v1/releases", "releases", "release_id"),
        ("/v1/releases?state=approved", "releases", "release_id"),
        ("/v1/use_cases", "use_cases", "use_case_id"),
    ] {
        let (mut seen, mut token) = (BTreeSet::new(), String::new());
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{join}page_size=2&page_token={token}");
            let page = list(&page).await.good();
            let ids = page[items].as_array().unwrap().iter();
            seen.extend(ids.map(|item| item[id].as_str().unwrap().to_owned()));
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
            // What the page ended with need not be wanted any more when the next is asked for.
            if path.contains("state") && seen.len() == 2 {
                let release_id = token.clone();
                let request = PromoteReleaseRequest { release_id, canary_percent: None };
                plant.operator.promote_release(&request, None).await.unwrap();
            }
        }
        assert_eq!(seen.len(), 3, "{path}: {seen:?}");
        let path = path.split('?').next().unwrap();
        let unknown = list(&format!("{path}?page_token=nowhere")).await;
        assert_eq!((unknown.status, unknown.code().as_str()), (400, "invalid_page_token"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_sees_none_of_it() {
    let plant = Plant::new("").await;
    let release = plant.in_force(&document("triage", "1.0.0", &[echo("one", &json!(1))])).await;
    let request = CreateUseCaseRequest { name: "ours".to_owned(), ..Default::default() };
    let case = plant.builder.create_use_case(&request, None).await.unwrap();
    let (wire, owner) = (Wire::new(&plant.server.url), plant.server.owner_key());
    let made = wire.ask_as(&owner, "POST", "/v1/tenants").json(&json!({"tenant": "acme"}));
    let founder = made.send().await.good()["owner"]["key"].as_str().unwrap().to_owned();
    let (release, case) = (release.release_id, case.use_case_id);
    let answers = serde_json::to_value(answers("public")).unwrap();
    for (method, path, body) in [
        ("GET", "/v1/workflows/triage".to_owned(), json!({})),
        ("GET", "/v1/workflows/triage/versions/1.0.0".to_owned(), json!({})),
        ("POST", "/v1/releases".to_owned(), json!({"workflow": "triage"})),
        ("GET", format!("/v1/releases/{release}"), json!({})),
        ("POST", format!("/v1/releases/{release}/promote"), json!({})),
        ("POST", format!("/v1/releases/{release}/rollback"), json!({})),
        ("GET", format!("/v1/use_cases/{case}"), json!({})),
        ("POST", format!("/v1/use_cases/{case}/score"), json!({"answers": answers})),
        ("POST", format!("/v1/use_cases/{case}/link"), json!({"workflow": "triage"})),
        ("POST", "/v1/runs".to_owned(), json!({"workflow_name": "triage"})),
    ] {
        let ask = wire.ask_as(&founder, method, &path);
        let ask = if method == "GET" { ask } else { ask.json(&body) };
        let reply = ask.send().await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{method} {path}");
    }
    for path in ["/v1/workflows", "/v1/releases", "/v1/use_cases"] {
        let listed = wire.ask_as(&founder, "GET", path).send().await.good().to_string();
        for ours in ["triage", &release, &case] {
            assert!(!listed.contains(ours), "{path}: {listed}");
        }
    }
}
