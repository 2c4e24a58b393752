//! Requests with an idempotency key through a gateway that is killed.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use system_tests::{Instance, Options, eventually, need_root};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backend that takes payments and numbers them.
fn payments() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            if stream.read(&mut request).unwrap_or(0) == 0 {
                continue;
            }
            let text = format!("payment {}", counter.fetch_add(1, Ordering::SeqCst) + 1);
            let answer = format!(
                "HTTP/1.1 201 Created\r\ncontent-length: {}\r\nlocation: /payments/7\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, made)
}

fn edge() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
        "spec": {"gatewayClassName": "keelson", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})
}

/// A backend on this machine, and a route to it.
fn objects(machine: &str, port: u16) -> Value {
    let backend = json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend", "metadata": {"name": "payments"},
        "spec": {"endpoints": [{"ip": {"address": machine, "port": port}}]}});
    let filter = json!({"group": "gateway.keelson.dev", "kind": "IdempotencyFilter", "name": "once"});
    let backend_ref = json!({"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "payments"});
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "payments"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [backend_ref],
            "filters": [{"type": "ExtensionRef", "extensionRef": filter}]}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [backend, route]})
}

/// Status line, whether it was given before, and body.
fn pay(address: &str, key: &str, body: &str) -> Option<(u16, bool, String)> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:80").parse().ok()?, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (length, key) =
        (body.len(), if key.is_empty() { String::new() } else { format!("idempotency-key: \"{key}\"\r\n") });
    let request = format!(
        "POST /payments HTTP/1.1\r\nhost: shop.test\r\n{key}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.contains("idempotent-replayed: true"), body.to_owned()))
}

fn resolved(instance: &Instance) -> Option<(String, String)> {
    let route = instance.get(&["httproute", "payments"])?;
    let conditions = route["status"]["parents"][0]["conditions"].as_array()?.iter();
    let found = { conditions }.find(|condition| condition["type"] == "ResolvedRefs")?;
    Some((found["status"].as_str()?.to_owned(), found["message"].as_str()?.to_owned()))
}

#[test]
fn a_payment_is_made_once_also_when_the_gateway_is_killed() {
    if !need_root("a_payment_is_made_once_also_when_the_gateway_is_killed") {
        return;
    }
    let mut instance = Instance::start(Options { node: true, ..Options::default() });
    let filter = |spec: Value| {
        json!({"apiVersion": "gateway.keelson.dev/v1alpha1", "kind": "IdempotencyFilter", "metadata": {"name": "once"},
            "spec": spec})
        .to_string()
    };
    for (spec, told) in [
        (
            json!({"keepFor": "900h"}),
            "spec.keepFor: Invalid value: \"string\": must be longer than 0s and at most 720h",
        ),
        (json!({"methods": ["GET"]}), "spec.methods[0]: Unsupported value: \"GET\""),
        (
            json!({"store": {"type": "Redis"}}),
            "spec.store: Invalid value: \"object\": redis must be set with type Redis, and only then",
        ),
        (json!({"concurrent": {"timeout": "10m"}}), "concurrent.timeout must be at most 5m"),
    ] {
        let refused = instance.kubectl_fails(&["apply", "-f", "-"], &filter(spec.clone()));
        assert!(refused.contains(told), "{spec}: {refused}");
    }
    let (port, made) = payments();
    instance.apply(&edge().to_string());
    let addresses = eventually("the Gateway has addresses", || {
        let gateway = instance.get(&["gateway", "edge"])?;
        let addresses = gateway["status"]["addresses"].as_array()?.iter();
        let addresses: Vec<_> = addresses.filter_map(|address| address["value"].as_str().map(str::to_owned)).collect();
        (!addresses.is_empty()).then_some(addresses)
    });
    // The last one is the bridge's, where this machine's programs can be endpoints.
    let (gateway, machine) = (&addresses[0], addresses.last().expect("there is one"));
    instance.apply(&objects(machine, port).to_string());
    // Without its filter nothing of the rule is served.
    let missing =
        ("False".to_owned(), "Reference default/once not found for filter type: IdempotencyFilter".to_owned());
    eventually("the missing filter is told", || resolved(&instance).filter(|told| *told == missing));
    eventually("and requests are refused", || pay(gateway, "a", "10").filter(|(status, ..)| *status == 500));
    instance.apply(&filter(json!({"required": true})));
    eventually("the filter is found", || resolved(&instance).filter(|(status, _)| status == "True"));
    let first = eventually("a payment is made", || pay(gateway, "a", "10").filter(|(status, ..)| *status == 201));
    assert_eq!(first, (201, false, "payment 1".to_owned()));
    assert_eq!(pay(gateway, "a", "10"), Some((201, true, "payment 1".to_owned())));
    assert_eq!(pay(gateway, "a", "20").map(|(status, ..)| status), Some(422));
    assert_eq!(pay(gateway, "", "10").map(|(status, ..)| status), Some(400));

    instance.kill();
    instance.resume();
    let again = eventually("it is known again", || pay(gateway, "a", "10").filter(|(status, ..)| *status == 201));
    assert_eq!(again, (201, true, "payment 1".to_owned()));
    assert_eq!(pay(gateway, "b", "10"), Some((201, false, "payment 2".to_owned())));
    assert_eq!(made.load(Ordering::SeqCst), 2);
}
