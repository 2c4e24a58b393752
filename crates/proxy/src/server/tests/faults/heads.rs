//! Requests in HTTP/1.1 that are understood differently by different servers, and heads that are too large or no heads.

use super::*;

/// A request behind the attack, as another client's that shares the connection would be.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

/// Sends each of these and a request behind it, and compares what is answered and what the backend gets.
async fn check(cases: &[(&str, &str, &[u16], &[&str])]) {
    let (upstream, seen) = remembering().await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut wrong = Vec::new();
    for (name, bytes, expected, requests) in cases {
        let answered = statuses(&gateway, format!("{bytes}{NEXT}").as_bytes()).await;
        let got = std::mem::take(&mut *seen.lock());
        if (&*answered, got.iter().map(String::as_str).collect::<Vec<_>>()) != (*expected, requests.to_vec()) {
            wrong.push(format!("{name}: {answered:?} {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    nothing_is_left(gateway).await;
}

const NEXT_SEEN: &str = "GET /next ";

#[tokio::test]
async fn where_a_request_ends_is_never_in_doubt() {
    let evil = "GET /evil HTTP/1.1\r\nhost: h\r\n\r\n";
    let smuggled = format!(
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 35\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{evil}"
    );
    let hidden = format!(
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n1f\r\n{evil}\r\n0\r\n\r\n"
    );
    check(&[
        // The chunks count, and the connection ends: what is behind is nobody's request.
        ("length before chunks", &smuggled, &[200], &["POST / "]),
        ("chunks before length", &hidden, &[200], &[&format!("POST / {evil}")]),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            &[501, 200],
            &[NEXT_SEEN],
        ),
        (
            "chunked and more",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            &[400],
            &[],
        ),
        (
            "chunked in one of two",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
            &[400],
            &[],
        ),
        ("another coding", "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
        (
            "compressed",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            &[501, 200],
            &[NEXT_SEEN],
        ),
        (
            "a blank before the colon",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
            &[400],
            &[],
        ),
        (
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
            &[],
        ),
        ("two lengths", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", &[400], &[]),
        ("two lengths in one", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1, 2\r\n\r\nab", &[400], &[]),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
            &[200, 200],
            &["POST / ab", NEXT_SEEN],
        ),
        ("a signed length", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +2\r\n\r\nab", &[400], &[]),
        ("a negative length", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", &[400], &[]),
        ("a length in hexadecimal", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0x2\r\n\r\nab", &[400], &[]),
        (
            "a length beyond numbers",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999999999999\r\n\r\nab",
            &[400],
            &[],
        ),
        ("no length", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: \r\n\r\n", &[400], &[]),
    ])
    .await;
}

#[tokio::test]
async fn chunks_are_read_to_the_letter() {
    let chunked = |chunks: &str| format!("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
    for (name, chunks, expected, requests) in [
        ("well", "2\r\nab\r\n0\r\n\r\n", &[200, 200][..], &["POST / ab", NEXT_SEEN][..]),
        ("with an extension", "2;a=b\r\nab\r\n0\r\n\r\n", &[200, 200], &["POST / ab", NEXT_SEEN]),
        ("with trailers", "2\r\nab\r\n0\r\nx: y\r\n\r\n", &[200, 200], &["POST / ab", NEXT_SEEN]),
        ("a bare line feed in an extension", "2;a\nb\r\nab\r\n0\r\n\r\n", &[400], &[]),
        ("a bare line feed after the size", "2\nab\r\n0\r\n\r\n", &[400], &[]),
        ("no size", "\r\nab\r\n0\r\n\r\n", &[400], &[]),
        ("a sign", "+2\r\nab\r\n0\r\n\r\n", &[400], &[]),
        ("a prefix", "0x2\r\nab\r\n0\r\n\r\n", &[400], &[]),
        ("a size beyond numbers", "fffffffffffffffff\r\nab\r\n0\r\n\r\n", &[400], &[]),
        ("no end of the data", "2\r\nabc\r\n0\r\n\r\n", &[400], &[]),
    ] {
        let (upstream, seen) = remembering().await;
        let gateway = Gateway::start(to(&upstream)).await;
        let answered = statuses(&gateway, format!("{}{NEXT}", chunked(chunks)).as_bytes()).await;
        let mut got = std::mem::take(&mut *seen.lock());
        // What had begun at the backend broke off there, and did not end well.
        got.retain(|request| !request.ends_with("broken off"));
        assert_eq!(
            (&*answered, &*got),
            (expected, &*requests.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()),
            "{name}"
        );
        nothing_is_left(gateway).await;
    }
}

#[tokio::test]
async fn heads_that_are_none_are_refused() {
    check(&[
        ("a folded line", "GET / HTTP/1.1\r\nhost: h\r\nx: a\r\n b\r\n\r\n", &[400], &[]),
        ("a blank before the first name", "GET / HTTP/1.1\r\n host: h\r\n\r\n", &[400], &[]),
        ("a bare carriage return", "GET / HTTP/1.1\r\nhost: h\r\nx: a\rb\r\n\r\n", &[400], &[]),
        ("a zero byte", "GET / HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n", &[400], &[]),
        ("a zero byte in a name", "GET / HTTP/1.1\r\nhost: h\r\nx\0: a\r\n\r\n", &[400], &[]),
        ("no name", "GET / HTTP/1.1\r\nhost: h\r\n: a\r\n\r\n", &[400], &[]),
        ("no colon", "GET / HTTP/1.1\r\nhost: h\r\nx\r\n\r\n", &[400], &[]),
        // A recipient may take a line feed alone for the end of a line (RFC 9112, section 2.2).
        ("line feeds alone", "GET / HTTP/1.1\nhost: h\n\n", &[200, 200], &["GET / ", NEXT_SEEN]),
        ("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n", &[200, 200], &["GET / ", NEXT_SEEN]),
        ("no version", "GET /\r\n\r\n", &[400], &[]),
        ("another version", "GET / HTTP/3.1\r\nhost: h\r\n\r\n", &[400], &[]),
        ("an odd method", "G\"T / HTTP/1.1\r\nhost: h\r\n\r\n", &[400], &[]),
        ("a blank in the target", "GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", &[400], &[]),
        ("a control character in the target", "GET /a\x01 HTTP/1.1\r\nhost: h\r\n\r\n", &[400], &[]),
        ("no TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", &[400], &[]),
    ])
    .await;
}

#[tokio::test]
async fn a_request_is_for_one_host() {
    check(&[
        ("none", "GET / HTTP/1.1\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("an empty one", "GET / HTTP/1.1\r\nhost: \r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("two", "GET / HTTP/1.1\r\nhost: h\r\nhost: other\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("the same twice", "GET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("two in one", "GET / HTTP/1.1\r\nhost: h, other\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("a path in it", "GET / HTTP/1.1\r\nhost: h/evil\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("a user in it", "GET / HTTP/1.1\r\nhost: user@h\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("no port", "GET / HTTP/1.1\r\nhost: h:x\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("a port", "GET / HTTP/1.1\r\nhost: h:8080\r\n\r\n", &[200, 200], &["GET / ", NEXT_SEEN]),
        ("an address", "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", &[200, 200], &["GET / ", NEXT_SEEN]),
        ("half an address", "GET / HTTP/1.1\r\nhost: [::1\r\n\r\n", &[400, 200], &[NEXT_SEEN]),
        ("in the target", "GET http://h/a HTTP/1.1\r\nhost: other\r\n\r\n", &[200, 200], &["GET /a ", NEXT_SEEN]),
    ])
    .await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let long = |length: usize| "x".repeat(length);
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    check(&[
        (
            "a long head",
            &format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", long(40 << 10)),
            &[200, 200],
            &["GET / ", NEXT_SEEN],
        ),
        ("too long a head", &format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", long(70 << 10)), &[431], &[]),
        ("an endless head", &format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}", long(4 << 20)), &[431], &[]),
        ("too long a target", &format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", long(70 << 10)), &[431], &[]),
        (
            "many headers",
            &format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", many(90)),
            &[200, 200],
            &["GET / ", NEXT_SEEN],
        ),
        ("too many headers", &format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", many(101)), &[431], &[]),
        (
            "a body that says it is endless",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 18446744073709551615\r\n\r\n",
            &[431],
            &[],
        ),
    ])
    .await;
}
