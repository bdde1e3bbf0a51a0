//! Adoption: a held call is asked for once. Who repeats it gets the action that waits, and later
//! its result.
//!
//! What a call is, is its caller, tool, parameters and continuation, named under the tenant's
//! secret. The submit of a held one reserves that name in its own commit, so a repeat finds it
//! after any crash. What is in memory spares the calls that adopt nothing the look.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::action::{Action, Status};
use kernel::ids::{ActionId, ToolId};
use kernel::json::{self, RawJson};
use kernel::limits::RESULT_TTL_MICROS;
use kernel::machine::{Kind, State, Stream};
use kernel::receipt::LogId;
use kernel::reservation;
use kernel::values::{Digest, Timestamp};
use ledger::Ledger;
use ledger::keys::Sealer;
use parking_lot::RwLock;

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// What the names of held calls begin with. Those of other reservations are hex digits, so in the
/// order of ids these come after all of them.
const PREFIX: &str = "held/";
/// Reservations read at once while loading.
const PAGE: u32 = 1_000;
/// Digits of a name that say who asks.
const PERSON_DIGITS: usize = 16;
/// Digits of a name that say what is asked: 128 bits.
const CALL_DIGITS: usize = 32;

/// Who asks, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Person(String);

impl Person {
    fn of(caller: &Caller) -> Self {
        let actors = caller.actors();
        let ids: Vec<&str> = actors.actors().iter().map(|actor| actor.id.as_str()).collect();
        let Caller { tenant, workspace, environment, .. } = caller;
        let text = format!("{tenant}\n{workspace}\n{environment}\n{}", ids.join("/"));
        let mut digits = Digest::of(text.as_bytes()).hex();
        digits.truncate(PERSON_DIGITS);
        Self(digits)
    }

    /// Whose call it is that has this name.
    fn in_name(name: &str) -> Option<Self> {
        let (person, _) = name.strip_prefix(PREFIX)?.split_once('/')?;
        Some(Self(person.to_owned()))
    }
}

/// What a call needs to be adopted.
#[derive(Clone, Debug)]
pub(crate) struct Adopt {
    pub(crate) sealer: Arc<Sealer>,
    /// The action that had the name before and is over.
    pub(crate) replaces: Option<ActionId>,
}

impl Adopt {
    /// The name of a call.
    pub(crate) fn name(
        &self,
        caller: &Caller,
        tool: &ToolId,
        params: &RawJson,
        continuation: Option<&RawJson>,
    ) -> Result<String> {
        let call = json::canonical(&(tool, params, continuation)).map_err(Refused::internal)?;
        let mut digits = hex::encode(self.sealer.name(&call));
        digits.truncate(CALL_DIGITS);
        Ok(format!("{PREFIX}{}/{digits}", Person::of(caller).0))
    }

    /// Reserves the name of a call for the action that it makes.
    pub(crate) fn reserve(
        &self,
        name: String,
        action: &ActionId,
        now: Timestamp,
    ) -> (String, reservation::Input) {
        let input = reservation::Input {
            body: Digest::of(name.as_bytes()),
            target: action.to_string(),
            until: now.plus_micros(limits::HELD_MICROS_MAX),
            replaces: self.replaces.as_ref().map(ToString::to_string),
        };
        (name, input)
    }
}

/// What becomes of a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The action is under way, or its end answers every repeat for a while.
    Answers,
    /// The action ended without an effect: that is told once, and then it may be asked for anew.
    AnswersOnce,
    /// It is over.
    Over,
}

/// What becomes of a repeat of `action` at `now`.
pub(crate) fn standing(action: &Action, now: Timestamp) -> Standing {
    let fresh = now < action.updated_at.plus_micros(RESULT_TTL_MICROS);
    let rejected = || {
        let failure = action.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
        failure.is_some_and(|failure| failure.code == "approval_rejected")
    };
    match action.status {
        Status::Executed if fresh => Standing::Answers,
        // People said no: asking again at once does not change that.
        Status::Denied if fresh && rejected() => Standing::Answers,
        Status::Failed | Status::Denied | Status::Canceled | Status::Expired if fresh => {
            Standing::AnswersOnce
        }
        status if status.is_final() => Standing::Over,
        _ => Standing::Answers,
    }
}

/// The held calls of everybody: an index of what is reserved in the logs.
#[derive(Default)]
pub(crate) struct Adoptions(RwLock<HashMap<Person, HashMap<String, ActionId>>>);

impl Adoptions {
    /// Reads what is reserved.
    pub(crate) fn load(&self, ledger: &Ledger, now: Timestamp) -> Result<()> {
        for log in ledger.store().logs()? {
            if matches!(log, LogId::Workspace(..)) {
                self.load_log(ledger, &log, now)?;
            }
        }
        Ok(())
    }

    fn load_log(&self, ledger: &Ledger, log: &LogId, now: Timestamp) -> Result<()> {
        let mut after = Stream::new(Kind::Idempotency, PREFIX);
        loop {
            let rows = ledger.store().scan(log, Some(&after), PAGE)?;
            for row in &rows {
                let ours = row.stream.kind == Kind::Idempotency;
                if !ours || !row.stream.id.starts_with(PREFIX) {
                    return Ok(());
                }
                let state = serde_json::from_str(&row.body).map_err(Refused::internal)?;
                let State::Reservation(held) = state else {
                    return Err(Refused::internal("a reservation that is none"));
                };
                if now < held.until {
                    let action = ActionId::new(&held.target).map_err(Refused::internal)?;
                    self.insert(&row.stream.id, action);
                }
            }
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.stream.clone();
        }
    }

    /// Remembers what a commit reserved. What does not fit is found by its reservation alone.
    pub(crate) fn insert(&self, name: &str, action: ActionId) {
        let Some(person) = Person::in_name(name) else { return };
        let mut held = self.0.write();
        let own = held.entry(person).or_default();
        if own.len() < limits::HELD_PER_CALLER_MAX || own.contains_key(name) {
            own.insert(name.to_owned(), action);
        }
    }

    fn forget(&self, name: &str, action: &ActionId) {
        let Some(person) = Person::in_name(name) else { return };
        let mut held = self.0.write();
        let Some(own) = held.get_mut(&person) else { return };
        if own.get(name) == Some(action) {
            own.remove(name);
        }
        if own.is_empty() {
            held.remove(&person);
        }
    }

    /// Whether the caller may have held calls: most have none.
    pub(crate) fn any(&self, caller: &Caller) -> bool {
        let held = self.0.read();
        !held.is_empty() && held.contains_key(&Person::of(caller))
    }

    /// The action that a call of this name adopts, where it is remembered.
    pub(crate) fn find(
        &self,
        shared: &Shared,
        caller: &Caller,
        name: &str,
    ) -> Result<Option<Action>> {
        let known = Person::in_name(name)
            .and_then(|person| self.0.read().get(&person).and_then(|own| own.get(name).cloned()));
        let Some(id) = known else { return Ok(None) };
        let found = own(shared, caller, &id)?;
        let stands = found.as_ref().map_or(Standing::Over, |found| standing(found, shared.now()));
        if stands != Standing::Answers {
            self.forget(name, &id);
        }
        Ok(found.filter(|_| stands != Standing::Over))
    }
}

/// An action of the caller's own: of exactly this chain, in this environment.
pub(crate) fn own(shared: &Shared, caller: &Caller, id: &ActionId) -> Result<Option<Action>> {
    let state = shared.ledger.read(&caller.log(), Kind::Action, id.as_str())?;
    let Some(State::Action(action)) = state else { return Ok(None) };
    let request = &action.request;
    let own = request.actors == caller.actors() && request.environment == caller.environment;
    Ok(own.then_some(action))
}
