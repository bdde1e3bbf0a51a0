//! Tools that are run in a sandbox, and what is attested of an execution.

use std::collections::BTreeMap;

use kernel::attestation::{
    Attestation, CodeKind, Denial, Disclosure, Ending, Facts, Files, Level, Limits, Runtime,
    SandboxType, ToolCall, Written,
};
use kernel::capability::{Capabilities, Capability, Network};
use kernel::ids::{ActionId, ToolId};
use kernel::machine::{Change, Kind};
use kernel::values::{Digest, Timestamp};
use kernel::wasm_tool::{self, Registration};

use super::{Told, principal, time};

/// A tool that is registered, compiled, granted, revoked, and registered in another version.
pub(super) fn commits() -> Vec<Vec<Told>> {
    let tool = |change| vec![(Kind::WasmTool, "acme.summarise", Change::WasmTool(change))];
    let registered = |version: &str, component: &[u8]| {
        wasm_tool::Change::Registered(Registration {
            manifest: Digest::of(version.as_bytes()),
            version: version.parse().unwrap(),
            component: Digest::of(component),
            kind: CodeKind::Component,
            by: principal("u_4"),
        })
    };
    let component = Digest::of(b"component");
    let bound = wasm_tool::Change::Bound {
        component,
        compiled: Digest::of(b"machine code"),
        engine: "wasmtime 48.0.8".to_owned(),
    };
    let granted = wasm_tool::Change::Granted {
        component,
        capabilities_hash: capabilities().digest(),
        capabilities: capabilities().into(),
        limits: limits(),
        by: principal("u_1"),
    };
    vec![
        tool(registered("1.0.0", b"component")),
        tool(bound),
        tool(granted),
        tool(wasm_tool::Change::Revoked { by: principal("u_1") }),
        tool(registered("1.1.0", b"other component")),
    ]
}

fn capabilities() -> Capabilities {
    Capabilities {
        file_read: vec!["/data/*".to_owned()],
        file_write: Vec::new(),
        network: Network {
            allowlist: vec!["api.example.com:443".to_owned()],
            denylist: vec!["203.0.113.0/24".to_owned()],
        },
        env: vec!["OACP_*".to_owned()],
    }
}

fn limits() -> Limits {
    Limits {
        memory_bytes: 512 << 20,
        cpu_ms: 1_000,
        wall_ms: 60_000,
        fuel: 10_000_000_000,
        output_bytes: 1 << 20,
        tool_calls: 100,
    }
}

/// What the agent of `act_1` is, what it was given and what it gave.
pub(crate) const AGENT: &str = "def run(input):\n    return call_tool(\"core.http_call\", input)\n";
pub(crate) const INPUT: &str = r#"{"url": "https://api.example.com/", "method": "GET"}"#;
pub(crate) const OUTPUT: &str = r#"{"status":200}"#;
pub(crate) const SALT: &str = "00112233445566778899aabbccddeeff";

/// What is disclosed of `act_1`: an agent that called a tool, read a file, wrote one, and wanted
/// another that it was not granted.
pub(crate) fn disclosure() -> Disclosure {
    let tool = ToolId::new("core.http_call").unwrap();
    let salted = |text: &str| kernel::attestation::salted(SALT, text.as_bytes());
    let call = ToolCall {
        seq: 1,
        tool: Some(tool.clone()),
        action: Some(ActionId::new("act_2").unwrap()),
        args: salted(INPUT),
        result: salted(OUTPUT),
        failed: true,
    };
    let denial = Denial { capability: Capability::FileRead, wanted: "/etc/passwd".to_owned() };
    let written = Written { digest: Digest::of(b"b,a"), bytes: 3 };
    let files = Files {
        read: BTreeMap::from([("/data/a.csv".to_owned(), Digest::of(b"a,b"))]),
        written: BTreeMap::from([("/data/b.csv".to_owned(), written)]),
    };
    Disclosure {
        salt: Some(SALT.to_owned()),
        capabilities: Some(capabilities()),
        denials: Some(vec![denial]),
        files: Some(files),
        tools: Some(BTreeMap::from([(tool, Digest::of(b"manifest"))])),
        tool_calls: Some(vec![call]),
    }
}

/// What is attested of `act_1`, for two centuries.
pub(crate) fn attestation() -> Attestation {
    attest(Level::Full, &disclosure(), Some(Timestamp(9_000_000_000_000_000)))
}

/// What is attested of an execution like `act_1`.
pub(crate) fn attest(
    level: Level,
    disclosed: &Disclosure,
    not_after: Option<Timestamp>,
) -> Attestation {
    let runtime = Runtime {
        engine: "wasmtime 48.0.8".to_owned(),
        digest: Digest::of(b"python.wasm"),
        compiled: Some(Digest::of(b"python.cwasm")),
    };
    Attestation::build(Facts {
        level,
        salt: disclosed.salt.as_deref().unwrap(),
        sandbox_id: "0123456789abcdef0123456789abcdef",
        sandbox_type: SandboxType::Standard,
        code_kind: CodeKind::Python,
        agent_hash: Digest::of(AGENT.as_bytes()),
        input: INPUT,
        output: OUTPUT,
        ending: Ending::Success,
        started_at: time(7),
        ended_at: time(7).plus_millis(250),
        not_after,
        seed: &[7; 32],
        limits: limits(),
        fuel_used: 198_220_092,
        memory_peak_bytes: 15_309_209,
        capabilities: disclosed.capabilities.as_ref().unwrap(),
        denied: &BTreeMap::from([(Capability::FileRead, 2)]),
        denials: disclosed.denials.as_deref().unwrap(),
        files: disclosed.files.as_ref().unwrap(),
        runtime: &runtime,
        tools: disclosed.tools.as_ref().unwrap(),
        calls: disclosed.tool_calls.as_deref().unwrap(),
    })
    .unwrap()
}
