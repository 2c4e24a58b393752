//! `extAuth`: a service that is asked about every request.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use kinds::envoy_gateway::{BackendReference, ContextExtension, ExtAuth, ExtAuthService};
use reconcile::Key;

use super::{From, backends, header, invalid, known};
use crate::{
    controller::{duration, item::RouteKind, verdict::Fault},
    routing::{AuthProtocol, AuthTarget, External, Failure, HttpAuth, Reading},
};

/// How long it may take unless a policy says: Envoy Gateway's.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn compile(from: &From<'_>, spec: &ExtAuth) -> Result<External, Fault> {
    known("spec.extAuth.", &spec.unread)?;
    let (service, kind) = match (&spec.http, &spec.grpc) {
        (Some(http), None) => (http, RouteKind::Http),
        (None, Some(grpc)) => (grpc, RouteKind::Grpc),
        (None, None) => return Err(invalid("one of grpc or http must be specified")),
        (Some(_), Some(_)) => return Err(invalid("only one of grpc or http can be specified")),
    };
    from.tell("spec.extAuth.", &service.unread);
    let references = (&*service.backend_refs, service.backend_ref.as_ref());
    let shares = backends::shares(from, kind, references)?;
    if shares.is_empty() {
        let name = if kind == RouteKind::Grpc { "grpc" } else { "http" };
        return Err(invalid(format!("{name} backend refs must be specified")));
    }
    let protocol = match kind {
        RouteKind::Grpc => {
            let authority =
                HeaderValue::try_from(authority(from, references)).map_err(|_| invalid("backendRef: bad name"))?;
            AuthProtocol::Grpc { authority, context: context(from, &spec.context_extensions)? }
        }
        _ => AuthProtocol::Http(http(service)?),
    };
    let told = spec.headers_to_ext_auth.iter().map(|name| header("headersToExtAuth", name));
    let told: Vec<_> = told.collect::<Result<_, _>>()?;
    let timeout = duration::limit(spec.timeout.as_deref());
    let timeout = timeout.map_err(|fault| invalid(format!("timeout: {}", fault.message)))?.unwrap_or(TIMEOUT);
    Ok(External {
        shares,
        protocol,
        headers: Some(told).filter(|told| !told.is_empty()),
        body_max: spec.body_to_ext_auth.as_ref().map(|body| body.max_request_bytes as usize),
        timeout,
        failure: failure(spec)?,
        recompute: spec.recompute_route.unwrap_or(false),
    })
}

fn failure(spec: &ExtAuth) -> Result<Failure, Fault> {
    if spec.fail_open == Some(true) {
        return Ok(Failure::Pass);
    }
    let Some(status) = spec.status_on_error else { return Ok(Failure::Refuse(StatusCode::FORBIDDEN)) };
    let code = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let code = code.filter(|status| status.is_client_error() || status.is_server_error());
    code.map(Failure::Refuse).ok_or_else(|| invalid(format!("statusOnError: {status} is neither a 4xx nor a 5xx")))
}

fn http(service: &ExtAuthService) -> Result<HttpAuth, Fault> {
    let target = match (&service.path, &service.path_override) {
        (Some(_), Some(_)) => return Err(invalid("only one of path or pathOverride can be specified")),
        (_, Some(path)) => AuthTarget::Fixed(path.as_str().into()),
        (path, None) => AuthTarget::Below(path.as_deref().unwrap_or("").into()),
    };
    let to_backend = service.headers_to_backend.iter().map(|name| header("headersToBackend", name));
    Ok(HttpAuth {
        method: None,
        target,
        host: None,
        sets: Vec::new(),
        all_headers: false,
        to_backend: to_backend.collect::<Result<_, _>>()?,
        reading: Reading::Envoy,
    })
}

/// The host that the first of some references stands for, as Envoy Gateway has it.
fn authority(from: &From<'_>, (several, one): (&[BackendReference], Option<&BackendReference>)) -> String {
    let Some(first) = several.first().or(one) else { return String::new() };
    let namespace = first.namespace.as_deref().unwrap_or(from.namespace);
    let port = first.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}.{namespace}{port}", first.name)
}

/// What the service is told besides.
fn context(from: &From<'_>, extensions: &[ContextExtension]) -> Result<Vec<(String, String)>, Fault> {
    let value = |extension: &ContextExtension| {
        let Some(reference) = &extension.value_ref else { return Ok(extension.value.clone().unwrap_or_default()) };
        let (key, name) = (Key::new(from.namespace, &reference.name), &reference.key);
        let (kind, found) = match reference.kind.as_str() {
            "ConfigMap" => {
                let map = from.seen.config_map(&key);
                let map = map.ok_or_else(|| invalid(format!("can't find the referenced configmap {key}")))?;
                ("configmap", map.data.as_ref().and_then(|data| data.get(name).cloned()))
            }
            "Secret" => {
                let secret = from.seen.secret(&key);
                let secret = secret.ok_or_else(|| invalid(format!("can't find the referenced secret {key}")))?;
                let entry = secret.data.as_ref().and_then(|data| data.get(name));
                ("secret", entry.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()))
            }
            other => return Err(invalid(format!("unexpected reference to kind {other:?}"))),
        };
        found.ok_or_else(|| invalid(format!("can't find the key {name:?} in the referenced {kind} {key}")))
    };
    extensions.iter().map(|extension| Ok((extension.name.clone(), value(extension)?))).collect()
}
