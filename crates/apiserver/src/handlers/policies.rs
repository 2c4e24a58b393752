//! What is particular about writing admission policies and their bindings: who makes the server read parameters has to
//! be allowed to read them, and a policy is observed as it is written.

use serde_json::Value;
use strategy::tree::{some, text, text_at};

use crate::{
    authorization::{Attributes, Decision},
    dispatch::Call,
    meta, policies,
    status::{ApiError, Cause},
};

/// Completes a policy or binding about to be written, or refuses it; other objects are left alone. `old` is the state
/// before an update.
pub(super) fn prepare(call: &Call, object: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    match &*call.served.collection {
        policies::POLICIES => {
            check_policy(call, object, old)?;
            policies::observe(object, &call.server.registry.table());
            Ok(())
        }
        policies::BINDINGS => check_binding(call, object, old),
        _ => Ok(()),
    }
}

fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

fn check_policy(call: &Call, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(kind) = some(spec(object), "paramKind") else { return Ok(()) };
    if old.is_some_and(|old| some(spec(old), "paramKind") == Some(kind)) || may_read(call, kind, "get", "*", "*") {
        return Ok(());
    }
    let why = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        call.user.name,
        text(kind, "kind"),
        text(kind, "apiVersion")
    );
    Err(refused(call, object, "spec.paramKind", why))
}

fn check_binding(call: &Call, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(reference) = some(spec(object), "paramRef") else { return Ok(()) };
    let same = |old: &Value| {
        some(spec(old), "paramRef") == Some(reference)
            && text(spec(old), "policyName") == text(spec(object), "policyName")
    };
    if old.is_some_and(same) {
        return Ok(());
    }
    let snapshot = call.server.snapshot();
    let policy = snapshot.get(policies::POLICIES, text_at(object, &["spec", "policyName"]));
    let policy = policy.and_then(|policy| crate::codec::stored(&policy.bytes).ok()).unwrap_or(Value::Null);
    let kind = some(spec(&policy), "paramKind").unwrap_or(&Value::Null);
    let or_all = |field: &str| Some(text(reference, field)).filter(|name| !name.is_empty()).unwrap_or("*");
    let verb = if some(reference, "selector").is_some() { "list" } else { "get" };
    if may_read(call, kind, verb, or_all("namespace"), or_all("name")) {
        return Ok(());
    }
    let why =
        format!("user {} does not have \"{verb}\" permission on the object referenced by paramRef", call.user.name);
    Err(refused(call, object, "spec.paramRef", why))
}

/// Whether the caller may read objects of a kind; what kind that is, is taken for any where nothing of it is served.
fn may_read(call: &Call, kind: &Value, verb: &str, namespace: &str, name: &str) -> bool {
    let table = call.server.registry.table();
    let api_version = text(kind, "apiVersion");
    let (group, _) = api_version.split_once('/').unwrap_or(("", api_version));
    let known =
        table.iter().find(|served| served.api_version == api_version && served.resource.kind == text(kind, "kind"));
    let attributes = Attributes {
        user: &call.user,
        verb,
        group: if api_version.is_empty() { "*" } else { group },
        resource: known.map_or("*", |served| served.resource.plural.as_str()),
        subresource: "",
        namespace,
        name,
        path: None,
    };
    call.server.authorizer.authorize(&attributes) == Decision::Allow
}

fn refused(call: &Call, object: &Value, field: &str, why: String) -> ApiError {
    let resource = &call.served.resource;
    let reason = "FieldValueForbidden".to_owned();
    let cause = Cause { reason, message: format!("Forbidden: {why}"), field: field.to_owned() };
    ApiError::invalid(&resource.group, &resource.kind, meta::name(object), vec![cause])
}
