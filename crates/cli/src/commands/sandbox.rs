//! `tally sandbox`: code in a sandbox, with what it is granted and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use client::Client;
use proto::actions::action::State;
use proto::sandboxes::{
    CancelExecutionRequest, Capabilities, Denial, ExecuteRequest, Execution, GetExecutionRequest,
    Limits, ListExecutionsRequest, Network, ToolCall,
};

use super::actions::json_argument;
use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, usd, when};

/// How long one request waits for an execution.
const WAIT_MS: u32 = 60_000;
/// Between two looks at one that `--wait` waits for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `tally sandbox`.
#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// Run an agent: Python or JavaScript source, or a WebAssembly component.
    Run(Box<Run>),
    /// List executions, newest first.
    List {
        /// Only those in this state, such as executing.
        #[arg(long, value_parser = super::actions::state)]
        state: Option<State>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one execution.
    Show {
        /// The id of the execution.
        id: String,
    },
    /// End an execution. A call of it that waits for people is withdrawn.
    Stop {
        /// The id of the execution.
        id: String,
    },
}

/// What keeps code apart.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Type {
    /// A process of its own, for development.
    #[value(alias = "LIGHT")]
    Light,
    /// WebAssembly.
    #[value(alias = "STANDARD")]
    Standard,
    /// WebAssembly in a confined process: not built yet.
    #[value(alias = "HARDENED")]
    Hardened,
    /// A trusted execution environment: not built yet.
    #[value(alias = "TEE")]
    Tee,
}

/// How much is attested.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Level {
    /// The hashes of code, input and output.
    Basic,
    /// Also tools, limits, capabilities and runtime.
    Full,
}

/// What to run and what it is granted.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The code: agent.py, agent.js or agent.wasm.
    #[arg(required_unless_present = "tool", conflicts_with = "tool")]
    code: Option<PathBuf>,
    /// A registered tool in place of a file.
    #[arg(long, value_name = "ID")]
    tool: Option<String>,
    /// What it is given: JSON, @FILE to read it from a file, or - for standard input.
    #[arg(long, default_value = "null", value_name = "JSON")]
    input: String,
    /// Files that it may read, such as '/data/*'; may be repeated. A folder means all below it.
    #[arg(long, value_name = "GLOB")]
    file_read: Vec<String>,
    /// Files that it may write; may be repeated.
    #[arg(long, value_name = "GLOB")]
    file_write: Vec<String>,
    /// A host that it may speak to, such as api.example.com:443; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    network: Vec<String>,
    /// Addresses that no host may have, such as 10.0.0.0/8; may be repeated.
    #[arg(long, value_name = "CIDR")]
    deny: Vec<String>,
    /// A variable that it may read, such as 'APP_*'; may be repeated.
    #[arg(long, value_name = "GLOB")]
    env: Vec<String>,
    /// The same in one: file-read:./data,file-write:./out,network-out:api.example.com,env:USER.
    #[arg(long, value_delimiter = ',', value_name = "KIND:WHAT")]
    capabilities: Vec<String>,
    /// Memory, in MiB.
    #[arg(long, value_name = "MB")]
    memory_mb: Option<u64>,
    /// How long its code may run; waiting does not count.
    #[arg(long, value_name = "MS")]
    cpu_ms: Option<u64>,
    /// How long it may take; waiting for people does not count.
    #[arg(long, value_name = "MS")]
    wall_ms: Option<u64>,
    /// Units of fuel: about one an instruction.
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Calls of tools.
    #[arg(long, value_name = "N")]
    tool_calls: Option<u32>,
    /// How much is attested.
    #[arg(long, value_name = "LEVEL")]
    attest: Option<Level>,
    /// What keeps it apart.
    #[arg(long = "type", value_name = "TYPE")]
    sandbox_type: Option<Type>,
    /// Wait for its end, however long people take.
    #[arg(long)]
    wait: bool,
    /// The account that pays; without it that of the principal.
    #[arg(long, default_value = "", value_name = "ID")]
    account: String,
    /// A key of your own: a repetition with the same key runs nothing again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Sandbox {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Run(run) => {
                let (wait, key) = (run.wait, run.idempotency_key.clone());
                let request = run.request()?;
                let mut execution = client.execute(&request, key.as_deref()).await?;
                if wait {
                    execution = ended(&client, execution).await?;
                }
                output.show(&execution, describe)?;
                Ok(Exit::of_state(execution.state()))
            }
            Self::List { state, paging: Paging { page_size, page_token } } => {
                let state = state.unwrap_or_default().into();
                let request = ListExecutionsRequest { state, page_size, page_token };
                let list = client.list_executions(&request).await?;
                output.show(&list, |list| {
                    let rows = list.executions.iter().map(row);
                    let header = ["id", "type", "state", "outcome", "created"];
                    page(header, rows, &next(&list.next_page_token))
                })?;
                Ok(Exit::Done)
            }
            Self::Show { id: execution_id } => {
                let execution = client.get_execution(&GetExecutionRequest { execution_id }).await?;
                output.show(&execution, describe)?;
                Ok(Exit::Done)
            }
            Self::Stop { id: execution_id } => {
                let request = CancelExecutionRequest { execution_id };
                output.show(&client.cancel_execution(&request, None).await?, describe)?;
                Ok(Exit::Done)
            }
        }
    }
}

/// The execution once it has ended.
async fn ended(client: &Client, mut execution: Execution) -> anyhow::Result<Execution> {
    let pending = |state| Exit::of_state(state) == Exit::Pending && state != State::Unknown;
    while pending(execution.state()) {
        tokio::time::sleep(LOOK_EVERY).await;
        let execution_id = execution.execution_id.clone();
        execution = client.get_execution(&GetExecutionRequest { execution_id }).await?;
    }
    Ok(execution)
}

impl Run {
    fn request(self) -> anyhow::Result<ExecuteRequest> {
        let mut granted = Capabilities {
            file_read: paths(&self.file_read)?,
            file_write: paths(&self.file_write)?,
            network: Some(Network { allowlist: self.network, denylist: self.deny }),
            env: self.env,
        };
        for grant in &self.capabilities {
            add(&mut granted, grant)?;
        }
        let mut request = ExecuteRequest {
            input: Some(json_argument(&self.input).context("--input")?),
            capabilities: Some(granted),
            limits: Some(Limits {
                memory_bytes: self.memory_mb.map(|mb| mb.saturating_mul(1 << 20)),
                cpu_ms: self.cpu_ms,
                wall_ms: self.wall_ms,
                fuel: self.fuel,
                output_bytes: None,
                tool_calls: self.tool_calls,
            }),
            attestation: name(self.attest),
            r#type: name(self.sandbox_type),
            wait_ms: Some(if self.wait { WAIT_MS } else { server::limits::WAIT_MS_DEFAULT }),
            account_id: self.account,
            tool: self.tool.unwrap_or_default(),
            ..ExecuteRequest::default()
        };
        if let Some(path) = &self.code {
            code(path, &mut request)?;
        }
        Ok(request)
    }
}

/// The name of a value of the command line.
fn name<T: ValueEnum>(value: Option<T>) -> String {
    let value = value.and_then(|value| value.to_possible_value());
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Reads code: what it is says the file's name.
fn code(path: &Path, request: &mut ExecuteRequest) -> anyhow::Result<()> {
    let bytes = || fs::read(path).with_context(|| format!("`{}`", path.display()));
    let text = || fs::read_to_string(path).with_context(|| format!("`{}`", path.display()));
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => {
            (request.language, request.source) = ("python".to_owned(), text()?);
        }
        Some("js" | "mjs") => {
            (request.language, request.source) = ("javascript".to_owned(), text()?);
        }
        Some("wasm") => request.component = bytes()?,
        _ => {
            let message = "what the code is says its name: agent.py, agent.js or agent.wasm";
            return Err(Failure::Usage(message.to_owned()).into());
        }
    }
    Ok(())
}

/// Globs of absolute paths: a relative one is taken from here, and a folder means what is below.
fn paths(globs: &[String]) -> anyhow::Result<Vec<String>> {
    globs.iter().map(|glob| absolute(glob)).collect()
}

fn absolute(glob: &str) -> anyhow::Result<String> {
    let path = Path::new(glob);
    // What is there has its links followed here: none is followed later.
    let whole = match path.canonicalize() {
        Ok(found) if found.is_dir() => found.join("**"),
        Ok(found) => found,
        Err(_) if path.is_absolute() => path.to_owned(),
        Err(_) => {
            let here = std::env::current_dir().context("the folder here")?;
            here.join(path.strip_prefix("./").unwrap_or(path))
        }
    };
    let text = whole.to_str().map(str::to_owned);
    Ok(text.ok_or_else(|| Failure::Usage(format!("`{glob}` is no UTF-8")))?)
}

/// Adds a grant as one word: `file-read:./data`.
fn add(granted: &mut Capabilities, grant: &str) -> anyhow::Result<()> {
    let usage = || Failure::Usage(format!("--capabilities: `{grant}`: write KIND:WHAT"));
    let (kind, what) = grant.split_once(':').ok_or_else(usage)?;
    match kind {
        "file-read" => granted.file_read.push(absolute(what)?),
        "file-write" => granted.file_write.push(absolute(what)?),
        "network-out" | "network" => {
            granted.network.get_or_insert_default().allowlist.push(what.to_owned());
        }
        "env" => granted.env.push(what.to_owned()),
        _ => {
            let known = "file-read, file-write, network-out, env";
            let message = format!("--capabilities: `{kind}`: there are {known}");
            return Err(Failure::Usage(message).into());
        }
    }
    Ok(())
}

fn row(execution: &Execution) -> [String; 5] {
    let state = execution.state().as_str_name().to_owned();
    let Execution { execution_id, r#type, outcome, created_at, .. } = execution.clone();
    [execution_id, r#type, state, outcome, when(created_at)]
}

/// An execution for people.
fn describe(execution: &Execution) -> String {
    let error = execution.error.as_ref();
    let denied = |denial: &Denial| format!("{} {}", denial.capability, denial.wanted);
    let called = |call: &ToolCall| {
        let error = if call.error.is_empty() { String::new() } else { format!(" {}", call.error) };
        format!("{} {} {}{error} {}", call.seq, call.tool, call.status, call.action_id)
    };
    let lines = |lines: Vec<String>| lines.join("; ");
    let used = match execution.fuel_used {
        0 => String::new(),
        fuel => format!("{fuel} fuel, {} bytes of memory", execution.memory_peak_bytes),
    };
    let output = execution.output.as_ref().map(|json| json.text.clone());
    fields([
        ("execution", execution.execution_id.clone()),
        ("state", execution.state().as_str_name().to_owned()),
        ("outcome", execution.outcome.clone()),
        ("output", output.unwrap_or_default()),
        ("error", error.map_or_else(String::new, |e| format!("{} ({})", e.message, e.code))),
        ("denied", lines(execution.denials.iter().map(denied).collect())),
        ("tool calls", lines(execution.tool_calls.iter().map(called).collect())),
        ("written", lines(execution.written.iter().map(|file| file.path.clone()).collect())),
        ("used", used),
        ("sandbox", format!("{} {}", execution.r#type, execution.sandbox_id).trim().to_owned()),
        ("attested", execution.attestation.clone()),
        ("approval", execution.approval_id.clone()),
        ("cost", usd(execution.cost_micro_usd)),
        ("receipts", execution.receipts.join(" ")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_in_one_word() {
        let mut granted = Capabilities::default();
        for grant in ["file-read:/data/*", "file-write:/out/x", "network-out:a.example:8", "env:A"]
        {
            add(&mut granted, grant).unwrap();
        }
        assert_eq!((granted.file_read, granted.env), (vec!["/data/*".into()], vec!["A".into()]));
        assert_eq!(granted.file_write, ["/out/x"]);
        assert_eq!(granted.network.unwrap().allowlist, ["a.example:8"]);
        for bad in ["file-read", "process:sh"] {
            add(&mut Capabilities::default(), bad).unwrap_err();
        }
    }

    #[test]
    fn a_folder_means_what_is_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let whole = absolute(folder.path().to_str().unwrap()).unwrap();
        assert!(whole.ends_with("/**"), "{whole}");
        assert!(absolute("./not/there").unwrap().starts_with('/'));
    }
}
