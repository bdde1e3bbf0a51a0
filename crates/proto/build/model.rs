//! Reads the services out of the descriptors, and refuses what the generator cannot serve.

use std::error::Error;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ReflectMessage, ServiceDescriptor, Value,
};

/// The message that is a raw body.
pub(crate) const RAW: &str = "google.api.HttpBody";

/// One service with its methods.
pub(crate) struct Service {
    /// The area, such as `actions`.
    pub(crate) area: String,
    /// Its full name.
    pub(crate) full_name: String,
    /// Its name.
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) methods: Vec<Method>,
}

/// One rpc.
pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) verb: String,
    /// The path templates: the canonical one, then the additional ones.
    pub(crate) paths: Vec<Vec<Part>>,
    /// Whether the message is the body.
    pub(crate) has_body: bool,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    pub(crate) permission: Option<String>,
    pub(crate) mutates: bool,
    /// `NONE`, `OPTIONAL` or `REQUIRED`.
    pub(crate) idempotency: String,
    /// The largest JSON body that is read, in MiB, where it is not the server's default.
    pub(crate) body_mib: Option<u32>,
}

/// One part of a path template.
#[derive(Clone, PartialEq)]
pub(crate) enum Part {
    /// Text as it is.
    Text(String),
    /// One segment, the value of a field.
    One(String),
    /// The rest of the path, the value of a field.
    Many(String),
}

impl Method {
    /// Whether the body that comes in is raw.
    pub(crate) fn raw_input(&self) -> bool {
        self.input.full_name() == RAW
    }

    /// Whether the body that goes out is raw.
    pub(crate) fn raw_output(&self) -> bool {
        self.output.full_name() == RAW
    }

    /// The names of the fields that come from the path.
    pub(crate) fn path_fields(&self) -> Vec<&str> {
        self.paths.iter().take(1).flat_map(|path| fields_of(path)).collect()
    }

    /// The fields that come from the query string.
    pub(crate) fn query_fields(&self) -> Vec<FieldDescriptor> {
        if self.has_body {
            return Vec::new();
        }
        let bound = self.path_fields();
        self.input.fields().filter(|field| !bound.contains(&field.name())).collect()
    }
}

/// The names of the fields in a template.
fn fields_of(path: &[Part]) -> impl Iterator<Item = &str> {
    path.iter().filter_map(|part| match part {
        Part::Text(_) => None,
        Part::One(name) | Part::Many(name) => Some(name.as_str()),
    })
}

/// All services, by name.
pub(crate) fn services(pool: &DescriptorPool) -> Result<Vec<Service>, Box<dyn Error>> {
    let mut services = Vec::new();
    for service in pool.services() {
        let methods = service.methods().map(|method| {
            let name = method.full_name().to_owned();
            read_method(pool, &method).map_err(|error| format!("{name}: {error}"))
        });
        services.push(Service {
            area: area(&service)?,
            full_name: service.full_name().to_owned(),
            name: service.name().to_owned(),
            comment: comment(service.parent_file_descriptor_proto(), service.path()),
            methods: methods.collect::<Result<_, _>>()?,
        });
    }
    services.sort_by(|a, b| a.full_name.cmp(&b.full_name));
    Ok(services)
}

/// The middle of `tally.<area>.v1`.
fn area(service: &ServiceDescriptor) -> Result<String, String> {
    let package = service.package_name();
    let area = package.strip_prefix("tally.").and_then(|rest| rest.strip_suffix(".v1"));
    area.map(str::to_owned).ok_or_else(|| format!("{package}: name it tally.<area>.v1"))
}

fn read_method(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Method, String> {
    if method.is_client_streaming() || method.is_server_streaming() {
        return Err("streams have no REST form here".to_owned());
    }
    let http = option(pool, method, "google.api.http")?;
    let access = option(pool, method, "tally.options.v1.access")?;
    let (verb, first, has_body) = binding(&http)?;
    let mut paths = vec![first];
    for other in list(&http, "additional_bindings") {
        let other = other.as_message().ok_or("additional_bindings is not a message")?;
        let (other_verb, path, other_body) = binding(other)?;
        if other_verb != verb || other_body != has_body {
            return Err("bind one method to one verb, always with or without body".to_owned());
        }
        paths.push(path);
    }
    let permission = text(&access, "permission");
    let read = Method {
        name: method.name().to_owned(),
        comment: comment(method.parent_file().file_descriptor_proto(), method.path()),
        verb,
        paths,
        has_body,
        input: method.input(),
        output: method.output(),
        permission: (!permission.is_empty()).then_some(permission),
        mutates: flag(&access, "mutates"),
        idempotency: enum_name(&access, "idempotency")?,
        body_mib: number(&access, "body_mib").filter(|mib| *mib > 0),
    };
    check(&read, flag(&access, "public"))?;
    Ok(read)
}

/// Refuses a method that contradicts itself or that the runtime cannot serve.
fn check(method: &Method, public: bool) -> Result<(), String> {
    match &method.permission {
        Some(_) if public => return Err("public rpcs need no permission".to_owned()),
        None if !public => return Err("give the permission or say public".to_owned()),
        Some(text) if text.split(':').count() != 2 => {
            return Err(format!("write the permission {text} as resource:verb"));
        }
        _ => {}
    }
    if method.mutates == (method.idempotency == "NONE") {
        return Err("an idempotency key belongs to what mutates, and only to that".to_owned());
    }
    if method.mutates && method.verb == "GET" {
        return Err("GET mutates nothing".to_owned());
    }
    let bound = method.path_fields();
    if method.paths.iter().any(|path| !fields_of(path).eq(bound.iter().copied())) {
        return Err("bind the same fields in every path".to_owned());
    }
    for name in bound {
        let field = method.input.get_field_by_name(name).ok_or(format!("no field {name}"))?;
        if field.kind() != Kind::String || field.is_list() || field.supports_presence() {
            return Err(format!("make the path field {name} a plain string"));
        }
    }
    for field in method.query_fields() {
        let optional = field.field_descriptor_proto().proto3_optional();
        let real_oneof = field.containing_oneof().is_some() && !optional;
        let plain_list = !field.is_list() || field.kind() == Kind::String;
        let message = matches!(field.kind(), Kind::Message(_) | Kind::Bytes);
        if message || real_oneof || !plain_list {
            return Err(format!("{} has no form in a query string", field.name()));
        }
    }
    Ok(())
}

/// The verb, the path and whether there is a body, of one binding.
fn binding(rule: &DynamicMessage) -> Result<(String, Vec<Part>, bool), String> {
    let verbs = ["get", "put", "post", "delete", "patch"];
    let verb = verbs.into_iter().find(|verb| rule.has_field_by_name(verb));
    let verb = verb.ok_or("give one of get, put, post, delete, patch")?;
    let has_body = match text(rule, "body").as_str() {
        "" => false,
        "*" => true,
        other => return Err(format!("body {other:?}: only \"*\" or none")),
    };
    if has_body == (verb == "get") {
        return Err("all verbs but GET carry a body".to_owned());
    }
    Ok((verb.to_uppercase(), template(&text(rule, verb))?, has_body))
}

/// Splits a path template.
fn template(path: &str) -> Result<Vec<Part>, String> {
    let bad = || format!("cannot read the path {path}");
    if !path.starts_with('/') || path.contains(':') {
        return Err(bad());
    }
    let mut parts = Vec::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(bad)?;
        parts.push(Part::Text(before.to_owned()));
        parts.push(match name.split_once('=') {
            None => Part::One(name.to_owned()),
            Some((name, "**")) if after.is_empty() => Part::Many(name.to_owned()),
            Some(_) => return Err(bad()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// The value of a message-typed method option.
fn option(
    pool: &DescriptorPool,
    method: &MethodDescriptor,
    name: &str,
) -> Result<DynamicMessage, String> {
    let extension = pool.get_extension_by_name(name).ok_or(format!("{name} is not defined"))?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return Err(format!("give the option ({name})"));
    }
    match options.get_extension(&extension).into_owned() {
        Value::Message(message) => Ok(message),
        _ => Err(format!("{name} is not a message")),
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).and_then(|value| value.as_bool()).unwrap_or_default()
}

fn number(message: &DynamicMessage, field: &str) -> Option<u32> {
    message.get_field_by_name(field)?.as_u32()
}

fn list(message: &DynamicMessage, field: &str) -> Vec<Value> {
    let value = message.get_field_by_name(field);
    value.and_then(|value| value.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}

fn enum_name(message: &DynamicMessage, field: &str) -> Result<String, String> {
    let number = message.get_field_by_name(field).and_then(|value| value.as_enum_number());
    let kind = message.descriptor().get_field_by_name(field).map(|field| field.kind());
    match (number, kind) {
        (Some(number), Some(Kind::Enum(kind))) => {
            let value = kind.get_value(number).ok_or(format!("{field}: no value {number}"))?;
            Ok(value.name().to_owned())
        }
        _ => Err(format!("{field} is not an enum")),
    }
}

/// The comment before a definition, as one paragraph.
pub(crate) fn comment(file: &prost_types::FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|at| at.path == path));
    let text = location.map_or("", |location| location.leading_comments());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether JSON always has the field, even when it was never set.
pub(crate) fn always_there(field: &FieldDescriptor) -> bool {
    field.cardinality() == Cardinality::Repeated || !field.supports_presence()
}
