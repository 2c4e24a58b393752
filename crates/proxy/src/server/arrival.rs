//! What a listener's policy says of a request before it is routed, and of its answer when all else is done.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header, uri::PathAndQuery,
};
use tokio::time::Instant;

use super::{
    answer::{Answer, is_grpc, own},
    body::{Patience, RequestBody},
    connection::Peer,
    forward, headers,
};
use crate::routing::{Cleaned, Client, PortTable, Underscores};

/// How long it took until the answer, in milliseconds, as Envoy tells it.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// What a policy says of a request, which goes with it.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// Who the client is.
    pub(crate) address: IpAddr,
    /// Whether it was told by somebody who is believed.
    pub(crate) told: bool,
    pub(crate) client: Arc<Client>,
}

/// Who a request is from: as its listener's policy finds out, else the other end of the connection.
pub(crate) fn client<B>(peer: &Peer, request: &Request<B>) -> IpAddr {
    match request.extensions().get::<Arrival>() {
        Some(arrival) => arrival.address,
        None => peer.address.ip(),
    }
}

/// Serves a request on a port where a listener has such a policy, `first` being the first of these.
pub(crate) async fn serve(
    peer: &Peer,
    port: &PortTable,
    first: &Arc<Client>,
    mut request: Request<RequestBody>,
) -> Answer {
    let began = Instant::now();
    set_host(first, &mut request);
    let listener =
        forward::authority(&request).and_then(|authority| port.listener(&forward::host(authority.as_bytes())));
    // Where nobody knows which listener is meant, none is, and the request is refused further on.
    let Some(client) = listener.and_then(|listener| listener.config.client.as_ref()) else {
        return forward::serve(peer, port, request).await;
    };
    let mut answer = match arrive(peer, client, &mut request) {
        Ok(()) => {
            let until = client.times.received.map(|limit| began + limit);
            let silence = client.times.stream_idle.or(Patience::default().silence);
            let request = request.map(|body| body.within(Patience { silence, until }));
            forward::serve(peer, port, request).await
        }
        Err(answer) => *answer,
    };
    if client.telling {
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        answer.headers_mut().insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    client.late.apply(answer.headers_mut());
    answer
}

/// How long a request may last in all, and how long nothing may happen to it, where its listener says so.
pub(crate) fn limits<B>(request: &Request<B>) -> (Option<Duration>, Option<Duration>) {
    let client = request.extensions().get::<Arrival>().map(|arrival| &arrival.client);
    (client.and_then(|client| client.connections.stream), client.and_then(|client| client.times.stream_idle))
}

/// Whether the names of headers are passed on as the client wrote them.
pub(crate) fn keeps_case<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Arrival>().is_some_and(|arrival| arrival.client.http1.case)
}

/// Whether backends are asked for fields after the body in HTTP/1.1 too.
pub(crate) fn asks_for_trailers(extensions: &Extensions) -> bool {
    extensions.get::<Arrival>().is_some_and(|arrival| arrival.client.http1.trailers)
}

/// Gives a request in HTTP/1.0 a host that names none, and takes the dot from the end of one.
fn set_host(client: &Client, request: &mut Request<RequestBody>) {
    let named = request.uri().authority().is_some() || request.headers().contains_key(header::HOST);
    if let Some(host) = &client.http1.default_host
        && !named
        && request.version() == Version::HTTP_10
    {
        request.headers_mut().insert(header::HOST, host.clone());
    }
    if !client.undotted {
        return;
    }
    let undotted = request.headers().get(header::HOST).and_then(|host| undotted(host.to_str().ok()?));
    if let Some(host) = undotted.and_then(|host| HeaderValue::try_from(host).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let authority = request.uri().authority().and_then(|authority| undotted_authority(authority.as_str()));
    if let Some(authority) = authority {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(authority);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// A host, with or without a port, that ends in a dot, without it.
fn undotted(host: &str) -> Option<String> {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some(format!("{}:{port}", host.strip_suffix('.')?)),
        _ => host.strip_suffix('.').map(str::to_owned),
    }
}

fn undotted_authority(authority: &str) -> Option<http::uri::Authority> {
    undotted(authority)?.parse().ok()
}

/// Changes a request as the policy says.
///
/// # Errors
/// With the answer to a request that goes no further.
fn arrive(peer: &Peer, client: &Arc<Client>, request: &mut Request<RequestBody>) -> Result<(), Box<Answer>> {
    let grpc = is_grpc(request.headers());
    if client.health.as_deref().is_some_and(|path| path == request.uri().path()) {
        return Err(Box::new(own(StatusCode::OK, false)));
    }
    if client.underscores != Underscores::Keep && !take_underscores(client.underscores, request.headers_mut()) {
        return refuse(StatusCode::BAD_REQUEST, grpc);
    }
    clean_path(peer, client, request)?;
    let ignored = &client.http1.ignored;
    if !ignored.is_empty()
        && headers::upgrade(request.headers())
            .and_then(|protocol| protocol.to_str().ok().map(|protocol| ignored.iter().any(|one| one.takes(protocol))))
            == Some(true)
    {
        request.headers_mut().remove(header::UPGRADE);
    }
    let Some((address, told)) = client.address.find(peer.address.ip(), request.headers()) else {
        return refuse(StatusCode::FORBIDDEN, grpc);
    };
    client.early.apply(request.headers_mut());
    request.extensions_mut().insert(Arrival { address, told, client: Arc::clone(client) });
    Ok(())
}

fn refuse(status: StatusCode, grpc: bool) -> Result<(), Box<Answer>> {
    Err(Box::new(own(status, grpc)))
}

/// Whether the request may go on.
fn take_underscores(action: Underscores, headers: &mut HeaderMap) -> bool {
    let named: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    if action == Underscores::Refuse {
        return named.is_empty();
    }
    for name in named {
        headers.remove(name);
    }
    true
}

fn clean_path(peer: &Peer, client: &Client, request: &mut Request<RequestBody>) -> Result<(), Box<Answer>> {
    let Some(paths) = &client.paths else { return Ok(()) };
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    match paths.clean(uri.path()) {
        Cleaned::Same => Ok(()),
        Cleaned::Refused => refuse(StatusCode::BAD_REQUEST, is_grpc(request.headers())),
        Cleaned::Changed(path) => {
            let mut parts = uri.clone().into_parts();
            let Ok(path) = PathAndQuery::try_from(path + &query) else { return refuse(StatusCode::BAD_REQUEST, false) };
            parts.path_and_query = Some(path);
            match Uri::from_parts(parts) {
                Ok(uri) => *request.uri_mut() = uri,
                Err(_) => return refuse(StatusCode::BAD_REQUEST, false),
            }
            Ok(())
        }
        Cleaned::Redirect(path) => {
            let Some(authority) = forward::authority(request) else { return refuse(StatusCode::BAD_REQUEST, false) };
            let scheme = if peer.tls { "https" } else { "http" };
            // With its host: a path that begins with two slashes would name another one.
            let location = format!("{scheme}://{}{path}{query}", authority.to_str().unwrap_or_default());
            let mut answer = own(StatusCode::TEMPORARY_REDIRECT, false);
            let Ok(location) = HeaderValue::try_from(location) else { return refuse(StatusCode::BAD_REQUEST, false) };
            answer.headers_mut().insert(header::LOCATION, location);
            Err(Box::new(answer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_at_the_end_of_a_host_is_taken_off_before_its_port() {
        for (host, expected) in [
            ("a.test.", Some("a.test")),
            ("a.test.:80", Some("a.test:80")),
            ("a.test", None),
            ("a.test:80", None),
            ("[::1]:80", None),
            ("[::1]", None),
        ] {
            assert_eq!(undotted(host).as_deref(), expected, "{host}");
        }
    }
}
