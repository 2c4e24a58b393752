//! Texts with parts of the request in them, such as the place that a redirect leads to. Variables are written as nginx
//! writes them: `https://$host$request_uri`.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use super::{cookies::cookie, matching::RequestHead, redirect::Origin};

/// A text in which variables stand for parts of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Scheme,
    Host,
    Port,
    Path,
    Query,
    /// Path and query.
    Target,
    EscapedTarget,
    Method,
    /// The client's address.
    Client,
    Header(HeaderName),
    Cookie(Box<str>),
    Parameter(Box<str>),
}

/// A variable that has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable ${0} is not known")]
pub struct UnknownVariable(pub String);

impl Template {
    /// Reads a text; `constant` gives what is known already.
    pub fn parse(text: &str, constant: &dyn Fn(&str) -> Option<String>) -> Result<Template, UnknownVariable> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            let (name, left) = variable_name(after);
            rest = left;
            if name.is_empty() {
                literal.push('$');
            } else if let Some(known) = constant(name) {
                literal.push_str(&known);
            } else {
                let variable = variable(name).ok_or_else(|| UnknownVariable(name.to_owned()))?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Variable(variable));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Template(parts))
    }

    /// The text when no part of a request is in it.
    pub fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the client's address is in it.
    pub fn has_client(&self) -> bool {
        self.0.contains(&Part::Variable(Variable::Client))
    }

    /// The text for a request.
    pub(crate) fn render(&self, head: &RequestHead<'_>, origin: Origin<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Variable(variable) => text.push_str(&variable.value(head, origin)),
            }
        }
        text
    }
}

/// The name of the variable at the beginning, in braces or not, and what follows.
fn variable_name(text: &str) -> (&str, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, rest);
    }
    text.split_at(text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len()))
}

fn variable(name: &str) -> Option<Variable> {
    Some(match name {
        "scheme" | "pass_access_scheme" => Variable::Scheme,
        "host" | "best_http_host" | "http_host" | "server_name" => Variable::Host,
        "server_port" | "pass_server_port" => Variable::Port,
        "uri" | "document_uri" => Variable::Path,
        "args" | "query_string" => Variable::Query,
        "request_uri" => Variable::Target,
        "escaped_request_uri" => Variable::EscapedTarget,
        "request_method" => Variable::Method,
        "remote_addr" | "binary_remote_addr" => Variable::Client,
        _ => {
            if let Some(header) = name.strip_prefix("http_") {
                Variable::Header(HeaderName::try_from(header.replace('_', "-")).ok()?)
            } else if let Some(cookie) = name.strip_prefix("cookie_") {
                Variable::Cookie(cookie.into())
            } else {
                Variable::Parameter(name.strip_prefix("arg_")?.into())
            }
        }
    })
}

impl Variable {
    fn value<'a>(&self, head: &RequestHead<'a>, origin: Origin<'a>) -> Cow<'a, str> {
        match self {
            Variable::Scheme => Cow::Borrowed(if origin.tls { "https" } else { "http" }),
            Variable::Host => Cow::Borrowed(origin.host),
            Variable::Port => Cow::Owned(origin.port.to_string()),
            Variable::Path => Cow::Borrowed(origin.path),
            Variable::Query => Cow::Borrowed(origin.query.unwrap_or("")),
            Variable::Target => target(origin),
            Variable::EscapedTarget => Cow::Owned(escaped(&target(origin))),
            Variable::Method => Cow::Owned(head.method.to_string()),
            Variable::Client => Cow::Owned(origin.client.map(|client| client.to_string()).unwrap_or_default()),
            Variable::Header(name) => Cow::Borrowed(text(head.headers, name)),
            Variable::Cookie(name) => Cow::Borrowed(cookie(head.headers, name).unwrap_or("")),
            Variable::Parameter(name) => {
                let pairs = origin.query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
                Cow::Borrowed({ pairs }.find(|(key, _)| *key == &**name).map_or("", |(_, value)| value))
            }
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    // A cookie header that is asked for as a whole is given as the first of several.
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn target(origin: Origin<'_>) -> Cow<'_, str> {
    match origin.query {
        None => Cow::Borrowed(origin.path),
        Some(query) => Cow::Owned(format!("{}?{query}", origin.path)),
    }
}

/// Everything but unreserved characters percent-encoded (RFC 3986, section 2.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;

    #[test]
    fn variables_stand_for_parts_of_the_request() {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-client", HeaderValue::from_static("phone"));
        headers.insert(http::header::COOKIE, HeaderValue::from_static("session=s1"));
        let (method, path, query) = (Method::GET, "/a b/", Some("q=1&r=x"));
        let head = RequestHead { host: "shop.test", method: &method, path, query, headers: &headers };
        let client = Some("10.0.0.1".parse().unwrap());
        let origin = Origin { tls: true, host: "shop.test", port: 443, path, query, client };
        let constant = |name: &str| (name == "namespace").then(|| "shop".to_owned());
        for (text, expected) in [
            ("https://new.test", "https://new.test"),
            ("https://new.test$request_uri", "https://new.test/a b/?q=1&r=x"),
            ("$scheme://$host:$server_port$uri?$args", "https://shop.test:443/a b/?q=1&r=x"),
            ("rd=$escaped_request_uri", "rd=%2Fa%20b%2F%3Fq%3D1%26r%3Dx"),
            ("${request_method}-$http_x_api_client-$cookie_session-$arg_r", "GET-phone-s1-x"),
            ("a.$namespace.svc", "a.shop.svc"),
            ("$remote_addr", "10.0.0.1"),
            ("$http_absent$arg_absent$cookie_absent!", "!"),
            ("5$ and ${", "5$ and ${"),
            ("", ""),
        ] {
            assert_eq!(Template::parse(text, &constant).unwrap().render(&head, origin), expected, "{text}");
        }
        assert_eq!(Template::parse("$what", &constant), Err(UnknownVariable("what".into())));
        let fixed = |text| Template::parse(text, &constant).unwrap().fixed().map(str::to_owned);
        assert_eq!((fixed("a.$namespace"), fixed("$host"), fixed("")), (Some("a.shop".into()), None, Some("".into())));
    }
}
