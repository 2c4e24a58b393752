//! What policies say of how requests are forwarded.

use http::header;
use resilience::outlier::OutlierConfig;

use super::*;
use crate::routing::{
    Abort, Balance, Carrier, Disturbance, HashKey, Instead, Limits, Part, RateRule, Rates, Retry, Rule, Session,
    Traffic, Trigger, Upstream, UpstreamConfig, Whose,
};

/// A rule for everything, with a policy.
pub(super) fn with(upstreams: &[SocketAddr], traffic: Traffic) -> RouteTable {
    table(Rule { traffic: Some(Arc::new(traffic)), ..forward(vec![share(&backend(upstreams), 1)]) })
}

fn using(config: UpstreamConfig) -> Traffic {
    Traffic { upstream: Some(Upstream::new(config).unwrap()), ..Traffic::default() }
}

fn retry(triggers: &[Trigger], retries: u32) -> Retry {
    let config = Retry::config(retries, Duration::from_millis(1), Duration::from_millis(2));
    let triggers = triggers.to_vec();
    let (statuses, pause, attempt) = (Vec::new(), Duration::ZERO, None);
    Retry { triggers, statuses, config, pause, attempt, careful: false, within: None }
}

fn trying(retry: Retry) -> Traffic {
    Traffic { retry: Some(Arc::new(retry)), ..Traffic::default() }
}

/// A backend that fails so often before it echoes the body; counts its requests.
async fn failing(times: usize, status: StatusCode) -> (harness::Upstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let upstream = upstream(move |request: Request<Incoming>| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
            let mut response = Response::new(Full::from(body));
            if number < times {
                *response.status_mut() = status;
            }
            response
        }
    })
    .await;
    (upstream, count)
}

fn post(body: &str) -> Request<Full<Bytes>> {
    Request::post("/").header("host", "h").body(Full::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn answers_that_a_policy_names_are_tried_again_with_the_same_body() {
    for (retries, status, told, sent) in [
        (2, StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK, 3),
        (1, StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE, 2),
        (2, StatusCode::NOT_FOUND, StatusCode::NOT_FOUND, 1),
    ] {
        let (upstream, count) = failing(2, status).await;
        let gateway = Gateway::start(with(&[upstream.address], trying(retry(&[Trigger::ServerError], retries)))).await;
        let answer = gateway.connect().await.send(post("pay")).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (told, "pay"), "{retries} {status}");
        assert_eq!(count.load(Ordering::SeqCst), sent, "{retries} {status}");
    }
    let (upstream, count) = failing(2, StatusCode::SERVICE_UNAVAILABLE).await;
    let gateway = Gateway::start(with(&[upstream.address], trying(retry(&[Trigger::ServerError], 2)))).await;
    let long = "x".repeat(100 << 10);
    let answer = gateway.connect().await.send(post(&long)).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "what is too long to be kept is sent once");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let upstream = upstream(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Response::new(Full::from("second"))
        }
    })
    .await;
    let retry = Retry { attempt: Some(Duration::from_millis(50)), ..retry(&[Trigger::Reset], 1) };
    let gateway = Gateway::start(with(&[upstream.address], trying(retry))).await;
    assert_eq!(gateway.get("/").await.body, "second");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_a_route_says_of_retries_comes_before_what_the_listener_says() {
    let (upstream, count) = failing(1, StatusCode::SERVICE_UNAVAILABLE).await;
    let traffic = Some(Arc::new(trying(retry(&[Trigger::ServerError], 5))));
    let inherited = Arc::new(crate::routing::Inherited::default());
    inherited.set(crate::routing::Policies { traffic, ..Default::default() });
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    let rule = |retry: Option<Retry>| {
        let shares = vec![share(&backend(&[upstream.address]), 1)];
        Rule { retry: retry.map(Arc::new), ..forward(shares) }
    };
    insert_below(&mut table, &inherited, "/own", rule(Some(retry(&[], 0))));
    insert_below(&mut table, &inherited, "/", rule(None));
    let gateway = Gateway::start(table).await;
    assert_eq!(gateway.get("/own").await.status, StatusCode::SERVICE_UNAVAILABLE);
    count.store(0, Ordering::SeqCst);
    assert_eq!(gateway.get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone() {
    let (good, (bad, count)) = (named("good").await, failing(usize::MAX, StatusCode::INTERNAL_SERVER_ERROR).await);
    let outlier = OutlierConfig { consecutive_5xx: Some(3), ..OutlierConfig::default() };
    let config = UpstreamConfig { balance: Balance::Turns, outlier: Some(outlier), ..UpstreamConfig::default() };
    let gateway = Gateway::start(with(&[good.address, bad.address], using(config))).await;
    for _ in 0..20 {
        gateway.get("/").await;
    }
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn clients_come_back_to_the_endpoint_of_their_key() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    let balance = Balance::Hash(HashKey::Headers([name("x-user")].into()));
    let config = UpstreamConfig { balance, ..UpstreamConfig::default() };
    let gateway = Gateway::start(with(&[a.address, b.address, c.address], using(config))).await;
    let mut seen = BTreeSet::new();
    for user in 0..20 {
        let ask = async || {
            let request = Request::get("/").header("host", "h").header("x-user", user.to_string());
            gateway.connect().await.send(request.body(Full::default()).unwrap()).await.unwrap().body
        };
        let first = ask().await;
        assert_eq!((ask().await, ask().await), (first.clone(), first.clone()));
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint_whatever_the_weights() {
    let (a, b) = (named("a").await, named("b").await);
    let (name, attributes, path) = ("s".into(), "".into(), "/".into());
    let carrier = Carrier::Cookie { name, permanent: false, attributes, path, secure_as_sent: false };
    let session = Some(Arc::new(Session { carrier, absolute: None, idle: None, keeps: false }));
    let backends = [backend(&[a.address]), backend(&[b.address])];
    let weighted = |weights: [u32; 2]| {
        let shares = backends.iter().zip(weights).map(|(backend, weight)| share(backend, weight));
        table(Rule { session: session.clone(), ..forward(shares.collect()) })
    };
    let gateway = Gateway::start(weighted([1, 0])).await;
    let first = gateway.get("/").await;
    assert_eq!(first.body, "a");
    let cookie = first.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    gateway.server.install(weighted([0, 1]));
    let ask = async |cookie: &str| {
        let request = Request::get("/").header("host", "h").header("cookie", cookie).body(Full::default()).unwrap();
        gateway.connect().await.send(request).await.unwrap()
    };
    let again = ask(&cookie).await;
    assert_eq!((&*again.body, again.headers.get(header::SET_COOKIE)), ("a", None));
    assert_eq!(ask("s=nonsense").await.body, "b");
    backends[0].set_endpoints(Vec::new());
    let moved = ask(&cookie).await;
    assert_eq!(moved.body, "b");
    assert!(moved.headers.contains_key(header::SET_COOKIE), "and is told where it went");
}

#[tokio::test]
async fn what_is_too_much_for_a_backend_is_refused_until_there_is_room() {
    let slow = Held::start().await;
    let limits = Limits { connections: Some(1), pending: Some(0), ..Limits::default() };
    let gateway =
        Gateway::start(with(&[slow.upstream.address], using(UpstreamConfig { limits, ..UpstreamConfig::default() })))
            .await;
    let mut first = gateway.connect().await;
    let mut pending = JoinSet::new();
    pending.spawn(async move { first.get("/").await });
    slow.entered().await;
    let refused = gateway.get("/").await;
    assert_eq!(
        (refused.status, &refused.headers["x-envoy-overloaded"]),
        (StatusCode::SERVICE_UNAVAILABLE, &value("true"))
    );
    slow.release();
    assert_eq!(pending.join_next().await.unwrap().unwrap().body, "slow");
    let mut second = gateway.connect().await;
    pending.spawn(async move { second.get("/").await });
    slow.entered().await;
    slow.release();
    assert_eq!(pending.join_next().await.unwrap().unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let upstream = named("in").await;
    let rule = RateRule::new(2, Duration::from_secs(3600), Vec::new(), Vec::new()).unwrap();
    let rates = vec![Arc::new(Rates::new(vec![rule], true))];
    let gateway = Gateway::start(with(&[upstream.address], Traffic { rates, ..Traffic::default() })).await;
    let mut client = gateway.connect().await;
    assert_eq!((client.get("/").await.body, client.get("/").await.body), ("in".to_owned(), "in".to_owned()));
    let refused = client.get("/").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers["x-envoy-ratelimited"], value("true"));
    let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn faults_on_purpose_and_other_answers_in_their_place() {
    let upstream = named("in").await;
    let abort = Some((Part::percent(100.0), Abort::Status(StatusCode::SERVICE_UNAVAILABLE)));
    let delay = Some((Part::percent(100.0), Duration::from_millis(30)));
    let instead = |whose| Instead {
        whose,
        statuses: vec![500..=599],
        status: Some(StatusCode::OK),
        headers: Vec::new(),
        body: Some(Bytes::from_static(b"{}")),
        kind: Some(value("application/json")),
        edits: HeaderEdits::default(),
        elsewhere: None,
    };
    let traffic = |abort, whose| Traffic {
        disturbance: Some(Disturbance { delay, abort }),
        instead: vec![instead(whose)],
        ..Traffic::default()
    };
    let gateway = Gateway::start(with(&[upstream.address], traffic(abort, Whose::Backends))).await;
    let began = std::time::Instant::now();
    assert_eq!(gateway.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() >= Duration::from_millis(30));
    gateway.server.install(with(&[upstream.address], traffic(abort, Whose::Own)));
    let other = gateway.get("/").await;
    assert_eq!((other.status, &*other.body, &other.headers["content-length"]), (StatusCode::OK, "{}", &value("2")));
    assert_eq!(other.headers["content-type"], value("application/json"));
    gateway.server.install(with(&[upstream.address], traffic(None, Whose::All)));
    assert_eq!(gateway.get("/").await.body, "in", "what went well stays");
    let (failing, _) = failing(usize::MAX, StatusCode::BAD_GATEWAY).await;
    gateway.server.install(with(&[failing.address], traffic(None, Whose::Backends)));
    assert_eq!(gateway.connect().await.send(post("long body")).await.unwrap().body, "{}");
}
