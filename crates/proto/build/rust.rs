//! Writes the Rust of the routes, the REST handlers and the client.

use std::fmt::Write;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::model::{Method, Part, RAW, Service};

/// Appends formatted lines; writing to a String cannot fail.
macro_rules! emit {
    ($out:expr, $($arg:tt)*) => {
        let _infallible = writeln!($out, $($arg)*);
    };
}

/// `ROUTES`, the table of all rpcs.
pub(crate) fn routes(services: &[Service]) -> String {
    let mut out = String::from("/// Every rpc, by service.\npub const ROUTES: &[Route] = &[\n");
    for (service, method) in all(services) {
        let (path, aliases) = axum_paths(method);
        let idempotency = match method.idempotency.as_str() {
            "REQUIRED" => "Required",
            "OPTIONAL" => "Optional",
            _ => "None",
        };
        emit!(out, "    Route {{");
        emit!(out, "        service: {:?},", service.full_name);
        emit!(out, "        rpc: {:?},", method.name);
        emit!(out, "        grpc_path: \"/{}/{}\",", service.full_name, method.name);
        emit!(out, "        http_method: {:?},", method.verb);
        emit!(out, "        path: {path:?},");
        emit!(out, "        aliases: &{aliases:?},");
        emit!(out, "        permission: {:?},", method.permission);
        emit!(out, "        mutates: {},", method.mutates);
        emit!(out, "        idempotency: Idempotency::{idempotency},");
        emit!(out, "    }},");
    }
    out + "];\n"
}

/// One handler per rpc, one router per service, and the router of all.
pub(crate) fn rest(services: &[Service]) -> String {
    let mut out = String::new();
    for service in services {
        for method in &service.methods {
            handler(&mut out, service, method);
        }
        service_router(&mut out, service);
    }
    whole_router(&mut out, services);
    out
}

/// `read_…` the request, call the service, `answer` it.
fn handler(out: &mut String, service: &Service, method: &Method) {
    let answer = if method.raw_output() { "raw" } else { "json" };
    emit!(out, "async fn {}<S>(", handler_name(service, method));
    emit!(out, "    State(served): State<Served<S>>, request: Request,");
    emit!(out, ") -> Response where S: {} {{", trait_path(service));
    emit!(out, "    match {}.await {{", reader(method));
    emit!(out, "        Ok((request, answer)) => ");
    emit!(
        out,
        "            answer.{answer}(served.service.{}(request).await),",
        snake(&method.name)
    );
    emit!(out, "        Err(refusal) => refusal,");
    emit!(out, "    }}\n}}");
}

/// The call that reads the request.
fn reader(method: &Method) -> String {
    let message = rust_type(&method.input);
    let binds = method.path_fields().into_iter();
    let binds = binds.map(|name| format!("(\"{name}\", |message| &mut message.r#{name})"));
    let binds = binds.collect::<Vec<_>>().join(", ");
    if method.raw_input() {
        "read_raw(request, served.limits)".to_owned()
    } else if method.has_body {
        let limits = match method.body_mib {
            Some(mib) => format!("served.limits.of_mib({mib})"),
            None => "served.limits".to_owned(),
        };
        format!("read_json::<{message}>(request, {limits}, &[{binds}])")
    } else {
        format!("read_query::<{message}>(request, {}, &[{binds}])", query_table(method))
    }
}

/// The router of one service: its paths, and `/api/v1` for `/v1`.
fn service_router(out: &mut String, service: &Service) {
    let mut served: Vec<(String, Vec<String>)> = Vec::new();
    for method in &service.methods {
        let (path, aliases) = axum_paths(method);
        let call =
            format!("{}({}::<S>)", method.verb.to_lowercase(), handler_name(service, method));
        for path in std::iter::once(path).chain(aliases) {
            match served.iter_mut().find(|(known, _)| *known == path) {
                Some((_, calls)) => calls.push(call.clone()),
                None => served.push((path, vec![call.clone()])),
            }
        }
    }
    emit!(out, "/// The REST routes of one service. {}", service.comment);
    emit!(out, "pub fn {}<S>(service: Arc<S>, limits: BodyLimits) -> Router", service.area);
    emit!(out, "where S: {} {{", trait_path(service));
    emit!(out, "    Router::new()");
    for (path, calls) in served {
        emit!(out, "        .route({path:?}, axum::routing::{})", calls.join("."));
    }
    emit!(out, "        .method_not_allowed_fallback(method_not_allowed)");
    emit!(out, "        .with_state(Served {{ service, limits }})\n}}");
}

/// `Services` and the router over all of them.
fn whole_router(out: &mut String, services: &[Service]) {
    let letters: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    let bounds = services.iter().zip(&letters);
    let bounds: Vec<_> = bounds.map(|(s, name)| format!("{name}: {}", trait_path(s))).collect();
    emit!(out, "/// What implements each service.");
    emit!(out, "#[derive(Debug)]");
    emit!(out, "pub struct Services<{}> {{", letters.join(", "));
    for service in services {
        emit!(out, "    /// {}", service.comment);
        emit!(out, "    pub {}: Arc<{}>,", service.area, service.name);
    }
    emit!(out, "}}");
    emit!(out, "/// The REST routes of all services. Unknown paths are left to the caller, which");
    emit!(out, "/// merges its other routes and installs [`not_found`].");
    emit!(out, "#[expect(clippy::type_complexity, reason = \"one parameter for each service\")]");
    emit!(
        out,
        "pub fn router<{0}>(services: Services<{0}>, limits: BodyLimits) -> Router",
        letters.join(", ")
    );
    emit!(out, "where {} {{", bounds.join(", "));
    emit!(out, "    Router::new()");
    for service in services {
        emit!(out, "        .merge({0}(services.{0}, limits))", service.area);
    }
    emit!(out, "}}");
}

/// One method of the client per rpc.
pub(crate) fn client(services: &[Service]) -> String {
    let mut out = String::from("impl<T: Transport> Client<T> {\n");
    for (_, method) in all(services) {
        let (verb, request) = (&method.verb, rust_type(&method.input));
        let key = if method.mutates { ", idempotency_key: Option<&str>" } else { "" };
        let name = snake(&method.name);
        emit!(out, "    /// {}", method.comment);
        emit!(out, "    ///");
        emit!(out, "    /// # Errors");
        emit!(out, "    /// No answer, a refusal, or an answer that is not of this protocol.");
        emit!(out, "    pub async fn {name}(&self, request: &{request}{key})");
        emit!(out, "    -> Result<{}, ClientError<T::Error>> {{", rust_type(&method.output));
        emit!(out, "        let path = path(&[{}]);", client_path(method));
        let key = if method.mutates { "idempotency_key" } else { "None" };
        let call = if method.raw_input() {
            format!("with_raw({verb:?}, path, request, {key})")
        } else if method.has_body {
            format!("with_json({verb:?}, path, request, {key})")
        } else {
            format!("with_query({verb:?}, path, request, {})", query_table(method))
        };
        let decode = if method.raw_output() { "raw" } else { "json" };
        emit!(out, "        self.{decode}({call}).await\n    }}");
    }
    out + "}\n"
}

/// The parts of the canonical path as Rust.
fn client_path(method: &Method) -> String {
    let parts = method.paths.iter().take(1).flatten().map(|part| match part {
        Part::Text(text) => format!("Part::Text({text:?})"),
        Part::One(name) => format!("Part::One({name:?}, &request.r#{name})"),
        Part::Many(name) => format!("Part::Many({name:?}, &request.r#{name})"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The table of the fields that a query string sets, as Rust.
fn query_table(method: &Method) -> String {
    let fields = method.query_fields();
    let fields = fields.iter().map(|field| {
        format!(
            "Field {{ name: {:?}, camel: {:?}, kind: query::Kind::{}, optional: {} }}",
            field.name(),
            field.json_name(),
            query_kind(field),
            field.supports_presence()
        )
    });
    format!("&[{}]", fields.collect::<Vec<_>>().join(", "))
}

fn query_kind(field: &FieldDescriptor) -> &'static str {
    match field.kind() {
        _ if field.is_list() => "List",
        Kind::String => "Text",
        Kind::Bool => "Bool",
        Kind::Enum(_) => "Enum",
        _ => "Number",
    }
}

/// The path as axum writes it, then all the other paths: additional bindings, and `/api/v1`.
pub(crate) fn axum_paths(method: &Method) -> (String, Vec<String>) {
    let mut paths = method.paths.iter().map(|path| {
        let parts = path.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::One(name) => format!("{{{name}}}"),
            Part::Many(name) => format!("{{*{name}}}"),
        });
        parts.collect::<String>()
    });
    let first = paths.next().unwrap_or_default();
    let mut aliases: Vec<String> = paths.collect();
    let versioned = std::iter::once(&first).chain(&aliases).filter(|path| path.starts_with("/v1/"));
    let prefixed: Vec<String> = versioned.map(|path| format!("/api{path}")).collect();
    aliases.extend(prefixed);
    (first, aliases)
}

/// Every method with its service.
pub(crate) fn all(services: &[Service]) -> impl Iterator<Item = (&Service, &Method)> {
    services.iter().flat_map(|service| service.methods.iter().map(move |method| (service, method)))
}

fn handler_name(service: &Service, method: &Method) -> String {
    format!("{}_{}", service.area, snake(&method.name))
}

/// `crate::actions::actions_service_server::ActionsService`.
fn trait_path(service: &Service) -> String {
    format!("crate::{}::{}_server::{}", service.area, snake(&service.name), service.name)
}

/// The Rust path of a top-level message.
fn rust_type(message: &MessageDescriptor) -> String {
    if message.full_name() == RAW {
        return "crate::HttpBody".to_owned();
    }
    let package = message.package_name();
    let area = package.trim_start_matches("tally.").trim_end_matches(".v1");
    format!("crate::{area}::{}", message.name())
}

/// `SubmitAction` as `submit_action`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}
