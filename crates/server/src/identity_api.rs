//! The identity service: the wire's face of tenants, workspaces, principals and keys.

use kernel::control::Entity;
use kernel::machine::Kind;
use kernel::values::Digest;
use prost::Message;
use proto::identity::identity_service_server::IdentityService;
use proto::identity::{
    CreateKeyRequest, CreateKeyResponse, CreatePrincipalRequest, CreateTenantRequest,
    CreateTenantResponse, CreateWorkspaceRequest, DisablePrincipalRequest, EnablePrincipalRequest,
    GetPrincipalRequest, GetTenantKeysRequest, GetTenantKeysResponse, GetTenantRequest, Key,
    LinkPrincipalRequest, ListKeysRequest, ListKeysResponse, ListPrincipalsRequest,
    ListPrincipalsResponse, ListSessionsRequest, ListSessionsResponse, ListTenantsRequest,
    ListTenantsResponse, ListWorkspacesRequest, ListWorkspacesResponse, Principal,
    ResumeTenantRequest, RevokeKeyRequest, RevokeSessionRequest, RotateKeyRequest,
    RotateSigningKeysRequest, RotateTokenKeyRequest, RotateTokenKeyResponse, Session,
    SuspendTenantRequest, Tenant, UnlinkPrincipalRequest, UpdatePrincipalRequest, Workspace,
};
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::identity::{Identity, wire_key};
use crate::shared::Caller;
use crate::{oidc, paging, sessions, signing_keys};

/// Serves identity.
pub(crate) struct IdentityApi(pub(crate) Identity);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// What tells one mutation from another: the request as it was sent.
fn body(wire: &impl Message) -> Digest {
    Digest::of(&wire.encode_to_vec())
}

impl IdentityApi {
    /// Rotates the receipt key of the caller's tenant, and shows its keys.
    async fn rotate(
        &self,
        caller: &Caller,
        wire: &RotateSigningKeysRequest,
    ) -> Result<GetTenantKeysResponse> {
        self.0.own_tenant(caller, &wire.tenant)?;
        signing_keys::rotate(&self.0.0, caller, body(wire)).await?;
        signing_keys::public(&self.0.0, &wire.tenant)
    }

    async fn create_tenant(
        &self,
        caller: &Caller,
        wire: &CreateTenantRequest,
    ) -> Result<CreateTenantResponse> {
        self.0.may_create_tenants(caller)?;
        self.0.create_tenant(caller, &wire.tenant, body(wire)).await
    }

    fn tenants(&self, caller: &Caller, wire: &ListTenantsRequest) -> ListTenantsResponse {
        let all = self.0.tenants(caller);
        let (tenants, next_page_token) =
            paging::by_name(all, wire.page_size, &wire.page_token, |tenant| &tenant.tenant);
        ListTenantsResponse { tenants, next_page_token }
    }

    fn tenant(&self, caller: &Caller, tenant: &str) -> Result<Tenant> {
        let seen = self.0.tenants(caller).into_iter().find(|seen| seen.tenant == tenant);
        seen.ok_or_else(|| Refused::not_found("tenant"))
    }

    async fn create_workspace(
        &self,
        caller: &Caller,
        wire: CreateWorkspaceRequest,
    ) -> Result<Workspace> {
        self.0.own_tenant(caller, &wire.tenant)?;
        let body = body(&wire);
        self.0.create_workspace(caller, &wire.workspace, wire.environments, body).await
    }

    fn workspaces(
        &self,
        caller: &Caller,
        wire: &ListWorkspacesRequest,
    ) -> Result<ListWorkspacesResponse> {
        self.0.own_tenant(caller, &wire.tenant)?;
        let all = self.0.workspaces(caller);
        let (workspaces, next_page_token) =
            paging::by_name(all, wire.page_size, &wire.page_token, |one| &one.workspace);
        Ok(ListWorkspacesResponse { workspaces, next_page_token })
    }

    fn principals(
        &self,
        caller: &Caller,
        wire: &ListPrincipalsRequest,
    ) -> Result<ListPrincipalsResponse> {
        let page = paging::page(wire.page_size, &wire.page_token, None);
        let found = self.0.page(caller, Kind::Principal, &page)?;
        let next_page_token = paging::next(&page, found.len(), || match found.last() {
            Some(Entity::Principal(principal)) => principal.id.to_string(),
            _ => String::new(),
        });
        let mut principals = Vec::with_capacity(found.len());
        for entity in &found {
            if let Entity::Principal(principal) = entity {
                principals.push(self.0.wire_principal(&caller.tenant, principal)?);
            }
        }
        Ok(ListPrincipalsResponse { principals, next_page_token })
    }

    async fn create_key(
        &self,
        caller: &Caller,
        mut wire: CreateKeyRequest,
    ) -> Result<CreateKeyResponse> {
        let body = body(&wire);
        // On the wire 0 says the same as nothing.
        wire.expires_in_s = wire.expires_in_s.filter(|seconds| *seconds > 0);
        wire.rate_limit_per_min = wire.rate_limit_per_min.filter(|rate| *rate > 0);
        self.0.create_key(caller, wire, body).await
    }

    /// A page of keys. With a principal named, those of others are left out of it.
    fn keys(&self, caller: &Caller, wire: &ListKeysRequest) -> Result<ListKeysResponse> {
        let page = paging::page(wire.page_size, &wire.page_token, None);
        let found = self.0.page(caller, Kind::Key, &page)?;
        let next_page_token = paging::next(&page, found.len(), || match found.last() {
            Some(Entity::Key(key)) => key.id.clone(),
            _ => String::new(),
        });
        let of = wire.principal_id.as_str();
        let keys = found.iter().filter_map(|entity| match entity {
            Entity::Key(key) if of.is_empty() || key.issue.principal.as_str() == of => {
                Some(wire_key(key))
            }
            _ => None,
        });
        Ok(ListKeysResponse { keys: keys.collect(), next_page_token })
    }
}

#[tonic::async_trait]
impl IdentityService for IdentityApi {
    async fn get_tenant_keys(
        &self,
        request: Request<GetTenantKeysRequest>,
    ) -> Reply<GetTenantKeysResponse> {
        Ok(Response::new(signing_keys::public(&self.0.0, &request.get_ref().tenant)?))
    }

    async fn rotate_signing_keys(
        &self,
        request: Request<RotateSigningKeysRequest>,
    ) -> Reply<GetTenantKeysResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.rotate(&caller, request.get_ref()).await?))
    }

    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Reply<CreateTenantResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create_tenant(&caller, request.get_ref()).await?))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Reply<ListTenantsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.tenants(&caller, request.get_ref())))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Reply<Tenant> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.tenant(&caller, &request.get_ref().tenant)?))
    }

    async fn create_workspace(&self, request: Request<CreateWorkspaceRequest>) -> Reply<Workspace> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create_workspace(&caller, request.into_inner()).await?))
    }

    async fn list_workspaces(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Reply<ListWorkspacesResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.workspaces(&caller, request.get_ref())?))
    }

    async fn create_principal(&self, request: Request<CreatePrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let body = body(&wire);
        Ok(Response::new(self.0.create_principal(&caller, wire, body).await?))
    }

    async fn list_principals(
        &self,
        request: Request<ListPrincipalsRequest>,
    ) -> Reply<ListPrincipalsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.principals(&caller, request.get_ref())?))
    }

    async fn get_principal(&self, request: Request<GetPrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.0.principal(&caller, &request.get_ref().principal_id)?))
    }

    async fn update_principal(&self, request: Request<UpdatePrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let (id, roles) = (&wire.principal_id, Some(wire.roles.as_slice()));
        Ok(Response::new(self.0.change_principal(&caller, id, roles, body(&wire)).await?))
    }

    async fn disable_principal(
        &self,
        request: Request<DisablePrincipalRequest>,
    ) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let id = &wire.principal_id;
        Ok(Response::new(self.0.change_principal(&caller, id, None, body(&wire)).await?))
    }

    async fn link_principal(&self, request: Request<LinkPrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        Ok(Response::new(oidc::link(&self.0, &caller, &wire, body(&wire)).await?))
    }

    async fn unlink_principal(&self, request: Request<UnlinkPrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        Ok(Response::new(oidc::unlink(&self.0, &caller, &wire, body(&wire)).await?))
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Reply<CreateKeyResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create_key(&caller, request.into_inner()).await?))
    }

    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Reply<ListKeysResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.keys(&caller, request.get_ref())?))
    }

    async fn revoke_key(&self, request: Request<RevokeKeyRequest>) -> Reply<Key> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        Ok(Response::new(self.0.revoke_key(&caller, &wire.key_id, body(&wire)).await?))
    }

    async fn suspend_tenant(&self, request: Request<SuspendTenantRequest>) -> Reply<Tenant> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let body = body(&wire);
        Ok(Response::new(self.0.set_suspended(&caller, &wire.tenant, true, body).await?))
    }

    async fn resume_tenant(&self, request: Request<ResumeTenantRequest>) -> Reply<Tenant> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let body = body(&wire);
        Ok(Response::new(self.0.set_suspended(&caller, &wire.tenant, false, body).await?))
    }

    async fn enable_principal(&self, request: Request<EnablePrincipalRequest>) -> Reply<Principal> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let id = &wire.principal_id;
        Ok(Response::new(self.0.enable_principal(&caller, id, body(&wire)).await?))
    }

    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Reply<CreateKeyResponse> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let (id, overlap_s) = (&wire.key_id, wire.overlap_s);
        Ok(Response::new(self.0.rotate_key(&caller, id, overlap_s, body(&wire)).await?))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Reply<ListSessionsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(sessions::list(&self.0.0, &caller, request.get_ref())?))
    }

    async fn revoke_session(&self, request: Request<RevokeSessionRequest>) -> Reply<Session> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let id = &wire.session_id;
        Ok(Response::new(sessions::revoke(&self.0.0, &caller, id, body(&wire)).await?))
    }

    async fn rotate_token_key(
        &self,
        request: Request<RotateTokenKeyRequest>,
    ) -> Reply<RotateTokenKeyResponse> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let body = body(&wire);
        Ok(Response::new(self.0.rotate_token_key(&caller, wire.overlap_s, body).await?))
    }
}
