//! An open loop: requests are due at a fixed rate whatever becomes of those before, and how long
//! one takes is counted from when it was due. So a server that stalls shows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::sync::{Mutex, mpsc};

use crate::load::{Client, Target};
use crate::stats::Times;

/// How long one run may take beyond its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends each of `targets` from a connection of its own, `rate` requests a second in all.
pub(crate) fn run(targets: &[Target], rate: u32, over: Duration) -> anyhow::Result<Times> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let paced = paced(targets, rate, over);
        let ended = tokio::time::timeout(over + PATIENCE, paced).await;
        ended.context("the server has stopped answering")?
    })
}

async fn paced(targets: &[Target], rate: u32, over: Duration) -> anyhow::Result<Times> {
    let (send, due) = mpsc::unbounded_channel::<Instant>();
    let due = Arc::new(Mutex::new(due));
    let mut running = Vec::new();
    for target in targets {
        let (mut client, due) = (Client::connect(target).await?, due.clone());
        running.push(tokio::spawn(async move {
            let mut times = Times::default();
            loop {
                let next = due.lock().await.recv().await;
                let Some(at) = next else { return anyhow::Ok(times) };
                let status = client.exchange().await?;
                ensure!(status == 200, "an answer was {status}, not 200");
                times.push(at.elapsed());
            }
        }));
    }
    // The clock of the runtime has a tick of a millisecond, which is far too coarse.
    let clock = std::thread::spawn(move || tick(&send, rate, over));
    let mut times = Times::default();
    for client in running {
        times.extend(client.await??);
    }
    clock.join().map_err(|_| anyhow::anyhow!("the clock has stopped"))?;
    Ok(times)
}

/// Says when a request is due, then hangs up.
fn tick(due: &mpsc::UnboundedSender<Instant>, rate: u32, over: Duration) {
    let (begun, step) = (Instant::now(), Duration::from_secs(1) / rate.max(1));
    let mut at = begun;
    while at < begun + over {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if due.send(at).is_err() {
            return;
        }
        at += step;
    }
}
