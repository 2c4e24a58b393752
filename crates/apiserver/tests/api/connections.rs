//! Sockets: TLS, client certificates, both HTTP versions, an orderly end; and the way to a node.

use std::{net::Ipv4Addr, sync::Arc};

use apiserver::{ApiServer, ClientKinds, NodeConnectError, NodeConnector, SharedTls, Tls};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Authority, KeyPair};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, MERGE, request};

/// A server on a socket of its own.
struct Socket {
    fixture: Fixture,
    authority: Authority,
    tls: SharedTls,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn chain(pair: &KeyPair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap())
}

/// Accepts the clients of an authority.
fn verifier(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(authority), Arc::new(ring::default_provider()));
    builder.allow_unauthenticated().build().unwrap()
}

/// TLS with a new certificate of an authority, for its clients.
fn accepting(authority: &Authority) -> Arc<ServerConfig> {
    let pair = authority.server("api", &["localhost".into()], &[], Timestamp::now()).unwrap();
    let (chain, key) = chain(&pair);
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier(authority))
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(tls)
}

impl Socket {
    async fn open() -> Self {
        let fixture = Fixture::new().await;
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), Timestamp::now()).unwrap();
        let tls = SharedTls::new(accepting(&authority));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server: Arc<ApiServer> = fixture.server.clone();
        let serving = tokio::spawn(server.serve(listener, tls.clone(), stop.clone()));
        Self { fixture, authority, tls, address, stop, serving, _directory: directory }
    }

    async fn connect(&self, protocol: &[u8], user: Option<(&str, &str)>) -> TokioIo<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&self.authority));
        let mut config = match user {
            None => builder.with_no_client_auth(),
            Some((user, group)) => {
                let pair = self.authority.client(user, Some(group), Timestamp::now()).unwrap();
                let (chain, key) = chain(&pair);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }
}

fn get(path: &str, version: Version) -> Request<Full<Bytes>> {
    let uri = if version == Version::HTTP_2 { format!("https://localhost{path}") } else { path.to_owned() };
    Request::builder().uri(uri).version(version).header("host", "localhost").body(Full::default()).unwrap()
}

async fn body<B: http_body::Body>(response: Response<B>) -> Value
where
    B::Error: std::fmt::Debug,
{
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn certificates_name_the_user_over_both_http_versions() {
    let socket = Socket::open().await;
    let io = socket.connect(b"h2", Some(("alice", "system:masters"))).await;
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driving = tokio::spawn(connection);
    let answer = client.send_request(get("/api/v1/namespaces", Version::HTTP_2)).await.unwrap();
    assert_eq!(body(answer).await["items"].as_array().unwrap().len(), 4);
    driving.abort();

    let io = socket.connect(b"http/1.1", Some(("bob", "nobodies"))).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driving = tokio::spawn(connection);
    let answer = client.send_request(get("/api/v1/namespaces", Version::HTTP_11)).await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(body(answer).await["message"].as_str().unwrap().contains("User \"bob\" cannot list"));
    driving.abort();

    let io = socket.connect(b"http/1.1", None).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driving = tokio::spawn(connection);
    assert_eq!(client.send_request(get("/readyz", Version::HTTP_11)).await.unwrap().status(), 200);
    assert_eq!(client.send_request(get("/api", Version::HTTP_11)).await.unwrap().status(), 401);
    driving.abort();
}

#[tokio::test]
async fn what_is_replaced_serves_new_connections_while_open_ones_go_on() {
    let mut socket = Socket::open().await;
    let shown = |io: &TokioIo<TlsStream<TcpStream>>| io.inner().get_ref().1.peer_certificates().unwrap()[0].clone();
    let io = socket.connect(b"http/1.1", Some(("alice", "system:masters"))).await;
    let before = shown(&io);
    let (mut old, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driving_old = tokio::spawn(connection);
    let directory = tempfile::tempdir().unwrap();
    socket.authority = Authority::load_or_create(directory.path(), Timestamp::now()).unwrap();
    socket.tls.replace(accepting(&socket.authority));
    // from now on this client trusts, and is trusted by, the new root only
    let io = socket.connect(b"http/1.1", Some(("bob", "system:masters"))).await;
    assert_ne!(shown(&io), before);
    let (mut new, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driving_new = tokio::spawn(connection);
    for client in [&mut old, &mut new] {
        assert_eq!(client.send_request(get("/api", Version::HTTP_11)).await.unwrap().status(), 200);
    }
    // whose root is taken away is nobody any more, on an open connection too
    let kinds = ClientKinds { clients: verifier(&socket.authority), front_proxies: verifier(&socket.authority) };
    socket.tls.replace(Tls { config: accepting(&socket.authority), kinds: Some(kinds) });
    for _ in 0..2 {
        for (client, status) in [(&mut old, 401), (&mut new, 200)] {
            let answer = client.send_request(get("/api", Version::HTTP_11)).await.unwrap();
            assert_eq!(answer.status(), status);
            body(answer).await;
        }
    }
    driving_old.abort();
    driving_new.abort();
}

#[tokio::test]
async fn stopping_ends_watches_and_then_the_server() {
    let socket = Socket::open().await;
    let io = socket.connect(b"h2", Some(("alice", "system:masters"))).await;
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driving = tokio::spawn(connection);
    let path = "/api/v1/namespaces?watch=1&allowWatchBookmarks=true";
    let watch = client.send_request(get(path, Version::HTTP_2)).await.unwrap();
    assert_eq!(watch.status(), 200);
    socket.stop.cancel();
    let text = watch.into_body().collect().await.unwrap().to_bytes();
    let last = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(last).unwrap()["type"], "BOOKMARK");
    drop(client);
    socket.serving.await.unwrap();
    driving.abort();
}

/// A node that remembers what it was asked, and echoes what is sent over an upgraded connection.
#[derive(Default)]
struct Node {
    asked: Mutex<Vec<String>>,
}

impl NodeConnector for Node {
    fn call(
        &self,
        node: &str,
        mut request: Request<apiserver::Body>,
    ) -> BoxFuture<'static, Result<Response<apiserver::Body>, NodeConnectError>> {
        self.asked.lock().push(format!("{node} {}", request.uri()));
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        Box::pin(async move {
            let Some(upgrade) = upgrade else { return Ok(Response::new(apiserver::full("a line\n"))) };
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
                stream.flush().await.unwrap();
            });
            let mut response = Response::new(apiserver::empty());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            Ok(response)
        })
    }
}

async fn scheduled(fixture: &Fixture) -> Arc<Node> {
    let node = Arc::new(Node::default());
    fixture.server.set_node_connector(node.clone());
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    fixture.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    node
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let fixture = Fixture::new().await;
    let node = scheduled(&fixture).await;
    let path = "/api/v1/namespaces/default/pods/p/log?follow=true&tailLines=5";
    let answer = fixture.send(request(Method::GET, path, "", "")).await;
    assert_eq!(answer.body, "a line\n");
    assert_eq!(*node.asked.lock(), ["n1 /containerLogs/default/p/c?follow=true&tailLines=5"]);
    let unknown = "/api/v1/namespaces/default/pods/p/log?container=x";
    assert_eq!(fixture.get(unknown).await.failed().2, "container x is not valid for pod p");
    assert_eq!(fixture.get("/api/v1/namespaces/default/pods/q/log").await.failed().0, 404);
}

#[tokio::test]
async fn an_upgraded_connection_reaches_the_node() {
    let socket = Socket::open().await;
    let node = scheduled(&socket.fixture).await;
    let io = socket.connect(b"http/1.1", Some(("alice", "system:masters"))).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driving = tokio::spawn(connection.with_upgrades());
    let mut request = get("/api/v1/namespaces/default/pods/p/exec?command=ls&stdin=true", Version::HTTP_11);
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    assert_eq!(*node.asked.lock(), ["n1 /exec/default/p/c?input=1&command=ls"]);
    driving.abort();
}

/// What comes over a WebSocket, as it was received, and the protocol that was agreed on.
async fn messages(socket: &Socket, path: &str, protocols: &str, count: usize) -> (Option<String>, Vec<Message>) {
    let io = socket.connect(b"http/1.1", Some(("alice", "system:masters"))).await;
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let (stream, answer) = tokio_tungstenite::client_async(request, io.into_inner()).await.unwrap();
    let agreed = answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
    (agreed, stream.take(count).map(Result::unwrap).collect().await)
}

#[tokio::test]
async fn logs_come_over_a_websocket() {
    let socket = Socket::open().await;
    let node = scheduled(&socket.fixture).await;
    let path = "/api/v1/namespaces/default/pods/p/log?container=c";
    let (agreed, received) = messages(&socket, path, "binary.k8s.io", 3).await;
    let bytes = |text: &'static str| Message::Binary(text.into());
    assert_eq!((agreed.as_deref(), &received[..2]), (Some("binary.k8s.io"), &[bytes(""), bytes("a line\n")][..]));
    assert!(received[2].is_close());
    let (agreed, received) = messages(&socket, path, "base64.binary.k8s.io", 2).await;
    assert_eq!(
        (agreed.as_deref(), &received[1]),
        (Some("base64.binary.k8s.io"), &Message::Text("YSBsaW5lCg==".into()))
    );
    assert_eq!(*node.asked.lock(), ["n1 /containerLogs/default/p/c?container=c"; 2]);
}

#[tokio::test]
async fn a_watch_over_a_websocket_is_a_message_per_event() {
    let socket = Socket::open().await;
    socket.fixture.post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "a"}})).await.ok();
    let path = "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Da";
    let (agreed, received) = messages(&socket, path, "", 1).await;
    let event: Value = serde_json::from_str(received[0].to_text().unwrap()).unwrap();
    assert_eq!((agreed, &event["type"], &event["object"]["metadata"]["name"]), (None, &json!("ADDED"), &json!("a")));
    // a browser insists on one of its protocols; the token is none
    let named = "base64url.bearer.authorization.k8s.io.dG9rZW4, base64.binary.k8s.io";
    assert_eq!(messages(&socket, path, named, 1).await.0.as_deref(), Some("base64.binary.k8s.io"));
}

#[tokio::test]
async fn what_cannot_come_over_a_websocket_is_answered_without() {
    let socket = Socket::open().await;
    scheduled(&socket.fixture).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    for (path, protocol, status) in [
        (log, "v4.channel.k8s.io", 403),
        ("/api/v1/namespaces/default/pods/q/log", "binary.k8s.io", 404),
        ("/api/v1/configmaps?watch=true&labelSelector=%21%21", "", 400),
    ] {
        let io = socket.connect(b"http/1.1", Some(("alice", "system:masters"))).await;
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let driving = tokio::spawn(connection);
        let mut request = get(path, Version::HTTP_11);
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
        for (name, value) in headers.into_iter().chain([("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]) {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(body(answer).await["kind"], "Status");
        driving.abort();
    }
}

#[tokio::test]
async fn what_is_proxied_to_a_node_keeps_its_method_and_path() {
    let fixture = Fixture::new().await;
    let node = scheduled(&fixture).await;
    fixture.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.ok();
    let answer = fixture.get("/api/v1/nodes/n1/proxy/logs/a%20b/?lines=3").await;
    assert_eq!(answer.body, "a line\n");
    fixture.send(request(Method::POST, "/api/v1/nodes/https:n1:10250/proxy/run", "text/plain", "x")).await.ok();
    assert_eq!(*node.asked.lock(), ["n1 /logs/a%20b/?lines=3", "n1 /run"]);
    assert_eq!(fixture.get("/api/v1/nodes/n2/proxy/healthz").await.failed().0, 404);
    let (code, _, message) = fixture.get("/api/v1/nodes/a:b:c:d/proxy/healthz").await.failed();
    assert_eq!((code, message.as_str()), (400, "invalid node request \"a:b:c:d\""));
    assert_eq!(fixture.get("/api/v1/namespaces/default/configmaps/a/proxy/x").await.failed().0, 404);
}

#[tokio::test]
async fn a_proxied_root_is_a_folder_and_backends_have_to_be_there() {
    let fixture = Fixture::new().await;
    scheduled(&fixture).await;
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    fixture.post(SERVICES, &service).await.ok();
    let (code, ..) = fixture.get(&format!("{SERVICES}/s:80/proxy/")).await.failed();
    assert_eq!(code, 404, "its endpoints are not there");
    fixture.post("/api/v1/namespaces/default/endpoints", &json!({"metadata": {"name": "s"}})).await.ok();
    let (code, _, message) = fixture.get(&format!("{SERVICES}/s:80/proxy/")).await.failed();
    assert_eq!((code, message.as_str()), (503, "no endpoints available for service \"s\""));
    let (_, _, message) = fixture.get(&format!("{SERVICES}/s:81/proxy/")).await.failed();
    assert_eq!(message, "no service port 81 found for service \"s\"");
    let (code, _, message) = fixture.get("/api/v1/namespaces/default/pods/p/proxy/").await.failed();
    assert_eq!((code, message.as_str()), (400, "address not allowed"), "the pod has no address yet");
    let status = json!({"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]}});
    fixture.patch("/api/v1/namespaces/default/pods/p/status", MERGE, &status).await.ok();
    let moved = fixture.get("/api/v1/namespaces/default/pods/p/proxy?a=b").await;
    assert_eq!(moved.status, 301);
    assert_eq!(moved.headers["location"], "/api/v1/namespaces/default/pods/p/proxy/?a=b");
}
