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

use super::say::{expect, say, step, then};
use super::world::World;
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

/// Exports the whole log and unpacks it. The receipt to look at is the last of the last action.
pub(super) async fn export(world: &World, actions: &[&Action]) -> anyhow::Result<Evidence> {
    step("4. The owner exports the evidence, for somebody who trusts nobody here")?;
    let pinned = pinned_keys(world).await?;
    let request = ExportEvidenceRequest { full_log: true, ..Default::default() };
    let bundle = world.owner.client.export_evidence(&request).await?.data;
    let (file, folder) = (world.dir.join("evidence.tar"), world.dir.join("evidence"));
    fs::write(&file, &bundle)?;
    tar::Archive::new(bundle.as_slice()).unpack(&folder)?;
    say(&format!("bundle   {} ({} bytes)", file.display(), bundle.len()))?;
    let mut last = None;
    for action in actions {
        for receipt_id in &action.receipts {
            let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
            let index = world.owner.client.get_receipt(&request).await?.index;
            let receipt = PathBuf::from(format!("receipts/{index}.dsse.json"));
            let exported = folder.join(&receipt).is_file();
            let what = format!("{} {receipt_id} is in it", action.tool);
            expect(exported, &what, || format!("no {}", receipt.display()))?;
            last = Some(receipt);
        }
    }
    let receipt = last.context("the actions left no receipts")?;
    let envelope = Envelope::parse(&fs::read(folder.join(&receipt))?)?;
    let key = PathBuf::from(format!("keys/{}.pem", envelope.key_id.hex()));
    Ok(Evidence { file, folder, receipt, key, pinned })
}

/// The tenant's keys as the server publishes them: a stranger keeps them from before.
async fn pinned_keys(world: &World) -> anyhow::Result<Pinned> {
    let request = GetTenantKeysRequest { tenant: world.tenant.clone() };
    let keys = world.owner.client.get_tenant_keys(&request).await?.keys;
    let published = Published::new(keys);
    let log_key =
        published.log_key(&world.log).context("the tenant publishes no key of the log")?;
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
