//! Asking a backend for the page in place of an error, as ingress-nginx does: it is told the error and where it is from,
//! and its answer is the client's.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::PathAndQuery};
use tracing::debug;

use super::{
    answer::Answer,
    body::{RequestBody, ResponseBody},
    connection::Peer,
    exchange::{Answered, Exchange},
    headers,
    upstream::Way,
};
use crate::routing::{Backend, ErrorPages};

const X_CODE: HeaderName = HeaderName::from_static("x-code");
const X_FORMAT: HeaderName = HeaderName::from_static("x-format");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

/// How long a page may take: as long as any answer through an Ingress, unless annotations say otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// What is known of a request that may end in a page.
pub(crate) struct Wanted<'a> {
    pages: &'a ErrorPages,
    head: bool,
    target: PathAndQuery,
    host: HeaderValue,
    accept: Option<HeaderValue>,
    id: Option<HeaderValue>,
}

impl<'a> Wanted<'a> {
    /// What the page's backend is told of this request, which is given its name here, so that all hear the same.
    pub(crate) fn new(pages: &'a ErrorPages, request: &mut Request<RequestBody>, host: &HeaderValue) -> Self {
        if !request.headers().contains_key(headers::X_REQUEST_ID)
            && let Some(id) = headers::request_id()
        {
            request.headers_mut().insert(headers::X_REQUEST_ID, id);
        }
        let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Wanted {
            pages,
            head: request.method() == Method::HEAD,
            target,
            host: host.clone(),
            accept: request.headers().get(header::ACCEPT).cloned(),
            id: request.headers().get(headers::X_REQUEST_ID).cloned(),
        }
    }

    /// Whether the pages' backend answers the request, because there is no other to do so.
    pub(crate) fn stands_in_for(&self, backend: &Backend) -> bool {
        self.pages.vacant && backend.current().is_empty()
    }

    /// The answer of who stands in; `None` when there is none.
    pub(crate) async fn stand_in(&self, peer: &Peer) -> Option<Answer> {
        self.ask(peer, StatusCode::SERVICE_UNAVAILABLE, self.target.clone()).await
    }

    /// The page in place of an error; the error itself when there is none.
    pub(crate) async fn instead_of(&self, peer: &Peer, answer: Answer) -> Answer {
        if !self.pages.takes(answer.status()) {
            return answer;
        }
        self.ask(peer, answer.status(), PathAndQuery::from_static("/")).await.unwrap_or(answer)
    }

    fn request(&self, status: StatusCode, target: PathAndQuery) -> Option<Request<RequestBody>> {
        let mut request = Request::new(RequestBody::Whole(None));
        *request.method_mut() = if self.head { Method::HEAD } else { Method::GET };
        *request.uri_mut() = target.into();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(X_CODE, HeaderValue::from(status.as_u16()));
        headers.insert(X_ORIGINAL_URI, HeaderValue::from_str(self.target.as_str()).ok()?);
        for (name, value) in
            [(X_FORMAT, &self.accept), (header::ACCEPT, &self.accept), (headers::X_REQUEST_ID, &self.id)]
        {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        headers.extend(self.pages.about.iter().cloned());
        Some(request)
    }

    async fn ask(&self, peer: &Peer, status: StatusCode, target: PathAndQuery) -> Option<Answer> {
        let (shared, backend) = (&peer.shared, &*self.pages.backend);
        let mut way = Way::to(backend, false, None);
        // A page is asked for in the words of HTTP/1.1, which every server of pages knows.
        way.http2 = false;
        if way.is_broken() {
            return None;
        }
        let request = self.request(status, target)?;
        let ended = request.body().ended();
        let (limit, connect, silence) = (Some(LIMIT), None, Some(LIMIT));
        let exchange =
            Exchange { shared, backend, way, limit, connect, silence, fresh: false, plan: None, ended: ended.clone() };
        let asked = tokio::time::timeout(LIMIT, exchange.run(request)).await;
        let Ok(Ok(Answered { response, line, .. })) = asked else {
            debug!(backend = backend.name(), %status, "there is no page for an error: its backend does not answer");
            return None;
        };
        let (mut parts, body) = response.into_parts();
        headers::remove_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let body = ResponseBody::backend(body, line, shared.pool.clone(), ended, None, None).await;
        Some(Response::from_parts(parts, body.unless_silent(silence)))
    }
}
