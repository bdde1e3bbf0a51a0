//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    accounts, actions, agents, approvals, attest, connector, cost, dev, evidence, identity, init,
    ledger, login, mcp, me, migrate, policy, receipts, release, run, runtime, sandbox, secret,
    serve, token, tools, trigger, use_case, verify, version, witness, workflow,
};
use crate::context::Context;
use crate::demo;
use crate::exit::{self, Exit};

/// Decides, runs and proves what AI agents do.
#[derive(Debug, Parser)]
#[command(name = "tally", version, after_help = exit::HELP, after_long_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) context: Context,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell the whole story on this machine, with nothing but this program.
    Demo {
        /// Which story.
        #[arg(value_enum, default_value_t)]
        story: demo::Story,
        /// Keep the data, evidence and keys of the demo in this folder, which must be new.
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Make a folder to serve from: configuration, keys, three principals, the baseline policy.
    Init(init::Init),
    /// Run the server.
    Serve(serve::Serve),
    /// Log in with a browser and keep the session in a credentials file.
    Login(login::Login),
    /// End the session that `tally login` opened.
    Logout,
    /// Make or update the tables of a PostgreSQL database.
    Migrate(migrate::Migrate),
    /// Show who the credential in use stands for and what it may: `tally me show`.
    Whoami,
    /// Submit an action.
    Submit(actions::Submit),
    /// Follow and steer actions.
    #[command(subcommand, visible_alias = "action")]
    Actions(actions::Actions),
    /// See what waits for a person.
    #[command(subcommand)]
    Approvals(approvals::Approvals),
    /// Approve the plan that an approval shows.
    Approve(approvals::Approve),
    /// Reject the plan that an approval shows.
    Reject(approvals::Reject),
    /// Let an action that waits run without those who must approve it, in an emergency.
    BreakGlass(approvals::BreakGlass),
    /// See who you are; manage your second factor and your signing keys.
    #[command(subcommand)]
    Me(me::Me),
    /// Read receipts.
    #[command(subcommand)]
    Receipts(receipts::Receipts),
    /// Verify an evidence bundle offline.
    Verify(verify::Verify),
    /// Verify the log of a workspace, or rebuild what is derived from it.
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Export evidence for a stranger, or have a bundle verified by the server.
    #[command(subcommand)]
    Evidence(evidence::Evidence),
    /// Test, build, publish and try out policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Manage tenants.
    #[command(subcommand)]
    Tenant(identity::Tenant),
    /// Manage workspaces.
    #[command(subcommand)]
    Workspace(identity::Workspace),
    /// Manage principals: users, agents and services.
    #[command(subcommand)]
    Principal(identity::Principal),
    /// Manage API keys.
    #[command(subcommand)]
    Key(identity::Key),
    /// Issue and exchange access tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// See and end sessions of people.
    #[command(subcommand)]
    Sessions(token::Sessions),
    /// Manage service accounts.
    #[command(subcommand)]
    ServiceAccount(token::ServiceAccount),
    /// Run plans step by step; follow, steer and compare runs.
    #[command(subcommand, visible_alias = "runs")]
    Run(Box<run::Run>),
    /// Check, publish and show workflows that are kept in versions.
    #[command(subcommand)]
    Workflow(workflow::Workflow),
    /// Bring a version of a workflow into force: for a share of its runs, or for all.
    #[command(subcommand)]
    Release(release::Release),
    /// Take in what workflows are for, and score how much care that takes.
    #[command(subcommand)]
    UseCase(use_case::UseCase),
    /// Ask what a plan would come to before it runs.
    #[command(subcommand)]
    Runtime(runtime::Runtime),
    /// See the tools that policy lets you call; register tools that are given as code.
    #[command(subcommand, visible_alias = "tools")]
    Tool(tools::Tools),
    /// Run code in a sandbox and follow it.
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Show what is attested of an execution, and repeat it.
    #[command(subcommand)]
    Attest(attest::Attest),
    /// Put Tally in front of an MCP server: `tally mcp -- COMMAND`; manage those behind it.
    Mcp(Box<mcp::Mcp>),
    /// Manage agents; as an agent, say that you are there.
    #[command(subcommand)]
    Agent(agents::Agent),
    /// See what failed and what helped, and what may be done about a failure.
    #[command(subcommand)]
    Recovery(agents::Recovery),
    /// Manage the accounts that actions spend from.
    #[command(subcommand)]
    Account(accounts::Account),
    /// See what actions cost and used.
    #[command(subcommand)]
    Cost(cost::Cost),
    /// Keep the secrets that upstreams are shown. No value ever comes out again.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Connect systems by definitions that are data: ServiceNow, Slack, GitHub, and your own.
    #[command(subcommand, visible_alias = "connectors")]
    Connector(connector::Connector),
    /// Start workflows by events and times; ask people on Slack.
    #[command(subcommand)]
    Trigger(trigger::Trigger),
    /// Cosign the checkpoints of logs on other servers, and raise an alarm where one is rewritten.
    #[command(subcommand)]
    Witness(witness::Witness),
    /// Tools for building and testing on Tally.
    #[command(subcommand)]
    Dev(dev::Dev),
    /// Print the version of this program and, where one is named, of the server.
    Version,
}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Demo { story, keep } => demo::run(story, keep).await,
            Self::Init(command) => command.run(context).await,
            Self::Serve(command) => command.run().await,
            Self::Login(command) => command.run(context).await,
            Self::Logout => login::logout(context).await,
            Self::Migrate(command) => command.run(context).await,
            Self::Whoami => me::Me::Show.run(context).await,
            Self::Submit(command) => command.run(context).await,
            Self::Actions(command) => command.run(context).await,
            Self::Approvals(command) => command.run(context).await,
            Self::Approve(command) => command.run(context).await,
            Self::Reject(command) => command.run(context).await,
            Self::BreakGlass(command) => command.run(context).await,
            Self::Me(command) => command.run(context).await,
            Self::Receipts(command) => command.run(context).await,
            Self::Verify(command) => command.run(context),
            Self::Ledger(command) => command.run(context).await,
            Self::Evidence(command) => command.run(context).await,
            Self::Policy(command) => command.run(context).await,
            Self::Tenant(command) => command.run(context).await,
            Self::Workspace(command) => command.run(context).await,
            Self::Principal(command) => command.run(context).await,
            Self::Key(command) => command.run(context).await,
            Self::Token(command) => command.run(context).await,
            Self::Sessions(command) => command.run(context).await,
            Self::ServiceAccount(command) => command.run(context).await,
            Self::Run(command) => command.run(context).await,
            Self::Workflow(command) => command.run(context).await,
            Self::Release(command) => command.run(context).await,
            Self::UseCase(command) => command.run(context).await,
            Self::Runtime(command) => command.run(context).await,
            Self::Tool(command) => command.run(context).await,
            Self::Sandbox(command) => command.run(context).await,
            Self::Attest(command) => command.run(context).await,
            Self::Mcp(command) => command.run(context).await,
            Self::Agent(command) => command.run(context).await,
            Self::Recovery(command) => command.run(context).await,
            Self::Account(command) => command.run(context).await,
            Self::Cost(command) => command.run(context).await,
            Self::Secret(command) => command.run(context).await,
            Self::Connector(command) => command.run(context).await,
            Self::Trigger(command) => command.run(context).await,
            Self::Witness(command) => command.run(context).await,
            Self::Dev(command) => command.run().await,
            Self::Version => version::run(context).await,
        }
    }
}
