//! `core.fs_read` and `core.fs_write`: files below granted folders, links followed only inside.

#[cfg(target_os = "linux")]
mod cached;
mod read;
mod write;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::grants::{self, Grants, check_folder};
use crate::limits;
use crate::tools::{Context, Done, Fault};

/// A granted folder, held open: nothing outside it can be named through it.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    dir: Dir,
}

/// The granted folders.
#[derive(Debug)]
pub(crate) struct Files {
    readable: Arc<[Root]>,
    writable: Arc<[Root]>,
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Utf8,
    Base64,
}

impl Files {
    /// Opens each granted folder.
    pub(crate) fn open(grants: &Grants) -> Result<Self, grants::Error> {
        Ok(Self {
            readable: open_all("fs_read", &grants.fs_read)?,
            writable: open_all("fs_write", &grants.fs_write)?,
        })
    }

    pub(crate) async fn read(&self, params: &RawJson) -> Result<Done, Fault> {
        let params = parse::<read::Params>(params)?;
        #[cfg(target_os = "linux")]
        if let Some(done) = read::read_cached(&self.readable, &params) {
            return done.map_err(Fault::Failed);
        }
        let roots = Arc::clone(&self.readable);
        blocking(move || read::read(&roots, &params)).await.map_err(Fault::Failed)
    }

    pub(crate) async fn write(
        &self,
        params: &RawJson,
        idempotent: bool,
        context: &Context<'_>,
    ) -> Result<Done, Fault> {
        let params = parse::<write::Params>(params)?;
        let roots = Arc::clone(&self.writable);
        let key = context.idempotency_key.clone();
        let ended = blocking(move || Ok(write::write(&roots, &params, &key))).await;
        match ended {
            Ok(ended) => ended,
            // The write goes on in the background, but only an overwrite can be repeated.
            Err(failure) if idempotent => Err(Fault::Failed(failure)),
            Err(failure) => Err(Fault::Unknown(failure)),
        }
    }
}

fn open_all(list: &'static str, paths: &[PathBuf]) -> Result<Arc<[Root]>, grants::Error> {
    let open = |path: &PathBuf| {
        let error = |e: io::Error| grants::Error::Folder {
            list,
            path: path.clone(),
            reason: format!("cannot be opened: {e}"),
        };
        check_folder(list, path)?;
        // A link to a folder that may not be granted is refused like that folder.
        check_folder(list, &std::fs::canonicalize(path).map_err(error)?)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(error)?;
        Ok(Root { path: path.clone(), dir })
    };
    paths.iter().map(open).collect()
}

/// Reads parameters that are valid by the schema.
fn parse<T: DeserializeOwned>(params: &RawJson) -> Result<T, Failure> {
    serde_json::from_str(params.as_str())
        .map_err(|e| Failure::new(Category::Validation, "params_invalid", e.to_string()))
}

/// Runs `work` off the executor's threads, for a limited time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let task = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(limits::FILE_TIMEOUT, task).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => {
            Err(Failure::new(Category::Internal, "io_error", format!("the work broke: {error}")))
        }
        Err(_) => {
            let message = format!("no end within {} s", limits::FILE_TIMEOUT.as_secs());
            Err(Failure::new(Category::Timeout, "timeout", message))
        }
    }
}

/// The granted folder that holds `path`, the innermost where several do, and the path inside it.
fn locate<'a>(
    roots: &'a [Root],
    list: &str,
    path: &'a str,
) -> Result<(&'a Dir, &'a Path), Failure> {
    let plain = Path::new(path);
    let climbs = plain.components().any(|part| part == Component::ParentDir);
    if !plain.is_absolute() || climbs || path.contains('\0') {
        let message = "the path must be absolute and free of `..` and NUL";
        return Err(Failure::new(Category::Validation, "path_invalid", message));
    }
    let holding = roots.iter().filter(|root| plain.starts_with(&root.path));
    let root = holding.max_by_key(|root| root.path.components().count());
    let inside = root.and_then(|root| {
        let inside = plain.strip_prefix(&root.path).ok()?;
        (inside.components().next().is_some()).then_some((&root.dir, inside))
    });
    inside.ok_or_else(|| not_granted(list))
}

fn not_granted(list: &str) -> Failure {
    let message =
        format!("no granted folder holds the path, links followed: add one to grants.{list}");
    Failure::new(Category::Permission, "path_not_granted", message)
}

fn not_a_file() -> Failure {
    let message = "the path is a folder, device, pipe or socket: name a file";
    Failure::new(Category::Validation, "not_a_file", message)
}

/// What an error of the system means to the caller. It never names a path outside the grant.
fn failure(list: &str, error: &io::Error) -> Failure {
    let (category, code, message) = match error.kind() {
        io::ErrorKind::NotFound => {
            (Category::NotFound, "path_not_found", "no such file, or no folder to hold it")
        }
        io::ErrorKind::AlreadyExists => {
            (Category::Conflict, "file_exists", "the file is there already: mode is create_new")
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => return not_a_file(),
        // How a path that leaves its folder shows, and how a plain refusal of the system does.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
            return not_granted(list);
        }
        io::ErrorKind::PermissionDenied => {
            (Category::Permission, "permission_denied", "the operating system refuses the file")
        }
        _ => {
            let message = format!("the operating system reports: {error}");
            return Failure::new(Category::Permanent, "io_error", message);
        }
    };
    Failure::new(category, code, message)
}
