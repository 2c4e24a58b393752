//! From a Service to addresses, in one snapshot.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use store::Snapshot;

use super::OutboundError;
use crate::{codec, server::SERVICES};

const SLICES: &str = "discovery.k8s.io/endpointslices";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where a Service leads.
#[derive(Debug, PartialEq)]
pub(crate) enum Addresses {
    /// To these.
    Known(Vec<SocketAddr>),
    /// To a name outside of the cluster.
    External(String, u16),
}

/// Resolves a port of a Service.
pub(crate) fn resolve(snapshot: &Snapshot, namespace: &str, name: &str, port: u16) -> Result<Addresses, OutboundError> {
    let stored = snapshot.get(SERVICES, &format!("{namespace}/{name}"));
    let service = stored.and_then(|object| codec::stored(&object.bytes).ok());
    let service = service.ok_or_else(|| OutboundError::NoService(name.to_owned()))?;
    // only one namespace is looked through, and only for a new connection
    let slices = snapshot.range(SLICES, &format!("{namespace}/"), None);
    let slices: Vec<Value> = slices
        .filter_map(|(_, object)| codec::stored(&object.bytes).ok())
        .filter(|slice| slice["metadata"]["labels"][SERVICE_NAME] == name)
        .collect();
    addresses(&service, &slices, name, port)
}

/// Where the Service leads, given the slices behind it.
fn addresses(service: &Value, slices: &[Value], name: &str, port: u16) -> Result<Addresses, OutboundError> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(Addresses::External(spec["externalName"].as_str().unwrap_or_default().to_owned(), port));
    }
    let ports = spec["ports"].as_array().into_iter().flatten();
    let found = ports.clone().find(|known| known["port"] == port);
    let found = found.ok_or_else(|| OutboundError::NoPort { name: name.to_owned(), port })?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let mut known = Vec::new();
    for slice in slices {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let target = ports.clone().find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let Some(target) = target.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok())
        else {
            continue;
        };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        for endpoint in endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false) {
            let addresses = endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
            known.extend(addresses.map(|address| SocketAddr::new(address, target)));
        }
    }
    if !known.is_empty() {
        return Ok(Addresses::Known(known));
    }
    // without a selector somebody else routes the cluster IP
    let routed = slices.is_empty() && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let cluster_ip = spec["clusterIP"].as_str().and_then(|address| address.parse::<IpAddr>().ok());
    match cluster_ip.filter(|_| routed) {
        Some(address) => Ok(Addresses::Known(vec![SocketAddr::new(address, port)])),
        None => Err(OutboundError::NoEndpoints(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_leads_to_its_ready_pods_on_their_own_port() {
        let service = json!({"spec": {"clusterIP": "10.0.0.9", "selector": {"a": "b"},
            "ports": [{"port": 443, "name": "https"}, {"port": 80, "name": "http"}]}});
        let slice = json!({"ports": [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}], "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.1.0.3"]}]});
        let found = addresses(&service, std::slice::from_ref(&slice), "web", 443).unwrap();
        assert_eq!(found, Addresses::Known(vec!["10.1.0.1:8443".parse().unwrap(), "10.1.0.3:8443".parse().unwrap()]));
        let missing = addresses(&service, &[slice], "web", 8443).unwrap_err().to_string();
        assert_eq!(missing, "no service port 8443 found for service \"web\"");
        let nobody = addresses(&service, &[], "web", 443).unwrap_err().to_string();
        assert_eq!(nobody, "no endpoints available for service \"web\"");
    }

    #[test]
    fn without_slices_and_selector_the_cluster_address_is_all_there_is() {
        let service = json!({"spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 443}]}});
        let found = addresses(&service, &[], "web", 443).unwrap();
        assert_eq!(found, Addresses::Known(vec!["10.0.0.9:443".parse().unwrap()]));
        let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
        assert_eq!(addresses(&external, &[], "web", 443).unwrap(), Addresses::External("example.org".into(), 443));
    }
}
