//! Endpoints, EndpointSlices, Ingresses, IngressClasses and NetworkPolicies.

use serde_json::{Map, Value, json};

use super::{
    Strategy, WriteContext, metadata, names,
    pod_spec::validate_label_selector,
    tree::{self, at, default_to, int, list, same, some, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Endpoints.
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in tree::list_mut(object, "subsets") {
            for port in tree::list_mut(subset, "ports") {
                default_to(port, "protocol", "TCP");
            }
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let subsets = Path::new("subsets");
        for (index, subset) in list(object, "subsets").iter().enumerate() {
            let path = subsets.index(index);
            if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for key in ["addresses", "notReadyAddresses"] {
                let path = path.child(key);
                for (index, address) in list(subset, key).iter().enumerate() {
                    let ip = text(address, "ip");
                    if ip.parse::<std::net::IpAddr>().is_err() {
                        let path = path.index(index);
                        errors.invalid(&path.child("ip"), ip, IP_RULE);
                    }
                }
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// EndpointSlices.
pub(super) struct EndpointSlice;

/// Most endpoints of a slice.
const ENDPOINTS_MAX: usize = 1000;
/// Most addresses of an endpoint.
const ADDRESSES_MAX: usize = 100;
/// Most ports of a slice.
const PORTS_MAX: usize = 20_000;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in tree::list_mut(object, "ports") {
            if let Some(port) = port.as_object_mut() {
                port.entry("name").or_insert_with(|| "".into());
            }
            default_to(port, "protocol", "TCP");
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let kind = text(object, "addressType");
        let path = Path::new("addressType");
        if kind.is_empty() {
            errors.required(&path, "");
        } else if !["FQDN", "IPv4", "IPv6"].contains(&kind) {
            errors.not_supported(&path, kind, &["FQDN", "IPv4", "IPv6"]);
        }
        let endpoints = list(object, "endpoints");
        let path = Path::new("endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            errors.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
            return;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let path = path.index(index);
            let path = path.child("addresses");
            let addresses = list(endpoint, "addresses");
            if addresses.is_empty() {
                errors.required(&path, "must contain at least 1 address");
            } else if addresses.len() > ADDRESSES_MAX {
                errors.too_many(&path, addresses.len(), ADDRESSES_MAX);
            }
            for (index, address) in addresses.iter().enumerate() {
                let address = address.as_str().unwrap_or_default();
                let valid = match kind {
                    "IPv4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
                    "IPv6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => names::subdomain(address).is_none(),
                };
                if !valid {
                    errors.invalid(&path.index(index), address, format!("must be a valid {kind} address"));
                }
            }
        }
        let ports = list(object, "ports");
        let path = Path::new("ports");
        if ports.len() > PORTS_MAX {
            errors.too_many(&path, ports.len(), PORTS_MAX);
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for (index, port) in ports.iter().enumerate() {
            if !seen.insert(text(port, "name")) {
                errors.duplicate(&path.index(index).child("name"), text(port, "name"));
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "addressType") {
            errors.invalid(&Path::new("addressType"), text(new, "addressType"), metadata::IMMUTABLE);
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// Ingresses.
pub(super) struct Ingress;

impl Strategy for Ingress {
    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
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
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let class = "kubernetes.io/ingress.class";
        if text_at(object, &["metadata", "annotations", class]).is_empty() {
            return Vec::new();
        }
        vec![format!("annotation {class:?} is deprecated, please use 'spec.ingressClassName' instead")]
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
        (Some(_), None) => {}
        (None, None) => errors.required(&path.child("name"), ""),
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
pub(super) struct IngressClass;

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
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let controller = text_at(new, &["spec", "controller"]);
        if controller != text_at(old, &["spec", "controller"]) {
            errors.invalid(&SPEC.child("controller"), controller, metadata::IMMUTABLE);
        }
    }
}

/// NetworkPolicies.
pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "podSelector", Map::new());
        if list(spec, "policyTypes").is_empty() {
            let types = if list(spec, "egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            tree::remove(spec, "policyTypes");
            default_to(spec, "policyTypes", types);
        }
        for direction in ["ingress", "egress"] {
            for rule in tree::list_mut(spec, direction) {
                for port in tree::list_mut(rule, "ports") {
                    default_to(port, "protocol", "TCP");
                }
            }
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if let Some(selector) = some(spec, "podSelector") {
            validate_label_selector(selector, &SPEC.child("podSelector"), errors);
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let path = SPEC.child(direction);
            for (index, rule) in list(spec, direction).iter().enumerate() {
                let path = path.index(index);
                let ports = path.child("ports");
                for (index, port) in list(rule, "ports").iter().enumerate() {
                    validate_policy_port(port, &ports.index(index), errors);
                }
                let peers_path = path.child(peers);
                for (index, peer) in list(rule, peers).iter().enumerate() {
                    validate_peer(peer, &peers_path.index(index), errors);
                }
            }
        }
        let types = list(spec, "policyTypes");
        if types.len() > 2 {
            errors.invalid(
                &SPEC.child("policyTypes"),
                Value::Array(types.to_vec()),
                "may not specify more than two policyTypes",
            );
        }
        let path = SPEC.child("policyTypes");
        for (index, kind) in types.iter().enumerate() {
            if kind != "Ingress" && kind != "Egress" {
                errors.not_supported(&path.index(index), kind.clone(), &["Egress", "Ingress"]);
            }
        }
    }
}

fn validate_policy_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let protocol = text(port, "protocol");
    if !["SCTP", "TCP", "UDP"].contains(&protocol) {
        errors.not_supported(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    let number = match port.get("port") {
        Some(Value::String(name)) => {
            if let Some(message) = names::port_name(name) {
                errors.invalid(&path.child("port"), name.as_str(), message);
            }
            None
        }
        Some(number) => number.as_i64(),
        None => None,
    };
    if let Some(number) = number
        && let Some(message) = names::port_number(number)
    {
        errors.invalid(&path.child("port"), number, message);
    }
    if let Some(end) = int(port, "endPort") {
        match number {
            None => errors.required(&path.child("port"), "must be specified when endPort is specified"),
            Some(start) if end < start => {
                errors.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
            }
            Some(_) => {}
        }
    }
}

fn validate_peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let block = some(peer, "ipBlock");
    let selectors = ["podSelector", "namespaceSelector"];
    let mut count = usize::from(block.is_some());
    for key in selectors {
        if let Some(selector) = some(peer, key) {
            count += 1;
            validate_label_selector(selector, &path.child(key), errors);
        }
    }
    match block {
        None if count == 0 => errors.required(path, "must specify a peer"),
        Some(_) if count > 1 => {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        Some(block) => {
            let path = path.child("ipBlock");
            let cidr = text(block, "cidr");
            if cidr.is_empty() {
                errors.required(&path.child("cidr"), "");
            } else if !is_cidr(cidr) {
                errors.invalid(
                    &path.child("cidr"),
                    cidr,
                    "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                );
            }
            let path = path.child("except");
            for (index, except) in at(block, &["except"]).and_then(Value::as_array).into_iter().flatten().enumerate() {
                let except = except.as_str().unwrap_or_default();
                if !is_cidr(except) {
                    errors.invalid(
                        &path.index(index),
                        except,
                        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    );
                }
            }
        }
        None => {}
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(prefix)) = (address.parse::<std::net::IpAddr>(), prefix.parse::<u8>()) else { return false };
    prefix <= if address.is_ipv4() { 32 } else { 128 }
}
