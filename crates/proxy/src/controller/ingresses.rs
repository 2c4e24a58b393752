//! Ingresses in the same table: rules by host on the well-known ports of the shared addresses.
//!
//! Annotations are those of ingress-nginx. They are read in one place and compiled into the rules that routes are compiled
//! into; there is no second way to serve. An Ingress is compiled with its canaries, which have no rules of their own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use reconcile::Key;

use self::{
    rules::Compiled,
    settings::{Settings, TrafficSettings},
};
use super::{
    attach::Placement,
    lookup::{Seen, namespace},
    sites::Claim,
};
use crate::routing::{Entry, Guards, Owner, Place, RequestMatch, Rule, Site, Spot, Traffic, Transport};

pub(crate) use self::{
    annotations::Report,
    canaries::{paths, related},
};

mod annotations;
mod backends;
mod canaries;
mod guards;
mod listeners;
mod rules;
mod settings;
mod traffic;
pub(crate) mod translate;
mod values;

/// Who serves an IngressClass of ours.
pub(crate) const INGRESS_CONTROLLER: &str = "keelson.dev/ingress";

/// Ports of HTTP and HTTPS.
pub(crate) const PORTS: (u16, u16) = (80, 443);

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// An Ingress of ours and its rules.
pub(crate) struct IngressPlan {
    pub(crate) placements: Vec<Placement>,
    /// The Services that it refers to.
    pub(crate) services: BTreeSet<Key>,
    /// What deserves an event.
    pub(crate) reports: Vec<Report>,
    /// Whether its rules must be behind its own listeners only, which verify clients, and not behind others' for the same
    /// hostnames.
    pub(crate) leading: bool,
    /// How requests are forwarded, and what that was made from.
    traffic: (TrafficSettings, Arc<Traffic>),
}

impl IngressPlan {
    /// Keeps the rules behind listeners that are served; they are named by their hostname.
    pub(crate) fn retain(&mut self, served: impl Fn(Site, &str) -> bool) {
        self.placements.retain(|placement| match placement {
            Placement::Request(spot, _) | Placement::Stream(spot, ..) => {
                served(spot.site, spot.listener.as_deref().unwrap_or(""))
            }
            // An Ingress has no Service as parent.
            Placement::Service(..) | Placement::ServiceStream(..) => true,
        });
    }
}

/// What is compiled, and what was found on the way.
struct Context<'a> {
    seen: &'a Seen<'a>,
    ingress: &'a Ingress,
    settings: Settings,
    traffic: Arc<Traffic>,
    guards: Option<Arc<Guards>>,
    reports: RefCell<Vec<Report>>,
}

impl Context<'_> {
    fn namespace(&self) -> &str {
        namespace(&self.ingress.metadata)
    }

    /// A Secret, ConfigMap or Service beside the Ingress.
    fn beside(&self, name: &str) -> Key {
        Key::new(self.namespace(), name)
    }

    /// Tells about something; once, though several rules may meet it.
    fn report(&self, report: Report) {
        let mut reports = self.reports.borrow_mut();
        if !reports.contains(&report) {
            reports.push(report);
        }
    }
}

/// The owner of an Ingress's rules.
pub(crate) fn owner(key: &Key) -> Owner {
    Owner { kind: "Ingress", name: key.to_string().into() }
}

/// Compiles an Ingress, with the listeners that it needs, `before` being what it was; `None` when it is not ours.
pub(crate) fn plan(
    seen: &Seen<'_>,
    ingress: Arc<Ingress>,
    before: Option<&IngressPlan>,
) -> Option<(IngressPlan, BTreeMap<Site, Vec<Claim>>)> {
    let class = class_of(&ingress, &seen.ingress_classes())?;
    let mut reports = Vec::new();
    let parameters = parameters(seen, &class, &mut reports);
    let (settings, found) = settings(&ingress, &parameters);
    reports.extend(found);
    let (traffic, reports) = (Arc::default(), RefCell::new(reports));
    let mut context = Context { seen, ingress: &ingress, settings, traffic, guards: None, reports };
    let traffic = traffic::shared(&context, before.map(|before| &before.traffic));
    context.traffic = Arc::clone(&traffic.1);
    match guards::guards(&context) {
        Ok(guards) => context.guards = guards,
        Err(report) => {
            context.report(report);
            context.settings.closed = true;
        }
    }
    let (mut placements, mut claims, mut leading) = (Vec::new(), BTreeMap::new(), false);
    if context.settings.canary.enabled {
        canaries::judge(&context);
    } else if context.settings.passthrough {
        (placements, claims) = listeners::passthrough(&context);
    } else {
        let listeners = listeners::plan(&mut context);
        placements = place(&context, &listeners);
        leading = listeners.verifying;
        claims = listeners.claims;
    }
    let reports = context.reports.into_inner();
    Some((IngressPlan { placements, services: seen.services(), reports, leading, traffic }, claims))
}

/// Puts the rules behind the listeners.
fn place(context: &Context<'_>, listeners: &listeners::Plan) -> Vec<Placement> {
    let (clear, secure) = sites();
    let (redirects, mut placements) = (&context.settings.redirects, Vec::new());
    let to_secure = rules::to_secure(context);
    for Compiled { host, condition, rank, rule } in rules::compile(context) {
        let covering = listeners.covering(host.as_deref());
        let redirected =
            redirects.secure_always || listeners.verifying || covering.is_some() && redirects.secure != Some(false);
        let host: Option<Box<str>> = host.as_deref().map(Into::into);
        let spot = Spot { site: clear, listener: None, host: host.clone() };
        let mut put = |spot: Spot, condition: RequestMatch, rule: &Arc<Rule>| {
            let entry = Entry::new(condition, rank.clone(), Arc::clone(rule));
            placements.push(Placement::Request(spot, Arc::new(entry)));
        };
        if let Some(pattern) = covering {
            put(Spot { site: secure, listener: pattern.map(Into::into), host }, condition.clone(), &rule);
        }
        if redirected {
            if redirects.secure_always && !listeners.verifying {
                put(spot.clone(), rules::secured_before(condition.clone()), &rule);
            }
            put(spot, condition, &to_secure);
        } else {
            put(spot, condition, &rule);
        }
    }
    placements
}

/// The ports of HTTP and HTTPS.
fn sites() -> (Site, Site) {
    let clear = Site { place: Place::Shared, port: PORTS.0, transport: Transport::Tcp };
    (clear, Site { port: PORTS.1, ..clear })
}

fn settings(ingress: &Ingress, class: &BTreeMap<String, String>) -> (Settings, Vec<Report>) {
    let none = BTreeMap::new();
    let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&none);
    annotations::parse(annotations, class, namespace(&ingress.metadata))
}

/// What an IngressClass says for all of its Ingresses: a ConfigMap as ingress-nginx has one.
fn parameters(seen: &Seen<'_>, class: &IngressClass, reports: &mut Vec<Report>) -> BTreeMap<String, String> {
    let Some(reference) = class.spec.as_ref().and_then(|spec| spec.parameters.as_ref()) else {
        return BTreeMap::new();
    };
    let name = class.metadata.name.as_deref().unwrap_or("");
    let mut wrong = |why: String| {
        reports.push(Report::new("InvalidParameters", format!("parameters of IngressClass {name}: {why}")));
        BTreeMap::new()
    };
    let (group, kind) = (reference.api_group.as_deref().unwrap_or(""), &*reference.kind);
    if (group, kind) != ("", "ConfigMap") {
        return wrong(format!("{kind} {}: only a ConfigMap is followed", reference.name));
    }
    let Some(namespace) = reference.namespace.as_deref() else {
        return wrong(format!("ConfigMap {} needs a namespace and the scope Namespace", reference.name));
    };
    let key = Key::new(namespace, &*reference.name);
    match seen.config_map(&key) {
        Some(map) => map.data.clone().unwrap_or_default(),
        None => wrong(format!("ConfigMap {key} not found")),
    }
}

/// The class of ours that an Ingress names, or without a name the default one.
fn class_of(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> Option<Arc<IngressClass>> {
    let mut ours =
        classes.iter().filter(|c| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(INGRESS_CONTROLLER));
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotations = ingress.metadata.annotations.as_ref();
    let named = named.or_else(|| annotations.and_then(|a| a.get(CLASS_ANNOTATION)));
    match named {
        Some(name) => ours.find(|class| class.metadata.name.as_ref() == Some(name)),
        None => ours.find(|class| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.and_then(|a| a.get(DEFAULT_CLASS_ANNOTATION)).is_some_and(|v| v == "true")
        }),
    }
    .cloned()
}
