//! Collects the descriptions of types and fields that `k8s-openapi` carries in its JSON schemas, as one compressed file.

use std::{collections::BTreeMap, env, error::Error, fs::File, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::{
    api::admissionregistration::v1 as admissionregistration, api::apps::v1 as apps,
    api::authentication::v1 as authentication, api::authorization::v1 as authorization,
    api::autoscaling::v1 as autoscaling, api::autoscaling::v2 as autoscaling_v2, api::batch::v1 as batch,
    api::certificates::v1 as certificates, api::coordination::v1 as coordination, api::core::v1 as core,
    api::discovery::v1 as discovery, api::events::v1 as events, api::flowcontrol::v1 as flowcontrol,
    api::networking::v1 as networking, api::node::v1 as node, api::policy::v1 as policy, api::rbac::v1 as rbac,
    api::resource::v1 as resource, api::scheduling::v1 as scheduling, api::storage::v1 as storage,
    apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions, apimachinery::pkg::apis::meta::v1 as meta,
    kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration,
};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

/// Asks for the schema of each kind; the types of their fields come along.
macro_rules! ask {
    ($generator:ident: $($kind:ty),+) => {
        $($generator.subschema_for::<$kind>();)+
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaGenerator::default();
    ask(&mut generator);
    let types: BTreeMap<String, Value> = generator
        .take_definitions(false)
        .into_iter()
        .map(|(name, schema)| {
            let text = |schema: &Value| schema["description"].as_str().unwrap_or_default().to_owned();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields: BTreeMap<&str, String> = fields.map(|(field, schema)| (field.as_str(), text(schema))).collect();
            let described = json!([text(&schema), fields]);
            (name, described)
        })
        .collect();
    let path = Path::new(&env::var("OUT_DIR")?).join("descriptions.json.gz");
    let mut packed = GzEncoder::new(File::create(path)?, Compression::best());
    packed.write_all(serde_json::to_string(&types)?.as_bytes())?;
    packed.finish()?;
    Ok(())
}

/// The kinds that are served, and those their subresources exchange.
fn ask(generator: &mut SchemaGenerator) {
    ask!(generator:
        admissionregistration::MutatingAdmissionPolicy,
        admissionregistration::MutatingAdmissionPolicyBinding,
        admissionregistration::MutatingWebhookConfiguration,
        admissionregistration::ValidatingAdmissionPolicy,
        admissionregistration::ValidatingAdmissionPolicyBinding,
        admissionregistration::ValidatingWebhookConfiguration, apps::ControllerRevision, apps::DaemonSet,
        apps::Deployment, apps::ReplicaSet, apps::StatefulSet, authentication::SelfSubjectReview,
        authentication::TokenRequest, authentication::TokenReview, authorization::LocalSubjectAccessReview,
        authorization::SelfSubjectAccessReview, authorization::SelfSubjectRulesReview,
        authorization::SubjectAccessReview, autoscaling::HorizontalPodAutoscaler, autoscaling::Scale,
        autoscaling_v2::HorizontalPodAutoscaler, batch::CronJob, batch::Job,
        certificates::CertificateSigningRequest, coordination::Lease, core::Binding, core::ComponentStatus,
        core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::Namespace, core::Node,
        core::PersistentVolume, core::PersistentVolumeClaim, core::Pod, core::PodTemplate,
        core::ReplicationController, core::ResourceQuota, core::Secret, core::Service, core::ServiceAccount,
        discovery::EndpointSlice, events::Event, flowcontrol::FlowSchema,
        flowcontrol::PriorityLevelConfiguration, networking::IPAddress, networking::Ingress,
        networking::IngressClass, networking::NetworkPolicy, networking::ServiceCIDR, node::RuntimeClass,
        policy::Eviction, policy::PodDisruptionBudget, rbac::ClusterRole, rbac::ClusterRoleBinding,
        rbac::Role, rbac::RoleBinding, resource::DeviceClass, resource::ResourceClaim,
        resource::ResourceClaimTemplate, resource::ResourceSlice, scheduling::PriorityClass,
        storage::CSIDriver, storage::CSINode, storage::CSIStorageCapacity, storage::StorageClass,
        storage::VolumeAttachment, storage::VolumeAttributesClass, apiextensions::CustomResourceDefinition,
        meta::APIGroup, meta::APIVersions, meta::DeleteOptions, meta::Status,
        apiregistration::APIService
    );
}
