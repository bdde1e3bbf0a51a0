//! A small disk: a file system in memory, in a mount namespace of its own, that servers are started
//! in.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::namespace::Namespace;

/// Mounts what is full soon over `$1`.
const MOUNT: &str = r#"mount -t tmpfs -o size="$2" none "$1""#;

/// The disk.
pub(crate) struct Disk {
    namespace: Namespace,
    folder: PathBuf,
}

impl Disk {
    /// A disk of so many bytes in place of `folder`.
    pub(crate) fn over(folder: &Path, bytes: u64) -> Self {
        let bytes = bytes.to_string();
        let args = [folder.as_os_str(), OsStr::new(&bytes)];
        Self { namespace: Namespace::mounted(MOUNT, &args), folder: folder.to_owned() }
    }

    /// What a command begins with that is to see the disk.
    pub(crate) fn enter(&self) -> Vec<String> {
        self.namespace.enter()
    }

    /// Where `path`, which is on the disk, is to be found from outside.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        self.namespace.outside(path)
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
