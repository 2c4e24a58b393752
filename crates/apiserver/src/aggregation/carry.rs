//! Carrying a request to an aggregated server.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::BodyExt as _;
use strategy::User;

use super::{COLLECTION, Remote};
use crate::{
    body::{self, Body, BoxError},
    codec, health, proxy,
    server::{ApiServer, Caller},
};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA_PREFIX: &str = "x-remote-extra-";

/// Has a request answered by another server, which is told whose it is.
pub(crate) async fn carry(
    server: &Arc<ApiServer>,
    remote: &Remote,
    user: &User,
    (parts, body): (Parts, Body),
    caller: &Caller,
    limit: Option<Duration>,
) -> Response<Body> {
    let unavailable = |why: String| health::text(StatusCode::SERVICE_UNAVAILABLE, why);
    if !remote.available && !is_available_now(server, remote) {
        return unavailable("service unavailable\n".into());
    }
    let client = match server.aggregation.client(remote) {
        Ok(client) => client,
        Err(why) => return unavailable(format!("error trying to reach service: {why}\n")),
    };
    let mut request = Request::from_parts(parts, body);
    let upgrade = proxy::is_upgrade(request.headers());
    let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    outgoing(request.headers_mut(), user, caller, upgrade);
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    match format!("{}{target}", client.url()).parse::<Uri>() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return unavailable(format!("error trying to reach service: {error}\n")),
    }
    *request.version_mut() = http::Version::HTTP_11;
    let sending = server.outbound.send(&client, request);
    let sent = match limit {
        None => sending.await,
        Some(limit) => match tokio::time::timeout(limit, sending).await {
            Ok(sent) => sent,
            Err(_) => return unavailable("error trying to reach service: context deadline exceeded\n".into()),
        },
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => return unavailable(format!("error trying to reach service: {error}\n")),
    };
    if let (Some(client_side), StatusCode::SWITCHING_PROTOCOLS) = (client_side, response.status()) {
        let server_side = hyper::upgrade::on(&mut response);
        server.tunnels.spawn(proxy::tunnel(client_side, server_side, None, caller.draining.clone()));
        return response.map(|_| body::empty());
    }
    proxy::drop_hop_by_hop(response.headers_mut());
    response.map(|body| body.map_err(|error| Box::new(error) as BoxError).boxed_unsync())
}

/// Whether the APIService says so in the store. Who watches it may know a moment before the index does.
fn is_available_now(server: &ApiServer, remote: &Remote) -> bool {
    let snapshot = server.snapshot();
    let stored = snapshot.get(COLLECTION, &remote.name).and_then(|object| codec::stored(&object.bytes).ok());
    stored.and_then(|object| Remote::decode(&object)).is_some_and(|remote| remote.available)
}

/// Replaces the client's credentials by who it is.
fn outgoing(headers: &mut HeaderMap, user: &User, caller: &Caller, upgrade: bool) {
    if !upgrade {
        proxy::drop_hop_by_hop(headers);
    }
    let ours = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("x-remote-") || name.starts_with("impersonate-")
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in dropped.iter().chain(&[header::AUTHORIZATION, header::HOST]) {
        headers.remove(name);
    }
    identify(headers, user);
    if let Some(peer) = caller.peer {
        let before = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let chain = before.map_or_else(|| peer.to_string(), |before| format!("{before}, {peer}"));
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            headers.insert("x-forwarded-for", chain);
        }
    }
}

/// Writes a user into the headers of a request.
pub(super) fn identify(headers: &mut HeaderMap, user: &User) {
    let mut add = |name: HeaderName, value: &str| {
        // text that fits no header names nobody; leaving it out takes rights away, never gives any
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::from_bytes(format!("{EXTRA_PREFIX}{}", escape(key)).as_bytes()) else { continue };
        for value in values {
            add(name.clone(), value);
        }
    }
}

/// A key in the form that header names can hold; upstream's servers undo it.
fn escape(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_replaces_the_credentials() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("authorization", "Bearer x"), ("x-remote-user", "root"), ("accept", "*/*")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("impersonate-user", HeaderValue::from_static("root"));
        let mut user = User::new("ann", &["a", "b"]);
        user.extra.insert("example.org/key".into(), vec!["v".into()]);
        let draining = tokio_util::sync::CancellationToken::new();
        let caller = Caller { peer: Some([10, 0, 0, 1].into()), draining, ..Caller::within(None) };
        outgoing(&mut headers, &user, &caller, false);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-remote-user"), all("x-remote-group")), (vec!["ann"], vec!["a", "b"]));
        assert_eq!(all("x-remote-extra-example.org%2fkey"), ["v"]);
        assert_eq!(all("x-forwarded-for"), ["10.0.0.1"]);
        assert!(all("authorization").is_empty() && all("impersonate-user").is_empty());
    }
}
