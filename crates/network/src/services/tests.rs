//! What Services ask for, and what writing it costs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::program::{Action, Match, Protocol, remembers};
use super::*;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})).unwrap()
}

fn slice(ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
    let slice = json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints, "metadata": {}});
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn here() -> Here {
    Here { node: "here".into(), zone: Some("z".into()) }
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
    let programs = programs(&service, &slices, &here());
    let vip = Ipv4Addr::new(10, 160, 128, 9);
    let http = &programs["service/default/web/tcp/http"];
    assert_eq!(http.targets(), [(Ipv4Addr::new(10, 160, 0, 2), 9090), (Ipv4Addr::new(10, 160, 0, 3), 8080)]);
    assert_eq!(http.matches, [Match::Cluster(vip, Protocol::Tcp, 80), Match::Node(Protocol::Tcp, 30001)]);
    let dns = &programs["service/default/web/udp/dns"];
    assert_eq!(dns.targets(), [(Ipv4Addr::new(10, 160, 0, 2), 5353)]);
}

#[test]
fn a_service_that_remembers_clients_has_chains_of_its_own() {
    let of = |more: Value| {
        let mut spec = json!({"clusterIP": "10.160.128.9", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let slices = [slice(json!([{"name": "", "port": 80}]), json!([{"addresses": ["10.160.0.2"]}]))];
        let (chain, program) = programs(&service(spec), &slices, &here()).pop_first().unwrap();
        let Action::Spread { affinity, .. } = program.action else { panic!("{program:?}") };
        assert_eq!(remembers(&chain), affinity.is_some(), "{chain}");
        (chain, affinity.map(|time| time.as_secs()))
    };
    let by_client = "service-by-client/default/web/tcp/80".to_owned();
    assert_eq!(of(json!({})), (by_client.clone(), Some(10_800)));
    let config = json!({"clientIP": {"timeoutSeconds": 5}});
    assert_eq!(of(json!({"sessionAffinityConfig": config})), (by_client, Some(5)));
    assert_eq!(of(json!({"sessionAffinity": "None"})), ("service/default/web/tcp/80".into(), None));
}

#[test]
fn one_port_may_be_of_two_protocols() {
    let service = service(json!({"clusterIP": "10.160.128.9", "ports": [
        {"name": "tcp", "port": 80}, {"name": "udp", "port": 80, "protocol": "UDP"}]}));
    let ports = json!([{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}]);
    let slices = [slice(ports, json!([{"addresses": ["10.160.0.2"]}]))];
    let programs = programs(&service, &slices, &here());
    let vip = Ipv4Addr::new(10, 160, 128, 9);
    for (chain, protocol) in
        [("service/default/web/tcp/tcp", Protocol::Tcp), ("service/default/web/udp/udp", Protocol::Udp)]
    {
        let program = &programs[chain];
        assert_eq!((program.protocol, &program.matches[..]), (protocol, &[Match::Cluster(vip, protocol, 80)][..]));
        assert_eq!(program.targets(), [(Ipv4Addr::new(10, 160, 0, 2), 8080)]);
    }
}

#[test]
fn terminating_endpoints_serve_only_when_no_other_does() {
    let service = service(json!({"clusterIP": "10.160.128.9", "ports": [{"port": 80}]}));
    let ports = json!([{"name": "", "port": 80}]);
    let leaving = json!({"addresses": ["10.160.0.2"], "conditions": conditions(false, true, true)});
    let unready = json!({"addresses": ["10.160.0.3"], "conditions": conditions(false, false, false)});
    let ready = json!({"addresses": ["10.160.0.4"], "conditions": conditions(true, true, false)});
    let targets = |endpoints: Value| {
        let programs = programs(&service, &[slice(ports.clone(), endpoints)], &here());
        let targets = programs.into_values().flat_map(|program| program.targets().to_vec());
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
        assert!(programs(&service(spec), &slices, &here()).is_empty());
    }
}

/// The chains of a Service with their matches' number and the last octets of their targets.
fn shape(service: &Service, slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let programs = programs(service, slices, &here());
    let show = |(chain, program): (&String, &program::Program)| {
        let targets: Vec<String> =
            program.targets().iter().map(|(address, _)| address.octets()[3].to_string()).collect();
        let kind = chain.split('/').next().unwrap();
        format!("{kind} {} -> {}", program.matches.len(), targets.join(","))
    };
    programs.iter().map(show).collect()
}

#[test]
fn local_policies_lead_to_this_nodes_endpoints_only() {
    let on = |octet: u8, node: &str| json!({"addresses": [format!("10.160.0.{octet}")], "nodeName": node});
    let ports = json!([{"name": "", "port": 80}]);
    let both = [slice(ports.clone(), json!([on(2, "here"), on(3, "there")]))];
    let elsewhere = [slice(ports.clone(), json!([on(3, "there")]))];
    let of = |internal: &str, external: &str| {
        service(json!({"type": "NodePort", "clusterIP": "10.160.128.9", "internalTrafficPolicy": internal,
            "externalTrafficPolicy": external, "ports": [{"port": 80, "nodePort": 30001}]}))
    };
    assert_eq!(shape(&of("Cluster", "Cluster"), &both), ["service 2 -> 2,3"]);
    assert_eq!(shape(&of("Cluster", "Local"), &both), ["local 1 -> 2", "service 1 -> 2,3"]);
    assert_eq!(shape(&of("Local", "Cluster"), &both), ["local 1 -> 2", "service 1 -> 2,3"]);
    assert_eq!(shape(&of("Local", "Local"), &both), ["local 2 -> 2"]);
    assert_eq!(shape(&of("Cluster", "Local"), &elsewhere), ["service 1 -> 3"]);
    let leaving = json!({"addresses": ["10.160.0.4"], "nodeName": "here", "conditions": conditions(false, true, true)});
    let fallback = [slice(ports, json!([leaving, on(3, "there")]))];
    assert_eq!(shape(&of("Cluster", "Local"), &fallback), ["local 1 -> 4", "service 1 -> 3"], "each for itself");
}

#[test]
fn endpoints_meant_for_this_node_or_its_zone_go_before_others() {
    let meant = |octet: u8, zones: &[&str], nodes: &[&str]| {
        let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        json!({"addresses": [format!("10.160.0.{octet}")], "hints": {"forZones": named(zones), "forNodes": named(nodes)}})
    };
    let unready = |mut endpoint: Value| {
        endpoint["conditions"] = conditions(false, false, false);
        endpoint
    };
    let service = service(json!({"clusterIP": "10.160.128.9", "ports": [{"port": 80}]}));
    for (endpoints, targets) in [
        (vec![meant(2, &["z"], &[]), meant(3, &["y"], &[])], "2"),
        (vec![meant(2, &["z"], &["here"]), meant(3, &["z"], &["there"])], "2"),
        (vec![meant(2, &["y"], &["there"]), meant(3, &["z"], &["there"])], "3"),
        (vec![meant(2, &["x"], &[]), meant(3, &["y"], &[])], "2,3"),
        (vec![meant(2, &["z"], &[]), meant(3, &[], &[])], "2,3"),
        (vec![meant(2, &["z"], &[]), unready(meant(3, &[], &[]))], "2"),
        (vec![unready(meant(2, &["z"], &[])), meant(3, &["y"], &[])], "3"),
    ] {
        let slices = [slice(json!([{"name": "", "port": 80}]), json!(endpoints))];
        assert_eq!(shape(&service, &slices), [format!("service 1 -> {targets}")], "{endpoints:?}");
    }
}

#[test]
fn a_balancers_addresses_lead_to_the_service_from_where_it_admits() {
    let slices = [slice(json!([{"name": "", "port": 80}]), json!([{"addresses": ["10.160.0.2"], "nodeName": "here"}]))];
    let of = |changes: Value, ingress: Value| {
        let mut spec = json!({"type": "LoadBalancer", "clusterIP": "10.160.128.9", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let mut service = service(spec);
        service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
        service
    };
    let ingress =
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "b"}]);
    let open = of(json!({}), ingress.clone());
    assert_eq!(shape(&open, &slices), ["service 2 -> 2"]);
    assert_eq!(shape(&of(json!({"type": "ClusterIP"}), ingress.clone()), &slices), ["service 1 -> 2"]);
    assert_eq!(shape(&of(json!({"externalIPs": ["192.0.2.7"]}), json!([])), &slices), ["service 2 -> 2"]);
    let ranges = json!({"loadBalancerSourceRanges": ["192.0.2.9/24", "fd00::/8"]});
    let guarded = of(ranges.clone(), ingress.clone());
    assert_eq!(shape(&guarded, &slices), ["admit 1 -> ", "service 1 -> 2"]);
    let programs = programs(&guarded, &slices, &here());
    let Action::Admit { sources, chain } = &programs["admit/default/web/tcp/80"].action else { panic!() };
    assert_eq!((sources[0].to_string().as_str(), sources.len()), ("192.0.2.0/24", 1));
    assert_eq!(chain, "service/default/web/tcp/80");
    let mut local = ranges;
    local["externalTrafficPolicy"] = "Local".into();
    assert_eq!(shape(&of(local, ingress), &slices), ["admit 1 -> ", "local 0 -> 2", "service 1 -> 2"]);
    assert!(shape(&guarded, &[]).is_empty(), "without endpoints nothing leads anywhere");
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
            let action = Action::Spread { affinity: None, targets };
            let program = program::Program { protocol: Protocol::Tcp, matches, action };
            BTreeMap::from([(format!("service/default/s-{of}-{service}/tcp/80"), program)])
        };
        let key = |service: u8, of: u8| OwnerKey {
            kind: OwnerKind::Service,
            namespace: "default".into(),
            name: format!("s-{of}-{service}"),
        };
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
