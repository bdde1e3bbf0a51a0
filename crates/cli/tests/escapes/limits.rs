//! Limits: time, fuel, memory, tables, stack, results, calls; and code that breaks its own rules.

use serde_json::json;

use super::case::{Case, Want, With as _, crash, javascript, memory, python, timeout, wat};
use super::guests;
use super::host::MEMORY_MB;
use crate::common::target::Target;
use crate::sandbox::agents::{call, caller};
use crate::sandbox::place::component;

/// `target` takes its time.
pub(crate) fn cases(target: &Target) -> Vec<Case> {
    let mut cases = time(target);
    cases.extend(space());
    cases.extend(results());
    cases.extend(broken());
    cases
}

fn case(name: &'static str, text: &str, want: Want) -> Case {
    Case { name, request: wat(text), want }
}

fn time(target: &Target) -> Vec<Case> {
    let cpu = |name, text: &str| Case {
        name,
        request: wat(text).limits(|limits| limits.cpu_ms = Some(50)),
        want: timeout("cpu_time_exceeded", "50 ms (cpu_ms)"),
    };
    let url = format!("http://127.0.0.1:{}/slow", target.port());
    vec![
        cpu("an endless loop", &guests::forever()),
        cpu("an endless start", &guests::loop_at_start()),
        Case {
            name: "an endless loop on little fuel",
            request: wat(&guests::forever()).limits(|limits| limits.fuel = Some(10_000)),
            want: timeout("fuel_exhausted", "10000 units of fuel"),
        },
        Case {
            name: "an endless loop by the wall clock",
            request: wat(&guests::forever()).limits(|limits| limits.wall_ms = Some(60)),
            want: timeout("wall_time_exceeded", "60 ms"),
        },
        Case {
            name: "a slow call of the host",
            request: component(caller(&[call("core.http_call", &json!({"url": url}))]))
                .limits(|limits| limits.wall_ms = Some(50)),
            want: timeout("wall_time_exceeded", "50 ms"),
        },
        Case {
            name: "Python sleeps for a year",
            request: python("import time\ntime.sleep(3e7)")
                .limits(|limits| limits.wall_ms = Some(1_000)),
            want: timeout("wall_time_exceeded", "1000 ms"),
        },
        Case {
            name: "Python catches everything and goes on",
            request: python(
                "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            )
            .limits(|limits| limits.cpu_ms = Some(300)),
            want: timeout("cpu_time_exceeded", "300 ms"),
        },
        Case {
            name: "JavaScript matches without end",
            request: javascript("return /^(a+)+$/.test('a'.repeat(64) + 'b')")
                .limits(|limits| limits.cpu_ms = Some(300)),
            want: timeout("cpu_time_exceeded", "300 ms"),
        },
    ]
}

fn space() -> Vec<Case> {
    let most = format!("{} bytes", MEMORY_MB << 20);
    vec![
        case("a memory bomb", &guests::memory_bomb(), memory("memory_bytes")),
        Case {
            name: "a small memory bomb",
            request: wat(&guests::memory_bomb()).limits(|l| l.memory_bytes = Some(1 << 20)),
            want: memory("1048576"),
        },
        Case {
            name: "large from the start",
            request: wat(&guests::large_start()).limits(|l| l.memory_bytes = Some(64 << 20)),
            want: memory("memory_bytes"),
        },
        case("a table bomb", &guests::table_bomb(), memory("tables")),
        case("deep recursion", &guests::recursion(), crash("stack_exhausted", "stack")),
        Case {
            name: "Python takes all memory",
            request: python("a = []\nwhile True: a.append(bytearray(1 << 24))"),
            want: memory(&most),
        },
        Case {
            name: "Python recurses",
            request: python("def f(): return f()\nreturn f()"),
            want: crash("raised", "RecursionError"),
        },
        Case {
            name: "JavaScript takes all memory",
            request: javascript("const a = []; for (;;) a.push(new Uint8Array(1 << 24).fill(1));"),
            want: memory(""),
        },
        Case {
            name: "JavaScript recurses",
            request: javascript("const f = () => f() + 1; return f();"),
            want: crash("raised", "recursion"),
        },
    ]
}

fn results() -> Vec<Case> {
    let args_beyond = guests::agent(
        "(call $call (i32.const 1040) (i32.const 4) (i32.const -8) (i32.const 64)
            (i32.const 16)) (i32.const 16)",
    );
    let not_utf8 = guests::agent(
        "(i32.store8 (i32.const 512) (i32.const 255)) (call $ok (i32.const 512) (i32.const 1))",
    );
    let echo = call("core.fs_read", &json!({"path": "/nowhere"}));
    vec![
        case("a huge result", &guests::long(2 << 20), crash("output_too_long", "2097152 bytes")),
        case("a result beyond all", &guests::long(17 << 20), crash("output_too_long", "bytes")),
        case(
            "a result that is no JSON",
            &guests::agent("(call $ok (i32.const 1040) (i32.const 4))"),
            crash("output_not_json", "JSON"),
        ),
        case("a result that is no text", &not_utf8, crash("trap", "utf-8")),
        case(
            "a result beyond its memory",
            &guests::agent("(call $ok (i32.const -16) (i32.const 64))"),
            crash("trap", "out of bounds"),
        ),
        case("a result nowhere", &guests::agent("(i32.const -4)"), crash("trap", "out of bounds")),
        case("arguments beyond its memory", &args_beyond, crash("trap", "out of bounds")),
        Case {
            name: "calls without end",
            request: wat(&guests::many_calls()).limits(|limits| limits.tool_calls = Some(7)),
            want: crash("too_many_tool_calls", "more than 7 times"),
        },
        Case {
            name: "a call where none is granted",
            request: component(caller(&[echo])).limits(|limits| limits.tool_calls = Some(0)),
            want: crash("too_many_tool_calls", "0 times"),
        },
    ]
}

fn broken() -> Vec<Case> {
    vec![
        case(
            "reads beyond its memory",
            &guests::agent("(i32.load (i32.const -8))"),
            crash("trap", "out of bounds"),
        ),
        case("gives up", &guests::agent("(unreachable)"), crash("trap", "unreachable")),
        case("ends itself", &guests::exits(), crash("exited", "exit code 1")),
    ]
}
