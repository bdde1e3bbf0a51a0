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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use kernel::ids::{EnvironmentId, TenantId, WorkspaceId};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::stores::Stores;
    use crate::{Config, open};

    const ISSUER: &str = "https://tally.test";
    const HOUR: Duration = Duration::from_secs(3600);

    fn shared(config: &Config) -> Shared {
        let tools = open::tools(config).unwrap();
        let stores = Stores::open(config, ISSUER).unwrap();
        let epochs = stores.acquire().unwrap();
        let (keys, running) = (crate::open_keys(config).unwrap(), TaskTracker::new());
        let issuer = ISSUER.to_owned();
        open::open(config.clone(), tools, issuer, keys, &stores, epochs, running).unwrap()
    }

    /// Copies everything below `from`.
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    fn caller(tenant: &str, id: &str, environment: &str) -> Caller {
        let principal = kernel::control::Principal {
            id: kernel::ids::PrincipalId::new(id).unwrap(),
            kind: kernel::principal::PrincipalKind::Agent,
            roles: std::collections::BTreeSet::default(),
            account: None,
            disabled: false,
            revision: 1,
            created_at: Timestamp(1),
        };
        Caller::new(
            TenantId::new(tenant).unwrap(),
            WorkspaceId::new("main").unwrap(),
            EnvironmentId::new(environment).unwrap(),
            &principal,
        )
    }

    #[tokio::test]
    async fn good_for_one_caller_one_call_and_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().to_owned(), ..Config::default() };
        let (ann, tool) = (caller("main", "ann", "dev"), ToolId::new("mcp.kit.victim").unwrap());
        let params = RawJson::parse(r#"{"a":1,"b":[2]}"#).unwrap();
        let state = State::Upstream { state: Some("theirs".to_owned()) };
        let sealed = {
            let shared = shared(&config);
            let own = Bound { caller: &ann, tool: &tool, params: &params };
            let sealed = seal(&shared, own, state.clone(), HOUR).await.unwrap();
            assert!(!sealed.contains("theirs"));
            assert_eq!(unseal(&shared, own, &sealed).await.unwrap(), state);
            let over = seal(&shared, own, state.clone(), Duration::ZERO).await.unwrap();
            let Refused(failure) = unseal(&shared, own, &over).await.unwrap_err();
            assert_eq!(failure.code, "request_state_expired");
            sealed
        };
        // After a restart it is what it was, for the same call however it is written. A process
        // holds its folder for as long as it lives, so the next server gets a copy.
        let moved = tempfile::tempdir().unwrap();
        copy(folder.path(), moved.path());
        let shared = shared(&Config { data: moved.path().to_owned(), ..Config::default() });
        let spaced = RawJson::parse(r#"{ "b": [2], "a": 1 }"#).unwrap();
        let own = Bound { caller: &ann, tool: &tool, params: &spaced };
        assert_eq!(unseal(&shared, own, &sealed).await.unwrap(), state);
        let others = [
            caller("main", "bob", "dev"),
            caller("other", "ann", "dev"),
            caller("main", "ann", "prod"),
        ];
        let other_tool = ToolId::new("mcp.kit.bystander").unwrap();
        let other_params = RawJson::parse(r#"{"a":2,"b":[2]}"#).unwrap();
        let mut foreign: Vec<Bound<'_>> =
            others.iter().map(|caller| Bound { caller, ..own }).collect();
        foreign.push(Bound { tool: &other_tool, ..own });
        foreign.push(Bound { params: &other_params, ..own });
        for bound in foreign {
            let Refused(failure) = unseal(&shared, bound, &sealed).await.unwrap_err();
            assert_eq!(failure.code, "request_state_invalid", "{bound:?}");
        }
    }
}
