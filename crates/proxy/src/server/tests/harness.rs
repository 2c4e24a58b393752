//! A gateway on ports of the kernel's choice, backends that answer as told, and a client.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Sockets,
    routing::{
        Action, Backend, Entry, Filters, Inherited, ListenerConfig, Mode, Owner, Place, Protocol, Rank, RequestMatch,
        RouteTable, Rule, Share, Site, Spot, Transport,
    },
    server::{Server, ServerConfig},
};

pub(super) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The one port of the tables in these tests; the real one is the kernel's choice.
pub(super) const PORT: u16 = 80;

/// A running gateway; dropping it ends it.
pub(super) struct Gateway {
    pub(super) server: Server,
    pub(super) stop: CancellationToken,
    pub(super) address: SocketAddr,
    pub(super) tasks: JoinSet<()>,
}

impl Gateway {
    pub(super) async fn start(table: RouteTable) -> Gateway {
        let server = Server::new(ServerConfig {
            addresses: vec![LOCAL],
            ephemeral: true,
            sockets: Sockets::default(),
            threads: 1,
        });
        let stop = CancellationToken::new();
        let mut bindings = server.bindings();
        server.install(table);
        let mut tasks = JoinSet::new();
        let (running, stopped) = (server.clone(), stop.clone());
        tasks.spawn(async move { running.run(stopped).await });
        let bound = bindings.wait_for(|b| !b.is_empty()).await.unwrap().clone();
        let address = bound.values().next().unwrap().clone().unwrap();
        Gateway { server, stop, address, tasks }
    }

    pub(super) async fn connect(&self) -> Client {
        Client::over(TcpStream::connect(self.address).await.unwrap()).await
    }

    /// One request on a connection of its own.
    pub(super) async fn get(&self, target: &str) -> Answer {
        self.connect().await.get(target).await
    }
}

/// A client connection.
pub(super) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    _tasks: JoinSet<()>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Client {
    pub(super) async fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> Client {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Client { sender, _tasks: tasks }
    }

    pub(super) async fn get(&mut self, target: &str) -> Answer {
        self.send(Request::get(target).header("host", "h").body(Full::default()).unwrap()).await.unwrap()
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub(super) async fn raw(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }
}

/// A backend; dropping it closes its listener and its connections.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<()>,
}

/// A backend that answers with `answer`.
pub(super) async fn upstream<F, A>(answer: F) -> Upstream
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    accepting(move |stream| {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    })
    .await
}

/// A backend that holds every request until it is told to answer "slow".
pub(super) struct Held {
    pub(super) upstream: Upstream,
    entered: Arc<Semaphore>,
    release: Arc<Notify>,
}

impl Held {
    pub(super) async fn start() -> Held {
        let (entered, release) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let (inside, go) = (Arc::clone(&entered), Arc::clone(&release));
        let upstream = upstream(move |_| {
            let (inside, go) = (Arc::clone(&inside), Arc::clone(&go));
            async move {
                let released = go.notified();
                inside.add_permits(1);
                released.await;
                Response::new(Full::from("slow"))
            }
        })
        .await;
        Held { upstream, entered, release }
    }

    /// Waits until one more request has come.
    pub(super) async fn entered(&self) {
        self.entered.acquire().await.unwrap().forget();
    }

    /// Answers the one request that it holds, or those that it does.
    pub(super) fn release(&self) {
        self.release.notify_waiters();
    }
}

/// A backend that does `serve` with each connection.
pub(super) async fn accepting<S, F>(mut serve: S) -> Upstream
where
    S: FnMut(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(serve(stream));
        }
    });
    Upstream { address, _tasks: tasks }
}

/// A backend that answers with its name.
pub(super) async fn named(name: &'static str) -> Upstream {
    upstream(move |_| async move { Response::new(Full::from(name)) }).await
}

/// A backend that answers with the request's line, headers and body.
pub(super) async fn echo() -> Upstream {
    upstream(|request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let mut text = format!("{} {}\n", parts.method, parts.uri);
        for (name, value) in &parts.headers {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        text += &format!("\n{}", String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()));
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert("x-backend", "echo".parse().unwrap());
        response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        response
    })
    .await
}

pub(super) fn backend(addresses: &[SocketAddr]) -> Arc<Backend> {
    let backend = Backend::new("ns/svc:80");
    backend.set_endpoints(addresses.to_vec());
    backend
}

pub(super) fn share(backend: &Arc<Backend>, weight: u32) -> Share {
    Share::new(Arc::clone(backend), weight)
}

pub(super) fn forward(shares: Vec<Share>) -> Rule {
    rule(shares, Filters::default())
}

pub(super) fn rule(shares: Vec<Share>, filters: Filters) -> Rule {
    let owner = Owner { kind: "HTTPRoute", name: "ns/route".into() };
    Rule { filters, ..Rule::new(owner, Action::Forward(shares)) }
}

pub(super) const SITE: Site = Site { place: Place::Shared, port: PORT, transport: Transport::Tcp };

pub(super) fn config(hostname: Option<&str>, mode: Mode) -> ListenerConfig {
    ListenerConfig::new(hostname.map(Into::into), mode)
}

/// A table of one port with these listeners.
pub(super) fn listening(protocol: Protocol, listeners: Vec<ListenerConfig>) -> RouteTable {
    let mut table = RouteTable::default();
    table.listen(SITE, protocol, listeners);
    table
}

/// Adds a rule for a path behind the listener without a hostname, whose policies say this.
pub(super) fn insert_below(table: &mut RouteTable, inherited: &Arc<Inherited>, path: &str, rule: Rule) {
    let entry = Entry::new(RequestMatch::prefix(path), Rank::default(), Arc::new(rule));
    table.insert(&spot(None), Arc::new(Entry { inherited: Some(Arc::clone(inherited)), ..entry }));
}

/// Adds a rule for a path behind a listener.
pub(super) fn insert(table: &mut RouteTable, listener: Option<&str>, path: &str, rule: Rule) {
    let entry = Entry::new(RequestMatch::prefix(path), Rank::default(), Arc::new(rule));
    table.insert(&spot(listener), Arc::new(entry));
}

pub(super) fn spot(listener: Option<&str>) -> Spot {
    Spot { site: SITE, listener: listener.map(Into::into), host: None }
}

/// A table with one rule for every request.
pub(super) fn table(rule: Rule) -> RouteTable {
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    insert(&mut table, None, "/", rule);
    table
}

/// A table that sends everything to one backend.
pub(super) fn to(upstream: &Upstream) -> RouteTable {
    table(forward(vec![share(&backend(&[upstream.address]), 1)]))
}
