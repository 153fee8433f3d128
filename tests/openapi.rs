//! The description of the admin endpoint against the endpoint itself.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::admin::{OPENAPI, routes};
use serde_json::Value;
use std::collections::BTreeSet;
use support::certificates::{Authority, Folder, of};
use support::operator::Operator;
use support::{Proxy, echo, route, upstream};

fn description() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = description();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let there: BTreeSet<(String, String)> =
        routes().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(described, there);
    for (path, methods) in paths {
        let names: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        for operation in methods.as_object().unwrap().values() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let of_path =
                parameters.filter(|one| one["in"] == "path").map(|one| one["name"].as_str().unwrap());
            assert_eq!(of_path.collect::<BTreeSet<_>>(), names, "{path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.push(to.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = description();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

/// What of a value a schema does not say, or says otherwise. As much of JSON Schema as the
/// description uses.
fn faults(document: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return faults(document, schema, value, path, found);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let tried = choices.iter().map(|choice| {
            let mut found = Vec::new();
            faults(document, choice, value, path, &mut found);
            found
        });
        let best = tried.min_by_key(Vec::len).unwrap();
        return found.extend(best);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        several => several.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    if !types.iter().any(is) {
        found.push(format!("{path}: {value} is no {types:?}"));
    }
    if let (Some(words), true) = (schema["enum"].as_array(), value.is_string())
        && !words.contains(value)
    {
        found.push(format!("{path}: {value} is not among {words:?}"));
    }
    for (place, item) in value.as_array().into_iter().flatten().enumerate() {
        faults(document, &schema["items"], item, &format!("{path}[{place}]"), found);
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{path}.{name} is missing"));
        }
    }
    for (name, value) in fields {
        match schema["properties"].get(name) {
            Some(schema) => faults(document, schema, value, &format!("{path}.{name}"), found),
            None if schema["additionalProperties"] == false => {
                found.push(format!("{path}.{name} is not described"))
            }
            None => {}
        }
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    let folder = Folder::new();
    let pair = folder.pair("a", &Authority::new("CA").issue(of(&["a.example"])));
    let [cert, key] = [pair.cert.display(), pair.key.display()];
    let tls = format!("[listen.tls]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n");
    let server = echo().await;
    let rest = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n{tls}[admin]\naddress = \"127.0.0.1:0\"\n{}\n{}",
        route(""),
        upstream(&[server], "")
    );
    let proxy = Proxy::start(&rest).await;
    let operator = Operator::at(proxy.running.admin_addr().unwrap());
    let mut client = proxy.open("/").await;
    client.echo("hello").await;
    let document = operator.value("/api/openapi.json").await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let list = operator.value("/api/connections").await;
    let id = list["connections"][0]["id"].as_str().unwrap().to_owned();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let schema = &response["content"]["application/json"]["schema"];
                if !status.starts_with('2') || schema.is_null() || path == "/api/reload" {
                    continue;
                }
                let address = server.to_string();
                let path = path.replace("{id}", &id).replace("{name}", "up").replace("{address}", &address);
                // The last one: it would end the others' subject.
                if path.ends_with("/close") {
                    continue;
                }
                let body = if method == "post" { "{\"spread\":\"off\"}" } else { "" };
                let json = "Content-Type: application/json\r\n";
                let reply = operator.ask(&method.to_uppercase(), &path, json, body).await;
                assert_eq!(reply.status.to_string(), *status, "{path}: {}", reply.body);
                let mut found = Vec::new();
                faults(&document, schema, &reply.value(), &path, &mut found);
                assert!(found.is_empty(), "{}", found.join("\n"));
                asked += 1;
            }
        }
    }
    assert!(asked >= 7, "{asked}");
    let refused = operator.get("/api/connections/none").await.value();
    let mut found = Vec::new();
    faults(&document, &document["components"]["schemas"]["Error"], &refused, "Error", &mut found);
    assert!(found.is_empty(), "{found:?}");
}
