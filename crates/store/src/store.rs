//! The handle through which everything is read, written and watched, whatever keeps it.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tracing::{info, warn};

use crate::{
    AtRest, CommitError, Committed, EtcdConfig, Event, Frames, Index, Key, OpenError, Revision, Snapshot, Tenure,
    Unreachable, Watch, WatchError, Write,
    at_rest::Sealing,
    checkpoint::Checkpointer,
    committer::{self, Committer, Transaction},
    disk::{Disk, Os},
    etcd,
    foreign::Foreign,
    log::Log,
    recovery,
    retained::Retained,
    rewind,
    watch::{Wake, WindowLimits, Windows},
};

#[cfg(test)]
mod at_rest_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;

/// Transactions waiting for the committer, before writers wait: two batches, the one that fills and one more.
const QUEUE_TRANSACTIONS: usize = 2 * committer::BATCH_TRANSACTIONS;

/// Memory of the transactions that wait or are on their way to the disk, in [`QUEUE_UNIT`]s: 64 MiB.
const QUEUE_UNITS: usize = 64 << 10;

/// Granularity of the queue's memory bound, in bytes.
const QUEUE_UNIT: usize = 1 << 10;

/// Bytes kept for watchers of a collection whose objects take less than half of it.
const WINDOW_BYTES_SMALL: usize = 4 << 20;

/// Bounds of a store. The defaults are what the engine runs with.
#[derive(Clone)]
pub struct Options {
    /// Size of a log segment, and the least log between two checkpoints. 16 MiB replay in some 50 ms.
    pub segment_bytes: u64,
    /// Events kept per collection for watchers.
    pub window_events: usize,
    /// Bytes kept per collection for watchers, which is some five thousand changes of pods.
    pub window_bytes: usize,
    /// Bytes kept for watchers of all collections.
    pub windows_bytes: usize,
    /// Age up to which events are kept: the five minutes after which upstream compacts.
    pub window_age: Duration,
    /// Snapshots kept for continued lists; each pins only what changed since. The least recently used goes first.
    pub retained: usize,
    /// How long a continued list may pause: the five minutes of upstream's compaction.
    pub retained_age: Duration,
    /// How objects are kept; `None` keeps them as they are.
    pub at_rest: Option<Arc<dyn AtRest>>,
    /// Who reads what another program keeps in the same etcd; `None` passes over it.
    pub foreign: Option<Arc<dyn Foreign>>,
    /// The wire form of events; `None` leaves it to the first watcher.
    pub frames: Option<Frames>,
    /// Fields that objects are looked up by.
    pub indexes: &'static [Index],
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 16 << 20,
            window_events: 32 << 10,
            window_bytes: 16 << 20,
            windows_bytes: 16 << 20,
            window_age: Duration::from_secs(300),
            retained: 64,
            retained_age: Duration::from_secs(300),
            at_rest: None,
            foreign: None,
            frames: None,
            indexes: &[],
        }
    }
}

/// Whether the store takes writes.
#[derive(Clone, Debug)]
pub enum Health {
    /// It does.
    Serving,
    /// The last write failed, for example because the disk is full; the next is tried.
    Failing(Arc<io::Error>),
    /// A sync failed: no write will be taken until a restart.
    Broken(Arc<io::Error>),
}

/// What handles, committer and watches share.
pub(crate) struct Shared {
    pub(crate) head: ArcSwap<Snapshot>,
    pub(crate) windows: Arc<Windows>,
    pub(crate) retained: Mutex<Retained>,
    health: Mutex<Health>,
    /// Whether the log is to be written anew, because objects are kept differently now.
    pub(crate) rewrite: AtomicBool,
    /// Whether the commit thread is to end once what waits is committed.
    pub(crate) closing: AtomicBool,
}

impl Shared {
    fn new(snapshot: Snapshot, origin: Revision, options: &Options) -> Arc<Self> {
        let limits = WindowLimits {
            events: options.window_events,
            bytes: options.window_bytes,
            small: WINDOW_BYTES_SMALL.min(options.window_bytes),
            total_bytes: options.windows_bytes,
            age: options.window_age,
        };
        Arc::new(Shared {
            head: ArcSwap::from_pointee(snapshot),
            windows: Arc::new(Windows::new(limits, origin)),
            retained: Mutex::new(Retained::new(options.retained, options.retained_age)),
            health: Mutex::new(Health::Serving),
            rewrite: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_health(&self, health: Health) {
        *self.health.lock() = health;
    }

    /// Makes a state visible, and what led to it.
    pub(crate) fn publish(&self, state: Snapshot, events: Vec<Arc<Event>>) -> Wake {
        let (head, superseded) = (state.revision(), state.superseded());
        // First the snapshot, then the events: who hears of a change must find it when reading.
        self.head.store(Arc::new(state));
        let wake = self.windows.append(events.into_iter(), head);
        self.retained.lock().prune(Instant::now(), superseded);
        wake
    }

    /// Makes a state visible of which nobody knows what led to it.
    pub(crate) fn restart(&self, state: Snapshot) {
        let head = state.revision();
        self.windows.measure(&state);
        self.head.store(Arc::new(state));
        self.windows.restart(head);
    }
}

/// What another server, or this one, changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// One object was written or deleted.
    Object(Key),
    /// What was changed is not known: anything may have been.
    Everything,
}

/// Follows the changes of a store that several servers share.
pub struct Changes(broadcast::Receiver<Change>);

impl Changes {
    /// The next change; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Everything),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// An open store. Cheap to clone; the last handle to go waits for the writes on their way and gives up the directory.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    memory: Arc<Semaphore>,
    sealing: Sealing,
    backend: Backend,
}

enum Backend {
    Log(Committing),
    Etcd(etcd::Running),
}

/// The commit thread.
struct Committing {
    queue: mpsc::Sender<Transaction>,
    /// What a store that is closed has not; the file is held for its lock, and released last.
    open: Mutex<Option<(JoinHandle<()>, File)>>,
}

impl Store {
    /// Opens the directory, creating it where it is missing, and recovers what it holds. Blocks on the disk.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Store, OpenError> {
        Self::open_on(Box::new(Os), dir.as_ref(), options)
    }

    pub(crate) fn open_on(disk: Box<dyn Disk>, dir: &Path, options: Options) -> Result<Store, OpenError> {
        let lock = recovery::lock(dir)?;
        let sealing = Sealing(options.at_rest.clone());
        let recovered = recovery::recover(dir, &sealing)?;
        let head = recovered.snapshot.revision();
        let log = match recovered.tail {
            Some(tail) => Log::resume(disk, dir, tail, options.segment_bytes),
            None => Log::create(disk, dir, head, options.segment_bytes),
        };
        let log = log.map_err(OpenError::io("open the log in", dir))?;
        let shared = Shared::new(recovered.snapshot.indexed(options.indexes), recovered.origin, &options);
        shared.windows.append(recovered.events.into_iter().map(Arc::new), head).wake();
        shared.windows.measure(&shared.head.load());
        let checkpointer = Checkpointer::start(dir.to_owned(), sealing.clone())
            .map_err(OpenError::io("start the checkpoint thread for", dir))?;
        // The open segment counts again when it is closed.
        let replayed = recovered.replayed.saturating_sub(log.segment_len());
        let mut committer =
            Committer::new(Arc::clone(&shared), log, checkpointer, sealing.clone(), replayed, options.segment_bytes)
                .with_frames(options.frames);
        if recovered.stale {
            info!(path = %dir.display(), "writing the state anew, some of it is kept in an outdated form");
            if let Err(error) = committer.rewrite() {
                warn!(path = %dir.display(), ?error, "cannot write the state anew, the next start tries again");
            }
        }
        let (sender, receiver) = mpsc::channel(QUEUE_TRANSACTIONS);
        let thread =
            committer::spawn(committer, receiver).map_err(OpenError::io("start the commit thread for", dir))?;
        Ok(Self::over(
            shared,
            sealing,
            Backend::Log(Committing { queue: sender, open: Mutex::new(Some((thread, lock))) }),
        ))
    }

    /// Opens a store that is kept in an external etcd, and reads what it holds. Must be called within a Tokio runtime.
    pub async fn connect(config: EtcdConfig, options: Options) -> Result<Store, OpenError> {
        let share = |snapshot: Snapshot| {
            let origin = snapshot.revision();
            let shared = Shared::new(snapshot, origin, &options);
            shared.windows.measure(&shared.head.load());
            shared
        };
        let running = etcd::Running::start(config, &options, share).await?;
        let shared = Arc::clone(running.backend.shared());
        Ok(Self::over(shared, Sealing(options.at_rest.clone()), Backend::Etcd(running)))
    }

    fn over(shared: Arc<Shared>, sealing: Sealing, backend: Backend) -> Store {
        let memory = Arc::new(Semaphore::new(QUEUE_UNITS));
        Store { inner: Arc::new(Inner { shared, memory, sealing, backend }) }
    }

    pub(crate) fn sealing(&self) -> &Sealing {
        &self.inner.sealing
    }

    /// Commits a transaction: all of its writes or none. The answer comes after it is durable, visible and announced;
    /// an error means that nothing of it happened. When the future is dropped the transaction may still be committed.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Committed, CommitError> {
        self.submit(writes, false, None).await
    }

    /// Commits a transaction that helps to make room: it goes on when the disk is full.
    pub async fn commit_freeing(&self, writes: Vec<Write>) -> Result<Committed, CommitError> {
        self.submit(writes, true, None).await
    }

    /// Commits a transaction if nobody has taken over the tenure; [`CommitError::Deposed`] where somebody has.
    pub async fn commit_during(&self, tenure: &Tenure, writes: Vec<Write>) -> Result<Committed, CommitError> {
        self.submit(writes, false, Some(tenure)).await
    }

    /// Begins a tenure if an object's last change is this revision, and ends the one of that name before it; `None` where
    /// the object has changed since. A store that is not shared has one writer, whose tenure never ends.
    pub async fn begin_tenure(&self, name: &str, witness: &Key, at: Revision) -> Result<Option<Tenure>, CommitError> {
        match &self.inner.backend {
            Backend::Log(_) => Ok(Some(Tenure::default())),
            Backend::Etcd(running) => Box::pin(running.backend.begin_tenure(name, witness, at)).await,
        }
    }

    async fn submit(&self, writes: Vec<Write>, frees: bool, tenure: Option<&Tenure>) -> Result<Committed, CommitError> {
        committer::validate(&writes)?;
        let units = committer::size(&writes).div_ceil(QUEUE_UNIT) as u32;
        let memory = Arc::clone(&self.inner.memory);
        let permit = memory.acquire_many_owned(units).await.map_err(|_| CommitError::Closed)?;
        let committing = match &self.inner.backend {
            Backend::Log(committing) => committing,
            Backend::Etcd(running) => return Box::pin(running.backend.commit(writes, tenure)).await,
        };
        let (answer, answered) = oneshot::channel();
        let sent = committing.queue.send(Transaction { writes, frees, answer, permit }).await;
        sent.map_err(|_| CommitError::Closed)?;
        answered.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Keeps everything anew that is not kept as it should be from now on: the hook seals differently. In a log that goes on
    /// beside the commits.
    ///
    /// # Errors
    /// When the store is closed, or etcd cannot be read.
    pub async fn rewrite(&self) -> Result<(), CommitError> {
        let committing = match &self.inner.backend {
            Backend::Etcd(running) => return Box::pin(Arc::clone(&running.backend).rewrite_outdated()).await,
            Backend::Log(committing) => committing,
        };
        self.inner.shared.rewrite.store(true, Ordering::Release);
        // a transaction without writes wakes the committer, and nothing else comes of it
        let permit = Arc::clone(&self.inner.memory).acquire_many_owned(0).await.map_err(|_| CommitError::Closed)?;
        let nudge = Transaction { writes: Vec::new(), frees: false, answer: oneshot::channel().0, permit };
        committing.queue.send(nudge).await.map_err(|_| CommitError::Closed)
    }

    /// Lets go of the directory, so that another process can open it, however many handles there still are: what waits is
    /// committed, later writes are refused as [`CommitError::Closed`], and reads give what was there. Blocks on the disk.
    /// Of a store that is kept in an etcd there is nothing to let go of.
    pub fn close(&self) {
        if let Backend::Log(committing) = &self.inner.backend {
            committing.close(&self.inner.shared, &self.inner.memory);
        }
    }

    /// How many writes one transaction may have.
    pub fn writes_max(&self) -> usize {
        match &self.inner.backend {
            Backend::Log(_) => usize::MAX,
            Backend::Etcd(running) => running.backend.writes_max(),
        }
    }

    /// Whether other servers may write too: then a state may be older than what they acknowledged.
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.backend, Backend::Etcd(_))
    }

    /// Waits until the head holds everything that any server acknowledged before this was called.
    pub async fn latest(&self) -> Result<(), Unreachable> {
        match &self.inner.backend {
            Backend::Log(_) => Ok(()),
            Backend::Etcd(running) => Box::pin(running.backend.latest()).await,
        }
    }

    /// Follows what any server changes; `None` when only this one writes.
    pub fn changes(&self) -> Option<Changes> {
        match &self.inner.backend {
            Backend::Log(_) => None,
            Backend::Etcd(running) => Some(Changes(running.backend.changes())),
        }
    }

    /// A state that holds one collection as it was at exactly this revision: as [`Store::snapshot_at`], and from etcd's own
    /// history where another server retained it.
    pub async fn collection_at(
        &self,
        collection: &str,
        revision: Revision,
    ) -> Result<Option<Arc<Snapshot>>, Unreachable> {
        match (self.snapshot_at(revision), &self.inner.backend) {
            (None, Backend::Etcd(running)) => {
                let collection = Box::pin(running.backend.collection_at(collection, revision)).await?;
                Ok(collection.map(Arc::new))
            }
            (found, _) => Ok(found),
        }
    }

    /// The state at the head.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.shared.head.load_full()
    }

    /// The revision of the head.
    pub fn revision(&self) -> Revision {
        self.inner.shared.head.load().revision()
    }

    /// Keeps a snapshot for [`Store::snapshot_at`], so that a list can go on where it stopped.
    pub fn retain(&self, snapshot: &Arc<Snapshot>) {
        self.inner.shared.retained.lock().keep(Instant::now(), Arc::clone(snapshot));
    }

    /// The state at exactly this revision: the head, or one that was retained; `None` when it is gone.
    pub fn snapshot_at(&self, revision: Revision) -> Option<Arc<Snapshot>> {
        let retained = self.inner.shared.retained.lock().find(Instant::now(), revision);
        retained.or_else(|| Some(self.snapshot()).filter(|head| head.revision() == revision))
    }

    /// The state of one collection at exactly this revision, of which [`Store::snapshot_at`] or the watch window knows;
    /// `None` when it lies behind both. Other collections of the snapshot are not of that revision.
    pub fn rewound(&self, collection: &Arc<str>, revision: Revision) -> Option<Arc<Snapshot>> {
        if let Some(known) = self.snapshot_at(revision) {
            return Some(known);
        }
        let mut watch = self.watch(collection, "", revision).ok()?;
        let mut events = watch.take(usize::MAX).ok()?;
        // read after the events, whose announcement follows the publication: it holds them all, and perhaps more
        for _ in 0..REWIND_TRIES {
            let head = self.snapshot();
            events.extend(watch.take(usize::MAX).ok()?);
            if watch.position() >= head.revision() {
                events.retain(|event| event.object.revision <= head.revision());
                return Some(Arc::new(rewind::undo(&head, &events, revision))).filter(|_| revision <= head.revision());
            }
            std::thread::yield_now();
        }
        None
    }

    /// Watches the objects of a collection whose path starts with `prefix`, from the first change after `after`.
    pub fn watch(&self, collection: &Arc<str>, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        self.inner.shared.windows.watch(collection, prefix, after)
    }

    /// Whether writes are taken.
    pub fn health(&self) -> Health {
        self.inner.shared.health.lock().clone()
    }
}

/// How often a rewind looks again when events of a published state are still on their way; that takes microseconds.
const REWIND_TRIES: usize = 1000;

impl Committing {
    fn close(&self, shared: &Shared, memory: &Arc<Semaphore>) {
        let Some((thread, lock)) = self.open.lock().take() else { return };
        shared.closing.store(true, Ordering::Release);
        // a transaction without writes wakes the committer; where there is no room for one it is awake
        if let Ok(permit) = Arc::clone(memory).try_acquire_many_owned(0) {
            let nudge = Transaction { writes: Vec::new(), frees: false, answer: oneshot::channel().0, permit };
            let _ = self.queue.try_send(nudge);
        }
        memory.close();
        if thread.join().is_err() {
            warn!("the commit thread panicked");
        }
        drop(lock);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Backend::Log(committing) = &self.backend {
            committing.close(&self.shared, &self.memory);
        }
    }
}
