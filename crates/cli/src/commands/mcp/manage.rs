//! `tally mcp add|list|inspect|refresh|release|remove`: the MCP servers behind the endpoint `/mcp`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Args, Subcommand};
use proto::types::Json;
use proto::upstreams::upstream_tool::State as ToolState;
use proto::upstreams::{
    AddUpstreamRequest, Difference, GetUpstreamRequest, GetUpstreamToolRequest,
    ListUpstreamsRequest, RefreshUpstreamRequest, ReleaseUpstreamToolRequest,
    RemoveUpstreamRequest, Upstream, UpstreamTool,
};
use serde_json::{Value, json};

use crate::commands::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, pretty, when};

/// What is behind the server's endpoint `/mcp`.
#[derive(Debug, Subcommand)]
pub(crate) enum Manage {
    /// Add an MCP server: connect to it and pin the definitions of the tools that it offers.
    Add(Add),
    /// List the MCP servers.
    List(Paging),
    /// Show an MCP server with its health and tools, or one of its tools with what changed.
    Inspect {
        /// The name of the server.
        name: String,
        /// The server's own name for a tool.
        tool: Option<String>,
    },
    /// Ask an MCP server now what it offers: whether it answers, and what changed.
    #[command(visible_alias = "test")]
    Refresh {
        /// The name of the server.
        name: String,
    },
    /// Release a tool from quarantine: it may be called with the definition that is offered now.
    Release {
        /// The name of the server.
        name: String,
        /// The server's own name for the tool.
        tool: String,
        /// The digest of the offered definition, as `tally mcp inspect NAME TOOL` shows it. Without
        /// it, the difference is shown and nothing is released.
        #[arg(long, value_name = "SHA256")]
        digest: Option<String>,
    },
    /// Log in at an MCP server that takes a login, by way of a browser.
    Login(super::login::Login),
    /// Remove an MCP server: none of its tools can be called any more.
    Remove {
        /// The name of the server.
        name: String,
    },
}

/// `tally mcp add`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tally mcp add github --http https://mcp.example.com/mcp \\
    --header 'Authorization=Bearer ${secret:github}'
  tally mcp add files --label read_file=read -- \\
    npx -y @modelcontextprotocol/server-filesystem /srv")]
pub(crate) struct Add {
    /// What to call it: it is part of its tools' ids, `mcp.NAME.TOOL`.
    name: String,
    /// The URL of its endpoint, where it speaks streamable HTTP.
    #[arg(long, value_name = "URL", conflicts_with = "command")]
    http: Option<String>,
    /// Its command and arguments, where it speaks over standard input and output.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A header of every request; `${secret:NAME}` stands for a secret. May be repeated.
    #[arg(long = "header", value_name = "K=V", requires = "http")]
    headers: Vec<String>,
    /// A variable for the command, which gets a clean environment. May be repeated.
    #[arg(long = "env", value_name = "K=V", requires = "command")]
    env: Vec<String>,
    /// The folder in which the command runs.
    #[arg(long, value_name = "DIR", requires = "command")]
    cwd: Option<String>,
    /// What keeps the command apart: `light` gives it a folder of its own, none of the server's
    /// environment, and bounded means.
    #[arg(long, value_name = "TYPE", requires = "command", conflicts_with = "cwd")]
    sandbox: Option<String>,
    /// The labels of a tool, in place of all others. May be repeated.
    #[arg(long = "label", value_name = "TOOL=LABEL,…")]
    labels: Vec<String>,
    /// The price of one call of a tool, in micro-USD. May be repeated.
    #[arg(long = "price", value_name = "TOOL=N")]
    prices: Vec<String>,
    /// Take labels from what the server says of its tools; without it every tool is a write to the
    /// outside.
    #[arg(long)]
    trust_annotations: bool,
    /// Let the URL lead to this machine or its network.
    #[arg(long, requires = "http")]
    private: bool,
    /// How long one call may take.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// The whole server as JSON in place of these options, as an element of `mcp.upstreams` in
    /// tally.yaml, without its name.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["http", "command"])]
    settings: Option<String>,
    /// Take the place of another server of that name.
    #[arg(long)]
    replace: bool,
    /// Show what would be pinned, and add nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `K=V` options as pairs.
fn pairs(option: &str, texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        // The text may have a secret in it.
        _ => Err(Failure::Usage(format!("--{option}: write NAME=VALUE")).into()),
    };
    texts.iter().map(pair).collect()
}

impl Add {
    fn upstream(&self) -> anyhow::Result<Value> {
        let mut upstream = match &self.settings {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Failure::Usage(format!("--settings: {error}")))?,
            None => json!({"transport": self.transport()?}),
        };
        let Some(members) = upstream.as_object_mut() else {
            return Err(Failure::Usage("--settings: write a JSON object".to_owned()).into());
        };
        members.insert("name".to_owned(), self.name.as_str().into());
        if let Some(sandbox) = &self.sandbox {
            members.insert("sandbox".to_owned(), sandbox.as_str().into());
        }
        if self.trust_annotations {
            members.insert("trust_annotations".to_owned(), true.into());
        }
        if let Some(ms) = self.timeout_ms {
            members.insert("timeout_ms".to_owned(), ms.into());
        }
        let labels = pairs("label", &self.labels)?;
        if !labels.is_empty() {
            let words = |list: String| list.split(',').map(str::to_owned).collect::<Vec<_>>();
            let labels: BTreeMap<_, _> =
                labels.into_iter().map(|(tool, list)| (tool, words(list))).collect();
            members.insert("labels".to_owned(), json!(labels));
        }
        let number = |(tool, text): (String, String)| match text.parse::<u64>() {
            Ok(price) => Ok((tool, price)),
            Err(error) => Err(Failure::Usage(format!("--price {tool}: {error}"))),
        };
        let prices: Result<BTreeMap<_, _>, _> =
            pairs("price", &self.prices)?.into_iter().map(number).collect();
        let prices = prices?;
        if !prices.is_empty() {
            members.insert("prices".to_owned(), json!(prices));
        }
        Ok(upstream)
    }

    fn transport(&self) -> anyhow::Result<Value> {
        if let Some(url) = &self.http {
            let headers = pairs("header", &self.headers)?;
            return Ok(json!({
                "type": "http", "url": url, "headers": headers, "private": self.private,
            }));
        }
        let (command, args) = self
            .command
            .split_first()
            .ok_or_else(|| Failure::Usage("name --http, or a command after --".to_owned()))?;
        let env = pairs("env", &self.env)?;
        let mut transport = json!({"type": "stdio", "command": command, "args": args, "env": env});
        if let (Some(cwd), Some(members)) = (&self.cwd, transport.as_object_mut()) {
            members.insert("cwd".to_owned(), cwd.as_str().into());
        }
        Ok(transport)
    }
}

impl Manage {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Add(add) => {
                let request = AddUpstreamRequest {
                    upstream: Some(Json::of(&add.upstream()?)?),
                    replace: add.replace,
                    dry_run: add.dry_run,
                };
                output.show(&client.add_upstream(&request, None).await?, describe)?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListUpstreamsRequest { page_size, page_token };
                let list = client.list_upstreams(&request).await?;
                output.show(&list, |list| {
                    let header = ["name", "state", "protocol", "tools", "last error"];
                    page(header, list.upstreams.iter().map(row), &next(&list.next_page_token))
                })?;
            }
            Self::Inspect { name, tool: None } => {
                let upstream = client.get_upstream(&GetUpstreamRequest { name }).await?;
                output.show(&upstream, describe)?;
            }
            Self::Inspect { name, tool: Some(tool) } => {
                let tool = client.get_upstream_tool(&GetUpstreamToolRequest { name, tool }).await?;
                output.show(&tool, describe_tool)?;
            }
            Self::Refresh { name } => {
                let request = RefreshUpstreamRequest { name };
                output.show(&client.refresh_upstream(&request, None).await?, describe)?;
            }
            Self::Release { name, tool, digest: None } => {
                let request = GetUpstreamToolRequest { name, tool };
                let tool = client.get_upstream_tool(&request).await?;
                output.show(&tool, describe_tool)?;
                output.note(&how_to_release(&request.name, &tool))?;
            }
            Self::Release { name, tool, digest: Some(digest) } => {
                let request = ReleaseUpstreamToolRequest { name, tool, digest };
                let tool = client.release_upstream_tool(&request, None).await?;
                output.show(&tool, describe_tool)?;
            }
            Self::Login(login) => {
                output.show(&login.run(&client, output).await?, describe)?;
            }
            Self::Remove { name } => {
                let request = RemoveUpstreamRequest { name };
                let removed = client.remove_upstream(&request, None).await?;
                output.show(&removed, |removed| format!("removed {}", removed.name))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn how_to_release(name: &str, tool: &UpstreamTool) -> String {
    match tool.state() {
        ToolState::Quarantined if !tool.offered_digest.is_empty() => {
            let UpstreamTool { name: own, offered_digest, .. } = tool;
            let how = format!("tally mcp release {name} {own} --digest {offered_digest}");
            format!("nothing is released yet:\n  {how}")
        }
        _ => "there is nothing to release".to_owned(),
    }
}

fn tools(upstream: &Upstream) -> String {
    let mut text = format!("{} active", upstream.tools_active);
    for (count, what) in
        [(upstream.tools_quarantined, "quarantined"), (upstream.tools_gone, "gone")]
    {
        if count > 0 {
            let _infallible = write!(text, ", {count} {what}");
        }
    }
    text
}

fn row(upstream: &Upstream) -> [String; 5] {
    [
        upstream.name.clone(),
        upstream.state().as_str_name().to_owned(),
        upstream.protocol_version.clone(),
        tools(upstream),
        upstream.last_error.clone(),
    ]
}

fn number(n: u32) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn server(info: Option<&Json>) -> String {
    let info: Value = info.and_then(|json| json.decode().ok()).unwrap_or_default();
    let text = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    format!("{} {}", text("name"), text("version")).trim().to_owned()
}

fn describe(upstream: &Upstream) -> String {
    let by = if upstream.declared { "tally.yaml" } else { &upstream.added_by };
    let since = upstream.state_since.map(|at| format!(" since {at}")).unwrap_or_default();
    let mut text = fields([
        ("name", upstream.name.clone()),
        ("state", format!("{}{since}", upstream.state().as_str_name())),
        ("last error", upstream.last_error.clone()),
        ("server", server(upstream.server_info.as_ref())),
        ("protocol", upstream.protocol_version.clone()),
        ("tools", tools(upstream)),
        ("resources", number(upstream.resources)),
        ("prompts", number(upstream.prompts)),
        ("calls in flight", number(upstream.in_flight)),
        ("added by", by.to_owned()),
        ("last contact", upstream.contacted_at.map(|at| at.to_string()).unwrap_or_default()),
        ("spec digest", upstream.spec_digest.clone()),
        ("settings", upstream.settings.as_ref().map(|json| json.text.clone()).unwrap_or_default()),
    ]);
    if !upstream.tools.is_empty() {
        let rows = upstream.tools.iter().map(|tool| {
            let state = tool.state().as_str_name().to_owned();
            let about =
                if tool.reason.is_empty() { tool.labels.join(" ") } else { tool.reason.clone() };
            let digest = if tool.offered_digest.is_empty() {
                &tool.pinned_digest
            } else {
                &tool.offered_digest
            };
            [tool.name.clone(), state, about, digest.clone()]
        });
        text.push('\n');
        text += &page(["tool", "state", "labels or reason", "definition"], rows, "");
    }
    if !upstream.stderr_tail.is_empty() {
        let _infallible = write!(text, "\nstandard error\n{}", plain(&upstream.stderr_tail));
    }
    text
}

/// Text of a stranger, without what would steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '\n' || !c.is_control() { c } else { '\u{fffd}' }).collect()
}

fn describe_tool(tool: &UpstreamTool) -> String {
    let mut text = fields([
        ("tool", tool.name.clone()),
        ("id", tool.tool_id.clone()),
        ("state", tool.state().as_str_name().to_owned()),
        ("reason", tool.reason.clone()),
        ("labels", tool.labels.join(" ")),
        ("what it does", plain(&tool.description)),
        ("pinned", tool.pinned_digest.clone()),
        ("released by", tool.released_by.clone()),
        ("offered", tool.offered_digest.clone()),
        ("changed", when(tool.changed_at)),
    ]);
    for Difference { pointer, before, after } in &tool.differences {
        let side = |sign: &str, json: &Option<Json>| match json {
            Some(json) => format!("  {sign} {}\n", plain(&json.text)),
            None => String::new(),
        };
        let place = if pointer.is_empty() { "the whole definition" } else { pointer };
        let _infallible =
            write!(text, "{}\n{}{}", plain(place), side("-", before), side("+", after));
    }
    if tool.differences.is_empty()
        && let Some(definition) = tool.offered.as_ref().or(tool.pinned.as_ref())
    {
        text += &plain(&pretty(&definition.text));
    }
    text
}
