//! Bytes to the generic tree and back: JSON, YAML and protobuf bodies in, stored bytes with the revision's gap out.

use serde_json::{Map, Value};
use store::Encoded;

use crate::status::ApiError;

/// A decoded body and what was odd about it.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// One message a field that occurs twice, for example `duplicate field "metadata.name"`.
    pub(crate) duplicates: Vec<String>,
}

/// Media types of bodies, as failures name them.
const DECODED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Media types of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    Json,
    Yaml,
    Protobuf,
}

impl MediaType {
    /// What the `Content-Type` says; absent counts as JSON.
    pub(crate) fn of(content_type: Option<&str>) -> Result<Self, ApiError> {
        match content_type.map(|text| text.split(';').next().unwrap_or_default().trim()) {
            None | Some("" | "application/json") => Ok(Self::Json),
            Some("application/yaml") => Ok(Self::Yaml),
            Some("application/vnd.kubernetes.protobuf") => Ok(Self::Protobuf),
            Some(_) => Err(ApiError::unsupported_media_type(DECODED)),
        }
    }
}

/// Decodes a body that must be an object.
pub(crate) fn decode(bytes: &[u8], media_type: MediaType) -> Result<Decoded, ApiError> {
    let bad = |error: String| ApiError::bad_request(error);
    let (value, duplicates) = match media_type {
        // clients exist that name two media types; the envelope says which one it is
        _ if schema::protobuf::is_encoded(bytes) => {
            (schema::protobuf::decode(bytes).map_err(|error| bad(error.to_string()))?, Vec::new())
        }
        MediaType::Protobuf => return Err(bad(schema::protobuf::ProtobufError::Magic.to_string())),
        MediaType::Json => schema::json::parse(bytes).map_err(|error| bad(error.to_string()))?,
        // most "YAML" is JSON, for which the JSON parser is many times faster; what it refuses may still be YAML
        MediaType::Yaml if bytes.starts_with(b"{") => match schema::json::parse(bytes) {
            Ok(parsed) => parsed,
            Err(_) => schema::yaml::parse(bytes).map_err(|error| bad(error.to_string()))?,
        },
        MediaType::Yaml => schema::yaml::parse(bytes).map_err(|error| bad(error.to_string()))?,
    };
    if !value.is_object() {
        return Err(bad(format!("the body must be an object, not {}", type_name(&value))));
    }
    Ok(Decoded { value, duplicates: duplicates.iter().map(ToString::to_string).collect() })
}

/// Decodes bytes this server stored itself.
pub(crate) fn stored(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::internal(format!("decoding a stored object: {error}")))
}

/// What Go's decoder calls the form of a value.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Digits a revision may have.
const REVISION_DIGITS: usize = 20;

/// The object of bytes this server stored itself, to be stored once more: what was the revision is the gap again.
pub(crate) fn again(stored: &[u8]) -> Option<Encoded> {
    let place = splice::find(stored, &["metadata", "resourceVersion"])?;
    let gap = place.start + 1;
    let mut bytes = Vec::with_capacity(stored.len() + REVISION_DIGITS);
    bytes.extend_from_slice(&stored[..gap]);
    bytes.extend_from_slice(stored.get(place.end.checked_sub(1)?..)?);
    Some(Encoded { bytes, revision_at: Some(gap) })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

const MANAGED_FIELDS: &str = "managedFields";

/// Room for an object to begin with: most pods fit, and the committer keeps an exact copy.
const ENCODED_BYTES: usize = 4096;

/// Serialises an object for the store, leaving the gap in which the committer writes `metadata.resourceVersion`. A
/// revision the object carries is left out.
pub(crate) fn encode(object: &Value) -> Encoded {
    encode_owned(object, None)
}

/// The same with these managed fields, which are JSON already, in place of the object's own; empty for none.
pub(crate) fn encode_owned(object: &Value, owned: Option<&[u8]>) -> Encoded {
    let mut bytes = Vec::with_capacity(ENCODED_BYTES);
    let mut revision_at = None;
    match object {
        Value::Object(map) => {
            bytes.push(b'{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_json(&mut bytes, key);
                bytes.push(b':');
                match (key.as_str(), value) {
                    ("metadata", Value::Object(metadata)) => {
                        revision_at = Some(encode_metadata(&mut bytes, metadata, owned));
                    }
                    _ => write_json(&mut bytes, value),
                }
            }
            bytes.push(b'}');
        }
        other => write_json(&mut bytes, other),
    }
    Encoded { bytes, revision_at }
}

/// What is read most often comes first, and managed fields, which nobody reads and which are half of many an object, last.
fn encode_metadata(bytes: &mut Vec<u8>, metadata: &Map<String, Value>, owned: Option<&[u8]>) -> usize {
    bytes.extend_from_slice(b"{\"resourceVersion\":\"");
    let gap = bytes.len();
    bytes.push(b'"');
    for (key, value) in metadata.iter().filter(|(key, _)| !matches!(key.as_str(), "resourceVersion" | MANAGED_FIELDS)) {
        bytes.push(b',');
        write_json(bytes, key);
        bytes.push(b':');
        write_json(bytes, value);
    }
    let own = metadata.get(MANAGED_FIELDS);
    if owned.map_or(own.is_some(), |owned| !owned.is_empty()) {
        bytes.extend_from_slice(b",\"managedFields\":");
        match (owned, own) {
            (Some(owned), _) => bytes.extend_from_slice(owned),
            (None, own) => write_json(bytes, &own),
        }
    }
    bytes.push(b'}');
    gap
}

/// Appends the JSON of a value.
pub(crate) fn write_json<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *bytes, value).is_err() {
        // writing values with string keys into memory has no way to fail; keep the document well-formed anyway
        bytes.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gap_takes_the_revision() {
        let object = json!({"apiVersion": "v1", "data": {"resourceVersion": ""},
            "metadata": {"name": "a", "resourceVersion": "7", "labels": {"metadata": "x"}}});
        let mut encoded = encode(&object);
        let gap = encoded.revision_at.unwrap();
        encoded.bytes.splice(gap..gap, *b"42");
        let back: Value = serde_json::from_slice(&encoded.bytes).unwrap();
        assert_eq!(back["metadata"], json!({"name": "a", "resourceVersion": "42", "labels": {"metadata": "x"}}));
        assert_eq!(back["data"], object["data"]);
    }

    #[test]
    fn managed_fields_are_the_objects_own_or_those_given() {
        let managed = |object: &Value, owned: Option<&[u8]>| {
            let back: Value = serde_json::from_slice(&encode_owned(object, owned).bytes).unwrap();
            assert_eq!(back["metadata"]["name"], "a");
            back["metadata"].get("managedFields").cloned()
        };
        let (plain, owned) =
            (json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "a", "managedFields": [1]}}));
        assert_eq!((managed(&plain, None), managed(&owned, None)), (None, Some(json!([1]))));
        assert_eq!(
            (managed(&plain, Some(b"[2]")), managed(&owned, Some(b"[2]"))),
            (Some(json!([2])), Some(json!([2])))
        );
        assert_eq!(managed(&plain, Some(b"")), None);
    }

    #[test]
    fn a_stored_object_gets_its_gap_back() {
        let object = json!({"apiVersion": "v1", "data": {"resourceVersion": ""}, "metadata": {"name": "a"}});
        let encoded = encode(&object);
        let mut stored = encoded.bytes.clone();
        stored.splice(encoded.revision_at.unwrap()..encoded.revision_at.unwrap(), *b"42");
        let again = again(&stored).unwrap();
        assert_eq!((again.bytes, again.revision_at), (encoded.bytes, encoded.revision_at));
    }

    #[test]
    fn repeated_fields_are_noticed_with_their_path() {
        let decoded = decode(br#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#, MediaType::Json).unwrap();
        assert_eq!(decoded.duplicates, ["duplicate field \"metadata.labels.a\""]);
        assert_eq!(decoded.value["metadata"]["labels"]["a"], "2");
    }

    #[test]
    fn yaml_may_be_json_or_only_look_like_it() {
        for body in [&b"{\"a\": {\"b\": 1}}"[..], b"{a: {b: 1}}", b"a:\n  b: 1\n"] {
            assert_eq!(decode(body, MediaType::Yaml).unwrap().value, json!({"a": {"b": 1}}));
        }
    }

    #[test]
    fn broken_bodies_are_bad_requests() {
        for body in [&b"{"[..], b"[]", b"{} x", b"\xff", b"", &[b'['; 4000]] {
            assert_eq!(decode(body, MediaType::Json).unwrap_err().code, 400, "{body:?}");
        }
        assert_eq!(decode(b"{}", MediaType::Protobuf).unwrap_err().code, 400);
        assert_eq!(MediaType::of(Some("application/xml")).unwrap_err().code, 415);
    }
}
