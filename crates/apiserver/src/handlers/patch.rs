//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use schema::{FieldError, apply::Operation, patch::JsonPatchError};
use serde_json::Value;

use super::{
    admit::Gate,
    create::{self, Ownership},
    receive::{self, Expected, Misfit},
    update::{self, Change},
    write,
};
use crate::{
    body::Body,
    codec::{self, MediaType},
    dispatch::Call,
    meta,
    options::{FieldValidation, WriteOptions},
    status::{ApiError, Cause},
};

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
    application/strategic-merge-patch+json, application/apply-patch+yaml";
const ACCEPTED_OF_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
/// What an operation of a JSON patch consists of.
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];

/// A patch, decoded.
pub(super) enum Patch {
    Json(Changes),
    Merge(Changes),
    Strategic(Changes),
    Apply {
        config: Value,
        /// What is wrong when a key is set twice.
        repeated: Option<String>,
    },
}

/// The document of a patch.
pub(super) struct Changes {
    patch: Value,
    /// What is odd about it: fields that occur twice, or that operations do not have.
    odd: Vec<String>,
}

/// Decodes the patch in the media type the request names.
pub(super) fn decode(call: &Call, body: &Bytes) -> Result<Patch, ApiError> {
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    let custom = call.served.is_custom();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(Patch::Json(operations(body)?)),
        "application/merge-patch+json" => object(body, "error decoding patch: ").map(Patch::Merge),
        "application/strategic-merge-patch+json" if !custom => object(body, "").map(Patch::Strategic),
        write::APPLY => {
            let decoded = codec::decode(body, MediaType::Yaml)?;
            // said again with lines, as upstream does; rare enough to parse for it
            let repeated = if decoded.duplicates.is_empty() { None } else { schema::yaml::repeated_key(body) };
            Ok(Patch::Apply { config: decoded.value, repeated })
        }
        _ => Err(ApiError::unsupported_media_type(if custom { ACCEPTED_OF_CUSTOM } else { ACCEPTED })),
    }
}

fn read(body: &Bytes, failed: &str) -> Result<Changes, ApiError> {
    let parsed = schema::json::parse(body);
    let (patch, duplicates) = parsed.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        ApiError::bad_request(format!("{failed}{cause}"))
    })?;
    Ok(Changes { patch, odd: duplicates.iter().map(ToString::to_string).collect() })
}

fn operations(body: &Bytes) -> Result<Changes, ApiError> {
    let mut changes = read(body, "error decoding patch: ")?;
    let Some(operations) = changes.patch.as_array() else {
        let what = codec::go_kind(&changes.patch);
        let why = format!("json: cannot unmarshal {what} into Go value of type []handlers.jsonPatchOp");
        return Err(ApiError::bad_request(format!("error decoding patch: {why}")));
    };
    for (index, operation) in operations.iter().enumerate() {
        let fields = operation.as_object().into_iter().flat_map(|operation| operation.keys());
        let unknown = fields.filter(|field| !OPERATION.contains(&field.as_str()));
        changes.odd.extend(unknown.map(|field| format!("unknown field \"[{index}].{field}\"")));
    }
    changes.odd.iter_mut().for_each(|odd| odd.insert_str(0, "json patch "));
    Ok(changes)
}

fn object(body: &Bytes, failed: &str) -> Result<Changes, ApiError> {
    let changes = read(body, failed)?;
    if !changes.patch.is_object() {
        let what = codec::go_kind(&changes.patch);
        let why = format!("{failed}json: cannot unmarshal {what} into Go value of type map[string]interface {{}}");
        return Err(ApiError::bad_request(why));
    }
    Ok(changes)
}

impl Patch {
    /// What a patch other than an apply makes of an object: one of the type that is expected, at the address of the call.
    pub(super) fn outcome(&self, call: &Call, options: &WriteOptions, old: &Value) -> Result<Value, ApiError> {
        let expected = Expected::at(call)?;
        let mut object = self.patched(expected.schema(), old)?;
        if !object.is_object() {
            let what = codec::go_kind(&object);
            let why = format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}");
            return Err(self.misfit(&object, Misfit::Odd(why)));
        }
        receive::check_kind(&expected, &mut object)?;
        // pruning takes away what a strict refusal is to show
        let before = (options.field_validation == FieldValidation::Strict).then(|| object.clone());
        receive::fit(call, &expected, &mut object, self.odd(), options.field_validation)
            .map_err(|misfit| self.misfit(before.as_ref().unwrap_or(&object), misfit))?;
        receive::check_address(call, &mut object)?;
        Ok(object)
    }

    fn patched(&self, schema: &schema::Schema, old: &Value) -> Result<Value, ApiError> {
        let mut new = old.clone();
        // upstream says no more than this; the cause tells what was wrong
        let failed = |message: String| {
            let mut failed =
                ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
            let cause = Cause { reason: "UnexpectedServerResponse".into(), message, field: String::new() };
            failed.details.get_or_insert_default().causes = vec![cause];
            failed
        };
        match self {
            Self::Json(changes) => {
                schema::patch::json(&mut new, &changes.patch).map_err(|error| match error {
                    JsonPatchError::Document(_) => ApiError::bad_request(error.to_string()),
                    JsonPatchError::TooMany(_) => {
                        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"))
                    }
                    error => failed(error.to_string()),
                })?;
            }
            Self::Merge(changes) => schema::patch::merge(&mut new, &changes.patch),
            Self::Strategic(changes) => {
                let merged = schema::patch::strategic(schema, &mut new, &changes.patch);
                merged.map_err(|error| failed(error.to_string()))?;
            }
            Self::Apply { .. } => return Err(ApiError::unsupported_media_type(ACCEPTED)),
        }
        Ok(new)
    }

    /// What is odd about the document itself.
    fn odd(&self) -> Vec<String> {
        match self {
            Self::Json(changes) | Self::Merge(changes) | Self::Strategic(changes) => changes.odd.clone(),
            Self::Apply { .. } => Vec::new(),
        }
    }

    /// The refusal of a patch whose outcome is not of the resource's type.
    fn misfit(&self, outcome: &Value, misfit: Misfit) -> ApiError {
        let (value, what) = match (self, misfit) {
            (Self::Strategic(changes), Misfit::Content(problem)) => (go_text(&changes.patch), problem.of_tree()),
            (Self::Strategic(changes), Misfit::Odd(what)) => (go_text(&changes.patch), what),
            (_, Misfit::Content(problem)) => (outcome.to_string(), problem.to_string()),
            (_, Misfit::Odd(what)) => (outcome.to_string(), what),
        };
        let error = FieldError::invalid("patch", value, what);
        let message = error.message();
        let cause = Cause { reason: error.kind.reason().to_owned(), message, field: error.path };
        ApiError::invalid("", "", "", vec![cause])
    }
}

/// A tree as Go prints maps and slices: `map[metadata:map[labels:x]]`.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let mut members: Vec<String> =
                members.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
            members.sort_unstable();
            format!("map[{}]", members.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// Answers a PATCH.
pub(super) async fn patch(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let patch = decode(call, body)?;
    if let Patch::Apply { config, repeated } = patch {
        return apply(call, options, config, repeated).await;
    }
    let change = |old: &Value| {
        let mut new = patch.outcome(call, &options, old)?;
        receive::default(&call.served, &mut new);
        // the live version the patch was computed from is no wish of the client's
        if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
            meta::of(&mut new).remove("resourceVersion");
        } else {
            write::check_version_named(call, &new)?;
        }
        Ok(Change { object: new, ownership: Ownership::Track })
    };
    update::change_object(call, &options, Gate::Object, change).await?.respond(call)
}

async fn apply(
    call: &Arc<Call>,
    options: WriteOptions,
    mut config: Value,
    repeated: Option<String>,
) -> Result<Response<Body>, ApiError> {
    let expected = Expected::at(call)?;
    receive::check_kind(&expected, &mut config)?;
    receive::check_declared(call, &expected, &mut config)?;
    match (options.field_validation, repeated) {
        (FieldValidation::Strict, Some(repeated)) => {
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {repeated}")));
        }
        (FieldValidation::Warn, Some(repeated)) => call.warn([repeated]),
        _ => {}
    }
    receive::check_address(call, &mut config)?;
    let expected = write::expected(&config)?;
    let manager = write::manager(call, &options, Operation::Apply);
    let force = options.force == Some(true);
    let merge = |live: Option<&Value>| {
        let merged = schema::apply::apply(call.served.schema(), live, &config, &manager, force);
        let mut object = merged.map_err(write::apply_failed)?.object;
        receive::default(&call.served, &mut object);
        Ok::<_, ApiError>(object)
    };
    for _ in 0..write::ATTEMPTS_MAX {
        let absent = call.server.snapshot().get(&call.served.collection, &call.path()).is_none();
        if absent && call.subresource.is_empty() {
            if expected.is_some() {
                return Err(ApiError::not_found(call.group_resource(), &call.name));
            }
            let uid = meta::uid(&config);
            if !uid.is_empty() {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(ApiError::conflict(call.group_resource(), &call.name, why));
            }
            call.may_create()?;
            let object = merge(None)?;
            match create::create_object(call, object, &options, Ownership::Applied).await {
                // somebody else created it in between: it is an update now
                Err(error) if error.reason == "AlreadyExists" => continue,
                created => return created?.respond(call),
            }
        }
        let change = |old: &Value| {
            let mut object = merge(Some(old))?;
            let metadata = meta::of(&mut object);
            match expected {
                Some(revision) => metadata.insert("resourceVersion".into(), revision.0.to_string().into()),
                None => metadata.remove("resourceVersion"),
            };
            Ok(Change { object, ownership: Ownership::Applied })
        };
        match update::change_object(call, &options, Gate::Object, change).await {
            // somebody else deleted it in between: it is a create now
            Err(error) if error.code == 404 && call.subresource.is_empty() => {}
            outcome => return outcome?.respond(call),
        }
    }
    Err(ApiError::modified(call.group_resource(), &call.name))
}
