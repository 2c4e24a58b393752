//! From a request's body to an object of the resource's type: kind, unknown fields, defaults.

use http::Method;
use schema::Problem;
use serde_json::Value;

use crate::{
    codec::{self, Decoded, MediaType},
    dispatch::Call,
    options::FieldValidation,
    resources::Served,
    status::ApiError,
};

/// How much of a body that is no object its refusal shows.
const SHOWN_BYTES: usize = 30;

/// Decodes a body in the media type the request names.
pub(super) fn decode(call: &Call, body: &[u8]) -> Result<Decoded, ApiError> {
    let media_type = MediaType::of(call.header(http::header::CONTENT_TYPE))?;
    codec::decode(body, media_type).map_err(|error| {
        let resource = &call.served.resource;
        let subresource = resource.subresources.iter().find(|known| known.name == call.subresource);
        let kind = subresource.map_or(&resource.kind, |known| &known.kind.kind);
        let (what, shown) = (error.message, shown(body));
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {what} ({shown})"))
    })
}

fn shown(body: &[u8]) -> String {
    let start = &body[..body.len().min(SHOWN_BYTES)];
    let text = match start.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => hex::encode(start),
    };
    if body.len() > SHOWN_BYTES { format!("{text} ...") } else { text }
}

/// Checks that the object is of the resource's kind, filling in what is left out.
pub(super) fn check_kind(served: &Served, object: &mut Value) -> Result<(), ApiError> {
    let expected_kind = &served.resource.kind;
    let given = |field: &str| object[field].as_str().filter(|text| !text.is_empty());
    let custom = served.is_custom();
    match given("apiVersion") {
        Some(given) if given != served.api_version => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({})",
                served.api_version
            )));
        }
        None if custom => return Err(ApiError::bad_request("Object 'apiVersion' is missing")),
        _ => {}
    }
    match given("kind") {
        Some(given) if given != expected_kind => {
            return Err(ApiError::bad_request(format!(
                "{given} in version {:?} cannot be handled as a {expected_kind}: converting ({}) to ({}): unknown conversion",
                served.resource.version,
                short(&served.api_version, given),
                short(&served.api_version, expected_kind),
            )));
        }
        None if custom => return Err(ApiError::bad_request("Object 'Kind' is missing")),
        _ => {}
    }
    object["apiVersion"] = served.api_version.as_str().into();
    object["kind"] = expected_kind.as_str().into();
    Ok(())
}

fn short(api_version: &str, kind: &str) -> String {
    format!("{}.{kind}", api_version.rsplit('/').next().unwrap_or_default())
}

/// Why an object is not of its resource's type.
pub(super) enum Misfit {
    /// A value that its field cannot hold.
    Content(Problem),
    /// What a strict request does not tolerate.
    Odd(String),
}

/// Removes unknown fields and checks types, at the level of strictness the request asks for.
pub(super) fn fit(
    call: &Call,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<(), Misfit> {
    let served = &call.served;
    let problems = schema::prune(served.schema(), object);
    if problems.is_empty() && duplicates.is_empty() {
        return Ok(());
    }
    if let Some(problem) = problems.iter().find(|problem| problem.is_fatal()) {
        return Err(Misfit::Content(problem.clone()));
    }
    // patches and custom resources are decoded before they are looked at against their schema, typed objects in one go
    let unknown = problems.iter().map(ToString::to_string);
    let odd: Vec<String> = if served.is_custom() || call.parts.method == Method::PATCH {
        duplicates.into_iter().chain(unknown).collect()
    } else {
        unknown.chain(duplicates).collect()
    };
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => call.warn(odd),
        FieldValidation::Strict => return Err(Misfit::Odd(format!("strict decoding error: {}", odd.join(", ")))),
    }
    Ok(())
}

/// [`fit`] of the object that a body holds.
pub(super) fn prune(
    call: &Call,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<(), ApiError> {
    fit(call, object, duplicates, validation).map_err(|misfit| {
        let (kind, version) = (&call.served.resource.kind, &call.served.resource.version);
        let what = match misfit {
            Misfit::Content(problem) => problem.to_string(),
            Misfit::Odd(what) => what,
        };
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {what}"))
    })
}

/// Refuses an applied configuration with a field its type does not have, however lax the request: who applies a field
/// wants to own it.
pub(super) fn check_declared(call: &Call, config: &mut Value) -> Result<(), ApiError> {
    let served = &call.served;
    let problems = schema::prune(served.schema(), config);
    let undeclared = |problem: &Problem| match problem {
        Problem::Unknown { path } => Some(format!(".{path}: field not declared in schema")),
        _ => None,
    };
    let unknown: Vec<String> = problems.iter().filter_map(undeclared).collect();
    if let Some(problem) = problems.iter().find(|problem| problem.is_fatal()) {
        let (kind, version) = (&served.resource.kind, &served.resource.version);
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {problem}"
        )));
    }
    let what = match unknown.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let (namespace, name, kind) = (&call.namespace, &call.name, &served.resource.kind);
    let group_version = match served.resource.group.as_str() {
        "" => format!("/{}", served.resource.version),
        _ => served.api_version.clone(),
    };
    // upstream has no reason for this failure either
    let message =
        format!("failed to create typed patch object ({namespace}/{name}; {group_version}, Kind={kind}): {what}");
    Err(ApiError::new(500, "", message))
}

/// Fills in the defaults of the type and of the kind.
pub(super) fn default(served: &Served, object: &mut Value) {
    if served.is_custom() {
        schema::default(served.schema(), object);
    }
    served.strategy.default(object);
}

/// Checks that the body speaks of the object that the path names, filling in what is left out.
pub(super) fn check_address(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let metadata = crate::meta::of(object);
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
    let namespace = text("namespace");
    if call.served.resource.namespaced && namespace.is_empty() {
        metadata.insert("namespace".into(), call.namespace.as_str().into());
    } else if call.served.resource.namespaced && namespace != call.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    if call.name.is_empty() || name == call.name {
        return Ok(());
    }
    if name.is_empty() {
        metadata.insert("name".into(), call.name.as_str().into());
        return Ok(());
    }
    let message = format!("the name of the object ({name}) does not match the name on the URL ({})", call.name);
    Err(ApiError::bad_request(message))
}
