//! Policies of a gateway, applied with kubectl: what is said about them, and what they do.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use system_tests::{Instance, Options, eventually, need_root};

/// The port of the Gateway, at an address of its own.
const PORT: u16 = 80;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers requests: `/sick` with 503, and all others with a page that tells the request's head.
fn serve() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let head = String::from_utf8_lossy(&request[..length]).into_owned();
                let status = if head.starts_with("GET /sick") { "503 Service Unavailable" } else { "200 OK" };
                let page = format!("{head}{}", "and so on ".repeat(100));
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                    page.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// The head and the body of an answer; none where nothing is answered.
fn get(address: &str, path: &str, headers: &str) -> Option<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:{PORT}").parse().ok()?, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{headers}\r\n").as_bytes())
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end + 4..].to_vec()))
}

fn policy(kind: &str, target: &str, mut spec: Value) -> String {
    let (target_kind, name) = target.split_once('/').expect("kind and name");
    spec["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": target_kind, "name": name}]);
    json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": kind, "metadata": {"name": "p"}, "spec": spec})
        .to_string()
}

/// Waits until a policy is told about its present generation; status and message of `Accepted`, and the warnings.
fn told(instance: &Instance, kind: &str) -> (String, String, Option<String>) {
    eventually(&format!("{kind} has a status"), || {
        let object = instance.get(&[kind, "p"])?;
        let conditions = object["status"]["ancestors"][0]["conditions"].as_array()?;
        let found = |type_: &str| {
            let current = |c: &&Value| c["observedGeneration"] == object["metadata"]["generation"];
            conditions.iter().filter(current).find(|c| c["type"] == type_)
        };
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        let accepted = found("Accepted")?;
        Some((text(accepted, "status"), text(accepted, "message"), found("Warning").map(|c| text(c, "message"))))
    })
}

/// A Gateway with a route to a backend on this machine; its address.
fn set_up(instance: &Instance) -> String {
    let gateway_api = "gateway.networking.k8s.io/v1";
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"ports": [{"name": "p", "port": 80}]}}),
        json!({"apiVersion": gateway_api, "kind": "Gateway", "metadata": {"name": "edge"},
            "spec": {"gatewayClassName": "keelson", "listeners": [{"name": "http", "port": PORT, "protocol": "HTTP"}]}}),
        json!({"apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": {"name": "web"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}}),
    ] {
        instance.apply(&object.to_string());
    }
    // Its own comes first; the last one is shared, and one of this machine.
    let (address, machine) = eventually("the Gateway has addresses", || {
        let gateway = instance.get(&["gateway", "edge"])?;
        let addresses = gateway["status"]["addresses"].as_array()?;
        let value = |address: &Value| address["value"].as_str().map(str::to_owned);
        Some((value(addresses.first()?)?, value(addresses.last()?)?))
    });
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "p", "port": serve()}], "endpoints": [{"addresses": [machine]}]});
    instance.apply(&slice.to_string());
    eventually("the route answers", || get(&address, "/", "").filter(|(head, _)| head.starts_with("HTTP/1.1 200")));
    address
}

#[test]
fn policies_for_clients_and_for_backends_are_told_and_followed() {
    if !need_root("policies_for_clients_and_for_backends_are_told_and_followed") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let address = set_up(&instance);
    let clients = json!({
        "clientIPDetection": {"xForwardedFor": {"numTrustedHops": 1}},
        "headers": {"earlyRequestHeaders": {"set": [{"name": "x-early", "value": "1"}]},
            "lateResponseHeaders": {"set": [{"name": "x-late", "value": "1"}]}, "withUnderscoresAction": "RejectRequest"},
        "path": {"escapedSlashesAction": "RejectRequest"},
        "timeout": {"http": {"requestReceivedTimeout": "10s", "idleTimeout": "1m"}},
        "healthCheck": {"path": "/up"},
        "http3": {},
    });
    instance.apply(&policy("ClientTrafficPolicy", "Gateway/edge", clients));
    let (accepted, message, warnings) = told(&instance, "clienttrafficpolicy");
    assert_eq!((&*accepted, &*message), ("True", "Policy has been accepted."));
    assert_eq!(warnings.as_deref(), Some("spec.http3 is not supported and has no effect"));
    let (head, body) = eventually("the policy is followed", || {
        get(&address, "/a//b", "").filter(|(head, _)| head.contains("\r\nx-late: 1"))
    });
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(head.starts_with("HTTP/1.1 200") && body.starts_with("GET /a/b HTTP/1.1\r\n"), "{head}\n{body}");
    assert!(body.contains("\r\nx-early: 1\r\n"), "{body}");
    for (path, headers, status) in [("/a%2fb", "", "400"), ("/", "x_user: 1\r\n", "400"), ("/up", "", "200")] {
        let (head, _) = get(&address, path, headers).expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
    }

    let backends = json!({
        "compressor": [{"type": "Gzip", "gzip": {}}],
        "responseOverride": [{"match": {"statusCodes": [{"type": "Value", "value": 503}]},
            "response": {"statusCode": 500, "contentType": "application/json", "body": {"type": "Inline", "inline": "{}"}}}],
        "healthCheck": {"active": {"type": "TCP", "tcp": {}, "interval": "1s", "timeout": "1s"}},
        "rateLimit": {"type": "Local", "local": {"rules": [{"limit": {"requests": 3, "unit": "Hour"},
            "clientSelectors": [{"headers": [{"name": "x-limited", "value": "yes"}],
                "sourceCIDR": {"type": "Distinct", "value": "0.0.0.0/0"}}]}]}},
        "telemetry": {"tracing": {}},
    });
    instance.apply(&policy("BackendTrafficPolicy", "HTTPRoute/web", backends));
    let (accepted, message, warnings) = told(&instance, "backendtrafficpolicy");
    assert_eq!((&*accepted, &*message), ("True", "Policy has been accepted."));
    assert_eq!(warnings.as_deref(), Some("spec.telemetry is not supported and has no effect"));
    let (head, body) = eventually("answers are compressed", || {
        get(&address, "/", "accept-encoding: gzip\r\n").filter(|(head, _)| head.contains("content-encoding: gzip"))
    });
    assert!(head.contains("vary: accept-encoding") && body.len() < 600, "{head} {}", body.len());
    let (head, body) = get(&address, "/sick", "").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 500 ") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, b"{}");
    // Limits are held against the clients that the proxy in front tells of.
    let limited = |client: &str| {
        let headers = format!("x-limited: yes\r\nx-forwarded-for: {client}\r\n");
        get(&address, "/", &headers).expect("an answer").0[9..12].to_owned()
    };
    let answers: Vec<_> = ["192.0.2.1"; 4].into_iter().chain(["192.0.2.2"]).map(limited).collect();
    assert_eq!(answers, ["200", "200", "200", "429", "200"]);
}
