//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use schema::{FieldError, apply::Operation};
use serde_json::Value;

use super::{
    admit::Gate,
    create::{self, Ownership},
    receive::{self, Misfit},
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

/// A patch, decoded.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply {
        config: Value,
        /// What is wrong when a key is set twice.
        repeated: Option<String>,
    },
}

/// Decodes the patch in the media type the request names.
pub(super) fn decode(call: &Call, body: &Bytes) -> Result<Patch, ApiError> {
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    let json = || {
        serde_json::from_slice::<Value>(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
    };
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => json().map(Patch::Json),
        "application/merge-patch+json" => json().map(Patch::Merge),
        "application/strategic-merge-patch+json" if call.served.custom.is_some() => {
            Err(ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ))
        }
        "application/strategic-merge-patch+json" => json().map(Patch::Strategic),
        "application/apply-patch+yaml" => {
            let decoded = codec::decode(body, MediaType::Yaml)?;
            // said again with lines, as upstream does; rare enough to parse for it
            let repeated = if decoded.duplicates.is_empty() { None } else { schema::yaml::repeated_key(body) };
            Ok(Patch::Apply { config: decoded.value, repeated })
        }
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

impl Patch {
    /// Applies a patch other than an apply to an object of `schema`.
    pub(super) fn patched(&self, schema: &schema::Schema, old: &Value) -> Result<Value, ApiError> {
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
            Self::Json(patch) => schema::patch::json(&mut new, patch).map_err(|error| failed(error.to_string()))?,
            Self::Merge(patch) => schema::patch::merge(&mut new, patch),
            Self::Strategic(patch) => {
                schema::patch::strategic(schema, &mut new, patch).map_err(|error| failed(error.to_string()))?;
            }
            Self::Apply { .. } => return Err(ApiError::unsupported_media_type(ACCEPTED)),
        }
        Ok(new)
    }

    /// Fields that are set twice in the patch's text; the last one counts.
    fn repeated(&self, body: &Bytes) -> Vec<String> {
        let prefix = if matches!(self, Self::Json(_)) { "json patch " } else { "" };
        let fields = schema::json::parse(body).map(|(_, fields)| fields).unwrap_or_default();
        fields.iter().map(|field| format!("{prefix}{field}")).collect()
    }

    /// The refusal of a patch whose outcome is not of the resource's type.
    fn misfit(&self, outcome: &Value, misfit: Misfit) -> ApiError {
        let (value, what) = match (self, misfit) {
            (Self::Strategic(patch), Misfit::Content(problem)) => (go_text(patch), problem.of_tree()),
            (Self::Strategic(patch), Misfit::Odd(what)) => (go_text(patch), what),
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
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
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
    if options.force.is_some() {
        let what = "force: Forbidden: may not be specified for non-apply patch";
        return Err(invalid_options(what));
    }
    let repeated = match options.field_validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn | FieldValidation::Strict => patch.repeated(body),
    };
    let change = |old: &Value| {
        let mut new = patch.patched(&call.served.schema, old)?;
        complete(call, &options, &patch, &repeated, &mut new)?;
        // the live version the patch was computed from is no wish of the client's
        if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
            meta::of(&mut new).remove("resourceVersion");
        }
        Ok(Change { object: new, ownership: Ownership::Track })
    };
    update::change_object(call, &options, Gate::Object, change).await?.respond(call)
}

fn invalid_options(what: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("PatchOptions.meta.k8s.io \"\" is invalid: {what}"))
}

fn complete(
    call: &Call,
    options: &WriteOptions,
    patch: &Patch,
    repeated: &[String],
    object: &mut Value,
) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::new(422, "Invalid", "the patch does not leave an object"));
    }
    receive::check_kind(&call.served, object)?;
    receive::fit(call, object, repeated.to_vec(), options.field_validation)
        .map_err(|misfit| patch.misfit(object, misfit))?;
    receive::check_address(call, object)?;
    receive::default(&call.served, object);
    Ok(())
}

async fn apply(
    call: &Arc<Call>,
    options: WriteOptions,
    mut config: Value,
    repeated: Option<String>,
) -> Result<Response<Body>, ApiError> {
    if call.query().get("fieldManager").is_none() {
        return Err(invalid_options("fieldManager: Required value: is required for apply patch"));
    }
    receive::check_kind(&call.served, &mut config)?;
    receive::check_declared(call, &mut config)?;
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
        let merged = schema::apply::apply(&call.served.schema, live, &config, &manager, force);
        let mut object = merged.map_err(write::apply_failed)?.object;
        receive::default(&call.served, &mut object);
        Ok::<_, ApiError>(object)
    };
    for _ in 0..write::ATTEMPTS_MAX {
        let absent = call.server.snapshot().get(&call.served.collection, &call.path()).is_none();
        if absent && call.subresource.is_empty() {
            if expected.is_some() || !meta::uid(&config).is_empty() {
                return Err(ApiError::not_found(call.group_resource(), &call.name));
            }
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
