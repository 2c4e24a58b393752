//! Roles within the namespaces of the system.

use serde_json::{Value, json};

use super::{API_VERSION, GROUP, PolicyObject, RoleRow, metadata, named, on, rules, service_account, subject};

const SYSTEM: &str = "kube-system";
const AUTHENTICATION_READER: &str = "extension-apiserver-authentication-reader";
const LOCK_CONTROLLERS: &str = "system::leader-locking-kube-controller-manager";
const LOCK_SCHEDULER: &str = "system::leader-locking-kube-scheduler";

const ROLES: &[RoleRow] = &[
    RoleRow {
        name: AUTHENTICATION_READER,
        rules: &[named("get list watch", "core", "configmaps", "extension-apiserver-authentication")],
    },
    RoleRow {
        name: LOCK_CONTROLLERS,
        rules: &[
            on("watch", "core", "configmaps"),
            named("get update", "core", "configmaps", "kube-controller-manager"),
        ],
    },
    RoleRow {
        name: LOCK_SCHEDULER,
        rules: &[on("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")],
    },
];

pub(super) fn roles() -> Vec<PolicyObject> {
    ROLES
        .iter()
        .map(|row| PolicyObject {
            collection: "rbac.authorization.k8s.io/roles",
            path: format!("{SYSTEM}/{}", row.name),
            object: json!({
                "apiVersion": API_VERSION, "kind": "Role", "metadata": metadata(row.name, SYSTEM, &[]),
                "rules": rules(row.rules)
            }),
        })
        .collect()
}

fn binding(name: &str, role: &str, subjects: Value) -> PolicyObject {
    PolicyObject {
        collection: "rbac.authorization.k8s.io/rolebindings",
        path: format!("{SYSTEM}/{name}"),
        object: json!({
            "apiVersion": API_VERSION, "kind": "RoleBinding", "metadata": metadata(name, SYSTEM, &[]),
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role}, "subjects": subjects
        }),
    }
}

pub(super) fn bindings() -> Vec<PolicyObject> {
    let (controllers, scheduler) =
        (subject("User", "system:kube-controller-manager"), subject("User", "system:kube-scheduler"));
    vec![
        binding(
            "system::extension-apiserver-authentication-reader",
            AUTHENTICATION_READER,
            json!([controllers, scheduler]),
        ),
        binding(LOCK_CONTROLLERS, LOCK_CONTROLLERS, json!([controllers, service_account("kube-controller-manager")])),
        binding(LOCK_SCHEDULER, LOCK_SCHEDULER, json!([scheduler, service_account("kube-scheduler")])),
    ]
}
