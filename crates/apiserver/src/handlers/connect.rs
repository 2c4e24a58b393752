//! Logs, exec, attach and port-forward: the request is rewritten to the kubelet's path and handed to the node. What is
//! proxied goes its own way.

use http::{HeaderMap, Request, Response, Uri, header};
use serde_json::{Value, json};

use super::{admit::Admission, proxy};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    node::NodeConnectError,
    options::Query,
    server::ApiServer,
    status::{ApiError, GroupResource},
    websocket,
};

/// Answers a request that connects to something.
pub(super) async fn answer(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let subresource = call.subresource.as_str();
    if !call.served.resource.subresources.iter().any(|known| known.name == subresource) {
        return Err(ApiError::no_such_resource());
    }
    if subresource != "log" {
        let mut options = asked(&call);
        let admission = Admission::connect(&call);
        let snapshot = admission.mutate(Some(&mut options)).await?;
        admission.validate(&snapshot, Some(&options)).await?;
    }
    if subresource == "proxy" {
        return proxy::answer(call, body).await;
    }
    let (node, path) = pod(&call, subresource)?;
    let uri: Uri = path.parse().map_err(|error| ApiError::bad_request(format!("invalid path {path:?}: {error}")))?;
    let is_log = subresource == "log";
    let (server, caller, mut parts) = (call.server, call.caller, call.parts);
    // what goes both ways the node speaks itself: the parts carry the upgrade of the client's connection
    let socket = if is_log { websocket::Wanted::take(&mut parts, websocket::Kind::Bytes)? } else { None };
    parts.uri = uri;
    strip_credentials(&mut parts.headers);
    let answer = to_node(&server, &node, Request::from_parts(parts, body)).await?;
    Ok(match socket {
        Some(socket) => socket.answer(answer, &server.tunnels, caller.draining),
        None => answer,
    })
}

/// Hands a request to the agent of a node.
pub(super) async fn to_node(
    server: &ApiServer,
    node: &str,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let connector = server.node_connector();
    let connector = connector.ok_or_else(|| ApiError::unavailable("no node is connected to this server"))?;
    connector.call(node, request).await.map_err(|error| match error {
        NodeConnectError::Unknown(node) => ApiError::not_found(GroupResource { group: "", resource: "nodes" }, &node),
        error @ NodeConnectError::Unreachable { .. } => ApiError::internal(error),
    })
}

/// What is asked, as the object that admission sees, for example a PodExecOptions.
fn asked(call: &Call) -> Value {
    let query = call.query();
    let what = match call.subresource.as_str() {
        "exec" => "Exec",
        "attach" => "Attach",
        "portforward" => "PortForward",
        _ => "Proxy",
    };
    let mut options = json!({"kind": format!("{}{what}Options", call.served.resource.kind), "apiVersion": "v1"});
    match what {
        "Proxy" if !call.rest.is_empty() => options["path"] = call.rest.as_str().into(),
        "Exec" | "Attach" => {
            for stream in ["stdin", "stdout", "stderr", "tty"] {
                if query.get(stream).is_some_and(|value| matches!(value, "true" | "1")) {
                    options[stream] = true.into();
                }
            }
            if let Some(container) = query.get("container") {
                options["container"] = container.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options["command"] = command.into();
            }
        }
        "PortForward" => {
            let ports: Vec<u16> =
                query.all("ports").flat_map(|ports| ports.split(',')).filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = ports.into();
            }
        }
        _ => {}
    }
    options
}

/// The client's credentials are for this server only.
pub(super) fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
}

fn exists(call: &Call) -> Result<Value, ApiError> {
    let snapshot = call.server.snapshot();
    let stored = snapshot.get(&call.served.collection, &call.path());
    codec::stored(&stored.ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?.bytes)
}

fn with_query(path: &str, query: Option<&str>) -> String {
    match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// Node and kubelet path of a request for a pod.
fn pod(call: &Call, subresource: &str) -> Result<(String, String), ApiError> {
    let pod = exists(call)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)));
    }
    let query = call.query();
    let (namespace, name) = (&call.namespace, &call.name);
    let path = match subresource {
        "log" => {
            let container = container(&pod, &query, call)?;
            with_query(&format!("/containerLogs/{namespace}/{name}/{container}"), call.parts.uri.query())
        }
        "exec" | "attach" => {
            let container = container(&pod, &query, call)?;
            format!("/{subresource}/{namespace}/{name}/{container}?{}", streams(&query))
        }
        "portforward" => with_query(&format!("/portForward/{namespace}/{name}"), call.parts.uri.query()),
        _ => return Err(ApiError::no_such_resource()),
    };
    Ok((node, path))
}

/// The container asked for, or the pod's only one.
fn container(pod: &Value, query: &Query<'_>, call: &Call) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = &call.name;
    match (query.get("container"), main.as_slice()) {
        (Some(wanted), _) => {
            let known = [&main, &init, &ephemeral].into_iter().flatten().any(|known| known == wanted);
            let unknown = || ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"));
            if known { Ok(wanted.to_owned()) } else { Err(unknown()) }
        }
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let mut choose =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
            if !init.is_empty() {
                choose.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(choose))
        }
    }
}

/// The kubelet's names for the streams: `stdin` is `input`, and so on.
fn streams(query: &Query<'_>) -> String {
    let mut pairs = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.get(ours).is_some_and(|value| matches!(value, "true" | "1")) {
            pairs.push(format!("{theirs}=1"));
        }
    }
    pairs.extend(query.all("command").map(|word| format!("command={}", encode(word))));
    pairs.join("&")
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_take_the_kubelets_names() {
        let query = Query::parse(Some("stdin=true&stdout=true&tty=false&command=sh&command=-c&command=echo+a%26b"));
        assert_eq!(streams(&query), "input=1&output=1&command=sh&command=-c&command=echo%20a%26b");
    }

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header::HeaderValue::from_static("Bearer x"));
        headers.insert("impersonate-user", header::HeaderValue::from_static("x"));
        headers.insert("accept", header::HeaderValue::from_static("*/*"));
        strip_credentials(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
