//! `proxy` of pods, Services and nodes: which address a name like `https:web:443` means, and the way there.

use std::net::{IpAddr, SocketAddr};

use http::{Method, Request, Response, StatusCode, Uri, header};
use rand::RngExt as _;
use serde_json::Value;

use super::connect;
use crate::{
    body::{self, Body},
    codec,
    dispatch::Call,
    proxy::{self, Forward, Scheme, Target},
    status::{ApiError, GroupResource},
};

const ENDPOINTS: &str = "core/endpoints";
const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
const SERVICES: GroupResource<'static> = GroupResource { group: "", resource: "services" };
const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };

/// A name with the scheme and port it may carry: `web`, `web:80`, `https:web:443`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }

    fn port_number(&self) -> Result<u16, ApiError> {
        let fallback = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        if self.port.is_empty() {
            return Ok(fallback);
        }
        self.port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {:?}", self.port)))
    }
}

/// Where the request goes.
enum Way {
    Address(Target),
    /// The endpoint of the node's agent, whose way the server knows.
    Node(String),
}

/// Answers a request for a `proxy` subresource.
pub(super) async fn answer(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let way = way(&call)?;
    let path = call.parts.uri.path();
    let empty = call.rest.is_empty() && !path.ends_with('/');
    let is_upgrade = call.parts.headers.contains_key(header::UPGRADE);
    if empty && !is_upgrade && matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Ok(to_root(&call.parts.uri));
    }
    let suffix = format!("/{}", call.rest);
    let prefix = path.strip_suffix(suffix.as_str()).unwrap_or(path).to_owned();
    let text = match call.parts.uri.query() {
        Some(query) => format!("{suffix}?{query}"),
        None => suffix,
    };
    let uri: Uri = text.parse().map_err(|error| ApiError::bad_request(format!("invalid path {text:?}: {error}")))?;
    let (server, caller) = (call.server, call.caller);
    let mut parts = call.parts;
    connect::strip_credentials(&mut parts.headers);
    match way {
        Way::Node(node) => {
            parts.uri = uri;
            connect::to_node(&server, &node, Request::from_parts(parts, body)).await
        }
        Way::Address(target) => {
            let (tunnels, draining) = (server.tunnels.clone(), caller.draining.clone());
            let way = Forward { target, uri, prefix, peer: caller.peer, tunnels, draining };
            proxy::forward(Request::from_parts(parts, body), way).await
        }
    }
}

/// A page's relative links need its address to end in a slash.
fn to_root(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = format!("{}/{query}", uri.path()).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn way(call: &Call) -> Result<Way, ApiError> {
    let what = call.served.resource.singular.as_str();
    let invalid = || ApiError::bad_request(format!("invalid {what} request {:?}", call.name));
    let named = Named::parse(&call.name).ok_or_else(invalid)?;
    let read = |collection: &str, of: GroupResource<'_>| {
        let snapshot = call.server.snapshot();
        let path = call.served.path(&call.namespace, named.name);
        let stored = snapshot.get(collection, &path).ok_or_else(|| ApiError::not_found(of, named.name))?;
        codec::stored(&stored.bytes)
    };
    match call.served.resource.plural.as_str() {
        "pods" => pod(&read(&call.served.collection, PODS)?, &named).map(Way::Address),
        "services" => {
            let service = read(&call.served.collection, SERVICES)?;
            let endpoints = read(ENDPOINTS, GroupResource { group: "", resource: "endpoints" })?;
            let start = rand::rng().random_range(0..usize::MAX);
            service_backend(&service, &endpoints, &named, &call.name, start).map(Way::Address)
        }
        "nodes" => node(&read(&call.served.collection, NODES)?, &named),
        _ => Err(ApiError::no_such_resource()),
    }
}

/// An address that a request may be sent to: not the machine the server itself runs on.
fn proxyable(address: &str, port: u16) -> Result<SocketAddr, ApiError> {
    let parsed: Option<IpAddr> = address.parse().ok();
    let parsed = parsed.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    let local = match parsed {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if local || parsed.is_loopback() || parsed.is_unspecified() || parsed.is_multicast() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(SocketAddr::new(parsed, port))
}

fn pod(pod: &Value, named: &Named<'_>) -> Result<Target, ApiError> {
    let declared = || {
        let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.find_map(|container| container["ports"][0]["containerPort"].as_u64())
    };
    let port = match named.port {
        "" => declared().and_then(|port| u16::try_from(port).ok()).map_or_else(|| named.port_number(), Ok)?,
        _ => named.port_number()?,
    };
    let first = pod["status"]["podIPs"][0]["ip"].as_str().or(pod["status"]["podIP"].as_str());
    Ok(Target { scheme: named.scheme, address: proxyable(first.unwrap_or_default(), port)? })
}

fn node(node: &Value, named: &Named<'_>) -> Result<Way, ApiError> {
    /// What the agents of nodes listen on when they do not say.
    const AGENT_PORT: u64 = 10250;
    let agent = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port > 0);
    if named.port.is_empty() || named.port == agent.unwrap_or(AGENT_PORT).to_string() {
        return Ok(Way::Node(named.name.to_owned()));
    }
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    let address = internal.filter_map(|address| address["address"].as_str()).next().unwrap_or_default();
    Ok(Way::Address(Target { scheme: named.scheme, address: proxyable(address, named.port_number()?)? }))
}

/// One of the addresses behind a Service's port; `start` says where to begin looking.
fn service_backend(
    service: &Value,
    endpoints: &Value,
    named: &Named<'_>,
    id: &str,
    start: usize,
) -> Result<Target, ApiError> {
    let mut port_name = named.port;
    if let Ok(number) = named.port.parse::<u64>() {
        let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["port"].as_u64() == Some(number)).ok_or_else(|| {
            let name = named.name;
            ApiError::unavailable(format!("no service port {number} found for service {name:?}"))
        })?;
        port_name = port["name"].as_str().unwrap_or_default();
    }
    let none = |what: &str| ApiError::unavailable(format!("no endpoints available for service {what:?}"));
    let subsets = endpoints["subsets"].as_array().map(Vec::as_slice).unwrap_or_default();
    if subsets.is_empty() {
        return Err(none(named.name));
    }
    for subset in (0..subsets.len()).map(|at| &subsets[(start % subsets.len() + at) % subsets.len()]) {
        let mut ports = subset["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let addresses = subset["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (Some(port), false) = (port, addresses.is_empty()) else { continue };
        let address = addresses[start % addresses.len()]["ip"].as_str().unwrap_or_default();
        return Ok(Target { scheme: named.scheme, address: proxyable(address, port)? });
    }
    Err(none(id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(id: &str) -> Named<'_> {
        Named::parse(id).unwrap()
    }

    fn target(scheme: Scheme, address: &str) -> Target {
        Target { scheme, address: address.parse().unwrap() }
    }

    #[test]
    fn a_name_may_carry_a_scheme_and_a_port() {
        assert_eq!(named("a"), Named { scheme: Scheme::Http, name: "a", port: "" });
        assert_eq!(named("a:80"), Named { scheme: Scheme::Http, name: "a", port: "80" });
        assert_eq!(named("https:a:"), Named { scheme: Scheme::Https, name: "a", port: "" });
        for wrong in ["", ":80", "ftp:a:1", "a:b:c:d"] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pod_is_reached_at_the_port_named_or_its_first() {
        let object = json!({"spec": {"containers": [{"name": "x"}, {"ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.0.0.4", "podIPs": [{"ip": "10.0.0.4"}]}});
        assert_eq!(pod(&object, &named("p")).unwrap(), target(Scheme::Http, "10.0.0.4:8080"));
        assert_eq!(pod(&object, &named("https:p:9")).unwrap(), target(Scheme::Https, "10.0.0.4:9"));
        let bare = json!({"spec": {}, "status": {"podIP": "10.0.0.4"}});
        assert_eq!(pod(&bare, &named("https:p:")).unwrap(), target(Scheme::Https, "10.0.0.4:443"));
        for address in ["", "127.0.0.1", "169.254.1.1", "::1", "0.0.0.0"] {
            let error = pod(&json!({"status": {"podIP": address}}), &named("p")).unwrap_err();
            assert_eq!((error.code, &*error.message), (400, "address not allowed"), "{address}");
        }
    }

    #[test]
    fn a_service_is_reached_at_one_of_its_ready_addresses() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"port": 81}]}});
        let endpoints = json!({"subsets": [
            {"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "web", "port": 8080}]},
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}], "ports": [{"name": "web", "port": 8080}]}]});
        let find = |id: &str, start| service_backend(&service, &endpoints, &named(id), id, start);
        assert_eq!(find("s:80", 0).unwrap(), target(Scheme::Http, "10.0.0.2:8080"));
        assert_eq!(find("s:web", 1).unwrap(), target(Scheme::Http, "10.0.0.3:8080"));
        assert_eq!(find("s:82", 0).unwrap_err().message, "no service port 82 found for service \"s\"");
        assert_eq!(find("s:81", 0).unwrap_err().message, "no endpoints available for service \"s:81\"");
        let error = service_backend(&service, &json!({}), &named("s:web"), "s:web", 0).unwrap_err();
        assert_eq!((error.code, &*error.message), (503, "no endpoints available for service \"s\""));
    }

    #[test]
    fn a_nodes_own_port_is_its_agent() {
        let object = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.9"}]}});
        for id in ["n", "n:10250", "https:n:10250"] {
            assert!(matches!(node(&object, &named(id)).unwrap(), Way::Node(name) if name == "n"));
        }
        let Way::Address(found) = node(&object, &named("n:9100")).unwrap() else { panic!("an address is meant") };
        assert_eq!(found, target(Scheme::Http, "10.0.0.9:9100"));
    }
}
