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
    let middle = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "middle", "uid": "middle", "blockOwnerDeletion": false});
    let unblocked = node("last", &[], json!({"ownerReferences": [middle]}));
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
    assert_eq!(graph.owner_state(&child, &child.owners()[0]), Some(OwnerState::Absent));
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
    assert_eq!(graph.owner_state(&child, &child.owners()[0]), Some(OwnerState::Waiting));
    assert_eq!(graph.remove("child", true), ["owner"]);
    assert!(graph.dependents("owner").is_empty());
}

#[test]
fn an_owner_counts_only_under_what_it_is_called_and_where_it_may_be_looked_for() {
    let mut graph = Graph::default();
    graph.apply(node("owner", &[], json!({})));
    let reference = |change: &str, value: &str| {
        let mut owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "owner"});
        if !change.is_empty() {
            owner[change] = value.into();
        }
        owner
    };
    for (namespace, owner, known) in [
        ("default", reference("", ""), true),
        ("default", reference("name", "another"), false),
        ("default", reference("kind", "Secret"), false),
        ("default", reference("apiVersion", "v2"), false),
        ("other", reference("", ""), false),
        ("", reference("", ""), false),
    ] {
        let child = node("child", &[], json!({"namespace": namespace, "ownerReferences": [owner]}));
        let expected = known.then_some(OwnerState::Solid);
        assert_eq!(graph.owner_state(&child, &child.owners()[0]), expected, "{child:?}");
        assert_eq!(graph.is_out_of_reach(&child, &child.owners()[0]), namespace != "default");
        assert_eq!(graph.apply(child).is_empty(), known, "what is not known is asked for");
        graph.remove("child", true);
    }
}

#[test]
fn an_owner_missing_in_one_place_is_not_missing_in_another() {
    let mut graph = Graph::default();
    let wrong = node("wrong", &["owner"], json!({"namespace": "other"}));
    let right = node("right", &["owner"], json!({}));
    graph.note_absent(&wrong.owners()[0], "other");
    assert_eq!(graph.owner_state(&wrong, &wrong.owners()[0]), Some(OwnerState::Absent));
    assert_eq!(graph.owner_state(&right, &right.owners()[0]), None);
    graph.apply(node("owner", &[], json!({})));
    assert_eq!(graph.owner_state(&right, &right.owners()[0]), Some(OwnerState::Solid));
    assert_eq!(graph.owner_state(&wrong, &wrong.owners()[0]), Some(OwnerState::Absent));
    // of a kind without namespaces it is missing everywhere
    let (here, there) =
        (node("here", &["global"], json!({})), node("there", &["global"], json!({"namespace": "other"})));
    graph.note_absent(&here.owners()[0], "");
    assert_eq!(graph.owner_state(&there, &there.owners()[0]), Some(OwnerState::Absent));
}

#[test]
fn a_kind_that_is_not_served_any_more_leaves_its_dependents_to_the_server() {
    let mut graph = Graph::default();
    let kind = kind(true);
    graph.apply(Node::of(&kind, &object("owner", &[], json!({}))).unwrap());
    graph.apply(node("child", &["owner"], json!({})));
    assert_eq!(graph.remove_kind(&kind), ["child"]);
    let child = graph.get("child").unwrap();
    assert_eq!(graph.owner_state(&child, &child.owners()[0]), None, "not known to be gone");
}

#[test]
fn objects_made_alike_share_what_owns_them() {
    let mut graph = Graph::default();
    for uid in ["owner", "other"] {
        graph.apply(node(uid, &[], json!({})));
    }
    let owners = |graph: &Graph, uid: &str| graph.get(uid).unwrap().owners().as_ptr();
    for uid in ["a", "b"] {
        graph.apply(node(uid, &["owner"], json!({})));
    }
    assert_eq!(owners(&graph, "a"), owners(&graph, "b"));
    let before = owners(&graph, "a");
    graph.apply(node("a", &["owner"], json!({"resourceVersion": "7"})));
    assert_eq!(owners(&graph, "a"), before);
    assert_eq!(graph.get("a").unwrap().resource_version(), Some("7"));
    assert_eq!(graph.dependents("owner").iter().filter(|node| node.resource_version() == Some("7")).count(), 1);
    graph.apply(node("a", &["other"], json!({})));
    assert_ne!(owners(&graph, "a"), before);
    assert_eq!((graph.dependents("owner").len(), graph.dependents("other").len()), (1, 1));
    assert_eq!(graph.get("a").unwrap().key(), reconcile::Key::new("default", "a"));
}
