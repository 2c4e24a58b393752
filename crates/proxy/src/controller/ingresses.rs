//! Ingresses in the same table: rules by host on the well-known ports.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{Ingress, IngressBackend, IngressClass, IngressRule, ServiceBackendPort},
};
use tracing::warn;

use super::world::{Lookup, World, full_name, namespace, rank};
use crate::routing::{
    Action, Certificate, HeaderEdits, PathMatch, PortBuilder, Rank, RequestMatch, Rewrite, Rule, Share, Target,
    Timeouts, covers,
};

/// Who serves an IngressClass of ours.
pub(crate) const INGRESS_CONTROLLER: &str = "keelson.dev/ingress";

/// Ports of HTTP and HTTPS.
pub(crate) const PORTS: (u16, u16) = (80, 443);

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Adds the Ingresses of our classes to the ports, and returns them.
pub(crate) fn attach(world: &World, lookup: &dyn Lookup, ports: &mut BTreeMap<u16, PortBuilder>) -> Vec<Arc<Ingress>> {
    let ours: Vec<_> = world.ingresses.iter().filter(|i| is_ours(i, &world.ingress_classes)).cloned().collect();
    for ingress in &ours {
        let tls = certificates(ingress, lookup);
        if let Some(port) = port(ports, PORTS.0, false, ingress) {
            port.listener(None, None);
            for (host, condition, rank, rule) in rules(ingress, lookup) {
                port.rule(None, host.as_deref(), condition, rank, rule);
            }
        }
        if tls.is_empty() {
            continue;
        }
        let Some(port) = port(ports, PORTS.1, true, ingress) else { continue };
        for (host, certificate) in &tls {
            port.listener(host.as_deref(), Some(Arc::clone(certificate)));
        }
        for (host, condition, rank, rule) in rules(ingress, lookup) {
            // Behind the most specific certificate that covers the host; a host without one is not served over TLS.
            let covering = tls.iter().filter(|(pattern, _)| match (pattern, &host) {
                (None, _) => true,
                (Some(pattern), Some(host)) => covers(pattern, host),
                (Some(_), None) => false,
            });
            if let Some((pattern, _)) = covering.max_by_key(|(pattern, _)| pattern.as_ref().map_or(0, String::len)) {
                port.rule(pattern.as_deref(), host.as_deref(), condition, rank, rule);
            }
        }
    }
    ours
}

/// The port's table; `None` when a Gateway already speaks the other protocol there.
fn port<'a>(
    ports: &'a mut BTreeMap<u16, PortBuilder>,
    number: u16,
    tls: bool,
    ingress: &Ingress,
) -> Option<&'a mut PortBuilder> {
    let port = ports.entry(number).or_insert_with(|| PortBuilder::new(tls));
    if port.tls() != tls {
        let ingress = full_name(&ingress.metadata);
        warn!(ingress, port = number, "a Gateway speaks another protocol on the port of an Ingress");
        return None;
    }
    Some(port)
}

/// Whether an Ingress names a class of ours, or none while ours is the default.
fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let mut ours =
        classes.iter().filter(|c| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(INGRESS_CONTROLLER));
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotations = ingress.metadata.annotations.as_ref();
    let named = named.or_else(|| annotations.and_then(|a| a.get(CLASS_ANNOTATION)));
    match named {
        Some(name) => ours.any(|class| class.metadata.name.as_ref() == Some(name)),
        None => ours.any(|class| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.and_then(|a| a.get(DEFAULT_CLASS_ANNOTATION)).is_some_and(|v| v == "true")
        }),
    }
}

/// The certificates by host; `None` stands for every host.
fn certificates(ingress: &Ingress, lookup: &dyn Lookup) -> Vec<(Option<String>, Certificate)> {
    let own = namespace(&ingress.metadata);
    let mut certificates = Vec::new();
    for tls in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
        let Some(secret) = &tls.secret_name else { continue };
        match lookup.certificate(own, secret) {
            Ok(certificate) => {
                let hosts = tls.hosts.iter().flatten().map(|h| Some(h.to_ascii_lowercase()));
                let mut hosts: Vec<_> = hosts.collect();
                if hosts.is_empty() {
                    hosts.push(None);
                }
                certificates.extend(hosts.into_iter().map(|host| (host, Arc::clone(&certificate))));
            }
            Err(error) => {
                warn!(ingress = full_name(&ingress.metadata), secret, error, "an Ingress has no usable certificate");
            }
        }
    }
    certificates
}

type Compiled = (Option<String>, RequestMatch, Rank, Arc<Rule>);

fn rules(ingress: &Ingress, lookup: &dyn Lookup) -> Vec<Compiled> {
    let Some(spec) = &ingress.spec else { return Vec::new() };
    let rank = rank(ingress);
    let mut compiled = Vec::new();
    for (order, rule) in spec.rules.iter().flatten().enumerate() {
        compiled.extend(paths(ingress, rule, order, &rank, lookup));
    }
    if let Some(backend) = &spec.default_backend {
        // After everything else that takes every path of every host.
        let rank = Rank { created: i64::MAX, order: (usize::MAX, 0), ..rank };
        compiled.push((None, RequestMatch::prefix("/"), rank, forward(ingress, backend, lookup)));
    }
    compiled
}

fn paths(ingress: &Ingress, rule: &IngressRule, order: usize, rank: &Rank, lookup: &dyn Lookup) -> Vec<Compiled> {
    let host = rule.host.as_ref().map(|h| h.to_ascii_lowercase()).filter(|h| !h.is_empty());
    let host_labels = host.as_ref().filter(|h| h.starts_with("*.")).map(|h| h.split('.').count());
    let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
    let compiled = paths.map(|(index, path)| {
        let value = path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let condition = match path.path_type.as_str() {
            "Exact" => PathMatch::Exact(value.into()),
            // What the implementation makes of the third type is its own choice: a prefix.
            _ => PathMatch::prefix(value),
        };
        let condition = RequestMatch { host_labels, path: condition, ..RequestMatch::prefix("/") };
        let rank = Rank { order: (order, index), ..rank.clone() };
        (host.clone(), condition, rank, forward(ingress, &path.backend, lookup))
    });
    compiled.collect()
}

fn forward(ingress: &Ingress, backend: &IngressBackend, lookup: &dyn Lookup) -> Arc<Rule> {
    let share = Share {
        weight: 1,
        target: target(ingress, backend, lookup),
        request: HeaderEdits::default(),
        response: HeaderEdits::default(),
    };
    Arc::new(Rule {
        route: full_name(&ingress.metadata).into(),
        request: HeaderEdits::default(),
        response: HeaderEdits::default(),
        action: Action::Forward { shares: vec![share], rewrite: Rewrite::default() },
        timeouts: Timeouts::default(),
    })
}

/// The backend's endpoints. A Service that is missing has none, and is answered with 503 until it is there.
fn target(ingress: &Ingress, backend: &IngressBackend, lookup: &dyn Lookup) -> Target {
    let Some(reference) = &backend.service else { return Target::Invalid };
    let own = namespace(&ingress.metadata);
    let service = lookup.service(own, &reference.name);
    let port = reference.port.as_ref().and_then(|port| port_number(port, service.as_deref()));
    match port {
        Some(port) => Target::Service(lookup.backend(own, &reference.name, port)),
        None => Target::Invalid,
    }
}

fn port_number(port: &ServiceBackendPort, service: Option<&Service>) -> Option<i32> {
    let by_name = || {
        let name = port.name.as_deref()?;
        let ports = service?.spec.as_ref()?.ports.as_ref()?;
        ports.iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.port)
    };
    port.number.or_else(by_name)
}
