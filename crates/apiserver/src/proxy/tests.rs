//! A backend on a socket of the test's own, and requests carried to it.

use http::Method;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A backend that says what it was asked, and echoes over an upgraded connection.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    if is_upgrade(request.headers()) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return Ok(response.body(body::empty())?);
    }
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let said = format!(
        "{} {} host={} for={} uri={} connection={}",
        request.method(),
        request.uri(),
        header("host"),
        header("x-forwarded-for"),
        header("x-forwarded-uri"),
        header("te"),
    );
    let body = request.into_body().collect().await?.to_bytes();
    let response = Response::builder().header("access-control-allow-origin", "*");
    let (response, text) = match said.split_whitespace().nth(1) {
        Some("/page") => (response.header("content-type", "text/html"), "<a href=\"/x\">x</a>".to_owned()),
        Some("/moved") => (response.status(302).header("location", "/there"), String::new()),
        _ => (response, format!("{said} body={}", String::from_utf8_lossy(&body))),
    };
    Ok(response.body(body::full(text))?)
}

async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades(),
            );
        }
    });
    address
}

const PREFIX: &str = "/api/v1/namespaces/d/pods/p/proxy";

async fn carry(address: SocketAddr, request: Request<Body>, uri: &str) -> Result<Response<Body>, ApiError> {
    let way = Forward {
        target: Target { scheme: Scheme::Http, address },
        uri: uri.parse().unwrap(),
        prefix: PREFIX.into(),
        peer: Some(IpAddr::from([192, 0, 2, 1])),
        tunnels: TaskTracker::new(),
        draining: CancellationToken::new(),
    };
    forward(request, way).await
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn method_path_body_and_host_reach_the_backend() {
    let address = backend().await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("https://api:6443/ignored")
        .header("te", "trailers")
        .body(body::full("hello"))
        .unwrap();
    let response = carry(address, request, "/a%20b?c=d").await.unwrap();
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let said = text(response).await;
    let wanted = format!("POST /a%20b?c=d host=api:6443 for=192.0.2.1 uri={PREFIX}/a%20b connection=- body=hello");
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn links_and_redirects_stay_behind_the_proxy() {
    let address = backend().await;
    let request = || Request::new(body::empty());
    let page = text(carry(address, request(), "/page").await.unwrap()).await;
    assert_eq!(page, format!("<a href=\"{PREFIX}/x\">x</a>"));
    let moved = carry(address, request(), "/moved").await.unwrap();
    assert_eq!(moved.status(), StatusCode::FOUND);
    assert_eq!(moved.headers()["location"], format!("{PREFIX}/there"));
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = carry(address, Request::new(body::empty()), "/").await.unwrap_err();
    assert_eq!((error.code, &*error.reason), (503, "ServiceUnavailable"));
    assert!(error.message.starts_with("error trying to reach service: "), "{}", error.message);
}

#[tokio::test]
async fn an_upgraded_connection_is_carried_both_ways() {
    let address = backend().await;
    let (ours, theirs) = tokio::io::duplex(1024);
    let proxy = service_fn(move |request: Request<Incoming>| async move {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        carry(address, request, "/ws").await.map_err(|error| error.message)
    });
    let serving = tokio::spawn(
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(theirs), proxy)
            .into_owned(),
    );
    let (mut client, connection) = http1::handshake::<_, Body>(TokioIo::new(ours)).await.unwrap();
    let driving = tokio::spawn(connection.with_upgrades());
    let request = Request::builder().header("connection", "Upgrade").header("upgrade", "echo").body(body::empty());
    let response = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "echo");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    driving.abort();
    serving.abort();
}
