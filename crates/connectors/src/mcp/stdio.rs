//! A child process that is spoken to by its standard input and output, a line a message.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::failure::{Category, Failure};
use rustix::fs::Access;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{Lost, Out, Reply};
use super::health::Hub;
use super::message::{self, Message};
use super::serve::{self, Askable, Caller, Gate};
use super::spec::{self, Confine, Secrets};
use crate::limits;

/// Variables that a child has of ours.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// Where a child that is apart finds programs.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// How to start the child.
pub(super) struct Launch {
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Option<PathBuf>,
    /// What starts it apart from everything else, where it is to be.
    pub(super) apart: Option<Apart>,
    pub(super) secrets: Arc<dyn Secrets>,
    /// The end of what the children wrote to their standard error.
    pub(super) stderr: Arc<Mutex<VecDeque<u8>>>,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch").field("command", &self.command).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launch {
    /// Starts the child in a process group of its own.
    pub(super) fn start(
        &self,
        hub: &Arc<Hub>,
        lane: Option<String>,
        askable: Askable,
    ) -> Result<Child, Failure> {
        let mut command = self.command()?;
        for (name, value) in &self.env {
            command.env(name, spec::reveal(value, self.secrets.as_ref())?.as_str());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let failed = |why: &dyn std::fmt::Display| {
            let message = format!("cannot start `{}`: {why}", self.command);
            Failure::new(Category::Permanent, "start_failed", message)
        };
        let mut process = command.spawn().map_err(|e| failed(&e))?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(failed(&"it has no pipes"));
        };
        let group = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (outgoing, queue) = mpsc::channel(limits::MCP_STDIN_QUEUE);
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            stop: CancellationToken::new(),
            why: Mutex::default(),
        });
        tokio::spawn(write(stdin, queue, shared.stop.clone()));
        tokio::spawn(keep_stderr(stderr, Arc::clone(&self.stderr)));
        let reader = Reader {
            shared: Arc::clone(&shared),
            outgoing: outgoing.clone().downgrade(),
            hub: Arc::clone(hub),
            lane,
            askable,
            asks: JoinSet::new(),
            gate: Gate::new(),
            line: Vec::new(),
        };
        tokio::spawn(supervise(process, group.map(Group), stdout, reader));
        Ok(Child { shared, outgoing })
    }
}

impl Launch {
    /// The command, with what its environment has besides what was named.
    fn command(&self) -> Result<Command, Failure> {
        let mut args = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            args.push(spec::reveal(arg, self.secrets.as_ref())?.as_str().into());
        }
        let mut command = match &self.apart {
            Some(apart) => apart.command(&self.command, args)?,
            None => {
                let mut command = Command::new(&self.command);
                command.args(args).env_clear();
                for name in INHERITED {
                    if let Some(value) = std::env::var_os(name) {
                        command.env(name, value);
                    }
                }
                command
            }
        };
        if let Some(folder) = &self.cwd {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

/// What starts the child of one upstream apart from everything else.
pub(super) struct Apart {
    name: String,
    confine: Option<Arc<dyn Confine>>,
}

impl Apart {
    pub(super) fn new(name: &str, confine: Option<Arc<dyn Confine>>) -> Self {
        Self { name: name.to_owned(), confine }
    }

    fn command(&self, program: &str, args: Vec<OsString>) -> Result<Command, Failure> {
        let confine = self.confine.as_ref().ok_or_else(|| {
            let message = "nothing here starts processes apart: the MCP server is not started";
            Failure::new(Category::Permanent, "sandbox_type_unavailable", message)
        })?;
        let program = find(program).ok_or_else(|| {
            let message = format!("cannot start `{program}`: there is no such program");
            Failure::new(Category::Permanent, "start_failed", message)
        })?;
        let confined = confine.confine(&self.name, &program, args)?;
        let mut command = Command::new(confined.program);
        command.args(confined.args).env_clear().current_dir(&confined.folder);
        command.env("PATH", SYSTEM_PATH).env("LANG", "C.UTF-8");
        command.env("HOME", &confined.folder).env("TMPDIR", &confined.folder);
        Ok(command)
    }
}

/// The program that a name or path stands for, by our own `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program).ok();
    }
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.is_absolute() && rustix::fs::access(place, Access::EXEC_OK).is_ok())
}

/// A process group, killed when this is dropped.
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // It may be gone already.
        let _sent = kill_process_group(self.0, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What the tasks of one child share.
#[derive(Debug)]
struct Shared {
    /// Requests without an answer; nothing once the child has ended.
    pending: Mutex<Option<HashMap<u64, Pending>>>,
    stop: CancellationToken,
    /// Why it ended.
    why: Mutex<Option<&'static str>>,
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Reply>,
    caller: Option<Arc<Caller>>,
}

impl Shared {
    /// No answer comes any more.
    fn end(&self, why: &'static str) {
        lock(&self.why).get_or_insert(why);
        drop(lock(&self.pending).take());
        self.stop.cancel();
    }

    fn failure(&self) -> Failure {
        let why = lock(&self.why).unwrap_or("ended");
        Failure::new(Category::Network, "child_ended", format!("the MCP server's process {why}"))
    }
}

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Child {
    pub(super) fn alive(&self) -> bool {
        lock(&self.shared.pending).is_some()
    }

    /// Ends it: first by closing its input, then by force.
    pub(super) fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(&self, out: Out<'_>) -> Result<Reply, Lost> {
        let (answer, answered) = oneshot::channel();
        match lock(&self.shared.pending).as_mut() {
            Some(pending) => {
                pending.insert(out.id, Pending { answer, caller: out.caller.cloned() });
            }
            None => return Err(self.shared.failure().into()),
        }
        let cancellable = out.method != "initialize";
        let mut waiting = Waiting { child: self, id: out.id, cancel: false };
        let line = line(out.body);
        let Ok(place) = self.outgoing.reserve().await else {
            return Err(self.shared.failure().into());
        };
        if let Some(caller) = out.caller {
            caller.sending();
        }
        waiting.cancel = cancellable;
        place.send(line);
        let reply = answered.await;
        waiting.cancel = false;
        reply.map_err(|_| Lost::Unknown(self.shared.failure()))
    }

    /// Sends what needs no answer.
    pub(super) async fn tell(&self, message: Vec<u8>) -> Result<(), Failure> {
        let sent = self.outgoing.send(line(message));
        match tokio::time::timeout(limits::MCP_NOTIFY_TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.shared.failure()),
            Err(_) => Err(Failure::new(Category::Timeout, "timeout", "the message was not taken")),
        }
    }
}

/// A message as a line. JSON has no line break but between its tokens, where a space will do.
fn line(mut message: Vec<u8>) -> Vec<u8> {
    for byte in &mut message {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    message.push(b'\n');
    message
}

/// Forgets a request that is not waited for any more, and tells the child so.
struct Waiting<'a> {
    child: &'a Child,
    id: u64,
    cancel: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let forgotten = lock(&self.child.shared.pending).as_mut().and_then(|p| p.remove(&self.id));
        if self.cancel && forgotten.is_some() {
            // A child that does not read has no use for it either.
            let _told = self.child.outgoing.try_send(line(message::cancelled(self.id)));
        }
    }
}

/// Writes what is queued; ends the child's input when told to stop.
async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Vec<u8>>, stop: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        let next = tokio::select! {
            next = queue.recv() => next,
            () = stop.cancelled() => return,
        };
        let Some(first) = next else { return };
        batch = first_of(batch, first);
        while let Ok(more) = queue.try_recv() {
            batch.extend_from_slice(&more);
        }
        let written = tokio::select! {
            written = stdin.write_all(&batch) => written.is_ok(),
            () = stop.cancelled() => return,
        };
        if !written {
            // The reader sees the child's end.
            return;
        }
    }
}

/// `first` as the start of a batch; a large buffer of an earlier one is not kept.
fn first_of(mut batch: Vec<u8>, first: Vec<u8>) -> Vec<u8> {
    if batch.capacity() > READ_BYTES || first.len() > batch.capacity() {
        return first;
    }
    batch.clear();
    batch.extend_from_slice(&first);
    batch
}

async fn keep_stderr(mut stderr: ChildStderr, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let mut kept = lock(&kept);
        kept.extend(buffer.iter().take(read));
        let over = kept.len().saturating_sub(limits::MCP_STDERR_BYTES_MAX);
        kept.drain(..over);
    }
}

/// Reads what a child says.
struct Reader {
    shared: Arc<Shared>,
    /// Weak: the child's input is to be closed when nobody speaks to it any more.
    outgoing: mpsc::WeakSender<Vec<u8>>,
    hub: Arc<Hub>,
    lane: Option<String>,
    askable: Askable,
    asks: JoinSet<()>,
    gate: Gate,
    /// The part of a line that was read so far.
    line: Vec<u8>,
}

/// Reads until the child ends or is to end, and sees to it that nothing of it stays.
async fn supervise(
    mut process: tokio::process::Child,
    group: Option<Group>,
    stdout: ChildStdout,
    mut reader: Reader,
) {
    let (shared, hub) = (Arc::clone(&reader.shared), Arc::clone(&reader.hub));
    let mut stdout = BufReader::with_capacity(READ_BYTES, stdout);
    let why = tokio::select! {
        why = reader.read(&mut stdout) => why,
        _status = process.wait() => {
            // What it said last may still be in the pipe; others may hold it open.
            drop(group);
            let rest = tokio::time::timeout(limits::MCP_STOP_TIMEOUT, reader.read(&mut stdout));
            shared.end(rest.await.unwrap_or("ended"));
            hub.down(&shared.failure().message);
            return;
        }
        () = shared.stop.cancelled() => "was stopped",
    };
    let stopped = shared.stop.is_cancelled();
    shared.end(why);
    if !stopped {
        hub.down(&shared.failure().message);
    }
    // Its input is closed by now; what it says is still read, or it could not end.
    let mut rest = vec![0; 4096];
    for signal in [None, Some(Signal::TERM)] {
        if let (Some(signal), Some(group)) = (signal, &group) {
            group.signal(signal);
        }
        let ending = async { while let Ok(1..) = stdout.read(&mut rest).await {} };
        if tokio::time::timeout(limits::MCP_STOP_TIMEOUT, ending).await.is_ok() {
            break;
        }
    }
    drop(group);
    // Killed by now, with all of its group.
    let _status = process.wait().await;
}

impl Reader {
    /// Reads to the end, and says why it is the end.
    async fn read(&mut self, stdout: &mut BufReader<ChildStdout>) -> &'static str {
        loop {
            let chunk = match stdout.fill_buf().await {
                Ok([]) => return "ended",
                Ok(chunk) => chunk,
                Err(_) => return "cannot be read from",
            };
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            if self.line.len() + part.len() > limits::MCP_MESSAGE_BYTES_MAX {
                return "wrote a message that is too long";
            }
            let taken = part.len() + usize::from(end.is_some());
            match end {
                Some(_) if self.line.is_empty() => self.take(part),
                Some(_) => {
                    self.line.extend_from_slice(part);
                    let line = std::mem::take(&mut self.line);
                    self.take(&line);
                }
                None => self.line.extend_from_slice(part),
            }
            stdout.consume(taken);
        }
    }

    fn take(&mut self, text: &[u8]) {
        while self.asks.try_join_next().is_some() {}
        if text.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match Message::parse(text) {
            Ok(Message::Response { id: Some(id), outcome }) => {
                let pending = lock(&self.shared.pending).as_mut().and_then(|p| p.remove(&id));
                match pending {
                    // Whoever asked may have gone.
                    Some(pending) => drop(pending.answer.send(outcome.map(ToOwned::to_owned))),
                    None => self.hub.ignored(),
                }
            }
            Ok(Message::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancelled(params);
                } else if self.gate.pass() {
                    let caller = params.and_then(|params| self.caller_of(params));
                    self.hub.notified(self.lane.as_deref(), caller.as_ref(), &method, params);
                } else {
                    self.hub.dropped();
                }
            }
            Ok(Message::Request { id, method, params })
                if self.asks.len() < limits::MCP_ASKS_MAX =>
            {
                let answer = serve::answer(
                    self.askable,
                    self.hub.newest(self.lane.as_deref()),
                    id.to_owned(),
                    method.into_owned(),
                    params.map(ToOwned::to_owned),
                );
                let outgoing = self.outgoing.clone();
                self.asks.spawn(async move {
                    let answer = answer.await;
                    if let Some(outgoing) = outgoing.upgrade() {
                        // The child may have ended meanwhile.
                        let _sent = outgoing.send(line(answer)).await;
                    }
                });
            }
            // Some programs write their log to the wrong stream.
            Ok(_) | Err(_) => self.hub.ignored(),
        }
    }

    /// The upstream ends a subscription: nobody else waits for an answer without being there.
    fn cancelled(&self, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Cancelled {
            request_id: u64,
        }
        let named = params.and_then(|params| serde_json::from_str(params.get()).ok());
        let Some(Cancelled { request_id }) = named else { return self.hub.ignored() };
        let mut pending = lock(&self.shared.pending);
        let Some(pending) = pending.as_mut() else { return };
        if pending.get(&request_id).is_some_and(|pending| pending.caller.is_none()) {
            pending.remove(&request_id);
        }
    }

    /// Whose request a notification names by its progress token, which is the request's id.
    fn caller_of(&self, params: &RawValue) -> Option<Arc<Caller>> {
        #[derive(Deserialize)]
        struct Progress {
            #[serde(rename = "progressToken")]
            token: u64,
        }
        let Progress { token } = serde_json::from_str(params.get()).ok()?;
        let pending = lock(&self.shared.pending);
        pending.as_ref()?.get(&token)?.caller.clone()
    }
}
