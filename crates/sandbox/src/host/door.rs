//! `call-tool`: the one way to tools.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::limits;
use crate::run::{Door, DoorAnswer, DoorFailure};
use crate::state::{State, Stop, Waits, shorten};

/// Codes that a report can carry where a call ends the sandbox.
const FATAL: [&str; 6] = [
    "replay_diverged",
    "not_recorded",
    "result_expired",
    "permission_denied",
    "principal_disabled",
    "canceled",
];

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.root().func_wrap_async("call-tool", |store, (name, args): (String, String)| {
        Box::new(async move { Ok((call(store, &name, &args).await?,)) })
    })
}

/// What code is given of a call: JSON, or an object with `code` and `message` as JSON.
type Told = Result<String, String>;

async fn call(
    mut store: StoreContextMut<'_, State>,
    name: &str,
    args: &str,
) -> wasmtime::Result<Told> {
    let state = store.data_mut();
    let (door, books) = (Arc::clone(&state.given.door), Arc::clone(&state.books));
    let most = state.given.limits.tool_calls;
    let call = Call { door: &*door, waits: &books.waits, name, args };
    match call.make(&mut state.calls, most).await? {
        Called::Given(json) => Ok(Ok(json)),
        Called::Failed { told, denied } => {
            if denied {
                store.data().books.denials.add_tool(name, &told);
            }
            Ok(Err(told))
        }
    }
}

/// A call of a tool, from whatever kind of sandbox.
pub(crate) struct Call<'a> {
    pub(crate) door: &'a dyn Door,
    pub(crate) waits: &'a Waits,
    pub(crate) name: &'a str,
    pub(crate) args: &'a str,
}

/// What came of it.
pub(crate) enum Called {
    /// JSON.
    Given(String),
    /// What the code is told, as JSON, and whether the tool was not granted.
    Failed { told: String, denied: bool },
}

impl Call<'_> {
    /// Makes the call, which is one more than `made` of at most `most`.
    pub(crate) async fn make(&self, made: &mut u32, most: u32) -> Result<Called, Stop> {
        if *made >= most {
            return Err(Stop::ToolCalls);
        }
        *made += 1;
        if let Some(failure) = malformed(self.name, self.args) {
            return Ok(Called::Failed { told: tell(&failure), denied: false });
        }
        let began = self.waits.begin_call();
        let DoorAnswer { result, held_ms } = self.door.call(*made, self.name, self.args).await;
        if !self.waits.end_call(began, held_ms) {
            return Err(Stop::Wall);
        }
        match result {
            Ok(json) => Ok(Called::Given(json)),
            Err(failure) if failure.fatal => {
                let code = FATAL.iter().find(|code| **code == failure.code);
                let code = code.copied().unwrap_or("tool_call_failed");
                Err(Stop::Door { code, message: failure.message })
            }
            Err(failure) => Ok(Called::Failed { told: tell(&failure), denied: failure.denied }),
        }
    }
}

fn malformed(name: &str, args: &str) -> Option<DoorFailure> {
    let (code, message) = if name.is_empty() || name.len() > limits::TOOL_NAME_BYTES_MAX {
        let most = limits::TOOL_NAME_BYTES_MAX;
        ("tool_name_invalid", format!("a tool's name has 1 to {most} bytes"))
    } else if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(args) {
        ("args_invalid", format!("the arguments are no JSON: {error}"))
    } else {
        return None;
    };
    Some(DoorFailure { code: code.to_owned(), message, fatal: false, denied: false })
}

fn tell(failure: &DoorFailure) -> String {
    let message = shorten(&failure.message, limits::FAILURE_TEXT_BYTES_MAX);
    serde_json::json!({ "code": failure.code, "message": message }).to_string()
}
