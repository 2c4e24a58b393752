use std::collections::HashSet;

use serde_json::json;

use super::*;

fn entries() -> Vec<Entry> {
    kinds::builtin().iter().map(Entry::from).collect()
}

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut HashSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn dangling(document: &Value) -> Vec<String> {
    let mut found = HashSet::new();
    references(document, &mut found);
    found.into_iter().filter(|name| document.pointer(name.trim_start_matches('#')).is_none()).collect()
}

#[test]
fn v3_tells_kubectl_what_it_looks_for() {
    let document = v3("apps", "v1", &entries());
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.keys().all(|path| path.starts_with("/apis/apps/v1/")));
    let patch = &paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"));
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
    assert!(paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"].is_object());
}

#[test]
fn v2_says_what_lists_and_their_parameters_are_for() {
    let document = v2(&entries());
    let services = &document["definitions"]["io.k8s.api.core.v1.ServiceList"]["properties"]["items"];
    assert_eq!(services["description"], "List of services");
    let list = document["paths"]["/api/v1/services"]["get"]["parameters"].as_array().unwrap();
    assert!(list.contains(&json!({"$ref": "#/parameters/fieldSelector"})));
    let selector = &document["parameters"]["fieldSelector"];
    assert_eq!((&selector["name"], &selector["in"]), (&json!("fieldSelector"), &json!("query")));
    assert!(selector["description"].as_str().unwrap().contains("list of returned objects"));
}

#[test]
fn every_reference_is_defined() {
    assert_eq!(dangling(&v2(&entries())), [""; 0]);
    for row in kinds::builtin() {
        assert_eq!(dangling(&v3(&row.group, &row.version, &entries())), [""; 0], "{}", row.api_version());
    }
}

#[test]
fn custom_resources_are_published_as_written() {
    let resource = Resource {
        group: "shop.example.com".to_owned(),
        version: "v1".to_owned(),
        plural: "carts".to_owned(),
        singular: "cart".to_owned(),
        kind: "Cart".to_owned(),
        list_kind: "CartList".to_owned(),
        namespaced: true,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: ["get", "list", "patch"].map(str::to_owned).to_vec(),
        subresources: Vec::new(),
        schema: String::new(),
    };
    let written = json!({"type": "object", "properties": {"spec": {
        "type": "object", "description": "What is in it.", "nullable": true}}});
    let entry = Entry { resource: Arc::new(resource), document: Some(Arc::new(written)) };
    let document = v3("shop.example.com", "v1", std::slice::from_ref(&entry));
    let cart = &document["components"]["schemas"]["com.example.shop.v1.Cart"];
    assert_eq!(cart["properties"]["spec"]["description"], "What is in it.");
    assert_eq!(dangling(&document), [""; 0]);
    let patch = &document["paths"]["/apis/shop.example.com/v1/namespaces/{namespace}/carts/{name}"]["patch"];
    let types: Vec<&String> = patch["requestBody"]["content"].as_object().unwrap().keys().collect();
    let offered = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    assert_eq!(types, offered, "a strategic merge patch needs rules that custom resources do not have");
    let document = v2(&[entry]);
    assert!(document["definitions"]["com.example.shop.v1.Cart"]["properties"]["spec"].get("nullable").is_none());
    assert_eq!(dangling(&document), [""; 0]);
}

/// Parts of a message by number, read without a table.
fn parts(bytes: &[u8], wanted: u32) -> Vec<Vec<u8>> {
    let mut reader = crate::protobuf::Reader::new(bytes);
    let mut found = Vec::new();
    while let Some((number, value)) = reader.field().unwrap() {
        if number == wanted {
            found.push(value.bytes().unwrap().to_vec());
        }
    }
    found
}

fn part(bytes: &[u8], path: &[u32]) -> Vec<u8> {
    path.iter().fold(bytes.to_vec(), |bytes, number| parts(&bytes, *number).swap_remove(0))
}

#[test]
fn the_encoded_document_tells_which_parameters_a_patch_takes() {
    let document = v2(&entries());
    let encoded = v2_protobuf(&document);
    assert_eq!(part(&encoded, &[1]), b"2.0");
    assert_eq!(parts(&part(&encoded, &[9]), 1).len(), document["definitions"].as_object().unwrap().len());
    let paths = parts(&part(&encoded, &[8]), 2);
    let namespace = paths.iter().find(|path| part(path, &[1]) == b"/api/v1/namespaces/{name}").unwrap();
    let patch = part(namespace, &[2, 8]);
    let names: Vec<Vec<u8>> = parts(&patch, 8)
        .iter()
        .filter(|parameter| !parts(parameter, 2).is_empty())
        .map(|parameter| part(parameter, &[2, 1]))
        .collect();
    assert!(names.contains(&b"#/parameters/fieldValidation".to_vec()), "{names:?}");
    let shared = parts(&part(&encoded, &[10]), 1);
    let watch = shared.iter().find(|named| part(named, &[1]) == b"watch").unwrap();
    assert!(part(watch, &[2, 2, 3, 3]).starts_with(b"Watch for changes to the described resources"));
    let extensions = parts(&patch, 13);
    let gvk = extensions.iter().find(|named| part(named, &[1]) == b"x-kubernetes-group-version-kind").unwrap();
    assert_eq!(part(gvk, &[2, 2]), br#"{"group":"","kind":"Namespace","version":"v1"}"#);
}

fn published(document: Value, version: Version) -> Value {
    let mut resource = Resource::clone(kinds::builtin().iter().find(|known| known.plural == "pods").unwrap());
    (resource.group, resource.kind) = ("example.com".to_owned(), "Open".to_owned());
    let name = type_name(&resource);
    let mut schemas = BTreeMap::new();
    types::custom(&resource, &document, version, &mut schemas);
    schemas.remove(&name).unwrap()
}

#[test]
fn v2_names_no_field_of_what_takes_any() {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}});
    let root = published(open.clone(), Version::V2);
    assert_eq!(root.as_object().unwrap().keys().collect::<Vec<_>>(), ["type", "x-kubernetes-group-version-kind"]);
    assert_eq!(published(open.clone(), Version::V3)["properties"]["a"], json!({}));
    let nested = json!({"type": "object", "required": ["b", "c"], "properties": {"a": open,
        "b": {"type": "array", "items": {"type": "string"}, "nullable": true}, "c": {"type": "string"}}});
    let v2 = published(nested, Version::V2);
    assert_eq!(v2["properties"]["a"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!((&v2["properties"]["b"], &v2["required"]), (&json!({}), &json!(["c"])));
}

#[test]
fn an_embedded_object_has_the_fields_of_every_object() {
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true});
    let document = json!({"type": "object", "properties": {"template": embedded}});
    for version in [Version::V2, Version::V3] {
        let template = &published(document.clone(), version)["properties"]["template"];
        assert_eq!(template["required"], json!(["kind", "apiVersion"]));
        assert_eq!(template["properties"]["metadata"], version.reference(OBJECT_META));
    }
}
