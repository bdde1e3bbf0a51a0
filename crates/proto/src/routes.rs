//! The table of all rpcs: where each is served, who may call it, and whether it changes anything.

use std::{collections::HashMap, sync::LazyLock};

use http::Method;

include!(concat!(env!("OUT_DIR"), "/routes.rs"));

/// What is expected of the Idempotency-Key header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: the rpc changes nothing.
    None,
    /// The caller may give one.
    Optional,
    /// The caller must give one.
    Required,
}

/// One rpc: where it is served and who may call it.
#[derive(Debug)]
pub struct Route {
    /// The full name of the service, such as `tally.actions.v1.ActionsService`.
    pub service: &'static str,
    /// The name of the rpc, such as `SubmitAction`.
    pub rpc: &'static str,
    /// The path of the rpc in gRPC.
    pub grpc_path: &'static str,
    /// The verb in REST.
    pub http_method: &'static str,
    /// The path in REST, as axum's `MatchedPath` gives it.
    pub path: &'static str,
    /// Further REST paths of the same verb: additional bindings, and `/api/v1` for `/v1`.
    pub aliases: &'static [&'static str],
    /// The permission that the caller needs; none when the rpc is public.
    pub permission: Option<&'static str>,
    /// Whether the rpc changes anything.
    pub mutates: bool,
    /// What is expected of the Idempotency-Key header.
    pub idempotency: Idempotency,
}

/// Routes by REST path.
static BY_PATH: LazyLock<HashMap<&'static str, Vec<&'static Route>>> = LazyLock::new(|| {
    let mut routes: HashMap<_, Vec<_>> = HashMap::new();
    for route in ROUTES {
        for path in std::iter::once(&route.path).chain(route.aliases) {
            routes.entry(*path).or_default().push(route);
        }
    }
    routes
});

/// Routes by gRPC path.
static BY_RPC: LazyLock<HashMap<&'static str, &'static Route>> =
    LazyLock::new(|| ROUTES.iter().map(|route| (route.grpc_path, route)).collect());

/// Finds the route of a REST request by its verb and axum's `MatchedPath`. HEAD counts as GET.
#[must_use]
pub fn by_rest(method: &Method, matched_path: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut routes = BY_PATH.get(matched_path)?.iter();
    routes.find(|route| route.http_method == method.as_str()).copied()
}

/// Finds the route of a gRPC request by its path.
#[must_use]
pub fn by_grpc(path: &str) -> Option<&'static Route> {
    BY_RPC.get(path).copied()
}
