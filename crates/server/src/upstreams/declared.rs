//! Setting servers up: what it takes for the log to say what an operator wants.

use std::collections::BTreeSet;

use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{self, Command, Kind, Stream};
use kernel::receipt::LogId;
use kernel::upstream::{Input, Settings, Upstream};
use ledger::Batch;
use ledger::store::{Class, SideRow};

use super::fold::{SPEC, content_id};
use super::settings::{Kept, UpstreamConfig};
use super::{Upstreams, limits};
use crate::error::{Refused, Result};
use crate::sandbox;
use crate::shared::Shared;

/// What setting a server up changes.
pub(super) struct Plan {
    pub(super) settings: Settings,
    kept: Kept,
    inputs: Vec<Input>,
    /// The revision of the server that this was planned for; 0 where there was none.
    revision: u64,
    /// Whether there was such a server.
    pub(super) there: bool,
}

/// Who changes what a change of the configuration changes.
const CONFIGURATION: &str = "configuration";

impl Plan {
    /// Whether the server is as it is wanted already.
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether the server is contacted for the first time.
    pub(super) fn is_first_contact(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input, Input::Add(_)))
    }

    /// The commit.
    pub(super) async fn batch(self, shared: &Shared, tenant: &TenantId) -> Result<Batch> {
        let name = self.kept.config.spec.name.clone();
        let bytes = serde_json::to_vec(&self.kept).map_err(Refused::internal)?;
        let vault = &shared.control.vault;
        let (id, now) = (content_id(&name), shared.now());
        let row: SideRow =
            vault.seal(tenant.as_str(), &id, SPEC, Class::Record, &bytes, now).await?;
        let commands = self.inputs.into_iter().map(|input| command(&name, input)).collect();
        let expect = vec![(Stream::new(Kind::Upstream, &name), self.revision)];
        Ok(Batch {
            side: vec![row],
            expect,
            ..Batch::new(LogId::Control(tenant.clone()), commands)
        })
    }
}

/// What is asked of the server `name`.
pub(super) fn command(name: &str, input: Input) -> Command {
    Command::new(Kind::Upstream, name, machine::Input::Upstream(input))
}

impl Upstreams {
    /// What it takes for a server to be as `config` says. Another way to reach it makes it another
    /// server; other labels and prices do not.
    pub(super) fn plan(
        &self,
        tenant: &TenantId,
        config: UpstreamConfig,
        by: Option<PrincipalId>,
    ) -> Result<Plan> {
        let name = &config.spec.name;
        let known = self.with_fold(tenant, |fold| fold.upstreams.get(name).cloned());
        let revision = known.as_ref().map_or(0, |known| known.revision);
        let live = known.filter(|known| !known.removed);
        // A description that cannot be read is like none: the server is added anew.
        let before = match &live {
            None => None,
            Some(_) => self.kept(tenant, name).map_err(Refused::internal)?,
        };
        let there = live.is_some();
        let same_server = before.filter(|before| before.config.spec == config.spec);
        let (kept, inputs) = match (live, same_server) {
            (Some(live), Some(before)) => {
                let same = before.config.tools == config.tools
                    && live.settings.by.is_none() == by.is_none();
                let kept = before.with(config);
                let settings = kept.settings(by).map_err(Refused::internal)?;
                let inputs = if same { vec![] } else { vec![Input::Change(settings.clone())] };
                let settings = if same { live.settings } else { settings };
                return Ok(Plan { settings, kept, inputs, revision, there });
            }
            (Some(_), None) => (Kept::new(config)?, vec![Input::Remove { by: by.clone() }]),
            (None, _) => (Kept::new(config)?, vec![]),
        };
        let settings = kept.settings(by).map_err(Refused::internal)?;
        let inputs = inputs.into_iter().chain([Input::Add(settings.clone())]).collect();
        Ok(Plan { settings, kept, inputs, revision, there })
    }

    /// Whether the tenant may have another server.
    pub(super) fn has_room(&self, tenant: &TenantId) -> bool {
        let live = |upstream: &&Upstream| !upstream.removed;
        let count = self.with_fold(tenant, |fold| fold.upstreams.values().filter(live).count());
        count < limits::UPSTREAMS_MAX
    }
}

/// Has the first tenant's servers be those that the configuration declares.
pub(crate) async fn declare(shared: &Shared) -> Result<()> {
    let tenant = TenantId::new(&shared.config.tenant).map_err(Refused::internal)?;
    let declared = &shared.config.mcp.upstreams;
    let names: BTreeSet<&str> = declared.iter().map(|d| d.spec.name.as_str()).collect();
    let gone: Vec<String> = shared.upstreams.with_fold(&tenant, |fold| {
        let live = fold.upstreams.values().filter(|u| !u.removed && u.settings.by.is_none());
        live.map(|u| u.name.clone()).filter(|name| !names.contains(name.as_str())).collect()
    });
    for name in gone {
        let commands = vec![command(&name, Input::Remove { by: None })];
        shared.commit_control(Batch::new(LogId::Control(tenant.clone()), commands)).await?;
        forget_login(shared, &tenant, &name, None).await?;
        tracing::info!(server = name, "removed: the configuration does not declare it any more");
    }
    for config in declared {
        let plan = shared.upstreams.plan(&tenant, config.clone(), None)?;
        if plan.there && plan.is_first_contact() {
            forget_login(shared, &tenant, &config.spec.name, None).await?;
        }
        if !plan.is_empty() {
            let batch = plan.batch(shared, &tenant).await?;
            shared.commit_control(batch).await?;
        }
    }
    Ok(())
}

/// Forgets how Tally logs in at a server, and what it left in a folder of its own: another one of
/// that name must not be shown it.
pub(super) async fn forget_login(
    shared: &Shared,
    tenant: &TenantId,
    name: &str,
    by: Option<&PrincipalId>,
) -> Result<()> {
    let configuration = PrincipalId::new(CONFIGURATION).map_err(Refused::internal)?;
    sandbox::forget_folder(&shared.config.data, tenant, name).map_err(Refused::internal)?;
    shared.secrets.forget_login(tenant, name, by.unwrap_or(&configuration)).await
}
