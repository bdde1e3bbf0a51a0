//! What every handler works with.

use std::sync::Arc;

use connectors::Tools;
use kernel::control::Principal;
use kernel::delegation::delegable;
use kernel::ids::{ActionId, ApprovalId, EnvironmentId, PrincipalId, RunId, TenantId, WorkspaceId};
use kernel::machine::Command;
use kernel::principal::{ActorChain, PrincipalKind, Role, permitted};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use kernel::{limits as kernel_limits, machine, reservation};
use ledger::content::Vault;
use ledger::{Batch, Clock, Committed, Ledger};
use policy::PolicyPoint;
use std::collections::BTreeSet;
use tokio_util::task::TaskTracker;

use crate::actions::queue::Bell;
use crate::directory::Directory;
use crate::doubt::Doubt;
use crate::error::{Refused, Result};
use crate::follow::Followers;
use crate::metrics::Metrics;
use crate::tokens::Tokens;
use crate::upstreams::Upstreams;
use crate::waiters::Waiters;

/// The control plane: what may exist.
pub(crate) struct Control {
    pub(crate) ledger: Ledger,
    pub(crate) vault: Arc<Vault>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) doubt: Arc<Doubt>,
    /// Held while a tenant is made.
    pub(crate) founding: tokio::sync::Mutex<()>,
    /// Held while a tenant's receipt key is rotated.
    pub(crate) rotating: tokio::sync::Mutex<()>,
}

impl Control {
    pub(crate) fn new(
        ledger: Ledger,
        vault: Arc<Vault>,
        directory: Arc<Directory>,
        doubt: Arc<Doubt>,
    ) -> Self {
        let (founding, rotating) = Default::default();
        Self { ledger, vault, directory, doubt, founding, rotating }
    }
}

/// Everything that handlers share.
pub(crate) struct Shared {
    pub(crate) control: Control,
    /// Everything that is folded from control logs.
    pub(crate) followers: Arc<Followers>,
    pub(crate) ledger: Ledger,
    pub(crate) vault: Vault,
    /// Who changes the values of which workspace.
    pub(crate) spaces: crate::kv::Spaces,
    pub(crate) policy: PolicyPoint,
    pub(crate) tools: Tools,
    /// The MCP servers.
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) clock: Clock,
    /// The system's clock, which may jump: for what others measure by theirs.
    pub(crate) wall: Clock,
    pub(crate) tokens: Tokens,
    pub(crate) metrics: Metrics,
    pub(crate) waiters: Waiters,
    /// The attempts under way: a server that stops lets them end.
    pub(crate) running: TaskTracker,
    /// What the gateway remembers.
    pub(crate) gateway: crate::mcp::Gateway,
    /// Wakes the queue.
    pub(crate) queue: Bell,
    /// The attempts that go on here.
    pub(crate) underway: crate::actions::Underway,
    /// What upstreams are shown.
    pub(crate) secrets: Arc<crate::secrets::Secrets>,
    /// Who cosigns our checkpoints.
    pub(crate) witnesses: crate::witnesses::Witnesses,
    /// The tools that are given as code.
    pub(crate) registry: Arc<crate::sandbox::registry::Registry>,
    /// The instances of connectors.
    pub(crate) instances: Arc<crate::instances::Instances>,
    /// Workflows, their releases, and what they are for.
    pub(crate) factory: Arc<crate::factory::Factory>,
    /// What untrusted code runs in.
    pub(crate) sandbox: Arc<crate::sandbox::Sandbox>,
    /// What starts runs by itself.
    pub(crate) triggers: Arc<crate::triggers::Triggers>,
    /// Where people are asked outside of Tally.
    pub(crate) cards: Arc<crate::cards::Cards>,
    /// The runs under way.
    pub(crate) runs: Arc<crate::runs::Runs>,
    /// What earlier attempts came to.
    pub(crate) experiences: Arc<crate::experience::Experiences>,
    /// How many writes there may be.
    pub(crate) caps: Arc<crate::caps::Caps>,
    /// Which agents are there.
    pub(crate) presence: crate::agents::Presence,
    pub(crate) config: crate::Config,
}

/// Who asks, by their credential.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) environment: EnvironmentId,
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) revision: u64,
    pub(crate) account: Option<kernel::ids::AccountId>,
    /// For whom it acts and what that leaves of its roles; none for a plain key or session.
    pub(crate) authority: Option<Arc<Authority>>,
    pub(crate) trace_id: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    /// How long that key is remembered.
    pub(crate) key_micros: i64,
}

impl Caller {
    /// `principal`, where a credential or an earlier request says that it acts.
    pub(crate) fn new(
        tenant: TenantId,
        workspace: WorkspaceId,
        environment: EnvironmentId,
        principal: &Principal,
    ) -> Self {
        Self {
            tenant,
            workspace,
            environment,
            id: principal.id.clone(),
            kind: principal.kind,
            roles: principal.roles.clone(),
            revision: principal.revision,
            account: principal.account.clone(),
            authority: None,
            trace_id: None,
            idempotency_key: None,
            key_micros: kernel_limits::RESULT_TTL_MICROS,
        }
    }

    /// The caller with a key of the server's own making, which is remembered for good.
    pub(crate) fn once(self, key: String) -> Self {
        let key_micros = crate::limits::ONCE_MICROS;
        Self { idempotency_key: Some(key), key_micros, ..self }
    }

    /// The log of the caller's workspace.
    pub(crate) fn log(&self) -> LogId {
        LogId::Workspace(self.tenant.clone(), self.workspace.clone())
    }

    /// The control log of the caller's tenant.
    pub(crate) fn control_log(&self) -> LogId {
        LogId::Control(self.tenant.clone())
    }

    /// Narrows the caller to `authority`.
    pub(crate) fn under(self, authority: Authority) -> Self {
        let revision = authority.revision;
        Self { authority: Some(Arc::new(authority)), revision, ..self }
    }

    /// Who acts for whom.
    pub(crate) fn actors(&self) -> ActorChain {
        match &self.authority {
            Some(authority) => authority.chain.clone(),
            None => ActorChain::direct(self.id.clone(), self.kind),
        }
    }

    /// Whether the caller has `permission`: by its roles, and by all that narrows them.
    pub(crate) fn may(&self, permission: &str) -> bool {
        let authority = self.authority.as_ref();
        permitted(&self.roles, permission)
            && authority.is_none_or(|authority| authority.covers(permission))
    }

    /// Whether the caller may see what `actors` asked for, by `permission`: an agent only what it
    /// takes part in, every other role that has the permission everything of the workspace.
    pub(crate) fn sees(&self, permission: &str, actors: &ActorChain) -> bool {
        let others = self.roles.iter().filter(|role| **role != Role::Agent);
        actors.contains(&self.id) || (permitted(others, permission) && self.may(permission))
    }

    /// Reserves the caller's idempotency key for what the request makes: the id of the stream and
    /// the input. `endpoint` and `body` tell one request from another.
    pub(crate) fn reserve(
        &self,
        endpoint: &str,
        body: Digest,
        target: &str,
        now: Timestamp,
    ) -> Option<(String, reservation::Input)> {
        let key = self.idempotency_key.as_ref()?;
        // Who acts for two people asks twice.
        let actors = self.actors();
        let ids: Vec<&str> = actors.actors().iter().map(|actor| actor.id.as_str()).collect();
        let scope = [self.tenant.as_str(), &ids.join("/"), endpoint, key].join("\n");
        let input = reservation::Input {
            body,
            target: target.to_owned(),
            until: now.plus_micros(self.key_micros),
            replaces: None,
        };
        Some((Digest::of(scope.as_bytes()).hex(), input))
    }
}

/// What a token or a delegation leaves of the acting principal's roles.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    /// Who acts for whom.
    pub(crate) chain: ActorChain,
    /// The roles, now, of those who delegated.
    pub(crate) delegators: Vec<BTreeSet<Role>>,
    /// The scope of the token.
    pub(crate) scope: Option<BTreeSet<String>>,
    /// The revisions of the whole chain, added up: it changes whenever one of them does.
    pub(crate) revision: u64,
}

impl Authority {
    /// The authority of a chain whose principals are, now, `principals`.
    pub(crate) fn new(
        chain: ActorChain,
        principals: &[Arc<Principal>],
        scope: Option<BTreeSet<String>>,
    ) -> Self {
        let delegators = principals.split_last().map_or(&[][..], |(_, before)| before);
        Self {
            chain,
            delegators: delegators.iter().map(|principal| principal.roles.clone()).collect(),
            scope,
            revision: revision(principals),
        }
    }

    fn covers(&self, permission: &str) -> bool {
        let handed_on = self.delegators.is_empty() || delegable(permission);
        handed_on
            && self.scope.as_ref().is_none_or(|scope| scope.contains(permission))
            && self.delegators.iter().all(|roles| permitted(roles, permission))
    }
}

/// The revisions of all of a chain, added up.
pub(crate) fn revision(principals: &[Arc<Principal>]) -> u64 {
    principals.iter().fold(0, |sum, principal| sum.saturating_add(principal.revision))
}

/// A new time-ordered id: `prefix` and 26 characters.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", ulid::Ulid::generate().to_string().to_ascii_lowercase())
}

pub(crate) fn new_action_id() -> Result<ActionId> {
    ActionId::new(new_id("act")).map_err(Refused::internal)
}

pub(crate) fn new_run_id() -> Result<RunId> {
    RunId::new(new_id("run")).map_err(Refused::internal)
}

pub(crate) fn new_approval_id() -> Result<ApprovalId> {
    ApprovalId::new(new_id("apr")).map_err(Refused::internal)
}

/// What a mutation of the control plane came to.
pub(crate) enum Mutated {
    /// It was made now.
    Fresh(Committed),
    /// The same request made this before.
    Repeat(String),
}

impl Shared {
    /// The server's time, which never goes back.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// What a scrape of the metrics is answered by.
    pub(crate) fn scraped(&self) -> axum::response::Response {
        self.metrics.show(&self.tools.declared().breakers().seen(self.now()))
    }

    /// The system's time, which is that of phones and of other servers.
    pub(crate) fn wall(&self) -> Timestamp {
        (self.wall)()
    }

    /// Commits to a control log and moves the directory on.
    pub(crate) async fn commit_control(&self, batch: Batch) -> Result<Committed> {
        Ok(self.commit_to(self.control.ledger.clone(), batch).await?)
    }

    /// [`commit`], and everything that is folded from control logs moves on.
    async fn commit_to(
        &self,
        ledger: Ledger,
        batch: Batch,
    ) -> std::result::Result<Committed, ledger::Error> {
        let followers = self.followers.clone();
        let moved =
            move |log: &LogId, committed: &Committed| followers.take(log, &committed.states);
        commit(ledger, self.control.doubt.clone(), batch, moved).await
    }

    /// Whether the same request was carried out before under the caller's idempotency key, in the
    /// control plane. For what would be refused by now because it was. Another request under that
    /// key is a conflict.
    pub(crate) fn repeats(&self, caller: &Caller, endpoint: &str, body: Digest) -> Result<bool> {
        self.made_before(caller, endpoint, body).map(|made| made.is_some())
    }

    /// The id of what the same request made, as [`Self::repeats`].
    pub(crate) fn made_before(
        &self,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
    ) -> Result<Option<String>> {
        let now = self.now();
        let Some((id, input)) = caller.reserve(endpoint, body, "", now) else { return Ok(None) };
        let log = caller.control_log();
        let held = match self.control.ledger.read(&log, machine::Kind::Idempotency, &id)? {
            Some(machine::State::Reservation(held)) => Some(held),
            _ => None,
        };
        match reservation::step(held.as_ref(), input, now) {
            Ok(_) => Ok(None),
            Err(machine::Refusal::Duplicate { target }) => Ok(Some(target)),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Carries out a mutation once for each idempotency key: a repeat is answered by what the
    /// first request made.
    pub(crate) async fn mutate(
        &self,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
        target: &str,
        mut batch: Batch,
    ) -> Result<Mutated> {
        if let Some((id, input)) = caller.reserve(endpoint, body, target, self.now()) {
            let input = machine::Input::Reserve(input);
            batch.commands.insert(0, Command::new(machine::Kind::Idempotency, id, input));
        }
        batch.trace_id = caller.trace_id.clone();
        let plane = match batch.log {
            LogId::Workspace(..) => self.ledger.clone(),
            _ => self.control.ledger.clone(),
        };
        match self.commit_to(plane, batch).await {
            Ok(committed) => Ok(Mutated::Fresh(committed)),
            Err(ledger::Error::Refused(machine::Refusal::Duplicate { target })) => {
                Ok(Mutated::Repeat(target))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Commits and lets `moved` know of it, whatever becomes of who asked: a key whose revocation is
/// durable must not go on because its revoker hung up.
pub(crate) async fn commit(
    ledger: Ledger,
    doubt: Arc<Doubt>,
    batch: Batch,
    moved: impl FnOnce(&LogId, &Committed) + Send + 'static,
) -> std::result::Result<Committed, ledger::Error> {
    let committing = tokio::spawn(async move {
        let log = batch.log.clone();
        let control = !matches!(log, LogId::Workspace(..));
        let committed = ledger.commit(batch).await.inspect_err(|error| {
            if control && matches!(error, ledger::Error::Store(_)) {
                doubt.raise();
            }
        })?;
        moved(&log, &committed);
        Ok(committed)
    });
    committing.await.map_err(|_| ledger::Error::Stopped)?
}
