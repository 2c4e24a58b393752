//! Answers: stored bytes as they are where the client takes them so, and every other shape (another version, `Table`,
//! metadata only, YAML) made from the decoded object.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::Revision;

use crate::{
    body::{self, Body, GzipBody, ListBody},
    codec,
    columns::Columns,
    convert::Form,
    dispatch::Call,
    negotiation::{self, Accepted, Encoding, MetaVersion, Shape},
    status::ApiError,
};

/// Answers from this size on are compressed for clients that ask; upstream's bound.
const GZIP_BYTES_MIN: u64 = 128 * 1024;

/// Room for the headers of an answer: those of every one, and a few more before the map has to grow.
const HEADERS: usize = 8;

/// An object to answer with.
pub(crate) enum Payload {
    /// In the stored form, with its revision.
    Stored(Bytes),
    /// In the form served.
    Served(Value),
}

/// The `metadata` of a list.
#[derive(Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: Revision,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.0.to_string()});
        if let Some(token) = &self.continue_token {
            value["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining.filter(|remaining| *remaining > 0) {
            value["remainingItemCount"] = remaining.into();
        }
        value
    }
}

/// Whether stored bytes can be handed out as they are.
pub(crate) fn is_verbatim(call: &Call) -> bool {
    call.accepted == Accepted::PLAIN && call.served.form == Form::Stored
}

/// Whether the client takes nothing but metadata, which lies in the stored bytes as it is sent.
pub(crate) fn is_metadata(call: &Call) -> bool {
    call.accepted == Accepted { shape: Shape::PartialMetadata(MetaVersion::V1), encoding: Encoding::Json }
}

/// The metadata of a stored object, as an object of its own.
pub(crate) fn metadata_of(stored: &[u8]) -> Result<Bytes, ApiError> {
    const HEAD: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;
    let place = splice::find(stored, &["metadata"]);
    let place = place.ok_or_else(|| ApiError::internal("a stored object has no metadata"))?;
    Ok([HEAD, &stored[place], b"}"].concat().into())
}

/// Answers with one object.
pub(crate) fn object(call: &Call, payload: Payload, status: StatusCode) -> Result<Response<Body>, ApiError> {
    match payload {
        Payload::Stored(bytes) if is_verbatim(call) => Ok(sized(call, bytes, status)),
        Payload::Stored(bytes) if is_metadata(call) => Ok(sized(call, metadata_of(&bytes)?, status)),
        payload => shaped(call, served(call, payload)?, status),
    }
}

/// The object in the form served.
pub(crate) fn served(call: &Call, payload: Payload) -> Result<Value, ApiError> {
    match payload {
        Payload::Served(value) => Ok(value),
        Payload::Stored(bytes) => {
            let mut value = codec::stored(&bytes)?;
            call.served.form.to_served(&mut value, &call.served.api_version);
            Ok(value)
        }
    }
}

fn shaped(call: &Call, object: Value, status: StatusCode) -> Result<Response<Body>, ApiError> {
    let value = match call.accepted.shape {
        Shape::Object => object,
        Shape::PartialMetadata(version) => partial(object, version),
        Shape::Table(version) => {
            let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            Tables::new(call, version)?.table(vec![object], meta, true)
        }
    };
    encoded(call, &value, status)
}

/// Answers with a value as it is, in the encoding that the client takes.
pub(crate) fn encoded(call: &Call, value: &Value, status: StatusCode) -> Result<Response<Body>, ApiError> {
    let (bytes, content_type) = in_encoding(call.accepted, value)?;
    let mut response = sized(call, bytes, status);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// A value's bytes and their media type.
pub(crate) fn in_encoding(accepted: Accepted, value: &Value) -> Result<(Bytes, HeaderValue), ApiError> {
    Ok(match accepted.encoding {
        Encoding::Json => {
            let mut bytes = Vec::with_capacity(1024);
            codec::write_json(&mut bytes, value);
            (bytes.into(), HeaderValue::from_static("application/json"))
        }
        Encoding::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(ApiError::internal)?;
            (text.into(), HeaderValue::from_static("application/yaml"))
        }
        Encoding::Protobuf => {
            let bytes = schema::protobuf::encode(value).map_err(ApiError::internal)?;
            (bytes.into(), HeaderValue::from_static(negotiation::PROTOBUF))
        }
    })
}

/// Answers with any JSON document.
pub(crate) fn value<T: serde::Serialize + ?Sized>(value: &T, status: StatusCode) -> Response<Body> {
    let mut bytes = Vec::with_capacity(1024);
    codec::write_json(&mut bytes, value);
    json_bytes(bytes.into(), status)
}

fn json_bytes(bytes: Bytes, status: StatusCode) -> Response<Body> {
    with_json_type(body::full(bytes), status)
}

fn with_json_type(body: Body, status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    *headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Reduces an object to its metadata.
pub(crate) fn partial(mut object: Value, version: MetaVersion) -> Value {
    let api_version = version.api_version();
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": object["metadata"].take()})
}

/// Answers with a list of stored objects.
pub(crate) fn list(call: &Arc<Call>, items: Vec<Bytes>, meta: &ListMeta) -> Result<Response<Body>, ApiError> {
    let meta = meta.to_value();
    let (kind, api_version) = match call.accepted.shape {
        Shape::Object => (call.served.resource.list_kind.as_str(), call.served.api_version.as_str()),
        Shape::PartialMetadata(version) => ("PartialObjectMetadataList", version.api_version()),
        Shape::Table(version) => ("Table", version.api_version()),
    };
    let begin = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},");
    let tail = Bytes::from_static(b"]}");
    if is_verbatim(call) {
        let head = begin + "\"items\":[";
        return Ok(negotiated(call, ListBody::new(head.into(), items, tail), StatusCode::OK));
    }
    if call.accepted.encoding != Encoding::Json {
        return whole_list(call, items, meta, (kind, api_version));
    }
    let head = match call.accepted.shape {
        Shape::Object | Shape::PartialMetadata(_) => begin + "\"items\":[",
        Shape::Table(version) => {
            let definitions = Tables::new(call, version)?.columns.definitions();
            begin + &format!("\"columnDefinitions\":{definitions},\"rows\":[")
        }
    };
    let shaping = call.clone();
    let only_metadata = is_metadata(call);
    let shape = move |bytes: Bytes, out: &mut Vec<u8>| {
        match only_metadata {
            true => out.extend_from_slice(&metadata_of(&bytes)?),
            false => codec::write_json(out, &item(&shaping, bytes)?),
        }
        Ok(())
    };
    Ok(negotiated(call, ListBody::shaped(head.into(), items, tail, Box::new(shape))?, StatusCode::OK))
}

/// What a list shows of one object.
fn item(call: &Call, bytes: Bytes) -> Result<Value, ApiError> {
    let object = served(call, Payload::Stored(bytes))?;
    Ok(match call.accepted.shape {
        Shape::Object => object,
        Shape::PartialMetadata(version) => partial(object, version),
        Shape::Table(version) => Tables::new(call, version)?.row(object),
    })
}

/// A list in an encoding that cannot be joined from pieces.
fn whole_list(
    call: &Call,
    items: Vec<Bytes>,
    meta: Value,
    (kind, api_version): (&str, &str),
) -> Result<Response<Body>, ApiError> {
    let items = items.into_iter().map(|bytes| item(call, bytes)).collect::<Result<Vec<Value>, ApiError>>()?;
    let mut value = json!({"kind": kind, "apiVersion": api_version, "metadata": meta});
    if let Shape::Table(version) = call.accepted.shape {
        value["columnDefinitions"] = Tables::new(call, version)?.columns.definitions();
        value["rows"] = items.into();
    } else {
        value["items"] = items.into();
    }
    encoded(call, &value, StatusCode::OK)
}

/// An answer of known bytes, compressed where that is worth it.
fn sized(call: &Call, bytes: Bytes, status: StatusCode) -> Response<Body> {
    if (bytes.len() as u64) < GZIP_BYTES_MIN {
        return json_bytes(bytes, status);
    }
    negotiated(call, ListBody::new(bytes, Vec::new(), Bytes::new()), status)
}

/// A body as it is, or compressed for a client that asks when it is large.
fn negotiated(call: &Call, body: ListBody, status: StatusCode) -> Response<Body> {
    if body.remaining() < GZIP_BYTES_MIN || !negotiation::takes_gzip(&call.parts.headers) {
        return with_json_type(body.boxed_unsync(), status);
    }
    let mut response = with_json_type(GzipBody::new(body).boxed_unsync(), status);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// What a row of a table carries besides its cells.
#[derive(Clone, Copy)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Makes tables of the kind a call asks for.
pub(crate) struct Tables<'a> {
    columns: Columns<'a>,
    include: Include,
    version: MetaVersion,
    now: jiff::Timestamp,
}

impl<'a> Tables<'a> {
    /// Reads how much of the objects the client wants.
    pub(crate) fn new(call: &'a Call, version: MetaVersion) -> Result<Self, ApiError> {
        let include = match call.query().get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            Some(other) => {
                let rule = "must be 'Metadata', 'Object', 'None', or empty";
                return Err(ApiError::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: {rule}"
                )));
            }
        };
        let columns = if call.subresource == "scale" { Columns::Scale } else { Columns::of(&call.served) };
        Ok(Self { columns, include, version, now: call.now })
    }

    /// The table of some objects; a watch sends the column definitions only once.
    pub(crate) fn table(&self, objects: Vec<Value>, meta: Value, with_columns: bool) -> Value {
        let rows: Vec<Value> = objects.into_iter().map(|object| self.row(object)).collect();
        let definitions = if with_columns { self.columns.definitions() } else { Value::Null };
        json!({"kind": "Table", "apiVersion": self.version.api_version(), "metadata": meta,
            "columnDefinitions": definitions, "rows": rows})
    }

    fn row(&self, object: Value) -> Value {
        let cells = self.columns.cells(&object, self.now);
        match self.include {
            Include::Nothing => json!({"cells": cells}),
            Include::Metadata => json!({"cells": cells, "object": partial(object, self.version)}),
            Include::Object => json!({"cells": cells, "object": object}),
        }
    }
}
