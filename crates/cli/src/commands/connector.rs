//! `tally connector`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use connectors::declared::{self, Definition, Exchanges, Replayed};
use proto::connectors::{
    ConfigureConnectorRequest, Connector as Instance, ConnectorConfig, ConnectorCredential,
    DisableConnectorRequest, EnableConnectorRequest, GetConnectorRequest, InstallConnectorRequest,
    ListConnectorsRequest,
};
use serde::Serialize;

use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, when};

/// `tally connector`.
#[derive(Debug, Subcommand)]
pub(crate) enum Connector {
    /// List the instances of the tenant.
    List(Paging),
    /// List the definitions that ship with Tally, or print the text of one.
    Catalog {
        /// Which one to print.
        name: Option<String>,
    },
    /// Show one instance; with --definition, the text of its definition.
    Show {
        /// Its name.
        name: String,
        /// Print the definition and nothing else.
        #[arg(long)]
        definition: bool,
    },
    /// Install a definition: a file, or the name of one that ships with Tally.
    Install {
        /// The definition.
        definition: String,
        /// The name of the instance; the definition's where none is given.
        #[arg(long, default_value = "", value_name = "NAME")]
        name: String,
    },
    /// Say where the system of an instance is, and which secrets it is shown.
    Configure(Configure),
    /// Let the tools of an instance be called, as it is configured.
    Enable(Enable),
    /// Let the tools of an instance be called no more.
    Disable {
        /// Its name.
        name: String,
    },
    /// Replay the recorded exchanges of a definition, without any network.
    Test {
        /// The definition: a file, or the name of one that ships with Tally. Exchanges are in it,
        /// or beside it in FILE.exchanges.yaml.
        definition: String,
    },
    /// Write a new definition that passes its test, to begin with.
    New {
        /// What to call it.
        name: String,
        /// Where to write it; NAME.yaml where nothing is said.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `tally connector configure`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tally connector configure servicenow --base-url https://acme.service-now.com \\
    --secret client_id=sn-id --secret client_secret=sn-secret
  tally connector configure slack --secret token=slack-bot")]
pub(crate) struct Configure {
    /// Its name.
    name: String,
    /// Where the system is; left out where the definition says it.
    #[arg(long, default_value = "", value_name = "URL")]
    base_url: String,
    /// In which of the definition's ways requests are authorised; its first where none is given.
    #[arg(long, default_value = "", value_name = "NAME")]
    auth: String,
    /// What that needs: the name of a secret, never its value. As often as needed.
    #[arg(long = "secret", value_name = "ROLE=SECRET")]
    secrets: Vec<String>,
    /// Calls under way at once; 0 for as many as the definition says.
    #[arg(long, default_value_t = 0, value_name = "N")]
    in_flight: u32,
    /// The digest of the definition that was looked at: another one is not configured.
    #[arg(long, default_value = "", value_name = "SHA256")]
    digest: String,
}

/// `tally connector enable`.
#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// Its name.
    name: String,
    /// The digest of the definition that was looked at: another one is not enabled.
    #[arg(long, default_value = "", value_name = "SHA256")]
    digest: String,
}

impl Configure {
    fn request(self) -> anyhow::Result<ConfigureConnectorRequest> {
        let credential = |text: &String| match text.split_once('=') {
            Some((role, secret)) => {
                Ok(ConnectorCredential { role: role.to_owned(), secret: secret.to_owned() })
            }
            None => Err(Failure::Usage("--secret: ROLE=NAME-OF-A-SECRET".to_owned())),
        };
        let credentials = self.secrets.iter().map(credential).collect::<Result<_, _>>()?;
        let Self { name, base_url, auth, in_flight, digest, .. } = self;
        let config = Some(ConnectorConfig { base_url, auth, credentials, in_flight });
        Ok(ConfigureConnectorRequest { name, config, definition_digest: digest })
    }
}

impl Connector {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let output = context.output();
        let changed = match self {
            Self::Catalog { name } => return catalog(context, name.as_deref()),
            Self::Test { definition } => return test(context, &definition).await,
            Self::New { name, out } => return new(&name, out),
            Self::List(Paging { page_size, page_token }) => {
                let request = ListConnectorsRequest { page_size, page_token };
                let list = context.client()?.list_connectors(&request).await?;
                output.show(&list, |list| {
                    let header = ["name", "state", "definition", "version", "reviewed"];
                    page(header, list.connectors.iter().map(row), &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
            Self::Show { name, definition } => {
                let request = GetConnectorRequest { name };
                let shown = context.client()?.get_connector(&request).await?;
                if definition {
                    crate::output::print(&shown.text)?;
                    return Ok(Exit::Done);
                }
                shown
            }
            Self::Install { definition, name } => {
                let (definition, _) = read(&definition)?;
                let request = InstallConnectorRequest { name, definition };
                context.client()?.install_connector(&request, None).await?
            }
            Self::Configure(configure) => {
                context.client()?.configure_connector(&configure.request()?, None).await?
            }
            Self::Enable(Enable { name, digest }) => {
                let request = EnableConnectorRequest { name, definition_digest: digest };
                context.client()?.enable_connector(&request, None).await?
            }
            Self::Disable { name } => {
                let request = DisableConnectorRequest { name };
                context.client()?.disable_connector(&request, None).await?
            }
        };
        output.show(&changed, describe)?;
        Ok(Exit::Done)
    }
}

/// The text of a definition, and that of the exchanges beside it.
fn read(named: &str) -> anyhow::Result<(String, Option<String>)> {
    if let Some(shipped) = declared::shipped().iter().find(|shipped| shipped.name == named) {
        return Ok((shipped.text.to_owned(), Some(shipped.exchanges.to_owned())));
    }
    let path = Path::new(named);
    let text = fs::read_to_string(path).map_err(|error| {
        let names: Vec<&str> = declared::shipped().iter().map(|shipped| shipped.name).collect();
        let known = names.join(", ");
        Failure::Usage(format!("cannot read `{named}`: {error}; {known} ship with Tally"))
    })?;
    let beside = path.with_extension("exchanges.yaml");
    let exchanges = match fs::read_to_string(&beside) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", beside.display()))?,
    };
    Ok((text, exchanges))
}

fn catalog(context: &Context, name: Option<&str>) -> anyhow::Result<Exit> {
    #[derive(Serialize)]
    struct Entry {
        name: String,
        version: String,
        digest: String,
        description: String,
    }
    if let Some(name) = name {
        let found = declared::shipped().iter().find(|shipped| shipped.name == name);
        let found = found.ok_or_else(|| Failure::Usage(format!("no `{name}` ships with Tally")))?;
        crate::output::print(found.text)?;
        return Ok(Exit::Done);
    }
    let mut entries = Vec::new();
    for shipped in declared::shipped() {
        let Definition { name, version, digest, description, .. } =
            Definition::parse(shipped.text)?;
        let (version, digest) = (version.as_str().to_owned(), digest.to_string());
        entries.push(Entry { name, version, digest, description });
    }
    context.output().show(&entries, |entries| {
        let row = |e: &Entry| {
            [e.name.clone(), e.version.clone(), e.digest.clone(), e.description.clone()]
        };
        page(["name", "version", "digest", "what it does"], entries.iter().map(row), "")
    })?;
    Ok(Exit::Done)
}

async fn test(context: &Context, named: &str) -> anyhow::Result<Exit> {
    #[derive(Serialize)]
    struct Line<'a> {
        exchange: &'a str,
        operation: &'a str,
        passed: bool,
        problem: Option<&'a str>,
    }
    let (text, beside) = read(named)?;
    let within = |error: declared::Error| Failure::Usage(format!("{named}: {error}"));
    let definition = Arc::new(Definition::parse(&text).map_err(within)?);
    let mut exchanges = declared::exchanges_of(&text).map_err(within)?;
    if let Some(beside) = beside {
        let read: Result<Exchanges, _> = declared::exchanges_of(&beside);
        exchanges =
            exchanges.and(read.map_err(|error| {
                Failure::Usage(format!("the exchanges beside {named}: {error}"))
            })?);
    }
    if exchanges.is_empty() {
        let message = format!("{named} has no exchanges: a definition is shown to work by some");
        return Err(Failure::Usage(message).into());
    }
    let outcomes = declared::replay(&definition, &exchanges).await;
    let line = |one: &Replayed| -> String {
        match &one.problem {
            None => format!("ok      {}: {}", one.operation, one.name),
            Some(problem) => format!("FAILED  {}: {}\n        {problem}", one.operation, one.name),
        }
    };
    let lines: Vec<Line<'_>> = outcomes
        .iter()
        .map(|one| Line {
            exchange: &one.name,
            operation: &one.operation,
            passed: one.problem.is_none(),
            problem: one.problem.as_deref(),
        })
        .collect();
    let failed = outcomes.iter().filter(|one| one.problem.is_some()).count();
    context.output().show(&lines, |_| {
        let mut text: Vec<String> = outcomes.iter().map(line).collect();
        let untested = definition.untested(&outcomes);
        text.extend(untested.iter().map(|what| format!("untested  {what}")));
        text.push(format!("{} passed, {failed} failed", outcomes.len() - failed));
        text.join("\n")
    })?;
    Ok(if failed == 0 { Exit::Done } else { Exit::NotVerified })
}

fn new(name: &str, out: Option<PathBuf>) -> anyhow::Result<Exit> {
    let text = declared::scaffold(name).map_err(|error| Failure::Usage(error.to_string()))?;
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.yaml")));
    let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write `{}`", path.display()))?;
    let path = path.display();
    crate::output::print(&format!("wrote {path}: test it with `tally connector test {path}`"))?;
    Ok(Exit::Done)
}

fn row(one: &Instance) -> [String; 5] {
    let reviewed = crate::output::yes(one.reviewed);
    [one.name.clone(), state(one), one.definition.clone(), one.version.clone(), reviewed]
}

fn state(one: &Instance) -> String {
    let state = one.state().as_str_name().to_ascii_lowercase();
    if one.unusable.is_empty() { state } else { format!("{state}, unusable: {}", one.unusable) }
}

fn describe(one: &Instance) -> String {
    let config = one.config.clone().unwrap_or_default();
    let secrets: Vec<String> =
        config.credentials.iter().map(|c| format!("{}={}", c.role, c.secret)).collect();
    fields([
        ("connector", one.name.clone()),
        ("state", state(one)),
        ("definition", format!("{} {}", one.definition, one.version)),
        ("digest", one.definition_digest.clone()),
        ("installed by", one.installed_by.clone()),
        ("base url", config.base_url),
        ("auth", config.auth),
        ("secrets", secrets.join(" ")),
        ("configured by", one.configured_by.clone()),
        ("enabled by", one.enabled_by.clone()),
        ("reviewed", crate::output::yes(one.reviewed)),
        ("tools", one.tools.join(" ")),
        ("changed", when(one.changed_at)),
    ])
}
