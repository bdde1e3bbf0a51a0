//! What an upstream offers: its tools, resources and prompts, page by page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::{self, Connection, Lost};
use super::headers::{self, Mirror};
use super::health::{Hub, List};
use super::message::{member, object, string};
use super::spec::Revision;
use crate::limits;

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name of a tool or prompt, the URI (or its template) of a resource.
    pub name: String,
    /// The entry as received.
    pub json: RawJson,
}

/// An entry that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name, or what stands for it.
    pub name: String,
    /// Why it is left out.
    pub reason: String,
}

/// All that an upstream offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The revision that it speaks.
    pub revision: Revision,
    /// The version as negotiated.
    pub version: String,
    /// What it says it is.
    pub server_info: Option<Box<RawValue>>,
    /// Its capabilities.
    pub capabilities: Box<RawValue>,
    /// Its guidance for models.
    pub instructions: Option<String>,
    /// Its tools, in its order.
    pub tools: Vec<Definition>,
    /// Its resources.
    pub resources: Vec<Definition>,
    /// Its templates of resources.
    pub templates: Vec<Definition>,
    /// Its prompts.
    pub prompts: Vec<Definition>,
    /// What it offers that is not usable.
    pub refused: Vec<Refused>,
}

/// One kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Tools,
    Resources,
    Templates,
    Prompts,
}

impl Kind {
    fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Prompts => "prompts/list",
        }
    }

    /// What changes it.
    fn changed_by(self) -> List {
        match self {
            Self::Tools => List::Tools,
            Self::Resources | Self::Templates => List::Resources,
            Self::Prompts => List::Prompts,
        }
    }

    fn offered(self, connection: &Connection) -> bool {
        let features = connection.facts.features;
        match self {
            Self::Tools => features.tools,
            Self::Resources | Self::Templates => features.resources,
            Self::Prompts => features.prompts,
        }
    }
}

/// One list.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) entries: Arc<[Definition]>,
    pub(super) refused: Vec<Refused>,
    /// Parameters that go into headers, by tool.
    mirrors: Arc<HashMap<String, Vec<Mirror>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow, default)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resources: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resource_templates: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    prompts: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    uri_template: Option<String>,
}

/// A list on its way.
struct Reading {
    kind: Kind,
    mirrored: bool,
    entries: Vec<Definition>,
    refused: Vec<Refused>,
    mirrors: HashMap<String, Vec<Mirror>>,
    bytes: usize,
    ttl: Duration,
}

impl Reading {
    fn take(&mut self, raw: &RawValue) {
        match self.read(raw) {
            Ok(entry) => self.entries.push(entry),
            Err(refused) => {
                let (kind, Refused { name, reason }) = (self.kind.method(), &refused);
                tracing::warn!(kind, name, reason, "an entry of an MCP server is left out");
                self.refused.push(refused);
            }
        }
    }

    fn read(&mut self, raw: &RawValue) -> Result<Definition, Refused> {
        let refused = |name: &str, reason: String| {
            Err(Refused { name: name.chars().take(limits::MCP_SHOWN_CHARS_MAX).collect(), reason })
        };
        let Ok(entry) = serde_json::from_str::<Entry>(raw.get()) else {
            return refused("?", "has no name".to_owned());
        };
        let name = match self.kind {
            Kind::Tools | Kind::Prompts => entry.name,
            Kind::Resources => entry.uri,
            Kind::Templates => entry.uri_template,
        };
        let Some(name) = name else { return refused("?", "has no name".to_owned()) };
        if raw.get().len() > limits::MCP_DEFINITION_BYTES_MAX {
            let max = limits::MCP_DEFINITION_BYTES_MAX;
            return refused(&name, format!("has more than {max} bytes"));
        }
        let json = match RawJson::result(raw.to_owned()) {
            Ok(json) => json,
            Err(error) => return refused(&name, error.to_string()),
        };
        if self.entries.iter().any(|other| other.name == name) {
            return refused(&name, "has the name of another one".to_owned());
        }
        if self.mirrored {
            match headers::mirrors(&json) {
                Ok(mirrors) if mirrors.is_empty() => {}
                Ok(mirrors) => drop(self.mirrors.insert(name.clone(), mirrors)),
                Err(reason) => return refused(&name, reason.to_owned()),
            }
        }
        Ok(Definition { name, json })
    }

    /// Takes one page, and gives the cursor of the next.
    fn page(&mut self, text: &str) -> Result<Option<String>, Failure> {
        self.bytes += text.len();
        let page: Page<'_> = serde_json::from_str(text)
            .map_err(|_| super::message::invalid("is no page of a list"))?;
        let entries = match self.kind {
            Kind::Tools => page.tools,
            Kind::Resources => page.resources,
            Kind::Templates => page.resource_templates,
            Kind::Prompts => page.prompts,
        };
        let entries = entries.ok_or_else(|| super::message::invalid("is no page of a list"))?;
        let total = self.entries.len() + self.refused.len() + entries.len();
        if self.bytes > limits::MCP_LIST_BYTES_MAX || total > limits::MCP_LIST_MAX {
            let (max, bytes) = (limits::MCP_LIST_MAX, limits::MCP_LIST_BYTES_MAX);
            return Err(too_long(format!("lists more than {max} entries or {bytes} bytes")));
        }
        if let Some(ms) = page.ttl_ms.filter(|ms| *ms >= 0.0) {
            self.ttl = self.ttl.min(Duration::from_secs_f64((ms / 1e3).min(1e6)));
        }
        entries.into_iter().for_each(|entry| self.take(entry));
        Ok(page.next_cursor)
    }
}

fn too_long(what: String) -> Failure {
    Failure::new(Category::Permanent, "list_too_long", format!("the MCP server {what}"))
}

/// Reads a list to its end; also says for how long it holds.
async fn read(connection: &Connection, hub: &Hub, kind: Kind) -> Result<(Listed, Duration), Lost> {
    let mut reading = Reading {
        kind,
        mirrored: kind == Kind::Tools && connection.over_http() && connection.modern(),
        entries: Vec::new(),
        refused: Vec::new(),
        mirrors: HashMap::new(),
        bytes: 0,
        ttl: limits::MCP_LIST_TTL_MAX,
    };
    let mut cursor: Option<String> = None;
    let mut pages = 0;
    while kind.offered(connection) {
        if pages == limits::MCP_PAGES_MAX {
            return Err(too_long(format!("lists more than {pages} pages")).into());
        }
        pages += 1;
        let params = match &cursor {
            Some(cursor) => object(&[&member("cursor", &string(cursor))]),
            None => object(&[]),
        };
        let page = connection.ask(hub, kind.method(), None, &params).await?;
        let next = reading.page(page.get())?;
        if next.is_none() || next == cursor {
            break;
        }
        if next.as_ref().is_some_and(|next| next.len() > limits::MCP_TOKEN_BYTES_MAX) {
            return Err(too_long("gives a cursor that is too long".to_owned()).into());
        }
        cursor = next;
    }
    let listed = Listed {
        entries: reading.entries.into(),
        refused: reading.refused,
        mirrors: Arc::new(reading.mirrors),
    };
    Ok((listed, reading.ttl))
}

#[derive(Debug)]
struct Kept {
    until: Instant,
    changes: u64,
    listed: Listed,
}

/// The lists of one upstream, kept for as long as they hold.
#[derive(Debug, Default)]
pub(super) struct Lists(Mutex<HashMap<Kind, Kept>>);

impl Lists {
    fn kept(&self, kind: Kind, hub: &Hub) -> Option<Listed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get(&kind)?;
        let holds = kept.changes == hub.changes(kind.changed_by()) && Instant::now() < kept.until;
        holds.then(|| kept.listed.clone())
    }

    /// The list as it is now.
    pub(super) async fn fresh(
        &self,
        connection: &Connection,
        hub: &Hub,
        kind: Kind,
    ) -> Result<Listed, Lost> {
        // Counted first: a change while the list is read makes it old.
        let changes = hub.changes(kind.changed_by());
        let (listed, ttl) = read(connection, hub, kind).await?;
        let kept = Kept { until: Instant::now() + ttl, changes, listed: listed.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, kept);
        Ok(listed)
    }

    /// The list, read anew only where what is known does not hold any more.
    pub(super) async fn get(
        &self,
        connection: &Connection,
        hub: &Hub,
        kind: Kind,
    ) -> Result<Listed, Lost> {
        match self.kept(kind, hub) {
            Some(listed) => Ok(listed),
            None => self.fresh(connection, hub, kind).await,
        }
    }

    /// The parameters of `tool` that go into headers, by the last list however old it is: where it
    /// no longer holds, the upstream says so.
    pub(super) async fn mirrors(
        &self,
        connection: &Connection,
        hub: &Hub,
        tool: &str,
    ) -> Result<Vec<Mirror>, Lost> {
        let known = {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&Kind::Tools).map(|kept| Arc::clone(&kept.listed.mirrors))
        };
        let mirrors = match known {
            Some(mirrors) => mirrors,
            None => self.fresh(connection, hub, Kind::Tools).await?.mirrors,
        };
        Ok(mirrors.get(tool).cloned().unwrap_or_default())
    }
}

/// Everything that an upstream offers.
pub(super) async fn offer(
    connection: &Connection,
    hub: &Hub,
    lists: &Lists,
) -> Result<Offer, Failure> {
    let list = async |kind| lists.fresh(connection, hub, kind).await.map_err(connection::failure);
    let tools = list(Kind::Tools).await?;
    let resources = list(Kind::Resources).await?;
    let templates = match list(Kind::Templates).await {
        // Not every server with resources knows templates.
        Err(failure) if failure.code == "upstream_error" => {
            Listed { entries: Arc::new([]), refused: Vec::new(), mirrors: Arc::default() }
        }
        listed => listed?,
    };
    let prompts = list(Kind::Prompts).await?;
    let facts = &connection.facts;
    let refused = [&tools, &resources, &templates, &prompts];
    let refused = refused.into_iter().flat_map(|list| list.refused.iter().cloned()).collect();
    Ok(Offer {
        revision: facts.revision,
        version: facts.version.clone(),
        server_info: facts.server_info.clone(),
        capabilities: facts.capabilities.clone(),
        instructions: facts.instructions.clone(),
        tools: tools.entries.to_vec(),
        resources: resources.entries.to_vec(),
        templates: templates.entries.to_vec(),
        prompts: prompts.entries.to_vec(),
        refused,
    })
}
