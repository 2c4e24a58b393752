//! Waits for changes of a log's directory through inotify.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{Interest, unix::AsyncFd};

struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Watches a directory for writes, new files and renames.
pub(crate) struct DirectoryWatch(AsyncFd<Handle>);

impl DirectoryWatch {
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(directory, flags)?;
        // SAFETY: the handle owns its descriptor, always returns the same one, and closes it only when it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(Handle(inotify), Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns after at least one change since the last call.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|handle| handle.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(events) => return events.map(drop),
                Err(_would_block) => continue,
            }
        }
    }
}
