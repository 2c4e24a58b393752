//! Which binding grants a request, in upstream's words: for the audit, after the decision and only where it is kept.

use super::{Attributes, Authorizer, BindingKey, GROUP_MASTERS, RoleKey, Subject};

impl Authorizer {
    /// The reason of an allowed request; empty for members of `system:masters`, who need none.
    pub(crate) fn why(&self, attributes: &Attributes<'_>) -> String {
        if attributes.user.is_in(GROUP_MASTERS) {
            return String::new();
        }
        let index = self.index.load();
        let user = attributes.user;
        let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.as_str().into())));
        for subject in subjects {
            let Some(grants) = index.grants.get(&subject) else { continue };
            // without a namespace both are the cluster's
            for scope in ["", attributes.namespace] {
                for (binding, role) in grants.get(scope).into_iter().flatten() {
                    let rules = index.roles.get(role);
                    if rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(attributes))) {
                        return describe(binding, role, &subject);
                    }
                }
            }
        }
        String::new()
    }
}

fn describe((namespace, name): &BindingKey, role: &RoleKey, subject: &Subject) -> String {
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

    use super::*;
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
            authorizer.why(&Attributes {
                user,
                verb: "get",
                group: "",
                resource: "pods",
                subresource: "",
                namespace: "n",
                name: "p",
                path: None,
            })
        };
        let account = why(&User::new("system:serviceaccount:n:web", &[]));
        assert_eq!(account, r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "reader" to ServiceAccount "web/n""#);
        let member = why(&User::new("alice", &["dev"]));
        assert_eq!(member, r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "reader" to Group "dev""#);
        assert_eq!(why(&User::new("root", &[GROUP_MASTERS])), "");
    }
}
