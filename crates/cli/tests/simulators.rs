//! The simulators of ServiceNow and Slack, held to the shapes of the real APIs, and the official
//! SDK of Slack against the second.

mod slack;

use serde_json::{Value, json};

use crate::common::simulator::{Simulator, servicenow_script, with};
use crate::common::target::Target;
use crate::common::wire::Reply;
use crate::common::{assert_code, tally};

const BASIC: &str = "Basic dGFsbHk6bm93LXBhc3N3b3Jk";
const READER: &str = "Basic cmVhZGVyOnJlYWRlci1wYXNzd29yZA==";
const INCIDENTS: &str = "/api/now/table/incident";

async fn call(sim: &Simulator, method: &str, path: &str, body: &Value) -> Reply {
    let ask = sim.wire.ask(method, path).header("authorization", BASIC);
    let ask = if body.is_null() { ask } else { ask.json(body) };
    ask.send().await
}

async fn create(sim: &Simulator, body: &Value) -> Value {
    let reply = call(sim, "POST", INCIDENTS, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let made = reply.json()["result"].clone();
    let place = format!("{}{INCIDENTS}/{}", sim.url, made["sys_id"].as_str().unwrap());
    assert_eq!(reply.header("location"), place);
    made
}

#[track_caller]
fn failed(reply: &Reply, status: u16, message: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["status"], &body["error"]["message"]), (&json!("failure"), &json!(message)));
    assert!(body["error"].as_object().unwrap().contains_key("detail"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_that_it_is_simulated() {
    for (name, script, label) in [
        ("servicenow", servicenow_script(), "ServiceNow simulator (no ServiceNow here)"),
        ("slack", json!({}), "Slack simulator (no Slack here)"),
    ] {
        let sim = Simulator::start(name, &script);
        for path in ["/", "/simulator/state", "/api/now/table/incident", "/api/auth.test", "/x"] {
            let reply = sim.wire.ask("GET", path).send().await;
            assert_eq!(reply.header("x-simulator"), label, "{path}");
            assert_eq!(reply.header("server"), format!("tally-{name}-simulator"), "{path}");
        }
        let page = sim.wire.ask("GET", "/").send().await;
        assert!(page.text().contains("simulator"), "{}", page.text());
        assert_eq!(sim.state().await["simulator"], label);
    }
}

#[test]
fn simulators_are_of_this_machine_alone() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.yaml");
    for (name, abroad) in [
        ("servicenow", json!({"webhook": {"url": "http://example.com/", "secret": "x"}})),
        ("slack", json!({"interactivity": {"url": "http://10.0.0.1/", "signing_secret": "x"}})),
    ] {
        let refused = tally(&["dev", name, "--listen", "0.0.0.0:0"]);
        assert_code(&refused, 1);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("127.0.0.1"), "{refused:?}");
        std::fs::write(&script, abroad.to_string()).unwrap();
        let refused = tally(&["dev", name, "--script", script.to_str().unwrap()]);
        assert_code(&refused, 1);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("this machine"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_are_created_read_and_changed() {
    let sim = Simulator::start("servicenow", &servicenow_script());
    let made = create(&sim, &json!({"short_description": "no mail", "nothing": "x"})).await;
    assert_eq!((&made["number"], &made["state"]), (&json!("INC0010001"), &json!("1")));
    assert_eq!((&made["sys_mod_count"], &made["sys_created_by"]), (&json!("0"), &json!("tally")));
    assert!(made.get("nothing").is_none(), "{made}");
    let path = format!("{INCIDENTS}/{}", made["sys_id"].as_str().unwrap());
    let group = "287ebd7da9fe198100f92cc8d1d2154e";
    let change = json!({"priority": "2", "assignment_group": group, "work_notes": "a note"});
    let changed = call(&sim, "PATCH", &path, &change).await.json()["result"].clone();
    assert_eq!(changed["priority"], "2");
    assert_eq!(changed["assignment_group"]["value"], group);
    assert_eq!((&changed["sys_mod_count"], &changed["work_notes"]), (&json!("1"), &json!("")));
    // What changes nothing counts for nothing.
    let again = call(&sim, "PATCH", &path, &json!({"priority": "2"})).await.json();
    assert_eq!(again["result"]["sys_mod_count"], "1");
    let bare = format!(
        "{path}?sysparm_exclude_reference_link=true&sysparm_fields=number,assignment_group"
    );
    let read = call(&sim, "GET", &bare, &Value::Null).await.json();
    assert_eq!(read["result"], json!({"number": "INC0010001", "assignment_group": group}));
    let notes =
        "/api/now/table/sys_journal_field?sysparm_query=element%3Dwork_notes%5EvalueLIKEnot";
    let notes = call(&sim, "GET", notes, &Value::Null).await.json();
    assert_eq!(notes["result"][0]["value"], "a note");
    assert_eq!(notes["result"][0]["element_id"], made["sys_id"]);
    let state = sim.state().await;
    let fields = state["changes"].as_array().unwrap().iter().map(|one| one["field"].clone());
    assert_eq!(fields.collect::<Vec<_>>(), ["assignment_group", "priority", "work_notes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_queried_and_paged() {
    let sim = Simulator::start("servicenow", &servicenow_script());
    for priority in ["1", "2", "2", "3"] {
        create(&sim, &json!({"priority": priority})).await;
    }
    let path = format!(
        "{INCIDENTS}?sysparm_query=priority%3D2%5EORpriority%3D3%5EORDERBYDESCnumber\
         &sysparm_limit=2&sysparm_fields=number"
    );
    let reply = call(&sim, "GET", &path, &Value::Null).await;
    assert_eq!(reply.header("x-total-count"), "3");
    let expect = json!([{"number": "INC0010004"}, {"number": "INC0010003"}]);
    assert_eq!(reply.json()["result"], expect);
    let unread = format!("{INCIDENTS}?sysparm_query=priorityBETWEEN1");
    failed(&call(&sim, "GET", &unread, &Value::Null).await, 400, "Invalid query");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_as_servicenow_does() {
    let sim = Simulator::start("servicenow", &servicenow_script());
    let made = create(&sim, &json!({})).await;
    let path = format!("{INCIDENTS}/{}", made["sys_id"].as_str().unwrap());
    let nobody = sim.wire.ask("GET", &path).send().await;
    failed(&nobody, 401, "User Not Authenticated");
    assert!(nobody.header("www-authenticate").starts_with("BASIC"));
    let reader = |method: &str| sim.wire.ask(method, &path).header("authorization", READER);
    assert_eq!(reader("GET").send().await.status, 200);
    failed(&reader("PATCH").json(&json!({"priority": "1"})).send().await, 403, "Operation Failed");
    let absent = format!("{INCIDENTS}/{}", "0".repeat(32));
    failed(&call(&sim, "GET", &absent, &Value::Null).await, 404, "No Record found");
    failed(&call(&sim, "PATCH", &absent, &json!({})).await, 404, "No Record found");
    let table = "/api/now/table/treasure";
    failed(&call(&sim, "GET", table, &Value::Null).await, 400, "Invalid table treasure");
    assert_eq!(sim.state().await["changes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_serve_until_they_end() {
    let sim = Simulator::start("servicenow", &servicenow_script());
    let ask = |form: &str| {
        let ask = sim.wire.ask("POST", "/oauth_token.do");
        ask.header("content-type", "application/x-www-form-urlencoded").raw(form)
    };
    let client = "client_id=now-client&client_secret=now-secret";
    let granted = ask(&format!("grant_type=client_credentials&{client}")).send().await;
    assert_eq!(granted.status, 200, "{}", granted.text());
    let granted = granted.json();
    assert_eq!((&granted["token_type"], &granted["expires_in"]), (&json!("Bearer"), &json!(1_799)));
    assert!(granted.get("refresh_token").is_none(), "{granted}");
    let token = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    let read = || sim.wire.ask("GET", INCIDENTS).header("authorization", &token).send();
    assert_eq!(read().await.status, 200);
    let login = format!("grant_type=password&username=tally&password=now-password&{client}");
    let login = ask(&login).send().await.json();
    let refresh = login["refresh_token"].as_str().unwrap();
    let renewed = ask(&format!("grant_type=refresh_token&refresh_token={refresh}&{client}"));
    assert_eq!(renewed.send().await.status, 200);
    for wrong in [
        "grant_type=client_credentials&client_id=now-client&client_secret=x".to_owned(),
        format!("grant_type=password&username=tally&password=x&{client}"),
        format!("grant_type=refresh_token&refresh_token=x&{client}"),
        format!("grant_type=magic&{client}"),
    ] {
        let refused = ask(&wrong).send().await;
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(refused.json()["error"].is_string(), "{wrong}");
    }
    sim.tell("revoke", &Value::Null).await;
    failed(&read().await, 401, "User Not Authenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_come_as_the_script_has_them() {
    let faults = json!([
        {"method": "GET", "times": 1, "status": 429, "retry_after_s": 2},
        {"method": "PATCH", "times": 1, "drop": true, "after": true},
        {"method": "PATCH", "times": 1, "status": 503},
    ]);
    let sim = Simulator::start("servicenow", &with(servicenow_script(), json!({"faults": faults})));
    let made = create(&sim, &json!({})).await;
    let path = format!("{INCIDENTS}/{}", made["sys_id"].as_str().unwrap());
    let limited = call(&sim, "GET", &path, &Value::Null).await;
    failed(&limited, 429, "Rate limit exceeded");
    assert_eq!(limited.header("retry-after"), "2");
    assert_eq!(call(&sim, "GET", &path, &Value::Null).await.status, 200);
    let lost = sim.wire.ask("PATCH", &path).header("authorization", BASIC);
    let lost = lost.json(&json!({"priority": "1"})).try_send().await;
    assert!(lost.is_err(), "{lost:?}");
    assert_eq!(sim.state().await["changes"].as_array().unwrap().len(), 1, "it was done");
    assert_eq!(call(&sim, "PATCH", &path, &json!({"priority": "2"})).await.status, 503);
    assert_eq!(sim.state().await["changes"].as_array().unwrap().len(), 1, "it was not done");
    sim.tell("faults", &json!([{"status": 500, "error": "told so"}])).await;
    failed(&call(&sim, "GET", &path, &Value::Null).await, 500, "told so");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_business_rule_calls_signed_and_says_nothing_of_the_text() {
    let target = Target::start().await;
    let url = format!("http://127.0.0.1:{}/echo", target.port());
    let script = with(servicenow_script(), json!({"webhook": {"url": url, "secret": "hook"}}));
    let sim = Simulator::start("servicenow", &script);
    let made = create(&sim, &json!({"short_description": "said in confidence"})).await;
    let delivered =
        |state: &Value| state["deliveries"].as_array().is_some_and(|all| !all.is_empty());
    let state = sim.until("the delivery", delivered).await;
    let delivery = &state["deliveries"][0];
    assert_eq!((&delivery["status"], &delivery["attempt"]), (&json!(200), &json!(1)));
    let echoed = delivery["answer"].as_str().unwrap();
    assert!(!echoed.contains("confidence"), "{echoed}");
    let event: Value = serde_json::from_str(echoed).unwrap();
    assert_eq!((&event["event"], &event["sys_id"]), (&json!("incident.created"), &made["sys_id"]));
    // The same event once more.
    sim.tell("announce", &json!({"sys_id": made["sys_id"]})).await;
    let twice = |state: &Value| state["deliveries"].as_array().is_some_and(|all| all.len() == 2);
    let state = sim.until("the second delivery", twice).await;
    assert_eq!(state["deliveries"][1]["answer"], state["deliveries"][0]["answer"]);
}
