//! LIGHT: what hostile source text tries in a process of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use kernel::attestation::{CodeKind, Ending, Limits, SandboxType};
use kernel::capability::{Capabilities, Capability, Network};
use sandbox::limits::DEFAULT;
use sandbox::{Compiler, Light};

use super::{Want, check_code, denied, ends, succeeds};
use crate::support::{Host, Job, Tools, source};

/// A program by what it says of itself: the one on the path may be a script that finds it.
fn program(name: &str, args: [&str; 2]) -> PathBuf {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is needed for LIGHT: {error}"));
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

fn host() -> Host {
    Host::with(|config| {
        config.light = Some(Light {
            python: Some(program("python3", ["-c", "import sys; print(sys.executable)"])),
            node: Some(program("node", ["-p", "process.execPath"])),
            confine: Some(Compiler {
                program: env!("CARGO_BIN_EXE_sandbox-child").into(),
                args: vec!["sandbox-light".into()],
            }),
        });
    })
}

fn job() -> Job {
    let limits = Limits { cpu_ms: 10_000, ..DEFAULT };
    Job { sandbox_type: SandboxType::Light, limits, ..Job::of("{\"n\":2}") }
}

fn with(change: impl FnOnce(&mut Limits)) -> Job {
    let mut job = job();
    change(&mut job.limits);
    job
}

fn python(body: &str) -> String {
    let lines: Vec<String> = body.lines().map(|line| format!("    {line}")).collect();
    format!("def run(input):\n{}\n", lines.join("\n"))
}

#[tokio::test]
async fn python_is_confined() {
    let host = host();
    let crash = |code, says: &str| ends(Ending::Crash, code, says);
    let process = |wanted: &str| denied(Capability::Process, wanted);
    let libc = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n";
    let environment = BTreeMap::from([
        ("USER".to_owned(), "ann".to_owned()),
        ("SECRET".to_owned(), "1".to_owned()),
    ]);
    let env = Job {
        environment,
        capabilities: Capabilities { env: vec!["USER".to_owned()], ..Capabilities::default() },
        ..job()
    };
    let cases: Vec<(&str, String, Job, Want)> = vec![
        ("a result", python("print('noise')\nreturn [input['n'] + 1]"), job(), succeeds("[3]")),
        (
            "a tool",
            python("from tally import call_tool\nreturn call_tool('echo', {'a': 1})"),
            job(),
            succeeds("{\"a\": 1}"),
        ),
        (
            "a refused tool",
            python("from tally import call_tool\nreturn call_tool('refuse')"),
            job(),
            denied(Capability::Tool, "refuse"),
        ),
        (
            "a failure that is caught",
            python(
                "from tally import call_tool, ToolError\n\
            try: call_tool('none')\nexcept ToolError as e: return e.code",
            ),
            job(),
            succeeds("tool_not_found"),
        ),
        (
            "variables",
            python("import os\nreturn sorted(k for k in os.environ if k != 'LC_CTYPE')"),
            env,
            succeeds("[\"USER\"]"),
        ),
        (
            "passwords",
            python("return open('/etc/passwd').read()"),
            job(),
            crash("raised", "PermissionError"),
        ),
        (
            "our memory",
            python("import os\nreturn open(f'/proc/{os.getppid()}/maps').read()"),
            job(),
            crash("raised", "PermissionError"),
        ),
        ("write beside", python("open('../x', 'w')"), job(), crash("raised", "PermissionError")),
        (
            "write its own",
            python("open('x', 'w').write('y')\nreturn open('x').read()"),
            job(),
            succeeds("\"y\""),
        ),
        ("fork", python("import os\nos.fork()"), job(), process("os.fork")),
        ("shell", python("import os\nos.system('id')"), job(), process("id")),
        ("subprocess", python("import subprocess\nsubprocess.run(['id'])"), job(), process("id")),
        ("fork past Python", python(&format!("{libc}return libc.fork()")), job(), succeeds("-1")),
        (
            "exec past Python",
            python(&format!(
                "{libc}return libc.execv(b'/bin/sh', (ctypes.c_char_p * 2)(b'sh', None))"
            )),
            job(),
            succeeds("-1"),
        ),
        (
            "a program without a path",
            python(&format!("{libc}return libc.memfd_create(b'x', 0)")),
            job(),
            succeeds("-1"),
        ),
        (
            "a program of its own",
            python(&format!(
                "{libc}import os, shutil\nshutil.copyfile('/bin/true', 'own')\n\
                 os.chmod('own', 0o755)\n\
                 return libc.execv(b'own', (ctypes.c_char_p * 2)(b'own', None))"
            )),
            job(),
            succeeds("-1"),
        ),
        (
            "socket past Python",
            python(&format!("{libc}return libc.socket(2, 1, 0)")),
            job(),
            succeeds("-1"),
        ),
        (
            "raw socket",
            python(&format!("{libc}return libc.socket(2, 3, 1)")),
            job(),
            succeeds("-1"),
        ),
        (
            "ptrace",
            python(&format!("{libc}return libc.ptrace(16, 1, 0, 0)")),
            job(),
            succeeds("-1"),
        ),
        (
            "unshare",
            python(&format!("{libc}return libc.unshare(0x10000000)")),
            job(),
            succeeds("-1"),
        ),
        (
            "connect",
            python("import socket\nsocket.create_connection(('127.0.0.1', 22))"),
            job(),
            ends(Ending::PermissionDenied, "capability_denied", "127.0.0.1"),
        ),
        (
            "signal us",
            python("import os\nos.kill(os.getppid(), 9)"),
            job(),
            crash("raised", "PermissionError"),
        ),
        (
            "endless loop",
            python("while True: pass"),
            with(|limits| limits.cpu_ms = 300),
            ends(Ending::Timeout, "cpu_time_exceeded", "300 ms"),
        ),
        (
            "endless sleep",
            python("import time\ntime.sleep(3600)"),
            with(|limits| limits.wall_ms = 500),
            ends(Ending::Timeout, "wall_time_exceeded", "500 ms"),
        ),
        (
            "memory bomb",
            python("a = []\nwhile True: a.append(bytearray(1 << 24))"),
            with(|limits| limits.memory_bytes = 200 << 20),
            ends(Ending::MemoryExceeded, "memory_exceeded", "memory_bytes"),
        ),
        ("huge output", python("return 'x' * (2 << 20)"), job(), crash("output_too_long", "bytes")),
        (
            "a line without end",
            python("return 'x' * (20 << 20)"),
            job(),
            crash("output_too_long", "at once"),
        ),
        (
            "disk bomb",
            python("open('x', 'wb').truncate(1 << 40)"),
            job(),
            crash("raised", "OSError"),
        ),
        (
            "too many calls",
            python("from tally import call_tool\nwhile True: call_tool('echo')"),
            with(|limits| limits.tool_calls = 3),
            crash("too_many_tool_calls", "3 times"),
        ),
        (
            "recursion",
            python("def f(): return f()\nreturn f()"),
            job(),
            crash("raised", "RecursionError"),
        ),
        ("exit", python("import os\nos._exit(3)"), job(), crash("exited", "3")),
        ("no run", "x = 1".to_owned(), job(), crash("raised", "run(input)")),
        ("no Python", "def run(:".to_owned(), job(), crash("raised", "SyntaxError")),
    ];
    for (name, text, job, want) in cases {
        let code = source(CodeKind::Python, &text);
        let report = check_code(&host, name, code, job, &want).await;
        assert_eq!(report.fuel_used, 0, "{name}");
        assert!(report.runtime.engine.starts_with("process python"), "{report:?}");
    }
}

#[tokio::test]
async fn node_is_confined() {
    let host = host();
    let crash = |code, says: &str| ends(Ending::Crash, code, says);
    let run = |body: &str| format!("export async function run(input) {{ {body} }}");
    let import =
        |module: &str, rest: &str| run(&format!("const m = await import('node:{module}'); {rest}"));
    let cases: Vec<(&str, String, Job, Want)> = vec![
        ("a result", run("console.log('noise'); return [input.n + 1];"), job(), succeeds("[3]")),
        ("a tool", run("return callTool('echo', { a: 1 });"), job(), succeeds("{\"a\":1}")),
        (
            "a refused tool",
            run("return callTool('refuse');"),
            job(),
            denied(Capability::Tool, "refuse"),
        ),
        ("variables", run("return Object.keys(process.env);"), job(), succeeds("[]")),
        (
            "passwords",
            import("fs", "return m.readFileSync('/etc/passwd', 'utf8');"),
            job(),
            crash("raised", "EACCES"),
        ),
        (
            "a process",
            import("child_process", "return m.execSync('id').toString();"),
            job(),
            crash("raised", "EPERM"),
        ),
        (
            "a socket",
            import(
                "net",
                "return new Promise((_, no) => m.connect(22, '127.0.0.1')
            .on('error', no));",
            ),
            job(),
            crash("raised", "EPERM"),
        ),
        (
            "endless loop",
            run("for (;;);"),
            with(|limits| limits.cpu_ms = 500),
            ends(Ending::Timeout, "cpu_time_exceeded", "500 ms"),
        ),
        (
            "memory bomb",
            run("const a = []; for (;;) a.push(new Array(1 << 16).fill(a.length));"),
            with(|limits| limits.memory_bytes = 64 << 20),
            ends(Ending::MemoryExceeded, "memory_exceeded", "memory_bytes"),
        ),
    ];
    for (name, text, job, want) in cases {
        check_code(&host, name, source(CodeKind::Javascript, &text), job, &want).await;
    }
}

#[tokio::test]
async fn a_canceled_process_is_gone() {
    let host = Arc::new(host());
    let tools = Arc::new(Tools::default());
    let job = Job { door: tools.clone(), ..job() };
    let cancel = job.cancel.clone();
    let running = Arc::clone(&host);
    let run = tokio::spawn(async move {
        let text = python("from tally import call_tool\nreturn call_tool('never')");
        let want = ends(Ending::Crash, "canceled", "canceled");
        check_code(&running, "canceled", source(CodeKind::Python, &text), job, &want).await
    });
    tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while tools.calls.lock().expect("calls").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it calls");
    cancel.cancel();
    run.await.expect("it is checked");
}

#[tokio::test]
async fn only_granted_files_leave_a_process() {
    let host = host();
    let root = host.folder.path().canonicalize().expect("a folder").join("files");
    std::fs::create_dir(&root).expect("a folder");
    let inner = root.strip_prefix("/").expect("a path").display().to_string();
    let text = python(&format!(
        "import os\nfor name in ('made', 'evil'): open('{inner}/' + name, 'w').write(name)\n\
         os.makedirs('etc')\nopen('etc/evil', 'w').write('evil')\n\
         os.symlink('/etc/passwd', '{inner}/link')"
    ));
    let files = |name: &str| root.join(name).display().to_string();
    let capabilities =
        Capabilities { file_write: vec![files("made"), files("link")], ..Capabilities::default() };
    let job = Job { capabilities, ..job() };
    let code = source(CodeKind::Python, &text);
    let report = check_code(&host, "files", code, job, &succeeds("null")).await;
    let paths: Vec<_> = report.written.iter().map(|written| written.path.clone()).collect();
    assert_eq!(paths, [files("made")]);
    assert_eq!(std::fs::read_to_string(root.join("made")).expect("it is there"), "made");
    assert!(!root.join("evil").exists() && !root.join("link").exists());
}

#[tokio::test]
async fn light_has_no_network_and_no_components() {
    let host = host();
    let network = Network { allowlist: vec!["example.com".to_owned()], denylist: Vec::new() };
    let open = Host::with(|config| {
        config.light = Some(Light::default());
        config.ceiling.network = network.clone();
    });
    let capabilities = Capabilities { network, ..Capabilities::default() };
    let text = source(CodeKind::Python, &python("return 1"));
    let asked = Job { capabilities, ..job() };
    let failure = asked.run(&open.boxes, text.clone()).await.expect_err("no network");
    assert_eq!(failure.code, "capability_not_grantable");
    assert!(failure.message.contains("no network under LIGHT"), "{failure}");
    let failure = job().run(&open.boxes, text).await.expect_err("no program");
    assert_eq!(failure.code, "sandbox_type_unavailable");
    assert!(failure.message.contains("sandbox.light.python"), "{failure}");
    let failure = host.run(&crate::support::wat::echo(), job()).await.expect_err("a component");
    assert!(failure.message.contains("STANDARD"), "{failure}");
}
