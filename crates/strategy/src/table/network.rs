//! Services and what leads traffic to them.

use serde_json::Value;

use super::{
    AGE, Column, NAME, Printer, SELECTOR,
    format::{NONE, UNSET, created, first_three, labels, name, or_none, selector},
};
use crate::tree::{at, int, list, map, some, text, text_at};

static NULL: Value = Value::Null;

pub(super) static SERVICE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Type", "How the service is reached."),
        Column::text("Cluster-IP", "Address within the cluster."),
        Column::text("External-IP", "Addresses outside the cluster."),
        Column::text("Port(s)", "Ports of the service."),
        AGE,
        SELECTOR,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        vec![
            name(object),
            text(spec, "type").into(),
            or_none(text(spec, "clusterIP")),
            external_addresses(object, spec).into(),
            or_none(&service_ports(spec)),
            created(object, now),
            labels(map(spec, "selector")),
        ]
    },
};

fn external_addresses(service: &Value, spec: &Value) -> String {
    let own: Vec<String> = list(spec, "externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match text(spec, "type") {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = load_balancer(service);
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if own.is_empty() => NONE.to_owned(),
        _ => own.join(","),
    }
}

/// Addresses and host names of the object's load balancer.
fn load_balancer(object: &Value) -> Vec<String> {
    at(object, &["status", "loadBalancer"])
        .map_or(&[][..], |balancer| list(balancer, "ingress"))
        .iter()
        .map(|ingress| if text(ingress, "ip").is_empty() { text(ingress, "hostname") } else { text(ingress, "ip") })
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

fn service_ports(spec: &Value) -> String {
    let ports: Vec<String> = list(spec, "ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
            match int(port, "nodePort").unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    ports.join(",")
}

/// `address:port`, with an IPv6 address in brackets.
fn socket(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) static ENDPOINTS: Printer = Printer {
    columns: &[NAME, Column::text("Endpoints", "Addresses and ports of the service's pods."), AGE],
    cells: |object, now| {
        let mut all = Vec::new();
        for subset in list(object, "subsets") {
            let (addresses, ports) = (list(subset, "addresses"), list(subset, "ports"));
            if ports.is_empty() {
                all.extend(addresses.iter().map(|address| text(address, "ip").to_owned()));
            }
            for port in ports {
                let number = int(port, "port").unwrap_or(0);
                all.extend(addresses.iter().map(|address| socket(text(address, "ip"), number)));
            }
        }
        vec![name(object), first_three(&all, NONE).into(), created(object, now)]
    },
};

pub(super) static ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("AddressType", "Type of the addresses."),
        Column::text("Ports", "Ports of each endpoint."),
        Column::text("Endpoints", "Addresses of the endpoints."),
        AGE,
    ],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "ports")
            .iter()
            .map(|port| int(port, "port").map_or_else(|| "*".to_owned(), |number| number.to_string()))
            .collect();
        let addresses: Vec<String> = list(object, "endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "addresses"))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        vec![
            name(object),
            text(object, "addressType").into(),
            first_three(&ports, UNSET).into(),
            first_three(&addresses, UNSET).into(),
            created(object, now),
        ]
    },
};

pub(super) static INGRESS: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "Class",
            "The name of the IngressClass resource that should be used for additional configuration.",
        ),
        Column::text("Hosts", "Hosts that incoming requests are matched against before the ingress rule."),
        Column::text("Address", "Address is a list containing ingress points for the load-balancer."),
        Column::text("Ports", "Ports of TLS configurations that open."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let hosts: Vec<String> = list(spec, "rules")
            .iter()
            .map(|rule| text(rule, "host"))
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect();
        let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            or_none(text(spec, "ingressClassName")),
            first_three(&hosts, "*").into(),
            load_balancer(object).join(",").into(),
            ports.into(),
            created(object, now),
        ]
    },
};

pub(super) static INGRESS_CLASS: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Controller", "Controller that is responsible for handling this class."),
        Column::text("Parameters", "A reference to a resource with additional parameters."),
        AGE,
    ],
    cells: |object, now| {
        let parameters = at(object, &["spec", "parameters"]).map_or_else(String::new, |parameters| {
            let (kind, group) = (text(parameters, "kind"), text(parameters, "apiGroup"));
            let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
            format!("{kind}/{}", text(parameters, "name"))
        });
        vec![name(object), text_at(object, &["spec", "controller"]).into(), or_none(&parameters), created(object, now)]
    },
};

pub(super) static NETWORK_POLICY: Printer = Printer {
    columns: &[NAME, Column::text("Pod-Selector", "Pods that the policy applies to."), AGE],
    cells: |object, now| {
        let pods = object.get("spec").and_then(|spec| some(spec, "podSelector")).unwrap_or(&NULL);
        vec![name(object), selector(pods), created(object, now)]
    },
};

pub(super) static SERVICE_CIDR: Printer = Printer {
    columns: &[NAME, Column::text("CIDRs", "Ranges that addresses of services are taken from."), AGE],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let ranges: Vec<&str> = list(spec, "cidrs").iter().filter_map(Value::as_str).collect();
        vec![name(object), ranges.join(",").into(), created(object, now)]
    },
};

/// Who holds an address: `services/default/kubernetes`.
pub(super) static IP_ADDRESS: Printer = Printer {
    columns: &[NAME, Column::text("ParentRef", "Object that the address belongs to."), AGE],
    cells: |object, now| {
        let parent = at(object, &["spec", "parentRef"]).filter(|parent| parent.is_object());
        let holder = parent.map_or_else(String::new, |parent| {
            let resource = match text(parent, "group") {
                "" => text(parent, "resource").to_lowercase(),
                group => format!("{}.{group}", text(parent, "resource")).to_lowercase(),
            };
            let place = [text(parent, "namespace"), text(parent, "name")];
            place.iter().filter(|part| !part.is_empty()).fold(resource, |path, part| format!("{path}/{part}"))
        });
        vec![name(object), or_none(&holder), created(object, now)]
    },
};
