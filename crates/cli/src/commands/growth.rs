//! `tally ledger verify --since` and `tally ledger checkpoint`: how a log grew, checked here with
//! proofs that its server gives.

use kernel::history::{Demands, verify_demands};
use kernel::note::{Checkpoint, Note, VerifierKey};
use kernel::values::Digest;
use ledger::keys::NativeVerifier;
use proto::ledger::{GetCheckpointRequest, GetConsistencyProofRequest};
use serde::Serialize;

use super::demands::{Met, exit};
use crate::context::{Context, Session};
use crate::exit::Exit;
use crate::output::print;

/// What was found.
#[derive(Serialize)]
struct Found {
    valid: bool,
    origin: String,
    /// The checkpoint that was checked.
    checkpoint: String,
    demands: Met,
}

/// The size that a note claims, verified or not: enough to ask for a proof.
fn claimed_size(note: &[u8]) -> Option<u64> {
    let note = Note::parse(note).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.size)
}

/// The consistency proof from one tree to another, where there must be one.
async fn proof(
    session: &Session,
    workspace: &str,
    old: Option<u64>,
    new: Option<u64>,
) -> anyhow::Result<Vec<Digest>> {
    let (Some(old), Some(new)) = (old, new) else { return Ok(Vec::new()) };
    if old == 0 || old >= new {
        return Ok(Vec::new());
    }
    let workspace = workspace.to_owned();
    let request = GetConsistencyProofRequest { workspace, old, new: Some(new) };
    let proof = session.client.get_consistency_proof(&request).await?;
    let hashes: Option<Vec<Digest>> = proof.hashes.iter().map(|hex| Digest::parse(hex)).collect();
    hashes.ok_or_else(|| anyhow::anyhow!("the server's proof has a hash that is none"))
}

/// Checks the log's checkpoint, as the server shows it, against the demands.
pub(super) async fn verify(
    workspace: Option<String>,
    key: &VerifierKey,
    demands: Demands,
    context: &Context,
) -> anyhow::Result<Exit> {
    let session = context.session()?;
    let workspace = session.workspace(workspace)?;
    let cosigned = demands.quorum > 0;
    let request = GetCheckpointRequest { workspace: workspace.clone(), cosigned };
    let newer = session.client.get_checkpoint(&request).await?.data;
    let old = demands.since.as_deref().and_then(claimed_size);
    let hashes = proof(&session, &workspace, old, claimed_size(&newer)).await?;
    let checked = verify_demands(&newer, key, &demands, &NativeVerifier, |_, _| Ok(hashes));
    let found = Found {
        valid: checked.is_ok(),
        origin: key.name().to_owned(),
        checkpoint: String::from_utf8_lossy(&newer).into_owned(),
        demands: Met::of(&checked),
    };
    context.output().show(&found, |found| found.demands.describe())?;
    Ok(checked.as_ref().err().map_or(Exit::Done, exit))
}

/// Prints the checkpoint as it is.
pub(super) async fn show(
    workspace: Option<String>,
    cosigned: bool,
    context: &Context,
) -> anyhow::Result<Exit> {
    let session = context.session()?;
    let request = GetCheckpointRequest { workspace: session.workspace(workspace)?, cosigned };
    let note = session.client.get_checkpoint(&request).await?.data;
    print(&String::from_utf8_lossy(&note))?;
    Ok(Exit::Done)
}
