//! The directory behind a claim: from the claim to its volume, and from there to the path.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kinds::matching::{Labels, NodeDemand, NodeTerm};
use kube::{Api, Client, ResourceExt};

use super::{Purpose, VolumeError, host};

/// A claim of a pod.
pub(super) struct Wanted<'a> {
    /// The name of the volume in the pod.
    pub(super) volume: &'a str,
    /// The claim.
    pub(super) claim: String,
    /// Whether the claim is the pod's own.
    pub(super) ephemeral: bool,
}

/// A directory for a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Whether the pod's fsGroup is to own it: what somebody else put on the host keeps its owner.
    pub(super) is_owned: bool,
}

/// Finds the directory of a bound claim.
pub(super) async fn find(
    client: &Client,
    pod: &Pod,
    node: &str,
    wanted: &Wanted<'_>,
    purpose: Purpose,
) -> Result<Found, VolumeError> {
    let namespace = pod.namespace().unwrap_or_default();
    let problem = |problem: String| VolumeError::Claim {
        volume: wanted.volume.to_owned(),
        claim: format!("{namespace}/{}", wanted.claim),
        problem,
    };
    let fetched = |error: kube::Error| crate::sources::api_message(&error);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let claim = claims.get(&wanted.claim).await;
    let claim = claim.map_err(|e| problem(format!("failed to fetch PVC from API server: {}", fetched(e))))?;
    let name = bound_volume(pod, &claim, wanted.ephemeral, purpose).map_err(|why| problem(why.to_owned()))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(&name).await;
    let volume = volume.map_err(|e| problem(format!("failed to fetch PV {name} from API server: {}", fetched(e))))?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match reference.and_then(|reference| reference.uid.as_ref()) {
        None => {
            let why = "but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim";
            return Err(problem(format!("found PV object {name} {why}")));
        }
        Some(uid) if Some(uid) != claim.metadata.uid.as_ref() => {
            let why = format!("but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID");
            return Err(problem(format!("found PV object {name} {why} {}", claim.uid().unwrap_or_default())));
        }
        Some(_) => {}
    }
    if let Some(demand) = demand(&volume) {
        let nodes: Api<Node> = Api::all(client.clone());
        let labels: Labels = nodes.get(node).await?.metadata.labels.unwrap_or_default();
        if !demand.accepts(node, &labels) {
            let message =
                format!("MountVolume.NodeAffinity check failed for volume {name:?} : no matching NodeSelectorTerms");
            return Err(VolumeError::Message(message));
        }
    }
    directory(&name, &volume)
}

/// The volume a claim is bound to, for a pod that may use it.
fn bound_volume(
    pod: &Pod,
    claim: &PersistentVolumeClaim,
    ephemeral: bool,
    purpose: Purpose,
) -> Result<String, &'static str> {
    // A pod that runs keeps what it has.
    if purpose == Purpose::Start && claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted");
    }
    let owner = claim.owner_references().iter().find(|owner| owner.controller == Some(true));
    if ephemeral && owner.map(|owner| &owner.uid) != pod.metadata.uid.as_ref() {
        return Err("PVC was not created for the pod (pod is not owner)");
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") {
        return Err("PVC is not bound");
    }
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    volume.filter(|name| !name.is_empty()).ok_or("PVC has empty pvc.Spec.VolumeName")
}

/// The nodes from which a volume can be reached, where it says so.
fn demand(volume: &PersistentVolume) -> Option<NodeDemand> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let terms = required.node_selector_terms.iter().map(NodeTerm::of).collect();
    Some(NodeDemand { labels: Labels::new(), terms: Some(terms) })
}

fn directory(name: &str, volume: &PersistentVolume) -> Result<Found, VolumeError> {
    let refused = |why: String| {
        VolumeError::Message(format!("MountVolume.NewMounter initialization failed for volume {name:?} : {why}"))
    };
    let Some(spec) = &volume.spec else { return Err(refused("it has no spec".to_owned())) };
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(refused("block volumes are not supported by this node".to_owned()));
    }
    if let Some(source) = &spec.host_path {
        let path = PathBuf::from(&source.path);
        let kind = source.type_.as_deref().unwrap_or_default();
        // Upstream's runtimes make what a hostPath without type lacks.
        let made = if kind.is_empty() { make_missing(&path).map_err(|error| error.to_string()) } else { Ok(()) };
        made.and_then(|()| host::check(&path, kind)).map_err(refused)?;
        return Ok(Found { path, is_owned: false });
    }
    let Some(source) = &spec.local else {
        return Err(refused("no volume plugin matched".to_owned()));
    };
    let path = PathBuf::from(&source.path);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(Found { path, is_owned: true }),
        Ok(_) => Err(refused(format!("path {:?} is not a directory", source.path))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(refused(format!("path {:?} does not exist", source.path)))
        }
        Err(error) => Err(refused(format!("path {:?}: {error}", source.path))),
    }
}

fn make_missing(path: &Path) -> io::Result<()> {
    if path.exists() { Ok(()) } else { fs::create_dir_all(path) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(metadata: &Value, phase: &str) -> PersistentVolumeClaim {
        let status = json!({"phase": phase});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"volumeName": "pv"}, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_begins_only_with_claims_that_are_bound_and_stay() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let of_pod = |uid: &str| {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
            json!({"ownerReferences": [owner]})
        };
        for (metadata, phase, ephemeral, purpose, expected) in [
            (json!({}), "Bound", false, Purpose::Start, Ok("pv")),
            (json!({}), "Pending", false, Purpose::Start, Err("PVC is not bound")),
            (json!({}), "Lost", false, Purpose::Refresh, Err("PVC is not bound")),
            (leaving.clone(), "Bound", false, Purpose::Start, Err("PVC is being deleted")),
            (leaving, "Bound", false, Purpose::Refresh, Ok("pv")),
            (of_pod("u"), "Bound", true, Purpose::Start, Ok("pv")),
            (of_pod("x"), "Bound", true, Purpose::Start, Err("PVC was not created for the pod (pod is not owner)")),
        ] {
            let found = bound_volume(&pod, &claim(&metadata, phase), ephemeral, purpose);
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{metadata} {phase}");
        }
    }

    #[test]
    fn a_local_volume_must_be_there_and_a_host_path_is_made() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).display().to_string();
        let find = |source: Value| directory("pv", &serde_json::from_value(json!({"spec": source})).unwrap());
        fs::write(path("file"), "").unwrap();
        let missing = find(json!({"local": {"path": path("none")}})).unwrap_err().to_string();
        let expected = format!(
            "MountVolume.NewMounter initialization failed for volume \"pv\" : path {:?} does not exist",
            path("none")
        );
        assert_eq!(missing, expected);
        assert!(find(json!({"local": {"path": path("file")}})).is_err());
        assert!(find(json!({"local": {"path": path("")}})).unwrap().is_owned);
        let made = find(json!({"hostPath": {"path": path("made/deep"), "type": ""}})).unwrap();
        assert!(made.path.is_dir() && !made.is_owned);
        assert!(find(json!({"hostPath": {"path": path("other"), "type": "Directory"}})).is_err());
        assert!(find(json!({"nfs": {}})).is_err());
    }
}
