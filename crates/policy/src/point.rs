//! The decision point: which policy each tenant has, whether it is fresh, and what it says.

use arc_swap::ArcSwap;
use kernel::decision::{Decision, DecisionInput, DecisionPoint, MatchedRule, NoAnswer, PolicyRef};
use kernel::ids::TenantId;
use kernel::values::{Digest, Timestamp};
use regorus::Value;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::bundle::Bundle;
use crate::input::{self, Reader};
use crate::limits;
use crate::machine::{Entry, Failure, Machine};
use crate::sign::{self, Signer};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How the decision point behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a confirmation by control is good for, in seconds.
    pub confirmation_ttl_s: i64,
    /// How long one decision may take, in ms.
    pub decision_limit_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            confirmation_ttl_s: limits::CONFIRMATION_TTL_S_DEFAULT,
            decision_limit_ms: limits::DECISION_MS_DEFAULT,
        }
    }
}

/// Why a confirmation was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Signed by somebody else, or changed.
    #[error("the confirmation is not signed by control")]
    BadSignature,
    /// For another revision or bundle than the installed.
    #[error("the confirmation is for revision {confirmed}, installed is {installed}")]
    OtherRevision {
        /// What was confirmed.
        confirmed: u64,
        /// What is installed; 0 where nothing is.
        installed: u64,
    },
    /// Made in the future.
    #[error("the confirmation lies in the future: check the clocks")]
    Future,
    /// An older revision than the installed.
    #[error("revision {offered} is not newer than the installed {installed}")]
    NotNewer {
        /// What was offered.
        offered: u64,
        /// What is installed.
        installed: u64,
    },
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadSignature => "confirmation_bad_signature",
            Self::OtherRevision { .. } => "confirmation_other_revision",
            Self::Future => "confirmation_in_future",
            Self::NotNewer { .. } => "policy_not_newer",
        }
    }
}

/// Control's public key (P-256), which confirms revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlKey(Vec<u8>);

impl ControlKey {
    /// Takes 65 uncompressed bytes, or PEM `PUBLIC KEY`.
    pub fn new(key: &[u8]) -> Result<Self, sign::Error> {
        sign::public_point(key).map(Self)
    }
}

/// Control's word that a revision is still the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// Which revision.
    pub revision: u64,
    /// The digest of its bundle.
    pub digest: Digest,
    /// When control looked.
    pub confirmed_at: Timestamp,
    /// ECDSA P-256 over [`Confirmation::statement`], ASN.1 DER.
    pub signature: Vec<u8>,
}

impl Confirmation {
    /// The bytes that control signs: five lines, each ended by a newline — the text
    /// `tally policy confirmation v1`, the tenant, the revision in decimal, the digest as 64 hex
    /// digits, and the time in microseconds since 1970.
    pub fn statement(tenant: &TenantId, revision: u64, digest: Digest, at: Timestamp) -> Vec<u8> {
        let digest = digest.hex();
        format!("tally policy confirmation v1\n{tenant}\n{revision}\n{digest}\n{}\n", at.0)
            .into_bytes()
    }

    /// Confirms a revision, for control.
    pub fn signed(
        tenant: &TenantId,
        revision: u64,
        digest: Digest,
        at: Timestamp,
        signer: &dyn Signer,
    ) -> Result<Self, sign::Error> {
        let signature = signer.sign(&Self::statement(tenant, revision, digest, at))?;
        Ok(Self { revision, digest, confirmed_at: at, signature })
    }
}

/// How a tenant's policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What is installed.
    pub policy: PolicyRef,
    /// Whether it decides: usable, and confirmed within its time to live.
    pub fresh: bool,
    /// When control last confirmed it.
    pub confirmed_at: Option<Timestamp>,
}

/// What a tenant has installed.
struct Installed {
    /// Differs between any two installations of this process.
    serial: u64,
    policy: PolicyRef,
    state: State,
    /// When control last confirmed it, in µs since 1970.
    confirmed_at: AtomicI64,
}

enum State {
    Ready(Arc<Bundle>),
    Refused(NoAnswer),
}

/// Never confirmed.
const NEVER: i64 = i64::MIN;

impl Installed {
    fn new(policy: PolicyRef, state: State) -> Arc<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { serial, policy, state, confirmed_at: AtomicI64::new(NEVER) })
    }
}

type Tenants = HashMap<TenantId, Arc<Installed>>;

/// Decides by each tenant's own bundle. Cheap to share; every thread evaluates on its own copy.
pub struct PolicyPoint {
    ttl_micros: i64,
    limit: Duration,
    control: ControlKey,
    clock: Clock,
    tenants: ArcSwap<Tenants>,
}

impl fmt::Debug for PolicyPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants = self.tenants.load().len();
        f.debug_struct("PolicyPoint").field("tenants", &tenants).finish_non_exhaustive()
    }
}

impl PolicyPoint {
    /// A decision point that has no policy for anybody, and so denies everything.
    pub fn new(config: &Config, control: ControlKey, clock: Clock) -> Self {
        Self {
            ttl_micros: config.confirmation_ttl_s.saturating_mul(1_000_000),
            limit: Duration::from_millis(config.decision_limit_ms),
            control,
            clock,
            tenants: ArcSwap::default(),
        }
    }

    /// Installs a bundle; the next decision uses it. It is stale until control confirms it: pass
    /// the confirmation along so that nothing is denied in between. Revisions only go up.
    pub fn install(
        &self,
        tenant: &TenantId,
        revision: u64,
        bundle: Arc<Bundle>,
        confirmation: Option<&Confirmation>,
    ) -> Result<(), Error> {
        let policy = PolicyRef { revision, digest: bundle.digest };
        let installed = Installed::new(policy, State::Ready(bundle));
        if let Some(confirmation) = confirmation {
            self.take(tenant, &installed, confirmation)?;
        }
        self.put(tenant, installed)
    }

    /// Records that the tenant's current revision cannot be used: every decision is a DENY with
    /// that reason until another revision is installed.
    pub fn refuse(
        &self,
        tenant: &TenantId,
        revision: u64,
        digest: Digest,
        why: NoAnswer,
    ) -> Result<(), Error> {
        let policy = PolicyRef { revision, digest };
        self.put(tenant, Installed::new(policy, State::Refused(why)))
    }

    /// Takes control's word that the installed revision is still the current one. An older
    /// confirmation than the last changes nothing.
    pub fn confirm(&self, tenant: &TenantId, confirmation: &Confirmation) -> Result<(), Error> {
        match self.tenants.load().get(tenant) {
            Some(installed) => self.take(tenant, installed, confirmation),
            None => Err(Error::OtherRevision { confirmed: confirmation.revision, installed: 0 }),
        }
    }

    /// How a tenant's policy stands now.
    pub fn status(&self, tenant: &TenantId) -> Status {
        let tenants = self.tenants.load();
        let Some(installed) = tenants.get(tenant) else {
            return Status { policy: PolicyRef::none(), fresh: false, confirmed_at: None };
        };
        let confirmed_at = installed.confirmed_at.load(Ordering::Acquire);
        let oldest = (self.clock)().plus_micros(self.ttl_micros.saturating_neg());
        let usable = matches!(installed.state, State::Ready(_));
        Status {
            policy: installed.policy.clone(),
            fresh: usable && confirmed_at != NEVER && confirmed_at >= oldest.0,
            confirmed_at: (confirmed_at != NEVER).then_some(Timestamp(confirmed_at)),
        }
    }

    fn take(
        &self,
        tenant: &TenantId,
        installed: &Installed,
        confirmation: &Confirmation,
    ) -> Result<(), Error> {
        let Confirmation { revision, digest, confirmed_at, signature } = confirmation;
        let statement = Confirmation::statement(tenant, *revision, *digest, *confirmed_at);
        if !sign::verify_der(&self.control.0, &statement, signature) {
            return Err(Error::BadSignature);
        }
        let PolicyRef { revision: current, digest: current_digest } = &installed.policy;
        if (revision, digest) != (current, current_digest) {
            return Err(Error::OtherRevision { confirmed: *revision, installed: *current });
        }
        if *confirmed_at > (self.clock)().plus_micros(limits::CONFIRMATION_SKEW_MICROS) {
            return Err(Error::Future);
        }
        installed.confirmed_at.fetch_max(confirmed_at.0, Ordering::AcqRel);
        Ok(())
    }

    fn put(&self, tenant: &TenantId, installed: Arc<Installed>) -> Result<(), Error> {
        let offered = installed.policy.revision;
        let mut refused = None;
        self.tenants.rcu(|tenants| {
            let current = tenants.get(tenant).map_or(0, |now| now.policy.revision);
            refused =
                (offered < current).then_some(Error::NotNewer { offered, installed: current });
            let mut next = Tenants::clone(tenants);
            if refused.is_none() {
                next.insert(tenant.clone(), Arc::clone(&installed));
            }
            next
        });
        refused.map_or(Ok(()), Err)
    }

    fn evaluate(&self, entry: Entry, input: &DecisionInput<'_>) -> Decision {
        READER.with_borrow_mut(|reader| {
            let Ok(json) = reader.write(input) else {
                // No input, so no digest of it: the digest of nothing.
                let (policy, digest) = (self.current(input.tenant), Digest::of(b""));
                return Decision::deny(NoAnswer::PolicyError, policy, digest);
            };
            let digest = Digest::of(json);
            let tenants = self.tenants.load();
            let Some(installed) = tenants.get(input.tenant) else {
                return Decision::deny(NoAnswer::PolicyAbsent, PolicyRef::none(), digest);
            };
            let policy = installed.policy.clone();
            match self.rules(installed, entry, || reader.value(input)) {
                Ok(matched) => Decision::combine(matched, policy, digest),
                Err(why) => Decision::deny(why, policy, digest),
            }
        })
    }

    fn rules(
        &self,
        installed: &Installed,
        entry: Entry,
        input: impl FnOnce() -> Result<Value, Failure>,
    ) -> Result<Vec<MatchedRule>, NoAnswer> {
        let bundle = match &installed.state {
            State::Refused(why) => return Err(*why),
            State::Ready(bundle) => bundle,
        };
        let oldest = (self.clock)().plus_micros(self.ttl_micros.saturating_neg());
        let confirmed_at = installed.confirmed_at.load(Ordering::Acquire);
        if confirmed_at == NEVER || confirmed_at < oldest.0 {
            return Err(NoAnswer::PolicyStale);
        }
        let input = input().map_err(|failure| failure.why)?;
        on_this_thread(installed.serial, bundle, self.limit, |machine| machine.rules(entry, input))
            .map_err(|failure| failure.why)
    }
}

/// A thread's compiled policies, the one used last first.
type Machines = Vec<(u64, Box<Machine>)>;

thread_local! {
    static READER: RefCell<Reader> = RefCell::new(Reader::new());
    static MACHINES: RefCell<Machines> = const { RefCell::new(Vec::new()) };
}

/// Runs `job` on this thread's machine of the installation `serial`, compiled at its first use.
/// Machines of replaced installations are never asked for again and so give way.
fn on_this_thread<T>(
    serial: u64,
    bundle: &Bundle,
    limit: Duration,
    job: impl FnOnce(&mut Machine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    MACHINES.with_borrow_mut(|machines| {
        match machines.iter().position(|(known, _)| *known == serial) {
            Some(0) => {}
            Some(nth) => {
                let found = machines.remove(nth);
                machines.insert(0, found);
            }
            None => {
                let machine = Machine::new(bundle.policy(), limit)
                    .map_err(|e| Failure::error(e.to_string()))?;
                machines.truncate(limits::MACHINES_PER_THREAD_MAX - 1);
                machines.insert(0, (serial, Box::new(machine)));
            }
        }
        match machines.first_mut() {
            Some((_, machine)) => job(machine),
            None => Err(Failure::error("no machine")),
        }
    })
}

impl DecisionPoint for PolicyPoint {
    fn decide(&self, input: &DecisionInput<'_>) -> Decision {
        self.evaluate(Entry::Decisions, input)
    }

    fn list(&self, input: &DecisionInput<'_>) -> Decision {
        self.evaluate(Entry::Listing, input)
    }

    fn current(&self, tenant: &TenantId) -> PolicyRef {
        self.tenants.load().get(tenant).map_or_else(PolicyRef::none, |now| now.policy.clone())
    }
}

/// What one simulated input would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Simulated {
    /// The decision.
    pub decision: Decision,
    /// For a DENY for want of an answer: what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Decides each input (merged over a complete default input) by a bundle that need not be
/// installed, signed or fresh. At most [`limits::SIMULATED_INPUTS_MAX`] inputs.
///
/// # Errors
/// The policy does not compile, or there are too many inputs.
pub fn simulate(
    source: &crate::Source,
    inputs: &[serde_json::Value],
) -> Result<Vec<Simulated>, crate::bundle::Error> {
    if inputs.len() > limits::SIMULATED_INPUTS_MAX {
        let (count, max) = (inputs.len(), limits::SIMULATED_INPUTS_MAX);
        return Err(crate::bundle::Error::TooLarge(format!("{count} inputs, at most {max}")));
    }
    let policy = crate::compile::Policy::new(source)?;
    let mut machine = Machine::new(&policy, Duration::from_millis(limits::DECISION_MS_DEFAULT))?;
    let reference = PolicyRef { revision: 0, digest: Digest::of(&source.pack_unsigned()?) };
    Ok(inputs
        .iter()
        .map(|input| simulate_one(&mut machine, &crate::sample::complete(input), &reference))
        .collect())
}

fn simulate_one(machine: &mut Machine, input: &serde_json::Value, policy: &PolicyRef) -> Simulated {
    let json = input.to_string().into_bytes();
    let digest = Digest::of(&json);
    let entry = match input.get("phase").and_then(|phase| phase.as_str()) {
        Some("list") => Entry::Listing,
        _ => Entry::Decisions,
    };
    match input::parse(&json).and_then(|input| machine.rules(entry, input)) {
        Ok(matched) => {
            let decision = Decision::combine(matched, policy.clone(), digest);
            Simulated { decision, detail: None }
        }
        Err(failure) => Simulated {
            decision: Decision::deny(failure.why, policy.clone(), digest),
            detail: Some(failure.detail),
        },
    }
}
