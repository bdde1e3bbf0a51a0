//! The door to tools: what code asks for through it is decided like anything else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::case::{Case, Want, crash, denied, wat};
use super::guests;
use super::host::Host;
use crate::sandbox::agents::{call, caller};
use crate::sandbox::place::component;

/// An agent that makes one call.
pub(crate) fn calls(name: &'static str, tool: &str, args: &Value, want: Want) -> Case {
    Case { name, request: component(caller(&[call(tool, args)])), want }
}

pub(crate) fn cases(host: &Host) -> Vec<Case> {
    let code = STANDARD.encode(guests::component(&guests::echo()));
    let inner = |more: Value| {
        let mut params = json!({"component": code});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let etc = json!({"capabilities": {"file_read": ["/etc/passwd"]}});
    let address = host.server.url.replace("http://", "");
    vec![
        calls(
            "a tool reads beside its grant",
            "core.fs_read",
            &json!({"path": host.whole("secret.json")}),
            crash("raised", "path_not_granted"),
        ),
        calls(
            "a tool reads through a link",
            "core.fs_read",
            &json!({"path": host.whole("data/link.json")}),
            crash("raised", "path_not_granted"),
        ),
        calls(
            "a tool writes without a grant",
            "core.fs_write",
            &json!({"path": host.whole("data/n.json"), "content": "x", "mode": "overwrite"}),
            crash("raised", "path_not_granted"),
        ),
        calls(
            "a tool that policy denies",
            "core.http_call",
            &json!({"url": "https://example.com/"}),
            denied("tool", "core.http_call"),
        ),
        calls(
            "a tool asks this server",
            "core.http_call",
            &json!({"url": format!("http://{address}/healthz")}),
            crash("raised", "127.0.0.1"),
        ),
        calls("a tool that there is none of", "no.tool", &json!({}), denied("tool", "no.tool")),
        calls(
            "further code with more than there may be",
            "sandbox.execute",
            &inner(etc),
            denied("tool", "sandbox.execute"),
        ),
        calls(
            "further code in a weaker sandbox",
            "sandbox.execute",
            &inner(json!({"type": "light"})),
            denied("tool", "sandbox.execute"),
        ),
        calls(
            "further code with more fuel",
            "sandbox.execute",
            &inner(json!({"limits": {"fuel": 1_u64 << 52}})),
            denied("tool", "sandbox.execute"),
        ),
        calls(
            "a repetition of nothing",
            "sandbox.replay",
            &json!({"execution_id": "act_01jd0000000000000000000000"}),
            crash("raised", "not_found"),
        ),
        Case {
            name: "a tool with a name that is none",
            request: wat(&guests::calls(1_024, 300)),
            want: crash("raised", "tool_name_invalid"),
        },
        Case {
            name: "arguments that are no JSON",
            request: wat(&guests::agent(
                "(call $call (i32.const 1040) (i32.const 4) (i32.const 1040) (i32.const 4)
                    (i32.const 16)) (i32.const 16)",
            )),
            want: crash("raised", "args_invalid"),
        },
    ]
}
