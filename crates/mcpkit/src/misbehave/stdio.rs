//! The server over stdio.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::{Act, Misbehave, tools_changed};

/// The exit code of a crash.
const CRASHED: i32 = 101;
/// What one piece of an endless message is.
const PIECE: usize = 64 << 10;
/// Who is busy being bad.
const QUEUE: usize = 64;

pub(super) async fn serve<R, W>(server: Misbehave, read: R, mut write: W)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(QUEUE);
    let writer = tokio::spawn(async move {
        while let Some(bytes) = outgoing.recv().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    });
    let mut changes = server.kept.changes.subscribe();
    let changed = out.clone();
    let has_old = server.revisions.has_old();
    let telling = tokio::spawn(async move {
        while changes.recv().await.is_ok() {
            if !has_old || changed.send(line(&tools_changed(None))).await.is_err() {
                break;
            }
        }
    });
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        for act in server.react(&text) {
            perform(act, &server, &out).await;
        }
    }
    telling.abort();
    drop(out);
    // A flood does not end: whoever reads is gone.
    let _late = tokio::time::timeout(Duration::from_secs(1), writer).await;
}

async fn perform(act: Act, server: &Misbehave, out: &mpsc::Sender<Vec<u8>>) {
    match act {
        Act::Send(text) => {
            let _gone = out.send(line(&text)).await;
        }
        Act::Die => std::process::exit(CRASHED),
        Act::Hang => {}
        Act::Flood(text) => endless(line(&text), out.clone()),
        Act::Pour => endless(vec![b'x'; PIECE], out.clone()),
        Act::Listen(subscription) => {
            let (mut changes, out) = (server.kept.changes.subscribe(), out.clone());
            tokio::spawn(async move {
                while changes.recv().await.is_ok() {
                    if out.send(line(&tools_changed(Some(&subscription)))).await.is_err() {
                        break;
                    }
                }
            });
        }
    }
}

fn endless(bytes: Vec<u8>, out: mpsc::Sender<Vec<u8>>) {
    tokio::spawn(async move { while out.send(bytes.clone()).await.is_ok() {} });
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}
