//! Cookies of a request (RFC 6265).

use http::{HeaderMap, header};

/// The value of the first cookie of a name, as it was sent. HTTP/2 may split the cookies of a request among several
/// headers.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(of, _)| *of == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_found_in_any_of_several_headers() {
        let mut headers = HeaderMap::new();
        for value in ["a=1; b=\"2\";c=3=4 ;", "nothing", "; =x; a=other; d="] {
            headers.append(header::COOKIE, HeaderValue::from_static(value));
        }
        headers.append(header::COOKIE, HeaderValue::from_bytes(b"e=\xff").unwrap());
        for (name, expected) in [
            ("a", Some("1")),
            ("b", Some("\"2\"")),
            ("c", Some("3=4")),
            ("d", Some("")),
            ("e", None),
            ("nothing", None),
            ("A", None),
        ] {
            assert_eq!(cookie(&headers, name), expected, "{name}");
        }
    }
}
