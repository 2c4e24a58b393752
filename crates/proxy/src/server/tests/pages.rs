//! Pages in place of errors.

use super::*;
use crate::routing::{ErrorPages, Rule, Traffic};

fn pages(backend: &Upstream, statuses: &[StatusCode], vacant: bool) -> Option<Arc<ErrorPages>> {
    let about = vec![(name("x-service-name"), value("web"))];
    let backend = harness::backend(&[backend.address]);
    Some(Arc::new(ErrorPages { statuses: statuses.to_vec(), vacant, backend, about }))
}

/// A backend that answers every request with this.
async fn failing(status: StatusCode) -> Upstream {
    upstream(move |_| async move {
        let mut answer = Response::new(Full::from("broken"));
        *answer.status_mut() = status;
        answer
    })
    .await
}

#[tokio::test]
async fn an_error_is_answered_by_who_has_the_page_and_is_told_of_it() {
    let (page, broken) = (echo().await, failing(StatusCode::BAD_GATEWAY).await);
    let shares = vec![share(&backend(&[broken.address]), 1)];
    let rule = Rule { pages: pages(&page, &[StatusCode::BAD_GATEWAY], false), ..forward(shares) };
    let gateway = Gateway::start(table(rule)).await;
    let request = Request::post("/a?b=c").header("host", "h").header("accept", "text/html").header("x-request-id", "7");
    let answer = gateway.connect().await.send(request.body(Full::from("body")).unwrap()).await.unwrap();
    assert_eq!((answer.status, &answer.headers["x-backend"]), (StatusCode::OK, &value("echo")));
    let mut lines: Vec<_> = answer.body.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /",
            "accept: text/html",
            "host: h",
            "x-code: 502",
            "x-format: text/html",
            "x-original-uri: /a?b=c",
            "x-request-id: 7",
            "x-service-name: web",
        ]
    );
}

#[tokio::test]
async fn errors_of_the_gateway_have_pages_too_and_other_answers_none() {
    let (page, fine) = (named("page").await, named("in").await);
    let traffic = Some(Arc::new(Traffic { body_max: Some(1), ..Traffic::default() }));
    let long = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::SERVICE_UNAVAILABLE];
    let rule = |backend: &Arc<crate::routing::Backend>| Rule {
        pages: pages(&page, &long, false),
        traffic: traffic.clone(),
        ..forward(vec![share(backend, 1)])
    };
    let gateway = Gateway::start(table(rule(&backend(&[fine.address])))).await;
    assert_eq!(gateway.get("/").await.body, "in");
    let request = Request::post("/").header("host", "h").body(Full::from("body")).unwrap();
    assert_eq!(gateway.connect().await.send(request).await.unwrap().body, "page");
    gateway.server.install(table(rule(&backend(&[]))));
    assert_eq!(gateway.get("/").await.body, "page", "nobody is there: 503");
    let (gone, broken) = (named("gone").await.address, failing(StatusCode::NOT_FOUND).await);
    let nobody = Arc::new(ErrorPages {
        statuses: vec![StatusCode::NOT_FOUND],
        vacant: false,
        backend: backend(&[gone]),
        about: Vec::new(),
    });
    gateway.server.install(table(Rule { pages: Some(nobody), ..forward(vec![share(&backend(&[broken.address]), 1)]) }));
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::NOT_FOUND, "broken"), "without a page the error is told");
}

#[tokio::test]
async fn who_stands_in_for_a_backend_without_endpoints_hears_what_was_asked_for() {
    let (page, fine) = (echo().await, named("in").await);
    let rule = |endpoints: &[SocketAddr]| Rule {
        pages: pages(&page, &[], true),
        ..forward(vec![share(&backend(endpoints), 1)])
    };
    let gateway = Gateway::start(table(rule(&[]))).await;
    let answer = gateway.get("/a?b").await;
    assert!(answer.body.starts_with("GET /a?b\n") && answer.body.contains("\nx-code: 503\n"), "{}", answer.body);
    gateway.server.install(table(rule(&[fine.address])));
    assert_eq!(gateway.get("/").await.body, "in");
}
