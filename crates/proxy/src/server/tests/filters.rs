//! Filters that take more than changed headers: copies and cross-origin requests.

use tokio::sync::mpsc;

use super::*;
use crate::routing::{Backend, Cors, Mirror};

/// A backend that tells the line and the body of what it gets.
async fn listening_backend() -> (Upstream, mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let upstream = upstream(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes());
            let body = body.map_or_else(|_| "broken off".into(), |body| String::from_utf8_lossy(&body).into_owned());
            let _ = sender.send(format!("{} {} {body}", parts.method, parts.uri));
            Response::new(Full::from("unseen"))
        }
    })
    .await;
    (upstream, receiver)
}

fn mirror(backend: &Arc<Backend>, part: (u32, u32)) -> Mirror {
    Mirror::new(Arc::clone(backend), false, part)
}

#[tokio::test]
async fn copies_go_to_every_mirror_and_nobody_waits_for_their_answers() {
    // It reads what it is sent: one that answers and closes before would break off the large one.
    let main = upstream(|request: Request<Incoming>| async {
        let read = http_body_util::BodyExt::collect(request.into_body()).await;
        Response::new(Full::from(if read.is_ok() { "main" } else { "broken off" }))
    })
    .await;
    let (first, mut firsts) = listening_backend().await;
    let (second, mut seconds) = listening_backend().await;
    let silent = upstream(|_| std::future::pending()).await;
    let mirrors = [&first, &second, &silent].map(|upstream| mirror(&backend(&[upstream.address]), (1, 1)));
    let none = mirror(&backend(&[first.address]), (0, 100));
    let filters = Filters { mirrors: mirrors.into_iter().chain([none]).collect(), ..Filters::default() };
    let rule = rule(vec![share(&backend(&[main.address]), 1)], filters);
    let gateway = Gateway::start(table(rule)).await;
    let mut client = gateway.connect().await;
    let large = "x".repeat(300 << 10);
    for (method, body) in
        [(Method::GET, ""), (Method::POST, "content"), (Method::PUT, "content"), (Method::POST, &large)]
    {
        let request = Request::builder().method(&method).uri("/copy?q=1").header("host", "h");
        let answer = client.send(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
        assert_eq!(answer.body, "main");
        let expected = format!("{method} /copy?q=1 {body}");
        assert!(firsts.recv().await.unwrap() == expected && seconds.recv().await.unwrap() == expected, "{method}");
    }
    assert!(firsts.try_recv().is_err(), "the mirror of no part gets nothing");
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_they_may() {
    let plain = upstream(|_| async {
        let mut response = Response::new(Full::from("content"));
        response.headers_mut().insert("access-control-allow-origin", value("https://backend.says"));
        response
    })
    .await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cors = Cors::new(&names(&["https://*.a.com"]), &names(&["GET"]), &names(&["x-1"]), &names(&["x-2"]));
    let filters = Filters { cors: Some(Arc::new(cors)), ..Filters::default() };
    let gateway = Gateway::start(table(rule(vec![share(&backend(&[plain.address]), 1)], filters))).await;
    let mut client = gateway.connect().await;
    let mut send = async |method: Method, origin: &'static str, asked: bool| {
        let mut request = Request::builder().method(method).uri("/").header("host", "h").header("origin", origin);
        if asked {
            request = request.header("access-control-request-method", "GET");
        }
        client.send(request.body(Full::default()).unwrap()).await.unwrap()
    };
    let preflight = send(Method::OPTIONS, "https://x.a.com", true).await;
    assert_eq!((preflight.status, preflight.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(preflight.headers["access-control-allow-methods"], "GET");
    let refused = send(Method::OPTIONS, "https://b.com", true).await;
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    for (origin, allowed) in [("https://x.a.com", Some("https://x.a.com")), ("https://b.com", None)] {
        let answer = send(Method::GET, origin, false).await;
        let told = answer.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!((answer.body.as_str(), told), ("content", allowed));
    }
    let plain = send(Method::OPTIONS, "https://x.a.com", false).await;
    assert_eq!(plain.body, "content", "a request like any other");
}
