//! Delegation: who may act for whom, and what is left of their permissions.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::ids::PrincipalId;
use crate::limits;
use crate::principal::{Actor, ActorChain, PrincipalKind, Role, permitted};
use crate::values::Timestamp;

/// Why one principal may not act for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// People act for nobody.
    #[error("a person acts for nobody else: delegate to an agent or a service")]
    ToUser,
    /// An agent hands on to agents only.
    #[error("an agent delegates to agents only")]
    AgentToService,
    /// The chain would have one principal twice, or too many.
    #[error(
        "a chain of delegation has at most {max} principals, none of them twice",
        max = limits::ACTOR_CHAIN_MAX
    )]
    Chain,
    /// The scope asks for what is not there to give.
    #[error("a scope can only shrink: nothing more than both sides may is given")]
    Wider,
    /// Nothing is left.
    #[error("nothing is left of the scope")]
    Empty,
}

/// What is never handed on: what a person answers for, and who may act at all.
const NEVER_DELEGATED: &[&str] = &[
    "approvals:decide",
    "break_glass:use",
    "actions:release",
    "policies:publish",
    "workflows:publish",
    "releases:create",
    "releases:approve",
    "releases:promote",
    "tools:grant",
    "me:manage",
    "sessions:read",
    "sessions:revoke",
    "keys:create",
    "keys:rotate",
    "keys:revoke",
    "principals:create",
    "principals:update",
    "tenants:create",
    "tenants:suspend",
    "token_keys:rotate",
    "signing_keys:rotate",
    "secrets:read",
    "secrets:write",
    "workspaces:create",
    "upstreams:write",
    "connectors:write",
    "upstreams:release",
    "agents:create",
    "agents:update",
    "triggers:write",
];

/// Whether a principal may use `permission` for somebody else.
pub fn delegable(permission: &str) -> bool {
    !NEVER_DELEGATED.contains(&permission)
}

/// The chain with `next` at its end.
pub fn extend(chain: &ActorChain, next: Actor) -> Result<ActorChain, Error> {
    let from = chain.acting().ok_or(Error::Chain)?;
    match (from.kind, next.kind) {
        (_, PrincipalKind::User) => return Err(Error::ToUser),
        (PrincipalKind::Agent, PrincipalKind::Service) => return Err(Error::AgentToService),
        _ => {}
    }
    let mut actors = chain.actors().to_vec();
    actors.push(next);
    ActorChain::try_from(actors).map_err(|_| Error::Chain)
}

/// What a credential may: the permissions of its roles, within its scope where it has one.
pub fn granted<'a>(
    roles: impl IntoIterator<Item = &'a Role> + Clone,
    scope: Option<&BTreeSet<String>>,
) -> BTreeSet<String> {
    let all = Role::ALL.into_iter().flat_map(Role::permissions);
    all.filter(|permission| permitted(roles.clone(), permission))
        .filter(|permission| scope.is_none_or(|scope| scope.contains(**permission)))
        .map(|permission| (*permission).to_owned())
        .collect()
}

/// The scope of a new token: what is `requested` of what is `held`, or all of it where nothing is
/// requested. A request for more is refused, not cut down: who asks must know what they get.
pub fn narrow(
    held: BTreeSet<String>,
    requested: Option<BTreeSet<String>>,
) -> Result<BTreeSet<String>, Error> {
    let scope = match requested {
        Some(requested) if !requested.is_subset(&held) => return Err(Error::Wider),
        Some(requested) => requested,
        None => held,
    };
    if scope.is_empty() { Err(Error::Empty) } else { Ok(scope) }
}

/// A delegation as the log has it: ids, never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// The id of the token that carries it.
    pub token: String,
    /// Who acts for whom from now on.
    pub actors: ActorChain,
    /// The permissions that were handed on.
    pub scope: BTreeSet<String>,
    /// When it is over.
    pub expires_at: Timestamp,
}

impl Delegation {
    /// Whose credential it rests on.
    pub fn delegator(&self) -> Option<&PrincipalId> {
        self.actors.actors().first().map(|actor| &actor.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(id: &str, kind: PrincipalKind) -> Actor {
        Actor { id: PrincipalId::new(id).unwrap(), kind }
    }

    #[test]
    fn who_delegates_to_whom() {
        use PrincipalKind::{Agent, Service, User};
        let check = |from, to, expect: Result<(), Error>| {
            let from = actor("a", from);
            let chain = ActorChain::direct(from.id, from.kind);
            assert_eq!(extend(&chain, actor("b", to)).map(drop), expect, "{to:?}");
        };
        for from in [User, Service] {
            check(from, Agent, Ok(()));
            check(from, Service, Ok(()));
            check(from, User, Err(Error::ToUser));
        }
        check(Agent, Agent, Ok(()));
        check(Agent, Service, Err(Error::AgentToService));
        check(Agent, User, Err(Error::ToUser));
    }

    #[test]
    fn a_chain_ends_somewhere_and_has_nobody_twice() {
        let mut chain = ActorChain::direct(PrincipalId::new("u").unwrap(), PrincipalKind::User);
        for n in 1..limits::ACTOR_CHAIN_MAX {
            chain = extend(&chain, actor(&format!("a{n}"), PrincipalKind::Agent)).unwrap();
        }
        assert_eq!(extend(&chain, actor("more", PrincipalKind::Agent)), Err(Error::Chain));
        let two = ActorChain::direct(PrincipalId::new("a").unwrap(), PrincipalKind::Agent);
        assert_eq!(extend(&two, actor("a", PrincipalKind::Agent)), Err(Error::Chain));
    }

    #[test]
    fn scopes_only_shrink() {
        let set = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<BTreeSet<_>>();
        let held = granted(&[Role::Agent], Some(&set(&["actions:read", "keys:create"])));
        assert_eq!(held, set(&["actions:read"]), "a scope gives nothing that the role has not");
        assert_eq!(narrow(held.clone(), None), Ok(held.clone()));
        assert_eq!(narrow(held.clone(), Some(set(&["actions:submit"]))), Err(Error::Wider));
        assert_eq!(narrow(held, Some(set(&[]))), Err(Error::Empty));
        assert_eq!(narrow(set(&[]), None), Err(Error::Empty));
    }

    #[test]
    fn what_a_person_answers_for_stays_with_them() {
        for permission in ["approvals:decide", "keys:create", "principals:update"] {
            assert!(!delegable(permission), "{permission}");
        }
        assert!(delegable("actions:submit"));
    }
}
