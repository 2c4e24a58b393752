//! Claims and with whose end they end.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::*;

fn policy(deleted: &str, scaled: &str) -> Value {
    json!({"whenDeleted": deleted, "whenScaled": scaled})
}

#[test]
fn owners_of_claims_follow_the_policy() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-0", "uid": "pod"}})).unwrap();
    let owner = |kind: &str, name: &str, uid: &str, controller: bool| {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller,
            "blockOwnerDeletion": true})
    };
    let of_set = || owner("StatefulSet", "web", "set", true);
    let of_pod = || owner("Pod", "web-0", "pod", true);
    let other = |controller: bool| owner("ReplicaSet", "x", "x", controller);
    let keep = ("Retain", "Retain");
    for (when, wanted, current, expected) in [
        (keep, true, vec![], None),
        (keep, true, vec![of_set()], Some(vec![])),
        (keep, false, vec![of_pod(), other(true)], Some(vec![other(true)])),
        (("Delete", "Retain"), true, vec![], Some(vec![of_set()])),
        (("Delete", "Retain"), false, vec![of_pod()], Some(vec![of_set()])),
        (("Delete", "Retain"), true, vec![of_set()], None),
        (("Retain", "Delete"), true, vec![of_set()], Some(vec![])),
        (("Retain", "Delete"), false, vec![], Some(vec![of_pod()])),
        (("Retain", "Delete"), true, vec![of_pod()], Some(vec![])),
        (("Delete", "Delete"), true, vec![of_pod()], Some(vec![of_set()])),
        (("Delete", "Delete"), false, vec![of_set()], Some(vec![of_pod()])),
        (("Delete", "Delete"), false, vec![of_set(), other(false)], Some(vec![other(false), of_pod()])),
        // somebody else controls it
        (("Delete", "Delete"), true, vec![other(true)], None),
        (("Delete", "Delete"), true, vec![of_set(), other(true)], Some(vec![other(true)])),
        // an earlier set's, or an earlier pod's
        (("Delete", "Delete"), true, vec![owner("StatefulSet", "web", "old", true)], None),
        (("Delete", "Delete"), false, vec![owner("Pod", "web-0", "old", true)], None),
        // an owner that is no controller
        (("Delete", "Retain"), true, vec![owner("StatefulSet", "web", "set", false)], Some(vec![of_set()])),
    ] {
        let set = set(json!({"persistentVolumeClaimRetentionPolicy": policy(when.0, when.1)}));
        let claim = json!({"metadata": {"name": "data-web-0", "ownerReferences": current}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let user = User { name: "web-0", pod: Some(&pod), wanted };
        let expected: Option<Vec<OwnerReference>> = serde_json::from_value(json!(expected)).unwrap();
        assert_eq!(retention::corrected_owners(&set, &claim, user), expected, "{when:?} {wanted} {current:?}");
    }
}

#[test]
fn claims_go_with_their_pods_when_the_policy_says_so() {
    let mut world = World::new(json!({"replicas": 2, "volumeClaimTemplates": claims_template(),
        "persistentVolumeClaimRetentionPolicy": policy("Delete", "Delete")}));
    assert_eq!(world.settle(), "+web-0 +web-1");
    let owner = world.claims["data-web-0"].owner_references()[0].clone();
    assert_eq!((owner.kind.as_str(), owner.controller), ("StatefulSet", Some(true)), "from the beginning");
    world.spec().replicas = Some(1);
    assert_eq!(world.step(), [r#"data-web-1 of ["Pod"]"#, "-web-1"]);
    world.kubelet();

    // The garbage collector has not yet deleted the claim of the pod that is gone.
    world.spec().replicas = Some(2);
    assert_eq!(world.step(), [""; 0], "the claim goes with the earlier pod");
    world.claims.remove("data-web-1");
    assert_eq!(world.settle(), "+web-1");

    world.spec().persistent_volume_claim_retention_policy = None;
    assert_eq!(world.settle(), "data-web-0 of [],data-web-1 of []");
}

#[test]
fn a_pod_waits_for_the_end_of_a_claim_that_is_being_deleted() {
    let mut world = World::new(json!({"replicas": 1, "volumeClaimTemplates": claims_template()}));
    world.settle();
    world.pods.clear();
    let mut claim = PersistentVolumeClaim::clone(&world.claims["data-web-0"]);
    claim.metadata.deletion_timestamp = Some(Time(now()));
    world.claims.insert("data-web-0".into(), Arc::new(claim));
    assert_eq!(world.step(), ["web-0 waits for the end of data-web-0"]);
    world.claims.clear();
    assert_eq!(world.settle(), "+web-0");
}

#[test]
fn an_adopted_pod_without_its_claims_is_asked_to_have_them() {
    let mut world = World::new(json!({"replicas": 1, "volumeClaimTemplates": claims_template()}));
    world.settle();
    world.pods.get_mut("web-0").unwrap().spec.as_mut().unwrap().volumes = None;
    assert_eq!(world.step(), ["~web-0"], "the API server refuses it, and an event says why");
}
