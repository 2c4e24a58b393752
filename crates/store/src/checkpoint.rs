//! Checkpoints: the whole state in one file, so that the log before it can go.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use tracing::{debug, warn};

use crate::{
    Key, Object, OpenError, Revision, Snapshot,
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
pub(crate) fn write(dir: &Path, snapshot: &Snapshot, stop: &AtomicBool) -> io::Result<bool> {
    let temporary = dir.join(TEMPORARY);
    let whole = write_temporary(&temporary, snapshot, stop);
    if matches!(whole, Ok(true)) {
        fs::rename(&temporary, checkpoint_path(dir, snapshot.revision()))?;
        Os.sync_dir(dir)?;
    } else if temporary.exists() {
        // Half a checkpoint is of no use, and on a full disk its space is.
        fs::remove_file(&temporary)?;
    }
    whole
}

fn write_temporary(temporary: &Path, snapshot: &Snapshot, stop: &AtomicBool) -> io::Result<bool> {
    let header = Header::new(snapshot.revision());
    let mut file = BufWriter::with_capacity(FRAME_BYTES, private().create(true).truncate(true).open(temporary)?);
    file.write_all(&header.encode(FileKind::Checkpoint))?;
    let mut frames = Frames { file: &mut file, salt: header.salt, buffer: Vec::new() };
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
            frames.buffer.push(ENTRY);
            put_text(&mut frames.buffer, collection);
            put_text(&mut frames.buffer, path);
            frames.buffer.extend_from_slice(&object.revision.0.to_le_bytes());
            put_blob(&mut frames.buffer, &object.bytes);
        }
    }
    frames.buffer.push(END);
    frames.buffer.extend_from_slice(&count.to_le_bytes());
    frames.close()?;
    let file: File = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(true)
}

struct Frames<'a> {
    file: &'a mut BufWriter<File>,
    salt: u64,
    buffer: Vec<u8>,
}

impl Frames<'_> {
    fn open(&mut self) {
        self.buffer.clear();
        frame::begin(&mut self.buffer);
    }

    fn close(&mut self) -> io::Result<()> {
        frame::finish(&mut self.buffer, 0, self.salt);
        self.file.write_all(&self.buffer)
    }
}

/// Reads a checkpoint whole; any fault in it is an error, because it had its name only after it was synced.
pub(crate) fn read(path: &Path, names: &mut Names) -> Result<Snapshot, OpenError> {
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
    let mut snapshot = Snapshot::at(header.revision);
    let (mut offset, mut count) = (HEADER_LEN, 0u64);
    loop {
        let (payload, next) = match frame::read(&bytes, offset, header.salt) {
            Frame::Whole { payload, next } => (payload, next),
            Frame::End => return Err(corrupt(offset, "ends before its last record")),
            Frame::Broken(reason) => return Err(corrupt(offset, reason)),
        };
        match load(payload, &mut snapshot, names, &mut count) {
            Some(None) => offset = next,
            Some(Some(expected)) if expected == count => return Ok(snapshot),
            Some(Some(_)) => return Err(corrupt(offset, "number of objects does not match")),
            None => return Err(corrupt(offset, "malformed record")),
        }
    }
}

/// Applies one frame; the outer `None` is a malformed frame, the inner `Some` the end with its count.
fn load(payload: &[u8], snapshot: &mut Snapshot, names: &mut Names, count: &mut u64) -> Option<Option<u64>> {
    let mut reader = Reader(payload);
    while !reader.0.is_empty() {
        match reader.u8()? {
            ENTRY => {
                let key = Key { collection: names.intern(reader.text()?), path: reader.text()?.into() };
                let revision = Revision(reader.u64()?);
                let bytes = Bytes::copy_from_slice(reader.blob()?);
                snapshot.apply(&key, Some(Object { revision, bytes }));
                *count += 1;
            }
            END => return reader.u64().map(Some),
            _ => return None,
        }
    }
    Some(None)
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
    pub(crate) fn start(dir: PathBuf) -> io::Result<Self> {
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
                let written = write(&dir, &snapshot, &stopped);
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
