//! Which listeners a Gateway has, its own and those of ListenerSets, and what is wrong with each.

use std::sync::Arc;

use http::HeaderValue;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::gateway::{
    self, AllowedRoutes, FromNamespaces, Gateway, Listener, ListenerSet, RouteGroupKind, RouteNamespaces, TlsMode,
};
use reconcile::Key;

use super::{
    addresses::{Addresses, Located},
    attachment::{ClientTerms, Settled},
    item::RouteKind,
    lookup::{Seen, is, key_of, namespace, rank_of},
    termination::{self, Frontend},
    verdict::Fault,
};
use crate::routing::{Client, Identity, Inherited, ListenerConfig, Mode, Place, Protocol, Site, Transport, overlap};

/// A Gateway of ours.
pub(crate) struct GatewayPlan {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) located: Located,
    /// Whether it can be served at all.
    pub(crate) accepted: Result<(), Fault>,
    /// Whether its own certificate towards backends is there; absent when it asks for none.
    pub(crate) identity: Option<Result<Arc<Identity>, Fault>>,
    /// Whether clients without a valid certificate are served although certificates are asked for.
    pub(crate) insecure: bool,
    pub(crate) listeners: Vec<ListenerPlan>,
    pub(crate) sets: Vec<SetPlan>,
    /// The policies about it.
    pub(crate) policies: Settled,
}

/// A ListenerSet that names the Gateway.
pub(crate) struct SetPlan {
    pub(crate) set: Arc<ListenerSet>,
    pub(crate) allowed: bool,
    /// The policies about it.
    pub(crate) policies: Settled,
}

/// Whose a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    Gateway,
    Set(Key),
}

/// A listener by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ListenerId {
    pub(crate) gateway: Key,
    pub(crate) source: Source,
    pub(crate) name: String,
}

/// One listener.
pub(crate) struct ListenerPlan {
    pub(crate) source: Source,
    pub(crate) listener: Listener,
    pub(crate) port: u16,
    /// What its port speaks, or why it cannot be served.
    pub(crate) protocol: Result<Protocol, Fault>,
    /// Whether no other listener is in its way.
    pub(crate) distinct: Result<(), Fault>,
    /// What it refers to and is not there.
    pub(crate) references: Vec<Fault>,
    /// Whether there is a root by which clients can be verified, where they are.
    pub(crate) clients: Result<(), Fault>,
    pub(crate) kinds: Vec<RouteKind>,
    /// Whether another listener of the port has a hostname in common, so that clients may mix them up.
    pub(crate) overlapping: bool,
    /// How it serves; absent when it cannot.
    pub(crate) config: Option<ListenerConfig>,
    /// What it ends TLS by, where it does.
    ended: Option<termination::Parts>,
    /// What its rules get from policies where they have none of their own.
    pub(crate) inherited: Arc<Inherited>,
}

/// What a listener is to routes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offer {
    pub(crate) source: Source,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) hostname: Option<String>,
    pub(crate) kinds: Vec<RouteKind>,
    pub(crate) namespaces: Option<RouteNamespaces>,
    /// The namespace of whoever owns the listener.
    pub(crate) own: String,
    /// Where it is served.
    pub(crate) sites: Vec<Site>,
    /// What its rules get from policies where they have none of their own.
    pub(crate) inherited: Arc<Inherited>,
}

impl ListenerPlan {
    pub(crate) fn hostname(&self) -> Option<&str> {
        hostname(&self.listener)
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.protocol.is_ok() && self.distinct.is_ok() && self.clients.is_ok()
    }

    /// Treats clients as a policy says.
    pub(crate) fn treat(&mut self, terms: &ClientTerms) {
        let host =
            self.hostname().filter(|host| terms.default_host && !host.starts_with('*')).map(HeaderValue::try_from);
        let Some(config) = &mut self.config else { return };
        if let (Some(ended), Some(tls)) = (&self.ended, &terms.tls) {
            config.mode = ended.by(tls.as_deref().ok());
        }
        config.client = Some(match host {
            Some(Ok(host)) => {
                let mut client = Client::clone(&terms.client);
                client.http1.default_host = Some(host);
                Arc::new(client)
            }
            _ => Arc::clone(&terms.client),
        });
    }

    /// The sites at some places.
    pub(crate) fn sites(&self, places: &[Place]) -> Vec<Site> {
        let transport = match self.protocol {
            Ok(Protocol::Udp) => Transport::Udp,
            Ok(_) | Err(_) => Transport::Tcp,
        };
        places.iter().map(|place| Site { place: *place, port: self.port, transport }).collect()
    }
}

/// Plans a Gateway; `None` when its class is not ours.
pub(crate) fn plan(seen: &Seen<'_>, gateway: &Arc<Gateway>, addresses: &mut Addresses) -> Option<GatewayPlan> {
    let class = seen.class(&gateway.spec.gateway_class_name)?;
    if class.spec.controller_name != super::CONTROLLER_NAME || class.spec.parameters_ref.is_some() {
        return None;
    }
    let located = addresses.locate(gateway);
    let accepted = accepted(gateway, &located);
    let frontends = termination::frontends(seen, gateway);
    let identity = termination::identity(seen, gateway);
    let key = key_of(&gateway.metadata);
    let mut sets = seen.sets(&key);
    sets.sort_by_cached_key(|set| rank_of(&**set));
    let allowed = |set: &ListenerSet| allows(seen, gateway, namespace(&set.metadata));
    let sets: Vec<_> =
        sets.into_iter().map(|set| SetPlan { allowed: allowed(&set), set, policies: Settled::default() }).collect();
    let own = gateway.spec.listeners.iter().map(|listener| (Source::Gateway, "Gateway", &gateway.metadata, listener));
    let more = sets.iter().filter(|set| set.allowed).flat_map(|set| {
        let (source, meta) = (Source::Set(key_of(&set.set.metadata)), &set.set.metadata);
        set.set.spec.listeners.iter().map(move |listener| (source.clone(), "ListenerSet", meta, listener))
    });
    let mut listeners = Vec::new();
    for (source, kind, meta, listener) in own.chain(more) {
        let identity = identity.as_ref().and_then(|identity| identity.as_ref().ok());
        listeners.push(plan_listener(seen, source, (kind, meta), listener, &frontends, identity));
    }
    resolve_conflicts(&mut listeners);
    mark_overlaps(&mut listeners);
    if accepted.is_err() {
        for listener in &mut listeners {
            listener.config = None;
        }
    }
    let insecure = frontends.any_insecure();
    let (gateway, policies) = (Arc::clone(gateway), Settled::default());
    Some(GatewayPlan { gateway, located, accepted, identity, insecure, listeners, sets, policies })
}

fn accepted(gateway: &Gateway, located: &Located) -> Result<(), Fault> {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    if let Some(reference) = infrastructure.and_then(|infrastructure| infrastructure.parameters_ref.as_ref()) {
        let message = format!("parametersRef {} {}: this controller has no parameters", reference.kind, reference.name);
        return Err(Fault::new("InvalidParameters", message));
    }
    located.supported.clone()
}

/// Whether ListenerSets of a namespace may add listeners.
fn allows(seen: &Seen<'_>, gateway: &Gateway, from: &str) -> bool {
    let namespaces = gateway.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let own = namespace(&gateway.metadata);
    is_allowed(seen, namespaces, FromNamespaces::None, own, from)
}

/// Whether a choice of namespaces takes one.
pub(crate) fn is_allowed(
    seen: &Seen<'_>,
    namespaces: Option<&RouteNamespaces>,
    default: FromNamespaces,
    own: &str,
    from: &str,
) -> bool {
    match namespaces.and_then(|n| n.from).unwrap_or(default) {
        FromNamespaces::All => true,
        FromNamespaces::Same => own == from,
        FromNamespaces::None => false,
        FromNamespaces::Selector => {
            let selector = namespaces.and_then(|n| n.selector.as_ref());
            selector.is_some_and(|selector| seen.selects(selector, from))
        }
    }
}

fn plan_listener(
    seen: &Seen<'_>,
    source: Source,
    owner: (&str, &ObjectMeta),
    listener: &Listener,
    frontends: &Frontend,
    identity: Option<&Arc<Identity>>,
) -> ListenerPlan {
    let protocol = protocol(listener);
    let (kinds, unknown) = match &protocol {
        Ok(protocol) => kinds(listener, *protocol, listener.allowed_routes.as_ref()),
        Err(_) => (Vec::new(), None),
    };
    let mut references: Vec<_> = unknown.into_iter().collect();
    let (mut clients, mut ended) = (Ok(()), None);
    let mode = match (&protocol, is_passthrough(listener)) {
        (Err(_), _) => None,
        (Ok(Protocol::Http), _) => Some(Mode::Http(None)),
        (Ok(Protocol::Tcp | Protocol::Udp), _) => Some(Mode::Stream(None)),
        (Ok(Protocol::Tls), true) => Some(Mode::Passthrough),
        (Ok(Protocol::Tls), false) => {
            let terminated = termination::compile(seen, owner, listener, frontends);
            references.extend(terminated.references);
            clients = terminated.clients;
            ended = Some(terminated.parts);
            terminated.mode
        }
    };
    let hostname = hostname(listener).map(|host| host.to_ascii_lowercase().into());
    let config = mode.map(|mode| ListenerConfig { identity: identity.cloned(), ..ListenerConfig::new(hostname, mode) });
    ListenerPlan {
        source,
        listener: listener.clone(),
        port: u16::try_from(listener.port).unwrap_or(0),
        protocol,
        distinct: Ok(()),
        references,
        clients,
        kinds,
        overlapping: false,
        config,
        ended,
        inherited: Arc::default(),
    }
}

fn is_passthrough(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.mode == Some(TlsMode::Passthrough))
}

fn protocol(listener: &Listener) -> Result<Protocol, Fault> {
    match listener.protocol.as_str() {
        "HTTP" => Ok(Protocol::Http),
        "HTTPS" if is_passthrough(listener) => {
            Err(Fault::new("UnsupportedProtocol", "an HTTPS listener cannot pass TLS through"))
        }
        "HTTPS" | "TLS" => Ok(Protocol::Tls),
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        other => Err(Fault::new("UnsupportedProtocol", format!("protocol {other} is not served"))),
    }
}

/// The kinds of routes that may attach, and what is wrong with those that were asked for.
fn kinds(listener: &Listener, protocol: Protocol, allowed: Option<&AllowedRoutes>) -> (Vec<RouteKind>, Option<Fault>) {
    let possible: &[RouteKind] = match protocol {
        Protocol::Http => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls if listener.protocol == "HTTPS" => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls => &[RouteKind::Tls],
        Protocol::Tcp => &[RouteKind::Tcp],
        Protocol::Udp => &[RouteKind::Udp],
    };
    let asked = allowed.map(|a| a.kinds.as_slice()).unwrap_or_default();
    if asked.is_empty() {
        return (possible.to_vec(), None);
    }
    let known = |asked: &RouteGroupKind| {
        let ours = is(asked.group.as_deref(), None, (gateway::GROUP, ""));
        RouteKind::of(&asked.kind).filter(|kind| ours && possible.contains(kind))
    };
    let fault = asked.iter().find(|asked| known(asked).is_none()).map(|other| {
        let message =
            format!("routes of kind {} cannot attach to a listener of protocol {}", other.kind, listener.protocol);
        Fault::new("InvalidRouteKinds", message)
    });
    (asked.iter().filter_map(known).collect(), fault)
}

fn hostname(listener: &Listener) -> Option<&str> {
    listener.hostname.as_deref().filter(|h| !h.is_empty())
}

/// Listeners of one owner that conflict all lose, as the API demands; between owners the Gateway wins, then the older set.
fn resolve_conflicts(listeners: &mut [ListenerPlan]) {
    for at in 0..listeners.len() {
        let others = listeners.iter().enumerate().filter(|(other, _)| *other != at);
        let in_the_way =
            others.filter(|(other, plan)| plan.source == listeners[at].source || *other < at && plan.distinct.is_ok());
        let fault = { in_the_way }.find_map(|(_, other)| conflict(&listeners[at], other));
        if let Some(fault) = fault {
            listeners[at].distinct = Err(fault);
        }
    }
    for listener in listeners {
        if listener.distinct.is_err() {
            listener.config = None;
        }
    }
}

fn conflict(one: &ListenerPlan, other: &ListenerPlan) -> Option<Fault> {
    let (Ok(protocol), Ok(others)) = (&one.protocol, &other.protocol) else { return None };
    if one.port != other.port || (*protocol == Protocol::Udp) != (*others == Protocol::Udp) {
        return None;
    }
    let same_host = hostname(&one.listener) == hostname(&other.listener);
    let same_way = one.listener.protocol == other.listener.protocol
        && is_passthrough(&one.listener) == is_passthrough(&other.listener);
    let name = &other.listener.name;
    if protocol != others || same_host && !same_way {
        let message = format!("listener {name} on port {} speaks another protocol", one.port);
        return Some(Fault::new("ProtocolConflict", message));
    }
    same_host
        .then(|| Fault::new("HostnameConflict", format!("listener {name} has the same port, protocol and hostname")))
}

fn mark_overlaps(listeners: &mut [ListenerPlan]) {
    let ends_tls = |plan: &ListenerPlan| plan.protocol == Ok(Protocol::Tls) && !is_passthrough(&plan.listener);
    for at in 0..listeners.len() {
        let one = &listeners[at];
        let overlapping = ends_tls(one)
            && listeners.iter().enumerate().any(|(other, plan)| {
                other != at && plan.port == one.port && ends_tls(plan) && overlap(one.hostname(), plan.hostname())
            });
        listeners[at].overlapping = overlapping;
    }
}
