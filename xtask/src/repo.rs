//! The repository: its root, its files, and running commands in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Folders that hold no source of ours; passed over where git cannot list the files.
const FOLDERS_PASSED_OVER: [&str; 3] = [".git", "target", "node_modules"];

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// The cargo that runs us, so that one toolchain does everything.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `program`, to be run at the root of the repository.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs a command that prints for itself; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs a command and gives what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}\n{}", describe(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).context("the output is not UTF-8")
}

/// A command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The user's cache folder for our tools: `$XDG_CACHE_HOME/tally`, else `~/.cache/tally`.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.context("set HOME or XDG_CACHE_HOME: tools are kept in a cache folder")?.join("tally"))
}

/// Every file that is, or would be, under version control, relative to the root, sorted.
///
/// Where git is missing or this is no clone, the folders are walked instead.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let listed = command("git").args(["ls-files", "-z", "-co", "--exclude-standard"]).output();
    let mut files = match listed {
        Ok(output) if output.status.success() => split_names(&output.stdout)?,
        _ => walk()?,
    };
    let root = root();
    // A file deleted but not yet committed is still listed.
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

fn split_names(listing: &[u8]) -> Result<Vec<PathBuf>> {
    let listing = std::str::from_utf8(listing).context("a file name is not UTF-8")?;
    Ok(listing.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

fn walk() -> Result<Vec<PathBuf>> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let name = entry.file_name();
                if !FOLDERS_PASSED_OVER.iter().any(|passed| name == *passed) {
                    folders.push(entry.path());
                }
            } else {
                found.push(entry.path().strip_prefix(&root)?.to_path_buf());
            }
        }
    }
    Ok(found)
}
