//! What requests have to pass.

use super::*;
use crate::routing::{
    ApiKeyAuth, ApiKeys, Authorization, BasicAuth, Cors, Entry, Guard, Guards, Inherited, KeyPlace, Network, Owner,
    Passwords, Policies, Rank, RequestMatch, Rule, StreamRule,
};

mod external;
mod tokens;

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

fn keys(places: Vec<KeyPlace>) -> Guard {
    let mut keys = ApiKeys::default();
    keys.insert(value("ada"), b"key-1");
    let (keys, forward) = (Arc::new(keys), Some(name("x-client")));
    Guard::ApiKey(Arc::new(ApiKeyAuth { keys, places, forward, sanitize: true }))
}

fn passwords() -> Guard {
    let passwords = Passwords::parse("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=").unwrap();
    Guard::Basic(Arc::new(BasicAuth::new(Arc::new(passwords)).forwarding(Some(name("x-user")))))
}

#[tokio::test]
async fn every_step_is_taken_and_what_they_change_is_forwarded() {
    let upstream = echo().await;
    let inside = Guard::Authorization(Arc::new(Authorization::only(vec![Network::parse("127.0.0.0/8").unwrap()])));
    let steps = vec![keys(vec![KeyPlace::Parameter("key".into())]), passwords(), inside];
    let gateway = Gateway::start(guarded(&upstream, Guards { cors: cors(), steps })).await;
    let mut client = gateway.connect().await;
    let request = |uri: &str| {
        let request =
            Request::get(uri).header("host", "h").header("x-client", "root").header("origin", "https://a.com");
        request.header("authorization", "Basic Ym9iOnBhc3N3b3Jk").body(Full::default()).unwrap()
    };
    let answer = client.send(request("/p?a=1&key=key-1")).await.unwrap();
    assert_eq!(
        (answer.status, &answer.headers["access-control-allow-origin"]),
        (StatusCode::OK, &value("https://a.com"))
    );
    for line in ["GET /p?a=1\n", "x-client: ada\n", "x-user: bob\n"] {
        assert!(answer.body.contains(line), "{line}{}", answer.body);
    }
    let answer = client.send(request("/p?key=key-2")).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (StatusCode::UNAUTHORIZED, "Client authentication failed."));
    assert_eq!(
        (&answer.headers["content-type"], &answer.headers["access-control-allow-origin"]),
        (&value("text/plain"), &value("https://a.com"))
    );
    let mut without = request("/p?key=key-1");
    without.headers_mut().remove("authorization");
    let answer = client.send(without).await.unwrap();
    assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"http://h/p\"");
}

#[tokio::test]
async fn a_call_that_does_not_pass_is_told_so_in_its_own_way() {
    let upstream = named("content").await;
    let gateway = Gateway::start(guarded(&upstream, Guards { steps: vec![passwords()], ..Guards::default() })).await;
    let request = Request::post("/s/m").header("host", "h").header("content-type", "application/grpc");
    let answer = gateway.connect().await.send(request.body(Full::default()).unwrap()).await.unwrap();
    let told = (answer.status, &answer.headers["grpc-status"], &answer.headers["grpc-message"], &*answer.body);
    let message = value("User authentication failed. Missing username and password.");
    assert_eq!(told, (StatusCode::OK, &value("16"), &message, ""));
}

#[tokio::test]
async fn connections_are_carried_only_for_those_who_may() {
    let upstream = accepting(|mut stream| async move {
        let _ = stream.write_all(b"hello").await;
    })
    .await;
    let target = backend(&[upstream.address]);
    let owner = Owner { kind: "TCPRoute", name: "ns/route".into() };
    let here = || vec![Network::parse("127.0.0.0/8").unwrap()];
    let guards = |authorization| {
        Some(Arc::new(Guards { steps: vec![Guard::Authorization(Arc::new(authorization))], ..Guards::default() }))
    };
    let policies = |authorization| Policies { guards: guards(authorization), ..Policies::default() };
    for (own, inherited, expected) in [
        (None, Policies::default(), "hello"),
        (guards(Authorization::only(here())), Policies::default(), "hello"),
        (guards(Authorization::except(here())), Policies::default(), ""),
        (None, policies(Authorization::except(here())), ""),
        (guards(Authorization::only(here())), policies(Authorization::except(here())), "hello"),
    ] {
        let cell = Arc::new(Inherited::default());
        cell.set(inherited);
        let mut table = listening(Protocol::Tcp, vec![config(None, Mode::Stream(None))]);
        let rule = StreamRule {
            guards: own,
            inherited: Some(cell),
            ..StreamRule::new(owner.clone(), vec![share(&target, 1)])
        };
        table.insert_stream(&spot(None), Rank::default(), Arc::new(rule));
        let gateway = Gateway::start(table).await;
        let mut text = String::new();
        // One that may not is closed, or reset.
        let _ = TcpStream::connect(gateway.address).await.unwrap().read_to_string(&mut text).await;
        assert_eq!(text, expected);
    }
}
