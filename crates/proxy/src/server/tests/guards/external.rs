//! Services that are asked.

use bytes::{BufMut as _, BytesMut};
use http_body_util::BodyExt as _;

use super::*;
use crate::routing::{AuthProtocol, AuthTarget, External, Failure, HttpAuth, Reading};

fn asking(service: SocketAddr, protocol: AuthProtocol) -> External {
    let mut share = share(&backend(&[service]), 1);
    if let (AuthProtocol::Grpc { .. }, crate::routing::Target::Service { http2, .. }) = (&protocol, &mut share.target) {
        *http2 = true;
    }
    External {
        shares: vec![share],
        protocol,
        headers: None,
        body_max: Some(16),
        timeout: Duration::from_secs(5),
        failure: Failure::Refuse(StatusCode::FORBIDDEN),
        recompute: false,
    }
}

fn http() -> AuthProtocol {
    AuthProtocol::Http(HttpAuth {
        method: None,
        target: AuthTarget::Below("/auth".into()),
        host: None,
        sets: Vec::new(),
        all_headers: false,
        to_backend: vec![name("x-user")],
        reading: Reading::Envoy,
    })
}

/// A service that lets those pass whose body is `please`.
async fn polite() -> Upstream {
    upstream(|request: Request<Incoming>| async move {
        let path = request.uri().to_string();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Full::from(format!("no {path}")));
        response.headers_mut().insert("x-user", value("ada"));
        if body != "please" {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        response
    })
    .await
}

async fn guarding(upstream: &Upstream, external: External) -> Gateway {
    let steps = vec![Guard::External(Arc::new(external))];
    Gateway::start(guarded(upstream, Guards { steps, ..Guards::default() })).await
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("/p?q").header("host", "h").header("x-user", "root").body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn a_service_decides_and_what_it_says_of_the_sender_is_told() {
    let (upstream, service) = (echo().await, polite().await);
    let gateway = guarding(&upstream, asking(service.address, http())).await;
    let mut client = gateway.connect().await;
    let answer = client.send(post("please")).await.unwrap();
    assert!(answer.body.contains("x-user: ada\n") && answer.body.ends_with("\nplease"), "{}", answer.body);
    let answer = client.send(post("now")).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (StatusCode::UNAUTHORIZED, "no /auth/p?q"));
    let answer = client.send(post("a body that is too long")).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn nobody_passes_unasked_unless_that_is_wanted() {
    let upstream = named("content").await;
    let silent = accepting(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let free = TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr().unwrap();
    for (service, failure, expected) in [
        (free, Failure::Refuse(StatusCode::FORBIDDEN), 403),
        (free, Failure::Refuse(StatusCode::BAD_GATEWAY), 502),
        (free, Failure::Pass, 200),
        (silent.address, Failure::Refuse(StatusCode::FORBIDDEN), 403),
    ] {
        let external = External { failure, timeout: Duration::from_millis(100), ..asking(service, http()) };
        let gateway = guarding(&upstream, external).await;
        assert_eq!(gateway.get("/").await.status.as_u16(), expected, "{failure:?}");
    }
}

/// A service over gRPC that answers everybody with these bytes as its message and this code.
async fn calls(message: &'static [u8], code: &'static str) -> Upstream {
    accepting(move |stream| async move {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            let question = request.into_body().collect().await.unwrap().to_bytes();
            assert!(question.windows(6).any(|bytes| bytes == b"please"), "{question:?}");
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(message.len() as u32);
            frame.put_slice(message);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", value(code));
            let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        let executor = hyper_util::rt::TokioExecutor::new();
        let _ =
            hyper::server::conn::http2::Builder::new(executor).serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

#[tokio::test]
async fn a_service_over_grpc_decides_too() {
    let upstream = echo().await;
    // ok_response: headers: header: key and value.
    let granted = b"\x1a\x11\x12\x0f\x0a\x0d\x0a\x06x-user\x12\x03eve";
    let denied = b"\x0a\x02\x08\x07\x12\x0b\x0a\x03\x08\xad\x03\x1a\x04late";
    for (message, code, status, body) in [
        (&granted[..], "0", 200, "x-user: eve\n"),
        (&denied[..], "0", 429, "late"),
        (&granted[..], "13", 403, ""),
        (&b"\xff"[..], "0", 403, ""),
    ] {
        let service = calls(message, code).await;
        let protocol = AuthProtocol::Grpc { authority: value("auth.shop:9000"), context: Vec::new() };
        let gateway = guarding(&upstream, asking(service.address, protocol)).await;
        let answer = gateway.connect().await.send(post("please")).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{message:?} {code}");
        assert!(answer.body.contains(body), "{}", answer.body);
    }
}
