//! `requestState`: what a client carries for us between two rounds of one request.
//!
//! It is sealed and bound to who asked, for which tool and with which parameters, and it ends. So
//! it is of no use to another principal, for another call, or later; an upstream's own state,
//! which our shared connection would take from anybody, is inside of ours.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, ToolId};
use kernel::json::{self, RawJson};
use kernel::values::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum State {
    /// For people to decide this action.
    Held {
        /// Which.
        action: ActionId,
    },
    /// For the client, which an upstream asks something.
    Upstream {
        /// The upstream's own state, where it sent one.
        state: Option<String>,
    },
    /// For the client, while a call is under way.
    Parked {
        /// Which.
        id: String,
    },
}

/// What a state is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) caller: &'a Caller,
    /// The tool or method.
    pub(crate) tool: &'a ToolId,
    pub(crate) params: &'a RawJson,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    state: State,
    until: Timestamp,
}

impl Bound<'_> {
    /// Everything that must be the same when the state comes back.
    fn label(&self) -> Result<String> {
        let actors = self.caller.actors();
        let ids: Vec<&str> = actors.actors().iter().map(|actor| actor.id.as_str()).collect();
        let params = json::canonical(self.params).map_err(Refused::internal)?;
        let Caller { tenant, workspace, environment, .. } = self.caller;
        Ok(format!(
            "mcp/state\n{tenant}\n{workspace}\n{environment}\n{}\n{}\n{}",
            ids.join("/"),
            self.tool,
            Digest::of(&params),
        ))
    }
}

/// Seals `state` for as long as `lasts`.
pub(crate) async fn seal(
    shared: &Shared,
    bound: Bound<'_>,
    state: State,
    lasts: Duration,
) -> Result<String> {
    let micros = i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX);
    let sealed = Sealed { state, until: shared.now().plus_micros(micros) };
    let text = serde_json::to_vec(&sealed).map_err(Refused::internal)?;
    let sealer = shared.gateway.keys.of(shared, &bound.caller.tenant).await?;
    Ok(BASE64URL.encode(sealer.seal(&bound.label()?, &text)?))
}

/// The inverse of [`seal`], or why the request cannot go on: nothing has run by then.
pub(crate) async fn unseal(shared: &Shared, bound: Bound<'_>, text: &str) -> Result<State> {
    if text.len() > limits::REQUEST_STATE_BYTES_MAX {
        return Err(refused());
    }
    let sealer = shared.gateway.keys.of(shared, &bound.caller.tenant).await?;
    let label = bound.label()?;
    let opened = BASE64URL.decode(text).ok().and_then(|text| sealer.open(&label, &text).ok());
    let opened = opened.ok_or_else(refused)?;
    let Sealed { state, until } = serde_json::from_slice(&opened).map_err(Refused::internal)?;
    if shared.now() >= until {
        let message = "requestState: its time is over; send the request again without it";
        return Err(Refused(Failure::new(Category::Validation, "request_state_expired", message)));
    }
    Ok(state)
}

/// Which of these it is, nobody is told.
fn refused() -> Refused {
    let message = "requestState: this is not what the server gave this caller for this request \
        with these parameters; send the request again without it";
    Refused::new(Category::Validation, "request_state_invalid", message)
}
