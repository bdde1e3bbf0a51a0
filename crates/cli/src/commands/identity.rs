//! `tally tenant`, `tally workspace`, `tally principal` and `tally key`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use proto::identity::principal::Kind;
use proto::identity::{
    CreateKeyRequest, CreateKeyResponse, CreatePrincipalRequest, CreateTenantRequest,
    CreateWorkspaceRequest, DisablePrincipalRequest, EnablePrincipalRequest, GetPrincipalRequest,
    Key as KeyEntry, LinkPrincipalRequest, ListKeysRequest, ListPrincipalsRequest,
    ListTenantsRequest, ListWorkspacesRequest, Principal as Entry, ResumeTenantRequest,
    RevokeKeyRequest, RotateKeyRequest, SuspendTenantRequest, UnlinkPrincipalRequest,
    UpdatePrincipalRequest, Workspace as WorkspaceEntry,
};

use super::{Paging, next, signing_keys};
use crate::context::Context;
use crate::credentials::Credentials;
use crate::exit::Exit;
use crate::output::{fields, page, when, yes};

/// `tally tenant`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Create a tenant with a workspace, an owner and the owner's key, shown this once.
    Create {
        /// Its name: lower-case letters, digits and dashes.
        name: String,
        /// Write the owner's key to a new credentials file instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the tenants that you belong to.
    List(Paging),
    /// Suspend a tenant: its credentials are refused and its queue rests.
    Suspend {
        /// Its name.
        name: String,
    },
    /// Resume a suspended tenant; what waited goes on.
    Resume {
        /// Its name.
        name: String,
    },
    /// Show the public keys of a tenant and what each is valid for; for anybody.
    Keys {
        /// The tenant; without it that of the credentials file.
        tenant: Option<String>,
    },
    /// Make a new key for the tenant's receipts; what older ones signed stays valid.
    Rotate {
        /// The tenant; without it that of the credentials file.
        tenant: Option<String>,
    },
}

impl Tenant {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Keys { tenant } => return signing_keys::show(tenant, context).await,
            Self::Rotate { tenant } => return signing_keys::rotate(tenant, context).await,
            _ => {}
        }
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Keys { .. } | Self::Rotate { .. } => {}
            Self::Create { name: tenant, out } => {
                let request = CreateTenantRequest { tenant: tenant.clone() };
                let mut created = client.create_tenant(&request, None).await?;
                if let (Some(path), Some(owner)) = (out, &mut created.owner) {
                    keep(owner, client.url(), &tenant, &path)?;
                }
                output.show(&created, |created| {
                    let owner = created.owner.as_ref().map(describe_new_key);
                    format!("tenant {tenant}\n{}", owner.unwrap_or_default())
                })?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListTenantsRequest { page_size, page_token };
                let list = client.list_tenants(&request).await?;
                output.show(&list, |list| {
                    let rows = list.tenants.iter();
                    let rows = rows.map(|entry| {
                        [entry.tenant.clone(), yes(entry.suspended), when(entry.created_at)]
                    });
                    page(["tenant", "suspended", "created"], rows, &next(&list.next_page_token))
                })?;
            }
            Self::Suspend { name: tenant } => {
                let request = SuspendTenantRequest { tenant };
                let tenant = client.suspend_tenant(&request, None).await?;
                output.show(&tenant, |tenant| format!("{} is suspended", tenant.tenant))?;
            }
            Self::Resume { name: tenant } => {
                let request = ResumeTenantRequest { tenant };
                let tenant = client.resume_tenant(&request, None).await?;
                output.show(&tenant, |tenant| format!("{} is resumed", tenant.tenant))?;
            }
        }
        Ok(Exit::Done)
    }
}

/// `tally workspace`.
#[derive(Debug, Subcommand)]
pub(crate) enum Workspace {
    /// Create a workspace, which has a log of its own.
    Create {
        /// Its name: lower-case letters, digits and dashes.
        name: String,
        /// The tenant; without it that of the credentials file.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// An environment; may be repeated.
        #[arg(long = "environment", default_values = ["dev", "test", "prod"], value_name = "NAME")]
        environments: Vec<String>,
    },
    /// List the workspaces of a tenant.
    List {
        /// The tenant; without it that of the credentials file.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
}

impl Workspace {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (session, output) = (context.session()?, context.output());
        match self {
            Self::Create { name: workspace, tenant, environments } => {
                let tenant = session.tenant(tenant)?;
                let request = CreateWorkspaceRequest { tenant, workspace, environments };
                let created = session.client.create_workspace(&request, None).await?;
                output.show(&created, |entry| {
                    let [workspace, environments, origin, _] = workspace_row(entry);
                    fields([
                        ("workspace", workspace),
                        ("environments", environments),
                        ("log", origin),
                    ])
                })?;
            }
            Self::List { tenant, paging: Paging { page_size, page_token } } => {
                let tenant = session.tenant(tenant)?;
                let request = ListWorkspacesRequest { tenant, page_size, page_token };
                let list = session.client.list_workspaces(&request).await?;
                output.show(&list, |list| {
                    let header = ["workspace", "environments", "log", "created"];
                    let rows = list.workspaces.iter().map(workspace_row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
            }
        }
        Ok(Exit::Done)
    }
}

fn workspace_row(entry: &WorkspaceEntry) -> [String; 4] {
    let WorkspaceEntry { workspace, environments, origin, created_at, .. } = entry.clone();
    [workspace, environments.join(" "), origin, when(created_at)]
}

/// What a principal is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindName {
    /// A person.
    User,
    /// An AI agent. It never approves.
    Agent,
    /// A program that is not an agent.
    Service,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::User => Self::User,
            KindName::Agent => Self::Agent,
            KindName::Service => Self::Service,
        }
    }
}

/// `tally principal`.
#[derive(Debug, Subcommand)]
pub(crate) enum Principal {
    /// Create a principal; `tally key create` then gives it a key.
    Create {
        /// What it is.
        #[arg(long)]
        kind: KindName,
        /// Its name, for people.
        #[arg(long)]
        name: String,
        /// A role, such as agent or approver; may be repeated.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
        /// The account that pays for its actions.
        #[arg(long, default_value = "", value_name = "ID")]
        account: String,
    },
    /// List the principals of the tenant.
    List(Paging),
    /// Show one principal.
    Show {
        /// The id of the principal.
        id: String,
    },
    /// Replace the roles of a principal.
    Roles {
        /// The id of the principal.
        id: String,
        /// All its roles from now on.
        #[arg(required = true)]
        roles: Vec<String>,
    },
    /// Disable a principal; its keys stop working at once.
    Disable {
        /// The id of the principal.
        id: String,
    },
    /// Enable a disabled principal again, with the keys that it had.
    Enable {
        /// The id of the principal.
        id: String,
    },
    /// Link a login at a provider to a principal.
    Link(Identity),
    /// Take a login at a provider from a principal.
    Unlink(Identity),
}

/// Whose login.
#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// The id of the principal.
    id: String,
    /// The provider, by its name in the server's configuration.
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// The provider's name for the person: the claim `sub`.
    #[arg(long, value_name = "SUB")]
    subject: String,
}

impl Principal {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let principal = match self {
            Self::Create { kind, name, roles, account: account_id } => {
                let kind = Kind::from(kind).into();
                let request = CreatePrincipalRequest { kind, name, roles, account_id };
                client.create_principal(&request, None).await?
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListPrincipalsRequest { page_size, page_token };
                let list = client.list_principals(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "kind", "roles", "disabled", "name"];
                    let rows = list.principals.iter().map(principal_row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
            Self::Show { id: principal_id } => {
                client.get_principal(&GetPrincipalRequest { principal_id }).await?
            }
            Self::Roles { id: principal_id, roles } => {
                let request = UpdatePrincipalRequest { principal_id, roles };
                client.update_principal(&request, None).await?
            }
            Self::Disable { id: principal_id } => {
                let request = DisablePrincipalRequest { principal_id };
                client.disable_principal(&request, None).await?
            }
            Self::Enable { id: principal_id } => {
                let request = EnablePrincipalRequest { principal_id };
                client.enable_principal(&request, None).await?
            }
            Self::Link(Identity { id: principal_id, provider, subject }) => {
                let request = LinkPrincipalRequest { principal_id, provider, subject };
                client.link_principal(&request, None).await?
            }
            Self::Unlink(Identity { id: principal_id, provider, subject }) => {
                let request = UnlinkPrincipalRequest { principal_id, provider, subject };
                client.unlink_principal(&request, None).await?
            }
        };
        output.show(&principal, describe_principal)?;
        Ok(Exit::Done)
    }
}

pub(crate) fn principal_row(entry: &Entry) -> [String; 5] {
    let kind = entry.kind().as_str_name().to_owned();
    let Entry { principal_id, roles, disabled, name, .. } = entry.clone();
    [principal_id, kind, roles.join(" "), yes(disabled), name]
}

fn describe_principal(entry: &Entry) -> String {
    let [principal, kind, roles, disabled, name] = principal_row(entry);
    fields([
        ("principal", principal),
        ("kind", kind),
        ("name", name),
        ("roles", roles),
        ("account", entry.account_id.clone()),
        ("disabled", disabled),
        ("revision", entry.revision.to_string()),
    ])
}

/// `tally key`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Create an API key and show it, this once.
    Create(CreateKey),
    /// List the API keys of the tenant, without their secrets.
    List {
        /// Only those of this principal.
        #[arg(long, default_value = "", value_name = "ID")]
        principal: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Revoke an API key; it stops working at once.
    Revoke {
        /// The id of the key.
        id: String,
    },
    /// Give an API key another secret and show it, this once.
    Rotate(RotateKey),
}

/// Which key gets another secret.
#[derive(Debug, Args)]
pub(crate) struct RotateKey {
    /// The id of the key.
    id: String,
    /// Seconds that the secret before is still good for, at most 86400.
    #[arg(long, default_value_t = 0, value_name = "S")]
    overlap_s: u32,
    /// Write it to a new credentials file instead of showing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The tenant for that file; without it that of the credentials file in use.
    #[arg(long, value_name = "NAME", requires = "out")]
    tenant: Option<String>,
}

impl RotateKey {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let session = context.session()?;
        let tenant = match &self.out {
            Some(_) => session.tenant(self.tenant)?,
            None => String::new(),
        };
        let request = RotateKeyRequest { key_id: self.id, overlap_s: self.overlap_s };
        let mut made = session.client.rotate_key(&request, None).await?;
        if let Some(path) = self.out {
            keep(&mut made, session.client.url(), &tenant, &path)?;
        }
        context.output().show(&made, describe_new_key)?;
        Ok(Exit::Done)
    }
}

/// Whose key, and what for.
#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// Whose it is to be.
    #[arg(long, value_name = "ID")]
    pub(crate) principal: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// What a key is good for, and where to write it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The workspace that it works in; without it that of the credentials file.
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// The environment that it works in.
    #[arg(long, value_name = "NAME")]
    environment: String,
    /// Seconds until it stops working; without it never.
    #[arg(long, value_name = "S")]
    expires_in_s: Option<u32>,
    /// Requests a minute; without it the server's default.
    #[arg(long, value_name = "N")]
    rate_limit_per_min: Option<u32>,
    /// Write it to a new credentials file instead of showing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The tenant for that file; without it that of the credentials file in use.
    #[arg(long, value_name = "NAME", requires = "out")]
    tenant: Option<String>,
}

impl Key {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let output = context.output();
        match self {
            Self::Create(command) => return command.run(context).await,
            Self::Rotate(command) => return command.run(context).await,
            Self::List { principal: principal_id, paging: Paging { page_size, page_token } } => {
                let request = ListKeysRequest { principal_id, page_size, page_token };
                let list = context.client()?.list_keys(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "principal", "workspace", "environment", "revoked", "ends"];
                    page(header, list.keys.iter().map(key_row), &next(&list.next_page_token))
                })?;
            }
            Self::Revoke { id: key_id } => {
                let request = RevokeKeyRequest { key_id };
                let key = context.client()?.revoke_key(&request, None).await?;
                output.show(&key, |key| format!("{} is revoked", key.key_id))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl CreateKey {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let session = context.session()?;
        let Self { principal: principal_id, place } = self;
        let tenant = match &place.out {
            Some(_) => session.tenant(place.tenant)?,
            None => String::new(),
        };
        let request = CreateKeyRequest {
            principal_id,
            workspace: session.workspace(place.workspace)?,
            environment: place.environment,
            expires_in_s: place.expires_in_s,
            rate_limit_per_min: place.rate_limit_per_min,
        };
        let mut made = session.client.create_key(&request, None).await?;
        if let Some(path) = place.out {
            keep(&mut made, session.client.url(), &tenant, &path)?;
        }
        context.output().show(&made, describe_new_key)?;
        Ok(Exit::Done)
    }
}

/// Moves the secret of a new key into a credentials file.
fn keep(made: &mut CreateKeyResponse, url: &str, tenant: &str, path: &Path) -> anyhow::Result<()> {
    let credentials = Credentials {
        url: url.to_owned(),
        tenant: tenant.to_owned(),
        workspace: made.workspace.clone(),
        environment: made.environment.clone(),
        principal_id: made.principal_id.clone(),
        key: made.key.clone(),
    };
    credentials.write(path, false)?;
    made.key = String::new();
    Ok(())
}

fn key_row(key: &KeyEntry) -> [String; 6] {
    let KeyEntry { key_id, principal_id, workspace, environment, revoked, .. } = key.clone();
    [key_id, principal_id, workspace, environment, yes(revoked), when(key.expires_at)]
}

fn describe_new_key(made: &CreateKeyResponse) -> String {
    fields([
        ("key", made.key.clone()),
        ("key id", made.key_id.clone()),
        ("principal", made.principal_id.clone()),
        ("workspace", made.workspace.clone()),
        ("environment", made.environment.clone()),
        ("ends", when(made.expires_at)),
    ])
}
