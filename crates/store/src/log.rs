//! The write side of the log: segments, batches, and what happens when the disk refuses.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

mod room;

use room::Room;
pub(crate) use room::is_full;

use crate::{
    Revision,
    disk::{Disk, LogFile},
    frame::{self, FRAME_LEN, FileKind, HEADER_LEN, Header},
    record,
};

/// Space is reserved in steps of this size: large enough that reserving is rare next to syncing, small enough that an
/// idle instance does not take up the disk.
const ALLOCATE_BYTES: u64 = 4 << 20;

const SEGMENT_PREFIX: &str = "log-";
pub(crate) const SEGMENT_SUFFIX: &str = ".klog";

/// Path of the segment that holds what came after `base`.
pub(crate) fn segment_path(dir: &Path, base: Revision) -> PathBuf {
    dir.join(format!("{SEGMENT_PREFIX}{:020}{SEGMENT_SUFFIX}", base.0))
}

/// Which revision the segment of this file name starts after; `None` for other files.
pub(crate) fn segment_base(name: &str) -> Option<Revision> {
    let digits = name.strip_prefix(SEGMENT_PREFIX)?.strip_suffix(SEGMENT_SUFFIX)?;
    digits.parse().ok().map(Revision)
}

/// Whether the log takes writes.
#[derive(Clone, Debug)]
enum State {
    Ready,
    /// A write failed: bytes of a batch that was not acknowledged may lie behind `offset`, and must go before the next.
    Torn,
    /// A sync failed: the kernel may have dropped pages it could not write, so nothing can be promised any more.
    Broken(Arc<io::Error>),
}

/// Why a batch is not in the log.
#[derive(Clone, Debug)]
pub(crate) enum AppendError {
    /// It was cut off again, or will be before the next write.
    Write(Arc<io::Error>),
    /// The log is of no use any more.
    Broken(Arc<io::Error>),
}

/// The open end of the log.
pub(crate) struct Log {
    disk: Box<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    file: Box<dyn LogFile>,
    path: PathBuf,
    salt: u64,
    /// End of what was synced.
    offset: u64,
    /// End of the reserved space.
    allocated: u64,
    state: State,
    room: Room,
}

/// Where the log ends, as recovery found it.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) path: PathBuf,
    pub(crate) salt: u64,
    pub(crate) offset: u64,
}

/// A batch being encoded: one frame with one record.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    /// Clears the buffer and starts a record whose first transaction gets revision `first`.
    pub(crate) fn start(&mut self, first: Revision) -> record::Writer<'_> {
        /// A buffer that one huge batch grew beyond this is given back.
        const KEEP_BYTES: usize = 4 << 20;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        frame::begin(&mut self.bytes);
        record::Writer::new(&mut self.bytes, first)
    }
}

impl Log {
    /// Starts an empty log after `base`.
    pub(crate) fn create(disk: Box<dyn Disk>, dir: &Path, base: Revision, segment_bytes: u64) -> io::Result<Log> {
        let segment = create_segment(&*disk, dir, base)?;
        let mut log = Log {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            file: segment.file,
            path: segment.path,
            salt: segment.salt,
            offset: HEADER_LEN as u64,
            allocated: ALLOCATE_BYTES,
            state: State::Ready,
            room: Room::Enough,
        };
        log.set_aside();
        Ok(log)
    }

    /// Continues the log at its tail; what lies behind it is cut off.
    pub(crate) fn resume(disk: Box<dyn Disk>, dir: &Path, tail: Tail, segment_bytes: u64) -> io::Result<Log> {
        let file = disk.open(&tail.path)?;
        file.set_len(tail.offset)?;
        let allocated = match file.allocate(tail.offset, ALLOCATE_BYTES) {
            Ok(()) => ALLOCATE_BYTES,
            // what is there can be read all the same
            Err(error) if is_full(&error) => 0,
            Err(error) => return Err(error),
        };
        file.sync()?;
        let mut log = Log {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            file,
            path: tail.path,
            salt: tail.salt,
            offset: tail.offset,
            allocated: tail.offset + allocated,
            state: State::Ready,
            room: Room::Enough,
        };
        log.set_aside();
        Ok(log)
    }

    /// Whether `batch` does not fit into the open segment any more.
    pub(crate) fn is_full(&self, batch: &Batch) -> bool {
        !self.is_short() && !self.is_empty() && self.offset + batch.bytes.len() as u64 > self.segment_bytes
    }

    /// Whether the open segment holds no batch yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.offset <= HEADER_LEN as u64
    }

    /// Bytes in the open segment.
    pub(crate) fn segment_len(&self) -> u64 {
        self.offset
    }

    /// Closes the open segment at revision `head` and opens the next.
    pub(crate) fn rotate(&mut self, head: Revision) -> Result<(), AppendError> {
        self.ready()?;
        let segment = match create_segment(&*self.disk, &self.dir, head) {
            Ok(segment) => segment,
            Err(error) if is_full(&error) => {
                // the open segment grows on instead
                self.run_short(error);
                return Ok(());
            }
            Err(error) => return Err(AppendError::Write(Arc::new(error))),
        };
        // The reserved rest is only worth its disk space; recovery does not mind it.
        if let Err(error) = self.file.set_len(self.offset) {
            warn!(path = %self.path.display(), %error, "cannot give back the reserved rest of a log segment");
        }
        self.file = segment.file;
        self.path = segment.path;
        self.salt = segment.salt;
        self.offset = HEADER_LEN as u64;
        self.allocated = ALLOCATE_BYTES;
        Ok(())
    }

    /// Writes the batch and syncs it. On an error nothing of it will be found after a restart, unless the disk also
    /// refuses to cut it off.
    pub(crate) fn append(&mut self, batch: &mut Batch) -> Result<(), AppendError> {
        self.ready()?;
        frame::finish(&mut batch.bytes, 0, self.salt);
        debug_assert!(batch.bytes.len() > FRAME_LEN);
        let end = self.offset + batch.bytes.len() as u64;
        let written = self.reserve(end).and_then(|()| self.file.write_at(&batch.bytes, self.offset));
        if let Err(error) = written {
            if is_full(&error) {
                self.run_short(io::Error::new(error.kind(), error.to_string()));
            }
            let error = Arc::new(error);
            warn!(path = %self.path.display(), %error, "cannot write the log, the batch is refused");
            self.state = State::Torn;
            // Tried at once, so that the disk does not keep what was refused; the next batch tries again.
            let _ = self.ready();
            return Err(AppendError::Write(error));
        }
        if let Err(error) = self.file.sync() {
            let error = Arc::new(error);
            warn!(path = %self.path.display(), %error, "cannot sync the log, writes are refused from now on");
            self.state = State::Broken(Arc::clone(&error));
            let cut = self.file.set_len(self.offset).and_then(|()| self.file.sync());
            if let Err(error) = cut {
                warn!(path = %self.path.display(), %error, "cannot cut an unsynced batch off the log");
            }
            return Err(AppendError::Broken(error));
        }
        self.offset = end;
        Ok(())
    }

    fn reserve(&mut self, end: u64) -> io::Result<()> {
        while end > self.allocated {
            self.file.allocate(self.allocated, ALLOCATE_BYTES)?;
            self.allocated += ALLOCATE_BYTES;
        }
        Ok(())
    }

    /// Makes the log ready for a write, cutting off what a failed one left behind.
    fn ready(&mut self) -> Result<(), AppendError> {
        match &self.state {
            State::Ready => Ok(()),
            State::Broken(error) => Err(AppendError::Broken(Arc::clone(error))),
            State::Torn => {
                let cut = self.file.set_len(self.offset).and_then(|()| self.file.sync());
                cut.map_err(|e| AppendError::Write(Arc::new(e)))?;
                self.allocated = self.offset;
                self.state = State::Ready;
                info!(path = %self.path.display(), offset = self.offset, "cut a refused batch off the log");
                Ok(())
            }
        }
    }
}

struct Segment {
    file: Box<dyn LogFile>,
    path: PathBuf,
    salt: u64,
}

fn create_segment(disk: &dyn Disk, dir: &Path, base: Revision) -> io::Result<Segment> {
    let path = segment_path(dir, base);
    let header = Header::new(base);
    let file = disk.create(&path)?;
    let made = file
        .allocate(0, ALLOCATE_BYTES)
        .and_then(|()| file.write_at(&header.encode(FileKind::Log), 0))
        .and_then(|()| file.sync())
        .and_then(|()| disk.sync_dir(dir));
    if let Err(error) = made {
        // A segment without a header would be taken for the torn end of the log; it is removed all the same.
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    Ok(Segment { file, path, salt: header.salt })
}
