//! What a pod's spec refers to in its namespace: the objects that its node has to read.

use serde_json::Value;
use strategy::tree::{at, list, some, text, text_at};

/// What kind of object is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// A ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim.
    ResourceClaim,
}

/// One object that a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
}

/// Volume sources that take a secret, and where its name stands.
const SECRET_VOLUMES: [(&str, &[&str]); 9] = [
    ("secret", &["secretName"]),
    ("azureFile", &["secretName"]),
    ("cephfs", &["secretRef", "name"]),
    ("cinder", &["secretRef", "name"]),
    ("flexVolume", &["secretRef", "name"]),
    ("rbd", &["secretRef", "name"]),
    ("scaleIO", &["secretRef", "name"]),
    ("iscsi", &["secretRef", "name"]),
    ("storageos", &["secretRef", "name"]),
];

/// Everything the spec refers to, with repetitions. Claims that are made from a template in the pod carry the pod's name
/// and are not found here.
pub(crate) fn of(spec: &Value) -> impl Iterator<Item = Reference<'_>> {
    let containers = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    let account = Reference { kind: Kind::ServiceAccount, name: text(spec, "serviceAccountName") };
    let pulls = list(spec, "imagePullSecrets").iter().map(|secret| text(secret, "name"));
    std::iter::once(account)
        .chain(pulls.map(|name| Reference { kind: Kind::Secret, name }))
        .chain(containers.flat_map(|key| list(spec, key)).flat_map(of_container))
        .chain(list(spec, "volumes").iter().flat_map(of_volume))
        .chain(list(spec, "resourceClaims").iter().map(|claim| {
            let name = text(claim, "resourceClaimName");
            Reference { kind: Kind::ResourceClaim, name }
        }))
        .filter(|reference| !reference.name.is_empty())
}

fn of_container(container: &Value) -> impl Iterator<Item = Reference<'_>> {
    let from = list(container, "envFrom").iter().flat_map(|source| {
        let name = |key: &str| text_at(source, &[key, "name"]);
        [
            Reference { kind: Kind::Secret, name: name("secretRef") },
            Reference { kind: Kind::ConfigMap, name: name("configMapRef") },
        ]
    });
    let single = list(container, "env").iter().filter_map(|variable| some(variable, "valueFrom")).flat_map(|source| {
        let name = |key: &str| text_at(source, &[key, "name"]);
        [
            Reference { kind: Kind::Secret, name: name("secretKeyRef") },
            Reference { kind: Kind::ConfigMap, name: name("configMapKeyRef") },
        ]
    });
    from.chain(single)
}

fn of_volume(volume: &Value) -> impl Iterator<Item = Reference<'_>> {
    let secrets = SECRET_VOLUMES.iter().map(|(source, keys)| {
        let name = some(volume, source).map_or("", |source| text_at(source, keys));
        Reference { kind: Kind::Secret, name }
    });
    let csi = Reference { kind: Kind::Secret, name: text_at(volume, &["csi", "nodePublishSecretRef", "name"]) };
    let config = Reference { kind: Kind::ConfigMap, name: text_at(volume, &["configMap", "name"]) };
    let claim = Reference { kind: Kind::Claim, name: text_at(volume, &["persistentVolumeClaim", "claimName"]) };
    let projected = at(volume, &["projected", "sources"]).and_then(Value::as_array).into_iter().flatten();
    let projected = projected.flat_map(|source| {
        [
            Reference { kind: Kind::Secret, name: text_at(source, &["secret", "name"]) },
            Reference { kind: Kind::ConfigMap, name: text_at(source, &["configMap", "name"]) },
        ]
    });
    secrets.chain([csi, config, claim]).chain(projected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let spec = json!({"serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "one"}}}, {"name": "plain"}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "all"}}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "late"}}}]}],
            "volumes": [{"secret": {"secretName": "mounted"}}, {"persistentVolumeClaim": {"claimName": "data"}},
                {"projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "ca"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "csi"}}}, {"emptyDir": {}}],
            "resourceClaims": [{"resourceClaimName": "gpu"}]});
        let names = |kind: Kind| of(&spec).filter(|one| one.kind == kind).map(|one| one.name).collect::<Vec<_>>();
        let mut secrets = names(Kind::Secret);
        secrets.sort_unstable();
        assert_eq!(secrets, ["csi", "mounted", "one", "part", "pull"]);
        assert_eq!(names(Kind::ConfigMap), ["all", "late", "ca"]);
        assert_eq!((names(Kind::Claim), names(Kind::ServiceAccount)), (vec!["data"], vec!["robot"]));
        assert_eq!(names(Kind::ResourceClaim), ["gpu"]);
    }
}
