//! The one place where compiled code becomes callable.

use std::path::Path;

use kernel::values::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Loads compiled code whose digest is `expected`. None where the file is another, or was made for
/// another engine.
#[expect(unsafe_code, reason = "compiled code is trusted; this is where that is decided")]
pub(crate) fn load(engine: &Engine, path: &Path, expected: Digest) -> Option<Component> {
    let bytes = std::fs::read(path).ok()?;
    if Digest::of(&bytes) != expected {
        return None;
    }
    drop(bytes);
    // SAFETY: The file came out of our own compiler and is unchanged since: its digest is the one
    // recorded then. Its folder belongs to us and nobody else can write to it, as was checked when
    // it was opened, so that it stays the same while it is mapped. Wasmtime itself refuses code of
    // other versions, settings and processors.
    unsafe { Component::deserialize_file(engine, path) }.ok()
}
