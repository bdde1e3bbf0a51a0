//! Signing receipts: a group is spread over a few threads, since chaining needs no signature.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use kernel::dsse;
use kernel::receipt::LogId;
use kernel::tree;
use kernel::values::Digest;

use crate::Error;
use crate::keys::P256Signer;

/// Below so many receipts a group is signed by the thread that asks: waking another takes about
/// as long as two signatures.
const SPREAD_MIN: usize = 8;

/// A receipt to be signed.
pub(crate) struct Unsigned {
    pub(crate) index: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) signer: Arc<dyn P256Signer>,
}

/// A receipt as the log has it.
pub(crate) struct Signed {
    pub(crate) index: u64,
    pub(crate) envelope: Vec<u8>,
    pub(crate) leaf: Digest,
}

type Work = Vec<(LogId, Unsigned)>;
type Done = Result<Vec<(LogId, Signed)>, Error>;

/// Threads that sign.
pub(crate) struct SignPool {
    lanes: Vec<(Sender<Work>, Receiver<Done>)>,
}

impl SignPool {
    /// One thread for each processor but the caller's own.
    pub(crate) fn start() -> Self {
        let others =
            thread::available_parallelism().map_or(0, |n| n.get().saturating_sub(1)).min(7);
        let lanes = (0..others).filter_map(|_| lane()).collect();
        Self { lanes }
    }

    /// Signs everything, in order.
    pub(crate) fn sign(&self, mut work: Work) -> Done {
        if work.len() < SPREAD_MIN || self.lanes.is_empty() {
            return sign_all(work);
        }
        let share = work.len().div_ceil(self.lanes.len() + 1);
        let mut shares = Vec::new();
        for (send, answers) in &self.lanes {
            let rest = work.split_off(share.min(work.len()));
            let mine = std::mem::replace(&mut work, rest);
            shares.push(send.send(mine).map(|()| answers));
        }
        let last = sign_all(work);
        // Every lane is heard, even after a failure, so that no answer is left for a later group.
        let first: Vec<Done> = shares
            .into_iter()
            .map(|sent| sent.ok().and_then(|a| a.recv().ok()).unwrap_or(Err(Error::Stopped)))
            .collect();
        let mut signed = Vec::new();
        for done in first.into_iter().chain([last]) {
            signed.extend(done?);
        }
        Ok(signed)
    }
}

fn lane() -> Option<(Sender<Work>, Receiver<Done>)> {
    let (send, work) = channel::<Work>();
    let (answer, answers) = channel();
    let spawned = thread::Builder::new().name("tally-sign".to_owned()).spawn(move || {
        while let Ok(work) = work.recv() {
            if answer.send(sign_all(work)).is_err() {
                return;
            }
        }
    });
    spawned.is_ok().then_some((send, answers))
}

fn sign_all(work: Work) -> Done {
    work.into_iter().map(|(log, unsigned)| Ok((log, sign(&unsigned)?))).collect()
}

fn sign(unsigned: &Unsigned) -> Result<Signed, Error> {
    let Unsigned { index, payload, signer } = unsigned;
    let signature = signer.sign(&dsse::pae(payload))?;
    let envelope = dsse::envelope(payload, &signer.key_id(), &signature);
    let leaf = tree::leaf_hash(&envelope);
    Ok(Signed { index: *index, envelope, leaf })
}
