//! What requests have to pass.

use super::*;
use crate::routing::{Cors, Guard, Guards, Inherited, Policies, Rule};

fn guarded(upstream: &Upstream, guards: Guards) -> RouteTable {
    table(Rule { guards: Some(Arc::new(guards)), ..forward(vec![share(&backend(&[upstream.address]), 1)]) })
}

fn cors() -> Option<Arc<Cors>> {
    let names = |name: &str| vec![name.to_owned()];
    Some(Arc::new(Cors::new(&names("https://a.com"), &names("GET"), &[], &[])))
}

fn from(method: Method, origin: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("/").header("host", "h").header("origin", origin);
    request.header("access-control-request-method", "GET").body(Full::default()).unwrap()
}

#[tokio::test]
async fn questions_of_browsers_are_answered_before_anything_is_asked() {
    let upstream = named("content").await;
    let steps = vec![Guard::Refuse(StatusCode::FORBIDDEN)];
    let gateway = Gateway::start(guarded(&upstream, Guards { cors: cors(), steps })).await;
    let mut client = gateway.connect().await;
    let answer = client.send(from(Method::OPTIONS, "https://a.com")).await.unwrap();
    assert_eq!((answer.status, &answer.headers["access-control-allow-methods"]), (StatusCode::OK, &value("GET")));
    let answer = client.send(from(Method::GET, "https://a.com")).await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.com", "the page may read why");
}

#[tokio::test]
async fn what_a_listener_says_is_followed_at_once_unless_the_rule_says_otherwise() {
    let upstream = named("content").await;
    let inherited = Arc::new(Inherited::default());
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    let target = backend(&[upstream.address]);
    let own = Rule { guards: Some(Arc::default()), ..forward(vec![share(&target, 1)]) };
    for (path, rule) in [("/plain", forward(vec![share(&target, 1)])), ("/own", own)] {
        insert_below(&mut table, &inherited, path, rule);
    }
    let gateway = Gateway::start(table).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.get("/plain").await.body, "content");
    let closed = Guards { steps: vec![Guard::Refuse(StatusCode::FORBIDDEN)], ..Guards::default() };
    inherited.set(Policies { guards: Some(Arc::new(closed)), ..Policies::default() });
    assert_eq!(client.get("/plain").await.status, StatusCode::FORBIDDEN);
    assert_eq!(client.get("/own").await.body, "content");
    inherited.set(Policies::default());
    assert_eq!(client.get("/plain").await.body, "content");
}
