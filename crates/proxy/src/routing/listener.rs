//! The listeners of one port, and the routes behind each.

use std::{net::IpAddr, sync::Arc};

use rustls::{ServerConfig, sign::CertifiedKey};

use super::{
    backend::{Share, Target, choose},
    client::Client,
    decision::{Decision, Found},
    hosts::Hosts,
    matching::{Rank, RequestHead},
    rule::{Owner, StreamRule},
    rules::{Entry, HostRules},
};

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Clear HTTP.
    Http,
    /// TLS; what is inside, if it is looked at, depends on the listener.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

/// How a listener serves.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Hostname pattern; `None` for every hostname.
    pub hostname: Option<Box<str>>,
    /// What becomes of connections.
    pub mode: Mode,
    /// By which certificate backends know the gateway.
    pub identity: Option<Arc<Identity>>,
    /// How it treats its clients, where a policy says something about that.
    pub client: Option<Arc<Client>>,
}

impl ListenerConfig {
    /// A listener without anything special.
    pub fn new(hostname: Option<Box<str>>, mode: Mode) -> Self {
        ListenerConfig { hostname, mode, identity: None, client: None }
    }
}

/// What becomes of connections.
#[derive(Clone, Debug)]
pub enum Mode {
    /// HTTP requests are routed; decrypted first on a port that speaks TLS.
    Http(Option<Arc<ServerConfig>>),
    /// Bytes are forwarded; decrypted first on a port that speaks TLS.
    Stream(Option<Arc<ServerConfig>>),
    /// Bytes are forwarded as they are, encrypted.
    Passthrough,
}

/// A certificate by which backends know a gateway.
#[derive(Debug)]
pub struct Identity {
    /// Different for each, so that connections are not shared between two.
    pub id: u64,
    /// The certificate and its key.
    pub key: Arc<CertifiedKey>,
}

/// One port.
#[derive(Clone, Debug)]
pub struct PortTable {
    protocol: Protocol,
    listeners: Hosts<Arc<Listener>>,
    client: Option<Arc<Client>>,
}

/// A listener and its routes.
#[derive(Clone, Debug)]
pub struct Listener {
    /// How it serves.
    pub config: ListenerConfig,
    http: Hosts<Arc<HostRules>>,
    /// By server name; the first of several wins.
    streams: Hosts<Streams>,
}

/// Rules for connections, the oldest first.
type Streams = Arc<Vec<(Rank, Arc<StreamRule>)>>;

impl PortTable {
    /// A port without listeners.
    pub(super) fn new(protocol: Protocol) -> Self {
        PortTable { protocol, listeners: Hosts::default(), client: None }
    }

    /// What the port speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How clients are treated before it is known which listener they want: as the first listener says that has a policy.
    /// Without one no listener of the port has any.
    pub fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// The most specific listener for a hostname in lower case.
    pub fn listener(&self, host: &str) -> Option<&Arc<Listener>> {
        self.listeners.matching(host).next()
    }

    /// The listener of a pattern.
    pub fn listener_of(&self, hostname: Option<&str>) -> Option<&Arc<Listener>> {
        self.listeners.get(hostname)
    }

    /// The rule that takes a request that came in on `port`, in a TLS connection on behalf of the listener of the pattern
    /// `through`; else what to do with it. `random` draws among rules that take a part of their requests.
    pub fn find<'a>(
        &'a self,
        port: u16,
        through: Option<Option<&str>>,
        head: &RequestHead<'_>,
        random: u64,
    ) -> Result<Found<'a>, Decision<'a>> {
        // Only the most specific listener's routes count: a request never falls through to another listener.
        let Some(listener) = self.listener(head.host) else { return Err(Decision::NotFound) };
        if through.is_some_and(|through| through != listener.config.hostname.as_deref()) {
            // The connection was made for another listener, whose certificate and client checks are not this one's.
            return Err(Decision::Misdirected);
        }
        let entry = listener.find(head, random).ok_or(Decision::NotFound)?;
        Ok(Found { entry, listener: &listener.config, tls: self.protocol == Protocol::Tls, port })
    }

    /// Decides about a request whatever guards its rule has; `random` draws among weighted backends too.
    #[cfg(test)]
    pub(crate) fn route<'a>(
        &'a self,
        port: u16,
        through: Option<Option<&str>>,
        head: &RequestHead<'_>,
        random: u64,
    ) -> Decision<'a> {
        match self.find(port, through, head, random) {
            Ok(found) => found.decide(head, None, random),
            Err(decision) => decision,
        }
    }

    pub(super) fn configure(&mut self, configs: Vec<ListenerConfig>) {
        let old = std::mem::take(&mut self.listeners);
        self.client = configs.iter().find_map(|config| config.client.clone());
        for config in configs {
            let hostname = config.hostname.clone();
            let known = old.get(hostname.as_deref()).cloned();
            self.listeners.change(hostname.as_deref(), |listener| {
                // The first for a pattern stays.
                if listener.is_none() {
                    *listener = Some(match known {
                        Some(mut known) => {
                            Arc::make_mut(&mut known).config = config;
                            known
                        }
                        None => Arc::new(Listener { config, http: Hosts::default(), streams: Hosts::default() }),
                    });
                }
            });
        }
    }

    pub(super) fn change(&mut self, hostname: Option<&str>, change: impl FnOnce(&mut Listener)) {
        self.listeners.change(hostname, |listener| {
            if let Some(listener) = listener {
                change(Arc::make_mut(listener));
            }
        });
    }
}

impl Listener {
    fn find(&self, head: &RequestHead<'_>, random: u64) -> Option<&Entry> {
        self.http.matching(head.host).find_map(|rules| rules.find(head, random))
    }

    /// The rule of connections to a server name in lower case.
    fn stream_rule(&self, server_name: &str) -> Option<&StreamRule> {
        let (_, rule) = self.streams.matching(server_name).next()?.first()?;
        Some(rule)
    }

    /// The share of a connection to a server name in lower case; `None` when no route takes it or no backend may.
    pub fn stream(&self, server_name: &str, random: u64) -> Option<&Share> {
        let rule = self.stream_rule(server_name)?;
        choose(&rule.shares, random).filter(|share| !matches!(share.target, Target::Invalid))
    }

    /// Whether connections of a client to a server name pass what their rule has as guards.
    pub fn admits(&self, server_name: &str, client: IpAddr) -> bool {
        let Some(rule) = self.stream_rule(server_name) else { return false };
        match &rule.guards {
            Some(guards) => guards.admit(client),
            None => {
                let inherited = rule.inherited.as_ref().and_then(|inherited| inherited.get());
                inherited.and_then(|policies| policies.guards.clone()).is_none_or(|guards| guards.admit(client))
            }
        }
    }

    /// Whether no route is behind it.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.streams.is_empty()
    }

    /// Whether routes for requests are behind it.
    pub fn has_requests(&self) -> bool {
        !self.http.is_empty()
    }

    pub(super) fn insert(&mut self, host: Option<&str>, entry: Arc<Entry>) {
        self.http.change(host, |rules| Arc::make_mut(rules.get_or_insert_default()).insert(entry));
    }

    pub(super) fn remove(&mut self, host: Option<&str>, path: &super::PathMatch, owner: &Owner) {
        self.http.change(host, |rules| {
            if let Some(known) = rules {
                let known = Arc::make_mut(known);
                known.remove(path, owner);
                if known.is_empty() {
                    *rules = None;
                }
            }
        });
    }

    pub(super) fn insert_stream(&mut self, host: Option<&str>, rank: Rank, rule: Arc<StreamRule>) {
        self.streams.change(host, |rules| {
            let rules = Arc::make_mut(rules.get_or_insert_default());
            let at = rules.partition_point(|(other, _)| *other <= rank);
            rules.insert(at, (rank, rule));
        });
    }

    pub(super) fn remove_stream(&mut self, host: Option<&str>, owner: &Owner) {
        self.streams.change(host, |rules| {
            if let Some(known) = rules {
                let known = Arc::make_mut(known);
                known.retain(|(_, rule)| rule.owner != *owner);
                if known.is_empty() {
                    *rules = None;
                }
            }
        });
    }
}
