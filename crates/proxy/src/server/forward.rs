//! From a request to its answer.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{
    Shared,
    answer::{Answer, is_grpc, own},
    body::{RequestBody, ResponseBody},
    headers,
    listener::Peer,
    mirror, tunnel,
    upstream::{CONNECT, CONNECT_ELSE, Line, SendError, Way},
};
use crate::routing::{Backend, Decision, Forward, RequestHead};

/// Endpoints that one request is tried on. During a roll-out one or two may be gone; more would only delay the answer
/// that the backend is unavailable.
const ATTEMPTS: usize = 3;

/// Bodies up to this size are kept in memory while their request may have to be sent again. Larger ones stream, and their
/// requests are sent once.
const KEPT_BODY_BYTES: u64 = 64 << 10;

/// With this header a client says that a repetition of its request does no harm (draft-ietf-httpapi-idempotency-key).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Serves a request by the table of this moment.
pub(crate) async fn handle(peer: &Peer, request: Request<Incoming>) -> Answer {
    if request.method() == Method::CONNECT {
        // A gateway leads to backends, not to wherever the client wants.
        return own(StatusCode::METHOD_NOT_ALLOWED, false);
    }
    let table = peer.shared.table.load_full();
    let grpc = is_grpc(request.headers());
    let Some(authority) = authority(&request) else { return own(StatusCode::BAD_REQUEST, grpc) };
    let host = host(authority.as_bytes());
    let head = RequestHead {
        host: &host,
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    let Some(port) = table.port(peer.site) else { return own(StatusCode::NOT_FOUND, grpc) };
    match port.route(peer.site.port, peer.through(), &head, rand::random()) {
        Decision::NotFound => own(StatusCode::NOT_FOUND, grpc),
        Decision::Misdirected => own(StatusCode::MISDIRECTED_REQUEST, grpc),
        Decision::Fail(status) => own(status, grpc),
        Decision::Preflight(headers) => {
            let mut answer = own(StatusCode::OK, false);
            *answer.headers_mut() = headers;
            answer
        }
        Decision::Redirect { rule, status, location } => {
            let mut answer = own(status, false);
            if let Ok(location) = HeaderValue::try_from(location) {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            rule.filters.response.apply(answer.headers_mut());
            answer
        }
        Decision::Forward(way) => {
            let origin = way.cors().and_then(|_| request.headers().get(header::ORIGIN).cloned());
            let mut answer = match forward(peer, way, request, authority).await {
                Ok(answer) => answer,
                Err(status) => own(status, grpc),
            };
            if let Some(cors) = way.cors() {
                cors.apply(origin.as_ref(), answer.headers_mut());
            }
            way.rule.filters.response.apply(answer.headers_mut());
            way.share.filters.response.apply(answer.headers_mut());
            answer
        }
    }
}

/// The authority that a request is for.
fn authority(request: &Request<Incoming>) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    }
}

/// The host of an authority, in lower case and without its port; brackets of an address stay.
fn host(authority: &[u8]) -> Cow<'_, str> {
    let authority = std::str::from_utf8(authority).unwrap_or("");
    let host = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The request as the backend gets it; `None` when a rewrite makes no valid path.
fn outgoing(
    peer: &Peer,
    request: Request<Incoming>,
    authority: HeaderValue,
    upgrade: Option<&HeaderValue>,
    way: &Forward<'_>,
    reach: &Way,
) -> Option<Request<RequestBody>> {
    let (mut parts, body) = request.into_parts();
    let trailers = reach.http2 && headers::takes_trailers(&parts.headers);
    headers::remove_hop_by_hop(&mut parts.headers);
    // The gateway has answered it by reading the body.
    parts.headers.remove(header::EXPECT);
    headers::set_forwarded(&mut parts.headers, peer.address.ip(), peer.tls, Some(authority.clone()));
    let filters = [&way.rule.filters, &way.share.filters];
    let rewrites = || filters.iter().rev().filter_map(|filters| filters.rewrite.as_ref());
    let host = rewrites().find_map(|rewrite| rewrite.host.clone()).unwrap_or(authority);
    parts.headers.insert(header::HOST, host);
    if let Some(protocol) = upgrade {
        headers::set_upgrade(&mut parts.headers, protocol.clone());
    }
    for filters in filters {
        filters.request.apply(&mut parts.headers);
    }
    if trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let target = match rewrites().find_map(|rewrite| rewrite.path.as_ref()) {
        None => parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        Some(change) => {
            let mut path = change.apply(parts.uri.path(), way.matched);
            if let Some(query) = parts.uri.query() {
                path.push(if path.contains('?') { '&' } else { '?' });
                path.push_str(query);
            }
            PathAndQuery::try_from(path).ok()?
        }
    };
    parts.uri = if reach.http2 { absolute(&mut parts.headers, reach.scheme(), target)? } else { target.into() };
    parts.version = if reach.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    parts.extensions.clear();
    Some(Request::from_parts(parts, RequestBody::new(body)))
}

/// In HTTP/2 the host is part of the target.
fn absolute(headers: &mut HeaderMap, scheme: Scheme, target: PathAndQuery) -> Option<Uri> {
    let host = headers.remove(header::HOST)?;
    let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(target);
    uri.build().ok()
}

/// Reads a small body into memory when its request may be sent again.
async fn keep_body(request: Request<RequestBody>) -> Result<Request<RequestBody>, hyper::Error> {
    if !repeatable(request.method(), request.headers()) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    Ok(Request::from_parts(parts, body.keep(KEPT_BODY_BYTES).await?))
}

/// Whether sending a request twice does no more than sending it once.
fn repeatable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)
}

async fn forward(
    peer: &Peer,
    way: Forward<'_>,
    mut request: Request<Incoming>,
    authority: HeaderValue,
) -> Result<Answer, StatusCode> {
    let (shared, timeouts) = (&peer.shared, way.rule.timeouts);
    let deadline = timeouts.request.map(|limit| Instant::now() + limit);
    let upgrade = headers::upgrade(request.headers()).map(|name| (name, hyper::upgrade::on(&mut request)));
    let mut reach = Way::to(way.backend, way.http2, way.identity);
    // Protocols are switched in HTTP/1.1 only.
    reach.http2 &= upgrade.is_none();
    if reach.is_broken() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let protocol = upgrade.as_ref().map(|(name, _)| name);
    let request = outgoing(peer, request, authority, protocol, &way, &reach).ok_or(StatusCode::BAD_REQUEST)?;
    let mut request = keep_body(request).await.map_err(|_| StatusCode::BAD_REQUEST)?;
    let upgrade = upgrade.map(|(_, client)| client);
    let mirrors = || way.rule.filters.mirrors.iter().chain(&way.share.filters.mirrors);
    if mirrors().next().is_some() {
        mirror::start(shared, mirrors(), way.identity, &mut request);
    }
    let ended = request.body().ended();
    let exchange =
        Exchange { shared, backend: way.backend, way: reach, limit: timeouts.backend, fresh: upgrade.is_some() };
    let (response, line) = match deadline {
        None => exchange.run(request).await?,
        Some(deadline) => {
            timeout_at(deadline, exchange.run(request)).await.map_err(|_| StatusCode::GATEWAY_TIMEOUT)??
        }
    };
    let (mut parts, body) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::remove_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), Some(protocol), Line::One(connection)) = (upgrade, protocol, line) else {
            return Err(StatusCode::BAD_GATEWAY);
        };
        headers::set_upgrade(&mut parts.headers, protocol);
        tunnel::open(shared, client, connection);
        return Ok(Response::from_parts(parts, ResponseBody::Own(None)));
    }
    let body = ResponseBody::backend(body, line, shared.pool.clone(), ended, deadline).await;
    Ok(Response::from_parts(parts, body))
}

/// One request and its attempts. What decides on a further attempt is [`Exchange::run`]'s loop: budgets and pauses between
/// attempts belong there.
pub(crate) struct Exchange<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) backend: &'a Backend,
    pub(crate) way: Way,
    /// How long one attempt may take.
    pub(crate) limit: Option<Duration>,
    /// Whether only a new connection will do.
    pub(crate) fresh: bool,
}

impl Exchange<'_> {
    /// Tries endpoints until one answers. A request is sent again only when nothing of it was sent, or when it is
    /// repeatable and its body is at hand.
    pub(crate) async fn run(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Line), StatusCode> {
        let mut avoid: Vec<SocketAddr> = Vec::new();
        let mut fresh = self.fresh;
        for _ in 0..ATTEMPTS {
            let Some(address) = self.backend.pick(&avoid).or_else(|| self.backend.pick(&[])) else {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            };
            let mut line = match self.line(address, fresh).await {
                Ok(line) => line,
                Err(error) => {
                    debug!(backend = self.backend.name(), %address, %error, "cannot connect to an endpoint");
                    avoid.push(address);
                    continue;
                }
            };
            let spare = Spare::of(&request);
            let failed = match self.send(&mut line, request).await? {
                Ok(response) => return Ok((response, line)),
                Err(failed) => failed,
            };
            debug!(backend = self.backend.name(), %address, error = %failed.error, "an endpoint gave no answer");
            request = match failed.unsent.or_else(|| spare.map(Spare::request)) {
                Some(request) => request,
                None => return Err(StatusCode::BAD_GATEWAY),
            };
            // An idle connection that the backend had closed says nothing about the backend.
            if !line.reused() {
                avoid.push(address);
            }
            fresh = true;
        }
        Err(StatusCode::BAD_GATEWAY)
    }

    async fn line(&self, address: SocketAddr, fresh: bool) -> std::io::Result<Line> {
        let others = self.backend.endpoints().len() > 1;
        Line::get(self.shared, &self.way, address, fresh, if others { CONNECT_ELSE } else { CONNECT }).await
    }

    async fn send(
        &self,
        line: &mut Line,
        request: Request<RequestBody>,
    ) -> Result<Result<Response<Incoming>, SendError>, StatusCode> {
        match self.limit {
            None => Ok(line.send(request).await),
            Some(limit) => {
                tokio::time::timeout(limit, line.send(request)).await.map_err(|_| StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }
}

/// What it takes to send a request again.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    body: Option<Bytes>,
}

impl Spare {
    /// `None` for a request that must not be sent twice, or cannot be.
    fn of(request: &Request<RequestBody>) -> Option<Spare> {
        let RequestBody::Whole(body) = request.body() else { return None };
        repeatable(request.method(), request.headers()).then(|| Spare {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            version: request.version(),
            body: body.clone(),
        })
    }

    fn request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Whole(self.body));
        *request.version_mut() = self.version;
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}
