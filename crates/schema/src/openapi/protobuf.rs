//! The v2 document in protobuf, which is the only form that Go clients ask `/openapi/v2` for.
//!
//! Field numbers are those of gnostic's `openapi.v2` messages. A map is a list of named values there, and an extension
//! is a named piece of YAML, for which JSON serves.

use serde_json::Value;

use crate::protobuf::Writer;

/// Media type that clients accept.
pub const ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Media type of the answer: no `@`, which a media type may not hold.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

const METHODS: [(&str, u32); 5] = [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)];

/// Encodes the document that [`v2`](super::v2) makes.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    text(&mut out, 1, &document["swagger"]);
    out.bytes(
        2,
        &message(|out| {
            text(out, 1, &document["info"]["title"]);
            text(out, 2, &document["info"]["version"]);
        }),
    );
    out.bytes(8, &message(|out| named(out, 2, &document["paths"], path_item)));
    out.bytes(9, &message(|out| named(out, 1, &document["definitions"], schema)));
    out.bytes(10, &message(|out| named(out, 1, &document["parameters"], parameter)));
    out.finish()
}

fn message(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::default();
    write(&mut out);
    out.finish()
}

fn text(out: &mut Writer, number: u32, value: &Value) {
    if let Some(value) = value.as_str() {
        out.bytes(number, value.as_bytes());
    }
}

fn texts(out: &mut Writer, number: u32, values: &Value) {
    values.as_array().into_iter().flatten().for_each(|value| text(out, number, value));
}

fn flag(out: &mut Writer, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        out.varint(number, 1);
    }
}

/// A map as a list of `{name, value}`.
fn named(out: &mut Writer, number: u32, map: &Value, write: fn(&mut Writer, &Value)) {
    for (name, value) in map.as_object().into_iter().flatten() {
        out.bytes(
            number,
            &message(|out| {
                out.bytes(1, name.as_bytes());
                out.bytes(2, &message(|out| write(out, value)));
            }),
        );
    }
}

fn any(out: &mut Writer, value: &Value) {
    out.bytes(2, value.to_string().as_bytes());
}

fn extensions(out: &mut Writer, number: u32, of: &Value) {
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        out.bytes(
            number,
            &message(|out| {
                out.bytes(1, name.as_bytes());
                out.bytes(2, &message(|out| any(out, value)));
            }),
        );
    }
}

fn path_item(out: &mut Writer, item: &Value) {
    for (method, number) in METHODS {
        if let Some(value) = item.get(method) {
            out.bytes(number, &message(|out| operation(out, value)));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Writer, value: &Value) {
    texts(out, 1, &value["tags"]);
    text(out, 5, &value["operationId"]);
    texts(out, 6, &value["produces"]);
    texts(out, 7, &value["consumes"]);
    parameters(out, 8, &value["parameters"]);
    out.bytes(9, &message(|out| named(out, 1, &value["responses"], response)));
    extensions(out, 13, value);
}

fn response(out: &mut Writer, value: &Value) {
    out.bytes(
        1,
        &message(|out| {
            text(out, 1, &value["description"]);
            if let Some(of) = value.get("schema") {
                out.bytes(2, &message(|out| out.bytes(1, &message(|out| schema(out, of)))));
            }
        }),
    );
}

fn parameters(out: &mut Writer, number: u32, values: &Value) {
    for value in values.as_array().into_iter().flatten() {
        let item = message(|out| match value.get("$ref") {
            Some(reference) => out.bytes(2, &message(|out| text(out, 1, reference))),
            None => out.bytes(1, &message(|out| parameter(out, value))),
        });
        out.bytes(number, &item);
    }
}

fn parameter(out: &mut Writer, value: &Value) {
    match value["in"].as_str() {
        Some("body") => out.bytes(1, &message(|out| body(out, value))),
        Some("path") => out.bytes(2, &message(|out| out.bytes(4, &plain(value, 5, 19)))),
        _ => out.bytes(2, &message(|out| out.bytes(3, &plain(value, 6, 20)))),
    }
}

fn body(out: &mut Writer, value: &Value) {
    text(out, 2, &value["name"]);
    text(out, 3, &value["in"]);
    flag(out, 4, &value["required"]);
    out.bytes(5, &message(|out| schema(out, &value["schema"])));
}

/// A parameter in the path or the query; the two messages differ in these numbers.
fn plain(value: &Value, kind: u32, unique: u32) -> Vec<u8> {
    message(|out| {
        flag(out, 1, &value["required"]);
        text(out, 2, &value["in"]);
        text(out, 3, &value["description"]);
        text(out, 4, &value["name"]);
        text(out, kind, &value["type"]);
        flag(out, unique, &value["uniqueItems"]);
    })
}

fn schema(out: &mut Writer, value: &Value) {
    text(out, 1, &value["$ref"]);
    text(out, 2, &value["format"]);
    text(out, 4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.bytes(5, &message(|out| any(out, default)));
    }
    for (name, number) in [("maximum", 7), ("minimum", 9)] {
        if let Some(limit) = value[name].as_f64() {
            out.fixed64(number, limit.to_bits());
        }
    }
    for (name, number) in [
        ("maxLength", 11),
        ("minLength", 12),
        ("maxItems", 14),
        ("minItems", 15),
        ("maxProperties", 17),
        ("minProperties", 18),
    ] {
        if let Some(limit) = value[name].as_u64() {
            out.varint(number, limit);
        }
    }
    text(out, 13, &value["pattern"]);
    texts(out, 19, &value["required"]);
    for choice in value["enum"].as_array().into_iter().flatten() {
        out.bytes(20, &message(|out| any(out, choice)));
    }
    match &value["additionalProperties"] {
        Value::Bool(allowed) => out.bytes(21, &message(|out| out.varint(2, u64::from(*allowed)))),
        Value::Object(_) => {
            out.bytes(21, &message(|out| out.bytes(1, &message(|out| schema(out, &value["additionalProperties"])))));
        }
        _ => {}
    }
    if let Some(kind) = value["type"].as_str() {
        out.bytes(22, &message(|out| out.bytes(1, kind.as_bytes())));
    }
    if value["items"].is_object() {
        out.bytes(23, &message(|out| out.bytes(1, &message(|out| schema(out, &value["items"])))));
    }
    if value["properties"].is_object() {
        out.bytes(25, &message(|out| named(out, 1, &value["properties"], schema)));
    }
    extensions(out, 31, value);
}
