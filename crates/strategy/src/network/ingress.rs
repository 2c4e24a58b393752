//! Ingresses and IngressClasses.

use serde_json::{Value, json};

use super::SPEC;
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata, names,
    service::validate_entries,
    tree::{int, list, some, text, text_at},
};

/// How an Ingress named its class before it had a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Ingresses.
pub(crate) struct Ingress;

impl Strategy for Ingress {
    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let default = some(spec, "defaultBackend");
        if list(spec, "rules").is_empty() && default.is_none() {
            errors.invalid(&SPEC, json!([]), "either `defaultBackend` or `rules` must be specified");
        }
        if let Some(backend) = default {
            validate_backend(backend, &SPEC.child("defaultBackend"), errors);
        }
        let class = text(spec, "ingressClassName");
        if !class.is_empty()
            && let Some(message) = names::subdomain(class)
        {
            errors.invalid(&SPEC.child("ingressClassName"), class, message);
        }
        let path = SPEC.child("rules");
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            validate_ingress_rule(rule, &path.index(index), errors);
        }
        let path = SPEC.child("tls");
        for (index, tls) in list(spec, "tls").iter().enumerate() {
            let path = path.index(index);
            let path = path.child("hosts");
            for (index, host) in list(tls, "hosts").iter().enumerate() {
                validate_host(host.as_str().unwrap_or_default(), &path.index(index), errors);
            }
        }
        for (index, tls) in list(spec, "tls").iter().enumerate() {
            let secret = text(tls, "secretName");
            if !secret.is_empty()
                && let Some(message) = names::subdomain(secret)
            {
                let path = SPEC.child("tls");
                errors.invalid(&path.index(index).child("secretName"), secret, message);
            }
        }
        let annotation = text_at(object, &["metadata", "annotations", CLASS_ANNOTATION]);
        if old.is_none() && !annotation.is_empty() && some(spec, "ingressClassName").is_some() {
            let path = Path::new("metadata");
            let path = path.child("annotations");
            let rule = "can not be set when the class field is also set";
            errors.invalid(&path.child(CLASS_ANNOTATION), annotation, rule);
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        let status = Path::new("status");
        let balancer = status.child("loadBalancer");
        validate_entries(new, &balancer.child("ingress"), errors);
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        if text_at(object, &["metadata", "annotations", CLASS_ANNOTATION]).is_empty() {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }
}

fn validate_host(host: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    let message = if host.contains('*') { names::wildcard_subdomain(host) } else { names::subdomain(host) };
    if let Some(message) = message {
        errors.invalid(path, host, message);
    }
}

fn validate_ingress_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_host(text(rule, "host"), &path.child("host"), errors);
    let Some(http) = some(rule, "http") else { return };
    let path = path.child("http");
    let path = path.child("paths");
    let paths = list(http, "paths");
    if paths.is_empty() {
        errors.required(&path, "");
    }
    for (index, entry) in paths.iter().enumerate() {
        let path = path.index(index);
        let (kind, target) = (text(entry, "pathType"), text(entry, "path"));
        match kind {
            "" => errors.required(&path.child("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" => validate_ingress_path(target, &path.child("path"), errors),
            "ImplementationSpecific" => {
                if !target.is_empty() && !target.starts_with('/') {
                    errors.invalid(&path.child("path"), target, "must be an absolute path");
                }
            }
            kind => {
                let supported = ["Exact", "ImplementationSpecific", "Prefix"];
                errors.not_supported(&path.child("pathType"), kind, &supported);
            }
        }
        validate_backend(entry.get("backend").unwrap_or(&Value::Null), &path.child("backend"), errors);
    }
}

fn validate_ingress_path(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !target.starts_with('/') {
        errors.invalid(path, target, "must be an absolute path");
        return;
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"] {
        if target.contains(part) {
            errors.invalid(path, target, format!("must not contain '{part}'"));
        }
    }
    for end in ["/..", "/."] {
        if target.ends_with(end) {
            errors.invalid(path, target, format!("cannot end with '{end}'"));
        }
    }
}

fn validate_backend(backend: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let service = some(backend, "service");
    match (some(backend, "resource"), service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => {
            let path = path.child("resource");
            for key in ["kind", "name"] {
                if text(resource, key).is_empty() {
                    errors.required(&path.child(key), format!("{key} is required"));
                }
            }
        }
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (None, Some(service)) => {
            let path = path.child("service");
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else if let Some(message) = names::dns_1035(name) {
                errors.invalid(&path.child("name"), name, message);
            }
            let port_path = path.child("port");
            let port = service.get("port").unwrap_or(&Value::Null);
            let (name, number) = (text(port, "name"), int(port, "number").unwrap_or(0));
            match (name.is_empty(), number) {
                (true, 0) => errors.required(&path, "port name or number is required"),
                (false, 0) => {
                    if let Some(message) = names::port_name(name) {
                        errors.invalid(&port_path.child("name"), name, message);
                    }
                }
                (true, number) => {
                    if let Some(message) = names::port_number(number) {
                        errors.invalid(&port_path.child("number"), number, message);
                    }
                }
                (false, _) => errors.invalid(&path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// IngressClasses.
pub(crate) struct IngressClass;

/// Longest controller name.
const CONTROLLER_BYTES_MAX: usize = 250;

impl Strategy for IngressClass {
    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let path = SPEC.child("controller");
        let controller = text_at(object, &["spec", "controller"]);
        if controller.is_empty() {
            errors.required(&path, "");
        } else if controller.len() > CONTROLLER_BYTES_MAX {
            errors.too_long(&path, CONTROLLER_BYTES_MAX);
        } else if !controller.contains('/') {
            errors.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if let Some(parameters) = some(spec, "parameters") {
            validate_parameters(parameters, &SPEC.child("parameters"), errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let controller = text_at(new, &["spec", "controller"]);
        if controller != text_at(old, &["spec", "controller"]) {
            errors.invalid(&SPEC.child("controller"), controller, metadata::IMMUTABLE);
        }
    }
}

/// Checks the reference to an object that configures the class's controller.
fn validate_parameters(parameters: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let group = text(parameters, "apiGroup");
    if !group.is_empty()
        && let Some(message) = names::subdomain(group)
    {
        errors.invalid(&path.child("apiGroup"), group, message);
    }
    for key in ["kind", "name"] {
        let value = text(parameters, key);
        if value.is_empty() {
            errors.required(&path.child(key), format!("{key} is required"));
        } else if let Some(message) = names::path_segment(value, false) {
            errors.invalid(&path.child(key), value, message);
        }
    }
    let namespace = some(parameters, "namespace").and_then(Value::as_str);
    match (text(parameters, "scope"), namespace) {
        ("Namespace", None | Some("")) => {
            errors.required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        ("Namespace", Some(namespace)) => {
            if let Some(message) = names::label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, message);
            }
        }
        ("Cluster", Some(_)) => {
            errors.forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        ("" | "Cluster", _) => {}
        (scope, _) => errors.not_supported(&path.child("scope"), scope, &["Cluster", "Namespace"]),
    }
}
