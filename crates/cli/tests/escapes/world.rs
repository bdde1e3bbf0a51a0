//! The world around: variables, clocks, randomness, sockets, processes, threads.

use super::case::{Case, With as _, crash, denied, javascript, python, refused, told, wat};
use super::guests;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = variables();
    cases.extend(clocks());
    cases.extend(sockets());
    cases.extend(processes());
    cases
}

fn variables() -> Vec<Case> {
    vec![
        Case {
            name: "variables without a grant",
            request: wat(&guests::variables()),
            want: told(0.into()),
        },
        Case {
            name: "variables of the server",
            request: wat(&guests::variables()).grants(|grants| grants.env.push("*".to_owned())),
            want: refused("capability_not_grantable", "env `*`"),
        },
        Case {
            name: "one granted variable among secret ones",
            request: wat(&guests::only_variable())
                .grants(|grants| grants.env.push("APP_*".to_owned())),
            want: told("eu".into()),
        },
        Case {
            name: "Python reads HOME",
            request: python("import os\nreturn os.environ['HOME']"),
            want: crash("raised", "KeyError: 'HOME'"),
        },
        Case {
            name: "JavaScript reads HOME",
            request: javascript("return env.HOME.length"),
            want: crash("raised", "undefined"),
        },
    ]
}

/// Clocks and randomness are given, not found: they tell nothing of the host.
fn clocks() -> Vec<Case> {
    let monotonic = guests::number("wasi:clocks/monotonic-clock@0.2.0", "now");
    vec![
        Case {
            name: "the clock tells the uptime",
            request: wat(&monotonic),
            want: told(1000.into()),
        },
        Case {
            name: "Python times the host",
            request: python(
                "import time\na = time.perf_counter_ns()\nfor _ in range(100000): pass\n\
                 return time.perf_counter_ns() - a",
            ),
            want: told(1000.into()),
        },
        Case {
            name: "JavaScript times the host",
            request: javascript(
                "const a = Date.now(); for (let i = 0; i < 1e6; i++); return Date.now() - a < 2",
            ),
            want: told(true.into()),
        },
        Case {
            name: "Python learns the seed of another run",
            request: python(
                "import os, random, uuid\n\
                 return len({os.urandom(8), random.randbytes(8), uuid.uuid4().bytes[:8]})",
            ),
            want: told(3.into()),
        },
    ]
}

fn sockets() -> Vec<Case> {
    let python = |name, body: &str, wanted: &str| Case {
        name,
        request: python(body),
        want: denied("network", wanted),
    };
    vec![
        Case {
            name: "a TCP socket",
            request: wat(&guests::socket("tcp")),
            want: denied("network", "socket/tcp"),
        },
        Case {
            name: "a UDP socket",
            request: wat(&guests::socket("udp")),
            want: denied("network", "socket/udp"),
        },
        python(
            "Python connects",
            "import socket\nsocket.socket().connect(('127.0.0.1', 22))",
            "socket/tcp",
        ),
        python(
            "Python looks a name up",
            "import socket\nsocket.create_connection(('example.com', 80))",
            "example.com",
        ),
        Case {
            name: "Python makes a raw socket",
            request: crate::escapes::case::python(
                "import socket\nsocket.socket(socket.AF_INET, getattr(socket, 'SOCK_RAW', 3))",
            ),
            want: crash("raised", "OSError: [Errno 66] Protocol not supported"),
        },
    ]
}

fn processes() -> Vec<Case> {
    let python = |name, body: &str, says: &str| Case {
        name,
        request: python(body),
        want: crash("raised", says),
    };
    let javascript = |name, body: &str, says: &str| Case {
        name,
        request: javascript(body),
        want: crash("raised", says),
    };
    vec![
        python(
            "Python forks",
            "import os\nos.fork()",
            "AttributeError: module 'os' has no attribute 'fork'",
        ),
        python(
            "Python runs a shell",
            "import os\nos.system('id')",
            "AttributeError: module 'os' has no attribute 'system'",
        ),
        python(
            "Python becomes a shell",
            "import os\nos.execv('/bin/sh', ['sh'])",
            "AttributeError: module 'os' has no attribute 'execv'",
        ),
        python(
            "Python runs a program",
            "import subprocess\nsubprocess.run(['id'])",
            "does not support processes",
        ),
        python(
            "Python kills init",
            "import os\nos.kill(1, 9)",
            "AttributeError: module 'os' has no attribute 'kill'",
        ),
        python(
            "Python loads a library",
            "import ctypes",
            "ModuleNotFoundError: No module named 'ctypes'",
        ),
        python(
            "Python starts a thread",
            "import threading\nthreading.Thread(target=print).start()",
            "RuntimeError: can't start new thread",
        ),
        javascript(
            "JavaScript has no process",
            "return process.env",
            "ReferenceError: process is not defined",
        ),
        javascript(
            "JavaScript requires",
            "return require('fs')",
            "ReferenceError: require is not defined",
        ),
        javascript("JavaScript imports", "return import('node:fs')", "can import nothing"),
    ]
}
