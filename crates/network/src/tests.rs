//! The whole node in network namespaces of the test's own: what packets really do.

mod capture;
mod support;

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use crate::link::{Link, Links};
use crate::netlink::{ACK, Encoder, Protocol, REQUEST, Socket};
use crate::{Network, NetworkConfig, PodNetwork, Slot, down, nft};
use support::{HOST, Node, Pod, on_a_node, say};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const PORT: u16 = 8080;
const NODE_PORT: u16 = 30080;

/// A Service address of the test node's slot.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 165, 128, 77);

/// Two serving pods behind a NodePort Service.
async fn two_pods(node: &mut Node) -> (Pod, Pod) {
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    node.serve(&a.place, (ANY, PORT), "a");
    node.serve(&b.place, (ANY, PORT), "b");
    node.api.service_object(
        "web",
        json!({"type": "NodePort", "clusterIP": VIP, "ports": [{"port": 80, "nodePort": NODE_PORT}]}),
    );
    node.api.endpoints("web", &[a.address.ip, b.address.ip], PORT, "TCP");
    HOST.ask_until((VIP, 80), Result::is_ok).await;
    (a, b)
}

fn refused(answer: &io::Result<(String, String)>) -> bool {
    matches!(answer, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn pods_and_host_reach_each_other_under_their_own_addresses() {
    on_a_node(async |mut node| {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        node.serve(&b.place, (ANY, PORT), "b");
        node.serve(&HOST, (node.slot.bridge_ip(), PORT), "host");
        assert_eq!(a.place.ask((b.address.ip, PORT)).await.unwrap(), ("b".into(), a.address.ip.to_string()));
        assert_eq!(a.place.ask((a.address.gateway, PORT)).await.unwrap(), ("host".into(), a.address.ip.to_string()));
        let (answer, client) = HOST.ask((b.address.ip, PORT)).await.unwrap();
        assert_eq!((answer, client), ("b".into(), node.slot.bridge_ip().to_string()));
    });
}

#[test]
fn attaching_again_changes_nothing_and_detaching_frees() {
    on_a_node(async |mut node| {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        node.serve(&b.place, (ANY, PORT), "b");
        let connection = a.place.connect((b.address.ip, PORT)).await.unwrap();
        say(&connection).await.unwrap();
        let again = node.network.attach(&b.uid, b.place.0.as_ref().unwrap()).await.unwrap();
        assert_eq!(again, b.address);
        say(&connection).await.unwrap();

        assert_eq!(node.network.attached(), ["a", "b"]);
        node.network.detach(&b.uid).await.unwrap();
        node.network.detach(&b.uid).await.unwrap();
        assert_eq!(node.network.attached(), ["a"]);
        assert_eq!(node.network.address("b"), None);
        let links = Links::open().unwrap();
        assert_eq!(links.find("keelson5").unwrap().map(|link| link.mtu), Some(1500));
        assert_eq!(links.find("keelson55").unwrap(), None);
        let links = links.list().unwrap();
        assert_eq!(links.iter().filter(|link| link.name.starts_with("kl5v")).count(), 1);
    });
}

#[test]
fn a_service_spreads_over_its_endpoints_from_everywhere() {
    on_a_node(async |mut node| {
        let (a, _b) = two_pods(&mut node).await;
        for (place, address) in [
            (&HOST, (VIP, 80)),
            (&a.place, (VIP, 80)),
            (&HOST, (Ipv4Addr::LOCALHOST, NODE_PORT)),
            (&HOST, (node.slot.bridge_ip(), NODE_PORT)),
            (&a.place, (node.slot.bridge_ip(), NODE_PORT)),
        ] {
            let mut seen = HashSet::new();
            // Missing one of two fair choices 64 times has a chance of 2^-63.
            for _ in 0..64 {
                seen.insert(place.ask(address).await.unwrap().0);
                if seen.len() == 2 {
                    break;
                }
            }
            assert_eq!(seen.len(), 2, "{address:?} reaches {seen:?} only");
        }
    });
}

#[test]
fn services_work_whether_or_not_bridged_packets_pass_netfilter() {
    for mode in ["0", "1"] {
        on_a_node(async |mut node| {
            let (a, b) = two_pods(&mut node).await;
            if let Err(error) = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", mode) {
                println!("skipped: this kernel has no bridge netfilter: {error}");
            }
            for (from, to) in [(&a, &b), (&b, &a), (&a, &a)] {
                node.api.endpoints("web", &[to.address.ip], PORT, "TCP");
                let is_wanted =
                    |answer: &io::Result<(String, String)>| matches!(answer, Ok((text, _)) if *text == to.uid);
                from.place.ask_until((VIP, 80), is_wanted).await;
            }
        });
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    on_a_node(async |mut node| {
        let (a, _b) = two_pods(&mut node).await;
        node.api.endpoints("web", &[a.address.ip], PORT, "TCP");
        let gateway = node.slot.bridge_ip().to_string();
        a.place
            .ask_until((VIP, 80), |answer| matches!(answer, Ok((text, from)) if text == "a" && *from == gateway))
            .await;
    });
}

#[test]
fn changed_endpoints_move_traffic_and_none_refuse_at_once() {
    on_a_node(async |mut node| {
        let (a, b) = two_pods(&mut node).await;
        node.api.endpoints("web", &[b.address.ip], PORT, "TCP");
        HOST.ask_until((VIP, 80), |answer| matches!(answer, Ok((text, _)) if text == "b")).await;
        for _ in 0..16 {
            assert_eq!(a.place.ask((VIP, 80)).await.unwrap().0, "b");
        }
        node.api.endpoints("web", &[], PORT, "TCP");
        HOST.ask_until((VIP, 80), refused).await;
        let start = Instant::now();
        let answer = a.place.ask((VIP, 80)).await;
        assert!(refused(&answer), "{answer:?}");
        assert!(refused(&HOST.ask((Ipv4Addr::LOCALHOST, NODE_PORT)).await));
        assert!(start.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_client_with_affinity_keeps_its_endpoint() {
    on_a_node(async |mut node| {
        let (a, _b) = two_pods(&mut node).await;
        let spec =
            json!({"clusterIP": VIP, "sessionAffinity": "ClientIP", "ports": [{"port": 81, "targetPort": PORT}]});
        node.api.service_object("web", spec);
        HOST.ask_until((VIP, 81), Result::is_ok).await;
        let first = a.place.ask((VIP, 81)).await.unwrap();
        for _ in 0..32 {
            assert_eq!(a.place.ask((VIP, 81)).await.unwrap(), first);
        }
    });
}

#[test]
fn what_is_known_of_a_client_ends_with_its_time_and_outlives_a_change_of_endpoints() {
    on_a_node(async |mut node| {
        let (a, b) = two_pods(&mut node).await;
        let spec = |seconds: u32| {
            json!({"clusterIP": VIP, "sessionAffinity": "ClientIP", "ports": [{"port": 81, "targetPort": PORT}],
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
        };
        node.api.service_object("web", spec(600));
        HOST.ask_until((VIP, 81), Result::is_ok).await;
        let first = a.place.ask((VIP, 81)).await.unwrap().0;
        let other = if first == "a" { &b } else { &a };
        node.api.endpoints("web", &[other.address.ip], PORT, "TCP");
        a.place.ask_until((VIP, 81), |answer| matches!(answer, Ok((text, _)) if *text == other.uid)).await;
        // what it was led to since it keeps, also where its first endpoint is there again
        node.api.endpoints("web", &[a.address.ip, b.address.ip], PORT, "TCP");
        for _ in 0..16 {
            assert_eq!(a.place.ask((VIP, 81)).await.unwrap().0, other.uid);
        }
        node.api.service_object("web", spec(1));
        let moved = async {
            // one of two at random, once in a time in which what was known is forgotten
            while a.place.ask((VIP, 81)).await.is_ok_and(|(text, _)| text == other.uid) {
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), moved).await.unwrap();
    });
}

#[test]
fn a_balancers_address_is_reached_from_inside_and_from_outside_where_it_admits() {
    on_a_node(async |mut node| {
        let state = tempfile::tempdir().unwrap();
        let config = NetworkConfig { slot: Slot::new(6).unwrap(), state_dir: state.path().into() };
        let other = Network::up(config).unwrap();
        let outside = Node::pod_of(&other, "outside").await;
        let (a, _b) = two_pods(&mut node).await;
        let address = node.slot.bridge_ip();
        let spec = |ranges: &[String]| json!({"type": "LoadBalancer", "clusterIP": VIP, "ports": [{"port": 81}], "loadBalancerSourceRanges": ranges});
        node.api.balanced("web", spec(&[]), address);
        for place in [&outside.place, &HOST, &a.place] {
            place.ask_until((address, 81), Result::is_ok).await;
        }
        // only one of them is admitted: the packets of the others disappear
        node.api.balanced("web", spec(&[format!("{}/32", a.address.ip)]), address);
        outside.place.ask_until((address, 81), Result::is_err).await;
        a.place.ask((address, 81)).await.unwrap();
        let answer = HOST.ask((address, 81)).await;
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        HOST.ask((VIP, 81)).await.unwrap();
        node.api.service_object("web", json!({"clusterIP": VIP, "ports": [{"port": 81}]}));
        a.place.ask_until((address, 81), refused).await;
    });
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_that_asked_for_it_while_it_lasts() {
    on_a_node(async |mut node| {
        let (a, b) = two_pods(&mut node).await;
        let (loopback, bridge) = (Ipv4Addr::LOCALHOST, node.slot.bridge_ip());
        let port = |host_ip: &str| json!({"containerPort": PORT, "hostPort": 54321, "hostIP": host_ip});
        node.api.pod_object("a", a.address.ip, "Running", json!([port("127.0.0.1")]));
        node.api.pod_object("b", b.address.ip, "Running", json!([port(&bridge.to_string())]));
        let is_of = |uid: &'static str| move |answer: &io::Result<(String, String)>| matches!(answer, Ok((text, _)) if text == uid);
        HOST.ask_until((loopback, 54321), is_of("a")).await;
        HOST.ask_until((bridge, 54321), is_of("b")).await;
        assert_eq!(a.place.ask((bridge, 54321)).await.unwrap().0, "b");
        node.api.pod_object("b", b.address.ip, "Succeeded", json!([port(&bridge.to_string())]));
        HOST.ask_until((bridge, 54321), refused).await;
        node.api.pod_object("a", a.address.ip, "Running", json!([port("")]));
        HOST.ask_until((bridge, 54321), is_of("a")).await;
        assert_eq!(a.place.ask((bridge, 54321)).await.unwrap().0, "a", "a pod reaches itself by it");
    });
}

#[test]
fn the_kubernetes_service_leads_to_the_bridge_address() {
    on_a_node(async |mut node| {
        let pod = node.pod("a").await;
        node.serve(&HOST, (node.slot.bridge_ip(), 6443), "api");
        node.api
            .service_object("kubernetes", json!({"clusterIP": node.slot.kubernetes_ip(), "ports": [{"port": 443}]}));
        node.api.endpoints("kubernetes", &[node.slot.bridge_ip()], 6443, "TCP");
        let api = (node.slot.kubernetes_ip(), 443);
        pod.place.ask_until(api, |answer| matches!(answer, Ok((text, _)) if text == "api")).await;
        assert_eq!(HOST.ask(api).await.unwrap().0, "api");
    });
}

#[test]
fn a_restart_adopts_everything_and_connections_live_on() {
    on_a_node(async |mut node| {
        let (a, b) = two_pods(&mut node).await;
        let through_service = a.place.connect((VIP, 80)).await.unwrap();
        let to_pod = HOST.connect((b.address.ip, PORT)).await.unwrap();
        say(&through_service).await.unwrap();
        node.restart().await;
        node.api.endpoints("web", &[b.address.ip], PORT, "TCP");
        a.place.ask_until((VIP, 80), |answer| matches!(answer, Ok((text, _)) if text == "b")).await;
        say(&through_service).await.unwrap();
        say(&to_pod).await.unwrap();
        assert_eq!(node.network.address("a"), Some(a.address));
        assert_ne!(node.pod("c").await.address.ip, b.address.ip);
    });
}

#[test]
fn a_table_that_another_program_removed_or_replaced_comes_back() {
    on_a_node(async |mut node| {
        let (a, _b) = two_pods(&mut node).await;
        crate::services::remove_table(node.slot).unwrap();
        a.place.ask_until((VIP, 80), Result::is_ok).await;
        // An empty one of the same name does not pass for it.
        crate::services::remove_table(node.slot).unwrap();
        crate::services::ensure_table(node.slot).unwrap();
        a.place.ask_until((VIP, 80), Result::is_ok).await;
    });
}

/// Takes the loopback address of a pod away, so that its packets to 127.0.0.1 go to the gateway.
fn send_loopback_to_the_gateway() -> io::Result<()> {
    const RTM_DELADDR: u16 = 21;
    const IFA_LOCAL: u16 = 2;
    const LOOPBACK_INDEX: u8 = 1;
    let mut delete = Encoder::default();
    delete.message(RTM_DELADDR, REQUEST | ACK, |message| {
        message.raw(&[2, 8, 0, 0, LOOPBACK_INDEX, 0, 0, 0]);
        message.attr(IFA_LOCAL, &Ipv4Addr::LOCALHOST.octets());
    });
    let socket = Socket::open(Protocol::Route).map_err(io::Error::other)?;
    socket.request("take the loopback address away", &delete).map_err(io::Error::other)?;
    std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1")
}

#[test]
fn a_pod_does_not_reach_what_listens_on_the_hosts_loopback() {
    on_a_node(async |mut node| {
        let pod = node.pod("a").await;
        node.serve(&HOST, (Ipv4Addr::LOCALHOST, PORT), "secret");
        pod.place.run(send_loopback_to_the_gateway).unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, PORT);
        assert!(pod.place.ask(loopback).await.is_err());
        // Without the guard it would: the attempt itself is a true one.
        let mut batch = nft::Batch::new(&node.slot.table());
        batch.flush_chain("guard");
        batch.commit(&nft::socket().unwrap(), "remove the guard").unwrap();
        assert_eq!(pod.place.ask(loopback).await.unwrap().0, "secret");
    });
}

#[test]
fn what_leaves_the_instance_bears_an_address_of_the_host() {
    on_a_node(async |mut node| {
        let state = tempfile::tempdir().unwrap();
        let config = NetworkConfig { slot: Slot::new(6).unwrap(), state_dir: state.path().into() };
        let other = Network::up(config).unwrap();
        let (inside, outside) = (node.pod("a").await, Node::pod_of(&other, "b").await);
        node.serve(&outside.place, (ANY, PORT), "outside");
        let (text, client) = inside.place.ask((outside.address.ip, PORT)).await.unwrap();
        assert_eq!((text.as_str(), client), ("outside", other.slot().bridge_ip().to_string()));
    });
}

#[test]
fn pods_and_host_ask_the_clusters_dns() {
    on_a_node(async |node| {
        let pod = node.pod("a").await;
        node.api.service_object("web", json!({"clusterIP": VIP, "ports": [{"port": 80}]}));
        for place in [&pod.place, &HOST] {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii("web.default.svc.cluster.local.").unwrap(), RecordType::A));
            let socket = place.run(|| UdpSocket::bind((ANY, 0))).unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
            let start = Instant::now();
            let mut buffer = [0; 512];
            loop {
                let _ = socket.send_to(&query.to_vec().unwrap(), (node.slot.dns_ip(), 53)).await;
                let answer = tokio::time::timeout(Duration::from_millis(50), socket.recv(&mut buffer)).await;
                if let Ok(Ok(length)) = answer
                    && let Some(record) = Message::from_vec(&buffer[..length]).unwrap().answers.first()
                {
                    assert_eq!(record.data.to_string(), VIP.to_string());
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(20), "DNS never answers");
            }
        }
    });
}

#[test]
fn a_udp_client_that_keeps_its_socket_follows_the_endpoints() {
    on_a_node(async |mut node| {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        node.serve_udp(&a.place, PORT, "a");
        node.serve_udp(&b.place, PORT, "b");
        node.api.service_object("udp", json!({"clusterIP": VIP, "ports": [{"port": 53, "protocol": "UDP"}]}));
        node.api.endpoints("udp", &[a.address.ip], PORT, "UDP");
        let socket = b.place.run(|| UdpSocket::bind((ANY, 0))).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        for wanted in ["a", "b"] {
            let start = Instant::now();
            let mut buffer = [0; 8];
            loop {
                // Errors are the rejections from before the rules were there.
                let _ = socket.send_to(b"x", (VIP, 53)).await;
                let answer = tokio::time::timeout(Duration::from_millis(50), socket.recv(&mut buffer)).await;
                if matches!(answer, Ok(Ok(length)) if &buffer[..length] == wanted.as_bytes()) {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(20), "{wanted} never answers");
            }
            node.api.endpoints("udp", &[b.address.ip], PORT, "UDP");
        }
    });
}

#[test]
fn down_leaves_nothing_and_may_be_repeated() {
    on_a_node(async |mut node| {
        two_pods(&mut node).await;
        for _ in 0..2 {
            down(node.state.path()).unwrap();
            let links: Vec<Link> = Links::open().unwrap().list().unwrap();
            let ours = |link: &&Link| link.name.starts_with("keelson") || link.name.starts_with("kl5v");
            assert_eq!(links.iter().filter(ours).count(), 0, "{links:?}");
            assert_eq!(nft::table_handle(&nft::socket().unwrap(), &node.slot.table()).unwrap(), None);
            assert!(!node.state.path().join("ipam").exists());
        }
    });
}

/// Measures what a pod's place in the network costs.
#[test]
#[ignore = "a measurement: run with --ignored --nocapture"]
fn cost_of_attaching_a_pod() {
    on_a_node(async |node| {
        let mut pods = Vec::new();
        let start = Instant::now();
        for n in 0..100 {
            pods.push(node.pod(&n.to_string()).await);
        }
        println!("attached 100 pods, their namespaces included, in {:?}", start.elapsed());
        let start = Instant::now();
        for pod in &pods {
            node.network.detach(&pod.uid).await.unwrap();
        }
        println!("detached 100 pods in {:?}", start.elapsed());
    });
}
