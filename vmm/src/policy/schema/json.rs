//! The JSON schema, made of the tables.

use serde_json::{Map, Value, json};

use super::{Key, Kind, TOP, Table};

const NUMBER: &str =
    r"(0[xX][0-9A-Fa-f]+(_[0-9A-Fa-f]+)*|0o[0-7]+(_[0-7]+)*|0b[01]+(_[01]+)*|[0-9]+(_[0-9]+)*)";

pub(super) fn schema() -> String {
    let mut schema = table(&TOP);
    if let Value::Object(object) = &mut schema {
        object.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".to_owned(), json!("Ringfence policy"));
    }
    // The type has no value that cannot be printed.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

fn table(table: &Table) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        let mut value = kind(key.kind);
        if let Value::Object(object) = &mut value {
            object.insert("description".to_owned(), json!(key.meaning));
        }
        properties.insert(key.name.to_owned(), value);
    }
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|key| key.is_required)
        .map(|key| key.name)
        .collect();
    let mut object = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    let conditions = by_backend(table);
    if !conditions.is_empty() {
        object["allOf"] = Value::Array(conditions);
    }
    object
}

/// Keys that belong to some back ends are not allowed with the others.
fn by_backend(table: &Table) -> Vec<Value> {
    let Some(Key {
        kind: Kind::Choice(backends),
        ..
    }) = table.key("backend")
    else {
        return Vec::new();
    };
    backends
        .iter()
        .filter_map(|backend| {
            let foreign: Map<String, Value> = table
                .keys
                .iter()
                .filter(|key| !key.backends.is_empty() && !key.backends.contains(backend))
                .map(|key| (key.name.to_owned(), json!(false)))
                .collect();
            (!foreign.is_empty()).then(|| {
                json!({
                    "if": {"properties": {"backend": {"const": backend}}},
                    "then": {"properties": foreign},
                })
            })
        })
        .collect()
}

fn kind(kind: Kind) -> Value {
    let range = |max: u64| {
        json!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": max},
            {"type": "string", "pattern": format!("^\\s*{NUMBER}\\s*(-\\s*{NUMBER}\\s*)?$")},
        ]})
    };
    match kind {
        Kind::Range(max) => range(max),
        Kind::Number(min, max) if i64::try_from(max).is_err() => json!({"anyOf": [
            {"type": "integer", "minimum": min, "maximum": max},
            {"type": "string", "pattern": format!("^{NUMBER}$")},
        ]}),
        Kind::Number(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Text(min, max) => json!({"type": "string", "minLength": min, "maxLength": max}),
        Kind::Form(pattern) => json!({"type": "string", "pattern": pattern}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Widths => json!({
            "type": "array", "minItems": 1, "items": {"enum": [1, 2, 4]}
        }),
        Kind::Values(max) => json!({"type": "array", "minItems": 1, "items": range(max)}),
        Kind::ByteOrBytes => json!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 255},
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
        ]}),
        Kind::Bytes => json!({
            "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}
        }),
        Kind::Texts(least, most, length) => json!({
            "type": "array", "minItems": least, "maxItems": most,
            "items": {"type": "string", "minLength": 1, "maxLength": length}
        }),
        Kind::Table(inner) => table(inner),
        Kind::Tables(inner) => json!({"type": "array", "items": table(inner)}),
    }
}
