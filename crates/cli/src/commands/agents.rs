//! `tally agent` and `tally recovery`.

use clap::Subcommand;
use proto::agents::{
    Agent as Entry, CreateAgentRequest, DisableAgentRequest, GetAgentRequest,
    HeartbeatAgentRequest, ListAgentsRequest, RegisterAgentRequest, UpdateAgentRequest,
};
use proto::recovery::{GetRecoveryStatsRequest, SuggestRecoveryRequest};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, usd};

/// `tally agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Create an agent. It needs a key: `tally key create`.
    Create {
        /// Its name, for people.
        #[arg(long)]
        name: String,
        /// A role that it is to have, once for each; `agent` where none is given.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// The account that it is to pay from.
        #[arg(long, value_name = "ID", default_value = "")]
        account: String,
    },
    /// List the agents.
    List(Paging),
    /// Show one agent.
    Show {
        /// The id of the agent.
        id: String,
    },
    /// Set the roles of an agent.
    Roles {
        /// The id of the agent.
        id: String,
        /// A role that it is to have, once for each.
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
    },
    /// End an agent. What it did stays on record.
    Disable {
        /// The id of the agent.
        id: String,
    },
    /// As an agent, say what you are and that you are there.
    Register {
        /// Name and version of the program, such as `triage/1.4.2`.
        build: String,
    },
    /// As an agent, say that you are there.
    Heartbeat {
        /// The id of the agent: the credential's own.
        id: String,
    },
}

impl Agent {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Create { name, roles, account: account_id } => {
                let request = CreateAgentRequest { name, roles, account_id };
                output.show(&client.create_agent(&request, None).await?, describe)?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListAgentsRequest { page_size, page_token };
                let list = client.list_agents(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "name", "status", "left", "runs", "failed"];
                    let rows = list.agents.iter().map(|agent| {
                        let left = usd(agent.remaining_budget_micro_usd);
                        let Entry { agent_id, name, status, runs_count, runs_failed, .. } =
                            agent.clone();
                        let (runs, failed) = (runs_count.to_string(), runs_failed.to_string());
                        [agent_id, name, status, left, runs, failed]
                    });
                    page(header, rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { id: agent_id } => {
                let agent = client.get_agent(&GetAgentRequest { agent_id }).await?;
                output.show(&agent, describe)?;
            }
            Self::Roles { id: agent_id, roles } => {
                let request = UpdateAgentRequest { agent_id, roles };
                output.show(&client.update_agent(&request, None).await?, describe)?;
            }
            Self::Disable { id: agent_id } => {
                let request = DisableAgentRequest { agent_id };
                output.show(&client.disable_agent(&request, None).await?, describe)?;
            }
            Self::Register { build } => {
                let request = RegisterAgentRequest { build };
                output.show(&client.register_agent(&request, None).await?, describe)?;
            }
            Self::Heartbeat { id: agent_id } => {
                let request = HeartbeatAgentRequest { agent_id };
                let heard = client.heartbeat_agent(&request, None).await?;
                output.show(&heard, |heard| {
                    let next = format!("in {} s", heard.next_in_s);
                    fields([("status", heard.status.clone()), ("next", next)])
                })?;
            }
        }
        Ok(Exit::Done)
    }
}

fn describe(agent: &Entry) -> String {
    let seen = agent.last_seen_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
    fields([
        ("agent", agent.agent_id.clone()),
        ("name", agent.name.clone()),
        ("roles", agent.roles.join(" ")),
        ("status", agent.status.clone()),
        ("last seen", seen),
        ("build", agent.build.clone()),
        ("account", agent.account_id.clone()),
        ("left", usd(agent.remaining_budget_micro_usd)),
        ("runs", agent.runs_count.to_string()),
        ("executed", agent.runs_executed.to_string()),
        ("failed", agent.runs_failed.to_string()),
    ])
}

/// `tally recovery`.
#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// Show what failed, and what came of what was tried then.
    Stats {
        /// Only failures of this tool.
        #[arg(long, value_name = "ID", default_value = "")]
        tool: String,
    },
    /// Say what may be done about a failure. Nothing is done.
    Suggest {
        /// The action that failed.
        #[arg(conflicts_with_all = ["tool", "code", "category"], default_value = "")]
        action: String,
        /// The tool that failed, in place of an action.
        #[arg(long, value_name = "ID", default_value = "")]
        tool: String,
        /// The code of its failure.
        #[arg(long, default_value = "")]
        code: String,
        /// The category of its failure, such as `TIMEOUT`.
        #[arg(long, default_value = "")]
        category: String,
    },
}

impl Recovery {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Stats { tool: tool_id } => {
                let request = GetRecoveryStatsRequest { tool_id };
                let stats = client.get_recovery_stats(&request).await?;
                output.show(&stats, |stats| {
                    let rows = stats.known.iter().map(|known| {
                        let tried = known
                            .tried
                            .iter()
                            .map(|one| format!("{} {}/{}", one.strategy, one.helped, one.trials));
                        let tried: Vec<String> = tried.collect();
                        let (count, tried) = (known.count.to_string(), tried.join(", "));
                        let names = [&known.tool_id, &known.code, &known.category];
                        let [tool, code, category] = names.map(Clone::clone);
                        [tool, code, category, count, tried]
                    });
                    page(["tool", "code", "category", "count", "helped"], rows, "")
                })?;
            }
            Self::Suggest { action: action_id, tool: tool_id, code, category } => {
                let request = SuggestRecoveryRequest { action_id, tool_id, code, category };
                let suggestion = client.suggest_recovery(&request).await?;
                output.show(&suggestion, |suggestion| {
                    let rows = suggestion.candidates.iter().map(|one| {
                        let trust = format!("{:.2}", one.confidence);
                        let helped = format!("{}/{}", one.helped, one.trials);
                        [one.strategy.clone(), trust, helped, one.source.clone()]
                    });
                    let selected = suggestion.selected.as_ref();
                    let head = fields([
                        ("failure", format!("{} ({})", suggestion.code, suggestion.category)),
                        ("happened", suggestion.count.to_string()),
                        ("do", selected.map_or_else(String::new, |one| one.strategy.clone())),
                    ]);
                    let header = ["strategy", "trust", "helped", "by"];
                    format!("{head}{}", page(header, rows, ""))
                })?;
            }
        }
        Ok(Exit::Done)
    }
}
