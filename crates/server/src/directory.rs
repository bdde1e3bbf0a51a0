//! What the control plane knows, in memory: tenants, workspaces, principals, keys, policies.
//!
//! It is a fold of the control logs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kernel::control::{
    ApiKey, Entity, PolicyHistory, Principal, Publication, Tenant, TokenKey, Workspace,
};
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use kernel::machine::{Kind, State, Stream};
use kernel::principal::ActorChain;
use kernel::receipt::LogId;
use kernel::secret::Secret;
use kernel::session::Session;
use kernel::values::{Digest, Timestamp};
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::follow::Follower;

#[derive(Default)]
struct Tables {
    tenants: BTreeMap<TenantId, Tenant>,
    workspaces: BTreeMap<(TenantId, WorkspaceId), Workspace>,
    principals: HashMap<(TenantId, PrincipalId), Arc<Principal>>,
    keys: HashMap<String, (TenantId, Arc<ApiKey>)>,
    sessions: HashMap<String, (TenantId, Arc<Session>)>,
    histories: BTreeMap<TenantId, PolicyHistory>,
    secrets: BTreeMap<(TenantId, String), Arc<Secret>>,
    token_key: TokenKey,
}

/// What a credential rests on: an API key or a session.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    Key(Arc<ApiKey>),
    Session(Arc<Session>),
}

/// What a credential rests on, with whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) tenant: TenantId,
    /// Whether the tenant is suspended.
    pub(crate) suspended: bool,
    pub(crate) principal: Arc<Principal>,
    pub(crate) grant: Grant,
}

impl Base {
    /// Whether it opens anything: neither it nor its principal has ended.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        let live = match &self.grant {
            Grant::Key(key) => key.is_live(now),
            Grant::Session(session) => session.is_live(now),
        };
        live && !self.principal.disabled
    }

    /// Whether `secret` is the digest of its secret.
    pub(crate) fn opens_with(&self, secret: &Digest, now: Timestamp) -> bool {
        let is = |own: &Digest| bool::from(own.0.ct_eq(&secret.0));
        match &self.grant {
            Grant::Key(key) => {
                let before = key.previous.as_ref();
                is(&key.issue.secret) || before.is_some_and(|(own, until)| now < *until && is(own))
            }
            Grant::Session(session) => is(&session.open.secret),
        }
    }

    pub(crate) fn workspace(&self) -> &WorkspaceId {
        match &self.grant {
            Grant::Key(key) => &key.issue.workspace,
            Grant::Session(session) => &session.open.workspace,
        }
    }

    pub(crate) fn environment(&self) -> &EnvironmentId {
        match &self.grant {
            Grant::Key(key) => &key.issue.environment,
            Grant::Session(session) => &session.open.environment,
        }
    }

    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        match &self.grant {
            Grant::Key(key) => key.issue.expires_at,
            Grant::Session(session) => Some(session.open.expires_at),
        }
    }

    pub(crate) fn rate_per_min(&self) -> u32 {
        match &self.grant {
            Grant::Key(key) => key.issue.rate_per_min,
            Grant::Session(_) => crate::limits::RATE_PER_MIN_DEFAULT,
        }
    }
}

/// The control plane in memory.
#[derive(Default)]
pub(crate) struct Directory(RwLock<Tables>);

impl Follower for Directory {
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        for (stream, state) in states {
            self.put(log, stream, state);
        }
    }
}

impl Directory {
    /// Takes the state that a commit left behind. Commits are heard of in any order, so a state
    /// that a newer one has passed is left out: what is disabled or revoked stays so.
    pub(crate) fn put(&self, log: &LogId, stream: &Stream, state: &State) {
        let entity = match state {
            State::Control(entity) => entity,
            State::Session(session) => return self.take_session(log, session),
            State::Secret(secret) => return self.take_secret(log, secret),
            _ => return,
        };
        let mut tables = self.0.write();
        match (log, entity) {
            (LogId::System, Entity::Tenant(tenant)) => {
                let known = tables.tenants.get(&tenant.id);
                if known.is_none_or(|known| known.revision <= tenant.revision) {
                    tables.tenants.insert(tenant.id.clone(), tenant.clone());
                }
            }
            (LogId::System, Entity::TokenKey(key)) => {
                if tables.token_key.generation <= key.generation {
                    tables.token_key = *key;
                }
            }
            (LogId::Control(id), Entity::Workspace(workspace)) => {
                tables.workspaces.insert((id.clone(), workspace.id.clone()), workspace.clone());
            }
            (LogId::Control(id), Entity::Principal(principal)) => {
                let key = (id.clone(), principal.id.clone());
                let known = tables.principals.get(&key);
                if known.is_none_or(|known| known.revision <= principal.revision) {
                    tables.principals.insert(key, Arc::new(principal.clone()));
                }
            }
            (LogId::Control(id), Entity::Key(key)) => {
                let known = tables.keys.get(&key.id);
                if known.is_none_or(|(_, known)| known.revision <= key.revision) {
                    tables.keys.insert(key.id.clone(), (id.clone(), Arc::new(key.clone())));
                }
            }
            (LogId::Control(id), Entity::History(history)) => {
                let revision = |history: &PolicyHistory| {
                    history.publications.last().map_or(0, |publication| publication.revision)
                };
                let known = tables.histories.get(id).map_or(0, revision);
                if known <= revision(history) {
                    tables.histories.insert(id.clone(), history.clone());
                }
            }
            _ => debug_assert_eq!(stream.kind, Kind::Policy, "what is not kept here is a draft"),
        }
    }

    fn take_session(&self, log: &LogId, session: &Session) {
        let LogId::Control(tenant) = log else { return };
        let mut tables = self.0.write();
        if tables.sessions.get(&session.id).is_none_or(|(_, known)| !known.ended) {
            let session = Arc::new(session.clone());
            tables.sessions.insert(session.id.clone(), (tenant.clone(), session));
        }
    }

    fn take_secret(&self, log: &LogId, secret: &Secret) {
        let LogId::Control(tenant) = log else { return };
        let order = |secret: &Secret| (secret.version, secret.removed);
        let key = (tenant.clone(), secret.name.clone());
        let mut tables = self.0.write();
        if tables.secrets.get(&key).is_none_or(|known| order(known) <= order(secret)) {
            tables.secrets.insert(key, Arc::new(secret.clone()));
        }
    }

    /// The secret of that name, without its value, also where it was removed.
    pub(crate) fn secret(&self, tenant: &TenantId, name: &str) -> Option<Arc<Secret>> {
        self.0.read().secrets.get(&(tenant.clone(), name.to_owned())).cloned()
    }

    /// The secrets of a tenant that have a value, by name.
    pub(crate) fn secrets(&self, tenant: &TenantId) -> Vec<Arc<Secret>> {
        let tables = self.0.read();
        let from = tables.secrets.range((tenant.clone(), String::new())..);
        let of_tenant = from.take_while(|((owner, _), _)| owner == tenant);
        of_tenant.map(|(_, secret)| secret.clone()).filter(|secret| !secret.removed).collect()
    }

    /// The API key or session of that id, with whose it is.
    pub(crate) fn base(&self, id: &str) -> Option<Base> {
        let tables = self.0.read();
        let (tenant, grant, principal) = match tables.keys.get(id) {
            Some((tenant, key)) => (tenant, Grant::Key(key.clone()), &key.issue.principal),
            None => {
                let (tenant, session) = tables.sessions.get(id)?;
                (tenant, Grant::Session(session.clone()), &session.open.principal)
            }
        };
        let principal = tables.principals.get(&(tenant.clone(), principal.clone()))?.clone();
        // A tenant that is only being made is not there yet: its owner's key is good already.
        let suspended = tables.tenants.get(tenant).is_some_and(|tenant| tenant.suspended);
        Some(Base { tenant: tenant.clone(), suspended, principal, grant })
    }

    pub(crate) fn session(&self, id: &str) -> Option<(TenantId, Arc<Session>)> {
        self.0.read().sessions.get(id).cloned()
    }

    /// Which key signs tokens.
    pub(crate) fn token_key(&self) -> TokenKey {
        self.0.read().token_key
    }

    pub(crate) fn suspended(&self, tenant: &TenantId) -> bool {
        self.0.read().tenants.get(tenant).is_some_and(|tenant| tenant.suspended)
    }

    /// The principals of a chain as they are now; none where one is gone or disabled.
    pub(crate) fn chain(
        &self,
        tenant: &TenantId,
        chain: &ActorChain,
    ) -> Option<Vec<Arc<Principal>>> {
        let tables = self.0.read();
        let of = |id: &PrincipalId| tables.principals.get(&(tenant.clone(), id.clone())).cloned();
        let found = chain.actors().iter().map(|actor| of(&actor.id).filter(|p| !p.disabled));
        found.collect()
    }

    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        self.0.read().tenants.values().cloned().collect()
    }

    pub(crate) fn tenant(&self, id: &TenantId) -> Option<Tenant> {
        self.0.read().tenants.get(id).cloned()
    }

    pub(crate) fn workspace(&self, tenant: &TenantId, id: &WorkspaceId) -> Option<Workspace> {
        self.0.read().workspaces.get(&(tenant.clone(), id.clone())).cloned()
    }

    pub(crate) fn workspaces(&self, tenant: &TenantId) -> Vec<Workspace> {
        let tables = self.0.read();
        tables
            .workspaces
            .iter()
            .filter(|((owner, _), _)| owner == tenant)
            .map(|(_, workspace)| workspace.clone())
            .collect()
    }

    pub(crate) fn principal(&self, tenant: &TenantId, id: &PrincipalId) -> Option<Arc<Principal>> {
        self.0.read().principals.get(&(tenant.clone(), id.clone())).cloned()
    }

    pub(crate) fn key(&self, id: &str) -> Option<(TenantId, Arc<ApiKey>)> {
        self.0.read().keys.get(id).cloned()
    }

    /// Whether somebody other than its author put this revision of the tenant's policy into
    /// force. Revision 0, no policy at all, needs nobody.
    pub(crate) fn reviewed(&self, tenant: &TenantId, revision: u64) -> bool {
        let tables = self.0.read();
        let publications = tables.histories.get(tenant).map(|history| &history.publications);
        // The one in force is the last, or the one before while another is being installed.
        let published = publications
            .and_then(|all| all.iter().rev().find(|publication| publication.revision == revision));
        revision == 0 || published.is_some_and(Publication::reviewed)
    }

    pub(crate) fn history(&self, tenant: &TenantId) -> PolicyHistory {
        self.0.read().histories.get(tenant).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kernel::control::Issue;
    use kernel::principal::{PrincipalKind, Role};

    use super::*;

    #[test]
    fn what_is_disabled_or_revoked_stays_so_whatever_comes_late() {
        let (tenant, id) = (TenantId::new("acme").unwrap(), PrincipalId::new("usr_1").unwrap());
        let principal = |revision, disabled| {
            let roles = [Role::Viewer].into();
            let (kind, created_at) = (PrincipalKind::User, Timestamp(0));
            let id = id.clone();
            Principal { id, kind, roles, account: None, disabled, revision, created_at }
        };
        let key = |revision, revoked| {
            let issue = Box::new(Issue {
                principal: id.clone(),
                secret: Digest::of(b""),
                workspace: WorkspaceId::new("main").unwrap(),
                environment: EnvironmentId::new("dev").unwrap(),
                expires_at: None,
                rate_per_min: 1,
            });
            let (id, created_at) = ("key_1".to_owned(), Timestamp(0));
            ApiKey { id, issue, previous: None, revoked, revision, created_at }
        };
        let directory = Directory::default();
        let take = |entity| {
            let stream = Stream::new(Kind::Principal, "any");
            directory.put(&LogId::Control(tenant.clone()), &stream, &State::Control(entity));
        };
        for (revision, disabled) in [(1, false), (3, true), (2, false)] {
            take(Entity::Principal(principal(revision, disabled)));
        }
        for (revision, revoked) in [(1, false), (3, true), (2, false)] {
            take(Entity::Key(key(revision, revoked)));
        }
        assert!(directory.principal(&tenant, &id).unwrap().disabled);
        assert!(directory.key("key_1").unwrap().1.revoked);
    }
}
