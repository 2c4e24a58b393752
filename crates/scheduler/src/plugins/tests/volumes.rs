//! Rules about volumes.

use serde_json::{Value, json};

use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::schedule::Placement;
use crate::snapshot::Snapshot;
use crate::snapshot::volumes::{Claim, Class, Provision, Volume};
use crate::testing::{Cluster, labelled, pod};

fn nodes() -> [k8s_openapi::api::core::v1::Node; 2] {
    [("a", "z1"), ("b", "z2")].map(|(name, zone)| labelled(name, &json!({"topology.kubernetes.io/zone": zone})))
}

fn mounting(name: &str, claims: &[&str]) -> PodInfo {
    let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
    pod(name, &json!({"spec": {"volumes": claims.iter().map(volume).collect::<Vec<_>>()}}))
}

fn set_claim(snapshot: &mut Snapshot, name: &str, class: &str, extra: &Value) {
    let mut claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}}}});
    for (part, fields) in extra.as_object().unwrap() {
        for (key, value) in fields.as_object().unwrap() {
            claim[part][key] = value.clone();
        }
    }
    let claim = Claim::of(&serde_json::from_value(claim).unwrap());
    snapshot.volumes.set_claim("default", name, Some(claim));
    snapshot.touch();
}

fn bound_to(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume},
        "status": {"phase": "Bound"}})
}

/// A volume of a class, reachable from one zone.
fn set_volume(snapshot: &mut Snapshot, name: &str, class: &str, size: &str, zone: &str, extra: &Value) {
    let mut volume = json!({"metadata": {"name": name}, "spec": {"storageClassName": class, "capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}},
        "status": {"phase": "Available"}});
    for (part, fields) in extra.as_object().unwrap() {
        for (key, value) in fields.as_object().unwrap() {
            volume[part][key] = value.clone();
        }
    }
    snapshot.volumes.set_volume(name, Some(Volume::of(&serde_json::from_value(volume).unwrap())));
    snapshot.touch();
}

fn set_class(snapshot: &mut Snapshot, name: &str, provisioner: &str, waits: bool, topologies: &Value) {
    let mode = if waits { "WaitForFirstConsumer" } else { "Immediate" };
    let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
        "allowedTopologies": topologies});
    snapshot.volumes.set_class(name, Some(Class::of(&serde_json::from_value(class).unwrap())));
    snapshot.touch();
}

#[test]
fn a_bound_volume_decides_where_its_pod_goes() {
    let mut cluster = Cluster::of(&nodes());
    set_volume(&mut cluster.snapshot, "pv", "local", "5Gi", "z2", &json!({}));
    set_claim(&mut cluster.snapshot, "data", "local", &bound_to("pv"));
    assert_eq!(cluster.nodes_for(&mounting("p", &["data"])), ["b"]);
    set_volume(&mut cluster.snapshot, "far", "local", "5Gi", "z3", &json!({}));
    set_claim(&mut cluster.snapshot, "other", "local", &bound_to("far"));
    assert_eq!(
        cluster.refusal(&mounting("q", &["other"])),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    set_claim(&mut cluster.snapshot, "lost", "local", &bound_to("gone"));
    assert!(cluster.refusal(&mounting("r", &["lost"])).contains("bound to non-existent pv(s)"));
}

#[test]
fn claims_that_are_not_ready_stop_a_pod_beforehand() {
    let mut cluster = Cluster::of(&nodes());
    set_class(&mut cluster.snapshot, "fast", "example.com/x", false, &json!([]));
    set_claim(&mut cluster.snapshot, "unbound", "fast", &json!({}));
    set_claim(
        &mut cluster.snapshot,
        "leaving",
        "fast",
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    set_claim(
        &mut cluster.snapshot,
        "lost",
        "fast",
        &json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Lost"}}),
    );
    for (claim, expected) in [
        ("unbound", "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        ("none", "0/2 nodes are available: persistentvolumeclaim \"none\" not found."),
        ("leaving", "0/2 nodes are available: persistentvolumeclaim \"leaving\" is being deleted."),
        ("lost", "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"pv\"."),
    ] {
        let refusal = cluster.refusal(&mounting("p", &[claim]));
        assert!(refusal.contains(expected), "{refusal}");
    }
    let generic = pod("p", &json!({"spec": {"volumes": [{"name": "scratch", "ephemeral": {}}]}}));
    let expected = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-scratch\"";
    assert!(cluster.refusal(&generic).contains(expected));
    set_claim(&mut cluster.snapshot, "p-scratch", "fast", &json!({}));
    assert!(cluster.refusal(&generic).contains("PVC default/p-scratch was not created for the pod (pod is not owner)"));
    let waiting = mounting("p", &["unbound"]);
    let changed = |name: &str| Event::Claim { namespace: "default".into(), name: name.into() };
    assert!(cluster.helps(&waiting, |_| changed("unbound")));
    assert!(!cluster.helps(&waiting, |_| changed("leaving")));
}

#[test]
fn a_claim_that_waits_takes_the_smallest_volume_that_fits_where_the_pod_goes() {
    let mut cluster = Cluster::of(&nodes());
    set_class(&mut cluster.snapshot, "local", "kubernetes.io/no-provisioner", true, &json!([]));
    set_claim(&mut cluster.snapshot, "data", "local", &json!({}));
    let pod = mounting("p", &["data"]);
    assert!(cluster.refusal(&pod).contains("2 node(s) didn't find available persistent volumes to bind"));
    set_volume(&mut cluster.snapshot, "small", "local", "1Gi", "z1", &json!({}));
    set_volume(&mut cluster.snapshot, "large", "local", "50Gi", "z2", &json!({}));
    set_volume(&mut cluster.snapshot, "right", "local", "10Gi", "z2", &json!({}));
    set_volume(&mut cluster.snapshot, "foreign", "other", "5Gi", "z2", &json!({}));
    let Placement::Node { name, volumes } = cluster.decide(&pod) else { panic!("it fits") };
    assert_eq!(name, "b");
    assert_eq!(volumes, [Provision::Take { claim: "data".into(), volume: "right".into() }]);
    cluster.snapshot.volumes.reserve("default", &volumes);
    set_claim(&mut cluster.snapshot, "more", "local", &json!({}));
    let Placement::Node { volumes: others, .. } = cluster.decide(&mounting("q", &["more"])) else { panic!("it fits") };
    assert_eq!(others, [Provision::Take { claim: "more".into(), volume: "large".into() }], "what is reserved is taken");
    cluster.snapshot.volumes.release(&volumes);
}

#[test]
fn a_claim_that_waits_is_provided_where_its_class_can() {
    let mut cluster = Cluster::of(&nodes());
    let only_z1 = json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["z1"]}]}]);
    set_class(&mut cluster.snapshot, "zonal", "example.com/x", true, &only_z1);
    set_claim(&mut cluster.snapshot, "data", "zonal", &json!({}));
    let Placement::Node { name, volumes } = cluster.decide(&mounting("p", &["data"])) else { panic!("it fits") };
    assert_eq!((name.as_str(), volumes.as_slice()), ("a", &[Provision::Make { claim: "data".into() }][..]));
    set_class(&mut cluster.snapshot, "any", "example.com/x", true, &json!([]));
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}});
    set_claim(&mut cluster.snapshot, "begun", "any", &selected);
    assert_eq!(cluster.nodes_for(&mounting("q", &["begun"])), ["b"], "where provisioning has begun");
}

#[test]
fn volumes_of_a_zone_are_mounted_there() {
    let mut cluster = Cluster::of(&nodes());
    let anywhere = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}, "spec": {"nodeAffinity": null}});
    for (zone, expected) in [("z1", vec!["a"]), ("z1__z2", vec!["a", "b"]), ("z3", vec![])] {
        set_volume(&mut cluster.snapshot, "pv", "x", "5Gi", "", &anywhere(zone));
        set_claim(&mut cluster.snapshot, "data", "x", &bound_to("pv"));
        assert_eq!(cluster.nodes_for(&mounting("p", &["data"])), expected, "{zone}");
    }
    assert!(cluster.refusal(&mounting("p", &["data"])).contains("2 node(s) had no available volume zone"));
}

#[test]
fn one_pod_at_a_time_uses_an_exclusive_claim() {
    let mut cluster = Cluster::of(&nodes());
    set_volume(&mut cluster.snapshot, "pv", "x", "5Gi", "z1", &json!({}));
    let mut extra = bound_to("pv");
    extra["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    set_claim(&mut cluster.snapshot, "data", "x", &extra);
    cluster.place(&mounting("first", &["data"]), "a");
    let second = mounting("second", &["data"]);
    let refusal = cluster.refusal(&second);
    let expected = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    assert!(refusal.contains(expected), "{refusal}");
    let urgent = pod(
        "urgent",
        &json!({"spec": {"priority": 10,
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
    );
    let Placement::Unschedulable(why) = cluster.decide(&urgent) else { panic!("it is taken") };
    assert_eq!(why.preemption().unwrap().victims[0].key.name, "first", "who uses it can be driven out");
    cluster.snapshot.remove_pod("first");
    assert_eq!(cluster.nodes_for(&second), ["a"]);
}

#[test]
fn disks_are_written_by_one_pod_of_a_node() {
    let disk = |name: &str, read_only: bool| {
        pod(
            name,
            &json!({"spec": {"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}]}}),
        )
    };
    for (first, second, expected) in [(false, false, vec!["b"]), (true, false, vec!["b"]), (true, true, vec!["a", "b"])]
    {
        let mut cluster = Cluster::of(&nodes());
        cluster.place(&disk("first", first), "a");
        assert_eq!(cluster.nodes_for(&disk("second", second)), expected, "{first} {second}");
    }
}

#[test]
fn a_node_attaches_only_so_many_volumes_of_a_driver() {
    let mut cluster = Cluster::of(&nodes()[..1]);
    let limits = json!({"metadata": {"name": "a"}, "spec": {"drivers": [
        {"name": "csi.example.com", "nodeID": "a", "allocatable": {"count": 1}}]}});
    cluster.snapshot.volumes.set_limits("a", Some(&serde_json::from_value(limits).unwrap()));
    for name in ["one", "two"] {
        let csi = json!({"spec": {"csi": {"driver": "csi.example.com", "volumeHandle": name}}});
        set_volume(&mut cluster.snapshot, name, "x", "5Gi", "z1", &csi);
        set_claim(&mut cluster.snapshot, name, "x", &bound_to(name));
    }
    cluster.place(&mounting("first", &["one"]), "a");
    assert_eq!(cluster.nodes_for(&mounting("again", &["one"])), ["a"], "the same volume is attached once");
    assert!(cluster.refusal(&mounting("second", &["two"])).contains("1 node(s) exceed max volume count"));
}
