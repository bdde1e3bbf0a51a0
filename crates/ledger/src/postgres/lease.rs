//! One writer at a time. The database's clock is never read: the writer moves a counter, and a
//! standby watches it against its own monotonic time.
//!
//! The epoch is what protects the log: a commit checks it under a row lock, and whoever takes over
//! raises it. The heartbeat only says when taking over is due.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use super::connection::{Pool, Trouble};
use super::{limits, rows};
use crate::{Error, sql};

const ACQUIRE_FROM: &str =
    "UPDATE writer SET epoch = epoch + 1 WHERE id = 1 AND epoch = $1 RETURNING epoch";
const LOOK: &str = "SELECT epoch, owner, address, beat FROM lease WHERE id = 1";
const TAKE: &str = "UPDATE lease SET epoch = $1, owner = $2, address = $3, beat = 0 WHERE id = 1";
const BEAT: &str = "UPDATE lease SET beat = beat + 1 WHERE id = 1 AND epoch = $1 AND owner = $2";
const RELEASE: &str = "UPDATE lease SET owner = '' WHERE id = 1 AND epoch = $1 AND owner = $2";

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Tells one server from another. A server that starts again on its own data folder has the
    /// same, and need not wait for itself.
    pub id: String,
    /// Where it listens, for people.
    pub address: String,
}

/// The lease as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: i64,
    owner: String,
    pub(super) address: String,
    beat: i64,
}

impl Seen {
    pub(super) fn free_for(&self, owner: &Owner) -> bool {
        self.owner.is_empty() || self.owner == owner.id
    }
}

/// How this server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not acquired the lease.
    Outside,
    /// It writes under this epoch; the last heartbeat that arrived was sent then.
    Writing { epoch: u64, beaten: Instant },
    /// Somebody else has the lease, or it was given up.
    Over,
}

impl Standing {
    fn writes(self, under: u64) -> bool {
        matches!(self, Self::Writing { epoch, .. } if epoch == under)
    }
}

/// This server's part of the lease.
pub(super) struct Lease {
    pub(super) owner: Owner,
    standing: watch::Sender<Standing>,
    /// The epoch that was seen when the lease was found to be free.
    expected: Mutex<Option<i64>>,
    /// A connection of its own: a long commit does not hold it up.
    pool: Pool,
}

impl Lease {
    pub(super) fn new(owner: Owner, pool: Pool) -> Self {
        let (standing, _) = watch::channel(Standing::Outside);
        Self { owner, standing, expected: Mutex::default(), pool }
    }

    /// Looks at the lease.
    pub(super) async fn look(&self) -> Result<Seen, Trouble> {
        self.pool
            .with(limits::BEAT_TIME, async |connection| {
                let found = connection.query(LOOK, &[]).await?;
                let row = found.first().ok_or_else(|| Error::Corrupt("no lease".to_owned()))?;
                Ok(Seen {
                    epoch: rows::get(row, 0)?,
                    owner: rows::get(row, 1)?,
                    address: rows::get(row, 2)?,
                    beat: rows::get(row, 3)?,
                })
            })
            .await
    }

    /// Remembers what was seen: acquiring fails where somebody was faster.
    pub(super) fn expect(&self, seen: &Seen) {
        *self.expected.lock() = Some(seen.epoch);
    }

    /// Returns when nobody else writes: the writer let go, or its counter stood still too long.
    pub(super) async fn stand_by(&self) -> Result<(), Error> {
        let mut last: Option<(Seen, Instant)> = None;
        loop {
            match (self.look().await, &last) {
                (Ok(seen), _) if seen.free_for(&self.owner) => {
                    self.expect(&seen);
                    return Ok(());
                }
                (Ok(seen), Some((before, since))) if seen == *before => {
                    if since.elapsed() >= limits::TAKEOVER {
                        tracing::warn!(address = seen.address, "the writer is silent: taking over");
                        self.expect(&seen);
                        return Ok(());
                    }
                }
                (Ok(seen), _) => last = Some((seen, Instant::now())),
                // A database that does not answer us may not answer the writer either.
                (Err(error), _) => {
                    tracing::warn!(?error, "the lease cannot be read");
                    last = None;
                }
            }
            sleep(limits::LOOK).await;
        }
    }

    /// Becomes the writer.
    pub(super) async fn acquire(&self) -> Result<u64, Trouble> {
        let expected = self.expected.lock().take();
        let sent = Instant::now();
        let epoch = self
            .pool
            .with(limits::WRITE, async |connection| {
                connection.client.batch_execute("BEGIN").await?;
                // Waits for a commit that is under way.
                let raised = match expected {
                    Some(epoch) => connection.query(ACQUIRE_FROM, &[&epoch]).await?,
                    None => connection.query(sql::ACQUIRE, &[]).await?,
                };
                let Some(row) = raised.first() else { return Err(Error::Fenced.into()) };
                let epoch: i64 = rows::get(row, 0)?;
                let Owner { id, address } = &self.owner;
                connection.execute(TAKE, &[&epoch, id, address]).await?;
                connection.end().await?;
                Ok(rows::unsigned(row, 0)?)
            })
            .await?;
        self.standing.send_replace(Standing::Writing { epoch, beaten: sent });
        Ok(epoch)
    }

    /// Beats for as long as this server is the writer of `epoch`.
    pub(super) async fn beat(&self, epoch: u64) {
        let number = super::commit::big(epoch);
        let current = |standing: &Standing| standing.writes(epoch);
        let mut standing = self.standing.subscribe();
        loop {
            let ended = standing.wait_for(|standing| !current(standing));
            if tokio::time::timeout(limits::BEAT, ended).await.is_ok() {
                return;
            }
            let sent = Instant::now();
            let beaten = self
                .pool
                .with(limits::BEAT_TIME, async |connection| {
                    Ok(connection.execute(BEAT, &[&number, &self.owner.id]).await?)
                })
                .await;
            let next = match beaten {
                Ok(1) => Standing::Writing { epoch, beaten: sent },
                Ok(_) => {
                    tracing::error!("another server has taken over: this one stops");
                    Standing::Over
                }
                Err(error) => {
                    tracing::warn!(?error, "a heartbeat failed");
                    continue;
                }
            };
            self.standing.send_if_modified(|standing| {
                let modify = current(standing);
                if modify {
                    *standing = next;
                }
                modify
            });
        }
    }

    /// Refuses to commit where the writer has been silent for so long that a standby may be about
    /// to take over.
    pub(super) fn check(&self) -> Result<(), Error> {
        match *self.standing.borrow() {
            Standing::Over => Err(Error::Fenced),
            Standing::Writing { beaten, .. } if beaten.elapsed() > limits::LAPSE => {
                Err(Error::Store("the database has not taken a heartbeat for too long".to_owned()))
            }
            Standing::Outside | Standing::Writing { .. } => Ok(()),
        }
    }

    /// Returns when this server is not the writer any more.
    pub(super) async fn over(&self) {
        let mut standing = self.standing.subscribe();
        // It cannot be closed: the sender is here.
        let _over = standing.wait_for(|standing| *standing == Standing::Over).await;
    }

    /// Stops the heartbeat without letting go.
    pub(super) fn end(&self) {
        self.standing.send_replace(Standing::Over);
    }

    /// Lets go, so that a standby need not wait. Nothing is committed afterwards.
    pub(super) async fn release(&self) -> Result<(), Trouble> {
        let before = self.standing.send_replace(Standing::Over);
        let Standing::Writing { epoch, .. } = before else { return Ok(()) };
        let epoch = super::commit::big(epoch);
        self.pool
            .with(limits::RELEASE, async |connection| {
                connection.execute(RELEASE, &[&epoch, &self.owner.id]).await?;
                Ok(())
            })
            .await
    }
}
