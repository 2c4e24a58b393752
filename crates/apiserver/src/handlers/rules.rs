//! Admission and validation as one step of a write, and their failures in the API's terms.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use store::Snapshot;

use crate::{
    admission::{self, AdmissionError, AdmissionRequest, ObjectReader, Operation},
    authorization::escalation,
    decoded::Decoded,
    dispatch::Call,
    field_error::{FieldError, FieldErrors},
    status::{ApiError, Cause, GroupResource},
};

/// The store as admission reads it.
struct Reader<'a> {
    snapshot: &'a Snapshot,
    decoded: &'a Decoded,
}

impl ObjectReader for Reader<'_> {
    fn get(&self, collection: &str, path: &str) -> Option<Arc<Value>> {
        self.snapshot.get(collection, path).and_then(|object| self.decoded.get(collection, path, object))
    }

    fn list(&self, collection: &str, prefix: &str) -> Vec<Arc<Value>> {
        let objects = self.snapshot.range(collection, prefix, None);
        objects.filter_map(|(path, object)| self.decoded.get(collection, path, object)).collect()
    }
}

/// How often a refusal is looked at again that a controller is about to lift, and how long to wait in between: a second
/// in all, as upstream waits for the default account of a young namespace.
const TRANSIENT_RETRIES_MAX: usize = 10;
const TRANSIENT_WAIT: Duration = Duration::from_millis(100);

/// Asks the admission plug-ins about a new object; gives the state they decided on.
pub(super) async fn admit_new(call: &Call, object: &mut Value, dry_run: bool) -> Result<Arc<Snapshot>, ApiError> {
    let mut retries = 0;
    loop {
        let snapshot = call.server.snapshot();
        match ask(call, &snapshot, Operation::Create, Some(&mut *object), None, dry_run) {
            Ok(()) => return Ok(snapshot),
            Err(AdmissionError::Forbidden { transient: true, .. }) if retries < TRANSIENT_RETRIES_MAX => {
                retries += 1;
                tokio::time::sleep(TRANSIENT_WAIT).await;
            }
            Err(error) => return Err(refused(error)),
        }
    }
}

/// Asks the admission plug-ins.
pub(super) fn admit(
    call: &Call,
    snapshot: &Arc<Snapshot>,
    operation: Operation,
    object: Option<&mut Value>,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), ApiError> {
    ask(call, snapshot, operation, object, old, dry_run).map_err(refused)
}

fn ask(
    call: &Call,
    snapshot: &Arc<Snapshot>,
    operation: Operation,
    mut object: Option<&mut Value>,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), AdmissionError> {
    let known = object.as_deref().or(old);
    let name = known.map(|object| crate::meta::name(object).to_owned()).unwrap_or_default();
    let request = AdmissionRequest {
        operation,
        resource: &call.served.resource,
        subresource: call.subresource(),
        namespace: &call.namespace,
        name: if name.is_empty() { &call.name } else { &name },
        user: &call.user,
        old,
        dry_run,
        now: call.now,
    };
    let reader = Reader { snapshot, decoded: &call.server.decoded };
    admission::admit(&reader, &request, object.as_deref_mut())?;
    match object {
        Some(object) => escalation::check(&call.server.authorizer, &request, object),
        None => Ok(()),
    }
}

fn refused(error: AdmissionError) -> ApiError {
    match error {
        AdmissionError::NotFound { group_resource, name } => ApiError::not_found(split(&group_resource), &name),
        AdmissionError::Forbidden { group_resource, name, reason, causes, transient } => {
            let mut refused = ApiError::forbidden(split(&group_resource), &name, reason);
            let details = refused.details.get_or_insert_default();
            let cause = |cause: kinds::k8s::apimachinery::pkg::apis::meta::v1::StatusCause| Cause {
                reason: cause.reason.unwrap_or_default(),
                message: cause.message.unwrap_or_default(),
                field: cause.field.unwrap_or_default(),
            };
            details.causes = causes.into_iter().map(cause).collect();
            details.retry_after_seconds = transient.then_some(1);
            refused
        }
        AdmissionError::Conflict { group_resource, name, reason } => {
            ApiError::conflict(split(&group_resource), &name, reason)
        }
        AdmissionError::Invalid { kind, name, errors } => ApiError::invalid("", &kind, &name, causes(&errors)),
    }
}

/// Takes `deployments.apps` apart.
fn split(group_resource: &str) -> GroupResource<'_> {
    let (resource, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
    GroupResource { group, resource }
}

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
