//! `/openapi/v2` and `/openapi/v3`: documents of everything served, made from the schemas on demand and kept until the
//! table of resources changes.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use descriptions::Descriptions;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use schema::openapi::{self, Entry, V2_PROTOBUF_ACCEPTED};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    aggregation::{self, Aggregation},
    body::{self, Body},
    negotiation,
    resources::{Served, Table},
    status::ApiError,
};

/// Documents of one table, by path. Bounded by the number of group versions, and dropped with the table.
#[derive(Default)]
struct Kept {
    table: Weak<Table>,
    /// What other servers added.
    aggregated: u64,
    documents: Vec<(String, Document)>,
}

#[derive(Clone)]
struct Document {
    plain: Bytes,
    gzip: Bytes,
    hash: String,
    media_type: &'static str,
}

/// Name of the v2 document in the form that Go clients ask for.
const V2_PROTOBUF: &str = "v2.protobuf";

/// The documents of the table that was asked about last.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Kept>);

impl Documents {
    /// Answers a path below `/openapi`; everything else is not found.
    pub(crate) fn answer(
        &self,
        table: &Arc<Table>,
        aggregation: &Aggregation,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, ApiError> {
        match path.strip_prefix("/openapi/v3") {
            Some("" | "/") => return Ok(respond(&self.document(table, aggregation, "v3")?, headers)),
            Some(rest) => {
                let group_version = rest.trim_start_matches('/');
                parse(table, group_version).ok_or_else(ApiError::no_such_resource)?;
                return Ok(respond(&self.document(table, aggregation, group_version)?, headers));
            }
            None => {}
        }
        if path == "/openapi/v2" {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
            if accept.contains(V2_PROTOBUF_ACCEPTED) {
                return Ok(respond(&self.document(table, aggregation, V2_PROTOBUF)?, headers));
            }
            if !accept.contains("json") && !accept.contains("*/*") {
                return Err(ApiError::not_acceptable("application/json"));
            }
            return Ok(respond(&self.document(table, aggregation, "v2")?, headers));
        }
        Err(ApiError::no_such_resource())
    }

    fn document(&self, table: &Arc<Table>, aggregation: &Aggregation, name: &str) -> Result<Document, ApiError> {
        let aggregated = aggregation.generation();
        {
            let mut kept = self.0.lock();
            if kept.table.as_ptr() != Arc::as_ptr(table) || kept.aggregated != aggregated {
                *kept = Kept { table: Arc::downgrade(table), aggregated, documents: Vec::new() };
            }
            if let Some((_, document)) = kept.documents.iter().find(|(known, _)| known == name) {
                return Ok(document.clone());
            }
        }
        // made without the lock: it takes milliseconds, and making one twice does no harm
        let (plain, media_type) = match name {
            "v2" => json_bytes(&merged_v2(table, aggregation)),
            V2_PROTOBUF => {
                let document = merged_v2(table, aggregation);
                (Bytes::from(openapi::v2_protobuf(&document)), openapi::V2_PROTOBUF_MEDIA_TYPE)
            }
            "v3" => {
                let mut index = index(table);
                aggregation::open_api_v3(&mut index, &aggregation.remotes());
                json_bytes(&index)
            }
            path => {
                let (group, version) = parse(table, path).ok_or_else(ApiError::no_such_resource)?;
                let of_version = |served: &Served| served.resource.group == group && served.resource.version == version;
                let mut document = openapi::v3(group, version, &entries(table, of_version));
                describe(&mut document["components"]["schemas"], References::Alone);
                json_bytes(&document)
            }
        };
        let hash = hex::encode(Sha256::digest(&plain));
        let document = Document { gzip: compress(&plain)?, hash, plain, media_type };
        let mut kept = self.0.lock();
        if kept.table.as_ptr() == Arc::as_ptr(table) && kept.aggregated == aggregated {
            kept.documents.push((name.to_owned(), document.clone()));
        }
        Ok(document)
    }
}

/// The v2 document of everything, what other servers answer included.
fn merged_v2(table: &Table, aggregation: &Aggregation) -> Value {
    let mut document = openapi::v2(&entries(table, |_| true));
    describe(&mut document["definitions"], References::WithSiblings);
    aggregation::open_api_v2(&mut document, &aggregation.remotes());
    document
}

/// Whether a reference may have a description beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum References {
    /// v2 readers take both.
    WithSiblings,
    /// v3 readers ignore everything beside a reference.
    Alone,
}

/// A type whose head every object has: version, kind and metadata are for the same everywhere.
const ANY_OBJECT: &str = "io.k8s.api.core.v1.Pod";

/// Says what types and fields are for. Custom resources bring their own words, but for what every object has.
fn describe(schemas: &mut Value, references: References) {
    let descriptions = Descriptions::unpack();
    let head = |field: &str| descriptions.of(ANY_OBJECT).and_then(|pod| pod.1.get(field)).map(String::as_str);
    for (name, schema) in schemas.as_object_mut().into_iter().flatten() {
        let Some(described) = descriptions.of(name) else {
            if schema.get("x-kubernetes-group-version-kind").is_some() {
                let in_head =
                    |field: &str| if matches!(field, "apiVersion" | "kind" | "metadata") { head(field) } else { None };
                describe_fields(schema, references, in_head);
            }
            continue;
        };
        if !described.0.is_empty() {
            schema["description"] = described.0.as_str().into();
        }
        describe_fields(schema, references, |field| described.1.get(field).map(String::as_str));
    }
}

fn describe_fields<'a>(schema: &mut Value, references: References, text: impl Fn(&str) -> Option<&'a str>) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties {
        let Some(text) = text(field).filter(|text| !text.is_empty()) else { continue };
        if references == References::Alone && property.get("$ref").is_some() {
            *property = json!({"allOf": [property.take()]});
        }
        if let Some(property) = property.as_object_mut() {
            property.entry("description").or_insert_with(|| text.into());
        }
    }
}

fn json_bytes(value: &Value) -> (Bytes, &'static str) {
    (Bytes::from(value.to_string()), "application/json")
}

/// Group and version of `api/v1` or `apis/apps/v1`.
fn parse<'a>(table: &Table, path: &'a str) -> Option<(&'a str, &'a str)> {
    let (group, version) = match path.strip_prefix("apis/") {
        Some(rest) => rest.split_once('/')?,
        None => ("", path.strip_prefix("api/")?),
    };
    table.version(group, version).map(|_| (group, version))
}

fn entries(table: &Table, wanted: impl Fn(&Served) -> bool) -> Vec<Entry> {
    let document = |served: &Served| {
        let (definition, index) = served.custom.as_ref()?;
        definition.versions.get(*index).map(|version| version.document.clone())
    };
    let served = table.iter().filter(|served| wanted(served));
    served.map(|served| Entry { resource: served.resource.clone(), document: document(served) }).collect()
}

/// The list of group versions; the hash in each address changes when its resources change, so that clients may cache.
fn index(table: &Table) -> Value {
    let mut paths = json!({});
    for group in &table.groups {
        for version in &group.versions {
            let path = match group.name.as_str() {
                "" => format!("api/{}", version.version),
                name => format!("apis/{name}/{}", version.version),
            };
            let mut hash = Sha256::new();
            for served in &version.resources {
                hash.update(format!("{:?}", served.resource));
                if let Some((definition, index)) = &served.custom
                    && let Some(version) = definition.versions.get(*index)
                {
                    hash.update(version.document.to_string());
                }
            }
            let hash = hex::encode(hash.finalize());
            paths[&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash.to_uppercase())});
        }
    }
    json!({"paths": paths})
}

fn compress(plain: &[u8]) -> Result<Bytes, ApiError> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).map_err(ApiError::internal)?;
    encoder.finish().map(Bytes::from).map_err(ApiError::internal)
}

fn respond(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let mut response = if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str()) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if negotiation::takes_gzip(headers) {
        let mut response = Response::new(body::full(document.gzip.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        Response::new(body::full(document.plain.clone()))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(document.media_type));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
