//! The evidence: exported, verified offline, and refused once a byte of it is changed.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use kernel::dsse::Envelope;
use ledger::evidence::{Pinned, verify_path};
use proto::actions::Action;
use proto::evidence::ExportEvidenceRequest;
use proto::identity::GetTenantKeysRequest;
use proto::receipts::GetReceiptRequest;

use super::say::{expect, say, then};
use super::world::Place;
use crate::commands::signing_keys::Published;
use crate::commands::verify;

/// An exported bundle, and the keys that were got another way.
pub(super) struct Evidence {
    /// The tar file.
    file: PathBuf,
    /// The same, unpacked.
    pub(super) folder: PathBuf,
    /// The receipt that the rest is about, below `folder`.
    pub(super) receipt: PathBuf,
    /// The key that signed it, below `folder`.
    pub(super) key: PathBuf,
    pinned: Pinned,
}

/// What must be in a bundle: what it is, and the id of its receipt.
pub(super) type Wanted = (String, String);

/// Every receipt of an action.
pub(super) fn receipts_of(action: &Action) -> impl Iterator<Item = Wanted> {
    action.receipts.iter().map(|id| (action.tool.clone(), id.clone()))
}

/// Exports evidence and unpacks it. The receipt to look at is the last that is wanted.
pub(super) async fn export(
    place: &Place,
    request: &ExportEvidenceRequest,
    wanted: &[Wanted],
) -> anyhow::Result<Evidence> {
    let client = &place.owner.client;
    let pinned = pinned_keys(place).await?;
    let bundle = client.export_evidence(request).await?.data;
    let (file, folder) = (place.dir.join("evidence.tar"), place.dir.join("evidence"));
    fs::write(&file, &bundle)?;
    tar::Archive::new(bundle.as_slice()).unpack(&folder)?;
    say(&format!("bundle   {} ({} bytes)", file.display(), bundle.len()))?;
    let mut last = None;
    for (what, receipt_id) in wanted {
        let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
        let index = client.get_receipt(&request).await?.index;
        let receipt = PathBuf::from(format!("receipts/{index}.dsse.json"));
        let exported = folder.join(&receipt).is_file();
        let what = format!("{what} {receipt_id} is in it");
        expect(exported, &what, || format!("no {}", receipt.display()))?;
        last = Some(receipt);
    }
    let receipt = last.context("there are no receipts")?;
    let envelope = Envelope::parse(&fs::read(folder.join(&receipt))?)?;
    let key = PathBuf::from(format!("keys/{}.pem", envelope.key_id.hex()));
    Ok(Evidence { file, folder, receipt, key, pinned })
}

/// The tenant's keys as the server publishes them: a stranger keeps them from before.
async fn pinned_keys(place: &Place) -> anyhow::Result<Pinned> {
    let request = GetTenantKeysRequest { tenant: place.tenant.clone() };
    let keys = place.owner.client.get_tenant_keys(&request).await?.keys;
    let published = Published::new(keys);
    let log_key =
        published.log_key(&place.log).context("the tenant publishes no key of the log")?;
    let pinned = published.pinned(Some(log_key))?;
    anyhow::ensure!(!pinned.keys.is_empty(), "the tenant publishes no receipt key");
    Ok(pinned)
}

/// Verifies the bundle without the server.
pub(super) fn verify(evidence: &Evidence) -> anyhow::Result<()> {
    let report = verify_path(&evidence.file, Some(&evidence.pinned));
    say(&format!("tally verify {}", evidence.file.display()))?;
    say(&verify::describe(&report))?;
    expect(report.valid, "the evidence verifies offline", || report.errors.join("; "))
}

/// Changes one byte of the receipt and returns where the changed copy is.
pub(super) fn change_one_byte(evidence: &Evidence) -> anyhow::Result<PathBuf> {
    then("Somebody changes one byte of one receipt")?;
    let changed = evidence.folder.with_file_name("evidence-changed");
    tar::Archive::new(fs::File::open(&evidence.file)?).unpack(&changed)?;
    let path = changed.join(&evidence.receipt);
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).context("an empty receipt")?;
    *byte = if *byte == b'A' { b'B' } else { b'A' };
    fs::write(&path, bytes)?;
    say(&format!("changed  byte {middle} of {}", path.display()))?;
    let report = verify_path(&changed, Some(&evidence.pinned));
    say(&verify::describe(&report))?;
    expect(!report.valid, "the changed evidence is refused", || "it verifies".to_owned())?;
    Ok(changed)
}
