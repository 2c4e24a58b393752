//! Validation as a step of a write, and its failures in the API's terms.

use serde_json::Value;

use crate::{
    dispatch::Call,
    field_error::{FieldError, FieldErrors},
    status::{ApiError, Cause},
};

/// The causes of a 422.
pub(super) fn causes(errors: &FieldErrors) -> Vec<Cause> {
    let cause = |error: &FieldError| Cause {
        reason: error.kind.reason().to_owned(),
        message: error.body(),
        field: error.field.clone(),
    };
    errors.0.iter().map(cause).collect()
}

/// Fails when the kind's rules or the type's (of a custom resource) are broken.
pub(super) fn check(call: &Call, object: &Value, errors: &FieldErrors) -> Result<(), ApiError> {
    let mut broken = Vec::new();
    if call.served.custom.is_some() {
        let cause = |error: schema::FieldError| Cause {
            reason: error.kind.reason().to_owned(),
            message: error.message,
            field: error.path,
        };
        broken.extend(schema::validate(&call.served.schema, object).into_iter().map(cause));
    }
    broken.extend(causes(errors));
    if broken.is_empty() {
        return Ok(());
    }
    let resource = &call.served.resource;
    Err(ApiError::invalid(&resource.group, &resource.kind, crate::meta::name(object), broken))
}
