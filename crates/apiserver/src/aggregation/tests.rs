use serde_json::json;

use super::{
    check::{Availability, missing},
    *,
};

fn service(group: &str, version: &str, priorities: (i64, i64)) -> (String, Value) {
    let name = format!("{version}.{group}");
    let object = json!({"metadata": {"name": name}, "spec": {"group": group, "version": version,
        "service": {"namespace": "n", "name": "s"}, "groupPriorityMinimum": priorities.0,
        "versionPriority": priorities.1}, "status": {"conditions": [{"type": "Available", "status": "True"}]}});
    (name, object)
}

fn aggregation(services: Vec<(String, Value)>) -> Aggregation {
    let aggregation = Aggregation::default();
    aggregation.load(services.into_iter());
    aggregation
}

#[test]
fn a_group_version_goes_to_its_server_as_a_whole() {
    let aggregation = aggregation(vec![service("wardle.example.com", "v1alpha1", (2000, 200))]);
    let find = |path: &str| aggregation.find(&crate::path::parse(path)).map(|remote| remote.name.clone());
    let name = Some("v1alpha1.wardle.example.com".to_owned());
    assert_eq!(find("/apis/wardle.example.com/v1alpha1"), name);
    assert_eq!(find("/apis/wardle.example.com/v1alpha1/namespaces/n/flunders/f/status"), name);
    assert_eq!(find("/openapi/v3/apis/wardle.example.com/v1alpha1"), name);
    assert_eq!(find("/apis/wardle.example.com/v1/flunders"), None);
    assert_eq!(find("/apis/wardle.example.com"), None);
    aggregation.apply(COLLECTION, "v1alpha1.wardle.example.com", || None);
    assert_eq!(find("/apis/wardle.example.com/v1alpha1"), None);
}

#[test]
fn what_is_missing_in_the_cluster_is_named() {
    let remote = Remote::decode(&service("g.io", "v1", (1, 1)).1).unwrap();
    let says = |object: Option<Value>, slices: &[Value]| {
        missing(&remote, object.as_ref(), slices).map(|Availability { reason, message, .. }| (reason, message))
    };
    assert_eq!(says(None, &[]), Some(("ServiceNotFound", "service/s in \"n\" is not present".into())));
    let service = |port: u16| Some(json!({"spec": {"type": "ClusterIP", "ports": [{"port": port, "name": "https"}]}}));
    assert_eq!(
        says(service(80), &[]),
        Some(("ServicePortError", "service/s in \"n\" is not listening on port 443".into()))
    );
    assert_eq!(
        says(service(443), &[]),
        Some(("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"".into()))
    );
    let slice = |ready: bool| {
        json!({"ports": [{"name": "https", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
    };
    assert_eq!(
        says(service(443), &[slice(false)]),
        Some((
            "MissingEndpoints",
            "endpoints for service/s in \"n\" have no addresses with port name \"https\"".into()
        ))
    );
    assert_eq!(says(service(443), &[slice(true)]), None);
    assert_eq!(says(Some(json!({"spec": {"type": "ExternalName"}})), &[]), None);
}

#[test]
fn groups_of_other_servers_take_their_rank() {
    let aggregation = aggregation(vec![
        service("low.io", "v1", (500, 10)),
        service("metrics.k8s.io", "v1beta1", (2000, 10)),
        service("own.io", "v2", (900, 200)),
    ]);
    let version = |version: &str| json!({"groupVersion": format!("own.io/{version}"), "version": version});
    let mut groups =
        vec![json!({"name": "apps", "versions": []}), json!({"name": "own.io", "versions": [version("v1")]})];
    classic(&mut groups, 1, &aggregation.remotes());
    let names: Vec<&str> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["apps", "metrics.k8s.io", "own.io", "low.io"]);
    assert_eq!(groups[2]["preferredVersion"]["version"], "v2");
    let mut items = vec![json!({"metadata": {"name": "apps"}, "versions": []})];
    aggregated(&mut items, 1, &aggregation.remotes());
    assert_eq!(items[1]["versions"], json!([{"version": "v1beta1", "resources": [], "freshness": "Stale"}]));
}

#[test]
fn a_list_of_resources_becomes_aggregated_discovery() {
    let remote = Remote::decode(&service("g.io", "v1", (1, 1)).1).unwrap();
    let list = json!({"resources": [
        {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
        {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]}]});
    let kind = json!({"group": "g.io", "version": "v1", "kind": "Flunder"});
    assert_eq!(
        merge::resources(&remote, &list),
        json!([{"resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder",
            "verbs": ["get"], "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}]}])
    );
}

#[test]
fn documents_take_over_what_is_missing() {
    let aggregation = aggregation(vec![service("g.io", "v1", (1, 1))]);
    let theirs =
        json!({"paths": {"/apis/g.io/v1/things": 1, "/apis/": 1}, "definitions": {"a": "theirs", "b": "theirs"}});
    let said = Discovered {
        open_api_v2: Some(theirs),
        open_api_v3: Some("/openapi/v3/apis/g.io/v1?hash=1".into()),
        ..Discovered::default()
    };
    aggregation.remotes()[0].discovered.store(Some(Arc::new(said)));
    let mut document = json!({"paths": {}, "definitions": {"a": "ours"}});
    open_api_v2(&mut document, &aggregation.remotes());
    assert_eq!(document, json!({"paths": {"/apis/g.io/v1/things": 1}, "definitions": {"a": "ours", "b": "theirs"}}));
    let mut index = json!({"paths": {}});
    open_api_v3(&mut index, &aggregation.remotes());
    assert_eq!(index["paths"]["apis/g.io/v1"]["serverRelativeURL"], "/openapi/v3/apis/g.io/v1?hash=1");
}
