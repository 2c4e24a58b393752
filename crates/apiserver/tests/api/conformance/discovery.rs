//! Aggregated discovery, and the server's version.

use http::{Method, header};
use serde_json::{Value, json};

use super::{define, get_as};
use crate::fixture::{Fixture, request};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

fn serves(document: &Value, group: &str, version: &str, resource: &str) -> bool {
    let groups = document["items"].as_array().unwrap().iter();
    let named = groups.filter(|known| known["metadata"]["name"].as_str().unwrap_or_default() == group);
    let versions = named.flat_map(|known| known["versions"].as_array().unwrap());
    let resources = versions.filter(|known| known["version"] == version);
    resources.flat_map(|known| known["resources"].as_array().unwrap()).any(|known| known["resource"] == resource)
}

#[tokio::test]
async fn the_aggregated_documents_hold_every_group() {
    let fixture = Fixture::new().await;
    let apis = get_as(&fixture, "/apis", V2).await;
    assert_eq!(apis.headers[header::CONTENT_TYPE], V2);
    let apis = apis.ok();
    assert_eq!(apis["apiVersion"], "apidiscovery.k8s.io/v2");
    for (group, version, resource) in [
        ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
        ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        ("apiregistration.k8s.io", "v1", "apiservices"),
        ("apps", "v1", "deployments"),
        ("authentication.k8s.io", "v1", "tokenreviews"),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
        ("autoscaling", "v1", "horizontalpodautoscalers"),
        ("autoscaling", "v2", "horizontalpodautoscalers"),
        ("batch", "v1", "jobs"),
        ("certificates.k8s.io", "v1", "certificatesigningrequests"),
        ("coordination.k8s.io", "v1", "leases"),
        ("discovery.k8s.io", "v1", "endpointslices"),
        ("events.k8s.io", "v1", "events"),
        ("networking.k8s.io", "v1", "ingresses"),
        ("node.k8s.io", "v1", "runtimeclasses"),
        ("policy", "v1", "poddisruptionbudgets"),
        ("scheduling.k8s.io", "v1", "priorityclasses"),
        ("storage.k8s.io", "v1", "csinodes"),
    ] {
        assert!(serves(&apis, group, version, resource), "{group} {version} {resource}");
    }
    assert!(serves(&get_as(&fixture, "/api", V2).await.ok(), "", "v1", "namespaces"));
    let beta = get_as(&fixture, "/apis", &format!("{BETA},application/json")).await.ok();
    assert_eq!(beta["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    assert_eq!(get_as(&fixture, "/apis", "application/json").await.ok()["kind"], "APIGroupList");
}

#[tokio::test]
async fn a_definition_changes_the_document_and_its_tag_at_once() {
    let fixture = Fixture::new().await;
    let before = get_as(&fixture, "/apis", V2).await;
    let tag = before.headers[header::ETAG].clone();
    assert!(!serves(&before.ok(), "example.com", "v1", "widgets"));
    let conditional = || {
        let mut request = request(Method::GET, "/apis", "", "");
        request.headers_mut().insert(header::ACCEPT, V2.parse().unwrap());
        request.headers_mut().insert(header::IF_NONE_MATCH, tag.clone());
        request
    };
    assert_eq!(fixture.send(conditional()).await.status, 304);
    define(&fixture, json!({"schema": {"openAPIV3Schema": {"type": "object"}}})).await;
    let after = fixture.send(conditional()).await;
    assert_ne!(after.headers[header::ETAG], tag);
    assert!(serves(&after.ok(), "example.com", "v1", "widgets"));
}

#[tokio::test]
async fn each_group_prefers_a_version_it_has() {
    let fixture = Fixture::new().await;
    for group in fixture.get("/apis").await.ok()["groups"].as_array().unwrap() {
        let preferred = &group["preferredVersion"]["groupVersion"];
        let versions = group["versions"].as_array().unwrap();
        assert!(versions.iter().any(|version| &version["groupVersion"] == preferred), "{group}");
        let path = format!("/apis/{}", preferred.as_str().unwrap());
        let list = fixture.get(&path).await.ok();
        assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), preferred));
        assert!(!list["resources"].as_array().unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn the_version_is_a_number_and_a_minor() {
    let version = Fixture::new().await.get("/version").await.ok();
    assert_eq!(version["major"], "1");
    assert!(version["minor"].as_str().unwrap().trim_end_matches('+').parse::<u32>().is_ok());
}
