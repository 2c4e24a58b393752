use http::{Request, request::Parts};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn keys(id: &str) -> Arc<[VerificationKey]> {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": URL_SAFE_NO_PAD.encode(pair().public_key())});
    vec![VerificationKey::from_jwk(&jwk).unwrap()].into()
}

fn token(id: &str, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "kid": id}).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair().sign(signed.as_bytes())))
}

fn provider() -> Provider {
    Provider {
        name: "idp".into(),
        issuer: Some("https://idp.test".into()),
        audiences: vec!["shop".into(), "bank".into()],
        keys: KeySource::Local(keys("k1")),
        places: TokenPlace::usual(),
        headers: Vec::new(),
        recompute: false,
    }
}

fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn entrant<T>(parts: &mut Parts, check: impl FnOnce(&mut Entrant<'_>) -> T) -> T {
    let authority = HeaderValue::from_static("shop.test");
    let client = "10.0.0.7".parse().unwrap();
    check(&mut Entrant::new(parts, ("shop.test", &authority), client, true))
}

fn verified(provider: &Provider, token: &str) -> Result<Claims, Flaw> {
    provider.examine(token, NOW)?.verify(&keys("k1"))
}

#[test]
fn a_token_must_say_what_it_should_and_be_signed_by_a_key() {
    let claims = |more: Value| {
        let mut claims = json!({"iss": "https://idp.test", "aud": ["x", "shop"], "exp": NOW});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let provider = provider();
    for (id, more, expected) in [
        ("k1", json!({}), Ok(())),
        ("k1", json!({"aud": "bank"}), Ok(())),
        ("k1", json!({"exp": NOW - 60, "nbf": NOW + 60}), Ok(())),
        ("k1", json!({"exp": null}), Err(Flaw::Payload)),
        ("k1", json!({"exp": 1e300}), Ok(())),
        ("k1", json!({"exp": NOW - 61}), Err(Flaw::Expired)),
        ("k1", json!({"nbf": NOW + 61}), Err(Flaw::NotYet)),
        ("k1", json!({"exp": "tomorrow"}), Err(Flaw::Payload)),
        ("k1", json!({"exp": -1}), Err(Flaw::Expired)),
        ("k1", json!({"iss": "https://other.test"}), Err(Flaw::Issuer)),
        ("k1", json!({"iss": 1}), Err(Flaw::Issuer)),
        ("k1", json!({"aud": "other"}), Err(Flaw::Audience)),
        ("k1", json!({"aud": []}), Err(Flaw::Audience)),
        ("k2", json!({}), Ok(())),
    ] {
        let outcome = verified(&provider, &token(id, &claims(more.clone()))).map(drop);
        assert_eq!(outcome, expected, "{id} {more}");
    }
    let good = token("k1", &claims(json!({})));
    let forged = {
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let header = signed.split_once('.').unwrap().0;
        let payload = URL_SAFE_NO_PAD.encode(claims(json!({"sub": "root"})).to_string());
        format!("{header}.{payload}.{signature}")
    };
    assert_eq!(verified(&provider, &forged), Err(Flaw::Signature));
    let other = provider.examine(&good, NOW).unwrap().verify(&keys("k9"));
    assert!(other.is_ok(), "a set may be written with other ids than its issuer's");
    assert_eq!(provider.examine(&good, NOW).unwrap().verify(&[]), Err(Flaw::Key));
    for none in ["", "a", "a.b.c", &format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#))] {
        assert_eq!(verified(&provider, none), Err(Flaw::Format), "{none}");
    }
    let anybody = Provider { issuer: None, audiences: Vec::new(), ..provider };
    assert!(verified(&anybody, &token("k1", &json!({}))).is_ok());
}

#[test]
fn tokens_are_where_they_are_said_to_be() {
    let listed = Provider {
        places: vec![
            TokenPlace::Header(HeaderName::from_static("x-token"), "".into()),
            TokenPlace::Cookie("session".into()),
        ],
        ..provider()
    };
    for (provider, uri, headers, expected) in [
        (provider(), "/", &[("authorization", "Bearer a.b.c")][..], &["a.b.c"][..]),
        (provider(), "/", &[("authorization", "bearer  a.b.c ")], &["a.b.c"]),
        (provider(), "/", &[("authorization", "Basic a.b.c")], &[]),
        (provider(), "/", &[("authorization", "Bearer ")], &[]),
        (provider(), "/?access_token=d%2Ee", &[("authorization", "Bearer a")], &["a", "d.e"]),
        (listed.clone(), "/?access_token=d", &[("authorization", "Bearer a")], &[]),
        (listed, "/", &[("x-token", "a"), ("cookie", "x=y; session=b")], &["a", "b"]),
    ] {
        let found = entrant(&mut parts(uri, headers), |entrant| provider.tokens(entrant));
        assert_eq!(found, expected, "{uri} {headers:?}");
    }
}

#[test]
fn the_backend_is_told_what_a_token_says_and_nothing_else() {
    let header = HeaderName::from_static;
    let path = |path: &str| path.split('.').map(Into::into).collect::<Vec<Box<str>>>();
    let provider = Provider {
        headers: vec![
            (header("x-sub"), path("sub")),
            (header("x-team"), path("org.team")),
            (header("x-level"), path("level")),
            (header("x-groups"), path("groups")),
            (header("x-none"), path("org.none")),
        ],
        ..provider()
    };
    let claims = json!({"sub": "ada", "org": {"team": "core"}, "level": 3, "groups": ["a"]});
    let jwt = Jwt { providers: vec![provider.clone()], lenience: Lenience::None };
    let mut parts = parts("/", &[("x-sub", "root"), ("x-none", "root"), ("x-other", "stays")]);
    let told = entrant(&mut parts, |entrant| {
        jwt.clear(entrant);
        provider.tell(claims.as_object().unwrap(), entrant)
    });
    assert!(told);
    let groups = URL_SAFE_NO_PAD.encode(r#"["a"]"#);
    for (name, expected) in [
        ("x-sub", Some("ada")),
        ("x-team", Some("core")),
        ("x-level", Some("3")),
        ("x-groups", Some(groups.as_str())),
        ("x-none", None),
        ("x-other", Some("stays")),
    ] {
        assert_eq!(parts.headers.get(name).map(|value| value.to_str().unwrap()), expected, "{name}");
    }
}

#[test]
fn refusals_say_what_is_wrong_and_the_most_telling_flaw_is_told() {
    let refused = |flaw: Flaw| entrant(&mut parts("/p", &[]), |entrant| flaw.refusal(entrant));
    let missing = refused(Flaw::Missing);
    assert_eq!((missing.status, missing.body.as_deref()), (StatusCode::UNAUTHORIZED, Some(&b"Jwt is missing"[..])));
    assert_eq!(missing.headers[0].1, "Bearer realm=\"https://shop.test/p\"");
    let audience = refused(Flaw::Audience);
    assert_eq!(audience.status, StatusCode::FORBIDDEN);
    assert_eq!(audience.headers[0].1, "Bearer realm=\"https://shop.test/p\", error=\"invalid_token\"");
    for (one, other, expected) in [
        (Flaw::Missing, Flaw::Expired, Flaw::Expired),
        (Flaw::Issuer, Flaw::Missing, Flaw::Issuer),
        (Flaw::Issuer, Flaw::Expired, Flaw::Expired),
        (Flaw::Expired, Flaw::Signature, Flaw::Expired),
    ] {
        assert_eq!((one.or(other), other.or(one) == Flaw::Missing), (expected, false));
    }
}
