//! Roles of the built-in controllers, each bound to its service account in `kube-system`.

use serde_json::json;

use super::{EVENTS, PolicyObject, READ, RoleRow, cluster_binding, cluster_role, named, on, service_account};

const PREFIX: &str = "system:controller:";

const ROLES: &[RoleRow] = &[
    RoleRow {
        name: "system:controller:attachdetach-controller",
        rules: &[
            on("list watch", "core", "persistentvolumeclaims persistentvolumes"),
            on(READ, "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("list watch", "core", "pods"),
            EVENTS,
            on("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on(READ, "storage.k8s.io", "csinodes"),
        ],
    },
    RoleRow {
        name: "system:controller:clusterrole-aggregation-controller",
        rules: &[on("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    },
    RoleRow {
        name: "system:controller:cronjob-controller",
        rules: &[
            on("get list update watch", "batch", "cronjobs"),
            on("create delete get list patch update watch", "batch", "jobs"),
            on("update", "batch", "cronjobs/status"),
            on("update", "batch", "cronjobs/finalizers"),
            on("delete list watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:daemon-set-controller",
        rules: &[
            on(READ, "apps extensions", "daemonsets"),
            on("update", "apps extensions", "daemonsets/status"),
            on("update", "apps extensions", "daemonsets/finalizers"),
            on("list watch", "core", "nodes"),
            on("create delete list patch watch", "core", "pods"),
            on("create", "core", "pods/binding"),
            on("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:deployment-controller",
        rules: &[
            on("get list update watch", "apps extensions", "deployments"),
            on("update", "apps extensions", "deployments/status"),
            on("update", "apps extensions", "deployments/finalizers"),
            on("create delete get list patch update watch", "apps extensions", "replicasets"),
            on("get list update watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:disruption-controller",
        rules: &[
            on(READ, "apps extensions", "deployments"),
            on(READ, "apps extensions", "replicasets"),
            on(READ, "core", "replicationcontrollers"),
            on(READ, "policy", "poddisruptionbudgets"),
            on(READ, "apps", "statefulsets"),
            on("update", "policy", "poddisruptionbudgets/status"),
            on("patch update", "core", "pods/status"),
            on("get", "*", "*/scale"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:endpoint-controller",
        rules: &[
            on(READ, "core", "pods services"),
            on("create delete get list update watch", "core", "endpoints"),
            on("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:endpointslice-controller",
        rules: &[
            on(READ, "core", "nodes pods services"),
            on("update", "core", "services/finalizers"),
            on("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:endpointslicemirroring-controller",
        rules: &[
            on(READ, "core", "endpoints services"),
            on("update", "core", "services/finalizers"),
            on("update", "core", "endpoints/finalizers"),
            on("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:ephemeral-volume-controller",
        rules: &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("create get list watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:generic-garbage-collector",
        rules: &[on("delete get list patch update watch", "*", "*"), EVENTS],
    },
    RoleRow {
        name: "system:controller:horizontal-pod-autoscaler",
        rules: &[
            on(READ, "autoscaling", "horizontalpodautoscalers"),
            on("update", "autoscaling", "horizontalpodautoscalers/status"),
            on("get update", "*", "*/scale"),
            on("list watch", "core", "pods"),
            on("list watch", "metrics.k8s.io", "pods"),
            on(READ, "custom.metrics.k8s.io", "*"),
            on(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:job-controller",
        rules: &[
            on("get list patch update watch", "batch", "jobs"),
            on("update", "batch", "jobs/status"),
            on("update", "batch", "jobs/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:namespace-controller",
        rules: &[
            on("delete get list watch", "core", "namespaces"),
            on("update", "core", "namespaces/finalize namespaces/status"),
            on("delete deletecollection get list watch", "*", "*"),
        ],
    },
    RoleRow {
        name: "system:controller:node-controller",
        rules: &[
            on("delete get list patch update watch", "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("patch update", "core", "pods/status"),
            on("delete get list watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:persistent-volume-binder",
        rules: &[
            on("create delete get list update watch", "core", "persistentvolumes"),
            on("update", "core", "persistentvolumes/status"),
            on("get list update watch", "core", "persistentvolumeclaims"),
            on("update", "core", "persistentvolumeclaims/status"),
            on("create delete get list watch", "core", "pods"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("list watch", "core", "nodes"),
            EVENTS,
            on("watch", "core", "events"),
        ],
    },
    RoleRow {
        name: "system:controller:pod-garbage-collector",
        rules: &[
            on("delete list watch", "core", "pods"),
            on(READ, "core", "nodes"),
            on("patch", "core", "pods/status"),
        ],
    },
    RoleRow {
        name: "system:controller:pv-protection-controller",
        rules: &[on("get list update watch", "core", "persistentvolumes"), EVENTS],
    },
    RoleRow {
        name: "system:controller:pvc-protection-controller",
        rules: &[
            on("get list update watch", "core", "persistentvolumeclaims"),
            on("update", "core", "persistentvolumeclaims/status"),
            on("get list watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:replicaset-controller",
        rules: &[
            on("get list update watch", "apps extensions", "replicasets"),
            on("update", "apps extensions", "replicasets/status"),
            on("update", "apps extensions", "replicasets/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:replication-controller",
        rules: &[
            on("get list update watch", "core", "replicationcontrollers"),
            on("update", "core", "replicationcontrollers/status"),
            on("update", "core", "replicationcontrollers/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:resourcequota-controller",
        rules: &[on("list watch", "*", "*"), on("update", "core", "resourcequotas/status"), EVENTS],
    },
    RoleRow {
        name: "system:controller:root-ca-cert-publisher",
        rules: &[on("create update", "core", "configmaps"), EVENTS],
    },
    RoleRow {
        name: "system:controller:service-account-controller",
        rules: &[on("create", "core", "serviceaccounts"), EVENTS],
    },
    RoleRow {
        name: "system:controller:statefulset-controller",
        rules: &[
            on("list watch", "core", "pods"),
            on(READ, "apps", "statefulsets"),
            on("update", "apps", "statefulsets/status"),
            on("update", "apps", "statefulsets/finalizers"),
            on("create delete get patch update", "core", "pods"),
            on("create delete get list patch update watch", "apps", "controllerrevisions"),
            on("create get list watch", "core", "persistentvolumeclaims"),
            on("delete update", "core", "persistentvolumeclaims"),
            on("update", "core", "pods/finalizers"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:ttl-after-finished-controller",
        rules: &[on("delete get list watch", "batch", "jobs"), EVENTS],
    },
    RoleRow {
        name: "system:controller:ttl-controller",
        rules: &[on("list patch update watch", "core", "nodes"), EVENTS],
    },
    RoleRow {
        name: "system:controller:certificate-controller",
        rules: &[
            on("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            on(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:device-taint-eviction-controller",
        rules: &[
            on("delete get list watch", "core", "pods"),
            on("patch update", "core", "pods/status"),
            on(READ, "resource.k8s.io", "resourceclaims"),
            on(READ, "resource.k8s.io", "resourceslices"),
            on(READ, "resource.k8s.io", "deviceclasses"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:expand-controller",
        rules: &[
            on("get list patch update watch", "core", "persistentvolumes"),
            on("patch update", "core", "persistentvolumeclaims/status"),
            on(READ, "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:legacy-service-account-token-cleaner",
        rules: &[
            named("get", "core", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            on("delete patch", "core", "secrets"),
        ],
    },
    RoleRow {
        name: "system:controller:resource-claim-controller",
        rules: &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            on("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
            on("patch update", "core", "pods/status"),
            EVENTS,
            on("patch update", "resource.k8s.io", "resourceclaims/binding"),
        ],
    },
    RoleRow {
        name: "system:controller:route-controller",
        rules: &[on("list watch", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS],
    },
    RoleRow {
        name: "system:controller:selinux-warning-controller",
        rules: &[
            EVENTS,
            on(READ, "core", "persistentvolumes"),
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "pods"),
            on(READ, "storage.k8s.io", "csidrivers"),
        ],
    },
    RoleRow {
        name: "system:controller:service-cidrs-controller",
        rules: &[
            on("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            on("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            on("patch update", "networking.k8s.io", "servicecidrs/status"),
            on(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:service-controller",
        rules: &[
            on(READ, "core", "services"),
            on("patch update", "core", "services/status"),
            on("list watch", "core", "nodes"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:validatingadmissionpolicy-status-controller",
        rules: &[
            on(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            on("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:controller:volumeattributesclass-protection-controller",
        rules: &[
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "persistentvolumes"),
            on("get list update watch", "storage.k8s.io", "volumeattributesclasses"),
            EVENTS,
        ],
    },
];

pub(super) fn roles() -> Vec<PolicyObject> {
    ROLES.iter().map(|row| cluster_role(row, &[])).collect()
}

pub(super) fn bindings() -> Vec<PolicyObject> {
    ROLES
        .iter()
        .map(|row| {
            let account = row.name.strip_prefix(PREFIX).unwrap_or(row.name);
            cluster_binding(row.name, json!([service_account(account)]))
        })
        .collect()
}
