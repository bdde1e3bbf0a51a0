//! The wire's face of registered tools.

use std::sync::Arc;

use kernel::attestation::{CodeKind, Limits};
use kernel::capability::{Capabilities, Network};
use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::machine::{self, Command, Kind, Stream};
use kernel::values::Digest;
use kernel::wasm_tool::{self, Binding, Input, Registration, Status};
use ledger::Batch;
use ledger::store::SideRow;
use prost::Message;
use proto::tools::tool_registration::State as WireState;
use proto::tools::{
    GrantToolRequest, ListToolRegistrationsRequest, ListToolRegistrationsResponse,
    RegisterToolRequest, RevokeToolRequest, ToolCapabilities, ToolLimits, ToolNetwork,
    ToolRegistration,
};
use proto::wire::{Json, Timestamp};

use super::manifest::{self, Checked};
use super::{PROD, Unusable, ready};
use crate::error::{Refused, Result};
use crate::paging;
use crate::sandbox::limits;
use crate::shared::{Caller, Shared};

/// What idempotency keys are for.
const REGISTER: &str = "tool_register";
const GRANT: &str = "tool_grant";
const REVOKE: &str = "tool_revoke";

fn conflict(code: &str, message: String) -> Refused {
    Refused::new(Category::Conflict, code, message)
}

fn absent() -> Refused {
    Refused::not_found("registered tool")
}

fn tool_id(text: &str) -> Result<ToolId> {
    ToolId::new(text).map_err(|error| Refused::invalid(format!("tool_id: {error}")))
}

fn digest_of(field: &str, text: &str) -> Result<Digest> {
    let digest = Digest::parse(text);
    let say = || format!("{field}: `sha256:` and 64 lower-case hex digits");
    digest.ok_or_else(|| Refused::invalid(say()))
}

/// Code as it was sent in.
struct Sent {
    bytes: Vec<u8>,
    kind: CodeKind,
    digest: Digest,
}

fn sent(wire: RegisterToolRequest) -> Result<Sent> {
    let RegisterToolRequest { component, source, language, code_digest, .. } = wire;
    let kind = match (component.is_empty(), source.is_empty(), language.as_str()) {
        (false, true, "") => CodeKind::Component,
        (true, false, "python") => CodeKind::Python,
        (true, false, "javascript") => CodeKind::Javascript,
        (true, false, _) => return Err(Refused::invalid("language: `python` or `javascript`")),
        _ => {
            let message = "give the code once: a component, or source with its language";
            return Err(Refused::invalid(message));
        }
    };
    let (bytes, most) = match kind {
        CodeKind::Component => (component, limits::COMPONENT_BYTES_MAX),
        _ => (source.into_bytes(), limits::SOURCE_BYTES_MAX),
    };
    if bytes.len() > most {
        let message = format!("the code has {} bytes: at most {most}", bytes.len());
        return Err(Refused::new(Category::Validation, "code_too_large", message));
    }
    let digest = Digest::of(&bytes);
    if !code_digest.is_empty() && digest_of("code_digest", &code_digest)? != digest {
        let message = format!("the code that was sent is {digest}, not {code_digest}");
        return Err(conflict("digest_mismatch", message));
    }
    Ok(Sent { bytes, kind, digest })
}

/// Registers a tool, or a higher version of it.
pub(crate) async fn register(
    shared: &Arc<Shared>,
    caller: &Caller,
    wire: RegisterToolRequest,
) -> Result<ToolRegistration> {
    let body = Digest::of(&wire.encode_to_vec());
    let text = wire.manifest.as_ref().map_or("null", |json| &json.text);
    let given = RawJson::parse(text);
    let given = given.map_err(|error| Refused::invalid(format!("manifest: {error}")))?;
    let checked = manifest::check(&given, shared.config.sandbox.wall_ms)?;
    let code = sent(wire)?;
    let id = checked.manifest.id.clone();
    if shared.repeats(caller, REGISTER, body)? {
        return show(shared, caller, &id);
    }
    if shared.tools.get(&caller.tenant, &id).is_some() {
        return Err(conflict("tool_id_taken", format!("`{id}` is a tool of Tally's own")));
    }
    if id.as_str().split_once('.').is_some_and(|(v, _)| shared.instances.has(&caller.tenant, v)) {
        return Err(conflict("tool_id_taken", format!("`{id}` would be a tool of a connector")));
    }
    let known = shared.registry.state(&caller.tenant, &id);
    let registration = Registration {
        manifest: checked.digest(),
        version: checked.version.clone(),
        component: code.digest,
        kind: code.kind,
        by: caller.id.clone(),
    };
    match &known {
        Some(known) if is_same(&known.registration, &registration) => {
            return unchanged(shared, caller, REGISTER, body, &id).await;
        }
        Some(known) => may_follow(&known.registration, &registration)?,
        None => has_room(shared, caller)?,
    }
    let (component, binding) = (code.digest, bind(shared, caller, &code).await?);
    let batch = batch(caller, known.as_ref(), checked, code, registration, binding);
    let made = shared.mutate(caller, REGISTER, body, id.as_str(), batch).await;
    let replaced = known.map(|known| known.registration.component);
    for component in replaced.into_iter().chain([component]) {
        ready::forget(shared, &caller.tenant, component);
    }
    made?;
    show(shared, caller, &id)
}

fn is_same(known: &Registration, new: &Registration) -> bool {
    (&known.version, known.manifest, known.component, known.kind)
        == (&new.version, new.manifest, new.component, new.kind)
}

/// What is registered stays what it is: other code, or another manifest, is a higher version.
fn may_follow(known: &Registration, new: &Registration) -> Result<()> {
    let version = known.version.as_str();
    if known.version == new.version {
        let (what, before, now) = match known.component == new.component {
            true => ("manifest", known.manifest, new.manifest),
            false => ("code", known.component, new.component),
        };
        let message = format!(
            "version {version} is registered with the {what} {before}, not {now}: give what \
             changed a higher version"
        );
        return Err(conflict("digest_mismatch", message));
    }
    if known.version.precedence(&new.version) != std::cmp::Ordering::Less {
        let message = format!("version {version} is registered: give what changed a higher one");
        return Err(conflict("version_not_higher", message));
    }
    Ok(())
}

fn has_room(shared: &Shared, caller: &Caller) -> Result<()> {
    if shared.registry.ids(&caller.tenant).len() < limits::REGISTERED_MAX {
        return Ok(());
    }
    let message = format!("at most {} tools can be registered", limits::REGISTERED_MAX);
    Err(Refused::new(Category::Validation, "too_many_tools", message))
}

/// Compiles a component; makes sure that source text has its interpreter.
async fn bind(shared: &Shared, caller: &Caller, code: &Sent) -> Result<Binding> {
    if code.kind == CodeKind::Component {
        let _turn = shared.registry.turn(&caller.tenant).await;
        let binding = ready::bind(shared, &caller.tenant, &code.bytes, None).await?;
        shared.registry.bound.lock().insert((caller.tenant.clone(), code.digest));
        return Ok(binding);
    }
    let runtime = shared.sandbox.boxes.prepare(code.kind).await.map_err(Failure::from)?;
    Ok(Binding { compiled: runtime.compiled.unwrap_or(runtime.digest), engine: runtime.engine })
}

fn batch(
    caller: &Caller,
    known: Option<&wasm_tool::WasmTool>,
    checked: Checked,
    code: Sent,
    registration: Registration,
    binding: Binding,
) -> Batch {
    let id = checked.manifest.id.as_str();
    let bind = Input::Bind { component: code.digest, binding };
    let commands = [Input::Register(registration), bind]
        .map(|input| Command::new(Kind::WasmTool, id, machine::Input::WasmTool(input)));
    let tenant = caller.tenant.to_string();
    let (digest, bytes) = (checked.digest(), checked.text);
    let side = vec![
        SideRow::Blob { tenant: tenant.clone(), digest, bytes },
        SideRow::Blob { tenant, digest: code.digest, bytes: code.bytes },
    ];
    // Not over a version that came in meanwhile.
    let revision = known.map_or(0, |known| known.revision);
    let expect = vec![(Stream::new(Kind::WasmTool, id), revision)];
    Batch { side, expect, ..Batch::new(caller.control_log(), commands.into()) }
}

/// Says what a tool may reach and use.
pub(crate) async fn grant(
    shared: &Shared,
    caller: &Caller,
    wire: GrantToolRequest,
) -> Result<ToolRegistration> {
    let body = Digest::of(&wire.encode_to_vec());
    let id = tool_id(&wire.tool_id)?;
    let known = shared.registry.state(&caller.tenant, &id).ok_or_else(absent)?;
    if shared.repeats(caller, GRANT, body)? {
        return show(shared, caller, &id);
    }
    let component = digest_of("code_digest", &wire.code_digest)?;
    if component != known.registration.component {
        let message = format!("the code is {} by now: look at it", known.registration.component);
        return Err(conflict("digest_mismatch", message));
    }
    if caller.environment.as_str() == PROD && caller.actors().contains(&known.registration.by) {
        let message = "in prod, who registered a tool does not grant it";
        return Err(Refused::new(Category::Permission, "registrant_grants", message));
    }
    let capabilities = grantable(shared, wire.capabilities.unwrap_or_default())?;
    let limits = limits_within(&shared.config.sandbox.limits(), wire.limits.unwrap_or_default())?;
    let same = known.grant.as_ref().is_some_and(|grant| {
        *grant.capabilities == capabilities && grant.limits == limits && grant.by == caller.id
    });
    if same {
        return unchanged(shared, caller, GRANT, body, &id).await;
    }
    let by = caller.id.clone();
    let input = Input::Grant { component, capabilities, limits, by };
    mutate(shared, caller, GRANT, body, &id, input).await?;
    show(shared, caller, &id)
}

/// Checks what is to be granted against what the configuration lets anybody grant.
fn grantable(shared: &Shared, wire: ToolCapabilities) -> Result<Capabilities> {
    let ToolNetwork { allowlist, denylist } = wire.network.unwrap_or_default();
    let asked = Capabilities {
        file_read: wire.file_read,
        file_write: wire.file_write,
        network: Network { allowlist, denylist },
        env: wire.env,
    };
    let asked = asked.parse().map_err(|invalid| {
        Refused::new(Category::Validation, invalid.code(), invalid.to_string())
    })?;
    let ceiling = shared.config.sandbox.ceiling();
    ceiling
        .covers(&asked)
        .map_err(|beyond| Refused::new(Category::Permission, beyond.code(), beyond.to_string()))?;
    Ok(asked)
}

/// What is asked for, with what the configuration says where nothing is; never more than that.
fn limits_within(most: &Limits, wire: ToolLimits) -> Result<Limits> {
    let pick = |name: &str, asked: u64, most: u64| match asked {
        0 => Ok(most),
        asked if asked <= most => Ok(asked),
        asked => {
            let message =
                format!("limits.{name}: {asked} is more than `tally.yaml` grants, {most}");
            Err(Refused::new(Category::Permission, "limit_not_grantable", message))
        }
    };
    let calls = wire.tool_calls.map_or(Ok(most.tool_calls), |asked| match asked {
        0 => Ok(0),
        asked => pick("tool_calls", asked.into(), most.tool_calls.into()).map(|_| asked),
    })?;
    let memory_mb = pick("memory_mb", wire.memory_mb.into(), most.memory_bytes >> 20)?;
    Ok(Limits {
        memory_bytes: memory_mb << 20,
        cpu_ms: pick("cpu_ms", wire.cpu_ms.into(), most.cpu_ms)?,
        wall_ms: pick("wall_ms", wire.wall_ms.into(), most.wall_ms)?,
        fuel: pick("fuel", wire.fuel, most.fuel)?,
        output_bytes: pick("output_bytes", wire.output_bytes.into(), most.output_bytes)?,
        tool_calls: calls,
    })
}

/// Takes the grant of a tool away.
pub(crate) async fn revoke(
    shared: &Shared,
    caller: &Caller,
    wire: &RevokeToolRequest,
) -> Result<ToolRegistration> {
    let id = tool_id(&wire.tool_id)?;
    let body = Digest::of(&wire.encode_to_vec());
    let known = shared.registry.state(&caller.tenant, &id).ok_or_else(absent)?;
    let input = Input::Revoke { by: caller.id.clone() };
    mutate(shared, caller, REVOKE, body, &id, input).await?;
    ready::forget(shared, &caller.tenant, known.registration.component);
    show(shared, caller, &id)
}

/// The answer to what is so already. Its idempotency key is taken all the same: it stands for this
/// request and no other.
async fn unchanged(
    shared: &Shared,
    caller: &Caller,
    endpoint: &str,
    body: Digest,
    id: &ToolId,
) -> Result<ToolRegistration> {
    if caller.idempotency_key.is_some() {
        let nothing = Batch::new(caller.control_log(), Vec::new());
        shared.mutate(caller, endpoint, body, id.as_str(), nothing).await?;
    }
    show(shared, caller, id)
}

async fn mutate(
    shared: &Shared,
    caller: &Caller,
    endpoint: &str,
    body: Digest,
    id: &ToolId,
    input: Input,
) -> Result<()> {
    let command = Command::new(Kind::WasmTool, id.as_str(), machine::Input::WasmTool(input));
    let batch = Batch::new(caller.control_log(), vec![command]);
    shared.mutate(caller, endpoint, body, id.as_str(), batch).await.map(drop)
}

/// Shows a registered tool of that id.
pub(crate) fn get(shared: &Shared, caller: &Caller, id: &str) -> Result<ToolRegistration> {
    show(shared, caller, &tool_id(id)?)
}

/// Lists the registered tools.
pub(crate) fn list(
    shared: &Shared,
    caller: &Caller,
    wire: &ListToolRegistrationsRequest,
) -> Result<ListToolRegistrationsResponse> {
    let ids = shared.registry.ids(&caller.tenant);
    let (ids, next_page_token) =
        paging::by_name(ids, wire.page_size, &wire.page_token, |id| id.as_str());
    let shown = ids.iter().map(|id| show(shared, caller, id)).collect::<Result<_>>()?;
    Ok(ListToolRegistrationsResponse { registrations: shown, next_page_token })
}

fn show(shared: &Shared, caller: &Caller, id: &ToolId) -> Result<ToolRegistration> {
    let registry = &shared.registry;
    let tenant = &caller.tenant;
    let tool = registry.state(tenant, id).ok_or_else(absent)?;
    let made = registry.made(tenant, id);
    let manifest = registry.manifest(tenant, tool.registration.manifest).ok();
    let manifest = manifest.map(|manifest| Json::of(&manifest)).transpose();
    let wasm_tool::WasmTool { registration, binding, grant, .. } = &tool;
    let component = registration.kind == CodeKind::Component;
    let compiled = binding.as_ref().filter(|_| component).map(|b| b.compiled.to_string());
    let reviewed = grant.as_ref().is_some_and(|grant| grant.by != registration.by);
    let mut shown = ToolRegistration {
        tool_id: id.to_string(),
        version: registration.version.as_str().to_owned(),
        code_kind: kind_name(registration.kind).to_owned(),
        code_digest: registration.component.to_string(),
        compiled_digest: compiled.unwrap_or_default(),
        engine: binding.as_ref().map(|binding| binding.engine.clone()).unwrap_or_default(),
        manifest_digest: registration.manifest.to_string(),
        manifest: manifest.map_err(Refused::internal)?,
        registered_by: registration.by.to_string(),
        reviewed,
        created_at: Some(Timestamp::from_micros(tool.created_at.0)),
        changed_at: Some(Timestamp::from_micros(tool.changed_at.0)),
        revision: u32::try_from(tool.revision).unwrap_or(u32::MAX),
        ..ToolRegistration::default()
    };
    if let Some(grant) = grant {
        shown.capabilities = Some(wire_capabilities(&grant.capabilities));
        shown.limits = Some(wire_limits(&grant.limits));
        shown.granted_by = grant.by.to_string();
        shown.granted_at = Some(Timestamp::from_micros(grant.at.0));
    }
    match made {
        Some(Ok(made)) => shown.tool_digest = made.digest.to_string(),
        Some(Err(why)) => shown.reason = Unusable::as_str(why).to_owned(),
        None => {}
    }
    shown.set_state(match tool.status() {
        Status::Registered => WireState::Registered,
        Status::Active => WireState::Active,
        Status::Revoked => WireState::Revoked,
    });
    Ok(shown)
}

fn kind_name(kind: CodeKind) -> &'static str {
    match kind {
        CodeKind::Python => "python",
        CodeKind::Javascript => "javascript",
        CodeKind::Component => "component",
    }
}

fn wire_capabilities(capabilities: &Capabilities) -> ToolCapabilities {
    let Capabilities { file_read, file_write, network, env } = capabilities.clone();
    let Network { allowlist, denylist } = network;
    ToolCapabilities {
        file_read,
        file_write,
        network: Some(ToolNetwork { allowlist, denylist }),
        env,
    }
}

fn wire_limits(limits: &Limits) -> ToolLimits {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    ToolLimits {
        memory_mb: small(limits.memory_bytes >> 20),
        cpu_ms: small(limits.cpu_ms),
        wall_ms: small(limits.wall_ms),
        fuel: limits.fuel,
        output_bytes: small(limits.output_bytes),
        tool_calls: Some(limits.tool_calls),
    }
}
