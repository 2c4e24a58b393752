use http::request::Parts;

use super::*;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn entrant<T>(parts: &mut Parts, check: impl FnOnce(&mut Entrant<'_>) -> T) -> T {
    let authority = HeaderValue::from_static("shop.test");
    let client = "10.0.0.7".parse().unwrap();
    check(&mut Entrant::new(parts, ("shop.test", &authority), client, false))
}

fn http(target: AuthTarget, reading: Reading) -> HttpAuth {
    let to_backend = vec![HeaderName::from_static("x-user")];
    HttpAuth { method: None, target, host: None, sets: Vec::new(), all_headers: false, to_backend, reading }
}

fn external(http: HttpAuth, failure: Failure) -> External {
    External {
        shares: Vec::new(),
        protocol: AuthProtocol::Http(http),
        headers: Some(vec![HeaderName::from_static("x-told")]),
        body_max: None,
        timeout: Duration::from_secs(1),
        failure,
        recompute: true,
    }
}

/// The question as a client would write it, with its headers sorted.
fn asked(external: &External, parts: &mut Parts, body: &'static str) -> String {
    let body = Bytes::from_static(body.as_bytes());
    let request = entrant(parts, |entrant| external.question(entrant, &body)).unwrap();
    let headers = request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    let mut headers: Vec<_> = headers.collect();
    headers.sort_unstable();
    format!("{} {} {}", request.method(), request.uri(), headers.join(", "))
}

#[test]
fn a_service_is_told_what_it_was_said_to_be_told() {
    let headers =
        [("authorization", "Bearer t"), ("x-told", "a"), ("x-told", "b"), ("x-other", "c"), ("cookie", "d=e")];
    let below = external(http(AuthTarget::Below("/auth/".into()), Reading::Envoy), Failure::Pass);
    let expected = "POST /auth/p?q=1 authorization: Bearer t, content-length: 2, host: shop.test, x-told: a, x-told: b";
    assert_eq!(asked(&below, &mut parts("POST", "/p?q=1", &headers), "ab"), expected);
    let fixed = external(http(AuthTarget::Fixed("/auth".into()), Reading::Envoy), Failure::Pass);
    assert!(asked(&fixed, &mut parts("GET", "/p?q=1", &headers), "").starts_with("GET /auth authorization"));
    let template = |text: &str| Template::parse(text, &|_| None).unwrap();
    let nginx = HttpAuth {
        method: Some(Method::GET),
        host: Some(HeaderValue::from_static("auth.test")),
        sets: vec![(HeaderName::from_static("x-original-url"), template("$scheme://$host$request_uri"))],
        all_headers: true,
        ..http(AuthTarget::At(template("/verify?m=$request_method")), Reading::Nginx { sign_in: None })
    };
    let headers = [("cookie", "d=e"), ("content-length", "9"), ("connection", "close"), ("x-original-url", "forged")];
    let expected = "GET /verify?m=PUT content-length: 0, cookie: d=e, host: auth.test, \
                    x-original-url: http://shop.test/p?q=1";
    assert_eq!(asked(&external(nginx, Failure::Pass), &mut parts("PUT", "/p?q=1", &headers), ""), expected);
}

fn read(http: HttpAuth, status: u16, headers: &[(&'static str, &'static str)]) -> Said {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (status, none) = (StatusCode::from_u16(status).unwrap(), HeaderMap::new());
    let external = external(http, Failure::Pass);
    entrant(&mut parts("GET", "/p?q=1", &[]), |entrant| {
        external.read(entrant, (status, &map, &none), Bytes::from_static(b"no"))
    })
}

#[test]
fn answers_mean_to_envoy_what_envoy_reads_in_them() {
    let envoy = || http(AuthTarget::Below("".into()), Reading::Envoy);
    let user = (HeaderName::from_static("x-user"), HeaderValue::from_static("ada"));
    let grant = Grant { set: vec![user], ..Grant::default() };
    assert_eq!(read(envoy(), 200, &[("x-user", "ada"), ("x-more", "b")]), Said::Pass(grant));
    assert_eq!(read(envoy(), 500, &[]), Said::Failed);
    let Said::Refuse(refusal) = read(envoy(), 302, &[("location", "/login"), ("content-length", "2")]) else {
        panic!()
    };
    let location = (header::LOCATION, HeaderValue::from_static("/login"));
    assert_eq!(
        (refusal.status, refusal.headers, refusal.body.as_deref()),
        (StatusCode::FOUND, vec![location], Some(&b"no"[..]))
    );
    assert!(matches!(read(envoy(), 204, &[]), Said::Refuse(_)), "only 200 lets pass");
}

#[test]
fn answers_mean_to_nginx_what_nginx_reads_in_them() {
    let sign_in = Template::parse("https://login.test/?rd=$escaped_request_uri", &|_| None).unwrap();
    let nginx = |sign_in| http(AuthTarget::Below("".into()), Reading::Nginx { sign_in });
    let Said::Pass(grant) = read(nginx(None), 202, &[("set-cookie", "a=b")]) else { panic!() };
    assert_eq!(grant.remove, [HeaderName::from_static("x-user")], "what only the service may say");
    assert_eq!(grant.answer, [(header::SET_COOKIE, HeaderValue::from_static("a=b"), true)]);
    for (sign_in, status, expected) in [
        (None, 401, StatusCode::UNAUTHORIZED),
        (Some(sign_in.clone()), 401, StatusCode::FOUND),
        (Some(sign_in.clone()), 403, StatusCode::FORBIDDEN),
    ] {
        let Said::Refuse(refusal) = read(nginx(sign_in), status, &[("www-authenticate", "Basic")]) else { panic!() };
        assert_eq!(refusal.status, expected);
        let location = refusal.headers.iter().find(|(name, _)| *name == header::LOCATION);
        assert_eq!(location.is_some(), expected == StatusCode::FOUND);
    }
    for status in [301, 404, 500] {
        assert_eq!(read(nginx(None), status, &[]), Said::Failed, "{status}");
    }
}

#[test]
fn what_was_said_is_done_with_the_request() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let grant = Grant {
        set: vec![(name("x-user"), value("ada"))],
        append: vec![(name("x-group"), value("b"))],
        remove: vec![name("x-secret"), header::HOST],
        answer: vec![(name("x-late"), value("c"), false)],
        set_parameters: vec![("b".to_owned(), "x&y".to_owned())],
        remove_parameters: vec!["c".to_owned()],
    };
    let any = |failure| external(http(AuthTarget::Below("".into()), Reading::Envoy), failure);
    let headers = [("x-user", "root"), ("x-group", "a"), ("x-secret", "s"), ("host", "h")];
    let mut parts = parts("GET", "/p?a=1&b=2&%63=3", &headers);
    entrant(&mut parts, |entrant| {
        assert_eq!(any(Failure::Pass).follow(Said::Pass(grant), entrant), Ok(true));
        assert_eq!(entrant.late.len(), 1);
        assert_eq!(any(Failure::Pass).follow(Said::Pass(Grant::default()), entrant), Ok(false));
        let refused = any(Failure::Refuse(StatusCode::BAD_GATEWAY)).follow(Said::Failed, entrant).unwrap_err();
        assert_eq!((refused.status, refused.body.as_deref()), (StatusCode::BAD_GATEWAY, Some(&b""[..])));
        assert_eq!(any(Failure::Pass).follow(Said::Failed, entrant), Ok(false));
    });
    assert_eq!(parts.uri.to_string(), "/p?a=1&b=x%26y");
    assert_eq!((&parts.headers["x-user"], parts.headers.get_all("x-group").iter().count()), (&value("ada"), 2));
    assert!(!parts.headers.contains_key("x-secret") && parts.headers.contains_key("host"));
    assert_eq!(parts.headers["x-envoy-auth-failure-mode-allowed"], "true");
}
