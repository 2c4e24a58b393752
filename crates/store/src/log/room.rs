//! What the log does when the disk is full: writes are refused before they are begun, what frees space goes on from a
//! reserve that was set aside while there was room, and when there is room again the reserve is set aside anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{ALLOCATE_BYTES, Log};
use crate::disk::{Disk, private};

/// Space set aside for deletions on a full disk: some ten thousand of them, which should be enough to make room.
const RESERVE_BYTES: u64 = 8 << 20;
/// Steps in which the reserve is used up, small so that all of it is of use.
const STEP_BYTES: u64 = 64 << 10;
/// How often a full disk is looked at again.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// The file that holds the reserve.
const RESERVE: &str = "reserve";

/// Whether the disk has room.
#[derive(Clone, Debug)]
pub(super) enum Room {
    Enough,
    /// It has not, and the reserve is in use.
    Short {
        error: Arc<io::Error>,
        probed: Instant,
    },
}

/// Whether the disk, or the user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Log {
    /// Whether the disk is full.
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.room, Room::Short { .. })
    }

    /// Sets the reserve aside where it is not yet; a disk without room for it counts as full.
    pub(super) fn set_aside(&mut self) {
        let path = self.reserve_path();
        if path.exists() {
            return;
        }
        if let Err(error) = create(&*self.disk, &path) {
            self.run_short(error);
        }
    }

    /// Makes sure that `bytes` more fit. On a full disk that holds only for what frees space.
    pub(crate) fn make_room(&mut self, bytes: u64, frees: bool) -> Result<(), Arc<io::Error>> {
        let end = self.offset + bytes;
        if let Room::Short { probed, .. } = &self.room
            && probed.elapsed() >= PROBE_INTERVAL
        {
            self.probe();
        }
        if matches!(self.room, Room::Enough) {
            match self.reserve(end) {
                Err(error) if is_full(&error) => self.run_short(error),
                // whatever else is wrong shows when the batch is written
                _ => return Ok(()),
            }
        }
        match &self.room {
            Room::Short { error, .. } if !frees => Err(Arc::clone(error)),
            _ => self.use_reserve(end).map_err(Arc::new),
        }
    }

    /// The disk refused to give more.
    pub(super) fn run_short(&mut self, error: io::Error) {
        let path = self.dir.display();
        if !self.is_short() {
            warn!(%path, %error, "the disk is full: writes are refused, reads and deletions go on");
        }
        self.room = Room::Short { error: Arc::new(error), probed: Instant::now() };
        remove(&self.reserve_path());
    }

    fn use_reserve(&mut self, end: u64) -> io::Result<()> {
        while end > self.allocated {
            self.file.allocate(self.allocated, STEP_BYTES)?;
            self.allocated += STEP_BYTES;
        }
        Ok(())
    }

    /// Looks whether there is room for the reserve and for a step of the log.
    fn probe(&mut self) {
        let path = self.reserve_path();
        let roomy = create(&*self.disk, &path).and_then(|()| self.file.allocate(self.allocated, ALLOCATE_BYTES));
        match roomy {
            Ok(()) => {
                self.allocated += ALLOCATE_BYTES;
                self.room = Room::Enough;
                info!(path = %self.dir.display(), "the disk has room again");
            }
            Err(error) => self.run_short(error),
        }
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join(RESERVE)
    }
}

fn create(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let made = disk.create(path).and_then(|file| file.allocate(0, RESERVE_BYTES));
    if made.is_err() {
        remove(path);
    }
    made
}

/// Gives the reserve's space back. What cannot be removed is at least emptied.
fn remove(path: &Path) {
    if fs::remove_file(path).is_err() && path.exists() {
        let _ = private().truncate(true).open(path);
    }
}
