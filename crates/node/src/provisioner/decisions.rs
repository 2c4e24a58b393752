//! What the provisioner does about a claim or a volume: pure decisions, in the terms of upstream's external provisioners.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::PROVISIONER;
use kinds::quantity::units;

/// Annotation that tells who made a volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotations by which the binder asks a provisioner for a volume.
const ASKED: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Annotation that names the node where the volume is needed.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Keeps a volume until its directory is gone.
pub(super) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// The label by which a volume says on which node it is.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What a claim needs of us.
#[derive(Debug, PartialEq)]
pub(super) enum ClaimStep {
    /// Nothing.
    None,
    /// No node is chosen and any will do: it is ours if nobody is faster.
    TakeOn,
    /// A directory on this node.
    Make,
    /// The node that was chosen for it is gone: the scheduler is to choose again.
    GiveBack,
    /// What it wants cannot be had, for this reason.
    Refuse(String),
}

/// Whether the claim is one that we were asked to serve, on whatever node.
pub(super) fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    ASKED.iter().any(|name| claim.annotations().get(*name).is_some_and(|by| by == PROVISIONER))
}

/// Decides about a claim.
pub(super) fn of_claim(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: &str,
    labels: &BTreeMap<String, String>,
    has_node: impl Fn(&str) -> bool,
) -> ClaimStep {
    let (Some(spec), Some(class)) = (&claim.spec, class) else { return ClaimStep::None };
    let bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    if bound || claim.metadata.deletion_timestamp.is_some() || !is_asked(claim) || class.provisioner != PROVISIONER {
        return ClaimStep::None;
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    match claim.annotations().get(SELECTED_NODE) {
        Some(selected) if selected != node && !has_node(selected) => return ClaimStep::GiveBack,
        Some(selected) if selected != node => return ClaimStep::None,
        None if waits || !is_allowed(class, labels) => return ClaimStep::None,
        _ => {}
    }
    if let Some(why) = refusal(claim, class) {
        return ClaimStep::Refuse(why);
    }
    if claim.annotations().contains_key(SELECTED_NODE) { ClaimStep::Make } else { ClaimStep::TakeOn }
}

fn is_allowed(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let mut terms = class.allowed_topologies.iter().flatten().peekable();
    terms.peek().is_none()
        || terms.any(|term| {
            let mut wanted = term.match_label_expressions.iter().flatten();
            wanted.all(|wanted| labels.get(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
        })
}

fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("block volume provisioning is not supported".to_owned());
    }
    if spec.selector.is_some() {
        return Some("claim Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("a directory cannot be filled from a data source".to_owned());
    }
    let parameters: Vec<&str> = class.parameters.iter().flatten().map(|(key, _)| key.as_str()).collect();
    if !parameters.is_empty() {
        return Some(format!("unknown parameters of the class: {}", parameters.join(", ")));
    }
    let options = class.mount_options.as_deref().unwrap_or_default();
    (!options.is_empty()).then(|| {
        let name = class.name_any();
        format!(
            "Mount options are not supported by the provisioner but StorageClass {name:?} has mount options {options:?}"
        )
    })
}

/// The volume for a claim.
pub(super) fn volume_for(
    name: &str,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    path: &Path,
    node: &str,
) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let size = spec.resources.and_then(|resources| resources.requests).and_then(|sizes| sizes.get("storage").cloned());
    let capacity: BTreeMap<&str, Quantity> = size.into_iter().map(|size| ("storage", size)).collect();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[FINALIZER] } else { &[] };
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
    "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": finalizers},
    "spec": {
        "capacity": capacity,
        "accessModes": spec.access_modes,
        "volumeMode": "Filesystem",
        "persistentVolumeReclaimPolicy": policy,
        "storageClassName": class.name_any(),
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
            "name": claim.name_any(), "uid": claim.uid(), "resourceVersion": claim.resource_version()},
        "local": {"path": path},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": HOSTNAME, "operator": "In", "values": [node]}]}]}},
    }})
}

/// What a volume needs of us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VolumeStep {
    /// Nothing.
    None,
    /// It is not to go before its directory.
    Hold,
    /// Its directory stays when it goes.
    LetGo,
    /// It goes, its directory first.
    Remove,
}

/// Decides about a volume. `path` is where its directory is if it is ours.
pub(super) fn of_volume(volume: &PersistentVolume, path: &Path, node: &str) -> VolumeStep {
    if !is_here(volume, path, node) {
        return VolumeStep::None;
    }
    let deletes =
        volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let held = volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let leaving = volume.metadata.deletion_timestamp.is_some();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    match (deletes, held) {
        (false, true) => VolumeStep::LetGo,
        (true, _) if phase == Some("Released") && (held || !leaving) => VolumeStep::Remove,
        // Deleted before any claim was bound to it: nobody has used it.
        (true, true) if leaving && phase != Some("Bound") => VolumeStep::LetGo,
        (true, false) if !leaving => VolumeStep::Hold,
        _ => VolumeStep::None,
    }
}

/// Whether the volume is the one that this node made: what anybody else writes into a volume leads nowhere.
pub(super) fn is_here(volume: &PersistentVolume, path: &Path, node: &str) -> bool {
    let ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER);
    let Some(spec) = &volume.spec else { return false };
    let terms = spec.node_affinity.iter().filter_map(|affinity| affinity.required.as_ref());
    let mut wanted =
        terms.flat_map(|required| &required.node_selector_terms).flat_map(|t| t.match_expressions.iter().flatten());
    ours && spec.local.as_ref().is_some_and(|local| Path::new(&local.path) == path)
        && wanted.any(|wanted| wanted.key == HOSTNAME && wanted.values.as_deref() == Some(&[node.to_owned()]))
}

/// The size that a bound claim asks for and its volume does not have yet, and whether the volume has it.
pub(super) fn growth(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<(Quantity, bool)> {
    let storage = |sizes: Option<&BTreeMap<String, Quantity>>| sizes.and_then(|sizes| sizes.get("storage").cloned());
    let bytes = |size: Option<Quantity>| size.and_then(|size| units(&size.0)).unwrap_or(0);
    let asked = storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())?;
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"))?;
    let wanted = bytes(Some(asked.clone()));
    let grown = bytes(storage(volume.spec.as_ref()?.capacity.as_ref())) >= wanted;
    let told = bytes(storage(status.capacity.as_ref())) >= wanted;
    (!grown || !told).then_some((asked, grown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(annotations: &Value, spec: &Value) -> PersistentVolumeClaim {
        let metadata = json!({"name": "data", "namespace": "ns", "uid": "u1", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn class(mode: &str) -> StorageClass {
        let class = json!({"metadata": {"name": "c"}, "provisioner": PROVISIONER, "volumeBindingMode": mode});
        serde_json::from_value(class).unwrap()
    }

    fn step(annotations: Value, spec: Value, class: &StorageClass) -> ClaimStep {
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        of_claim(&claim(&annotations, &spec), Some(class), "here", &labels, |node| node != "gone")
    }

    #[test]
    fn a_directory_is_made_where_the_scheduler_wants_it_or_anywhere() {
        let (waits, at_once) = (class("WaitForFirstConsumer"), class("Immediate"));
        let asked = json!({ASKED[0]: PROVISIONER});
        let with = |node: &str| json!({ASKED[1]: PROVISIONER, SELECTED_NODE: node});
        assert_eq!(step(json!({}), json!({}), &at_once), ClaimStep::None, "the binder may find another volume");
        assert_eq!(step(asked.clone(), json!({}), &at_once), ClaimStep::TakeOn);
        assert_eq!(step(asked.clone(), json!({}), &waits), ClaimStep::None);
        for class in [&waits, &at_once] {
            assert_eq!(step(with("here"), json!({}), class), ClaimStep::Make);
            assert_eq!(step(with("there"), json!({}), class), ClaimStep::None);
            assert_eq!(step(with("gone"), json!({}), class), ClaimStep::GiveBack);
            assert_eq!(step(with("here"), json!({"volumeName": "v"}), class), ClaimStep::None);
        }
        let mut elsewhere = at_once.clone();
        elsewhere.provisioner = "other".to_owned();
        assert_eq!(step(asked.clone(), json!({}), &elsewhere), ClaimStep::None);
        let topologies = |zone: &str| json!([{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]);
        let mut near = at_once.clone();
        near.allowed_topologies = serde_json::from_value(topologies("a")).unwrap();
        assert_eq!(step(asked.clone(), json!({}), &near), ClaimStep::TakeOn);
        near.allowed_topologies = serde_json::from_value(topologies("b")).unwrap();
        assert_eq!(step(asked, json!({}), &near), ClaimStep::None);
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        let asked = || json!({ASKED[0]: PROVISIONER});
        let class = class("Immediate");
        for spec in [
            json!({"volumeMode": "Block"}),
            json!({"selector": {}}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}}),
        ] {
            assert!(matches!(step(asked(), spec.clone(), &class), ClaimStep::Refuse(_)), "{spec}");
        }
        let mut odd = class.clone();
        odd.parameters = Some([("path".to_owned(), "/etc".to_owned())].into());
        assert_eq!(
            step(asked(), json!({}), &odd),
            ClaimStep::Refuse("unknown parameters of the class: path".to_owned())
        );
    }

    fn volume(change: impl Fn(&mut Value)) -> PersistentVolume {
        let path = Path::new("/root/pvc-u1");
        let mut object = volume_for("pvc-u1", &claim(&json!({}), &json!({})), &class("Immediate"), path, "here");
        object["status"] = json!({"phase": "Bound"});
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_volume_goes_with_its_claim_after_its_directory() {
        let step = |change: &dyn Fn(&mut Value)| of_volume(&volume(change), Path::new("/root/pvc-u1"), "here");
        let leaving = |object: &mut Value| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let released = |object: &mut Value| object["status"]["phase"] = json!("Released");
        let retained = |object: &mut Value| object["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        let unheld = |object: &mut Value| object["metadata"]["finalizers"] = json!(["other"]);
        assert_eq!(step(&|_| {}), VolumeStep::None);
        assert_eq!(step(&leaving), VolumeStep::None, "its claim holds it");
        assert_eq!(step(&released), VolumeStep::Remove);
        assert_eq!(step(&|o| (released(o), leaving(o)).0), VolumeStep::Remove, "deleted before its claim");
        assert_eq!(step(&|o| (released(o), retained(o)).0), VolumeStep::LetGo);
        assert_eq!(step(&|o| (released(o), retained(o), unheld(o)).0), VolumeStep::None);
        assert_eq!(step(&unheld), VolumeStep::Hold);
        assert_eq!(step(&|o| (released(o), unheld(o), leaving(o)).0), VolumeStep::None);
        assert_eq!(step(&|o| (leaving(o), o["status"]["phase"] = json!("Available")).0), VolumeStep::LetGo);
    }

    #[test]
    fn volumes_of_others_are_left_alone() {
        let released = |object: &mut Value| object["status"]["phase"] = json!("Released");
        for (what, change) in [
            ("provisioner", json!({"metadata": {"annotations": {PROVISIONED_BY: "other"}}})),
            ("path", json!({"spec": {"local": {"path": "/etc"}}})),
        ] {
            let volume = volume(|object| {
                released(object);
                for (part, fields) in change.as_object().unwrap() {
                    for (key, value) in fields.as_object().unwrap() {
                        object[part][key] = value.clone();
                    }
                }
            });
            assert_eq!(of_volume(&volume, Path::new("/root/pvc-u1"), "here"), VolumeStep::None, "{what}");
        }
        assert_eq!(of_volume(&volume(released), Path::new("/root/pvc-u1"), "there"), VolumeStep::None);
    }

    #[test]
    fn a_claim_that_asks_for_more_makes_its_volume_grow() {
        let sized = |asked: &str, told: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": asked}}},
                "status": {"phase": "Bound", "capacity": {"storage": told}}}))
            .unwrap()
        };
        let volume = volume(|object| object["spec"]["capacity"] = json!({"storage": "1Gi"}));
        assert_eq!(growth(&sized("1Gi", "1Gi"), &volume), None);
        assert_eq!(growth(&sized("2Gi", "1Gi"), &volume), Some((Quantity("2Gi".to_owned()), false)));
        assert_eq!(growth(&sized("1Gi", "1Mi"), &volume), Some((Quantity("1Gi".to_owned()), true)));
    }
}
