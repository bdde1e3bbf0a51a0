//! Reading evidence from files, and checking it with the algorithms of this crate. The check itself
//! is the kernel's: [`kernel::bundle`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kernel::bundle::{self, BundleReport, Error, Files, Pinned};
use kernel::history::{self, Demands};
use kernel::note::Checkpoint;
use kernel::verify;

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
    verify_path_with(path, pinned, &Demands::default()).0
}

/// The same; and where something is demanded of the log, whether it holds of the bundle's
/// checkpoint. The log's key is the pinned one, or that in the bundle.
pub fn verify_path_with(
    path: &Path,
    pinned: Option<&Pinned>,
    demands: &Demands,
) -> (BundleReport, Option<Result<Checkpoint, history::Error>>) {
    let evidence = match read_path(path) {
        Ok(evidence) => evidence,
        Err(error) => return (refused(error), None),
    };
    let files = match &evidence {
        Evidence::Receipt(bytes) => {
            let demanded = check_demands(&Files::new(), pinned, demands);
            return (verify_receipt(bytes, pinned), demanded);
        }
        Evidence::Folder(files) => bundle::borrowed(files),
        Evidence::Archive(bytes) => match bundle::archive::read(bytes) {
            Ok(files) => files,
            // Refused as a whole, with the reason.
            Err(_) => return (verify_bundle(bytes, pinned), None),
        },
    };
    let report = bundle::verify_files(&files, pinned, &NativeVerifier);
    (report, check_demands(&files, pinned, demands))
}

fn check_demands(
    files: &Files<'_>,
    pinned: Option<&Pinned>,
    demands: &Demands,
) -> Option<Result<Checkpoint, history::Error>> {
    if demands.is_empty() {
        return None;
    }
    let brought = || str::from_utf8(files.get(bundle::VKEY)?).ok()?.trim_end().parse().ok();
    let checked = match pinned.and_then(|pinned| pinned.vkey.clone()).or_else(brought) {
        Some(key) => history::verify_bundle_demands(files, &key, demands, &NativeVerifier),
        None => Err(history::Error::Checkpoint {
            which: "the newer",
            error: verify::Error::Note(kernel::note::Error::VerifierKey),
        }),
    };
    Some(checked)
}

/// What is at a path.
enum Evidence {
    Receipt(Vec<u8>),
    Archive(Vec<u8>),
    Folder(BTreeMap<String, Vec<u8>>),
}

fn read_path(path: &Path) -> Result<Evidence, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(named)?;
    if metadata.is_dir() {
        let mut folder = Folder { files: BTreeMap::new(), bytes: 0 };
        folder.read(path, "", 0)?;
        return Ok(Evidence::Folder(folder.files));
    }
    if !metadata.is_file() {
        return Err(format!("{} is no file and no folder", path.display()));
    }
    if metadata.len() > BYTES_MAX {
        return Err("the file is too large".to_owned());
    }
    let bytes = fs::read(path).map_err(named)?;
    let receipt = bytes.starts_with(b"{");
    Ok(if receipt { Evidence::Receipt(bytes) } else { Evidence::Archive(bytes) })
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
