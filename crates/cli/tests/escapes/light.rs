//! Processes as sandboxes (LIGHT): past the interpreter, to the kernel.

use std::path::PathBuf;
use std::process::Command;

use proto::sandboxes::ExecuteRequest;
use serde_json::json;

use super::case::{
    Case, With as _, crash, denied, ends, javascript, memory, python, refused, source, timeout,
    told,
};

/// A program by what it says of itself: the one on the path may be a script that finds it.
fn program(name: &str, args: [&str; 2]) -> PathBuf {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is needed for LIGHT: {error}"));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Settings with LIGHT, for the section `sandbox`.
pub(crate) fn enabled() -> String {
    let python = program("python3", ["-c", "import sys; print(sys.executable)"]);
    let node = program("node", ["-p", "process.execPath"]);
    format!("  light: {{enabled: true, python: {python:?}, node: {node:?}}}\n")
}

fn light(request: ExecuteRequest) -> ExecuteRequest {
    request.of_type("light").limits(|limits| limits.cpu_ms = Some(20_000))
}

/// What the kernel says: the operation is not permitted, the file is not for this process.
const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// Gives what a function of the C library gives, and the number of its error.
fn past(call: &str) -> ExecuteRequest {
    let libc = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)";
    light(python(&format!("{libc}\nreturn [libc.{call}, ctypes.get_errno()]")))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = processes();
    cases.extend(around());
    cases.extend(bounds());
    cases.extend(node());
    cases
}

fn processes() -> Vec<Case> {
    let case = |name, body: &str, wanted: &str| Case {
        name,
        request: light(python(body)),
        want: denied("process", wanted),
    };
    let refused = |name, call: &str, errno: i32| Case {
        name,
        request: past(call),
        want: told(json!([-1, errno])),
    };
    let past = |name, call: &str| refused(name, call, EPERM);
    vec![
        case("fork", "import os\nos.fork()", "os.fork"),
        case("a shell", "import os\nos.system('id')", "id"),
        case("a program", "import subprocess\nsubprocess.run(['id'])", "id"),
        past("fork past Python", "fork()"),
        refused(
            "exec past Python",
            "execv(b'/bin/sh', (ctypes.c_char_p * 2)(b'sh', None))",
            EACCES,
        ),
        past("a socket past Python", "socket(2, 1, 0)"),
        past("a raw socket past Python", "socket(2, 3, 1)"),
        past("a packet socket past Python", "socket(17, 3, 768)"),
        past("tracing the server", "ptrace(16, __import__('os').getppid(), 0, 0)"),
        past("a namespace of its own", "unshare(0x10000000)"),
        past("killing the server past Python", "kill(__import__('os').getppid(), 9)"),
        past("a new root", "chroot(b'/')"),
    ]
}

fn around() -> Vec<Case> {
    let raised = |name, body: &str, says: &str| Case {
        name,
        request: light(python(body)),
        want: crash("raised", says),
    };
    let no = |what: &str| format!("PermissionError: [Errno {EACCES}] Permission denied: '{what}");
    vec![
        Case {
            name: "variables of the server under LIGHT",
            request: light(python("import os\nreturn sorted(set(os.environ) - {'LC_CTYPE'})")),
            want: told(json!([])),
        },
        raised("passwords", "return open('/etc/passwd').read()", &no("/etc/passwd'")),
        raised(
            "the memory of the server",
            "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')",
            &no("/proc/"),
        ),
        raised(
            "the environment of the server",
            "import os\nreturn open(f'/proc/{os.getppid()}/environ').read()",
            &no("/proc/"),
        ),
        raised(
            "kill the server",
            "import os\nos.kill(os.getppid(), 9)",
            &format!("PermissionError: [Errno {EPERM}] Operation not permitted"),
        ),
        raised("write beside its folder", "open('../x', 'w')", &no("../x'")),
        raised("write to /tmp", "open('/tmp/tally-escaped', 'w')", &no("/tmp/tally-escaped'")),
        Case {
            name: "connect under LIGHT",
            request: light(python("import socket\nsocket.create_connection(('127.0.0.1', 22))")),
            want: ends("PERMISSION_DENIED", "capability_denied", "127.0.0.1"),
        },
        Case {
            name: "network under LIGHT",
            request: light(python("return 1")).hosts(&["api.example.com"], &[]),
            want: refused("capability_not_grantable", "network"),
        },
    ]
}

fn bounds() -> Vec<Case> {
    vec![
        Case {
            name: "an endless loop under LIGHT",
            request: light(python("while True: pass")).limits(|limits| limits.cpu_ms = Some(300)),
            want: timeout("cpu_time_exceeded", "300 ms"),
        },
        Case {
            name: "an endless sleep under LIGHT",
            request: light(python("import time\ntime.sleep(3600)"))
                .limits(|limits| limits.wall_ms = Some(500)),
            want: timeout("wall_time_exceeded", "500 ms"),
        },
        Case {
            name: "a memory bomb under LIGHT",
            request: light(python("a = []\nwhile True: a.append(bytearray(1 << 24))"))
                .limits(|limits| limits.memory_bytes = Some(200 << 20)),
            want: memory("memory_bytes"),
        },
        Case {
            name: "a disk bomb under LIGHT",
            request: light(python("open('x', 'wb').truncate(1 << 40)")),
            want: crash("raised", "OSError"),
        },
        Case {
            name: "a huge result under LIGHT",
            request: light(python("return 'x' * (20 << 20)")),
            want: crash("output_too_long", "at once"),
        },
        Case {
            name: "a process that is gone",
            request: light(python("import os\nos._exit(3)")),
            want: crash("exited", "3"),
        },
    ]
}

fn node() -> Vec<Case> {
    let js = |name, body: &str, says: &str| Case {
        name,
        request: light(javascript(body)),
        want: crash("raised", says),
    };
    let import =
        |module: &str, rest: &str| format!("const m = await import('node:{module}'); {rest}");
    vec![
        js(
            "Node reads passwords",
            &import("fs", "return m.readFileSync('/etc/passwd', 'utf8');"),
            "EACCES",
        ),
        js(
            "Node runs a program",
            &import("child_process", "return m.execSync('id').toString();"),
            "EPERM",
        ),
        js(
            "Node connects",
            &import(
                "net",
                "return new Promise((_, no) => m.connect(22, '127.0.0.1').on('error', no));",
            ),
            "EPERM",
        ),
        Case {
            name: "Node lists the variables of the server",
            request: light(source(
                "javascript",
                "export const run = () => Object.keys(process.env)",
            )),
            want: told(json!([])),
        },
    ]
}
