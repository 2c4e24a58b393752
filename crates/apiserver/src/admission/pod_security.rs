//! Pods keep to the security level that their namespace's labels ask for.
//!
//! What is enforced applies to pods only; what is audited or warned about also to the templates of their controllers, so
//! that who writes a Deployment hears of it and not only its log. Changes are looked at when they change what the rules
//! look at.

use serde_json::{Map, Value};
use strategy::tree::{at, list, map, name, text};

use super::{AdmissionError, AdmissionRequest, Notes, ObjectReader, Operation};

mod checks;
mod level;
#[cfg(test)]
mod tests;

use checks::{Pod, Violation, evaluate};
use level::{DEFAULT, policy};
pub use level::{Level as PodSecurityLevel, LevelVersion, Policy as PodSecurityPolicy, Version as PodSecurityVersion};

/// Pods that a change of a namespace's level is checked against; upstream's bound.
const PODS_CHECKED_MAX: usize = 3000;

/// What the audit is told an exempt request is exempt by.
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";
/// What the audit is told a pod was judged by.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";

/// What an operator configures; nothing is asked for and nobody exempt by default.
#[derive(Clone, Debug)]
pub struct PodSecurity {
    /// What applies where a namespace has no labels.
    pub default: PodSecurityPolicy,
    /// Users whose requests are not looked at.
    pub exempt_users: Vec<String>,
    /// Namespaces that are not looked at.
    pub exempt_namespaces: Vec<String>,
    /// Runtime classes whose pods are not looked at.
    pub exempt_runtime_classes: Vec<String>,
}

impl Default for PodSecurity {
    fn default() -> Self {
        Self {
            default: DEFAULT,
            exempt_users: Vec::new(),
            exempt_namespaces: Vec::new(),
            exempt_runtime_classes: Vec::new(),
        }
    }
}

impl PodSecurity {
    /// Judges a request that leads to `object`.
    pub fn validate(
        &self,
        reader: &dyn ObjectReader,
        request: &AdmissionRequest<'_>,
        object: &Value,
    ) -> Result<Notes, AdmissionError> {
        match (request.resource.group.as_str(), request.resource.plural.as_str()) {
            ("", "namespaces") => self.validate_namespace(reader, request, object),
            ("", "pods") => self.validate_pod(reader, request, object),
            ("", "replicationcontrollers" | "podtemplates")
            | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs") => Ok(self.validate_template(reader, request, object)),
            _ => Ok(Notes::default()),
        }
    }

    /// What exempts a request, as the audit names it.
    fn exemption(&self, request: &AdmissionRequest<'_>) -> Option<&'static str> {
        if self.exempt_namespaces.iter().any(|exempt| exempt == request.namespace) {
            return Some("namespace");
        }
        self.exempt_users.contains(&request.user.name).then_some("user")
    }

    fn is_exempt_class(&self, spec: &Value) -> bool {
        let class = text(spec, "runtimeClassName");
        !class.is_empty() && self.exempt_runtime_classes.iter().any(|exempt| exempt == class)
    }

    /// The policy of a namespace, and what is wrong with its labels.
    fn policy_of(&self, namespace: &Value) -> (PodSecurityPolicy, Option<String>) {
        let metadata = namespace.get("metadata").unwrap_or(&Value::Null);
        let (policy, errors) = policy(map(metadata, "labels"), self.default);
        (policy, (!errors.is_empty()).then(|| errors.to_string()))
    }

    fn validate_pod(
        &self,
        reader: &dyn ObjectReader,
        request: &AdmissionRequest<'_>,
        pod: &Value,
    ) -> Result<Notes, AdmissionError> {
        // what else is a subresource of a pod changes no pod's rights
        if !matches!(request.subresource, None | Some("ephemeralcontainers" | "resize")) {
            return Ok(Notes::default());
        }
        if let Some(exemption) = self.exemption(request) {
            return Ok(noted(EXEMPT, exemption));
        }
        let Some(namespace) = reader.get("core/namespaces", request.namespace) else { return Ok(Notes::default()) };
        let (policy, unreadable) = self.policy_of(&namespace);
        let open =
            [policy.enforce, policy.audit, policy.warn].iter().all(|mode| mode.level == PodSecurityLevel::Privileged);
        if open && unreadable.is_none() {
            return Ok(noted(ENFORCED, "privileged:latest"));
        }
        if let (Operation::Update, Some(old)) = (request.operation, request.old)
            && !is_significant(pod, old)
        {
            return Ok(Notes::default());
        }
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        if self.is_exempt_class(spec) {
            return Ok(noted(EXEMPT, "runtimeClass"));
        }
        let view = view(pod, spec);
        let broken = evaluate(policy.enforce, view);
        let mut notes = Self::notes(policy, unreadable, view, broken.is_empty());
        notes.audit.push((ENFORCED, policy.enforce.to_string()));
        if broken.is_empty() {
            return Ok(notes);
        }
        let reason = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&broken));
        Err(AdmissionError::forbidden(request, reason))
    }

    /// A controller's template is never refused: its pods will be.
    fn validate_template(&self, reader: &dyn ObjectReader, request: &AdmissionRequest<'_>, object: &Value) -> Notes {
        if request.subresource.is_some() {
            return Notes::default();
        }
        if let Some(exemption) = self.exemption(request) {
            return noted(EXEMPT, exemption);
        }
        let Some(namespace) = reader.get("core/namespaces", request.namespace) else { return Notes::default() };
        let (policy, unreadable) = self.policy_of(&namespace);
        let open = [policy.audit, policy.warn].iter().all(|mode| mode.level == PodSecurityLevel::Privileged);
        if open && unreadable.is_none() {
            return Notes::default();
        }
        let keys: &[&str] = match request.resource.plural.as_str() {
            "podtemplates" => &["template"],
            "cronjobs" => &["spec", "jobTemplate", "spec", "template"],
            _ => &["spec", "template"],
        };
        let Some(template) = at(object, keys) else { return Notes::default() };
        let spec = template.get("spec").unwrap_or(&Value::Null);
        if self.is_exempt_class(spec) {
            return noted(EXEMPT, "runtimeClass");
        }
        Self::notes(policy, unreadable, view(template, spec), true)
    }

    /// What is audited and warned about.
    fn notes(policy: PodSecurityPolicy, unreadable: Option<String>, pod: Pod<'_>, warn: bool) -> Notes {
        let mut notes = Notes::default();
        if let Some(error) = unreadable {
            notes.audit.push(("pod-security.kubernetes.io/error", format!("Failed to parse policy: {error}")));
        }
        let violation = |wanted: LevelVersion| {
            let broken = evaluate(wanted, pod);
            (!broken.is_empty()).then(|| format!("would violate PodSecurity \"{wanted}\": {}", details(&broken)))
        };
        notes.audit.extend(violation(policy.audit).map(|what| ("pod-security.kubernetes.io/audit-violations", what)));
        if warn {
            notes.warnings.extend(violation(policy.warn));
        }
        notes
    }

    /// The labels of a namespace must be readable, and who asks for more hears which pods do not keep to it.
    fn validate_namespace(
        &self,
        reader: &dyn ObjectReader,
        request: &AdmissionRequest<'_>,
        namespace: &Value,
    ) -> Result<Notes, AdmissionError> {
        if request.subresource.is_some() {
            return Ok(Notes::default());
        }
        let labels =
            |object: &Value| policy(map(object.get("metadata").unwrap_or(&Value::Null), "labels"), self.default);
        let (new, errors) = labels(namespace);
        let before = request.old.filter(|_| request.operation == Operation::Update).map(labels);
        if !errors.is_empty() && before.as_ref().is_none_or(|(_, old)| *old != errors) {
            return Err(AdmissionError::Invalid {
                kind: "Namespace".to_owned(),
                name: name(namespace).to_owned(),
                errors,
            });
        }
        let Some((old, _)) = before else { return Ok(Notes::default()) };
        let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        let exempt = self.exempt_namespaces.iter().any(|exempt| exempt == name(namespace));
        if new.enforce == old.enforce || new.enforce.level == PodSecurityLevel::Privileged || relaxed || exempt {
            return Ok(Notes::default());
        }
        let pods = reader.list("core/pods", &format!("{}/", name(namespace)));
        Ok(Notes { warnings: self.existing(name(namespace), &pods, new.enforce), audit: Vec::new() })
    }

    /// Warnings about the pods that are there already: one line for each set of broken rules.
    fn existing(&self, namespace: &str, pods: &[std::sync::Arc<Value>], wanted: LevelVersion) -> Vec<String> {
        let mut broken: Vec<(String, &str, usize)> = Vec::new();
        for pod in pods.iter().take(PODS_CHECKED_MAX) {
            let spec = pod.get("spec").unwrap_or(&Value::Null);
            let found = if self.is_exempt_class(spec) { Vec::new() } else { evaluate(wanted, view(pod, spec)) };
            if found.is_empty() {
                continue;
            }
            let reasons: Vec<&str> = found.iter().map(|violation| violation.reason).collect();
            let reasons = reasons.join(", ");
            match broken.iter_mut().find(|(known, ..)| *known == reasons) {
                Some((_, first, count)) => {
                    *first = name(pod).min(first);
                    *count += 1;
                }
                None => broken.push((reasons, name(pod), 1)),
            }
        }
        let mut warnings = Vec::new();
        if pods.len() > PODS_CHECKED_MAX {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {PODS_CHECKED_MAX} of {} existing pods",
                pods.len()
            ));
        }
        if !broken.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{wanted}\""
            ));
        }
        let mut lines: Vec<String> = broken
            .into_iter()
            .map(|(reasons, first, count)| match count {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                _ => format!("{first} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        lines.sort();
        warnings.extend(lines);
        warnings
    }
}

/// Nothing but one line for the audit.
fn noted(key: &'static str, value: &str) -> Notes {
    Notes { audit: vec![(key, value.to_owned())], ..Notes::default() }
}

fn view<'a>(pod: &'a Value, spec: &'a Value) -> Pod<'a> {
    Pod { annotations: map(pod.get("metadata").unwrap_or(&Value::Null), "annotations"), spec }
}

/// All broken rules in one line.
fn details(broken: &[Violation]) -> String {
    let each = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    };
    broken.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// Whether a change touches what the rules look at: images, seccomp annotations, further containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    const SECCOMP: [&str; 2] =
        ["seccomp.security.alpha.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/"];
    let annotations = |pod: &Value| -> Map<String, Value> {
        let all = map(pod.get("metadata").unwrap_or(&Value::Null), "annotations").iter();
        let counted = all.filter(|(key, _)| SECCOMP.iter().any(|prefix| key.starts_with(prefix)));
        counted.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let spec = |pod: &'_ Value| pod.get("spec").cloned().unwrap_or_default();
    let (new_spec, old_spec) = (spec(new), spec(old));
    let images = |spec: &Value| -> Vec<(String, String)> {
        let containers = ["initContainers", "containers", "ephemeralContainers"];
        let all = containers.iter().flat_map(|key| list(spec, key));
        all.map(|container| (text(container, "name").to_owned(), text(container, "image").to_owned())).collect()
    };
    images(&new_spec) != images(&old_spec) || annotations(new) != annotations(old)
}
