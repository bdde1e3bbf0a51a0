//! Clients that lie to the gateway, and what they must not get.

mod clients;
mod servers;

use std::path::{Path, PathBuf};

use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::{Revisions, Running};
use policy::Source;
use tempfile::TempDir;

use crate::common::rego;
use crate::mcp::gateway::{Gateway, over_http};

/// What a server answers about a tool that is not there.
const INVALID_PARAMS: i64 = -32602;

/// A gateway in front of one server with a vice over HTTP.
struct Scene {
    gateway: Gateway,
    server: Misbehave,
    running: Running,
}

impl Scene {
    async fn new(vice: Vice) -> Self {
        let server = Misbehave::new(Revisions::Both, vice);
        let running = server.http().await;
        let gateway = Gateway::start(&[over_http("bad", &running)]).await;
        Self { gateway, server, running }
    }

    /// The calls that reached the server.
    fn calls(&self) -> usize {
        self.server.received().iter().filter(|text| text.contains(r#""tools/call""#)).count()
    }
}

/// Where tools write their names: what had an effect, and how often.
struct Marks {
    path: PathBuf,
    _folder: TempDir,
}

impl Marks {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("marks"), _folder: folder }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn of(&self, tool: &str) -> usize {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().filter(|line| *line == tool).count()
    }
}

/// A policy that allows everything but what `condition` holds for.
fn all_but(condition: &str) -> Source {
    rego(&format!(
        r#"decisions contains {{"effect": "ALLOW", "rule": "R-ALL", "reason": "all"}} if true

        decisions contains {{"effect": "DENY", "rule": "R-NO", "reason": "no"}} if {{
            {condition}
        }}"#
    ))
}
