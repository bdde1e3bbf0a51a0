//! Events start runs, each one once.

use std::collections::BTreeSet;

use proto::runs::RunState;
use proto::triggers::{
    CreateTriggerRequest, GetTriggerRequest, ListTriggersRequest, Mapping, Match,
    TestTriggerRequest,
};
use proto::types::Json;
use serde_json::{Value, json};

use super::{GITHUB, Place, SERVICENOW, SLACK, incident, now, pull_request, run_id};
use crate::common::refusal;
use crate::runs::{reaches, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_starts_one_run() {
    let place = Place::new().await.with_events().await;
    let body = pull_request("opened", 7);
    let first = place.github("pull_request", &body).send().await;
    assert_eq!((first.status, first.header("cache-control")), (200, "no-store"));
    let id = run_id(&first.good());
    let run = reaches(place.owner(), &id, RunState::Succeeded).await;
    let given = json!({"number": 7, "title": "Make it better"});
    assert_eq!(value(&run.output)["output"][0], given);
    // It acts as its own service and as nobody else.
    assert_eq!(run.actor_chain.len(), 1);
    assert_eq!(run.actor_chain[0].id, place.service);
    // Sent again it is the same, whatever the headers say, which nobody signs.
    for delivery in ["72d3162e-cc78-11e3-81ab-4c9367dc0958", "another"] {
        let again = place.github("pull_request", &body).header("x-other", delivery).send().await;
        assert_eq!(run_id(&again.good()), id);
    }
    // Another pull request is another run.
    let other = place.github("pull_request", &pull_request("opened", 8)).send().await.good();
    assert_ne!(run_id(&other), id);
    assert_eq!(place.runs().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_starts_one_run() {
    let place = Place::new().await.with_events().await;
    let event = incident("evt-1", "9c573169c611228700193229fff72400");
    let id = run_id(&place.servicenow(&event).send().await.good());
    let run = reaches(place.owner(), &id, RunState::Succeeded).await;
    let given = json!({"sys_id": "9c573169c611228700193229fff72400"});
    assert_eq!(value(&run.output)["output"][0], given);
    // Signed anew at another time it is the same event.
    let time = (now() - 10).to_string();
    let again = place.servicenow_at(&time, &event.to_string()).send().await.good();
    assert_eq!(run_id(&again), id);
    // The same event cannot say something else.
    let changed = place.servicenow(&incident("evt-1", "other")).send().await;
    assert_eq!((changed.status, changed.code().as_str()), (409, "idempotency_conflict"));
    assert_eq!(place.runs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_does_not_take_starts_nothing() {
    let place = Place::new().await.with_events().await.with_slack().await;
    let ignored = json!({"ignored": true});
    let closed = place.github("pull_request", &pull_request("closed", 7)).send().await;
    assert_eq!(closed.good(), ignored);
    let push = place.github("push", &json!({"ref": "refs/heads/main"}).to_string());
    assert_eq!(push.send().await.good(), ignored);
    let ping = place.github("ping", &json!({"zen": "Design for failure."}).to_string());
    assert_eq!(ping.send().await.good(), json!({"pong": true}));
    let mut updated = incident("evt-2", "1");
    updated["event"] = json!("incident.updated");
    assert_eq!(place.servicenow(&updated).send().await.good(), ignored);
    let challenge = json!({"type": "url_verification", "challenge": "3eZbrw1aB1"}).to_string();
    let asked = place.slack_at(&now().to_string(), &challenge);
    let asked = asked.header("content-type", "application/json").send().await;
    assert_eq!(asked.good(), json!({"challenge": "3eZbrw1aB1"}));
    let event = json!({"type": "event_callback", "event_id": "Ev1", "event": {"type": "message"}});
    let event = place.slack_at(&now().to_string(), &event.to_string());
    let event = event.header("content-type", "application/json").send().await;
    assert_eq!(event.good(), ignored);
    assert!(place.runs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_deliveries_at_once_are_one_run() {
    let place = Place::new().await.with_events().await;
    let body = pull_request("opened", 50);
    let asks = (0..50).map(|_| tokio::spawn(place.github("pull_request", &body).send()));
    let asks: Vec<_> = asks.collect();
    let mut ids = BTreeSet::new();
    for ask in asks {
        ids.insert(run_id(&ask.await.unwrap().good()));
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(place.runs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_checked_when_it_is_made() {
    let place = Place::new().await.with_events().await;
    let good = || CreateTriggerRequest {
        name: "another".to_owned(),
        ..place.trigger("github", &[("number", "/number")])
    };
    let refused = async |request: CreateTriggerRequest| {
        refusal(place.owner().create_trigger(&request, None).await)
    };
    let mapping = |pointer: &str| Mapping { name: "n".to_owned(), pointer: pointer.to_owned() };
    let invalid = |code: &str| (400, code.to_owned());
    let absent = (404, "not_found".to_owned());
    let twice = vec![mapping("/a"), mapping("/b")];
    let user = super::principal(&place.server, proto::identity::principal::Kind::User, &["viewer"]);
    let user = user.await;
    let cases = [
        (
            CreateTriggerRequest { name: "No name".to_owned(), ..good() },
            invalid("invalid_argument"),
        ),
        (CreateTriggerRequest { source: "jira".to_owned(), ..good() }, invalid("invalid_argument")),
        (CreateTriggerRequest { input: vec![mapping("n")], ..good() }, invalid("trigger_invalid")),
        (CreateTriggerRequest { input: twice, ..good() }, invalid("invalid_argument")),
        (
            CreateTriggerRequest { cron: "* * * * *".to_owned(), ..good() },
            invalid("trigger_invalid"),
        ),
        (CreateTriggerRequest { secret: String::new(), ..good() }, invalid("trigger_invalid")),
        (CreateTriggerRequest { secret: "none".to_owned(), ..good() }, absent.clone()),
        (CreateTriggerRequest { workspace: "none".to_owned(), ..good() }, absent.clone()),
        (CreateTriggerRequest { environment: "none".to_owned(), ..good() }, absent.clone()),
        (CreateTriggerRequest { principal_id: "svc_none".to_owned(), ..good() }, absent),
        (CreateTriggerRequest { principal_id: user, ..good() }, invalid("invalid_argument")),
        (
            CreateTriggerRequest { name: "github".to_owned(), ..good() },
            (409, "already_exists".to_owned()),
        ),
    ];
    for (request, expect) in cases {
        assert_eq!(refused(request.clone()).await, expect, "{request:?}");
    }
    place.create(&good()).await;
    let all = place.owner().list_triggers(&ListTriggersRequest::default()).await.unwrap();
    let names: Vec<&str> = all.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
    assert_eq!(names, ["another", "github", "servicenow"]);
    let request = GetTriggerRequest { name: "another".to_owned() };
    let shown = place.owner().get_trigger(&request).await.unwrap();
    assert_eq!((shown.path.as_str(), shown.state.as_str()), ("/hooks/main/another", "enabled"));
    assert_eq!(shown.input, vec![Mapping { name: "number".into(), pointer: "/number".into() }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_choose_events_and_a_test_says_how() {
    let place = Place::new().await.with_events().await;
    let private = Match {
        pointer: "/repository/private".to_owned(),
        value: Some(Json::of(&json!(false)).unwrap()),
    };
    let request = CreateTriggerRequest {
        name: "public".to_owned(),
        equals: vec![private],
        ..place.trigger("github", &[("number", "/number"), ("title", "/pull_request/title")])
    };
    place.create(&request).await;
    let test = async |trigger: &str, event: &str| {
        let request = TestTriggerRequest {
            name: trigger.to_owned(),
            event: Some(Json::new(event).unwrap()),
            event_name: "pull_request".to_owned(),
        };
        place.owner().test_trigger(&request).await.unwrap()
    };
    let body = pull_request("opened", 3);
    let tested = test("public", &body).await;
    assert!(!tested.takes && tested.error.is_none(), "{tested:?}");
    assert_eq!(tested.event_name, "pull_request.opened");
    let tested = test("github", &body).await;
    assert!(tested.takes);
    assert_eq!(value(&tested.input), json!({"number": 3, "title": "Make it better"}));
    let lacking = test("github", &json!({"action": "opened", "number": 3}).to_string()).await;
    assert_eq!(lacking.error.unwrap().code, "event_lacks_field");
    assert!(place.runs().await.is_empty(), "a test starts nothing");
}

fn holds(folder: &std::path::Path, value: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, value);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(value.len()).any(|window| window == value.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_signs_is_written_down_nowhere() {
    let mut place = Place::new().await.with_events().await.with_slack().await;
    let body = pull_request("opened", 1);
    place.github("pull_request", &body).send().await.good();
    place.servicenow(&incident("evt-1", "1")).send().await.good();
    let forged: Value = json!({"type": "block_actions"});
    place.pressed(&forged).send().await;
    place.post("github").header("x-hub-signature-256", "sha256=00").bytes(body).send().await;
    assert!(place.server.terminate().success());
    let log = place.server.log();
    for value in [GITHUB, SERVICENOW, SLACK] {
        assert!(!log.contains(value), "the log has {value}");
        assert!(!holds(&place.server.data, value), "a file has {value}");
    }
}
