//! A small disk: a file system in memory, in a mount namespace of its own, that servers are started
//! in. It is gone with the process that holds it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::first_line;

/// Mounts what is full soon over `$1`, and holds it until standard input ends.
const HOLD: &str = r#"mount -t tmpfs -o size="$2" none "$1" && echo ready && cat > /dev/null"#;

/// The disk.
pub(crate) struct Disk {
    holder: Child,
    folder: PathBuf,
}

impl Disk {
    /// A disk of so many bytes in place of `folder`.
    pub(crate) fn over(folder: &Path, bytes: u64) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", HOLD, "sh"])
            .arg(folder)
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("these tests need `unshare` of util-linux: {e}"));
        let line = first_line(&mut holder);
        assert_eq!(line, "ready\n", "these tests need mount namespaces (as root, or for users)");
        Self { holder, folder: folder.to_owned() }
    }

    /// What a command begins with that is to see the disk.
    pub(crate) fn enter(&self) -> Vec<String> {
        let holder = format!("--target={}", self.holder.id());
        let enter = ["nsenter", &holder, "--user", "--mount", "--preserve-credentials", "--"];
        enter.map(str::to_owned).into()
    }

    /// Where `path`, which is on the disk, is to be found from outside.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    fn ballast(&self) -> PathBuf {
        self.outside(&self.folder.join("ballast"))
    }

    /// Leaves no space.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let mut piece = vec![1_u8; 1 << 20];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    piece.truncate(piece.len() / 2);
                }
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Gives the space back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}
