//! Components that are ready to run, and the interpreters among them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use kernel::attestation::{CodeKind, Runtime};
use kernel::values::Digest;
use serde::Deserialize;
use wasmtime::Engine;
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use crate::compile::Compiled;
use crate::engine;
use crate::error::Error;
use crate::limits;
use crate::state::State;

/// A component that is ready to run.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) pre: InstancePre<State>,
    pub(crate) run: ComponentExportIndex,
    pub(crate) runtime: Runtime,
    pub(crate) imports: Arc<[String]>,
    /// Whether it imports anything of WASI, so that a world is opened for it.
    pub(crate) world: bool,
    /// Whether it can ask for files.
    pub(crate) files: bool,
    /// Where it looks for modules of its own.
    pub(crate) own: Arc<[String]>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// Which world a component is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Agent,
    Interpreter,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Interpreter => "interpreter",
        }
    }
}

impl Loaded {
    /// Checks that the component is of `world` and links it.
    pub(crate) fn new(
        linker: &Linker<State>,
        compiled: Compiled,
        wasm: Digest,
        world: World,
        own: Arc<[String]>,
    ) -> Result<Self, Error> {
        let Compiled { component, digest } = compiled;
        let mismatch = |why: String| Error::World { world: world.name(), why };
        let engine = linker.engine().clone();
        let ty = component.component_type();
        let imports: Arc<[String]> = ty.imports(&engine).map(|(name, _)| name.to_owned()).collect();
        check_export(&component, &engine, world).map_err(mismatch)?;
        let run = component
            .get_export_index(None, "run")
            .ok_or_else(|| mismatch("it exports no function `run`".to_owned()))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| mismatch(why(&error)))?;
        let of = |prefix: &str| imports.iter().any(|name| name.starts_with(prefix));
        let runtime =
            Runtime { engine: engine::NAME.to_owned(), digest: wasm, compiled: Some(digest) };
        let (world, files) = (of("wasi:"), of("wasi:filesystem/"));
        Ok(Self { engine, pre, run, runtime, imports, world, files, own })
    }
}

fn why(error: &wasmtime::Error) -> String {
    format!("{error:#}: it may import `call-tool` and interfaces of WASI 0.2")
}

/// `run` must take and give what the world says.
fn check_export(component: &Component, engine: &Engine, world: World) -> Result<(), String> {
    let ty = component.component_type();
    let Some(export) = ty.get_export(engine, "run") else {
        return Err("it exports no function `run`".to_owned());
    };
    let ComponentItem::ComponentFunc(function) = export.ty else {
        return Err("its export `run` is no function".to_owned());
    };
    let takes = match world {
        World::Agent => 1,
        World::Interpreter => 2,
    };
    let mut params = function.params();
    let text = |ty: &Type| matches!(ty, Type::String);
    let gives = |ty: Type| match ty {
        Type::Result(ty) => {
            ty.ok().is_some_and(|ty| text(&ty)) && ty.err().is_some_and(|ty| text(&ty))
        }
        _ => false,
    };
    let fits = params.len() == takes
        && params.all(|(_, ty)| text(&ty))
        && function.results().len() == 1
        && function.results().all(gives);
    if fits {
        return Ok(());
    }
    Err("its function `run` has another type than the world says".to_owned())
}

/// `runtimes.json`, beside the interpreters.
#[derive(Debug, Deserialize)]
struct Listed {
    file: String,
    sha256: String,
    /// Where it looks for modules of its own.
    #[serde(default)]
    own_paths: Vec<String>,
}

/// The bytes of an interpreter, and where it looks for its own modules.
pub(crate) struct Interpreter {
    pub(crate) wasm: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) own: Arc<[String]>,
}

/// What an interpreter is called in `runtimes.json`.
pub(crate) fn runtime_name(kind: CodeKind) -> Option<&'static str> {
    match kind {
        CodeKind::Python => Some("python"),
        CodeKind::Javascript => Some("javascript"),
        CodeKind::Component => None,
    }
}

const HOW: &str = "run `cargo xtask runtimes`, and name the folder that it prints in \
    `sandbox.runtimes` or TALLY_RUNTIMES";

/// Reads an interpreter, whose digest is the one listed and, where there is one, the one pinned.
pub(crate) fn read_interpreter(
    folder: Option<&Path>,
    pins: &BTreeMap<String, Digest>,
    name: &'static str,
) -> Result<Interpreter, Error> {
    let missing = |why: String| Error::RuntimeMissing(format!("{why}: {HOW}"));
    let folder = folder.ok_or_else(|| {
        missing(format!("source text in {name} needs an interpreter, and there is none"))
    })?;
    let list = folder.join("runtimes.json");
    let text = read(&list, limits::RUNTIMES_TEXT_BYTES_MAX)
        .map_err(|error| missing(format!("cannot read {}: {error}", list.display())))?;
    let listed: BTreeMap<String, Listed> = serde_json::from_slice(&text)
        .map_err(|error| missing(format!("{} does not read: {error}", list.display())))?;
    let entry =
        listed.get(name).ok_or_else(|| missing(format!("{} lists no `{name}`", list.display())))?;
    if entry.file.contains('/') || entry.file.starts_with('.') {
        return Err(missing(format!("{}: `{}` is no file beside it", list.display(), entry.file)));
    }
    let path = folder.join(&entry.file);
    let most = limits::RUNTIME_BYTES_MAX;
    let wasm = read(&path, u64::try_from(most).unwrap_or(u64::MAX))
        .map_err(|error| missing(format!("cannot read {}: {error}", path.display())))?;
    let digest = Digest::of(&wasm);
    let same = |pinned: &str, by| {
        if pinned == digest.hex() {
            return Ok(());
        }
        let (now, pinned) = (digest.hex(), pinned.to_owned());
        Err(Error::RuntimeChanged { name: name.to_owned(), now, pinned, by })
    };
    same(&entry.sha256, "runtimes.json")?;
    if let Some(pinned) = pins.get(name) {
        same(&pinned.hex(), "sandbox.runtime_digests")?;
    }
    Ok(Interpreter { wasm, digest, own: entry.own_paths.iter().cloned().collect() })
}

fn read(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
