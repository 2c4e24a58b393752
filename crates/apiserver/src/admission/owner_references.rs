//! Who may hold an object's owner, and who may block its deletion.
//!
//! To change the owners of an object one must be allowed to delete it, because that is what the garbage collector may
//! then do; to block an owner's deletion one must be allowed to set its finalizers, because that is what blocking is.

use serde_json::Value;
use strategy::tree::{self, flag, list, text};

use super::{AdmissionError, AdmissionRequest, Operation};
use crate::authorization::{Attributes, Authorizer, Decision};

/// A resource that an owner's kind is served as.
pub(crate) struct OwnerResource {
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
}

/// Checks a write; `resources_of` gives what a group, version and kind are served as.
pub(crate) fn check(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
    resources_of: impl Fn(&str, &str, &str) -> Vec<OwnerResource>,
) -> Result<(), AdmissionError> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let owners = |object: &Value| object.get("metadata").map(|metadata| list(metadata, "ownerReferences").to_vec());
    let new = owners(object).unwrap_or_default();
    let old = request.old.and_then(owners).unwrap_or_default();
    if new == old || is_exempt(request) {
        return Ok(());
    }
    let may = |verb: &str, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let user = request.user;
        let attributes = Attributes { user, verb, group, resource, subresource, namespace, name, path: None };
        match authorizer.authorize(&attributes) {
            Decision::Allow => Ok(()),
            Decision::NoOpinion { reason } => Err(reason),
        }
    };
    if request.operation == Operation::Update {
        let (group, plural) = (&request.resource.group, &request.resource.plural);
        let subresource = request.subresource.unwrap_or_default();
        may("delete", group, plural, subresource, request.namespace, request.name).map_err(|reason| {
            let why = format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>");
            AdmissionError::forbidden(request, why)
        })?;
    }
    let blocks = |owner: &Value| flag(owner, "blockOwnerDeletion");
    let blocked_before = |owner: &Value| old.iter().any(|other| tree::same(owner, other, "uid") && blocks(other));
    for owner in new.iter().filter(|owner| blocks(owner) && !blocked_before(owner)) {
        let (api_version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resources = resources_of(group, version, kind);
        if resources.is_empty() {
            let why = format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: \
                 no matches for kind {kind:?} in version {api_version:?}"
            );
            return Err(AdmissionError::forbidden(request, why));
        }
        for resource in resources {
            // an owner in a namespace is in that of its dependents
            let namespace = if resource.namespaced { request.namespace } else { "" };
            may("update", group, &resource.plural, "finalizers", namespace, text(owner, "name")).map_err(|reason| {
                let why = format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}, <nil>"
                );
                AdmissionError::forbidden(request, why)
            })?;
        }
    }
    Ok(())
}

/// Writes that copy a pod's metadata along and change no owner.
fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    let core_pods = request.resource.group.is_empty() && request.resource.plural == "pods";
    core_pods && matches!(request.subresource, Some("status"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use strategy::User;

    use crate::testing::resource;

    #[test]
    fn blocking_an_owner_needs_its_finalizers_and_changing_owners_needs_delete() {
        let authorizer = Authorizer::new();
        let role =
            json!({"rules": [{"verbs": ["update"], "apiGroups": ["apps"], "resources": ["replicasets/finalizers"]}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "r", Some(&role));
        let binding =
            json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "ann"}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterrolebindings", "b", Some(&binding));
        let pods = resource("", "pods");
        let ask = |user: &str, owners: Value, old: Option<&Value>| {
            let user = User::new(user, &[]);
            let mut request = crate::admission::tests::request(&pods, &user);
            (request.namespace, request.name, request.old) = ("n", "p", old);
            request.operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let object = json!({"metadata": {"ownerReferences": owners}});
            check(&authorizer, &request, &object, |_, _, kind| match kind {
                "ReplicaSet" => vec![OwnerResource { plural: "replicasets".into(), namespaced: true }],
                _ => Vec::new(),
            })
            .map_err(|error| error.to_string())
        };
        let owner = |blocks: bool| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1", "blockOwnerDeletion": blocks}]);
        assert!(ask("eve", owner(false), None).is_ok());
        assert!(ask("ann", owner(true), None).is_ok());
        assert_eq!(
            ask("eve", owner(true), None).unwrap_err(),
            "pods \"p\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
        );
        let plain = json!({"metadata": {}});
        assert!(ask("ann", owner(true), Some(&plain)).unwrap_err().contains("a resource you can't delete"));
        assert!(ask("eve", json!([]), Some(&plain)).is_ok(), "nothing changes");
        let unknown = json!([{"apiVersion": "x/v1", "kind": "Y", "name": "r", "uid": "1", "blockOwnerDeletion": true}]);
        assert!(ask("ann", unknown, None).unwrap_err().contains("cannot find RESTMapping for APIVersion x/v1 Kind Y"));
    }
}
