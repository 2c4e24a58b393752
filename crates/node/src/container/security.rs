//! Security contexts as the runtime takes them.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};
use runtime::api::{Seccomp, Security};

/// A context that cannot be applied; a user reads it under `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RunsAsRoot { pod: String, container: String },
    #[error("localhostProfile must be set if seccompProfile type is Localhost")]
    NoProfile,
    #[error("localhostProfile {0:?} must be a relative path inside the profile directory")]
    ProfilePath(String),
}

/// Merges the pod's and the container's context; the container's goes first.
///
/// Two defaults are stricter than upstream's: no new privileges unless `allowPrivilegeEscalation` is true (or the
/// container is privileged or adds SYS_ADMIN, which upstream lets escalate as well), and seccomp `RuntimeDefault`.
pub(crate) fn security(
    spec: &PodSpec,
    pod_name: &str,
    container: &Container,
    seccomp_dir: &Path,
) -> Result<Security, SecurityError> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let run_as_user = own.run_as_user.or(pod.run_as_user);
    let run_as_non_root = own.run_as_non_root.or(pod.run_as_non_root) == Some(true);
    if run_as_non_root && run_as_user == Some(0) {
        return Err(SecurityError::RunsAsRoot { pod: pod_name.to_owned(), container: container.name.clone() });
    }
    let strip = |names: Option<Vec<String>>| -> Vec<String> {
        let names = names.into_iter().flatten().map(|name| name.to_uppercase());
        names.map(|name| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)).collect()
    };
    let add_capabilities = strip(capabilities.add);
    let escalates = privileged || add_capabilities.iter().any(|name| name == "SYS_ADMIN" || name == "ALL");
    let mut groups = pod.supplemental_groups.unwrap_or_default();
    groups.extend(pod.fs_group);
    let profile = own.seccomp_profile.or(pod.seccomp_profile);
    Ok(Security {
        privileged,
        no_new_privileges: !own.allow_privilege_escalation.unwrap_or(escalates),
        add_capabilities,
        drop_capabilities: strip(capabilities.drop),
        run_as_user,
        run_as_group: own.run_as_group.or(pod.run_as_group),
        run_as_non_root,
        supplemental_groups: groups,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile.as_ref(), seccomp_dir)? },
    })
}

fn seccomp(profile: Option<&SeccompProfile>, directory: &Path) -> Result<Seccomp, SecurityError> {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => Ok(Seccomp::Unconfined),
        Some(("Localhost", None)) => Err(SecurityError::NoProfile),
        Some(("Localhost", Some(path))) => {
            let inside = Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if inside {
                Ok(Seccomp::Localhost(directory.join(path)))
            } else {
                Err(SecurityError::ProfilePath(path.into()))
            }
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(pod: serde_json::Value, own: serde_json::Value) -> Result<Security, SecurityError> {
        let spec: PodSpec = serde_json::from_value(
            json!({"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]}),
        )
        .unwrap();
        security(&spec, "p", &spec.containers[0], Path::new("/seccomp"))
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let merged = render(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "runAsNonRoot": true}),
            json!({"runAsUser": 5, "capabilities": {"add": ["CAP_NET_ADMIN"], "drop": ["all"]}, "readOnlyRootFilesystem": true}),
        )
        .unwrap();
        assert_eq!((merged.run_as_user, merged.run_as_group), (Some(5), Some(2)));
        assert_eq!(merged.supplemental_groups, [4, 3]);
        assert_eq!((merged.add_capabilities, merged.drop_capabilities), (vec!["NET_ADMIN".into()], vec!["ALL".into()]));
        assert!(merged.run_as_non_root && merged.readonly_rootfs && merged.no_new_privileges);
    }

    #[test]
    fn defaults_are_strict_and_violations_are_named() {
        let default = render(json!({}), json!({})).unwrap();
        assert!(default.no_new_privileges && default.seccomp == Seccomp::RuntimeDefault);
        assert!(!render(json!({}), json!({"allowPrivilegeEscalation": true})).unwrap().no_new_privileges);
        let privileged = render(json!({}), json!({"privileged": true})).unwrap();
        assert!(!privileged.no_new_privileges && privileged.seccomp == Seccomp::Unconfined);
        let root = render(json!({"runAsNonRoot": true}), json!({"runAsUser": 0})).unwrap_err();
        assert!(root.to_string().contains("breaks non-root policy"));
        let local = |path: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": path}});
        assert_eq!(
            render(local("a/b.json"), json!({})).unwrap().seccomp,
            Seccomp::Localhost("/seccomp/a/b.json".into())
        );
        assert!(render(local("../b.json"), json!({})).is_err());
    }
}
