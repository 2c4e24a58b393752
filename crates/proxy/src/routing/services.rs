//! What routes say of Services, for their clients in the mesh.

use std::sync::Arc;

use super::{
    backend::{Backend, Share},
    cow::CowMap,
    listener::{Listener, ListenerConfig, Mode, PortTable, Protocol},
    matching::{Rank, RequestMatch},
    rule::{Action, Owner, Rule},
    rules::Entry,
};

/// A port of a Service, for all its clients or for those of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    key: Box<str>,
}

impl Frontend {
    /// The port of a Service (`namespace/name`); `clients` is the namespace of those that it is for, all when absent.
    pub fn new(service: &str, port: u16, clients: Option<&str>) -> Self {
        let key = match clients {
            None => format!("{service}:{port}"),
            Some(namespace) => format!("{service}:{port}@{namespace}"),
        };
        Frontend { key: key.into() }
    }

    /// The same for rules that are tried in their own order, in place of the others.
    pub fn in_order(self) -> Self {
        Frontend { key: format!("{}#", self.key).into() }
    }

    /// The port of a Service, for what counts while nothing else is said.
    pub fn otherwise(service: &str, port: u16) -> Self {
        Frontend { key: format!("{service}:{port}*").into() }
    }
}

/// Where a client in the mesh wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The port of the Service.
    pub port: u16,
    /// What is said for clients of its namespace counts before what is said for all.
    frontends: [Frontend; 5],
}

impl Destination {
    /// The port of a Service (`namespace/name`), seen from a namespace.
    pub fn new(service: &str, port: u16, namespace: &str) -> Self {
        let (own, all) = (Frontend::new(service, port, Some(namespace)), Frontend::new(service, port, None));
        let (own_first, all_first) = (own.clone().in_order(), all.clone().in_order());
        Destination { port, frontends: [own_first, own, all_first, all, Frontend::otherwise(service, port)] }
    }
}

/// The ports of Services that routes say something of. A clone is cheap, and shares what does not change.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceTable {
    ports: CowMap<Arc<PortTable>>,
}

impl ServiceTable {
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    pub(super) fn find(&self, destination: &Destination) -> Option<&Arc<PortTable>> {
        destination.frontends.iter().find_map(|frontend| self.ports.get(&frontend.key))
    }

    pub(super) fn change(&mut self, frontend: &Frontend, change: impl FnOnce(&mut Listener)) {
        self.ports.change(&frontend.key, |port| {
            let table = Arc::make_mut(port.get_or_insert_with(empty));
            table.change(None, change);
            if table.listener_of(None).is_none_or(|listener| listener.is_empty()) {
                *port = None;
            }
        });
    }
}

/// A port whose requests all go to one backend.
pub fn plain(backend: Arc<Backend>) -> Arc<PortTable> {
    let owner = Owner { kind: "Service", name: backend.name().into() };
    let rule = Arc::new(Rule::new(owner, Action::Forward(vec![Share::new(backend, 1)])));
    let entry = Entry::new(RequestMatch::prefix("/"), Rank::default(), rule);
    let mut table = empty();
    Arc::make_mut(&mut table).change(None, |listener| listener.insert(None, Arc::new(entry)));
    table
}

/// A port without rules: whatever the hostname, clear HTTP.
fn empty() -> Arc<PortTable> {
    let mut table = PortTable::new(Protocol::Http);
    table.configure(vec![ListenerConfig::new(None, Mode::Http(None))]);
    Arc::new(table)
}
