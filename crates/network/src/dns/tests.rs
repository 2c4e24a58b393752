use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// A cluster of fixed objects.
#[derive(Default)]
struct Fixed {
    services: HashMap<(String, String), Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    unready: AtomicBool,
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

impl Fixed {
    fn service_object(&mut self, name: &str, spec: serde_json::Value) {
        let service = serde_json::json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.services.insert(("default".into(), name.into()), object(service));
    }

    fn slice(&mut self, service: &str, ports: serde_json::Value, endpoints: serde_json::Value) {
        self.slices.push(object(serde_json::json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": service}}})));
    }
}

impl Cluster for Fixed {
    fn ready(&self) -> bool {
        !self.unready.load(Ordering::Relaxed)
    }

    fn has_namespace(&self, name: &str) -> bool {
        name == "default"
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&(namespace.into(), name.into())).cloned()
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        let key = index_key(namespace, name);
        self.slices.iter().filter(|slice| slice_service(slice).as_ref() == Some(&key)).cloned().collect()
    }

    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        let has = |service: &&Arc<Service>| service.spec.as_ref().unwrap().cluster_ip == Some(address.to_string());
        self.services.values().find(has).cloned()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let has = |slice: &&Arc<EndpointSlice>| {
            slice.endpoints.iter().flatten().any(|endpoint| endpoint.addresses == [address.to_string()])
        };
        self.slices.iter().filter(has).cloned().collect()
    }
}

fn cluster() -> Fixed {
    let mut cluster = Fixed::default();
    let http = serde_json::json!([{"name": "http", "port": 80}]);
    cluster.service_object("web", serde_json::json!({"clusterIP": "10.160.128.7", "ports": http}));
    cluster.service_object("db", serde_json::json!({"clusterIP": "None", "ports": http}));
    cluster.service_object("empty", serde_json::json!({"clusterIP": "None", "ports": http}));
    cluster.service_object(
        "inner",
        serde_json::json!({"type": "ExternalName",
        "externalName": "web.default.svc.cluster.local"}),
    );
    cluster.service_object("outer", serde_json::json!({"type": "ExternalName", "externalName": "example.com"}));
    cluster.slice(
        "db",
        serde_json::json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
        serde_json::json!([
            {"addresses": ["10.160.0.2"], "hostname": "db-0"},
            {"addresses": ["10.160.0.3"]},
            {"addresses": ["10.160.0.4"], "conditions": {"ready": false}}]),
    );
    cluster
}

/// A server with its upstream resolver, which answers every A question with 192.0.2.1.
struct Setup {
    address: SocketAddr,
    _tasks: tokio::task::JoinSet<()>,
}

async fn upstream(tasks: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let answer = |query: &[u8]| {
        let query = Message::from_vec(query).unwrap();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        let name = query.queries[0].name().clone();
        answer.add_queries(query.queries);
        let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 1));
        answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
        answer.to_vec().unwrap()
    };
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&answer(&buffer[..length]), client).await.unwrap();
        }
    });
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let answer = answer(&query);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

async fn setup(cluster: Fixed) -> Setup {
    let mut tasks = tokio::task::JoinSet::new();
    let config = DnsConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        range: Cidr { network: Ipv4Addr::new(10, 160, 0, 0), prefix: 16 },
        resolvers: vec![upstream(&mut tasks).await],
    };
    let server = Server::bind(&config).await.unwrap();
    let address = server.address();
    tasks.spawn(server.run(Arc::new(cluster), CancellationToken::new()));
    Setup { address, _tasks: tasks }
}

impl Setup {
    async fn udp(&self, name: &str, kind: RecordType) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query(name, kind), self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let query = query(name, kind);
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The data of the answers, in order.
fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

#[tokio::test]
async fn names_resolve_as_the_specification_says() {
    use RecordType::{A, PTR, SRV, TXT};
    let setup = setup(cluster()).await;
    let cases: [(&str, RecordType, &[&str]); 14] = [
        ("web.default.svc.cluster.local.", A, &["10.160.128.7"]),
        ("WEB.Default.svc.cluster.local.", A, &["10.160.128.7"]),
        ("db.default.svc.cluster.local.", A, &["10.160.0.2", "10.160.0.3"]),
        ("db-0.db.default.svc.cluster.local.", A, &["10.160.0.2"]),
        ("10-160-0-3.db.default.svc.cluster.local.", A, &["10.160.0.3"]),
        ("_http._tcp.web.default.svc.cluster.local.", SRV, &["0 100 80 web.default.svc.cluster.local."]),
        (
            "_http._tcp.db.default.svc.cluster.local.",
            SRV,
            &["0 100 8080 10-160-0-3.db.default.svc.cluster.local.", "0 100 8080 db-0.db.default.svc.cluster.local."],
        ),
        ("1-2-3-4.default.pod.cluster.local.", A, &["1.2.3.4"]),
        ("7.128.160.10.in-addr.arpa.", PTR, &["web.default.svc.cluster.local."]),
        ("2.0.160.10.in-addr.arpa.", PTR, &["db-0.db.default.svc.cluster.local."]),
        ("dns-version.cluster.local.", TXT, &["1.1.0"]),
        ("inner.default.svc.cluster.local.", A, &["10.160.128.7", "web.default.svc.cluster.local."]),
        ("outer.default.svc.cluster.local.", A, &["192.0.2.1", "example.com."]),
        ("example.org.", A, &["192.0.2.1"]),
    ];
    for (name, kind, wanted) in cases {
        for answer in [setup.udp(name, kind).await, setup.tcp(name, kind).await] {
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
            assert_eq!(data(&answer), wanted, "{name} {kind}");
        }
    }
    let srv = setup.udp("_http._tcp.db.default.svc.cluster.local.", SRV).await;
    assert_eq!(srv.additionals.len(), 2, "SRV answers bring the addresses along");
}

#[tokio::test]
async fn a_missing_name_differs_from_a_missing_record() {
    use RecordType::{A, AAAA, PTR, SRV};
    let setup = setup(cluster()).await;
    for (name, kind) in [
        ("cluster.local.", A),
        ("svc.cluster.local.", A),
        ("default.svc.cluster.local.", A),
        ("web.default.svc.cluster.local.", AAAA),
        ("1-2-3-4.default.pod.cluster.local.", AAAA),
    ] {
        let answer = setup.udp(name, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
        assert_eq!(answer.authorities.len(), 1, "{name}");
    }
    for (name, kind) in [
        ("nothing.cluster.local.", A),
        ("other.svc.cluster.local.", A),
        ("missing.default.svc.cluster.local.", AAAA),
        ("empty.default.svc.cluster.local.", A),
        ("no-such-host.db.default.svc.cluster.local.", A),
        ("10-160-0-4.db.default.svc.cluster.local.", A),
        ("_grpc._tcp.web.default.svc.cluster.local.", SRV),
        ("1-2-3.default.pod.cluster.local.", A),
        ("1-2-3-4.other.pod.cluster.local.", A),
        ("9.9.160.10.in-addr.arpa.", PTR),
        ("example.com.default.svc.cluster.local.", A),
    ] {
        let answer = setup.udp(name, kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(answer.authorities.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn before_the_caches_are_filled_nothing_is_called_missing() {
    let fixed = cluster();
    fixed.unready.store(true, Ordering::Relaxed);
    let setup = setup(fixed).await;
    let answer = setup.udp("web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(data(&setup.udp("example.org.", RecordType::A).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_says_so_and_comes_over_tcp() {
    let mut fixed = cluster();
    fixed.service_object("many", serde_json::json!({"clusterIP": "None"}));
    let endpoints: Vec<serde_json::Value> =
        (0..200).map(|n| serde_json::json!({"addresses": [format!("10.160.1.{n}")]})).collect();
    fixed.slice("many", serde_json::json!([]), endpoints.into());
    let setup = setup(fixed).await;
    let cut = setup.udp("many.default.svc.cluster.local.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(setup.tcp("many.default.svc.cluster.local.", RecordType::A).await.answers.len(), 200);
}

#[tokio::test]
async fn garbage_is_refused_and_answers_are_not_answered() {
    let setup = setup(cluster()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer_to_nothing = query("web.default.svc.cluster.local.", RecordType::A);
    answer_to_nothing[2] |= 0x80;
    socket.send_to(&answer_to_nothing, setup.address).await.unwrap();
    socket.send_to(&[1], setup.address).await.unwrap();
    socket.send_to(&[7, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1], setup.address).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x0707, ResponseCode::FormErr));
}

#[test]
fn resolvers_are_read_from_the_hosts_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        file.path(),
        "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.53\nnameserver ::1\nnameserver fe80::1%eth0\n",
    )
    .unwrap();
    let wanted: [SocketAddr; 2] = ["192.0.2.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
    assert_eq!(host_resolvers(file.path()), wanted);
    assert!(host_resolvers(Path::new("/nonexistent")).is_empty());
}
