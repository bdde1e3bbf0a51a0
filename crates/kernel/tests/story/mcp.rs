//! MCP servers, their tools, and the secrets that they are shown.

use kernel::machine::{Change, Kind};
use kernel::values::Digest;
use kernel::{secret, upstream, upstream_tool};

use super::{Told, principal};

pub(super) fn commits() -> Vec<Vec<Told>> {
    secrets().into_iter().chain(upstreams()).collect()
}

/// A secret that is put, rotated and removed: who and when, nothing of what.
fn secrets() -> Vec<Vec<Told>> {
    let by = || principal("u_2");
    let secret = |change| vec![(Kind::Secret, "github", Change::Secret(change))];
    vec![
        secret(secret::Change::Put { version: 1, by: by() }),
        secret(secret::Change::Rotated { version: 2, by: by() }),
        secret(secret::Change::Removed { by: by() }),
    ]
}

/// A server whose tool changes after the first contact, is released, goes and comes back.
fn upstreams() -> Vec<Vec<Told>> {
    let server = |change| (Kind::Upstream, "files", Change::Upstream(change));
    let tool = |id, change| (Kind::UpstreamTool, id, Change::UpstreamTool(change));
    let (read, write) = ("mcp.files.read_file", "mcp.files.Write/File");
    let settings = |text: &[u8], by| upstream::Settings {
        spec: Digest::of(b"spec"),
        settings: Digest::of(text),
        by,
    };
    let (first, second) = (Digest::of(b"first definition"), Digest::of(b"second definition"));
    let pinned = upstream_tool::Change::Pinned { digest: first, generation: 1 };
    let changed = upstream_tool::Change::Changed { digest: second, generation: 1 };
    let by = principal("u_1");
    let released = upstream_tool::Change::Released { digest: second, by: by.clone() };
    let returned = upstream_tool::Change::Returned { generation: 1 };
    let gone = upstream_tool::Change::Gone {};
    vec![
        vec![server(upstream::Change::Added(settings(b"settings", Some(by.clone()))))],
        vec![tool(read, pinned.clone()), tool(write, pinned), server(upstream::Change::Pinned {})],
        vec![tool(read, changed.clone()), tool(write, gone)],
        vec![tool(read, released)],
        vec![tool(write, returned), tool("mcp.files.new", changed)],
        vec![server(upstream::Change::Changed(settings(b"labels", None)))],
        vec![server(upstream::Change::Removed { by: Some(by) })],
        vec![server(upstream::Change::Added(settings(b"again", None)))],
        vec![server(upstream::Change::Removed { by: None })],
    ]
}
