//! `tally mcp -- COMMAND` in place of an MCP server: unmodified clients over stdio and HTTP, old
//! and new, several at once, and how it ends.

mod desk;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mcpkit::Revisions;
use mcpkit::peer::{Client as Peer, Speaks};
use mcpkit::program::Program;
use proto::actions::action::State;
use rustix::process::Signal;
use serde_json::{Value, json};

use self::desk::{Desk, Front, is_gone};
use crate::common::{assert_code, reaches};
use crate::mcp;

/// Reads, whatever the fixture says of them.
const READS: [&str; 10] = [
    "--label",
    "add=read",
    "--label",
    "test_elicitation=read",
    "--label",
    "test_tool_with_progress=read",
    "--label",
    "notes=read",
    "--label",
    "wait=read",
];

/// A program that a test needs and the test command installs.
fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

fn node_modules() -> PathBuf {
    installed("TALLY_MCP_NODE_MODULES")
}

/// The words of the official filesystem server, for the desk's files.
fn filesystem(desk: &Desk) -> Vec<String> {
    let modules = node_modules();
    let words = [
        modules.join(".bin/node"),
        modules.join("@modelcontextprotocol/server-filesystem/dist/index.js"),
        desk.files(),
    ];
    words.map(|word| word.display().to_string()).to_vec()
}

/// The official clients: the TypeScript SDK for the older revisions and for 2026-07-28, and the
/// Python SDK as either.
fn clients() -> Vec<(&'static str, Command)> {
    let script = |name: &str| format!("{}/tests/mcp_front/{name}", env!("CARGO_MANIFEST_DIR"));
    let node = |mode: &str| {
        let mut node = Command::new(node_modules().join(".bin/node"));
        node.args([script("client.mjs").as_str(), mode]);
        node
    };
    let python = |mode: &str| {
        let mut python = Command::new(installed("TALLY_MCP_PYTHON"));
        python.args([script("client.py").as_str(), mode]);
        python
    };
    vec![
        ("typescript-old", node("old")),
        ("typescript-new", node("new")),
        ("python-old", python("old")),
        ("python-new", python("new")),
    ]
}

/// One client: it lists and reads, its write is held, a person approves, the repeated write has
/// the result, and there is one effect, with its proof.
async fn story(desk: &Desk, name: &str, mut command: Command, mut way: Value) {
    let written = desk.files().join(format!("{name}.txt"));
    way["read"] = json!(desk.files().join("read.txt"));
    way["write"] = json!(written);
    command.arg(way.to_string());
    let mut client = Front::spawn(command.into());
    let mut step = async |what: &str| match client.hear().await {
        Some(step) => step,
        None => panic!("{name}: no {what}: {}", client.errors().await),
    };
    let tools = step("tools").await;
    assert!(tools["tools"].as_array().unwrap().contains(&json!("write_file")), "{tools}");
    let read = step("content").await;
    assert_eq!(read["content"][0]["text"], "to be read\n", "{read}");

    let held = step("held call").await;
    let note = &held["_meta"]["dev.tally/action"];
    assert_eq!((&held["isError"], &note["state"]), (&json!(true), &json!("awaiting_approval")));
    assert!(!written.exists(), "{name}: what is held must not run");
    let approval = note["approval_id"].as_str().unwrap();
    assert_code(&desk.person("approver.json", &["approve", approval]), 0);
    let approver = desk.client("approver.json");
    reaches(&approver, note["action_id"].as_str().unwrap(), State::Executed).await;

    client.say(&json!("go on")).await;
    let Some(done) = client.hear().await else { panic!("{name}: {}", client.errors().await) };
    assert_ne!(done["isError"], true, "{name}: {done}");
    assert_eq!(done["_meta"]["dev.tally/action"]["action_id"], note["action_id"]);
    assert!(fs::read_to_string(&written).unwrap().starts_with("by "));
    desk.prove();
    client.say(&json!("go on")).await;
    assert_eq!(client.ends().await, Some(0), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_over_stdio() {
    let desk = Desk::new();
    fs::write(desk.files().join("read.txt"), "to be read\n").unwrap();
    let args = desk.words(&["--name", "filesystem"], &filesystem(&desk));
    let way = json!({"command": env!("CARGO_BIN_EXE_tally"), "args": args, "env": {}});
    for (name, command) in clients() {
        story(&desk, name, command, way.clone()).await;
    }
    let agent = desk.record("filesystem")["agent"]["principal_id"].clone();
    assert!(agent.as_str().unwrap().starts_with("agt_"), "{agent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_over_http() {
    let desk = Desk::new();
    fs::write(desk.files().join("read.txt"), "to be read\n").unwrap();
    let mut front = desk.front(&["--name", "filesystem"], &filesystem(&desk));
    front.open().await;
    let key = desk.record("filesystem")["agent"]["key"].clone();
    for (name, command) in clients() {
        let way = json!({"url": format!("{}/mcp", desk.url()), "key": key});
        story(&desk, name, command, way).await;
    }
    front.close();
    assert_eq!(front.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_clients_with_old_and_new_servers() {
    let desk = Desk::new();
    for (speaks, revisions) in [
        (Speaks::Old, Revisions::Old),
        (Speaks::Old, Revisions::New),
        (Speaks::New, Revisions::Old),
        (Speaks::New, Revisions::New),
    ] {
        let server = mcp::upstream(Program::Everything(revisions));
        let mut words = vec![env!("CARGO_BIN_EXE_tally").to_owned()];
        words.extend(desk.words(&READS, &server));
        let client = Peer::stdio(&words, speaks).await.unwrap();
        let cell = format!("{speaks:?} {revisions:?}");
        assert!(client.tools().await.unwrap().contains(&"add".to_owned()), "{cell}");
        let sum = client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
        assert_eq!(sum["structuredContent"]["sum"].as_f64(), Some(3.0), "{cell}: {sum}");
        let form = client.call("test_elicitation", json!({"message": "who?"})).await.unwrap();
        assert!(form.to_string().contains("accept"), "{cell}: {form}");
        assert_eq!(client.heard.of("elicitation/create").len(), 1, "{cell}");
        let held = client.call("write_note", json!({"text": cell})).await.unwrap();
        assert_eq!(held["_meta"]["dev.tally/action"]["state"], "awaiting_approval", "{cell}");
        let notes = client.call("notes", json!({})).await.unwrap();
        assert!(!notes.to_string().contains(&cell), "{cell}: {notes}");
        client.peer.cancel().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_one_that_serves_is_killed_another_goes_on() {
    let desk = Desk::new();
    let server = mcp::upstream(Program::Everything(Revisions::Both));
    let [mut first, mut second] =
        ["one", "two"].map(|name| desk.front(&[&READS[..], &["--name", name]].concat(), &server));
    first.open().await;
    second.open().await;
    for front in [&mut first, &mut second] {
        let sum = front.call("add", json!({"a": 1, "b": 2})).await;
        assert_eq!(sum["result"]["structuredContent"]["sum"].as_f64(), Some(3.0), "{sum}");
    }
    // Whichever was faster serves.
    let (mut serves, mut goes_on, name) = match desk.serving() == first.pid() {
        true => (first, second, "two"),
        false => (second, first, "one"),
    };
    serves.process.kill().await.unwrap();
    let sum = goes_on.call("add", json!({"a": 2, "b": 2})).await;
    assert_eq!(sum["result"]["structuredContent"]["sum"].as_f64(), Some(4.0), "{sum}");
    assert_eq!(desk.serving(), goes_on.pid());

    // A third one, for the same command, finds it; and the agent is still the same.
    let agent = desk.record(name)["agent"]["principal_id"].clone();
    let mut third = desk.front(&[&READS[..], &["--name", name]].concat(), &server);
    third.open().await;
    assert!(third.call("add", json!({"a": 1, "b": 1})).await["result"].is_object());
    assert_eq!(desk.record(name)["agent"]["principal_id"], agent);
    desk.prove();
    for mut front in [third, goes_on] {
        front.close();
        assert_eq!(front.ends().await, Some(0));
    }
}

/// A value that is a secret of the command.
const SECRET: &str = "of the child";

/// A server whose process id is written to `file`, and which starts with the variables that it
/// was given, and with no others.
fn marked(file: &std::path::Path, server: &[String]) -> Vec<String> {
    let script = format!(
        r#"echo $$ > '{}'; test ${{#SECRET}} = {} -a -z "$UNNAMED" || exit 9; exec "$0" "$@""#,
        file.display(),
        SECRET.len()
    );
    ["sh".to_owned(), "-c".to_owned(), script].into_iter().chain(server.iter().cloned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_client_and_its_command_with_it() {
    let desk = Desk::new();
    let server = mcp::upstream(Program::Everything(Revisions::Both));
    let mut host = desk.front(&["--name", "host"], &server);
    host.open().await;
    let words = marked(&desk.files().join("pid"), &server);
    let env = [("SECRET", SECRET), ("UNNAMED", "of nobody")];
    for by in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let options = [&READS[..], &["--name", "guest", "--env", "SECRET"]].concat();
        let mut guest = desk.front_with(&options, &words, &env);
        guest.open().await;
        assert!(guest.call("add", json!({"a": 1, "b": 1})).await["result"].is_object());
        match by {
            // What was asked before the end is answered.
            None => {
                let params = json!({"name": "add", "arguments": {"a": 1, "b": 3}});
                let last =
                    json!({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params});
                guest.say(&last).await;
                guest.close();
                assert_eq!(guest.hear().await.unwrap()["id"], 99);
            }
            Some(signal) => guest.signal(signal),
        }
        assert_eq!(guest.ends().await, Some(0), "{by:?}");
        is_gone(&desk.files().join("pid")).await;
        assert_eq!(desk.serving(), host.pid(), "the server goes on");
    }
    // The value is nowhere to be read.
    let found = Command::new("grep").args(["-r", SECRET]).arg(desk.data()).output().unwrap();
    assert_eq!(found.stdout, b"", "a secret in a file");
    host.close();
    assert_eq!(host.ends().await, Some(0));
    // Nobody serves now, and people are told so.
    let nobody = desk.person("approver.json", &["approvals", "list"]);
    assert_code(&nobody, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_wrapped_is_said_on_standard_error_alone() {
    let desk = Desk::new();
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (options, words, code, said) in [
        (vec![], own(&["/no/such/program"]), 3, "/no/such/program"),
        (vec!["--name", "Not A Name"], own(&["true"]), 2, "a name has"),
        (vec!["--label", "nonsense"], own(&["true"]), 2, "TOOL=LABEL"),
        (vec!["--cwd", "/no/such/folder"], own(&["true"]), 1, "/no/such/folder"),
    ] {
        let mut front = desk.front(&options, &words);
        assert_eq!(front.hear().await, None, "{words:?}");
        let errors = front.errors().await;
        assert!(errors.contains(said), "{words:?}: {errors}");
        assert_eq!(front.ends().await, Some(code), "{words:?}: {errors}");
    }
    // A name keeps its command while somebody uses it.
    let server = mcp::upstream(Program::Everything(Revisions::Both));
    let mut front = desk.front(&["--name", "taken"], &server);
    front.open().await;
    let mut other = desk.front(&["--name", "taken"], &own(&["true"]));
    assert_eq!(other.hear().await, None);
    let errors = other.errors().await;
    assert!(errors.contains("`taken` is taken"), "{errors}");
    assert_eq!(other.ends().await, Some(64));
}
