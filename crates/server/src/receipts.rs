//! Receipts: shown as they are in the log, and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::dsse::Envelope;
use kernel::receipt::{LogId, Statement, parse_receipt_id};
use kernel::signing_key::LogKeys;
use kernel::values::Digest;
use kernel::verify::{Keys, Trust, verify_receipt};
use ledger::keys::{self, NativeVerifier};
use ledger::store::ReceiptRow;
use ledger::{Ledger, proofs};
use proto::receipts::receipts_service_server::ReceiptsService;
use proto::receipts::verify_receipt_response::Trust as WireTrust;
use proto::receipts::{
    GetReceiptRequest, ListReceiptsRequest, ListReceiptsResponse, Receipt, VerifyReceiptRequest,
    VerifyReceiptResponse,
};
use proto::wire::Json;
use tonic::{Request, Response, Status};

use crate::actions::find;
use crate::error::{Refused, Result};
use crate::ledger_api::named_log;
use crate::shared::{Caller, Shared};
use crate::{paging, signing_keys};

/// Serves receipts.
pub(crate) struct ReceiptsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// A receipt of a log that the caller may read.
struct Found<'a> {
    log: LogId,
    ledger: &'a Ledger,
    row: ReceiptRow,
}

/// The receipt of `log` at `index`.
fn receipt_at(ledger: &Ledger, log: &LogId, index: u64) -> Result<Option<ReceiptRow>> {
    let row = ledger.store().receipts(log, index, 1)?.pop();
    Ok(row.filter(|row| row.index == index))
}

fn wire(row: ReceiptRow) -> Result<Receipt> {
    let statement = Envelope::parse(&row.envelope).map_err(Refused::internal)?.payload;
    let text = |bytes| String::from_utf8(bytes).map_err(Refused::internal);
    Ok(Receipt {
        receipt_id: row.log.receipt_id(row.index),
        index: row.index,
        statement: Some(Json { text: text(statement)? }),
        envelope: Some(Json { text: text(row.envelope)? }),
        leaf_hash: row.leaf.hex(),
    })
}

impl ReceiptsApi {
    fn list(&self, caller: &Caller, wanted: &ListReceiptsRequest) -> Result<ListReceiptsResponse> {
        let limit = paging::page(wanted.page_size, "", None).limit;
        let from = match wanted.after_index {
            None => 0,
            Some(after) => after.saturating_add(1),
        };
        // One more than the page has, to know whether another follows.
        let ahead = limit.saturating_add(1);
        let (log, ledger) = (caller.log(), &self.0.ledger);
        let mut rows = if wanted.action_id.is_empty() {
            ledger.store().receipts(&log, from, ahead)?
        } else {
            let action = find(&self.0, caller, &wanted.action_id)?;
            let indices = action.receipts.iter().filter(|index| **index >= from);
            let mut rows = Vec::new();
            for index in indices.take(usize::try_from(ahead).unwrap_or(usize::MAX)) {
                let row = receipt_at(ledger, &log, *index)?;
                rows.push(row.ok_or_else(|| Refused::internal("an action without its receipt"))?);
            }
            rows
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_after_index = rows.last().filter(|_| more).map(|row| row.index);
        let receipts = rows.into_iter().map(wire).collect::<Result<_>>()?;
        Ok(ListReceiptsResponse { receipts, next_after_index })
    }

    fn find(&self, caller: &Caller, id: &str) -> Result<Found<'_>> {
        let absent = || Refused::not_found("receipt");
        let (name, index) = parse_receipt_id(id).ok_or_else(absent)?;
        let (log, ledger) = named_log(&self.0, caller, name).ok_or_else(absent)?;
        let row = receipt_at(ledger, &log, index)?.ok_or_else(absent)?;
        Ok(Found { log, ledger, row })
    }

    fn verify(
        &self,
        caller: &Caller,
        asked: VerifyReceiptRequest,
    ) -> Result<VerifyReceiptResponse> {
        let keys = self.known_keys(caller, asked.public_key_pem.as_deref())?;
        match (asked.receipt_id.as_str(), asked.envelope) {
            ("", Some(envelope)) => Ok(keys.check(envelope.text.as_bytes()).0),
            ("", None) => Err(Refused::invalid("name a receipt_id, or send an envelope")),
            (_, Some(_)) => {
                Err(Refused::invalid("name a receipt_id or send an envelope, not both"))
            }
            (id, None) => {
                let found = self.find(caller, id)?;
                let (mut answer, statement) = keys.check(&found.row.envelope);
                if let Some(statement) = statement {
                    answer.errors.extend(in_log(&found, &statement)?);
                    answer.valid = answer.errors.is_empty();
                }
                Ok(answer)
            }
        }
    }

    /// The receipt keys of the caller's tenant, with what they are valid for, and the one that the
    /// caller brought.
    fn known_keys(&self, caller: &Caller, pem: Option<&str>) -> Result<KnownKeys> {
        let own = signing_keys::trusted(&self.0, caller.tenant.as_str())?;
        let (keys, trust) = (Keys::default(), BTreeMap::new());
        let mut known = KnownKeys { keys, trust, logs: own.logs };
        if let Some(pem) = pem {
            let spki = keys::from_pem(pem).ok_or_else(|| {
                Refused::invalid("public_key_pem: send a `BEGIN PUBLIC KEY` block (SPKI)")
            })?;
            known.add(&spki, Trust::CallerSupplied);
        }
        own.keys.values().for_each(|spki| known.add(spki, Trust::Pinned));
        Ok(known)
    }
}

/// The keys that a receipt is checked with, and where each comes from.
struct KnownKeys {
    keys: Keys,
    trust: BTreeMap<Digest, Trust>,
    logs: LogKeys,
}

impl KnownKeys {
    fn add(&mut self, spki: &[u8], trust: Trust) {
        let id = self.keys.insert(spki, trust);
        self.trust.insert(id, trust);
    }

    /// Checks the signature and the form of a receipt and that its key was its log's, and reads
    /// what it says.
    fn check(&self, envelope: &[u8]) -> (VerifyReceiptResponse, Option<Statement>) {
        let key_id = Envelope::parse(envelope).ok().map(|envelope| envelope.key_id);
        let trust = key_id.and_then(|id| self.trust.get(&id)).copied();
        let checked = verify_receipt(envelope, &self.keys, &self.logs, &NativeVerifier);
        let answer = |errors: Vec<String>| VerifyReceiptResponse {
            valid: errors.is_empty(),
            trust: wire_trust(trust.unwrap_or(Trust::Unknown)).into(),
            key_id: key_id.map(|id| id.hex()).unwrap_or_default(),
            errors,
        };
        match checked {
            Ok((_, statement)) => (answer(Vec::new()), Some(statement)),
            Err(error) => (answer(vec![error.to_string()]), None),
        }
    }
}

fn wire_trust(trust: Trust) -> WireTrust {
    match trust {
        Trust::Pinned => WireTrust::Pinned,
        Trust::CallerSupplied => WireTrust::CallerSupplied,
        Trust::Unknown => WireTrust::Unknown,
    }
}

/// What is wrong with the place of a receipt in its log: that it says so itself, and that it is
/// under the log's signed checkpoint.
fn in_log(found: &Found<'_>, statement: &Statement) -> Result<Vec<String>> {
    let Found { log, ledger, row } = found;
    let origin = log.origin(ledger.host());
    let predicate = &statement.predicate;
    let mut errors = Vec::new();
    if predicate.log.origin != origin || predicate.log.index != row.index {
        let (other, index) = (&predicate.log.origin, predicate.log.index);
        errors.push(format!("the receipt says that it is {index} of {other}"));
    }
    let proof = proofs::tlog_proof(ledger, log, row.index)?;
    let key = ledger.keys().note(log.tenant(), &origin)?;
    if let Err(error) = proof.verify(&row.envelope, key.verifier_key(), &NativeVerifier) {
        errors.push(format!("the receipt is not under the log's checkpoint: {error}"));
    }
    Ok(errors)
}

#[tonic::async_trait]
impl ReceiptsService for ReceiptsApi {
    async fn list_receipts(
        &self,
        request: Request<ListReceiptsRequest>,
    ) -> Reply<ListReceiptsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_receipt(&self, request: Request<GetReceiptRequest>) -> Reply<Receipt> {
        let caller = crate::caller(&request)?;
        let found = self.find(&caller, &request.get_ref().receipt_id)?;
        Ok(Response::new(wire(found.row)?))
    }

    async fn verify_receipt(
        &self,
        request: Request<VerifyReceiptRequest>,
    ) -> Reply<VerifyReceiptResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.verify(&caller, request.into_inner())?))
    }
}
