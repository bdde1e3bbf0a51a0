//! Writes the OpenAPI 3.1 document of the REST routes.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::{
    model::{self, Method, Part, Service, always_there, comment},
    rust,
};

/// The largest 64-bit index that a query string may hold.
const MAX_INDEX: u64 = i64::MAX as u64;

/// What the document says about itself.
const ABOUT: &str = "Every path that begins with /v1/ is served at /api/v1/ too. Field names are \
snake_case; camelCase is accepted on input, unknown fields are refused. 64-bit numbers are strings \
in JSON, and accepted as numbers. Times are RFC 3339 in UTC. A refused request answers 4xx with \
an error body; an action that policy denies, or that fails, is a result and answers 200.";

/// The document, with a newline at its end.
pub(crate) fn document(services: &[Service], version: &str) -> Result<String, serde_json::Error> {
    let mut schemas = Schemas::new(services);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (service, method) in rust::all(services) {
        for (index, path) in method.paths.iter().enumerate() {
            let operation = operation(&mut schemas, service, method, index);
            let verbs = paths.entry(template(path)).or_default();
            verbs.insert(method.verb.to_lowercase(), operation);
        }
    }
    let tags = services.iter().map(|s| json!({"name": s.area, "description": s.comment}));
    let document = json!({
        "openapi": "3.1.0",
        "info": {"title": "Tally", "version": version, "description": ABOUT},
        "tags": tags.collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.done,
            "responses": {"Error": error_response()},
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// The answer to every refused request.
fn error_response() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/type.Error"}},
    });
    json!({
        "description": "The request was refused.",
        "content": {"application/json": {"schema": schema}},
    })
}

/// One verb of one path.
fn operation(schemas: &mut Schemas, service: &Service, method: &Method, index: usize) -> Value {
    let suffix = if index == 0 { String::new() } else { format!("_{index}") };
    let mut operation = json!({
        "operationId": format!("{}{suffix}", method.name),
        "tags": [service.area],
        "description": method.comment,
        "parameters": parameters(schemas, method),
        "responses": responses(schemas, method),
        "x-tally-mutates": method.mutates,
        "security": [],
    });
    if let Some(permission) = &method.permission {
        set(&mut operation, "security", json!([{"api_key": []}, {"bearer": []}]));
        set(&mut operation, "x-tally-permission", json!(permission));
    }
    if method.has_body {
        set(&mut operation, "requestBody", request_body(schemas, method));
    }
    operation
}

/// What comes from the path, the query string and the Idempotency-Key header.
fn parameters(schemas: &mut Schemas, method: &Method) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in method.path_fields() {
        let field = method.input.get_field_by_name(name);
        let about = field.map(|field| field_comment(&field)).unwrap_or_default();
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": about,
            "schema": {"type": "string", "minLength": 1},
        }));
    }
    for field in method.query_fields() {
        let schema = match field.kind() {
            Kind::Uint64 | Kind::Int64 => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_INDEX})
            }
            _ => schemas.field_type(&field),
        };
        parameters.push(json!({
            "name": field.name(), "in": "query", "required": false,
            "description": field_comment(&field), "schema": schema,
        }));
    }
    if method.mutates {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "required": method.idempotency == "REQUIRED",
            "description": "Names the request: the same key with the same body has one effect and \
                            one answer for 24 hours, with another body it is a conflict.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }));
    }
    parameters
}

/// The JSON or raw body of a request.
fn request_body(schemas: &mut Schemas, method: &Method) -> Value {
    if method.raw_input() {
        return json!({"required": true, "content": {"application/x-tar": {}}});
    }
    let bound = method.path_fields();
    let schema = if bound.is_empty() {
        schemas.reference(&method.input)
    } else {
        schemas.object(&method.input, &bound)
    };
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

/// The answers of a method.
fn responses(schemas: &mut Schemas, method: &Method) -> Value {
    let content = if method.raw_output() {
        json!({"*/*": {}})
    } else {
        json!({"application/json": {"schema": schemas.reference(&method.output)}})
    };
    let mut responses = json!({
        "200": {"description": "Done.", "content": content},
        "default": {"$ref": "#/components/responses/Error"},
    });
    if method.mutates && method.output.full_name() == "tally.actions.v1.Action" {
        set(
            &mut responses,
            "202",
            json!({"description": "Pending: ask again.", "content": content}),
        );
    }
    responses
}

/// A path as OpenAPI writes it.
fn template(path: &[Part]) -> String {
    let parts = path.iter().map(|part| match part {
        Part::Text(text) => text.clone(),
        Part::One(name) | Part::Many(name) => format!("{{{name}}}"),
    });
    parts.collect()
}

/// The schemas of the messages and enums that were met.
struct Schemas {
    /// By name.
    done: BTreeMap<String, Value>,
    /// The full names of the messages that come in: they refuse unknown fields.
    inputs: BTreeSet<String>,
}

impl Schemas {
    fn new(services: &[Service]) -> Self {
        let mut schemas = Self { done: BTreeMap::new(), inputs: BTreeSet::new() };
        for (_, method) in rust::all(services) {
            schemas.mark_input(&method.input);
        }
        schemas.done.insert("type.Error".to_owned(), Value::Null);
        let error = services.iter().flat_map(|s| &s.methods).next().and_then(|method| {
            method.input.parent_pool().get_message_by_name("tally.type.v1.Error")
        });
        if let Some(error) = error {
            let schema = schemas.object(&error, &[]);
            schemas.done.insert("type.Error".to_owned(), schema);
        }
        schemas
    }

    /// Marks a message and all that it holds as coming in.
    fn mark_input(&mut self, message: &MessageDescriptor) {
        if self.inputs.insert(message.full_name().to_owned()) {
            for field in message.fields() {
                if let Kind::Message(inner) = field.kind() {
                    self.mark_input(&inner);
                }
            }
        }
    }

    /// A reference to the schema of a message, which is made when it is new.
    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = short(message.full_name());
        if !self.done.contains_key(&name) {
            self.done.insert(name.clone(), Value::Null);
            let schema = self.object(message, &[]);
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// The schema of a message without some of its fields.
    fn object(&mut self, message: &MessageDescriptor, without: &[&str]) -> Value {
        let incoming = self.inputs.contains(message.full_name());
        let (mut properties, mut required) = (Map::new(), Vec::new());
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in fields.iter().filter(|field| !without.contains(&field.name())) {
            let mut schema = self.field_type(field);
            set(&mut schema, "description", json!(field_comment(field)));
            properties.insert(field.name().to_owned(), schema);
            if always_there(field) && !incoming {
                required.push(field.name().to_owned());
            }
        }
        let about = comment(message.parent_file().file_descriptor_proto(), message.path());
        let mut schema = json!({"type": "object", "description": about, "properties": properties});
        if incoming {
            set(&mut schema, "additionalProperties", json!(false));
        } else if !required.is_empty() {
            set(&mut schema, "required", json!(required));
        }
        schema
    }

    /// The schema of what a field holds.
    fn field_type(&mut self, field: &FieldDescriptor) -> Value {
        let one = match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 => json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}),
            Kind::Uint64 => json!({"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Enum(kind) => self.enum_reference(&kind),
            Kind::Message(message) => match message.full_name() {
                "tally.type.v1.Json" => json!({}),
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                _ => self.reference(&message),
            },
            _ => json!({"type": "string"}),
        };
        if field.is_list() { json!({"type": "array", "items": one}) } else { one }
    }

    /// A reference to the schema of an enum.
    fn enum_reference(&mut self, kind: &EnumDescriptor) -> Value {
        let name = short(kind.full_name());
        let file = kind.parent_file();
        let mut about = comment(file.file_descriptor_proto(), kind.path());
        let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
        for value in kind.values() {
            let meaning = comment(file.file_descriptor_proto(), value.path());
            about.push_str(&format!("\n- `{}`: {meaning}", value.name()));
        }
        let schema = json!({"type": "string", "enum": names, "description": about});
        self.done.insert(name.clone(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

/// Sets a member of a JSON object.
fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

/// `tally.actions.v1.Action` as `actions.Action`.
fn short(full_name: &str) -> String {
    full_name.trim_start_matches("tally.").replacen(".v1.", ".", 1)
}

fn field_comment(field: &FieldDescriptor) -> String {
    model::comment(field.parent_file().file_descriptor_proto(), field.path())
}
