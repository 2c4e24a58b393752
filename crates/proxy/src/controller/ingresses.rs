//! Ingresses in the same table: rules by host on the well-known ports of the shared addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{Ingress, IngressBackend, IngressClass, IngressRule, ServiceBackendPort},
};
use reconcile::Key;
use tracing::warn;

use super::{
    attach::Placement,
    item::Item,
    listeners::Source,
    lookup::{Seen, key_of, namespace, rank},
    sites::Claim,
};
use crate::{
    routing::{
        Action, Certificate, Entry, Filters, ListenerConfig, Mode, Owner, PathMatch, Place, Protocol, Rank,
        RequestMatch, Rule, Share, Site, Spot, Target, Timeouts, Transport, covers,
    },
    server::{Clients, termination},
};

/// Who serves an IngressClass of ours.
pub(crate) const INGRESS_CONTROLLER: &str = "keelson.dev/ingress";

/// Ports of HTTP and HTTPS.
pub(crate) const PORTS: (u16, u16) = (80, 443);

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// An Ingress of ours and its rules.
pub(crate) struct IngressPlan {
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) placements: Vec<Placement>,
    /// The Services that it refers to.
    pub(crate) services: BTreeSet<Key>,
}

impl IngressPlan {
    /// Keeps the rules behind listeners that are served; they are named by their hostname.
    pub(crate) fn retain(&mut self, served: impl Fn(Site, &str) -> bool) {
        self.placements.retain(|placement| match placement {
            Placement::Request(spot, _) | Placement::Stream(spot, ..) => {
                served(spot.site, spot.listener.as_deref().unwrap_or(""))
            }
        });
    }
}

/// The owner of an Ingress's rules.
pub(crate) fn owner(key: &Key) -> Owner {
    Owner { kind: "Ingress", name: key.to_string().into() }
}

/// Compiles an Ingress, with the listeners that it needs; `None` when it is not ours.
pub(crate) fn plan(seen: &Seen<'_>, ingress: Arc<Ingress>) -> Option<(IngressPlan, BTreeMap<Site, Vec<Claim>>)> {
    if !is_ours(&ingress, &seen.ingress_classes()) {
        return None;
    }
    let clear = Site { place: Place::Shared, port: PORTS.0, transport: Transport::Tcp };
    let secure = Site { port: PORTS.1, ..clear };
    let certificates = certificates(seen, &ingress);
    let mut placements = Vec::new();
    for (host, condition, rank, rule) in rules(seen, &ingress) {
        let host: Option<Box<str>> = host.as_deref().map(Into::into);
        let entry = Arc::new(Entry { condition, rank, rule });
        // Behind the most specific certificate that covers the host; a host without one is not served over TLS.
        let covering = certificates.iter().map(|(pattern, _)| pattern).filter(|pattern| match (pattern, &host) {
            (None, _) => true,
            (Some(pattern), Some(host)) => covers(pattern, host),
            (Some(_), None) => false,
        });
        if let Some(pattern) = covering.max_by_key(|pattern| pattern.as_ref().map_or(0, String::len)) {
            let spot = Spot { site: secure, listener: pattern.as_deref().map(Into::into), host: host.clone() };
            placements.push(Placement::Request(spot, Arc::clone(&entry)));
        }
        placements.push(Placement::Request(Spot { site: clear, listener: None, host }, entry));
    }
    let claims = claims(&ingress, certificates, (clear, secure));
    Some((IngressPlan { ingress, placements, services: seen.services() }, claims))
}

fn claims(
    ingress: &Ingress,
    certificates: Vec<(Option<String>, Certificate)>,
    (clear, secure): (Site, Site),
) -> BTreeMap<Site, Vec<Claim>> {
    let rank = rank(&ingress.metadata);
    let claim = |order: usize, hostname: Option<String>, protocol: Protocol, mode: Mode| Claim {
        rank: Rank { order: (order, 0), ..rank.clone() },
        owner: Item::Ingress(key_of(&ingress.metadata)),
        source: Source::Gateway,
        name: hostname.clone().unwrap_or_default(),
        protocol,
        config: ListenerConfig { hostname: hostname.map(Into::into), mode, identity: None },
    };
    let mut claims = BTreeMap::from([(clear, vec![claim(0, None, Protocol::Http, Mode::Http(None))])]);
    for (order, (hostname, certificate)) in certificates.into_iter().enumerate() {
        match termination(vec![certificate], &Clients::Anybody, true) {
            Ok(config) => {
                let claim = claim(order, hostname, Protocol::Tls, Mode::Http(Some(config)));
                claims.entry(secure).or_default().push(claim);
            }
            Err(error) => warn!(ingress = %key_of(&ingress.metadata), %error, "an Ingress has no usable certificate"),
        }
    }
    claims
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
fn certificates(seen: &Seen<'_>, ingress: &Ingress) -> Vec<(Option<String>, Certificate)> {
    let mut certificates: Vec<(Option<String>, Certificate)> = Vec::new();
    for tls in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
        let Some(secret) = &tls.secret_name else { continue };
        match seen.certificate(&Key::new(namespace(&ingress.metadata), secret)) {
            Ok(certificate) => {
                let mut hosts: Vec<_> = tls.hosts.iter().flatten().map(|h| Some(h.to_ascii_lowercase())).collect();
                if hosts.is_empty() {
                    hosts.push(None);
                }
                for host in hosts {
                    // The first for a host stays.
                    if certificates.iter().all(|(known, _)| *known != host) {
                        certificates.push((host, Arc::clone(&certificate)));
                    }
                }
            }
            Err(error) => {
                warn!(ingress = %key_of(&ingress.metadata), secret, error, "an Ingress has no usable certificate");
            }
        }
    }
    certificates
}

type Compiled = (Option<String>, RequestMatch, Rank, Arc<Rule>);

fn rules(seen: &Seen<'_>, ingress: &Ingress) -> Vec<Compiled> {
    let Some(spec) = &ingress.spec else { return Vec::new() };
    let rank = rank(&ingress.metadata);
    let mut compiled = Vec::new();
    for (order, rule) in spec.rules.iter().flatten().enumerate() {
        compiled.extend(paths(seen, ingress, rule, order, &rank));
    }
    if let Some(backend) = &spec.default_backend {
        // After everything else that takes every path of every host.
        let rank = Rank { created: i64::MAX, order: (usize::MAX, 0), ..rank };
        compiled.push((None, RequestMatch::prefix("/"), rank, forward(seen, ingress, backend)));
    }
    compiled
}

fn paths(seen: &Seen<'_>, ingress: &Ingress, rule: &IngressRule, order: usize, rank: &Rank) -> Vec<Compiled> {
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
        (host.clone(), condition, rank, forward(seen, ingress, &path.backend))
    });
    compiled.collect()
}

fn forward(seen: &Seen<'_>, ingress: &Ingress, backend: &IngressBackend) -> Arc<Rule> {
    let share = Share { weight: 1, target: target(seen, ingress, backend), filters: Filters::default() };
    Arc::new(Rule {
        owner: owner(&key_of(&ingress.metadata)),
        name: None,
        filters: Filters::default(),
        action: Action::Forward(vec![share]),
        timeouts: Timeouts::default(),
    })
}

/// The backend's endpoints. A Service that is missing has none, and is answered with 503 until it is there.
fn target(seen: &Seen<'_>, ingress: &Ingress, backend: &IngressBackend) -> Target {
    let Some(reference) = &backend.service else { return Target::Invalid };
    let key = Key::new(namespace(&ingress.metadata), &reference.name);
    let service = seen.service(&key);
    let port = reference.port.as_ref().and_then(|port| port_number(port, service.as_deref()));
    match port {
        Some(port) => Target::Service { backend: seen.backend(&key, port), http2: false },
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
