//! Upstream's conformance tests of sig-scheduling, each as our own test of the same rule.

use k8s_openapi::api::core::v1::{LimitRange, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, node_of};
use crate::preemption::{of, priority};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_exceeds_what_nodes_have_left_waits() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.node(name, json!({"node": name}), json!({"cpu": "1"})).await;
        let filler = json!({"nodeSelector": {"node": name}});
        cluster.pod(&format!("filler-{name}"), json!({"cpu": "700m"}), filler).await;
        cluster.bound(&format!("filler-{name}")).await;
    }
    cluster.pod("additional", json!({"cpu": "500m"}), json!({})).await;
    let expected = "0/2 nodes are available: 2 Insufficient cpu. \
                    preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(cluster.unscheduled("additional").await, ("Unschedulable".into(), expected.into()));
    assert_eq!(cluster.event("FailedScheduling", "additional").await, expected);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_selector_is_respected() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.node(name, json!({}), json!({})).await;
    }
    let wants = json!({"nodeSelector": {"kubernetes.io/e2e": "42"}});
    cluster.pod("restricted", json!({}), wants).await;
    let (_, message) = cluster.unscheduled("restricted").await;
    assert!(message.contains("2 node(s) didn't match Pod's node affinity/selector"), "{message}");
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"kubernetes.io/e2e": "42"}}});
    nodes.patch("b", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    assert_eq!(cluster.bound("restricted").await, "b", "as soon as a node matches");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_host_port_conflicts_where_one_pod_takes_all_addresses() {
    let cluster = Cluster::start().await;
    cluster.node("a", json!({}), json!({})).await;
    let container = |ip: &str| {
        json!({"containers": [{"name": "c", "image": "web:1",
            "ports": [{"containerPort": 8080, "hostPort": 54322, "protocol": "TCP", "hostIP": ip}]}]})
    };
    cluster.pod("pod4", json!({}), container("0.0.0.0")).await;
    cluster.bound("pod4").await;
    cluster.pod("pod5", json!({}), container("127.0.0.1")).await;
    let (_, message) = cluster.unscheduled("pod5").await;
    assert!(message.contains("1 node(s) didn't have free ports for the requested pod ports"), "{message}");
    cluster.end().await;
}

const FAKE: &str = "scheduling.k8s.io/foo";

/// Two nodes with five of a resource each, of which a pod of low and one of medium priority take two and three.
async fn two_full_nodes(grace_spec: &Value) -> Cluster {
    let cluster = Cluster::start().await;
    for (class, value) in [("low", 1), ("medium", 100), ("high", 1000)] {
        priority(&cluster, class, value).await;
    }
    for name in ["a", "b"] {
        cluster.node(name, json!({"node": name}), json!({FAKE: "5"})).await;
    }
    for (pod, node, class, amount) in [("low-a", "a", "low", "3"), ("medium-b", "b", "medium", "3")] {
        let mut spec = json!({"priorityClassName": class, "nodeSelector": {"node": node}});
        for (key, value) in grace_spec.as_object().unwrap() {
            spec[key] = value.clone();
        }
        cluster.pod(pod, json!({FAKE: amount}), spec).await;
        cluster.bound(pod).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_high_priority_preempts_the_lowest() {
    let cluster = two_full_nodes(&json!({})).await;
    cluster.pod("preemptor", json!({FAKE: "3"}), of("high")).await;
    cluster.until_gone("low-a").await;
    assert_eq!(cluster.bound("preemptor").await, "a");
    let medium = cluster.pods.get("default", "medium-b").unwrap();
    assert!(medium.metadata.deletion_timestamp.is_none(), "pods of higher priority stay");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critical_pod_preempts() {
    let cluster = two_full_nodes(&json!({})).await;
    let critical = json!({"priorityClassName": "system-cluster-critical", "metadata": {"namespace": "kube-system"}});
    cluster.pod("critical", json!({FAKE: "3"}), critical).await;
    cluster.until_gone("low-a").await;
    assert_eq!(cluster.bound("critical").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preempted_pod_says_why_it_goes() {
    let kept = json!({"metadata": {"finalizers": ["example.com/test-finalizer"]}});
    let cluster = two_full_nodes(&kept).await;
    cluster.pod("preemptor", json!({FAKE: "3"}), of("high")).await;
    let told = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget")
    };
    let victim = cluster.until("low-a", |pod| pod.metadata.deletion_timestamp.is_some() && told(pod).is_some()).await;
    let condition = told(&victim).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("PreemptionByScheduler")));
    let expected = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(condition.message.as_deref(), Some(expected));
    // deleting is a change of its own
    assert_eq!(condition.observed_generation, victim.metadata.generation.map(|generation| generation - 1));
    let waiting = cluster.until("preemptor", |pod| {
        pod.status.as_ref().is_some_and(|status| status.nominated_node_name.as_deref() == Some("a"))
    });
    assert_eq!(node_of(&*waiting.await), None);
    let free = json!({"metadata": {"finalizers": null}});
    cluster.api().patch("low-a", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(cluster.bound("preemptor").await, "a");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preemption_goes_from_the_lowest_priority_up_and_no_further_than_needed() {
    let cluster = Cluster::start().await;
    let resource = "example.com/fakecpu";
    cluster.node("a", json!({}), json!({resource: "1000"})).await;
    for value in 1..=4 {
        priority(&cluster, &format!("p{value}"), value).await;
    }
    // 5 × 40 + 4 × 50 + 4 × 95 = 780 of 1000; 500 more need 280: all of p1 and two of p2
    for (class, count, amount) in [("p1", 5, "40"), ("p2", 4, "50"), ("p3", 4, "95")] {
        for at in 0..count {
            let name = format!("rs-{class}-{at}");
            cluster.pod(&name, json!({resource: amount}), of(class)).await;
            cluster.bound(&name).await;
        }
    }
    cluster.pod("rs-p4", json!({resource: "500"}), of("p4")).await;
    assert_eq!(cluster.bound("rs-p4").await, "a");
    let left = |class: &str| {
        let prefix = format!("rs-{class}-");
        let pods = cluster.pods.list();
        pods.iter().filter(|pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with(&prefix))).count()
    };
    assert_eq!((left("p1"), left("p2"), left("p3")), (0, 2, 4));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_range_completes_pods() {
    let cluster = Cluster::start().await;
    cluster
        .create::<LimitRange>(json!({"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi"}, "max": {"cpu": "500m", "memory": "500Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}]}}))
        .await;
    let quantities = |pod: &Pod| {
        let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap();
        serde_json::to_value((resources.requests, resources.limits)).unwrap()
    };
    let bare: Pod = cluster
        .create(json!({"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}))
        .await;
    assert_eq!(quantities(&bare), json!([{"cpu": "100m", "memory": "200Mi"}, {"cpu": "500m", "memory": "500Mi"}]));
    let partial: Pod = cluster
        .create(json!({"metadata": {"name": "partial"}, "spec": {"containers": [{"name": "c", "image": "web:1",
        "resources": {"requests": {"memory": "150Mi"}, "limits": {"cpu": "300m"}}}]}}))
        .await;
    assert_eq!(quantities(&partial), json!([{"cpu": "300m", "memory": "150Mi"}, {"cpu": "300m", "memory": "500Mi"}]));
    for cpu in ["10m", "600m"] {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "off"}, "spec": {"containers": [{"name": "c", "image": "web:1",
            "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]}}),
        )
        .unwrap();
        assert!(cluster.api().create(&kube::api::PostParams::default(), &pod).await.is_err(), "{cpu}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_ranges_are_listed_patched_and_deleted_by_collection() {
    let cluster = Cluster::start().await;
    cluster.namespace("other").await;
    let limits = json!({"limits": [{"type": "Container", "max": {"cpu": "500m"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "50m"}}]});
    for namespace in ["default", "other"] {
        let metadata = json!({"name": "limits", "namespace": namespace, "labels": {"run": "here"}});
        cluster.create::<LimitRange>(json!({"metadata": metadata, "spec": limits})).await;
    }
    let everywhere: Api<LimitRange> = Api::all(cluster.client.clone());
    let labelled = ListParams::default().labels("run=here");
    assert_eq!(everywhere.list(&labelled).await.unwrap().items.len(), 2);
    let here: Api<LimitRange> = Api::namespaced(cluster.client.clone(), "default");
    let patch = json!({"metadata": {"labels": {"limits": "patched"}}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "600m"}, "default": {"cpu": "600m"}, "defaultRequest": {"cpu": "50m"}}]}});
    let patched = here.patch("limits", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["limits"], "patched");
    let one = ListParams::default().labels("limits=patched");
    here.delete_collection(&DeleteParams::default(), &one).await.unwrap();
    assert_eq!(everywhere.list(&labelled).await.unwrap().items.len(), 1, "the other namespace keeps its own");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priority_classes_answer_every_verb_and_keep_their_value() {
    let cluster = Cluster::start().await;
    priority(&cluster, "p1", 1).await;
    priority(&cluster, "p2", 2).await;
    let classes: Api<PriorityClass> = Api::all(cluster.client.clone());
    let mut read = classes.get("p1").await.unwrap();
    assert_eq!(read.value, Some(1));
    read.value = Some(11);
    let refused = classes.replace("p1", &kube::api::PostParams::default(), &read).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code, 422, "{}", status.message);
    for patch in [Patch::Merge(json!({"value": 11})), Patch::Strategic(json!({"value": 11}))] {
        assert!(classes.patch("p1", &PatchParams::default(), &patch).await.is_err());
    }
    let description = json!({"description": "updated"});
    let patched = classes.patch("p1", &PatchParams::default(), &Patch::Merge(description)).await.unwrap();
    assert_eq!(patched.description.as_deref(), Some("updated"));
    assert!(classes.list(&ListParams::default()).await.unwrap().items.len() >= 2);
    classes.delete("p2", &DeleteParams::default()).await.unwrap();
    assert!(classes.get_opt("p2").await.unwrap().is_none());
    cluster.end().await;
}
