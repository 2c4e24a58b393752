//! Services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    NameRule, Strategy, WriteContext, metadata, names,
    network::{parse_range, validate_app_protocol, validate_endpoint_address},
    tree::{self, at, default_to, int, list, map, same, some, text},
};
use crate::field_error::{FieldErrors, Path};

mod families;
#[cfg(test)]
mod tests;

pub use families::complete_addresses;

const SPEC: Path<'static> = Path::new("spec");
/// How long a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;
/// Longest time a client stays with its endpoint: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub(super) struct Service;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035Label
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "type", "ClusterIP");
        default_to(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => {
                tree::remove(spec, "sessionAffinityConfig");
            }
            "ClientIP" => {
                if let Some(config) = tree::child_mut(spec, "sessionAffinityConfig")
                    && let Some(client) = tree::child_mut(config, "clientIP")
                {
                    default_to(client, "timeoutSeconds", AFFINITY_SECONDS);
                }
            }
            _ => {}
        }
        for port in tree::list_mut(spec, "ports") {
            default_to(port, "protocol", "TCP");
            let number = port.get("port").cloned().unwrap_or_default();
            let target = port.get("targetPort");
            if target.is_none_or(|target| tree::is_empty(target) || target.as_i64() == Some(0)) {
                tree::remove(port, "targetPort");
                default_to(port, "targetPort", number);
            }
        }
        let kind = text(spec, "type").to_owned();
        if kind == "ExternalName" {
            return;
        }
        if matches!(&*kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty() {
            default_to(spec, "externalTrafficPolicy", "Cluster");
        }
        default_to(spec, "internalTrafficPolicy", "Cluster");
        if kind == "LoadBalancer" {
            default_to(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            complete_addresses(spec);
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn prepare_changed(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        static NONE: Value = Value::Null;
        let before = old.get("spec").unwrap_or(&NONE);
        let Some(spec) = new.get_mut("spec") else { return };
        keep_allocated(spec, before);
        families::keep(spec, before);
        drop_of_old_type(spec, before);
        complete_addresses(spec);
        if text(spec, "type") != "LoadBalancer"
            && let Some(status) = tree::child_mut(new, "status").and_then(Value::as_object_mut)
        {
            status.insert("loadBalancer".to_owned(), json!({}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_type(spec, errors);
        validate_ports(spec, errors);
        validate_affinity(spec, errors);
        validate_traffic(spec, errors);
        validate_load_balancer(object, spec, errors);
        for (key, value) in map(spec, "selector") {
            metadata::validate_label(key, value, &SPEC.child("selector"), errors);
        }
        families::validate(spec, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if text(new, "type") == "ExternalName" || text(old, "type") == "ExternalName" {
            return;
        }
        families::validate_change(new, old, errors);
        let health_check_port = |spec| int(spec, "healthCheckNodePort").unwrap_or(0);
        if needs_health_check_port(new)
            && needs_health_check_port(old)
            && health_check_port(new) != health_check_port(old)
        {
            let path = SPEC.child("healthCheckNodePort");
            errors.invalid(&path, health_check_port(new), "field is immutable");
        }
        if !text(old, "loadBalancerClass").is_empty()
            && text(new, "type") == "LoadBalancer"
            && !same(new, old, "loadBalancerClass")
        {
            errors.invalid(&SPEC.child("loadBalancerClass"), text(new, "loadBalancerClass"), "may not change once set");
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        let status = Path::new("status");
        let balancer = status.child("loadBalancer");
        let path = balancer.child("ingress");
        if at(new, &["status", "loadBalancer", "ingress"]).is_some()
            && tree::text_at(new, &["spec", "type"]) != "LoadBalancer"
        {
            errors.forbidden(&path, "may only be used when `spec.type` is \"LoadBalancer\"");
        }
        validate_entries(new, &path, errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = |key: &str| tree::text_at(object, &["spec", key]).to_owned();
        vec![("spec.clusterIP", spec("clusterIP")), ("spec.type", spec("type"))]
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if !tree::text_at(object, &["spec", "externalName"]).is_empty()
            && tree::text_at(object, &["spec", "type"]) != "ExternalName"
        {
            warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        warnings
    }
}

/// Whether the Service's ports may be open on every node.
pub fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

/// Whether load balancers ask each node about the Service.
pub fn needs_health_check_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// A write that does not name what was allocated keeps it.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if text(spec, "type") != "ExternalName" && text(old, "type") != "ExternalName" && text(spec, "clusterIP").is_empty()
    {
        for key in ["clusterIP", "clusterIPs"] {
            tree::keep(spec, old, key);
        }
    }
    if has_node_ports(spec) && has_node_ports(old) {
        let named: HashSet<i64> = list(spec, "ports").iter().filter_map(|port| int(port, "nodePort")).collect();
        for port in tree::list_mut(spec, "ports") {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                continue;
            }
            let held = list(old, "ports")
                .iter()
                .find(|old| text(old, "name") == text(port, "name"))
                .and_then(|old| int(old, "nodePort"))
                .filter(|held| *held != 0 && !named.contains(held));
            if let (Some(held), Some(port)) = (held, port.as_object_mut()) {
                port.insert("nodePort".to_owned(), held.into());
            }
        }
    }
    if needs_health_check_port(spec) && needs_health_check_port(old) {
        let held = int(old, "healthCheckNodePort").unwrap_or(0);
        tree::default_zero_to(spec, "healthCheckNodePort", held);
    }
}

/// A change of type drops what the old type needed, unless the client changed it.
fn drop_of_old_type(spec: &mut Value, old: &Value) {
    if text(spec, "type") == "ExternalName" && text(old, "type") != "ExternalName" && same(spec, old, "clusterIP") {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            tree::remove(spec, key);
        }
    }
    if has_node_ports(old) && !has_node_ports(spec) {
        let before: HashSet<i64> = list(old, "ports").iter().filter_map(|port| int(port, "nodePort")).collect();
        for port in tree::list_mut(spec, "ports") {
            if int(port, "nodePort").is_some_and(|port| before.contains(&port)) {
                tree::remove(port, "nodePort");
            }
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(spec) && same(spec, old, "healthCheckNodePort") {
        tree::remove(spec, "healthCheckNodePort");
    }
    if is_external(old) && !is_external(spec) && same(spec, old, "externalTrafficPolicy") {
        tree::remove(spec, "externalTrafficPolicy");
    }
    if text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, old, key) {
                tree::remove(spec, key);
            }
        }
    }
}

/// Whether clients outside of the cluster can reach the Service.
fn is_external(spec: &Value) -> bool {
    has_node_ports(spec) || text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty()
}

fn validate_type(spec: &Value, errors: &mut FieldErrors) {
    let kind = text(spec, "type");
    let addresses = list(spec, "clusterIPs");
    let headless = text(spec, "clusterIP") == "None";
    let path = SPEC.child("clusterIPs");
    match kind {
        "ClusterIP" => {}
        "NodePort" | "LoadBalancer" => {
            if headless {
                errors.invalid(&path.index(0), "None", format!("may not be set to 'None' for {kind} services"));
            }
        }
        "ExternalName" => {
            if !addresses.is_empty() || !text(spec, "clusterIP").is_empty() {
                errors.forbidden(&path, "may not be set when `type` is 'ExternalName'");
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&SPEC.child("externalName"), "");
            } else if let Some(message) = names::subdomain(name) {
                errors.invalid(&SPEC.child("externalName"), name, message);
            }
        }
        kind => {
            errors.not_supported(&SPEC.child("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
        }
    }
}

fn validate_ports(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("ports");
    let ports = list(spec, "ports");
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path, "");
    }
    let (mut seen_names, mut seen_ports, mut seen_node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let (name, protocol, number) = (text(port, "name"), text(port, "protocol"), int(port, "port").unwrap_or(0));
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else if let Some(message) = names::label(name) {
            errors.invalid(&path.child("name"), name, message);
        } else if !seen_names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        if let Some(message) = names::port_number(number) {
            errors.invalid(&path.child("port"), number, message);
        }
        match protocol {
            "TCP" | "UDP" | "SCTP" => {}
            "" => errors.required(&path.child("protocol"), ""),
            protocol => errors.not_supported(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]),
        }
        validate_target(port, &path, errors);
        validate_app_protocol(text(port, "appProtocol"), &path.child("appProtocol"), errors);
        if !seen_ports.insert((protocol, number)) {
            errors.duplicate(&path, json!({"port": number, "protocol": protocol}));
        }
        let Some(node_port) = int(port, "nodePort").filter(|port| *port != 0) else { continue };
        if kind == "ClusterIP" || kind == "ExternalName" {
            errors.forbidden(&path.child("nodePort"), format!("may not be used when `type` is '{kind}'"));
        } else if !seen_node_ports.insert((protocol, node_port)) {
            errors.duplicate(&path.child("nodePort"), node_port);
        }
    }
}

fn validate_target(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("targetPort");
    match port.get("targetPort") {
        Some(Value::String(name)) => {
            if let Some(message) = names::port_name(name) {
                errors.invalid(&path, name.as_str(), message);
            }
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or(0);
            if let Some(message) = names::port_number(number) {
                errors.invalid(&path, number, message);
            }
        }
        None => {}
    }
}

fn validate_affinity(spec: &Value, errors: &mut FieldErrors) {
    match text(spec, "sessionAffinity") {
        "" => errors.required(&SPEC.child("sessionAffinity"), ""),
        "None" => {
            if some(spec, "sessionAffinityConfig").is_some() {
                let rule = "must not be set when session affinity is None";
                errors.forbidden(&SPEC.child("sessionAffinityConfig"), rule);
            }
        }
        "ClientIP" => {
            let seconds = at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"])
                .and_then(Value::as_i64)
                .unwrap_or(AFFINITY_SECONDS);
            if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
                let config = SPEC.child("sessionAffinityConfig");
                let client = config.child("clientIP");
                errors.invalid(
                    &client.child("timeoutSeconds"),
                    seconds,
                    format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                );
            }
        }
        affinity => errors.not_supported(&SPEC.child("sessionAffinity"), affinity, &["ClientIP", "None"]),
    }
}

fn validate_traffic(spec: &Value, errors: &mut FieldErrors) {
    let kind = text(spec, "type");
    for key in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        let policy = text(spec, key);
        if !["", "Cluster", "Local"].contains(&policy) {
            errors.not_supported(&SPEC.child(key), policy, &["Cluster", "Local"]);
        }
    }
    let external = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !text(spec, "externalTrafficPolicy").is_empty() && !external {
        errors.invalid(
            &SPEC.child("externalTrafficPolicy"),
            text(spec, "externalTrafficPolicy"),
            "may only be set for externally-accessible services",
        );
    }
    if let Some(port) = int(spec, "healthCheckNodePort").filter(|port| *port != 0)
        && !needs_health_check_port(spec)
    {
        errors.invalid(
            &SPEC.child("healthCheckNodePort"),
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if some(spec, "allocateLoadBalancerNodePorts").is_some() && kind != "LoadBalancer" {
        errors
            .forbidden(&SPEC.child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'");
    }
    let path = SPEC.child("externalIPs");
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        validate_endpoint_address(address.as_str().unwrap_or_default(), &path.index(index), errors);
    }
    let distribution = text(spec, "trafficDistribution");
    let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !known.contains(&distribution) {
        errors.not_supported(&SPEC.child("trafficDistribution"), distribution, &known);
    }
}

/// How the ranges of a load balancer's clients were named before they had a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn validate_load_balancer(object: &Value, spec: &Value, errors: &mut FieldErrors) {
    let balances = text(spec, "type") == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    let path = SPEC.child("loadBalancerSourceRanges");
    let annotation = tree::text_at(object, &["metadata", "annotations", SOURCE_RANGES]);
    if !ranges.is_empty() {
        if !balances {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for (index, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or_default().trim();
            if parse_range(range).is_none() {
                let rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.invalid(&path.index(index), range, rule);
            }
        }
    } else if !annotation.is_empty() {
        let metadata = Path::new("metadata");
        let annotations = metadata.child("annotations");
        let path = annotations.key(SOURCE_RANGES);
        if !balances {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        if annotation.split(',').any(|range| parse_range(range.trim()).is_none()) {
            errors.invalid(&path, annotation, "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24");
        }
    }
    let class = text(spec, "loadBalancerClass");
    if some(spec, "loadBalancerClass").is_some() {
        if !balances {
            errors.forbidden(&SPEC.child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
        } else if let Some(message) = names::qualified(class) {
            errors.invalid(&SPEC.child("loadBalancerClass"), class, message);
        }
    }
}

/// Checks where a load balancer can be reached, in the status of `object`.
pub(super) fn validate_entries(object: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let entries = at(object, &["status", "loadBalancer", "ingress"]).and_then(Value::as_array);
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        let path = path.index(index);
        let (address, host) = (text(entry, "ip"), text(entry, "hostname"));
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            let rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&path.child("ip"), address, rule);
        }
        let mode = text(entry, "ipMode");
        if !mode.is_empty() {
            if address.is_empty() {
                errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            if !["Proxy", "VIP"].contains(&mode) {
                errors.not_supported(&path.child("ipMode"), mode, &["Proxy", "VIP"]);
            }
        }
        if host.is_empty() {
            continue;
        }
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
        } else if let Some(message) = names::subdomain(host) {
            errors.invalid(&path.child("hostname"), host, message);
        }
    }
}
