//! Policies: drafted, checked, published, confirmed, rolled back, simulated.

use std::sync::Arc;

use kernel::control::{self, Entity, Policy, Publication};
use kernel::decision::{Decision, NoAnswer};
use kernel::failure::Category;
use kernel::ids::TenantId;
use kernel::machine::{self, Command, Kind, State};
use kernel::values::Digest;
use ledger::Batch;
use ledger::keys::{P256Signer, Purpose};
use ledger::store::{Class, SideRow};
use policy::{Confirmation, Source, TrustedKeys};
use prost::Message;
use proto::policies::policies_service_server::PoliciesService;
use proto::policies::{
    CreatePolicyDraftRequest, GetPolicyRequest, GetPolicyStatusRequest, ListPoliciesRequest,
    ListPoliciesResponse, Policy as WirePolicy, PolicyStatus, PublishPolicyRequest,
    RollbackPolicyRequest, SimulatePolicyRequest, SimulatePolicyResponse, TestReport,
    policy::State as WireState,
};
use proto::wire::Timestamp;
use tonic::{Request, Response, Status as RpcStatus};

use crate::error::{Refused, Result};
use crate::shared::{Caller, Mutated, Shared, new_id};
use crate::{limits, paging};

/// The stream of a tenant's publications.
const HISTORY: &str = "current";
/// The environment in which a policy decides only by the word of two.
const PROD: &str = "prod";
/// The part of a policy's content that is its description.
const DESCRIPTION: &str = "description";

/// Serves policies.
#[derive(Clone)]
pub(crate) struct PoliciesApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

/// A tenant's policy key, for the policy crate.
struct Signer {
    key: Arc<dyn P256Signer>,
    id: String,
}

impl policy::Signer for Signer {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, policy::sign::Error> {
        self.key.sign(message).map_err(|e| policy::sign::Error::Signing(e.to_string()))
    }
}

fn signer(shared: &Shared, tenant: &str) -> Result<Signer> {
    let key = shared.control.ledger.keys().p256(tenant, Purpose::Policy)?;
    Ok(Signer { id: key.key_id().hex(), key })
}

/// The key with which control confirms revisions.
pub(crate) fn control_key(
    keys: &dyn ledger::keys::KeyProvider,
) -> std::result::Result<policy::ControlKey, String> {
    let key = keys.p256(kernel::receipt::SYSTEM, Purpose::Policy).map_err(|e| e.to_string())?;
    policy::ControlKey::new(key.spki_der()).map_err(|error| error.to_string())
}

/// Puts the policy that is in force into the decision point. What cannot be trusted is recorded
/// as the reason of every denial that follows.
pub(crate) fn install(shared: &Shared, tenant: &TenantId) -> Result<()> {
    let history = shared.control.directory.history(tenant);
    let Some(current) = history.publications.last() else { return Ok(()) };
    let Publication { revision, digest, .. } = current;
    let refuse = |why: NoAnswer, detail: &str| {
        tracing::error!(%tenant, revision, detail, "the policy in force cannot be used");
        shared.policy.refuse(tenant, *revision, *digest, why).map_err(Refused::internal)
    };
    let Some(bytes) = shared.control.ledger.store().blob(tenant.as_str(), *digest)? else {
        return refuse(NoAnswer::PolicyTampered, "the bundle is gone");
    };
    let key = shared.control.ledger.keys().p256(tenant.as_str(), Purpose::Policy)?;
    let mut trusted = TrustedKeys::default();
    trusted.trust(key.key_id().hex(), key.spki_der()).map_err(Refused::internal)?;
    match policy::open(&bytes, &trusted) {
        Err(error) => match error.no_answer() {
            // It compiled when it was published.
            NoAnswer::PolicyError if Digest::of(&bytes) != *digest => {
                refuse(NoAnswer::PolicyTampered, &error.to_string())
            }
            why => refuse(why, &error.to_string()),
        },
        Ok(bundle) if bundle.digest != *digest => {
            refuse(NoAnswer::PolicyTampered, "the bundle is not the one that was published")
        }
        Ok(bundle) => {
            let confirmation = confirmation(shared, tenant, current)?;
            let bundle = Arc::new(bundle);
            match shared.policy.install(tenant, *revision, bundle, Some(&confirmation)) {
                // A later publication was quicker, and is in force.
                Err(policy::point::Error::NotNewer { .. }) => Ok(()),
                ended => ended.map_err(Refused::internal),
            }
        }
    }
}

fn confirmation(shared: &Shared, tenant: &TenantId, current: &Publication) -> Result<Confirmation> {
    let signer = signer(shared, kernel::receipt::SYSTEM)?;
    Confirmation::signed(tenant, current.revision, current.digest, shared.now(), &signer)
        .map_err(Refused::internal)
}

/// Confirms every tenant's revision: control's word that it is still the current one.
pub(crate) fn confirm_all(shared: &Shared) -> Result<()> {
    for tenant in shared.control.directory.tenants() {
        let history = shared.control.directory.history(&tenant.id);
        let Some(current) = history.publications.last() else { continue };
        let confirmation = confirmation(shared, &tenant.id, current)?;
        if let Err(error) = shared.policy.confirm(&tenant.id, &confirmation) {
            // Another revision was installed meanwhile, and came with its own confirmation.
            tracing::debug!(tenant = %tenant.id, %error, "a confirmation was not taken");
        }
    }
    Ok(())
}

/// A bundle as it was sent in, and what its checks found.
struct Checked {
    source: Source,
    bytes: Vec<u8>,
    tests: TestReport,
}

fn bundle_error(error: policy::bundle::Error) -> Refused {
    Refused::new(Category::Validation, error.code(), error.to_string())
}

/// Opens a bundle and runs every check that publishing demands.
async fn check(bytes: Vec<u8>) -> Result<Checked> {
    let checking = tokio::task::spawn_blocking(move || {
        let source = policy::bundle::open_draft(&bytes).map_err(bundle_error)?;
        let report = policy::check_publishable(&source);
        if let Some(first) = report.findings.first() {
            let mut refused = Refused::new(Category::Validation, first.code, first.message.clone());
            refused.0.cause = report.findings.iter().skip(1).map(|f| f.message.clone()).collect();
            return Err(refused);
        }
        let bytes = source.pack_unsigned().map_err(bundle_error)?;
        let failures: Vec<String> = report.tests.failed().map(|test| test.name.clone()).collect();
        let failed = u32::try_from(failures.len()).unwrap_or(u32::MAX);
        let all = u32::try_from(report.tests.tests.len()).unwrap_or(u32::MAX);
        let tests = TestReport { passed: all.saturating_sub(failed), failed, failures };
        Ok(Checked { source, bytes, tests })
    });
    checking.await.map_err(Refused::internal)?
}

/// Refuses to a key of prod what would deny everything there: a policy in force by the word of
/// its author alone. From elsewhere it may come into force, and decides there only.
fn check_review(caller: &Caller, policy: &Policy) -> Result<()> {
    if caller.environment.as_str() == PROD && policy.author == caller.id {
        let message = "in prod, who drafted a policy does not publish it";
        return Err(Refused::new(Category::Permission, "author_is_publisher", message));
    }
    Ok(())
}

/// What stands of a policy's decision: in prod, none of a policy that its author put into force
/// alone.
pub(crate) fn reviewed(shared: &Shared, caller: &Caller, decision: Decision) -> Decision {
    let reviewed = |revision| shared.control.directory.reviewed(&caller.tenant, revision);
    if caller.environment.as_str() != PROD || reviewed(decision.policy.revision) {
        return decision;
    }
    // Asked of the revision that decided: another may be on its way into force.
    let Decision { policy, input_digest, .. } = decision;
    Decision::deny(NoAnswer::PolicyUnreviewed, policy, input_digest)
}

impl PoliciesApi {
    async fn draft(&self, caller: &Caller, wire: CreatePolicyDraftRequest) -> Result<WirePolicy> {
        let body = Digest::of(&wire.encode_to_vec());
        if wire.description.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("description: at most 2000 characters"));
        }
        let checked = check(wire.bundle).await?;
        let (id, digest) = (new_id("pol"), Digest::of(&checked.bytes));
        let input = control::Input::DraftPolicy { digest, author: caller.id.clone() };
        let commands = vec![Command::new(Kind::Policy, &id, machine::Input::Control(input))];
        let tenant = caller.tenant.to_string();
        let mut side = vec![SideRow::Blob { tenant: tenant.clone(), digest, bytes: checked.bytes }];
        if !wire.description.is_empty() {
            let text = wire.description.as_bytes();
            let vault = &self.0.control.vault;
            let now = self.0.now();
            side.push(vault.seal(&tenant, &id, DESCRIPTION, Class::Record, text, now).await?);
        }
        let batch = Batch { side, ..Batch::new(caller.control_log(), commands) };
        let id = match self.0.mutate(caller, "policies", body, &id, batch).await? {
            Mutated::Fresh(_) => id,
            Mutated::Repeat(id) => id,
        };
        let mut policy = self.get(caller, &id)?;
        policy.test_report = Some(checked.tests);
        Ok(policy)
    }

    fn find(&self, caller: &Caller, id: &str) -> Result<Policy> {
        match self.0.control.ledger.read(&caller.control_log(), Kind::Policy, id)? {
            Some(State::Control(Entity::Policy(policy))) => Ok(policy),
            _ => Err(Refused::not_found("policy")),
        }
    }

    fn get(&self, caller: &Caller, id: &str) -> Result<WirePolicy> {
        let policy = self.find(caller, id)?;
        self.wire(caller, &policy)
    }

    fn wire(&self, caller: &Caller, policy: &Policy) -> Result<WirePolicy> {
        let history = self.0.control.directory.history(&caller.tenant);
        let published = history.publications.iter().rev().find(|p| p.policy == policy.id);
        let current = history.publications.last();
        let state = match (published, current) {
            (None, _) => WireState::Draft,
            (Some(own), Some(current)) if own.revision == current.revision => WireState::Published,
            (Some(_), Some(current)) if current.rollback => WireState::RolledBack,
            (Some(_), _) => WireState::Superseded,
        };
        let kept = self.0.control.vault.open(caller.tenant.as_str(), &policy.id, DESCRIPTION)?;
        let digest = published.map_or(policy.digest, |publication| publication.digest);
        Ok(WirePolicy {
            policy_id: policy.id.clone(),
            digest: digest.to_string(),
            state: state.into(),
            author: policy.author.to_string(),
            publisher: published.map(|p| p.publisher.to_string()).unwrap_or_default(),
            revision: published.map_or(0, |p| u32::try_from(p.revision).unwrap_or(u32::MAX)),
            created_at: Some(Timestamp::from_micros(policy.created_at.0)),
            test_report: None,
            description: String::from_utf8(kept.unwrap_or_default()).map_err(Refused::internal)?,
        })
    }

    async fn publish(&self, caller: &Caller, wire: PublishPolicyRequest) -> Result<WirePolicy> {
        let body = Digest::of(&wire.encode_to_vec());
        let policy = self.find(caller, &wire.policy_id)?;
        check_review(caller, &policy)?;
        let bytes = self.blob(caller, policy.digest)?;
        // Checked again: what was good when it was drafted must be good now.
        let checked = check(bytes).await?;
        let signed =
            checked.source.pack(&signer(&self.0, caller.tenant.as_str())?).map_err(bundle_error)?;
        self.enforce(caller, "policy_publish", body, &policy, signed, false).await?;
        let mut wire = self.get(caller, &policy.id)?;
        wire.test_report = Some(checked.tests);
        Ok(wire)
    }

    /// Puts a signed bundle into force.
    async fn enforce(
        &self,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
        policy: &Policy,
        signed: Vec<u8>,
        rollback: bool,
    ) -> Result<()> {
        let digest = Digest::of(&signed);
        let input = control::Input::PublishPolicy {
            policy: policy.id.clone(),
            digest,
            publisher: caller.id.clone(),
            author: policy.author.clone(),
            rollback,
        };
        let command = Command::new(Kind::PolicyHistory, HISTORY, machine::Input::Control(input));
        let side = vec![SideRow::Blob { tenant: caller.tenant.to_string(), digest, bytes: signed }];
        let batch = Batch { side, ..Batch::new(caller.control_log(), vec![command]) };
        if let Mutated::Fresh(_) = self.0.mutate(caller, endpoint, body, &policy.id, batch).await? {
            let (shared, tenant) = (self.0.clone(), caller.tenant.clone());
            let installed = tokio::task::spawn_blocking(move || install(&shared, &tenant));
            installed.await.map_err(Refused::not_ended)??;
        }
        Ok(())
    }

    fn blob(&self, caller: &Caller, digest: Digest) -> Result<Vec<u8>> {
        let blob = self.0.control.ledger.store().blob(caller.tenant.as_str(), digest)?;
        blob.ok_or_else(|| Refused::internal("the bundle of a policy is gone"))
    }

    /// Brings back the policy before the present one, or the one that is named.
    async fn rollback(&self, caller: &Caller, wire: RollbackPolicyRequest) -> Result<WirePolicy> {
        let body = Digest::of(&wire.encode_to_vec());
        let history = self.0.control.directory.history(&caller.tenant).publications;
        let current = history.last().ok_or_else(|| Refused::not_found("published policy"))?;
        let earlier = history.iter().rev().find(|publication| {
            let named = publication.policy == wire.to_policy_id;
            let other = wire.to_policy_id.is_empty() && publication.policy != current.policy;
            named || other
        });
        let earlier = earlier.ok_or_else(|| Refused::not_found("earlier published policy"))?;
        let policy = self.find(caller, &earlier.policy)?;
        check_review(caller, &policy)?;
        let signed = self.blob(caller, earlier.digest)?;
        self.enforce(caller, "policy_rollback", body, &policy, signed, true).await?;
        self.get(caller, &policy.id)
    }

    fn list(&self, caller: &Caller, wire: &ListPoliciesRequest) -> Result<ListPoliciesResponse> {
        let page = paging::page(wire.page_size, &wire.page_token, None);
        let states = self.0.control.ledger.list(&caller.control_log(), Kind::Policy, &page)?;
        let found: Vec<Policy> = states
            .into_iter()
            .filter_map(|state| match state {
                State::Control(Entity::Policy(policy)) => Some(policy),
                _ => None,
            })
            .collect();
        let next_page_token = paging::next(&page, found.len(), || {
            found.last().map(|policy| policy.id.clone()).unwrap_or_default()
        });
        let policies =
            found.iter().map(|policy| self.wire(caller, policy)).collect::<Result<_>>()?;
        Ok(ListPoliciesResponse { policies, next_page_token })
    }

    async fn simulate(
        &self,
        caller: &Caller,
        wire: SimulatePolicyRequest,
    ) -> Result<SimulatePolicyResponse> {
        let bytes = match (wire.bundle.is_empty(), wire.policy_id.as_str()) {
            (false, "") => wire.bundle,
            (true, "") => {
                let history = self.0.control.directory.history(&caller.tenant);
                let current = history.publications.last();
                let digest = current.ok_or_else(|| Refused::not_found("published policy"))?.digest;
                self.blob(caller, digest)?
            }
            (true, id) => self.blob(caller, self.find(caller, id)?.digest)?,
            (false, _) => return Err(Refused::invalid("name a bundle or a policy_id, not both")),
        };
        let mut inputs = Vec::with_capacity(wire.inputs.len());
        for input in &wire.inputs {
            let parsed = crate::actions::parse_json("inputs", &input.text)?;
            inputs.push(parsed.to_value());
        }
        let simulating = tokio::task::spawn_blocking(move || {
            let source = policy::bundle::open_draft(&bytes)?;
            policy::simulate(&source, &inputs)
        });
        let simulated = simulating.await.map_err(Refused::internal)?.map_err(bundle_error)?;
        let decisions = simulated.iter().map(|one| crate::actions::decision(&one.decision));
        Ok(SimulatePolicyResponse { decisions: decisions.collect() })
    }

    fn status(&self, caller: &Caller) -> PolicyStatus {
        let status = self.0.policy.status(&caller.tenant);
        let revision = status.policy.revision;
        PolicyStatus {
            revision: u32::try_from(revision).unwrap_or(u32::MAX),
            digest: status.policy.digest.to_string(),
            fresh: status.fresh,
            confirmed_at: status.confirmed_at.map(|at| Timestamp::from_micros(at.0)),
            ttl_s: self.0.config.policy.ttl_s,
            reviewed: revision > 0 && self.0.control.directory.reviewed(&caller.tenant, revision),
        }
    }
}

#[tonic::async_trait]
impl PoliciesService for PoliciesApi {
    async fn create_policy_draft(
        &self,
        request: Request<CreatePolicyDraftRequest>,
    ) -> Reply<WirePolicy> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.draft(&caller, request.into_inner()).await?))
    }

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Reply<ListPoliciesResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_policy_status(
        &self,
        request: Request<GetPolicyStatusRequest>,
    ) -> Reply<PolicyStatus> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.status(&caller)))
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Reply<WirePolicy> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.get(&caller, &request.get_ref().policy_id)?))
    }

    async fn publish_policy(&self, request: Request<PublishPolicyRequest>) -> Reply<WirePolicy> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.publish(&caller, request.into_inner()).await?))
    }

    async fn rollback_policy(&self, request: Request<RollbackPolicyRequest>) -> Reply<WirePolicy> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.rollback(&caller, request.into_inner()).await?))
    }

    async fn simulate_policy(
        &self,
        request: Request<SimulatePolicyRequest>,
    ) -> Reply<SimulatePolicyResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.simulate(&caller, request.into_inner()).await?))
    }
}
