//! Limits, the world around, and tools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kernel::attestation::{Ending, Limits};
use kernel::capability::{Capabilities, Capability};
use sandbox::limits::DEFAULT;
use tokio_util::sync::CancellationToken;

use super::{Want, check, denied, ends, succeeds, unharmed};
use crate::support::{Host, Job, Tools, wat};

fn with(change: impl FnOnce(&mut Limits)) -> Job {
    let mut limits = DEFAULT;
    change(&mut limits);
    Job { limits, ..Job::default() }
}

#[tokio::test]
async fn limits_hold() {
    let host = Host::new();
    let crash = |code, says: &str| ends(Ending::Crash, code, says);
    let timeout = |code, says: &str| ends(Ending::Timeout, code, says);
    let memory = || ends(Ending::MemoryExceeded, "memory_exceeded", "memory_bytes");
    let cpu = || with(|limits| limits.cpu_ms = 50);
    let cases: Vec<(&str, String, Job, Want)> = vec![
        ("endless loop", wat::forever(), cpu(), timeout("cpu_time_exceeded", "50 ms (cpu_ms)")),
        ("endless start", wat::loop_at_start(), cpu(), timeout("cpu_time_exceeded", "cpu_ms")),
        (
            "endless loop, little fuel",
            wat::forever(),
            with(|limits| limits.fuel = 10_000),
            timeout("fuel_exhausted", "10000 units of fuel"),
        ),
        (
            "no fuel",
            wat::echo(),
            with(|limits| limits.fuel = 0),
            timeout("fuel_exhausted", "0 units"),
        ),
        (
            "no time",
            wat::forever(),
            with(|limits| limits.cpu_ms = 0),
            timeout("cpu_time_exceeded", "0 ms"),
        ),
        (
            "little wall time",
            wat::forever(),
            with(|limits| {
                limits.wall_ms = 50;
                limits.cpu_ms = 600_000;
            }),
            timeout("wall_time_exceeded", "50 ms"),
        ),
        ("memory bomb", wat::memory_bomb(), Job::default(), memory()),
        (
            "small memory bomb",
            wat::memory_bomb(),
            with(|limits| limits.memory_bytes = 1 << 20),
            memory(),
        ),
        (
            "large from the start",
            wat::large_start(),
            with(|limits| limits.memory_bytes = 64 << 20),
            memory(),
        ),
        ("no memory", wat::echo(), with(|limits| limits.memory_bytes = 0), memory()),
        (
            "table bomb",
            wat::table_bomb(),
            Job::default(),
            ends(Ending::MemoryExceeded, "memory_exceeded", "tables"),
        ),
        ("deep recursion", wat::recursion(), Job::default(), crash("stack_exhausted", "stack")),
        (
            "huge output",
            wat::long(2 << 20),
            Job::default(),
            crash("output_too_long", "2097152 bytes; it may have 1048576"),
        ),
        (
            "output beyond all",
            wat::long(17 << 20),
            Job::default(),
            crash("output_too_long", "bytes"),
        ),
        ("long output that is allowed", wat::long(1 << 20), Job::default(), succeeds("aaa")),
        (
            "no JSON",
            wat::agent("(call $ok (i32.const 1040) (i32.const 4))"),
            Job::default(),
            crash("output_not_json", "JSON"),
        ),
        (
            "no text",
            wat::agent(
                "(i32.store8 (i32.const 512) (i32.const 255))
            (call $ok (i32.const 512) (i32.const 1))",
            ),
            Job::default(),
            crash("trap", "utf-8"),
        ),
        (
            "result beyond memory",
            wat::agent("(call $ok (i32.const -16) (i32.const 64))"),
            Job::default(),
            crash("trap", "out of bounds"),
        ),
        (
            "result nowhere",
            wat::agent("(i32.const -4)"),
            Job::default(),
            crash("trap", "out of bounds"),
        ),
        (
            "reads beyond memory",
            wat::agent("(i32.load (i32.const -8))"),
            Job::default(),
            crash("trap", "out of bounds"),
        ),
        ("gives up", wat::agent("(unreachable)"), Job::default(), crash("trap", "unreachable")),
        ("exits", wat::exits(), Job::default(), crash("exited", "exit code 1")),
        (
            "raises",
            wat::agent("(call $err (local.get $at) (local.get $len))"),
            Job::of("\"why\""),
            crash("raised", "why"),
        ),
        (
            "too many calls",
            wat::many_calls(),
            with(|limits| limits.tool_calls = 7),
            crash("too_many_tool_calls", "more than 7 times"),
        ),
        (
            "no calls",
            wat::calls(1040, 4),
            with(|limits| limits.tool_calls = 0),
            crash("too_many_tool_calls", "0 times"),
        ),
        (
            "slow call",
            wat::calls(1064, 4),
            with(|limits| limits.wall_ms = 100),
            timeout("wall_time_exceeded", "100 ms"),
        ),
        (
            "call that people are waited for",
            wat::calls(1072, 4),
            with(|limits| limits.wall_ms = 200),
            succeeds("1"),
        ),
        ("refused tool", wat::calls(1048, 6), Job::default(), denied(Capability::Tool, "refuse")),
        ("unknown tool", wat::calls(1024, 4), Job::default(), denied(Capability::Tool, "true")),
        (
            "call that ends it",
            wat::calls(1056, 7),
            Job::default(),
            crash("replay_diverged", "diverge"),
        ),
        (
            "arguments are no JSON",
            wat::agent(
                "(call $call (i32.const 1040) (i32.const 4) (i32.const 1040) (i32.const 4)
                (i32.const 16)) (i32.const 16)",
            ),
            Job::default(),
            crash("raised", "args_invalid"),
        ),
        (
            "long name of a tool",
            wat::calls(1024, 300),
            Job::default(),
            crash("raised", "tool_name_invalid"),
        ),
        (
            "arguments beyond memory",
            wat::agent(
                "(call $call (i32.const 1040) (i32.const 4) (i32.const -8) (i32.const 64)
                (i32.const 16)) (i32.const 16)",
            ),
            Job::default(),
            crash("trap", "out of bounds"),
        ),
        (
            "TCP socket",
            wat::socket("tcp"),
            Job::default(),
            denied(Capability::Network, "socket/tcp"),
        ),
        (
            "UDP socket",
            wat::socket("udp"),
            Job::default(),
            denied(Capability::Network, "socket/udp"),
        ),
    ];
    for (name, guest, job, want) in cases {
        let report = check(&host, name, &guest, job, &want).await;
        assert!(report.memory_peak_bytes <= DEFAULT.memory_bytes, "{name}");
    }
}

#[tokio::test]
async fn what_is_canceled_ends() {
    let host = Host::new();
    for (name, guest) in [("a loop", wat::forever()), ("a call", wat::calls(1080, 5))] {
        let cancel = CancellationToken::new();
        let job = Job { cancel: cancel.clone(), ..with(|limits| limits.cpu_ms = 600_000) };
        let ends = ends(Ending::Crash, "canceled", "canceled");
        let check = check(&host, name, &guest, job, &ends);
        tokio::join!(check, async {
            tokio::time::timeout(Duration::from_secs(60), async {
                while host.boxes.live() == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("it starts");
            cancel.cancel();
        });
    }
}

#[tokio::test]
async fn the_world_is_what_was_given() {
    let host = Host::new();
    let variables: BTreeMap<String, String> =
        [("USER", "\"ann\""), ("SECRET", "1"), ("OACP_X", "2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let env = |globs: &[&str]| Job {
        environment: variables.clone(),
        capabilities: Capabilities {
            env: globs.iter().map(|glob| (*glob).to_owned()).collect(),
            ..Capabilities::default()
        },
        ..Job::default()
    };
    let cases: Vec<(&str, String, Job, Want)> = vec![
        ("no variables", wat::variables(), env(&[]), succeeds("0")),
        ("not ours either", wat::variables(), env(&["PATH", "HOME", "CARGO*"]), succeeds("0")),
        ("granted ones", wat::variables(), env(&["OACP_*", "USER"]), succeeds("2")),
        ("its value", wat::only_variable(), env(&["USER"]), succeeds("\"ann\"")),
    ];
    for (name, guest, job, want) in cases {
        let report = check(&host, name, &guest, job, &want).await;
        assert_eq!(report.output.as_deref(), Ok(want.says.as_str()), "{name}");
    }
}

#[tokio::test]
async fn time_and_randomness_are_given_not_found() {
    let host = Host::new();
    let clock = wat::number("wasi:clocks/monotonic-clock@0.2.0", "now");
    let report = check(&host, "clock", &clock, Job::default(), &succeeds("1000")).await;
    assert_eq!(report.output.as_deref(), Ok("1000"));
    for (interface, function) in [
        ("wasi:random/random@0.2.0", "get-random-u64"),
        ("wasi:random/insecure@0.2.0", "get-insecure-random-u64"),
    ] {
        let guest = wat::number(interface, function);
        let mut given = Vec::new();
        for seed in [[1; 32], [1; 32], [2; 32]] {
            let job = Job { seed, ..Job::default() };
            let report = check(&host, interface, &guest, job, &succeeds("")).await;
            given.push(report.output.expect("a number"));
        }
        assert_eq!(given[0], given[1], "{interface}");
        assert_ne!(given[0], given[2], "{interface}");
    }
}

#[tokio::test]
async fn a_full_house_is_said_so() {
    let host = Arc::new(Host::with(|config| config.per_tenant_max = 2));
    let cancel = CancellationToken::new();
    let tools = Arc::new(Tools::default());
    let mut live = Vec::new();
    for _ in 0..2 {
        let job = Job { door: tools.clone(), cancel: cancel.clone(), ..Job::default() };
        let host = Arc::clone(&host);
        live.push(tokio::spawn(async move { host.run(&wat::calls(1080, 5), job).await }));
    }
    tokio::time::timeout(Duration::from_secs(60), async {
        while tools.calls.lock().expect("calls").len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("both are live");
    let failure = host.run(&wat::echo(), Job::default()).await.expect_err("a third one");
    assert_eq!(failure.code, "too_many_sandboxes");
    assert!(failure.retryable && failure.message.contains("max_sandboxes"), "{failure}");
    cancel.cancel();
    for run in live {
        run.await.expect("it ends").expect("a report");
    }
    unharmed(&host, "full");
    host.run(&wat::echo(), Job::default()).await.expect("there is room again");
}
