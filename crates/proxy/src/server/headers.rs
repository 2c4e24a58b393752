//! Headers that a proxy takes away and adds.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what concerns one connection only, also what its `Connection` header names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        for name in connection.to_str().unwrap_or("").split(',') {
            if let Ok(name) = HeaderName::try_from(name.trim()) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether a client takes fields after the body, as gRPC needs them.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|name| name.trim().eq_ignore_ascii_case("trailers"))
}

/// The protocol a client wants to switch to.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let named = connection.flat_map(|v| v.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    if named { headers.get(header::UPGRADE).cloned() } else { None }
}

/// Makes an answer or a request switch protocols.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Tells the backend where the request came from. What the client claims about host and protocol is replaced; its
/// address is added to those that it claims, so that the last one is always true.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, client: IpAddr, tls: bool, host: Option<HeaderValue>) {
    let mut addresses = headers.get(X_FORWARDED_FOR).map_or(Vec::new(), |v| v.as_bytes().to_vec());
    if !addresses.is_empty() {
        addresses.extend_from_slice(b", ");
    }
    addresses.extend_from_slice(client.to_canonical().to_string().as_bytes());
    if let Ok(addresses) = HeaderValue::from_bytes(&addresses) {
        headers.insert(X_FORWARDED_FOR, addresses);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if tls { "https" } else { "http" }));
    match host {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        // What a client claims is not passed on for the truth.
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
    if !headers.contains_key(X_REQUEST_ID) {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = uuid::Uuid::encode_buffer();
        if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
            headers.insert(X_REQUEST_ID, id);
        }
    }
}
