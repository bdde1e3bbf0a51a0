//! What the tests share: sources, keys, an input and a decision point with a clock by hand.

use kernel::decision::{
    DecisionInput, InputBudget, InputOperational, InputPrincipal, InputTime, InputTool, Phase,
};
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, ToolId, WorkspaceId};
use kernel::json::RawJson;
use kernel::principal::{Actor, PrincipalKind, Role};
use kernel::risk::Risk;
use kernel::values::{Digest, MicroUsd, Timestamp};
use policy::{
    Bundle, Config, Confirmation, ControlKey, P256Signer, PolicyPoint, Source, TrustedKeys, open,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) const ALLOW: &str =
    r#"decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true"#;
pub(crate) const LISTING: &str = "listing contains x if some x in decisions";

/// A source of one file in package `tally`, with a listing.
pub(crate) fn source(rules: &str) -> Source {
    let text = format!("package tally\n\n{rules}\n\n{LISTING}\n");
    Source::new([("tally.rego".to_owned(), text.into_bytes())]).unwrap()
}

pub(crate) fn signer() -> P256Signer {
    P256Signer::generate("k1").unwrap().0
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// The fields that an input borrows from.
pub(crate) struct Facts {
    pub(crate) tenant: TenantId,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) environment: EnvironmentId,
    pub(crate) params: RawJson,
    pub(crate) claims: RawJson,
    workspace: WorkspaceId,
    principal: PrincipalId,
    roles: BTreeSet<Role>,
    chain: Vec<Actor>,
    tool: ToolId,
    risk: Risk,
}

impl Facts {
    pub(crate) fn new(environment: &str, labels: &[&str]) -> Self {
        let principal = PrincipalId::new("p_7").unwrap();
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        Self {
            tenant: tenant(),
            risk: Risk::assess(&labels, environment, &BTreeSet::new()),
            labels,
            environment: EnvironmentId::new(environment).unwrap(),
            params: RawJson::parse("{}").unwrap(),
            claims: RawJson::parse("{}").unwrap(),
            workspace: WorkspaceId::new("ops").unwrap(),
            roles: [Role::Agent].into(),
            chain: vec![Actor { id: principal.clone(), kind: PrincipalKind::Agent }],
            principal,
            tool: ToolId::new("core.example").unwrap(),
        }
    }

    pub(crate) fn input(&self) -> DecisionInput<'_> {
        DecisionInput {
            phase: Phase::Submit,
            tenant: &self.tenant,
            workspace: &self.workspace,
            environment: &self.environment,
            principal: InputPrincipal {
                id: &self.principal,
                kind: PrincipalKind::Agent,
                roles: &self.roles,
            },
            actor_chain: &self.chain,
            tool: InputTool { id: &self.tool, labels: &self.labels, digest: Digest::of(b"tool") },
            params: &self.params,
            claims: &self.claims,
            risk: &self.risk,
            budget: InputBudget { remaining_micro_usd: None, estimate_micro_usd: MicroUsd::ZERO },
            approval: None,
            operational: InputOperational::default(),
            run: None,
            now: InputTime::from(Timestamp(1_795_226_400_000_000)),
        }
    }
}

/// A decision point, control's key and a clock that is set by hand.
pub(crate) struct Desk {
    pub(crate) point: PolicyPoint,
    pub(crate) control: P256Signer,
    pub(crate) now: Arc<AtomicI64>,
}

impl Desk {
    pub(crate) fn new(config: &Config) -> Self {
        let control = signer();
        let now = Arc::new(AtomicI64::new(1_000_000_000));
        let clock = Arc::clone(&now);
        let key = ControlKey::new(&control.public_key()).unwrap();
        let point = PolicyPoint::new(
            config,
            key,
            Arc::new(move || Timestamp(clock.load(Ordering::SeqCst))),
        );
        Self { point, control, now }
    }

    pub(crate) fn confirmation(&self, revision: u64, digest: Digest) -> Confirmation {
        let at = Timestamp(self.now.load(Ordering::SeqCst));
        Confirmation::signed(&tenant(), revision, digest, at, &self.control).unwrap()
    }

    pub(crate) fn install(&self, revision: u64, source: &Source) {
        let bundle = bundle(source);
        let confirmation = self.confirmation(revision, bundle.digest);
        self.point.install(&tenant(), revision, bundle, Some(&confirmation)).unwrap();
    }
}

/// A source signed and opened again.
pub(crate) fn bundle(source: &Source) -> Arc<Bundle> {
    let signer = signer();
    let bytes = source.pack(&signer).unwrap();
    Arc::new(open(&bytes, &TrustedKeys::of(&signer)).unwrap())
}
