//! From a request's body to an object of the resource's type: kind, unknown fields, defaults.

use std::borrow::Cow;

use http::Method;
use kinds::GroupVersionKind;
use schema::{Problem, Schema};
use serde_json::Value;

use crate::{
    codec::{self, Decoded, MediaType},
    dispatch::Call,
    meta,
    options::FieldValidation,
    resources::Served,
    status::ApiError,
};

/// How much of a body that is no object its refusal shows.
const SHOWN_BYTES: usize = 30;
/// What bodies of deletions are.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Kinds of subresources that are still understood in an older version of the same form.
const OLDER_VERSIONS: [(&str, &str); 1] = [("Eviction", "policy/v1beta1")];

/// The type that a body is to be of.
pub(super) struct Expected<'a> {
    schema: Cow<'a, Schema>,
    api_version: Cow<'a, str>,
    version: &'a str,
    kind: &'a str,
    is_custom: bool,
}

impl<'a> Expected<'a> {
    /// What is exchanged at the address of a call: objects of the resource, or what its subresource speaks instead,
    /// for example a Scale.
    pub(super) fn at(call: &'a Call) -> Result<Self, ApiError> {
        let served = &*call.served;
        let own = &served.resource;
        if let Some(kind) = spoken_instead(call) {
            return Self::builtin(kind);
        }
        Ok(Self {
            schema: Cow::Borrowed(served.schema()),
            api_version: Cow::Borrowed(&served.api_version),
            version: &own.version,
            kind: &own.kind,
            is_custom: served.is_custom(),
        })
    }

    fn builtin(kind: &'a GroupVersionKind) -> Result<Self, ApiError> {
        let GroupVersionKind { group, version, kind } = kind;
        let (room, api_version) = match group.split('.').next() {
            None | Some("") => ("core", Cow::Borrowed(version.as_str())),
            Some(room) => (room, Cow::Owned(format!("{group}/{version}"))),
        };
        let schema = builtin_schema(&format!("io.k8s.api.{room}.{version}.{kind}"))?;
        Ok(Self { schema: Cow::Owned(schema), api_version, version, kind, is_custom: false })
    }

    /// What objects of the type are made of.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    fn refused(&self, what: impl std::fmt::Display) -> ApiError {
        let Self { kind, version, .. } = self;
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {what}"))
    }
}

/// The kind that the subresource of a call speaks, where it is not the resource's own.
fn spoken_instead(call: &Call) -> Option<&GroupVersionKind> {
    let resource = &call.served.resource;
    let subresource = resource.subresources.iter().find(|known| known.name == call.subresource)?;
    (subresource.kind.kind != resource.kind).then_some(&subresource.kind)
}

fn builtin_schema(name: &str) -> Result<Schema, ApiError> {
    schema::builtin().get(name).ok_or_else(|| ApiError::internal(format!("there is no type {name}")))
}

/// The object in a body: of the type that is exchanged at the call's address, without the fields that type does not know.
pub(super) fn object(call: &Call, body: &[u8], validation: FieldValidation) -> Result<Value, ApiError> {
    let expected = Expected::at(call)?;
    let Decoded { mut value, duplicates } = decode(call, expected.kind, body)?;
    check_kind(&expected, &mut value)?;
    fit(call, &expected, &mut value, duplicates, validation).map_err(|misfit| match misfit {
        Misfit::Content(problem) => expected.refused(problem),
        Misfit::Odd(what) => expected.refused(what),
    })?;
    Ok(value)
}

/// The options in the body of a deletion. As with upstream, what the type does not know is nobody's concern.
pub(super) fn delete_options(call: &Call, body: &[u8]) -> Result<Value, ApiError> {
    let mut options = decode(call, "DeleteOptions", body)?.value;
    let problems = schema::prune(&builtin_schema(DELETE_OPTIONS)?, &mut options);
    match problems.iter().find(|problem| problem.is_fatal()) {
        Some(problem) => Err(ApiError::bad_request(format!("the options of the deletion cannot be read: {problem}"))),
        None => Ok(options),
    }
}

/// Decodes a body in the media type the request names.
fn decode(call: &Call, kind: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    let media_type = MediaType::of(call.header(http::header::CONTENT_TYPE))?;
    codec::decode(body, media_type).map_err(|error| {
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

/// Checks that the object is of the kind that is expected, filling in what is left out.
pub(super) fn check_kind(expected: &Expected<'_>, object: &mut Value) -> Result<(), ApiError> {
    let Expected { api_version, version, kind, is_custom, .. } = expected;
    let given = |field: &str| object[field].as_str().filter(|text| !text.is_empty());
    let is_known = |given: &str| given == api_version || OLDER_VERSIONS.contains(&(kind, given));
    match given("apiVersion") {
        Some(given) if !is_known(given) => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({api_version})"
            )));
        }
        None if *is_custom => return Err(ApiError::bad_request("Object 'apiVersion' is missing")),
        _ => {}
    }
    match given("kind") {
        Some(given) if given != *kind => {
            return Err(ApiError::bad_request(format!(
                "{given} in version {version:?} cannot be handled as a {kind}: converting ({}) to ({}): unknown conversion",
                short(api_version, given),
                short(api_version, kind),
            )));
        }
        None if *is_custom => return Err(ApiError::bad_request("Object 'Kind' is missing")),
        _ => {}
    }
    object["apiVersion"] = api_version.as_ref().into();
    object["kind"] = (*kind).into();
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
    expected: &Expected<'_>,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<(), Misfit> {
    let problems = schema::prune(&expected.schema, object);
    if problems.is_empty() && duplicates.is_empty() {
        return Ok(());
    }
    if let Some(problem) = problems.iter().find(|problem| problem.is_fatal()) {
        return Err(Misfit::Content(problem.clone()));
    }
    // patches and custom resources are decoded before they are looked at against their schema, typed objects in one go
    let unknown = problems.iter().map(ToString::to_string);
    let odd: Vec<String> = if expected.is_custom || call.parts.method == Method::PATCH {
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

/// Refuses an applied configuration with a field its type does not have, however lax the request: who applies a field
/// wants to own it.
pub(super) fn check_declared(call: &Call, expected: &Expected<'_>, config: &mut Value) -> Result<(), ApiError> {
    let problems = schema::prune(&expected.schema, config);
    let undeclared = |problem: &Problem| match problem {
        Problem::Unknown { path } => Some(format!(".{path}: field not declared in schema")),
        _ => None,
    };
    let unknown: Vec<String> = problems.iter().filter_map(undeclared).collect();
    if let Some(problem) = problems.iter().find(|problem| problem.is_fatal()) {
        return Err(expected.refused(problem));
    }
    let what = match unknown.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let (namespace, name, kind) = (&call.namespace, &call.name, expected.kind);
    let core = if expected.api_version.contains('/') { "" } else { "/" };
    let group_version = format!("{core}{}", expected.api_version);
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

/// Checks that the body speaks of the namespace that the path names, filling it in where it is left out.
pub(super) fn check_namespace(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let metadata = meta::of(object);
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if call.served.resource.namespaced && namespace.is_empty() {
        metadata.insert("namespace".into(), call.namespace.as_str().into());
    } else if call.served.resource.namespaced && namespace != call.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Checks that the body speaks of the object that the path names, filling in what is left out.
pub(super) fn check_address(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    check_namespace(call, object)?;
    let name = meta::name(object);
    if call.name.is_empty() || name == call.name {
        return Ok(());
    }
    if name.is_empty() {
        meta::of(object).insert("name".into(), call.name.as_str().into());
        return Ok(());
    }
    let message = format!("the name of the object ({name}) does not match the name on the URL ({})", call.name);
    Err(ApiError::bad_request(message))
}

/// Checks that what is done to an object names it, as upstream asks of evictions and bindings.
pub(super) fn check_named(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    check_namespace(call, object)?;
    if call.name.is_empty() || meta::name(object) == call.name {
        return Ok(());
    }
    let kind = object["kind"].as_str().unwrap_or_default();
    Err(ApiError::bad_request(format!("name in URL does not match name in {kind} object")))
}
