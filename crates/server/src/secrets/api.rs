//! The API of secrets. No answer has a value, nor has any refusal.

use std::sync::Arc;

use aws_lc_rs::hmac;
use kernel::failure::Category;
use kernel::secret::{Input, Secret};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::SideRow;
use proto::secrets::secrets_service_server::SecretsService;
use proto::secrets::{
    ListSecretsRequest, ListSecretsResponse, PutSecretRequest, RemoveSecretRequest,
    RotateSecretRequest, Secret as WireSecret,
};
use proto::wire::Timestamp;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{command, drop_value};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use crate::{limits, oidc, paging};

/// Serves secrets.
pub(crate) struct SecretsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

fn wire(secret: &Secret) -> WireSecret {
    WireSecret {
        name: secret.name.clone(),
        version: secret.version,
        removed: secret.removed,
        changed_by: secret.by.to_string(),
        created_at: Some(Timestamp::from_micros(secret.created_at.0)),
        changed_at: Some(Timestamp::from_micros(secret.changed_at.0)),
    }
}

impl SecretsApi {
    /// What tells one request from another in the log: under a key of the tenant's, since a digest
    /// of the value alone would let guesses be tried out.
    async fn body(&self, caller: &Caller, parts: [&str; 2]) -> Result<Digest> {
        let salt = Zeroizing::new(oidc::salt(&self.0, &caller.tenant).await?);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salt);
        let text = Zeroizing::new(["secret", parts[0], parts[1]].join("\0"));
        Ok(Digest::of(hmac::sign(&key, text.as_bytes()).as_ref()))
    }

    async fn put(&self, caller: &Caller, name: &str, value: &str) -> Result<WireSecret> {
        if name.contains(':') {
            let message = "names with `:` are the server's own: choose another";
            return Err(Refused::invalid(message));
        }
        let known = self.0.control.directory.secrets(&caller.tenant);
        if known.len() >= limits::SECRETS_MAX && self.0.secrets.live(&caller.tenant, name).is_none()
        {
            let message = "this tenant has as many secrets as it may: remove one";
            return Err(Refused::new(Category::Conflict, "too_many_secrets", message));
        }
        let body = self.body(caller, [name, value]).await?;
        let side = self.0.secrets.seal(&caller.tenant, name, value).await?;
        let input = Input::Put { name: name.to_owned(), by: caller.id.clone() };
        self.mutate(caller, "secret_put", body, name, input, side).await
    }

    async fn rotate(&self, caller: &Caller, name: &str, value: &str) -> Result<WireSecret> {
        let body = self.body(caller, [name, value]).await?;
        let side = self.0.secrets.seal(&caller.tenant, name, value).await?;
        let input = Input::Rotate { by: caller.id.clone() };
        self.mutate(caller, "secret_rotate", body, name, input, side).await
    }

    async fn remove(&self, caller: &Caller, name: &str) -> Result<WireSecret> {
        let body = Digest::of(name.as_bytes());
        let side = drop_value(&caller.tenant, name);
        let input = Input::Remove { by: caller.id.clone() };
        self.mutate(caller, "secret_remove", body, name, input, side).await
    }

    async fn mutate(
        &self,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
        name: &str,
        input: Input,
        side: SideRow,
    ) -> Result<WireSecret> {
        let log = caller.control_log();
        let batch = Batch { side: vec![side], ..Batch::new(log, vec![command(name, input)]) };
        self.0.mutate(caller, endpoint, body, name, batch).await?;
        let secret = self.0.control.directory.secret(&caller.tenant, name);
        secret.map(|secret| wire(&secret)).ok_or_else(|| Refused::not_found("secret"))
    }

    fn list(&self, caller: &Caller, request: &ListSecretsRequest) -> ListSecretsResponse {
        let ListSecretsRequest { page_size, page_token } = request;
        let all = self.0.control.directory.secrets(&caller.tenant);
        let (page, next_page_token) =
            paging::by_name(all, *page_size, page_token, |secret| &secret.name);
        let secrets = page.iter().map(|secret| wire(secret)).collect();
        ListSecretsResponse { secrets, next_page_token }
    }
}

#[tonic::async_trait]
impl SecretsService for SecretsApi {
    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Reply<WireSecret> {
        let caller = crate::caller(&request)?;
        let PutSecretRequest { name, value } = request.into_inner();
        let value = Zeroizing::new(value);
        Ok(Response::new(self.put(&caller, &name, &value).await?))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Reply<ListSecretsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())))
    }

    async fn rotate_secret(&self, request: Request<RotateSecretRequest>) -> Reply<WireSecret> {
        let caller = crate::caller(&request)?;
        let RotateSecretRequest { name, value } = request.into_inner();
        let value = Zeroizing::new(value);
        Ok(Response::new(self.rotate(&caller, &name, &value).await?))
    }

    async fn remove_secret(&self, request: Request<RemoveSecretRequest>) -> Reply<WireSecret> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.remove(&caller, &request.get_ref().name).await?))
    }
}
