//! A caller that remembers what it was told, and answers what it is asked.

use std::sync::Mutex;

use async_trait::async_trait;
use connectors::mcp::{Back, Lane, RpcError, SessionLane};
use serde_json::Value;
use serde_json::value::RawValue;

use super::raw;

pub(crate) struct Caller {
    capabilities: Box<RawValue>,
    rounds: bool,
    answer: Result<String, i64>,
    pub(crate) told: Mutex<Vec<(String, Value)>>,
    pub(crate) asked: Mutex<Vec<(String, Value)>>,
}

impl Caller {
    pub(crate) fn new(answer: Result<&str, i64>) -> Self {
        Self {
            capabilities: raw(r#"{"elicitation":{},"sampling":{}}"#),
            rounds: false,
            answer: answer.map(str::to_owned),
            told: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    pub(crate) fn with_rounds() -> Self {
        Self { rounds: true, ..Self::new(Err(0)) }
    }

    /// The methods that it was told.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().iter().map(|(method, _)| method.clone()).collect()
    }
}

fn value(params: &RawValue) -> Value {
    serde_json::from_str(params.get()).unwrap()
}

#[async_trait]
impl Back for Caller {
    fn capabilities(&self) -> Option<&RawValue> {
        Some(&self.capabilities)
    }

    fn rounds(&self) -> bool {
        self.rounds
    }

    async fn ask(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, RpcError> {
        self.asked.lock().unwrap().push((method.to_owned(), value(params)));
        match &self.answer {
            Ok(text) => Ok(raw(text)),
            Err(code) => Err(RpcError::new(*code, "no")),
        }
    }

    fn notify(&self, method: &str, params: &RawValue) {
        self.told.lock().unwrap().push((method.to_owned(), value(params)));
    }
}

/// A connection for a session whose client can be asked.
pub(crate) fn session(id: &str) -> Lane {
    Lane::Session(SessionLane {
        id: id.to_owned(),
        client: raw(r#"{"name":"someone","version":"1"}"#),
        capabilities: raw(r#"{"elicitation":{},"sampling":{}}"#),
    })
}
