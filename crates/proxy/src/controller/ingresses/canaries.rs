//! Canaries: Ingresses that take some of the requests of another one's rules for the same host and path.
//!
//! A canary has no rules of its own. Its main Ingress is compiled with it, and again when it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use reconcile::Key;

use super::{
    Context,
    annotations::{PREFIX, Report},
    class_of,
};
use crate::{
    controller::lookup::{Seen, key_of, namespace, rank},
    routing::{Canary, HeldBy, Rule},
};

/// What takes some of the requests of a path.
pub(super) struct Taker {
    of: Arc<Canary>,
    pub(super) backend: IngressBackend,
    /// It takes its requests whatever endpoint they were sent to before.
    legacy: bool,
}

/// What makes requests the canary's: where clients keep their endpoint, those that it has already and not those that the
/// main Ingress has.
pub(super) fn of_session(taker: Taker, main: &Rule, canary: &Rule) -> Arc<Canary> {
    let session = main.session.as_ref().filter(|_| !taker.legacy);
    match (session, main.backends().next(), canary.backends().next()) {
        (Some(session), Some(main), Some(canary)) => {
            let kept = HeldBy { session: Arc::clone(session), main: Arc::clone(main), canary: Arc::clone(canary) };
            Arc::new(Canary { kept: Some(kept), ..Canary::clone(&taker.of) })
        }
        _ => taker.of,
    }
}

/// The hosts and paths of an Ingress, as one text each: where its canaries, or what it is a canary of, are found.
pub(crate) fn paths(ingress: &Ingress) -> BTreeSet<String> {
    let namespace = namespace(&ingress.metadata);
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let paths = rules.flat_map(|rule| {
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        paths.map(move |path| place(namespace, rule.host.as_deref(), path))
    });
    paths.collect()
}

pub(super) fn place(namespace: &str, host: Option<&str>, path: &HTTPIngressPath) -> String {
    let host = host.unwrap_or("").to_ascii_lowercase();
    format!("{namespace} {host} {}", path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"))
}

fn is_canary(ingress: &Ingress) -> bool {
    let annotations = ingress.metadata.annotations.iter().flatten();
    annotations.filter(|(name, _)| name.strip_prefix(PREFIX) == Some("canary")).any(|(_, value)| value.trim() == "true")
}

/// The Ingresses that have to be compiled again when one is no more what it was: its canaries, or what it is one of.
pub(crate) fn related<'a>(
    versions: impl Iterator<Item = &'a Ingress>,
    at: impl Fn(&str) -> Vec<Arc<Ingress>>,
) -> BTreeSet<Key> {
    let mut related = BTreeSet::new();
    for ingress in versions {
        let (own, canary) = (key_of(&ingress.metadata), is_canary(ingress));
        for other in paths(ingress).iter().flat_map(|path| at(path)) {
            if is_canary(&other) != canary && key_of(&other.metadata) != own {
                related.insert(key_of(&other.metadata));
            }
        }
    }
    related
}

/// The canaries of a path, the oldest first.
pub(super) fn of(context: &Context<'_>, host: Option<&str>, path: &HTTPIngressPath) -> Vec<Taker> {
    let place = place(context.namespace(), host, path);
    let mut canaries = ours(context.seen, &place, true);
    canaries.sort_by_cached_key(|canary| rank(&canary.metadata));
    let takers = canaries.into_iter().filter_map(|canary| {
        let (settings, _) = super::settings(&canary, &BTreeMap::new());
        let rules = canary.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let mut same = rules.flat_map(|rule| {
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            paths.map(|path| (self::place(context.namespace(), rule.host.as_deref(), path), &path.backend))
        });
        let backend = same.find(|(of, _)| *of == place).map(|(_, backend)| backend.clone())?;
        Some(Taker { of: Arc::new(settings.canary.of), backend, legacy: settings.canary.legacy })
    });
    takers.collect()
}

fn ours(seen: &Seen<'_>, place: &str, canary: bool) -> Vec<Arc<Ingress>> {
    let classes = seen.ingress_classes();
    let there = seen.ingresses_at(place).into_iter();
    there.filter(|ingress| is_canary(ingress) == canary && class_of(ingress, &classes).is_some()).collect()
}

/// Says what keeps a canary from taking requests.
pub(super) fn judge(context: &Context<'_>) {
    for place in paths(context.ingress) {
        if ours(context.seen, &place, false).is_empty() {
            let at = place.split_once(' ').map_or("", |(_, at)| at).replacen(' ', "", 1);
            let why = format!("canary of {at:?}: no other Ingress of this namespace has a rule for that host and path");
            context.report(Report::new("NoMainIngress", why));
        }
    }
}
