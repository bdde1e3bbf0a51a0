//! A store that fails: nothing that was acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ::ledger::Error;
use ::ledger::store::{Class, Commit, ContentRow, EntityRow, Head, Page, ReceiptRow, Store};
use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};

use crate::ledger::{balance, check_whole};
use crate::support::*;

on_both! {
    a_failing_store_loses_nothing_that_was_acknowledged,
}

/// Fails commits: before they are made, or after.
pub(crate) struct FaultStore {
    inner: Arc<dyn Store>,
    commits: AtomicU8,
}

impl FaultStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, commits: AtomicU8::new(0) }
    }
}

impl Store for FaultStore {
    fn commit(&self, commit: &Commit) -> Result<(), Error> {
        let lost = || Err(Error::Store("the connection was lost".to_owned()));
        match self.commits.fetch_add(1, Ordering::Relaxed) % 5 {
            1 => lost(),
            3 => self.inner.commit(commit).and_then(|()| lost()),
            _ => self.inner.commit(commit),
        }
    }

    fn acquire(&self) -> Result<u64, Error> {
        self.inner.acquire()
    }

    fn logs(&self) -> Result<Vec<LogId>, Error> {
        self.inner.logs()
    }

    fn head(&self, log: &LogId) -> Result<Option<Head>, Error> {
        self.inner.head(log)
    }

    fn entity(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        self.inner.entity(log, stream)
    }

    fn entities(&self, log: &LogId, kind: Kind, page: &Page) -> Result<Vec<EntityRow>, Error> {
        self.inner.entities(log, kind, page)
    }

    fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<(LogId, Stream)>, Error> {
        self.inner.due(now, limit)
    }

    fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        self.inner.next_due()
    }

    fn receipts(&self, log: &LogId, from: u64, limit: u32) -> Result<Vec<ReceiptRow>, Error> {
        self.inner.receipts(log, from, limit)
    }

    fn hashes(&self, log: &LogId, level: u8, at: u64, count: u32) -> Result<Vec<Digest>, Error> {
        self.inner.hashes(log, level, at, count)
    }

    fn content(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
    ) -> Result<Option<ContentRow>, Error> {
        self.inner.content(tenant, id, part)
    }

    fn content_key(&self, tenant: &str, class: Class, day: i64) -> Result<Option<Vec<u8>>, Error> {
        self.inner.content_key(tenant, class, day)
    }

    fn destroy_content(&self, class: Class, day: i64) -> Result<u64, Error> {
        self.inner.destroy_content(class, day)
    }

    fn blob(&self, tenant: &str, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        self.inner.blob(tenant, digest)
    }

    fn scan(
        &self,
        log: &LogId,
        after: Option<&Stream>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, Error> {
        self.inner.scan(log, after, limit)
    }

    fn replace_entities(
        &self,
        log: &LogId,
        rows: &mut dyn Iterator<Item = EntityRow>,
    ) -> Result<(), Error> {
        self.inner.replace_entities(log, rows)
    }
}

async fn a_failing_store_loses_nothing_that_was_acknowledged(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open_on(Arc::new(FaultStore::new(place.store())));
    let log = log("ops");
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for i in 0..40_u32 {
        match commit(&ledger, &log, fund(&format!("acc-{i}"), 5)).await {
            Ok(done) => acknowledged.push((i, done.index.unwrap())),
            Err(Error::Store(_)) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(failed, 16, "two of five fail");
    // Of those that failed, half are stored: nobody was told that they are not.
    check_whole(&place, &ledger, &log, 32);
    for (i, index) in acknowledged {
        assert_eq!(balance(&ledger, &log, &format!("acc-{i}")), 5);
        let row = ledger.store().receipts(&log, index, 1).unwrap().remove(0);
        let payload = kernel::dsse::Envelope::parse(&row.envelope).unwrap().payload;
        assert!(String::from_utf8(payload).unwrap().contains(&format!("account/acc-{i}\"")));
    }
}
