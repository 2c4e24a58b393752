//! Other protocols than HTTP/1.1: HTTP/2 and gRPC to backends, bytes, datagrams.

use hyper_util::rt::TokioExecutor;
use tokio::net::UdpSocket;

use super::*;
use crate::routing::{Backend, Owner, Rank, Security, Share, StreamRule, Target, Wire};

/// A backend that speaks only HTTP/2 in clear, and echoes the body with a trailer.
async fn speaking_http_2() -> Upstream {
    accepting(|stream| async move {
        let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
            let told = format!("{:?} {} te={:?}\n", request.version(), request.uri(), request.headers().get("te"));
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", value("0"));
            let body = [told.as_bytes(), &body].concat();
            let frames = [
                Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(body))),
                Ok(hyper::body::Frame::trailers(trailers)),
            ];
            let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

#[tokio::test]
async fn backend_in_http_2_serves_clients_of_both_versions() {
    let upstream = speaking_http_2().await;
    let target = backend(&[upstream.address]);
    target.set_wire(Wire::new(true, Security::Plain));
    let gateway = Gateway::start(table(forward(vec![share(&target, 1)]))).await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let request = Request::post("/path?q=1").header("host", "shop.test").body(Full::from("content")).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.body, "HTTP/2.0 http://shop.test/path?q=1 te=None\ncontent");
    }
    target.set_wire(Wire::new(false, Security::Plain));
    assert_eq!(gateway.get("/").await.status, StatusCode::BAD_GATEWAY, "this backend knows no HTTP/1.1");
}

/// A client connection in HTTP/2.
async fn connect_http_2(address: SocketAddr) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, JoinSet<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    (sender, tasks)
}

fn call(path: &str) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://shop.test{path}"));
    let request = request.header("content-type", "application/grpc+proto").header("te", "trailers");
    request.body(Full::from("call")).unwrap()
}

#[tokio::test]
async fn calls_keep_their_trailers_and_failures_have_the_codes_of_grpc() {
    let upstream = speaking_http_2().await;
    let mut rule = forward(vec![Share {
        target: Target::Service { backend: backend(&[upstream.address]), http2: true },
        ..share(&backend(&[]), 1)
    }]);
    rule.filters.request.set.push((name("x-added"), value("1")));
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    insert(&mut table, None, "/shop.Cart", rule);
    insert(&mut table, None, "/shop.None", forward(Vec::new()));
    insert(&mut table, None, "/shop.Gone", forward(vec![share(&backend(&[]), 1)]));
    let gateway = Gateway::start(table).await;
    let (mut sender, _connection) = connect_http_2(gateway.address).await;
    let answer = sender.send_request(call("/shop.Cart/Add")).await.unwrap();
    let collected = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    assert_eq!(body, "HTTP/2.0 http://shop.test/shop.Cart/Add te=Some(\"trailers\")\ncall");
    for (path, code) in [("/shop.Other/Get", "12"), ("/shop.None/Get", "14"), ("/shop.Gone/Get", "14")] {
        let answer = sender.send_request(call(path)).await.unwrap();
        assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &value(code)), "{path}");
    }
}

/// A table of one port for bytes or datagrams.
fn stream_table(site: Site, protocol: Protocol, mode: Mode, shares: Vec<Share>) -> RouteTable {
    let mut table = RouteTable::default();
    table.listen(site, protocol, vec![config(None, mode)]);
    let owner = Owner { kind: "TCPRoute", name: "ns/route".into() };
    let spot = crate::routing::Spot { site, listener: None, host: None };
    table.insert_stream(&spot, Rank::default(), Arc::new(StreamRule::new(owner, shares)));
    table
}

/// A backend of bytes that says its name and then repeats what it gets.
pub(super) async fn repeating(name: &'static str) -> Upstream {
    accepting(move |mut stream| async move {
        stream.write_all(name.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

async fn exchange(stream: &mut TcpStream, say: &[u8], expected: &[u8]) {
    stream.write_all(say).await.unwrap();
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn bytes_are_carried_and_a_change_leaves_connections_alone() {
    let (a, b) = (repeating("a").await, repeating("b").await);
    let to = |address: SocketAddr| {
        stream_table(SITE, Protocol::Tcp, Mode::Stream(None), vec![share(&backend(&[address]), 1)])
    };
    let gateway = Gateway::start(to(a.address)).await;
    let mut old = TcpStream::connect(gateway.address).await.unwrap();
    exchange(&mut old, b"1", b"a1").await;
    gateway.server.install(to(b.address));
    let mut new = TcpStream::connect(gateway.address).await.unwrap();
    exchange(&mut new, b"2", b"b2").await;
    exchange(&mut old, b"3", b"3").await;
    old.shutdown().await.unwrap();
    assert_eq!(old.read(&mut [0; 8]).await.unwrap(), 0, "the end of one side is passed on");
    let gone = backend(&[]);
    gateway.server.install(stream_table(SITE, Protocol::Tcp, Mode::Stream(None), vec![share(&gone, 1)]));
    let mut refused = TcpStream::connect(gateway.address).await.unwrap();
    assert_eq!(refused.read(&mut [0; 8]).await.unwrap_or(0), 0, "without an endpoint the connection is closed");
}

/// A backend of datagrams that answers each with its name before it.
async fn answering(name: &'static str) -> (Arc<Backend>, JoinSet<()>) {
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    let target = backend(&[socket.local_addr().unwrap()]);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut datagram = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            let answer = [name.as_bytes(), &datagram[..length]].concat();
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (target, tasks)
}

#[tokio::test]
async fn datagrams_find_their_way_there_and_back() {
    let ((a, _a), (b, _b)) = (answering("a").await, answering("b").await);
    let site = Site { transport: Transport::Udp, ..SITE };
    let table = |target: &Arc<Backend>| stream_table(site, Protocol::Udp, Mode::Stream(None), vec![share(target, 1)]);
    let gateway = Gateway::start(table(&a)).await;
    let ask = async |socket: &UdpSocket, question: &str| {
        // On loopback none is lost, not even the first of a client.
        socket.send(question.as_bytes()).await.unwrap();
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let clients = [UdpSocket::bind((LOCAL, 0)).await.unwrap(), UdpSocket::bind((LOCAL, 0)).await.unwrap()];
    for (number, client) in clients.iter().enumerate() {
        client.connect(gateway.address).await.unwrap();
        assert_eq!(ask(client, &format!("q{number}")).await, format!("aq{number}"));
    }
    gateway.server.install(table(&b));
    assert_eq!(ask(&clients[0], "x").await, "ax", "a client keeps its endpoint");
    // Its endpoint is gone: the next datagram goes by the table.
    a.set_endpoints(Vec::new());
    assert_eq!(ask(&clients[0], "y").await, "by");
    let late = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    late.connect(gateway.address).await.unwrap();
    assert_eq!(ask(&late, "z").await, "bz");
}
