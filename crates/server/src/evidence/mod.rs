//! Evidence: bundles for strangers, exported and verified, and what they cover.

mod coverage;
mod governance;
mod period;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::action;
use kernel::bundle::run::{self, Story};
use kernel::dsse::Envelope;
use kernel::failure::{Category, Failure};
use kernel::limits::BUNDLE_RECEIPTS_MAX;
use kernel::machine::{Change, Kind, State};
use kernel::note::{Checkpoint, Note};
use kernel::receipt::{LogId, Statement};
use kernel::run::Run;
use kernel::values::{Digest, MicroUsd, Timestamp};
use kernel::verify::Trust;
use ledger::evidence::{
    BundleReport, ExportRequest, Pinned, Selection, export, export_under, verify_bundle,
};
use ledger::proofs;
use proto::HttpBody;
use proto::evidence::evidence_service_server::EvidenceService;
use proto::evidence::{
    ExportEvidenceRequest, GetCoverageRequest, GetCoverageResponse, VerifyEvidenceResponse,
};
use tonic::{Request, Response, Status};

use self::governance::Governing;
use crate::actions::check_place;
use crate::error::{Refused, Result};
use crate::ledger_api::size_of;
use crate::runs::Members;
use crate::shared::{Caller, Shared};
use crate::signing_keys;

/// Receipts read at a time.
const PAGE: u32 = 512;

/// Serves evidence.
pub(crate) struct EvidenceApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// What the selected receipts say that belongs into a bundle.
#[derive(Default)]
struct Told {
    /// The bundles of the policies that decided.
    policies: BTreeSet<Digest>,
    /// The actions that ended.
    actions: BTreeSet<String>,
    spent_micro_usd: i64,
}

impl Told {
    fn read(&mut self, envelope: &[u8]) -> Result<()> {
        let payload = Envelope::parse(envelope).map_err(Refused::internal)?.payload;
        let statement = Statement::parse(&payload).map_err(Refused::internal)?;
        for transition in statement.predicate.transitions {
            let Change::Action(change) = transition.change else { continue };
            let cost = match change {
                action::Change::Decided { decision, .. } => {
                    // Revision 0 is no policy at all.
                    if decision.policy.revision > 0 {
                        self.policies.insert(decision.policy.digest);
                    }
                    continue;
                }
                // What it cost is said by whoever establishes what happened.
                action::Change::Finished { outcome, .. }
                    if outcome.status == action::Status::Unknown =>
                {
                    MicroUsd::ZERO
                }
                action::Change::Finished { outcome, .. } => outcome.cost,
                action::Change::Retried { cost, .. } => {
                    self.spent_micro_usd = self.spent_micro_usd.saturating_add(cost.0);
                    continue;
                }
                action::Change::Reconciled { cost, .. } => cost,
                _ => continue,
            };
            self.actions.insert(transition.stream.id.to_string());
            self.spent_micro_usd = self.spent_micro_usd.saturating_add(cost.0);
        }
        Ok(())
    }

    fn cost(&self) -> serde_json::Value {
        serde_json::json!({
            "actions": self.actions.len(),
            "spent_micro_usd": self.spent_micro_usd,
        })
    }
}

/// The receipts that a request asks for. Those that are asked for as cosigned must be.
fn select(
    shared: &Shared,
    log: &LogId,
    wire: &ExportEvidenceRequest,
    cosigned: Option<&Note>,
) -> Result<Selection> {
    if !wire.cosigned {
        return selected(shared, log, wire, size_of(&shared.ledger, log)?);
    }
    let absent = || Refused::not_found("cosigned checkpoint yet");
    let checkpoint = Checkpoint::parse(cosigned.ok_or_else(absent)?.text());
    let size = checkpoint.map_err(Refused::internal)?.size;
    let selection = selected(shared, log, wire, size)?;
    let end = match &selection {
        Selection::Range { to, .. } => *to,
        Selection::Receipts(indices) => indices.iter().max().map_or(0, |last| last + 1),
    };
    if end > size {
        let message = format!("witnesses have cosigned {size} receipts so far, not {end}");
        let failure = Failure::new(Category::Conflict, "not_cosigned_yet", message);
        return Err(failure.retryable(true).into());
    }
    Ok(selection)
}

/// The receipts that a request asks for of the first `size` ones.
fn selected(
    shared: &Shared,
    log: &LogId,
    wire: &ExportEvidenceRequest,
    size: u64,
) -> Result<Selection> {
    let timed = wire.since.is_some() || wire.until.is_some();
    let ranged = wire.from_index > 0 || wire.to_index.is_some();
    if timed && (ranged || !wire.action_id.is_empty()) {
        return Err(Refused::invalid("name a time, an action_id or a range of indices: one"));
    }
    if timed {
        let at = |time: &proto::wire::Timestamp| {
            period::index_at(&shared.ledger, log, size, Timestamp(time.micros()))
        };
        let from = wire.since.as_ref().map_or(Ok(0), at)?;
        let to = wire.until.as_ref().map_or(Ok(size), at)?;
        return Ok(Selection::Range { from, to });
    }
    if wire.action_id.is_empty() {
        let to = wire.to_index.unwrap_or(size);
        return Ok(Selection::Range { from: wire.from_index, to });
    }
    if ranged {
        return Err(Refused::invalid("name an action_id or a range of indices, not both"));
    }
    let Some(State::Action(action)) = shared.ledger.read(log, Kind::Action, &wire.action_id)?
    else {
        return Err(Refused::not_found("action"));
    };
    let mut indices: BTreeSet<u64> = action.receipts.iter().copied().collect();
    if let Some(id) = &action.approval
        && let Some(State::Approval(approval)) =
            shared.ledger.read(log, Kind::Approval, id.as_str())?
    {
        // Votes before the last one move only the approval; they are part of the story.
        indices.extend(approval.receipts.iter().copied());
    }
    Ok(Selection::Receipts(indices.into_iter().collect()))
}

/// Reads the selected receipts. A selection that is too large is left to the export to refuse.
fn read(shared: &Shared, log: &LogId, selection: &Selection) -> Result<Told> {
    let mut told = Told::default();
    let store = shared.ledger.store();
    match selection {
        Selection::Range { from, to } if to.saturating_sub(*from) <= BUNDLE_RECEIPTS_MAX => {
            let mut next = *from;
            while next < *to {
                let count = u32::try_from(to.saturating_sub(next)).unwrap_or(PAGE).min(PAGE);
                let rows = store.receipts(log, next, count)?;
                let Some(last) = rows.last() else { break };
                next = last.index.saturating_add(1);
                rows.iter().try_for_each(|row| told.read(&row.envelope))?;
            }
        }
        Selection::Range { .. } => {}
        Selection::Receipts(indices) => {
            for index in indices {
                let rows = store.receipts(log, *index, 1)?;
                rows.iter().try_for_each(|row| told.read(&row.envelope))?;
            }
        }
    }
    Ok(told)
}

/// The bundles of these policies. One that is gone or was changed is not the one that decided, so
/// it is not passed on: its decisions are denials that say so.
fn bundles(
    shared: &Shared,
    tenant: &str,
    digests: &BTreeSet<Digest>,
) -> Result<Vec<(Digest, Vec<u8>)>> {
    let mut bundles = Vec::new();
    for digest in digests {
        match shared.control.ledger.store().blob(tenant, *digest)? {
            Some(bytes) if Digest::of(&bytes) == *digest => bundles.push((*digest, bytes)),
            _ => tracing::warn!(tenant, %digest, "a policy bundle is gone or was changed"),
        }
    }
    Ok(bundles)
}

/// The tree that a bundle is made under: the newest, with the cosignatures that it has, or the one
/// that enough witnesses cosigned.
fn tree(shared: &Shared, log: &LogId, cosigned: bool) -> Result<(Note, u64)> {
    let signed = shared.witnesses.cosigned(shared, log)?;
    let newest = proofs::checkpoint(&shared.ledger, log)?.unwrap_or_default();
    let signed = signed.filter(|note| cosigned || newest.starts_with(note.text()));
    let note = match signed {
        Some(note) => Note::clone(&note),
        None if cosigned => return Err(Refused::not_found("cosigned checkpoint yet")),
        None => Note::parse(newest.as_bytes()).map_err(Refused::internal)?,
    };
    let size = Checkpoint::parse(note.text()).map_err(Refused::internal)?.size;
    Ok((note, size))
}

/// A run that the caller may have evidence of.
fn run_of(shared: &Shared, log: &LogId, wire: &ExportEvidenceRequest) -> Result<Run> {
    let others = wire.from_index > 0 || wire.to_index.is_some() || !wire.action_id.is_empty();
    if others || wire.since.is_some() || wire.until.is_some() {
        return Err(Refused::invalid("name a run_id or other receipts, not both"));
    }
    match shared.ledger.read(log, Kind::Run, &wire.run_id)? {
        Some(State::Run(run)) => Ok(run),
        _ => Err(Refused::not_found("run")),
    }
}

/// The bundle of one run.
fn exported_run(shared: &Shared, log: LogId, wire: &ExportEvidenceRequest) -> Result<Vec<u8>> {
    let run = run_of(shared, &log, wire)?;
    let (note, size) = tree(shared, &log, wire.cosigned)?;
    if run.first_receipt >= size {
        let message = format!("witnesses have cosigned {size} receipts so far: none of the run");
        let failure = Failure::new(Category::Conflict, "not_cosigned_yet", message);
        return Err(failure.retryable(true).into());
    }
    let members = Members::of(shared, &log, &run, size)?;
    let told = members.told();
    let origin = log.origin(shared.ledger.host());
    let LogId::Workspace(tenant, _) = &log else {
        return Err(Refused::internal("a run outside of a workspace"));
    };
    let teller = run::Teller::new(&run.id, &told).map_err(Refused::internal)?;
    let needs = teller.needs().map_err(Refused::internal)?;
    let governing = Governing::of(shared, tenant, &needs)?;
    let control = governing.as_ref().map(Governing::control);
    let story = teller.story(&origin, control.as_ref()).map_err(Refused::internal)?;
    let control = governing.as_ref().map(|governing| governing.files(shared)).transpose()?;
    let workflow = governance::text(shared, tenant, needs.document())?;
    let due: BTreeSet<Digest> = needs.policies().collect();
    let policies = bundles(shared, log.tenant(), &due)?;
    if policies.len() != due.len() {
        return Err(Refused::internal("a policy that decided in the run is gone or was changed"));
    }
    let request = ExportRequest {
        policies,
        cost: cost_of(&story),
        selection: Selection::Receipts(members.indices()),
        log,
        full_log: wire.full_log,
        run: Some(story),
        workflow,
        control: control.unwrap_or_default(),
    };
    Ok(export_under(&shared.ledger, &request, &note)?)
}

fn cost_of(story: &Story) -> serde_json::Value {
    let totals = [&story.total, &story.total_of_code, &story.total_of_reversals];
    let add = |sum: i64, total: &&run::Total| sum.saturating_add(total.cost_micro_usd.0);
    serde_json::json!({
        "actions": totals.iter().map(|total| total.actions).fold(0, u64::saturating_add),
        "spent_micro_usd": totals.iter().fold(0, add),
    })
}

fn exported(shared: &Shared, log: LogId, wire: &ExportEvidenceRequest) -> Result<Vec<u8>> {
    if !wire.run_id.is_empty() {
        return exported_run(shared, log, wire);
    }
    let cosigned = shared.witnesses.cosigned(shared, &log)?;
    let selection = select(shared, &log, wire, cosigned.as_deref())?;
    let told = read(shared, &log, &selection)?;
    let request = ExportRequest {
        policies: bundles(shared, log.tenant(), &told.policies)?,
        cost: told.cost(),
        log,
        selection,
        full_log: wire.full_log,
        run: None,
        workflow: None,
        control: BTreeMap::new(),
    };
    // The newest tree, unless the cosigned one is asked for or is the very same.
    let newest = proofs::checkpoint(&shared.ledger, &request.log)?.unwrap_or_default();
    let under = cosigned.filter(|note| wire.cosigned || newest.starts_with(note.text()));
    Ok(match under {
        Some(note) => export_under(&shared.ledger, &request, &note)?,
        None => export(&shared.ledger, &request)?,
    })
}

/// Checks a bundle with the keys of the caller's tenant and of the log that it is from.
fn checked(shared: &Shared, caller: &Caller, bytes: &[u8]) -> Result<BundleReport> {
    let own = caller.log();
    let report = check_as(shared, &own, bytes)?;
    let Some(origin) = report.origin.as_deref().filter(|_| !report.valid) else {
        return Ok(report);
    };
    let mut logs = shared.ledger.store().logs()?;
    logs.extend(shared.control.ledger.store().logs()?);
    let other = logs.into_iter().find(|log| {
        *log != own
            && log.tenant() == caller.tenant.as_str()
            && log.origin(shared.ledger.host()) == origin
    });
    match other {
        // From another log of the tenant, whose checkpoints another key signs.
        Some(log) => check_as(shared, &log, bytes),
        None => Ok(report),
    }
}

fn check_as(shared: &Shared, log: &LogId, bytes: &[u8]) -> Result<BundleReport> {
    let keys = shared.ledger.keys();
    let origin = log.origin(shared.ledger.host());
    let trusted = signing_keys::trusted(shared, log.tenant())?;
    let pinned = Pinned {
        keys: trusted.keys.into_values().collect(),
        logs: trusted.logs,
        vkey: Some(keys.note(log.tenant(), &origin)?.verifier_key().clone()),
        trust: Trust::Pinned,
    };
    Ok(verify_bundle(bytes, Some(&pinned)))
}

#[tonic::async_trait]
impl EvidenceService for EvidenceApi {
    async fn export_evidence(&self, request: Request<ExportEvidenceRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        check_place(&caller, &wire.workspace, "")?;
        let shared = self.0.clone();
        let exporting = tokio::task::spawn_blocking(move || exported(&shared, caller.log(), &wire));
        let data = exporting.await.map_err(Refused::not_ended)??;
        let content_type = "application/x-tar".to_owned();
        Ok(Response::new(HttpBody { content_type, data, extensions: Vec::new() }))
    }

    async fn verify_evidence(&self, request: Request<HttpBody>) -> Reply<VerifyEvidenceResponse> {
        let caller = crate::caller(&request)?;
        let bytes = request.into_inner().data;
        let shared = self.0.clone();
        let checking = tokio::task::spawn_blocking(move || checked(&shared, &caller, &bytes));
        let report = checking.await.map_err(Refused::not_ended)??;
        Ok(Response::new(VerifyEvidenceResponse {
            valid: report.valid,
            receipts: u32::try_from(report.receipts).unwrap_or(u32::MAX),
            errors: report.errors,
        }))
    }

    async fn get_coverage(
        &self,
        request: Request<GetCoverageRequest>,
    ) -> Reply<GetCoverageResponse> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        check_place(&caller, &wire.workspace, "")?;
        let shared = self.0.clone();
        let looking =
            tokio::task::spawn_blocking(move || coverage::coverage(&shared, &caller, &wire));
        Ok(Response::new(looking.await.map_err(Refused::not_ended)??))
    }
}
