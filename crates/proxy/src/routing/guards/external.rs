//! A service that is asked whether a request passes: what it is told, and what its answer means.
//!
//! Two protocols are spoken: a request of its own over HTTP, whose status is the answer, and Envoy's
//! `envoy.service.auth.v3.Authorization` over gRPC ([`check`]). Whom the answer comes from, and how long it may take, is the
//! server's business; everything here is decided from what was said.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, uri::PathAndQuery};

use super::{
    super::{backend::Share, template::Template},
    Entrant, Refusal,
};

pub mod check;

/// Tells the backend that nobody could be asked, as Envoy does.
const FAILED_OPEN: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Asks a service.
#[derive(Clone, Debug)]
pub struct External {
    /// Where it is, by weight.
    pub shares: Vec<Share>,
    /// How it is asked.
    pub protocol: AuthProtocol,
    /// Headers of the request that it is told; over gRPC all when absent, over HTTP a few besides.
    pub headers: Option<Vec<HeaderName>>,
    /// Bytes of the body that it is told; a request with a longer one is refused. Nothing of it when absent.
    pub body_max: Option<usize>,
    /// How long it may take.
    pub timeout: Duration,
    /// What happens when it cannot be asked: the request passes, or is refused with this status.
    pub failure: Failure,
    /// Whether the rule is looked for again with what it changed.
    pub recompute: bool,
}

/// What happens when nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request passes.
    Pass,
    /// It is refused.
    Refuse(StatusCode),
}

/// How a service is asked.
#[derive(Clone, Debug)]
pub enum AuthProtocol {
    /// By a request.
    Http(HttpAuth),
    /// By Envoy's protocol over gRPC.
    Grpc {
        /// The authority that is asked.
        authority: HeaderValue,
        /// What it is told besides.
        context: Vec<(String, String)>,
    },
}

/// How a service is asked by a request.
#[derive(Clone, Debug)]
pub struct HttpAuth {
    /// The method; the request's own when absent.
    pub method: Option<Method>,
    /// At which path.
    pub target: AuthTarget,
    /// The host that it is asked as; the request's own when absent.
    pub host: Option<HeaderValue>,
    /// Headers that it is told besides, with parts of the request.
    pub sets: Vec<(HeaderName, Template)>,
    /// Whether it is told all headers of the request.
    pub all_headers: bool,
    /// Headers of its answer that the backend is told.
    pub to_backend: Vec<HeaderName>,
    /// What its answers mean.
    pub reading: Reading,
}

/// The path that a service is asked at.
#[derive(Clone, Debug)]
pub enum AuthTarget {
    /// The request's, after this.
    Below(Box<str>),
    /// This one, whatever the request's is.
    Fixed(Box<str>),
    /// This one, with parts of the request in it.
    At(Template),
}

/// What answers over HTTP mean.
#[derive(Clone, Debug)]
pub enum Reading {
    /// To Envoy: 200 lets pass, a failure of the server's is one, everything else is the answer to the client.
    Envoy,
    /// To nginx: any success lets pass, 401 and 403 refuse, everything else is a failure. Cookies that it sets are the
    /// client's.
    Nginx {
        /// Where those are sent who would get a 401.
        sign_in: Option<Template>,
    },
}

/// What is done with an answer that lets pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Headers of the request that are replaced.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers that are added.
    pub append: Vec<(HeaderName, HeaderValue)>,
    /// Headers that are taken away.
    pub remove: Vec<HeaderName>,
    /// Headers of the answer to the client, and whether they are added to those that are there.
    pub answer: Vec<(HeaderName, HeaderValue, bool)>,
    /// Parameters of the query that are replaced.
    pub set_parameters: Vec<(String, String)>,
    /// Parameters that are taken away.
    pub remove_parameters: Vec<String>,
}

/// What a service said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The request passes.
    Pass(Grant),
    /// It does not.
    Refuse(Refusal),
    /// Nothing that counts: it failed.
    Failed,
}

/// Headers that are about one message, and not about what it says.
const FRAMING: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

impl External {
    /// What is asked about a request; `None` when that is no valid request.
    pub(crate) fn question(&self, entrant: &Entrant<'_>, body: &Bytes) -> Option<Request<Bytes>> {
        match &self.protocol {
            AuthProtocol::Http(http) => http.question(entrant, self.headers.as_deref().unwrap_or_default(), body),
            AuthProtocol::Grpc { authority, context } => {
                let message = check::request(entrant, self.headers.as_deref(), context, body);
                let mut request = Request::new(check::framed(&message)?);
                *request.method_mut() = Method::POST;
                *request.uri_mut() = Uri::from_static("/envoy.service.auth.v3.Authorization/Check");
                let headers = request.headers_mut();
                headers.insert(header::HOST, authority.clone());
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                Some(request)
            }
        }
    }

    /// What an answer means.
    pub(crate) fn read(
        &self,
        entrant: &Entrant<'_>,
        (status, headers, trailers): (StatusCode, &HeaderMap, &HeaderMap),
        body: Bytes,
    ) -> Said {
        match &self.protocol {
            AuthProtocol::Http(http) => http.read(entrant, status, headers, body),
            AuthProtocol::Grpc { .. } => {
                let code = trailers.get("grpc-status").or_else(|| headers.get("grpc-status"));
                if status != StatusCode::OK || code.is_none_or(|code| code != "0") {
                    return Said::Failed;
                }
                check::unframed(&body).and_then(check::answer).unwrap_or(Said::Failed)
            }
        }
    }

    /// Does with a request what was said; whether the rule is to be looked for again.
    pub(crate) fn follow(&self, said: Said, entrant: &mut Entrant<'_>) -> Result<bool, Refusal> {
        match (said, self.failure) {
            (Said::Pass(grant), _) => {
                let changed = grant.give(entrant)?;
                Ok(changed && self.recompute)
            }
            (Said::Refuse(refusal), _) => Err(refusal),
            (Said::Failed, Failure::Pass) => {
                entrant.parts.headers.insert(FAILED_OPEN, HeaderValue::from_static("true"));
                Ok(false)
            }
            (Said::Failed, Failure::Refuse(status)) => {
                Err(Refusal { body: Some(Bytes::new()), ..Refusal::bare(status) })
            }
        }
    }
}

impl HttpAuth {
    fn question(&self, entrant: &Entrant<'_>, told: &[HeaderName], body: &Bytes) -> Option<Request<Bytes>> {
        let parts = &entrant.parts;
        let own = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = match &self.target {
            AuthTarget::Below(prefix) => format!("{}{own}", prefix.trim_end_matches('/')),
            AuthTarget::Fixed(path) => path.to_string(),
            AuthTarget::At(template) => template.render(&entrant.head(), entrant.origin()),
        };
        let mut request = Request::new(body.clone());
        *request.uri_mut() = PathAndQuery::try_from(target).ok()?.into();
        *request.method_mut() = self.method.clone().unwrap_or_else(|| parts.method.clone());
        let headers = request.headers_mut();
        if self.all_headers {
            *headers = parts.headers.clone();
            for name in &FRAMING {
                headers.remove(name);
            }
            headers.remove(header::TE);
            headers.remove(header::EXPECT);
        }
        for name in [&header::AUTHORIZATION].into_iter().chain(told) {
            for (at, value) in parts.headers.get_all(name).iter().enumerate() {
                if FRAMING.contains(name) {
                    continue;
                }
                match at {
                    0 => drop(headers.insert(name, value.clone())),
                    _ => drop(headers.append(name, value.clone())),
                }
            }
        }
        for (name, template) in &self.sets {
            let value = template.render(&entrant.head(), entrant.origin());
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        headers.insert(header::HOST, self.host.clone().unwrap_or_else(|| entrant.authority.clone()));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        Some(request)
    }

    fn read(&self, entrant: &Entrant<'_>, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Said {
        match &self.reading {
            Reading::Envoy if status == StatusCode::OK => Said::Pass(self.grant(headers)),
            Reading::Envoy if status.is_server_error() => Said::Failed,
            Reading::Envoy => {
                let told = headers.iter().filter(|(name, _)| !FRAMING.contains(name) && *name != header::HOST);
                let headers = told.map(|(name, value)| (name.clone(), value.clone())).collect();
                Said::Refuse(Refusal { status, headers, body: Some(body) })
            }
            Reading::Nginx { .. } if status.is_success() => {
                let mut grant = self.grant(headers);
                // What only the service may say is not taken from the client.
                grant.remove = self.to_backend.iter().filter(|name| !headers.contains_key(*name)).cloned().collect();
                let cookies = headers.get_all(header::SET_COOKIE).iter();
                grant.answer = cookies.map(|value| (header::SET_COOKIE, value.clone(), true)).collect();
                Said::Pass(grant)
            }
            Reading::Nginx { sign_in } if status == StatusCode::UNAUTHORIZED => {
                let location = sign_in.as_ref().map(|to| to.render(&entrant.head(), entrant.origin()));
                let location = location.and_then(|to| HeaderValue::try_from(to).ok());
                let mut refusal = match location {
                    Some(to) => Refusal::bare(StatusCode::FOUND).with(header::LOCATION, to),
                    None => Refusal::bare(status),
                };
                for name in [header::WWW_AUTHENTICATE, header::SET_COOKIE] {
                    let values = headers.get_all(&name).iter().cloned();
                    refusal.headers.extend(values.map(|value| (name.clone(), value)));
                }
                Said::Refuse(refusal)
            }
            Reading::Nginx { .. } if status == StatusCode::FORBIDDEN => Said::Refuse(Refusal::bare(status)),
            Reading::Nginx { .. } => Said::Failed,
        }
    }

    /// What the backend is told of an answer.
    fn grant(&self, headers: &HeaderMap) -> Grant {
        let told = self.to_backend.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
        Grant { set: told.collect(), ..Grant::default() }
    }
}

impl Grant {
    /// Changes a request; says whether anything was changed.
    fn give(self, entrant: &mut Entrant<'_>) -> Result<bool, Refusal> {
        let changes_headers = !self.set.is_empty() || !self.append.is_empty() || !self.remove.is_empty();
        let changed = changes_headers || !self.set_parameters.is_empty() || !self.remove_parameters.is_empty();
        let headers = &mut entrant.parts.headers;
        for name in self.remove.iter().filter(|name| **name != header::HOST) {
            headers.remove(name);
        }
        for (name, value) in self.set {
            headers.insert(name, value);
        }
        for (name, value) in self.append {
            headers.append(name, value);
        }
        entrant.late.extend(self.answer);
        if self.set_parameters.is_empty() && self.remove_parameters.is_empty() {
            return Ok(changed);
        }
        let query = entrant.parts.uri.query().unwrap_or("").to_owned();
        let name_of =
            |pair: &str| super::super::matching::decoded(pair.split_once('=').map_or(pair, |(n, _)| n)).into_owned();
        let gone = |pair: &&str| {
            let name = name_of(pair);
            !pair.is_empty()
                && !self.remove_parameters.contains(&name)
                && self.set_parameters.iter().all(|(set, _)| *set != name)
        };
        let kept = query.split('&').filter(gone).map(str::to_owned);
        let set = self.set_parameters.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
        let query = kept.chain(set).collect::<Vec<_>>().join("&");
        match entrant.set_query(Some(&query)) {
            true => Ok(changed),
            false => Err(Refusal::bare(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }
}

/// A part of a query in percent encoding.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
