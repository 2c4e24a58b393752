//! Endpoints and EndpointSlices.

use serde_json::Value;

use super::{validate_app_protocol, validate_endpoint_address};
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata, names,
    tree::{self, default_to, int, list, map, same, some, text},
};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Endpoints.
pub(crate) struct Endpoints;

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
                    validate_address(address, &path.index(index), errors);
                }
            }
            let ports = list(subset, "ports");
            let path = path.child("ports");
            for (index, port) in ports.iter().enumerate() {
                validate_port(port, ports.len() > 1, &path.index(index), errors);
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// EndpointSlices.
pub(crate) struct EndpointSlice;

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
            validate_endpoint(endpoint, &path, errors);
            let path = path.child("addresses");
            let addresses = list(endpoint, "addresses");
            if addresses.is_empty() {
                errors.required(&path, "must contain at least 1 address");
            } else if addresses.len() > ADDRESSES_MAX {
                errors.too_many(&path, addresses.len(), ADDRESSES_MAX);
            }
            for (index, address) in addresses.iter().enumerate() {
                let address = address.as_str().unwrap_or_default();
                let path = path.index(index);
                match kind {
                    "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                        errors.invalid(&path, address, "must be a valid IPv4 address");
                    }
                    "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                        errors.invalid(&path, address, "must be a valid IPv6 address");
                    }
                    "IPv4" | "IPv6" => validate_endpoint_address(address, &path, errors),
                    _ => {
                        if let Some(message) = names::subdomain(address) {
                            errors.invalid(&path, address, message);
                        }
                    }
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
            let path = path.index(index);
            let name = text(port, "name");
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            if !name.is_empty()
                && let Some(message) = names::label(name)
            {
                errors.invalid(&path.child("name"), name, message);
            }
            match text(port, "protocol") {
                "" => errors.required(&path.child("protocol"), ""),
                protocol if PROTOCOLS.contains(&protocol) => {}
                protocol => errors.not_supported(&path.child("protocol"), protocol, &PROTOCOLS),
            }
            if let Some(number) = int(port, "port")
                && let Some(message) = names::port_number(number)
            {
                errors.invalid(&path.child("port"), number, message);
            }
            validate_app_protocol(text(port, "appProtocol"), &path.child("appProtocol"), errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "addressType") {
            errors.invalid(&Path::new("addressType"), text(new, "addressType"), metadata::IMMUTABLE);
        }
    }
}

fn validate_address(address: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_endpoint_address(text(address, "ip"), &path.child("ip"), errors);
    let host = text(address, "hostname");
    if !host.is_empty()
        && let Some(message) = names::label(host)
    {
        errors.invalid(&path.child("hostname"), host, message);
    }
    validate_node_name(address, path, errors);
}

fn validate_node_name(holder: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(node) = some(holder, "nodeName").and_then(Value::as_str)
        && let Some(message) = names::subdomain(node)
    {
        errors.invalid(&path.child("nodeName"), node, message);
    }
}

fn validate_port(port: &Value, named: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(port, "name");
    if name.is_empty() {
        if named {
            errors.required(&path.child("name"), "");
        }
    } else if let Some(message) = names::label(name) {
        errors.invalid(&path.child("name"), name, message);
    }
    let number = int(port, "port").unwrap_or(0);
    if let Some(message) = names::port_number(number) {
        errors.invalid(&path.child("port"), number, message);
    }
    match text(port, "protocol") {
        "" => errors.required(&path.child("protocol"), ""),
        protocol if PROTOCOLS.contains(&protocol) => {}
        protocol => errors.not_supported(&path.child("protocol"), protocol, &PROTOCOLS),
    }
    validate_app_protocol(text(port, "appProtocol"), &path.child("appProtocol"), errors);
}

/// Most zones or nodes that an endpoint is hinted at, and most labels of its place.
const HINTS_MAX: usize = 8;
const TOPOLOGY_MAX: usize = 16;

fn validate_endpoint(endpoint: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let host = text(endpoint, "hostname");
    if !host.is_empty()
        && let Some(message) = names::label(host)
    {
        errors.invalid(&path.child("hostname"), host, message);
    }
    validate_node_name(endpoint, path, errors);
    let topology = map(endpoint, "deprecatedTopology");
    if topology.len() > TOPOLOGY_MAX {
        errors.too_many(&path.child("deprecatedTopology"), topology.len(), TOPOLOGY_MAX);
    }
    for (key, value) in topology {
        metadata::validate_label(key, value, &path.child("deprecatedTopology"), errors);
    }
    let hints = endpoint.get("hints").unwrap_or(&Value::Null);
    let path = path.child("hints");
    for key in ["forZones", "forNodes"] {
        let path = path.child(key);
        let places = list(hints, key);
        if places.len() > HINTS_MAX {
            errors.too_many(&path, places.len(), HINTS_MAX);
        }
        for (index, place) in places.iter().enumerate() {
            let path = path.index(index);
            let name = text(place, "name");
            if places[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(&path.child("name"), name);
            }
            let message = if key == "forZones" { names::label_value(name) } else { names::subdomain(name) };
            if let Some(message) = message {
                errors.invalid(&path.child("name"), name, message);
            }
        }
    }
}
