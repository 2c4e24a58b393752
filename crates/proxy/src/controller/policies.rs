//! BackendTLSPolicies: how Services are spoken to, and what is said about the policies.

use std::{collections::BTreeSet, sync::Arc};

use kinds::gateway::{BackendTLSPolicy, BackendTLSValidation, LocalReference};
use reconcile::Key;
use rustls::{RootCertStore, pki_types::ServerName};
use tracing::warn;

use super::{
    backends::{is_http2, ports},
    item::Dependency,
    lookup::{Seen, is, key_of, namespace, rank_of},
    verdict::{Fault, Verdict},
};
use crate::{
    routing::{Security, Wire},
    server::{Expected, verification},
};

/// How a port of a Service is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spoken {
    http2: bool,
    tls: Option<Result<Tls, ()>>,
}

/// How backends are verified.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    name: ServerName<'static>,
    expected: Vec<Expected>,
    /// Those of ConfigMaps; none for those of this machine.
    roots: Vec<Arc<RootCertStore>>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<RootCertStore>, &Arc<RootCertStore>)| Arc::ptr_eq(one, other);
        self.name == other.name
            && self.expected == other.expected
            && self.roots.len() == other.roots.len()
            && self.roots.iter().zip(&other.roots).all(same)
    }
}

/// How each backend of a Service that somebody refers to is to be spoken to.
pub(crate) fn spoken(seen: &Seen<'_>, service: &Key, numbers: &[i32]) -> Vec<(i32, Spoken)> {
    let object = seen.service(service);
    let policies = sorted(seen.policies(service));
    let spoken = numbers.iter().map(|number| {
        let port = object.iter().flat_map(|object| ports(object)).find(|port| port.port == *number);
        let name = port.and_then(|port| port.name.as_deref());
        let http2 = port.and_then(|port| port.app_protocol.as_deref()).is_some_and(is_http2);
        // One for the very port before one for all ports; among those the oldest.
        let about = |section: Option<&str>| policies.iter().find(|policy| targets(policy, service).contains(&section));
        let policy = name.and_then(|name| about(Some(name))).or_else(|| about(None));
        let tls = policy.map(|policy| validate(seen, policy).tls.map_err(|_| ()));
        (*number, Spoken { http2, tls })
    });
    spoken.collect()
}

impl Spoken {
    /// The way to speak, ready for use.
    pub(crate) fn wire(&self) -> Wire {
        let security = match &self.tls {
            None => Security::Plain,
            Some(Err(())) => Security::Broken,
            Some(Ok(tls)) => match verification(tls.roots(), tls.expected.clone()) {
                Ok(config) => Security::Tls { name: tls.name.clone(), config },
                Err(error) => {
                    warn!(%error, "cannot verify the certificates of a backend");
                    Security::Broken
                }
            },
        };
        Wire::new(self.http2, security)
    }
}

/// How a host of some name is spoken to that the roots of this machine vouch for.
pub(crate) fn trusting(host: &str) -> Result<Wire, Fault> {
    let tls = Tls { name: server_name(host)?, expected: Vec::new(), roots: Vec::new() };
    Ok(Spoken { http2: false, tls: Some(Ok(tls)) }.wire())
}

impl Tls {
    fn roots(&self) -> RootCertStore {
        let mut all = if self.roots.is_empty() { system_roots() } else { RootCertStore::empty() };
        for roots in &self.roots {
            all.extend(roots.roots.iter().cloned());
        }
        all
    }
}

/// The roots that this machine trusts.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "cannot read all root certificates of this machine");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// The sections of a Service that a policy is about; `None` for all of it.
fn targets<'a>(policy: &'a BackendTLSPolicy, service: &Key) -> Vec<Option<&'a str>> {
    let own = namespace(&policy.metadata) == service.namespace;
    let targets = policy.spec.target_refs.iter();
    let ours = targets.filter(|t| own && is(Some(&t.group), Some(&t.kind), ("", "Service")) && t.name == service.name);
    ours.map(|target| target.section_name.as_deref().filter(|section| !section.is_empty())).collect()
}

fn sorted(mut policies: Vec<Arc<BackendTLSPolicy>>) -> Vec<Arc<BackendTLSPolicy>> {
    policies.sort_by_cached_key(|policy| rank_of(&**policy));
    policies
}

/// The names of the Services that a policy is about.
pub(crate) fn services(policy: &BackendTLSPolicy) -> BTreeSet<Key> {
    let targets = policy.spec.target_refs.iter().filter(|t| is(Some(&t.group), Some(&t.kind), ("", "Service")));
    targets.map(|target| Key::new(namespace(&policy.metadata), &target.name)).collect()
}

/// What became of a policy by itself.
struct Validated {
    tls: Result<Tls, Fault>,
    references: Result<(), Fault>,
}

fn validate(seen: &Seen<'_>, policy: &BackendTLSPolicy) -> Validated {
    let validation = &policy.spec.validation;
    let (mut roots, mut references) = (Vec::new(), Ok(()));
    for reference in &validation.ca_certificate_refs {
        match authority(seen, policy, reference) {
            Ok(found) => roots.push(found),
            Err(fault) => references = references.and(Err(fault)),
        }
    }
    let system = match validation.well_known_ca_certificates.as_deref() {
        None | Some("") => Ok(false),
        Some("System") => Ok(true),
        Some(other) => Err(Fault::new("Invalid", format!("wellKnownCACertificates {other} is not known, only System"))),
    };
    let tls = system.and_then(|system| {
        if roots.is_empty() && !system {
            return Err(Fault::new("NoValidCACertificate", "no root to verify certificates by"));
        }
        Ok(Tls { name: server_name(&validation.hostname)?, expected: expected(validation)?, roots })
    });
    Validated { tls, references }
}

fn authority(
    seen: &Seen<'_>,
    policy: &BackendTLSPolicy,
    reference: &LocalReference,
) -> Result<Arc<RootCertStore>, Fault> {
    let key = Key::new(namespace(&policy.metadata), &reference.name);
    if !is(Some(&reference.group), Some(&reference.kind), ("", "ConfigMap")) {
        let message = format!("caCertificateRef {}: only a ConfigMap can hold roots, not {}", key.name, reference.kind);
        return Err(Fault::new("InvalidKind", message));
    }
    seen.roots(&key).map_err(|error| Fault::new("InvalidCACertificateRef", format!("ConfigMap {key}: {error}")))
}

fn expected(validation: &BackendTLSValidation) -> Result<Vec<Expected>, Fault> {
    let names =
        validation.subject_alt_names.iter().map(|name| match (name.type_.as_str(), &name.hostname, &name.uri) {
            ("Hostname", Some(hostname), _) => Ok(Expected::Host(server_name(hostname)?)),
            ("URI", _, Some(uri)) => Ok(Expected::Uri(uri.as_str().into())),
            (kind, ..) => Err(Fault::new("Invalid", format!("a subjectAltName of type {kind} has no value"))),
        });
    names.collect()
}

fn server_name(name: &str) -> Result<ServerName<'static>, Fault> {
    ServerName::try_from(name.to_owned()).map_err(|_| Fault::new("Invalid", format!("{name:?} is no hostname")))
}

/// A policy and what is said about it, the same for every Gateway that it has an effect on.
pub(crate) struct PolicyPlan {
    pub(crate) policy: Arc<BackendTLSPolicy>,
    pub(crate) verdicts: Vec<Verdict>,
    /// Those Gateways.
    pub(crate) gateways: BTreeSet<Key>,
}

/// Judges a policy; `users` are the Gateways that lead to a Service.
pub(crate) fn plan(
    seen: &Seen<'_>,
    policy: Arc<BackendTLSPolicy>,
    users: &dyn Fn(&Key) -> BTreeSet<Key>,
) -> PolicyPlan {
    let own = key_of(&policy.metadata);
    let (mut gateways, mut conflict) = (BTreeSet::new(), Ok(()));
    for service in services(&policy) {
        seen.note(Dependency::Users(service.clone()));
        gateways.extend(users(&service));
        for other in sorted(seen.policies(&service)) {
            if key_of(&other.metadata) == own {
                break;
            }
            let (theirs, ours) = (targets(&other, &service), targets(&policy, &service));
            if theirs.iter().any(|section| ours.contains(section)) {
                let message = format!("BackendTLSPolicy {} is about Service {service} too", key_of(&other.metadata));
                conflict = Err(Fault::new("Conflicted", message));
            }
        }
    }
    let Validated { tls, references } = validate(seen, &policy);
    let accepted = conflict.and(tls.map(|_| ()));
    let verdicts =
        vec![Verdict::of("Accepted", "Accepted", accepted), Verdict::of("ResolvedRefs", "ResolvedRefs", references)];
    PolicyPlan { policy, verdicts, gateways }
}
