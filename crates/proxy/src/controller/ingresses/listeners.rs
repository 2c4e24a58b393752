//! The listeners that an Ingress needs: one for clear requests, one for each hostname with a certificate.

use std::{collections::BTreeMap, sync::Arc};

use super::{Context, annotations::Report, backends, owner, settings::Verify, sites};
use crate::{
    controller::{
        attach::Placement,
        item::Item,
        listeners::Source,
        lookup::{key_of, rank},
        sites::Claim,
    },
    routing::{Certificate, ListenerConfig, Mode, Protocol, Rank, Share, Site, Spot, StreamRule, covers},
    server::{Clients, roots, termination},
};

/// What is listened for.
pub(super) struct Plan {
    pub(super) claims: BTreeMap<Site, Vec<Claim>>,
    /// Hostnames with a certificate; `None` stands for every one.
    patterns: Vec<Option<String>>,
    /// Whether clients must show certificates.
    pub(super) verifying: bool,
}

impl Plan {
    /// The most specific pattern with a certificate that covers a host. A host without one is not served over TLS.
    pub(super) fn covering(&self, host: Option<&str>) -> Option<Option<&str>> {
        let covers = |pattern: &&Option<String>| match (pattern, host) {
            (None, _) => true,
            (Some(pattern), Some(host)) => covers(pattern, host),
            (Some(_), None) => false,
        };
        let found = self.patterns.iter().filter(covers).max_by_key(|pattern| pattern.as_ref().map_or(0, String::len));
        found.map(Option::as_deref)
    }
}

/// A listener of an Ingress; they are named by their hostname.
fn claim(context: &Context<'_>, order: usize, hostname: Option<String>, protocol: Protocol, mode: Mode) -> Claim {
    let meta = &context.ingress.metadata;
    Claim {
        rank: Rank { order: (order, 0), ..rank(meta) },
        owner: Item::Ingress(key_of(meta)),
        source: Source::Gateway,
        name: hostname.clone().unwrap_or_default(),
        protocol,
        config: ListenerConfig::new(hostname.map(Into::into), mode),
    }
}

pub(super) fn plan(context: &mut Context<'_>) -> Plan {
    let (clear, secure) = sites();
    let clients = clients(context).unwrap_or_else(|report| {
        context.report(report);
        context.settings.closed = true;
        Clients::Anybody
    });
    let verifying = matches!(clients, Clients::Verified(_));
    let mut patterns = Vec::new();
    let mut claims = BTreeMap::from([(clear, vec![claim(context, 0, None, Protocol::Http, Mode::Http(None))])]);
    for (order, (hostname, certificate)) in certificates(context).into_iter().enumerate() {
        match termination(vec![certificate], &clients, true) {
            Ok(config) => {
                patterns.push(hostname.clone());
                let claim = claim(context, order, hostname, Protocol::Tls, Mode::Http(Some(config)));
                claims.entry(secure).or_default().push(claim);
            }
            Err(error) => context.report(Report::new("InvalidCertificate", format!("cannot serve TLS: {error}"))),
        }
    }
    Plan { claims, patterns, verifying }
}

/// What is asked of clients.
fn clients(context: &Context<'_>) -> Result<Clients, Report> {
    let settings = &context.settings.clients;
    let Some(name) = &settings.secret else { return Ok(Clients::Anybody) };
    let key = context.beside(name);
    let wrong = |why: String| Report::new("InvalidCertificate", format!("auth-tls-secret {key}: {why}"));
    let found = || {
        let secret = context.seen.secret(&key).ok_or_else(|| wrong("not found".to_owned()))?;
        let pem = secret.data.as_ref().and_then(|data| data.get("ca.crt"));
        let pem = pem.ok_or_else(|| wrong("has no ca.crt".to_owned()))?;
        roots(&pem.0).map(Arc::new).map_err(|error| wrong(error.to_string()))
    };
    Ok(match settings.verify {
        Verify::Off => Clients::Anybody,
        Verify::Asked => Clients::Asked,
        Verify::On => Clients::Verified(found()?),
        Verify::Optional => Clients::Optional(found()?),
    })
}

/// The certificates by host; `None` stands for every host.
fn certificates(context: &Context<'_>) -> Vec<(Option<String>, Certificate)> {
    let mut certificates: Vec<(Option<String>, Certificate)> = Vec::new();
    for tls in context.ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
        let Some(secret) = &tls.secret_name else {
            context.report(Report::new("InvalidCertificate", "an entry of spec.tls names no Secret"));
            continue;
        };
        let key = context.beside(secret);
        match context.seen.certificate(&key) {
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
            Err(error) => context.report(Report::new("InvalidCertificate", format!("Secret {key}: {error}"))),
        }
    }
    certificates
}

/// Listeners that pass connections on as they come, by the server name in them, and their rules: to the backend of the
/// first path of each host.
pub(super) fn passthrough(context: &Context<'_>) -> (Vec<Placement>, BTreeMap<Site, Vec<Claim>>) {
    let (_, secure) = sites();
    let (mut placements, mut claims) = (Vec::new(), Vec::new());
    let own = owner(&key_of(&context.ingress.metadata));
    for (order, rule) in context.ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten()).enumerate() {
        let host = rule.host.as_ref().map(|host| host.to_ascii_lowercase()).filter(|host| !host.is_empty());
        let path = rule.http.iter().flat_map(|http| &http.paths).next();
        let (Some(host), Some(path)) = (host, path) else {
            let why = "connections are told apart by host: a rule without one or without a backend is not served";
            context.report(Report::new("InvalidRule", format!("ssl-passthrough: {why}")));
            continue;
        };
        let share = Share { weight: 1, target: backends::plain(context, &path.backend), filters: Default::default() };
        claims.push(claim(context, order, Some(host.clone()), Protocol::Tls, Mode::Passthrough));
        let spot = Spot { site: secure, listener: Some(host.as_str().into()), host: Some(host.as_str().into()) };
        let rule = StreamRule::new(own.clone(), vec![share]);
        placements.push(Placement::Stream(spot, rank(&context.ingress.metadata), Arc::new(rule)));
    }
    (placements, BTreeMap::from([(secure, claims)]))
}
