//! Objects that every cluster has: what joining machines are told, the Services `kubernetes` in front of the API and `kube-dns` in front of DNS, and the
//! classes that name what this node offers: StorageClasses, one of them the default, a GatewayClass and a default IngressClass.

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use kube::api::{Api as Objects, DynamicObject, Patch, PatchParams, PostParams};
use network::Slot;
use serde_json::{Value, json};

use super::{
    api::{Api, first_of},
    certificates::Roots,
    front_proxy::FrontProxy,
};

/// Name under which we own the fields.
const FIELD_MANAGER: &str = "keelson";

/// Creates or updates them. Without a node nobody can route to a service, and only the address is reserved.
pub(super) async fn publish(api: &Api, slot: Option<Slot>) -> anyhow::Result<()> {
    let client = api.administrator();
    let roots = api.roots().borrow().clone();
    publish_roots(&client, &api.url, &roots, &api.front_proxy).await?;
    apply(&client, kubernetes(&first_of(api.service_block).to_string())).await?;
    let Some(slot) = slot else { return Ok(()) };
    let bridge = slot.bridge_ip().to_string();
    let ports = json!([{"name": "https", "port": api.port, "protocol": "TCP"}]);
    apply(&client, slice("default", "kubernetes", &bridge, ports.clone())).await?;
    apply(&client, endpoints("default", "kubernetes", &bridge, ports)).await?;
    let dns = slot.dns_ip().to_string();
    apply(&client, kube_dns(&dns)).await?;
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    apply(&client, slice("kube-system", "kube-dns", &dns, ports.clone())).await?;
    apply(&client, endpoints("kube-system", "kube-dns", &dns, ports)).await?;
    for class in classes() {
        apply(&client, class).await?;
    }
    publish_storage_classes(&client).await
}

/// Creates the classes of volumes that are missing.
pub(super) async fn publish_storage_classes(client: &kube::Client) -> anyhow::Result<()> {
    for class in storage_classes() {
        create(client, class).await?;
    }
    Ok(())
}

/// Creates or updates what tells others by which roots to know this server, and whom it believes.
pub(super) async fn publish_roots(
    client: &kube::Client,
    url: &str,
    roots: &Roots,
    front_proxy: &FrontProxy,
) -> anyhow::Result<()> {
    apply(client, cluster_info(url, &roots.clients)).await?;
    apply(client, front_proxy.published(roots)).await
}

/// Directories of the node, under the names by which manifests for local clusters ask for them: `local-path`, the default, is
/// what K3s calls it, `standard` what kind and minikube do.
fn storage_classes() -> [Value; 2] {
    let class = |name: &str, default: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
            "provisioner": node::provisioner::PROVISIONER, "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true})
    };
    [class("local-path", "true"), class("standard", "false")]
}

fn classes() -> [Value; 2] {
    [
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "keelson"},
            "spec": {"controllerName": "keelson.dev/gateway"}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "keelson", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": "keelson.dev/ingress"}}),
    ]
}

/// Where the cluster is and how to know it, for machines that join; a controller signs it with every bootstrap token.
fn cluster_info(url: &str, roots_pem: &str) -> Value {
    let cluster = json!({"certificate-authority-data": BASE64.encode(roots_pem), "server": url});
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}],
        "contexts": [], "current-context": "", "preferences": {}, "users": []});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig.to_string()}})
}

fn kubernetes(address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}})
}

fn kube_dns(address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]}})
}

fn slice(namespace: &str, service: &str, address: &str, ports: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}}]})
}

/// The older form of [`slice`], which clients still ask for by name.
fn endpoints(namespace: &str, service: &str, address: &str, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": service, "namespace": namespace,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": ports}]})
}

/// Makes an object that is its users' from then on: which class is the default is for them to say.
async fn create(client: &kube::Client, object: Value) -> anyhow::Result<()> {
    let (object, objects) = prepare(client, object)?;
    match objects.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => created.map(drop).with_context(|| format!("create {}", described(&object))),
    }
}

async fn apply(client: &kube::Client, object: Value) -> anyhow::Result<()> {
    let (object, objects) = prepare(client, object)?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = objects.patch(&name, &parameters, &Patch::Apply(&object)).await;
    applied.map(drop).with_context(|| format!("apply {}", described(&object)))
}

fn described(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{kind} {}/{}", part(&object.metadata.namespace), part(&object.metadata.name))
}

/// The object, and where objects of its kind and namespace are.
fn prepare(client: &kube::Client, object: Value) -> anyhow::Result<(DynamicObject, Objects<DynamicObject>)> {
    let object: DynamicObject = serde_json::from_value(object).context("encode an object")?;
    let types = object.types.clone().context("an object without a kind")?;
    let gvk = kube::core::GroupVersionKind::try_from(&types).context("an object without a version")?;
    // kube's guess at the plural holds for every kind named here.
    let resource = kube::core::ApiResource::from_gvk(&gvk);
    let objects = match object.metadata.namespace.as_deref() {
        None | Some("") => Objects::all_with(client.clone(), &resource),
        Some(namespace) => Objects::namespaced_with(client.clone(), namespace, &resource),
    };
    Ok((object, objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_endpoints_say_the_same() {
        let ports = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
        let new = slice("default", "kubernetes", "10.0.0.1", ports.clone());
        let old = endpoints("default", "kubernetes", "10.0.0.1", ports);
        assert_eq!(old["metadata"]["name"], new["metadata"]["name"]);
        assert_eq!(old["subsets"][0]["addresses"][0]["ip"], new["endpoints"][0]["addresses"][0]);
        assert_eq!(old["subsets"][0]["ports"], new["ports"]);
        // a mirror of it would be a second slice of the same service
        assert_eq!(old["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"], "true");
    }
}
