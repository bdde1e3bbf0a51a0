//! Cards: people are asked on Slack about what waits for them, and what they press there decides.
//!
//! Posting a card and changing it are actions of the service that the workspace's trigger names,
//! decided by policy and receipted like any other. Which card belongs to which approval is in the
//! log (`kernel::card`). A card is looked at whenever its approval changes; after a crash, all
//! that are open are.

mod blocks;
mod kept;
mod post;
mod press;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kernel::action::{Action, FailureCode};
use kernel::approval;
use kernel::card::{Card, Face, Input};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, ApprovalId};
use kernel::machine::{self, Command, Kind, Refusal, State, Stream};
use kernel::receipt::LogId;
use kernel::trigger::definition::Slack;
use ledger::store::{Page, SideRow};
use ledger::{Batch, Error};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;
use crate::triggers::Known;

pub(crate) use kept::drop_kept;
pub(crate) use press::pressed;

type Item = (LogId, ApprovalId);

/// The cards of this server.
#[derive(Default)]
pub(crate) struct Cards {
    /// Those to be looked at.
    due: Mutex<BTreeSet<Item>>,
    /// Those that wait for the end of an action.
    waits: Mutex<HashMap<ActionId, Item>>,
    /// What was said last of a card that is left for later: it is said again once it changes.
    said: Mutex<HashMap<ApprovalId, String>>,
    /// Held by who works on a card.
    locks: Mutex<HashMap<ApprovalId, Arc<tokio::sync::Mutex<()>>>>,
    wake: Notify,
}

impl Cards {
    /// Takes notice of what a commit left behind. Called by the writer: it only makes notes.
    pub(crate) fn seen(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        for (_, state) in states {
            match state.as_ref() {
                State::Approval(approval) => self.note((log.clone(), approval.id.clone())),
                State::Action(action) if action.status.is_settled() => {
                    let waiting = self.waits.lock().remove(&action.id);
                    if let Some(item) = waiting {
                        self.note(item);
                    }
                }
                _ => {}
            }
        }
    }

    fn note(&self, item: Item) {
        self.due.lock().insert(item);
        self.wake.notify_one();
    }

    /// Says why a card is left for later, where that was not said before.
    fn left(&self, id: &ApprovalId, failure: &Failure) {
        let before = self.said.lock().insert(id.clone(), failure.code.clone());
        if before.as_ref() != Some(&failure.code) {
            tracing::warn!(approval = %id, error = %failure, "its card is left for later");
        }
    }

    /// The lock of one card. It is forgotten once nobody holds or wants it.
    fn lock(&self, id: &ApprovalId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        if locks.len() > limits::RUN_LOCKS_SWEPT {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(id.clone()).or_default().clone()
    }
}

/// Finds the cards that are open. What it returns looks after them until `stop`.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    stop: CancellationToken,
) -> std::result::Result<impl Future<Output = ()> + Send + use<>, Error> {
    for log in shared.ledger.store().logs()? {
        find(shared, &log)?;
    }
    Ok(serve(shared.clone(), stop))
}

/// Finds what people of a workspace are, or should be, asked about now.
pub(crate) fn find(shared: &Shared, log: &LogId) -> std::result::Result<(), Error> {
    if shared.triggers.slack_of(log).is_none() {
        return Ok(());
    }
    let requested = approval::Status::Requested.as_str();
    for (kind, status) in [(Kind::Approval, requested), (Kind::Card, "open")] {
        let status = Some(status.to_owned());
        let mut page = Page { before: None, status, limit: limits::PAGE_SIZE_MAX };
        loop {
            let rows = shared.ledger.store().entities(log, kind, &page)?;
            let Some(last) = rows.last() else { break };
            page.before = Some(last.stream.id.to_string());
            for row in &rows {
                if let Ok(id) = ApprovalId::new(&row.stream.id) {
                    shared.cards.note((log.clone(), id));
                }
            }
        }
    }
    Ok(())
}

async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits::CARDS_CONCURRENCY));
    loop {
        loop {
            let next = shared.cards.due.lock().pop_first();
            let Some((log, id)) = next else { break };
            // Of a workspace where nobody is asked there is nothing to be done.
            if shared.triggers.slack_of(&log).is_none() {
                continue;
            }
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let shared = shared.clone();
            tokio::spawn(async move {
                let driven = drive(&shared, &log, &id).await;
                drop(slot);
                if let Err(Refused(failure)) = driven {
                    shared.cards.left(&id, &failure);
                    tokio::time::sleep(limits::QUEUE_REST).await;
                    shared.cards.note((log, id));
                }
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.cards.wake.notified() => {}
        }
    }
}

/// Brings a card as far as it goes without waiting for people.
pub(crate) async fn drive(shared: &Arc<Shared>, log: &LogId, id: &ApprovalId) -> Result<()> {
    let lock = shared.cards.lock(id);
    let _one_at_a_time = lock.lock().await;
    for _ in 0..limits::CARD_MOVES_MAX {
        if !advance(shared, log, id).await? {
            break;
        }
    }
    shared.cards.said.lock().remove(id);
    Ok(())
}

/// The same for a card whose time has come. One that cannot go on now rests for a while.
pub(crate) async fn retry(shared: &Arc<Shared>, log: &LogId, id: &ApprovalId) -> Result<()> {
    drive(shared, log, id).await?;
    match shared.ledger.read(log, Kind::Card, id.as_str())? {
        Some(State::Card(card)) if is_due(shared, &card) => {
            let message = "its card waits for the action that posts or changes it";
            Err(Refused::new(Category::Conflict, "card_waits", message))
        }
        _ => Ok(()),
    }
}

fn is_due(shared: &Shared, card: &Card) -> bool {
    card.due().is_some_and(|at| at <= shared.now())
}

/// A card with all that it is about.
struct Subject<'a> {
    log: &'a LogId,
    known: &'a Known,
    slack: &'a Slack,
    approval: &'a approval::Approval,
    action: &'a Action,
}

/// Takes the next step of a card. False where there is none.
async fn advance(shared: &Arc<Shared>, log: &LogId, id: &ApprovalId) -> Result<bool> {
    let Some((known, slack)) = shared.triggers.slack_of(log) else {
        return give_up(shared, log, id).await;
    };
    let approval = match shared.ledger.read(log, Kind::Approval, id.as_str())? {
        Some(State::Approval(approval)) => approval,
        _ => return Ok(false),
    };
    let about = approval.request.action.as_str();
    let action = match shared.ledger.read(log, Kind::Action, about)? {
        Some(State::Action(action)) => action,
        _ => return Err(Refused::internal("an approval without its action")),
    };
    let subject =
        Subject { log, known: &known, slack: &slack, approval: &approval, action: &action };
    let face = Face::of(&approval);
    let card = match shared.ledger.read(log, Kind::Card, id.as_str())? {
        Some(State::Card(card)) => card,
        // Nobody is asked about the asking itself.
        _ if face.is_last() || subject.is_of_a_card()? => return Ok(false),
        _ => {
            let kept = kept::keep(shared, &subject).await?;
            let input = Input::Open { trigger: known.state.name.clone() };
            return change_with(shared, log, id, input, kept).await;
        }
    };
    if card.trigger != known.state.name {
        return give_up(shared, log, id).await;
    }
    if card.over || (card.due().is_some() && !is_due(shared, &card)) {
        return Ok(false);
    }
    match &card.message {
        None => post::post(shared, &subject, &card, face).await,
        Some(_) if card.face == Some(face) => Ok(false),
        Some(message) => post::update(shared, &subject, &card, message, face).await,
    }
}

/// Leaves a card whose time has come while nobody is asked there any more.
async fn give_up(shared: &Shared, log: &LogId, id: &ApprovalId) -> Result<bool> {
    match shared.ledger.read(log, Kind::Card, id.as_str())? {
        Some(State::Card(card)) if is_due(shared, &card) => {
            let code = "trigger_gone".to_owned();
            let failure = FailureCode { code, category: Category::Permanent };
            let input = Input::Miss { action: None, failure, in_doubt: false, retry_at: None };
            change(shared, log, id, input).await.map(|_| false)
        }
        _ => Ok(false),
    }
}

impl Subject<'_> {
    /// Whether the approval is about posting or changing a card.
    fn is_of_a_card(&self) -> Result<bool> {
        let own = &self.known.definition()?.principal;
        let request = &self.action.request;
        let tool = request.routed_from.as_ref().unwrap_or(&request.tool);
        let posts = [post::POST, post::UPDATE, post::TELL]
            .iter()
            .any(|operation| tool.as_str() == format!("{}.{operation}", self.slack.instance));
        Ok(posts && request.actors.acting().is_some_and(|actor| actor.id == *own))
    }
}

/// Changes the card of an approval. True: there may be more to do.
async fn change(shared: &Shared, log: &LogId, id: &ApprovalId, input: Input) -> Result<bool> {
    let over = match &input {
        Input::Show { face, .. } => face.is_last(),
        Input::Miss { retry_at, .. } => retry_at.is_none(),
        Input::Withdraw {} => true,
        Input::Open { .. } | Input::Post { .. } | Input::Ask { .. } => false,
    };
    // What it was about is not shown again.
    let side = over.then(|| drop_kept(log, id));
    change_with(shared, log, id, input, side).await
}

async fn change_with(
    shared: &Shared,
    log: &LogId,
    id: &ApprovalId,
    input: Input,
    side: Option<SideRow>,
) -> Result<bool> {
    let command = Command::new(Kind::Card, id.as_str(), machine::Input::Card(input));
    let batch =
        Batch { side: side.into_iter().collect(), ..Batch::new(log.clone(), vec![command]) };
    match shared.ledger.commit(batch).await {
        Ok(_) => {
            // It may be due one day.
            shared.queue.notify_one();
            Ok(true)
        }
        Err(Error::Refused(Refusal::Exists | Refusal::State(_))) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Notes that a card waits for the end of an action. True where that has come already. A card
/// whose time had come is no longer due: the action may wait for days, for people perhaps.
async fn wait_for(
    shared: &Shared,
    subject: &Subject<'_>,
    card: &Card,
    action: &ActionId,
) -> Result<bool> {
    let item = (subject.log.clone(), card.approval.clone());
    shared.cards.waits.lock().insert(action.clone(), item);
    match shared.ledger.read(subject.log, Kind::Action, action.as_str())? {
        Some(State::Action(action)) if action.status.is_settled() => {
            shared.cards.waits.lock().remove(&action.id);
            Ok(true)
        }
        _ if card.due().is_some() => {
            let input = Input::Ask { action: action.clone() };
            change(shared, subject.log, &card.approval, input).await.map(|_| false)
        }
        _ => Ok(false),
    }
}
