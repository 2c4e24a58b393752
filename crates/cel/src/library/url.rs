//! URLs: `url`, `isURL`, and their parts. Reading follows Go's parser of request URIs.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::LazyLock;

use crate::cost::{CallEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::{Map, Opaque, Value};

static URL: LazyLock<Type> = LazyLock::new(|| Type::opaque("kubernetes.URL"));

/// An absolute URI, or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// With the port.
    host: String,
    /// Escaped.
    path: String,
    query: String,
}

impl Url {
    /// Reads a URI as it stands in a request. A fragment, which no request has, is left out of what it is read as.
    ///
    /// # Errors
    /// The text is neither an absolute URI nor an absolute path; says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Self::read(text)?;
        text.split_once('#').map_or(Ok(url), |(whole, _)| Self::read(whole))
    }

    fn read(text: &str) -> Result<Self, String> {
        let failed = |why: &str| Err(format!("parse {text:?}: {why}"));
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return failed("net/url: invalid control character in URL");
        }
        if text.is_empty() {
            return failed("empty url");
        }
        let (scheme, rest) = match scheme_of(text) {
            Ok(parts) => parts,
            Err(why) => return failed(why),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
        };
        if !rest.starts_with('/') {
            // an opaque URI such as `mailto:a@b`
            return if url.scheme.is_empty() { failed("invalid URI for request") } else { Ok(url) };
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//").filter(|rest| !url.scheme.is_empty() || !rest.starts_with('/'))
        {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, after) = authority.split_at(end);
            match host_of(authority) {
                Ok(host) => url.host = host,
                Err(why) => return failed(&why),
            }
            path = after;
        }
        if let Some(bad) = bad_escape(path) {
            return failed(&format!("invalid URL escape {bad:?}"));
        }
        url.path = escaped(path);
        Ok(url)
    }

    /// The host without its port.
    fn hostname(&self) -> &str {
        match self.host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) => name,
            None => self.host.split_once(':').map_or(self.host.as_str(), |(name, _)| name),
        }
    }

    fn port(&self) -> &str {
        let behind = self.host.rsplit_once(']').map_or(self.host.as_str(), |(_, behind)| behind);
        behind.split_once(':').map_or("", |(_, port)| port)
    }
}

fn scheme_of(text: &str) -> Result<(&str, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

/// A path as it is, if it may stand like that in a URL; if not, everything escaped that has to be.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    if path.bytes().all(|byte| plain(byte) || b"!'()*[]%".contains(&byte)) {
        return path.to_owned();
    }
    let bytes = unescaped(path, false);
    let mut text = String::with_capacity(path.len() + 8);
    for byte in bytes {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn bad_escape(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let at = (0..bytes.len()).find(|at| bytes[*at] == b'%' && !(hex(at + 1) && hex(at + 2)))?;
    let end = (at + 3).min(text.len());
    text.get(at..end).or(text.get(at..=at))
}

fn host_of(authority: &str) -> Result<String, String> {
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
            if !user.bytes().all(legal) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            host
        }
        None => authority,
    };
    let port = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.rsplit_once(']').ok_or("missing ']' in host")?;
            let address = address.split('%').next().unwrap_or_default();
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("invalid host: ParseAddr".to_owned());
            }
            behind
        }
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(char) = host.chars().find(|char| char.is_ascii() && " \"\\^`{|}#?/".contains(*char)) {
        return Err(format!("invalid character {:?} in host name", char.to_string()));
    }
    unescape(host, false).map_err(|bad| format!("invalid URL escape {bad:?}"))
}

/// Decodes `%xx`, and `+` where it stands for a blank.
fn unescape(text: &str, plus: bool) -> Result<String, String> {
    if let Some(bad) = bad_escape(text) {
        return Err(bad.to_owned());
    }
    Ok(String::from_utf8_lossy(&unescaped(text, plus)).into_owned())
}

/// The same of text whose escapes are known to be good.
fn unescaped(text: &str, plus: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0) as u8;
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()) * 16 + digit(rest.next()),
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    bytes
}

/// The values of each key; pairs that cannot be read are left out.
fn query(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(key), Ok(value)) = (unescape(key, true), unescape(value, true)) {
            values.entry(key).or_default().push(value);
        }
    }
    values
}

impl Opaque for Url {
    fn ty(&self) -> &Type {
        &URL
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub(super) fn library() -> Library {
    let part = |id, part: fn(&Url) -> &str| {
        Overload::member(id, vec![URL.clone()], Type::String, move |_, args| {
            Ok(Value::string(part(args[0].opaque()?).to_owned()))
        })
    };
    Library::new()
        .type_name("kubernetes.URL", URL.clone())
        .function(
            "url",
            vec![
                Overload::global("string_to_url", vec![Type::String], URL.clone(), |_, args| {
                    let failed =
                        |why| EvalError::other(format!("URL parse error during conversion from string: {why}"));
                    Url::parse(args[0].str()?).map(Value::from_opaque).map_err(failed)
                })
                .cost(|args, _| scale(args[0].size().unwrap_or(1), TRAVERSAL))
                .estimate(|call| CallEstimate::sized(call.size(0).cost(TRAVERSAL), call.size(0))),
            ],
        )
        .function(
            "isURL",
            vec![Overload::global("is_url_string", vec![Type::String], Type::Bool, |_, args| {
                Ok(Value::Bool(Url::parse(args[0].str()?).is_ok()))
            })],
        )
        .function("getScheme", vec![part("url_get_scheme", |url| &url.scheme)])
        .function("getHost", vec![part("url_get_host", |url| &url.host)])
        .function("getHostname", vec![part("url_get_hostname", Url::hostname)])
        .function("getPort", vec![part("url_get_port", Url::port)])
        .function("getEscapedPath", vec![part("url_get_escaped_path", |url| &url.path)])
        .function(
            "getQuery",
            vec![Overload::member(
                "url_get_query",
                vec![URL.clone()],
                Type::map(Type::String, Type::list(Type::String)),
                |_, args| {
                    let values = query(&args[0].opaque::<Url>()?.query);
                    let texts = |values: Vec<String>| Value::list(values.into_iter().map(Value::string).collect());
                    let entries = values.into_iter().map(|(key, values)| (Value::string(key), texts(values)));
                    Map::new(entries.collect()).map(Value::Map)
                },
            )],
        )
}
