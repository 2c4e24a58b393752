//! ConversionReview: what a conversion webhook is sent, and what its answer may say.

use std::time::Duration;

use serde_json::{Map, Value, json};
use strategy::{
    field_error::{FieldErrors, Path},
    metadata,
};

use super::Conversion;
use crate::outbound::{Outbound, ReviewVersion};

/// How long a webhook may take for one review, as upstream.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Version and kind of an object, as failures name them.
pub(super) fn kind(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// The version in `group/version`.
pub(super) fn version(api_version: &str) -> &str {
    api_version.split_once('/').map_or(api_version, |(_, version)| version)
}

/// The version an object is in.
pub(super) fn version_of(object: &Value) -> &str {
    version(object["apiVersion"].as_str().unwrap_or_default())
}

/// Has objects converted; a failure reads on from "conversion webhook for KIND".
pub(super) async fn ask(
    outbound: &Outbound,
    conversion: &Conversion,
    desired: &str,
    objects: &[&Value],
) -> Result<Vec<Value>, String> {
    let failed = |why: String| format!("failed: {why}");
    let version = conversion.version.ok_or_else(|| failed("no supported conversion review versions".into()))?;
    let client = conversion.client.as_ref().map_err(|why| failed(why.clone()))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{}", version.name()),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
    });
    let url = format!("{}?timeout={}s", client.url(), TIMEOUT.as_secs());
    let answered = outbound.post(client, &url, review.to_string().into_bytes(), TIMEOUT).await;
    let (status, bytes) = answered.map_err(|error| failed(format!("Post {url:?}: {error}")))?;
    if !status.is_success() {
        let text = String::from_utf8_lossy(&bytes);
        let why = format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim());
        return Err(failed(why));
    }
    let answer: Value = serde_json::from_slice(&bytes)
        .map_err(|error| failed(format!("couldn't get version/kind; json parse error: {error}")))?;
    decode(version, &uid, desired, objects, answer)
}

/// Reads an answer: as many objects as were sent, of the right version, and the same ones.
pub(super) fn decode(
    version: ReviewVersion,
    uid: &str,
    desired: &str,
    objects: &[&Value],
    mut answer: Value,
) -> Result<Vec<Value>, String> {
    let failed = |why: String| format!("failed: {why}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let strict = version == ReviewVersion::V1;
    if strict && (answer["apiVersion"] != "apiextensions.k8s.io/v1" || answer["kind"] != "ConversionReview") {
        let wanted = "apiextensions.k8s.io/v1, Kind=ConversionReview";
        return Err(failed(format!("expected webhook response of {wanted}, got {}", kind(&answer))));
    }
    let mut response = answer["response"].take();
    if !response.is_object() {
        return Err(failed("no response provided".into()));
    }
    if strict && response["uid"] != uid {
        return Err(failed(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"]))));
    }
    if response["result"]["status"] != "Success" {
        let message = text(&response["result"]["message"]);
        let status = text(&response["result"]["status"]);
        return Err(failed(match message.as_str() {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            why => why.to_owned(),
        }));
    }
    let converted = match response["convertedObjects"].take() {
        Value::Array(converted) => converted,
        _ => Vec::new(),
    };
    if converted.len() != objects.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), objects.len()));
    }
    let checked = objects.iter().zip(converted).enumerate();
    checked.map(|(index, (original, converted))| check(index, desired, original, converted)).collect()
}

fn check(index: usize, desired: &str, original: &Value, mut converted: Value) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let invalid = |why: String| format!("returned invalid converted object at index {index}: {why}");
    let differs = |what: &str, expected: &Value, found: &Value| {
        invalid(format!("invalid {what} (expected {}, received {})", text(expected), text(found)))
    };
    if converted["apiVersion"] != desired {
        return Err(differs("groupVersion", &desired.into(), &converted["apiVersion"]));
    }
    if converted["kind"] != original["kind"] {
        return Err(differs("kind", &original["kind"], &converted["kind"]));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (text(&original["metadata"][field]), text(&converted["metadata"][field]));
        if before != after {
            return Err(invalid(format!("must have the same {name}: {before} != {after}")));
        }
    }
    let metadata = restored(&original["metadata"], &converted)
        .map_err(|why| format!("returned invalid metadata in object at index {index}: {why}"))?;
    converted["metadata"] = metadata;
    Ok(converted)
}

/// The metadata as it was, but for labels and annotations, which a webhook may change.
fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let given = match converted.get("metadata") {
        None => return Err("missing metadata in converted object".into()),
        Some(Value::Object(given)) => given,
        Some(_) => return Err("invalid metadata in converted object".into()),
    };
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match given.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
            }
            Some(Value::Object(changed)) => {
                if metadata.get(field).and_then(Value::as_object) != Some(changed) {
                    check_texts(field, changed)?;
                }
                metadata.insert(field.to_owned(), Value::Object(changed.clone()));
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    Ok(Value::Object(metadata))
}

fn check_texts(field: &str, texts: &Map<String, Value>) -> Result<(), String> {
    if let Some((key, _)) = texts.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
    }
    let (holder, root) = (json!({field: texts}), Path::new("metadata"));
    let (path, mut errors) = (root.child(field), FieldErrors::default());
    match field {
        "labels" => metadata::validate_labels(&holder, &path, &mut errors),
        _ => metadata::validate_annotations(&holder, &path, &mut errors),
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.to_string()) }
}
