//! What code can ask of the host.

mod clocks;
pub(crate) mod door;
pub(crate) mod files;
pub(crate) mod http;
mod sockets;

use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::error::Error;
use crate::state::State;

/// All imports that a component may have. Anything else is refused when it is bound.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<State>, Error> {
    let mut linker = Linker::new(engine);
    add(&mut linker).map_err(|error| Error::Engine(format!("{error:#}")))?;
    Ok(linker)
}

fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    // Ours take the place of what reaches files, sockets and the time.
    linker.allow_shadowing(true);
    clocks::add(linker)?;
    files::add(linker)?;
    sockets::add(linker)?;
    door::add(linker)
}
