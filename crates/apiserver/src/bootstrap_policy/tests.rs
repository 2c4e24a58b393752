use std::collections::HashSet;

use super::*;
use crate::authorization::{Attributes, Authorizer, Decision};
use strategy::User;

fn cluster() -> Authorizer {
    let (authorizer, objects) = (Authorizer::new(), objects());
    authorizer.apply_all(objects.iter().map(|object| (object.collection, object.path.as_str(), Some(&object.object))));
    authorizer
}

fn may(authorizer: &Authorizer, user: &User, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = Attributes { user, verb, group, resource, subresource, namespace, name: "x", path: None };
    authorizer.authorize(&attributes) == Decision::Allow
}

#[test]
fn every_object_has_one_place_and_every_binding_a_role() {
    let objects = objects();
    let places: HashSet<(&str, &str)> =
        objects.iter().map(|object| (object.collection, object.path.as_str())).collect();
    assert_eq!(places.len(), objects.len());
    for object in &objects {
        let Some(role) = object.object.get("roleRef") else { continue };
        let found = objects.iter().any(|other| {
            other.object["kind"] == role["kind"]
                && other.object["metadata"]["name"] == role["name"]
                && other.object["metadata"]["namespace"]
                    == if role["kind"] == "Role" { object.object["metadata"]["namespace"].clone() } else { Value::Null }
        });
        assert!(found, "{}", object.path);
    }
    for object in objects.iter().filter(|object| object.object.get("rules").is_some()) {
        assert!(!list(&object.object, "rules").is_empty(), "{}", object.path);
    }
}

#[test]
fn components_and_users_get_what_they_need() {
    let authorizer = cluster();
    let anonymous = User::anonymous();
    let path = |user: &User, path: &'static str| {
        authorizer.authorize(&Attributes {
            user,
            verb: "get",
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: Some(path),
        }) == Decision::Allow
    };
    assert!(path(&anonymous, "/healthz") && !path(&anonymous, "/apis"));
    assert!(path(&User::new("u", &["system:authenticated"]), "/apis/apps/v1"));
    let scheduler = User::new("system:kube-scheduler", &[]);
    assert!(may(&authorizer, &scheduler, "create", "", "pods/binding", "n"));
    assert!(!may(&authorizer, &scheduler, "create", "", "pods", "n"));
    let replicas = User::new("system:serviceaccount:kube-system:replicaset-controller", &[]);
    assert!(may(&authorizer, &replicas, "create", "", "pods", "n"));
    assert!(may(&authorizer, &replicas, "update", "apps", "replicasets/status", "n"));
    let node = User::new("system:node:a", &["system:nodes"]);
    assert!(!may(&authorizer, &node, "patch", "", "pods/status", "n"), "nodes have no role");
}

#[test]
fn edit_contains_view_and_admin_contains_edit() {
    let authorizer = cluster();
    let bind = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": role}]});
    for role in ["view", "edit", "admin"] {
        let path = format!("n/{role}");
        authorizer.apply("rbac.authorization.k8s.io/rolebindings", &path, Some(&bind(role)));
    }
    let (view, edit, admin) = (User::new("view", &[]), User::new("edit", &[]), User::new("admin", &[]));
    for (verb, group, resource, allowed) in [
        ("list", "", "pods", [true, true, true]),
        ("get", "", "secrets", [false, true, true]),
        ("create", "apps", "deployments", [false, true, true]),
        ("create", "rbac.authorization.k8s.io", "roles", [false, false, true]),
        ("update", "", "namespaces", [false, false, false]),
    ] {
        let found = [&view, &edit, &admin].map(|user| may(&authorizer, user, verb, group, resource, "n"));
        assert_eq!(found, allowed, "{verb} {resource}");
        assert!(!may(&authorizer, &admin, verb, group, resource, "other"));
    }
}

#[test]
fn reconciling_adds_and_never_takes_away() {
    let wanted = json!({"metadata": {"labels": {"a": "b"}}, "rules": [
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]},
    ]});
    assert_eq!(reconcile(None, &wanted), Some(wanted.clone()));
    assert_eq!(reconcile(Some(&wanted), &wanted), None);
    let current = json!({"metadata": {"uid": "1", "labels": {"a": "mine"}}, "rules": [
        {"verbs": ["get", "delete"], "apiGroups": ["", "apps"], "resources": ["*"]}
    ]});
    let merged = reconcile(Some(&current), &wanted).unwrap();
    assert_eq!(merged["rules"].as_array().unwrap().len(), 2);
    assert_eq!(merged["rules"][1], wanted["rules"][1]);
    assert_eq!(merged["metadata"], current["metadata"]);
    let mut closed = current;
    closed["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
    assert_eq!(reconcile(Some(&closed), &wanted), None);
    let binding = |subjects: Value| json!({"roleRef": {"name": "r"}, "subjects": subjects, "metadata": {}});
    let merged = reconcile(Some(&binding(json!(["mine"]))), &binding(json!(["theirs"]))).unwrap();
    assert_eq!(merged["subjects"], json!(["mine", "theirs"]));
}

#[test]
fn aggregated_rules_stand_in_the_order_of_names() {
    let objects = objects();
    let rules = |name: &str| {
        let role = objects.iter().find(|object| object.path == name && object.object["kind"] == "ClusterRole").unwrap();
        list(&role.object, "rules").to_vec()
    };
    let joined = |names: [&str; 2]| {
        let mut all: Vec<Value> = Vec::new();
        for rule in names.iter().flat_map(|name| rules(name)) {
            if !all.contains(&rule) {
                all.push(rule);
            }
        }
        all
    };
    assert_eq!(rules("view"), rules("system:aggregate-to-view"));
    assert_eq!(rules("edit"), joined(["system:aggregate-to-edit", "view"]));
    assert_eq!(rules("admin"), joined(["edit", "system:aggregate-to-admin"]));
}
