//! Gateways on a machine: addresses of their own, every kind of route, and what a restart keeps.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use serde_json::{Value, json};
use system_tests::{Instance, Options, eventually, need_root};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers every connection with the name of the backend, as HTTP where a request comes.
fn serve(name: &'static str) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let answer = match request[..length].starts_with(b"GET") {
                    true => {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len())
                    }
                    false => name.to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// Answers every datagram with a word.
fn serve_datagrams() -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    let port = socket.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(b"datagram", from);
        }
    });
    port
}

/// A Service without a selector, and the program of this machine behind it.
fn service(name: &str, protocol: &str, machine: &str, target: u16) -> Value {
    let ports = json!([{"name": "p", "port": 80, "protocol": protocol}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "p", "port": target, "protocol": protocol}], "endpoints": [{"addresses": [machine]}]});
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]})
}

fn gateway(name: &str, listeners: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name},
        "spec": {"gatewayClassName": "keelson", "listeners": listeners}})
}

fn route(kind: &str, name: &str, gateway: &str, backend: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"parentRefs": [{"name": gateway}], "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]}})
}

/// The addresses of a Gateway that is programmed, its own first.
fn addresses(instance: &Instance, name: &str) -> Vec<String> {
    eventually("the Gateway is programmed", || {
        let gateway = instance.get(&["gateway", name])?;
        let conditions = gateway["status"]["conditions"].as_array()?;
        let programmed = { conditions.iter() }.any(|c| c["type"] == "Programmed" && c["status"] == "True");
        let addresses = gateway["status"]["addresses"].as_array()?.iter();
        let addresses: Vec<_> = addresses.filter_map(|address| address["value"].as_str().map(str::to_owned)).collect();
        (programmed && !addresses.is_empty()).then_some(addresses)
    })
}

fn say(address: &str, port: u16, words: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:{port}").parse().expect("an address"), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(words.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Who answers a request at an address.
fn get(address: &str, port: u16) -> Option<String> {
    let answer = say(address, port, "GET / HTTP/1.1\r\nhost: any.test\r\nconnection: close\r\n\r\n").ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

fn ask(address: &str, port: u16) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.send_to(b"?", (address, port)).ok()?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}

#[test]
fn gateways_of_one_port_are_apart_and_carry_requests_bytes_and_datagrams() {
    if !need_root("gateways_of_one_port_are_apart_and_carry_requests_bytes_and_datagrams") {
        return;
    }
    let mut instance = Instance::start(Options { node: true, ..Options::default() });
    let http = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let raw = json!({"name": "raw", "port": 7000, "protocol": "TCP"});
    let datagrams = json!({"name": "datagrams", "port": 7000, "protocol": "UDP"});
    instance.apply(&gateway("one", json!([http])).to_string());
    instance.apply(&gateway("two", json!([http, raw, datagrams])).to_string());
    let (one, two) = (addresses(&instance, "one"), addresses(&instance, "two"));
    assert_ne!(one[0], two[0], "each has an address of its own");
    // The last one is the bridge's, where this machine's programs can be endpoints.
    let machine = one.last().expect("an address that is shared").clone();
    for (name, protocol, target) in
        [("a", "TCP", serve("a")), ("b", "TCP", serve("b")), ("d", "UDP", serve_datagrams())]
    {
        instance.apply(&service(name, protocol, &machine, target).to_string());
    }
    for (kind, name, gateway, backend) in [
        ("HTTPRoute", "to-a", "one", "a"),
        ("HTTPRoute", "to-b", "two", "b"),
        ("TCPRoute", "bytes", "two", "b"),
        ("UDPRoute", "datagrams", "two", "d"),
    ] {
        instance.apply(&route(kind, name, gateway, backend).to_string());
    }
    eventually("the first answers", || get(&one[0], 80).filter(|name| name == "a"));
    eventually("the second answers", || get(&two[0], 80).filter(|name| name == "b"));
    eventually("bytes are carried", || say(&two[0], 7000, "?").ok().filter(|name| name == "b"));
    eventually("datagrams are carried", || ask(&two[0], 7000).filter(|answer| answer == b"datagram"));
    assert!(say(&one[0], 7000, "?").is_err(), "the first Gateway does not listen there");
    let attached = eventually("the routes are counted", || {
        let gateway = instance.get(&["gateway", "two"])?;
        let listeners = gateway["status"]["listeners"].as_array()?.iter();
        let counts: Vec<_> = listeners.map(|listener| listener["attachedRoutes"].clone()).collect();
        (counts.len() == 3 && counts.iter().all(|count| *count == 1)).then_some(counts)
    });
    assert_eq!(attached, [json!(1), json!(1), json!(1)]);

    instance.kill();
    instance.resume();
    eventually("the first answers again", || get(&one[0], 80).filter(|name| name == "a"));
    eventually("the second answers again", || get(&two[0], 80).filter(|name| name == "b"));
    assert_eq!((addresses(&instance, "one"), addresses(&instance, "two")), (one, two), "addresses stay");
}

/// The status and reason of a condition, once the object has it for its generation.
fn condition(instance: &Instance, object: &[&str], type_: &str) -> Option<(String, String)> {
    let object = instance.get(object)?;
    let generation = &object["metadata"]["generation"];
    let own = &object["status"]["conditions"];
    let all = if own.is_null() { &object["status"]["parents"][0]["conditions"] } else { own };
    let found = all.as_array()?.iter().find(|c| c["type"] == type_ && c["observedGeneration"] == *generation)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

#[test]
fn what_upstreams_manifests_ask_for_is_told_and_served() {
    if !need_root("what_upstreams_manifests_ask_for_is_told_and_served") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let until = |object: &[&str], type_: &str, status: &str, reason: &str| {
        eventually(&format!("{object:?} is {type_}={status} {reason}"), || {
            condition(&instance, object, type_).filter(|told| *told == (status.to_owned(), reason.to_owned()))
        });
    };
    // The release of the definitions.
    let class = ["gatewayclass", "keelson"];
    until(&class, "SupportedVersion", "True", "SupportedVersion");
    let definition = ["annotate", "crd", "gateways.gateway.networking.k8s.io", "--overwrite"];
    for (release, status, reason) in [("v0.0.0", "False", "UnsupportedVersion"), ("v1.5.0", "True", "SupportedVersion")]
    {
        let annotation = format!("gateway.networking.k8s.io/bundle-version={release}");
        instance.kubectl(&[&definition[..], &[&annotation]].concat());
        until(&class, "SupportedVersion", status, reason);
    }
    // The more specific hostname of its own goes first, though the listener's is as specific.
    let listener = json!({"name": "l", "port": 80, "protocol": "HTTP", "hostname": "any.test"});
    let mut edge = gateway("edge", json!([listener]));
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
    instance.apply(&edge.to_string());
    let addresses = addresses(&instance, "edge");
    let machine = addresses.last().expect("an address that is shared");
    for name in ["older", "newer"] {
        instance.apply(&service(name, "TCP", machine, serve(name)).to_string());
        let mut route = route("HTTPRoute", name, "edge", name);
        route["spec"]["hostnames"] = if name == "older" { json!(["*.test"]) } else { json!(["any.test"]) };
        instance.apply(&route.to_string());
        until(&["httproute", name], "Accepted", "True", "Accepted");
    }
    eventually("the route with the hostname answers", || get(&addresses[0], 80).filter(|name| name == "newer"));
    // A set whose only listener has no certificate adds nothing.
    let parent = json!({"name": "edge"});
    let tls = json!({"certificateRefs": [{"name": "absent"}]});
    let listeners = json!([{"name": "s", "port": 443, "protocol": "HTTPS", "tls": tls}]);
    let set = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet", "metadata": {"name": "set"},
        "spec": {"parentRef": parent, "listeners": listeners}});
    instance.apply(&set.to_string());
    until(&["listenerset", "set"], "Accepted", "False", "ListenersNotValid");
}

/// The status and the body of an answer to a request for the Ingress's host.
fn fetch(address: &str, path: &str, more: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n{more}\r\n");
    let answer = say(address, 80, &request).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

#[test]
fn annotations_of_an_ingress_are_followed_or_told_of() {
    if !need_root("annotations_of_an_ingress_are_followed_or_told_of") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let annotations = json!({
        "nginx.ingress.kubernetes.io/auth-type": "basic",
        "nginx.ingress.kubernetes.io/auth-secret": "users",
        "nginx.ingress.kubernetes.io/denylist-source-range": "192.0.2.0/24",
        "nginx.ingress.kubernetes.io/limit-rpm": "30",
        "nginx.ingress.kubernetes.io/limit-burst-multiplier": "1",
        "nginx.ingress.kubernetes.io/proxy-body-size": "8mb",
        "nginx.ingress.kubernetes.io/enable-modsecurity": "true",
        "nginx.ingress.kubernetes.io/no-such-thing": "1",
    });
    let users = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users"},
        "stringData": {"auth": "ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="}});
    instance.apply(&users.to_string());
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "shop", "annotations": annotations},
        "spec": {"rules": [{"host": "shop.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    instance.apply(&ingress.to_string());
    let address = eventually("the Ingress has addresses", || {
        let ingress = instance.get(&["ingress", "shop"])?;
        Some(ingress["status"]["loadBalancer"]["ingress"].as_array()?.last()?["ip"].as_str()?.to_owned())
    });
    instance.apply(&service("web", "TCP", &address, serve("web")).to_string());
    eventually("who is nobody is asked for a password", || fetch(&address, "/", "").filter(|told| told.0 == 401));
    let ada = "authorization: Basic YWRhOnBhc3N3b3Jk\r\n";
    let served = eventually("who has one is served", || fetch(&address, "/", ada).filter(|told| told.0 == 200));
    assert_eq!(served.1, "web");
    // More than half a minute's and the burst besides, at once.
    let statuses: Vec<u16> = (0..40).filter_map(|_| fetch(&address, "/", ada)).map(|told| told.0).collect();
    assert_eq!(statuses.last(), Some(&503), "{statuses:?}");
    for (reason, message) in [
        ("InvalidAnnotation", "proxy-body-size: \"8mb\" is no size"),
        ("UnservedAnnotation", "enable-modsecurity: there is no web application firewall"),
        ("UnknownAnnotation", "no-such-thing is not one of ingress-nginx's"),
    ] {
        eventually(&format!("{reason} is told"), || {
            let events = instance.get(&["events"])?;
            let told = |event: &&Value| {
                event["involvedObject"]["name"] == "shop"
                    && event["reason"] == reason
                    && event["message"].as_str().is_some_and(|text| text.contains(message))
            };
            events["items"].as_array()?.iter().find(told).map(drop)
        });
    }
}
