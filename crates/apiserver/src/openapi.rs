//! `/openapi/v2` and `/openapi/v3`: documents of everything served, made from the schemas on demand and kept, compressed,
//! until what they are about changes: the document of a group version with its resources, the others with the table.

mod merged;

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    sync::{Arc, Weak},
};

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
    resources::{GroupVersion, Served, Table},
    status::ApiError,
};

/// What has been made. Bounded by the number of group versions.
#[derive(Default)]
struct Kept {
    /// The table that `of_table` is about.
    table: Weak<Table>,
    /// What other servers added.
    aggregated: u64,
    of_table: Vec<(&'static str, Document)>,
    /// By path; each good for one hash of its group version.
    of_versions: HashMap<String, (String, Document)>,
}

/// A document in the form that nearly every client asks for: it is a tenth as large.
#[derive(Clone)]
struct Document {
    gzip: Bytes,
    hash: String,
    media_type: &'static str,
}

/// Names of documents about everything: v2, v2 in the form that Go clients ask for, and the list of v3's documents.
const V2: &str = "v2";
const V2_PROTOBUF: &str = "v2.protobuf";
const V3_INDEX: &str = "v3";

/// The documents.
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
            Some("" | "/") => return respond(&self.of_table(table, aggregation, V3_INDEX)?, headers),
            Some(rest) => return respond(&self.of_version(table, rest.trim_start_matches('/'))?, headers),
            None => {}
        }
        if path == "/openapi/v2" {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
            if accept.contains(V2_PROTOBUF_ACCEPTED) {
                return respond(&self.of_table(table, aggregation, V2_PROTOBUF)?, headers);
            }
            if !accept.contains("json") && !accept.contains("*/*") {
                return Err(ApiError::not_acceptable("application/json"));
            }
            return respond(&self.of_table(table, aggregation, V2)?, headers);
        }
        Err(ApiError::no_such_resource())
    }

    /// A document about everything served.
    fn of_table(
        &self,
        table: &Arc<Table>,
        aggregation: &Aggregation,
        name: &'static str,
    ) -> Result<Document, ApiError> {
        let aggregated = aggregation.generation();
        {
            let mut kept = self.0.lock();
            if kept.table.as_ptr() != Arc::as_ptr(table) || kept.aggregated != aggregated {
                kept.table = Arc::downgrade(table);
                kept.aggregated = aggregated;
                kept.of_table = Vec::new();
            }
            if let Some((_, document)) = kept.of_table.iter().find(|(known, _)| *known == name) {
                return Ok(document.clone());
            }
        }
        // made without the lock: it takes milliseconds, and making one twice does no harm
        let document = match name {
            V2 => merged::json(table, &aggregation.remotes())?,
            V2_PROTOBUF => merged::protobuf(table, &aggregation.remotes())?,
            _ => {
                let mut index = index(table);
                aggregation::open_api_v3(&mut index, &aggregation.remotes());
                Document::json(&index)?
            }
        };
        let mut kept = self.0.lock();
        if kept.table.as_ptr() == Arc::as_ptr(table) && kept.aggregated == aggregated {
            kept.of_table.push((name, document.clone()));
        }
        Ok(document)
    }

    /// The document of a group version, by its path below `/openapi/v3`.
    fn of_version(&self, table: &Table, path: &str) -> Result<Document, ApiError> {
        let (group, version) = parse(table, path).ok_or_else(ApiError::no_such_resource)?;
        let found = table.version(group, version).ok_or_else(ApiError::no_such_resource)?;
        let hash = hash(found);
        if let Some((of, document)) = self.0.lock().of_versions.get(path)
            && of == hash
        {
            return Ok(document.clone());
        }
        let mut made = openapi::v3(group, version, &entries(found.resources.iter()));
        describe(&Descriptions::unpack(), &mut made["components"]["schemas"], References::Alone);
        let document = Document::json(&made)?;
        let mut kept = self.0.lock();
        kept.of_versions.retain(|path, _| parse(table, path).is_some());
        kept.of_versions.insert(path.to_owned(), (hash.to_owned(), document.clone()));
        Ok(document)
    }
}

impl Document {
    fn json(value: &Value) -> Result<Self, ApiError> {
        let mut made = Made::default();
        // whole, because the compressor is slow with every token by itself
        made.write_all(value.to_string().as_bytes()).map_err(ApiError::internal)?;
        made.finish("application/json")
    }

    fn plain(&self) -> Result<Vec<u8>, ApiError> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*self.gzip).read_to_end(&mut plain).map_err(ApiError::internal)?;
        Ok(plain)
    }
}

/// A document on its way.
struct Made {
    gzip: flate2::write::GzEncoder<Vec<u8>>,
    hash: Sha256,
}

impl Default for Made {
    fn default() -> Self {
        Self { gzip: flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()), hash: Sha256::default() }
    }
}

impl io::Write for Made {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.gzip.write_all(plain)?;
        self.hash.update(plain);
        Ok(plain.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Made {
    fn finish(self, media_type: &'static str) -> Result<Document, ApiError> {
        let gzip = Bytes::from(self.gzip.finish().map_err(ApiError::internal)?);
        Ok(Document { gzip, hash: hex::encode(self.hash.finalize()), media_type })
    }
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
fn describe(descriptions: &Descriptions, schemas: &mut Value, references: References) {
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

/// Group and version of `api/v1` or `apis/apps/v1`.
fn parse<'a>(table: &Table, path: &'a str) -> Option<(&'a str, &'a str)> {
    let (group, version) = match path.strip_prefix("apis/") {
        Some(rest) => rest.split_once('/')?,
        None => ("", path.strip_prefix("api/")?),
    };
    table.version(group, version).map(|_| (group, version))
}

fn entries<'a>(served: impl Iterator<Item = &'a Arc<Served>>) -> Vec<Entry> {
    let document = |served: &Served| served.version().map(|version| Arc::new(version.document.read()));
    served.map(|served| Entry { resource: served.resource.clone(), document: document(served) }).collect()
}

/// Tells states of a group version apart.
fn hash(version: &GroupVersion) -> &str {
    version.hash.get_or_init(|| {
        let mut hash = Sha256::new();
        for served in &version.resources {
            hash.update(format!("{:?}", served.resource));
            if let Some(version) = served.version() {
                hash.update(version.document.hash());
            }
        }
        hex::encode_upper(hash.finalize())
    })
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
            paths[&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash(version))});
        }
    }
    json!({"paths": paths})
}

fn respond(document: &Document, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
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
        Response::new(body::full(document.plain()?))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(document.media_type));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}
