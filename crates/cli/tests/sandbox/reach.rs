//! What code was granted outside of itself: files, hosts, and the process that is its sandbox; and
//! what a repetition makes of it.

use std::fs;

use kernel::attestation::{self, Check, Level};
use ledger::keys::NativeVerifier;
use proto::actions::action::State;
use proto::sandboxes::{
    Capabilities, ExecuteRequest, Execution, Network, Replay, ReplayExecutionRequest,
};
use proto::types::Json;
use serde_json::{Value, json};

use super::place::{Place, json_of};
use super::source::interpreters_and;
use super::{now, verified};
use crate::common::rego;
use crate::common::target::Target;
use crate::escapes::light;

const ALLOW: &str =
    r#"decisions contains {"effect": "ALLOW", "rule": "R", "reason": "all"} if true"#;

fn source(language: &str, text: &str, input: &Value) -> ExecuteRequest {
    ExecuteRequest {
        language: language.to_owned(),
        source: text.to_owned(),
        input: Some(Json::of(input).unwrap()),
        wait_ms: Some(60_000),
        ..ExecuteRequest::default()
    }
}

fn fields(replay: &Replay) -> Vec<&str> {
    replay.differences.iter().map(|difference| difference.field.as_str()).collect()
}

async fn replayed(place: &Place, execution: &Execution) -> Replay {
    let replay = place.replay(execution, &[]).await;
    assert_eq!(replay.state(), State::Executed, "{replay:?}");
    replay
}

/// Adds a line to a file that it reads, in a file that it writes.
const FILES: &str = "\
def run(folder):
    text = open(folder + '/in').read()
    with open(folder + '/made', 'w') as made:
        made.write(text + ' and one')
    return len(text)
";

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_by_a_repetition() {
    let grants = ", capabilities: {file_read: ['/**'], file_write: ['/**']}";
    let place = Place::with(&interpreters_and(grants), &rego(ALLOW)).await;
    let path = |name: &str| place.root.join(name).display().to_string();
    let granted = Capabilities {
        file_read: vec![path("in")],
        file_write: vec![path("made")],
        ..Capabilities::default()
    };
    let request = source("python", FILES, &json!(place.root));
    let request = ExecuteRequest { capabilities: Some(granted), ..request };
    let ended = place.run(request).await;
    assert_eq!(ended.outcome, "SUCCESS", "{ended:?}");
    assert_eq!(fs::read_to_string(path("made")).unwrap(), "seven and one");
    assert_eq!((ended.written.len(), &ended.written[0].path), (1, &path("made")));
    let told = verified(&place.attestation(&ended).await).unwrap();
    assert!(told.attestation.files_hash.is_some(), "what was read and written is attested");

    // The same files: the same, and nothing is put in place again.
    fs::remove_file(path("made")).unwrap();
    let same = replayed(&place, &ended).await;
    assert!(same.matches && same.differences.is_empty(), "{same:?}");
    assert!(fs::metadata(path("made")).is_err(), "a repetition writes no file");

    // A changed file is a difference, and so is what follows from it.
    fs::write(path("in"), "eight!").unwrap();
    let other = replayed(&place, &ended).await;
    for field in ["files_read", "output", "written"] {
        assert!(!other.matches && fields(&other).contains(&field), "{field}: {other:?}");
    }
    fs::remove_file(path("in")).unwrap();
    let gone = replayed(&place, &ended).await;
    for field in ["outcome", "files_read"] {
        assert!(!gone.matches && fields(&gone).contains(&field), "{field}: {gone:?}");
    }
    fs::write(path("in"), "seven").unwrap();
    assert!(replayed(&place, &ended).await.matches, "as it was before");
}

const FETCHES: [(&str, &str); 2] = [
    (
        "python",
        "from tally import fetch\n\
         def run(url):\n    \
         answer = fetch(url, 'POST', {'content-type': 'text/plain'}, 'ü' * 50_000)\n    \
         return [answer.status, answer.text() == 'ü' * 50_000]",
    ),
    (
        "javascript",
        "export async function run(url) {\n\
         const answer = await fetch(url, { method: 'POST', body: 'ü'.repeat(50_000) });\n\
         return [answer.status, (await answer.text()) === 'ü'.repeat(50_000)] }",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_host_is_sent_a_body_and_not_by_a_repetition() {
    let target = Target::start().await;
    let host = format!("127.0.0.1:{}", target.port());
    let grants = format!(", capabilities: {{network: {{allowlist: ['{host}']}}}}");
    let place = Place::with(&interpreters_and(&grants), &rego(ALLOW)).await;
    let network = Network { allowlist: vec![host.clone()], ..Network::default() };
    let granted = Capabilities { network: Some(network), ..Capabilities::default() };
    for (nth, (language, text)) in FETCHES.into_iter().enumerate() {
        let request = source(language, text, &json!(format!("http://{host}/echo")));
        let request = ExecuteRequest { capabilities: Some(granted.clone()), ..request };
        let ended = place.run(request).await;
        assert_eq!(ended.outcome, "SUCCESS", "{ended:?}");
        assert_eq!(json_of(ended.output.as_ref()), json!([200, true]), "{language}");
        let seen = target.seen();
        assert_eq!((seen.len(), seen[nth].method.as_str()), (nth + 1, "POST"));

        // What the host said is not recorded: the repetition says so, and asks nobody.
        let other = replayed(&place, &ended).await;
        assert!(!other.matches, "{other:?}");
        let network = other.differences.iter().find(|d| d.field == "network").unwrap();
        assert_eq!((network.recorded.as_str(), &network.replayed), ("not recorded", &host));
        assert!(fields(&other).contains(&"outcome"), "{other:?}");
        assert_eq!(target.seen().len(), nth + 1, "it asked the host again");
    }
}

const PROCESSES: [(&str, &str); 2] = [
    (
        "python",
        "import os\nfrom tally import call_tool\n\
         def run(folder):\n    \
         text = call_tool('core.fs_read', path=folder + '/in')['content']\n    \
         open(folder[1:] + '/made', 'w').write(text)\n    \
         return [text.upper(), os.environ['APP_MODE']]",
    ),
    (
        "javascript",
        "import { writeFileSync } from 'node:fs';\n\
         export async function run(folder) {\n\
         const text = callTool('core.fs_read', { path: folder + '/in' }).content;\n\
         writeFileSync(folder.slice(1) + '/made', text);\n\
         return [text.toUpperCase(), process.env.APP_MODE] }",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_process_calls_tools_and_writes_what_it_was_granted() {
    let more = "  env: {APP_MODE: dry, SECRET: s}\n  wall_ms: 300000\n  \
                capabilities: {env: ['APP_*'], file_write: ['/**']}\n  \
                wasm: {cpu_quota_ms: 120000}";
    let settings = format!("sandbox:\n{}{more}", light::enabled());
    let place = Place::with(&settings, &rego(ALLOW)).await;
    let made = place.root.join("made");
    for (language, text) in PROCESSES {
        let granted = Capabilities {
            file_write: vec![made.display().to_string()],
            env: vec!["APP_*".to_owned()],
            ..Capabilities::default()
        };
        let request = ExecuteRequest {
            r#type: "light".to_owned(),
            capabilities: Some(granted),
            ..source(language, text, &json!(place.root))
        };
        let ended = place.run(request).await;
        assert_eq!((&*ended.outcome, &*ended.r#type), ("SUCCESS", "light"), "{ended:?}");
        assert_eq!(json_of(ended.output.as_ref()), json!(["SEVEN", "dry"]), "{language}");
        assert_eq!(
            (fs::read_to_string(&made).unwrap().as_str(), ended.written.len()),
            ("seven", 1)
        );
        fs::remove_file(&made).unwrap();
        let [called] = &ended.tool_calls[..] else { panic!("{ended:?}") };
        assert_eq!((&*called.tool, &*called.status), ("core.fs_read", "executed"));

        // It is attested for what it is.
        let document = place.attestation(&ended).await;
        let basic = Check { level: Level::Basic, ..Check::at(now()) };
        let told = attestation::verify(&document, &basic, &NativeVerifier).unwrap();
        assert_eq!(told.attestation.sandbox_type, attestation::SandboxType::Light);
        assert_eq!(verified(&document).unwrap_err().field, "attestation.level");
        // And is not repeated: a process is not the same twice.
        let request = ReplayExecutionRequest {
            execution_id: ended.execution_id.clone(),
            wait_ms: Some(60_000),
            ..Default::default()
        };
        let again = place.agent.replay_execution(&request, None).await.unwrap();
        let error = again.error.as_ref().unwrap();
        assert_eq!((again.state(), error.code.as_str()), (State::Failed, "not_replayable"));
        assert!(error.message.contains("only WebAssembly"), "{}", error.message);
    }
}
