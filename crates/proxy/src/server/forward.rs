//! From a request to its answer.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout_at;

use super::{
    account::{Answerer, Went},
    answer::{Answer, is_grpc, own, refused},
    arrival::{self, Arrival},
    body::{BodyError, Ended, RequestBody, ResponseBody},
    compress,
    connection::Peer,
    exchange::{Answered, Exchange, Held, Single, Unanswered, repeatable},
    guards,
    headers::{self, Forwarded},
    health, mirror, once,
    pages::Wanted,
    traffic::{self, Course, Replacing},
    tunnel,
    upstream::{Line, Way},
};
use crate::routing::{Decision, Direct, Forward, Guest, Keyed, PortTable, Refusal, RequestHead, Upstream, without};

/// Bodies up to this size are kept in memory while their request may have to be sent again. Larger ones stream, and their
/// requests are sent once.
const KEPT_BODY_BYTES: u64 = 64 << 10;

/// Says that a request was refused because there is too much to do already, as Envoy has it.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// What is said to who may not have what it asks for: Envoy's words.
const DENIED: &str = "RBAC: access denied";

/// Serves a request by the table of this moment.
pub(crate) async fn handle(peer: &Peer, request: Request<Incoming>) -> Answer {
    if request.method() == Method::CONNECT {
        // A gateway leads to backends, not to wherever the client wants.
        return own(StatusCode::METHOD_NOT_ALLOWED, false);
    }
    let table = peer.shared.table.load_full();
    let grpc = is_grpc(request.headers());
    if !is_framed(request.headers()) {
        return own(StatusCode::NOT_IMPLEMENTED, grpc);
    }
    let Some(port) = peer.port(&table) else { return own(StatusCode::NOT_FOUND, grpc) };
    let request = request.map(RequestBody::new);
    match port.client() {
        None => serve(peer, port, request).await,
        // Kept apart, so that requests without such policies have a small future.
        Some(first) => Box::pin(arrival::serve(peer, port, first, request)).await,
    }
}

/// Serves a request by the listeners of a port.
pub(crate) async fn serve(peer: &Peer, port: &PortTable, mut request: Request<RequestBody>) -> Answer {
    let grpc = is_grpc(request.headers());
    if grpc || peer.visit.is_some() {
        // Calls may be silent for as long as both sides like, and pods say themselves how patient they are.
        request.body_mut().be_patient();
    }
    let Some(authority) = authority(&request) else { return own(StatusCode::BAD_REQUEST, grpc) };
    let host = host(authority.as_bytes());
    let (head, random) = (head(&host, &request), rand::random());
    if peer.visit.as_ref().is_some_and(|visit| !visit.admits(&head, authority.as_bytes())) {
        return refused(Refusal::new(StatusCode::FORBIDDEN, DENIED), grpc);
    }
    let found = match port.find(peer.site.port, peer.through(), &head, random) {
        Ok(found) => found,
        Err(decision) => return act(peer, decision, request, authority).await,
    };
    let inherited = found.inherited();
    match found.guards(inherited.as_deref()) {
        None => {
            let decision = found.decide(&head, inherited.as_deref(), random);
            act(peer, decision, request, authority).await
        }
        // Kept apart, so that requests without guards have a small future.
        Some(guards) => {
            let inherited = inherited.as_deref();
            let asked = guards::Asked { peer, port, found, inherited, host: &host };
            Box::pin(asked.serve(guards, request, authority.clone())).await
        }
    }
}

/// What a decision about a request looks at.
pub(crate) fn head<'a, B>(host: &'a str, request: &'a Request<B>) -> RequestHead<'a> {
    let uri = request.uri();
    RequestHead { host, method: request.method(), path: uri.path(), query: uri.query(), headers: request.headers() }
}

/// Does what was decided.
pub(crate) async fn act(
    peer: &Peer,
    decision: Decision<'_>,
    mut request: Request<RequestBody>,
    authority: HeaderValue,
) -> Answer {
    let grpc = is_grpc(request.headers());
    match decision {
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
        Decision::Answer { rule, direct } => {
            let mut answer = direct_answer(direct);
            rule.filters.response.apply(answer.headers_mut());
            answer
        }
        Decision::Forward(way) => {
            let wanted = way.rule.pages.as_ref().map(|pages| Wanted::new(pages, &mut request, &authority));
            let origin = way.cors().and_then(|_| request.headers().get(header::ORIGIN).cloned());
            let compression = way.traffic.and_then(|traffic| traffic.compression.as_ref());
            let compression = compression.map(|compression| (compression, compress::Wanted::by(&request)));
            let barred = match way.traffic {
                Some(traffic) => {
                    let host = host(authority.as_bytes());
                    let head = head(&host, &request);
                    let length = request.body().size_hint().exact();
                    let from = (arrival::client(peer, &request), &way.rule.owner);
                    traffic::bar(traffic, &head, length, from, grpc).await
                }
                None => Ok(None),
            };
            let stands_in = wanted.as_ref().filter(|wanted| barred.is_ok() && wanted.stands_in_for(way.backend));
            let stood_in = match stands_in {
                // Kept apart, so that requests of rules without pages have a small future.
                Some(wanted) => Box::pin(wanted.stand_in(peer)).await,
                None => None,
            };
            let replacing = Replacing::of(way.traffic, peer.tls, &authority, &request);
            let (way, own, mut answer) = match (stood_in, barred) {
                (Some(answer), _) => (way, None, answer),
                (None, Err(barred)) => (way, Some(true), *barred),
                (None, Ok(guest)) => {
                    let (way, own, answer) = passed(peer, way, (request, guest), authority, grpc).await;
                    (way, Some(own), answer)
                }
            };
            if let (Some(replacing), Some(own)) = (replacing, own) {
                answer = replacing.apply(own, answer);
            }
            if let Some(wanted) = wanted.filter(|_| !grpc) {
                answer = Box::pin(wanted.instead_of(peer, answer)).await;
            }
            if let Some(cors) = way.cors() {
                cors.apply(origin.as_ref(), answer.headers_mut());
            }
            if let Some((versions, picked)) = way.rule.filters.versions.as_ref().zip(way.version) {
                versions.tell(picked, answer.headers_mut());
            }
            way.rule.filters.response.apply(answer.headers_mut());
            way.share.filters.response.apply(answer.headers_mut());
            match compression {
                Some((compression, wanted)) => compress::apply(compression, &wanted, answer),
                None => answer,
            }
        }
    }
}

/// The answer that a route gives itself.
fn direct_answer(direct: &Direct) -> Answer {
    let mut answer = Response::new(ResponseBody::Own(direct.body.as_ref().map(|(text, _)| text.clone())));
    *answer.status_mut() = direct.status;
    if let Some((_, kind)) = &direct.body {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    direct.edits.apply(answer.headers_mut());
    answer
}

/// Sends a request, unless that was done before; which way it went, and its answer with whether it is the gateway's own.
pub(crate) async fn passed<'a>(
    peer: &Peer,
    way: Forward<'a>,
    request: (Request<RequestBody>, Option<Guest>),
    authority: HeaderValue,
    grpc: bool,
) -> (Forward<'a>, bool, Answer) {
    match way.rule.filters.once.as_deref().filter(|_| !grpc) {
        None => sent(peer, way, request, authority, grpc).await,
        Some(once) => {
            let (own, answer) = Box::pin(once::serve(peer, once, way, request, authority)).await;
            (way, own, answer)
        }
    }
}

/// Sends a request; which way it went, and its answer with whether it is the gateway's own.
pub(crate) async fn sent<'a>(
    peer: &Peer,
    way: Forward<'a>,
    (mut request, guest): (Request<RequestBody>, Option<Guest>),
    authority: HeaderValue,
    grpc: bool,
) -> (Forward<'a>, bool, Answer) {
    if let Some(most) = way.traffic.and_then(|traffic| traffic.body_max) {
        request.body_mut().no_longer_than(most);
    }
    let host = host(authority.as_bytes());
    let source = arrival::client(peer, &request);
    let mut course = Course::of(way, Keyed { head: head(&host, &request), at: (peer.tls, peer.site.port), source });
    let (stream, silence) = arrival::limits(&request);
    course.shorten(stream, silence);
    let way = course.way;
    let (own, mut answer) = match forward(peer, course, (request, guest), authority).await {
        Ok(answer) => (false, answer),
        Err(Unanswered::Status(status)) => (true, own(status, grpc)),
        Err(Unanswered::Overflow) => {
            let mut answer = own(StatusCode::SERVICE_UNAVAILABLE, grpc);
            answer.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
            (true, answer)
        }
    };
    if peer.visit.is_some() {
        let (route, rule, backend) = (way.rule.owner.clone(), way.rule.name.clone(), Arc::clone(way.backend));
        answer.extensions_mut().insert(Went { route, rule, backend });
    }
    (way, own, answer)
}

/// Whether the end of the body is told in a way that is understood: codings besides chunks would be taken off unnoticed
/// (RFC 9112, section 6.1).
fn is_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(chunked) && codings.next().is_none()
}

/// The authority that a request is for; `None` when it names none, several, or something that is none. Who takes the
/// first of several, and who the last, would route the same request differently.
pub(crate) fn authority<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return None;
    }
    match request.uri().authority() {
        // In HTTP/2 both may be there, and then say the same (RFC 9113, section 8.3.1).
        Some(authority)
            if request.version() == Version::HTTP_2 && host.is_some_and(|host| host != authority.as_str()) =>
        {
            None
        }
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => host.filter(|host| is_authority(host.as_bytes())).cloned(),
    }
}

/// Whether this is a host, with or without a port.
fn is_authority(text: &[u8]) -> bool {
    let Ok(authority) = http::uri::Authority::try_from(text) else { return false };
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host);
    !host.is_empty() && port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some())
}

/// The host of an authority, in lower case and without its port; brackets of an address stay.
pub(crate) fn host(authority: &[u8]) -> Cow<'_, str> {
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
    request: Request<RequestBody>,
    authority: HeaderValue,
    upgrade: Option<&HeaderValue>,
    way: &Forward<'_>,
    reach: &Way,
) -> Option<Request<RequestBody>> {
    let (mut parts, body) = request.into_parts();
    let trailers =
        (reach.http2 || arrival::asks_for_trailers(&parts.extensions)) && headers::takes_trailers(&parts.headers);
    headers::remove_hop_by_hop(&mut parts.headers);
    // The gateway has answered it by reading the body.
    parts.headers.remove(header::EXPECT);
    let filters = [&way.rule.filters, &way.share.filters];
    let rewrites = || filters.iter().rev().filter_map(|filters| filters.rewrite.as_ref());
    // In the mesh nobody is meant to notice the proxy.
    if peer.visit.is_none() {
        let asked = (!rewrites().any(|rewrite| rewrite.conceals)).then(|| authority.clone());
        let arrival = parts.extensions.get::<Arrival>();
        let (client, certificate) = (peer.address.ip(), peer.certificate.as_deref());
        let from = Forwarded { client, tls: peer.tls, host: asked, arrival, certificate };
        headers::set_forwarded(&mut parts.headers, from);
    }
    let changed = rewrites().find_map(|rewrite| rewrite.host.as_ref());
    let host = changed.and_then(|host| host.apply(&parts.headers, parts.uri.path(), reach.wire.host.as_ref()));
    parts.headers.insert(header::HOST, host.filter(|host| is_authority(host.as_bytes())).unwrap_or(authority));
    if let Some(protocol) = upgrade {
        headers::set_upgrade(&mut parts.headers, protocol.clone());
    }
    for filters in filters {
        filters.request.apply(&mut parts.headers);
    }
    let version = way.rule.filters.versions.as_ref().zip(way.version);
    if let Some((versions, picked)) = version {
        versions.ask(picked, &mut parts.headers);
    }
    for credential in filters.iter().filter_map(|filters| filters.credential.as_ref()) {
        credential.apply(&mut parts.headers);
    }
    if trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if !reach.http2 && upgrade.is_none() {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    let target = match rewrites().find_map(|rewrite| rewrite.path.as_ref()) {
        None => {
            let known = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            match version.and_then(|(_, picked)| picked.cut) {
                None => known,
                Some(cut) => {
                    let query = known.query().map_or(String::new(), |query| format!("?{query}"));
                    PathAndQuery::try_from(without(known.path(), cut) + &query).ok()?
                }
            }
        }
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
    // How names were written is kept there.
    if !reach.case {
        let single: Option<Single> = parts.extensions.remove();
        parts.extensions.clear();
        if let Some(single) = single {
            parts.extensions.insert(single);
        }
    }
    Some(Request::from_parts(parts, body))
}

/// In HTTP/2 the host is part of the target.
pub(crate) fn absolute(headers: &mut HeaderMap, scheme: Scheme, target: PathAndQuery) -> Option<Uri> {
    let host = headers.remove(header::HOST)?;
    let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(target);
    uri.build().ok()
}

/// Reads a small body into memory when its request may be sent again.
async fn keep_body(request: Request<RequestBody>) -> Result<Request<RequestBody>, BodyError> {
    if !repeatable(&request) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    Ok(Request::from_parts(parts, body.keep(KEPT_BODY_BYTES).await?))
}

/// How to reach the endpoints of a backend, as its policies say.
fn reach(peer: &Peer, way: &Forward<'_>, request: &Request<RequestBody>) -> Way {
    let mut reach = Way::to(way.backend, way.http2, way.identity);
    if let Some(visit) = &peer.visit {
        reach.dialer = Some(Arc::clone(visit.dialer()));
        // A client that speaks HTTP/2 without being asked to knows that the Service does.
        reach.http2 |= request.version() == Version::HTTP_2;
    }
    let stands_out = |upstream: &Arc<Upstream>| !upstream.config.line.is_default();
    if way.traffic.is_none_or(|traffic| traffic.upstream.is_none()) {
        reach.terms = way.backend.upstream().filter(stands_out);
    }
    let Some(traffic) = way.traffic else { return reach };
    if traffic.as_client {
        reach.http2 = way.http2 || request.version() == Version::HTTP_2;
    }
    if let Some(upstream) = &traffic.upstream {
        reach.terms = Some(Arc::clone(upstream)).filter(stands_out);
    }
    if reach.terms.as_ref().is_some_and(|terms| terms.config.line.proxy.is_some()) {
        let known = arrival::client(peer, request);
        let port = if known == peer.address.ip().to_canonical() { peer.address.port() } else { 0 };
        reach.proxied = Some((SocketAddr::new(known, port), peer.local));
    }
    reach
}

/// A request of which all is there.
async fn buffered(
    request: Request<RequestBody>,
    most: usize,
    ended: &Ended,
) -> Result<Request<RequestBody>, Unanswered> {
    let (mut parts, body) = request.into_parts();
    let whole = body.whole(most).await.map_err(|_| ended.blame().unwrap_or(StatusCode::BAD_REQUEST))?;
    let whole = whole.ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
    // Its length is known now.
    parts.headers.remove(header::TRANSFER_ENCODING);
    Ok(Request::from_parts(parts, whole))
}

async fn forward(
    peer: &Peer,
    mut course: Course<'_>,
    (mut request, guest): (Request<RequestBody>, Option<Guest>),
    authority: HeaderValue,
) -> Result<Answer, Unanswered> {
    let (shared, way, deadline) = (&peer.shared, course.way, course.deadline);
    let upgrade = headers::upgrade(request.headers());
    if let (Some(name), Some(permitted)) = (&upgrade, way.traffic.and_then(|traffic| traffic.upgrades.as_ref()))
        && !permitted.iter().any(|permitted| permitted.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    {
        return Err(StatusCode::FORBIDDEN.into());
    }
    let upgrade = upgrade.map(|name| (name, hyper::upgrade::on(&mut request)));
    let mut reach = reach(peer, &way, &request);
    // Protocols are switched in HTTP/1.1 only.
    reach.http2 &= upgrade.is_none();
    reach.case = !reach.http2 && arrival::keeps_case(&request);
    let upstream = way.traffic.and_then(|traffic| traffic.upstream.as_ref());
    if let (Some(upstream), Some(group)) = (upstream, course.group())
        && upstream.config.check.is_some()
    {
        health::watch(shared, way.backend, group, way.http2);
    }
    if reach.is_broken() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR.into());
    }
    let protocol = upgrade.as_ref().map(|(name, _)| name);
    let mut request = outgoing(peer, request, authority, protocol, &way, &reach).ok_or(StatusCode::BAD_REQUEST)?;
    let ended = request.body().ended();
    if let Some(most) = way.traffic.and_then(|traffic| traffic.buffer) {
        request = buffered(request, most, &ended).await?;
    }
    let kept = if course.repeats() { Ok(request) } else { keep_body(request).await };
    let mut request = kept.map_err(|_| ended.blame().unwrap_or(StatusCode::BAD_REQUEST))?;
    let upgrade = upgrade.map(|(_, client)| client);
    let mirrors = || way.rule.filters.mirrors.iter().chain(&way.share.filters.mirrors);
    if mirrors().next().is_some() {
        mirror::start(shared, mirrors(), &reach, &mut request);
    }
    if course.repeats() {
        request = request.map(RequestBody::replayed);
    }
    let (limit, fresh, plan) = (course.timeouts.backend, upgrade.is_some(), course.plan.take());
    let connect = way.traffic.and_then(|traffic| traffic.connect);
    let silence = way.traffic.and_then(|traffic| traffic.silence);
    let backend = way.backend;
    let exchange = Exchange { shared, backend, way: reach, limit, connect, silence, fresh, plan, ended: ended.clone() };
    let run = async {
        match course.silence {
            None => exchange.run(request).await,
            Some(silence) => Box::pin(exchange.run_unless_silent(request, silence)).await,
        }
    };
    let Answered { response, line, endpoint, held } = match deadline {
        None => run.await?,
        Some(deadline) => timeout_at(deadline, run).await.map_err(|_| StatusCode::GATEWAY_TIMEOUT)??,
    };
    ended.answered();
    let (mut parts, body) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::remove_hop_by_hop(&mut parts.headers);
    course.remember(endpoint, &mut parts.headers);
    if peer.visit.is_some() {
        parts.extensions.insert(Answerer(endpoint));
    }
    parts.version = Version::HTTP_11;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), Some(protocol), Line::One(connection)) = (upgrade, protocol, line) else {
            return Err(StatusCode::BAD_GATEWAY.into());
        };
        headers::set_upgrade(&mut parts.headers, protocol);
        tunnel::open(shared, client, connection);
        return Ok(Response::from_parts(parts, ResponseBody::Own(None)));
    }
    let held = Held::with(held, guest);
    let silence = course.silence.into_iter().chain(silence).min();
    let body = ResponseBody::backend(body, line, shared.pool.clone(), ended, deadline, held).await;
    Ok(Response::from_parts(parts, body.unless_silent(silence)))
}
