//! Where the requests of an Ingress go, and what is spoken there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderName, HeaderValue};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    networking::v1::{IngressBackend, ServiceBackendPort},
};
use reconcile::Key;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName, sign::SingleCertAndKey};

use super::{
    Context,
    annotations::Report,
    settings::{Spoken, Upstream},
    values::{self, Url},
};
use crate::{
    controller::{endpoints::Variant, lookup::key_of},
    routing::{Backend, ErrorPages, Mirror, Security, Target, Wire},
    server::{certificate, roots, unverified, verification},
};

/// A port of a Service that an Ingress names.
pub(super) struct Port {
    pub(super) service: Key,
    pub(super) number: i32,
}

/// The port that a backend names.
pub(super) fn port(context: &Context<'_>, backend: &IngressBackend) -> Option<Port> {
    let Some(reference) = &backend.service else {
        let what = backend.resource.as_ref().map_or("nothing", |resource| resource.kind.as_str());
        context.report(Report::new("InvalidBackend", format!("a backend is {what}: only a Service is served")));
        return None;
    };
    let service = context.beside(&reference.name);
    let object = context.seen.service(&service);
    let number = reference.port.as_ref().and_then(|port| port_number(port, object.as_deref()));
    if object.is_none() {
        context.report(Report::new("BackendNotFound", format!("Service {service} not found")));
    } else if number.is_none() {
        context.report(Report::new("BackendNotFound", format!("Service {service} has no such port")));
    }
    Some(Port { service, number: number? })
}

fn port_number(port: &ServiceBackendPort, service: Option<&Service>) -> Option<i32> {
    let by_name = || {
        let name = port.name.as_deref()?;
        let ports = service?.spec.as_ref()?.ports.as_ref()?;
        ports.iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.port)
    };
    port.number.or_else(by_name)
}

/// The backend's endpoints as they are, whatever annotations say. A Service that is missing has none, and is answered with
/// 503 until it is there.
pub(super) fn plain(context: &Context<'_>, backend: &IngressBackend) -> Target {
    match port(context, backend) {
        Some(port) => Target::Service { backend: context.seen.backend(&port.service, port.number), http2: false },
        None => Target::Invalid,
    }
}

/// The backend as the annotations want it to be spoken to.
pub(super) fn target(context: &Context<'_>, port: &Port) -> Target {
    let upstream = &context.settings.upstream;
    let spoken = upstream.spoken.unwrap_or_default();
    let http2 = matches!(spoken, Spoken::Grpc | Spoken::Grpcs);
    let tls = matches!(spoken, Spoken::Https | Spoken::Grpcs);
    if !tls && !upstream.by_service_address {
        // As its Service and the policies about it say.
        return Target::Service { backend: context.seen.backend(&port.service, port.number), http2 };
    }
    Target::Service { backend: variant(context, port, tls, upstream), http2 }
}

/// A backend that is spoken to in another way than its Service says.
fn variant(context: &Context<'_>, port: &Port, tls: bool, upstream: &Upstream) -> Arc<Backend> {
    let secret = upstream.tls.secret.as_deref().filter(|_| tls).map(|name| context.beside(name));
    let secret = secret.map(|key| (context.seen.secret(&key), key));
    let version = secret.as_ref().and_then(|(secret, _)| secret.as_ref()?.metadata.resource_version.as_deref());
    let name = if tls { format!("{:?} {version:?}", upstream.tls) } else { String::new() };
    let variant = Variant { name, by_service_address: upstream.by_service_address, ..Variant::default() };
    let wire = || {
        let security = match (tls, &secret) {
            (false, _) => Ok(Security::Plain),
            (true, None) => security(None, upstream, port),
            (true, Some((None, key))) => Err(format!("Secret {key} not found")),
            (true, Some((Some(secret), _))) => security(Some(secret), upstream, port),
        };
        let security = security.unwrap_or_else(|why| {
            context.report(Report::new("InvalidCertificate", format!("proxy-ssl-secret: {why}")));
            Security::Broken
        });
        Wire::new(false, security)
    };
    context.seen.variant(&port.service, port.number, &variant, &wire)
}

/// TLS as ingress-nginx has it: certificates are verified only where that is asked for.
fn security(secret: Option<&Secret>, upstream: &Upstream, port: &Port) -> Result<Security, String> {
    let value = |key: &str| secret.and_then(|secret| secret.data.as_ref()?.get(key)).map(|bytes| bytes.0.as_slice());
    let config = match upstream.tls.verify {
        false => unverified(),
        true => verification(ca(value("ca.crt"))?, Vec::new()),
    };
    let mut config: ClientConfig = config.map(Arc::unwrap_or_clone).map_err(|error| error.to_string())?;
    config.enable_sni = upstream.tls.send_name;
    if let (Some(chain), Some(key)) = (value("tls.crt"), value("tls.key")) {
        let key = certificate(chain, key).map_err(|error| error.to_string())?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    }
    let own = || format!("{}.{}.svc", port.service.name, port.service.namespace);
    let name = upstream.tls.name.as_deref().map_or_else(own, str::to_owned);
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    Ok(Security::Tls { name, config: Arc::new(config) })
}

fn ca(pem: Option<&[u8]>) -> Result<RootCertStore, String> {
    roots(pem.ok_or("it has no ca.crt to verify backends by")?).map_err(|error| error.to_string())
}

/// Who has pages in place of errors: the Service of the annotation, else the Ingress's default backend.
pub(super) fn pages(context: &Context<'_>, port: Option<&Port>) -> Option<Arc<ErrorPages>> {
    let settings = &context.settings.pages;
    let named = settings.service.as_deref().map(|name| {
        let service = context.beside(name);
        let object = context.seen.service(&service);
        let first = object.as_ref().and_then(|object| object.spec.as_ref()?.ports.as_ref()?.first().map(|p| p.port));
        if first.is_none() {
            let why = if object.is_none() { "not found" } else { "has no port" };
            context.report(Report::new("BackendNotFound", format!("default-backend: Service {service} {why}")));
        }
        Some(Port { service, number: first? })
    });
    let own = || self::port(context, context.ingress.spec.as_ref()?.default_backend.as_ref()?);
    let by = match named {
        Some(named) => named,
        None if settings.statuses.is_empty() => return None,
        None => own(),
    };
    if by.is_none() && settings.service.is_none() {
        let why = "nobody has the pages: name a Service in default-backend";
        context.report(Report::refused("custom-http-errors", values::invalid(why)));
    }
    let by = by?;
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let (service, number) = port.map(|port| (port.service.name.as_str(), port.number)).unzip();
    let about = [
        ("x-namespace", text(context.namespace())),
        ("x-ingress-name", text(&key_of(&context.ingress.metadata).name)),
        ("x-service-name", service.and_then(text)),
        ("x-service-port", number.map(HeaderValue::from)),
    ];
    Some(Arc::new(ErrorPages {
        statuses: settings.statuses.clone(),
        vacant: settings.service.is_some(),
        backend: context.seen.backend(&by.service, by.number),
        about: about.into_iter().filter_map(|(name, value)| Some((HeaderName::from_static(name), value?))).collect(),
    }))
}

/// Where copies of requests go.
pub(super) fn mirror(context: &Context<'_>) -> Option<Mirror> {
    let text = context.settings.mirror.as_deref()?;
    let read = values::url(text).and_then(|url| {
        if !matches!(url.target.as_str(), "" | "$request_uri" | "/$request_uri" | "$uri$is_args$args") {
            return Err(values::unserved("copies keep the path of the request: only $request_uri can follow the host"));
        }
        elsewhere(context, &url)
    });
    match read {
        Ok(backend) => Some(Mirror::new(backend, false, (1, 1))),
        Err(refusal) => {
            context.report(Report::refused("mirror-target", refusal));
            None
        }
    }
}

/// A place that a URL names: a Service of this cluster, or an address.
pub(super) fn elsewhere(context: &Context<'_>, url: &Url) -> values::Read<Arc<Backend>> {
    let mut upstream = Upstream::default();
    let host = url.host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        let backend = Backend::new(format!("{}:{}", url.host, url.port));
        backend.set_endpoints(vec![SocketAddr::new(address, url.port)]);
        if url.tls {
            return Err(values::unserved("an address has no name to speak TLS with"));
        }
        return Ok(backend);
    }
    let service = service(host, &key_of(&context.ingress.metadata).namespace)
        .ok_or_else(|| values::unserved(format!("{host:?} is neither a Service of this cluster nor an address")))?;
    let port = Port { service, number: i32::from(url.port) };
    if context.seen.service(&port.service).is_none() {
        context.report(Report::new("BackendNotFound", format!("Service {} not found", port.service)));
    }
    if !url.tls {
        return Ok(context.seen.backend(&port.service, port.number));
    }
    upstream.tls.send_name = true;
    Ok(variant(context, &port, true, &upstream))
}

/// The Service that a name of the cluster's stands for.
pub(super) fn service(host: &str, own: &str) -> Option<Key> {
    let name = host.trim_end_matches('.');
    let short = name.strip_suffix(".svc.cluster.local").or_else(|| name.strip_suffix(".svc"));
    let labels: Vec<_> = short.unwrap_or(name).split('.').collect();
    match *labels {
        [name] if !name.is_empty() => Some(Key::new(own, name)),
        [name, namespace] if !name.is_empty() && !namespace.is_empty() => Some(Key::new(namespace, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_lead_to_services() {
        for (host, expected) in [
            ("auth", Some(("shop", "auth"))),
            ("auth.system", Some(("system", "auth"))),
            ("auth.system.svc", Some(("system", "auth"))),
            ("auth.system.svc.cluster.local", Some(("system", "auth"))),
            ("auth.system.svc.cluster.local.", Some(("system", "auth"))),
            ("auth.example.com", None),
            ("", None),
        ] {
            assert_eq!(service(host, "shop"), expected.map(|(namespace, name)| Key::new(namespace, name)), "{host}");
        }
    }
}
