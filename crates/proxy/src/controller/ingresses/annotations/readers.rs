//! Readers of the values that only one annotation has.

use http::{HeaderName, Method, StatusCode};

use crate::{
    controller::ingresses::{
        settings::{Balancing, NextUpstream, SameSite, Spoken, Verify},
        values::{self, Read, invalid, unserved},
    },
    routing::Template,
};

pub(super) const FASTCGI: &str = "backends are spoken to in HTTP and gRPC only";

pub(super) fn put<T>(place: &mut T, read: Read<T>) -> Read<()> {
    *place = read?;
    Ok(())
}

pub(super) fn set<T>(place: &mut Option<T>, read: Read<T>) -> Read<()> {
    *place = Some(read?);
    Ok(())
}

/// A value that says what happens anyway, or that is known and not served.
pub(super) fn one_of(text: &str, done: &[&str], known: &[&str]) -> Read<()> {
    if done.contains(&text) {
        return Ok(());
    }
    if known.contains(&text) {
        return Err(unserved(format!("{text:?} is not served, only {}", done.join(", "))));
    }
    Err(invalid(format!("{text:?} is none of {}", [done, known].concat().join(", "))))
}

pub(super) fn switch(text: &str) -> Read<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(invalid(format!("{text:?} is neither \"on\" nor \"off\""))),
    }
}

pub(super) fn buffering(text: &str) -> Read<()> {
    match switch(text)? {
        false => Ok(()),
        true => Err(unserved("bodies pass through as they come")),
    }
}

pub(super) fn spoken(text: &str) -> Read<Spoken> {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => Ok(Spoken::Http),
        "HTTPS" => Ok(Spoken::Https),
        "GRPC" => Ok(Spoken::Grpc),
        "GRPCS" => Ok(Spoken::Grpcs),
        "FCGI" | "AJP" => Err(unserved(FASTCGI)),
        _ => Err(invalid(format!("{text:?} is none of HTTP, HTTPS, GRPC, GRPCS, AUTO_HTTP"))),
    }
}

pub(super) fn verify(text: &str) -> Read<Verify> {
    match text {
        "on" => Ok(Verify::On),
        "off" => Ok(Verify::Off),
        "optional_no_ca" => Ok(Verify::Asked),
        "optional" => Ok(Verify::Optional),
        _ => Err(invalid(format!("{text:?} is none of on, off, optional, optional_no_ca"))),
    }
}

pub(super) fn template(text: &str) -> Read<Template> {
    let template = variables(text)?;
    if template.has_client() {
        return Err(unserved("the address of a client is not for others to be told"));
    }
    match text {
        "" => Err(invalid("it names no place")),
        text if text.bytes().any(|b| b.is_ascii_control() || b == b' ') => Err(invalid(format!("{text:?} is no URL"))),
        _ => Ok(template),
    }
}

pub(super) fn aliases(text: &str) -> Read<Vec<String>> {
    values::list(text).iter().map(|name| values::hostname(name)).collect()
}

pub(super) fn origins(text: &str) -> Read<Vec<String>> {
    let origins = values::list(text);
    let web = |origin: &String| {
        origin == "*" || origin == "null" || origin.split_once("://").is_some_and(|(_, host)| !host.is_empty())
    };
    match origins.iter().find(|origin| !web(origin)) {
        Some(origin) => Err(invalid(format!("{origin:?} is no origin such as https://shop.test"))),
        None => Ok(origins),
    }
}

/// One of several words, and what it stands for.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Read<T> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        invalid(format!("{text:?} is none of {}", words.join(", ")))
    })
}

/// A text with nginx's variables in it.
pub(super) fn variables(text: &str) -> Read<Template> {
    Template::parse(text, &|_| None).map_err(|error| invalid(format!("{text:?}: {error}")))
}

pub(super) fn load_balance(text: &str) -> Read<Balancing> {
    choice(text, &[("round_robin", Balancing::Turns), ("ewma", Balancing::Fastest)])
}

/// What is hashed.
pub(super) fn hash_key(text: &str) -> Read<Template> {
    match text {
        "" => Err(invalid("it names nothing to hash")),
        text => variables(text),
    }
}

/// What another endpoint is tried for.
pub(super) fn next_upstream(text: &str) -> Read<NextUpstream> {
    let mut next = NextUpstream::default();
    for condition in text.split_whitespace() {
        match condition {
            "off" => return Ok(NextUpstream::default()),
            // A header that is none is an answer that broke off.
            "error" | "invalid_header" => next.error = true,
            "timeout" => next.timeout = true,
            "non_idempotent" => next.any_method = true,
            "http_403" => next.statuses.push(StatusCode::FORBIDDEN),
            "http_404" => next.statuses.push(StatusCode::NOT_FOUND),
            "http_429" => next.statuses.push(StatusCode::TOO_MANY_REQUESTS),
            "http_500" => next.statuses.push(StatusCode::INTERNAL_SERVER_ERROR),
            "http_502" => next.statuses.push(StatusCode::BAD_GATEWAY),
            "http_503" => next.statuses.push(StatusCode::SERVICE_UNAVAILABLE),
            "http_504" => next.statuses.push(StatusCode::GATEWAY_TIMEOUT),
            _ => return Err(invalid(format!("{condition:?} is no reason for another try"))),
        }
    }
    Ok(next)
}

/// How many endpoints are tried; 0 is as many as there may be.
pub(super) fn tries(text: &str) -> Read<u32> {
    let most = resilience::retry::TRIES_MAX;
    match values::number(text)? {
        0 => Ok(most),
        tries if tries <= most => Ok(tries),
        tries => Err(invalid(format!("{tries} is more than {most}"))),
    }
}

pub(super) fn same_site(text: &str) -> Read<SameSite> {
    choice(text, &[("None", SameSite::None), ("Lax", SameSite::Lax), ("Strict", SameSite::Strict)])
}

/// Statuses that have pages.
pub(super) fn statuses(text: &str) -> Read<Vec<StatusCode>> {
    let status = |text: &String| {
        let status = values::number(text).ok().filter(|status| (300..=599).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        status.ok_or_else(|| invalid(format!("{text:?} is no status of an error")))
    };
    values::list(text).iter().map(status).collect()
}

/// The status of an answer that refuses a request.
pub(super) fn refusing(text: &str) -> Read<StatusCode> {
    let status = values::number(text).ok().filter(|status| (400..=599).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    status.ok_or_else(|| invalid(format!("{text:?} is none of 400 to 599")))
}

pub(super) fn method(text: &str) -> Read<Method> {
    Method::try_from(text).map_err(|_| invalid(format!("{text:?} is no method")))
}

/// Names of headers between commas.
pub(super) fn header_names(text: &str) -> Read<Vec<HeaderName>> {
    values::list(text).iter().map(|name| values::header_name(name)).collect()
}
