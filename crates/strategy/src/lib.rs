//! The rules of each kind: what its fields default to, what create and update reset, what is immutable, what is checked,
//! what can be selected, and the row that `kubectl get` prints of it. One file per kind (or family) and one line in
//! [`of`]; rows are in [`table`].
//!
//! A strategy is pure: it reads and writes the generic tree and knows no store, clock, request or other object. It is not
//! admission, which may look at other objects, and not the schema of a type, which prunes and checks before. The API
//! server calls a strategy in this order: [`Strategy::default`], admission, [`Strategy::prepare_create`] or
//! [`Strategy::prepare_update`], [`Strategy::validate_create`] or [`Strategy::validate_update`]. Schema validation and
//! pruning have run then, so that fields have their types; `metadata.name` and `metadata.uid` of a new object are set
//! before it is prepared.
//!
//! Kinds implement `check` and its siblings; the provided methods add what all kinds share: the rules of `metadata`,
//! status isolation, and the generation.

use kinds::Resource;
use serde_json::Value;

mod api_service;
mod batch;
mod certificate;
pub mod cluster;
mod config;
mod custom;
mod definition;
pub mod expressions;
pub mod field_error;
#[cfg(test)]
mod fixture;
pub mod flow;
pub mod metadata;
mod names;
mod network;
pub mod pod;
mod pod_spec;
mod policies;
mod quantity;
mod rbac;
mod scaling;
mod service;
mod storage;
pub mod table;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod user;
mod webhooks;
mod workloads;

pub use definition::Approval;
use field_error::FieldErrors;
pub use metadata::check_embedded as check_embedded_metadata;
pub use names::{NameRule, dns_1035, generate as generate_name, path_segment};
pub use quantity::parse as parse_quantity;
pub use service::{complete_addresses, has_node_ports, needs_health_check_port};
pub use user::User;
pub use workloads::selects;

/// What a strategy may know about the request it serves.
#[derive(Clone, Copy, Debug)]
pub struct WriteContext<'a> {
    /// Time of the request.
    pub now: jiff::Timestamp,
    /// Resource written to.
    pub resource: &'a Resource,
    /// Subresource written through, for example `status`.
    pub subresource: Option<&'a str>,
    /// Who writes.
    pub user: &'a User,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

impl WriteContext<'_> {
    /// Whether the write goes through the `status` subresource.
    pub fn is_status(&self) -> bool {
        self.subresource == Some("status")
    }

    fn has_status(&self) -> bool {
        has_status(self.resource)
    }
}

/// Whether the status of `resource` is written through a subresource of its own.
pub fn has_status(resource: &Resource) -> bool {
    resource.subresources.iter().any(|subresource| subresource.name == "status")
}

/// What happens to an object's dependents when a delete request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector removes them afterwards.
    Background,
    /// They stay.
    Orphan,
}

/// Fields of `metadata` that clients write: what a status that is reported may not change where the kind says so.
const WRITABLE_METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// The rules of one kind.
pub trait Strategy: Send + Sync {
    /// Fills in upstream's defaults of the kind.
    fn default(&self, _object: &mut Value) {}

    /// The format of the kind's names.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Whether `metadata.generation` counts changes of the desired state.
    fn tracks_generation(&self, resource: &Resource) -> bool {
        resource.schema.is_empty()
    }

    /// Whether a new object may bring its status along.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Prepares a new object for storing: clears what clients may not set, sets what the server owns.
    fn prepare_create(&self, cx: &WriteContext<'_>, object: &mut Value) {
        if cx.has_status() && !self.keeps_status_on_create() {
            tree::remove(object, "status");
        }
        if self.tracks_generation(cx.resource) {
            set_generation(object, Some(1));
        } else if let Some(metadata) = object.get_mut("metadata") {
            tree::remove(metadata, "generation");
        }
        self.prepare_new(cx, object);
    }

    /// What the kind adds to [`Strategy::prepare_create`].
    fn prepare_new(&self, _cx: &WriteContext<'_>, _object: &mut Value) {}

    /// Prepares a changed object: a write through `status` changes the status only, any other write everything but it;
    /// a change of the desired state counts up the generation.
    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        let before = old.pointer("/metadata/generation").and_then(Value::as_i64);
        if cx.is_status() {
            keep_all_but_status(new, old);
            keep_metadata(new, old, self.status_keeps());
            set_generation(new, before);
            self.prepare_status(cx, new, old);
            return;
        }
        // an approval is a condition
        if cx.has_status() && cx.subresource != Some("approval") {
            tree::keep(new, old, "status");
        }
        self.prepare_changed(cx, new, old);
        let counts = self.tracks_generation(cx.resource) && desired_state_changed(new, old);
        set_generation(new, if counts { Some(before.unwrap_or(0) + 1) } else { before });
    }

    /// What the kind adds to an ordinary update.
    fn prepare_changed(&self, _cx: &WriteContext<'_>, _new: &mut Value, _old: &Value) {}

    /// Whether a write through `status` leaves all the metadata as it was.
    fn reports_status_alone(&self) -> bool {
        false
    }

    /// Fields of `metadata` that a write through `status` leaves as they were.
    fn status_keeps(&self) -> &'static [&'static str] {
        if self.reports_status_alone() { WRITABLE_METADATA } else { &[] }
    }

    /// Fields that a write through `subresource` (empty: to the object itself) of a kind with a `status` subresource
    /// resets, so that nobody comes to own them that way.
    fn resets(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "status" if self.reports_status_alone() => &["spec", "metadata"],
            "status" => &["spec"],
            _ => &["status"],
        }
    }

    /// The only fields that a write through `subresource` can change, none for no such limit.
    fn accepts_only(&self, _subresource: &str) -> &'static [&'static str] {
        &[]
    }

    /// What the kind adds to a status update.
    fn prepare_status(&self, _cx: &WriteContext<'_>, _new: &mut Value, _old: &Value) {}

    /// Everything that is wrong with a new object.
    fn validate_create(&self, cx: &WriteContext<'_>, object: &Value) -> FieldErrors {
        let mut errors = FieldErrors::default();
        metadata::validate_create(object, self.name_rule(), cx.resource, &mut errors);
        self.check(cx, object, None, &mut errors);
        errors
    }

    /// Everything that is wrong with a changed object or with the change.
    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> FieldErrors {
        let mut errors = FieldErrors::default();
        metadata::validate_update(new, old, cx.resource, &mut errors);
        if cx.is_status() {
            self.check_status(cx, new, old, &mut errors);
        } else {
            self.check(cx, new, Some(old), &mut errors);
            self.check_change(cx, new, old, &mut errors);
        }
        errors
    }

    /// The kind's rules for the object as a whole; `old` is its state before an update.
    fn check(&self, _cx: &WriteContext<'_>, _object: &Value, _old: Option<&Value>, _errors: &mut FieldErrors) {}

    /// The kind's rules for changes.
    fn check_change(&self, _cx: &WriteContext<'_>, _new: &Value, _old: &Value, _errors: &mut FieldErrors) {}

    /// The kind's rules for a change of the status.
    fn check_status(&self, _cx: &WriteContext<'_>, _new: &Value, _old: &Value, _errors: &mut FieldErrors) {}

    /// Fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    fn fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// How long a deletion waits for the node to end what runs; `None` deletes at once.
    fn grace_period_seconds(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What an object's name becomes in pods; only a DNS label is good for that.
    fn name_becomes(&self) -> Option<&'static str> {
        None
    }

    /// What the client is warned about.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether a `PUT` of an object that does not exist creates it.
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// What a deletion does to dependents when the request does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
}

/// Sets or removes `metadata.generation`.
fn set_generation(object: &mut Value, generation: Option<i64>) {
    let Some(metadata) = tree::map_mut(object, "metadata") else { return };
    match generation {
        Some(generation) => {
            metadata.insert("generation".to_owned(), generation.into());
        }
        None => {
            metadata.remove("generation");
        }
    }
}

/// Takes every top-level field but `status` and `metadata` from `old`.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else { return };
    let free = |key: &str| matches!(key, "status" | "metadata" | "apiVersion" | "kind");
    new.retain(|key, _| free(key) || old.contains_key(key));
    for (key, value) in old {
        if !free(key) && new.get(key) != Some(value) {
            new.insert(key.clone(), value.clone());
        }
    }
}

/// Takes these fields of `metadata` from `old`.
fn keep_metadata(new: &mut Value, old: &Value, keys: &[&str]) {
    if keys.is_empty() {
        return;
    }
    let before = old.get("metadata").unwrap_or(&Value::Null);
    let Some(metadata) = tree::child_mut(new, "metadata") else { return };
    for key in keys {
        tree::keep(metadata, before, key);
    }
}

/// Whether anything but `metadata` and `status` differs.
fn desired_state_changed(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let counts = |key: &str| !matches!(key, "status" | "metadata" | "apiVersion" | "kind");
    new.iter().any(|(key, value)| counts(key) && old.get(key) != Some(value))
        || old.keys().any(|key| counts(key) && !new.contains_key(key))
}

/// The rules of every kind that has none of its own.
struct Generic;

impl Strategy for Generic {
    fn tracks_generation(&self, resource: &Resource) -> bool {
        resource.group == "admissionregistration.k8s.io"
    }
}

/// The rules of kinds whose names carry colons, or dots at the end.
struct FreelyNamed;

impl Strategy for FreelyNamed {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

/// Kinds whose updates must say which version they were made from.
const CONDITIONAL: [(&str, &str); 12] = [
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Whether an update of `resource` may leave out the version it was made from.
pub fn allows_unconditional_update(resource: &Resource) -> bool {
    let (group, plural) = (resource.group.as_str(), resource.plural.as_str());
    !resource.schema.is_empty()
        && !matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io")
        && !CONDITIONAL.contains(&(group, plural))
}

/// The rules of `resource`.
pub fn of(resource: &Resource) -> &'static dyn Strategy {
    use workloads::Workload;
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &pod::Pod,
        ("", "services") => &service::Service,
        ("", "configmaps") => &config::ConfigMap,
        ("", "secrets") => &config::Secret,
        ("", "serviceaccounts") => &config::ServiceAccount,
        ("", "namespaces") => &cluster::Namespace,
        ("", "nodes") => &cluster::Node,
        ("", "events") | ("events.k8s.io", "events") => &cluster::Event,
        ("", "resourcequotas") => &cluster::ResourceQuota,
        ("", "limitranges") => &cluster::LimitRange,
        ("", "endpoints") => &network::Endpoints,
        ("", "persistentvolumes") => &storage::Volume,
        ("", "persistentvolumeclaims") => &storage::Claim,
        ("", "replicationcontrollers") => &Workload::ReplicationController,
        ("apps", "deployments") => &Workload::Deployment,
        ("apps", "replicasets") => &Workload::ReplicaSet,
        ("apps", "statefulsets") => &Workload::StatefulSet,
        ("apps", "daemonsets") => &Workload::DaemonSet,
        ("batch", "jobs") => &batch::Job,
        ("batch", "cronjobs") => &batch::CronJob,
        ("discovery.k8s.io", "endpointslices") => &network::EndpointSlice,
        ("networking.k8s.io", "ingresses") => &network::Ingress,
        ("networking.k8s.io", "ingressclasses") => &network::IngressClass,
        ("networking.k8s.io", "networkpolicies") => &network::NetworkPolicy,
        ("networking.k8s.io", "servicecidrs") => &network::ServiceRange,
        ("networking.k8s.io", "ipaddresses") => &network::Address,
        ("", "podtemplates") => &workloads::PodTemplate,
        ("apps", "controllerrevisions") => &workloads::ControllerRevision,
        ("autoscaling", "horizontalpodautoscalers") => &scaling::Autoscaler,
        ("policy", "poddisruptionbudgets") => &scaling::DisruptionBudget,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => &rbac::Role,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &rbac::Binding,
        ("certificates.k8s.io", "certificatesigningrequests") => &certificate::SigningRequest,
        ("certificates.k8s.io", "clustertrustbundles") => &FreelyNamed,
        ("apiregistration.k8s.io", "apiservices") => &api_service::ApiService,
        ("coordination.k8s.io", "leases") => &cluster::Lease,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &flow::FlowSchema,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &flow::PriorityLevel,
        ("scheduling.k8s.io", "priorityclasses") => &cluster::PriorityClass,
        ("node.k8s.io", "runtimeclasses") => &cluster::RuntimeClass,
        ("storage.k8s.io", "storageclasses") => &storage::Class,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::AttributesClass,
        ("storage.k8s.io", "csidrivers") => &storage::Driver,
        ("storage.k8s.io", "csinodes") => &storage::NodeDrivers,
        ("storage.k8s.io", "csistoragecapacities") => &storage::Capacity,
        ("storage.k8s.io", "volumeattachments") => &storage::Attachment,
        ("apiextensions.k8s.io", "customresourcedefinitions") => &definition::Definition,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => &webhooks::Webhooks { mutating: false },
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &policies::Policy,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => &policies::Binding,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => &webhooks::Webhooks { mutating: true },
        // only what a definition adds has no type of its own
        _ if resource.schema.is_empty() => &custom::Custom,
        _ => &Generic,
    }
}
