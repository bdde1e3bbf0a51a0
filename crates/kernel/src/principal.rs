//! Who acts: principals, their roles and permissions, and the chain of delegation.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::ids::PrincipalId;
use crate::limits;

/// What a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// A person.
    User,
    /// An AI agent.
    Agent,
    /// A program that is not an agent.
    Service,
}

/// What a principal may do, as a named set of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads actions, approvals and runs.
    Viewer,
    /// Reads everything and exports evidence.
    Auditor,
    /// Submits actions; never approves.
    Agent,
    /// Submits, cancels and reconciles actions.
    Operator,
    /// Drafts policies, publishes workflows and asks for their release, and registers tools that
    /// are given as code.
    Builder,
    /// Decides approvals, of actions and of releases.
    Approver,
    /// Publishes policy, grants tools what they may reach, manages principals, keys and accounts;
    /// is no approver by that.
    Admin,
    /// Everything an admin may and the tenant itself; is no approver by that either.
    Owner,
    /// Breaks glass in an emergency. Nobody has it by another role.
    Responder,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::Viewer,
        Self::Auditor,
        Self::Agent,
        Self::Operator,
        Self::Builder,
        Self::Approver,
        Self::Admin,
        Self::Owner,
        Self::Responder,
    ];

    /// The permissions (`resource:verb`) of this role. A permission that no role lists is held
    /// by nobody.
    pub fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::Viewer => VIEWER,
            Self::Auditor => AUDITOR,
            Self::Agent => AGENT,
            Self::Operator => OPERATOR,
            Self::Builder => BUILDER,
            Self::Approver => APPROVER,
            Self::Admin => ADMIN,
            Self::Owner => OWNER,
            Self::Responder => RESPONDER,
        }
    }
}

#[rustfmt::skip]
const VIEWER: &[&str] = &[
    "runs:read",
    "actions:read", "approvals:read", "tools:read", "accounts:read", "metering:read",
    "sessions:read",
    "sessions:revoke", "me:read", "me:manage",
    "runtime:query", "runtime:read", "agents:read", "recovery:read",
    "workflows:read",
];
#[rustfmt::skip]
const AUDITOR: &[&str] = &[
    "runs:read",
    "actions:read", "approvals:read", "tools:read", "accounts:read", "metering:read",
    "receipts:read",
    "ledger:read", "policies:read", "evidence:export", "evidence:verify", "principals:read",
    "keys:read", "tenants:read", "workspaces:read", "sessions:read", "sessions:revoke",
    "upstreams:read", "connectors:read", "tools:inspect", "me:read", "me:manage", "triggers:read",
    "runtime:query", "runtime:read", "agents:read", "recovery:read",
    "workflows:read",
];
#[rustfmt::skip]
const AGENT: &[&str] = &[
    "runtime:simulate",
    "runs:start", "runs:read", "runs:control",
    "actions:submit", "actions:read", "actions:cancel", "approvals:read", "tools:read",
    "accounts:read", "receipts:read", "ledger:read", "me:read",
    "runtime:query", "agents:read", "agents:heartbeat", "recovery:suggest",
    "workflows:read",
];
#[rustfmt::skip]
const OPERATOR: &[&str] = &[
    "runtime:simulate",
    "runs:start", "runs:read", "runs:control",
    "actions:submit", "actions:read", "actions:cancel", "actions:reconcile", "approvals:read",
    "tools:read", "accounts:read", "metering:read", "receipts:read", "ledger:read", "secrets:read",
    "sessions:read",
    "sessions:revoke", "upstreams:read", "connectors:read", "tools:inspect", "me:read",
    "me:manage", "triggers:read",
    "runtime:query", "runtime:read", "agents:read", "recovery:read", "recovery:suggest",
    "workflows:read", "releases:promote",
];
#[rustfmt::skip]
const BUILDER: &[&str] = &[
    "runtime:simulate", "runs:read",
    "actions:read", "tools:read", "policies:read", "policies:draft", "policies:simulate",
    "sessions:read", "sessions:revoke", "upstreams:read", "connectors:read", "tools:inspect",
    "tools:register",
    "me:read", "me:manage", "triggers:read",
    "runtime:query", "runtime:read", "agents:read", "recovery:read", "recovery:suggest",
    "workflows:read", "workflows:publish", "releases:create", "use_cases:write",
];
#[rustfmt::skip]
const APPROVER: &[&str] = &[
    "runs:read",
    "actions:read", "approvals:read", "approvals:decide", "receipts:read", "ledger:read",
    "tools:read", "sessions:read", "sessions:revoke", "me:read", "me:manage",
    "workflows:read", "releases:approve",
];
#[rustfmt::skip]
const ADMIN: &[&str] = &[
    "runtime:simulate",
    "runs:start", "runs:read", "runs:control",
    "actions:submit", "actions:read", "actions:cancel", "actions:reconcile", "actions:release",
    "approvals:read", "tools:read", "accounts:read", "metering:read", "accounts:create",
    "accounts:fund",
    "receipts:read", "ledger:read", "policies:read", "policies:draft", "policies:publish",
    "policies:simulate", "evidence:export", "evidence:verify", "principals:read",
    "principals:create", "principals:update", "keys:read", "keys:create", "keys:revoke",
    "keys:rotate", "tenants:read", "workspaces:read", "workspaces:create", "sessions:read",
    "sessions:revoke", "signing_keys:rotate", "secrets:read", "secrets:write", "upstreams:read",
    "upstreams:write", "upstreams:release", "connectors:read", "connectors:write", "tools:inspect",
    "tools:register", "tools:grant",
    "me:read", "me:manage",
    "runtime:query", "runtime:read", "agents:read", "agents:create", "agents:update",
    "agents:heartbeat", "recovery:read", "recovery:suggest", "triggers:read", "triggers:write",
    "workflows:read", "workflows:publish", "releases:create", "releases:promote", "use_cases:write",
];
#[rustfmt::skip]
const OWNER: &[&str] = &[
    "runtime:simulate",
    "runs:start", "runs:read", "runs:control",
    "actions:submit", "actions:read", "actions:cancel", "actions:reconcile", "actions:release",
    "approvals:read", "tools:read", "accounts:read", "metering:read", "accounts:create",
    "accounts:fund",
    "receipts:read", "ledger:read", "policies:read", "policies:draft", "policies:publish",
    "policies:simulate", "evidence:export", "evidence:verify", "principals:read",
    "principals:create", "principals:update", "keys:read", "keys:create", "keys:revoke",
    "keys:rotate", "tenants:read", "tenants:create", "tenants:suspend", "workspaces:read",
    "workspaces:create", "sessions:read", "sessions:revoke", "token_keys:rotate",
    "signing_keys:rotate", "secrets:read", "secrets:write", "upstreams:read", "upstreams:write",
    "upstreams:release", "connectors:read", "connectors:write", "tools:inspect", "tools:register",
    "tools:grant", "me:read", "me:manage",
    "runtime:query", "runtime:read", "agents:read", "agents:create", "agents:update",
    "agents:heartbeat", "recovery:read", "recovery:suggest", "triggers:read", "triggers:write",
    "workflows:read", "workflows:publish", "releases:create", "releases:promote", "use_cases:write",
];

#[rustfmt::skip]
const RESPONDER: &[&str] = &[
    "break_glass:use", "actions:read", "approvals:read", "sessions:read", "sessions:revoke",
    "me:read", "me:manage",
];

impl Role {
    /// Whether it lets people have the last word: only an owner gives such a role away.
    pub fn has_the_last_word(self) -> bool {
        let last_word = ["approvals:decide", "break_glass:use"];
        self.permissions().iter().any(|permission| last_word.contains(permission))
    }
}

/// Whether any of `roles` carries `permission`.
pub fn permitted<'a>(roles: impl IntoIterator<Item = &'a Role>, permission: &str) -> bool {
    roles.into_iter().any(|role| role.permissions().contains(&permission))
}

/// One principal of an actor chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Who.
    pub id: PrincipalId,
    /// What it is.
    pub kind: PrincipalKind,
}

/// Who acts for whom, the delegating user first and the acting principal last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Actor>", into = "Vec<Actor>")]
pub struct ActorChain(Vec<Actor>);

/// Why a list of principals is not an actor chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an actor chain has 1 to {max} principals, none of them twice",
    max = limits::ACTOR_CHAIN_MAX
)]
pub struct InvalidActorChain;

impl TryFrom<Vec<Actor>> for ActorChain {
    type Error = InvalidActorChain;

    fn try_from(actors: Vec<Actor>) -> Result<Self, InvalidActorChain> {
        let distinct: BTreeSet<_> = actors.iter().map(|a| &a.id).collect();
        if actors.is_empty()
            || actors.len() > limits::ACTOR_CHAIN_MAX
            || distinct.len() != actors.len()
        {
            return Err(InvalidActorChain);
        }
        Ok(Self(actors))
    }
}

impl From<ActorChain> for Vec<Actor> {
    fn from(chain: ActorChain) -> Self {
        chain.0
    }
}

impl ActorChain {
    /// A chain of one.
    pub fn direct(id: PrincipalId, kind: PrincipalKind) -> Self {
        Self(vec![Actor { id, kind }])
    }

    /// The principals, the delegating user first.
    pub fn actors(&self) -> &[Actor] {
        &self.0
    }

    /// The principal that acts.
    pub fn acting(&self) -> Option<&Actor> {
        self.0.last()
    }

    /// Whether `who` is any of the chain.
    pub fn contains(&self, who: &PrincipalId) -> bool {
        self.0.iter().any(|actor| actor.id == *who)
    }

    /// Whether `who` counts as the requester: every agent or service of the chain, and the one
    /// that acts; under strict separation of duties also the users who delegated.
    pub fn is_requester(&self, who: &PrincipalId, strict: bool) -> bool {
        let acting = self.acting().is_some_and(|actor| actor.id == *who);
        acting
            || self
                .0
                .iter()
                .any(|actor| actor.id == *who && (strict || actor.kind != PrincipalKind::User))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PrincipalId {
        PrincipalId::new(text).unwrap()
    }

    #[test]
    fn requester_of_a_chain() {
        let chain = ActorChain::try_from(vec![
            Actor { id: id("u_1"), kind: PrincipalKind::User },
            Actor { id: id("p_7"), kind: PrincipalKind::Agent },
        ])
        .unwrap();
        assert!(!chain.is_requester(&id("u_1"), false), "the delegating user may approve");
        assert!(chain.is_requester(&id("u_1"), true), "but not under strict separation");
        assert!(chain.is_requester(&id("p_7"), false));
        assert!(!chain.is_requester(&id("u_2"), true));
        let own = ActorChain::direct(id("u_1"), PrincipalKind::User);
        assert!(own.is_requester(&id("u_1"), false), "a user never approves their own request");
    }

    #[test]
    fn chain_bounds() {
        let actor = |n: usize| Actor { id: id(&format!("p{n}")), kind: PrincipalKind::Agent };
        assert!(ActorChain::try_from(vec![]).is_err());
        assert!(ActorChain::try_from(vec![actor(1), actor(1)]).is_err());
        assert!(ActorChain::try_from((0..8).map(actor).collect::<Vec<_>>()).is_ok());
        assert!(ActorChain::try_from((0..9).map(actor).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn nobody_approves_by_another_role() {
        for role in Role::ALL {
            assert_eq!(permitted([&role], "approvals:decide"), role == Role::Approver, "{role:?}");
            assert_eq!(permitted([&role], "break_glass:use"), role == Role::Responder, "{role:?}");
            assert_eq!(permitted([&role], "me:manage"), role != Role::Agent, "{role:?}");
        }
    }
}
