//! What becomes of a pod's connections when something serves inside its namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};

use super::{ANY, HOST, Node, PORT, Pod, on_a_node, refused, say};
use crate::{Capture, PodNamespace};

const OUT: u16 = 15001;
const IN: u16 = 15006;
const TUNNEL: u16 = 15008;
const MARK: u32 = 0x539;

fn capture(node: &Node) -> Capture {
    Capture { outbound: OUT, inbound: IN, tunnel: TUNNEL, mark: MARK, node: node.slot.bridge_ip() }
}

fn namespace(pod: &Pod) -> PodNamespace {
    PodNamespace::open(pod.place.0.as_ref().unwrap()).unwrap()
}

/// Two pods that serve; the second one is captured, by servers of which each says what it is.
async fn captured(node: &mut Node) -> (Pod, Pod, PodNamespace) {
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    node.serve(&a.place, (ANY, PORT), "a");
    node.serve(&b.place, (ANY, PORT), "b");
    node.serve(&b.place, (Ipv4Addr::LOCALHOST, OUT), "out");
    node.serve(&b.place, (ANY, IN), "in");
    node.serve(&b.place, (ANY, TUNNEL), "tunnel");
    let namespace = namespace(&b);
    namespace.capture(capture(node)).unwrap();
    (a, b, namespace)
}

#[test]
fn new_connections_of_a_captured_pod_are_led_to_the_proxy() {
    on_a_node(async |mut node| {
        let (a, b, _namespace) = captured(&mut node).await;
        let answer = async |from: &super::support::Place, to: (Ipv4Addr, u16)| from.ask(to).await.unwrap().0;
        assert_eq!(answer(&a.place, (b.address.ip, PORT)).await, "in");
        assert_eq!(
            answer(&a.place, (b.address.ip, 4242)).await,
            "in",
            "nobody listens there, which is for the proxy to say"
        );
        assert_eq!(answer(&a.place, (b.address.ip, TUNNEL)).await, "tunnel");
        assert_eq!(answer(&HOST, (b.address.ip, PORT)).await, "b", "the node's probes reach the pod itself");
        assert_eq!(answer(&b.place, (a.address.ip, PORT)).await, "out");
        assert_eq!(answer(&b.place, (super::VIP, 80)).await, "out");
        assert_eq!(answer(&b.place, (b.address.ip, PORT)).await, "b", "a pod reaches itself");
        assert_eq!(answer(&b.place, (Ipv4Addr::LOCALHOST, PORT)).await, "b");
        assert_eq!(answer(&a.place, (a.address.ip, PORT)).await, "a", "the other pod is not captured");
    });
}

#[test]
fn connections_outlive_capture_and_release() {
    on_a_node(async |mut node| {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        node.serve(&b.place, (ANY, PORT), "b");
        node.serve(&b.place, (ANY, IN), "in");
        let before = a.place.connect((b.address.ip, PORT)).await.unwrap();
        assert!(say(&before).await.unwrap().starts_with("b "));
        let namespace = namespace(&b);
        assert!(!namespace.is_captured().unwrap());
        namespace.capture(capture(&node)).unwrap();
        namespace.capture(capture(&node)).unwrap();
        assert!(namespace.is_captured().unwrap());
        assert!(say(&before).await.unwrap().starts_with("b "), "what is older goes on");
        let during = a.place.connect((b.address.ip, PORT)).await.unwrap();
        assert!(say(&during).await.unwrap().starts_with("in "));
        namespace.release().unwrap();
        assert!(say(&during).await.unwrap().starts_with("in "), "what was led to the proxy stays there");
        assert_eq!(a.place.ask((b.address.ip, PORT)).await.unwrap().0, "b");
        namespace.forget().unwrap();
        namespace.forget().unwrap();
        assert!(!namespace.is_captured().unwrap());
    });
}

#[test]
fn without_a_proxy_a_captured_pod_is_out_of_reach() {
    on_a_node(async |mut node| {
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        node.serve(&a.place, (ANY, PORT), "a");
        node.serve(&b.place, (ANY, PORT), "b");
        namespace(&b).capture(capture(&node)).unwrap();
        assert!(refused(&a.place.ask((b.address.ip, PORT)).await));
        assert!(refused(&b.place.ask((a.address.ip, PORT)).await));
    });
}

/// A connection of the proxy's own inside the pod, under an address that is not the pod's.
fn under_another_address(from: Ipv4Addr, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&fd, sockopt::Mark, &MARK)?;
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to.0, to.1)))?;
    Ok(fd.into())
}

#[test]
fn the_proxy_speaks_to_the_pod_under_its_clients_address() {
    on_a_node(async |mut node| {
        let (a, b, namespace) = captured(&mut node).await;
        let stream = namespace.within(|| under_another_address(a.address.ip, (b.address.ip, PORT))).unwrap().unwrap();
        assert_eq!(say(&stream).await.unwrap(), format!("b {}", a.address.ip));
        // and the pod's own connections to that address are captured as before
        assert_eq!(b.place.ask((a.address.ip, PORT)).await.unwrap().0, "out");
    });
}
