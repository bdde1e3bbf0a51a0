//! What the ledger's sequencer does, in memory: batches whole or not at all, one receipt each.

use std::collections::BTreeMap;

use kernel::action::{Action, Request};
use kernel::approval::Approval;
use kernel::ids::{AccountId, EnvironmentId};
use kernel::ids::{ActionId, ApprovalId, PrincipalId, TenantId, ToolId, WorkspaceId};
use kernel::machine::{self, Applied, Command, Kind, Refusal, State, Stream};
use kernel::meter::{self, Sums};
use kernel::plan::Revisions;
use kernel::principal::{Actor, ActorChain, PrincipalKind};
use kernel::receipt::{Body, ChainEnd, LogId, Position, Statement, Transition};
use kernel::risk::Risk;
use kernel::values::{Digest, MicroUsd, Timestamp};

pub(crate) type States = BTreeMap<Stream, State>;

/// One log, and the facts that time and people change.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) revisions: Revisions,
    pub(crate) states: States,
    /// Every action as it was when it was last looked at, for who acts on what is no longer so.
    pub(crate) seen: BTreeMap<ActionId, Action>,
    /// Every payload so far.
    pub(crate) receipts: Vec<Vec<u8>>,
    /// Every command so far, the refused ones too.
    pub(crate) commands: Vec<Command>,
    /// What was metered.
    pub(crate) metered: Sums,
    log: LogId,
    chain: ChainEnd,
    versions: BTreeMap<Stream, u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        let log =
            LogId::Workspace(TenantId::new("acme").unwrap(), WorkspaceId::new("ops").unwrap());
        Self {
            now: Timestamp(1_795_226_400_000_000),
            revisions: Revisions { policy: 1, principal: 1, epoch: 1 },
            states: States::new(),
            seen: BTreeMap::new(),
            receipts: Vec::new(),
            commands: Vec::new(),
            metered: Sums::default(),
            chain: ChainEnd::start(log.origin("tally.example")),
            log,
            versions: BTreeMap::new(),
        }
    }

    /// Carries out a batch and returns its transitions as the receipt tells them. What the
    /// receipt's bytes fold to must be what the batch made.
    pub(crate) fn commit(&mut self, batch: Vec<Command>) -> Result<Vec<Transition>, Refusal> {
        self.commands.extend(batch.iter().cloned());
        let mut states = self.states.clone();
        let mut versions = self.versions.clone();
        let mut transitions = Vec::new();
        let mut metered = self.metered;
        let mut batch = batch.into_iter();
        let mut following = None;
        while let Some(Command { stream, input }) = following.take().or_else(|| batch.next()) {
            let mut state = states.remove(&stream);
            let before = kernel::run::standing(state.as_ref());
            for change in machine::step(state.as_ref(), input, self.now)? {
                let version = versions.entry(stream.clone()).or_default();
                *version += 1;
                let transition = Transition { stream: stream.clone(), version: *version, change };
                if let machine::Change::Action(change) = &transition.change {
                    let action = match &state {
                        Some(State::Action(action)) => Some(action),
                        _ => None,
                    };
                    let more = meter::of(action, change, self.now).map(|meter| meter.sums);
                    metered = metered.plus(&more.unwrap_or_default());
                }
                self.fold(&mut state, &transition);
                transitions.push(transition);
            }
            let after = state.as_ref();
            following = kernel::run::follow(before, after)
                .or_else(|| kernel::action::follow(before, after));
            states.extend(state.map(|state| (stream, state)));
        }
        if transitions.is_empty() {
            return Ok(transitions);
        }
        let body = Body { trace_id: None, transitions };
        let origin = self.chain.origin.clone();
        let position = Position { origin, index: self.chain.size, prev: self.chain.prev };
        let payload = Statement::new(&self.log, position, self.now, body).payload().unwrap();
        let read = self.chain.clone().follow(&payload).unwrap();
        let mut folded = self.states.clone();
        for transition in &read.predicate.transitions {
            let mut state = folded.remove(&transition.stream);
            self.fold(&mut state, transition);
            folded.extend(state.map(|state| (transition.stream.clone(), state)));
        }
        assert_eq!(folded, states, "the receipt's bytes fold to what the batch made");
        self.chain.follow(&payload).unwrap();
        self.receipts.push(payload);
        (self.states, self.versions, self.metered) = (states, versions, metered);
        Ok(read.predicate.transitions)
    }

    fn fold(&self, state: &mut Option<State>, transition: &Transition) {
        let applied = Applied { id: &transition.stream.id, index: self.chain.size, time: self.now };
        machine::apply(state, &transition.change, &applied);
    }

    pub(crate) fn state(&self, kind: Kind, id: &str) -> Option<&State> {
        self.states.get(&Stream::new(kind, id))
    }

    pub(crate) fn action(&self, id: &ActionId) -> &Action {
        match self.state(Kind::Action, id.as_str()) {
            Some(State::Action(action)) => action,
            other => panic!("no action {id}: {other:?}"),
        }
    }

    pub(crate) fn approval(&self, id: &ApprovalId) -> &Approval {
        match self.state(Kind::Approval, id.as_str()) {
            Some(State::Approval(approval)) => approval,
            other => panic!("no approval {id}: {other:?}"),
        }
    }

    pub(crate) fn actions(&self) -> impl Iterator<Item = &Action> {
        self.states.values().filter_map(|state| match state {
            State::Action(action) => Some(action),
            _ => None,
        })
    }

    pub(crate) fn approvals(&self) -> impl Iterator<Item = &Approval> {
        self.states.values().filter_map(|state| match state {
            State::Approval(approval) => Some(approval),
            _ => None,
        })
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &kernel::account::Account> {
        self.states.values().filter_map(|state| match state {
            State::Account(account) => Some(account),
            _ => None,
        })
    }
}

/// The states that stored payloads alone fold to.
pub(crate) fn rebuild(origin: &str, receipts: &[Vec<u8>]) -> States {
    let mut chain = ChainEnd::start(origin);
    let mut states = States::new();
    for payload in receipts {
        let predicate = chain.follow(payload).unwrap().predicate;
        for transition in predicate.transitions {
            let mut state = states.remove(&transition.stream);
            let id = &transition.stream.id;
            let applied = Applied { id, index: predicate.log.index, time: predicate.time_us };
            machine::apply(&mut state, &transition.change, &applied);
            states.extend(state.map(|state| (transition.stream, state)));
        }
    }
    states
}

pub(crate) fn principal(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

/// An agent that acts for a user, a user that acts alone, or an agent behind a service.
pub(crate) fn chain(which: u8) -> ActorChain {
    let actor = |id: &str, kind| Actor { id: principal(id), kind };
    let (user, agent) = (actor("uma", PrincipalKind::User), actor("bot", PrincipalKind::Agent));
    let actors = match which {
        0 => vec![user, agent],
        1 => vec![actor("ann", PrincipalKind::User)],
        _ => vec![user, actor("svc", PrincipalKind::Service), agent],
    };
    ActorChain::try_from(actors).unwrap()
}

/// A request for the plan of that number.
pub(crate) fn request(plan: u8, actors: ActorChain) -> Request {
    Request {
        tool: ToolId::new("servicenow.update_incident").unwrap(),
        tool_digest: Digest::of(b"tool"),
        execution: None,
        routed_from: None,
        environment: EnvironmentId::new("prod").unwrap(),
        actors,
        action_digest: Digest::of(&[plan]),
        plan_digest: Digest::of(&[plan, 0]),
        risk: Risk::assess(
            &["write".to_owned()].into(),
            "prod",
            &std::collections::BTreeSet::new(),
        ),
        estimate: MicroUsd::ZERO,
        units: kernel::units::Units::NONE,
        account: None,
        idempotent: true,
        timeout_ms: 1_000,
        step: None,
        within: None,
        max_attempts: None,
        reverses: None,
    }
}

pub(crate) fn account(id: &str) -> AccountId {
    AccountId::new(id).unwrap()
}
