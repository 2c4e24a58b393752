//! Tokens, and the servers of their keys.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::uri::PathAndQuery;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;
use crate::routing::{Jwt, KeyServer, KeySource, Lenience, Provider, RemoteKeys, TokenPlace};

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// A set with the keys of some seeds.
fn set(seeds: &[u8]) -> String {
    let key = |seed: &u8| {
        let x = URL_SAFE_NO_PAD.encode(pair(*seed).public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": seed.to_string(), "x": x})
    };
    json!({"keys": seeds.iter().map(key).collect::<Vec<_>>()}).to_string()
}

fn token(seed: u8, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "kid": seed.to_string()}).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair(seed).sign(signed.as_bytes())))
}

/// Keys that are fetched from a server.
fn remote(server: &Upstream, lifetime: Duration) -> KeySource {
    let server = KeyServer::Shares(vec![share(&backend(&[server.address]), 1)]);
    let place = (value("keys.test"), PathAndQuery::from_static("/jwks?a"));
    KeySource::Remote(Arc::new(RemoteKeys::new(server, place, (lifetime, Duration::from_secs(1)))))
}

fn jwt(keys: KeySource, lenience: Lenience) -> Jwt {
    let provider = Provider {
        name: "idp".into(),
        issuer: None,
        audiences: Vec::new(),
        keys,
        places: TokenPlace::usual(),
        headers: vec![(name("x-sub"), vec!["sub".into()])],
        recompute: true,
    };
    Jwt { providers: vec![provider], lenience }
}

fn with(token: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", "h").header("x-sub", "root");
    request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap()
}

/// A server of keys that answers with what `now` says, and counts.
async fn key_server(now: Arc<parking_lot::Mutex<Option<String>>>, asked: Arc<AtomicUsize>) -> Upstream {
    upstream(move |request: Request<Incoming>| {
        assert_eq!((request.uri().to_string().as_str(), &request.headers()["host"]), ("/jwks?a", &value("keys.test")));
        asked.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::default());
        match &*now.lock() {
            Some(set) => *response.body_mut() = set.clone().into(),
            None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        }
        async move { response }
    })
    .await
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_who_wait() {
    let (now, asked) = (Arc::new(parking_lot::Mutex::new(Some(set(&[1])))), Arc::new(AtomicUsize::new(0)));
    let server = key_server(now, Arc::clone(&asked)).await;
    let upstream = echo().await;
    let steps = vec![Guard::Jwt(Arc::new(jwt(remote(&server, Duration::from_secs(300)), Lenience::None)))];
    let gateway = Gateway::start(guarded(&upstream, Guards { steps, ..Guards::default() })).await;
    let requests = (0..8).map(|_| async {
        let answer = gateway.connect().await.send(with(&token(1, &json!({"sub": "ada"})))).await.unwrap();
        assert!(answer.body.contains("x-sub: ada\n"), "{}", answer.body);
    });
    futures::future::join_all(requests).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let answer = gateway.connect().await.send(with(&token(2, &json!({})))).await.unwrap();
    assert_eq!(
        (answer.status, &*answer.body),
        (StatusCode::UNAUTHORIZED, "Jwks doesn't have key to match kid or alg from Jwt")
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1, "a name that somebody made up has nothing fetched so soon");
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::UNAUTHORIZED, "Jwt is missing"));
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"http://h/\"");
}

#[tokio::test]
async fn a_key_server_that_is_down_keeps_out_only_those_whose_keys_are_not_known() {
    let (now, asked) = (Arc::new(parking_lot::Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
    let server = key_server(Arc::clone(&now), Arc::clone(&asked)).await;
    let upstream = echo().await;
    let keys = remote(&server, Duration::ZERO);
    let KeySource::Remote(remote) = &keys else { panic!("they are fetched") };
    let remote = Arc::clone(remote);
    let steps = vec![Guard::Jwt(Arc::new(jwt(keys, Lenience::None)))];
    let gateway = Gateway::start(guarded(&upstream, Guards { steps, ..Guards::default() })).await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let answer = client.send(with(&token(1, &json!({})))).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::UNAUTHORIZED, "Jwks remote fetch is failed"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is left alone for a while");
    let key = identity::jwt::VerificationKey::from_jwks(&serde_json::from_str(&set(&[1])).unwrap());
    remote.fetched(Some(key), tokio::time::Instant::now());
    for _ in 0..3 {
        let answer = client.send(with(&token(1, &json!({"sub": "ada"})))).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "keys are old, but known: {}", answer.body);
    }
}

#[tokio::test]
async fn who_need_not_have_a_token_passes_without_one() {
    let upstream = echo().await;
    let keys = || {
        KeySource::Local(identity::jwt::VerificationKey::from_jwks(&serde_json::from_str(&set(&[1])).unwrap()).into())
    };
    for (lenience, expected) in
        [(Lenience::None, [200, 401, 401]), (Lenience::Missing, [200, 200, 401]), (Lenience::Failed, [200, 200, 200])]
    {
        let steps = vec![Guard::Jwt(Arc::new(jwt(keys(), lenience)))];
        let gateway = Gateway::start(guarded(&upstream, Guards { steps, ..Guards::default() })).await;
        let mut client = gateway.connect().await;
        let good = token(1, &json!({"sub": "ada"}));
        let mut without = with("");
        without.headers_mut().remove("authorization");
        for (request, expected) in [with(&good), without, with(&token(2, &json!({})))].into_iter().zip(expected) {
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status.as_u16(), expected, "{lenience:?}");
            assert!(!answer.body.contains("root"), "only a token says who it is: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn the_rule_is_looked_for_again_with_what_a_token_says() {
    let (plain, core) = (named("plain").await, named("core").await);
    let keys = identity::jwt::VerificationKey::from_jwks(&serde_json::from_str(&set(&[1])).unwrap());
    let jwt = Guard::Jwt(Arc::new(jwt(KeySource::Local(keys.into()), Lenience::None)));
    let nobody = Guard::Authorization(Arc::new(Authorization::only(Vec::new())));
    let mut table = listening(Protocol::Http, vec![config(None, Mode::Http(None))]);
    let rule = |upstream: &Upstream, steps| {
        let guards = Some(Arc::new(Guards { steps, ..Guards::default() }));
        Arc::new(Rule { guards, ..forward(vec![share(&backend(&[upstream.address]), 1)]) })
    };
    let to = |sub: &str| {
        let exact = crate::routing::ValueMatch::Exact(sub.into());
        RequestMatch { headers: vec![(name("x-sub"), exact)], ..RequestMatch::prefix("/") }
    };
    let denied = Guard::Authorization(Arc::new(Authorization::except(vec![Network::parse("127.0.0.0/8").unwrap()])));
    for (condition, rule) in [
        (RequestMatch::prefix("/"), rule(&plain, vec![jwt.clone(), nobody])),
        (to("ada"), rule(&core, vec![jwt])),
        (to("eve"), rule(&core, vec![denied])),
    ] {
        table.insert(&spot(None), Arc::new(Entry::new(condition, Rank::default(), rule)));
    }
    let gateway = Gateway::start(table).await;
    let mut client = gateway.connect().await;
    for (sub, status, body) in [("bob", 200, "plain"), ("ada", 200, "core"), ("eve", 403, "RBAC: access denied")] {
        let mut request = with(&token(1, &json!({"sub": sub})));
        request.headers_mut().remove("x-sub");
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (status, body), "{sub}");
    }
}
