//! From a request to its answer.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{
    Shared,
    body::{RequestBody, ResponseBody},
    headers,
    listener::Peer,
    tunnel,
    upstream::{CONNECT, CONNECT_ELSE, Connection},
};
use crate::routing::{Backend, Decision, RequestHead, Rewrite, Rule, Share};

/// Endpoints that one request is tried on. During a roll-out one or two may be gone; more would only delay the answer
/// that the backend is unavailable.
const ATTEMPTS: usize = 3;

/// Bodies up to this size are kept in memory while their request may have to be sent again. Larger ones stream, and their
/// requests are sent once.
const KEPT_BODY_BYTES: u64 = 64 << 10;

/// With this header a client says that a repetition of its request does no harm (draft-ietf-httpapi-idempotency-key).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Answer = Response<ResponseBody>;

/// Serves a request by the table of this moment.
pub(crate) async fn handle(peer: &Peer, mut request: Request<Incoming>) -> Answer {
    if request.method() == Method::CONNECT {
        // A gateway leads to backends, not to wherever the client wants.
        return own(StatusCode::METHOD_NOT_ALLOWED);
    }
    let table = peer.shared.table.load_full();
    let Some(authority) = authority(&request) else { return own(StatusCode::BAD_REQUEST) };
    let host = host(authority.as_bytes());
    let head = RequestHead {
        host: &host,
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    match table.route(peer.port, &head, rand::random()) {
        Decision::Fail(status) => own(status),
        Decision::Redirect { rule, status, location } => {
            let mut answer = own(status);
            if let Ok(location) = HeaderValue::try_from(location) {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            rule.response.apply(answer.headers_mut());
            answer
        }
        Decision::Forward { rule, share, backend, rewrite, matched } => {
            let upgrade = headers::upgrade(request.headers()).map(|name| (name, hyper::upgrade::on(&mut request)));
            let Some(request) = outgoing(peer, request, authority, &upgrade, (rule, share), rewrite, matched) else {
                return own(StatusCode::BAD_REQUEST);
            };
            let Ok(request) = keep_body(request).await else { return own(StatusCode::BAD_REQUEST) };
            let upgrade = upgrade.map(|(_, client)| client);
            let mut answer = forward(&peer.shared, rule, backend, request, upgrade).await;
            rule.response.apply(answer.headers_mut());
            share.response.apply(answer.headers_mut());
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
    upgrade: &Option<(HeaderValue, OnUpgrade)>,
    (rule, share): (&Rule, &Share),
    rewrite: &Rewrite,
    matched: usize,
) -> Option<Request<RequestBody>> {
    let (mut parts, body) = request.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    // The gateway has answered it by reading the body.
    parts.headers.remove(header::EXPECT);
    headers::set_forwarded(&mut parts.headers, peer.address.ip(), peer.tls, Some(authority.clone()));
    parts.headers.insert(header::HOST, rewrite.host.clone().unwrap_or(authority));
    if let Some((protocol, _)) = upgrade {
        headers::set_upgrade(&mut parts.headers, protocol.clone());
    }
    rule.request.apply(&mut parts.headers);
    share.request.apply(&mut parts.headers);
    parts.uri = match &rewrite.path {
        None => parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into(),
        Some(change) => {
            let mut path = change.apply(parts.uri.path(), matched);
            if let Some(query) = parts.uri.query() {
                path.push('?');
                path.push_str(query);
            }
            Uri::try_from(path).ok()?
        }
    };
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Some(Request::from_parts(parts, RequestBody::new(body)))
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
    shared: &Arc<Shared>,
    rule: &Rule,
    backend: &Backend,
    request: Request<RequestBody>,
    upgrade: Option<OnUpgrade>,
) -> Answer {
    let deadline = rule.timeouts.request.map(|limit| Instant::now() + limit);
    let ended = request.body().ended();
    let exchange = Exchange { shared, rule, backend, fresh: upgrade.is_some() };
    let outcome = match deadline {
        None => exchange.run(request).await,
        Some(deadline) => match timeout_at(deadline, exchange.run(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StatusCode::GATEWAY_TIMEOUT),
        },
    };
    let (response, connection) = match outcome {
        Ok(answered) => answered,
        Err(status) => return own(status),
    };
    let (mut parts, body) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::remove_hop_by_hop(&mut parts.headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), Some(protocol)) = (upgrade, protocol) else { return own(StatusCode::BAD_GATEWAY) };
        headers::set_upgrade(&mut parts.headers, protocol);
        tunnel::open(shared, client, connection);
        return Response::from_parts(parts, ResponseBody::Own(None));
    }
    parts.version = Version::HTTP_11;
    let body = ResponseBody::backend(body, connection, shared.pool.clone(), ended, deadline).await;
    Response::from_parts(parts, body)
}

/// One request and its attempts.
struct Exchange<'a> {
    shared: &'a Shared,
    rule: &'a Rule,
    backend: &'a Backend,
    /// Whether only a new connection will do.
    fresh: bool,
}

impl Exchange<'_> {
    /// Tries endpoints until one answers. A request is sent again only when nothing of it was sent, or when it is
    /// repeatable and its body is at hand.
    async fn run(&self, mut request: Request<RequestBody>) -> Result<(Response<Incoming>, Connection), StatusCode> {
        let mut avoid: Vec<SocketAddr> = Vec::new();
        let mut fresh = self.fresh;
        for _ in 0..ATTEMPTS {
            let Some(address) = self.backend.pick(&avoid).or_else(|| self.backend.pick(&[])) else {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            };
            let mut connection = match self.connection(address, fresh).await {
                Ok(connection) => connection,
                Err(error) => {
                    debug!(backend = self.backend.name(), %address, %error, "cannot connect to an endpoint");
                    avoid.push(address);
                    continue;
                }
            };
            let spare = Spare::of(&request);
            let failed = match self.send(&mut connection, request).await? {
                Ok(response) => return Ok((response, connection)),
                Err(failed) => failed,
            };
            debug!(backend = self.backend.name(), %address, error = %failed.error, "an endpoint gave no answer");
            request = match failed.unsent.or_else(|| spare.map(Spare::request)) {
                Some(request) => request,
                None => return Err(StatusCode::BAD_GATEWAY),
            };
            // An idle connection that the backend had closed says nothing about the backend.
            if !connection.reused {
                avoid.push(address);
            }
            fresh = true;
        }
        Err(StatusCode::BAD_GATEWAY)
    }

    async fn connection(&self, address: SocketAddr, fresh: bool) -> std::io::Result<Connection> {
        if !fresh && let Some(idle) = self.shared.pool.take(address).await {
            return Ok(idle);
        }
        let others = self.backend.endpoints().len() > 1;
        Connection::open(address, if others { CONNECT_ELSE } else { CONNECT }).await
    }

    async fn send(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
    ) -> Result<Result<Response<Incoming>, super::upstream::SendError>, StatusCode> {
        match self.rule.timeouts.backend {
            None => Ok(connection.send(request).await),
            Some(limit) => {
                tokio::time::timeout(limit, connection.send(request)).await.map_err(|_| StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }
}

/// What it takes to send a request again.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
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
            body: body.clone(),
        })
    }

    fn request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Whole(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

/// An answer in the gateway's own words.
fn own(status: StatusCode) -> Answer {
    let text = match status.canonical_reason() {
        Some(reason) if status.is_client_error() || status.is_server_error() => {
            Some(Bytes::from_static(reason.as_bytes()))
        }
        _ => None,
    };
    let mut answer = Response::new(ResponseBody::Own(text));
    *answer.status_mut() = status;
    answer
}
