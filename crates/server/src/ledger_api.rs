//! The ledger service: checkpoints, tiles and proofs of the caller's logs.

use std::sync::Arc;

use kernel::note::Checkpoint;
use kernel::proof::TlogProof;
use kernel::receipt::{CONTROL, LogId};
use kernel::tile::Tile;
use kernel::values::Digest;
use ledger::{Ledger, proofs, rebuild};
use proto::HttpBody;
use proto::ledger::ledger_service_server::LedgerService;
use proto::ledger::{
    ConsistencyProof, GetCheckpointRequest, GetConsistencyProofRequest, GetInclusionProofRequest,
    GetTileRequest, InclusionProof, VerifyLedgerRequest, VerifyLedgerResponse,
};
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

/// Serves the ledger.
pub(crate) struct LedgerApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// The log of that name that the caller may read, and the ledger that it is in: its own
/// workspace's, or the control log of its tenant.
pub(crate) fn named_log<'a>(
    shared: &'a Shared,
    caller: &Caller,
    name: &str,
) -> Option<(LogId, &'a Ledger)> {
    if name == caller.workspace.as_str() {
        return Some((caller.log(), &shared.ledger));
    }
    let control = name == CONTROL && caller.may("tenants:read");
    control.then(|| (caller.control_log(), &shared.control.ledger))
}

fn hex(hashes: &[Digest]) -> Vec<String> {
    hashes.iter().map(Digest::hex).collect()
}

fn raw(content_type: &str, data: Vec<u8>) -> HttpBody {
    HttpBody { content_type: content_type.to_owned(), data, extensions: Vec::new() }
}

/// The number of receipts of a log.
pub(crate) fn size_of(ledger: &Ledger, log: &LogId) -> Result<u64> {
    Ok(ledger.store().head(log)?.map_or(0, |head| head.frontier.size()))
}

/// The size of the tree that a proof is about.
fn proven_size(proof: &TlogProof) -> Result<u64> {
    let checkpoint = Checkpoint::parse(proof.checkpoint.text()).map_err(Refused::internal)?;
    Ok(checkpoint.size)
}

impl LedgerApi {
    fn log(&self, caller: &Caller, name: &str) -> Result<(LogId, &Ledger)> {
        named_log(&self.0, caller, name).ok_or_else(|| Refused::not_found("log"))
    }

    fn checkpoint(&self, caller: &Caller, wire: &GetCheckpointRequest) -> Result<HttpBody> {
        let (log, ledger) = self.log(caller, &wire.workspace)?;
        let witnesses = &self.0.witnesses;
        let note = if wire.cosigned {
            let note = witnesses.cosigned(&self.0, &log)?;
            let note = note.ok_or_else(|| Refused::not_found("cosigned checkpoint yet"))?;
            note.to_string()
        } else {
            let note = proofs::checkpoint(ledger, &log)?;
            let note = note.ok_or_else(|| Refused::not_found("checkpoint: the log is empty"))?;
            witnesses.dressed(&self.0, &log, note)?
        };
        Ok(raw("text/plain; charset=utf-8", note.into_bytes()))
    }

    fn tile(&self, caller: &Caller, wire: &GetTileRequest) -> Result<HttpBody> {
        let (log, ledger) = self.log(caller, &wire.workspace)?;
        let tile: Tile = format!("tile/{}", wire.path)
            .parse()
            .map_err(|error: kernel::tile::Error| Refused::invalid(error.to_string()))?;
        Ok(raw("application/octet-stream", proofs::tile(ledger, &log, &tile)?))
    }

    fn inclusion(
        &self,
        caller: &Caller,
        wire: &GetInclusionProofRequest,
    ) -> Result<InclusionProof> {
        let (log, ledger) = self.log(caller, &wire.workspace)?;
        let index = wire.index;
        let proof = proofs::tlog_proof(ledger, &log, index)?;
        let signed = proven_size(&proof)?;
        let size = wire.size.unwrap_or(signed);
        if size == signed {
            let hashes = hex(&proof.hashes);
            return Ok(InclusionProof { index, size, hashes, tlog_proof: proof.to_string() });
        }
        // No checkpoint of this size is kept, so there is none to go with the hashes.
        let hashes = hex(&proofs::inclusion(ledger, &log, index, size)?);
        Ok(InclusionProof { index, size, hashes, tlog_proof: String::new() })
    }

    fn consistency(
        &self,
        caller: &Caller,
        wire: &GetConsistencyProofRequest,
    ) -> Result<ConsistencyProof> {
        let (log, ledger) = self.log(caller, &wire.workspace)?;
        let new = match wire.new {
            Some(new) => new,
            None => size_of(ledger, &log)?,
        };
        let hashes = hex(&proofs::consistency(ledger, &log, wire.old, new)?);
        Ok(ConsistencyProof { old: wire.old, new, hashes })
    }

    async fn verify(
        &self,
        caller: &Caller,
        wire: &VerifyLedgerRequest,
    ) -> Result<VerifyLedgerResponse> {
        let (log, ledger) = self.log(caller, &wire.workspace)?;
        let size = size_of(ledger, &log)?;
        let ledger = ledger.clone();
        let verifying = tokio::task::spawn_blocking(move || {
            let (store, keys) = (ledger.store().as_ref(), ledger.keys().as_ref());
            rebuild::verify_log(store, ledger.host(), keys, &log)
        });
        let report = verifying.await.map_err(Refused::not_ended)??;
        Ok(VerifyLedgerResponse {
            valid: report.valid(),
            // The log may have grown before the check began.
            size: size.max(report.size),
            checked: report.size,
            first_bad_index: report.first_bad_index,
            errors: report.errors,
        })
    }
}

#[tonic::async_trait]
impl LedgerService for LedgerApi {
    async fn get_checkpoint(&self, request: Request<GetCheckpointRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.checkpoint(&caller, request.get_ref())?))
    }

    async fn get_tile(&self, request: Request<GetTileRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.tile(&caller, request.get_ref())?))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Reply<InclusionProof> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.inclusion(&caller, request.get_ref())?))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Reply<ConsistencyProof> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.consistency(&caller, request.get_ref())?))
    }

    async fn verify_ledger(
        &self,
        request: Request<VerifyLedgerRequest>,
    ) -> Reply<VerifyLedgerResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.verify(&caller, request.get_ref()).await?))
    }
}
