//! What Services ask for, and what writing it costs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::program::{Match, Protocol};
use super::*;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})).unwrap()
}

fn slice(ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
    let slice = json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints, "metadata": {}});
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"ready": ready, "serving": serving, "terminating": terminating})
}

#[test]
fn ports_are_matched_to_endpoints_by_name_and_protocol() {
    let service = service(json!({"type": "NodePort", "clusterIP": "10.160.128.9", "ports": [
        {"name": "http", "port": 80, "nodePort": 30001}, {"name": "dns", "port": 53, "protocol": "UDP"}]}));
    let slices = [
        slice(json!([{"name": "http", "port": 8080}]), json!([{"addresses": ["10.160.0.3"]}])),
        slice(
            json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "http", "port": 9090}]),
            json!([{"addresses": ["10.160.0.2"]}]),
        ),
    ];
    let programs = programs(&service, &slices);
    let vip = Ipv4Addr::new(10, 160, 128, 9);
    let http = &programs["service/default/web/tcp/http"];
    assert_eq!(http.targets, [(Ipv4Addr::new(10, 160, 0, 2), 9090), (Ipv4Addr::new(10, 160, 0, 3), 8080)]);
    assert_eq!(http.matches, [Match::Cluster(vip, Protocol::Tcp, 80), Match::Node(Protocol::Tcp, 30001)]);
    let dns = &programs["service/default/web/udp/dns"];
    assert_eq!(dns.targets, [(Ipv4Addr::new(10, 160, 0, 2), 5353)]);
}

#[test]
fn terminating_endpoints_serve_only_when_no_other_does() {
    let service = service(json!({"clusterIP": "10.160.128.9", "ports": [{"port": 80}]}));
    let ports = json!([{"name": "", "port": 80}]);
    let leaving = json!({"addresses": ["10.160.0.2"], "conditions": conditions(false, true, true)});
    let unready = json!({"addresses": ["10.160.0.3"], "conditions": conditions(false, false, false)});
    let ready = json!({"addresses": ["10.160.0.4"], "conditions": conditions(true, true, false)});
    let targets = |endpoints: Value| {
        let programs = programs(&service, &[slice(ports.clone(), endpoints)]);
        let targets = programs.into_values().flat_map(|program| program.targets);
        targets.map(|(address, _)| address.octets()[3]).collect::<Vec<_>>()
    };
    assert_eq!(targets(json!([leaving, unready, ready])), [4]);
    assert_eq!(targets(json!([leaving, unready])), [2]);
    assert!(targets(json!([unready])).is_empty());
}

#[test]
fn headless_and_external_services_have_no_rules() {
    let slices = [slice(json!([{"name": "", "port": 80}]), json!([{"addresses": ["10.160.0.2"]}]))];
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]}),
        json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
    ] {
        assert!(programs(&service(spec), &slices).is_empty());
    }
}

/// Measures what 1,000 Services with three endpoints each cost: the whole table, and one change.
#[test]
#[ignore = "a measurement: run with --ignored --nocapture"]
fn cost_of_a_thousand_services() {
    let measure = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let (slot, socket) = (Slot::new(7).unwrap(), nft::socket().unwrap());
        let wanted = |service: u8, of: u8, first: u8| {
            let targets = (0..3).map(|n| (Ipv4Addr::new(10, 167, of, first + n), 8080)).collect();
            let matches = vec![Match::Cluster(Ipv4Addr::new(10, 167, 128 + of, service), Protocol::Tcp, 80)];
            let program = program::Program { protocol: Protocol::Tcp, matches, affinity: false, targets };
            BTreeMap::from([(format!("service/default/s-{of}-{service}/tcp/80"), program)])
        };
        let key = |service: u8, of: u8| ServiceKey { namespace: "default".into(), name: format!("s-{of}-{service}") };
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let mut batch = Batch::new(&slot.table());
        table::replace(&mut batch, slot);
        for of in 0..4 {
            for service in 0..250 {
                let update = ledger.update(&key(service, of), wanted(service, of, service));
                update.changes.iter().for_each(|change| table::write(&mut batch, change));
            }
        }
        batch.commit(&socket, "install").unwrap();
        println!("1,000 services x 3 endpoints installed in {:?}", start.elapsed());
        assert_eq!(ledger.services(), 1000);
        let mut changes: Vec<_> = (0..100)
            .map(|service| {
                let start = Instant::now();
                let update = ledger.update(&key(service, 0), wanted(service, 0, service + 1));
                let mut batch = Batch::new(&slot.table());
                update.changes.iter().for_each(|change| table::write(&mut batch, change));
                batch.commit(&socket, "change").unwrap();
                start.elapsed()
            })
            .collect();
        changes.sort_unstable();
        println!("one service changed in {:?} (median of 100), worst {:?}", changes[50], changes[99]);
    };
    std::thread::spawn(measure).join().unwrap();
}
