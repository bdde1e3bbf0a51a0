//! The state machines of the control plane: tenants, workspaces, principals, API keys, policies.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::delegation::Delegation;
use crate::ids::{AccountId, EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use crate::machine::{Applied, Refusal};
use crate::principal::{PrincipalKind, Role};
use crate::values::{Digest, Timestamp};

/// What changes something of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// A tenant was created.
    #[serde(rename = "tenant.created")]
    TenantCreated {},
    /// A tenant was suspended: its credentials are refused and its queue rests.
    #[serde(rename = "tenant.suspended")]
    TenantSuspended {},
    /// A suspended tenant was resumed.
    #[serde(rename = "tenant.resumed")]
    TenantResumed {},
    /// A workspace was created.
    #[serde(rename = "workspace.created")]
    WorkspaceCreated {
        /// Its environments.
        environments: BTreeSet<EnvironmentId>,
    },
    /// A principal was created.
    #[serde(rename = "principal.created")]
    PrincipalCreated {
        /// What it is.
        kind: PrincipalKind,
        /// Its roles.
        roles: BTreeSet<Role>,
        /// Who pays for its actions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<AccountId>,
    },
    /// A principal's roles changed.
    #[serde(rename = "principal.roles_set")]
    RolesSet {
        /// Its roles.
        roles: BTreeSet<Role>,
    },
    /// A principal was disabled.
    #[serde(rename = "principal.disabled")]
    PrincipalDisabled {},
    /// A disabled principal was enabled again.
    #[serde(rename = "principal.enabled")]
    PrincipalEnabled {},
    /// An API key was issued.
    #[serde(rename = "key.issued")]
    KeyIssued(Box<Issue>),
    /// An API key was revoked.
    #[serde(rename = "key.revoked")]
    KeyRevoked {},
    /// An API key got another secret.
    #[serde(rename = "key.rotated")]
    KeyRotated(Rotation),
    /// Somebody may act for an API key's principal.
    #[serde(rename = "key.delegated")]
    KeyDelegated(Box<Delegation>),
    /// Another key signs tokens.
    #[serde(rename = "token_key.rotated")]
    TokenKeyRotated {
        /// Its number.
        generation: u32,
        /// Until when tokens of the key before are taken.
        previous_until: Timestamp,
    },
    /// A policy bundle was drafted.
    #[serde(rename = "policy.drafted")]
    PolicyDrafted {
        /// The digest of the bundle's files before signing.
        digest: Digest,
        /// Who drafted it.
        author: PrincipalId,
    },
    /// A policy bundle came into force.
    #[serde(rename = "policy.published")]
    PolicyPublished {
        /// The new revision.
        revision: u64,
        /// The policy.
        policy: String,
        /// The digest of the signed bundle.
        digest: Digest,
        /// Who published it.
        publisher: PrincipalId,
        /// Who drafted the policy: where that is the publisher, nobody else has looked at it.
        author: PrincipalId,
        /// Whether an earlier policy came back.
        rollback: bool,
    },
}

/// What an API key is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    /// Whose it is.
    pub principal: PrincipalId,
    /// SHA-256 of the secret.
    pub secret: Digest,
    /// The workspace that it is bound to.
    pub workspace: WorkspaceId,
    /// The environment that it is bound to.
    pub environment: EnvironmentId,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Requests a minute.
    pub rate_per_min: u32,
}

/// The new secret of an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// SHA-256 of the secret.
    pub secret: Digest,
    /// Until when the secret before is good; it is refused at once where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<Timestamp>,
}

/// What is asked of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Create a tenant.
    CreateTenant {},
    /// Suspend a tenant.
    SuspendTenant {},
    /// Resume a suspended tenant.
    ResumeTenant {},
    /// Create a workspace.
    CreateWorkspace {
        /// Its environments.
        environments: BTreeSet<EnvironmentId>,
    },
    /// Create a principal.
    CreatePrincipal {
        /// What it is.
        kind: PrincipalKind,
        /// Its roles.
        roles: BTreeSet<Role>,
        /// Who pays for its actions.
        account: Option<AccountId>,
    },
    /// Set a principal's roles.
    SetRoles {
        /// The roles.
        roles: BTreeSet<Role>,
    },
    /// Disable a principal: none of its keys works from then on.
    DisablePrincipal {},
    /// Enable a disabled principal again.
    EnablePrincipal {},
    /// Issue an API key.
    IssueKey(Box<Issue>),
    /// Revoke an API key.
    RevokeKey {},
    /// Give an API key another secret.
    RotateKey(Rotation),
    /// Let somebody act for an API key's principal.
    DelegateKey(Box<Delegation>),
    /// Have another key sign tokens.
    RotateTokenKey {
        /// Until when tokens of the key before are taken.
        previous_until: Timestamp,
    },
    /// Draft a policy bundle.
    DraftPolicy {
        /// The digest of its files.
        digest: Digest,
        /// Who drafts it.
        author: PrincipalId,
    },
    /// Put a policy bundle into force.
    PublishPolicy {
        /// The policy.
        policy: String,
        /// The digest of the signed bundle.
        digest: Digest,
        /// Who publishes it.
        publisher: PrincipalId,
        /// Who drafted the policy.
        author: PrincipalId,
        /// Whether an earlier policy comes back.
        rollback: bool,
    },
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Which.
    pub id: TenantId,
    /// Whether its credentials are refused and its queue rests.
    pub suspended: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when.
    pub created_at: Timestamp,
}

/// Which key signs tokens. Before the first rotation it is number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// The number of the key that signs.
    pub generation: u32,
    /// Until when tokens of the key before are taken.
    pub previous_until: Timestamp,
}

impl TokenKey {
    /// The numbers of the keys whose tokens are taken, the one that signs first.
    pub fn accepted(self, now: Timestamp) -> impl Iterator<Item = u32> {
        let previous = self.generation.checked_sub(1).filter(|_| now < self.previous_until);
        std::iter::once(self.generation).chain(previous)
    }
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Which.
    pub id: WorkspaceId,
    /// Its environments.
    pub environments: BTreeSet<EnvironmentId>,
    /// Since when.
    pub created_at: Timestamp,
}

/// A principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Which.
    pub id: PrincipalId,
    /// What it is.
    pub kind: PrincipalKind,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// Who pays for its actions.
    pub account: Option<AccountId>,
    /// Whether its keys are refused.
    pub disabled: bool,
    /// Counts its changes, from 1. A decision is made for one revision.
    pub revision: u64,
    /// Since when.
    pub created_at: Timestamp,
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Which.
    pub id: String,
    /// What it is good for.
    pub issue: Box<Issue>,
    /// The secret before the last rotation, and until when it is good.
    pub previous: Option<(Digest, Timestamp)>,
    /// Whether it is refused.
    pub revoked: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when.
    pub created_at: Timestamp,
}

impl ApiKey {
    /// Whether it opens anything.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.revoked && self.issue.expires_at.is_none_or(|at| now < at)
    }
}

/// A drafted policy bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which.
    pub id: String,
    /// The digest of its files before signing.
    pub digest: Digest,
    /// Who drafted it.
    pub author: PrincipalId,
    /// Since when.
    pub created_at: Timestamp,
}

/// What was in force when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// From 1.
    pub revision: u64,
    /// The policy.
    pub policy: String,
    /// The digest of the signed bundle.
    pub digest: Digest,
    /// Who published it.
    pub publisher: PrincipalId,
    /// Who drafted the policy.
    pub author: PrincipalId,
    /// When.
    pub at: Timestamp,
    /// Whether an earlier policy came back.
    pub rollback: bool,
}

impl Publication {
    /// Whether somebody other than its author put the policy into force. Only such a policy
    /// decides in `prod`.
    pub fn reviewed(&self) -> bool {
        self.author != self.publisher
    }
}

/// The policies of a tenant that were in force, the present one last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHistory {
    /// At most the last 100.
    pub publications: Vec<Publication>,
}

/// How many publications a history keeps; older ones are in the log.
const PUBLICATIONS_KEPT: usize = 100;

/// The state of something of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    /// A tenant.
    Tenant(Tenant),
    /// A workspace.
    Workspace(Workspace),
    /// A principal.
    Principal(Principal),
    /// An API key.
    Key(ApiKey),
    /// A drafted policy.
    Policy(Policy),
    /// The policies that were in force.
    History(PolicyHistory),
    /// Which key signs tokens.
    TokenKey(TokenKey),
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Entity>, input: Input) -> Result<Change, Refusal> {
    match (state, input) {
        (None, Input::CreateTenant {}) => Ok(Change::TenantCreated {}),
        (None, Input::CreateWorkspace { environments }) if environments.is_empty() => {
            Err(Refusal::InvalidInput("a workspace has at least one environment"))
        }
        (None, Input::CreateWorkspace { environments }) => {
            Ok(Change::WorkspaceCreated { environments })
        }
        (None, Input::CreatePrincipal { kind, roles, account }) => {
            check_roles(kind, &roles)?;
            Ok(Change::PrincipalCreated { kind, roles, account })
        }
        (Some(Entity::Principal(principal)), Input::SetRoles { roles }) => {
            check_roles(principal.kind, &roles)?;
            Ok(Change::RolesSet { roles })
        }
        (Some(Entity::Principal(p)), Input::DisablePrincipal {}) if p.disabled => {
            Err(Refusal::State("disabled"))
        }
        (Some(Entity::Principal(_)), Input::DisablePrincipal {}) => {
            Ok(Change::PrincipalDisabled {})
        }
        (Some(Entity::Principal(p)), Input::EnablePrincipal {}) if !p.disabled => {
            Err(Refusal::State("enabled"))
        }
        (Some(Entity::Principal(_)), Input::EnablePrincipal {}) => Ok(Change::PrincipalEnabled {}),
        (Some(Entity::Tenant(tenant)), input) => step_tenant(tenant, &input),
        (Some(Entity::Key(key)), Input::RotateKey(_) | Input::DelegateKey(_)) if key.revoked => {
            Err(Refusal::State("revoked"))
        }
        (Some(Entity::Key(_)), Input::RotateKey(rotation)) => Ok(Change::KeyRotated(rotation)),
        (Some(Entity::Key(_)), Input::DelegateKey(delegation)) => {
            Ok(Change::KeyDelegated(delegation))
        }
        (state @ (None | Some(Entity::TokenKey(_))), Input::RotateTokenKey { previous_until }) => {
            let generation = match state {
                Some(Entity::TokenKey(key)) => key.generation.saturating_add(1),
                _ => 1,
            };
            Ok(Change::TokenKeyRotated { generation, previous_until })
        }
        (None, Input::IssueKey(issue)) => Ok(Change::KeyIssued(issue)),
        (Some(Entity::Key(key)), Input::RevokeKey {}) if key.revoked => {
            Err(Refusal::State("revoked"))
        }
        (Some(Entity::Key(_)), Input::RevokeKey {}) => Ok(Change::KeyRevoked {}),
        (None, Input::DraftPolicy { digest, author }) => {
            Ok(Change::PolicyDrafted { digest, author })
        }
        (state, Input::PublishPolicy { policy, digest, publisher, author, rollback }) => {
            let last = match state {
                None => 0,
                Some(Entity::History(history)) => {
                    history.publications.last().map_or(0, |last| last.revision)
                }
                Some(_) => return Err(Refusal::Exists),
            };
            let revision = last.saturating_add(1);
            Ok(Change::PolicyPublished { revision, policy, digest, publisher, author, rollback })
        }
        (None, _) => Err(Refusal::Absent),
        (Some(_), _) => Err(Refusal::Exists),
    }
}

fn step_tenant(tenant: &Tenant, input: &Input) -> Result<Change, Refusal> {
    match input {
        Input::SuspendTenant {} if tenant.suspended => Err(Refusal::State("suspended")),
        Input::SuspendTenant {} => Ok(Change::TenantSuspended {}),
        Input::ResumeTenant {} if !tenant.suspended => Err(Refusal::State("active")),
        Input::ResumeTenant {} => Ok(Change::TenantResumed {}),
        _ => Err(Refusal::Exists),
    }
}

/// An agent never approves, and manages nothing: its roles are agent, viewer and auditor.
fn check_roles(kind: PrincipalKind, roles: &BTreeSet<Role>) -> Result<(), Refusal> {
    if roles.is_empty() {
        return Err(Refusal::InvalidInput("a principal has at least one role"));
    }
    let fits = |role: &Role| match kind {
        PrincipalKind::Agent => matches!(role, Role::Agent | Role::Viewer | Role::Auditor),
        PrincipalKind::Service => !matches!(role, Role::Approver | Role::Owner | Role::Responder),
        PrincipalKind::User => true,
    };
    if roles.iter().all(fits) {
        Ok(())
    } else {
        Err(Refusal::InvalidInput(
            "an agent has the roles agent, viewer or auditor; \
             a service is no approver, owner or responder",
        ))
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Entity>, change: &Change, applied: &Applied<'_>) {
    if state.is_none() {
        *state = create(change, applied);
        return;
    }
    match (state, change) {
        (Some(Entity::Principal(principal)), Change::RolesSet { roles }) => {
            principal.roles = roles.clone();
            principal.revision = principal.revision.saturating_add(1);
        }
        (Some(Entity::Principal(principal)), Change::PrincipalDisabled {}) => {
            principal.disabled = true;
            principal.revision = principal.revision.saturating_add(1);
        }
        (Some(Entity::Principal(principal)), Change::PrincipalEnabled {}) => {
            principal.disabled = false;
            principal.revision = principal.revision.saturating_add(1);
        }
        (Some(Entity::Tenant(tenant)), Change::TenantSuspended {} | Change::TenantResumed {}) => {
            tenant.suspended = matches!(change, Change::TenantSuspended {});
            tenant.revision = tenant.revision.saturating_add(1);
        }
        (Some(Entity::Key(key)), Change::KeyRevoked {}) => {
            key.revoked = true;
            key.revision = key.revision.saturating_add(1);
        }
        (Some(Entity::Key(key)), Change::KeyRotated(rotation)) => {
            key.previous = rotation.previous_until.map(|until| (key.issue.secret, until));
            key.issue.secret = rotation.secret;
            key.revision = key.revision.saturating_add(1);
        }
        (Some(Entity::TokenKey(key)), Change::TokenKeyRotated { generation, previous_until }) => {
            *key = TokenKey { generation: *generation, previous_until: *previous_until };
        }
        (Some(Entity::History(history)), Change::PolicyPublished { .. }) => {
            history.publications.extend(publication(change, applied));
            let surplus = history.publications.len().saturating_sub(PUBLICATIONS_KEPT);
            history.publications.drain(..surplus);
        }
        _ => {}
    }
}

fn publication(change: &Change, applied: &Applied<'_>) -> Option<Publication> {
    let Change::PolicyPublished { revision, policy, digest, publisher, author, rollback } = change
    else {
        return None;
    };
    Some(Publication {
        revision: *revision,
        policy: policy.clone(),
        digest: *digest,
        publisher: publisher.clone(),
        author: author.clone(),
        at: applied.time,
        rollback: *rollback,
    })
}

fn create(change: &Change, applied: &Applied<'_>) -> Option<Entity> {
    let created_at = applied.time;
    Some(match change {
        Change::TenantCreated {} => {
            let id = TenantId::new(applied.id).ok()?;
            Entity::Tenant(Tenant { id, suspended: false, revision: 1, created_at })
        }
        Change::WorkspaceCreated { environments } => Entity::Workspace(Workspace {
            id: WorkspaceId::new(applied.id).ok()?,
            environments: environments.clone(),
            created_at,
        }),
        Change::PrincipalCreated { kind, roles, account } => Entity::Principal(Principal {
            id: PrincipalId::new(applied.id).ok()?,
            kind: *kind,
            roles: roles.clone(),
            account: account.clone(),
            disabled: false,
            revision: 1,
            created_at,
        }),
        Change::KeyIssued(issue) => Entity::Key(ApiKey {
            id: applied.id.to_owned(),
            issue: issue.clone(),
            previous: None,
            revoked: false,
            revision: 1,
            created_at,
        }),
        Change::PolicyDrafted { digest, author } => Entity::Policy(Policy {
            id: applied.id.to_owned(),
            digest: *digest,
            author: author.clone(),
            created_at,
        }),
        Change::TokenKeyRotated { generation, previous_until } => {
            Entity::TokenKey(TokenKey { generation: *generation, previous_until: *previous_until })
        }
        Change::PolicyPublished { .. } => Entity::History(PolicyHistory {
            publications: publication(change, applied).into_iter().collect(),
        }),
        _ => return None,
    })
}
