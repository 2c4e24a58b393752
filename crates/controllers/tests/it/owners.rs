//! What owner references do to deletions: upstream's integration tests of its garbage collector, rule by rule.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

/// A reference to an object of a version and kind.
fn reference(version: &str, kind: &str, owner: &impl ResourceExt, blocks: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "name": owner.name_any(), "uid": owner.uid(), "blockOwnerDeletion": blocks})
}

fn to_map(owner: &ConfigMap, blocks: Value) -> Value {
    reference("v1", "ConfigMap", owner, blocks)
}

async fn map(cluster: &Cluster, name: &str, owners: Vec<Value>, finalizers: &[&str]) -> ConfigMap {
    cluster.create(json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers}})).await
}

/// Waits until the server's object is as wished, or gone where that is wished.
async fn until(cluster: &Cluster, name: &str, is: impl Fn(Option<&ConfigMap>) -> bool) {
    let maps = cluster.api::<ConfigMap>();
    let look = async {
        while !is(maps.get_opt(name).await.unwrap().as_ref()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), look).await.is_ok(), "{name}");
}

async fn gone(cluster: &Cluster, name: &str) {
    until(cluster, name, |found| found.is_none()).await;
}

async fn let_go(cluster: &Cluster, name: &str) {
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.api::<ConfigMap>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn leaves(found: Option<&ConfigMap>) -> bool {
    found.is_some_and(|found| found.meta().deletion_timestamp.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_stays_keeps_its_dependents_and_does_not_hold_the_one_that_goes() {
    let cluster = Cluster::start(0).await;
    let (going, staying) = (map(&cluster, "going", vec![], &[]).await, map(&cluster, "staying", vec![], &[]).await);
    let owners = vec![to_map(&going, json!(true)), to_map(&staying, json!(null))];
    map(&cluster, "child", owners, &[]).await;
    cluster.api::<ConfigMap>().delete("going", &DeleteParams::foreground()).await.unwrap();
    gone(&cluster, "going").await;
    let left = cluster.api::<ConfigMap>().get("child").await.unwrap();
    let owners: Vec<&str> = left.owner_references().iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!((owners, left.meta().deletion_timestamp.is_none()), (vec!["staying"], true));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_reference_that_blocks_holds_its_owner() {
    let cluster = Cluster::start(0).await;
    let hold = &["example.com/hold"];
    let free = map(&cluster, "free", vec![], &[]).await;
    for (name, blocks) in [("does-not", json!(false)), ("says-nothing", json!(null))] {
        map(&cluster, name, vec![to_map(&free, blocks)], hold).await;
    }
    let held = map(&cluster, "held", vec![], &[]).await;
    map(&cluster, "blocks", vec![to_map(&held, json!(true))], hold).await;
    for owner in ["free", "held"] {
        cluster.api::<ConfigMap>().delete(owner, &DeleteParams::foreground()).await.unwrap();
    }
    gone(&cluster, "free").await;
    for name in ["does-not", "says-nothing", "blocks"] {
        until(&cluster, name, leaves).await;
    }
    let waiting = cluster.api::<ConfigMap>().get("held").await.unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"], "it waits");
    for name in ["does-not", "says-nothing", "blocks"] {
        let_go(&cluster, name).await;
        gone(&cluster, name).await;
    }
    gone(&cluster, "held").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_held_may_be_deleted_twice() {
    let cluster = Cluster::start(0).await;
    map(&cluster, "twice", vec![], &["example.com/hold"]).await;
    for _ in 0..2 {
        cluster.api::<ConfigMap>().delete("twice", &DeleteParams::foreground()).await.unwrap();
        let alone = |found: Option<&ConfigMap>| found.is_some_and(|map| map.finalizers() == ["example.com/hold"]);
        until(&cluster, "twice", alone).await;
    }
    let_go(&cluster, "twice").await;
    gone(&cluster, "twice").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_of_many_owners_lose_only_the_one_that_goes() {
    let cluster = Cluster::start(0).await;
    let (one, two) = (map(&cluster, "one", vec![], &[]).await, map(&cluster, "two", vec![], &[]).await);
    for at in 0..40 {
        map(&cluster, &format!("child-{at}"), vec![to_map(&one, json!(true)), to_map(&two, json!(null))], &[]).await;
    }
    cluster.api::<ConfigMap>().delete("one", &DeleteParams::orphan()).await.unwrap();
    gone(&cluster, "one").await;
    let children = cluster.api::<ConfigMap>().list(&kube::api::ListParams::default()).await.unwrap();
    let children: Vec<_> = children.items.iter().filter(|map| map.name_any().starts_with("child-")).collect();
    assert_eq!(children.len(), 40);
    assert!(children.iter().all(|map| map.owner_references().len() == 1 && map.owner_references()[0].name == "two"));
    cluster.api::<ConfigMap>().delete("two", &DeleteParams::background()).await.unwrap();
    for at in 0..40 {
        gone(&cluster, &format!("child-{at}")).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_namespace_owns_everything_and_is_owned_by_nothing_in_one() {
    let cluster = Cluster::start(0).await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let role = |name: &str, owners: Vec<Value>| object(json!({"metadata": {"name": name, "ownerReferences": owners}}));
    let global = roles.create(&PostParams::default(), &role("global", vec![])).await.unwrap();
    let to_role = |owner: &ClusterRole| reference("rbac.authorization.k8s.io/v1", "ClusterRole", owner, json!(true));
    roles.create(&PostParams::default(), &role("below", vec![to_role(&global)])).await.unwrap();
    map(&cluster, "below", vec![to_role(&global)], &[]).await;
    let local = map(&cluster, "local", vec![], &[]).await;
    roles.create(&PostParams::default(), &role("stray", vec![to_map(&local, json!(null))])).await.unwrap();
    cluster.api::<ConfigMap>().delete("local", &DeleteParams::background()).await.unwrap();
    roles.delete("global", &DeleteParams::foreground()).await.unwrap();
    gone(&cluster, "below").await;
    let left = |roles: &[std::sync::Arc<ClusterRole>]| {
        roles.iter().all(|role| !["global", "below"].contains(&role.name_any().as_str()))
    };
    cluster.until::<ClusterRole>("owner and dependents are gone", left).await;
    assert!(roles.get_opt("stray").await.unwrap().is_some(), "nobody can say that its owner is gone");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_objects_own_and_are_owned_and_go_with_their_kind() {
    let cluster = Cluster::start(0).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition = object(json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}));
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established = |definition: &CustomResourceDefinition| {
        let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
    };
    cluster.until_one::<CustomResourceDefinition>("widgets.example.com", "is served", established).await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let widget = |name: &'static str, owners: Vec<Value>| {
        let mut widget = DynamicObject::new(name, &kind);
        widget.metadata.owner_references = Some(serde_json::from_value(owners.into()).unwrap());
        let widgets = &widgets;
        async move { widgets.create(&PostParams::default(), &widget).await.unwrap() }
    };
    let to_widget = |owner: &DynamicObject| reference("example.com/v1", "Widget", owner, json!(true));
    let owner = widget("owner", vec![]).await;
    map(&cluster, "of-widget", vec![to_widget(&owner)], &[]).await;
    let above = map(&cluster, "above", vec![], &[]).await;
    widget("of-map", vec![to_map(&above, json!(true))]).await;
    widgets.delete("owner", &DeleteParams::foreground()).await.unwrap();
    gone(&cluster, "of-widget").await;
    cluster.api::<ConfigMap>().delete("above", &DeleteParams::foreground()).await.unwrap();
    gone(&cluster, "above").await;
    assert!(widgets.get_opt("of-map").await.unwrap().is_none(), "dependents go first");

    let last = widget("last", vec![]).await;
    map(&cluster, "of-last", vec![to_widget(&last)], &[]).await;
    definitions.delete("widgets.example.com", &DeleteParams::background()).await.unwrap();
    gone(&cluster, "of-last").await;
    cluster.stop().await;
}
