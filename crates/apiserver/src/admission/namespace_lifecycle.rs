//! Nothing is created in a namespace that is missing or going away, and the namespaces of the system stay.

use kinds::k8s::apimachinery::pkg::apis::meta::v1::StatusCause;
use strategy::tree;

use super::{AdmissionError, AdmissionRequest, ObjectReader, Operation};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(reader: &dyn ObjectReader, request: &AdmissionRequest<'_>) -> Result<(), AdmissionError> {
    let core = request.resource.group.is_empty();
    if core && request.resource.plural == "namespaces" {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(AdmissionError::forbidden(request, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    if request.namespace.is_empty() || matches!(request.operation, Operation::Delete | Operation::Connect) {
        return Ok(());
    }
    // Asking for one's own rights is allowed even where the namespace does not exist.
    if request.resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    if request.operation == Operation::Update && request.old.is_some() {
        return Ok(());
    }
    let Some(namespace) = reader.get("core/namespaces", request.namespace) else {
        return Err(AdmissionError::NotFound {
            group_resource: "namespaces".to_owned(),
            name: request.namespace.to_owned(),
        });
    };
    let going = tree::text_at(&namespace, &["status", "phase"]) == "Terminating"
        || tree::at(&namespace, &["metadata", "deletionTimestamp"]).is_some();
    if request.operation == Operation::Create && going {
        let name = request.namespace;
        return Err(AdmissionError::Forbidden {
            group_resource: request.resource.group_resource(),
            name: request.name.to_owned(),
            reason: format!("unable to create new content in namespace {name} because it is being terminated"),
            causes: vec![StatusCause {
                reason: Some("NamespaceTerminating".to_owned()),
                message: Some(format!("namespace {name} is being terminated")),
                field: Some("metadata.namespace".to_owned()),
            }],
            transient: false,
        });
    }
    Ok(())
}
