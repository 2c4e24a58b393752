//! The rules of each level, by the release they came with.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use strategy::tree::{at, flag, int, list, some, text, text_at};

use super::level::{Level, LevelVersion};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Which rule, in a few words.
    pub(super) reason: &'static str,
    /// Who breaks it, and how.
    pub(super) detail: String,
}

/// A pod, or a template of pods.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a Map<String, Value>,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// All containers, in the order upstream goes through them.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |key| list(self.spec, key))
    }

    /// Names of the containers that `broken` is true for.
    fn which(self, broken: impl FnMut(&Value) -> bool) -> Vec<&'a str> {
        let mut broken = broken;
        self.containers().filter(|container| broken(container)).map(|container| text(container, "name")).collect()
    }

    /// The security context's field of a container, or of the pod when given its spec.
    fn is_windows(self) -> bool {
        text_at(self.spec, &["os", "name"]) == "windows"
    }

    /// Root in a user namespace of its own is nobody outside of it.
    fn has_own_users(self) -> bool {
        self.spec.get("hostUsers").and_then(Value::as_bool) == Some(false)
    }
}

/// A field of the security context of a container or a pod's spec.
fn context<'a>(holder: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    at(some(holder, "securityContext")?, keys)
}

type Rule = fn(Pod<'_>) -> Option<Violation>;

/// A rule and its versions, oldest first.
struct Check {
    versions: &'static [(u32, Rule)],
    /// The looser rule of the level below that this one stands in for.
    instead_of: Option<&'static str>,
    name: &'static str,
}

const fn check(name: &'static str, versions: &'static [(u32, Rule)]) -> Check {
    Check { versions, instead_of: None, name }
}

const BASELINE: &[Check] = &[
    check("appArmorProfile", &[(0, app_armor)]),
    check("capabilities_baseline", &[(0, added_capabilities)]),
    check("hostNamespaces", &[(0, host_namespaces)]),
    check("hostPathVolumes", &[(0, host_paths)]),
    check("hostPorts", &[(0, host_ports)]),
    check("hostProbesAndHostLifecycle", &[(34, probe_hosts)]),
    check("privileged", &[(0, privileged)]),
    check("procMount", &[(0, proc_mount), (35, |pod| unless_own_users(pod, proc_mount))]),
    check(
        "seLinuxOptions",
        &[(0, |pod| se_linux(pod, &SE_LINUX_TYPES[..4])), (31, |pod| se_linux(pod, SE_LINUX_TYPES))],
    ),
    check("seccompProfile_baseline", &[(0, seccomp_annotations), (19, |pod| bad_seccomp(pod).0)]),
    check(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, &SYSCTLS[..5])),
            (27, |pod| sysctls(pod, &SYSCTLS[..6])),
            (29, |pod| sysctls(pod, &SYSCTLS[..10])),
            (32, |pod| sysctls(pod, SYSCTLS)),
        ],
    ),
    check("windowsHostProcess", &[(0, windows_host_process)]),
];

const RESTRICTED: &[Check] = &[
    check("allowPrivilegeEscalation", &[(8, escalation), (25, |pod| unless_windows(pod, escalation))]),
    Check {
        instead_of: Some("capabilities_baseline"),
        ..check("capabilities_restricted", &[(22, capabilities), (25, |pod| unless_windows(pod, capabilities))])
    },
    Check { instead_of: Some("procMount"), ..check("procMount_restricted", &[(35, proc_mount)]) },
    Check { instead_of: Some("hostPathVolumes"), ..check("restrictedVolumes", &[(0, volumes)]) },
    check("runAsNonRoot", &[(0, run_as_non_root), (35, |pod| unless_own_users(pod, run_as_non_root))]),
    check("runAsUser", &[(23, run_as_user), (35, |pod| unless_own_users(pod, run_as_user))]),
    Check {
        instead_of: Some("seccompProfile_baseline"),
        ..check("seccompProfile_restricted", &[(19, seccomp), (25, |pod| unless_windows(pod, seccomp))])
    },
];

/// Every rule of the level that the pod breaks.
pub(super) fn evaluate(wanted: LevelVersion, pod: Pod<'_>) -> Vec<Violation> {
    let rule = |check: &Check| {
        let active = check.versions.iter().rev().find(|(since, _)| wanted.version.has(*since));
        active.map(|(_, rule)| *rule)
    };
    let stricter: &[Check] = if wanted.level == Level::Restricted { RESTRICTED } else { &[] };
    let looser: &[Check] = if wanted.level == Level::Privileged { &[] } else { BASELINE };
    let replaced = |name: &str| stricter.iter().any(|check| check.instead_of == Some(name) && rule(check).is_some());
    let counting = looser.iter().filter(|check| !replaced(check.name)).chain(stricter);
    counting.filter_map(|check| rule(check)?(pod)).collect()
}

fn unless_windows(pod: Pod<'_>, rule: Rule) -> Option<Violation> {
    if pod.is_windows() { None } else { rule(pod) }
}

fn unless_own_users(pod: Pod<'_>, rule: Rule) -> Option<Violation> {
    if pod.has_own_users() { None } else { rule(pod) }
}

fn plural<'a>(one: &'a str, several: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { several }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// `pod`, `container "a"`, `pod and containers "a", "b"`; nothing when nobody is at fault.
fn setters(pod: bool, containers: &[&str]) -> Vec<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_owned());
    }
    if !containers.is_empty() {
        setters.push(named(containers));
    }
    setters
}

fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |holder: &Value| {
        let kind = context(holder, &["appArmorProfile", "type"]).and_then(Value::as_str);
        let kind = kind.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"));
        values.extend(kind.map(str::to_owned));
        kind.is_some()
    };
    let of_pod = bad(pod.spec);
    let mut setters = setters(of_pod, &pod.which(bad));
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let mut annotations: Vec<String> = pod
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str().filter(|value| !allowed(value))?)))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        annotations.sort();
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    (!setters.is_empty()).then(|| Violation {
        reason: plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        detail: format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values)),
    })
}

/// The capabilities that a container runtime gives anyway.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add capabilities beyond `allowed`, and which.
fn adding_beyond<'a>(pod: Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let mut forbidden = BTreeSet::new();
    let containers = pod.which(|container| {
        let added = context(container, &["capabilities", "add"]).and_then(Value::as_array);
        let mut beyond = added.into_iter().flatten().filter_map(Value::as_str).filter(|name| !allowed.contains(name));
        let first = beyond.next().map(str::to_owned);
        let found = first.is_some();
        forbidden.extend(first.into_iter().chain(beyond.map(str::to_owned)));
        found
    });
    (containers, forbidden)
}

fn must_not_add((containers, forbidden): &(Vec<&str>, BTreeSet<String>)) -> Option<String> {
    let add = "in securityContext.capabilities.add";
    (!containers.is_empty()).then(|| format!("{} must not include {} {add}", named(containers), quoted(forbidden)))
}

fn added_capabilities(pod: Pod<'_>) -> Option<Violation> {
    let detail = must_not_add(&adding_beyond(pod, DEFAULT_CAPABILITIES))?;
    Some(Violation { reason: "non-default capabilities", detail })
}

fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let keeping = pod.which(|container| {
        let dropped = context(container, &["capabilities", "drop"]).and_then(Value::as_array);
        !dropped.into_iter().flatten().any(|name| name == "ALL")
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    details.extend(must_not_add(&adding_beyond(pod, &["NET_BIND_SERVICE"])));
    (!details.is_empty()).then(|| Violation { reason: "unrestricted capabilities", detail: details.join("; ") })
}

fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| flag(pod.spec, key))
        .map(|key| format!("{key}=true"))
        .collect();
    (!shared.is_empty()).then(|| Violation { reason: "host namespaces", detail: shared.join(", ") })
}

fn host_paths(pod: Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> = list(pod.spec, "volumes")
        .iter()
        .filter(|volume| some(volume, "hostPath").is_some())
        .map(|volume| text(volume, "name"))
        .collect();
    let detail = format!("{} {}", plural("volume", "volumes", volumes.len()), quoted(&volumes));
    (!volumes.is_empty()).then_some(Violation { reason: "hostPath volumes", detail })
}

/// Volumes that a hardened pod may have.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The other ones, by which a violation is described.
const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "volumes") {
        if VOLUMES.iter().any(|kind| some(volume, kind).is_some()) {
            continue;
        }
        names.push(text(volume, "name"));
        kinds.insert(OTHER_VOLUMES.iter().find(|kind| some(volume, kind).is_some()).copied().unwrap_or("unknown"));
    }
    (!names.is_empty()).then(|| Violation {
        reason: "restricted volume types",
        detail: format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        ),
    })
}

fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.which(|container| {
        let used = list(container, "ports").iter().filter_map(|port| int(port, "hostPort")).filter(|port| *port != 0);
        let used: Vec<String> = used.map(|port| port.to_string()).collect();
        let any = !used.is_empty();
        ports.extend(used);
        any
    });
    (!containers.is_empty()).then(|| Violation {
        reason: "hostPort",
        detail: format!(
            "{} {} {} {}",
            named(&containers),
            plural("uses", "use", containers.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        ),
    })
}

fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let containers: BTreeSet<&str> = pod
        .which(|container| {
            let before = hosts.len();
            let mut found = false;
            for handler in HANDLERS.iter().filter_map(|keys| at(container, keys)) {
                for action in ["httpGet", "tcpSocket"] {
                    let host = text_at(handler, &[action, "host"]);
                    if !host.is_empty() {
                        found = true;
                        hosts.insert(host.to_owned());
                    }
                }
            }
            found || hosts.len() > before
        })
        .into_iter()
        .collect();
    let containers: Vec<&str> = containers.into_iter().collect();
    (!containers.is_empty()).then(|| Violation {
        reason: "probe or lifecycle host",
        detail: format!(
            "{} {} {} {}",
            named(&containers),
            plural("uses", "use", containers.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(&hosts)
        ),
    })
}

fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let containers = pod.which(|container| context(container, &["privileged"]) == Some(&Value::Bool(true)));
    let detail = format!("{} must not set securityContext.privileged=true", named(&containers));
    (!containers.is_empty()).then_some(Violation { reason: "privileged", detail })
}

fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let containers = pod.which(|container| {
        let kind = context(container, &["procMount"]).and_then(Value::as_str).filter(|kind| *kind != "Default");
        kinds.extend(kind.map(str::to_owned));
        kind.is_some()
    });
    (!containers.is_empty()).then(|| Violation {
        reason: "procMount",
        detail: format!("{} must not set securityContext.procMount to {}", named(&containers), quoted(&kinds)),
    })
}

/// Types of SELinux labels; the last one came with 1.31.
const SE_LINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(pod: Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |holder: &Value| {
        let Some(options) = context(holder, &["seLinuxOptions"]) else { return false };
        let kind = text(options, "type");
        let (bad_kind, has_user, has_role) =
            (!allowed.contains(&kind), !text(options, "user").is_empty(), !text(options, "role").is_empty());
        if bad_kind {
            kinds.insert(kind.to_owned());
        }
        user |= has_user;
        role |= has_role;
        bad_kind || has_user || has_role
    };
    let of_pod = bad(pod.spec);
    let setters = setters(of_pod, &pod.which(bad));
    let mut data = Vec::new();
    if !kinds.is_empty() {
        data.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    (!setters.is_empty()).then(|| Violation {
        reason: "seLinuxOptions",
        detail: format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; ")),
    })
}

fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let names = pod.which(|_| true);
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned())
        .chain(names.iter().map(|name| format!("container.seccomp.security.alpha.kubernetes.io/{name}")));
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations.get(&key)?.as_str().filter(|value| !allowed(value))?;
            Some(format!("{key}={value:?}"))
        })
        .collect();
    (!forbidden.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!(
            "forbidden {} {}",
            plural("annotation", "annotations", forbidden.len()),
            forbidden.into_iter().collect::<Vec<_>>().join(", ")
        ),
    })
}

fn is_seccomp_confined(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// What is wrong with the profiles that are set, and whether the pod sets a good one for all containers.
fn bad_seccomp(pod: Pod<'_>) -> (Option<Violation>, bool) {
    let mut kinds = BTreeSet::new();
    let profile =
        |holder: &'_ Value| context(holder, &["seccompProfile"]).map(|profile| text(profile, "type").to_owned());
    let mut bad = |holder: &Value| {
        let kind = profile(holder).filter(|kind| !is_seccomp_confined(kind));
        kind.map(|kind| kinds.insert(kind)).is_some()
    };
    let of_pod = bad(pod.spec);
    let setters = setters(of_pod, &pod.which(bad));
    let violation = (!setters.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(&kinds)
        ),
    });
    (violation, profile(pod.spec).is_some_and(|kind| is_seccomp_confined(&kind)))
}

fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let (violation, set_for_all) = bad_seccomp(pod);
    if violation.is_some() || set_for_all {
        return violation;
    }
    let unset = pod.which(|container| context(container, &["seccompProfile"]).is_none());
    (!unset.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&unset)
        ),
    })
}

/// Sysctls that stay within the pod: five of old, one of 1.27, four of 1.29, two of 1.32.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let set = context(pod.spec, &["sysctls"]).and_then(Value::as_array);
    let forbidden: Vec<&str> =
        set.into_iter().flatten().map(|sysctl| text(sysctl, "name")).filter(|name| !allowed.contains(name)).collect();
    (!forbidden.is_empty()).then(|| Violation { reason: "forbidden sysctls", detail: forbidden.join(", ") })
}

fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let bad = |holder: &Value| context(holder, &["windowsOptions", "hostProcess"]) == Some(&Value::Bool(true));
    let setters = setters(bad(pod.spec), &pod.which(bad));
    let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
    (!setters.is_empty()).then_some(Violation { reason: "hostProcess", detail })
}

fn escalation(pod: Pod<'_>) -> Option<Violation> {
    let containers =
        pod.which(|container| context(container, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false)));
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&containers));
    (!containers.is_empty()).then_some(Violation { reason: "allowPrivilegeEscalation != false", detail })
}

fn run_as_non_root(pod: Pod<'_>) -> Option<Violation> {
    let chosen = |holder: &Value| context(holder, &["runAsNonRoot"]).and_then(Value::as_bool);
    let of_pod = chosen(pod.spec);
    let setters = setters(of_pod == Some(false), &pod.which(|container| chosen(container) == Some(false)));
    let reason = "runAsNonRoot != true";
    if !setters.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "));
        return Some(Violation { reason, detail });
    }
    let open = pod.which(|container| chosen(container).is_none() && of_pod != Some(true));
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", named(&open));
    (!open.is_empty()).then_some(Violation { reason, detail })
}

fn run_as_user(pod: Pod<'_>) -> Option<Violation> {
    let root = |holder: &Value| context(holder, &["runAsUser"]).and_then(Value::as_i64) == Some(0);
    let setters = setters(root(pod.spec), &pod.which(root));
    let detail = format!("{} must not set runAsUser=0", setters.join(" and "));
    (!setters.is_empty()).then_some(Violation { reason: "runAsUser=0", detail })
}
