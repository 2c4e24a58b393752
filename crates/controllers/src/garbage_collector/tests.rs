use kube::discovery::{ApiCapabilities, Scope};
use serde_json::{Value, json};

use super::*;

fn kind(namespaced: bool) -> Arc<Kind> {
    let scope = if namespaced { Scope::Namespaced } else { Scope::Cluster };
    let capabilities = ApiCapabilities { scope, subresources: Vec::new(), operations: Vec::new() };
    Arc::new(Kind::new(ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&()), capabilities))
}

fn object(uid: &str, owners: &[&str], more: Value) -> Metadata {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": true}))
        .collect();
    let mut meta = json!({"name": uid, "namespace": "default", "uid": uid, "ownerReferences": owners});
    for (key, value) in more.as_object().unwrap() {
        meta[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": meta})).unwrap()
}

fn node(uid: &str, owners: &[&str], more: Value) -> Arc<Node> {
    Node::of(&kind(true), &object(uid, owners, more)).unwrap()
}

fn leaving(finalizer: &str) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
}

#[test]
fn each_situation_has_its_step() {
    use OwnerState::{Absent, Solid, Waiting};
    let child = || vec![node("child", &["item"], json!({}))];
    let delete = Step::Delete;
    for (item, owners, dependents, expected) in [
        (node("item", &[], json!({})), vec![], child(), Step::Nothing),
        (node("item", &["a"], json!({})), vec![Solid], vec![], Step::Nothing),
        (node("item", &["a"], json!({})), vec![Absent], child(), delete(PropagationPolicy::Background)),
        (node("item", &["a", "b"], json!({})), vec![Solid, Absent], vec![], Step::RemoveOwners(vec!["b".into()])),
        (node("item", &["a", "b"], json!({})), vec![Waiting, Absent], child(), delete(PropagationPolicy::Foreground)),
        (node("item", &["a"], json!({})), vec![Waiting], vec![], delete(PropagationPolicy::Background)),
        (
            node("item", &["a"], json!({"finalizers": ["orphan"]})),
            vec![Absent],
            vec![],
            delete(PropagationPolicy::Orphan),
        ),
        (node("item", &[], leaving("foregroundDeletion")), vec![], child(), Step::DeleteDependents),
        (node("item", &[], leaving("foregroundDeletion")), vec![], vec![], Step::RemoveFinalizer(FOREGROUND)),
        (node("item", &[], leaving("orphan")), vec![], child(), Step::OrphanDependents),
        (node("item", &["a"], leaving("other")), vec![Absent], vec![], Step::Nothing),
    ] {
        assert_eq!(graph::decide(&item, &owners, &dependents), expected, "{item:?} {owners:?}");
    }
}

#[test]
fn a_circle_of_owners_that_wait_is_broken() {
    let waiting = vec![node("first", &["last"], leaving("foregroundDeletion"))];
    let last = node("last", &["middle"], json!({}));
    assert_eq!(graph::decide(&last, &[OwnerState::Waiting], &waiting), Step::Unblock);
    let mut unblocked = Node::clone(&last);
    unblocked.owners[0].block_owner_deletion = Some(false);
    let step = graph::decide(&unblocked, &[OwnerState::Waiting], &waiting);
    assert_eq!(step, Step::Delete(PropagationPolicy::Foreground));
}

#[test]
fn dependents_are_looked_at_when_their_owner_goes() {
    let mut graph = Graph::default();
    graph.apply(node("owner", &[], json!({})));
    assert!(graph.apply(node("child", &["owner"], json!({}))).is_empty(), "a known owner needs no look");
    assert_eq!(graph.remove("owner", true), ["child"]);
    let child = graph.get("child").unwrap();
    assert_eq!(graph.owner_state(&child, &child.owners[0]), Some(OwnerState::Absent));
    assert_eq!(graph.apply(node("late", &["owner"], json!({}))), ["late"]);
    assert_eq!(graph.apply(node("stranger", &["unheard-of"], json!({}))), ["stranger"]);
}

#[test]
fn foreground_deletion_starts_with_dependents_and_ends_with_the_owner() {
    let mut graph = Graph::default();
    graph.apply(node("owner", &[], json!({})));
    graph.apply(node("child", &["owner"], json!({})));
    let mut affected = graph.apply(node("owner", &[], leaving("foregroundDeletion")));
    affected.sort();
    assert_eq!(affected, ["child", "owner"]);
    let child = graph.get("child").unwrap();
    assert_eq!(graph.owner_state(&child, &child.owners[0]), Some(OwnerState::Waiting));
    assert_eq!(graph.remove("child", true), ["owner"]);
    assert!(graph.dependents("owner").is_empty());
}

#[test]
fn an_owner_in_another_namespace_is_not_taken_for_granted() {
    let mut graph = Graph::default();
    graph.apply(node("owner", &[], json!({})));
    let elsewhere = node("child", &["owner"], json!({"namespace": "other"}));
    assert_eq!(graph.owner_state(&elsewhere, &elsewhere.owners[0]), None);
}

#[test]
fn a_kind_that_is_not_served_any_more_leaves_its_dependents_to_the_server() {
    let mut graph = Graph::default();
    let kind = kind(true);
    graph.apply(Node::of(&kind, &object("owner", &[], json!({}))).unwrap());
    graph.apply(node("child", &["owner"], json!({})));
    assert_eq!(graph.remove_kind(&kind), ["child"]);
    let child = graph.get("child").unwrap();
    assert_eq!(graph.owner_state(&child, &child.owners[0]), None, "not known to be gone");
}
