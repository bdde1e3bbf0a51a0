//! What a run is made of: kept sealed beside the log, which has its digest.

use kernel::ids::RunId;
use kernel::json::{self, RawJson};
use kernel::principal::ActorChain;
use kernel::receipt::LogId;
use kernel::values::Digest;
use kernel::workflow::Plan;
use serde::{Deserialize, Serialize};

use crate::actions::present;
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

/// The part of a run's content that is its document.
pub(super) const DOCUMENT: &str = "run";

/// Everything that says what a run is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) tenant: String,
    pub(super) workspace: String,
    pub(super) environment: String,
    pub(super) actor_chain: ActorChain,
    pub(super) plan: Plan,
    pub(super) input: RawJson,
    /// 128 random bits, so that the document's digest gives nothing away.
    pub(super) nonce: String,
}

impl Document {
    pub(super) fn new(caller: &Caller, plan: Plan, input: RawJson) -> Result<Self> {
        Ok(Self {
            tenant: caller.tenant.to_string(),
            workspace: caller.workspace.to_string(),
            environment: caller.environment.to_string(),
            actor_chain: caller.actors(),
            plan,
            input,
            nonce: hex::encode(ledger::keys::random::<16>()?.as_ref()),
        })
    }

    pub(super) fn digest(&self) -> Result<Digest> {
        json::canonical(self).map(|form| Digest::of(&form)).map_err(Refused::internal)
    }

    /// Who asked for the run, as they are now; none where they may no longer.
    pub(super) fn caller(&self, shared: &Shared) -> Option<Caller> {
        let place = [&self.tenant, &self.workspace, &self.environment];
        present(shared, place.map(String::as_str), &self.actor_chain)
    }
}

/// The document of a run, while it is kept.
pub(super) fn open(shared: &Shared, log: &LogId, id: &RunId) -> Result<Option<Document>> {
    let bytes = shared.vault.open(log.tenant(), id.as_str(), DOCUMENT)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(Refused::internal)).transpose()
}
