//! Evidence bundles: receipts, their proofs and everything that a stranger needs to check them,
//! in one tar file.

use std::collections::{BTreeMap, BTreeSet};

use kernel::bundle::run::Story;
use kernel::bundle::{
    self, CHECKPOINT, CONTROL, COST, Contents, Files, LOG, MANIFEST, Manifest, PREDICATE_TYPE, RUN,
    SUMS, TILED_LOG_MAX, VERIFY, VKEY, archive,
};
pub use kernel::bundle::{BundleReport, Pinned};
use kernel::dsse::{self, Envelope};
use kernel::limits;
use kernel::note::Note;
use kernel::pem;
use kernel::receipt::{LogId, STATEMENT_TYPE, Statement};
use kernel::signing_key::KeyRanges;
use kernel::tile;
use kernel::values::{Digest, Timestamp};

pub use crate::folder::{verify_bundle, verify_path, verify_path_with, verify_receipt};
use crate::keys::{P256Signer, Purpose};
use crate::log_keys;
use crate::proofs;
use crate::store::{Head, ReceiptRow, Store};
use crate::{Error, Ledger};

/// Receipts read at a time.
const PAGE: u32 = 512;
const VERIFY_TEXT: &str = include_str!("evidence/VERIFY.md");

/// Which receipts go into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// From index `from` up to, not including, `to`.
    Range {
        /// The first.
        from: u64,
        /// The one after the last.
        to: u64,
    },
    /// These indices, in any order.
    Receipts(Vec<u64>),
}

/// What goes into a bundle.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Of which log.
    pub log: LogId,
    /// Which receipts: at least one, at most [`limits::BUNDLE_RECEIPTS_MAX`].
    pub selection: Selection,
    /// Whether all entries of the log come too, as tiles. The log must have at most
    /// [`limits::BUNDLE_RECEIPTS_MAX`] receipts then.
    pub full_log: bool,
    /// Policy bundles by the SHA-256 of their bytes.
    pub policies: Vec<(Digest, Vec<u8>)>,
    /// What it cost, as the caller accounts for it.
    pub cost: serde_json::Value,
    /// What the run did that the receipts are of.
    pub run: Option<Story>,
    /// The text of its workflow, by the SHA-256 of its bytes.
    pub workflow: Option<(Digest, Vec<u8>)>,
    /// What it rests on: see [`of_control`].
    pub control: BTreeMap<String, Vec<u8>>,
}

/// The files that a bundle has of the control log: these receipts and those that hand its keys on,
/// with proofs under its newest checkpoint, and its keys.
pub fn of_control(
    ledger: &Ledger,
    log: &LogId,
    mut indices: BTreeSet<u64>,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let store = ledger.store().as_ref();
    let head = proofs::known(store, log)?;
    let ranges = ranges(store, log, head.frontier.size())?;
    indices.extend(ranges.as_slice().iter().filter_map(|range| range.from.checked_sub(1)));
    let mut files = BTreeMap::new();
    for row in rows(store, log, &indices)? {
        add_receipt(&mut files, store, &head, row, &ranges)?;
    }
    for range in ranges.as_slice() {
        let key = ledger.keys().p256_by_id(log.tenant(), Purpose::Receipt, &range.key_id)?;
        files.insert(bundle::key_path(&key.key_id()), pem::encode(key.spki_der()).into());
    }
    let origin = log.origin(ledger.host());
    let vkey = ledger.keys().note(log.tenant(), &origin)?.verifier_key().to_string();
    files.insert(VKEY.to_owned(), format!("{vkey}\n").into());
    files.insert(CHECKPOINT.to_owned(), head.checkpoint.into());
    Ok(files.into_iter().map(|(path, bytes)| (format!("{CONTROL}{path}"), bytes)).collect())
}

/// Makes a bundle: the bytes of a tar file. The same log, request and checkpoint give the same
/// files; only the manifest's signature differs. As the log grows, the same receipts come with
/// other proofs, tiles and keys, and the manifest has the same [`bundle::content`]. The bundle is
/// built in memory: about four times the bytes of its receipts, and 32 bytes for each receipt of
/// the log.
///
/// Besides what is selected it has the receipt of every handover from one receipt key to the next,
/// so that whoever trusts the log's first key can follow it to those that signed the rest.
///
/// [`Error::Absent`] where a selected receipt does not exist, [`Error::Invalid`] where the
/// selection is empty or too large or a policy is not of its digest.
pub fn export(ledger: &Ledger, request: &ExportRequest) -> Result<Vec<u8>, Error> {
    let head = proofs::known(ledger.store().as_ref(), &request.log)?;
    export_head(ledger, request, &head)
}

/// The same under the checkpoint `note` of the log, which may be an older one and bear further
/// signatures: those of witnesses.
pub fn export_under(
    ledger: &Ledger,
    request: &ExportRequest,
    note: &Note,
) -> Result<Vec<u8>, Error> {
    let head = proofs::head_under(ledger.store().as_ref(), &request.log, note)?;
    export_head(ledger, request, &head)
}

fn export_head(ledger: &Ledger, request: &ExportRequest, head: &Head) -> Result<Vec<u8>, Error> {
    let log = &request.log;
    let store = ledger.store().as_ref();
    let size = head.frontier.size();
    let mut indices = selected(request, size)?;
    let ranges = ranges(store, log, size)?;
    let handovers = ranges.as_slice().iter().filter_map(|range| range.from.checked_sub(1));
    indices.extend(handovers);
    let mut signers = Vec::new();
    for range in ranges.as_slice() {
        signers.push(ledger.keys().p256_by_id(log.tenant(), Purpose::Receipt, &range.key_id)?);
    }
    let absent = || Error::Corrupt(format!("{log:?} has no signing key"));
    let signer = signers.last().cloned().ok_or_else(absent)?;
    let origin = log.origin(ledger.host());
    let vkey = ledger.keys().note(log.tenant(), &origin)?.verifier_key().to_string();

    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for row in rows(store, log, &indices)? {
        add_receipt(&mut files, store, head, row, &ranges)?;
    }
    add_tiles(&mut files, store, log, size, request.full_log)?;
    for (digest, bytes) in &request.policies {
        if Digest::of(bytes) != *digest {
            return Err(Error::Invalid(format!("policy {digest} is of other bytes")));
        }
        files.insert(bundle::policy_path(digest), bytes.clone());
    }
    if let Some((digest, bytes)) = &request.workflow {
        if Digest::of(bytes) != *digest {
            return Err(Error::Invalid(format!("workflow {digest} is of other bytes")));
        }
        files.insert(bundle::workflow_path(digest), bytes.clone());
    }
    files.extend(request.control.clone());
    for key in &signers {
        files.insert(bundle::key_path(&key.key_id()), pem::encode(key.spki_der()).into());
    }
    files.insert(VKEY.to_owned(), format!("{vkey}\n").into());
    files.insert(CHECKPOINT.to_owned(), head.checkpoint.clone().into());
    files.insert(COST.to_owned(), request.cost.to_string().into());
    if let Some(story) = &request.run {
        let bytes = story.bytes().map_err(|error| Error::Invalid(error.to_string()))?;
        files.insert(RUN.to_owned(), bytes);
    }
    files.insert(VERIFY.to_owned(), VERIFY_TEXT.into());
    let listed = bundle::sums(&bundle::borrowed(&files));
    files.insert(SUMS.to_owned(), listed.into());
    let contents = Contents {
        origin,
        size,
        root: head.frontier.root(),
        receipts: u64::try_from(indices.len()).unwrap_or(u64::MAX),
        full_log: request.full_log,
        keys: ranges.into(),
        created_us: last_time(store, log, size)?,
        content: bundle::content(&bundle::borrowed(&files)),
    };
    let manifest = manifest(&bundle::borrowed(&files), contents, signer.as_ref())?;
    files.insert(MANIFEST.to_owned(), manifest);
    archive::write(&bundle::borrowed(&files))
        .ok_or_else(|| Error::Invalid("a file is too large for a bundle".to_owned()))
}

/// The log's keys when it had `size` receipts.
fn ranges(store: &dyn Store, log: &LogId, size: u64) -> Result<KeyRanges, Error> {
    let known = log_keys::of_log(store, log)?;
    let known = known.ok_or_else(|| Error::Corrupt(format!("{log:?} has a head alone")))?;
    Ok(known.as_of(size))
}

/// The time of the last of the first `size` receipts.
fn last_time(store: &dyn Store, log: &LogId, size: u64) -> Result<Timestamp, Error> {
    let last = size.saturating_sub(1);
    let row = store.receipts(log, last, 1)?.pop().filter(|row| row.index == last);
    let row = row.ok_or_else(|| Error::Corrupt(format!("receipt {last} is missing")))?;
    let corrupt = |error: String| Error::Corrupt(format!("receipt {last}: {error}"));
    let envelope = Envelope::parse(&row.envelope).map_err(|error| corrupt(error.to_string()))?;
    let statement = Statement::parse(&envelope.payload).map_err(|e| corrupt(e.to_string()))?;
    Ok(statement.predicate.time_us)
}

/// The selected indices, all of which exist.
fn selected(request: &ExportRequest, size: u64) -> Result<BTreeSet<u64>, Error> {
    let most = limits::BUNDLE_RECEIPTS_MAX;
    let wanted = match &request.selection {
        Selection::Range { from, to } => to.saturating_sub(*from),
        Selection::Receipts(indices) => u64::try_from(indices.len()).unwrap_or(u64::MAX),
    };
    if wanted == 0 || wanted > most {
        let message = format!("a bundle has 1 to {most} receipts, not {wanted}: select others");
        return Err(Error::Invalid(message));
    }
    if request.full_log && size > most {
        let message = format!(
            "the log has {size} receipts, a full-log bundle at most {most}: read its tiles instead"
        );
        return Err(Error::Invalid(message));
    }
    let indices: BTreeSet<u64> = match &request.selection {
        Selection::Range { from, to } => (*from..*to).collect(),
        Selection::Receipts(indices) => indices.iter().copied().collect(),
    };
    match indices.last() {
        Some(last) if *last >= size => {
            Err(Error::Absent(format!("receipt {}", request.log.receipt_id(*last))))
        }
        _ => Ok(indices),
    }
}

/// The rows of the selected receipts: neighbours are read together.
fn rows(store: &dyn Store, log: &LogId, indices: &BTreeSet<u64>) -> Result<Vec<ReceiptRow>, Error> {
    let mut rows = Vec::new();
    let mut rest = indices.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut count = 1;
        while count < PAGE && rest.next_if_eq(&(first + u64::from(count))).is_some() {
            count += 1;
        }
        let run = store.receipts(log, first, count)?;
        let dense = (first..).zip(&run).all(|(index, row)| row.index == index);
        if !dense || u32::try_from(run.len()) != Ok(count) {
            return Err(Error::Corrupt(format!("receipts from {first} on are missing")));
        }
        rows.extend(run);
    }
    Ok(rows)
}

fn add_receipt(
    files: &mut BTreeMap<String, Vec<u8>>,
    store: &dyn Store,
    head: &Head,
    row: ReceiptRow,
    ranges: &KeyRanges,
) -> Result<(), Error> {
    let ReceiptRow { log, index, envelope, .. } = row;
    let corrupt = |error: String| Error::Corrupt(format!("receipt {index}: {error}"));
    let key_id = Envelope::parse(&envelope).map_err(|error| corrupt(error.to_string()))?.key_id;
    ranges.check(index, &key_id).map_err(|error| corrupt(error.to_string()))?;
    let proof = proofs::proof_under(store, &log, index, head)?;
    files.insert(bundle::proof_path(index), proof.to_string().into());
    files.insert(bundle::sigstore_path(index), bundle::sigstore_bundle(&envelope, &key_id));
    files.insert(bundle::receipt_path(index), envelope);
    Ok(())
}

fn add_tiles(
    files: &mut BTreeMap<String, Vec<u8>>,
    store: &dyn Store,
    log: &LogId,
    size: u64,
    full_log: bool,
) -> Result<(), Error> {
    let hashes = tile::hash_tiles(0, if size <= TILED_LOG_MAX { size } else { 0 });
    let entries = tile::entry_tiles(0, if full_log { size } else { 0 });
    for tile in hashes.chain(entries) {
        files.insert(format!("{LOG}{tile}"), proofs::tile_of(store, log, size, &tile)?);
    }
    Ok(())
}

fn manifest(
    files: &Files<'_>,
    predicate: Contents,
    signer: &dyn P256Signer,
) -> Result<Vec<u8>, Error> {
    let manifest = Manifest {
        statement_type: STATEMENT_TYPE.to_owned(),
        subject: bundle::subjects(files),
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate,
    };
    let payload =
        serde_json::to_vec(&manifest).map_err(|error| Error::Invalid(error.to_string()))?;
    let signature = signer.sign(&dsse::pae(&payload))?;
    Ok(dsse::envelope(&payload, &signer.key_id(), &signature))
}
