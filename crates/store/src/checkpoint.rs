//! Checkpoints: the whole state in one file, so that the log before it can go.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tracing::{debug, warn};

use crate::{
    AtRestError, Key, Object, OpenError, Revision, Snapshot,
    at_rest::Sealing,
    disk::{Disk as _, Os, private},
    frame::{self, FileKind, Frame, HEADER_LEN, Header, Reader, put_blob, put_text},
    log,
    record::Names,
};

/// A frame is closed once it holds this much: one checksum per quarter megabyte, and a bounded buffer.
const FRAME_BYTES: usize = 256 << 10;

const ENTRY: u8 = 1;
const END: u8 = 2;

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".kckp";
/// What a checkpoint is called until it is whole.
pub(crate) const TEMPORARY: &str = "checkpoint.tmp";

/// Which revision the checkpoint of this file name holds; `None` for other files.
pub(crate) fn checkpoint_revision(name: &str) -> Option<Revision> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok().map(Revision)
}

pub(crate) fn checkpoint_path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("{PREFIX}{:020}{SUFFIX}", revision.0))
}

/// Writes `snapshot` and makes it durable under its name. Returns false when told to stop half way.
pub(crate) fn write(dir: &Path, snapshot: &Snapshot, sealing: &Sealing, stop: &AtomicBool) -> io::Result<bool> {
    let temporary = dir.join(TEMPORARY);
    let whole = write_temporary(&temporary, snapshot, sealing, stop);
    if matches!(whole, Ok(true)) {
        fs::rename(&temporary, checkpoint_path(dir, snapshot.revision()))?;
        Os.sync_dir(dir)?;
    } else if temporary.exists() {
        // Half a checkpoint is of no use, and on a full disk its space is.
        fs::remove_file(&temporary)?;
    }
    whole
}

fn write_temporary(temporary: &Path, snapshot: &Snapshot, sealing: &Sealing, stop: &AtomicBool) -> io::Result<bool> {
    let mut file = BufWriter::with_capacity(FRAME_BYTES, private().create(true).truncate(true).open(temporary)?);
    if !write_to(&mut file, snapshot, sealing, stop)? {
        return Ok(false);
    }
    let file: File = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(true)
}

/// Writes the whole state; false when told to stop half way.
pub(crate) fn write_to(
    file: &mut impl io::Write,
    snapshot: &Snapshot,
    sealing: &Sealing,
    stop: &AtomicBool,
) -> io::Result<bool> {
    let header = Header::new(snapshot.revision());
    file.write_all(&header.encode(FileKind::Checkpoint))?;
    let mut frames = Frames { file, salt: header.salt, buffer: Vec::new() };
    let mut count: u64 = 0;
    frames.open();
    for collection in snapshot.collections() {
        for (path, object) in snapshot.range(collection, "", None) {
            if frames.buffer.len() >= FRAME_BYTES {
                frames.close()?;
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                frames.open();
            }
            count += 1;
            let key = Key { collection: Arc::clone(collection), path: Arc::clone(path) };
            let sealed = sealing.seal(&key, &object.bytes).map_err(io::Error::other)?;
            frames.buffer.push(ENTRY);
            put_text(&mut frames.buffer, collection);
            put_text(&mut frames.buffer, path);
            frames.buffer.extend_from_slice(&object.revision.0.to_le_bytes());
            put_blob(&mut frames.buffer, &sealed);
        }
    }
    frames.buffer.push(END);
    frames.buffer.extend_from_slice(&count.to_le_bytes());
    frames.close()?;
    Ok(true)
}

struct Frames<'a, W> {
    file: &'a mut W,
    salt: u64,
    buffer: Vec<u8>,
}

impl<W: io::Write> Frames<'_, W> {
    fn open(&mut self) {
        self.buffer.clear();
        frame::begin(&mut self.buffer);
    }

    fn close(&mut self) -> io::Result<()> {
        frame::finish(&mut self.buffer, 0, self.salt);
        self.file.write_all(&self.buffer)
    }
}

/// What a checkpoint held.
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    /// Whether an object in it should be kept differently.
    pub(crate) stale: bool,
    /// How many objects there are.
    pub(crate) count: u64,
}

/// Reads a checkpoint whole; any fault in it is an error, because it had its name only after it was synced.
pub(crate) fn read(path: &Path, names: &mut Names, sealing: &Sealing) -> Result<Loaded, OpenError> {
    let bytes = fs::read(path).map_err(OpenError::io("read", path))?;
    let corrupt = |offset: usize, reason: &str| OpenError::Corrupt {
        path: path.to_owned(),
        offset: offset as u64,
        reason: reason.to_owned(),
    };
    let header = match Header::decode(&bytes, FileKind::Checkpoint) {
        Ok(header) => header,
        Err(frame::HeaderFault::Newer(found)) => {
            return Err(OpenError::NewerVersion { found, supported: frame::FORMAT_VERSION, path: path.to_owned() });
        }
        Err(frame::HeaderFault::Broken(reason)) => return Err(corrupt(0, reason)),
    };
    let mut loaded = Loaded { snapshot: Snapshot::at(header.revision), stale: false, count: 0 };
    let mut offset = HEADER_LEN;
    loop {
        let (payload, next) = match frame::read(&bytes, offset, header.salt) {
            Frame::Whole { payload, next } => (payload, next),
            Frame::End => return Err(corrupt(offset, "ends before its last record")),
            Frame::Broken(reason) => return Err(corrupt(offset, reason)),
        };
        let sealed = |(key, source)| OpenError::Sealed { path: path.to_owned(), key: Box::new(key), source };
        match load(payload, &mut loaded, names, sealing).map_err(sealed)? {
            Content::Entries => offset = next,
            Content::End(expected) if expected == loaded.count => return Ok(loaded),
            Content::End(_) => return Err(corrupt(offset, "number of objects does not match")),
            Content::Malformed => return Err(corrupt(offset, "malformed record")),
        }
    }
}

/// What a frame of a checkpoint was.
enum Content {
    /// Objects, which are applied.
    Entries,
    /// The end, which says how many objects there are.
    End(u64),
    Malformed,
}

/// Applies one frame.
fn load(
    payload: &[u8],
    loaded: &mut Loaded,
    names: &mut Names,
    sealing: &Sealing,
) -> Result<Content, (Key, AtRestError)> {
    let mut reader = Reader(payload);
    while !reader.0.is_empty() {
        match reader.u8() {
            Some(ENTRY) => {
                let Some((key, revision, stored)) = entry(&mut reader, names) else { return Ok(Content::Malformed) };
                loaded.stale |= sealing.is_stale(&key, stored);
                let bytes = sealing.open(&key, stored).map_err(|error| (key.clone(), error))?;
                loaded.snapshot.apply(&key, Some(Object { revision, bytes }));
                loaded.count += 1;
            }
            Some(END) => return Ok(reader.u64().map_or(Content::Malformed, Content::End)),
            _ => return Ok(Content::Malformed),
        }
    }
    Ok(Content::Entries)
}

fn entry<'a>(reader: &mut Reader<'a>, names: &mut Names) -> Option<(Key, Revision, &'a [u8])> {
    let key = Key { collection: names.intern(reader.text()?), path: reader.text()?.into() };
    Some((key, Revision(reader.u64()?), reader.blob()?))
}

/// Removes the checkpoints before `revision` and the segments that hold nothing after it.
pub(crate) fn clean(dir: &Path, revision: Revision) -> io::Result<()> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if checkpoint_revision(name).is_some_and(|r| r < revision) {
            fs::remove_file(entry.path())?;
        } else if let Some(base) = log::segment_base(name) {
            segments.push(base);
        }
    }
    segments.sort_unstable();
    for pair in segments.windows(2) {
        if pair[1] <= revision {
            fs::remove_file(log::segment_path(dir, pair[0]))?;
        }
    }
    Os.sync_dir(dir)
}

/// The thread that writes checkpoints beside the committer.
pub(crate) struct Checkpointer {
    jobs: Option<mpsc::SyncSender<Arc<Snapshot>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Checkpointer {
    pub(crate) fn start(dir: PathBuf, sealing: Sealing) -> io::Result<Self> {
        // Rendezvous with room for one: a second job while one is written would only repeat most of it.
        let (jobs, queue) = mpsc::sync_channel::<Arc<Snapshot>>(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("store-checkpoint".into()).spawn(move || {
            while let Ok(snapshot) = queue.recv() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let revision = snapshot.revision();
                let written = write(&dir, &snapshot, &sealing, &stopped);
                drop(snapshot);
                match written.and_then(|whole| if whole { clean(&dir, revision) } else { Ok(()) }) {
                    Ok(()) => debug!(%revision, "checkpoint written"),
                    Err(error) => warn!(%revision, %error, "cannot write a checkpoint, the log is kept instead"),
                }
            }
        })?;
        Ok(Checkpointer { jobs: Some(jobs), stop, thread: Some(thread) })
    }

    /// Hands a snapshot over; false when the thread is busy.
    pub(crate) fn offer(&self, snapshot: Arc<Snapshot>) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(snapshot).is_ok())
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the checkpoint thread panicked");
        }
    }
}
