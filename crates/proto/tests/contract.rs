//! The contract as data: error mappings, times, the route table and the OpenAPI document.

use std::collections::BTreeSet;

use http::Method;
use proto::{
    FILE_DESCRIPTOR_SET, OPENAPI_JSON,
    error::{error_from_status, http_status, status_from_error},
    routes::{Idempotency, ROUTES, by_grpc, by_rest},
    types::{Error, Json, Timestamp, error::Category},
};
use serde_json::Value;
use tonic::Code;

#[test]
fn errors_survive_the_status_and_map_to_http_and_grpc() {
    let table = [
        (Category::PolicyDenied, 403, Code::PermissionDenied),
        (Category::Validation, 400, Code::InvalidArgument),
        (Category::Auth, 401, Code::Unauthenticated),
        (Category::Permission, 403, Code::PermissionDenied),
        (Category::RateLimited, 429, Code::ResourceExhausted),
        (Category::Budget, 402, Code::FailedPrecondition),
        (Category::Upstream, 502, Code::Unavailable),
        (Category::Network, 502, Code::Unavailable),
        (Category::Timeout, 504, Code::DeadlineExceeded),
        (Category::Conflict, 409, Code::Aborted),
        (Category::NotFound, 404, Code::NotFound),
        (Category::Sandbox, 422, Code::FailedPrecondition),
        (Category::Permanent, 422, Code::FailedPrecondition),
        (Category::Internal, 500, Code::Internal),
    ];
    for (category, http, grpc) in table {
        let error = Error {
            retry_after_ms: Some(7),
            cause: vec!["a".into(), "b".into()],
            request_id: "r".into(),
            receipt_id: "c".into(),
            ..Error::new(category, "some_code", "what to change")
        };
        let status = status_from_error(error.clone());
        assert_eq!((status.code(), status.message()), (grpc, "what to change"));
        assert_eq!(error_from_status(&status), error);
        assert_eq!(http_status(&error).as_u16(), http, "{category:?}");
    }
    let special =
        [("request_too_large", 413), ("method_not_allowed", 405), ("upgrade_required", 426)];
    for (code, http) in special {
        assert_eq!(http_status(&Error::validation(code, "")).as_u16(), http);
    }
    let busy = Error::new(Category::Internal, "busy", "").retryable();
    assert_eq!(http_status(&busy).as_u16(), 503);
    assert_eq!(status_from_error(busy).code(), Code::Unavailable);
}

#[test]
fn times_print_with_z_and_read_any_offset() {
    let table = [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_767_323_045_000_006, "2026-01-02T03:04:05.000006Z"),
    ];
    for (micros, text) in table {
        let time = Timestamp::from_micros(micros);
        assert_eq!(serde_json::to_string(&time).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Timestamp>(&format!("\"{text}\"")).unwrap(), time);
        assert_eq!(time.micros(), micros);
    }
    let offset: Timestamp = "2026-01-02T05:04:05.000006+02:00".parse().unwrap();
    assert_eq!(offset.micros(), 1_767_323_045_000_006);
    let far = Timestamp::from_micros(i64::MAX);
    assert!(serde_json::to_string(&far).is_err(), "{far}");
    assert!("yesterday".parse::<Timestamp>().is_err());
}

#[test]
fn json_is_checked_when_made() {
    assert!(Json::new("{\"a\":1").is_err() && Json::new("1 2").is_err() && Json::new("").is_err());
    let broken = Json { text: "{".into() };
    assert!(serde_json::to_string(&broken).is_err(), "a broken text is never written");
}

#[test]
fn the_route_table_is_whole() {
    let mut seen = BTreeSet::new();
    for route in ROUTES {
        assert_eq!(by_grpc(route.grpc_path).unwrap().rpc, route.rpc);
        for path in std::iter::once(&route.path).chain(route.aliases) {
            assert!(seen.insert((route.http_method, *path)), "{path} is served twice");
            let method: Method = route.http_method.parse().unwrap();
            assert_eq!(by_rest(&method, path).unwrap().grpc_path, route.grpc_path);
        }
        let has_api = route.aliases.contains(&format!("/api{}", route.path).as_str());
        assert_eq!(has_api, route.path.starts_with("/v1/"), "{}", route.path);
        assert_eq!(route.mutates, route.idempotency != Idempotency::None, "{}", route.path);
    }
    let submit = by_rest(&Method::POST, "/api/v1/actions").unwrap();
    assert_eq!(submit.permission, Some("actions:submit"));
    assert_eq!(by_rest(&Method::HEAD, "/healthz").unwrap().permission, None);
    let public: Vec<_> = ROUTES.iter().filter(|r| r.permission.is_none()).map(|r| r.rpc).collect();
    assert_eq!(public, ["GetTenantKeys", "GetHealth", "GetReady", "GetVersion"]);
}

#[test]
fn the_openapi_document_describes_every_route_and_nothing_dangles() {
    let document: Value = serde_json::from_str(OPENAPI_JSON).unwrap();
    for route in ROUTES {
        let path = route.path.replace("{*", "{");
        let pointer = format!(
            "/paths/{}/{}",
            path.replace('~', "~0").replace('/', "~1"),
            route.http_method.to_lowercase()
        );
        let operation = document.pointer(&pointer).unwrap_or_else(|| panic!("no {pointer}"));
        assert_eq!(operation["x-tally-permission"].as_str(), route.permission, "{pointer}");
    }
    let (mut references, mut undescribed) = (BTreeSet::new(), Vec::new());
    walk(&document, "", &mut references, &mut undescribed);
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference} dangles");
    }
    assert_eq!(undescribed, Vec::<String>::new(), "without a description");
    assert!(!FILE_DESCRIPTOR_SET.is_empty());
}

/// Collects every reference, and every description that is empty.
fn walk(value: &Value, at: &str, references: &mut BTreeSet<String>, empty: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                match inner.as_str() {
                    Some(text) if key == "$ref" => _ = references.insert(text.to_owned()),
                    Some("") if key == "description" => empty.push(at.to_owned()),
                    _ => walk(inner, &format!("{at}/{key}"), references, empty),
                }
            }
        }
        Value::Array(values) => {
            for inner in values {
                walk(inner, at, references, empty);
            }
        }
        _ => {}
    }
}
