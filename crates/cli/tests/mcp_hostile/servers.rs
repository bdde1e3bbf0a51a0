//! What an upstream can do that misbehaves: ruin its own call, and nothing else.

use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::program::Program;
use mcpkit::{Revisions, Running};
use proto::actions::Action;
use proto::actions::action::State;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{INVALID_PARAMS, Marks, Scene};
use crate::common::{LOOK_EVERY, PATIENCE};
use crate::mcp::gateway::{Gateway, over_http, over_stdio};
use crate::mcp::raw::{code, said};
use crate::mcp::upstream;

/// How long a call may take where the server never answers.
const CALL_TIME_MS: u64 = 1500;

/// Both transports of a server with `vice`, which behaves until its tool `victim` is called.
async fn both(vice: Vice) -> Vec<(Gateway, Marks, Option<Running>)> {
    let running = Misbehave::new(Revisions::Both, vice).http().await;
    let command = upstream(Program::Misbehave(Revisions::Both, vice));
    let (http, stdio) = (over_http("bad", &running), over_stdio("bad", &command));
    let mut scenes = Vec::new();
    for (mut spec, running) in [(http, Some(running)), (stdio, None)] {
        spec["timeout_ms"] = json!(CALL_TIME_MS);
        let gateway = Gateway::start(&[spec]).await;
        gateway.raw().lists("victim").await;
        scenes.push((gateway, Marks::new(), running));
    }
    scenes
}

/// The one action that called `victim`, once it has ended.
async fn ended(gateway: &Gateway) -> Action {
    let until = Instant::now() + PATIENCE;
    loop {
        let actions = gateway.actions(State::Unspecified).await;
        let mut of_victim = actions.into_iter().filter(|one| one.tool == "mcp.bad.victim");
        let action = of_victim.next().unwrap();
        assert!(of_victim.next().is_none(), "it was called once");
        if [State::Executed, State::Failed, State::Unknown].contains(&action.state()) {
            return action;
        }
        assert!(Instant::now() < until, "it never ends: {action:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// What was no success.
fn failed(message: &Value) -> bool {
    message.get("error").is_some() || message["result"]["isError"] == true
}

/// That the other tools go on, over the same upstream.
async fn goes_on(gateway: &Gateway, marks: &Marks) {
    let before = marks.of("bystander");
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.raw().call("bystander", json!({"mark": marks.path()})).await;
        if !failed(&answer) {
            assert_eq!(said(&answer), "bystander did it");
            break;
        }
        // A server that died is reached again, not at once.
        assert!(Instant::now() < until, "{answer}");
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(marks.of("bystander"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_mid_call_leaves_one_unknown_and_no_repetition() {
    for (gateway, marks, _running) in both(Vice::Crash).await {
        let answer = gateway.raw().call("victim", json!({"mark": marks.path()})).await;
        assert!(failed(&answer), "{answer}");
        assert_eq!(ended(&gateway).await.state(), State::Unknown, "it was sent");
        goes_on(&gateway, &marks).await;
        assert_eq!(marks.of("victim"), 1, "what may have had an effect is never repeated");
        assert_eq!(ended(&gateway).await.state(), State::Unknown);
        gateway.verify();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_its_own_call_alone() {
    for (gateway, marks, _running) in both(Vice::Hang).await {
        let raw = gateway.raw();
        let arguments = json!({"mark": marks.path()});
        let hung = tokio::spawn(async move { raw.call("victim", arguments).await });
        let until = Instant::now() + PATIENCE;
        while marks.of("victim") == 0 {
            assert!(Instant::now() < until, "the call never arrives");
            sleep(LOOK_EVERY).await;
        }
        goes_on(&gateway, &marks).await;
        assert!(gateway.raw().tools().await.contains(&"victim".to_owned()), "it is still listed");
        let answer = hung.await.unwrap();
        assert!(failed(&answer), "{answer}");
        assert_eq!(ended(&gateway).await.state(), State::Unknown);
        goes_on(&gateway, &marks).await;
        assert_eq!(marks.of("victim"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_bounded() {
    for vice in [Vice::Flood, Vice::Pour] {
        for (gateway, marks, _running) in both(vice).await {
            let answer = gateway.raw().call("victim", json!({"mark": marks.path()})).await;
            assert!(failed(&answer), "{vice:?}: {answer}");
            assert_eq!(ended(&gateway).await.state(), State::Unknown, "{vice:?}");
            goes_on(&gateway, &marks).await;
            assert_eq!(marks.of("victim"), 1, "{vice:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_are_not_taken_for_answers() {
    for vice in [Vice::WrongId, Vice::Huge, Vice::Deep, Vice::DuplicateKeys, Vice::Garbage] {
        for (gateway, marks, _running) in both(vice).await {
            let answer = gateway.raw().call("victim", json!({"mark": marks.path()})).await;
            assert!(failed(&answer), "{vice:?}: {answer}");
            let state = ended(&gateway).await.state();
            assert!([State::Unknown, State::Failed].contains(&state), "{vice:?}: {state:?}");
            goes_on(&gateway, &marks).await;
            assert_eq!(marks.of("victim"), 1, "{vice:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_is_nobodys() {
    for (gateway, marks, _running) in both(Vice::Twice).await {
        let answer = gateway.raw().call("victim", json!({"mark": marks.path()})).await;
        assert_eq!(said(&answer), "victim did it");
        goes_on(&gateway, &marks).await;
        assert_eq!(ended(&gateway).await.state(), State::Executed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asks_nobody_who_did_not_say_that_they_can_be_asked() {
    for (gateway, marks, _running) in both(Vice::Asks).await {
        let answer = gateway.raw().call("victim", json!({"mark": marks.path()})).await;
        assert!(!answer.to_string().contains("password"), "{answer}");
        goes_on(&gateway, &marks).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_definition_is_out_until_somebody_looks() {
    let scene = Scene::new(Vice::None).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    said(&raw.call("victim", json!({})).await);
    scene.server.change();
    raw.lists_no_more("victim").await;
    let before = scene.calls();
    assert_eq!(code(&raw.call("victim", json!({})).await), INVALID_PARAMS);
    assert_eq!(scene.calls(), before, "what nobody has looked at is not called");
    assert_eq!(said(&raw.call("bystander", json!({})).await), "bystander did it");
    scene.server.change_back();
    raw.lists("victim").await;
    assert_eq!(said(&raw.call("victim", json!({})).await), "victim did it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_nobody_looked_is_out_after_a_restart() {
    let scene = Scene::new(Vice::None).await;
    scene.gateway.raw().lists("victim").await;
    let Scene { mut gateway, server, running, .. } = scene;
    assert!(gateway.server.terminate().success());
    server.change();
    gateway.server.restart();
    let raw = gateway.raw();
    raw.lists("bystander").await;
    raw.lists_no_more("victim").await;
    assert_eq!(code(&raw.call("victim", json!({})).await), INVALID_PARAMS);
    drop(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_pass_for_others_are_not_offered() {
    let scene = Scene::new(Vice::LookAlikes).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    let mut tools = raw.tools().await;
    tools.sort();
    // What differs by case is another tool, and a rule about one is none about the other.
    let other = ["VICTIM", "Victim", "bystander", "bystander__victim", "change", "victim"];
    assert_eq!(tools, other);
    for name in ["vict\u{456}m", "vic\u{200b}tim", "resources/read", "victim "] {
        assert_eq!(code(&raw.call(name, json!({})).await), INVALID_PARAMS, "{name:?}");
    }
    assert_eq!(scene.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_cannot_take_over_anothers_name() {
    let plain = Misbehave::new(Revisions::Both, Vice::None);
    let thief = Misbehave::new(Revisions::Both, Vice::LookAlikes);
    let (first, second) = (plain.http().await, thief.http().await);
    let upstreams = [over_http("bystander", &first), over_http("thief", &second)];
    let gateway = Gateway::start(&upstreams).await;
    let raw = gateway.raw();
    raw.lists("thief__victim").await;
    raw.lists("bystander__victim").await;
    let tools = raw.tools().await;
    assert!(!tools.contains(&"victim".to_owned()), "two have it: {tools:?}");
    // The thief has a tool that is called as the other's tool has come to be.
    let taken = tools.iter().filter(|name| *name == "bystander__victim").count();
    assert!(taken <= 1, "{tools:?}");
    assert!(tools.contains(&"thief__bystander__victim".to_owned()), "{tools:?}");
    assert_eq!(code(&raw.call("victim", json!({})).await), INVALID_PARAMS);
    said(&raw.call("bystander__victim", json!({})).await);
    let calls = |server: &Misbehave| {
        server.received().iter().filter(|text| text.contains(r#""tools/call""#)).count()
    };
    assert_eq!((calls(&plain), calls(&thief)), (1, 0));
    let executed = gateway.actions(State::Executed).await;
    assert_eq!(executed[0].tool, "mcp.bystander.victim");
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_hundred_tools_are_listed_and_pages_without_end_are_not_read() {
    let many = Misbehave::new(Revisions::Both, Vice::Many).http().await;
    let endless = Misbehave::new(Revisions::Both, Vice::Endless);
    let running = endless.http().await;
    let upstreams = [over_http("many", &many), over_http("endless", &running)];
    let gateway = Gateway::start(&upstreams).await;
    let raw = gateway.raw();
    raw.lists("tool_899").await;
    let until = Instant::now() + PATIENCE;
    while endless.received().iter().all(|text| !text.contains("cursor")) {
        assert!(Instant::now() < until, "the other is never asked");
        sleep(LOOK_EVERY).await;
    }
    let listed = raw.tools().await;
    assert!(listed.len() < 100_000, "{}", listed.len());
    assert_eq!(said(&raw.call("bystander", json!({})).await), "bystander did it");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_do_not_compile_are_not_offered_and_nothing_is_fetched() {
    let scene = Scene::new(Vice::BadSchemas).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    let tools = raw.tools().await;
    assert_eq!(tools, ["victim", "bystander", "change"]);
    for name in ["remote", "broken", "list"] {
        assert_eq!(code(&raw.call(name, json!({})).await), INVALID_PARAMS, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dead_or_mute_delays_nobody() {
    let well = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let mute = Misbehave::new(Revisions::Both, Vice::Mute).http().await;
    let gone = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let dead = over_http("dead", &gone);
    gone.stop().await;
    let missing = over_stdio("missing", &["/no/such/program".to_owned()]);
    let upstreams = [over_http("mute", &mute), over_http("well", &well), dead, missing];
    let gateway = Gateway::start(&upstreams).await;
    let raw = gateway.raw();
    raw.lists("victim").await;
    assert_eq!(said(&raw.call("victim", json!({})).await), "victim did it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_found_again() {
    let server = Misbehave::new(Revisions::Both, Vice::None);
    let running = server.http().await;
    let gateway = Gateway::start(&[over_http("bad", &running)]).await;
    let raw = gateway.raw();
    raw.lists("victim").await;
    let address = running.address();
    running.stop().await;
    let answer = raw.call("victim", json!({})).await;
    assert!(failed(&answer), "{answer}");
    assert!(raw.tools().await.contains(&"victim".to_owned()), "it stays listed");
    let _running = server.http_at(address).await;
    let marks = Marks::new();
    goes_on(&gateway, &marks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_follow_no_redirect() {
    let server = Misbehave::new(Revisions::Both, Vice::Redirect);
    let running = server.http().await;
    let mut spec = over_http("bad", &running);
    spec["transport"]["headers"] = json!({"authorization": "Bearer of the upstream"});
    let gateway = Gateway::start(&[spec]).await;
    let until = Instant::now() + PATIENCE;
    while server.credentials().is_empty() {
        assert!(Instant::now() < until, "it is never asked");
        sleep(LOOK_EVERY).await;
    }
    assert!(server.credentials().iter().all(|one| one == "Bearer of the upstream"));
    assert_eq!(gateway.raw().tools().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_credential_never_reaches_a_server() {
    let scene = Scene::new(Vice::None).await;
    let raw = scene.gateway.raw();
    raw.lists("victim").await;
    said(&raw.call("victim", json!({})).await);
    assert_eq!(scene.server.credentials(), Vec::<String>::new());
    let key = &scene.gateway.key;
    assert!(scene.server.received().iter().all(|text| !text.contains(key.as_str())));
}
