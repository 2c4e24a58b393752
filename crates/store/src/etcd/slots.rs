//! Slots: what makes a transaction count once, however often it was sent.
//!
//! A transaction whose answer was lost may or may not have happened, and may even happen later. So each takes a slot, a
//! key of this server alone, insists on the slot's last revision, and writes the slot. Sent again, it finds either the
//! slot as it was, and is judged on its own conditions, or the slot written, and then it had happened, at the slot's
//! revision.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::keys;

/// Transactions on their way at once. etcd's own pipeline is full far below.
const SLOTS: usize = 512;

/// Where all servers have their slots.
pub(super) fn prefix() -> String {
    format!("{}writers/", keys::OWN)
}

/// The first key behind them.
pub(super) fn prefix_end() -> String {
    format!("{}writers0", keys::OWN)
}

/// The slots of this server.
pub(super) struct Slots {
    server: String,
    permits: Semaphore,
    free: Mutex<Vec<Slot>>,
    made: AtomicU64,
}

/// A slot while nobody uses it.
#[derive(Debug)]
struct Slot {
    key: Vec<u8>,
    revision: u64,
}

/// A slot in use. Dropping it without [`Taken::settle`] leaves it for good: what it was used for may still happen.
pub(super) struct Taken<'a> {
    slots: &'a Slots,
    pub(super) key: Vec<u8>,
    /// Revision of the slot's last write; zero when it has none.
    pub(super) revision: u64,
    _permit: SemaphorePermit<'a>,
}

impl Slots {
    /// Slots under a name that no other server has or had.
    pub(super) fn new(server: String) -> Self {
        Slots { server, permits: Semaphore::new(SLOTS), free: Mutex::default(), made: AtomicU64::new(0) }
    }

    /// A free slot; `None` when the store is closed. The one used last comes first, so that few writers keep few keys.
    pub(super) async fn take(&self) -> Option<Taken<'_>> {
        let permit = self.permits.acquire().await.ok()?;
        let Slot { key, revision } = self.free.lock().pop().unwrap_or_else(|| {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            Slot { key: format!("{}{}/{number}", prefix(), self.server).into_bytes(), revision: 0 }
        });
        Some(Taken { slots: self, key, revision, _permit: permit })
    }
}

impl Taken<'_> {
    /// The transaction's fate is known, and this is the slot's last write: the next one may use it.
    pub(super) fn settle(self, revision: u64) {
        self.slots.free.lock().push(Slot { key: self.key, revision });
    }
}
