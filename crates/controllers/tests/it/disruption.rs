use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, EvictParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment, object};

async fn guard(cluster: &Cluster, name: &str, spec: Value) {
    let mut whole = json!({"selector": {"matchLabels": {"app": "web"}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cluster.create::<PodDisruptionBudget>(json!({"metadata": {"name": name}, "spec": whole})).await;
}

fn status(budget: &PodDisruptionBudget) -> PodDisruptionBudgetStatus {
    budget.status.clone().unwrap_or_default()
}

async fn allows(cluster: &Cluster, name: &str, count: i32) -> PodDisruptionBudgetStatus {
    let is = |budget: &PodDisruptionBudget| {
        status(budget).disruptions_allowed == Some(count)
            && status(budget).observed_generation == budget.metadata.generation
    };
    let wish = format!("{name} allows {count}");
    status(&*cluster.until_one::<PodDisruptionBudget>(name, &wish, is).await)
}

fn condition(status: &PodDisruptionBudgetStatus) -> (&str, &str) {
    let condition = &status.conditions.as_ref().unwrap()[0];
    (condition.type_.as_str(), condition.reason.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_is_refused_until_the_budget_allows_it() {
    let cluster = Cluster::start(2).await;
    cluster.create::<Deployment>(deployment("web", 3, "web:1")).await;
    guard(&cluster, "strict", json!({"minAvailable": 3})).await;
    let held = cluster
        .until_one::<PodDisruptionBudget>("strict", "sees three", |budget| status(budget).current_healthy == Some(3))
        .await;
    let found = status(&held);
    assert_eq!((found.desired_healthy, found.expected_pods, found.disruptions_allowed), (Some(3), Some(3), Some(0)));
    assert_eq!(condition(&found), ("DisruptionAllowed", "InsufficientPods"));
    let pods = cluster.api::<Pod>();
    let name = cluster.keys::<Pod>()[0].name.clone();
    let refused = pods.evict(&name, &EvictParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");

    let patch = Patch::Merge(json!({"spec": {"minAvailable": null, "maxUnavailable": "40%"}}));
    cluster.api::<PodDisruptionBudget>().patch("strict", &PatchParams::default(), &patch).await.unwrap();
    let found = allows(&cluster, "strict", 2).await;
    assert_eq!((condition(&found), found.desired_healthy), (("DisruptionAllowed", "SufficientPods"), Some(1)));
    pods.evict(&name, &EvictParams::default()).await.unwrap();
    cluster
        .until::<Pod>("the evicted pod is replaced", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != name)
        })
        .await;
    let over = |budget: &PodDisruptionBudget| {
        let found = status(budget);
        (found.disruptions_allowed, found.disrupted_pods) == (Some(2), None)
    };
    cluster.until_one::<PodDisruptionBudget>("strict", "the eviction is over", over).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_evictions_at_once_get_no_more_than_is_allowed() {
    let cluster = Cluster::start(2).await;
    // nobody replaces these: what is granted once is gone
    for at in 0..9 {
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web:1"}]});
        let name = format!("web-{at}");
        cluster.create::<Pod>(json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec})).await;
    }
    guard(&cluster, "some", json!({"minAvailable": 5})).await;
    allows(&cluster, "some", 4).await;
    let pods = cluster.api::<Pod>();
    let names: Vec<String> = cluster.keys::<Pod>().into_iter().map(|key| key.name).collect();
    let evictions = names.iter().map(|name| {
        let pods = pods.clone();
        async move { pods.evict(name, &EvictParams::default()).await.is_ok() }
    });
    let granted = futures::future::join_all(evictions).await.into_iter().filter(|granted| *granted).count();
    assert_eq!(granted, 4);
    cluster.until::<Pod>("five are left", |pods| pods.len() == 5).await;
    let settled = |budget: &PodDisruptionBudget| {
        let found = status(budget);
        (found.disruptions_allowed, found.current_healthy, found.disrupted_pods) == (Some(0), Some(5), None)
    };
    cluster.until_one::<PodDisruptionBudget>("some", "knows the five, and of no eviction under way", settled).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_without_a_size_allow_no_disruption_and_it_is_told_why() {
    let cluster = Cluster::start(1).await;
    let job = json!({"metadata": {"name": "work"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "web:1"}]}}}});
    cluster.create::<k8s_openapi::api::batch::v1::Job>(job).await;
    cluster.until::<Pod>("its pod", |pods| pods.len() == 1).await;
    guard(&cluster, "vague", json!({"maxUnavailable": 1})).await;
    let failed = |budget: &PodDisruptionBudget| {
        let reason = status(budget).conditions.unwrap_or_default();
        reason.first().is_some_and(|condition| condition.reason == "SyncFailed")
    };
    let found = cluster.until_one::<PodDisruptionBudget>("vague", "fails", failed).await;
    let message = &status(&found).conditions.unwrap()[0].message;
    assert_eq!(message, "jobs.batch does not implement the scale subresource");
    let told = |reason: &'static str| {
        move |events: &[std::sync::Arc<Event>]| events.iter().any(|event| event.reason.as_deref() == Some(reason))
    };
    cluster.until::<Event>("told", told("CalculateExpectedPodCountFailed")).await;
    guard(&cluster, "idle", json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "none"}}})).await;
    allows(&cluster, "idle", 0).await;
    cluster.until::<Event>("told", told("NoPods")).await;
    cluster.stop().await;
}

/// Widgets, that may have a size.
fn widgets(subresources: Value) -> Value {
    let count = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": subresources,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": count, "status": count}}}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_of_another_kind_is_followed_as_soon_as_it_has_a_size() {
    let cluster = Cluster::start(1).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.create(&PostParams::default(), &object(widgets(json!({})))).await.unwrap();
    let established = |definition: &CustomResourceDefinition| {
        let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
    };
    cluster.until_one::<CustomResourceDefinition>("widgets.example.com", "is served", established).await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let objects: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let widget = DynamicObject::new("w", &kind).data(json!({"spec": {"replicas": 2}}));
    let widget = objects.create(&PostParams::default(), &widget).await.unwrap();
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": widget.metadata.uid,
        "controller": true});
    for name in ["a", "b"] {
        cluster
            .create::<Pod>(json!({"metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": [owner]},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]}}))
            .await;
    }
    guard(&cluster, "held", json!({"maxUnavailable": 1})).await;
    let says = |wanted: &'static str| {
        move |budget: &PodDisruptionBudget| {
            let conditions = status(budget).conditions.unwrap_or_default();
            conditions.first().is_some_and(|condition| condition.message == wanted)
        }
    };
    let without = says("widgets.example.com does not implement the scale subresource");
    cluster.until_one::<PodDisruptionBudget>("held", "has no size", without).await;
    let scale = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}});
    let patch = Patch::Merge(widgets(scale));
    definitions.patch("widgets.example.com", &PatchParams::default(), &patch).await.unwrap();
    let expects = |count: i32| move |budget: &PodDisruptionBudget| status(budget).expected_pods == Some(count);
    cluster.until_one::<PodDisruptionBudget>("held", "has a size", expects(2)).await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    objects.patch("w", &PatchParams::default(), &patch).await.unwrap();
    cluster.until_one::<PodDisruptionBudget>("held", "follows its owner", expects(5)).await;
    cluster.stop().await;
}
