//! Opening a data directory: the lock, the newest checkpoint, and the log after it.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use tracing::{debug, info};

use crate::{
    AtRestError, Event, Key, Object, OpenError, Revision, Snapshot,
    at_rest::Sealing,
    checkpoint::{self, TEMPORARY},
    disk::private,
    frame::{self, FORMAT_VERSION, FileKind, Frame, HEADER_LEN, Header, HeaderFault},
    log::{self, Tail},
    record::{self, Names},
};

/// The file whose lock says that the directory is in use, and whose content says by whom.
const LOCK: &str = "lock";

/// What a data directory held.
pub(crate) struct Recovered {
    pub(crate) snapshot: Snapshot,
    /// Revision after which the log still has every event.
    pub(crate) origin: Revision,
    /// The events of the log, oldest first.
    pub(crate) events: Vec<Event>,
    /// Where the log goes on; `None` in an empty directory.
    pub(crate) tail: Option<Tail>,
    /// Bytes of log that a restart has to replay.
    pub(crate) replayed: u64,
    /// Whether an object in it should be kept differently.
    pub(crate) stale: bool,
}

/// Creates the directory where it is missing and takes its lock, held until the file is closed.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io("create", dir))?;
    let path = dir.join(LOCK);
    let mut file = private().create(true).truncate(false).open(&path).map_err(OpenError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            written.map_err(OpenError::io("write", &path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(OpenError::InUse { path: dir.to_owned(), pid: pid.trim().parse().ok() })
        }
        Err(TryLockError::Error(source)) => Err(OpenError::Io { action: "lock", path, source }),
    }
}

/// Reads the directory. Nothing in it is changed until all of it was understood.
pub(crate) fn recover(dir: &Path, sealing: &Sealing) -> Result<Recovered, OpenError> {
    let (checkpoints, segments) = list(dir)?;
    let mut names = Names::default();
    let (snapshot, stale) = match checkpoints.last() {
        Some(newest) => {
            let loaded = checkpoint::read(&checkpoint::checkpoint_path(dir, *newest), &mut names, sealing)?;
            (loaded.snapshot, loaded.stale)
        }
        None => (Snapshot::default(), false),
    };
    let origin = snapshot.revision();
    let mut recovered = Recovered { snapshot, origin, events: Vec::new(), tail: None, replayed: 0, stale };
    // Segments that end at or before the checkpoint were about to be removed.
    let first = segments.partition_point(|base| *base <= origin).saturating_sub(1);
    for (at, base) in segments.iter().enumerate().skip(first) {
        let path = log::segment_path(dir, *base);
        let head = recovered.snapshot.revision();
        if *base > head {
            let reason = format!("the log between revision {head} and {base} is missing");
            return Err(OpenError::Corrupt { path, offset: 0, reason });
        }
        let last = at + 1 == segments.len();
        replay(&path, *base, last, &mut recovered, &mut Reading { names: &mut names, sealing })?;
    }
    let leftover = dir.join(TEMPORARY);
    if leftover.exists() {
        fs::remove_file(&leftover).map_err(OpenError::io("remove", &leftover))?;
    }
    checkpoint::clean(dir, origin).map_err(OpenError::io("clean", dir))?;
    debug!(revision = %recovered.snapshot.revision(), events = recovered.events.len(), "store recovered");
    Ok(recovered)
}

type Found = (Vec<Revision>, Vec<Revision>);

/// Checkpoints and segments, oldest first.
fn list(dir: &Path) -> Result<Found, OpenError> {
    let (mut checkpoints, mut segments) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
        let name = entry.map_err(OpenError::io("read", dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        checkpoints.extend(checkpoint::checkpoint_revision(name));
        segments.extend(log::segment_base(name));
    }
    checkpoints.sort_unstable();
    segments.sort_unstable();
    Ok((checkpoints, segments))
}

/// What reading records needs.
struct Reading<'a> {
    names: &'a mut Names,
    sealing: &'a Sealing,
}

/// Applies what a segment holds beyond the state so far.
fn replay(
    path: &Path,
    base: Revision,
    last: bool,
    recovered: &mut Recovered,
    reading: &mut Reading<'_>,
) -> Result<(), OpenError> {
    let bytes = fs::read(path).map_err(OpenError::io("read", path))?;
    let salt = match header(path, base, &bytes)? {
        Some(header) => header.salt,
        // Creating the segment was cut short: nothing was ever written to it.
        None if last => return start_over(path),
        None => return Err(corrupt(path, 0, "header is missing")),
    };
    let mut offset = HEADER_LEN;
    let end = loop {
        match frame::read(&bytes, offset, salt) {
            Frame::Whole { payload, next } => {
                apply(payload, recovered, reading).map_err(|fault| fault.at(path, offset))?;
                offset = next;
            }
            Frame::End => break "unwritten space",
            Frame::Broken(reason) => break reason,
        }
    };
    // Each batch is one frame, and the next is written only after the sync of the one before. A whole frame behind a
    // broken one therefore proves that the broken one had been synced.
    if let Some(later) = frame::find_later(&bytes, offset, salt) {
        return Err(corrupt(path, offset, &format!("{end}, but a whole record follows at {later}")));
    }
    if !last && end != "unwritten space" {
        return Err(corrupt(path, offset, end));
    }
    if end != "unwritten space" {
        info!(path = %path.display(), offset, reason = end, "the log ends in a batch that was never acknowledged");
    }
    recovered.replayed += offset as u64;
    recovered.tail = Some(Tail { path: path.to_owned(), salt, offset: offset as u64 });
    Ok(())
}

/// The segment's header; `None` when nothing was ever written behind a header that is not whole.
fn header(path: &Path, base: Revision, bytes: &[u8]) -> Result<Option<Header>, OpenError> {
    match Header::decode(bytes, FileKind::Log) {
        Ok(header) if header.revision == base => Ok(Some(header)),
        Ok(header) => Err(corrupt(path, 0, &format!("its header says revision {}", header.revision))),
        Err(HeaderFault::Newer(found)) => {
            Err(OpenError::NewerVersion { found, supported: FORMAT_VERSION, path: path.to_owned() })
        }
        Err(HeaderFault::Broken(reason)) => {
            let unused = bytes.iter().skip(HEADER_LEN).all(|b| *b == 0);
            if unused { Ok(None) } else { Err(corrupt(path, 0, reason)) }
        }
    }
}

fn start_over(path: &Path) -> Result<(), OpenError> {
    info!(path = %path.display(), "removing a log segment that was never completed");
    fs::remove_file(path).map_err(OpenError::io("remove", path))
}

/// Why a whole record cannot be applied.
enum Fault {
    Damaged(String),
    Sealed(Box<Key>, AtRestError),
}

impl Fault {
    fn at(self, path: &Path, offset: usize) -> OpenError {
        match self {
            Fault::Damaged(reason) => corrupt(path, offset, &reason),
            Fault::Sealed(key, source) => OpenError::Sealed { path: path.to_owned(), key, source },
        }
    }
}

fn apply(payload: &[u8], recovered: &mut Recovered, reading: &mut Reading<'_>) -> Result<(), Fault> {
    let decoded = record::decode(payload, reading.names);
    let (first, transactions) = decoded.ok_or_else(|| Fault::Damaged("malformed record".to_owned()))?;
    for (number, changes) in transactions.into_iter().enumerate() {
        let revision = Revision(first.0 + number as u64);
        let snapshot = &mut recovered.snapshot;
        if revision <= snapshot.revision() {
            continue;
        }
        if revision.0 != snapshot.revision().0 + 1 {
            return Err(Fault::Damaged(format!("revision {revision} follows {}", snapshot.revision())));
        }
        snapshot.advance(revision);
        for change in changes {
            recovered.stale |= reading.sealing.is_stale(&change.key, change.bytes);
            let opened = reading.sealing.open(&change.key, change.bytes);
            let bytes = opened.map_err(|error| Fault::Sealed(Box::new(change.key.clone()), error))?;
            let object = Object { revision, bytes };
            let previous = snapshot.apply(&change.key, (!change.deleted).then(|| object.clone()));
            recovered.events.push(Event::new(change.key, object, previous, change.deleted));
        }
    }
    Ok(())
}

fn corrupt(path: &Path, offset: usize, reason: &str) -> OpenError {
    OpenError::Corrupt { path: PathBuf::from(path), offset: offset as u64, reason: reason.to_owned() }
}
