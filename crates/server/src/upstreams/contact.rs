//! A contact: what a server offers is compared with what is pinned, and the difference recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::mcp::{Definition, Offer};
use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::limits::MCP_TOOLS_PER_RECEIPT_MAX;
use kernel::machine::{self, Command, Kind, Stream};
use kernel::receipt::LogId;
use kernel::upstream::{self, Upstream};
use kernel::upstream_tool::{self, Input, Status, UpstreamTool};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::{Class, SideRow};
use tokio::sync::MutexGuard;

use super::declared::command;
use super::fold::{ORDER, content_id};
use super::tool::{self, Unusable};
use super::{Registered, Upstreams, limits};
use crate::error::Result;
use crate::shared::Shared;

/// A tool as a server offers it.
pub(super) struct Offered<'a> {
    pub(super) definition: &'a Definition,
    pub(super) id: ToolId,
    pub(super) digest: Digest,
    /// Why it can never be called with this definition.
    pub(super) unusable: Option<Unusable>,
}

/// The tools of an offer: those that can be known by their names, and the others.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    pub(super) tools: Vec<Offered<'a>>,
    /// With why.
    pub(super) refused: Vec<(String, String)>,
}

impl Sorted<'_> {
    fn refuse(&mut self, name: &str, why: &str) {
        self.refused.push((shown(name), why.to_owned()));
    }
}

/// Sorts an offer of the server `name`. `known` are its known tools, which count against the limit.
pub(super) fn sort<'a>(name: &str, offer: &'a Offer, known: &BTreeSet<String>) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for definition in &offer.tools {
        let count = times.entry(&definition.name).or_default();
        *count = count.saturating_add(1);
    }
    let mut room = limits::TOOLS_MAX.saturating_sub(known.len());
    for definition in &offer.tools {
        let own = definition.name.as_str();
        let twice = times.get(own).is_some_and(|count| *count > 1);
        let refuse = match ToolId::mcp(name, own) {
            Err(_) => Err(Unusable::NameInvalid),
            Ok(_) if tool::is_reserved(own) => Err(Unusable::NameReserved),
            Ok(_) if twice => Err(Unusable::NameTwice),
            Ok(_) if !known.contains(own) && room == 0 => Err(Unusable::TooMany),
            Ok(id) => Ok(id),
        };
        let digest = tool::definition_digest(&definition.json);
        match (refuse, digest) {
            (Ok(id), Ok(digest)) => {
                room = room.saturating_sub(usize::from(!known.contains(own)));
                let unusable = tool::check(&definition.json).err();
                sorted.tools.push(Offered { definition, id, digest, unusable });
            }
            (Err(why), _) => sorted.refuse(own, why.as_str()),
            // It has no canonical form.
            (Ok(_), Err(_)) => sorted.refuse(own, Unusable::SchemaInvalid.as_str()),
        }
    }
    for refused in &offer.refused {
        sorted.refuse(&refused.name, &refused.reason);
    }
    sorted
}

/// A name that may be anything, as it is shown.
fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '\u{fffd}' };
    name.chars().take(limits::REFUSED_NAME_CHARS_MAX).map(plain).collect()
}

/// A command for a tool, with its definition where that is to be kept.
type Observation = (Command, Option<SideRow>);

impl Upstreams {
    /// What an offer changes, as far as it is known here.
    fn observations(
        &self,
        registered: &Registered,
        upstream: &Upstream,
        sorted: &Sorted<'_>,
    ) -> Vec<Observation> {
        let (tenant, generation) = (&registered.tenant, registered.generation);
        let (known, lost) = self.with_fold(tenant, |fold| {
            let tools = fold.tools_of(&registered.name);
            let known: BTreeMap<String, UpstreamTool> =
                tools.map(|(name, tool)| (name.to_owned(), tool.clone())).collect();
            let lost = |id: &ToolId| fold.unusable.get(id) == Some(&Unusable::DefinitionLost);
            let lost: BTreeSet<ToolId> =
                known.values().map(|tool| &tool.id).filter(|id| lost(id)).cloned().collect();
            (known, lost)
        });
        let mut observations = Vec::new();
        for offered in &sorted.tools {
            let state = known.get(&offered.definition.name);
            let first = !upstream.pinned && offered.unusable.is_none();
            let input = Input::Observe { offered: Some(offered.digest), generation, first };
            // What cannot be kept can be seen by its digest alone.
            let keep = offered.unusable != Some(Unusable::TooLarge);
            let blob = || SideRow::Blob {
                tenant: tenant.to_string(),
                digest: offered.digest,
                bytes: offered.definition.json.as_str().as_bytes().to_vec(),
            };
            let changes = !matches!(upstream_tool::step(state, input.clone()), Ok(None));
            if changes || (keep && lost.contains(&offered.id)) {
                observations.push((of_tool(&offered.id, input), keep.then(blob)));
            }
        }
        let offered: BTreeSet<&str> =
            sorted.tools.iter().map(|offered| offered.definition.name.as_str()).collect();
        for (name, tool) in &known {
            if tool.status != Status::Gone && !offered.contains(name.as_str()) {
                let input = Input::Observe { offered: None, generation, first: false };
                observations.push((of_tool(&tool.id, input), None));
            }
        }
        observations
    }
}

fn of_tool(id: &ToolId, input: Input) -> Command {
    Command::new(Kind::UpstreamTool, id.as_str(), machine::Input::UpstreamTool(input))
}

/// What came of a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Another one has just been made.
    Made,
    /// So many tools changed.
    Changed(usize),
}

/// Asks a server what it offers and records what changed. Without `anew`, only where that has not
/// been done since it was registered.
pub(super) async fn contact(
    shared: &Shared,
    registered: &Arc<Registered>,
    anew: bool,
) -> std::result::Result<Contact, Failure> {
    contact_in_turn(shared, registered, registered.contact.lock().await, anew).await
}

/// The same, for whoever has waited for their turn.
pub(super) async fn contact_in_turn(
    shared: &Shared,
    registered: &Arc<Registered>,
    mut pending: MutexGuard<'_, Option<Offer>>,
    anew: bool,
) -> std::result::Result<Contact, Failure> {
    let known = registered.seen.lock().contacted_at.is_some();
    let offered = match pending.take() {
        Some(offer) => Ok(offer),
        None if known && !anew => return Ok(Contact::Made),
        None => offer(&registered.client).await,
    };
    let ended = match offered {
        Ok(offer) => observe(shared, registered, &offer).await.map_err(|refused| refused.0),
        Err(failure) => Err(failure),
    };
    shared.metrics.contact(ended.is_ok());
    let mut seen = registered.seen.lock();
    seen.error = ended.as_ref().err().cloned();
    if ended.is_ok() {
        seen.contacted_at = Some(shared.now());
    }
    ended.map(Contact::Changed)
}

/// What a server offers, within the time that there is for it.
pub(super) async fn offer(
    client: &connectors::mcp::Upstream,
) -> std::result::Result<Offer, Failure> {
    let late = |_| {
        let message = "the MCP server did not say in time what it offers";
        Failure::new(Category::Timeout, "upstream_unavailable", message)
    };
    tokio::time::timeout(limits::CONTACT_TIMEOUT, client.offer()).await.map_err(late)?
}

async fn observe(shared: &Shared, registered: &Arc<Registered>, offer: &Offer) -> Result<usize> {
    let upstreams = &shared.upstreams;
    let (tenant, name) = (&registered.tenant, &registered.name);
    let (upstream, known) = upstreams.with_fold(tenant, |fold| {
        let known = fold.tools_of(name).map(|(name, _)| name.to_owned()).collect();
        (fold.upstreams.get(name).cloned(), known)
    });
    let live =
        |upstream: &Upstream| !upstream.removed && upstream.generation == registered.generation;
    // It was removed meanwhile, or is another server now.
    let Some(upstream) = upstream.filter(live) else { return Ok(0) };
    let sorted = sort(name, offer, &known);
    let order: Vec<String> =
        sorted.tools.iter().map(|offered| offered.definition.name.clone()).collect();
    let moved = see(registered, offer, &sorted, order.clone());
    let observations = upstreams.observations(registered, &upstream, &sorted);
    let changed = observations.len();
    commit(shared, registered, &upstream, observations).await?;
    if moved {
        let bytes = serde_json::to_vec(&order).map_err(crate::error::Refused::internal)?;
        let (id, now) = (content_id(name), shared.now());
        let vault = &shared.control.vault;
        let row = vault.seal(tenant.as_str(), &id, ORDER, Class::Record, &bytes, now).await?;
        shared.commit_control(Batch::side(LogId::Control(tenant.clone()), vec![row])).await?;
    }
    if moved || changed > 0 {
        upstreams.refresh(tenant);
    }
    if changed > 0 {
        tracing::info!(%tenant, server = name, changed, "the tools of an MCP server changed");
    }
    Ok(changed)
}

/// Keeps in memory what the log does not say. Whether the order of the tools is another one.
fn see(registered: &Registered, offer: &Offer, sorted: &Sorted<'_>, order: Vec<String>) -> bool {
    let mut seen = registered.seen.lock();
    let moved = *seen.order != order;
    seen.order = Arc::new(order);
    seen.refused = sorted.refused.iter().take(limits::REFUSED_NAMED_MAX).cloned().collect();
    seen.refused_count = sorted.refused.len();
    seen.instructions.clone_from(&offer.instructions);
    seen.resources = offer.resources.len().saturating_add(offer.templates.len());
    seen.prompts = offer.prompts.len();
    moved
}

/// Commits in as many receipts as it takes. The last one of a first contact ends it: where that is
/// cut off, the next contact goes on with it.
async fn commit(
    shared: &Shared,
    registered: &Registered,
    upstream: &Upstream,
    observations: Vec<Observation>,
) -> Result<()> {
    let stream = Stream::new(Kind::Upstream, &registered.name);
    let log = LogId::Control(registered.tenant.clone());
    let mut rest = observations.into_iter().peekable();
    let mut unpinned = !upstream.pinned;
    while rest.peek().is_some() || unpinned {
        let (mut commands, mut side) = (Vec::new(), Vec::new());
        for (command, blob) in rest.by_ref().take(MCP_TOOLS_PER_RECEIPT_MAX) {
            commands.push(command);
            side.extend(blob);
        }
        if unpinned && rest.peek().is_none() {
            commands.push(command(&registered.name, upstream::Input::Pin {}));
            unpinned = false;
        }
        // Not for a server that is another one by now.
        let expect = vec![(stream.clone(), upstream.revision)];
        shared.commit_control(Batch { side, expect, ..Batch::new(log.clone(), commands) }).await?;
    }
    Ok(())
}
