//! Encryption towards a `Backend`.

use std::sync::Arc;

use kinds::{envoy_gateway::BackendTls, gateway::LocalReference};
use reconcile::Key;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion, pki_types::ServerName, sign::SingleCertAndKey, version,
};

use super::{Fault, Seen, Shape, invalid};
use crate::{
    controller::{
        lookup::{Referrer, is},
        policies::system_roots,
    },
    routing::Security,
    server::{Trust, client, roots},
};

pub(super) fn security(seen: &Seen<'_>, own: &str, tls: &BackendTls, shape: &Shape) -> Result<Security, Fault> {
    if !shape.sockets.is_empty() {
        return Err(invalid("tls is not served for sockets"));
    }
    let trust = trust(seen, own, tls)?;
    let name = name(tls, shape)?;
    let config = client(trust, &versions(tls)?).map_err(|error| invalid(format!("tls: {error}")))?;
    let mut config: ClientConfig = Arc::unwrap_or_clone(config);
    if let Some(reference) = &tls.client_certificate_ref {
        if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Secret")) {
            return Err(invalid("clientCertificateRef: only a Secret can hold a certificate"));
        }
        let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
        let referrer = Referrer { group: kinds::envoy_gateway::GROUP, kind: "Backend", namespace: own };
        seen.permit(referrer, "Secret", &key).map_err(|fault| invalid(fault.message))?;
        let certificate = seen.certificate(&key);
        let certificate =
            certificate.map_err(|error| invalid(format!("clientCertificateRef: Secret {key}: {error}")))?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certificate));
    }
    Ok(Security::Tls { name, config: Arc::new(config) })
}

fn trust(seen: &Seen<'_>, own: &str, tls: &BackendTls) -> Result<Trust, Fault> {
    if tls.insecure_skip_verify == Some(true) {
        return Ok(Trust::Anybody);
    }
    let mut all = RootCertStore::empty();
    match tls.well_known_ca_certificates.as_deref() {
        None | Some("") if tls.ca_certificate_refs.is_empty() => {
            return Err(invalid(
                "must specify either CACertificateRefs or WellKnownCACertificates when InsecureSkipVerify is unset or false",
            ));
        }
        None | Some("") => {}
        Some("System") => all = system_roots(),
        Some(other) => return Err(invalid(format!("wellKnownCACertificates {other} is not known, only System"))),
    }
    for reference in &tls.ca_certificate_refs {
        all.extend(authority(seen, own, reference)?.roots.iter().cloned());
    }
    Ok(Trust::Verified(all, Vec::new()))
}

fn authority(seen: &Seen<'_>, own: &str, reference: &LocalReference) -> Result<Arc<RootCertStore>, Fault> {
    let key = Key::new(own, &reference.name);
    let told = |error: String| invalid(format!("caCertificateRef: {} {key}: {error}", reference.kind));
    match (&*reference.group, &*reference.kind) {
        ("", "ConfigMap") => seen.roots(&key).map_err(told),
        ("", "Secret") => {
            let secret = seen.secret(&key).ok_or_else(|| told("not found".to_owned()))?;
            let pem = secret.data.as_ref().and_then(|data| data.get("ca.crt"));
            let pem = pem.ok_or_else(|| told("has no ca.crt".to_owned()))?;
            roots(&pem.0).map(Arc::new).map_err(|error| told(error.to_string()))
        }
        _ => Err(told("only a ConfigMap or a Secret can hold roots".to_owned())),
    }
}

/// The name that is asked for, and that certificates must have.
fn name(tls: &BackendTls, shape: &Shape) -> Result<ServerName<'static>, Fault> {
    let name = tls.sni.as_deref().or(shape.host.as_deref()).map(|name| name.trim_end_matches('.'));
    if let Some(name) = name {
        return ServerName::try_from(name.to_owned()).map_err(|_| invalid(format!("tls: {name:?} is no hostname")));
    }
    match &*shape.addresses {
        [only] => Ok(ServerName::from(only.ip())),
        _ => Err(invalid("tls: several endpoints need a name in common, as sni or as their hostname")),
    }
}

fn versions(tls: &BackendTls) -> Result<Vec<&'static SupportedProtocolVersion>, Fault> {
    let rank = |version: Option<&str>, otherwise: u8| match version {
        None | Some("Auto") => otherwise,
        Some("1.0") => 0,
        Some("1.1") => 1,
        Some("1.2") => 2,
        Some(_) => 3,
    };
    let (min, max) = (rank(tls.min_version.as_deref(), 2), rank(tls.max_version.as_deref(), 3));
    let known = [(2, &version::TLS12), (3, &version::TLS13)];
    let versions: Vec<_> =
        known.into_iter().filter(|(rank, _)| (min..=max).contains(rank)).map(|(_, version)| version).collect();
    match versions.is_empty() {
        true => Err(invalid("tls: versions older than 1.2 are not served")),
        false => Ok(versions),
    }
}
