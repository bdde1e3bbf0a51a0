//! Checking a stored log from its first receipt on, and making the states anew from it.
//!
//! Receipts are read in pages. Checking keeps two pages in memory; folding keeps every state of
//! the log besides, about 2 KB for each stream that ever was.

use std::collections::BTreeMap;
use std::thread;

use kernel::dsse::{self, Envelope};
use kernel::machine::Stream;
use kernel::note::Note;
use kernel::receipt::{ChainEnd, LogId, Statement};
use kernel::signing_key::{Handover, KeyRanges};
use kernel::tree::{self, Frontier};
use kernel::values::{Digest, Timestamp};
use kernel::verify::{self, Keys, Trust, Verified};
use serde::Serialize;

use crate::Error;
use crate::edges::Edges;
use crate::keys::{KeyProvider, NativeVerifier, Purpose};
use crate::project::{Versioned, meter_stream};
use crate::store::{EntityRow, Head, ReceiptRow, Store};

/// Receipts read at a time: 8 MB where each has 2 KB.
const PAGE: u32 = 4096;
/// Errors that a report names. What is wrong beyond them follows from them as a rule.
const ERRORS_MAX: usize = 64;
/// States compared or written at a time.
const STATES_PAGE: u32 = 1024;

/// What was found in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's origin, as its receipts have to name it. Empty where a log without a receipt was
    /// rebuilt.
    pub origin: String,
    /// How many receipts were read.
    pub size: u64,
    /// The first receipt with which something is wrong.
    pub first_bad_index: Option<u64>,
    /// What is wrong, in sentences; at most 64.
    pub errors: Vec<String>,
    /// The root of the tree over the receipts that were read.
    pub root: Digest,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn new(origin: String) -> Self {
        let root = tree::empty_root();
        Self { origin, size: 0, first_bad_index: None, errors: Vec::new(), root }
    }

    fn error(&mut self, error: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error.into());
        }
    }

    fn bad(&mut self, index: u64, error: &dyn std::fmt::Display) {
        self.first_bad_index = Some(self.first_bad_index.map_or(index, |first| first.min(index)));
        self.error(format!("receipt {index}: {error}"));
    }
}

/// Reads a whole log and checks every signature, that its key was the log's at that index, the
/// chain, every leaf and stored tree hash, and
/// that the signed checkpoint is of exactly this tree. Uses every processor. A log that grows
/// meanwhile is checked up to where it ended at first.
///
/// What is wrong with the log is in the report; an error is only what kept it from being read.
pub fn verify_log(
    store: &dyn Store,
    host: &str,
    keys: &dyn KeyProvider,
    log: &LogId,
) -> Result<Report, Error> {
    let mut report = Report::new(log.origin(host));
    let head = store.head(log)?;
    let size = head.as_ref().map_or(0, |head| head.frontier.size());
    let checker = Checker { origin: report.origin.clone(), tenant: log.tenant(), keys };
    let mut signers = Signers::default();
    let mut tree = Tree::default();
    let mut last: Option<ReceiptRow> = None;
    let mut page = read_page(store, log, 0, size)?;
    while let Some(end) = dense(&page, tree.frontier.size(), size, &mut report) {
        let next = thread::scope(|scope| {
            let shares = checker.start(scope, last.as_ref(), &page);
            let next = read_page(store, log, end, size);
            for share in shares {
                let found = share.join().map_err(|_| Error::Stopped)?;
                found.faults.iter().for_each(|(index, error)| report.bad(*index, error));
                signers.follow(found.signed, &mut report);
            }
            next
        })?;
        tree.grow(store, log, &page, &mut report)?;
        last = page.pop();
        page = next;
    }
    report.size = tree.frontier.size();
    report.root = tree.frontier.root();
    match head {
        Some(head) => check_head(&head, &tree.frontier, log, keys, &mut report)?,
        None if store.receipts(log, 0, 1)?.is_empty() => {}
        None => report.error("the log has receipts but no head"),
    }
    check_tail(store, log, size, &mut report)?;
    Ok(report)
}

fn read_page(
    store: &dyn Store,
    log: &LogId,
    from: u64,
    size: u64,
) -> Result<Vec<ReceiptRow>, Error> {
    let limit = u32::try_from(size.saturating_sub(from)).unwrap_or(u32::MAX).min(PAGE);
    if limit == 0 { Ok(Vec::new()) } else { store.receipts(log, from, limit) }
}

/// The index after a page that begins at `from`. None where reading ends: at the size of the log,
/// or at a gap.
fn dense(page: &[ReceiptRow], from: u64, size: u64, report: &mut Report) -> Option<u64> {
    let mut expected = from;
    for row in page {
        if row.index != expected {
            report.bad(expected, &"it is missing");
            return None;
        }
        expected += 1;
    }
    if expected > from {
        return Some(expected);
    }
    if from < size {
        report.bad(from, &"it is missing");
    }
    None
}

/// What every receipt of a log is checked against.
struct Checker<'a> {
    origin: String,
    tenant: &'a str,
    keys: &'a dyn KeyProvider,
}

/// What a share of a page holds.
#[derive(Default)]
struct Found {
    faults: Vec<(u64, String)>,
    signed: Vec<SignedBy>,
}

/// Who signed a receipt, and the key that it brings in.
struct SignedBy {
    index: u64,
    key_id: Digest,
    handover: Option<Handover>,
}

/// The keys of the log, as its receipts say, up to where it was read.
#[derive(Default)]
struct Signers(Option<KeyRanges>);

impl Signers {
    /// Checks that each receipt was signed by the key that was the log's at its index.
    fn follow(&mut self, signed: Vec<SignedBy>, report: &mut Report) {
        for SignedBy { index, key_id, handover } in signed {
            let ranges = self.0.get_or_insert_with(|| KeyRanges::start(key_id));
            let fits = ranges.check(index, &key_id);
            let fits = fits.and_then(|()| handover.map_or(Ok(()), |next| ranges.hand_over(&next)));
            if let Err(error) = fits {
                report.bad(index, &error);
            }
        }
    }
}

impl Checker<'_> {
    /// Starts checking a page, its share on every processor. `before` is the row before it.
    fn start<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        before: Option<&'scope ReceiptRow>,
        page: &'scope [ReceiptRow],
    ) -> Vec<thread::ScopedJoinHandle<'scope, Found>> {
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = page.len().div_ceil(threads).max(1);
        let mut before = before;
        let mut started = Vec::new();
        for rows in page.chunks(share) {
            let row_before = before;
            started.push(scope.spawn(move || self.check(row_before, rows)));
            before = rows.last();
        }
        started
    }

    /// Checks neighbouring rows. The row before them is trusted here: another share checks it.
    fn check(&self, before: Option<&ReceiptRow>, rows: &[ReceiptRow]) -> Found {
        let mut found = Found::default();
        let mut keys = Keys::default();
        let mut end = ChainEnd::start(self.origin.as_str());
        if let Some(before) = before {
            resume(&mut end, before);
        }
        for row in rows {
            if tree::leaf_hash(&row.envelope) != row.leaf {
                found.fault(row, "the stored leaf hash is of other bytes");
            }
            let verified = match self.verify(&row.envelope, &mut keys) {
                Err(error) => {
                    found.fault(row, error);
                    resume(&mut end, row);
                    continue;
                }
                Ok(verified) => verified,
            };
            let handover = match end.follow(&verified.payload) {
                Err(error) => {
                    found.fault(row, error);
                    resume(&mut end, row);
                    Ok(None)
                }
                Ok(statement) => Handover::read(row.index, &statement.predicate.transitions),
            };
            let handover = handover.unwrap_or_else(|error| {
                found.fault(row, error);
                None
            });
            found.signed.push(SignedBy { index: row.index, key_id: verified.key_id, handover });
        }
        found
    }

    /// Any key of the tenant is good for a signature; for which receipts is checked in the order
    /// of the log.
    fn verify(&self, envelope: &[u8], keys: &mut Keys) -> Result<Verified, verify::Error> {
        let verified = verify::verify_envelope(envelope, keys, &NativeVerifier);
        let Err(verify::Error::UnknownKey(key_id)) = &verified else { return verified };
        match self.keys.p256_by_id(self.tenant, Purpose::Receipt, key_id) {
            Ok(key) => keys.insert(key.spki_der(), Trust::Pinned),
            // Not among the tenant's: who signed is unknown.
            Err(_) => return verified,
        };
        verify::verify_envelope(envelope, keys, &NativeVerifier)
    }
}

impl Found {
    fn fault(&mut self, row: &ReceiptRow, fault: impl std::fmt::Display) {
        self.faults.push((row.index, fault.to_string()));
    }
}

/// Goes on after a row, whatever is wrong with it. After one that cannot even be read, the next
/// is found not to follow.
fn resume(end: &mut ChainEnd, row: &ReceiptRow) {
    let payload = Envelope::parse(&row.envelope).map(|envelope| envelope.payload);
    let payload = payload.unwrap_or_default();
    let time = Statement::parse(&payload).map_or(end.time, |s| s.predicate.time_us);
    end.size = row.index;
    end.advance(&payload, time);
}

/// The tree over what was read.
#[derive(Default)]
struct Tree {
    frontier: Frontier,
    edges: Edges,
}

impl Tree {
    /// Appends a page and compares the hashes that it completes with the stored ones.
    fn grow(
        &mut self,
        store: &dyn Store,
        log: &LogId,
        page: &[ReceiptRow],
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut complete = Vec::new();
        for row in page {
            // Not the stored hash: only the bytes say what the leaf is.
            let leaf = tree::leaf_hash(&row.envelope);
            self.frontier.push(leaf);
            self.edges.push(log, leaf, &mut complete);
        }
        for hash in complete {
            if store.hashes(log, hash.level, hash.index, 1)? != [hash.hash] {
                let (level, index) = (hash.level, hash.index);
                report.error(format!("the stored tree hash {index} of level {level} is wrong"));
            }
        }
        Ok(())
    }
}

fn check_head(
    head: &Head,
    frontier: &Frontier,
    log: &LogId,
    keys: &dyn KeyProvider,
    report: &mut Report,
) -> Result<(), Error> {
    if head.frontier != *frontier {
        report.error("the head's tree is not the tree over the receipts");
    }
    let signer = keys.note(log.tenant(), &report.origin)?;
    let checkpoint = Note::parse(head.checkpoint.as_bytes())
        .map_err(verify::Error::from)
        .and_then(|n| verify::verify_checkpoint(&n, signer.verifier_key(), &NativeVerifier));
    match checkpoint {
        Err(error) => report.error(format!("checkpoint: {error}")),
        Ok(signed) if signed.size != frontier.size() || signed.root != frontier.root() => {
            report.error(format!("the checkpoint of {} is of another tree", signed.size));
        }
        Ok(_) => {}
    }
    Ok(())
}

/// Receipts beyond the head are none of the log, unless it has grown since.
fn check_tail(store: &dyn Store, log: &LogId, size: u64, report: &mut Report) -> Result<(), Error> {
    if store.receipts(log, size, 1)?.is_empty() {
        return Ok(());
    }
    let now = store.head(log)?.map_or(0, |head| head.frontier.size());
    if now == size {
        report.bad(size, &"it lies beyond the head");
    }
    Ok(())
}

/// Drops the stored states of a log and stores what its receipts fold to.
///
/// Takes over as the writer first, so that no server goes on with states it has in memory: start
/// the ledger afterwards. Where a receipt cannot be read, does not follow the one before or does
/// not fit the states so far, nothing is replaced and the report says so. Signatures are not
/// checked here: see [`verify_log`].
pub fn rebuild(store: &dyn Store, log: &LogId) -> Result<Report, Error> {
    store.acquire()?;
    let (report, states) = fold(store, log)?;
    if report.valid() {
        let rows: Vec<EntityRow> = rows_of(log, &states).collect::<Result<_, _>>()?;
        store.replace_entities(log, &mut rows.into_iter())?;
    }
    Ok(report)
}

/// How a stored state differs from what the log folds to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of what.
    pub stream: Stream,
    /// As the log has it: none where no receipt made it.
    pub folded: Option<String>,
    /// As it is stored: none where it is not.
    pub stored: Option<String>,
}

/// Compares every stored state of a log with what its receipts fold to. [`Error::Corrupt`] where
/// the receipts themselves do not read. Meant for a log that rests: a commit meanwhile shows as a
/// difference.
pub fn diff(store: &dyn Store, log: &LogId) -> Result<Vec<Difference>, Error> {
    let (report, mut states) = fold(store, log)?;
    if let Some(error) = report.errors.into_iter().next() {
        return Err(Error::Corrupt(error));
    }
    let mut differences = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(log, after.as_ref(), STATES_PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.stream.clone());
        for stored in page {
            let stream = stored.stream.clone();
            let folded = states.remove(&stream).unwrap_or_default().row(log, &stream)?;
            if folded.as_ref() != Some(&stored) {
                let (folded, stored) = (folded.as_ref().map(describe), Some(describe(&stored)));
                differences.push(Difference { stream, folded, stored });
            }
        }
    }
    for row in rows_of(log, &states) {
        let row = row?;
        let folded = Some(describe(&row));
        differences.push(Difference { stream: row.stream, folded, stored: None });
    }
    Ok(differences)
}

/// Does what [`verify_log`] does and, where that finds nothing, also compares every stored state
/// with what the receipts fold to: each that differs is an error that names its stream. For a log
/// that rests, as [`diff`] is.
pub fn verify_states(
    store: &dyn Store,
    host: &str,
    keys: &dyn KeyProvider,
    log: &LogId,
) -> Result<Report, Error> {
    let mut report = verify_log(store, host, keys, log)?;
    if !report.valid() {
        return Ok(report);
    }
    match diff(store, log) {
        // Signed and chained, and yet no receipt that makes a state.
        Err(Error::Corrupt(error)) => report.error(error),
        differences => {
            for Difference { stream, .. } in differences? {
                report.error(format!("{stream}: the stored state is not what the log says"));
            }
        }
    }
    Ok(report)
}

fn describe(row: &EntityRow) -> String {
    let due = row.due_at.map_or_else(|| "never".to_owned(), |at| at.0.to_string());
    format!("version {}, {}, due {due}: {}", row.version, row.status, row.body)
}

type States = BTreeMap<Stream, Versioned>;

fn rows_of<'a>(
    log: &'a LogId,
    states: &'a States,
) -> impl Iterator<Item = Result<EntityRow, Error>> + 'a {
    states.iter().filter_map(|(stream, versioned)| versioned.row(log, stream).transpose())
}

/// Folds every receipt of a log, up to the first that does not fit.
fn fold(store: &dyn Store, log: &LogId) -> Result<(Report, States), Error> {
    let mut report = Report::new(String::new());
    let mut states = States::new();
    let Some(head) = store.head(log)? else { return Ok((report, states)) };
    let size = head.frontier.size();
    let mut frontier = Frontier::default();
    let mut end: Option<ChainEnd> = None;
    'pages: while frontier.size() < size {
        let page = read_page(store, log, frontier.size(), size)?;
        if dense(&page, frontier.size(), size, &mut report).is_none() {
            break;
        }
        for row in &page {
            if let Err(error) = fold_row(&mut states, &mut end, row) {
                report.bad(row.index, &error);
                break 'pages;
            }
            frontier.push(tree::leaf_hash(&row.envelope));
        }
    }
    if report.valid() && frontier != head.frontier {
        report.error("the head's tree is not the tree over the receipts");
    }
    report.origin = end.map(|end| end.origin).unwrap_or_default();
    report.size = frontier.size();
    report.root = frontier.root();
    Ok((report, states))
}

fn fold_row(
    states: &mut States,
    end: &mut Option<ChainEnd>,
    row: &ReceiptRow,
) -> Result<(), String> {
    let envelope =
        Envelope::parse(&row.envelope).map_err(|error: dsse::Error| error.to_string())?;
    let end = match end {
        Some(end) => end,
        None => {
            let first = Statement::parse(&envelope.payload).map_err(|error| error.to_string())?;
            end.insert(ChainEnd::start(first.predicate.log.origin))
        }
    };
    let statement = end.follow(&envelope.payload).map_err(|error| error.to_string())?;
    let time: Timestamp = statement.predicate.time_us;
    for transition in statement.predicate.transitions {
        let state = states.entry(transition.stream.clone()).or_default();
        if transition.version != state.version.saturating_add(1) {
            let (stream, version) = (transition.stream, transition.version);
            return Err(format!("{stream}@{version} follows version {}", state.version));
        }
        let folded = std::mem::take(state);
        let meter = folded.metered(&transition.change, time);
        *state = folded.fold(&transition.stream.id, [&transition.change], row.index, time);
        if let Some(meter) = meter {
            let sum = states.entry(meter_stream(&meter)).or_default();
            *sum = std::mem::take(sum).add(meter);
        }
    }
    Ok(())
}
