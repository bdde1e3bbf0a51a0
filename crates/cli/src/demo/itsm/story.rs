//! The four incidents, and what becomes of each.

use std::collections::BTreeSet;

use anyhow::Context as _;
use proto::accounts::GetAccountRequest;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest};
use proto::runs::{GetRunRequest, ListRunsRequest, Run, RunState};
use serde_json::{Value, json};

use super::desk::{ACCOUNT, ADA, BOB, CHANNEL, Desk, until};
use super::incident::{INJECTED, Incident, LABELS, MAIL, VPN};
use crate::demo::proof::Evidence;
use crate::demo::say::{expect, say, step, then};
use crate::output::usd;

/// The buttons of a card.
const APPROVE: &str = "tally_approve";
const REJECT: &str = "tally_reject";

/// What became of an incident.
pub(super) struct Told {
    pub(super) run: Run,
    /// The actions of its steps, in order.
    pub(super) actions: Vec<Action>,
}

/// An incident and its run.
struct Case<'a> {
    desk: &'a Desk,
    sys_id: String,
    number: String,
    run_id: String,
}

impl<'a> Case<'a> {
    /// Somebody reports an incident; ServiceNow tells Tally, which starts a run.
    async fn reported(desk: &'a Desk, incident: &Incident) -> anyhow::Result<Self> {
        let before = runs(desk).await?;
        let made = desk.report(&incident.report()).await?;
        let text = |name: &str| made.get(name).and_then(Value::as_str).unwrap_or_default();
        let (sys_id, number) = (text("sys_id").to_owned(), text("number").to_owned());
        say(&format!("{number}   {}", incident.short))?;
        let run_id = until("the run of the incident", async || {
            Ok(runs(desk).await?.difference(&before).next().cloned())
        })
        .await?;
        say(&format!("run          {run_id}, started by ServiceNow's webhook"))?;
        Ok(Self { desk, sys_id, number, run_id })
    }

    async fn run(&self) -> anyhow::Result<Run> {
        let request = GetRunRequest { run_id: self.run_id.clone(), ..Default::default() };
        Ok(self.desk.place.owner.client.get_run(&request).await?)
    }

    /// The run once it waits for people, or has ended.
    async fn rests(&self, ended: bool) -> anyhow::Result<Run> {
        until("the end of a step", async || {
            let run = self.run().await?;
            let waits = run.state() == RunState::WaitingApproval;
            let rests = (waits && !ended) || run.ended_at.is_some();
            Ok(rests.then_some(run))
        })
        .await
    }

    async fn action(&self, run: &Run, step: &str) -> anyhow::Result<Action> {
        let found = run.steps.iter().find(|one| one.step_id == step);
        let action_id = found.with_context(|| format!("no step {step}"))?.action_id.clone();
        let request = GetActionRequest { action_id };
        Ok(self.desk.place.owner.client.get_action(&request).await?)
    }

    /// The card of what the run waits for, once it is on Slack.
    async fn card(&self, run: &Run) -> anyhow::Result<Value> {
        let held = self.action(run, "update").await?;
        let approval = json!(held.approval_id);
        let about = "/metadata/event_payload/approval";
        let of_it = |message: &Value| message.pointer(about) == Some(&approval);
        let card = until("the card on Slack", async || {
            let state = self.desk.state(&self.desk.slack).await?;
            let messages = state.get("messages").and_then(Value::as_array);
            Ok(messages.and_then(|all| all.iter().find(|one| of_it(one)).cloned()))
        })
        .await?;
        then("The card on Slack")?;
        say(&texts(card.get("blocks").unwrap_or(&Value::Null)).join("\n"))?;
        Ok(card)
    }

    /// Somebody presses a button of the card.
    async fn press(&self, who: &str, card: &Value, button: &str) -> anyhow::Result<()> {
        let ts = card.get("ts");
        let press = json!({"user": who, "channel": CHANNEL, "ts": ts, "action_id": button});
        let pressed = self.desk.tell(&self.desk.slack, "press", &press).await?;
        let status = pressed.pointer("/answers/0/status");
        expect(status == Some(&json!(200)), "Slack's signed call is taken", || pressed.to_string())
    }

    /// The fields and notes of the incident that anybody changed, as `field: from → to`.
    async fn changes(&self) -> anyhow::Result<Vec<String>> {
        let state = self.desk.state(&self.desk.servicenow).await?;
        let all = state.get("changes").and_then(Value::as_array);
        let text = |change: &Value, name: &str| {
            change.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let own = all.into_iter().flatten().filter(|one| text(one, "sys_id") == self.sys_id);
        Ok(own
            .map(|one| {
                let [field, from, to] = ["field", "from", "to"].map(|name| text(one, name));
                format!("{field}: {from} → {}", to.lines().next().unwrap_or_default())
            })
            .collect())
    }

    /// Ends the story of this incident.
    async fn told(self, run: Run) -> anyhow::Result<Told> {
        let mut actions = Vec::new();
        for step in run.steps.iter().filter(|step| !step.action_id.is_empty()) {
            actions.push(self.action(&run, &step.step_id).await?);
        }
        let state = run.state().as_str_name();
        say(&format!("{}   {state}, {}", self.number, usd(run.cost_micro_usd)))?;
        Ok(Told { run, actions })
    }

    /// Nothing was written to this incident, nor to any other since.
    async fn untouched(&self, before: usize) -> anyhow::Result<()> {
        let own = self.changes().await?;
        expect(own.is_empty(), "ServiceNow has no change of it", || own.join("; "))?;
        let all = count(self.desk).await?;
        expect(all == before, "nor of any other incident", || format!("{all} changes"))
    }
}

async fn runs(desk: &Desk) -> anyhow::Result<BTreeSet<String>> {
    let listed = desk.place.owner.client.list_runs(&ListRunsRequest::default()).await?;
    Ok(listed.runs.into_iter().map(|run| run.run_id).collect())
}

/// How many changes ServiceNow has, whoever made them.
async fn count(desk: &Desk) -> anyhow::Result<usize> {
    let state = desk.state(&desk.servicenow).await?;
    Ok(state.get("changes").and_then(Value::as_array).map_or(0, Vec::len))
}

/// Every text in blocks, in order.
fn texts(blocks: &Value) -> Vec<String> {
    match blocks {
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => match members.get("text") {
            Some(Value::String(text)) => vec![text.clone()],
            Some(inner) if members.get("type") == Some(&json!("button")) => {
                texts(inner).iter().map(|name| format!("[{name}]")).collect()
            }
            _ => members.values().flat_map(texts).collect(),
        },
        _ => Vec::new(),
    }
}

fn rules(action: &Action) -> Vec<String> {
    action.decision.as_ref().map(|decision| decision.rules.clone()).unwrap_or_default()
}

fn found(run: &Run) -> String {
    let steps = run.steps.iter().map(|step| format!("{} {}", step.step_id, step.state));
    let steps = steps.collect::<Vec<_>>().join(", ");
    format!("{} ({steps}) {:?}", run.state().as_str_name(), run.error)
}

fn held(run: &Run) -> anyhow::Result<()> {
    let held = run.state() == RunState::WaitingApproval;
    expect(held, "the change waits for a person", || found(run))
}

/// Ada approves, and it is written.
pub(super) async fn approved(desk: &Desk) -> anyhow::Result<Told> {
    step("2. An incident that is approved")?;
    let case = Case::reported(desk, &MAIL).await?;
    let run = case.rests(false).await?;
    held(&run)?;
    let none = case.changes().await?;
    expect(none.is_empty(), "ServiceNow was written nothing yet", || none.join("; "))?;
    let card = case.card(&run).await?;
    then("Ada presses Approve")?;
    case.press(ADA, &card, APPROVE).await?;
    let run = case.rests(true).await?;
    expect(run.state() == RunState::Succeeded, "the run succeeded", || found(&run))?;
    let changes = case.changes().await?;
    say(&changes.join("\n"))?;
    let fields: Vec<_> = changes.iter().filter_map(|one| Some(one.split_once(':')?.0)).collect();
    let expected = ["assignment_group", "category", "priority", "work_notes"];
    expect(fields == expected, "exactly the change and one note were written", || {
        changes.join("; ")
    })?;
    let block = card.get("ts").cloned();
    until("the updated card", async || {
        let state = desk.state(&desk.slack).await?;
        let messages = state.get("messages").and_then(Value::as_array);
        let own = messages.into_iter().flatten().find(|one| one.get("ts") == block.as_ref());
        let edited = own.and_then(|one| one.get("edits")).and_then(Value::as_u64);
        Ok(edited.filter(|edits| *edits > 0))
    })
    .await?;
    expect(true, "the card says that it is decided", String::new)?;
    case.told(run).await
}

/// Bob rejects, and nothing is written.
pub(super) async fn rejected(desk: &Desk) -> anyhow::Result<Told> {
    step("3. An incident that is rejected")?;
    let before = count(desk).await?;
    let case = Case::reported(desk, &VPN).await?;
    let run = case.rests(false).await?;
    held(&run)?;
    let card = case.card(&run).await?;
    then("Bob presses Reject")?;
    case.press(BOB, &card, REJECT).await?;
    let run = case.rests(true).await?;
    let refused = run.state() == RunState::FailedTerminal;
    expect(refused, "the run ends without its change", || found(&run))?;
    case.untouched(before).await?;
    case.told(run).await
}

/// The text gives the model orders, and the model obeys.
pub(super) async fn injected(desk: &Desk) -> anyhow::Result<Told> {
    step("4. An incident whose text gives orders to the model, which obeys")?;
    let before = count(desk).await?;
    say(INJECTED.long)?;
    let case = Case::reported(desk, &INJECTED).await?;
    let run = case.rests(false).await?;
    held(&run)?;
    let asked = case.action(&run, "propose").await?;
    let suspect = rules(&asked).contains(&"R-ITSM-SUSPECT".to_owned());
    expect(suspect, "policy put on record that the text gives orders", || {
        rules(&asked).join(", ")
    })?;
    let wanted = case.action(&run, "update").await?;
    let leap = rules(&wanted).contains(&"R-ITSM-LEAP".to_owned());
    expect(leap, "a leap to critical takes two people", || rules(&wanted).join(", "))?;
    let card = case.card(&run).await?;
    then("Ada approves without reading. One is not enough")?;
    case.press(ADA, &card, APPROVE).await?;
    let waiting = case.action(&case.run().await?, "update").await?;
    let waits = waiting.state() == State::AwaitingApproval;
    expect(waits, "the change still waits", || waiting.state().as_str_name().to_owned())?;
    then("Bob reads it, and presses Reject")?;
    case.press(BOB, &card, REJECT).await?;
    let run = case.rests(true).await?;
    let refused = run.state() == RunState::FailedTerminal;
    expect(refused, "the run ends without its change", || found(&run))?;
    case.untouched(before).await?;
    nothing_leaked(desk).await?;
    case.told(run).await
}

/// No credential is in anything that ServiceNow or Slack was sent.
async fn nothing_leaked(desk: &Desk) -> anyhow::Result<()> {
    for (name, simulator) in [("ServiceNow", &desk.servicenow), ("Slack", &desk.slack)] {
        let state = desk.state(simulator).await?.to_string();
        let leaked = desk.secrets.kept().into_iter().any(|secret| state.contains(secret));
        let what = format!("{name} holds no credential");
        expect(!leaked, &what, || "one".to_owned())?;
    }
    Ok(())
}

/// The model answers no JSON, three times.
pub(super) async fn junk(desk: &Desk) -> anyhow::Result<Told> {
    step("5. An incident to which the model answers junk")?;
    let before = count(desk).await?;
    let case = Case::reported(desk, &LABELS).await?;
    let run = case.rests(true).await?;
    let code = run.error.as_ref().map_or("", |error| error.code.as_str());
    let failed = run.state() == RunState::FailedTerminal && code == "model_output_invalid";
    expect(failed, "after three tries the run has failed for good", || found(&run))?;
    case.untouched(before).await?;
    case.told(run).await
}

/// What it cost.
pub(super) async fn bill(desk: &Desk, told: &[&Told]) -> anyhow::Result<()> {
    then("What it cost")?;
    for one in told {
        say(&format!("{}  {}", one.run.run_id, usd(one.run.cost_micro_usd)))?;
    }
    let sum: i64 = told.iter().map(|one| one.run.cost_micro_usd).sum();
    let request = GetAccountRequest { account_id: ACCOUNT.to_owned() };
    let account = desk.place.owner.client.get_account(&request).await?;
    let paid = account.spent_micro_usd;
    say(&format!(
        "together  {}, {} a ticket",
        usd(sum),
        usd(sum / i64::try_from(told.len().max(1))?)
    ))?;
    let same = paid == sum && account.held_micro_usd == 0;
    expect(same, "the account paid exactly that", || usd(paid))
}

/// The rules that matched are in the evidence, and no word of the text.
pub(super) fn injection_shows(evidence: &Evidence) -> anyhow::Result<()> {
    let run = std::fs::read_to_string(evidence.folder.join("run.json"))?;
    for rule in ["R-ITSM-SUSPECT", "R-ITSM-LEAP"] {
        expect(run.contains(rule), &format!("run.json names {rule}"), || run.clone())?;
    }
    let words = INJECTED.words().iter().any(|text| run.contains(text));
    expect(!words, "run.json has no word of the incident", || run.clone())
}
