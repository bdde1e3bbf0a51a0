//! Reading evidence from files, and checking it with the algorithms of this crate. The check itself
//! is the kernel's: [`kernel::bundle`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kernel::bundle::{self, BundleReport, Error, Pinned};

use crate::keys::NativeVerifier;

/// Bytes of a file, or of all files of a folder, that are read.
const BYTES_MAX: u64 = 2 << 30;
/// Files of a folder: three for each receipt, the tiles, and a few.
const FILES_MAX: usize = 65_536;
/// Folders within folders: a tile's path has seven parts at most.
const DEPTH_MAX: usize = 12;

/// Checks a bundle, given as the bytes of its tar file.
pub fn verify_bundle(bytes: &[u8], pinned: Option<&Pinned>) -> BundleReport {
    bundle::verify_bundle(bytes, pinned, &NativeVerifier)
}

/// Checks a single receipt: its signature and its form, not that it is in a log. The key has to be
/// given, since none comes along.
pub fn verify_receipt(envelope: &[u8], pinned: Option<&Pinned>) -> BundleReport {
    bundle::verify_receipt(envelope, pinned, &NativeVerifier)
}

/// Checks what is at `path`: a folder is an unpacked bundle, a file is a bundle or, where it
/// begins with `{`, a receipt.
pub fn verify_path(path: &Path, pinned: Option<&Pinned>) -> BundleReport {
    let named = |error: std::io::Error| refused(format!("{}: {error}", path.display()));
    let is_dir = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > BYTES_MAX => {
            return refused("the file is too large");
        }
        Ok(metadata) if metadata.is_dir() => true,
        Ok(metadata) if metadata.is_file() => false,
        Ok(_) => {
            return refused(format!("{} is no file and no folder", path.display()));
        }
        Err(error) => return named(error),
    };
    if is_dir {
        let mut folder = Folder { files: BTreeMap::new(), bytes: 0 };
        return match folder.read(path, "", 0) {
            Ok(()) => {
                bundle::verify_files(&bundle::borrowed(&folder.files), pinned, &NativeVerifier)
            }
            Err(error) => refused(error),
        };
    }
    match fs::read(path) {
        Ok(bytes) if bytes.starts_with(b"{") => verify_receipt(&bytes, pinned),
        Ok(bytes) => verify_bundle(&bytes, pinned),
        Err(error) => named(error),
    }
}

fn refused(reason: impl Into<String>) -> BundleReport {
    BundleReport::refused(&Error::Unreadable(reason.into()))
}

struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    bytes: u64,
}

impl Folder {
    fn read(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), String> {
        let named = |error: std::io::Error| format!("{}: {error}", dir.display());
        for entry in fs::read_dir(dir).map_err(named)? {
            let entry = entry.map_err(named)?;
            let name = entry.file_name();
            let name = name.to_str().ok_or("a file's name is not UTF-8")?;
            let path = format!("{prefix}{name}");
            // Of the entry itself: a link is neither a file nor a folder.
            let metadata = entry.metadata().map_err(named)?;
            self.bytes = self.bytes.saturating_add(metadata.len());
            let bounded = self.bytes <= BYTES_MAX && self.files.len() < FILES_MAX;
            if !bounded || depth > DEPTH_MAX {
                return Err("the folder has more than a bundle can have".to_owned());
            }
            if metadata.is_dir() {
                self.read(&entry.path(), &format!("{path}/"), depth + 1)?;
            } else if metadata.is_file() {
                let bytes = fs::read(entry.path()).map_err(named)?;
                self.files.insert(path, bytes);
            } else {
                return Err(format!("{path} is neither a file nor a folder"));
            }
        }
        Ok(())
    }
}
