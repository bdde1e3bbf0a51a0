//! What a server learns from what its agents do: estimates, divergence, questions, recovery.

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::recovery::{GetRecoveryStatsRequest, SuggestRecoveryRequest};
use proto::runtime::{
    GetCapabilitiesRequest, GetDivergenceRequest, GetDivergenceResponse, PlanStep, QueryRequest,
    SimulateRequest, SimulateResponse,
};
use proto::types::Json;
use serde_json::{Value, json};
use testkit::Cluster;

use crate::common::postgres::migrated;
use crate::common::target::Target;
use crate::common::wire::Wire;
use crate::common::{
    Server, action, allow_all, assert_code, granting, json as printed, refusal, rego, text,
};

/// Submits an action and waits for its end.
async fn submit(client: &Client, tool: &str, params: &Value) -> Action {
    let mut request = action(tool, params);
    request.wait_ms = Some(60_000);
    client.submit_action(&request, None).await.unwrap()
}

/// A folder that tools may use, a server, and an agent.
struct Place {
    server: Server,
    agent: Client,
    key: String,
    files: tempfile::TempDir,
}

impl Place {
    async fn of(start: impl FnOnce(&str) -> Server) -> Self {
        let files = tempfile::tempdir().unwrap();
        let server = start(&granting(files.path()));
        server.publish(&allow_all()).await;
        let key = server.key(Kind::Agent, &["agent"], "dev").await;
        let agent = Client::new(&server.url, &key).unwrap();
        Self { server, agent, key, files }
    }

    async fn new() -> Self {
        Self::of(Server::start).await
    }

    /// Has the agent read a file of that name.
    async fn read(&self, name: &str) -> State {
        let path = self.files.path().join(name);
        submit(&self.agent, "core.fs_read", &json!({"path": path})).await.state()
    }

    /// Reads one that is there, or is not, some times.
    async fn reads(&self, good: usize, bad: usize) {
        std::fs::write(self.files.path().join("there"), "x").unwrap();
        for _ in 0..good {
            assert_eq!(self.read("there").await, State::Executed);
        }
        for _ in 0..bad {
            assert_eq!(self.read("absent").await, State::Failed);
        }
    }

    async fn simulated(&self) -> SimulateResponse {
        let params = Json::of(&json!({"path": self.files.path().join("there")})).unwrap();
        let step = PlanStep { skill: "fs_read".to_owned(), params: Some(params), iterations: None };
        let now = Some(proto::types::Timestamp::from_micros(1_700_000_000_000_000));
        let request =
            SimulateRequest { plan: vec![step], timestamp: now, ..SimulateRequest::default() };
        self.agent.simulate(&request).await.unwrap()
    }

    /// How long the agent is told that reading a file takes.
    async fn usual_ms(&self) -> Value {
        let now = self.agent.get_capabilities(&GetCapabilitiesRequest::default()).await.unwrap();
        let skills: Value = now.skills.unwrap().decode().unwrap();
        skills["fs_read"]["avg_latency_ms"].clone()
    }

    /// How reading a file is known to fail.
    async fn failure_patterns(&self) -> Value {
        let now = self.agent.get_capabilities(&GetCapabilitiesRequest::default()).await.unwrap();
        let skills: Value = now.skills.unwrap().decode().unwrap();
        skills["fs_read"]["known_failure_patterns"].clone()
    }

    async fn divergence(&self) -> GetDivergenceResponse {
        self.server.owner.get_divergence(&GetDivergenceRequest::default()).await.unwrap()
    }

    async fn ask(&self, who: &Client, question: &str, agent: &str, params: &Value) -> Value {
        let request = QueryRequest {
            query_type: question.to_owned(),
            agent_id: agent.to_owned(),
            params: Some(Json::of(params).unwrap()),
        };
        who.query(&request).await.unwrap().result.unwrap().decode().unwrap()
    }
}

/// What simulations say follows from receipts, and is the same after a crash (read back from the
/// log), after a stop (read from the copy), and again and again.
async fn learns(mut place: Place) {
    let before = place.simulated().await;
    assert_eq!((before.confidence.as_str(), before.risks.len()), ("low", 0));
    assert_eq!((before.estimated_duration_ms, before.calibration_digest.as_str()), (50, ""));
    assert_eq!(place.usual_ms().await, 50, "as it is assumed");
    place.reads(9, 0).await;
    let few = place.simulated().await;
    assert_eq!(place.usual_ms().await, 50);
    assert_eq!((few.estimated_duration_ms, few.confidence.as_str()), (50, "low"), "too few");
    assert!(few.calibrated_to > before.calibrated_to);
    place.reads(1, 2).await;
    let known = place.simulated().await;
    assert_eq!(known.confidence, "medium");
    let p90 = known.steps[0].p90_latency_ms.unwrap();
    assert!(known.estimated_duration_ms <= p90, "{known:?}");
    assert_eq!(place.usual_ms().await, known.estimated_duration_ms, "as it was seen");
    assert_eq!(known.steps[0].p90_cost_micro_usd, Some(0));
    assert_eq!(known.risks.len(), 1);
    let risk = &known.risks[0];
    assert_eq!((risk.attempts, risk.failures), (12, 2));
    assert!((risk.probability - 0.166_666).abs() < 1e-9);
    assert_ne!(known.root_hash, few.root_hash);
    assert!(known.calibration_digest.starts_with("sha256:"));
    assert_eq!(place.simulated().await, known, "the same question has the same answer");

    let report = place.divergence().await;
    assert_eq!((report.environment.as_str(), report.calibrated_to), ("dev", known.calibrated_to));
    let tool = &report.tools[0];
    assert_eq!(
        (tool.tool_id.as_str(), tool.attempts, tool.attempts_ever),
        ("core.fs_read", 12, 12)
    );
    assert!((tool.fail_ratio - 0.166_666).abs() < 1e-9);
    assert_eq!((tool.failures[0].category.as_str(), tool.failures[0].count), ("NOT_FOUND", 2));
    let [latency, cost] = &tool.estimators[..] else { panic!("{tool:?}") };
    assert_eq!((latency.estimator.as_str(), latency.samples), ("latency", 10));
    assert_eq!((cost.estimator.as_str(), cost.verdict.as_str()), ("cost", "MATCH"));
    assert!((cost.matching_rate - 1.0).abs() < 1e-9 && cost.outlier_count == 0);

    place.server.kill();
    place.server.restart();
    assert_eq!(place.simulated().await, known, "read back from the log");
    assert_eq!(place.divergence().await, report);
    assert!(place.server.terminate().success());
    place.server.log();
    place.server.restart();
    assert_eq!(place.simulated().await, known, "read from the copy");
    assert_eq!(place.divergence().await, report);
    // It goes on from there.
    place.reads(0, 1).await;
    let more = place.simulated().await;
    assert_eq!((more.risks[0].attempts, more.risks[0].failures), (13, 3));
    assert!(place.server.terminate().success());
    let log = place.server.log();
    let said = log.lines().find(|line| line.contains("what earlier attempts came to")).unwrap();
    assert!(said.contains("read=0"), "a start reads only what is not in the copy: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_follow_from_receipts() {
    learns(Place::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_follow_from_receipts_on_postgresql() {
    let database = migrated(Cluster::shared());
    learns(Place::of(|yaml| Server::start_on(&database, yaml)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_tool_fails_is_known_from_how_it_failed() {
    let mut place = Place::new().await;
    place.reads(1, 0).await;
    assert_eq!(place.failure_patterns().await, json!([]), "nothing has failed");
    std::fs::create_dir(place.files.path().join("folder")).unwrap();
    assert_eq!(place.read("folder").await, State::Failed);
    assert_eq!(place.failure_patterns().await, json!(["not_a_file"]));
    place.reads(0, 2).await;
    let known = json!(["path_not_found", "not_a_file"]);
    assert_eq!(place.failure_patterns().await, known, "the most frequent first");
    place.server.kill();
    place.server.restart();
    assert_eq!(place.failure_patterns().await, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_compared_with_what_was_estimated_of_it() {
    let place = Place::new().await;
    std::fs::write(place.files.path().join("there"), "x").unwrap();
    let params = json!({"path": place.files.path().join("there")});
    let done = submit(&place.agent, "core.fs_read", &params).await;
    let request = GetDivergenceRequest { action_id: done.action_id.clone(), ..Default::default() };
    let report = place.server.owner.get_divergence(&request).await.unwrap();
    let [attempt] = &report.attempts[..] else { panic!("{report:?}") };
    assert_eq!(attempt.receipt_id, *done.receipts.last().unwrap());
    assert_eq!((attempt.estimated_latency_ms, attempt.cost_verdict.as_str()), (50, "MATCH"));
    assert_eq!((attempt.failure.as_str(), report.tools.len()), ("", 0));
    // Agents have no leave to see how all of a workspace does.
    let refused = refusal(place.agent.get_divergence(&request).await);
    assert_eq!(refused, (403, "permission_denied".to_owned()));
    let args = ["runtime", "divergence", "--action", &done.action_id];
    let shown = place.server.tally(&place.server.owner_key(), &args);
    assert_code(&shown, 0);
    assert!(text(&shown).contains(&attempt.receipt_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_from_what_is_there() {
    let place = Place::new().await;
    let agent = place.server.paying_agent("purse", 1_234_567).await;
    let ask = async |question: &str, params: Value| place.ask(&agent, question, "", &params).await;
    let budget = ask("remaining_budget_cents", json!({})).await;
    assert_eq!(budget["remaining_budget_cents"], 123, "{budget}");
    assert_eq!(budget["remaining_micro_usd"], 1_234_567);
    place.server.fund("purse", 10_000).await;
    let more = ask("remaining_budget_cents", json!({})).await;
    assert_eq!(more["remaining_budget_cents"], 124);
    let none = json!({"attempts": [], "complete": true});
    assert_eq!(ask("what_did_i_try_already", json!({})).await, none);
    assert_eq!(ask("last_step_outcome", json!({})).await, json!({"outcome": null}));

    // Two steps; what another agent does is not this one's.
    place.reads(1, 0).await;
    let write = json!({"path": place.files.path().join("note"), "content": "x"});
    let wrote = submit(&agent, "core.fs_write", &write).await;
    let missing = json!({"path": place.files.path().join("absent")});
    let failed = submit(&agent, "core.fs_read", &missing).await;
    let tried = ask("what_did_i_try_already", json!({})).await;
    let ids = |tried: &Value| -> Vec<String> {
        let all = tried["attempts"].as_array().unwrap().iter();
        all.map(|one| one["action_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&tried), [failed.action_id.clone(), wrote.action_id.clone()]);
    let last = &tried["attempts"][0];
    assert_eq!((&last["status"], &last["code"]), (&json!("failed"), &json!("path_not_found")));
    assert_eq!((&last["category"], &last["skill_id"]), (&json!("NOT_FOUND"), &json!("fs_read")));
    assert_eq!(ask("last_step_outcome", json!({})).await["outcome"], *last);
    let one = ask("what_did_i_try_already", json!({"limit": 1})).await;
    assert_eq!((ids(&one).len(), &one["complete"]), (1, &json!(false)));
    let of = ask("what_did_i_try_already", json!({"tool": "fs_write"})).await;
    assert_eq!(ids(&of), std::slice::from_ref(&wrote.action_id));

    // An agent asks about itself alone; who sees all asks about any.
    let whoami = agent.get_me(&proto::me::GetMeRequest::default()).await.unwrap();
    let id = whoami.principal_id;
    let of_other = QueryRequest {
        query_type: "what_did_i_try_already".to_owned(),
        agent_id: id.clone(),
        params: None,
    };
    assert_eq!(refusal(place.agent.query(&of_other).await), (404, "not_found".to_owned()));
    let seen = place.ask(&place.server.owner, "what_did_i_try_already", &id, &json!({})).await;
    assert_eq!(seen, tried);
    let absent = QueryRequest { agent_id: "agt_absent".to_owned(), ..of_other };
    assert_eq!(refusal(place.server.owner.query(&absent).await).0, 404);

    let wire = Wire::new(&place.server.url);
    let unknown = json!({"query_type": "meaning_of_life"});
    let path = "/api/v1/runtime/query";
    let reply = wire.ask_as(&place.key, "POST", path).json(&unknown).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "unknown_query_type"));
    let message = reply.error()["message"].as_str().unwrap().to_owned();
    for known in ["remaining_budget_cents", "skills_available_for_goal"] {
        assert!(message.contains(known), "{message}");
    }
    let said = place.server.tally(&place.key, &["runtime", "query", "allowed_skills", "--json"]);
    assert_code(&said, 0);
    assert_eq!(printed(&said)["query_type"], "allowed_skills");
}

/// Writing is denied, everything else is allowed.
const NO_WRITE: &str = r#"
decisions contains {"effect": "DENY", "rule": "R-NO", "reason": "no"} if {
    input.tool.id == "core.fs_write"
}
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_goal_finds_tools_that_policy_lets_the_agent_call() {
    let place = Place::new().await;
    let names = |answer: &Value| -> Vec<String> {
        let skills = answer["skills"].as_array().unwrap().iter();
        skills.map(|skill| skill["skill_id"].as_str().unwrap().to_owned()).collect()
    };
    let ask =
        async |question: &str, params: Value| place.ask(&place.agent, question, "", &params).await;
    let goal = json!({"goal": "write the report into a file", "limit": 3});
    let found = ask("skills_available_for_goal", goal.clone()).await;
    assert_eq!(names(&found)[0], "fs_write", "{found}");
    assert!(names(&found).len() <= 3);
    assert_eq!(ask("skills_available_for_goal", goal.clone()).await, found);
    assert!(names(&ask("allowed_skills", json!({})).await).contains(&"fs_write".to_owned()));
    let nothing = ask("skills_available_for_goal", json!({"goal": "zzz qqq"})).await;
    assert_eq!(names(&nothing), [""; 0]);

    place.server.publish(&rego(NO_WRITE)).await;
    let denied = ask("skills_available_for_goal", goal).await;
    assert!(!names(&denied).contains(&"fs_write".to_owned()), "{denied}");
    assert!(!names(&ask("allowed_skills", json!({})).await).contains(&"fs_write".to_owned()));
    let bad = QueryRequest {
        query_type: "skills_available_for_goal".to_owned(),
        params: Some(Json::of(&json!({"goal": ""})).unwrap()),
        ..QueryRequest::default()
    };
    assert_eq!(refusal(place.agent.query(&bad).await), (400, "invalid_argument".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_helped_is_proposed() {
    let target = Target::start().await;
    let yaml =
        format!("grants: {{http: [{}]}}\npolicy: {{decision_limit_ms: 5000}}", target.grant());
    let server = Server::start(&yaml);
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let suggest = async |action: &str| {
        let action_id = action.to_owned();
        let request = SuggestRecoveryRequest { action_id, ..Default::default() };
        agent.suggest_recovery(&request).await.unwrap()
    };
    let ended = agent.submit_action(&target.call("GET", "/lacking/1"), None).await.unwrap();
    assert_eq!(ended.state(), State::Failed);
    let first = suggest(&ended.action_id).await;
    assert_eq!((first.category.as_str(), first.count), ("UPSTREAM", 1), "{first:?}");
    assert_eq!(first.selected.unwrap().strategy, "circuit_breaker", "the rule, with no history");
    let fine = agent.submit_action(&target.call("GET", "/fine"), None).await.unwrap();
    assert_eq!(fine.state(), State::Executed);
    let nothing =
        SuggestRecoveryRequest { action_id: fine.action_id.clone(), ..Default::default() };
    let refused = refusal(agent.suggest_recovery(&nothing).await);
    assert_eq!(refused, (409, "nothing_failed".to_owned()));

    // Two attempts find it unavailable and the third does not: trying again helped once of twice.
    let helped = agent.submit_action(&target.call("GET", "/unavailable/1"), None).await.unwrap();
    assert_eq!(helped.state(), State::Executed);
    let stats = server.owner.get_recovery_stats(&GetRecoveryStatsRequest::default()).await.unwrap();
    assert_eq!(stats.strategies.len(), 10);
    let retried = stats.known.iter().flat_map(|known| &known.tried);
    let retried: Vec<_> = retried.filter(|one| one.strategy == "retry_with_jitter").collect();
    let [record] = &retried[..] else { panic!("{stats:?}") };
    assert_eq!((record.trials, record.helped), (2, 1));
    assert_eq!(stats.failures, 3, "{stats:?}");
    // Sooner or later, the same again helped after the first failure too.
    assert_eq!((stats.trials, stats.helped), (3, 2));
    // An agent has no leave to see what failed for others.
    let refused = refusal(agent.get_recovery_stats(&GetRecoveryStatsRequest::default()).await);
    assert_eq!(refused, (403, "permission_denied".to_owned()));

    let timeout = ["recovery", "suggest", "--tool", "core.http_call", "--code", "x", "--category"];
    let key = server.owner_key();
    let said = server.tally(&key, &[&timeout[..], &["TIMEOUT", "--json"]].concat());
    assert_code(&said, 0);
    assert_eq!(printed(&said)["selected"]["strategy"], "retry_exponential");
    assert_code(&server.tally(&key, &[&timeout[..], &["SOMETIMES"]].concat()), 3);
    assert_code(&server.tally(&key, &["recovery", "stats"]), 0);
}

/// An agent that was just made, with a purse and a key.
async fn triage(wire: &Wire, owner: &str) -> (String, String) {
    let purse = json!({"account_id": "purse"});
    wire.ask_as(owner, "POST", "/v1/accounts").json(&purse).send().await.good();
    let body = json!({"name": "triage", "account_id": "purse"});
    let made = wire.ask_as(owner, "POST", "/api/v1/agents").json(&body).send().await.good();
    let id = made["agent_id"].as_str().unwrap().to_owned();
    assert_eq!((&made["name"], &made["roles"]), (&json!("triage"), &json!(["agent"])));
    assert_eq!((&made["status"], &made["remaining_budget_cents"]), (&json!("absent"), &json!(0)));
    // The same one is a principal, and there is no other truth.
    let path = format!("/v1/principals/{id}");
    let principal = wire.ask_as(owner, "GET", &path).send().await.good();
    assert_eq!((&principal["kind"], &principal["account_id"]), (&json!("agent"), &json!("purse")));
    let body = json!({"principal_id": id});
    let key = wire.ask_as(owner, "POST", "/v1/keys").json(&body).send().await.good();
    (id, key["key"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sees_itself_alone() {
    let place = Place::new().await;
    let (wire, owner) = (Wire::new(&place.server.url), place.server.owner_key());
    let (id, key) = triage(&wire, &owner).await;
    let own = format!("/v1/agents/{id}");
    let list = async |key: &str| -> Vec<String> {
        let list = wire.ask_as(key, "GET", "/v1/agents").send().await.good();
        let all = list["agents"].as_array().unwrap().iter();
        all.map(|agent| agent["agent_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list(&key).await, std::slice::from_ref(&id));
    assert_eq!(list(&owner).await.len(), 2);
    assert_eq!(wire.ask_as(&place.key, "GET", &own).send().await.status, 404);
    let paged = wire.ask_as(&owner, "GET", "/v1/agents?page_size=1").send().await.good();
    let token = paged["next_page_token"].as_str().unwrap().to_owned();
    assert_eq!((&paged["agents"][0]["agent_id"], token.is_empty()), (&json!(id), false));
    let rest = format!("/v1/agents?page_size=1&page_token={token}");
    let rest = wire.ask_as(&owner, "GET", &rest).send().await.good();
    let count = rest["agents"].as_array().unwrap().len();
    assert_eq!((count, &rest["next_page_token"]), (1, &json!("")));
    // Nobody says that another is there, whoever they are.
    let beat = format!("{own}/heartbeat");
    for other in [&place.key, &owner] {
        let reply = wire.ask_as(other, "POST", &beat).json(&json!({})).send().await;
        assert_eq!(reply.status, 404, "{}", reply.text());
    }
    let build = json!({"build": "a person"});
    let reply = wire.ask_as(&owner, "POST", "/v1/agents/register").json(&build).send().await;
    assert_eq!(reply.status, 400, "only an agent says what it is: {}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_say_that_they_are_there() {
    let mut place = Place::new().await;
    let (wire, owner) = (Wire::new(&place.server.url), place.server.owner_key());
    let (id, key) = triage(&wire, &owner).await;
    place.server.fund("purse", 55_000).await;
    let own = format!("/v1/agents/{id}");
    let beat = format!("{own}/heartbeat");
    let heard = wire.ask_as(&key, "POST", &beat).json(&json!({})).send().await.good();
    assert_eq!((&heard["status"], &heard["next_in_s"]), (&json!("online"), &json!(30)));
    let said = json!({"build": "triage/1.4.2"});
    let said = wire.ask_as(&key, "POST", "/v1/agents/register").json(&said).send().await.good();
    assert_eq!((&said["agent_id"], &said["build"]), (&json!(id), &json!("triage/1.4.2")));
    // Heartbeats leave no receipts.
    let known = async || {
        let report = GetDivergenceRequest::default();
        place.server.owner.get_divergence(&report).await.unwrap().calibrated_to
    };
    let before = known().await;
    wire.ask_as(&key, "POST", &beat).json(&json!({})).send().await.good();
    let me = Client::new(&place.server.url, &key).unwrap();
    let path = place.files.path().join("there");
    std::fs::write(&path, "x").unwrap();
    submit(&me, "core.fs_read", &json!({"path": path})).await;
    assert_eq!(known().await, before + 2, "a permit and an outcome");
    let shown = wire.ask_as(&owner, "GET", &own).send().await.good();
    assert_eq!((&shown["runs_count"], &shown["runs_executed"]), (&json!("1"), &json!("1")));
    assert_eq!((&shown["remaining_budget_cents"], &shown["status"]), (&json!(5), &json!("online")));

    // What was said outlives the server; who is disabled is gone at once.
    place.server.kill();
    place.server.restart();
    let kept = wire.ask_as(&owner, "GET", &own).send().await.good();
    assert_eq!((&kept["build"], &kept["runs_count"]), (&said["build"], &json!("1")));
    assert!(kept["last_seen_at"].is_string(), "{kept}");
    let ended = place.server.tally(&owner, &["agent", "disable", &id, "--json"]);
    assert_code(&ended, 0);
    assert_eq!(printed(&ended)["status"], "disabled");
    assert_eq!(wire.ask_as(&key, "POST", &beat).json(&json!({})).send().await.status, 401);
}
