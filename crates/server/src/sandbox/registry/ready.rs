//! Code that is about to run: fetched by its digest, and compiled where this process has not seen
//! to that yet.

use std::sync::Arc;

use kernel::attestation::CodeKind;
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::machine::{self, Command, Kind};
use kernel::receipt::LogId;
use kernel::values::Digest;
use kernel::wasm_tool::{Binding, Input};
use ledger::Batch;

use super::WasmTool;
use crate::error::Refused;
use crate::shared::Shared;

/// The code of a tool, ready to be run.
pub(crate) async fn ready(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    tool: &WasmTool,
) -> Result<::sandbox::Code, Failure> {
    let digest = tool.component;
    if tool.kind != CodeKind::Component {
        let bytes = code(shared, tenant, digest).await?;
        let text = String::from_utf8(bytes).map_err(|_| lost(digest))?;
        return Ok(::sandbox::Code::Source { kind: tool.kind, text: text.into() });
    }
    let key = (tenant.clone(), digest);
    let known = || shared.registry.bound.lock().contains(&key);
    if !known() {
        let _turn = shared.registry.turn(tenant).await;
        if !known() {
            let bytes = code(shared, tenant, digest).await?;
            let binding = bind(shared, tenant, &bytes, Some(&tool.binding)).await?;
            if binding != tool.binding {
                note(shared, tenant, &tool.manifest.id, digest, binding).await?;
            }
            shared.registry.bound.lock().insert(key);
        }
    }
    Ok(::sandbox::Code::Component { digest })
}

/// Compiles a component. What the same engine compiled `before` must come out again.
pub(super) async fn bind(
    shared: &Shared,
    tenant: &TenantId,
    bytes: &[u8],
    before: Option<&Binding>,
) -> Result<Binding, Failure> {
    let (boxes, engine) = (&shared.sandbox.boxes, shared.sandbox.boxes.engine());
    let bound = match before.filter(|before| before.engine == engine) {
        Some(before) => boxes.bind_pinned(tenant, bytes, before.compiled).await?,
        None => boxes.bind(tenant, bytes).await?,
    };
    Ok(Binding { compiled: bound.compiled, engine })
}

/// Lets go of the code of a tool, where no other tool of the tenant is that code.
pub(super) fn forget(shared: &Shared, tenant: &TenantId, digest: Digest) {
    if !shared.registry.uses(tenant, digest) {
        shared.registry.bound.lock().remove(&(tenant.clone(), digest));
        shared.sandbox.boxes.unbind(tenant, digest);
    }
}

/// Code by its digest. It is what was registered, or nothing.
async fn code(shared: &Arc<Shared>, tenant: &TenantId, digest: Digest) -> Result<Vec<u8>, Failure> {
    let (store, tenant) = (shared.control.ledger.store().clone(), tenant.clone());
    let read = tokio::task::spawn_blocking(move || {
        let kept = store.blob(tenant.as_str(), digest)?;
        Ok::<_, ledger::Error>(kept.filter(|bytes| Digest::of(bytes) == digest))
    });
    let read = read.await.map_err(|error| Refused::internal(error).0)?;
    read.map_err(|error| Refused::from(error).0)?.ok_or_else(|| lost(digest))
}

fn lost(digest: Digest) -> Failure {
    let message = format!("the code {digest} is not kept as it was registered: restore it");
    Failure::new(Category::Permanent, "digest_mismatch", message)
}

/// Another engine compiles the same code to something else: the log says so before it runs.
async fn note(
    shared: &Shared,
    tenant: &TenantId,
    id: &ToolId,
    component: Digest,
    binding: Binding,
) -> Result<(), Failure> {
    let input = machine::Input::WasmTool(Input::Bind { component, binding });
    let commands = vec![Command::new(Kind::WasmTool, id.as_str(), input)];
    let batch = Batch::new(LogId::Control(tenant.clone()), commands);
    shared.commit_control(batch).await.map(drop).map_err(|refused| refused.0)
}
