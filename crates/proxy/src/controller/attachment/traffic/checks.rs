//! Asking endpoints whether they are well.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method};
use kinds::envoy_gateway::{ActiveHealthCheck, HealthCheckPayload, HttpHealthCheck};

use super::super::reading::{invalid, limit, tell};
use crate::{
    controller::verdict::Fault,
    routing::{Check, Question},
};

/// What Envoy Gateway takes where nothing is said: time between questions, time for the answer.
const TIMES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1));

/// The same for the failures until an endpoint is not well, and for the successes until it is again.
const THRESHOLDS: (u32, u32) = (3, 1);

/// The shortest time between two questions: more would be a load of its own.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const FIELD: &str = "healthCheck.active";

pub(super) fn compile(from: &ActiveHealthCheck, warnings: &mut Vec<String>) -> Result<Check, Fault> {
    tell(warnings, &format!("{FIELD}."), &from.unread);
    let time = |name: &str, text: &Option<String>| limit(&format!("{FIELD}.{name}"), text.as_deref());
    let question = match from.r#type.as_deref() {
        Some("HTTP") => {
            http(from.http.as_ref().ok_or_else(|| invalid(format!("spec.{FIELD}.http is missing")))?, warnings)?
        }
        Some("TCP") => {
            let tcp = from.tcp.clone().unwrap_or_default();
            tell(warnings, &format!("{FIELD}.tcp."), &tcp.unread);
            Question::Tcp {
                send: payload("tcp.send", tcp.send.as_ref())?,
                receive: payload("tcp.receive", tcp.receive.as_ref())?,
            }
        }
        Some("GRPC") => {
            let grpc = from.grpc.clone().unwrap_or_default();
            tell(warnings, &format!("{FIELD}.grpc."), &grpc.unread);
            let service = grpc.service.unwrap_or_default();
            if service.len() > 127 {
                return Err(invalid(format!("spec.{FIELD}.grpc.service: may be no longer than 127 bytes")));
            }
            Question::Grpc { service: service.into() }
        }
        other => return Err(invalid(format!("spec.{FIELD}.type: {} is not known", other.unwrap_or("\"\"")))),
    };
    let interval = time("interval", &from.interval)?.unwrap_or(TIMES.0);
    if interval < INTERVAL_MIN {
        return Err(invalid(format!("spec.{FIELD}.interval: must be at least {INTERVAL_MIN:?}")));
    }
    let overrides = from.overrides.clone().unwrap_or_default();
    tell(warnings, &format!("{FIELD}.overrides."), &overrides.unread);
    Ok(Check {
        question,
        interval,
        timeout: time("timeout", &from.timeout)?.unwrap_or(TIMES.1),
        jitter: time("initialJitter", &from.initial_jitter)?.unwrap_or(Duration::ZERO),
        unhealthy: from.unhealthy_threshold.unwrap_or(THRESHOLDS.0).max(1),
        healthy: from.healthy_threshold.unwrap_or(THRESHOLDS.1).max(1),
        port: overrides.port,
    })
}

fn http(from: &HttpHealthCheck, warnings: &mut Vec<String>) -> Result<Question, Fault> {
    tell(warnings, &format!("{FIELD}.http."), &from.unread);
    let method = from.method.as_deref().unwrap_or("GET");
    let host = from.hostname.as_deref().map(HeaderValue::try_from).transpose();
    let path = from.path.as_deref().unwrap_or("/");
    if path.parse::<http::uri::PathAndQuery>().is_err() || !path.starts_with('/') {
        return Err(invalid(format!("spec.{FIELD}.http.path: {path:?} is no path")));
    }
    Ok(Question::Http {
        method: Method::from_bytes(method.as_bytes())
            .map_err(|_| invalid(format!("spec.{FIELD}.http.method: {method:?} is no method")))?,
        path: path.into(),
        host: host.map_err(|_| invalid(format!("spec.{FIELD}.http.hostname is no hostname")))?,
        statuses: from.expected_statuses.clone().filter(|statuses| !statuses.is_empty()).unwrap_or(vec![200]),
        retriable: from.retriable_statuses.clone().unwrap_or_default(),
        text: payload("http.expectedResponse", from.expected_response.as_ref())?,
    })
}

fn payload(field: &str, from: Option<&HealthCheckPayload>) -> Result<Option<Bytes>, Fault> {
    let Some(from) = from else { return Ok(None) };
    if let Some(binary) = &from.binary {
        let bytes =
            STANDARD.decode(binary).map_err(|_| invalid(format!("spec.{FIELD}.{field}.binary is no Base64")))?;
        return Ok(Some(bytes.into()));
    }
    Ok(from.text.clone().map(Bytes::from))
}
