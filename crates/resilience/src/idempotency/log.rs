//! A store on the disk: for one process at a time, and what it kept is there after a crash.
//!
//! Answers are appended to a log, and an answer is kept once the disk has it: `finish` returns after that. Those that come
//! at the same time share one wait for the disk. Memory holds where each answer is, the log holds it; a segment of the log
//! is deleted when the time of all its answers is over, and what is left of a segment that has mostly been outlived is
//! written anew. A claim is in memory only: a process that ends gives all of its claims up.
//!
//! When the disk refuses an answer it is kept in memory, so that this process at least does the request once.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, oneshot},
    task::spawn_blocking,
};

use super::{
    DURATION_MAX,
    ledger::{Known, Ledger, RECORD_BYTES},
    memory::RECORDS_MAX,
    record::{self, Record},
    store::{Answer, Begin, Fingerprint, Lease, RecordId, Store},
};
use crate::{
    config::{ConfigError, check},
    moment::{Moment, now},
};

mod files;

use files::{Place, Segment};

/// A segment of this size is followed by another: small enough to be written anew at a stroke.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Answers that wait for the disk, at most. With more, those who finish are told that theirs is not kept.
const PENDING_MAX: usize = 4096;

/// Where the log is, and how much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A directory of its own; made when it is missing.
    pub directory: PathBuf,
    /// How many records there may be; each takes some hundred bytes of memory.
    pub records_max: usize,
    /// How many bytes they may take on the disk before a new key is refused.
    pub bytes_max: usize,
}

/// Why a store on the disk could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A field is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process has it.
    #[error("the log of idempotency keys in {} is used by another process", .0.display())]
    Locked(PathBuf),
    /// The disk.
    #[error("the log of idempotency keys in {}: {source}", .path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room.
    #[error("the store of idempotency keys is full")]
    Full,
}

/// Keeps answers on the disk. See the [module](self).
#[derive(Debug)]
pub struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    state: Mutex<State>,
    pending: Mutex<Vec<Pending>>,
    /// Whoever has it writes what is pending, for all.
    turn: Arc<AsyncMutex<Segment>>,
    /// Held as long as the store is open.
    _lock: File,
}

#[derive(Debug)]
struct State {
    ledger: Ledger<Kept>,
    /// All segments, with the bytes of answers whose time is not over.
    segments: BTreeMap<u64, (Segment, u64)>,
}

/// Where an answer is.
#[derive(Clone, Debug)]
enum Kept {
    Log(Place),
    Memory(Arc<Answer>),
}

#[derive(Debug)]
struct Pending {
    frame: Vec<u8>,
    done: oneshot::Sender<io::Result<Place>>,
}

impl LogStore {
    /// Opens a log, or makes one, and reads what is in it. Blocks on the disk.
    ///
    /// # Errors
    /// When a field is out of its range, another process has the log, or the disk fails.
    pub fn open(config: LogConfig) -> Result<Self, LogError> {
        let rule = format!("between 1 and {RECORDS_MAX}");
        check((1..=RECORDS_MAX).contains(&config.records_max), "records_max", rule, config.records_max)?;
        check(config.bytes_max >= RECORD_BYTES, "bytes_max", format!("at least {RECORD_BYTES}"), config.bytes_max)?;
        let directory = config.directory.clone();
        let disk = |source| LogError::Disk { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(disk)?;
        let lock = File::create(directory.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked(directory)),
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        let (state, active) = load(&config, &directory).map_err(disk)?;
        let shared = Shared {
            directory,
            state: Mutex::new(state),
            pending: Mutex::default(),
            turn: Arc::new(AsyncMutex::new(active)),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many records there are, what they take, and how many bytes the log has.
    pub fn size(&self) -> (usize, usize, u64) {
        let state = self.shared.state.lock();
        let (records, bytes) = state.ledger.size();
        (records, bytes, state.segments.values().map(|(segment, _)| segment.bytes).sum())
    }

    fn fault(&self, source: io::Error) -> LogError {
        LogError::Disk { path: self.shared.directory.clone(), source }
    }

    /// Has a record written; its place, once the disk has it.
    async fn write(&self, frame: Vec<u8>) -> io::Result<Place> {
        let (done, written) = oneshot::channel();
        {
            let mut pending = self.shared.pending.lock();
            if pending.len() >= PENDING_MAX {
                return Err(io::Error::other("too many answers wait for the disk"));
            }
            pending.push(Pending { frame, done });
        }
        let active = Arc::clone(&self.shared.turn).lock_owned().await;
        // Whoever had the turn before may have written it.
        let batch = std::mem::take(&mut *self.shared.pending.lock());
        if !batch.is_empty() {
            let shared = Arc::clone(&self.shared);
            let written = spawn_blocking(move || {
                let mut active = active;
                shared.append(&mut active, batch);
            });
            written.await.map_err(io::Error::other)?;
        } else {
            drop(active);
        }
        written.await.map_err(io::Error::other)?
    }
}

/// Reads all segments, the last of which goes on.
fn load(config: &LogConfig, directory: &Path) -> io::Result<(State, Segment)> {
    let (started, wall) = (now(), SystemTime::now());
    let mut ledger = Ledger::new(config.records_max, config.bytes_max);
    let mut segments = BTreeMap::new();
    let mut live: HashMap<u64, u64> = HashMap::new();
    let mut replaced = Vec::new();
    for mut segment in Segment::all(directory)? {
        segment.scan(|place, bytes| {
            let Some((id, fingerprint, until)) = record::decode_head(bytes) else { return };
            // A clock that was turned keeps nothing for longer than anything is kept.
            let Ok(left) = until.duration_since(wall).map(|left| left.min(DURATION_MAX)) else { return };
            *live.entry(place.segment).or_default() += u64::from(place.length);
            let kept = (Kept::Log(place), place.length as usize);
            replaced.extend(ledger.restore(id, fingerprint, started + left, kept));
        })?;
        segments.insert(segment.number, segment);
    }
    for kept in replaced {
        if let (Kept::Log(place), Some(live)) = (&kept, live_of(&mut live, &kept)) {
            *live = live.saturating_sub(u64::from(place.length));
        }
    }
    let active = match segments.values().next_back() {
        Some(last) => last.clone(),
        None => Segment::create(directory, 1)?,
    };
    segments.entry(active.number).or_insert_with(|| active.clone());
    let segments = segments.into_iter().map(|(number, segment)| (number, (segment, live.remove(&number).unwrap_or(0))));
    Ok((State { ledger, segments: segments.collect() }, active))
}

fn live_of<'a>(live: &'a mut HashMap<u64, u64>, kept: &Kept) -> Option<&'a mut u64> {
    match kept {
        Kept::Log(place) => live.get_mut(&place.segment),
        Kept::Memory(_) => None,
    }
}

impl Shared {
    /// Appends records, and tells those who wait for them.
    fn append(&self, active: &mut Segment, batch: Vec<Pending>) {
        let mut frames = Vec::with_capacity(batch.iter().map(|pending| pending.frame.len()).sum());
        for pending in &batch {
            frames.extend_from_slice(&pending.frame);
        }
        let mut written = self.roll(active).and_then(|()| active.append(&frames));
        if written.is_ok()
            && let Some((known, live)) = self.state.lock().segments.get_mut(&active.number)
        {
            known.bytes = active.bytes;
            *live += frames.len() as u64;
        }
        for pending in batch {
            let length = pending.frame.len() as u32;
            let place = match &mut written {
                Ok(at) => {
                    let place = Place { segment: active.number, offset: *at, length };
                    *at += u64::from(length);
                    Ok(place)
                }
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // One whose request is gone leaves a record that nobody knows of until the next start.
            let _ = pending.done.send(place);
        }
        // What fails here is tried again with the next answers.
        let _ = self.tidy(active);
    }

    /// Begins another segment when this one is long enough.
    fn roll(&self, active: &mut Segment) -> io::Result<()> {
        if active.bytes < SEGMENT_BYTES {
            return Ok(());
        }
        *active = Segment::create(&self.directory, active.number + 1)?;
        self.state.lock().segments.insert(active.number, (active.clone(), 0));
        Ok(())
    }

    /// Deletes segments that nobody needs; writes what is left of the oldest one anew when the log is mostly outlived.
    fn tidy(&self, active: &mut Segment) -> io::Result<()> {
        let oldest = {
            let mut state = self.state.lock();
            state.forget(now());
            let needless = state
                .segments
                .extract_if(.., |number, (_, live)| *number != active.number && *live == 0)
                .collect::<Vec<_>>();
            needless.into_iter().try_for_each(|(_, (segment, _))| segment.delete())?;
            let (all, live) =
                state.segments.values().fold((0, 0), |(all, live), (segment, of)| (all + segment.bytes, live + of));
            let oldest = state.segments.values().next().map(|(segment, _)| segment.clone());
            oldest.filter(|oldest| oldest.number != active.number && all > 2 * live + 2 * SEGMENT_BYTES)
        };
        match oldest {
            Some(oldest) => self.rewrite(&oldest, active),
            None => Ok(()),
        }
    }

    /// Moves what is left of a segment to the end of the log.
    fn rewrite(&self, oldest: &Segment, active: &mut Segment) -> io::Result<()> {
        let mut moving: Vec<(RecordId, Place)> = Vec::new();
        for (id, kept) in self.state.lock().ledger.kept() {
            if let Kept::Log(place) = kept
                && place.segment == oldest.number
            {
                moving.push((id, *place));
            }
        }
        let mut frames = Vec::new();
        for (_, place) in &moving {
            let record = files::read(&oldest.file, *place)?;
            files::frame(&mut frames, |into| into.extend_from_slice(&record));
        }
        self.roll(active)?;
        let mut at = active.append(&frames)?;
        let mut state = self.state.lock();
        let moved: HashMap<_, _> = { moving.into_iter() }
            .map(|(id, from)| {
                let to = Place { segment: active.number, offset: at, length: from.length };
                at += u64::from(from.length);
                (id, (from, to))
            })
            .collect();
        let mut live = 0;
        for (id, kept) in state.ledger.kept() {
            // What has become of it meanwhile is not this record any more.
            if let (Some((from, to)), Kept::Log(place)) = (moved.get(&id), &mut *kept)
                && place == from
            {
                *place = *to;
                live += u64::from(to.length);
            }
        }
        if let Some((known, of)) = state.segments.get_mut(&active.number) {
            known.bytes = active.bytes;
            *of += live;
        }
        state.segments.remove(&oldest.number);
        drop(state);
        oldest.delete()
    }
}

impl State {
    /// Forgets answers whose time is over.
    fn forget(&mut self, now: Moment) {
        for kept in self.ledger.forget(now) {
            self.release(&kept);
        }
    }

    fn release(&mut self, kept: &Kept) {
        if let Kept::Log(place) = kept
            && let Some((_, live)) = self.segments.get_mut(&place.segment)
        {
            *live = live.saturating_sub(u64::from(place.length));
        }
    }
}

impl Store for LogStore {
    type Error = LogError;

    async fn begin(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, LogError> {
        let (place, file) = {
            let mut state = self.shared.state.lock();
            state.forget(now);
            match state.ledger.claim(now, id, fingerprint, lease) {
                Known::Claimed(lease) => return Ok(Begin::Claimed(lease)),
                Known::InProgress => return Ok(Begin::InProgress),
                Known::Mismatch => return Ok(Begin::Mismatch),
                Known::Full => return Err(LogError::Full),
                Known::Done(Kept::Memory(answer)) => return Ok(Begin::Done(Answer::clone(&answer))),
                Known::Done(Kept::Log(place)) => {
                    // Open as long as it is read from, even if the segment is deleted meanwhile.
                    let file = state.segments.get(&place.segment).map(|(segment, _)| Arc::clone(&segment.file));
                    (place, file.ok_or(io::ErrorKind::NotFound).map_err(|kind| self.fault(kind.into()))?)
                }
            }
        };
        let read = spawn_blocking(move || files::read(&file, place)).await;
        let bytes = read.map_err(io::Error::other).flatten().map_err(|error| self.fault(error))?;
        let broken = || self.fault(io::Error::new(io::ErrorKind::InvalidData, "a record cannot be read"));
        Ok(Begin::Done(Record::decode(&bytes).ok_or_else(broken)?.answer))
    }

    async fn finish(
        &self,
        now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> Result<(), LogError> {
        let Some(fingerprint) = self.shared.state.lock().ledger.claimed(id, lease) else { return Ok(()) };
        let record = Record { id, fingerprint, until: SystemTime::now() + keep, answer };
        let mut frame = Vec::new();
        files::frame(&mut frame, |into| record.encode(into));
        let length = frame.len();
        let place = self.write(frame).await;
        let (kept, written) = match place {
            Ok(place) => (Kept::Log(place), Ok(())),
            Err(error) => (Kept::Memory(Arc::new(record.answer)), Err(self.fault(error))),
        };
        let mut state = self.shared.state.lock();
        if !state.ledger.keep(id, lease, now + keep, (kept.clone(), length)) {
            // Somebody else has claimed it meanwhile.
            state.release(&kept);
        }
        written
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        self.shared.state.lock().ledger.give_up(id, lease);
    }

    async fn changed(&self, id: RecordId) {
        let changed = self.shared.state.lock().ledger.changed(id);
        if let Some(changed) = changed {
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests;
