//! Requests of clients in the mesh to Services.

use std::convert::Infallible;

use http::{HeaderName, Version};
use hyper::{client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{io::DuplexStream, sync::mpsc};

use super::*;
use crate::{
    routing::{
        Backend, Destination, Entry, Frontend, Rank, RequestHead, RequestMatch, Rule, Security, ValueMatch, Wire, plain,
    },
    server::{Dial, Dialed, Dialing, Exchanged, Gate, Observer, Visit},
};

/// What may be under way between a client and the server.
const UNDER_WAY: usize = 64 << 10;

/// Opens connections, and remembers to whom.
#[derive(Debug)]
struct Caller {
    id: u64,
    dialed: Mutex<Vec<SocketAddr>>,
}

impl Caller {
    fn new(id: u64) -> Arc<Self> {
        Arc::new(Caller { id, dialed: Mutex::default() })
    }
}

impl Dial for Caller {
    fn id(&self) -> u64 {
        self.id
    }

    fn dial(&self, endpoint: SocketAddr) -> Dialing<'_> {
        self.dialed.lock().push(endpoint);
        Box::pin(async move { Ok(Box::new(TcpStream::connect(endpoint).await?) as Dialed) })
    }
}

/// A mesh with one Service.
struct Mesh {
    server: Server,
    service: Arc<Backend>,
    stop: CancellationToken,
    visits: JoinSet<()>,
}

impl Mesh {
    fn new(service: &Arc<Backend>, table: RouteTable) -> Self {
        let server =
            Server::new(ServerConfig { addresses: vec![], ephemeral: true, sockets: Sockets::default(), threads: 0 });
        server.install(table);
        Mesh { server, service: Arc::clone(service), stop: CancellationToken::new(), visits: JoinSet::new() }
    }

    /// A connection of a client in a namespace to the Service.
    fn connect(&mut self, namespace: &str, caller: &Arc<Caller>) -> DuplexStream {
        let (client, served) = tokio::io::duplex(UNDER_WAY);
        let destination = Destination::new("shop/web", PORT, namespace);
        let visit = Visit::new(destination, Arc::clone(&self.service), Arc::clone(caller) as Arc<dyn Dial>);
        let (server, stop) = (self.server.clone(), self.stop.clone());
        self.visits.spawn(async move { server.visit(served, SocketAddr::from((LOCAL, 7)), visit, stop).await });
        client
    }

    async fn client(&mut self, namespace: &str, caller: &Arc<Caller>) -> Client {
        Client::over(self.connect(namespace, caller)).await
    }
}

/// Adds a rule for requests with a header to the Service, for clients of one namespace or all.
fn route(table: &mut RouteTable, clients: Option<&str>, header: Option<(&'static str, &str)>, rule: Rule) {
    let headers = header.map(|(name, value)| (HeaderName::from_static(name), ValueMatch::Exact(value.into())));
    let condition = RequestMatch { headers: headers.into_iter().collect(), ..RequestMatch::prefix("/") };
    let entry = Entry::new(condition, Rank::default(), Arc::new(rule));
    table.insert_service(&Frontend::new("shop/web", PORT, clients), Arc::new(entry));
}

fn with(name: &'static str, value: &str) -> Request<Full<Bytes>> {
    Request::get("/").header("host", "web").header(name, value).body(Full::default()).unwrap()
}

#[tokio::test]
async fn rules_of_a_service_are_asked_for_each_request() {
    let (web, old, new) = (named("web").await, named("old").await, named("new").await);
    let to = |upstream: &Upstream| forward(vec![share(&backend(&[upstream.address]), 1)]);
    let mut table = RouteTable::default();
    route(&mut table, None, None, to(&old));
    route(&mut table, None, Some(("version", "new")), to(&new));
    let mut mesh = Mesh::new(&backend(&[web.address]), table.clone());
    let mut client = mesh.client("shop", &Caller::new(0)).await;
    assert_eq!(client.get("/").await.body, "old");
    assert_eq!(client.send(with("version", "new")).await.unwrap().body, "new");
    // A consumer's own rules count in place of the producer's, on connections that are open too.
    route(&mut table, Some("other"), None, to(&new));
    mesh.server.install(table);
    assert_eq!(mesh.client("other", &Caller::new(1)).await.get("/").await.body, "new");
    assert_eq!(client.get("/").await.body, "old");
    // Without rules the Service itself is what is meant.
    mesh.server.install(RouteTable::default());
    assert_eq!(client.get("/").await.body, "web");
}

#[tokio::test]
async fn requests_that_no_rule_takes_are_not_found() {
    let web = named("web").await;
    let mut table = RouteTable::default();
    route(&mut table, None, Some(("version", "new")), forward(vec![share(&backend(&[web.address]), 1)]));
    let mut mesh = Mesh::new(&backend(&[web.address]), table);
    assert_eq!(mesh.client("shop", &Caller::new(0)).await.get("/").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn requests_arrive_as_they_were_sent_whatever_a_policy_says_of_gateways() {
    let echo = echo().await;
    let service = backend(&[echo.address]);
    service.set_wire(Wire::new(false, Security::Broken));
    let mut mesh = Mesh::new(&service, RouteTable::default());
    let answer = mesh.client("shop", &Caller::new(0)).await.send(with("x-mine", "1")).await.unwrap();
    let mut lines: Vec<_> = answer.body.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["GET /", "host: web", "x-mine: 1"]);
}

#[tokio::test]
async fn every_attempt_is_made_by_the_clients_own_dialer_and_connections_are_not_shared() {
    let web = named("web").await;
    let gone = TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr().unwrap();
    let service = backend(&[web.address, gone]);
    let mut mesh = Mesh::new(&service, RouteTable::default());
    let (one, other) = (Caller::new(1), Caller::new(2));
    let mut client = mesh.client("shop", &one).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.body, "web");
    }
    let dialed = one.dialed.lock().clone();
    assert!(dialed.contains(&gone));
    assert_eq!(dialed.iter().filter(|to| **to == web.address).count(), 1, "a connection is used again: {dialed:?}");
    assert_eq!(mesh.client("shop", &one).await.get("/").await.body, "web");
    assert_eq!(
        one.dialed.lock().iter().filter(|to| **to == web.address).count(),
        1,
        "by others of the same client too"
    );
    assert_eq!(mesh.client("shop", &other).await.get("/").await.body, "web");
    assert!(other.dialed.lock().contains(&web.address), "but not by another client's");
}

#[tokio::test]
async fn who_speaks_http_2_to_a_service_is_spoken_for_in_http_2() {
    let versions = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&versions);
    let service = service_fn(move |request: Request<Incoming>| {
        seen.lock().push(request.version());
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("h2"))) }
    });
    let web = accepting(move |stream| {
        let service = service.clone();
        async move {
            let connection = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    let mut mesh = Mesh::new(&backend(&[web.address]), RouteTable::default());
    let stream = mesh.connect("shop", &Caller::new(0));
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let answer = sender.send_request(Request::get("http://web/").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(*versions.lock(), [Version::HTTP_2]);
    assert_eq!(mesh.client("shop", &Caller::new(1)).await.get("/").await.body, "h2");
    assert_eq!(*versions.lock(), [Version::HTTP_2, Version::HTTP_11]);
}

#[tokio::test]
async fn a_client_is_let_go_between_requests() {
    let web = named("web").await;
    let mut mesh = Mesh::new(&backend(&[web.address]), RouteTable::default());
    let mut client = mesh.client("shop", &Caller::new(0)).await;
    assert_eq!(client.get("/").await.body, "web");
    mesh.stop.cancel();
    assert_eq!(client.get("/").await.headers["connection"], "close", "what is on its way already is answered");
    mesh.visits.join_next().await.unwrap().unwrap();
    mesh.server.end().await;
}

/// Lets only requests for one path pass.
#[derive(Debug)]
struct OnlyOpen;

impl Gate for OnlyOpen {
    fn admits(&self, head: &RequestHead<'_>, authority: &str) -> bool {
        head.path == "/open" && authority == "web:80"
    }
}

#[tokio::test]
async fn who_may_not_pass_a_gate_is_told_so_and_nothing_is_sent() {
    let web = named("web").await;
    let mut mesh = Mesh::new(&backend(&[web.address]), RouteTable::default());
    let caller = Caller::new(0);
    let (client, served) = tokio::io::duplex(UNDER_WAY);
    let (table, dial) = (plain(Arc::clone(&mesh.service)), Arc::clone(&caller) as Arc<dyn Dial>);
    let visit = Visit::direct(PORT, table, dial, Arc::new(OnlyOpen));
    let server = mesh.server.clone();
    let stop = mesh.stop.clone();
    mesh.visits.spawn(async move { server.visit(served, SocketAddr::from((LOCAL, 7)), visit, stop).await });
    let mut client = Client::over(client).await;
    let request = |path: &str| Request::post(path).header("host", "web:80");
    let refused = client.send(request("/closed").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!((refused.status, refused.body.as_str()), (StatusCode::FORBIDDEN, "RBAC: access denied"));
    let call = request("/a.B/C").header("content-type", "application/grpc").body(Full::default()).unwrap();
    let refused = client.send(call).await.unwrap();
    assert_eq!((refused.status, &refused.headers["grpc-status"]), (StatusCode::OK, &value("7")));
    assert!(caller.dialed.lock().is_empty());
    assert_eq!(client.send(request("/open").body(Full::default()).unwrap()).await.unwrap().body, "web");
}

#[tokio::test]
async fn http_2_is_not_switched_to_where_nobody_would_look_at_it() {
    let echo = echo().await;
    let mut mesh = Mesh::new(&backend(&[echo.address]), RouteTable::default());
    let mut client = mesh.client("shop", &Caller::new(0)).await;
    for protocols in ["h2c", "websocket, H2C"] {
        let answer = client.send(switching_to(protocols)).await.unwrap();
        assert!(!answer.body.to_lowercase().contains("h2c"), "{}", answer.body);
    }
}

fn switching_to(protocols: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", "web").header("connection", "upgrade, http2-settings");
    let request = request.header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA").header("upgrade", protocols);
    request.body(Full::default()).unwrap()
}

/// Passes on what it is told.
#[derive(Debug)]
struct Log(mpsc::UnboundedSender<Exchanged>);

impl Observer for Log {
    fn over(&self, exchange: &Exchanged) {
        let _ = self.0.send(exchange.clone());
    }
}

#[tokio::test]
async fn requests_are_told_of_when_their_answers_have_left() {
    let echo = echo().await;
    let mut table = RouteTable::default();
    route(&mut table, None, Some(("version", "new")), forward(vec![share(&backend(&[echo.address]), 1)]));
    let mut mesh = Mesh::new(&backend(&[]), table);
    let (log, mut told) = mpsc::unbounded_channel();
    let (client, served) = tokio::io::duplex(UNDER_WAY);
    let dial = Caller::new(0) as Arc<dyn Dial>;
    let visit = Visit::new(Destination::new("shop/web", PORT, "shop"), Arc::clone(&mesh.service), dial);
    let (visit, server, stop) = (visit.observed(Arc::new(Log(log))), mesh.server.clone(), mesh.stop.clone());
    mesh.visits.spawn(async move { server.visit(served, SocketAddr::from((LOCAL, 7)), visit, stop).await });
    let mut client = Client::over(client).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request =
        Request::post("/a?secret=1").header("host", "web").header("version", "new").header("traceparent", trace);
    let answer = client.send(request.body(Full::from("12345")).unwrap()).await.unwrap();
    assert!(answer.body.contains(trace), "the trace goes on: {}", answer.body);
    let exchange = told.recv().await.unwrap();
    assert_eq!((exchange.method.as_str(), &*exchange.path), ("POST", "/a"), "without what may be secret");
    assert_eq!((exchange.received, exchange.sent), (Some(5), answer.body.len() as u64));
    assert_eq!((exchange.status, exchange.endpoint, exchange.whole), (StatusCode::OK, Some(echo.address), true));
    let went = exchange.went.unwrap();
    assert_eq!((went.route.to_string().as_str(), went.backend.name()), ("HTTPRoute ns/route", "ns/svc:80"));
    assert_eq!(exchange.trace.unwrap(), trace);

    assert_eq!(client.get("/").await.status, StatusCode::NOT_FOUND);
    let exchange = told.recv().await.unwrap();
    assert_eq!((exchange.status, exchange.endpoint), (StatusCode::NOT_FOUND, None));
    assert!(exchange.went.is_none() && exchange.whole);
}

#[tokio::test]
async fn a_client_may_be_done_speaking_before_it_is_answered() {
    let web = upstream(|_| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::new(Full::from("late"))
    })
    .await;
    let mut mesh = Mesh::new(&backend(&[web.address]), RouteTable::default());
    let mut stream = mesh.connect("shop", &Caller::new(0));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("late"), "{answer}");
}
