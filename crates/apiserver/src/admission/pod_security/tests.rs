use std::{collections::HashMap, sync::Arc};

use serde_json::json;
use strategy::User;

use super::{level::Level, *};

use crate::testing::resource;

fn broken(level: &str, version: &str, pod: &Value) -> Vec<String> {
    let labels =
        json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
    let (policy, errors) = policy(labels.as_object().unwrap(), DEFAULT);
    assert!(errors.is_empty(), "{errors}");
    let spec = &pod["spec"];
    evaluate(policy.enforce, view(pod, spec)).into_iter().map(|v| format!("{}: {}", v.reason, v.detail)).collect()
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

/// One container with this security context.
fn container(context: Value) -> Value {
    pod(json!({"containers": [{"name": "c", "image": "i", "securityContext": context}]}))
}

fn hardened() -> Value {
    json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}})
}

#[test]
fn a_bare_pod_is_baseline_and_far_from_restricted() {
    let bare = pod(json!({"containers": [{"name": "c"}]}));
    assert!(broken("privileged", "latest", &bare).is_empty());
    assert!(broken("baseline", "latest", &bare).is_empty());
    assert_eq!(
        broken("restricted", "latest", &bare),
        [
            "allowPrivilegeEscalation != false: container \"c\" must set securityContext.allowPrivilegeEscalation=false",
            "unrestricted capabilities: container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]",
            "runAsNonRoot != true: pod or container \"c\" must set securityContext.runAsNonRoot=true",
            "seccompProfile: pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        ]
    );
    assert!(broken("restricted", "latest", &container(hardened())).is_empty());
}

#[test]
fn baseline_rules() {
    let cases = [
        (
            json!({"hostNetwork": true, "hostIPC": true, "containers": []}),
            "host namespaces: hostNetwork=true, hostIPC=true",
        ),
        (
            json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]}),
            "hostPath volumes: volumes \"a\", \"b\"",
        ),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]}]}),
            "hostPort: container \"c\" uses hostPorts 443, 80",
        ),
        (
            json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host: container \"c\" uses probe or lifecycle host \"h\"",
        ),
        (
            json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}],
                "initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
            "privileged: containers \"i\", \"c\" must not set securityContext.privileged=true",
        ),
        (
            json!({"containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}),
            "procMount: container \"c\" must not set securityContext.procMount to \"Unmasked\"",
        ),
        (
            json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}}}]}),
            "non-default capabilities: container \"c\" must not include \"BPF\", \"NET_RAW\" in securityContext.capabilities.add",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}},
                "containers": [{"name": "c", "securityContext": {"seLinuxOptions": {"role": "r"}}}]}),
            "seLinuxOptions: pod and container \"c\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile: pod must not set securityContext.seccompProfile.type to \"Unconfined\"",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}}),
            "forbidden sysctls: kernel.msgmax",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess: pod must not set securityContext.windowsOptions.hostProcess=true",
        ),
        (
            json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
            "forbidden AppArmor profile: container \"c\" must not set AppArmor profile type to \"Unconfined\"",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(broken("baseline", "latest", &pod(spec.clone())), [expected], "{spec}");
        assert!(!broken("restricted", "latest", &pod(spec)).is_empty());
    }
}

#[test]
fn restricted_rules() {
    let with = |change: Value| {
        let mut context = hardened();
        for (key, value) in change.as_object().unwrap() {
            context[key] = value.clone();
        }
        container(context)
    };
    let cases = [
        (
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"]}}),
            "unrestricted capabilities: container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add",
        ),
        (
            json!({"runAsNonRoot": false}),
            "runAsNonRoot != true: container \"c\" must not set securityContext.runAsNonRoot=false",
        ),
        (json!({"runAsUser": 0}), "runAsUser=0: container \"c\" must not set runAsUser=0"),
        (
            json!({"seccompProfile": {"type": "Unconfined"}}),
            "seccompProfile: container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\"",
        ),
        (
            json!({"procMount": "Unmasked"}),
            "procMount: container \"c\" must not set securityContext.procMount to \"Unmasked\"",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(broken("restricted", "latest", &with(change)), [expected]);
    }
    let mut volumes = container(hardened());
    volumes["spec"]["volumes"] = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "nfs": {}}, {"name": "h", "hostPath": {}},
        {"name": "o", "image": {}}]);
    assert_eq!(
        broken("restricted", "latest", &volumes),
        ["restricted volume types: volumes \"b\", \"h\" use restricted volume types \"hostPath\", \"nfs\""]
    );
}

#[test]
fn rules_change_with_the_version() {
    let case = |spec: Value, level: &str, version: &str| broken(level, version, &pod(spec)).len();
    let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name}]}});
    let host = json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]});
    for (spec, level, since) in [
        (sysctl("net.ipv4.ip_local_reserved_ports"), "baseline", 27),
        (sysctl("net.ipv4.tcp_fin_timeout"), "baseline", 29),
        (sysctl("net.ipv4.tcp_rmem"), "baseline", 32),
        (json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}), "baseline", 31),
    ] {
        assert_eq!(case(spec.clone(), level, &format!("v1.{}", since - 1)), 1, "{spec}");
        assert_eq!(case(spec.clone(), level, &format!("v1.{since}")), 0, "{spec}");
        assert_eq!(case(spec, level, "latest"), 0);
    }
    assert_eq!((case(host.clone(), "baseline", "v1.33"), case(host, "baseline", "v1.34")), (0, 1));
    let mut own_users = pod(json!({"hostUsers": false, "containers": [{"name": "c", "securityContext":
        {"allowPrivilegeEscalation": false, "runAsUser": 0, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}}}]}));
    assert_eq!(
        (broken("restricted", "v1.34", &own_users).len(), broken("restricted", "v1.35", &own_users).len()),
        (2, 0)
    );
    own_users["spec"]["containers"][0]["securityContext"]["procMount"] = "Unmasked".into();
    assert_eq!(
        (broken("baseline", "v1.35", &own_users).len(), broken("restricted", "v1.35", &own_users).len()),
        (0, 1)
    );
    let windows = pod(
        json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]}),
    );
    assert_eq!((broken("restricted", "v1.24", &windows).len(), broken("restricted", "v1.25", &windows).len()), (3, 0));
    let annotated = json!({"metadata": {"annotations": {"container.seccomp.security.alpha.kubernetes.io/c": "unconfined"}},
        "spec": {"containers": [{"name": "c"}]}});
    assert_eq!(
        broken("baseline", "v1.18", &annotated),
        ["seccompProfile: forbidden annotation container.seccomp.security.alpha.kubernetes.io/c=\"unconfined\""]
    );
    assert!(broken("baseline", "v1.19", &annotated).is_empty());
}

#[test]
fn labels_that_cannot_be_read_are_named_and_closed() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn": "x",
        "pod-security.kubernetes.io/warn-version": "1.20", "pod-security.kubernetes.io/audit-version": "v1.07"});
    let (policy, errors) = policy(labels.as_object().unwrap(), DEFAULT);
    assert_eq!((policy.enforce.level, policy.warn.level), (Level::Restricted, Level::Privileged));
    let lines: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.07\": must be \"latest\" or \"v1.x\"",
            "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.20\": must be \"latest\" or \"v1.x\"",
        ]
    );
}

#[test]
fn an_operator_writes_a_level_with_or_without_a_version() {
    let shown = |text: &str| LevelVersion::parse(text).map(|wanted| wanted.to_string());
    assert_eq!(shown("baseline").as_deref(), Some("baseline:latest"));
    assert_eq!(shown("restricted:v1.30").as_deref(), Some("restricted:v1.30"));
    assert_eq!((shown("strict"), shown("baseline:1.30"), shown("")), (None, None, None));
}

#[derive(Default)]
struct Cluster(HashMap<String, Arc<Value>>);

impl ObjectReader for Cluster {
    fn get(&self, collection: &str, path: &str) -> Option<Arc<Value>> {
        self.0.get(&format!("{collection}:{path}")).cloned()
    }

    fn list(&self, collection: &str, prefix: &str) -> Vec<Arc<Value>> {
        let prefix = format!("{collection}:{prefix}");
        let mut found: Vec<_> = self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
        found.sort_by_key(|(key, _)| (*key).clone());
        found.into_iter().map(|(_, object)| object.clone()).collect()
    }
}

fn cluster(labels: Value) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.0.insert("core/namespaces:n".to_owned(), Arc::new(json!({"metadata": {"name": "n", "labels": labels}})));
    cluster
}

fn unlabelled() -> Cluster {
    cluster(json!({}))
}

fn judge(
    cluster: &Cluster,
    group: &str,
    plural: &str,
    subresource: Option<&str>,
    object: &Value,
    old: Option<&Value>,
) -> Result<Notes, AdmissionError> {
    let (resource, user) = (resource(group, plural), User::new("u", &[]));
    let mut request = crate::admission::tests::request(&resource, &user);
    request.operation = if old.is_some() { Operation::Update } else { Operation::Create };
    request.old = old;
    request.subresource = subresource;
    request.name = name(object);
    request.namespace = if plural == "namespaces" { "" } else { "n" };
    PodSecurity::default().validate(cluster, &request, object)
}

#[test]
fn pods_are_refused_and_templates_warned_about() {
    let cluster = cluster(
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "v1.24"}),
    );
    let bad = container(json!({"privileged": true}));
    let refused = judge(&cluster, "", "pods", None, &bad, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)"
    );
    let mut context = hardened();
    context["runAsNonRoot"] = Value::Null;
    let weak = container(context);
    let notes = judge(&cluster, "", "pods", None, &weak, None).unwrap();
    assert_eq!(
        notes.warnings,
        [
            "would violate PodSecurity \"restricted:v1.24\": runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)"
        ]
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": weak}});
    assert_eq!(judge(&cluster, "apps", "deployments", None, &deployment, None).unwrap().warnings, notes.warnings);
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": bad}});
    assert!(judge(&cluster, "apps", "deployments", None, &deployment, None).is_ok());
    // what changes nothing that the rules look at is let through, what does is not
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(judge(&cluster, "", "pods", None, &labelled, Some(&bad)).is_ok());
    let mut other_image = bad.clone();
    other_image["spec"]["containers"][0]["image"] = "j".into();
    assert!(judge(&cluster, "", "pods", None, &other_image, Some(&bad)).is_err());
    assert!(judge(&cluster, "", "pods", Some("status"), &other_image, Some(&bad)).is_ok());
    let mut debugged = container(json!({}));
    let before = debugged.clone();
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "e", "securityContext": {"privileged": true}}]);
    assert!(judge(&cluster, "", "pods", Some("ephemeralcontainers"), &debugged, Some(&before)).is_err());
}

#[test]
fn a_stricter_namespace_tells_of_the_pods_it_has() {
    let mut cluster = cluster(json!({}));
    for (pod, context) in [("b", json!({"privileged": true})), ("a", json!({"privileged": true})), ("z", json!({}))] {
        let mut object = container(context);
        object["metadata"]["name"] = pod.into();
        cluster.0.insert(format!("core/pods:n/{pod}"), Arc::new(object));
    }
    let namespace =
        |level: &str| json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": level}}});
    let plain = json!({"metadata": {"name": "n"}});
    let change = |new: &str, old: &Value| judge(&cluster, "", "namespaces", None, &namespace(new), Some(old));
    assert_eq!(
        change("baseline", &plain).unwrap().warnings,
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): privileged",
        ]
    );
    assert!(change("baseline", &namespace("restricted")).unwrap().warnings.is_empty());
    let refused = change("bogus", &plain).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"bogus\": must be one of privileged, baseline, restricted"
    );
    // what was wrong before may stay, so that such a namespace can still be changed
    assert!(change("bogus", &namespace("bogus")).is_ok());
}

#[test]
fn the_audit_hears_what_a_pod_is_exempt_by_or_judged_by() {
    let cluster = cluster(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let open = unlabelled();
    let (resource, user) = (resource("", "pods"), User::new("u", &[]));
    let mut request = crate::admission::tests::request(&resource, &user);
    request.operation = Operation::Create;
    request.namespace = "n";
    let noted = |security: &PodSecurity, cluster: &Cluster| {
        let mut pod = container(json!({}));
        pod["spec"]["runtimeClassName"] = "sandbox".into();
        security.validate(cluster, &request, &pod).unwrap().audit
    };
    let words = || vec!["n".to_owned(), "u".to_owned(), "sandbox".to_owned()];
    let plain = PodSecurity::default;
    for (security, exemption) in [
        (PodSecurity { exempt_namespaces: words(), ..plain() }, "namespace"),
        (PodSecurity { exempt_users: words(), ..plain() }, "user"),
        (PodSecurity { exempt_runtime_classes: words(), ..plain() }, "runtimeClass"),
    ] {
        assert_eq!(noted(&security, &cluster), [(EXEMPT, exemption.to_owned())]);
    }
    assert_eq!(noted(&plain(), &cluster), [(ENFORCED, "baseline:latest".to_owned())]);
    assert_eq!(noted(&plain(), &open), [(ENFORCED, "privileged:latest".to_owned())]);
}
