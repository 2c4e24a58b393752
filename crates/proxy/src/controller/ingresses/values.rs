//! Values of annotations, as ingress-nginx writes them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use crate::routing::Network;

/// Why an annotation has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The value is not one that the annotation can have.
    Invalid(String),
    /// The gateway does not serve what it asks for.
    Unserved(String),
}

pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::Invalid(message.into())
}

pub(crate) fn unserved(message: impl Into<String>) -> Refusal {
    Refusal::Unserved(message.into())
}

/// The outcome of reading a value.
pub(crate) type Read<T> = Result<T, Refusal>;

/// What Go reads as a truth value.
pub(crate) fn boolean(text: &str) -> Read<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(invalid(format!("{text:?} is neither \"true\" nor \"false\""))),
    }
}

pub(crate) fn number(text: &str) -> Read<u32> {
    text.parse().map_err(|_| invalid(format!("{text:?} is no whole number")))
}

/// Seconds without a unit.
pub(crate) fn seconds(text: &str) -> Read<Duration> {
    let seconds = number(text).map_err(|_| invalid(format!("{text:?} is no number of seconds (without a unit)")))?;
    Ok(Duration::from_secs(u64::from(seconds)))
}

/// Bytes in nginx's notation: `8m`, `512k`, `1000`; `None` for zero, which is no limit.
pub(crate) fn size(text: &str) -> Read<Option<u64>> {
    let wrong = || invalid(format!("{text:?} is no size such as 8m, 512k or 1000"));
    let (digits, unit) = match text.bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(unit).ok_or_else(wrong)?;
    Ok((bytes > 0).then_some(bytes))
}

/// Networks and addresses between commas.
pub(crate) fn networks(text: &str) -> Read<Vec<Network>> {
    let network = |text: &String| {
        Network::parse(text).ok_or_else(|| invalid(format!("{text:?} is neither an address nor a network")))
    };
    list(text).iter().map(network).collect()
}

/// What stands between commas, without blanks around it.
pub(crate) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn pattern(text: &str) -> Read<Regex> {
    Regex::new(text).map_err(|error| invalid(format!("{text:?} is no regular expression: {error}")))
}

pub(crate) fn header_name(text: &str) -> Read<HeaderName> {
    HeaderName::try_from(text).map_err(|_| invalid(format!("{text:?} is no header name")))
}

pub(crate) fn header_value(text: &str) -> Read<HeaderValue> {
    HeaderValue::try_from(text).map_err(|_| invalid(format!("{text:?} is no header value")))
}

/// The name of a cookie (RFC 6265).
pub(crate) fn cookie_name(text: &str) -> Read<Box<str>> {
    let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b));
    if valid { Ok(text.into()) } else { Err(invalid(format!("{text:?} is no name of a cookie"))) }
}

/// The status of a redirect.
pub(crate) fn redirection(text: &str) -> Read<StatusCode> {
    let status = text.parse().ok().and_then(|code: u16| StatusCode::from_u16(code).ok());
    { status }
        .filter(|status| status.is_redirection() && *status != StatusCode::NOT_MODIFIED)
        .ok_or_else(|| invalid(format!("{text:?} is no status of a redirect")))
}

/// A path of its own.
pub(crate) fn path(text: &str) -> Read<Box<str>> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err(invalid(format!("{text:?} is no absolute path")))
}

/// The path of a cookie.
pub(crate) fn cookie_path(text: &str) -> Read<Box<str>> {
    match path(text)? {
        path if path.contains([';', ',', '"']) => Err(invalid(format!("{text:?} is no path of a cookie"))),
        path => Ok(path),
    }
}

/// A hostname, or a pattern with one leading wildcard.
pub(crate) fn hostname(text: &str) -> Read<String> {
    let name = text.to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if labels.split('.').all(label) {
        return Ok(name);
    }
    Err(invalid(format!("{text:?} is no hostname")))
}

/// The name of an object beside the Ingress. Upstream lets another namespace be named; whoever writes an Ingress would
/// then have the gateway read what they must not.
pub(crate) fn beside(text: &str, namespace: &str) -> Read<Box<str>> {
    match text.split_once('/') {
        None => Ok(text.into()),
        Some((of, name)) if of == namespace => Ok(name.into()),
        Some((of, _)) => Err(unserved(format!("namespace {of} is not the Ingress's: only what is beside it is read"))),
    }
}

/// A place that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, which may have variables in them.
    pub(crate) target: String,
}

/// A URL of the web.
pub(crate) fn url(text: &str) -> Read<Url> {
    let wrong = |what: &str| invalid(format!("{text:?} is no URL: {what}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("its scheme is neither http nor https")),
    };
    let at = rest.find(['/', '?']).or_else(|| rest.find("$request_uri")).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong("its port is no port"))?),
        _ => (authority, if tls { 443 } else { 80 }),
    };
    if host.is_empty() || host.contains('@') {
        return Err(wrong("it has no host"));
    }
    Ok(Url { tls, host: host.to_owned(), port, target: target.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_those_of_nginx() {
        for (text, expected) in [
            ("8m", Some(Some(8 << 20))),
            ("512K", Some(Some(512 << 10))),
            ("1g", Some(Some(1 << 30))),
            ("1000", Some(Some(1000))),
            ("0", Some(None)),
            ("", None),
            ("m", None),
            ("8mb", None),
            ("-1", None),
            ("99999999999999999999g", None),
            ("18446744073709551615g", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        assert!(seconds("60s").is_err() && seconds("").is_err() && seconds("-1").is_err());
    }

    #[test]
    fn urls_are_split_where_they_can_be_served() {
        let of = |tls, host: &str, port, target: &str| {
            Some(Url { tls, host: host.to_owned(), port, target: target.to_owned() })
        };
        for (text, expected) in [
            ("http://auth.test", of(false, "auth.test", 80, "")),
            ("https://auth.test:8443/verify?a=b", of(true, "auth.test", 8443, "/verify?a=b")),
            ("http://10.0.0.1:80$request_uri", of(false, "10.0.0.1", 80, "$request_uri")),
            ("http://10.0.0.1$request_uri", of(false, "10.0.0.1", 80, "$request_uri")),
            ("https://$host/oauth2/auth", of(true, "$host", 443, "/oauth2/auth")),
            ("http://[::1]:81/", of(false, "[::1]", 81, "/")),
            ("http://[::1]", of(false, "[::1]", 80, "")),
            ("ftp://a", None),
            ("http://", None),
            ("http://a:b/", None),
            ("http://user@a/", None),
            ("auth.test", None),
        ] {
            assert_eq!(url(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(beside("shop/users", "shop"), Ok("users".into()));
        assert_eq!(beside("users", "shop"), Ok("users".into()));
        assert!(beside("other/users", "shop").is_err());
        for (text, valid) in [("a.test", true), ("*.A.test", true), ("a..test", false), ("", false), ("~a", false)] {
            assert_eq!(hostname(text).is_ok(), valid, "{text}");
        }
        for (text, valid) in [("route", true), ("__Host-x", true), ("a b", false), ("", false), ("a=b", false)] {
            assert_eq!(cookie_name(text).is_ok(), valid, "{text}");
        }
        assert!(redirection("308").is_ok() && redirection("304").is_err() && redirection("200").is_err());
    }
}
