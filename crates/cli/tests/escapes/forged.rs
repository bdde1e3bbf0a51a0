//! What is forged or replayed: attestations, the stored code of a tool, compiled code.

use std::fs;

use kernel::attestation::{self, Check};
use kernel::ids::ActionId;
use kernel::values::Digest;
use ledger::keys::NativeVerifier;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::sandboxes::{ExecuteRequest, GetAttestationRequest};
use proto::tools::{GrantToolRequest, RegisterToolRequest};
use proto::types::Json;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::case::With as _;
use super::host::Host;
use crate::common::{action, reaches};
use crate::sandbox::agents::echo;
use crate::sandbox::now;
use crate::sandbox::place::{component, json_of};

/// How a document is changed, given another one of the same log.
type Forge = fn(&mut Value, &Value);

/// What is done, how, and the field that the refusal names. Whoever verifies has no server: that is
/// no action and makes no receipt. What is verified is one.
const FORGED: [(&str, Forge, &str); 9] = [
    (
        "another ending",
        |it, _| it["attestation"]["ending"] = json!("TIMEOUT"),
        "attestation.ending",
    ),
    ("another agent", |it, _| it["attestation"]["agent_hash"] = hash(), "attestation.agent_hash"),
    (
        "another result",
        |it, _| it["attestation"]["output_hash"] = hash(),
        "attestation.output_hash",
    ),
    (
        "for ever",
        |it, _| it["attestation"]["not_after"] = json!((1_i64 << 53) - 1),
        "attestation.not_after",
    ),
    ("another salt", |it, _| it["disclosure"]["salt"] = json!("00"), "disclosure.salt"),
    (
        "under another execution",
        |it, other| it["execution_id"] = other["execution_id"].clone(),
        "execution_id",
    ),
    (
        "with the receipt of another",
        |it, other| it["receipt"] = other["receipt"].clone(),
        "execution_id",
    ),
    (
        "with what another attests",
        |it, other| it["attestation"] = other["attestation"].clone(),
        "attestation",
    ),
    (
        "with the permit of another",
        |it, other| {
            it["permit_receipt"] = other["permit_receipt"].clone();
        },
        "permit_receipt",
    ),
];

fn hash() -> Value {
    json!(Digest::of(b"forged").to_string())
}

async fn document(host: &Host, input: &Value) -> Value {
    let ended = host.agent.execute(&component(echo()).input(input), None).await.unwrap();
    let request = GetAttestationRequest { execution_id: ended.execution_id };
    let document = host.agent.get_attestation(&request).await.unwrap().data;
    serde_json::from_slice(&document).unwrap()
}

fn verify(
    document: &Value,
    check: &Check<'_>,
) -> Result<attestation::Verified, attestation::Refused> {
    attestation::verify(document.to_string().as_bytes(), check, &NativeVerifier)
}

pub(crate) async fn attestations(host: &Host) {
    let (one, other) = (document(host, &json!(1)).await, document(host, &json!(2)).await);
    verify(&one, &Check::at(now())).unwrap();
    for (name, forge, field) in FORGED {
        let mut forged = one.clone();
        forge(&mut forged, &other);
        let Err(refused) = verify(&forged, &Check::at(now())) else {
            panic!("{name}: it is believed")
        };
        assert!(refused.field.starts_with(field), "{name}: {refused:?}");
        host.unharmed(name).await;
    }
    // Replayed: an honest one, shown for another execution, or long after.
    let asked = ActionId::new(other["execution_id"].as_str().unwrap()).ok();
    let check = Check { execution_id: asked, ..Check::at(now()) };
    let refused = verify(&one, &check).unwrap_err();
    assert_eq!(
        (refused.code, refused.field.as_str()),
        ("attestation_other_execution", "execution_id")
    );
    let late =
        Check { max_age_micros: Some(60_000_000), ..Check::at(now().plus_millis(3_600_000)) };
    let refused = verify(&one, &late).unwrap_err();
    assert_eq!(refused.code, "attestation_too_old", "{refused:?}");
    host.unharmed("a replayed attestation").await;
}

/// The stored source of a registered tool is changed while the server runs: it does not run, and
/// the action says why.
pub(crate) async fn source_of_a_tool(host: &Host) {
    let builder = host.server.principal(Kind::User, &["builder"]).await;
    let manifest = json!({
        "id": "acme.twice", "version": "1.0.0", "description": "Twice a number.",
        "input_schema": {"type": "object"}, "labels": ["read"],
    });
    let request = RegisterToolRequest {
        manifest: Some(Json::of(&manifest).unwrap()),
        source: "export function run({ n }) { return 2 * n }".to_owned(),
        language: "javascript".to_owned(),
        ..Default::default()
    };
    let tool = builder.register_tool(&request, None).await.unwrap();
    let digest = tool.code_digest.clone();
    let (tool_id, code_digest) = (tool.tool_id, tool.code_digest);
    let grant = GrantToolRequest { tool_id, code_digest, ..Default::default() };
    host.server.owner.grant_tool(&grant, None).await.unwrap();
    let call = || async {
        let mut request = action("acme.twice", &json!({"n": 4}));
        request.wait_ms = Some(60_000);
        host.agent.submit_action(&request, None).await.unwrap().action_id
    };
    let good = reaches(&host.agent, &call().await, State::Executed).await;
    assert_eq!(json_of(good.result.as_ref()), json!(8));

    let stored = Connection::open(host.server.data.join("control.sqlite")).unwrap();
    stored.busy_timeout(crate::common::PATIENCE).unwrap();
    let digest = hex::decode(digest.strip_prefix("sha256:").unwrap()).unwrap();
    let bytes = b"export function run({ n }) { return 3 * n }";
    let change = "UPDATE blob SET bytes = ?1 WHERE digest = ?2";
    assert_eq!(stored.execute(change, params![&bytes[..], digest]).unwrap(), 1);
    let failed = reaches(&host.agent, &call().await, State::Failed).await;
    assert_eq!(failed.error.unwrap().code, "digest_mismatch");
    assert_eq!(failed.receipts.len(), 2, "a permit, and what came of it");
    host.receipt_says("changed source of a tool", &failed.receipts, "digest_mismatch").await;
    host.unharmed("changed source of a tool").await;
}

/// More components than a server keeps ready that came with requests.
const LOADED: u8 = 20;

/// Compiled code in the cache is changed: it is compiled anew, and does what the component says.
pub(crate) async fn compiled_code(host: &Host) {
    // A custom section of its own, so that nobody has it loaded.
    let marked = |mark: u8| {
        let mut code = echo();
        code.extend([0, 5, 4, b't', b'e', b's', mark]);
        code
    };
    let code = marked(b't');
    let run_one = |code: Vec<u8>, input: Value| {
        let request: ExecuteRequest = component(code).input(&input);
        async move { host.agent.execute(&request, None).await.unwrap() }
    };
    let run = |input: Value| run_one(code.clone(), input);
    assert_eq!(run(json!(1)).await.outcome, "SUCCESS");
    let digest = Digest::of(&code).hex();
    let digest = digest.trim_start_matches("sha256:");
    let entries = fs::read_dir(host.cache.path()).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(digest) && name.ends_with(".cwasm")
    };
    let path = entries.into_iter().find(ours).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    // So many others that the server has forgotten it.
    for mark in 0..LOADED {
        assert_eq!(run_one(marked(mark), json!(1)).await.outcome, "SUCCESS");
    }
    let ended = run(json!(2)).await;
    assert_eq!((ended.outcome.as_str(), json_of(ended.output.as_ref())), ("SUCCESS", json!(2)));
    assert_ne!(fs::read(&path).unwrap(), bytes, "it was compiled anew");
    host.unharmed("changed compiled code").await;
}
