//! Where collections lie in etcd: under `/registry`, as upstream lays them out.
//!
//! Upstream names a built-in resource by its plural alone, with a few that kept an older name, and a custom resource by
//! its group and plural. Paths within a collection are the same on both sides.

use std::sync::Arc;

use crate::{Key, record::Names};

/// Everything the store watches.
pub(super) const PREFIX: &str = "/registry/";
/// The first key behind it.
pub(super) const END: &str = "/registry0";
/// Keys of our own, which are no objects.
pub(super) const OWN: &str = "/registry/keelson.dev~/";

/// Groups whose resources upstream keeps by their plural alone.
const BY_PLURAL: &[(&str, &[&str])] = &[
    (
        "core",
        &[
            "configmaps",
            "events",
            "limitranges",
            "namespaces",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "secrets",
            "serviceaccounts",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("apps", &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("certificates.k8s.io", &["certificatesigningrequests", "clustertrustbundles", "podcertificaterequests"]),
    ("coordination.k8s.io", &["leases", "leasecandidates"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("flowcontrol.apiserver.k8s.io", &["flowschemas", "prioritylevelconfigurations"]),
    ("networking.k8s.io", &["ingressclasses", "ipaddresses", "networkpolicies", "servicecidrs"]),
    ("node.k8s.io", &["runtimeclasses"]),
    ("policy", &["poddisruptionbudgets"]),
    ("rbac.authorization.k8s.io", &["clusterrolebindings", "clusterroles", "rolebindings", "roles"]),
    ("resource.k8s.io", &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"]),
    ("scheduling.k8s.io", &["priorityclasses"]),
    (
        "storage.k8s.io",
        &[
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "storageclasses",
            "volumeattachments",
            "volumeattributesclasses",
        ],
    ),
    ("storagemigration.k8s.io", &["storageversionmigrations"]),
];

/// Those with a name of their own.
const OTHERWISE: &[(&str, &str)] = &[
    ("core/endpoints", "services/endpoints"),
    ("core/nodes", "minions"),
    ("core/replicationcontrollers", "controllers"),
    ("core/services", "services/specs"),
    ("networking.k8s.io/ingresses", "ingress"),
];

/// First segments under which upstream keeps what is no object.
const NO_OBJECTS: &[&str] = &["health", "masterleases", "peerserverleases", "ranges"];

/// The key of an object.
pub(super) fn of(key: &Key) -> Vec<u8> {
    registry_key(&key.collection, &key.path).into_bytes()
}

/// Where upstream keeps the object at `path` of `collection`. Sealed objects are bound to this place, in whichever store
/// they lie.
pub fn registry_key(collection: &str, path: &str) -> String {
    let folder = folder(collection);
    let mut key = String::with_capacity(PREFIX.len() + folder.len() + 1 + path.len());
    for part in [PREFIX, folder, "/", path] {
        key.push_str(part);
    }
    key
}

fn folder(collection: &str) -> &str {
    if let Some((_, folder)) = OTHERWISE.iter().find(|(known, _)| *known == collection) {
        return folder;
    }
    match collection.split_once('/') {
        Some((group, plural)) if is_by_plural(group, plural) => plural,
        _ => collection,
    }
}

fn is_by_plural(group: &str, plural: &str) -> bool {
    BY_PLURAL.iter().any(|(known, plurals)| *known == group && plurals.contains(&plural))
}

/// The first key of a collection, and the first behind it.
pub(super) fn range_of(collection: &str) -> (Vec<u8>, Vec<u8>) {
    let start = of(&Key { collection: collection.into(), path: "".into() });
    let mut end = start.clone();
    if let Some(last) = end.last_mut() {
        // the byte behind the slash
        *last = b'0';
    }
    (start, end)
}

/// The object that lies at a key; `None` when none can.
pub(super) fn parse(key: &[u8], names: &mut Names) -> Option<Key> {
    let key = std::str::from_utf8(key).ok()?;
    let rest = key.strip_prefix(PREFIX)?;
    let (first, inner) = rest.split_once('/')?;
    if key.starts_with(OWN) || NO_OBJECTS.contains(&first) {
        return None;
    }
    let other = OTHERWISE
        .iter()
        .find_map(|(collection, folder)| Some((*collection, rest.strip_prefix(folder)?.strip_prefix('/')?)));
    if let Some((collection, path)) = other {
        return object(names.intern(collection), path);
    }
    if let Some((group, _)) = BY_PLURAL.iter().find(|(_, plurals)| plurals.contains(&first)) {
        return object(names.join(group, first), inner);
    }
    let (plural, path) = inner.split_once('/')?;
    object(names.join(first, plural), path)
}

fn object(collection: Arc<str>, path: &str) -> Option<Key> {
    (!path.is_empty()).then(|| Key { collection, path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(collection: &str, path: &str) -> String {
        let key = Key { collection: collection.into(), path: path.into() };
        let bytes = of(&key);
        assert_eq!(parse(&bytes, &mut Names::default()), Some(key));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn objects_lie_where_upstream_keeps_them() {
        for (collection, path, key) in [
            ("core/pods", "default/a", "/registry/pods/default/a"),
            ("core/nodes", "n", "/registry/minions/n"),
            ("core/services", "default/a", "/registry/services/specs/default/a"),
            ("core/endpoints", "default/a", "/registry/services/endpoints/default/a"),
            ("apps/deployments", "default/a", "/registry/deployments/default/a"),
            ("networking.k8s.io/ingresses", "default/a", "/registry/ingress/default/a"),
            ("rbac.authorization.k8s.io/clusterroles", "system:node", "/registry/clusterroles/system:node"),
            (
                "apiextensions.k8s.io/customresourcedefinitions",
                "a.b.c",
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c",
            ),
            ("example.com/pods", "default/a", "/registry/example.com/pods/default/a"),
        ] {
            assert_eq!(there_and_back(collection, path), key);
        }
    }

    #[test]
    fn what_is_no_object_has_no_key() {
        for key in ["/registry/ranges/serviceips", "/registry/masterleases/10.0.0.1", "/registry/pods/", "/other/a/b/c"]
        {
            assert_eq!(parse(key.as_bytes(), &mut Names::default()), None, "{key}");
        }
        assert_eq!(parse(format!("{OWN}writers/a/1").as_bytes(), &mut Names::default()), None);
    }

    #[test]
    fn a_collection_ends_behind_its_last_object() {
        let (start, end) = range_of("core/pods");
        assert_eq!((&*start, &*end), (&b"/registry/pods/"[..], &b"/registry/pods0"[..]));
    }
}
