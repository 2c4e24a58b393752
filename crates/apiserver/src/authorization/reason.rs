//! Which binding grants a request, in upstream's words: for the audit, after the decision and only where it is kept.

use super::{Grant, RoleKey, Subject};

/// The reason of a request that this grants.
pub(super) fn describe(grant: &Grant<'_>) -> String {
    let Grant { binding: (namespace, name), role, subject } = grant;
    let role = match role {
        RoleKey::Cluster(name) => format!("ClusterRole {name:?}"),
        RoleKey::Namespaced(_, name) => format!("Role {name:?}"),
    };
    let subject = match subject {
        Subject::Group(name) => format!("Group {name:?}"),
        Subject::User(name) => {
            match name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
                Some((namespace, name)) => format!("ServiceAccount \"{name}/{namespace}\""),
                None => format!("User {name:?}"),
            }
        }
    };
    if namespace.is_empty() {
        format!("RBAC: allowed by ClusterRoleBinding {name:?} of {role} to {subject}")
    } else {
        format!("RBAC: allowed by RoleBinding \"{name}/{namespace}\" of {role} to {subject}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Attributes, Authorizer, Decision, GROUP_MASTERS};
    use strategy::User;

    #[test]
    fn the_binding_that_grants_is_named() {
        let authorizer = Authorizer::new();
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "reader", Some(&role));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "n"}, {"kind": "Group", "name": "dev"}]});
        authorizer.apply("rbac.authorization.k8s.io/rolebindings", "n/b", Some(&binding));
        let why = |user: &User| {
            let attributes = Attributes {
                user,
                verb: "get",
                group: "",
                resource: "pods",
                subresource: "",
                namespace: "n",
                name: "p",
                path: None,
            };
            let mut why = Some(String::new());
            assert!(matches!(authorizer.decide(&attributes, "", &mut why), Decision::Allow));
            why.unwrap()
        };
        let account = why(&User::new("system:serviceaccount:n:web", &[]));
        assert_eq!(account, r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "reader" to ServiceAccount "web/n""#);
        let member = why(&User::new("alice", &["dev"]));
        assert_eq!(member, r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "reader" to Group "dev""#);
        assert_eq!(why(&User::new("root", &[GROUP_MASTERS])), "");
    }
}
