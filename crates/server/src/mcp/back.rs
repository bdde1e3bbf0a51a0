//! The client's side of a call under way: what is told to it, and what it is asked.
//!
//! A client of a legacy revision is asked on the stream of the call and answers in a request of
//! its own. A modern client is asked by the answer to its request (`input_required`) and sends the
//! request again with what it has to say; until then the call waits without it.

use std::sync::Arc;

use async_trait::async_trait;
use connectors::mcp::{Back, RpcError};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};

use super::limits;
use super::raw;
use super::rpc;
use super::sessions::{Level, Session};
use super::stream::Log;

const PROGRESS: &str = "notifications/progress";
const MESSAGE: &str = "notifications/message";

/// What a client can be asked, by the capability that it declares.
const QUESTIONS: [(&str, &str); 3] = [
    ("sampling/createMessage", "sampling"),
    ("elicitation/create", "elicitation"),
    ("roots/list", "roots"),
];

/// Whether a client with these capabilities can be asked anything.
pub(super) fn can_be_asked(capabilities: &RawValue) -> bool {
    let members = raw::members(capabilities.get()).unwrap_or_default();
    members.iter().any(|(name, _)| QUESTIONS.iter().any(|(_, capability)| name == capability))
}

fn check_question(method: &str, capabilities: &RawValue) -> Result<(), RpcError> {
    let question = QUESTIONS.iter().find(|(known, _)| *known == method);
    let declared = |capability: &str| raw::member(capabilities.get(), capability).is_some();
    match question {
        Some((_, capability)) if declared(capability) => Ok(()),
        _ => Err(RpcError::method_not_found(method)),
    }
}

/// The stream of one request, opened by the first thing that goes over it.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    log: Mutex<Option<Arc<Log>>>,
    opened: Notify,
}

impl Outgoing {
    /// The stream, where something was sent.
    pub(super) fn log(&self) -> Option<Arc<Log>> {
        self.log.lock().clone()
    }

    /// The stream, opened.
    pub(super) fn open(&self, make: impl FnOnce() -> Arc<Log>) -> Arc<Log> {
        let mut log = self.log.lock();
        let open = log.get_or_insert_with(make).clone();
        drop(log);
        self.opened.notify_one();
        open
    }

    /// Returns once the stream is open.
    pub(super) async fn opened(&self) -> Arc<Log> {
        loop {
            if let Some(log) = self.log() {
                return log;
            }
            self.opened.notified().await;
        }
    }
}

/// Whether a message of the upstream's is severe enough.
fn loud(params: &RawValue, least: Level) -> bool {
    #[derive(serde::Deserialize)]
    struct Message {
        level: String,
    }
    let message: Option<Message> = serde_json::from_str(params.get()).ok();
    message.and_then(|message| Level::parse(&message.level)).is_some_and(|level| level >= least)
}

/// A client in a session.
#[derive(Debug)]
pub(super) struct InSession {
    pub(super) session: Arc<Session>,
    pub(super) out: Outgoing,
}

impl InSession {
    pub(super) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self { session, out: Outgoing::default() })
    }

    /// The stream, opened.
    pub(super) fn stream(&self) -> Arc<Log> {
        self.out.open(|| self.session.open_stream())
    }
}

#[async_trait]
impl Back for InSession {
    fn capabilities(&self) -> Option<&RawValue> {
        let capabilities = &self.session.intro.capabilities;
        can_be_asked(capabilities).then_some(capabilities)
    }

    fn rounds(&self) -> bool {
        false
    }

    async fn ask(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, RpcError> {
        check_question(method, &self.session.intro.capabilities)?;
        let (id, answer) = self.session.ask()?;
        self.stream().push(&rpc::request(&id, method, params.get()));
        match tokio::time::timeout(limits::ASK, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RpcError::new(rpc::INTERNAL_ERROR, "the client's session ended")),
            Err(_) => Err(RpcError::new(rpc::INTERNAL_ERROR, "the client did not answer")),
        }
    }

    fn notify(&self, method: &str, params: &RawValue) {
        let wanted = match method {
            PROGRESS => true,
            MESSAGE => self.session.level().is_none_or(|least| loud(params, least)),
            _ => false,
        };
        if wanted {
            self.stream().offer(&rpc::notification(method, params.get()));
        }
    }
}

/// A question that waits for the next round.
#[derive(Debug)]
struct Question {
    key: String,
    method: String,
    params: Box<RawValue>,
    answer: oneshot::Sender<Result<Box<RawValue>, RpcError>>,
}

/// A client without a session.
#[derive(Debug)]
pub(super) struct InRequest {
    capabilities: Box<RawValue>,
    state: Mutex<Round>,
    asked: Notify,
}

/// What differs from round to round.
#[derive(Debug, Default)]
struct Round {
    questions: Vec<Question>,
    asked: u64,
    /// The request that waits for the call, where one does.
    attended: Option<Attendance>,
}

/// What a request that waits for a call wants to hear.
#[derive(Clone, Debug)]
pub(super) struct Attendance {
    pub(super) out: Arc<Outgoing>,
    pub(super) level: Option<Level>,
    pub(super) progress_token: Option<Box<RawValue>>,
}

impl InRequest {
    pub(super) fn new(capabilities: &RawValue, attendance: Attendance) -> Arc<Self> {
        let state = Round { attended: Some(attendance), ..Round::default() };
        let capabilities = capabilities.to_owned();
        Arc::new(Self { capabilities, state: Mutex::new(state), asked: Notify::new() })
    }

    /// Another request waits for the call now, or none.
    pub(super) fn attend(&self, attendance: Option<Attendance>) {
        self.state.lock().attended = attendance;
    }

    /// Returns once there is something to ask.
    pub(super) async fn asks(&self) {
        while self.state.lock().questions.iter().all(|question| question.answer.is_closed()) {
            self.asked.notified().await;
        }
    }

    /// What the client is asked: `inputRequests`.
    pub(super) fn questions(&self) -> String {
        let mut round = self.state.lock();
        round.questions.retain(|question| !question.answer.is_closed());
        let requests = round.questions.iter().map(|question| {
            let method = raw::quoted(&question.method);
            let params = question.params.get();
            (&question.key, format!(r#"{{"method":{method},"params":{params}}}"#))
        });
        let requests: Vec<(&String, String)> = requests.collect();
        raw::object(requests.iter().map(|(key, text)| (key.as_str(), text.as_str())))
    }

    /// Hands on what the client has to say, `inputResponses`. What nobody asked is left out.
    pub(super) fn answered(&self, responses: &RawValue) {
        let answers = raw::members(responses.get()).unwrap_or_default();
        let mut round = self.state.lock();
        for (key, answer) in answers {
            let at = round.questions.iter().position(|question| question.key == key);
            if let Some(at) = at {
                // Who asked may have gone.
                let _gone = round.questions.swap_remove(at).answer.send(Ok(answer.to_owned()));
            }
        }
    }
}

#[async_trait]
impl Back for InRequest {
    fn capabilities(&self) -> Option<&RawValue> {
        Some(&self.capabilities)
    }

    fn rounds(&self) -> bool {
        true
    }

    async fn ask(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, RpcError> {
        check_question(method, &self.capabilities)?;
        let answer = {
            let mut round = self.state.lock();
            round.questions.retain(|question| !question.answer.is_closed());
            if round.questions.len() >= limits::ASKS_MAX {
                let message = "too many questions to the client are open";
                return Err(RpcError::new(rpc::INTERNAL_ERROR, message));
            }
            round.asked += 1;
            let key = format!("q{}", round.asked);
            let (sender, receiver) = oneshot::channel();
            let (method, params) = (method.to_owned(), params.to_owned());
            round.questions.push(Question { key, method, params, answer: sender });
            receiver
        };
        self.asked.notify_one();
        match tokio::time::timeout(limits::ASK, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(RpcError::new(rpc::INTERNAL_ERROR, "the client did not answer")),
        }
    }

    fn notify(&self, method: &str, params: &RawValue) {
        let Some(attendance) = self.state.lock().attended.clone() else { return };
        let text = match method {
            PROGRESS => {
                // The request that waits now has a token of its own.
                let Some(token) = &attendance.progress_token else { return };
                let Some(sent) = raw::member(params.get(), "progressToken") else { return };
                match sent.get() == token.get() {
                    true => params.get().to_owned(),
                    false => raw::replace(params.get(), sent.get(), token.get()),
                }
            }
            MESSAGE if attendance.level.is_some_and(|least| loud(params, least)) => {
                params.get().to_owned()
            }
            _ => return,
        };
        attendance.out.open(Log::plain).offer(&rpc::notification(method, &text));
    }
}
