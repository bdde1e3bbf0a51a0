//! `tally trigger`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use proto::triggers::{
    CreateTriggerRequest, Delivery, DisableTriggerRequest, DiscardDeliveryRequest,
    EnableTriggerRequest, GetTriggerRequest, ListDeliveriesRequest, ListTriggersRequest, Mapping,
    Match, RemoveTriggerRequest, ReplayDeliveryRequest, Slack, TestTriggerRequest,
    TestTriggerResponse, Trigger as Entry,
};
use proto::types::Json;

use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, pretty, when, yes};

/// `tally trigger`.
#[derive(Debug, Subcommand)]
pub(crate) enum Trigger {
    /// Set up what starts a workflow by itself, or where people are asked on Slack.
    Create(Box<Create>),
    /// List the triggers.
    List(Paging),
    /// Show a trigger.
    Show(Name),
    /// Have a disabled trigger start runs again.
    Enable(Name),
    /// Have a trigger start nothing.
    Disable(Name),
    /// Remove a trigger.
    #[command(visible_alias = "remove")]
    Delete(Name),
    /// List the deliveries of the workspace that started no run when they came.
    Deliveries {
        /// Only those in this state: dead, started or discarded.
        #[arg(long, default_value = "")]
        state: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Try a dead delivery again: it starts the run of its event, once.
    Replay(DeliveryId),
    /// Give a dead delivery up.
    Discard(DeliveryId),
    /// Show what a trigger would make of an event. Nothing is started.
    Test {
        #[command(flatten)]
        name: Name,
        /// A file with the body that would be delivered, as JSON. None for a schedule.
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
        /// What the event is called, where its body does not say: GitHub's `X-GitHub-Event`.
        #[arg(long, default_value = "", value_name = "NAME")]
        event_name: String,
    },
}

/// Which trigger.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The name of the trigger.
    name: String,
}

/// Which delivery.
#[derive(Debug, Args)]
pub(crate) struct DeliveryId {
    /// The id of the delivery: dlv_….
    delivery_id: String,
}

/// `tally trigger create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tally trigger create incidents --source servicenow --secret servicenow-hook \\
    --principal svc_… --workflow itsm-triage --event incident.created --input sys_id=/record/sys_id
  tally trigger create reviews --source github --secret github-hook --principal svc_… \\
    --workflow review --event pull_request.opened --input number=/pull_request/number
  tally trigger create nightly --source schedule --cron '0 3 * * *' --principal svc_… \\
    --workflow tidy
  tally trigger create ops --source slack --secret slack-signing --principal svc_… \\
    --team T0123 --channel C0123")]
pub(crate) struct Create {
    /// What to call it: part of the URL that its source delivers to.
    name: String,
    /// From where it is delivered: servicenow, github, slack or schedule.
    #[arg(long)]
    source: String,
    /// The service that starts the runs, and that posts on Slack.
    #[arg(long, value_name = "ID")]
    principal: String,
    /// The secret that signs what is delivered: `tally secret put NAME`.
    #[arg(long, default_value = "", value_name = "NAME")]
    secret: String,
    /// The workflow to start.
    #[arg(long, default_value = "", value_name = "NAME")]
    workflow: String,
    /// The workspace of the runs; without it that of the credential.
    #[arg(long, default_value = "", value_name = "NAME")]
    workspace: String,
    /// Their environment; without it that of the credential.
    #[arg(long, default_value = "", value_name = "NAME")]
    environment: String,
    /// An event to take, such as pull_request.opened; without any, all. May be repeated.
    #[arg(long = "event", value_name = "NAME")]
    events: Vec<String>,
    /// What an event must have: a JSON pointer and a value, text or JSON. May be repeated.
    #[arg(long = "equals", value_name = "POINTER=VALUE")]
    equals: Vec<String>,
    /// What a run is given: a name in its input and a JSON pointer. May be repeated.
    #[arg(long = "input", value_name = "NAME=POINTER")]
    input: Vec<String>,
    /// When a schedule is due, in UTC: minute, hour, day, month, day of the week.
    #[arg(long, default_value = "", value_name = "EXPR")]
    cron: String,
    /// Slack's id of the workspace whose people may answer.
    #[arg(long, value_name = "T…", requires = "channel")]
    team: Option<String>,
    /// Slack's id of the channel in which they are asked.
    #[arg(long, value_name = "C…", requires = "team")]
    channel: Option<String>,
    /// The connector that posts there.
    #[arg(long, default_value = "slack", value_name = "NAME")]
    instance: String,
    /// How much they are shown: full, or metadata.
    #[arg(long, default_value = "full")]
    cards: String,
}

/// The two sides of `a=b`.
fn pair<'a>(option: &str, text: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
    let usage = || Failure::Usage(format!("--{option} takes two sides: `{text}` has no `=`"));
    Ok(text.split_once('=').ok_or_else(usage)?)
}

impl Create {
    fn request(self) -> anyhow::Result<CreateTriggerRequest> {
        let equals = self.equals.iter().map(|text| {
            let (pointer, value) = pair("equals", text)?;
            // What is no JSON is a text.
            let value = Json::new(value).or_else(|_| Json::of(&value))?;
            Ok(Match { pointer: pointer.to_owned(), value: Some(value) })
        });
        let equals = equals.collect::<anyhow::Result<_>>()?;
        let input = self.input.iter().map(|text| {
            let (name, pointer) = pair("input", text)?;
            Ok(Mapping { name: name.to_owned(), pointer: pointer.to_owned() })
        });
        let input = input.collect::<anyhow::Result<_>>()?;
        let (instance, cards) = (self.instance, self.cards);
        let place = self.team.zip(self.channel);
        let slack = place.map(|(team, channel)| Slack { team, channel, instance, cards });
        Ok(CreateTriggerRequest {
            name: self.name,
            source: self.source,
            workspace: self.workspace,
            environment: self.environment,
            principal_id: self.principal,
            secret: self.secret,
            workflow: self.workflow,
            events: self.events,
            equals,
            input,
            cron: self.cron,
            slack,
        })
    }
}

impl Trigger {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let trigger = match self {
            Self::Create(create) => client.create_trigger(&create.request()?, None).await?,
            Self::Show(Name { name }) => client.get_trigger(&GetTriggerRequest { name }).await?,
            Self::Enable(Name { name }) => {
                client.enable_trigger(&EnableTriggerRequest { name }, None).await?
            }
            Self::Disable(Name { name }) => {
                client.disable_trigger(&DisableTriggerRequest { name }, None).await?
            }
            Self::Delete(Name { name }) => {
                client.remove_trigger(&RemoveTriggerRequest { name }, None).await?
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListTriggersRequest { page_size, page_token };
                let list = client.list_triggers(&request).await?;
                output.show(&list, |list| {
                    let header = ["name", "source", "state", "workflow", "next"];
                    page(header, list.triggers.iter().map(row), &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
            Self::Deliveries { state, paging: Paging { page_size, page_token } } => {
                let request = ListDeliveriesRequest { state, page_size, page_token };
                let list = client.list_deliveries(&request).await?;
                output.show(&list, |list| {
                    let header = ["delivery", "trigger", "state", "why", "run", "since"];
                    let rows = list.deliveries.iter().map(delivery_row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
            Self::Replay(DeliveryId { delivery_id }) => {
                let request = ReplayDeliveryRequest { delivery_id };
                output.show(&client.replay_delivery(&request, None).await?, describe_delivery)?;
                return Ok(Exit::Done);
            }
            Self::Discard(DeliveryId { delivery_id }) => {
                let request = DiscardDeliveryRequest { delivery_id };
                output.show(&client.discard_delivery(&request, None).await?, describe_delivery)?;
                return Ok(Exit::Done);
            }
            Self::Test { name: Name { name }, event, event_name } => {
                let event = event.map(|path| {
                    let text = fs::read_to_string(&path);
                    let text = text.with_context(|| format!("cannot read `{}`", path.display()))?;
                    Json::new(text).with_context(|| format!("`{}` is no JSON", path.display()))
                });
                let request = TestTriggerRequest { name, event: event.transpose()?, event_name };
                let tested = client.test_trigger(&request).await?;
                output.show(&tested, describe_test)?;
                return Ok(Exit::Done);
            }
        };
        output.show(&trigger, describe)?;
        Ok(Exit::Done)
    }
}

fn row(entry: &Entry) -> [String; 5] {
    let Entry { name, source, state, workflow, next_at, .. } = entry.clone();
    [name, source, state, workflow, when(next_at)]
}

fn delivery_row(one: &Delivery) -> [String; 6] {
    let Delivery { delivery_id, trigger, state, error, run_id, died_at, .. } = one.clone();
    let why = error.map(|error| error.code).unwrap_or_default();
    [delivery_id, trigger, state, why, run_id, when(died_at)]
}

fn describe_delivery(one: &Delivery) -> String {
    let [delivery, trigger, state, why, run, since] = delivery_row(one);
    fields([
        ("delivery", delivery),
        ("trigger", trigger),
        ("state", state),
        ("why", why),
        ("run", run),
        ("since", since),
    ])
}

fn describe(entry: &Entry) -> String {
    let [name, source, state, workflow, next_at] = row(entry);
    let input = entry.input.iter().map(|each| format!("{}={}", each.name, each.pointer));
    let equals = entry.equals.iter().map(|each| {
        let value = each.value.as_ref().map_or("null", |json| &json.text);
        format!("{}={value}", each.pointer)
    });
    let slack = entry.slack.as_ref().map(|slack| {
        format!("{} {} by {}, {}", slack.team, slack.channel, slack.instance, slack.cards)
    });
    let last = entry.last.as_ref().map(|last| match &last.error {
        Some(error) => format!("{}: {}", when(last.due_at), error.code),
        None => format!("{}: {}", when(last.due_at), last.run_id),
    });
    fields([
        ("trigger", name),
        ("source", source),
        ("state", state),
        ("reviewed", yes(entry.reviewed)),
        ("delivers to", entry.path.clone()),
        ("workflow", workflow),
        ("workspace", entry.workspace.clone()),
        ("environment", entry.environment.clone()),
        ("acts as", entry.principal_id.clone()),
        ("secret", entry.secret.clone()),
        ("events", entry.events.join(" ")),
        ("equals", equals.collect::<Vec<_>>().join(" ")),
        ("input", input.collect::<Vec<_>>().join(" ")),
        ("slack", slack.unwrap_or_default()),
        ("cron", entry.cron.clone()),
        ("next", if entry.cron.is_empty() { String::new() } else { next_at }),
        ("last", last.unwrap_or_default()),
    ])
}

fn describe_test(tested: &TestTriggerResponse) -> String {
    let error = tested.error.as_ref().map(|error| format!("{}: {}", error.code, error.message));
    let due: Vec<String> = tested.due.iter().map(ToString::to_string).collect();
    fields([
        ("event", tested.event_name.clone()),
        ("taken", yes(tested.takes)),
        ("input", tested.input.as_ref().map(|json| pretty(&json.text)).unwrap_or_default()),
        ("error", error.unwrap_or_default()),
        ("due", due.join(" ")),
    ])
}
