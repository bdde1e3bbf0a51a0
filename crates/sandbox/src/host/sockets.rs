//! Sockets: none. What was wanted is on record by its name, as far as the code gets to say it.

use kernel::capability::Capability;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::ResolveAddressStream;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::{Network, TcpSocket, UdpSocket};

use crate::state::State;

/// What a function gives that refuses.
type Refused<T> = (Result<Resource<T>, ErrorCode>,);

fn refused<T>() -> wasmtime::Result<Refused<T>> {
    Ok((Err(ErrorCode::AccessDenied),))
}

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?.func_wrap(
        "resolve-addresses",
        |store, (_, name): (Resource<Network>, String)| {
            store.data().deny(Capability::Network, name);
            refused::<ResolveAddressStream>()
        },
    )?;
    linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        |store, (_,): (IpAddressFamily,)| {
            store.data().deny(Capability::Network, "socket/tcp");
            refused::<TcpSocket>()
        },
    )?;
    linker.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap(
        "create-udp-socket",
        |store, (_,): (IpAddressFamily,)| {
            store.data().deny(Capability::Network, "socket/udp");
            refused::<UdpSocket>()
        },
    )
}
