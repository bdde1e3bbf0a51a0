//! Connections of their own for clients without a session: a legacy upstream that asks its client
//! something needs to know, when its session begins, whom it can ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use connectors::mcp::{Lane, Revision, SessionLane};
use kernel::values::Digest;
use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::back::can_be_asked;
use super::limits;
use super::sessions::Owner;
use crate::upstreams::Registered;

/// What a client without a session says of itself.
const NOBODY: &str = r#"{"name":"tally","version":"1"}"#;

/// The lanes that are open, with when each was last used.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<String, (Arc<Registered>, Instant)>>);

impl Lanes {
    /// The lane of a request: the same for the same client with the same capabilities.
    pub(super) fn of(
        &self,
        owner: &Owner,
        upstream: &Arc<Registered>,
        client: Option<&RawValue>,
        capabilities: &RawValue,
    ) -> Lane {
        let stateless = upstream.client.health().revision == Some(Revision::V2026_07_28);
        if stateless || !can_be_asked(capabilities) {
            return Lane::Shared;
        }
        let client = client.map_or(NOBODY, RawValue::get);
        let whose = format!("{}\n{}\n{client}\n{}", owner.key(), upstream.name, capabilities.get());
        let id = format!("request-{}", Digest::of(whose.as_bytes()).hex());
        self.0.lock().insert(id.clone(), (upstream.clone(), Instant::now()));
        let client = RawValue::from_string(client.to_owned()).unwrap_or_default();
        Lane::Session(SessionLane { id, client, capabilities: capabilities.to_owned() })
    }

    /// Closes those that nobody used for long.
    pub(super) async fn sweep(&self) {
        let mut idle = Vec::new();
        self.0.lock().retain(|id, (upstream, used)| {
            let stays = used.elapsed() < limits::LANE_IDLE;
            if !stays {
                idle.push((id.clone(), upstream.clone()));
            }
            stays
        });
        for (id, upstream) in idle {
            upstream.client.close_lane(&id).await;
        }
    }
}
