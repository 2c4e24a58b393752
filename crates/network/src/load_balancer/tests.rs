use std::net::TcpListener;

use super::*;

fn service(spec: Value, metadata: Value) -> Service {
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

#[test]
fn only_services_that_name_no_class_are_wanted() {
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    for (spec, metadata, wanted) in [
        (json!({"type": "LoadBalancer"}), json!({}), true),
        (json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"}), json!({}), false),
        (json!({"type": "LoadBalancer"}), leaving, false),
        (json!({"type": "NodePort"}), json!({}), false),
        (json!({}), json!({}), false),
    ] {
        assert_eq!(is_wanted(&service(spec.clone(), metadata)), wanted, "{spec}");
    }
}

#[test]
fn an_address_that_is_asked_for_is_had_or_it_is_said_why_not() {
    let ours = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    let of = |spec: Value| candidates(&service(spec, json!({})), &ours);
    assert_eq!(of(json!({})), Ok(ours.to_vec()));
    assert_eq!(of(json!({"loadBalancerIP": "192.0.2.2"})), Ok(vec![ours[1]]));
    let foreign = "spec.loadBalancerIP 192.0.2.3 is no address that this machine balances";
    assert_eq!(of(json!({"loadBalancerIP": "192.0.2.3"})), Err(foreign.into()));
    assert_eq!(of(json!({"ipFamilies": ["IPv6"]})), Err("this machine balances IPv4 only".into()));
}

#[test]
fn a_port_is_held_against_other_services_and_programs_until_it_is_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let here = Ipv4Addr::LOCALHOST;
    let program = TcpListener::bind((here, 0)).unwrap();
    let port = program.local_addr().unwrap().port();
    let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
    let (tcp, udp) = ((here, Protocol::Tcp, port), (here, Protocol::Udp, port));
    let mut held = Held::default();
    assert_eq!(held.take(&a, tcp), Err(format!("port {port}/TCP of 127.0.0.1 is used by another program")));
    drop(program);
    held.take(&a, tcp).unwrap();
    held.take(&a, tcp).unwrap();
    held.take(&b, udp).unwrap();
    assert_eq!(held.take(&b, tcp), Err(format!("port {port}/TCP of 127.0.0.1 is already used by service default/a")));
    assert!(TcpListener::bind((here, port)).is_err() && std::net::UdpSocket::bind((here, port)).is_err());
    let refused = std::net::TcpStream::connect((here, port)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!held.keep(&a, &BTreeSet::from([tcp])), "it wants all it has");
    assert!(held.keep(&a, &BTreeSet::new()));
    held.take(&b, tcp).unwrap();
}
