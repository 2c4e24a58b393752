//! Validation as a step of a write, and its failure in the API's terms.

use serde_json::Value;
use strategy::field_error::FieldErrors;

use crate::{
    crd,
    dispatch::Call,
    status::{ApiError, causes_of},
};

/// Fails when the kind's rules or the type's (of a custom resource) are broken. `old` is the state before an update.
pub(super) fn check(call: &Call, object: &Value, old: Option<&Value>, mut errors: FieldErrors) -> Result<(), ApiError> {
    if let Some(version) = call.served.version() {
        call.warn(crd::check(version, object, old, call.subresource == "status", &mut errors));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let resource = &call.served.resource;
    Err(ApiError::invalid(&resource.group, &resource.kind, crate::meta::name(object), causes_of(&errors)))
}
