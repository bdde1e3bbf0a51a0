//! The one writer: validates each batch against the state machines, chains its receipt, has the
//! receipts of many batches signed, and makes them durable in one physical commit.
//!
//! No signed byte leaves this thread before its commit.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::limits;
use kernel::machine::{self, Command, Refusal, State, Stream};
use kernel::meter::Meter;
use kernel::note::{Checkpoint, Note, NoteSignature};
use kernel::receipt::{Body, LogId, Position, Statement, Transition};
use kernel::signing_key::KeyRanges;
use kernel::tree::Frontier;
use kernel::values::{Digest, Timestamp};
use kernel::{action, run};
use tokio::sync::{mpsc, oneshot};

use crate::edges::Edges;
use crate::keys::{KeyProvider, NoteSigner, P256Signer, Purpose};
use crate::project::{Versioned, meter_stream};
use crate::sign::{SignPool, Signed, Unsigned};
use crate::store::{Commit, Head, HeadUpdate, ReceiptRow, SideRow, Store, check_text};
use crate::{Batch, Beginnings, Clock, Committed, Error, Observer, log_keys};

/// Batches in one physical commit. 256 receipts of 2 KB are half a megabyte: one fsync's worth.
const GROUP_MAX: usize = 256;
/// States kept in memory between commits. A state is about 2 KB: 64 MB at most.
const STATES_MAX: usize = 32_768;

/// A batch on its way, and where its answer goes.
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) answer: Answer,
}

type Answer = oneshot::Sender<Result<Committed, Error>>;

/// What the next receipt of a log must follow, and who signs it.
#[derive(Clone)]
struct Tail {
    size: u64,
    prev: Digest,
    time: Timestamp,
    keys: Arc<KeyRanges>,
    signer: Arc<dyn P256Signer>,
}

/// A log as this thread has it in memory.
struct Log {
    origin: String,
    tail: Tail,
    frontier: Frontier,
    edges: Edges,
    notes: Arc<dyn NoteSigner>,
    /// States that will be asked for again.
    states: States,
}

/// A batch that waits for its group's commit.
struct Pending {
    answer: Answer,
    log: LogId,
    chained: Chained,
}

/// What chaining a batch yields.
struct Chained {
    index: Option<u64>,
    time: Timestamp,
    states: Vec<(Stream, Arc<State>)>,
}

type States = HashMap<Stream, Versioned>;

/// What a group of batches has built up so far. Dropped whole where the commit fails.
#[derive(Default)]
struct Group {
    logs: HashMap<LogId, Grown>,
    receipts: Vec<(LogId, Unsigned)>,
    side: Vec<SideRow>,
}

/// What a group makes of one log.
struct Grown {
    tail: Tail,
    states: States,
}

/// What a sequencer works with.
pub(crate) struct Seams {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Arc<dyn KeyProvider>,
    pub(crate) beginnings: Beginnings,
    pub(crate) clock: Clock,
    pub(crate) observer: Observer,
}

pub(crate) struct Sequencer {
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyProvider>,
    beginnings: Beginnings,
    clock: Clock,
    observer: Observer,
    host: String,
    epoch: u64,
    logs: HashMap<LogId, Log>,
    pool: SignPool,
}

impl Sequencer {
    pub(crate) fn new(seams: Seams, host: String, epoch: u64) -> Self {
        let Seams { store, keys, beginnings, clock, observer } = seams;
        let (pool, logs) = (SignPool::start(), HashMap::new());
        Self { store, keys, beginnings, clock, observer, host, epoch, logs, pool }
    }

    /// Serves until every sender is gone or another server takes over.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        while requests.blocking_recv_many(&mut waiting, GROUP_MAX) > 0 {
            if self.serve(waiting.drain(..)) {
                tracing::error!("another server has taken over: this one stops writing");
                return;
            }
        }
    }

    /// Commits one group. True where this server is no longer the writer.
    fn serve(&mut self, requests: impl Iterator<Item = Request>) -> bool {
        let mut group = Group::default();
        let (mut pending, mut refused) = (Vec::new(), Vec::new());
        for Request { batch, answer } in requests {
            let log = batch.log.clone();
            match self.chain(&mut group, batch) {
                Ok(chained) => pending.push(Pending { answer, log, chained }),
                // A loser is answered alone; its neighbours go on.
                Err(error) => refused.push((answer, error)),
            }
        }
        let ended = if pending.is_empty() { Ok(HashMap::new()) } else { self.commit(group) };
        let checkpoints = match ended {
            Ok(checkpoints) => checkpoints,
            Err(error) => {
                let refused = refused.into_iter().map(|(answer, _)| answer);
                return self.fail(&error, pending.into_iter().map(|p| p.answer).chain(refused));
            }
        };
        for waiting in pending {
            let checkpoint = checkpoints.get(&waiting.log).cloned().unwrap_or_default();
            let log = waiting.log.clone();
            let answer = committed(waiting.log, waiting.chained, checkpoint);
            if answer.index.is_some() {
                (self.observer)(&log, &answer);
            }
            drop(waiting.answer.send(Ok(answer)));
        }
        // Not before: what refused them may be a neighbour that was not durable until now.
        for (answer, error) in refused {
            drop(answer.send(Err(error)));
        }
        false
    }

    /// Answers a group whose commit failed. Whether the store has it is not known, so everything
    /// in memory is forgotten and read anew.
    fn fail(&mut self, error: &Error, answers: impl Iterator<Item = Answer>) -> bool {
        tracing::error!(%error, "a commit failed");
        self.logs.clear();
        let fenced = matches!(error, Error::Fenced);
        for answer in answers {
            drop(answer.send(Err(match error {
                Error::Fenced => Error::Fenced,
                Error::Full(why) => Error::Full(why.clone()),
                error => Error::Store(error.to_string()),
            })));
        }
        fenced
    }

    /// Runs a batch's commands and chains its receipt. Nothing of it stays where one is refused.
    fn chain(&mut self, group: &mut Group, batch: Batch) -> Result<Chained, Error> {
        batch.side.iter().try_for_each(SideRow::check_texts)?;
        if !group.logs.contains_key(&batch.log) {
            self.open(&batch.log)?;
        }
        let known = self.logs.get(&batch.log).ok_or(Error::Stopped)?;
        let grown = group.logs.get(&batch.log);
        let tail = grown.map_or(&known.tail, |grown| &grown.tail);
        let time = (self.clock)().max(tail.time);
        let find = |stream: &Stream| {
            let state = grown.and_then(|grown| grown.states.get(stream));
            match state.or_else(|| known.states.get(stream)) {
                Some(state) => Ok(state.clone()),
                None if batch.fresh.contains(stream) => Ok(Versioned::default()),
                None => self.latest(&batch.log, stream),
            }
        };
        for (stream, version) in &batch.expect {
            if find(stream)?.version != *version {
                return Err(Refusal::Moved.into());
            }
        }
        let (touched, transitions) = carry_out(batch.commands, (tail.size, time), find)?;
        let index = (!transitions.is_empty()).then_some(tail.size);
        if index.is_some() {
            let body = Body { trace_id: batch.trace_id, transitions };
            let (tail, unsigned) = self.append(&batch.log, known, tail, body, time)?;
            group.receipts.push((batch.log.clone(), unsigned));
            match group.logs.get_mut(&batch.log) {
                Some(grown) => grown.tail = tail,
                None => {
                    let grown = Grown { tail, states: States::new() };
                    group.logs.insert(batch.log.clone(), grown);
                }
            }
        }
        group.side.extend(batch.side);
        let states = left_behind(&touched);
        if index.is_some()
            && let Some(grown) = group.logs.get_mut(&batch.log)
        {
            grown.states.extend(touched);
        }
        Ok(Chained { index, time, states })
    }

    /// The receipt that follows `tail`, and the end of the log after it.
    fn append(
        &self,
        log: &LogId,
        known: &Log,
        tail: &Tail,
        body: Body,
        time: Timestamp,
    ) -> Result<(Tail, Unsigned), Error> {
        let position = Position { origin: known.origin.clone(), index: tail.size, prev: tail.prev };
        let statement = Statement::new(log, position, time, body);
        let payload = statement.payload()?;
        let size = tail.size.saturating_add(1);
        let prev = Digest::of(&payload);
        let unsigned = Unsigned { index: tail.size, payload, signer: tail.signer.clone() };
        let (mut keys, mut signer) = (tail.keys.clone(), tail.signer.clone());
        // The old key signs the receipt that brings the new one in.
        if let Some((next, handover)) = log_keys::next(&keys, &statement).map_err(Refusal::from)? {
            signer = self.keys.p256_by_id(log.tenant(), Purpose::Receipt, &handover.key_id)?;
            keys = Arc::new(next);
        }
        Ok((Tail { size, prev, time, keys, signer }, unsigned))
    }

    /// A state as the store has it.
    fn latest(&self, log: &LogId, stream: &Stream) -> Result<Versioned, Error> {
        let row = self.store.latest(log, stream)?;
        row.map_or_else(|| Ok(Versioned::default()), |row| Versioned::of(&row))
    }

    /// Reads the log from the store where it is not in memory.
    fn open(&mut self, id: &LogId) -> Result<(), Error> {
        // A log without a receipt begins with the key that is the tenant's by then.
        if self.logs.get(id).is_none_or(|log| log.tail.size == 0) {
            let log = self.load(id)?;
            self.logs.insert(id.clone(), log);
        }
        Ok(())
    }

    fn load(&self, id: &LogId) -> Result<Log, Error> {
        let origin = id.origin(&self.host);
        let (prev, time, frontier) = match self.store.head(id)? {
            None => (Digest::of(b""), Timestamp(0), Frontier::default()),
            Some(Head { prev, time, frontier, .. }) => (prev, time, frontier),
        };
        let (keys, signer) = self.signer(id)?;
        let tail = Tail { size: frontier.size(), prev, time, keys: Arc::new(keys), signer };
        Ok(Log {
            edges: Edges::load(self.store.as_ref(), id, tail.size)?,
            notes: self.keys.note(id.tenant(), &origin)?,
            origin,
            tail,
            frontier,
            states: States::new(),
        })
    }

    /// Who signs the log's next receipt: whom the log itself names. A log without a receipt begins
    /// with the tenant's newest key.
    fn signer(&self, id: &LogId) -> Result<(KeyRanges, Arc<dyn P256Signer>), Error> {
        let (tenant, purpose) = (id.tenant(), Purpose::Receipt);
        if let Some(ranges) = log_keys::of_log(self.store.as_ref(), id)? {
            let current = ranges.current().ok_or_else(|| Error::Corrupt(format!("{id:?}")))?;
            let signer = self.keys.p256_by_id(tenant, purpose, &current)?;
            return Ok((ranges, signer));
        }
        let newest = self.beginnings.lock().get(tenant).copied();
        let signer = match newest {
            Some(newest) => self.keys.p256_by_id(tenant, purpose, &newest)?,
            None => self.keys.p256(tenant, purpose)?,
        };
        Ok((KeyRanges::start(signer.key_id()), signer))
    }

    /// Signs the group's receipts, makes everything durable, and only then moves on in memory.
    fn commit(&mut self, group: Group) -> Result<HashMap<LogId, Arc<str>>, Error> {
        let Group { logs, receipts, side } = group;
        let mut commit = Commit { epoch: self.epoch, side, ..Commit::default() };
        commit.receipts.reserve(receipts.len());
        let mut trees: HashMap<LogId, (Frontier, Edges)> = HashMap::new();
        for log in logs.keys() {
            let known = self.logs.get(log).ok_or(Error::Stopped)?;
            trees.insert(log.clone(), (known.frontier.clone(), known.edges.clone()));
        }
        for (log, signed) in self.pool.sign(receipts)? {
            let Signed { index, envelope, leaf } = signed;
            let (frontier, edges) = trees.get_mut(&log).ok_or(Error::Stopped)?;
            frontier.push(leaf);
            edges.push(&log, leaf, &mut commit.hashes);
            commit.receipts.push(ReceiptRow { log, index, envelope, leaf });
        }
        let mut checkpoints = HashMap::new();
        for (log, grown) in &logs {
            let known = self.logs.get(log).ok_or(Error::Stopped)?;
            let (frontier, _) = trees.get(log).ok_or(Error::Stopped)?;
            let checkpoint = sign_checkpoint(known, frontier)?;
            checkpoints.insert(log.clone(), Arc::from(checkpoint.as_str()));
            let Tail { prev, time, .. } = grown.tail;
            let head = Head { prev, time, frontier: frontier.clone(), checkpoint };
            commit.heads.push(HeadUpdate { log: log.clone(), old_size: known.tail.size, head });
            for (stream, state) in grown.states.iter().filter(|(_, state)| state.changed) {
                let rows = if state.stored { &mut commit.entities } else { &mut commit.created };
                rows.extend(state.row(log, stream)?);
            }
        }
        self.store.commit(&commit)?;
        for (id, Grown { tail, states }) in logs {
            let tree = trees.remove(&id);
            if let (Some(log), Some((frontier, edges))) = (self.logs.get_mut(&id), tree) {
                (log.tail, log.frontier, log.edges) = (tail, frontier, edges);
                log.remember(states);
            }
        }
        if self.logs.values().map(|log| log.states.len()).sum::<usize>() > STATES_MAX {
            self.logs.values_mut().for_each(|log| log.states.clear());
        }
        Ok(checkpoints)
    }
}

impl Log {
    /// Keeps the states that will be asked for again: those that somebody has to look at, sums, and
    /// runs that have not ended.
    fn remember(&mut self, states: States) {
        for (stream, versioned) in states {
            let live = versioned
                .state
                .as_deref()
                .is_some_and(|state| state.due().is_some() || moves_again(state));
            if live {
                self.states.insert(stream, Versioned { stored: true, changed: false, ..versioned });
            } else {
                self.states.remove(&stream);
            }
        }
    }
}

/// Whether a state that nobody has to look at is moved by what others do.
fn moves_again(state: &State) -> bool {
    match state {
        State::Account(_) | State::Meter(_) => true,
        State::Run(run) => !run.status.has_ended(),
        _ => false,
    }
}

/// What a batch leaves behind, and the transitions by which it came to that.
type CarriedOut = (HashMap<Stream, Versioned>, Vec<Transition>);

/// Carries out commands one after the other, each on what those before it left behind. What moves
/// with an action moves right after it.
fn carry_out(
    commands: Vec<Command>,
    at: (u64, Timestamp),
    find: impl Fn(&Stream) -> Result<Versioned, Error>,
) -> Result<CarriedOut, Error> {
    let mut touched: HashMap<Stream, Versioned> = HashMap::new();
    let (mut transitions, mut meters) = (Vec::new(), Vec::new());
    let mut commands = commands.into_iter();
    let mut following = None;
    while let Some(command) = following.take().or_else(|| commands.next()) {
        check_text(&command.stream.id)?;
        let stream = command.stream.clone();
        let current = touched.remove(&stream).map_or_else(|| find(&stream), Ok)?;
        let before = run::standing(current.state.as_deref());
        let next = advance(current, command, at, &mut transitions, &mut meters)?;
        // A step of a run moves with its action, whoever moved that; and so does an action with
        // the one that undoes it.
        let after = next.state.as_deref();
        following = run::follow(before, after).or_else(|| action::follow(before, after));
        touched.insert(stream, next);
    }
    for meter in meters {
        let stream = meter_stream(&meter);
        let current = touched.remove(&stream).map_or_else(|| find(&stream), Ok)?;
        touched.insert(stream, current.add(meter));
    }
    if transitions.len() > limits::TRANSITIONS_PER_RECEIPT_MAX {
        return Err(Error::TooManyTransitions);
    }
    Ok((touched, transitions))
}

/// The states that a batch has touched, as it leaves them.
fn left_behind(touched: &HashMap<Stream, Versioned>) -> Vec<(Stream, Arc<State>)> {
    let state = |(stream, versioned): (&Stream, &Versioned)| {
        versioned.state.clone().map(|state| (stream.clone(), state))
    };
    touched.iter().filter_map(state).collect()
}

/// Runs one command: the state machine steps, its changes are folded and recorded.
fn advance(
    current: Versioned,
    command: Command,
    (index, time): (u64, Timestamp),
    transitions: &mut Vec<Transition>,
    meters: &mut Vec<Meter>,
) -> Result<Versioned, Error> {
    let changes = machine::step(current.state.as_deref(), command.input, time)?;
    let mut next = current;
    for change in changes {
        meters.extend(next.metered(&change, time));
        next = next.fold(&command.stream.id, [&change], index, time);
        let version = next.version;
        transitions.push(Transition { stream: command.stream.clone(), version, change });
    }
    Ok(next)
}

fn committed(log: LogId, chained: Chained, checkpoint: Arc<str>) -> Committed {
    let Chained { index, time, states } = chained;
    let receipt_id = index.map(|index| log.receipt_id(index));
    Committed { index, receipt_id, time, checkpoint, states }
}

fn sign_checkpoint(log: &Log, frontier: &Frontier) -> Result<String, Error> {
    let checkpoint =
        Checkpoint { origin: log.origin.clone(), size: frontier.size(), root: frontier.root() };
    let invalid = |error: kernel::note::Error| Error::Invalid(error.to_string());
    let text = checkpoint.text().map_err(invalid)?;
    let sig = log.notes.sign(text.as_bytes())?;
    let signature = NoteSignature::by(log.notes.verifier_key(), sig);
    Ok(Note::new(&text, vec![signature]).map_err(invalid)?.to_string())
}
