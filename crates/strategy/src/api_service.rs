//! APIServices: who answers a group-version.

use serde_json::{Value, json};

use super::{
    NameRule, Strategy, WriteContext, names,
    tree::{self, default_to, flag, int, some, text},
};
use crate::{
    field_error::{FieldErrors, Path},
    metadata,
};

const SPEC: Path<'static> = Path::new("spec");
/// Upstream's bounds of the priorities.
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;

/// APIServices.
pub(super) struct ApiService;

impl Strategy for ApiService {
    fn reports_status_alone(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if let Some(service) = object.pointer_mut("/spec/service").filter(|service| service.is_object()) {
            default_to(service, "port", 443);
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_new(&self, cx: &WriteContext<'_>, object: &mut Value) {
        // what this server answers itself is there from the beginning
        if some(object.get("spec").unwrap_or(&Value::Null), "service").is_none()
            && let Some(object) = object.as_object_mut()
        {
            let condition = json!({"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": metadata::time(cx.now)});
            object.insert("status".into(), json!({"conditions": [condition]}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let required = format!("{version}.{group}");
        if tree::name(object) != required {
            let rule = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
            errors.invalid(&Path::new("metadata").child("name"), tree::name(object), rule);
        }
        if group.is_empty() && version != "v1" {
            errors.required(&SPEC.child("group"), "only v1 may have an empty group and it better be legacy kube");
        }
        if let Some(message) = names::subdomain(group).filter(|_| !group.is_empty()) {
            errors.invalid(&SPEC.child("group"), group, message);
        }
        if let Some(message) = names::dns_1035(version) {
            errors.invalid(&SPEC.child("version"), version, message);
        }
        for (key, max) in [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)] {
            let priority = int(spec, key).unwrap_or(0);
            if !(1..=max).contains(&priority) {
                errors.invalid(&SPEC.child(key), priority, format!("must be positive and less than {max}"));
            }
        }
        check_service(spec, errors);
    }
}

fn check_service(spec: &Value, errors: &mut FieldErrors) {
    let (bundle, insecure) = (text(spec, "caBundle"), flag(spec, "insecureSkipTLSVerify"));
    let insecure_path = SPEC.child("insecureSkipTLSVerify");
    let Some(service) = some(spec, "service") else {
        if !bundle.is_empty() {
            let size = format!("{} bytes", bundle.len() / 4 * 3);
            errors.invalid(&SPEC.child("caBundle"), size, "local APIServices may not have a caBundle");
        }
        if insecure {
            errors.invalid(&insecure_path, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let path = SPEC.child("service");
    for key in ["namespace", "name"] {
        if text(service, key).is_empty() {
            errors.required(&path.child(key), "");
        }
    }
    let port = int(service, "port").unwrap_or(443);
    if let Some(message) = names::port_number(port) {
        errors.invalid(&path.child("port"), port, format!("port is not valid: {message}"));
    }
    if insecure && !bundle.is_empty() {
        errors.invalid(&insecure_path, true, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(object: &Value) -> String {
        let (resource, user) = (super::super::fixture::resource("", "x"), crate::User::new("u", &[]));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cx = WriteContext { now, resource: &resource, subresource: None, user: &user, dry_run: false };
        let mut errors = FieldErrors::default();
        ApiService.check(&cx, object, None, &mut errors);
        if errors.is_empty() { String::new() } else { errors.to_string() }
    }

    #[test]
    fn name_and_priorities_are_checked_as_upstream_does() {
        let mut service = json!({"metadata": {"name": "v1.g.io"}, "spec": {"group": "g.io", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "n", "name": "s", "port": 443}}});
        assert_eq!(check(&service), "");
        service["metadata"]["name"] = "x".into();
        assert_eq!(
            check(&service),
            "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.g.io\""
        );
        service["metadata"]["name"] = "v1.g.io".into();
        service["spec"]["versionPriority"] = 0.into();
        service["spec"]["insecureSkipTLSVerify"] = true.into();
        service["spec"]["caBundle"] = "YQ==".into();
        assert_eq!(
            check(&service),
            "[spec.versionPriority: Invalid value: 0: must be positive and less than 1000, \
             spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present]"
        );
    }
}
