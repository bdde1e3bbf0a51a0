//! Compiled code: made by the compiler's process, kept in the cache, checked before it is loaded.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kernel::ids::TenantId;
use kernel::values::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::child::EXIT_INVALID;
use crate::error::Error;
use crate::turns::Turns;
use crate::{limits, native};

/// The program that compiles, and its arguments.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Which program: ourselves.
    pub program: PathBuf,
    /// What makes it compile.
    pub args: Vec<OsString>,
}

/// The compiled code of all components, by what it was made of and for.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    compiler: Compiler,
    fingerprint: String,
    turns: Turns,
}

/// Compiled code.
pub(crate) struct Compiled {
    pub(crate) component: Component,
    pub(crate) digest: Digest,
}

impl Cache {
    pub(crate) fn open(
        folder: PathBuf,
        compiler: Compiler,
        fingerprint: String,
    ) -> Result<Self, Error> {
        private_folder(&folder)?;
        Ok(Self { folder, compiler, fingerprint, turns: Turns::default() })
    }

    /// The component of `wasm`, whose digest is `digest`, for `engine`: out of the cache where it
    /// is there and unchanged, else compiled when it is the turn of `whose` it is. With `bound`,
    /// nothing else is given.
    pub(crate) async fn get(
        &self,
        engine: &Engine,
        wasm: &[u8],
        digest: Digest,
        bound: Option<Digest>,
        whose: Option<&TenantId>,
    ) -> Result<Compiled, Error> {
        check_folder(&self.folder)?;
        let path = self.folder.join(format!("{}-{}.cwasm", digest.hex(), self.fingerprint));
        if let Some(found) = find(engine, &path, bound).await? {
            return Ok(found);
        }
        let _turn = self.turns.take(whose).await;
        if let Some(found) = find(engine, &path, bound).await? {
            return Ok(found);
        }
        let code = self.compile(wasm).await?;
        let now = Digest::of(&code);
        if let Some(bound) = bound.filter(|bound| *bound != now) {
            return Err(Error::Changed { bound: bound.hex(), now: now.hex() });
        }
        put(&path, &code).map_err(Error::io(format!("cannot write {}", path.display())))?;
        put(&sidecar(&path), now.hex().as_bytes())
            .map_err(Error::io("cannot write beside compiled code"))?;
        drop(code);
        find(engine, &path, Some(now)).await?.ok_or_else(|| {
            Error::Compiler("what the compiler wrote cannot be loaded: is it this program?".into())
        })
    }

    async fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, Error> {
        tokio::time::timeout(limits::COMPILE_TIMEOUT, self.run_compiler(wasm))
            .await
            .map_err(|_| Error::Compiler("it took too long".to_owned()))?
    }

    async fn run_compiler(&self, wasm: &[u8]) -> Result<Vec<u8>, Error> {
        let mut child = Command::new(&self.compiler.program)
            .args(&self.compiler.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io(format!("cannot start {}", self.compiler.program.display())))?;
        let gone = || Error::Compiler("it has no pipes".to_owned());
        let mut stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        // A compiler that refuses stops reading: what it says is then the reason, not the pipe.
        let write = async {
            let written = stdin.write_all(wasm).await;
            drop(stdin);
            written
        };
        let most = u64::try_from(limits::COMPILED_BYTES_MAX).unwrap_or(u64::MAX);
        let (_, code, said) =
            tokio::join!(write, read(stdout, most), read(stderr, limits::COMPILER_TEXT_BYTES_MAX));
        let status = child.wait().await.map_err(Error::io("cannot wait for the compiler"))?;
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned();
        match status.code() {
            Some(0) => code.map_err(Error::io("cannot read from the compiler")),
            Some(code) if code == i32::from(EXIT_INVALID) => Err(Error::Invalid(said)),
            Some(_) => Err(Error::Compiler(said)),
            None => Err(Error::Compiler(format!("it was ended ({status}): out of memory or time"))),
        }
    }
}

async fn read(from: impl tokio::io::AsyncRead + Unpin, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut from = from.take(most);
    from.read_to_end(&mut bytes).await?;
    if from.limit() == 0 {
        // Reads on, so that the writer is not stuck, and throws it away.
        tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// What the cache has, if it is what was written there. Anything else is compiled anew.
async fn find(
    engine: &Engine,
    path: &Path,
    bound: Option<Digest>,
) -> Result<Option<Compiled>, Error> {
    let (engine, path) = (engine.clone(), path.to_owned());
    let found = tokio::task::spawn_blocking(move || look(&engine, &path, bound)).await;
    found.map_err(|error| Error::Engine(error.to_string()))
}

fn look(engine: &Engine, path: &Path, bound: Option<Digest>) -> Option<Compiled> {
    let text = std::fs::read_to_string(sidecar(path)).ok()?;
    let digest = Digest::parse(text.trim())?;
    if bound.is_some_and(|bound| bound != digest) {
        return None;
    }
    let component = native::load(engine, path, digest)?;
    Some(Compiled { component, digest })
}

fn sidecar(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

/// Writes beside and renames: a file of the cache is whole or absent.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let part = path.with_extension("part");
    if let Err(error) = std::fs::remove_file(&part)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}

/// Makes a folder for its owner alone, or checks that the one there is.
pub(crate) fn private_folder(folder: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::io(format!("cannot make {}", folder.display())))?;
    check_folder(folder)
}

fn check_folder(folder: &Path) -> Result<(), Error> {
    let meta = std::fs::symlink_metadata(folder)
        .map_err(Error::io(format!("cannot look at {}", folder.display())))?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !ours || meta.mode() & 0o022 != 0 {
        return Err(Error::Writable { folder: folder.display().to_string() });
    }
    Ok(())
}
