//! Headers that a proxy takes away and adds.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::arrival::Arrival;
use crate::routing::{Kept, RequestId, ToldCertificates};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

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

/// The protocol a client wants to switch to. Not HTTP/2 in clear: what it would say then nobody would look at.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let named = connection.flat_map(|v| v.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE).filter(|_| named)?;
    let mut protocols = protocol.to_str().unwrap_or("h2c").split(',');
    protocols.all(|protocol| !protocol.trim().eq_ignore_ascii_case("h2c")).then(|| protocol.clone())
}

/// Makes an answer or a request switch protocols.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Where a request came from, for the backend.
pub(crate) struct Forwarded<'a> {
    /// The other end of the connection.
    pub(crate) client: IpAddr,
    pub(crate) tls: bool,
    /// What it asked for, unless backends are not told.
    pub(crate) host: Option<HeaderValue>,
    /// What the listener's policy says of this request.
    pub(crate) arrival: Option<&'a Arrival>,
    /// The certificate that the client has shown, where it is told of.
    pub(crate) certificate: Option<&'a HeaderValue>,
}

/// Tells the backend where the request came from. What the client claims about host, protocol and certificates is
/// replaced; its address is added to those that it claims, so that the last one is always true.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, from: Forwarded<'_>) {
    let client = from.arrival.map(|arrival| &*arrival.client);
    if !client.is_some_and(|client| client.unappended) {
        append_address(headers, from.client);
    }
    // A proxy that is believed knows what the client speaks.
    if !(from.arrival.is_some_and(|arrival| arrival.told) && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if from.tls { "https" } else { "http" }));
    }
    match from.host {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        // What a client claims is not passed on for the truth.
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
    set_certificate(headers, client.map(|client| &client.certificates), from.certificate);
    let id = client.map_or(RequestId::KeepOrMake, |client| client.request_id);
    match id {
        RequestId::Drop => drop(headers.remove(X_REQUEST_ID)),
        RequestId::Keep => {}
        RequestId::KeepOrMake if headers.contains_key(X_REQUEST_ID) => {}
        RequestId::KeepOrMake | RequestId::Make => {
            if let Some(id) = request_id() {
                headers.insert(X_REQUEST_ID, id);
            }
        }
    }
}

/// A new name for a request.
pub(crate) fn request_id() -> Option<HeaderValue> {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).ok()
}

fn append_address(headers: &mut HeaderMap, client: IpAddr) {
    let mut addresses = headers.get(X_FORWARDED_FOR).map_or(Vec::new(), |v| v.as_bytes().to_vec());
    if !addresses.is_empty() {
        addresses.extend_from_slice(b", ");
    }
    addresses.extend_from_slice(client.to_canonical().to_string().as_bytes());
    if let Ok(addresses) = HeaderValue::from_bytes(&addresses) {
        headers.insert(X_FORWARDED_FOR, addresses);
    }
}

/// Nobody may pretend to have shown a certificate.
fn set_certificate(headers: &mut HeaderMap, terms: Option<&ToldCertificates>, shown: Option<&HeaderValue>) {
    let kept = match terms.map_or(Kept::Never, |terms| terms.kept) {
        Kept::Never => false,
        Kept::Known => shown.is_some(),
        Kept::Always => true,
    };
    if !kept {
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    let Some(shown) = shown.filter(|_| terms.is_some_and(|terms| terms.told)) else { return };
    match headers.get(X_FORWARDED_CLIENT_CERT).map(|known| [known.as_bytes(), shown.as_bytes()].join(&b","[..])) {
        Some(both) => {
            if let Ok(both) = HeaderValue::from_bytes(&both) {
                headers.insert(X_FORWARDED_CLIENT_CERT, both);
            }
        }
        None => drop(headers.insert(X_FORWARDED_CLIENT_CERT, shown.clone())),
    }
}
