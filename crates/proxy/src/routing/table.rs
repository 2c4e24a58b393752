//! The compiled table: places and ports, changed part by part.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    listener::{ListenerConfig, PortTable, Protocol},
    matching::{PathMatch, Rank},
    rule::{Owner, StreamRule},
    rules::Entry,
    services::{Destination, Frontend, ServiceTable},
};

/// Everything that the gateway serves. A clone is cheap and never changes under who holds it: a request sees one table
/// from start to end, while the next table is made out of a clone by changing what differs.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    sites: BTreeMap<Site, Arc<PortTable>>,
    services: ServiceTable,
}

/// A port at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Where.
    pub place: Place,
    /// The port.
    pub port: u16,
    /// Of what.
    pub transport: Transport,
}

/// Where a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// At the addresses that all Gateways share.
    Shared,
    /// At an address of its Gateway's own.
    Own(IpAddr),
}

/// What ports are numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where in the table a route's rules are: behind one listener, for one hostname.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spot {
    /// The port.
    pub site: Site,
    /// The listener's hostname pattern.
    pub listener: Option<Box<str>>,
    /// The hostname pattern of the rules.
    pub host: Option<Box<str>>,
}

impl RouteTable {
    /// The port at a place.
    pub fn port(&self, site: Site) -> Option<&Arc<PortTable>> {
        self.sites.get(&site)
    }

    /// The port that a connection to an address is for: a Gateway's own before the shared one.
    pub fn find(&self, local: IpAddr, port: u16, transport: Transport) -> Option<(Site, &Arc<PortTable>)> {
        let own = Site { place: Place::Own(local.to_canonical()), port, transport };
        let shared = Site { place: Place::Shared, port, transport };
        [own, shared].into_iter().find_map(|site| Some((site, self.sites.get(&site)?)))
    }

    /// Whether routes say anything of Services to clients in the mesh.
    pub fn has_services(&self) -> bool {
        !self.services.is_empty()
    }

    /// What routes say to a client in the mesh that wants to go somewhere; `None` where they say nothing.
    pub fn service(&self, destination: &Destination) -> Option<&Arc<PortTable>> {
        self.services.find(destination)
    }

    /// The ports to listen on.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        self.sites.keys().copied()
    }

    /// Replaces the listeners of a port; routes behind those that stay, stay. Without listeners the port goes.
    pub fn listen(&mut self, site: Site, protocol: Protocol, listeners: Vec<ListenerConfig>) {
        if listeners.is_empty() {
            self.sites.remove(&site);
            return;
        }
        let port = self.sites.entry(site).or_insert_with(|| Arc::new(PortTable::new(protocol)));
        if port.protocol() != protocol {
            *port = Arc::new(PortTable::new(protocol));
        }
        Arc::make_mut(port).configure(listeners);
    }

    /// Adds a rule for requests.
    pub fn insert(&mut self, spot: &Spot, entry: Arc<Entry>) {
        self.change(spot, |listener| listener.insert(spot.host.as_deref(), entry));
    }

    /// Removes the rules that an owner has for a path.
    pub fn remove(&mut self, spot: &Spot, path: &PathMatch, owner: &Owner) {
        self.change(spot, |listener| listener.remove(spot.host.as_deref(), path, owner));
    }

    /// Adds a rule for connections or datagrams.
    pub fn insert_stream(&mut self, spot: &Spot, rank: Rank, rule: Arc<StreamRule>) {
        self.change(spot, |listener| listener.insert_stream(spot.host.as_deref(), rank, rule));
    }

    /// Removes an owner's rule for connections or datagrams.
    pub fn remove_stream(&mut self, spot: &Spot, owner: &Owner) {
        self.change(spot, |listener| listener.remove_stream(spot.host.as_deref(), owner));
    }

    /// Adds a rule for requests to a Service.
    pub fn insert_service(&mut self, frontend: &Frontend, entry: Arc<Entry>) {
        self.services.change(frontend, |listener| listener.insert(None, entry));
    }

    /// Removes the rules that an owner has for a path of a Service.
    pub fn remove_service(&mut self, frontend: &Frontend, path: &PathMatch, owner: &Owner) {
        self.services.change(frontend, |listener| listener.remove(None, path, owner));
    }

    /// Adds a rule for connections to a Service.
    pub fn insert_service_stream(&mut self, frontend: &Frontend, rank: Rank, rule: Arc<StreamRule>) {
        self.services.change(frontend, |listener| listener.insert_stream(None, rank, rule));
    }

    /// Removes an owner's rule for connections to a Service.
    pub fn remove_service_stream(&mut self, frontend: &Frontend, owner: &Owner) {
        self.services.change(frontend, |listener| listener.remove_stream(None, owner));
    }

    fn change(&mut self, spot: &Spot, change: impl FnOnce(&mut super::Listener)) {
        if let Some(port) = self.sites.get_mut(&spot.site) {
            Arc::make_mut(port).change(spot.listener.as_deref(), change);
        }
    }
}
