//! Services of type LoadBalancer on a machine: what the address and its ports do for a client outside of every pod.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use system_tests::{Instance, Options, eventually, need_root};

/// How long a connection may take; what is refused is so at once.
const CONNECT: Duration = Duration::from_secs(3);

fn ingress(instance: &Instance) -> Option<String> {
    let service = instance.get(&["service", "web"])?;
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
}

fn events(instance: &Instance) -> Vec<(String, String)> {
    let list = instance.get(&["events", "--field-selector", "involvedObject.name=web"]).expect("events are listed");
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let of = |event: &Value| (text(event, "reason"), text(event, "message"));
    list["items"].as_array().into_iter().flatten().map(of).collect()
}

/// Answers every connection with a word.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"served"));
        }
    });
}

fn ask(address: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:{port}").parse().expect("an address"), CONNECT)?;
    stream.set_read_timeout(Some(CONNECT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_service_waits_for_a_port_then_is_reached_by_it_and_gives_it_back() {
    if !need_root("a_service_waits_for_a_port_then_is_reached_by_it_and_gives_it_back") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let program = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = program.local_addr().expect("its address").port();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": port}]}});
    instance.apply(&service.to_string());
    let said = eventually("an event names the port", || {
        events(&instance).into_iter().find(|(reason, _)| reason == "SyncLoadBalancerFailed")
    });
    assert!(
        said.1.contains(&format!("port {port}/TCP of")) && said.1.ends_with("is used by another program"),
        "{said:?}"
    );
    assert_eq!(ingress(&instance), None);

    drop(program);
    instance.kubectl(&["annotate", "service", "web", "look=again"]);
    let address = eventually("an address", || ingress(&instance));
    let backend = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let endpoints = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": backend.local_addr().expect("its address").port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]}]});
    serve(backend);
    instance.apply(&endpoints.to_string());
    let answer = eventually("the service answers", || ask(&address, port).ok());
    assert_eq!(answer, "served");
    assert!(TcpListener::bind((address.as_str(), port)).is_err(), "nobody else gets the port");

    let whole = instance.get(&["service", "web"]).expect("the service");
    assert_eq!(whole["metadata"]["finalizers"], json!(["service.kubernetes.io/load-balancer-cleanup"]));
    assert_eq!(whole["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    instance.kubectl(&["delete", "service", "web"]);
    eventually("the port is free", || TcpListener::bind((address.as_str(), port)).ok());
    let reasons: Vec<String> = events(&instance).into_iter().map(|(reason, _)| reason).collect();
    for reason in ["EnsuringLoadBalancer", "EnsuredLoadBalancer"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason} in {reasons:?}");
    }
}
