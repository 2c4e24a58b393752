//! Certificates of Gateways: their own towards clients and backends, and those that they ask of clients.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::gateway::{FrontendValidation, FrontendValidationMode, Gateway, Listener, ObjectReference, Reference};
use reconcile::Key;
use rustls::RootCertStore;
use tracing::warn;

use super::{
    lookup::{Referrer, Seen, is, namespace},
    verdict::Fault,
};
use crate::{
    routing::{Certificate, Identity, Mode},
    server::{Clients, Terms, termination, termination_by},
};

/// How a listener ends TLS.
pub(crate) struct Terminated {
    /// Absent when it cannot.
    pub(crate) mode: Option<Mode>,
    /// What it refers to and is not there.
    pub(crate) references: Vec<Fault>,
    /// Whether there is a root by which clients can be verified, where they are.
    pub(crate) clients: Result<(), Fault>,
    /// What it is made of.
    pub(crate) parts: Parts,
}

/// What TLS is ended by, for who ends it in another way.
#[derive(Clone)]
pub(crate) struct Parts {
    certificates: Vec<Certificate>,
    clients: Clients,
    http: bool,
}

impl Parts {
    /// How TLS is ended as a policy says; without terms by which it may be, nobody is served.
    pub(crate) fn by(&self, terms: Option<&Terms>) -> Mode {
        let ended = terms.and_then(|terms| {
            termination_by(self.certificates.clone(), &self.clients, self.http, terms)
                .inspect_err(|error| warn!(%error, "TLS cannot be ended as a policy says"))
                .ok()
        });
        match ended {
            Some(config) if self.http => Mode::Http(Some(config)),
            Some(config) => Mode::Stream(Some(config)),
            None => Mode::Http(None),
        }
    }
}

/// What is asked of clients, by port.
#[derive(Default)]
pub(crate) struct Frontend {
    default: Asked,
    ports: Vec<(i32, Asked)>,
}

/// What is asked of clients.
#[derive(Default)]
struct Asked {
    clients: Clients,
    references: Vec<Fault>,
    valid: Option<Fault>,
}

impl Frontend {
    fn port(&self, port: i32) -> &Asked {
        self.ports.iter().find(|(number, _)| *number == port).map_or(&self.default, |(_, asked)| asked)
    }

    /// Whether clients without a valid certificate are served somewhere although certificates are asked for.
    pub(crate) fn any_insecure(&self) -> bool {
        let mut all = self.ports.iter().map(|(_, asked)| asked).chain([&self.default]);
        all.any(|asked| matches!(asked.clients, Clients::Asked))
    }
}

pub(crate) fn frontends(seen: &Seen<'_>, gateway: &Gateway) -> Frontend {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let Some(frontend) = frontend else { return Frontend::default() };
    let asked =
        |validation: Option<&FrontendValidation>| validation.map_or_else(Asked::default, |v| ask(seen, gateway, v));
    Frontend {
        default: asked(frontend.default.validation.as_ref()),
        ports: frontend.per_port.iter().map(|p| (p.port, asked(p.tls.validation.as_ref()))).collect(),
    }
}

fn ask(seen: &Seen<'_>, gateway: &Gateway, validation: &FrontendValidation) -> Asked {
    let (mut roots, mut references, mut found) = (RootCertStore::empty(), Vec::new(), false);
    for reference in &validation.ca_certificate_refs {
        match authority(seen, gateway, reference) {
            Ok(more) => {
                found = true;
                roots.extend(more.roots.iter().cloned());
            }
            Err(fault) => references.push(fault),
        }
    }
    let valid = (!found).then(|| Fault::new("NoValidCACertificate", "no root to verify certificates of clients by"));
    let clients = match validation.mode.unwrap_or_default() {
        FrontendValidationMode::AllowValidOnly => Clients::Verified(Arc::new(roots)),
        FrontendValidationMode::AllowInsecureFallback => Clients::Asked,
    };
    Asked { clients, references, valid }
}

/// The roots that a reference of a Gateway names.
fn authority(seen: &Seen<'_>, gateway: &Gateway, reference: &ObjectReference) -> Result<Arc<RootCertStore>, Fault> {
    let own = namespace(&gateway.metadata);
    let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    if !is(Some(&reference.group), Some(&reference.kind), ("", "ConfigMap")) {
        let message = format!("caCertificateRef {}: only a ConfigMap can hold roots, not {}", key.name, reference.kind);
        return Err(Fault::new("InvalidCACertificateKind", message));
    }
    seen.permit(Referrer { group: kinds::gateway::GROUP, kind: "Gateway", namespace: own }, "ConfigMap", &key)?;
    seen.roots(&key).map_err(|error| Fault::new("InvalidCACertificateRef", format!("ConfigMap {key}: {error}")))
}

/// How a listener of an owner ends TLS.
pub(crate) fn compile(
    seen: &Seen<'_>,
    owner: (&str, &ObjectMeta),
    listener: &Listener,
    frontends: &Frontend,
) -> Terminated {
    let (mut certificates, mut references) = (Vec::new(), Vec::new());
    let listed = listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    for reference in listed {
        match certificate(seen, owner, reference, "InvalidCertificateRef") {
            Ok(certificate) => certificates.push(certificate),
            Err(fault) => references.push(fault),
        }
    }
    if listed.is_empty() {
        references.push(Fault::new("InvalidCertificateRef", "a listener that ends TLS needs a certificateRef"));
    }
    let asked = frontends.port(listener.port);
    references.extend(asked.references.iter().cloned());
    let clients = asked.valid.clone().map_or(Ok(()), Err);
    let parts = Parts {
        certificates: certificates.clone(),
        clients: asked.clients.clone(),
        http: listener.protocol == "HTTPS",
    };
    let mode = if certificates.is_empty() || clients.is_err() {
        None
    } else {
        match termination(certificates, &asked.clients, parts.http) {
            Ok(config) if parts.http => Some(Mode::Http(Some(config))),
            Ok(config) => Some(Mode::Stream(Some(config))),
            Err(error) => {
                references.push(Fault::new("InvalidCertificateRef", error.to_string()));
                None
            }
        }
    };
    Terminated { mode, references, clients, parts }
}

/// The certificate by which backends know a Gateway, where it names one.
pub(crate) fn identity(seen: &Seen<'_>, gateway: &Gateway) -> Option<Result<Arc<Identity>, Fault>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let backend = gateway.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    let certificate = certificate(seen, ("Gateway", &gateway.metadata), reference, "InvalidClientCertificateRef");
    Some(certificate.map(|key| Arc::new(Identity { id: NEXT.fetch_add(1, Ordering::Relaxed), key })))
}

fn certificate(
    seen: &Seen<'_>,
    (kind, meta): (&str, &ObjectMeta),
    reference: &Reference,
    reason: &'static str,
) -> Result<Certificate, Fault> {
    let own = namespace(meta);
    let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Secret")) {
        return Err(Fault::new(reason, format!("reference {}: only a Secret can hold a certificate", key.name)));
    }
    seen.permit(Referrer { group: kinds::gateway::GROUP, kind, namespace: own }, "Secret", &key)?;
    seen.certificate(&key).map_err(|error| Fault::new(reason, format!("Secret {key}: {error}")))
}
