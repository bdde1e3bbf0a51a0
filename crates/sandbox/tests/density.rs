//! Many sandboxes: a thousand at once, and a hundred thousand one after the other.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail loudly")]

#[expect(dead_code, reason = "the corpus uses more of it")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use kernel::attestation::Ending;
use sandbox::Code;
use support::{Host, Job, Tools, tenant, wat};
use tokio_util::sync::CancellationToken;

/// Sandboxes that are live at once.
const LIVE: usize = 1_000;
/// Bytes of memory that they may take together: 128 KiB each, which is what the guest declares.
const LIVE_BYTES: u64 = 128 << 20;
/// Executions one after the other.
const SPAWNS: usize = 100_000;
/// Bytes by which memory may grow in them.
const GROWTH_BYTES: u64 = 8 << 20;

/// Bytes of this process that are resident.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kilobytes = line.split_whitespace().next().expect("a number");
    kilobytes.parse::<u64>().expect("a number") << 10
}

/// Files that this process has open.
fn handles() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our handles").count()
}

/// One test, so that nothing else takes memory meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_given_back() {
    let host = Arc::new(Host::with(|config| {
        config.live_max = LIVE;
        config.per_tenant_max = LIVE;
    }));
    let waits = host.bind(&tenant("acme"), &wat::calls(1080, 5)).await;
    let echo = host.bind(&tenant("acme"), &wat::echo()).await;
    let before = resident();
    let cancel = CancellationToken::new();
    let tools = Arc::new(Tools::default());
    let mut live = Vec::new();
    for _ in 0..LIVE {
        let (host, cancel, door) = (Arc::clone(&host), cancel.clone(), tools.clone());
        live.push(tokio::spawn(async move {
            let job = Job { cancel, door, ..Job::default() };
            job.run(&host.boxes, Code::Component { digest: waits }).await
        }));
    }
    tokio::time::timeout(Duration::from_secs(120), async {
        while tools.calls.lock().expect("calls").len() < LIVE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("all are within a call");
    assert_eq!(host.boxes.live(), LIVE);
    let taken = resident().saturating_sub(before);
    assert!(taken < LIVE_BYTES, "{LIVE} live sandboxes take {taken} bytes");
    println!("{LIVE} live sandboxes take {} KiB each", (taken >> 10) / LIVE as u64);
    let full = Job::default().run(&host.boxes, Code::Component { digest: echo }).await;
    assert_eq!(full.expect_err("one more").code, "too_many_sandboxes");
    cancel.cancel();
    for run in live {
        assert_eq!(run.await.expect("it ends").expect("a report").code, Some("canceled"));
    }
    assert_eq!(host.boxes.live(), 0);
    soak(&host, echo).await;
}

async fn soak(host: &Host, echo: kernel::values::Digest) {
    let spawn = || async {
        let report = Job::of("1").run(&host.boxes, Code::Component { digest: echo }).await;
        assert_eq!(report.expect("a report").ending, Ending::Success);
    };
    // What is kept for reuse is in use by then.
    for _ in 0..1_000 {
        spawn().await;
    }
    let (before, open) = (resident(), handles());
    let began = std::time::Instant::now();
    for _ in 0..SPAWNS {
        spawn().await;
    }
    println!("{SPAWNS} executions took {:?}", began.elapsed());
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES, "{SPAWNS} executions left {grown} bytes");
    assert_eq!(handles(), open);
}
