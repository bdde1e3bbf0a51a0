//! `cargo xtask runtimes`: the interpreters of the sandbox, as WebAssembly components, in a folder
//! of the cache that is named by all that they are made of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::repo;

/// The variable by which the server and the tests find the folder.
pub(crate) const RUNTIMES_VAR: &str = "TALLY_RUNTIMES";
/// Where tests keep what they compile of it, so that it is compiled once.
pub(crate) const CACHE_VAR: &str = "TALLY_SANDBOX_CACHE";

/// Our sources, below the root.
const WIT: &str = "crates/sandbox/wit";
const PYTHON: &str = "crates/sandbox/guests/python";
const JAVASCRIPT: &str = "crates/sandbox/guests/javascript";
/// The crate whose interfaces of WASI the host serves, so that the guests ask for the same.
const WASI: &str = "wasmtime-wasi-http";
/// Where Python had its modules while it was built, and the name of programs: a traceback and a
/// syntax error look there for text.
const PYTHON_PATHS: [&str; 6] = ["/python", "/world", "/bundled", "/0", "/1", "/agent.py"];
/// Of the folder and its list: another makes another folder.
const FORMAT: u64 = 2;
/// The file that lists what is in the folder.
const MANIFEST: &str = "runtimes.json";
const WORLD: &str = "tally:agent/interpreter@1.0.0";
/// The file that says that a folder of tools is complete.
const COMPLETE: &str = "complete";
/// Digits of a digest in the name of a folder.
const NAME_DIGITS: usize = 16;

/// Names under which files are kept, and their bytes.
type Files = BTreeMap<String, Vec<u8>>;

/// One interpreter, as the server reads it.
#[derive(Serialize)]
struct Entry {
    file: &'static str,
    sha256: String,
    built_with: String,
    wit: &'static str,
    /// Where it looks for files of its own that were there when it was built.
    own_paths: &'static [&'static str],
    /// Of our sources, the tools' pins and the interfaces.
    sources: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// `cargo xtask runtimes`: builds them where they are not there and prints the variable.
pub(crate) fn run() -> Result<()> {
    println!("export {RUNTIMES_VAR}={}", folder()?.display());
    Ok(())
}

/// What tests are given: the interpreters, and where to keep what is compiled of them.
pub(crate) fn variables() -> Result<[(&'static str, PathBuf); 2]> {
    let folder = folder()?;
    let cache = folder.with_extension("compiled");
    Ok([(RUNTIMES_VAR, folder), (CACHE_VAR, cache)])
}

/// The folder with the interpreters, built where it is not there.
fn folder() -> Result<PathBuf> {
    let sources = Sources::read()?;
    let digest = sources.digest();
    let name = digest.get(..NAME_DIGITS).unwrap_or(&digest);
    let folder = repo::cache()?.join(format!("runtimes-{name}"));
    if !folder.join(MANIFEST).is_file() {
        // Beside it, so that it can be moved into place whole.
        let staging = folder.with_extension(format!("new-{}", std::process::id()));
        let built = build(&sources, &digest, &staging)
            .and_then(|()| place(&staging, &folder).context("cannot put the folder in place"));
        if staging.exists() {
            fs::remove_dir_all(&staging)?;
        }
        built?;
    }
    Ok(folder)
}

/// Moves the folder into place; another that was built at the same time is as good.
fn place(staging: &Path, folder: &Path) -> Result<()> {
    match fs::rename(staging, folder) {
        Err(_) if folder.join(MANIFEST).is_file() => Ok(()),
        moved => Ok(moved?),
    }
}

fn build(sources: &Sources, digest: &str, staging: &Path) -> Result<()> {
    println!("building the interpreters of the sandbox: some minutes the first time");
    fs::create_dir_all(staging)?;
    let mut python = built("python.wasm", staging, digest, || python(sources, staging))?;
    let javascript = built("javascript.wasm", staging, digest, || javascript(sources, staging))?;
    python.own_paths = &PYTHON_PATHS;
    let manifest = BTreeMap::from([("python", python), ("javascript", javascript)]);
    let text = serde_json::to_string_pretty(&manifest)?;
    fs::write(staging.join(MANIFEST), text + "\n")?;
    Ok(())
}

/// Builds one of them, says so, and describes it.
fn built(
    file: &'static str,
    staging: &Path,
    sources: &str,
    work: impl FnOnce() -> Result<String>,
) -> Result<Entry> {
    let started = Instant::now();
    let built_with = work()?;
    let wasm = fs::read(staging.join(file)).with_context(|| format!("{file} was not built"))?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{file}: {} bytes, {built_with}, {seconds:.1} s", wasm.len());
    let sha256 = hex(&Sha256::digest(&wasm));
    Ok(Entry { file, sha256, built_with, wit: WORLD, own_paths: &[], sources: sources.to_owned() })
}

/// All that the interpreters are made of.
struct Sources {
    wit: Files,
    python: Files,
    javascript: Files,
    wasi: Files,
}

impl Sources {
    fn read() -> Result<Self> {
        let root = repo::root();
        Ok(Self {
            wit: files(&root.join(WIT))?,
            python: files(&root.join(PYTHON))?,
            javascript: files(&root.join(JAVASCRIPT))?,
            wasi: files(&wasi()?)?,
        })
    }

    /// SHA-256 over the format, names and contents, each with its length before it.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(FORMAT.to_be_bytes());
        for part in [&self.wit, &self.python, &self.javascript, &self.wasi] {
            hash.update((part.len() as u64).to_be_bytes());
            for (name, content) in part {
                for bytes in [name.as_bytes(), content.as_slice()] {
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
        hex(&hash.finalize())
    }

    /// Writes the interfaces, with the world that `own` adds, and says where.
    fn write_wit(&self, own: &Files, folder: &Path) -> Result<PathBuf> {
        let wit = folder.join("wit");
        write(&self.wit, &wit)?;
        write(&only(own, "wit"), &wit)?;
        write(&self.wasi, &wit.join("deps"))?;
        Ok(wit)
    }
}

/// The interfaces of WASI of the very version that the host is built with.
fn wasi() -> Result<PathBuf> {
    let mut cargo = repo::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_str(&repo::output(&mut cargo)?)?;
    let package = metadata.packages.iter().find(|package| package.name == WASI);
    let package = package.with_context(|| format!("the workspace has no `{WASI}`"))?;
    let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
    Ok(folder.join("wit/deps"))
}

/// The files of a folder, which has no folders in it that count.
fn files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
    }
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

fn only(files: &Files, extension: &str) -> Files {
    let ends = |name: &str| Path::new(name).extension().is_some_and(|end| end == extension);
    let kept = files.iter().filter(|(name, _)| ends(name));
    kept.map(|(name, content)| (name.clone(), content.clone())).collect()
}

fn write(files: &Files, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (name, content) in files {
        fs::write(folder.join(name), content)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder of the tools that `pins` names, installed by `install` where it is not there.
fn tools(name: &str, pins: &[u8], install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let digest = hex(&Sha256::digest(pins));
    let pinned = digest.get(..NAME_DIGITS).unwrap_or(&digest);
    let folder = repo::cache()?.join(format!("{name}-{pinned}"));
    if !folder.join(COMPLETE).is_file() {
        println!("installing {name} into {}", folder.display());
        install(&folder)?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(folder)
}

fn content<'a>(files: &'a Files, name: &str) -> Result<&'a [u8]> {
    files.get(name).map(Vec::as_slice).with_context(|| format!("the sources lack {name}"))
}

/// Builds `python.wasm`; what with.
fn python(sources: &Sources, staging: &Path) -> Result<String> {
    let tools =
        tools("componentize-py", content(&sources.python, "requirements.txt")?, |folder| {
            let mut venv = repo::command("python3");
            venv.args(["-m", "venv", "--clear"]).arg(folder);
            repo::run(&mut venv).context("install Python 3.10 or later with venv")?;
            let mut pip = repo::command(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            pip.args(["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement"]);
            repo::run(pip.arg(repo::root().join(PYTHON).join("requirements.txt")))
        })?;
    let program = tools.join("bin/componentize-py");
    let folder = staging.join("python");
    write(&only(&sources.python, "py"), &folder.join("source"))?;
    let wit = sources.write_wit(&sources.python, &folder)?;
    let mut build = Command::new(&program);
    build.current_dir(&folder).env_remove("VIRTUAL_ENV");
    build.arg("--quiet").arg("--wit-path").arg(wit).args(["--world", "python", "componentize"]);
    build.args(["interpreter", "--python-path", "source", "--output"]);
    // It says what is wrong in its output, after which come frames of its own.
    repo::output(build.arg(staging.join("python.wasm")))?;
    fs::remove_dir_all(folder)?;
    Ok(repo::output(Command::new(&program).arg("--version"))?.trim().to_owned())
}

/// Builds `javascript.wasm`; what with.
fn javascript(sources: &Sources, staging: &Path) -> Result<String> {
    let own = &sources.javascript;
    let lock = content(own, "package-lock.json")?;
    let tools = tools("componentize-js", lock, |folder| {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        write(&only(own, "json"), folder)?;
        let mut npm = Command::new("npm");
        npm.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        repo::run(npm.arg("--silent")).context("install Node.js 20 or later")
    })?;
    let modules = tools.join("node_modules");
    let folder = staging.join("javascript");
    write(own, &folder)?;
    let wit = sources.write_wit(own, &folder)?;
    fs::copy(modules.join("acorn/dist/acorn.mjs"), folder.join("acorn.mjs"))?;
    std::os::unix::fs::symlink(&modules, folder.join("node_modules"))?;
    let mut node = Command::new("node");
    node.current_dir(&folder).arg("build.mjs").arg(wit);
    repo::output(node.arg(staging.join("javascript.wasm"))).context("Node.js 20 or later")?;
    fs::remove_dir_all(folder)?;
    let lock: Lock = serde_json::from_slice(lock)?;
    let version = |name: &str| match lock.packages.get(&format!("node_modules/{name}")) {
        Some(Pinned { version: Some(version) }) => Ok(version.clone()),
        _ => bail!("package-lock.json does not pin {name}"),
    };
    let tool = version("@bytecodealliance/componentize-js")?;
    Ok(format!("componentize-js {tool}, acorn {}", version("acorn")?))
}

/// What we read of `package-lock.json`.
#[derive(Deserialize)]
struct Lock {
    packages: BTreeMap<String, Pinned>,
}

#[derive(Deserialize)]
struct Pinned {
    version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{Files, Sources};

    fn sources(name: &str, content: &str) -> Sources {
        let files = Files::from([(name.to_owned(), content.into())]);
        let [wit, python, javascript, wasi] = [(); 4].map(|()| Files::new());
        let mut sources = Sources { wit, python, javascript, wasi };
        sources.python = files;
        sources
    }

    #[test]
    fn the_digest_is_of_names_contents_and_places() {
        let one = sources("a.py", "b");
        assert_eq!(one.digest(), sources("a.py", "b").digest());
        assert_ne!(one.digest(), sources("a.py", "c").digest());
        assert_ne!(one.digest(), sources("a.p", "yb").digest());
        let moved = Sources { javascript: one.python.clone(), ..sources("a.py", "b") };
        assert_ne!(one.digest(), Sources { python: Files::new(), ..moved }.digest());
    }
}
