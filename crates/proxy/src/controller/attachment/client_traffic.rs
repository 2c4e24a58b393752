//! ClientTrafficPolicies: how listeners treat their clients.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use kinds::{
    envoy_gateway::{
        ClientAddress, ClientConnection, ClientHttp2, ClientPath, ClientTimeout, ClientTraffic, ClientTrafficPolicy,
        PolicyTargets,
    },
    gateway::PolicyStatus,
};
use kube::Resource as _;

use super::{
    Effect, Policy, TargetKind,
    reading::{bytes, invalid, limit, tell, texts},
};
use crate::{
    controller::{
        lookup::{Seen, namespace},
        verdict::Fault,
    },
    routing::{AddressBy, Client, ConnectionTerms, Http2Terms, Keepalive, Network, Paths, Proxied, Slashes, Times},
    server::Terms,
};

mod headers;
#[cfg(test)]
mod tests;
mod tls;

/// What a policy says of clients.
#[derive(Clone, Debug)]
pub(crate) struct ClientTerms {
    pub(crate) client: Arc<Client>,
    /// How TLS is spoken; `None` where it says nothing of that, and an error where it must not be spoken at all.
    pub(crate) tls: Option<Result<Arc<Terms>, ()>>,
    /// Whether requests in HTTP/1.0 without a host are for the listener's.
    pub(crate) default_host: bool,
}

impl Policy for ClientTrafficPolicy {
    const PLURAL: &'static str = "clientTrafficPolicies";

    fn targets(&self) -> &PolicyTargets {
        &self.spec.targets
    }

    fn status(&self) -> Option<&PolicyStatus> {
        self.status.as_ref()
    }

    fn suits(&self, target: TargetKind) -> Result<(), Fault> {
        match target {
            TargetKind::Gateway | TargetKind::ListenerSet => Ok(()),
            TargetKind::Route(kind) => Err(invalid(format!("a ClientTrafficPolicy cannot target a {}", kind.name()))),
        }
    }

    fn compile(&self, seen: &Seen<'_>) -> Effect {
        let mut warnings = Vec::new();
        let spec = &self.spec.clients;
        let tls = spec.tls.as_ref().map(|from| tls::compile(seen, namespace(self.meta()), from, &mut warnings));
        let (client, fault) = match client(spec, &mut warnings) {
            Ok(client) => (client, None),
            Err(fault) => (Client::default(), Some(fault)),
        };
        let (tls, untrusted) = match tls {
            None => (None, None),
            Some(Ok(terms)) => (Some(Ok(Arc::new(terms))), None),
            Some(Err(fault)) => (Some(Err(())), Some(fault)),
        };
        let http10 = spec.http1.as_ref().and_then(|http1| http1.http10.as_ref());
        let default_host = http10.and_then(|http10| http10.use_default_host).unwrap_or(false);
        // What cannot be followed has no effect, but nobody is served in TLS by less than was asked for.
        let has_effect = fault.is_none() || untrusted.is_some();
        let client = has_effect.then(|| Arc::new(ClientTerms { client: Arc::new(client), tls, default_host }));
        let accepted = untrusted.or(fault).map_or(Ok(()), Err);
        Effect { client, accepted, warnings, ..Effect::default() }
    }
}

fn client(spec: &ClientTraffic, warnings: &mut Vec<String>) -> Result<Client, Fault> {
    tell(warnings, "", &spec.unread);
    let mut client = Client::default();
    let optional = spec.proxy_protocol.as_ref().map(|proxy| {
        tell(warnings, "proxyProtocol.", &proxy.unread);
        proxy.optional.unwrap_or(false)
    });
    client.proxied = match (optional, spec.enable_proxy_protocol) {
        (Some(true), _) => Some(Proxied::Maybe),
        (Some(false), _) | (None, Some(true)) => Some(Proxied::Always),
        (None, _) => None,
    };
    if let Some(from) = &spec.client_ip_detection {
        (client.address, client.unappended) = address(from, warnings)?;
    }
    if let Some(from) = &spec.headers {
        headers::compile(from, &mut client, warnings)?;
    }
    client.paths = spec.path.as_ref().map(|from| paths(from, warnings)).transpose()?;
    if let Some(from) = &spec.timeout {
        client.times = times(from, warnings)?;
    }
    if let Some(from) = &spec.connection {
        client.connections = connections(from, warnings)?;
    }
    if let Some(from) = &spec.tcp_keepalive {
        tell(warnings, "tcpKeepalive.", &from.unread);
        client.connections.keepalive = Some(Keepalive {
            idle: limit("tcpKeepalive.idleTime", from.idle_time.as_deref())?,
            interval: limit("tcpKeepalive.interval", from.interval.as_deref())?,
            probes: from.probes,
        });
    }
    if let Some(from) = &spec.http1 {
        tell(warnings, "http1.", &from.unread);
        let terms = &mut client.http1;
        terms.trailers = from.enable_trailers.unwrap_or(false);
        terms.case = from.preserve_header_case.unwrap_or(false);
        terms.abrupt = from.disable_safe_max_connection_duration.unwrap_or(false);
        terms.ignored = texts("http1.ignoredUpgradeTypes", from.ignored_upgrade_types.as_ref())?;
    }
    if let Some(from) = &spec.http2 {
        client.http2 = http2(from, warnings)?;
    }
    if let Some(from) = &spec.health_check {
        tell(warnings, "healthCheck.", &from.unread);
        client.health = from.path.as_deref().map(Into::into);
    }
    Ok(client)
}

fn address(from: &ClientAddress, warnings: &mut Vec<String>) -> Result<(AddressBy, bool), Fault> {
    tell(warnings, "clientIPDetection.", &from.unread);
    if let Some(header) = &from.custom_header {
        let name = header.name.as_deref().unwrap_or("");
        let name = HeaderName::try_from(name).map_err(|_| {
            invalid(format!("spec.clientIPDetection.customHeader.name: {name:?} is no name of a header"))
        })?;
        return Ok((AddressBy::Header(name, header.fail_closed.unwrap_or(false)), false));
    }
    let Some(forwarded) = &from.x_forwarded_for else { return Ok((AddressBy::Connection, false)) };
    tell(warnings, "clientIPDetection.xForwardedFor.", &forwarded.unread);
    let unappended = forwarded.disable_append.unwrap_or(false);
    let by = match (forwarded.num_trusted_hops, &forwarded.trusted_cidrs) {
        (Some(hops), _) if hops > 0 => AddressBy::Hops(hops as usize),
        (_, Some(networks)) => {
            let network = |text: &String| {
                Network::parse(text).ok_or_else(|| {
                    invalid(format!("spec.clientIPDetection.xForwardedFor.trustedCIDRs: {text:?} is no network"))
                })
            };
            AddressBy::Proxies(networks.iter().map(network).collect::<Result<_, _>>()?)
        }
        (_, None) => AddressBy::Connection,
    };
    Ok((by, unappended))
}

fn paths(from: &ClientPath, warnings: &mut Vec<String>) -> Result<Paths, Fault> {
    tell(warnings, "path.", &from.unread);
    let escaped = match from.escaped_slashes_action.as_deref() {
        None | Some("UnescapeAndRedirect") => Slashes::Redirect,
        Some("UnescapeAndForward") => Slashes::Unescape,
        Some("RejectRequest") => Slashes::Refuse,
        Some("KeepUnchanged") => Slashes::Keep,
        Some(other) => return Err(invalid(format!("spec.path.escapedSlashesAction: {other} is not known"))),
    };
    Ok(Paths { escaped, merge: !from.disable_merge_slashes.unwrap_or(false) })
}

fn times(from: &ClientTimeout, warnings: &mut Vec<String>) -> Result<Times, Fault> {
    tell(warnings, "timeout.", &from.unread);
    let mut times = Times::default();
    if let Some(tcp) = &from.tcp {
        tell(warnings, "timeout.tcp.", &tcp.unread);
        let field = |name: &str, text: &Option<String>| limit(&format!("timeout.tcp.{name}"), text.as_deref());
        times.silence = field("idleTimeout", &tcp.idle_timeout)?;
        times.inspection = field("connectionInspectionTimeout", &tcp.connection_inspection_timeout)?;
        times.handshake = field("tlsHandshakeTimeout", &tcp.tls_handshake_timeout)?;
    }
    if let Some(http) = &from.http {
        tell(warnings, "timeout.http.", &http.unread);
        let field = |name: &str, text: &Option<String>| limit(&format!("timeout.http.{name}"), text.as_deref());
        times.received = field("requestReceivedTimeout", &http.request_received_timeout)?;
        times.head = field("requestHeadersReceivedTimeout", &http.request_headers_received_timeout)?;
        times.idle = field("idleTimeout", &http.idle_timeout)?;
        times.stream_idle = field("streamIdleTimeout", &http.stream_idle_timeout)?;
    }
    Ok(times)
}

fn connections(from: &ClientConnection, warnings: &mut Vec<String>) -> Result<ConnectionTerms, Fault> {
    tell(warnings, "connection.", &from.unread);
    let size = |name: &str, value| bytes(&format!("connection.{name}"), value, (0, u64::from(u32::MAX)));
    let size = |name: &str, value| Ok(size(name, value)?.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)));
    let mut terms = ConnectionTerms {
        buffer: size("bufferLimit", from.buffer_limit.as_ref())?,
        socket_buffer: size("socketBufferLimit", from.socket_buffer_limit.as_ref())?,
        ..ConnectionTerms::default()
    };
    if from.max_accept_per_socket_event.is_some_and(|most| most != 1) {
        warnings.push("spec.connection.maxAcceptPerSocketEvent is not supported and has no effect".to_owned());
    }
    if let Some(from) = &from.connection_limit {
        tell(warnings, "connection.connectionLimit.", &from.unread);
        let field =
            |name: &str, text: &Option<String>| limit(&format!("connection.connectionLimit.{name}"), text.as_deref());
        terms.most = from.value;
        terms.close_delay = field("closeDelay", &from.close_delay)?.unwrap_or(Duration::ZERO);
        terms.lifetime = field("maxConnectionDuration", &from.max_connection_duration)?;
        terms.requests = from.max_requests_per_connection;
        terms.stream = field("maxStreamDuration", &from.max_stream_duration)?;
    }
    Ok(terms)
}

/// What windows of HTTP/2 may be, as Envoy has it.
const WINDOW: (u64, u64) = (65_535, (1 << 31) - 1);

fn http2(from: &ClientHttp2, warnings: &mut Vec<String>) -> Result<Http2Terms, Fault> {
    tell(warnings, "http2.", &from.unread);
    let window = |name: &str, value| {
        let bytes = bytes(&format!("http2.{name}"), value, WINDOW)?;
        Ok(bytes.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)))
    };
    if from.on_invalid_message.as_deref() == Some("TerminateConnection") {
        warnings.push("spec.http2.onInvalidMessage: malformed messages end their streams, not connections".to_owned());
    }
    let mut terms = Http2Terms {
        stream_window: window("initialStreamWindowSize", from.initial_stream_window_size.as_ref())?,
        connection_window: window("initialConnectionWindowSize", from.initial_connection_window_size.as_ref())?,
        streams: from.max_concurrent_streams,
        ping: None,
    };
    if let Some(from) = &from.connection_keepalive {
        tell(warnings, "http2.connectionKeepalive.", &from.unread);
        let interval = limit("http2.connectionKeepalive.interval", from.interval.as_deref())?;
        let timeout = limit("http2.connectionKeepalive.timeout", from.timeout.as_deref())?;
        terms.ping = interval.map(|interval| (interval, timeout));
    }
    Ok(terms)
}
