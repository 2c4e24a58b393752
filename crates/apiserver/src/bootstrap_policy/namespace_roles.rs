//! Roles within the namespaces of the system.

use serde_json::{Value, json};

use super::{API_VERSION, EVENTS, GROUP, PolicyObject, RoleRow, metadata, named, on, rules, service_account, subject};

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const BOOTSTRAP_SIGNER: &str = "system:controller:bootstrap-signer";
const CLOUD_PROVIDER: &str = "system:controller:cloud-provider";
const TOKEN_CLEANER: &str = "system:controller:token-cleaner";
const AUTHENTICATION_READER: &str = "extension-apiserver-authentication-reader";
const LOCK_CONTROLLERS: &str = "system::leader-locking-kube-controller-manager";
const LOCK_SCHEDULER: &str = "system::leader-locking-kube-scheduler";

/// Each with its namespace.
const ROLES: &[(&str, RoleRow)] = &[
    (
        SYSTEM,
        RoleRow {
            name: AUTHENTICATION_READER,
            rules: &[named("get list watch", "core", "configmaps", "extension-apiserver-authentication")],
        },
    ),
    (
        SYSTEM,
        RoleRow {
            name: LOCK_CONTROLLERS,
            rules: &[
                on("watch", "core", "configmaps"),
                named("get update", "core", "configmaps", "kube-controller-manager"),
            ],
        },
    ),
    (
        SYSTEM,
        RoleRow {
            name: LOCK_SCHEDULER,
            rules: &[on("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")],
        },
    ),
    (SYSTEM, RoleRow { name: BOOTSTRAP_SIGNER, rules: &[on("get list watch", "core", "secrets")] }),
    (SYSTEM, RoleRow { name: CLOUD_PROVIDER, rules: &[on("create get list watch", "core", "configmaps")] }),
    (SYSTEM, RoleRow { name: TOKEN_CLEANER, rules: &[on("delete get list watch", "core", "secrets"), EVENTS] }),
    (
        PUBLIC,
        RoleRow {
            name: BOOTSTRAP_SIGNER,
            rules: &[
                on("get list watch", "core", "configmaps"),
                named("update", "core", "configmaps", "cluster-info"),
                EVENTS,
            ],
        },
    ),
];

pub(super) fn roles() -> Vec<PolicyObject> {
    ROLES
        .iter()
        .map(|(namespace, row)| PolicyObject {
            collection: "rbac.authorization.k8s.io/roles",
            path: format!("{namespace}/{}", row.name),
            object: json!({
                "apiVersion": API_VERSION, "kind": "Role", "metadata": metadata(row.name, namespace, &[]),
                "rules": rules(row.rules)
            }),
        })
        .collect()
}

fn binding(namespace: &str, name: &str, role: &str, subjects: Value) -> PolicyObject {
    PolicyObject {
        collection: "rbac.authorization.k8s.io/rolebindings",
        path: format!("{namespace}/{name}"),
        object: json!({
            "apiVersion": API_VERSION, "kind": "RoleBinding", "metadata": metadata(name, namespace, &[]),
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role}, "subjects": subjects
        }),
    }
}

pub(super) fn bindings() -> Vec<PolicyObject> {
    let (controllers, scheduler) =
        (subject("User", "system:kube-controller-manager"), subject("User", "system:kube-scheduler"));
    vec![
        binding(
            SYSTEM,
            "system::extension-apiserver-authentication-reader",
            AUTHENTICATION_READER,
            json!([controllers, scheduler]),
        ),
        binding(
            SYSTEM,
            LOCK_CONTROLLERS,
            LOCK_CONTROLLERS,
            json!([controllers, service_account("kube-controller-manager")]),
        ),
        binding(SYSTEM, LOCK_SCHEDULER, LOCK_SCHEDULER, json!([scheduler, service_account("kube-scheduler")])),
        binding(SYSTEM, BOOTSTRAP_SIGNER, BOOTSTRAP_SIGNER, json!([service_account("bootstrap-signer")])),
        binding(SYSTEM, CLOUD_PROVIDER, CLOUD_PROVIDER, json!([service_account("cloud-provider")])),
        binding(SYSTEM, TOKEN_CLEANER, TOKEN_CLEANER, json!([service_account("token-cleaner")])),
        binding(PUBLIC, BOOTSTRAP_SIGNER, BOOTSTRAP_SIGNER, json!([service_account("bootstrap-signer")])),
    ]
}
