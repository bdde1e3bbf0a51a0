//! `tally tool`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use proto::tools::{
    GetToolRegistrationRequest, GetToolRequest, GrantToolRequest, ListToolRegistrationsRequest,
    ListToolsRequest, RegisterToolRequest, RevokeToolRequest, Tool, ToolCapabilities, ToolLimits,
    ToolNetwork, ToolRegistration,
};
use proto::types::Json;
use serde::Deserialize;

use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, pretty, when, yes};

/// `tally tool`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tools {
    /// List the tools that policy lets you call, now or after approval.
    List {
        #[command(flatten)]
        paging: Paging,
        /// List what is registered as code instead, whatever policy says of it.
        #[arg(long)]
        registered: bool,
    },
    /// Show one tool with its manifest.
    Show {
        /// The id of the tool, such as core.http_call.
        id: String,
    },
    /// Show a tool that is registered as code: its digests, and what it may reach and use.
    Inspect {
        /// The id of the tool.
        id: String,
    },
    /// Register a tool that is given as code, or a higher version of it. Nobody can call it until
    /// it is granted what it may reach.
    Register(Register),
    /// Say what a registered tool may reach and use, in place of what was said before. Without
    /// options it reaches nothing.
    Grant(Grant),
    /// Take the grant of a registered tool away: nobody can call it any more.
    Revoke {
        /// The id of the tool.
        id: String,
    },
}

/// `tally tool register`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tally tool register sum.yaml --component sum.wasm
  tally tool register sum.yaml --source sum.py")]
pub(crate) struct Register {
    /// The manifest, YAML or JSON.
    manifest: PathBuf,
    /// Its code: a WebAssembly component of the world `tally:agent/agent`.
    #[arg(
        long,
        value_name = "WASM",
        conflicts_with = "source",
        required_unless_present = "source"
    )]
    component: Option<PathBuf>,
    /// Its code as source text: a file `.py`, `.js` or `.mjs`.
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// The digest that the code must have.
    #[arg(long, default_value = "", value_name = "SHA256")]
    digest: String,
}

/// `tally tool grant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tally tool grant acme.fetch --network api.example.com:443 --env 'ACME_*' --memory-mb 64")]
pub(crate) struct Grant {
    /// The id of the tool.
    id: String,
    /// The digest of the code, as `tally tool inspect` shows it: other code is not granted. Without
    /// it, the code that is registered now.
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    /// A glob of absolute paths that it may read, such as /data/*. May be repeated.
    #[arg(long, value_name = "GLOB")]
    file_read: Vec<String>,
    /// A glob of absolute paths that it may write. May be repeated.
    #[arg(long, value_name = "GLOB")]
    file_write: Vec<String>,
    /// A host that it may speak to: HOST:PORT, HOST (port 443) or *.HOST. May be repeated.
    #[arg(long, value_name = "HOST")]
    network: Vec<String>,
    /// A range of addresses that no host may lead to, such as 169.254.0.0/16. May be repeated.
    #[arg(long, value_name = "CIDR")]
    network_deny: Vec<String>,
    /// A glob of names of variables that it may see, such as ACME_*. May be repeated.
    #[arg(long, value_name = "GLOB")]
    env: Vec<String>,
    /// How much memory it may have, in MiB.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    memory_mb: u32,
    /// How long its code may run, in milliseconds; waiting does not count.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    cpu_ms: u32,
    /// How long it may take, in milliseconds; waiting for people does not count.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    wall_ms: u32,
    /// How much fuel it may use, about one unit an instruction.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    fuel: u64,
    /// How many bytes its result, and each file that it writes, may have.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    output_bytes: u32,
    /// How often it may call other tools.
    #[arg(long, value_name = "N")]
    tool_calls: Option<u32>,
}

/// What a list shows of a manifest.
#[derive(Default, Deserialize)]
struct Summary {
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    description: String,
}

impl Summary {
    fn of(manifest: Option<&Json>) -> Self {
        manifest.and_then(|json| json.decode().ok()).unwrap_or_default()
    }
}

impl Register {
    fn request(&self) -> anyhow::Result<RegisterToolRequest> {
        let mut request = RegisterToolRequest {
            manifest: Some(manifest(&self.manifest)?),
            code_digest: self.digest.clone(),
            ..RegisterToolRequest::default()
        };
        let failed = |path: &Path| format!("cannot read `{}`", path.display());
        if let Some(path) = &self.component {
            request.component = fs::read(path).with_context(|| failed(path))?;
        }
        if let Some(path) = &self.source {
            request.language = language(path)?.to_owned();
            request.source = fs::read_to_string(path).with_context(|| failed(path))?;
        }
        Ok(request)
    }
}

/// A manifest in either form, as JSON. What is JSON stays the text that it is.
fn manifest(path: &Path) -> anyhow::Result<Json> {
    let failed = || format!("cannot read `{}`", path.display());
    let text = fs::read_to_string(path).with_context(failed)?;
    if let Ok(json) = Json::new(text.as_str()) {
        return Ok(json);
    }
    let value: serde_json::Value = serde_yaml_ng::from_str(&text)
        .map_err(|error| Failure::Usage(format!("`{}`: {error}", path.display())))?;
    Ok(Json::of(&value)?)
}

fn language(path: &Path) -> anyhow::Result<&'static str> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("py") => Ok("python"),
        Some("js" | "mjs") => Ok("javascript"),
        _ => Err(Failure::Usage("--source: a file `.py`, `.js` or `.mjs`".to_owned()).into()),
    }
}

impl Grant {
    fn request(self, code_digest: String) -> GrantToolRequest {
        let capabilities = ToolCapabilities {
            file_read: self.file_read,
            file_write: self.file_write,
            network: Some(ToolNetwork { allowlist: self.network, denylist: self.network_deny }),
            env: self.env,
        };
        let limits = ToolLimits {
            memory_mb: self.memory_mb,
            cpu_ms: self.cpu_ms,
            wall_ms: self.wall_ms,
            fuel: self.fuel,
            output_bytes: self.output_bytes,
            tool_calls: self.tool_calls,
        };
        let (capabilities, limits) = (Some(capabilities), Some(limits));
        GrantToolRequest { tool_id: self.id, code_digest, capabilities, limits }
    }
}

impl Tools {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List { paging: Paging { page_size, page_token }, registered: false } => {
                let request = ListToolsRequest { page_size, page_token };
                let list = client.list_tools(&request).await?;
                output.show(&list, |list| {
                    let rows = list.tools.iter().map(row);
                    page(["id", "labels", "what it does"], rows, &next(&list.next_page_token))
                })?;
            }
            Self::List { paging: Paging { page_size, page_token }, registered: true } => {
                let request = ListToolRegistrationsRequest { page_size, page_token };
                let list = client.list_tool_registrations(&request).await?;
                output.show(&list, |list| {
                    let rows = list.registrations.iter().map(registered_row);
                    let header = ["id", "version", "state", "code", "digest"];
                    page(header, rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { id: tool_id } => {
                let tool = client.get_tool(&GetToolRequest { tool_id }).await?;
                output.show(&tool, describe)?;
            }
            Self::Inspect { id: tool_id } => {
                let request = GetToolRegistrationRequest { tool_id };
                output.show(&client.get_tool_registration(&request).await?, inspect)?;
            }
            Self::Register(register) => {
                let tool = client.register_tool(&register.request()?, None).await?;
                output.show(&tool, inspect)?;
            }
            Self::Grant(mut grant) => {
                let digest = match grant.digest.take() {
                    Some(digest) => digest,
                    None => {
                        let request = GetToolRegistrationRequest { tool_id: grant.id.clone() };
                        client.get_tool_registration(&request).await?.code_digest
                    }
                };
                let tool = client.grant_tool(&grant.request(digest), None).await?;
                output.show(&tool, inspect)?;
            }
            Self::Revoke { id: tool_id } => {
                let tool = client.revoke_tool(&RevokeToolRequest { tool_id }, None).await?;
                output.show(&tool, inspect)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(tool: &Tool) -> [String; 3] {
    let Summary { labels, description } = Summary::of(tool.manifest.as_ref());
    let sentence = description.split(". ").next().unwrap_or_default().to_owned();
    [tool.tool_id.clone(), labels.join(" "), sentence]
}

fn registered_row(tool: &ToolRegistration) -> [String; 5] {
    [
        tool.tool_id.clone(),
        tool.version.clone(),
        state(tool),
        tool.code_kind.clone(),
        tool.code_digest.clone(),
    ]
}

fn state(tool: &ToolRegistration) -> String {
    let name = tool.state().as_str_name();
    match tool.reason.as_str() {
        "" => name.to_owned(),
        reason => format!("{name} ({reason})"),
    }
}

fn describe(tool: &Tool) -> String {
    let head = fields([("tool", tool.tool_id.clone()), ("digest", tool.digest.clone())]);
    let manifest = tool.manifest.as_ref().map(|json| pretty(&json.text));
    format!("{head}manifest\n{}", manifest.unwrap_or_default())
}

fn inspect(tool: &ToolRegistration) -> String {
    let Summary { labels, description } = Summary::of(tool.manifest.as_ref());
    let granted = tool.capabilities.clone();
    let nothing = granted.as_ref().is_some_and(|all| *all == empty());
    let ToolCapabilities { file_read, file_write, network, env } = granted.unwrap_or_default();
    let ToolNetwork { allowlist, denylist } = network.unwrap_or_default();
    let reviewed = if tool.granted_by.is_empty() { String::new() } else { yes(tool.reviewed) };
    fields([
        ("tool", tool.tool_id.clone()),
        ("version", tool.version.clone()),
        ("state", state(tool)),
        ("what it does", description),
        ("labels", labels.join(" ")),
        ("code", format!("{} {}", tool.code_kind, tool.code_digest)),
        ("compiled", tool.compiled_digest.clone()),
        ("engine", tool.engine.clone()),
        ("manifest", tool.manifest_digest.clone()),
        ("tool digest", tool.tool_digest.clone()),
        ("registered by", tool.registered_by.clone()),
        ("reaches", if nothing { "nothing".to_owned() } else { String::new() }),
        ("reads files", file_read.join(" ")),
        ("writes files", file_write.join(" ")),
        ("network", allowlist.join(" ")),
        ("but not", denylist.join(" ")),
        ("variables", env.join(" ")),
        ("limits", tool.limits.as_ref().map(limits).unwrap_or_default()),
        ("granted by", tool.granted_by.clone()),
        ("granted", when(tool.granted_at)),
        ("may run in prod", reviewed),
        ("changed", when(tool.changed_at)),
    ])
}

fn empty() -> ToolCapabilities {
    ToolCapabilities { network: Some(ToolNetwork::default()), ..ToolCapabilities::default() }
}

fn limits(limits: &ToolLimits) -> String {
    let ToolLimits { memory_mb, cpu_ms, wall_ms, fuel, output_bytes, tool_calls } = limits;
    let calls = tool_calls.unwrap_or_default();
    format!(
        "{memory_mb} MiB, {cpu_ms} ms of {wall_ms} ms, {fuel} fuel, {output_bytes} bytes, {calls} \
         calls"
    )
}
