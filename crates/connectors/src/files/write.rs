//! Writing a file: a new one is complete before it has its name.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _, Permissions};
use kernel::failure::{Category, Failure};
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::json;

use super::read::flags;
use super::{Encoding, Root, failure, locate, not_a_file};
use crate::tools::{Done, Fault, Meta};

const LIST: &str = "fs_write";

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Overwrite,
    CreateNew,
    Append,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    path: String,
    content: String,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    mode: Mode,
}

/// Writes under a temporary name made of `key`, which no other action has.
pub(super) fn write(roots: &[Root], params: &Params, key: &str) -> Result<Done, Fault> {
    let (dir, path) = locate(roots, LIST, &params.path)?;
    let content = content(params)?;
    let target = resolve(dir, path)?;
    match params.mode {
        Mode::Append => append(dir, &target, &content)?,
        Mode::Overwrite => replace(dir, &target, &content, key)?,
        Mode::CreateNew => create(dir, &target, &content, key)?,
    }
    let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let meta = Meta { bytes_out: bytes, ..Meta::default() };
    Ok(Done { result: json!({"bytes": bytes}).to_string(), meta })
}

fn content(params: &Params) -> Result<Cow<'_, [u8]>, Failure> {
    match params.encoding {
        Encoding::Utf8 => Ok(Cow::Borrowed(params.content.as_bytes())),
        Encoding::Base64 => STANDARD.decode(&params.content).map(Cow::Owned).map_err(|e| {
            let message = format!("`/params/content` is not base64: {e}");
            Failure::new(Category::Validation, "content_invalid", message)
        }),
    }
}

/// The path with a link at its end followed, inside the folder. What is there must be a file.
fn resolve(dir: &Dir, path: &Path) -> Result<PathBuf, Failure> {
    let io = |e: io::Error| failure(LIST, &e);
    let found = match dir.symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        found => found.map_err(io)?,
    };
    let target =
        if found.is_symlink() { dir.canonicalize(path).map_err(io)? } else { path.to_owned() };
    if dir.metadata(&target).map_err(io)?.is_file() { Ok(target) } else { Err(not_a_file()) }
}

fn append(dir: &Dir, path: &Path, content: &[u8]) -> Result<(), Fault> {
    let io = |e: io::Error| failure(LIST, &e);
    let mut options = OpenOptions::new();
    options.append(true).create(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY));
    let mut file = dir.open_with(path, &options).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(not_a_file().into());
    }
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|e| {
        let message = format!("the append may have stopped part way: {e}");
        Fault::Unknown(Failure::new(Category::Permanent, "write_interrupted", message))
    })
}

/// Replaces the file in one step, keeping its permissions.
fn replace(dir: &Dir, path: &Path, content: &[u8], key: &str) -> Result<(), Failure> {
    let permissions = dir.metadata(path).ok().map(|found| found.permissions());
    let temporary = Temporary::new(dir, path, content, key, permissions)?;
    let renamed = dir.rename(&temporary.path, dir, path);
    renamed.and_then(|()| sync_folder(dir, path)).map_err(|e| failure(LIST, &e))
}

/// Gives the file its name in one step, unless the name is taken.
fn create(dir: &Dir, path: &Path, content: &[u8], key: &str) -> Result<(), Failure> {
    let temporary = Temporary::new(dir, path, content, key, None)?;
    let linked = dir.hard_link(&temporary.path, dir, path);
    linked.and_then(|()| sync_folder(dir, path)).map_err(|e| failure(LIST, &e))
}

/// A complete file that has not got its name yet; its own name goes with it.
struct Temporary<'a> {
    dir: &'a Dir,
    path: PathBuf,
}

impl<'a> Temporary<'a> {
    fn new(
        dir: &'a Dir,
        beside: &Path,
        content: &[u8],
        key: &str,
        permissions: Option<Permissions>,
    ) -> Result<Self, Failure> {
        let temporary = Self { dir, path: beside.with_file_name(format!(".tally-{key}.tmp")) };
        let written = temporary.write(content, permissions);
        written.map(|()| temporary).map_err(|e| failure(LIST, &e))
    }

    fn write(&self, content: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
        // An earlier attempt at this action that was cut off may have left it.
        match self.dir.remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            self.dir.open_with(&self.path, OpenOptions::new().write(true).create_new(true))?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.write_all(content)?;
        file.sync_all()
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        match self.dir.remove_file(&self.path) {
            Ok(()) => {}
            // It was renamed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a temporary file stays behind"),
        }
    }
}

/// Makes the name as durable as the content.
fn sync_folder(dir: &Dir, path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    dir.open(folder)?.sync_all()
}
