//! Who a person is here: the principal that has their login, or a new one.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use kernel::control;
use kernel::identity;
use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{self, Command, Kind, Refusal, State, Stream};
use kernel::principal::{PrincipalKind, Role};
use kernel::receipt::LogId;
use kernel::reservation;
use kernel::values::{Digest, Timestamp};
use ledger::Batch;
use ledger::store::{Class, SideRow};

use super::claims::Person;
use super::error::{Error, Result};
use super::settings::Provider;
use crate::identity::NAME;
use crate::limits;
use crate::shared::{Shared, new_id};

/// Where the salt of a tenant's identities is kept.
const SALT: (&str, &str) = ("identities", "salt");
/// Further than any reservation is remembered, and still a number of JSON.
const FOR_EVER: Timestamp = Timestamp((1 << 53) - 1);
/// How often a login is tried anew that met another of the same person.
const ATTEMPTS: u32 = 3;

/// A command that uses up `name` until `until`: whoever comes second is refused.
pub(super) fn once(kind: &str, name: &str, until: Timestamp) -> Command {
    let id = Digest::of(format!("{kind}\n{name}").as_bytes());
    let input = reservation::Input { body: id, target: kind.to_owned(), until, replaces: None };
    Command::new(Kind::Idempotency, id.hex(), machine::Input::Reserve(input))
}

/// Whether a commit failed because [`once`] was used up.
pub(super) fn was_used(error: &ledger::Error) -> bool {
    use ledger::Error::Refused;
    matches!(error, Refused(Refusal::Duplicate { .. } | Refusal::KeyReused))
}

/// The id of the identity of `subject` at `issuer`: under a secret of the tenant's, so that its
/// log does not tell who logs in, even to those who guess.
pub(super) async fn identity_id(
    shared: &Shared,
    tenant: &TenantId,
    issuer: &str,
    subject: &str,
) -> Result<String> {
    let salt = salt(shared, tenant).await?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salt);
    let text = [issuer, subject].join("\0");
    Ok(hex::encode(hmac::sign(&key, text.as_bytes()).as_ref()))
}

/// The tenant's salt, made when it is first asked for. Two servers that race keep the one whose
/// commit came first.
pub(crate) async fn salt(shared: &Shared, tenant: &TenantId) -> crate::error::Result<Vec<u8>> {
    let (id, part) = SALT;
    let vault = &shared.control.vault;
    if let Some(salt) = vault.open(tenant.as_str(), id, part)? {
        return Ok(salt);
    }
    let salt = ledger::keys::random::<32>()?;
    let (class, now) = (Class::Record, shared.now());
    let row = vault.seal(tenant.as_str(), id, part, class, salt.as_ref(), now).await?;
    let commands = vec![once("identities.salt", tenant.as_str(), FOR_EVER)];
    let log = LogId::Control(tenant.clone());
    let batch = Batch { side: vec![row], ..Batch::new(log, commands) };
    match shared.control.ledger.commit(batch).await {
        Ok(_) => {}
        Err(error) if was_used(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = vault.open(tenant.as_str(), id, part)?;
    kept.ok_or_else(|| crate::error::Refused::internal("the salt of identities is gone"))
}

/// The principal that has this identity.
pub(super) fn holder(
    shared: &Shared,
    tenant: &TenantId,
    identity: &str,
) -> Result<Option<PrincipalId>> {
    let log = LogId::Control(tenant.clone());
    match shared.control.ledger.read(&log, Kind::Identity, identity)? {
        Some(State::Identity(identity)) => Ok(identity.principal),
        _ => Ok(None),
    }
}

/// Finds or makes the principal of `person`, gives it the roles that its groups say, and uses up
/// the login `state`: all of it in one commit.
pub(super) async fn admit(
    shared: &Shared,
    provider: &Provider,
    person: &Person,
    state: &str,
) -> Result<PrincipalId> {
    let tenant = &provider.tenant;
    if shared.control.directory.suspended(tenant) {
        return Err(Error::Other(crate::credentials::suspended()));
    }
    let known = shared.control.directory.workspace(tenant, &provider.workspace);
    if known.is_none_or(|place| !place.environments.contains(&provider.environment)) {
        return Err(Error::NoPlace(provider.name.clone()));
    }
    let identity = identity_id(shared, tenant, &provider.issuer, &person.subject).await?;
    let until = shared.now().plus_micros(2 * limits::LOGIN_S_MAX * 1_000_000);
    for _ in 0..ATTEMPTS {
        let Plan { principal, commands, side } = plan(shared, provider, person, &identity).await?;
        let commands = [vec![once("oidc.login", state, until)], commands].concat();
        let batch = Batch { side, ..Batch::new(LogId::Control(tenant.clone()), commands) };
        let log = batch.log.clone();
        match shared.control.ledger.commit(batch).await {
            Ok(committed) => {
                for (stream, state) in &committed.states {
                    shared.control.directory.put(&log, stream, state);
                }
                return Ok(principal);
            }
            // Another login of the same person was faster: there is a principal now.
            Err(ledger::Error::Refused(Refusal::Exists)) => {}
            Err(error) if was_used(&error) => return Err(Error::Replayed),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Busy(1_000))
}

struct Plan {
    principal: PrincipalId,
    commands: Vec<Command>,
    side: Vec<SideRow>,
}

async fn plan(
    shared: &Shared,
    provider: &Provider,
    person: &Person,
    identity: &str,
) -> Result<Plan> {
    let tenant = &provider.tenant;
    let Some(id) = holder(shared, tenant, identity)? else {
        return enrol(shared, provider, person, identity).await;
    };
    let principal = principal(shared, tenant, &id)?;
    let principal = principal.filter(|principal| !principal.disabled);
    let principal = principal.ok_or_else(|| Error::Disabled(id.to_string()))?;
    let mut commands = Vec::new();
    if !provider.role_map.is_empty() {
        let roles = roles(provider, person)?;
        if roles != principal.roles {
            let input = control::Input::SetRoles { roles };
            commands.push(crate::identity::command(Kind::Principal, id.as_str(), input));
        }
    }
    Ok(Plan { principal: id, commands, side: Vec::new() })
}

/// The principal as the ledger has it. The directory may hear of a commit later than this reads
/// of it, and hears of it here.
fn principal(
    shared: &Shared,
    tenant: &TenantId,
    id: &PrincipalId,
) -> Result<Option<control::Principal>> {
    let log = LogId::Control(tenant.clone());
    let state = shared.control.ledger.read(&log, Kind::Principal, id.as_str())?;
    if let Some(state) = &state {
        shared.control.directory.put(&log, &Stream::new(Kind::Principal, id.as_str()), state);
    }
    match state {
        Some(State::Control(control::Entity::Principal(principal))) => Ok(Some(principal)),
        _ => Ok(None),
    }
}

/// A new principal for a person whom nobody here knows yet.
async fn enrol(
    shared: &Shared,
    provider: &Provider,
    person: &Person,
    identity: &str,
) -> Result<Plan> {
    if !provider.create_principals {
        let (provider, subject) = (provider.name.clone(), person.subject.clone());
        return Err(Error::Unknown { provider, subject });
    }
    let roles = roles(provider, person)?;
    let id = PrincipalId::new(new_id("usr")).map_err(crate::error::Refused::internal)?;
    let kind = PrincipalKind::User;
    let create = control::Input::CreatePrincipal { kind, roles, account: None };
    let issuer = Digest::of(provider.issuer.as_bytes());
    let link = identity::Input::Link { principal: id.clone(), issuer };
    let commands = vec![
        crate::identity::command(Kind::Principal, id.as_str(), create),
        Command::new(Kind::Identity, identity, machine::Input::Identity(link)),
    ];
    let (vault, name) = (&shared.control.vault, person.name.as_bytes());
    let (tenant, class, now) = (provider.tenant.as_str(), Class::Record, shared.now());
    let name = vault.seal(tenant, id.as_str(), NAME, class, name, now).await?;
    Ok(Plan { principal: id, commands, side: vec![name] })
}

/// The roles of everybody, and those that the person's groups give.
fn roles(provider: &Provider, person: &Person) -> Result<BTreeSet<Role>> {
    let groups = person.groups.iter().flatten();
    let mapped = groups.filter_map(|group| provider.role_map.get(group));
    let roles: BTreeSet<Role> = provider.default_roles.iter().chain(mapped).copied().collect();
    if roles.is_empty() {
        let groups: Vec<_> = provider.role_map.keys().map(|group| format!("`{group}`")).collect();
        return Err(Error::NoRole(format!("one of the groups {}", groups.join(", "))));
    }
    Ok(roles)
}
