//! What the parts of Keelson need that upstream has no role for: parts of our own, and controllers that patch what
//! upstream's update.

use serde_json::{Value, json};

use super::{EVENTS, PolicyObject, READ, RoleRow, cluster_binding, cluster_role, on, service_account, subject};

const CONTROLLER: &str = "keelson:controller:";
/// The gateway, and its user.
const GATEWAY: &str = "keelson:gateway";
/// What gives Services addresses of the machine, and its user.
const LOAD_BALANCER: &str = "keelson:load-balancer";
/// The user that provisions volumes.
const PROVISIONER: &str = "keelson:directory-provisioner";

const ROLES: &[RoleRow] = &[
    RoleRow {
        name: "keelson:controller:certificate-controller",
        rules: &[on(
            "patch",
            "certificates.k8s.io",
            "certificatesigningrequests/approval certificatesigningrequests/status",
        )],
    },
    RoleRow {
        name: "keelson:controller:deployment-controller",
        rules: &[on("patch", "apps", "deployments deployments/status")],
    },
    RoleRow { name: "keelson:controller:namespace-controller", rules: &[on("patch", "core", "namespaces/status")] },
    RoleRow {
        name: "keelson:controller:persistent-volume-binder",
        rules: &[on(
            "patch",
            "core",
            "persistentvolumeclaims persistentvolumeclaims/status persistentvolumes persistentvolumes/status",
        )],
    },
    RoleRow { name: "keelson:controller:pv-protection-controller", rules: &[on("patch", "core", "persistentvolumes")] },
    RoleRow {
        name: "keelson:controller:pvc-protection-controller",
        rules: &[on("patch", "core", "persistentvolumeclaims")],
    },
    RoleRow { name: "keelson:controller:replicaset-controller", rules: &[on("patch", "apps", "replicasets/status")] },
    RoleRow {
        name: "keelson:controller:replication-controller",
        rules: &[on("patch", "core", "replicationcontrollers replicationcontrollers/status")],
    },
    RoleRow {
        name: "keelson:controller:statefulset-controller",
        rules: &[on("patch", "apps", "statefulsets/status"), on("patch", "core", "persistentvolumeclaims")],
    },
    RoleRow {
        name: "keelson:controller:service-cidrs-controller",
        rules: &[on("create delete", "networking.k8s.io", "ipaddresses"), on("get list watch", "core", "services")],
    },
    RoleRow { name: "keelson:controller:daemon-set-controller", rules: &[on("patch", "apps", "daemonsets/status")] },
    RoleRow { name: "keelson:controller:root-ca-cert-publisher", rules: &[on("patch", "core", "configmaps")] },
    RoleRow {
        name: "keelson:controller:tokens-controller",
        rules: &[on("delete get update", "core", "secrets"), on("get update", "core", "serviceaccounts")],
    },
    RoleRow {
        name: PROVISIONER,
        rules: &[
            on("create delete get list patch watch", "core", "persistentvolumes"),
            on("get list patch watch", "core", "persistentvolumeclaims"),
            on("patch", "core", "persistentvolumeclaims/status"),
            on(READ, "core", "nodes"),
            on(READ, "storage.k8s.io", "storageclasses"),
            EVENTS,
        ],
    },
    RoleRow {
        name: GATEWAY,
        rules: &[
            on(READ, "core", "configmaps namespaces pods secrets"),
            on("create get list patch watch", "core", "services"),
            on("create get list patch watch", "discovery.k8s.io", "endpointslices"),
            on(READ, "networking.k8s.io", "ingressclasses ingresses"),
            on("patch update", "networking.k8s.io", "ingresses/status"),
            on(READ, "apiextensions.k8s.io", "customresourcedefinitions"),
            on(
                READ,
                "gateway.networking.k8s.io",
                "backendtlspolicies gatewayclasses gateways grpcroutes httproutes listenersets referencegrants \
                 tcproutes tlsroutes udproutes",
            ),
            on(
                "patch update",
                "gateway.networking.k8s.io",
                "backendtlspolicies/status gatewayclasses/status gateways/status grpcroutes/status httproutes/status \
                 listenersets/status tcproutes/status tlsroutes/status udproutes/status",
            ),
            on(
                READ,
                "gateway.envoyproxy.io",
                "backends backendtrafficpolicies clienttrafficpolicies httproutefilters securitypolicies",
            ),
            on(
                "patch update",
                "gateway.envoyproxy.io",
                "backends/status backendtrafficpolicies/status clienttrafficpolicies/status securitypolicies/status",
            ),
            on(READ, "gateway.keelson.dev", "apiversionfilters idempotencyfilters"),
            on(READ, "networking.istio.io", "destinationrules virtualservices"),
            on("patch update", "networking.istio.io", "destinationrules/status virtualservices/status"),
            on(READ, "security.istio.io", "authorizationpolicies peerauthentications requestauthentications"),
            on(
                "patch update",
                "security.istio.io",
                "authorizationpolicies/status peerauthentications/status requestauthentications/status",
            ),
            EVENTS,
        ],
    },
    RoleRow {
        name: LOAD_BALANCER,
        rules: &[
            on("get list patch watch", "core", "services"),
            on("patch", "core", "services/status"),
            on("create get update", "coordination.k8s.io", "leases"),
            EVENTS,
        ],
    },
];

pub(super) fn roles() -> Vec<PolicyObject> {
    ROLES.iter().map(|row| cluster_role(row, &[])).collect()
}

pub(super) fn bindings() -> Vec<PolicyObject> {
    let bound = |row: &RoleRow| {
        let subjects: Value = match row.name.strip_prefix(CONTROLLER) {
            Some(account) => json!([service_account(account)]),
            None => json!([subject("User", row.name)]),
        };
        cluster_binding(row.name, subjects)
    };
    ROLES.iter().map(bound).collect()
}
