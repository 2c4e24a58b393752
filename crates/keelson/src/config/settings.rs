//! The table of settings.

/// One row of the table.
pub(crate) struct Setting {
    /// Dotted key, as in the file.
    pub key: &'static str,
    /// Environment variable.
    pub environment: &'static str,
    /// Value when nothing sets it; the reason is in `about`.
    pub default: &'static str,
    /// What it means and which values it takes.
    pub about: &'static str,
}

/// Every setting there is.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        key: "dataDir",
        environment: "KEELSON_DATA_DIR",
        default: "/var/lib/keelson",
        about: "folder that holds everything this instance keeps",
    },
    Setting {
        key: "listen",
        environment: "KEELSON_LISTEN",
        default: "127.0.0.1:6443",
        about: "IP:PORT of the Kubernetes API; port 0 picks a free one; loopback by default, so that nothing is exposed unasked",
    },
    Setting {
        key: "node.enabled",
        environment: "KEELSON_NODE_ENABLED",
        default: "true",
        about: "true or false: run containers and the pod network on this machine (needs root)",
    },
    Setting {
        key: "node.name",
        environment: "KEELSON_NODE_NAME",
        default: "",
        about: "name of this machine's Node; empty takes the host name",
    },
    Setting {
        key: "gateway.addresses",
        environment: "KEELSON_GATEWAY_ADDRESSES",
        default: "127.0.0.1",
        about: "IP addresses of Gateways, Ingresses and (but for loopback) Services of type LoadBalancer; comma-separated",
    },
    Setting {
        key: "mesh.whenDown",
        environment: "KEELSON_MESH_WHEN_DOWN",
        default: "refuse",
        about: "what becomes of connections of pods in the mesh while Keelson is stopped: refuse, or letThrough (unencrypted; after a crash they are refused all the same)",
    },
    Setting {
        key: "registry.listen",
        environment: "KEELSON_REGISTRY_LISTEN",
        default: "",
        about: "IP:PORT of the image registry; empty takes 127.0.0.1:5000, or a free port where that is taken",
    },
    Setting {
        key: "audit.policy",
        environment: "KEELSON_AUDIT_POLICY",
        default: "",
        about: "file with an audit.k8s.io/v1 Policy; empty audits every write and every read of a Secret, without bodies",
    },
    Setting {
        key: "audit.log.path",
        environment: "KEELSON_AUDIT_LOG_PATH",
        default: "",
        about: "file that audit events go to; empty takes audit/audit.log in the data folder, - standard output, off none",
    },
    Setting {
        key: "audit.log.maxSizeMiB",
        environment: "KEELSON_AUDIT_LOG_MAX_SIZE_MIB",
        default: "100",
        about: "1 to 1000000: size from which the audit log is put aside and begun anew; upstream's default",
    },
    Setting {
        key: "audit.log.maxBackups",
        environment: "KEELSON_AUDIT_LOG_MAX_BACKUPS",
        default: "5",
        about: "0 to 10000: audit logs put aside that are kept; with the size this bounds the disk they take to 600 MiB",
    },
    Setting {
        key: "audit.log.maxAgeDays",
        environment: "KEELSON_AUDIT_LOG_MAX_AGE_DAYS",
        default: "0",
        about: "0 to 36500: age from which audit logs put aside are removed; 0 keeps them",
    },
    Setting {
        key: "store.url",
        environment: "KEELSON_STORE",
        default: "embedded",
        about: "embedded, or the external etcd that keeps the objects: etcd://HOST:PORT,HOST:PORT, https:// for TLS",
    },
    Setting {
        key: "store.caFile",
        environment: "KEELSON_STORE_CA_FILE",
        default: "",
        about: "PEM file of the authorities that etcd's certificates come from; needed with https",
    },
    Setting {
        key: "store.certFile",
        environment: "KEELSON_STORE_CERT_FILE",
        default: "",
        about: "PEM file of the certificate shown to etcd; empty shows none",
    },
    Setting {
        key: "store.keyFile",
        environment: "KEELSON_STORE_KEY_FILE",
        default: "",
        about: "PEM file of that certificate's key",
    },
    Setting {
        key: "audit.webhook.config",
        environment: "KEELSON_AUDIT_WEBHOOK_CONFIG",
        default: "",
        about: "kubeconfig of a webhook that audit events also go to, in batches; what it cannot take is dropped and counted",
    },
    Setting {
        key: "events.ttlSeconds",
        environment: "KEELSON_EVENTS_TTL_SECONDS",
        default: "3600",
        about: "1 to 31536000: how long an Event lives after it was last written; upstream's hour",
    },
    Setting {
        key: "limits.requests",
        environment: "KEELSON_LIMITS_REQUESTS",
        default: "600",
        about: "1 to 1000000: requests served at once, divided among priority levels; upstream's 400 reading and 200 writing",
    },
    Setting {
        key: "oidc.issuerUrl",
        environment: "KEELSON_OIDC_ISSUER_URL",
        default: "",
        about: "https URL of the OpenID Connect provider whose users are believed; empty believes none",
    },
    Setting {
        key: "oidc.clientId",
        environment: "KEELSON_OIDC_CLIENT_ID",
        default: "",
        about: "client that the provider's tokens must be meant for; needed with oidc.issuerUrl",
    },
    Setting {
        key: "oidc.usernameClaim",
        environment: "KEELSON_OIDC_USERNAME_CLAIM",
        default: "sub",
        about: "claim that names the user; upstream's default",
    },
    Setting {
        key: "oidc.usernamePrefix",
        environment: "KEELSON_OIDC_USERNAME_PREFIX",
        default: "",
        about: "what stands before the user's name; - nothing, empty the issuer and # (nothing before an email)",
    },
    Setting {
        key: "oidc.groupsClaim",
        environment: "KEELSON_OIDC_GROUPS_CLAIM",
        default: "",
        about: "claim that lists the user's groups; empty takes none",
    },
    Setting {
        key: "oidc.groupsPrefix",
        environment: "KEELSON_OIDC_GROUPS_PREFIX",
        default: "",
        about: "what stands before each group's name",
    },
    Setting {
        key: "oidc.requiredClaims",
        environment: "KEELSON_OIDC_REQUIRED_CLAIMS",
        default: "",
        about: "KEY=VALUE,KEY=VALUE: claims that every token must have with exactly this value",
    },
    Setting {
        key: "oidc.signingAlgs",
        environment: "KEELSON_OIDC_SIGNING_ALGS",
        default: "RS256",
        about: "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384: how tokens may be signed, comma-separated; upstream's default",
    },
    Setting {
        key: "oidc.caFile",
        environment: "KEELSON_OIDC_CA_FILE",
        default: "",
        about: "PEM file of the authorities that the provider's certificate comes from; empty takes this machine's",
    },
    Setting {
        key: "requestHeader.clientCaFile",
        environment: "KEELSON_REQUEST_HEADER_CLIENT_CA_FILE",
        default: "",
        about: "PEM file of the authorities of front proxies, which name users in headers; empty takes pki/front-proxy-ca.crt in the data folder",
    },
    Setting {
        key: "requestHeader.allowedNames",
        environment: "KEELSON_REQUEST_HEADER_ALLOWED_NAMES",
        default: "front-proxy-client",
        about: "common names of front proxies, comma-separated; empty believes every certificate of their authorities",
    },
    Setting {
        key: "requestHeader.usernameHeaders",
        environment: "KEELSON_REQUEST_HEADER_USERNAME_HEADERS",
        default: "X-Remote-User",
        about: "headers in which front proxies name the user, comma-separated; the first that is there counts",
    },
    Setting {
        key: "requestHeader.uidHeaders",
        environment: "KEELSON_REQUEST_HEADER_UID_HEADERS",
        default: "X-Remote-Uid",
        about: "headers in which front proxies name the user's uid, comma-separated; the first that is there counts",
    },
    Setting {
        key: "requestHeader.groupHeaders",
        environment: "KEELSON_REQUEST_HEADER_GROUP_HEADERS",
        default: "X-Remote-Group",
        about: "headers in which front proxies name the user's groups, comma-separated; all count",
    },
    Setting {
        key: "requestHeader.extraHeaderPrefixes",
        environment: "KEELSON_REQUEST_HEADER_EXTRA_HEADER_PREFIXES",
        default: "X-Remote-Extra-",
        about: "what headers begin with in which front proxies give further attributes, comma-separated",
    },
    Setting {
        key: "services.clusterIpRange",
        environment: "KEELSON_SERVICES_CLUSTER_IP_RANGE",
        default: "",
        about: "ADDRESS/PREFIX from which Services get addresses where no node runs (a node has a range of its own); empty takes 10.96.0.0/16",
    },
    Setting {
        key: "encryption.config",
        environment: "KEELSON_ENCRYPTION_CONFIG",
        default: "",
        about: "file with an apiserver.config.k8s.io/v1 EncryptionConfiguration; empty takes pki/encryption.json in the data folder, which seals Secrets with a key made at first start",
    },
    Setting {
        key: "scheduler.config",
        environment: "KEELSON_SCHEDULER_CONFIG",
        default: "",
        about: "file with a kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration; empty schedules as upstream does by default",
    },
    Setting { key: "log.format", environment: "KEELSON_LOG_FORMAT", default: "text", about: "text or json" },
    Setting {
        key: "log.level",
        environment: "KEELSON_LOG_LEVEL",
        default: "info",
        about: "error, warn, info, debug or trace, also per component: info,node=debug",
    },
    Setting {
        key: "leaderElection.leaseSeconds",
        environment: "KEELSON_LEADER_ELECTION_LEASE_SECONDS",
        default: "15",
        about: "3 to 3600: how long after its last sign of life a server that shares its store counts as the leader; upstream's default",
    },
    Setting {
        key: "shutdown.budgetSeconds",
        environment: "KEELSON_SHUTDOWN_BUDGET_SECONDS",
        default: "10",
        about: "1 to 300: how long SIGTERM lets requests finish before what is left is cut; containers go on either way",
    },
    Setting {
        key: "podSecurity.enforce",
        environment: "KEELSON_POD_SECURITY_ENFORCE",
        default: "privileged",
        about: "LEVEL or LEVEL:VERSION that pods must keep to where their namespace has no label; upstream's default",
    },
    Setting {
        key: "podSecurity.audit",
        environment: "KEELSON_POD_SECURITY_AUDIT",
        default: "privileged",
        about: "LEVEL or LEVEL:VERSION whose violations are audited where a namespace has no label; upstream's default",
    },
    Setting {
        key: "podSecurity.warn",
        environment: "KEELSON_POD_SECURITY_WARN",
        default: "privileged",
        about: "LEVEL or LEVEL:VERSION whose violations are warned about where a namespace has no label; upstream's default",
    },
    Setting {
        key: "podSecurity.exemptUsers",
        environment: "KEELSON_POD_SECURITY_EXEMPT_USERS",
        default: "",
        about: "users whose pods are not looked at, separated by commas",
    },
    Setting {
        key: "podSecurity.exemptNamespaces",
        environment: "KEELSON_POD_SECURITY_EXEMPT_NAMESPACES",
        default: "",
        about: "namespaces whose pods are not looked at, separated by commas",
    },
    Setting {
        key: "podSecurity.exemptRuntimeClasses",
        environment: "KEELSON_POD_SECURITY_EXEMPT_RUNTIME_CLASSES",
        default: "",
        about: "runtime classes whose pods are not looked at, separated by commas",
    },
];
