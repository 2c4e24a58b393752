//! NetworkPolicies.

use serde_json::{Map, Value, json};

use super::{RANGE_RULE, SPEC, is_strictly_within, parse_range};
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    names,
    pod_spec::validate_label_selector,
    tree::{self, at, default_to, int, list, some, text},
};

/// NetworkPolicies.
pub(crate) struct NetworkPolicy;

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
            let range = parse_range(cidr);
            if cidr.is_empty() {
                errors.required(&path.child("cidr"), "");
            } else if range.is_none() {
                errors.invalid(&path.child("cidr"), cidr, RANGE_RULE);
            }
            let path = path.child("except");
            for (index, except) in at(block, &["except"]).and_then(Value::as_array).into_iter().flatten().enumerate() {
                let except = except.as_str().unwrap_or_default();
                match (parse_range(except), range) {
                    (None, _) => errors.invalid(&path.index(index), except, RANGE_RULE),
                    (Some(inner), Some(outer)) if !is_strictly_within(inner, outer) => {
                        errors.invalid(&path.index(index), except, "must be a strict subset of `cidr`");
                    }
                    _ => {}
                }
            }
        }
        None => {}
    }
}
