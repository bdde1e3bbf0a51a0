//! A mount namespace of its own, that servers are started in. It is gone with the process that
//! holds it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::first_line;

/// The namespace.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Mounts by a shell script, with its arguments, that ends well.
    pub(crate) fn mounted(script: &str, args: &[&OsStr]) -> Self {
        let hold = format!("{{ {script}; }} && echo ready && cat > /dev/null");
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &hold, "sh"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("these tests need `unshare` of util-linux: {e}"));
        let line = first_line(&mut holder);
        assert_eq!(line, "ready\n", "these tests need mount namespaces (as root, or for users)");
        Self { holder }
    }

    /// What a command begins with that is to see what is mounted.
    pub(crate) fn enter(&self) -> Vec<String> {
        let holder = format!("--target={}", self.holder.id());
        let enter = ["nsenter", &holder, "--user", "--mount", "--preserve-credentials", "--"];
        enter.map(str::to_owned).into()
    }

    /// Where `path` within it is to be found from outside.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}
