//! Which answers are compressed.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

/// How answers are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Shorter ones are left alone.
    pub bytes_min: u64,
}

/// Types that are worth it: those that Envoy compresses.
const TYPES: [&str; 15] = [
    "application/graphql-response+json",
    "application/javascript",
    "application/json",
    "application/x-javascript",
    "application/xhtml+xml",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/event-stream",
    "text/html",
    "text/javascript",
    "text/markdown",
    "text/plain",
    "text/xml",
    "application/problem+json",
];

/// Whether a client takes an answer in gzip, rather than as it is (RFC 9110, section 12.5.3).
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for coding in values.flat_map(|value| value.split(',')) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
        let weight: f32 = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => gzip = Some(weight),
            name if name.eq_ignore_ascii_case("identity") => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let weight = gzip.or(any).unwrap_or(0.0);
    weight > 0.0 && identity.is_none_or(|identity| weight >= identity)
}

impl Compression {
    /// Whether an answer is one that could be compressed, for clients that take it so: then caches must keep it apart by
    /// what clients take. `length` is `None` where it is not known before the end.
    pub fn is_for(&self, method: &Method, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> bool {
        let bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
        if method == Method::HEAD || method == Method::CONNECT || bare || status.is_informational() {
            return false;
        }
        // What is encoded already would only grow; what must not be changed is not.
        if headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key(header::CONTENT_RANGE) {
            return false;
        }
        let mut control = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        if control.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("no-transform"))) {
            return false;
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind))
            && length.is_none_or(|length| length >= self.bytes_min)
    }
}

/// Says that an answer depends on what clients take.
pub fn vary(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let named = |value: &str| {
        value.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("accept-encoding"))
    };
    if !values.any(named) {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Makes the head of an answer that of its compressed form. A tag for the very bytes becomes one for what they mean.
pub fn head_in_gzip(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    let tag = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    if let Some(weak) = tag.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok()) {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn clients_say_what_they_take() {
        for (value, taken) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("*;q=0, gzip", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("br", false),
            ("", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("gzip;q=x", false),
        ] {
            assert_eq!(takes_gzip(&headers(&[("accept-encoding", value)])), taken, "{value}");
        }
        assert!(!takes_gzip(&headers(&[])));
    }

    #[test]
    fn what_is_worth_it_and_may_be_changed_is_compressed() {
        let compression = Compression { bytes_min: 30 };
        let json = ("content-type", "application/json; charset=utf-8");
        let with = |more: &[(&'static str, &'static str)], status: u16, method: &Method, length| {
            let headers = headers(&[&[json], more].concat());
            compression.is_for(method, StatusCode::from_u16(status).unwrap(), &headers, length)
        };
        assert!(with(&[], 200, &Method::GET, Some(30)) && with(&[], 500, &Method::POST, None));
        assert!(!with(&[], 200, &Method::GET, Some(29)) && !with(&[], 200, &Method::HEAD, None));
        assert!(!with(&[("content-encoding", "br")], 200, &Method::GET, None));
        assert!(!with(&[("cache-control", "public, No-Transform")], 200, &Method::GET, None));
        assert!(!with(&[], 206, &Method::GET, None) && !with(&[], 304, &Method::GET, None));
        let image = headers(&[("content-type", "image/png")]);
        assert!(!compression.is_for(&Method::GET, StatusCode::OK, &image, None));
    }

    #[test]
    fn the_head_tells_of_the_compressed_form() {
        let mut head =
            headers(&[("etag", "\"a\""), ("content-length", "100"), ("vary", "origin"), ("accept-ranges", "bytes")]);
        head_in_gzip(&mut head);
        vary(&mut head);
        vary(&mut head);
        assert_eq!((&head["etag"], &head["content-encoding"]), (&"W/\"a\"".parse().unwrap(), &"gzip".parse().unwrap()));
        assert!(!head.contains_key("content-length") && !head.contains_key("accept-ranges"));
        assert_eq!(head.get_all("vary").iter().count(), 2);
    }
}
