//! Names of endpoints, resolved anew again and again: nothing tells when the addresses behind one change.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use reconcile::Key;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use crate::routing::{Backend, own_range};

/// How long addresses hold: what Envoy Gateway sets where the name server says nothing shorter.
const HOLDS: Duration = Duration::from_secs(30);

/// How long after a failure a name is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names that are asked for at once: each holds a thread meanwhile.
const AT_ONCE: usize = 8;

/// Backends whose endpoints are names.
#[derive(Default)]
pub(crate) struct Resolved {
    names: Mutex<HashMap<Key, Names>>,
    changed: Notify,
}

struct Names {
    names: Vec<(Box<str>, u16)>,
    backend: Arc<Backend>,
    due: Instant,
}

impl Resolved {
    /// Has the endpoints of a backend be what names stand for. Those it has stay until they are known.
    pub(super) fn resolve(&self, key: &Key, names: Vec<(Box<str>, u16)>, backend: Arc<Backend>) {
        self.names.lock().insert(key.clone(), Names { names, backend, due: Instant::now() });
        self.changed.notify_one();
    }

    pub(super) fn forget(&self, key: &Key) {
        self.names.lock().remove(key);
    }

    /// Resolves names when they are due, until it is dropped.
    pub(crate) async fn run(&self) {
        loop {
            let now = Instant::now();
            let (mut due, mut next) = (Vec::new(), None::<Instant>);
            for (key, names) in &mut *self.names.lock() {
                if names.due <= now {
                    names.due = now + HOLDS;
                    due.push((key.clone(), names.names.clone(), Arc::clone(&names.backend)));
                }
                next = Some(next.map_or(names.due, |next| next.min(names.due)));
            }
            if due.is_empty() {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = async { sleep_until(next.unwrap_or(now)).await }, if next.is_some() => {}
                }
                continue;
            }
            let resolved = stream::iter(due).map(async |(key, names, backend)| {
                let found = lookup(&names, &backend).await;
                self.found(&key, &names, found);
            });
            resolved.buffer_unordered(AT_ONCE).collect::<()>().await;
        }
    }

    /// Takes over what was found, unless other names count by now. Without an answer all stays as it was.
    fn found(&self, key: &Key, of: &[(Box<str>, u16)], found: Option<Vec<SocketAddr>>) {
        let mut names = self.names.lock();
        let Some(names) = names.get_mut(key).filter(|names| names.names == of) else { return };
        match found {
            Some(found) => drop(names.backend.set_endpoints(found)),
            None => names.due = Instant::now() + AGAIN,
        }
    }
}

/// Looks names up; `None` when one of them cannot be.
async fn lookup(names: &[(Box<str>, u16)], backend: &Backend) -> Option<Vec<SocketAddr>> {
    let mut addresses = BTreeSet::new();
    for (name, port) in names {
        match timeout(PATIENCE, tokio::net::lookup_host((&**name, *port))).await {
            Ok(Ok(found)) => addresses.extend(found.filter(|address| is_outside(backend, *address))),
            Ok(Err(error)) => {
                debug!(backend = backend.name(), %name, %error, "cannot resolve the name of an endpoint");
                return None;
            }
            Err(_) => {
                debug!(backend = backend.name(), %name, "no name server answers about an endpoint");
                return None;
            }
        }
    }
    Some(addresses.into_iter().collect())
}

fn is_outside(backend: &Backend, address: SocketAddr) -> bool {
    let range = own_range(address.ip());
    if let Some(range) = range {
        debug!(backend = backend.name(), %address, range, "an address of an endpoint's name is not used");
    }
    range.is_none()
}
