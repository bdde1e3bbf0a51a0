//! Effects on the outside world leave from named places only.

use std::path::{Component, Path};

use super::{Finding, Text};

struct Effect {
    what: &'static str,
    /// How code that has this effect is known.
    signs: &'static [&'static str],
    /// The crates that may have it, by folder, or only a part of one (`server/src/x/`), each with
    /// the reason.
    allowed: &'static [(&'static str, &'static str)],
}

const EFFECTS: [Effect; 3] = [
    Effect {
        what: "calls out on a socket",
        signs: &[
            "TcpStream::connect",
            "TcpSocket",
            "UdpSocket",
            "UnixStream",
            "hyper::client",
            "hyper_util::client",
            "lookup_host",
            "to_socket_addrs",
        ],
        allowed: &[
            ("connectors", "the egress gateway: every effect of an action leaves through it"),
            ("client", "the client of our own API"),
            ("cli/src/commands/dev/", "simulators call back, to this machine alone"),
            ("mcpkit", "clients that tests drive, and a browser; never part of what is shipped"),
            ("bench", "the load generator"),
            (
                "server/src/witnesses/",
                "witnesses cosign our checkpoints: no action, and only where the operator says",
            ),
            (
                "server/src/folder.rs",
                "asks whether the server of a data folder listens; says nothing",
            ),
            ("sandbox/src/host/sockets.rs", "names what code asks for, and makes none of it"),
            ("server/src/oidc/", "the provider that people log in with: no action leaves by it"),
        ],
    },
    Effect {
        what: "listens on a socket",
        signs: &["TcpListener::bind", "UnixListener::bind"],
        allowed: &[
            ("server", "the daemon's surfaces"),
            ("connectors", "targets its tests call"),
            ("cli", "the target that `tally demo` starts for itself, and the simulators"),
            ("bench", "targets of the load generator"),
            ("mcpkit", "MCP servers that tests call"),
        ],
    },
    Effect {
        what: "starts a process",
        signs: &["process::Command"],
        allowed: &[
            ("sandbox", "hardened workers"),
            ("cli", "`tally demo` runs openssl where there is one"),
            ("bench", "starts the daemon it measures"),
            ("mcpkit", "starts MCP servers for tests"),
            ("testkit", "starts PostgreSQL for tests"),
        ],
    },
];

/// `code` is the text's body with comments and literals masked. Tests may have any effect.
pub(super) fn check(text: &Text, code: &str) -> Vec<Finding> {
    let Some(folder) = crate_of(&text.path) else {
        return Vec::new();
    };
    let shipped = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut findings = Vec::new();
    for effect in &EFFECTS {
        let within = |part: &str| {
            part.contains('/') && text.path.starts_with(Path::new("crates").join(part))
        };
        if effect.allowed.iter().any(|(place, _reason)| *place == folder || within(place)) {
            continue;
        }
        for (line, content) in (1..).zip(shipped.lines()) {
            if effect.signs.iter().any(|sign| content.contains(sign)) {
                let message = format!("{}: see xtask/src/tidy/effects.rs", effect.what);
                findings.push(Finding::line(&text.path, line, message));
            }
        }
    }
    findings
}

/// The folder under `crates/` for a shipped file of its `src/`, or nothing.
fn crate_of(path: &Path) -> Option<&str> {
    let mut parts = path.components().map(Component::as_os_str);
    let in_crates = parts.next()? == "crates";
    let folder = parts.next()?;
    let in_source = parts.next()? == "src";
    let shipped = parts.all(|part| part != "tests");
    folder.to_str().filter(|_| in_crates && in_source && shipped)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Text, mask::mask};
    use super::check;

    fn lines(path: &str, body: &str) -> Vec<usize> {
        let text = Text { path: PathBuf::from(path), body: body.to_owned() };
        check(&text, &mask(body)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn effects_leave_from_named_places() {
        let call = "//! X.\nlet s = TcpStream::connect(a);\n";
        assert_eq!(lines("crates/policy/src/lib.rs", call), [2]);
        assert_eq!(lines("crates/server/src/a/b.rs", call), [2]);
        assert!(lines("crates/connectors/src/lib.rs", call).is_empty());
        assert!(lines("crates/server/src/witnesses/a.rs", call).is_empty());
        assert_eq!(lines("crates/server/src/witnesses_too/a.rs", call), [2]);
        assert!(lines("crates/server/tests/a.rs", call).is_empty());
        assert!(lines("crates/server/src/a.rs", "// TcpStream::connect").is_empty());
        let tests = "//! X.\n#[cfg(test)]\nmod tests { use std::process::Command; }";
        assert!(lines("crates/server/src/a.rs", tests).is_empty());
        assert_eq!(lines("crates/ledger/src/a.rs", "use std::process::Command;"), [1]);
    }
}
