//! Roles of users, nodes and components.

use serde_json::{Value, json};

use super::{
    EVENTS, PolicyObject, READ, READ_WRITE, RoleRow, WRITE, cluster_binding, cluster_role, metadata, named, on, paths,
    service_account, subject,
};

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

const HEALTH: &str = "/healthz /livez /readyz /version /version/";
const CSR: &str = "certificates.k8s.io";

const AGGREGATE_TO_ADMIN: RoleRow = RoleRow {
    name: "system:aggregate-to-admin",
    rules: &[
        on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        on(READ_WRITE, "rbac.authorization.k8s.io", "roles rolebindings"),
    ],
};

const AGGREGATE_TO_EDIT: RoleRow = RoleRow {
    name: "system:aggregate-to-edit",
    rules: &[
        on(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        on("impersonate", "core", "serviceaccounts"),
        on(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
        on("create", "core", "pods/eviction"),
        on(
            WRITE,
            "core",
            "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
        ),
        on("create", "core", "serviceaccounts/token"),
        on(
            WRITE,
            "apps",
            "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
        ),
        on(WRITE, "autoscaling", "horizontalpodautoscalers"),
        on(WRITE, "batch", "cronjobs jobs"),
        on(
            WRITE,
            "extensions",
            "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
        ),
        on(WRITE, "policy", "poddisruptionbudgets"),
        on(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
        on(READ_WRITE, "coordination.k8s.io", "leases"),
        on(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ],
};

const AGGREGATE_TO_VIEW: RoleRow = RoleRow {
    name: "system:aggregate-to-view",
    rules: &[
        on(
            READ,
            "core",
            "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
        ),
        on(
            READ,
            "core",
            "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
        ),
        on(READ, "core", "namespaces"),
        on(READ, "discovery.k8s.io", "endpointslices"),
        on(
            READ,
            "apps",
            "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        ),
        on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        on(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
        on(
            READ,
            "extensions",
            "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
        ),
        on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        on(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
        on(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
    ],
};

pub(super) const NODE: RoleRow = RoleRow {
    name: "system:node",
    rules: &[
        on("create", "authentication.k8s.io", "tokenreviews"),
        on("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
        on(READ, "core", "services"),
        on("create get list watch", "core", "nodes"),
        on("patch update", "core", "nodes/status"),
        on("patch update", "core", "nodes"),
        EVENTS,
        on(READ, "core", "pods"),
        on("create delete", "core", "pods"),
        on("patch update", "core", "pods/status"),
        on("create", "core", "pods/eviction"),
        on(READ, "core", "configmaps secrets"),
        on("get", "core", "persistentvolumeclaims persistentvolumes"),
        on("get", "core", "endpoints"),
        on("create get list watch", CSR, "certificatesigningrequests"),
        on("create delete get patch update", "coordination.k8s.io", "leases"),
        on("get", "storage.k8s.io", "volumeattachments"),
        on("get patch update", "core", "persistentvolumeclaims/status"),
        on("create", "core", "serviceaccounts/token"),
        on(READ, "storage.k8s.io", "csidrivers"),
        on("create delete get patch update", "storage.k8s.io", "csinodes"),
        on(READ, "node.k8s.io", "runtimeclasses"),
        on("get", "resource.k8s.io", "resourceclaims"),
        on("create delete deletecollection get list patch update watch", "resource.k8s.io", "resourceslices"),
        on("list watch", CSR, "clustertrustbundles"),
        on("create get list watch", CSR, "podcertificaterequests"),
    ],
};

const CONTROLLER_MANAGER: RoleRow = RoleRow {
    name: "system:kube-controller-manager",
    rules: &[
        EVENTS,
        on("create", "coordination.k8s.io", "leases"),
        named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
        on("create", "core", "secrets serviceaccounts"),
        on("delete", "core", "secrets"),
        on("get", "core", "configmaps namespaces secrets serviceaccounts"),
        on("update", "core", "secrets serviceaccounts"),
        on("create", "authentication.k8s.io", "tokenreviews"),
        on("create", "authorization.k8s.io", "subjectaccessreviews"),
        on("list watch", "*", "*"),
        on("create", "core", "serviceaccounts/token"),
    ],
};

const SCHEDULER: RoleRow = RoleRow {
    name: "system:kube-scheduler",
    rules: &[
        EVENTS,
        on("create", "coordination.k8s.io", "leases"),
        named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
        on(READ, "core", "nodes"),
        on("delete get list watch", "core", "pods"),
        on("create", "core", "bindings pods/binding"),
        on("patch update", "core", "pods/status"),
        on(READ, "core", "replicationcontrollers services"),
        on(READ, "apps extensions", "replicasets"),
        on(READ, "apps", "statefulsets"),
        on(READ, "policy", "poddisruptionbudgets"),
        on(READ, "core", "persistentvolumeclaims persistentvolumes"),
        on("create", "authentication.k8s.io", "tokenreviews"),
        on("create", "authorization.k8s.io", "subjectaccessreviews"),
        on(READ, "storage.k8s.io", "csinodes"),
        on("get list watch", "core", "namespaces"),
        on(READ, "storage.k8s.io", "csidrivers"),
        on(READ, "storage.k8s.io", "csistoragecapacities"),
        on(READ, "storage.k8s.io", "volumeattachments"),
        on(READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
        on("patch update", "resource.k8s.io", "resourceclaims/status"),
    ],
};

const ROLES: &[RoleRow] = &[
    RoleRow { name: "cluster-admin", rules: &[on("*", "*", "*"), paths("*", "*")] },
    RoleRow {
        name: "system:discovery",
        rules: &[paths(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        )],
    },
    RoleRow {
        name: "system:monitoring",
        rules: &[paths("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    },
    RoleRow {
        name: "system:basic-user",
        rules: &[
            on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            on("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    },
    RoleRow { name: "system:public-info-viewer", rules: &[paths("get", HEALTH)] },
    NODE,
    RoleRow {
        name: "system:node-problem-detector",
        rules: &[on("get", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS],
    },
    RoleRow {
        name: "system:kubelet-api-admin",
        rules: &[
            on(READ, "core", "nodes"),
            on("proxy", "core", "nodes"),
            on("*", "core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats"),
        ],
    },
    RoleRow {
        name: "system:node-bootstrapper",
        rules: &[on("create get list watch", CSR, "certificatesigningrequests")],
    },
    RoleRow {
        name: "system:auth-delegator",
        rules: &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    },
    RoleRow { name: "system:kube-aggregator", rules: &[on(READ, "core", "endpoints services")] },
    CONTROLLER_MANAGER,
    RoleRow {
        name: "system:kube-dns",
        rules: &[
            on("list watch", "core", "endpoints services"),
            on("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    },
    RoleRow {
        name: "system:persistent-volume-provisioner",
        rules: &[
            on("create delete get list watch", "core", "persistentvolumes"),
            on("get list update watch", "core", "persistentvolumeclaims"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("watch", "core", "events"),
            EVENTS,
        ],
    },
    RoleRow {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &[on("create", CSR, "certificatesigningrequests/nodeclient")],
    },
    RoleRow {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &[on("create", CSR, "certificatesigningrequests/selfnodeclient")],
    },
    RoleRow {
        name: "system:volume-scheduler",
        rules: &[
            on("get list patch update watch", "core", "persistentvolumes"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    },
    RoleRow {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &[named("approve", CSR, "signers", "kubernetes.io/legacy-unknown")],
    },
    RoleRow {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &[named("approve", CSR, "signers", "kubernetes.io/kubelet-serving")],
    },
    RoleRow {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &[named("approve", CSR, "signers", "kubernetes.io/kube-apiserver-client")],
    },
    RoleRow {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &[named("approve", CSR, "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    },
    RoleRow {
        name: "system:service-account-issuer-discovery",
        rules: &[paths(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    },
    RoleRow {
        name: "system:node-proxier",
        rules: &[
            on("list watch", "core", "endpoints services"),
            on(READ, "core", "nodes"),
            EVENTS,
            on("list watch", "discovery.k8s.io", "endpointslices"),
            on("list watch", "networking.k8s.io", "servicecidrs"),
        ],
    },
    SCHEDULER,
];

fn aggregated(name: &str, from: &str, labels: &[(&str, &str)]) -> PolicyObject {
    PolicyObject {
        collection: "rbac.authorization.k8s.io/clusterroles",
        path: name.to_owned(),
        object: json!({
            "apiVersion": super::API_VERSION, "kind": "ClusterRole", "metadata": metadata(name, "", labels),
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {from: "true"}}]}, "rules": []
        }),
    }
}

pub(super) fn roles() -> Vec<PolicyObject> {
    let mut roles: Vec<PolicyObject> = ROLES.iter().map(|row| cluster_role(row, &[])).collect();
    roles.push(aggregated("admin", TO_ADMIN, &[]));
    roles.push(aggregated("edit", TO_EDIT, &[(TO_ADMIN, "true")]));
    roles.push(aggregated("view", TO_VIEW, &[(TO_EDIT, "true")]));
    for (row, label) in [(AGGREGATE_TO_ADMIN, TO_ADMIN), (AGGREGATE_TO_EDIT, TO_EDIT), (AGGREGATE_TO_VIEW, TO_VIEW)] {
        roles.push(cluster_role(&row, &[(label, "true")]));
    }
    roles
}

pub(super) fn bindings() -> Vec<PolicyObject> {
    let group = |name: &str| subject("Group", name);
    let user = |name: &str| json!([subject("User", name)]);
    let everybody: Value = json!([group("system:authenticated"), group("system:unauthenticated")]);
    vec![
        cluster_binding("cluster-admin", json!([group("system:masters")])),
        cluster_binding("system:monitoring", json!([group("system:monitoring")])),
        cluster_binding("system:discovery", json!([group("system:authenticated")])),
        cluster_binding("system:basic-user", json!([group("system:authenticated")])),
        cluster_binding("system:public-info-viewer", everybody),
        cluster_binding("system:node-proxier", user("system:kube-proxy")),
        cluster_binding("system:kube-controller-manager", user("system:kube-controller-manager")),
        cluster_binding("system:kube-dns", json!([service_account("kube-dns")])),
        cluster_binding("system:kube-scheduler", user("system:kube-scheduler")),
        cluster_binding("system:volume-scheduler", user("system:kube-scheduler")),
        // nobody has the role: the node authorizer grants nodes its rules, as far as they are about their own pods
        cluster_binding("system:node", json!([])),
        cluster_binding("system:service-account-issuer-discovery", json!([group("system:serviceaccounts")])),
    ]
}
