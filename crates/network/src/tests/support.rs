//! A node of its own for a test: a network namespace for the host, one per pod, and an API server of the kinds that the
//! network reads.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::client::Body;
use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use reconcile::Informers;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::link::Links;
use crate::netlink::{NetlinkError, in_netns};
use crate::services::keep_services;
use crate::{DnsConfig, Network, NetworkConfig, PodAddress, PodNetwork, Slot, run_dns};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often the test node looks whether its table is still there.
const CHECK: Duration = Duration::from_millis(50);
/// How long a connection attempt may take; rejected ones end at once.
const CONNECT: Duration = Duration::from_secs(3);

/// Runs a test in a network namespace of its own. Threads that its runtime starts inherit the namespace.
pub(super) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root to create network namespaces");
        return;
    }
    std::thread::scope(|scope| {
        let run = || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: cannot create a network namespace: {error}");
                return;
            }
            Links::open().unwrap().up("lo").unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { test(Node::up()).await });
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A node under test.
pub(super) struct Node {
    pub(super) network: Arc<Network>,
    pub(super) slot: Slot,
    pub(super) state: TempDir,
    pub(super) api: FakeApi,
    servers: JoinSet<()>,
    loops: JoinSet<()>,
}

impl Node {
    fn up() -> Self {
        let slot = Slot::new(5).unwrap();
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("slot"), "5").unwrap();
        let network = Network::up(NetworkConfig { slot, state_dir: state.path().into() }).unwrap();
        let (servers, loops) = (JoinSet::new(), JoinSet::new());
        let mut node = Self { network, slot, state, api: FakeApi::default(), servers, loops };
        node.start_services();
        node
    }

    fn start_services(&mut self) {
        let informers = Informers::new(kube::Client::new(self.api.service(), "default"));
        // Another user of the informers, whose index of the most obvious name leaves everything out.
        informers.of::<EndpointSlice>().index("service", |_| Vec::new());
        let (slot, stop) = (self.slot, CancellationToken::new());
        let dns = DnsConfig {
            address: (slot.dns_ip(), 53).into(),
            cluster_domain: "cluster.local".into(),
            range: slot.cidr(),
            resolvers: Vec::new(),
        };
        let dns = run_dns(informers.clone(), dns, stop.clone());
        self.loops.spawn(async move { dns.await.unwrap() });
        self.loops.spawn(keep_services(informers.clone(), slot, "here".into(), CHECK, stop.clone()).map_ok_or_panic());
        self.loops.spawn(async move {
            let _ = informers.run(stop).await;
        });
    }

    /// As after a crash of the process: everything is set up again over what is there.
    pub(super) async fn restart(&mut self) {
        self.loops.shutdown().await;
        self.network = Network::up(NetworkConfig { slot: self.slot, state_dir: self.state.path().into() }).unwrap();
        self.start_services();
    }

    /// A pod in a new network namespace, attached.
    pub(super) async fn pod(&self, uid: &str) -> Pod {
        Self::pod_of(&self.network, uid).await
    }

    /// A pod of another instance on the same host.
    pub(super) async fn pod_of(network: &Network, uid: &str) -> Pod {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", netns.as_raw_fd()));
        let address = network.attach(uid, &path).await.unwrap();
        Pod { uid: uid.into(), place: Place(Some(path)), address, _netns: netns }
    }

    /// A server in a pod (or on the host) that answers every connection with the given text and the client's address.
    pub(super) fn serve(&mut self, place: &Place, address: (Ipv4Addr, u16), text: &'static str) {
        let listener = place.run(move || TcpListener::bind(SocketAddr::from(address))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        self.servers.spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut connections = JoinSet::new();
            while let Ok((mut stream, client)) = listener.accept().await {
                connections.spawn(async move {
                    let mut byte = [0; 1];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        let _ = stream.write_all(format!("{text} {}\n", client.ip()).as_bytes()).await;
                    }
                });
            }
        });
    }

    /// A UDP server in a pod that answers every datagram with the given text.
    pub(super) fn serve_udp(&mut self, place: &Place, port: u16, text: &'static str) {
        let socket = place.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        self.servers.spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(text.as_bytes(), client).await;
            }
        });
    }
}

/// Makes the loop's end with an error a failure of the test.
trait MapOkOrPanic: Future {
    fn map_ok_or_panic(self) -> impl Future<Output = ()> + Send + 'static;
}

impl<F: Future<Output = Result<(), crate::ServicesError>> + Send + 'static> MapOkOrPanic for F {
    async fn map_ok_or_panic(self) {
        self.await.unwrap();
    }
}

/// A pod under test.
pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) place: Place,
    pub(super) address: PodAddress,
    _netns: File,
}

/// A network namespace: a pod's, or the host's.
#[derive(Clone)]
pub(super) struct Place(pub(super) Option<PathBuf>);

/// The host.
pub(super) const HOST: Place = Place(None);

impl Place {
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(path) = &self.0 else { return work() };
        let work = || work().map_err(|source| NetlinkError::Io { action: "test".into(), source });
        in_netns(path, work).map_err(|error| match error {
            NetlinkError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    }

    /// Opens a connection from here.
    pub(super) async fn connect(&self, address: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
        let place = self.clone();
        let connect = move || place.run(|| TcpStream::connect_timeout(&SocketAddr::from(address), CONNECT));
        tokio::task::spawn_blocking(connect).await.unwrap()
    }

    /// Who answers at an address, and as whom it sees us.
    pub(super) async fn ask(&self, address: (Ipv4Addr, u16)) -> io::Result<(String, String)> {
        let stream = self.connect(address).await?;
        let line = say(&stream).await?;
        let (text, client) = line.split_once(' ').unwrap();
        Ok((text.to_owned(), client.to_owned()))
    }

    /// Asks until the answer is as wanted.
    pub(super) async fn ask_until(
        &self,
        address: (Ipv4Addr, u16),
        wanted: impl Fn(&io::Result<(String, String)>) -> bool,
    ) {
        let start = Instant::now();
        loop {
            let answer = self.ask(address).await;
            if wanted(&answer) {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{address:?} still answers {answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One exchange over a connection.
pub(super) async fn say(stream: &TcpStream) -> io::Result<String> {
    let mut stream = stream.try_clone()?;
    let exchange = move || {
        stream.set_read_timeout(Some(CONNECT))?;
        stream.write_all(b"x")?;
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

/// An API server that lists and watches; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<HashMap<String, Collection>>>);

#[derive(Default)]
struct Collection {
    objects: Vec<Value>,
    revision: u64,
    watchers: Vec<mpsc::UnboundedSender<Value>>,
}

impl FakeApi {
    fn service(
        &self,
    ) -> impl tower::Service<
        Request<Body>,
        Response = Response<UnsyncBoxBody<Bytes, Infallible>>,
        Error = Infallible,
        Future: Send,
    > + Send
    + 'static {
        let api = self.clone();
        tower::service_fn(move |request: Request<Body>| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let mut collections = api.0.lock();
            let collection = collections.entry(request.uri().path().to_owned()).or_default();
            for object in &collection.objects {
                sender.send(json!({"type": "ADDED", "object": object})).unwrap();
            }
            sender
                .send(json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": {
                    "resourceVersion": (collection.revision + 1).to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}))
                .unwrap();
            collection.watchers.push(sender);
            let events = stream::unfold(receiver, |mut events| async { Some((events.recv().await?, events)) });
            let frames = events.map(|event: Value| Ok(http_body::Frame::data(Bytes::from(format!("{event}\n")))));
            std::future::ready(Ok(Response::new(StreamBody::new(frames).boxed_unsync())))
        })
    }

    fn put(&self, path: &str, name: &str, mut object: Value) {
        let mut collections = self.0.lock();
        let collection = collections.entry(path.to_owned()).or_default();
        collection.revision += 1;
        object["metadata"]["resourceVersion"] = json!((collection.revision + 1).to_string());
        let before = collection.objects.len();
        collection.objects.retain(|object| object["metadata"]["name"] != name);
        let kind = if collection.objects.len() == before { "ADDED" } else { "MODIFIED" };
        collection.objects.push(object.clone());
        let event = json!({"type": kind, "object": object});
        collection.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// Writes a Service with one port.
    pub(super) fn service_object(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": name, "namespace": "default", "uid": name}});
        self.put("/api/v1/services", name, object);
    }

    /// Writes a pod of this node.
    pub(super) fn pod_object(&self, name: &str, address: Ipv4Addr, phase: &str, ports: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": phase, "podIP": address}});
        self.put("/api/v1/pods", name, object);
    }

    /// Writes a Service of type LoadBalancer that has an address.
    pub(super) fn balanced(&self, name: &str, spec: Value, address: Ipv4Addr) {
        let status = json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}});
        let object = json!({"apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
            "metadata": {"name": name, "namespace": "default", "uid": name}});
        self.put("/api/v1/services", name, object);
    }

    /// Writes a Service's only EndpointSlice.
    pub(super) fn endpoints(&self, service: &str, addresses: &[Ipv4Addr], port: u16, protocol: &str) {
        let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": "default", "uid": service,
                "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "", "port": port, "protocol": protocol}], "endpoints": endpoints});
        self.put("/apis/discovery.k8s.io/v1/endpointslices", service, object);
    }
}
