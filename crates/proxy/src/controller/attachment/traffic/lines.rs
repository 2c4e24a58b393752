//! Connections to endpoints: how they are made, and how long they are used.

use std::time::Duration;

use kinds::envoy_gateway::BackendTrafficPolicySpec;
use serde_json::Value;

use super::super::reading::{bytes, invalid, limit, tell};
use crate::{
    controller::verdict::Fault,
    routing::{Keepalive, LineTerms, ProxyVersion},
};

/// What windows of HTTP/2 may be, as Envoy has it.
const WINDOW: (u64, u64) = (65_535, (1 << 31) - 1);

pub(super) fn compile(spec: &BackendTrafficPolicySpec, warnings: &mut Vec<String>) -> Result<LineTerms, Fault> {
    let mut terms = LineTerms::default();
    if let Some(from) = &spec.tcp_keepalive {
        tell(warnings, "tcpKeepalive.", &from.unread);
        terms.keepalive = Some(Keepalive {
            idle: limit("tcpKeepalive.idleTime", from.idle_time.as_deref())?,
            interval: limit("tcpKeepalive.interval", from.interval.as_deref())?,
            probes: from.probes,
        });
    }
    if let Some(from) = &spec.connection {
        tell(warnings, "connection.", &from.unread);
        let size = |name: &str, value: &Option<Value>| {
            let bytes = bytes(&format!("connection.{name}"), value.as_ref(), (0, u64::from(u32::MAX)))?;
            Ok(bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
        };
        terms.buffer = size("bufferLimit", &from.buffer_limit)?;
        terms.socket_buffer = size("socketBufferLimit", &from.socket_buffer_limit)?;
    }
    if let Some(from) = &spec.http2 {
        tell(warnings, "http2.", &from.unread);
        let window = |name: &str, value: &Option<Value>| {
            let bytes = bytes(&format!("http2.{name}"), value.as_ref(), WINDOW)?;
            Ok(bytes.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)))
        };
        terms.stream_window = window("initialStreamWindowSize", &from.initial_stream_window_size)?;
        terms.connection_window = window("initialConnectionWindowSize", &from.initial_connection_window_size)?;
        if from.max_concurrent_streams.is_some() || from.on_invalid_message.as_deref() == Some("TerminateConnection") {
            warnings.push(
                "spec.http2: endpoints say how many streams there may be, and malformed messages end their streams"
                    .to_owned(),
            );
        }
        if let Some(from) = &from.connection_keepalive {
            tell(warnings, "http2.connectionKeepalive.", &from.unread);
            let interval = limit("http2.connectionKeepalive.interval", from.interval.as_deref())?;
            let timeout = limit("http2.connectionKeepalive.timeout", from.timeout.as_deref())?;
            terms.ping = interval.map(|interval| (interval, timeout));
        }
    }
    if let Some(http) = spec.timeout.as_ref().and_then(|timeout| timeout.http.as_ref()) {
        let time = |name: &str, text: &Option<String>| -> Result<Option<Duration>, Fault> {
            limit(&format!("timeout.http.{name}"), text.as_deref())
        };
        terms.idle = time("connectionIdleTimeout", &http.connection_idle_timeout)?;
        terms.lifetime = time("maxConnectionDuration", &http.max_connection_duration)?;
    }
    terms.requests =
        spec.circuit_breaker.as_ref().and_then(|from| from.max_requests_per_connection).filter(|most| *most > 0);
    if let Some(from) = &spec.proxy_protocol {
        tell(warnings, "proxyProtocol.", &from.unread);
        terms.proxy = Some(match from.version.as_deref() {
            Some("V1") => ProxyVersion::One,
            Some("V2") => ProxyVersion::Two,
            other => {
                return Err(invalid(format!("spec.proxyProtocol.version: {} is not known", other.unwrap_or("\"\""))));
            }
        });
    }
    Ok(terms)
}
