//! The document says what the server does: every route, status and code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stockade_api::{Error, ErrorCode};
use stockade_control::fake::Settings;
use support::{Daemon, Reply};

fn document() -> Value {
    Daemon::new().get("/v1/openapi.json").json()
}

/// Method, path and description of each operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| (method.to_uppercase(), format!("/v1{path}"), operation.clone()))
    });
    all.collect()
}

/// A body that goes with an operation.
fn body(path: &str) -> &'static str {
    match path {
        "/v1/vms" => r#"{"name":"new"}"#,
        "/v1/load" => r#"{"path":"/f"}"#,
        "/v1/log" => r#"{"verbosity":"brief"}"#,
        _ => "",
    }
}

fn send(daemon: &Daemon, method: &str, path: &str, target: &str) -> Reply {
    match (method, path) {
        (_, "/v1/vms/{vm}/console") => daemon.head_of("GET", target, "Upgrade: stockade-console\r\n"),
        (_, "/v1/vms/{vm}/exec") => daemon.head_of("POST", target, "Upgrade: stockade-agent\r\n"),
        (_, "/v1/run") => {
            let length = body("/v1/vms").len();
            let headers = format!(
                "Upgrade: stockade-agent\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{}",
                body("/v1/vms")
            );
            daemon.head_of("POST", target, &headers)
        }
        ("GET", _) => daemon.get(target),
        _ => daemon.post(target, body(path)),
    }
}

/// The codes that an operation documents for a status.
fn documented(operation: &Value, status: u16) -> BTreeSet<String> {
    let schema = &operation["responses"][status.to_string()]["content"]["application/json"]["schema"]["allOf"];
    assert_eq!(schema[0]["$ref"], "#/components/schemas/Error", "{status}: {operation}");
    let codes = schema[1]["properties"]["code"]["enum"].as_array().unwrap();
    codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_operation_is_served_with_the_status_that_it_documents() {
    let operations = operations(&document());
    assert_eq!(operations.len(), 20);
    for (method, path, operation) in operations {
        let daemon = Daemon::new();
        let target = path.replace("{vm}", "web");
        match path.as_str() {
            "/v1/vms/{vm}/start" | "/v1/vms/{vm}/wait" | "/v1/vms/{vm}/log" => {}
            _ => drop(daemon.post("/v1/vms/web/start", "")),
        }
        if path.ends_with("/unpause") {
            daemon.post("/v1/vms/web/pause", "");
        }
        let reply = send(&daemon, &method, &path, &target);
        let documented = &operation["responses"][reply.status.to_string()];
        assert!((101..300).contains(&reply.status) && documented.is_object(), "{method} {path}: {reply:?}");
        let content = documented["content"].as_object();
        assert_eq!(reply.body.is_empty(), content.is_none(), "{method} {path}");
        if let Some(content) = content {
            assert!(content.contains_key(reply.header("content-type").unwrap()), "{method} {path}");
        }
    }
}

#[test]
fn every_failure_of_the_backend_has_the_status_that_its_operation_documents() {
    let document = document();
    for code in ErrorCode::ALL {
        let broken = Some(Error::new(*code, "broken", "mend it"));
        let daemon = Daemon::with(Settings { broken, ..Settings::default() });
        for (method, path, operation) in operations(&document) {
            if path == "/v1/openapi.json" {
                continue;
            }
            let target = path.replace("{vm}", "web");
            let reply = send(&daemon, &method, &path, &target);
            reply.expect_failure(code.name());
            let statuses = operation["responses"].as_object().unwrap();
            for status in statuses.keys().filter_map(|status| status.parse().ok()).filter(|status| *status >= 400) {
                let codes = documented(&operation, status);
                assert!(!codes.is_empty());
                // A code is documented with its own status or not at all.
                assert!(status == code.http_status() || !codes.contains(code.name()), "{method} {path} {code}");
            }
        }
    }
}

#[test]
fn every_code_is_documented() {
    let document = document();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (_, _, operation) in operations(&document) {
        for status in operation["responses"].as_object().unwrap().keys() {
            if status.as_str() >= "400" {
                seen.extend(documented(&operation, status.parse().unwrap()));
            }
        }
    }
    // These two belong to no operation.
    let description = document["info"]["description"].as_str().unwrap();
    for code in [ErrorCode::UnknownPath, ErrorCode::MethodNotAllowed] {
        assert!(description.contains(&format!("`{code}` ({}", code.http_status())));
        assert!(seen.insert(code.name().into()), "{code} is of no operation");
    }
    assert_eq!(seen, ErrorCode::ALL.iter().map(|code| code.name().to_owned()).collect());
    assert_eq!(document["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap().len(), ErrorCode::ALL.len());
}

#[test]
fn methods_that_are_not_documented_are_refused() {
    let (daemon, document) = (Daemon::new(), document());
    for (path, item) in document["paths"].as_object().unwrap() {
        let target = format!("/v1{}", path.replace("{vm}", "web"));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            if item.get(method.to_lowercase()).is_none() {
                daemon.send(method, &target, "", "").expect_failure("method_not_allowed");
            }
        }
    }
}

/// Calls `visit` for each object within `value`.
fn visit_objects(value: &Value, visit: &mut dyn FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|value| visit_objects(value, visit));
        }
        Value::Array(values) => values.iter().for_each(|value| visit_objects(value, visit)),
        _ => {}
    }
}

#[test]
fn the_document_refers_to_nothing_that_is_missing_and_has_nothing_that_is_not_used() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{ "url": "/v1" }]));
    let mut used = BTreeSet::new();
    visit_objects(&document, &mut |object| {
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            used.insert(name.to_owned());
        }
    });
    // What streams are made of can't be said with a reference.
    used.insert("Event".into());
    let there: BTreeSet<_> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(used, there);
    for (_, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].as_str().is_some_and(|text| !text.is_empty()), "{schema}");
    }
    assert_eq!(document["components"]["schemas"]["NewVm"]["additionalProperties"], false);
}
