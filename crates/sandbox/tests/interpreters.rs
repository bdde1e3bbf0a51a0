//! Agents as source text, run by the real interpreters.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail loudly")]

#[expect(dead_code, reason = "the corpus uses more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kernel::attestation::CodeKind::{self, Javascript, Python};
use kernel::attestation::{Ending, Limits};
use kernel::capability::{Capabilities, Capability};
use sandbox::{Report, Sandboxes};
use serde_json::{Value, json};
use support::{Job, Tools, config, source};

/// What the test command installs.
fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

/// One for all tests, so that each interpreter is loaded once.
fn boxes() -> &'static Sandboxes {
    static BOXES: OnceLock<Sandboxes> = OnceLock::new();
    BOXES.get_or_init(|| {
        let mut config = config(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("interpreters"));
        config.runtimes = Some(installed("TALLY_RUNTIMES"));
        config.cache = installed("TALLY_SANDBOX_CACHE");
        config.per_tenant_max = config.live_max;
        Sandboxes::new(config).expect("sandboxes")
    })
}

/// Time enough on a machine that does other things too.
const PATIENT: Limits = Limits { cpu_ms: 120_000, wall_ms: 300_000, ..sandbox::limits::DEFAULT };

fn job(input: &str) -> Job {
    Job { limits: PATIENT, ..Job::of(input) }
}

async fn run(kind: CodeKind, text: &str, job: Job) -> Report {
    job.run(boxes(), source(kind, text)).await.expect("a report")
}

async fn result(kind: CodeKind, text: &str, input: &Value) -> Value {
    let report = run(kind, text, job(&input.to_string())).await;
    assert_eq!(report.ending, Ending::Success, "{report:?}");
    serde_json::from_str(&report.output.expect("a result")).expect("JSON")
}

/// How a program fails.
async fn failure(kind: CodeKind, text: &str, job: Job) -> (Report, String) {
    let report = run(kind, text, job).await;
    assert_ne!(report.ending, Ending::Success, "{text}\n{report:?}");
    let why = report.output.clone().expect_err("a reason");
    (report, why)
}

#[tokio::test]
async fn a_program_is_given_its_input_and_gives_a_result() {
    let input = json!({"name": "Zoë", "n": [1, 2.5, null, true]});
    let cases = [
        (Python, "def run(input): return input", input.clone()),
        (Javascript, "export function run(input) { return input }", input.clone()),
        (Python, "def run(input): pass", Value::Null),
        (Javascript, "export function run() {}", Value::Null),
        (Python, "async def run(input): return input['n'][0] + 1", json!(2)),
        (Javascript, "export async function run(i) { await null; return i.n[0] + 1 }", json!(2)),
        (Javascript, "export const run = async ({ name }) => name", json!("Zoë")),
        (Javascript, "const a = 1, b = () => a; export { a, b as run }", json!(1)),
        (Javascript, "const x = await 3;\nexport function run() { return x }", json!(3)),
        (Javascript, "// export function run\nexport function run() { return 1 }", json!(1)),
    ];
    for (kind, text, expect) in cases {
        assert_eq!(result(kind, text, &input).await, expect, "{text}");
    }
}

#[tokio::test]
async fn nothing_is_left_to_the_next_run() {
    let python = "import json\n\
        def run(input):\n    json.seen = getattr(json, 'seen', 0) + 1\n    return json.seen";
    let javascript =
        "export function run() { return globalThis.seen = (globalThis.seen ?? 0) + 1 }";
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        for _ in 0..2 {
            assert_eq!(result(kind, text, &Value::Null).await, json!(1));
        }
    }
}

#[tokio::test]
async fn a_program_calls_tools() {
    let python = "from tally import call_tool\n\
        def run(input):\n    return \
        [call_tool('echo', {'n': n}) for n in input] \
        + [call_tool('echo', n=9)]";
    let javascript = "export function run(input) {\n\
        return [...input, 9].map((n) => callTool('echo', { n })) }";
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        let tools = Arc::new(Tools::default());
        let report = run(kind, text, Job { door: tools.clone(), ..job("[7, 8]") }).await;
        let output: Value = serde_json::from_str(&report.output.expect("a result")).expect("JSON");
        assert_eq!(output, json!([{"n": 7}, {"n": 8}, {"n": 9}]));
        let calls = tools.calls.lock().expect("calls").clone();
        let calls: Vec<(u32, &str, Value)> = calls
            .iter()
            .map(|(seq, name, args)| (*seq, &**name, serde_json::from_str(args).expect("JSON")))
            .collect();
        let of = |seq, n| (seq, "echo", json!({ "n": n }));
        assert_eq!(calls, [of(1, 7), of(2, 8), of(3, 9)]);
    }
}

#[tokio::test]
async fn a_refused_tool_raises_an_error_that_can_be_caught() {
    let python = "from tally import call_tool, ToolError\n\
        def run(input):\n    try: call_tool('refuse')\n\
        \x20   except ToolError as error: return [error.code, str(error)]";
    let javascript = "export function run() { try { callTool('refuse') }\n\
        catch (e) { return [e.code, e instanceof ToolError && e.message] } }";
    let expect = json!(["policy_denied", "the tool refuse is not to be called"]);
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        assert_eq!(result(kind, text, &Value::Null).await, expect);
    }
    let python = "from tally import call_tool\ndef run(input):\n    call_tool('refuse')";
    let javascript = "export function run() {\n\n  callTool('refuse') }";
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        let (report, why) = failure(kind, text, job("null")).await;
        assert_eq!(report.ending, Ending::PermissionDenied, "{report:?}");
        assert!(why.contains("ToolError [policy_denied]: the tool refuse"), "{why}");
        assert!(why.contains(":3"), "the line is named: {why}");
        assert_eq!(report.denied.get(&Capability::Tool), Some(&1));
    }
}

/// What is wrong with the program itself is said in its own terms.
#[tokio::test]
async fn wrong_programs_are_told_what_is_wrong() {
    let cases = [
        (
            Python,
            "def run(input):\n    return 1 +",
            "SyntaxError: invalid syntax (agent.py, line 2)",
        ),
        (Python, "x = 1", "defines no function `run(input)`"),
        (Python, "def run(input): return {1}", "what JSON does not have: Object of type set"),
        (Python, "def run(input): return float('inf')", "what JSON does not have: Out of range"),
        (Python, "def run(input):\n    return input['a']", "KeyError: 'a'\n  at agent.py:2 in run"),
        (Python, "import numpy", "No module named 'numpy': agents have what the interpreter"),
        (Python, "import sys\ndef run(input): sys.exit(3)", "SystemExit: 3"),
        (Javascript, "export function run() {\n  a b }", "(agent.js, line 2)"),
        (Javascript, "function run() {}", "the module must export a function `run(input)`"),
        (Javascript, "import fs from 'fs';", "an agent is one text and can import nothing"),
        (Javascript, "export const run = () => import('fs')", "can import nothing"),
        (Javascript, "export function run() { return run }", "which JSON does not have"),
        (Javascript, "export function run(i) {\n  i.a.b }", "TypeError: "),
        (Javascript, "export function run(i) {\n  i.a.b }", "at agent.js:2:3 in run"),
        (Javascript, "export function run() { throw { a: 1 } }", "what is no Error: {\"a\":1}"),
        (
            Javascript,
            "export async function run() { setTimeout(() => { throw new Error('late') }, 1);\n\
             await new Promise((done) => setTimeout(done, 1000)) }",
            "Error: late",
        ),
    ];
    for (kind, text, expect) in cases {
        let (report, why) = failure(kind, text, job("{}")).await;
        assert!(why.contains(expect), "{text}\n{why}");
        assert_eq!((report.ending, report.code), (Ending::Crash, Some("raised")), "{text}");
        assert_eq!(report.denials, [], "{text}");
    }
}

/// A program that reaches for what it was not granted.
struct Reach {
    kind: CodeKind,
    text: &'static str,
    /// What is said of it.
    says: &'static str,
    /// What is on record, where the host is asked at all.
    denied: Option<(Capability, &'static str)>,
}

const fn python(
    text: &'static str,
    says: &'static str,
    denied: Option<(Capability, &'static str)>,
) -> Reach {
    Reach { kind: Python, text, says, denied }
}

const fn javascript(
    text: &'static str,
    says: &'static str,
    denied: Option<(Capability, &'static str)>,
) -> Reach {
    Reach { kind: Javascript, text, says, denied }
}

const REACHES: [Reach; 24] = [
    python(
        "def run(i): return open('/etc/passwd').read()",
        "file_read `/etc/passwd`",
        Some((Capability::FileRead, "/etc/passwd")),
    ),
    python(
        "def run(i): return open('/../../etc/shadow').read()",
        "file_read `../../etc/shadow`",
        Some((Capability::FileRead, "../../etc/shadow")),
    ),
    python(
        "def run(i): open('/tmp/x', 'w').write('x')",
        "file_write `/tmp/x`",
        Some((Capability::FileWrite, "/tmp/x")),
    ),
    python(
        "import os\ndef run(i): os.mkdir('/srv')",
        "file_write `/srv`",
        Some((Capability::FileWrite, "/srv")),
    ),
    python(
        "import os\ndef run(i): os.symlink('/etc', '/e')",
        "file_write",
        Some((Capability::FileWrite, "e (a link to /etc)")),
    ),
    python(
        "import sqlite3\ndef run(i): sqlite3.connect('/data/a.db').execute('create table t(x)')",
        "file_write `/data/a.db`",
        Some((Capability::FileWrite, "/data/a.db")),
    ),
    python(
        "import socket\ndef run(i): socket.create_connection(('example.com', 80))",
        "network `example.com`",
        Some((Capability::Network, "example.com")),
    ),
    python(
        "import socket\ndef run(i): socket.socket().connect(('127.0.0.1', 80))",
        "network `socket/tcp`",
        Some((Capability::Network, "socket/tcp")),
    ),
    python(
        "import socket\ndef run(i): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "network `socket/udp`",
        Some((Capability::Network, "socket/udp")),
    ),
    python(
        "import urllib.request\ndef run(i): urllib.request.urlopen('http://example.com/')",
        "network `example.com`",
        Some((Capability::Network, "example.com")),
    ),
    python(
        "from tally import fetch\ndef run(i): fetch('https://example.com/', 'POST', body='x')",
        "network `example.com:443`",
        Some((Capability::Network, "example.com:443")),
    ),
    python("import os\ndef run(i): return os.environ['HOME']", "KeyError: 'HOME'", None),
    python(
        "import subprocess\ndef run(i): subprocess.run(['ls'])",
        "does not support processes",
        None,
    ),
    python("import os\ndef run(i): os.fork()", "no attribute 'fork'", None),
    python("import os\ndef run(i): os.system('ls')", "no attribute 'system'", None),
    python("import os\ndef run(i): os.execv('/bin/sh', ['sh'])", "no attribute 'execv'", None),
    python("import ctypes", "No module named 'ctypes'", None),
    python(
        "import threading\ndef run(i): threading.Thread(target=print).start()",
        "can't start new thread",
        None,
    ),
    python("import os, signal\ndef run(i): os.kill(1, 9)", "no attribute 'kill'", None),
    javascript(
        "export async function run() { await fetch('https://example.com/') }",
        "network `example.com:443`",
        Some((Capability::Network, "example.com:443")),
    ),
    javascript(
        "export async function run() { await fetch('http://169.254.169.254/latest/') }",
        "network `169.254.169.254:80`",
        Some((Capability::Network, "169.254.169.254:80")),
    ),
    javascript("export function run() { return process.env }", "process is not defined", None),
    javascript("export function run() { return require('fs') }", "require is not defined", None),
    javascript("export function run() { return env.HOME.length }", "undefined", None),
];

#[tokio::test]
async fn what_was_not_granted_is_refused_by_name() {
    for Reach { kind, text, says, denied } in REACHES {
        let environment = [("HOME".to_owned(), "/secret".to_owned())].into();
        let (report, why) = failure(kind, text, Job { environment, ..job("null") }).await;
        assert!(why.contains(says), "{text}\n{why}");
        assert!(!why.contains("/secret"), "{text}\n{why}");
        let Some((capability, wanted)) = denied else { continue };
        assert_eq!(report.ending, Ending::PermissionDenied, "{text}\n{report:?}");
        let on_record = report
            .denials
            .iter()
            .any(|denial| denial.capability == capability && denial.wanted.ends_with(wanted));
        assert!(on_record, "{text}\n{:?}", report.denials);
    }
}

#[tokio::test]
async fn granted_variables_are_there() {
    let python = "import os\ndef run(input): return dict(os.environ)";
    let javascript = "export function run() { return env }";
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        let environment = [("USER", "ada"), ("APP_MODE", "dry"), ("SECRET", "s")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let env = vec!["USER".to_owned(), "APP_*".to_owned()];
        let capabilities = Capabilities { env, ..Capabilities::default() };
        let report = run(kind, text, Job { environment, capabilities, ..job("null") }).await;
        let output: Value = serde_json::from_str(&report.output.expect("a result")).expect("JSON");
        assert_eq!(output, json!({"USER": "ada", "APP_MODE": "dry"}));
    }
}

#[tokio::test]
async fn a_program_reads_and_writes_granted_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("a path");
    std::fs::write(folder.join("in.csv"), "a,b\n1,2\n").expect("a file");
    std::fs::write(folder.join("secret.txt"), "s").expect("a file");
    let base = folder.display().to_string();
    let capabilities = Capabilities {
        file_read: vec![format!("{base}/*.csv")],
        file_write: vec![format!("{base}/out.json")],
        ..Capabilities::default()
    };
    let text = "import csv, json, os\n\
        def run(base):\n\
        \x20   with open(f'{base}/in.csv') as file: rows = list(csv.DictReader(file))\n\
        \x20   with open(f'{base}/out.json', 'w') as file: json.dump(rows, file)\n\
        \x20   return os.listdir(base)";
    let job = Job { capabilities, ..job(&json!(base).to_string()) };
    let report = run(Python, text, job).await;
    assert_eq!(report.ending, Ending::Success, "{report:?}");
    let seen: Vec<String> = serde_json::from_str(&report.output.expect("a result")).expect("JSON");
    assert!(!seen.contains(&"secret.txt".to_owned()), "{seen:?}");
    assert_eq!(report.written.len(), 1);
    let written = std::fs::read_to_string(folder.join("out.json")).expect("it is in place");
    assert_eq!(written, r#"[{"a": "1", "b": "2"}]"#);
}

/// All that differs from run to run on a machine, and some work whose fuel would tell.
const PYTHON_CHANCE: &str = "import asyncio, os, random, secrets, time, uuid\n\
    async def later(n):\n    await asyncio.sleep(0.001 * n)\n    return time.monotonic_ns()\n\
    async def run(input):\n\
    \x20   return [random.random(), random.sample(range(1000), 5), secrets.token_hex(8),\n\
    \x20       str(uuid.uuid4()), os.urandom(8).hex(), time.time(), time.perf_counter_ns(),\n\
    \x20       list({str(n) for n in range(20)}), id(object()),\n\
    \x20       await asyncio.gather(*(later(n) for n in range(3)))]";
const JAVASCRIPT_CHANCE: &str = "export async function run() {\n\
    await new Promise((done) => setTimeout(done, 3));\n\
    return [Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(8))],\n\
      Date.now(), performance.now(), new Date().toISOString()] }";

#[tokio::test]
async fn the_same_seed_gives_the_same_output_and_fuel() {
    for (kind, text) in [(Python, PYTHON_CHANCE), (Javascript, JAVASCRIPT_CHANCE)] {
        let of = async |seed: u8| {
            let report = run(kind, text, Job { seed: [seed; 32], ..job("null") }).await;
            assert_eq!(report.ending, Ending::Success, "{report:?}");
            (report.output.expect("a result"), report.fuel_used)
        };
        let first = of(1).await;
        for _ in 0..3 {
            assert_eq!(of(1).await, first);
        }
        let (output, _) = of(2).await;
        let [one, other] = [&first.0, &output]
            .map(|text| serde_json::from_str::<Vec<Value>>(text).expect("an array"));
        // Whatever is drawn by chance differs; the hour does not.
        for at in 0..3 {
            assert_ne!(one[at], other[at], "{kind:?}: {one:?} {other:?}");
        }
        let clock = if kind == Python { one[5].as_f64() } else { one[3].as_f64() };
        let seconds = clock.expect("a time") / if kind == Python { 1.0 } else { 1e3 };
        assert!((1_700_000_000.0..1_700_000_001.0).contains(&seconds), "{seconds}");
    }
}

#[tokio::test]
async fn time_that_is_slept_passes_on_the_clock() {
    let python = "import time\ndef run(input):\n    began = time.monotonic_ns(); time.sleep(0.02)\n\
        \x20   return (time.monotonic_ns() - began) // 10**7";
    let javascript = "export async function run() { const began = performance.now();\n\
        await new Promise((done) => setTimeout(done, 20));\n\
        return Math.floor((performance.now() - began) / 10) }";
    for (kind, text) in [(Python, python), (Javascript, javascript)] {
        assert_eq!(result(kind, text, &Value::Null).await, json!(2), "{kind:?}");
    }
}

#[tokio::test]
async fn limits_end_a_program() {
    const CALLS_PY: &str = "from tally import call_tool\n\
        def run(i):\n    for n in range(5):\n\
        \x20       try: call_tool('echo')\n        except BaseException: pass";
    const STUBBORN_PY: &str = "def run(i):\n    while True:\n        try:\n\
        \x20           while True: pass\n        except BaseException: pass";
    let short = Limits { cpu_ms: 300, ..PATIENT };
    let lean = Limits { memory_bytes: 128 << 20, ..PATIENT };
    let dry = Limits { fuel: 200_000_000, ..PATIENT };
    let brief = Limits { output_bytes: 1_000, ..PATIENT };
    let quiet = Limits { tool_calls: 3, ..PATIENT };
    let cases = [
        (Python, "def run(i):\n    while True: pass", short, Ending::Timeout, "cpu_time_exceeded"),
        (Python, STUBBORN_PY, short, Ending::Timeout, "cpu_time_exceeded"),
        (
            Javascript,
            "export function run() { for (;;); }",
            short,
            Ending::Timeout,
            "cpu_time_exceeded",
        ),
        (Python, "def run(i):\n    while True: pass", dry, Ending::Timeout, "fuel_exhausted"),
        (Javascript, "export function run() { for (;;); }", dry, Ending::Timeout, "fuel_exhausted"),
        (
            Python,
            "def run(i):\n    return len(bytearray(200_000_000))",
            lean,
            Ending::MemoryExceeded,
            "memory_exceeded",
        ),
        (
            Javascript,
            "export function run() { const a = []; for (;;) a.push(new Uint8Array(1e7)) }",
            lean,
            Ending::MemoryExceeded,
            "memory_exceeded",
        ),
        (Python, "def run(i): return 'x' * 2000", brief, Ending::Crash, "output_too_long"),
        (
            Javascript,
            "export function run() { return 'x'.repeat(2000) }",
            brief,
            Ending::Crash,
            "output_too_long",
        ),
        (Python, CALLS_PY, quiet, Ending::Crash, "too_many_tool_calls"),
        (
            Javascript,
            "export function run() { for (;;) try { callTool('echo') } catch {} }",
            quiet,
            Ending::Crash,
            "too_many_tool_calls",
        ),
    ];
    for (kind, text, limits, ending, code) in cases {
        let (report, why) = failure(kind, text, Job { limits, ..Job::of("null") }).await;
        assert_eq!((report.ending, report.code), (ending, Some(code)), "{text}\n{why}");
    }
}

#[tokio::test]
async fn an_interpreter_leaves_room_in_64_mb() {
    let limits = Limits { memory_bytes: 64 << 20, ..PATIENT };
    for (kind, text) in
        [(Python, "def run(i): return i"), (Javascript, "export const run = (i) => i")]
    {
        let report = run(kind, text, Job { limits, ..job("1") }).await;
        assert_eq!(report.ending, Ending::Success, "{report:?}");
        assert!(report.memory_peak_bytes < 48 << 20, "{report:?}");
    }
}

#[tokio::test]
async fn deep_recursion_ends_a_program_not_the_host() {
    let cases = [
        (Python, "def run(i): return run(i)", "raised", "RecursionError: "),
        (
            Javascript,
            "export function run(i) { return run(i) + 1 }",
            "raised",
            "too much recursion",
        ),
        // Below the interpreter's own counting.
        (
            Python,
            "import json\ndef run(i): return json.loads('[' * 100_000)",
            "stack_exhausted",
            "bytes of stack",
        ),
    ];
    for (kind, text, code, expect) in cases {
        let (report, why) = failure(kind, text, job("null")).await;
        assert!(why.contains(expect), "{text}\n{why}");
        assert_eq!((report.ending, report.code), (Ending::Crash, Some(code)), "{text}");
    }
}

#[tokio::test]
async fn what_waits_for_nothing_ends() {
    let python = "import asyncio\nasync def run(input): await asyncio.Future()";
    let (_, why) = failure(Python, python, job("null")).await;
    assert!(why.contains("nothing is left that could wake the program up"), "{why}");
    let javascript = "export async function run() { await new Promise(() => {}) }";
    let (report, _) = failure(Javascript, javascript, job("null")).await;
    assert_eq!(report.ending, Ending::Crash);
}

/// What agents commonly use, so that a new build that lacks it is noticed.
#[tokio::test]
async fn the_standard_library_is_there() {
    let text = "import argparse, ast, asyncio, base64, bisect, collections.abc\n\
        import concurrent.futures, configparser, contextlib, copy, csv, dataclasses, datetime\n\
        import decimal, difflib\n\
        import email.message, enum, fractions, functools, glob, graphlib, gzip, hashlib, heapq\n\
        import hmac, html.parser, http.client, inspect, io, ipaddress, itertools, json, logging\n\
        import math, operator, os, pathlib, pickle, pprint, queue, random, re, secrets, shlex\n\
        import shutil, sqlite3, statistics, string, struct, tarfile, tempfile, textwrap, time\n\
        import tomllib, typing, unicodedata, unittest.mock, urllib.parse, uuid, warnings\n\
        import xml.etree.ElementTree, zipfile, zlib\n\
        @dataclasses.dataclass\nclass Point:\n    x: int\n\
        def run(input):\n    db = sqlite3.connect(':memory:')\n\
        \x20   return [dataclasses.asdict(Point(2)), db.execute('select 3').fetchone()[0],\n\
        \x20       hashlib.sha256(b'').hexdigest()[:8], 'é'.encode('cp1252').hex(),\n\
        \x20       xml.etree.ElementTree.fromstring('<a b=\"1\"/>').get('b'),\n\
        \x20       len(zlib.compress(b'a' * 1000)) < 100, str(decimal.Decimal('0.1') * 3)]";
    let expect = json!([{"x": 2}, 3, "e3b0c442", "e9", "1", true, "0.3"]);
    assert_eq!(result(Python, text, &Value::Null).await, expect);
    let text = "export async function run() {\n\
        const digest = await crypto.subtle.digest('SHA-256', new Uint8Array());\n\
        return [new URL('/a?b=1', 'https://x.y').searchParams.get('b'), atob('YQ=='),\n\
        new TextEncoder().encode('é').length, structuredClone({ a: [1] }),\n\
        new Uint8Array(digest)[0]] }";
    let expect = json!(["1", "a", 2, {"a": [1]}, 0xe3]);
    assert_eq!(result(Javascript, text, &Value::Null).await, expect);
}
