//! Me: who the caller is, and what only they may manage: a second factor and signing keys.

mod factor;
mod keys;
mod totp;

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::failure::Category;
use kernel::principal::PrincipalKind;
use kernel::values::Digest;
use prost::Message;
use proto::me::me_service_server::MeService;
use proto::me::{
    AddSigningKeyRequest, ConfirmTotpRequest, EnrollTotpRequest, EnrollTotpResponse, Factor,
    GetMeRequest, ListSigningKeysRequest, ListSigningKeysResponse, Me, RemoveSigningKeyRequest,
    RemoveTotpRequest, ResetTotpRequest, SigningKey,
};
use tonic::{Request, Response, Status};

use crate::approvals::role_name;
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

pub(crate) use factor::prove;
pub(crate) use keys::{key_id, signer};

/// Serves what concerns the caller alone.
pub(crate) struct MeApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

fn body(wire: &impl Message) -> Digest {
    Digest::of(&wire.encode_to_vec())
}

/// Second factors and signing keys are people's: they prove who approves.
fn a_person(caller: &Caller) -> Result<()> {
    if caller.kind == PrincipalKind::User {
        return Ok(());
    }
    let message = "second factors and signing keys are for users: no agent or service approves";
    Err(Refused::new(Category::Permission, "not_a_user", message))
}

impl MeApi {
    fn me(&self, caller: &Caller) -> Result<Me> {
        let kind = match caller.kind {
            PrincipalKind::User => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
        };
        let of_roles = caller.roles.iter().flat_map(|role| role.permissions()).copied();
        let permissions: BTreeSet<&str> = of_roles.filter(|name| caller.may(name)).collect();
        Ok(Me {
            principal_id: caller.id.to_string(),
            kind: kind.to_owned(),
            roles: caller.roles.iter().map(role_name).collect(),
            permissions: permissions.into_iter().map(str::to_owned).collect(),
            tenant: caller.tenant.to_string(),
            workspace: caller.workspace.to_string(),
            environment: caller.environment.to_string(),
            factor: Some(self.factor(caller, caller.id.as_str())?),
        })
    }

    fn factor(&self, caller: &Caller, principal: &str) -> Result<Factor> {
        let factor = factor::find(&self.0, caller, principal)?;
        Ok(factor::wire(&self.0, factor.as_ref()))
    }
}

#[tonic::async_trait]
impl MeService for MeApi {
    async fn get_me(&self, request: Request<GetMeRequest>) -> Reply<Me> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.me(&caller)?))
    }

    async fn enroll_totp(&self, request: Request<EnrollTotpRequest>) -> Reply<EnrollTotpResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(factor::enroll(&self.0, &caller, body(request.get_ref())).await?))
    }

    async fn confirm_totp(&self, request: Request<ConfirmTotpRequest>) -> Reply<Factor> {
        let caller = crate::caller(&request)?;
        factor::confirm(&self.0, &caller, &request.get_ref().code).await?;
        Ok(Response::new(self.factor(&caller, caller.id.as_str())?))
    }

    async fn remove_totp(&self, request: Request<RemoveTotpRequest>) -> Reply<Factor> {
        let caller = crate::caller(&request)?;
        factor::remove(&self.0, &caller, &request.get_ref().code).await?;
        Ok(Response::new(self.factor(&caller, caller.id.as_str())?))
    }

    async fn reset_totp(&self, request: Request<ResetTotpRequest>) -> Reply<Factor> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        factor::reset(&self.0, &caller, &wire.principal_id, body(&wire)).await?;
        Ok(Response::new(self.factor(&caller, &wire.principal_id)?))
    }

    async fn add_signing_key(&self, request: Request<AddSigningKeyRequest>) -> Reply<SigningKey> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        Ok(Response::new(keys::add(&self.0, &caller, &wire, body(&wire)).await?))
    }

    async fn list_signing_keys(
        &self,
        request: Request<ListSigningKeysRequest>,
    ) -> Reply<ListSigningKeysResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(ListSigningKeysResponse { keys: keys::list(&self.0, &caller)? }))
    }

    async fn remove_signing_key(
        &self,
        request: Request<RemoveSigningKeyRequest>,
    ) -> Reply<SigningKey> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        // An id in a path that is none names nothing.
        let key = key_id(&wire.key_id).map_err(|_| Refused::not_found("signing key"))?;
        Ok(Response::new(keys::remove(&self.0, &caller, &key, body(&wire)).await?))
    }
}
