//! Agents as components: text that is assembled here.

use std::fmt::Write as _;

use serde_json::Value;

/// Where the texts of an agent begin.
const TEXTS: usize = 1_024;

/// A call of a tool.
pub(crate) fn call(tool: &str, args: &Value) -> (String, String) {
    (tool.to_owned(), args.to_string())
}

/// An agent that makes these calls, one after the other. It gives what the last one gave, and fails
/// as the first that fails.
pub(crate) fn caller(calls: &[(String, String)]) -> Vec<u8> {
    let (mut data, mut body, mut at) = (String::new(), String::new(), TEXTS);
    let mut text = |text: &str| {
        let place = at;
        let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let _infallible = writeln!(data, "(data (i32.const {place}) \"{bytes}\")");
        at += text.len();
        (place, text.len())
    };
    for (tool, args) in calls {
        let ((tool, tool_len), (args, args_len)) = (text(tool), text(args));
        let _infallible = writeln!(
            body,
            "(call $call (i32.const {tool}) (i32.const {tool_len}) (i32.const {args})
                (i32.const {args_len}) (i32.const 16))
            (if (i32.load8_u (i32.const 16)) (then (return (i32.const 16))))"
        );
    }
    assemble(&data, &format!("{body} (i32.const 16)"))
}

/// An agent that gives its input.
pub(crate) fn echo() -> Vec<u8> {
    assemble(
        "",
        "(i32.store (i32.const 16) (i32.const 0))
        (i32.store (i32.const 20) (local.get $at))
        (i32.store (i32.const 24) (local.get $len))
        (i32.const 16)",
    )
}

/// An agent that never ends.
pub(crate) fn endless() -> Vec<u8> {
    assemble("", "(loop $again (br $again)) (unreachable)")
}

fn assemble(data: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
    (import "call-tool" (func $call-tool
        (param "name" string) (param "args-json" string)
        (result (result string (error string)))))
    (core module $libc
        (memory (export "memory") 32)
        (global $next (mut i32) (i32.const 1048576))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (local.get $at)))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (alias core export $libc "realloc" (core func $realloc))
    (core func $call-tool-core (canon lower (func $call-tool)
        (memory $memory) (realloc $realloc)))
    (core module $agent
        (import "libc" "memory" (memory 32))
        (import "host" "call-tool" (func $call (param i32 i32 i32 i32 i32)))
        {data}
        (func (export "run") (param $at i32) (param $len i32) (result i32)
            {body}))
    (core instance $agent (instantiate $agent
        (with "libc" (instance $libc))
        (with "host" (instance (export "call-tool" (func $call-tool-core))))))
    (func (export "run") (param "input" string) (result (result string (error string)))
        (canon lift (core func $agent "run") (memory $memory) (realloc $realloc))))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
