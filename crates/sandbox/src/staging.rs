//! Files of an execution: granted ones are copied into a folder of its own, and what it wrote is
//! put in place once it has succeeded. No symbolic link is followed on either way.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kernel::capability::{Capabilities, Glob};
use kernel::failure::{Category, Failure};
use kernel::values::Digest;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::refused;
use crate::limits;
use crate::run::Written;

/// The folder of one execution. It is gone with this.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) folder: PathBuf,
    /// What was copied in.
    pub(crate) read: BTreeMap<String, Digest>,
    /// What is where granted files are and was not copied in, with why.
    pub(crate) left_out: BTreeMap<String, &'static str>,
    bytes: u64,
    walked: usize,
}

/// Why something was not copied in.
const LINK: &str = "a symbolic link, which is not followed";
const NO_FILE: &str = "no regular file that can be read";

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(folder = %self.folder.display(), %error, "cannot remove a folder");
        }
    }
}

impl Stage {
    /// Makes `folder` and copies into it what may be read.
    pub(crate) fn make(folder: PathBuf, capabilities: &Capabilities) -> Result<Self, Failure> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| failed("cannot make the folder of a sandbox", &error))?;
        let mut stage =
            Self { folder, read: BTreeMap::new(), left_out: BTreeMap::new(), bytes: 0, walked: 0 };
        for text in &capabilities.file_read {
            let glob = parse(text)?;
            let base = glob.folder();
            if let Some(folder) = open_folder(&base)? {
                stage.walk(&folder, &base, &glob, 0)?;
            }
        }
        for text in &capabilities.file_write {
            stage.make_inner(&parse(text)?.folder())?;
        }
        Ok(stage)
    }

    fn walk(
        &mut self,
        folder: &OwnedFd,
        path: &str,
        glob: &Glob,
        depth: usize,
    ) -> Result<(), Failure> {
        let cannot = |error: Errno| failed(&format!("cannot read the folder {path}"), &error);
        let mut names: Vec<(String, FileType)> = Vec::new();
        for entry in Dir::read_from(folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            self.walked += 1;
            if self.walked > limits::WALKED_MAX {
                return Err(too_many(&format!("{} entries of folders", limits::WALKED_MAX)));
            }
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != "." && name != ".." {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        // In one order everywhere, so that code finds them so.
        names.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        for (name, kind) in names {
            let whole = format!("{path}/{name}");
            let unknown = kind == FileType::Unknown;
            if (kind == FileType::RegularFile || unknown) && glob.matches(&whole) {
                self.copy_in(folder.as_fd(), &name, &whole)?;
            } else if (kind == FileType::Directory || unknown) && depth < limits::DEPTH_MAX {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(folder, name.as_str(), flags, Mode::empty());
                if let Ok(inner) = opened {
                    self.walk(&inner, &whole, glob, depth + 1)?;
                }
            } else if kind == FileType::Symlink {
                self.leave_out(whole, LINK);
            } else if kind != FileType::RegularFile && kind != FileType::Directory {
                self.leave_out(whole, NO_FILE);
            }
        }
        Ok(())
    }

    /// Has a reason ready where the code asks for what was not copied in.
    fn leave_out(&mut self, path: String, why: &'static str) {
        if self.left_out.len() < limits::STAGED_FILES_MAX {
            self.left_out.insert(path, why);
        }
    }

    fn copy_in(&mut self, folder: BorrowedFd<'_>, name: &str, path: &str) -> Result<(), Failure> {
        if self.read.contains_key(path) {
            return Ok(());
        }
        let Some(file) = open_file(folder, name)
            .map_err(|error| failed(&format!("cannot read {path}"), &error))?
        else {
            self.leave_out(path.to_owned(), NO_FILE);
            return Ok(());
        };
        if self.read.len() >= limits::STAGED_FILES_MAX {
            return Err(too_many(&format!("{} files", limits::STAGED_FILES_MAX)));
        }
        let mut bytes = Vec::new();
        let rest = limits::STAGED_BYTES_MAX - self.bytes;
        let taken = file.take(rest + 1).read_to_end(&mut bytes);
        taken.map_err(|error| failed(&format!("cannot read {path}"), &error))?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if len > rest {
            return Err(too_many(&format!("{} bytes of files", limits::STAGED_BYTES_MAX)));
        }
        self.bytes += len;
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_inner(parent)?;
        }
        let target = self.inner(path);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options.open(&target).and_then(|mut file| file.write_all(&bytes));
        written.map_err(|error| failed(&format!("cannot stage {path}"), &error))?;
        self.read.insert(path.to_owned(), Digest::of(&bytes));
        Ok(())
    }

    /// Where `path`, which is absolute, is within the folder.
    fn inner(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    fn make_inner(&self, path: &str) -> Result<(), Failure> {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(self.inner(path));
        made.map_err(|error| failed(&format!("cannot stage {path}"), &error))
    }

    /// What is new or changed in the folder and may be written, with its bytes.
    pub(crate) fn changed(
        &self,
        capabilities: &Capabilities,
        file_bytes: u64,
    ) -> Result<Vec<(Written, Vec<u8>)>, Unwritten> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut folders = vec![(self.folder.clone(), String::new())];
        while let Some((folder, path)) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let (whole, kind) = (format!("{path}/{name}"), entry.file_type()?);
                if kind.is_dir() {
                    folders.push((entry.path(), whole));
                } else if kind.is_file() && capabilities.may_write(&whole) {
                    let change = self.change(&entry.path(), whole, file_bytes)?;
                    bytes += change.as_ref().map_or(0, |(written, _)| written.bytes);
                    if bytes > limits::STAGED_BYTES_MAX {
                        return Err(Unwritten::TooMuch);
                    }
                    found.extend(change);
                }
            }
        }
        found.sort_by(|one: &(Written, _), other| one.0.path.cmp(&other.0.path));
        Ok(found)
    }

    fn change(
        &self,
        file: &Path,
        path: String,
        file_bytes: u64,
    ) -> Result<Option<(Written, Vec<u8>)>, Unwritten> {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.take(file_bytes + 1).read_to_end(&mut bytes)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let digest = Digest::of(&bytes);
        if self.read.get(&path) == Some(&digest) {
            return Ok(None);
        }
        if len > file_bytes {
            return Err(Unwritten::TooLong { path });
        }
        Ok(Some((Written { path, digest, bytes: len }, bytes)))
    }
}

/// Why nothing was put in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    #[error("{path} is longer than a file may be")]
    TooLong { path: String },
    #[error("it wrote more than {} bytes of files", limits::STAGED_BYTES_MAX)]
    TooMuch,
    #[error("{path} cannot be put in place: {error}")]
    Refused { path: String, error: Errno },
    #[error("the files that it wrote cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Puts files in place: all are written beside their places first, then each is renamed.
pub(crate) fn put_in_place(
    files: &[(Written, Vec<u8>)],
    sandbox_id: &str,
) -> Result<(), Unwritten> {
    let mut parts: Vec<Part> = Vec::new();
    for (written, bytes) in files {
        let path = written.path.as_str();
        let part = Part::write(path, bytes, sandbox_id)
            .map_err(|error| Unwritten::Refused { path: path.to_owned(), error })?;
        parts.push(part);
    }
    for (mut part, (written, _)) in parts.into_iter().zip(files) {
        let path = written.path.clone();
        part.rename().map_err(|error| Unwritten::Refused { path, error })?;
    }
    Ok(())
}

/// A file beside its place. Gone where it is not renamed.
struct Part {
    folder: OwnedFd,
    name: String,
    part: String,
    placed: bool,
}

impl Part {
    fn write(path: &str, bytes: &[u8], sandbox_id: &str) -> Result<Self, Errno> {
        let (parent, name) = path.rsplit_once('/').ok_or(Errno::INVAL)?;
        let folder = make_folder(parent)?;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                return Err(Errno::LOOP);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let part = format!(".tally-{sandbox_id}-{}", Digest::of(path.as_bytes()).hex());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let file = rustix::fs::openat(&folder, part.as_str(), flags, mode)?;
        let this = Self { folder, name: name.to_owned(), part, placed: false };
        let mut file = std::fs::File::from(file);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(this)
    }

    fn rename(&mut self) -> Result<(), Errno> {
        let (part, name) = (self.part.as_str(), self.name.as_str());
        rustix::fs::renameat(&self.folder, part, &self.folder, name)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) =
                rustix::fs::unlinkat(&self.folder, self.part.as_str(), AtFlags::empty())
        {
            tracing::error!(%error, "cannot remove a file that was not put in place");
        }
    }
}

fn open_root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
}

/// Opens a folder and makes those that are missing; no link is followed.
fn make_folder(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = open_root()?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let next = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&folder, name, Mode::RWXU)?;
                rustix::fs::openat(&folder, name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        folder = next;
    }
    Ok(folder)
}

/// Opens the folder of a glob; none where it is not there or a link leads to it.
fn open_folder(path: &str) -> Result<Option<OwnedFd>, Failure> {
    let path = if path.is_empty() { "/" } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        Err(error) => Err(failed(&format!("cannot open the folder {path}"), &error)),
    }
}

/// Opens a regular file; none where it is anything else, or gone since it was listed.
fn open_file(folder: BorrowedFd<'_>, name: &str) -> io::Result<Option<std::fs::File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, OsStr::new(name), flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

fn parse(text: &str) -> Result<Glob, Failure> {
    Glob::parse(text).map_err(|reason| {
        let message = format!("capabilities: `{text}`: {reason}");
        Failure::new(Category::Validation, "capability_invalid", message)
    })
}

fn too_many(what: &str) -> Failure {
    refused("too_many_files", format!("the grants match more than {what}: grant fewer"))
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    refused("staging_failed", format!("{what}: {error}"))
}
