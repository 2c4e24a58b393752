//! Built-in admission: what a request may do in the cluster's present state, and what the cluster adds to it.
//!
//! [`mutate`] runs after defaulting and before the strategy prepares and validates the object, [`validate`] sees the
//! result. Both are pure: they read other objects through [`ObjectReader`] only. What has to ask somebody else runs
//! around them, in the handlers.

use std::sync::Arc;

use kinds::{Resource, k8s::apimachinery::pkg::apis::meta::v1::StatusCause};
use serde_json::Value;
use strategy::{User, field_error::FieldErrors};

pub(crate) use expressions::MatchConditions;
pub use pod_security::{LevelVersion, PodSecurity, PodSecurityLevel, PodSecurityPolicy, PodSecurityVersion};
pub use request::RequestOptions;

pub(crate) mod certificates;
mod claim_resize;
mod default_class;
pub(crate) mod expressions;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
#[cfg(test)]
mod odd_objects;
pub(crate) mod owner_references;
mod pod_security;
mod priority;
pub(crate) mod references;
mod request;
mod runtime_class;
mod service_account;
mod storage_protection;
#[cfg(test)]
mod tests;
mod topology_labels;

/// The cluster's present state, as admission reads it.
pub trait ObjectReader {
    /// The object at `path` (`namespace/name` or `name`) of `collection`, for example `core/namespaces`.
    fn get(&self, collection: &str, path: &str) -> Option<Arc<Value>>;
    /// All objects of `collection` whose path begins with `prefix`.
    fn list(&self, collection: &str, prefix: &str) -> Vec<Arc<Value>>;
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates an object.
    Create,
    /// Changes an object.
    Update,
    /// Deletes an object.
    Delete,
    /// Connects to a subresource such as `exec`.
    Connect,
}

impl Operation {
    /// The name reviews know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request under admission.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest<'a> {
    /// What it does.
    pub operation: Operation,
    /// Resource.
    pub resource: &'a Resource,
    /// Subresource, for example `status`.
    pub subresource: Option<&'a str>,
    /// Namespace, empty when the resource has none.
    pub namespace: &'a str,
    /// Name, empty when it is yet to be generated.
    pub name: &'a str,
    /// What the name will be generated from, empty when the object has a name.
    pub generate_name: &'a str,
    /// Who makes it.
    pub user: &'a User,
    /// The object before an update or deletion.
    pub old: Option<&'a Value>,
    /// The options it came with.
    pub options: RequestOptions<'a>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Time of the request.
    pub now: jiff::Timestamp,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    /// 404: what the request needs is missing.
    #[error("{group_resource} {name:?} not found")]
    NotFound {
        /// `namespaces` or `deployments.apps`.
        group_resource: String,
        /// Name of what is missing.
        name: String,
    },
    /// 403: the cluster's state or policy refuses it.
    #[error("{group_resource} {name:?} is forbidden: {reason}")]
    Forbidden {
        /// Resource of the request.
        group_resource: String,
        /// Name of the request's object.
        name: String,
        /// Why.
        reason: String,
        /// Causes for the status' details.
        causes: Vec<StatusCause>,
        /// Whether the same request may succeed in a moment, as when a controller is about to make what is missing.
        transient: bool,
    },
    /// 409: it contradicts a concurrent request.
    #[error("Operation cannot be fulfilled on {group_resource} {name:?}: {reason}")]
    Conflict {
        /// Resource of the request.
        group_resource: String,
        /// Name of the request's object.
        name: String,
        /// Why.
        reason: String,
    },
    /// 422: the object is wrong.
    #[error("{kind} {name:?} is invalid: {errors}")]
    Invalid {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What is wrong.
        errors: FieldErrors,
    },
}

impl AdmissionError {
    /// A refusal of `request` because of `reason`.
    pub(crate) fn forbidden(request: &AdmissionRequest<'_>, reason: impl Into<String>) -> Self {
        Self::Forbidden {
            group_resource: request.resource.group_resource(),
            name: request.known_name().to_owned(),
            reason: reason.into(),
            causes: Vec::new(),
            transient: false,
        }
    }
}

/// What a request is told besides yes or no.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// Warnings to the client.
    pub warnings: Vec<String>,
    /// What the audit log says about the request: keys and values.
    pub audit: Vec<(&'static str, String)>,
}

/// The built-in plug-ins that complete an object, in upstream's order. A deletion has no object.
pub fn mutate(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    object: Option<&mut Value>,
) -> Result<(), AdmissionError> {
    namespace_lifecycle::admit(reader, request)?;
    node_restriction::check(reader, request, object.as_deref())?;
    let Some(object) = object else { return Ok(()) };
    if is_resize(request) {
        limit_ranger::complete(reader, request, object);
    }
    let creates = request.operation == Operation::Create;
    if request.subresource.is_some() {
        if creates && request.subresource == Some("binding") {
            topology_labels::complete_binding(reader, object);
        }
        return Ok(());
    }
    match (request.resource.group.as_str(), request.resource.plural.as_str()) {
        ("", "pods") => {
            if creates {
                topology_labels::complete_pod(reader, object);
                limit_ranger::complete(reader, request, object);
                service_account::complete(reader, request, object)?;
            }
            priority::admit_pod(reader, request, object)?;
            // on an update too, or replacing a pod from its file would take tolerations away, which nobody may
            priority::tolerate_node_troubles(object);
            if creates {
                runtime_class::complete(reader, request, object)?;
            }
        }
        ("", "nodes") if creates => node_restriction::taint_new_node(object),
        ("", "persistentvolumeclaims") if creates => {
            default_class::admit_claim(reader, object);
            storage_protection::admit(object, storage_protection::CLAIM);
        }
        ("", "persistentvolumes") if creates => storage_protection::admit(object, storage_protection::VOLUME),
        ("networking.k8s.io", "ingresses") if creates => default_class::admit_ingress(reader, object),
        _ => {}
    }
    Ok(())
}

/// The built-in plug-ins that only judge the object a request leads to, in upstream's order. A deletion has no object.
pub fn validate(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<(), AdmissionError> {
    let Some(object) = object else { return Ok(()) };
    if is_resize(request) {
        return limit_ranger::check(reader, request, object);
    }
    if request.subresource.is_some() {
        return Ok(());
    }
    let creates = request.operation == Operation::Create;
    match (request.resource.group.as_str(), request.resource.plural.as_str()) {
        ("", "pods") if creates => {
            limit_ranger::check(reader, request, object)?;
            service_account::check(reader, request, object)?;
            runtime_class::check(reader, request, object)
        }
        ("", "persistentvolumeclaims") => {
            limit_ranger::check(reader, request, object)?;
            claim_resize::check(reader, request, object)
        }
        ("scheduling.k8s.io", "priorityclasses") => priority::admit_class(reader, request, object),
        _ => Ok(()),
    }
}

/// Whether the request changes what a running pod's containers may use.
fn is_resize(request: &AdmissionRequest<'_>) -> bool {
    let pods = request.resource.group.is_empty() && request.resource.plural == "pods";
    pods && request.subresource == Some("resize") && request.operation == Operation::Update
}
