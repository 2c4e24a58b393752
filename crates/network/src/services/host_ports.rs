//! Ports of the node that a pod asks for (`hostPort`): what comes in there goes to the pod, as if to a Service that has it as
//! its only endpoint.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::program::{Action, Match, Program, Protocol};

/// Whether a pod has ports that the node has to lead to it. One in the node's own network listens there itself.
pub(super) fn wants_ports(pod: &Pod) -> bool {
    let in_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    !in_host && ports(pod).next().is_some()
}

/// The ports of containers that run for as long as the pod does.
fn ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = pod
        .spec
        .iter()
        .flat_map(move |spec| spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar)));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|port| port > 0))
}

/// The programs of a pod by the name of their chain; none before it has an address or when it is over.
pub(super) fn host_ports(pod: &Pod) -> BTreeMap<String, Program> {
    let status = pod.status.as_ref();
    let over = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    let address = status.and_then(|status| status.pod_ip.as_deref()?.parse::<Ipv4Addr>().ok());
    let (Some(address), Some(uid), false) = (address, pod.metadata.uid.as_deref(), over) else {
        return BTreeMap::new();
    };
    ports(pod).filter(|_| wants_ports(pod)).filter_map(|port| program(uid, address, port)).collect()
}

fn program(uid: &str, address: Ipv4Addr, port: &ContainerPort) -> Option<(String, Program)> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let host_port = u16::try_from(port.host_port?).ok()?;
    let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
    let found = match host_ip.parse().ok()? {
        all if IpAddr::is_unspecified(&all) => Match::Node(protocol, host_port),
        IpAddr::V4(one) => Match::Cluster(one, protocol, host_port),
        IpAddr::V6(_) => return None,
    };
    let target = (address, u16::try_from(port.container_port).ok()?);
    // a pod's name may be longer than a chain's
    let chain = format!("host-port/{uid}/{}/{host_ip}:{host_port}", protocol.to_string().to_lowercase());
    let action = Action::Spread { affinity: None, targets: vec![target] };
    Some((chain, Program { protocol, matches: vec![found], action }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1"}, "spec": spec,
            "status": {"phase": phase, "podIP": "10.165.0.2"}}))
        .unwrap()
    }

    fn matches(spec: &Value, phase: &str) -> Vec<Match> {
        host_ports(&pod(spec, phase)).into_values().flat_map(|program| program.matches).collect()
    }

    #[test]
    fn each_port_of_the_node_leads_to_its_container() {
        let port = |host_ip: &str, protocol: &str| json!({"containerPort": 80, "hostPort": 8080, "hostIP": host_ip, "protocol": protocol});
        let spec = json!({
            "containers": [{"name": "c", "ports": [port("", "TCP"), port("127.0.0.1", "TCP"), port("127.0.0.1", "UDP"),
                port("fd00::1", "TCP"), {"containerPort": 81}]}],
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 90, "hostPort": 90}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 91, "hostPort": 91, "hostIP": "::"}]},
            ],
        });
        let loopback = Ipv4Addr::LOCALHOST;
        let expected = [
            Match::Cluster(loopback, Protocol::Tcp, 8080),
            Match::Cluster(loopback, Protocol::Udp, 8080),
            Match::Node(Protocol::Tcp, 91),
            Match::Node(Protocol::Tcp, 8080),
        ];
        let mut found = matches(&spec, "Running");
        found.sort_unstable();
        assert_eq!(found, expected);
        let targets: Vec<_> =
            host_ports(&pod(&spec, "Running")).values().flat_map(|program| program.targets().to_vec()).collect();
        let of = |number| (Ipv4Addr::new(10, 165, 0, 2), number);
        assert_eq!(targets.iter().filter(|target| **target == of(80)).count(), 3);
        assert!(targets.contains(&of(91)), "{targets:?}");
    }

    #[test]
    fn pods_that_are_over_or_in_the_nodes_network_have_none() {
        let mut spec = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        assert_eq!(matches(&spec, "Pending").len(), 1);
        assert_eq!(matches(&spec, "Succeeded"), []);
        spec["hostNetwork"] = json!(true);
        assert!(matches(&spec, "Running").is_empty() && !wants_ports(&pod(&spec, "Running")));
    }
}
