//! Nobody grants more than they hold: roles may be written and bound only by who has all their rules, or the verb
//! `escalate` on the role (`bind` for bindings).

use serde_json::Value;
use strategy::tree;

use super::{Attributes, Authorizer, Decision, Rule, rules::quoted};
use crate::admission::{AdmissionError, AdmissionRequest, Operation};

/// Checks a write of `object` when it is a role or a binding.
pub fn check(authorizer: &Authorizer, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
    if request.resource.group != "rbac.authorization.k8s.io"
        || !matches!(request.operation, Operation::Create | Operation::Update)
    {
        return Ok(());
    }
    match request.resource.plural.as_str() {
        resource @ ("roles" | "clusterroles") => check_role(authorizer, request, resource, object),
        "rolebindings" | "clusterrolebindings" => check_binding(authorizer, request, object),
        _ => Ok(()),
    }
}

fn check_role(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    resource: &str,
    object: &Value,
) -> Result<(), AdmissionError> {
    let unchanged =
        request.old.is_some_and(|old| tree::same(object, old, "rules") && tree::same(object, old, "aggregationRule"));
    if unchanged || allowed(authorizer, request, "escalate", resource, request.name) {
        return Ok(());
    }
    let aggregates = tree::some(object, "aggregationRule").is_some();
    let keeps = request.old.is_some_and(|old| tree::same(object, old, "aggregationRule"));
    if aggregates && !keeps {
        let missing = authorizer.not_covered(request.user, request.namespace, &Rule::everything());
        if !missing.is_empty() {
            return Err(AdmissionError::forbidden(
                request,
                "must have cluster-admin privileges to use the aggregationRule",
            ));
        }
    }
    covered(authorizer, request, &Rule::of_role(object))
}

fn check_binding(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), AdmissionError> {
    let unchanged =
        request.old.is_some_and(|old| tree::same(object, old, "roleRef") && tree::same(object, old, "subjects"));
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    let resource = if tree::text(role, "kind") == "Role" { "roles" } else { "clusterroles" };
    if unchanged || allowed(authorizer, request, "bind", resource, tree::text(role, "name")) {
        return Ok(());
    }
    match authorizer.role_rules(request.namespace, role) {
        Some(rules) => covered(authorizer, request, &rules),
        None => Err(AdmissionError::NotFound {
            group_resource: format!("{resource}.rbac.authorization.k8s.io"),
            name: tree::text(role, "name").to_owned(),
        }),
    }
}

fn allowed(authorizer: &Authorizer, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
    authorizer.authorize(&Attributes {
        user: request.user,
        verb,
        group: "rbac.authorization.k8s.io",
        resource,
        subresource: "",
        namespace: request.namespace,
        name,
        path: None,
    }) == Decision::Allow
}

fn covered(authorizer: &Authorizer, request: &AdmissionRequest<'_>, rules: &[Rule]) -> Result<(), AdmissionError> {
    let missing = authorizer.not_covered(request.user, request.namespace, rules);
    if missing.is_empty() {
        return Ok(());
    }
    Err(AdmissionError::forbidden(
        request,
        format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            request.user.name,
            quoted(&request.user.groups),
            Rule::compact_all(&missing).join("\n")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::RequestOptions;
    use strategy::User;

    use crate::testing::resource;

    #[test]
    fn a_user_grants_what_they_hold_or_may_escalate() {
        let authorizer = Authorizer::new();
        let group = "rbac.authorization.k8s.io";
        let role = |verbs: &[&str]| json!({"rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "reader", Some(&role(&["get"])));
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "writer", Some(&role(&["create"])));
        let all = json!({"rules": [{"verbs": ["bind", "escalate"], "apiGroups": ["*"], "resources": ["*"]}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "granter", Some(&all));
        for (name, role) in [("ann", "reader"), ("bob", "granter")] {
            let binding =
                json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": name}]});
            authorizer.apply("rbac.authorization.k8s.io/clusterrolebindings", name, Some(&binding));
        }
        let write = |user: &str, plural: &str, object: &Value| {
            let (user, resource) = (User::new(user, &["g"]), resource(group, plural));
            let request = AdmissionRequest {
                operation: Operation::Create,
                resource: &resource,
                subresource: None,
                namespace: "n",
                name: "x",
                generate_name: "",
                user: &user,
                old: None,
                options: RequestOptions::None,
                dry_run: false,
                now: jiff::Timestamp::UNIX_EPOCH,
            };
            check(&authorizer, &request, object)
        };
        let bind = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}});
        assert_eq!(write("ann", "roles", &role(&["get"])), Ok(()));
        assert_eq!(
            write("ann", "roles", &role(&["get", "list"])).unwrap_err().to_string(),
            "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"ann\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
        );
        let two = write("ann", "roles", &role(&["list", "watch"])).unwrap_err().to_string();
        assert!(two.ends_with("\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}"), "{two}");
        assert_eq!(write("bob", "roles", &role(&["list"])), Ok(()));
        assert_eq!(write("ann", "rolebindings", &bind("reader")), Ok(()));
        assert!(write("ann", "rolebindings", &bind("writer")).is_err());
        assert_eq!(write("bob", "rolebindings", &bind("writer")), Ok(()));
        assert!(matches!(write("ann", "rolebindings", &bind("none")), Err(AdmissionError::NotFound { .. })));
    }
}
