//! Tenants, workspaces, principals and API keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::control::{self, ApiKey, Entity, Issue, Principal, Tenant, Workspace};
use kernel::failure::Category;
use kernel::ids::{AccountId, EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use kernel::machine::{self, Command, Kind, State};
use kernel::principal::{PrincipalKind, Role};
use kernel::receipt::{self, LogId};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::Class;
use proto::identity::principal::Kind as WireKind;
use proto::identity::{
    CreateKeyRequest, CreateKeyResponse, CreatePrincipalRequest, CreateTenantResponse,
    Key as WireKey, Principal as WirePrincipal, Tenant as WireTenant, Workspace as WireWorkspace,
};
use proto::wire::Timestamp;

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Mutated, Shared, new_id};

/// The part of a principal's content that is its name.
pub(crate) const NAME: &str = "name";
/// The environments of a new tenant's first workspace.
const ENVIRONMENTS: [&str; 3] = ["dev", "test", "prod"];

/// Everything about who may act.
#[derive(Clone)]
pub(crate) struct Identity(pub(crate) Arc<Shared>);

pub(crate) fn command(kind: Kind, id: &str, input: control::Input) -> Command {
    Command::new(kind, id, machine::Input::Control(input))
}

/// The commit that makes a tenant.
fn founding(id: &TenantId) -> Batch {
    let create = command(Kind::Tenant, id.as_str(), control::Input::CreateTenant {});
    Batch::new(LogId::System, vec![create])
}

fn bad_id(error: kernel::ids::InvalidId) -> Refused {
    Refused::invalid(error.to_string())
}

impl Identity {
    /// Creates a tenant with its first workspace, its owner and the owner's key.
    pub(crate) async fn create_tenant(
        &self,
        caller: &Caller,
        tenant: &str,
        body: Digest,
    ) -> Result<CreateTenantResponse> {
        let id = TenantId::new(tenant).map_err(bad_id)?;
        if id.as_str() == receipt::SYSTEM {
            return Err(Refused::invalid("`system` is no name for a tenant"));
        }
        let _one_at_a_time = self.0.control.founding.lock().await;
        // Furnished first: a tenant that is there has an owner, wherever this is cut off.
        let new = self.0.control.directory.tenant(&id).is_none();
        let owner = if new { Some(self.furnish(&id).await?) } else { None };
        // The key is shown once: a repeat shows the tenant without it.
        self.0.mutate(caller, "tenants", body, id.as_str(), founding(&id)).await?;
        Ok(CreateTenantResponse { tenant: Some(self.tenant(&id)?), owner })
    }

    /// Makes the first tenant. `keep` stores its owner's key before the tenant is there, so that
    /// the next start does it all again where this is cut off.
    pub(crate) async fn create_first_tenant<E: From<Refused>>(
        &self,
        tenant: &str,
        keep: impl FnOnce(CreateKeyResponse) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let id = TenantId::new(tenant).map_err(bad_id)?;
        keep(self.furnish(&id).await?)?;
        self.0.commit_control(founding(&id)).await?;
        Ok(())
    }

    /// A new tenant's workspace, owner and key, in one commit of its control log.
    async fn furnish(&self, id: &TenantId) -> Result<CreateKeyResponse> {
        let workspace = WorkspaceId::new(&self.0.config.workspace).map_err(bad_id)?;
        let environments: std::result::Result<BTreeSet<_>, _> =
            ENVIRONMENTS.into_iter().map(EnvironmentId::new).collect();
        let owner = PrincipalId::new(new_id("usr")).map_err(bad_id)?;
        let environment = EnvironmentId::new("dev").map_err(bad_id)?;
        let minted = Minted::new(&owner, &workspace, &environment, None, None, &self.0)?;
        let roles = [Role::Owner, Role::Builder].into();
        let create =
            control::Input::CreatePrincipal { kind: PrincipalKind::User, roles, account: None };
        let environments = environments.map_err(bad_id)?;
        let mut commands = vec![command(Kind::Principal, owner.as_str(), create), minted.command()];
        if self.0.control.directory.workspace(id, &workspace).is_none() {
            let input = control::Input::CreateWorkspace { environments };
            commands.insert(0, command(Kind::Workspace, workspace.as_str(), input));
        }
        let log = LogId::Control(id.clone());
        let name = self.name_row(id, owner.as_str(), "owner").await?;
        let batch = Batch { side: vec![name], ..Batch::new(log, commands) };
        self.0.commit_control(batch).await?;
        Ok(minted.shown())
    }

    async fn name_row(
        &self,
        tenant: &TenantId,
        id: &str,
        name: &str,
    ) -> Result<ledger::store::SideRow> {
        let now = self.0.now();
        let vault = &self.0.control.vault;
        Ok(vault.seal(tenant.as_str(), id, NAME, Class::Record, name.as_bytes(), now).await?)
    }

    pub(crate) fn tenant(&self, id: &TenantId) -> Result<WireTenant> {
        let tenant = self.0.control.directory.tenant(id);
        tenant.map(|tenant| wire_tenant(&tenant)).ok_or_else(|| Refused::not_found("tenant"))
    }

    /// The tenants that the caller sees: all of them for the owner of the first, else its own.
    pub(crate) fn tenants(&self, caller: &Caller) -> Vec<WireTenant> {
        let all = self.0.control.directory.tenants();
        let operates = self.operates(caller);
        all.iter().filter(|t| operates || t.id == caller.tenant).map(wire_tenant).collect()
    }

    /// Whether the caller belongs to the tenant that operates this installation.
    pub(crate) fn operates(&self, caller: &Caller) -> bool {
        caller.tenant.as_str() == self.0.config.tenant
    }

    /// Only the operating tenant's owner creates tenants.
    pub(crate) fn may_create_tenants(&self, caller: &Caller) -> Result<()> {
        if self.operates(caller) {
            return Ok(());
        }
        let message = "only the owner of this installation creates tenants";
        Err(Refused::new(Category::Permission, "permission_denied", message))
    }

    /// A tenant named in a path must be the caller's own.
    pub(crate) fn own_tenant(&self, caller: &Caller, tenant: &str) -> Result<()> {
        if caller.tenant.as_str() == tenant { Ok(()) } else { Err(Refused::not_found("tenant")) }
    }

    pub(crate) async fn create_workspace(
        &self,
        caller: &Caller,
        workspace: &str,
        environments: Vec<String>,
        body: Digest,
    ) -> Result<WireWorkspace> {
        let id = WorkspaceId::new(workspace).map_err(bad_id)?;
        if id.as_str() == receipt::CONTROL || id.as_str() == receipt::SYSTEM {
            return Err(Refused::invalid("`control` and `system` are no names for a workspace"));
        }
        let environments: std::result::Result<BTreeSet<_>, _> =
            environments.iter().map(EnvironmentId::new).collect();
        let input = control::Input::CreateWorkspace { environments: environments.map_err(bad_id)? };
        let commands = vec![command(Kind::Workspace, id.as_str(), input)];
        let batch = Batch::new(caller.control_log(), commands);
        self.0.mutate(caller, "workspaces", body, id.as_str(), batch).await?;
        let workspace = self.0.control.directory.workspace(&caller.tenant, &id);
        workspace
            .map(|workspace| self.wire_workspace(&caller.tenant, &workspace))
            .ok_or_else(|| Refused::not_found("workspace"))
    }

    pub(crate) fn workspaces(&self, caller: &Caller) -> Vec<WireWorkspace> {
        let all = self.0.control.directory.workspaces(&caller.tenant);
        all.iter().map(|workspace| self.wire_workspace(&caller.tenant, workspace)).collect()
    }

    fn wire_workspace(&self, tenant: &TenantId, workspace: &Workspace) -> WireWorkspace {
        let log = LogId::Workspace(tenant.clone(), workspace.id.clone());
        WireWorkspace {
            tenant: tenant.to_string(),
            workspace: workspace.id.to_string(),
            environments: workspace.environments.iter().map(ToString::to_string).collect(),
            origin: log.origin(self.0.ledger.host()),
            created_at: Some(Timestamp::from_micros(workspace.created_at.0)),
        }
    }

    pub(crate) async fn create_principal(
        &self,
        caller: &Caller,
        wire: CreatePrincipalRequest,
        body: Digest,
    ) -> Result<WirePrincipal> {
        let (kind, prefix) = match wire.kind() {
            WireKind::User => (PrincipalKind::User, "usr"),
            WireKind::Agent => (PrincipalKind::Agent, "agt"),
            WireKind::Service => (PrincipalKind::Service, "svc"),
            WireKind::Unspecified => {
                return Err(Refused::invalid("kind is `user`, `agent` or `service`"));
            }
        };
        if wire.name.is_empty() || wire.name.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("name: 1 to 2000 characters"));
        }
        let account = match wire.account_id.as_str() {
            "" => None,
            id => Some(AccountId::new(id).map_err(bad_id)?),
        };
        let roles = roles(caller, &wire.roles, &BTreeSet::new())?;
        let id = new_id(prefix);
        let input = control::Input::CreatePrincipal { kind, roles, account };
        let commands = vec![command(Kind::Principal, &id, input)];
        let name = self.name_row(&caller.tenant, &id, &wire.name).await?;
        let batch = Batch { side: vec![name], ..Batch::new(caller.control_log(), commands) };
        let id = match self.0.mutate(caller, "principals", body, &id, batch).await? {
            Mutated::Fresh(_) => id,
            Mutated::Repeat(id) => id,
        };
        self.principal(caller, &id)
    }

    pub(crate) fn principal(&self, caller: &Caller, id: &str) -> Result<WirePrincipal> {
        let principal = self.find_principal(caller, id)?;
        self.wire_principal(&caller.tenant, &principal)
    }

    pub(crate) fn find_principal(&self, caller: &Caller, id: &str) -> Result<Arc<Principal>> {
        let known = PrincipalId::new(id)
            .ok()
            .and_then(|id| self.0.control.directory.principal(&caller.tenant, &id));
        known.ok_or_else(|| Refused::not_found("principal"))
    }

    pub(crate) fn wire_principal(
        &self,
        tenant: &TenantId,
        principal: &Principal,
    ) -> Result<WirePrincipal> {
        let kind = match principal.kind {
            PrincipalKind::User => WireKind::User,
            PrincipalKind::Agent => WireKind::Agent,
            PrincipalKind::Service => WireKind::Service,
        };
        let name = self.0.control.vault.open(tenant.as_str(), principal.id.as_str(), NAME)?;
        Ok(WirePrincipal {
            principal_id: principal.id.to_string(),
            kind: kind.into(),
            name: String::from_utf8(name.unwrap_or_default()).map_err(Refused::internal)?,
            roles: principal.roles.iter().map(crate::approvals::role_name).collect(),
            account_id: principal.account.as_ref().map(ToString::to_string).unwrap_or_default(),
            disabled: principal.disabled,
            created_at: Some(Timestamp::from_micros(principal.created_at.0)),
            revision: u32::try_from(principal.revision).unwrap_or(u32::MAX),
        })
    }

    /// Sets the roles of a principal, or disables it.
    pub(crate) async fn change_principal(
        &self,
        caller: &Caller,
        id: &str,
        new_roles: Option<&[String]>,
        body: Digest,
    ) -> Result<WirePrincipal> {
        let principal = self.find_principal(caller, id)?;
        owner_over_owner(caller, &principal)?;
        let (endpoint, input) = match new_roles {
            Some(names) => {
                let roles = roles(caller, names, &principal.roles)?;
                ("principal_roles", control::Input::SetRoles { roles })
            }
            None => ("principal_disable", control::Input::DisablePrincipal {}),
        };
        let commands = vec![command(Kind::Principal, id, input)];
        let batch = Batch::new(caller.control_log(), commands);
        self.0.mutate(caller, endpoint, body, id, batch).await?;
        self.principal(caller, id)
    }

    pub(crate) async fn create_key(
        &self,
        caller: &Caller,
        wire: CreateKeyRequest,
        body: Digest,
    ) -> Result<CreateKeyResponse> {
        let principal = self.find_principal(caller, &wire.principal_id)?;
        may_have_key_of(caller, &principal)?;
        let workspace = match wire.workspace.as_str() {
            "" => caller.workspace.clone(),
            id => WorkspaceId::new(id).map_err(bad_id)?,
        };
        let environment = match wire.environment.as_str() {
            "" => caller.environment.clone(),
            id => EnvironmentId::new(id).map_err(bad_id)?,
        };
        let known = self.0.control.directory.workspace(&caller.tenant, &workspace);
        let known = known.ok_or_else(|| Refused::not_found("workspace"))?;
        if !known.environments.contains(&environment) {
            return Err(Refused::not_found("environment of this workspace"));
        }
        let (lifetime, rate) = (wire.expires_in_s, wire.rate_limit_per_min);
        let minted = Minted::new(&principal.id, &workspace, &environment, lifetime, rate, &self.0)?;
        let batch = Batch::new(caller.control_log(), vec![minted.command()]);
        match self.0.mutate(caller, "keys", body, &minted.id, batch).await? {
            Mutated::Fresh(_) => Ok(minted.shown()),
            // The secret was shown once; a repeat shows the key without it.
            Mutated::Repeat(id) => {
                let key = self.find_key(caller, &id)?;
                Ok(shown(&key, String::new()))
            }
        }
    }

    pub(crate) fn find_key(&self, caller: &Caller, id: &str) -> Result<Arc<ApiKey>> {
        let known = self.0.control.directory.key(id);
        let own = known.filter(|(tenant, _)| *tenant == caller.tenant).map(|(_, key)| key);
        own.ok_or_else(|| Refused::not_found("key"))
    }

    pub(crate) async fn revoke_key(
        &self,
        caller: &Caller,
        id: &str,
        body: Digest,
    ) -> Result<WireKey> {
        self.find_key(caller, id)?;
        let commands = vec![command(Kind::Key, id, control::Input::RevokeKey {})];
        let batch = Batch::new(caller.control_log(), commands);
        self.0.mutate(caller, "key_revoke", body, id, batch).await?;
        Ok(wire_key(&*self.find_key(caller, id)?))
    }

    /// A page of the control log's states of one kind.
    pub(crate) fn page(
        &self,
        caller: &Caller,
        kind: Kind,
        page: &ledger::store::Page,
    ) -> Result<Vec<Entity>> {
        let states = self.0.control.ledger.list(&caller.control_log(), kind, page)?;
        Ok(states
            .into_iter()
            .filter_map(|state| match state {
                State::Control(entity) => Some(entity),
                _ => None,
            })
            .collect())
    }
}

/// The roles of those names, for a principal that has `before`. Only an owner makes owners, and
/// people with the last word: who manages principals must not make their own approver.
fn roles(caller: &Caller, names: &[String], before: &BTreeSet<Role>) -> Result<BTreeSet<Role>> {
    let role = |name: &String| {
        serde_json::from_value(serde_json::Value::String(name.clone())).map_err(|_| {
            let known: Vec<String> = Role::ALL.iter().map(crate::approvals::role_name).collect();
            Refused::invalid(format!("`{name}` is no role; roles are {}", known.join(", ")))
        })
    };
    let roles: BTreeSet<Role> = names.iter().map(role).collect::<Result<_>>()?;
    let owners = |role: &&Role| **role == Role::Owner || role.has_the_last_word();
    let given = roles.difference(before).find(owners);
    if let Some(role) = given.filter(|_| !caller.roles.contains(&Role::Owner)) {
        let message = format!("only an owner gives the role {}", crate::approvals::role_name(role));
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    Ok(roles)
}

/// Only an owner gets a key of an owner, or of who has the last word.
pub(crate) fn may_have_key_of(caller: &Caller, principal: &Principal) -> Result<()> {
    let guarded = |role: &Role| *role == Role::Owner || role.has_the_last_word();
    if principal.roles.iter().any(guarded) && !caller.roles.contains(&Role::Owner) {
        let message = "only an owner makes keys for owners, approvers and responders";
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    Ok(())
}

/// Only an owner changes an owner.
pub(crate) fn owner_over_owner(caller: &Caller, principal: &Principal) -> Result<()> {
    if principal.roles.contains(&Role::Owner) && !caller.roles.contains(&Role::Owner) {
        let message = "only an owner changes an owner";
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    Ok(())
}

/// An API key that was just made, with its secret.
struct Minted {
    id: String,
    key: String,
    issue: Issue,
}

impl Minted {
    fn new(
        principal: &PrincipalId,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        lifetime_s: Option<u32>,
        rate_per_min: Option<u32>,
        shared: &Shared,
    ) -> Result<Self> {
        let rate_per_min = rate_per_min.unwrap_or(limits::RATE_PER_MIN_DEFAULT);
        if !(1..=limits::RATE_PER_MIN_MAX).contains(&rate_per_min) {
            return Err(Refused::invalid("rate_limit_per_min is 1 to 6000000"));
        }
        let secret = ledger::keys::random::<32>()?;
        let secret = hex::encode(secret.as_ref());
        let id = new_id("key");
        let expires_at =
            lifetime_s.map(|s| shared.now().plus_micros(i64::from(s).saturating_mul(1_000_000)));
        let issue = Issue {
            principal: principal.clone(),
            secret: Digest::of(secret.as_bytes()),
            workspace: workspace.clone(),
            environment: environment.clone(),
            expires_at,
            rate_per_min,
        };
        Ok(Self { key: crate::credentials::format_key(&id, &secret), id, issue })
    }

    fn command(&self) -> Command {
        let issue = Box::new(self.issue.clone());
        command(Kind::Key, &self.id, control::Input::IssueKey(issue))
    }

    fn shown(self) -> CreateKeyResponse {
        let key = ApiKey {
            id: self.id,
            issue: Box::new(self.issue),
            previous: None,
            revoked: false,
            revision: 1,
            created_at: kernel::values::Timestamp(0),
        };
        shown(&key, self.key)
    }
}

pub(crate) fn shown(key: &ApiKey, secret: String) -> CreateKeyResponse {
    CreateKeyResponse {
        key: secret,
        key_id: key.id.clone(),
        principal_id: key.issue.principal.to_string(),
        workspace: key.issue.workspace.to_string(),
        environment: key.issue.environment.to_string(),
        expires_at: key.issue.expires_at.map(|at| Timestamp::from_micros(at.0)),
        rate_limit_per_min: key.issue.rate_per_min,
    }
}

pub(crate) fn wire_key(key: &ApiKey) -> WireKey {
    WireKey {
        key_id: key.id.clone(),
        principal_id: key.issue.principal.to_string(),
        workspace: key.issue.workspace.to_string(),
        environment: key.issue.environment.to_string(),
        rate_limit_per_min: key.issue.rate_per_min,
        created_at: Some(Timestamp::from_micros(key.created_at.0)),
        expires_at: key.issue.expires_at.map(|at| Timestamp::from_micros(at.0)),
        revoked: key.revoked,
    }
}

fn wire_tenant(tenant: &Tenant) -> WireTenant {
    WireTenant {
        tenant: tenant.id.to_string(),
        created_at: Some(Timestamp::from_micros(tenant.created_at.0)),
        suspended: tenant.suspended,
    }
}
