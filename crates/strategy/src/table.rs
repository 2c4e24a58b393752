//! What `kubectl get` prints: the columns of each kind and the cells of each object.
//!
//! Every kind without columns of its own prints its name and age; a custom resource prints what its definition says
//! ([`CustomColumns`]).

use jiff::Timestamp;
use kinds::Resource;
use serde_json::Value;

use crate::tree;

mod cluster;
mod custom;
mod duration;
mod format;
mod json_path;
mod network;
mod pod;
mod policy;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

pub use custom::{CustomColumn, CustomColumns};
pub use duration::age;
pub use json_path::{JsonPath, JsonPathError};

/// A column of a `Table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Head of the column, for example `Ready`.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub type_: &'static str,
    /// OpenAPI format of the cells; `name` marks the object's name.
    pub format: &'static str,
    /// What the column says.
    pub description: &'static str,
    /// 0 for always; higher ones show with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column of text that always shows.
    const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, type_: "string", format: "", description, priority: 0 }
    }

    /// A column of numbers that always shows.
    const fn number(name: &'static str, description: &'static str) -> Self {
        Self { name, type_: "integer", format: "", description, priority: 0 }
    }

    /// A column of yes and no that always shows.
    const fn flag(name: &'static str, description: &'static str) -> Self {
        Self { name, type_: "boolean", format: "", description, priority: 0 }
    }

    /// The same column, shown with `-o wide` only.
    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// The object's name.
const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};
/// Time since the object's creation.
const AGE: Column = Column::text("Age", "Time since the object was created.");

/// Columns of a Scale.
pub const SCALE: [Column; 4] = [
    NAME,
    Column::number("Desired", "Replicas that are wanted."),
    Column::number("Available", "Replicas that there are."),
    AGE,
];

/// The cells of a Scale.
pub fn scale_cells(scale: &Value, now: Timestamp) -> Vec<Value> {
    let count = |part: &str| tree::at(scale, &[part, "replicas"]).cloned().unwrap_or_default();
    vec![tree::name(scale).into(), count("spec"), count("status"), format::created(scale, now)]
}
/// When the object was created.
const CREATED_AT: Column = Column::text("Created At", "When the object was created.");
const CONTAINERS: Column = Column::text("Containers", "Names of each container in the template.").wide();
const IMAGES: Column = Column::text("Images", "Images referenced by each container in the template.").wide();
const SELECTOR: Column = Column::text("Selector", "Label query over the pods that belong to the object.").wide();

/// How one kind prints.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

static GENERIC: Printer = Printer {
    columns: &[NAME, AGE],
    cells: |object, now| vec![tree::name(object).into(), format::created(object, now)],
};

static CREATED: Printer = Printer {
    columns: &[NAME, CREATED_AT],
    cells: |object, _| {
        vec![tree::name(object).into(), tree::text_at(object, &["metadata", "creationTimestamp"]).into()]
    },
};

fn printer(resource: &Resource) -> &'static Printer {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &pod::POD,
        ("", "podtemplates") => &workloads::POD_TEMPLATE,
        ("", "replicationcontrollers") => &workloads::REPLICATION_CONTROLLER,
        ("apps", "replicasets") => &workloads::REPLICA_SET,
        ("apps", "deployments") => &workloads::DEPLOYMENT,
        ("apps", "statefulsets") => &workloads::STATEFUL_SET,
        ("apps", "daemonsets") => &workloads::DAEMON_SET,
        ("apps", "controllerrevisions") => &workloads::CONTROLLER_REVISION,
        ("batch", "jobs") => &workloads::JOB,
        ("batch", "cronjobs") => &workloads::CRON_JOB,
        ("", "services") => &network::SERVICE,
        ("", "endpoints") => &network::ENDPOINTS,
        ("discovery.k8s.io", "endpointslices") => &network::ENDPOINT_SLICE,
        ("networking.k8s.io", "ingresses") => &network::INGRESS,
        ("networking.k8s.io", "ingressclasses") => &network::INGRESS_CLASS,
        ("networking.k8s.io", "networkpolicies") => &network::NETWORK_POLICY,
        ("networking.k8s.io", "servicecidrs") => &network::SERVICE_CIDR,
        ("networking.k8s.io", "ipaddresses") => &network::IP_ADDRESS,
        ("", "nodes") => &cluster::NODE,
        ("", "namespaces") => &cluster::NAMESPACE,
        ("", "events") | ("events.k8s.io", "events") => &cluster::EVENT,
        ("", "configmaps") => &cluster::CONFIG_MAP,
        ("", "componentstatuses") => &cluster::COMPONENT_STATUS,
        ("", "secrets") => &cluster::SECRET,
        ("", "serviceaccounts") => &cluster::SERVICE_ACCOUNT,
        ("", "resourcequotas") => &cluster::RESOURCE_QUOTA,
        ("coordination.k8s.io", "leases") => &cluster::LEASE,
        ("scheduling.k8s.io", "priorityclasses") => &cluster::PRIORITY_CLASS,
        ("node.k8s.io", "runtimeclasses") => &cluster::RUNTIME_CLASS,
        ("", "persistentvolumes") => &storage::VOLUME,
        ("", "persistentvolumeclaims") => &storage::CLAIM,
        ("storage.k8s.io", "storageclasses") => &storage::CLASS,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::ATTRIBUTES_CLASS_KIND,
        ("storage.k8s.io", "volumeattachments") => &storage::ATTACHMENT,
        ("storage.k8s.io", "csidrivers") => &storage::DRIVER,
        ("storage.k8s.io", "csinodes") => &storage::DRIVERS_OF_NODE,
        ("storage.k8s.io", "csistoragecapacities") => &storage::ROOM,
        ("autoscaling", "horizontalpodautoscalers") => &policy::AUTOSCALER,
        ("policy", "poddisruptionbudgets") => &policy::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &policy::ROLE_BINDING,
        ("certificates.k8s.io", "certificatesigningrequests") => &policy::SIGNING_REQUEST,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations" | "mutatingwebhookconfigurations") => {
            &policy::WEBHOOKS
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &policy::VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &policy::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings") => {
            &policy::POLICY_BINDING
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &policy::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &policy::PRIORITY_LEVEL,
        ("apiregistration.k8s.io", "apiservices") => &policy::API_SERVICE,
        ("", "limitranges")
        | ("rbac.authorization.k8s.io", "roles" | "clusterroles")
        | ("apiextensions.k8s.io", "customresourcedefinitions") => &CREATED,
        _ => &GENERIC,
    }
}

/// The columns of `resource`.
pub fn columns(resource: &Resource) -> &'static [Column] {
    printer(resource).columns
}

/// The cells of one object, one per column of [`columns`].
pub fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    (printer(resource).cells)(object, now)
}
