//! A request that wants to pass, and what is learnt of its sender on the way.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Uri, request::Parts, uri::PathAndQuery};
use serde_json::{Map, Value};

use super::super::{matching::RequestHead, redirect::Origin};

/// Bytes of the path that a challenge repeats at most: Envoy's.
const REALM_PATH_BYTES: usize = 256;

/// What a token says.
pub type Claims = Map<String, Value>;

/// A request that wants to pass.
#[derive(Debug)]
pub struct Entrant<'a> {
    /// Its head, which may be changed.
    pub parts: &'a mut Parts,
    /// The host in lower case, without its port.
    pub host: &'a str,
    /// The authority that it is for.
    pub authority: &'a HeaderValue,
    /// Who sends it.
    pub client: IpAddr,
    /// Whether it came encrypted.
    pub tls: bool,
    /// What verified tokens say, by the name of their provider.
    pub tokens: Vec<(Arc<str>, Claims)>,
    /// Headers of the answer to its client, and whether they are added to those that are there.
    pub late: Vec<(HeaderName, HeaderValue, bool)>,
}

impl<'a> Entrant<'a> {
    /// A request of which nothing was asked yet.
    pub fn new(parts: &'a mut Parts, (host, authority): (&'a str, &'a HeaderValue), client: IpAddr, tls: bool) -> Self {
        Entrant { parts, host, authority, client, tls, tokens: Vec::new(), late: Vec::new() }
    }

    /// Where it was sent, as far as the request says it.
    pub(crate) fn origin(&self) -> Origin<'_> {
        let uri = &self.parts.uri;
        let port = self.authority.to_str().ok().and_then(|authority| authority.rsplit_once(':')?.1.parse().ok());
        let port = port.unwrap_or(if self.tls { 443 } else { 80 });
        Origin { client: Some(self.client), tls: self.tls, host: self.host, port, path: uri.path(), query: uri.query() }
    }

    /// What a decision looks at.
    pub fn head(&self) -> RequestHead<'_> {
        let uri = &self.parts.uri;
        let (method, headers) = (&self.parts.method, &self.parts.headers);
        RequestHead { host: self.host, method, path: uri.path(), query: uri.query(), headers }
    }

    /// The verified token of a provider.
    pub fn token(&self, provider: &str) -> Option<&Claims> {
        self.tokens.iter().find(|(of, _)| **of == *provider).map(|(_, claims)| claims)
    }

    /// Where the request was sent, as a challenge names what it protects.
    pub fn realm(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let end = (0..=REALM_PATH_BYTES.min(path.len())).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
        let authority = self.authority.to_str().unwrap_or(self.host);
        // It is put between quotes, which may not be in it.
        format!("{scheme}://{authority}{}", &path[..end]).replace('"', "%22").replace('\\', "%5C")
    }

    /// Replaces the query; says whether that could be done.
    pub fn set_query(&mut self, query: Option<&str>) -> bool {
        let path = self.parts.uri.path();
        let target = match query {
            Some(query) if !query.is_empty() => format!("{path}?{query}"),
            _ => path.to_owned(),
        };
        let Ok(target) = PathAndQuery::try_from(target) else { return false };
        let mut parts = std::mem::take(&mut self.parts.uri).into_parts();
        parts.path_and_query = Some(target);
        match Uri::from_parts(parts) {
            Ok(uri) => {
                self.parts.uri = uri;
                true
            }
            Err(_) => false,
        }
    }
}
