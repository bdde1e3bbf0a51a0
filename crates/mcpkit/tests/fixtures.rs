//! The fixtures do what they say, over both transports and on both revisions.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use std::time::Duration;

use mcpkit::everything::Everything;
use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::peer::{Client, Speaks};
use mcpkit::program::{Program, command};
use mcpkit::{Revisions, fast};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: the servers over stdio.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    mcpkit::program::run();
}

const BOTH: [(Speaks, Revisions); 4] = [
    (Speaks::Old, Revisions::Old),
    (Speaks::New, Revisions::New),
    (Speaks::Old, Revisions::Both),
    (Speaks::New, Revisions::Both),
];

async fn exercise(client: Client) {
    assert!(client.tools().await.unwrap().contains(&"write_note".to_owned()));
    let sum = client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
    assert_eq!(sum["structuredContent"]["sum"].as_f64(), Some(3.0));
    let hello = client.call("test_input_required_result_elicitation", json!({})).await.unwrap();
    assert_eq!(hello["content"][0]["text"], "Hello, Ada!");
    let rounds = client.call("test_input_required_result_multi_round", json!({})).await.unwrap();
    assert_eq!(rounds["content"][0]["text"], "Multi-round flow complete");
    let all = client.call("test_input_required_result_multiple_inputs", json!({})).await.unwrap();
    assert_eq!(all["content"][0]["text"], "All inputs received");
    assert_eq!(client.heard.of("sampling/createMessage").len(), 1);
    client.call("test_tool_with_progress", json!({})).await.unwrap();
    assert!(client.call("no_such_tool", json!({})).await.is_err());
    client.peer.cancel().await.unwrap();
}

#[tokio::test]
async fn everything_speaks_both_revisions_over_http() {
    for (speaks, revisions) in BOTH {
        let running = Everything::new(revisions).http().await;
        exercise(Client::http(&running.url, None, speaks).await.unwrap()).await;
    }
}

/// Waits until `holds`.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn changes_and_cancellations_arrive() {
    for (speaks, revisions) in BOTH {
        let server = Everything::new(revisions);
        let running = server.http().await;
        let client = Client::http(&running.url, None, speaks).await.unwrap();
        client.watch("test://watched-resource").await.unwrap();
        client.call("write_note", json!({"text": "a note"})).await.unwrap();
        assert_eq!(server.notes(), ["a note"]);
        let updated = "notifications/resources/updated";
        until("the change is heard", || !client.heard.of(updated).is_empty()).await;
        let pending = client.begin("wait", json!({"ms": 600_000})).await.unwrap();
        let progress = "notifications/progress";
        until("the call runs", || !client.heard.of(progress).is_empty()).await;
        pending.cancel().await.unwrap();
        until("the server hears of it", || server.cancelled() == 1).await;
    }
}

#[tokio::test]
async fn what_is_fleeting_goes_and_comes_back() {
    let running = Everything::new(Revisions::Both).http().await;
    for listed in [false, true] {
        let client = Client::http(&running.url, None, Speaks::New).await.unwrap();
        client.call("test_trigger_tool_change", json!({})).await.unwrap();
        client.call("test_trigger_prompt_change", json!({})).await.unwrap();
        let fleeting = "fleeting".to_owned();
        assert_eq!(client.tools().await.unwrap().contains(&fleeting), listed);
        assert_eq!(client.prompts().await.unwrap().contains(&fleeting), listed);
    }
}

#[tokio::test]
async fn everything_speaks_both_revisions_over_stdio() {
    for (speaks, revisions) in BOTH {
        let command = command("program", Program::Everything(revisions));
        exercise(Client::stdio(&command, speaks).await.unwrap()).await;
    }
}

#[tokio::test]
async fn misbehave_behaves_where_it_is_told_of_no_vice() {
    for (speaks, revisions) in BOTH {
        let running = Misbehave::new(revisions, Vice::None).http().await;
        let over_http = Client::http(&running.url, None, speaks).await.unwrap();
        let command = command("program", Program::Misbehave(revisions, Vice::None));
        let over_stdio = Client::stdio(&command, speaks).await.unwrap();
        for client in [over_http, over_stdio] {
            assert_eq!(client.tools().await.unwrap(), ["victim", "bystander", "change"]);
            let answer = client.call("victim", json!({})).await.unwrap();
            assert_eq!(answer["content"][0]["text"], "victim did it");
            let before = client.peer.list_all_tools().await.unwrap();
            client.call("change", json!({})).await.unwrap();
            let after = client.peer.list_all_tools().await.unwrap();
            assert_ne!(before[0].description, after[0].description);
        }
    }
}

#[tokio::test]
async fn a_crash_cuts_the_call_and_leaves_its_mark() {
    let folder = std::env::temp_dir().join(format!("mcpkit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mark = folder.join("mark");
    let arguments = json!({"mark": mark});
    let command = command("program", Program::Misbehave(Revisions::Both, Vice::Crash));
    let client = Client::stdio(&command, Speaks::New).await.unwrap();
    client.call("bystander", arguments.clone()).await.unwrap();
    assert!(client.call("victim", arguments).await.is_err());
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "bystander\nvictim\n");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn many_tools_come_on_pages() {
    let running = Misbehave::new(Revisions::Both, Vice::Many).http().await;
    let client = Client::http(&running.url, None, Speaks::New).await.unwrap();
    assert_eq!(client.tools().await.unwrap().len(), 903);
}

#[tokio::test]
async fn fast_speaks_both_revisions() {
    let running = fast::serve().await;
    for speaks in [Speaks::Old, Speaks::New] {
        let client = Client::http(&running.url, None, speaks).await.unwrap();
        assert_eq!(client.tools().await.unwrap(), [fast::TOOL]);
        let answer = client.call(fast::TOOL, json!({"text": "x"})).await.unwrap();
        let text: &Value = &answer["content"][0]["text"];
        assert_eq!(text, "done");
    }
}
