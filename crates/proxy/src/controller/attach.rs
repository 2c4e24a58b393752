//! Attaching routes to the listeners that their parents name and that admit them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kinds::gateway::{self, FromNamespaces, ParentReference};
use reconcile::Key;

use super::{
    CONTROLLER_NAME, MESH_CONTROLLER_NAME,
    attachment::{Attachments, RoutePolicies},
    compiled::{self, Compiled, Rules},
    item::{Dependency, RouteKind},
    listeners::{ListenerId, Offer, Source, is_allowed},
    lookup::{Route, Seen, is, namespace, rank},
    rivals::{Candidate, Rivals},
    services,
    verdict::{Fault, Verdict},
};
use crate::routing::{Entry, Frontend, Rank, Spot, StreamRule, shared};

/// A route and what became of it.
pub(crate) struct RoutePlan {
    pub(crate) route: Route,
    /// What is said about its parents that are ours.
    pub(crate) parents: Vec<ParentReport>,
    /// Its listeners.
    pub(crate) attached: Vec<ListenerId>,
    /// Its rules, by place in the table.
    pub(crate) placements: Vec<Placement>,
    /// The Services that it refers to.
    pub(crate) services: BTreeSet<Key>,
    /// The listeners that it has or would have but for a route of another kind.
    pub(crate) candidates: Vec<Candidate>,
    /// The policies about it.
    pub(crate) policies: RoutePolicies,
}

/// What is said about one parent.
pub(crate) struct ParentReport {
    /// As whom it is said.
    pub(crate) controller: &'static str,
    pub(crate) parent: ParentReference,
    pub(crate) verdicts: Vec<Verdict>,
}

/// A rule at its place in the table.
pub(crate) enum Placement {
    Request(Spot, Arc<Entry>),
    Stream(Spot, Rank, Arc<StreamRule>),
    Service(Frontend, Arc<Entry>),
    ServiceStream(Frontend, Rank, Arc<StreamRule>),
}

/// What Gateways of ours offer to routes.
pub(crate) type Offers = HashMap<Key, Vec<Offer>>;

/// Compiles a route and attaches it.
pub(crate) fn plan(seen: &Seen<'_>, route: Route, offers: &Offers, rivals: &Rivals, known: &Attachments) -> RoutePlan {
    let (mut parents, mut attached, mut placements) = (Vec::new(), Vec::new(), Vec::new());
    let mut policies = RoutePolicies::of(known, seen, &route);
    let mut ancestors: Vec<(ParentReference, Vec<ListenerId>)> = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let rank = rank(route.meta());
    let compile = || {
        let mut compiled = compiled::compile(seen, &route);
        policies.put(known, &mut compiled.rules);
        compiled
    };
    let (mut compiled, mut served) = (None, BTreeSet::new());
    for parent in route.parents() {
        if let Some(service) = services::parent_of(&route, parent) {
            let compiled = compiled.get_or_insert_with(compile);
            let found = services::frontends(seen, &route, &service, parent);
            let found = found.and_then(|found| compiled.accepted.clone().map(|()| found));
            let (controller, said) = (MESH_CONTROLLER_NAME, parent.clone());
            parents.push(ParentReport { controller, parent: said, verdicts: verdicts(compiled, &found) });
            ancestors.push((ancestor(&route, parent), Vec::new()));
            for frontend in found.into_iter().flatten() {
                if served.insert(frontend.clone()) {
                    services::place(&mut placements, &frontend, &route, compiled);
                }
            }
            continue;
        }
        let Some((gateway, source)) = parent_of(seen, &route, parent) else { continue };
        seen.note(Dependency::Offers(gateway.clone()));
        let Some(offered) = offers.get(&gateway) else { continue };
        let compiled = compiled.get_or_insert_with(compile);
        let offered = offered.iter().filter(|offer| offer.source == source);
        let found = attachments(seen, offered.collect(), &route, parent).and_then(|found| {
            compiled.accepted.clone()?;
            let id = |offer: &Offer| ListenerId {
                gateway: gateway.clone(),
                source: source.clone(),
                name: offer.name.clone(),
            };
            contend(found, id, (route.kind(), &rank), rivals, &mut candidates)
        });
        let (controller, said) = (CONTROLLER_NAME, parent.clone());
        parents.push(ParentReport { controller, parent: said, verdicts: verdicts(compiled, &found) });
        ancestors.push((ancestor(&route, parent), Vec::new()));
        for (offer, hosts) in found.into_iter().flatten() {
            let id = ListenerId { gateway: gateway.clone(), source: source.clone(), name: offer.name.clone() };
            if let Some((_, at)) = ancestors.last_mut() {
                at.push(id.clone());
            }
            if !attached.contains(&id) {
                let merged = policies.merged(known, seen, &compiled.rules, &id);
                place(&mut placements, offer, &hosts, &route, merged.as_ref().unwrap_or(&compiled.rules));
                attached.push(id);
            }
        }
    }
    policies.tell(known, &ancestors);
    RoutePlan { route, parents, attached, placements, services: seen.services(), candidates, policies }
}

/// Leaves the listeners whose hostnames no older route of another kind has.
fn contend<'a>(
    found: Vec<Attachment<'a>>,
    id: impl Fn(&Offer) -> ListenerId,
    (kind, rank): (RouteKind, &Rank),
    rivals: &Rivals,
    candidates: &mut Vec<Candidate>,
) -> Result<Vec<Attachment<'a>>, Fault> {
    let (mut won, mut lost) = (Vec::new(), None);
    for (offer, hosts) in found {
        let listener = id(offer);
        let winner = rivals.winner(&listener, kind, rank, &hosts);
        candidates.push(Candidate { listener, hosts: hosts.clone(), wins: winner.is_none() });
        match winner {
            None => won.push((offer, hosts)),
            Some(winner) => {
                let message = format!("route {winner} of another kind is older and has a hostname in common");
                lost = Some(Fault::new("NotAllowedByListeners", message));
            }
        }
    }
    match lost {
        Some(fault) if won.is_empty() => Err(fault),
        _ => Ok(won),
    }
}

fn verdicts<T>(compiled: &Compiled, found: &Result<T, Fault>) -> Vec<Verdict> {
    let mut verdicts = vec![
        Verdict::of("Accepted", "Accepted", found.as_ref().map(|_| ()).map_err(Clone::clone)),
        Verdict::of("ResolvedRefs", "ResolvedRefs", compiled.references.clone()),
    ];
    if let (Some(fault), Ok(_)) = (&compiled.partially, found) {
        let message = format!("Dropped Rule: {}", fault.message);
        verdicts.push(Verdict { message, ..Verdict::yes("PartiallyInvalid", fault.reason) });
    }
    verdicts
}

/// How the status of a policy names a parent of a route.
fn ancestor(route: &Route, parent: &ParentReference) -> ParentReference {
    ParentReference {
        group: Some(parent.group.clone().unwrap_or_else(|| gateway::GROUP.to_owned())),
        kind: Some(parent.kind.clone().unwrap_or_else(|| "Gateway".to_owned())),
        namespace: Some(parent.namespace.clone().unwrap_or_else(|| namespace(route.meta()).to_owned())),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        ..ParentReference::default()
    }
}

/// The Gateway that a parent reference leads to, and whose listeners there it means.
fn parent_of(seen: &Seen<'_>, route: &Route, parent: &ParentReference) -> Option<(Key, Source)> {
    let (group, kind) = (parent.group.as_deref(), parent.kind.as_deref());
    let key = Key::new(parent.namespace.as_deref().unwrap_or(namespace(route.meta())), &parent.name);
    if is(group, kind, (gateway::GROUP, "Gateway")) {
        return Some((key, Source::Gateway));
    }
    if kind != Some("ListenerSet") || !is(group, kind, (gateway::GROUP, "ListenerSet")) {
        return None;
    }
    let set = seen.set(&key)?;
    let reference = &set.spec.parent_ref;
    let own = namespace(&set.metadata);
    let gateway = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    Some((gateway, Source::Set(key)))
}

type Attachment<'a> = (&'a Offer, Vec<Option<String>>);

/// The listeners that a route attaches to, and under which hostnames; each step of the way has its own reason when none
/// is left.
fn attachments<'a>(
    seen: &Seen<'_>,
    offered: Vec<&'a Offer>,
    route: &Route,
    parent: &ParentReference,
) -> Result<Vec<Attachment<'a>>, Fault> {
    let named: Vec<_> = { offered.into_iter() }
        .filter(|offer| {
            parent.section_name.as_ref().is_none_or(|section| *section == offer.name)
                && parent.port.is_none_or(|port| port == i32::from(offer.port))
        })
        .collect();
    if named.is_empty() {
        return Err(Fault::new("NoMatchingParent", "no listener of the parent has this sectionName and port"));
    }
    let (from, kind) = (namespace(route.meta()), route.kind());
    let admitting: Vec<_> = { named.into_iter() }
        .filter(|offer| {
            offer.kinds.contains(&kind)
                && is_allowed(seen, offer.namespaces.as_ref(), FromNamespaces::Same, &offer.own, from)
        })
        .collect();
    if admitting.is_empty() {
        let message = format!("no listener admits {}s of namespace {from}", kind.name());
        return Err(Fault::new("NotAllowedByListeners", message));
    }
    let hosts = |offer: &Offer| match kind {
        RouteKind::Http | RouteKind::Grpc | RouteKind::Tls => shared(offer.hostname.as_deref(), route.hostnames()),
        RouteKind::Tcp | RouteKind::Udp => vec![None],
    };
    let attachments = admitting.into_iter().map(|offer| (offer, hosts(offer)));
    let attachments: Vec<_> = attachments.filter(|(_, hosts)| !hosts.is_empty()).collect();
    if attachments.is_empty() {
        return Err(Fault::new("NoMatchingListenerHostname", "no hostname of the route is one of a listener"));
    }
    Ok(attachments)
}

/// Where in the table the rules of a route are, behind one listener.
fn place(placements: &mut Vec<Placement>, offer: &Offer, hosts: &[Option<String>], route: &Route, rules: &Rules) {
    let rank = rank(route.meta());
    let listener: Option<Box<str>> = offer.hostname.as_deref().map(|host| host.to_ascii_lowercase().into());
    for site in &offer.sites {
        for host in hosts {
            let spot = Spot { site: *site, listener: listener.clone(), host: host.as_deref().map(Into::into) };
            match rules {
                Rules::Stream(rule) => {
                    placements.extend(rule.iter().map(|rule| {
                        let mut rule = StreamRule::clone(rule);
                        rule.inherited = Some(Arc::clone(&offer.inherited));
                        Placement::Stream(spot.clone(), rank.clone(), Arc::new(rule))
                    }));
                }
                Rules::Requests(rules) => {
                    for (order, (matches, rule)) in rules.iter().enumerate() {
                        for (index, condition) in matches.iter().enumerate() {
                            let rank = Rank { order: (order, index), ..rank.clone() };
                            let (condition, rule) = (condition.clone(), Arc::clone(rule));
                            let inherited = Some(Arc::clone(&offer.inherited));
                            let entry = Entry { inherited, ..Entry::new(condition, rank, rule) };
                            placements.push(Placement::Request(spot.clone(), Arc::new(entry)));
                        }
                    }
                }
            }
        }
    }
}
