//! The log reader: a pull-driven source of chunks, so that a client that leaves costs nothing to clean up.

use std::{
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use runtime::api::RuntimeEvent;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::broadcast,
};

use super::{
    line::{Source, parse},
    watch::DirectoryWatch,
};

/// Bytes read from the file at once.
const BLOCK_BYTES: usize = 64 << 10;
/// A record longer than this is cut: runtimes split lines at 16 KiB.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Which of a container's streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamChoice {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// What a client asked for (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) timestamps: bool,
    pub(crate) stream: StreamChoice,
}

/// Tells a follower when the container has ended.
pub(crate) struct Liveness {
    /// Something changed; look again.
    pub(crate) events: broadcast::Receiver<RuntimeEvent>,
    /// Whether more output may come.
    pub(crate) running: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Reads one container's log.
pub(crate) struct LogReader {
    path: PathBuf,
    file: File,
    options: LogOptions,
    /// `Some` while more may come.
    following: Option<(DirectoryWatch, Liveness)>,
    /// Bytes of an incomplete record.
    pending: BytesMut,
    remaining: Option<u64>,
    /// The last record written did not end its line.
    inside_line: bool,
}

impl LogReader {
    /// Opens the log at `path`.
    pub(crate) async fn open(path: &Path, options: LogOptions, liveness: Liveness) -> io::Result<Self> {
        let following = match (options.follow, path.parent()) {
            // Watch before the first read, so that nothing written in between is missed.
            (true, Some(directory)) => Some((DirectoryWatch::new(directory)?, liveness)),
            _ => None,
        };
        let mut file = File::open(path).await?;
        if let Some(lines) = options.tail_lines {
            let start = tail_offset(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let remaining = options.limit_bytes;
        Ok(Self {
            path: path.to_owned(),
            file,
            options,
            following,
            pending: BytesMut::new(),
            remaining,
            inside_line: false,
        })
    }

    /// The next piece of output, `None` at the end.
    pub(crate) async fn next_chunk(&mut self) -> Option<io::Result<Bytes>> {
        match self.advance().await {
            Ok(chunk) => chunk.map(Ok),
            Err(error) => {
                self.remaining = Some(0);
                Some(Err(error))
            }
        }
    }

    async fn advance(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.remaining == Some(0) {
                return Ok(None);
            }
            let running = self.following.as_ref().is_some_and(|(_, liveness)| (liveness.running)());
            self.pending.reserve(BLOCK_BYTES);
            if self.file.read_buf(&mut self.pending).await? > 0 {
                let output = self.render();
                if !output.is_empty() {
                    return Ok(Some(output));
                }
                continue;
            }
            if self.following.is_none() || self.reopen_if_rotated().await? {
                if self.following.is_none() {
                    return Ok(None);
                }
                continue;
            }
            // Only an end of file that was seen after the container had ended is the end.
            if !running {
                return Ok(None);
            }
            if let Some((watch, liveness)) = &mut self.following {
                tokio::select! {
                    changed = watch.changed() => changed?,
                    _ = liveness.events.recv() => {}
                }
            }
        }
    }

    /// Goes on with the new file when the one being read was moved away.
    async fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        let Ok(current) = tokio::fs::metadata(&self.path).await else {
            return Ok(false);
        };
        if current.ino() == self.file.metadata().await?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path).await?;
        self.pending.clear();
        Ok(true)
    }

    fn render(&mut self) -> Bytes {
        let mut output = BytesMut::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let record = self.pending.split_to(end + 1);
            self.render_record(&record[..end], &mut output);
        }
        if self.pending.len() > RECORD_BYTES_MAX {
            self.pending.clear();
        }
        if let Some(remaining) = &mut self.remaining {
            output.truncate(usize::try_from(*remaining).unwrap_or(usize::MAX));
            *remaining -= output.len() as u64;
        }
        output.freeze()
    }

    fn render_record(&mut self, record: &[u8], output: &mut BytesMut) {
        let Some(line) = parse(record) else { return };
        match (self.options.stream, line.source) {
            (StreamChoice::Stdout, Source::Stderr) | (StreamChoice::Stderr, Source::Stdout) => return,
            _ => {}
        }
        if let Some(since) = self.options.since {
            match line.time.parse::<Timestamp>() {
                Ok(time) if time < since => return,
                // Records are in order: from here on all are wanted.
                Ok(_) => self.options.since = None,
                Err(_) => return,
            }
        }
        if self.options.timestamps && !self.inside_line {
            output.put_slice(line.time.as_bytes());
            output.put_u8(b' ');
        }
        output.put_slice(line.text);
        if !line.partial {
            output.put_u8(b'\n');
        }
        self.inside_line = line.partial;
    }
}

/// Where the last `lines` whole lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.metadata().await?.len();
    if lines == 0 {
        return Ok(size);
    }
    let (mut start, mut found) = (size, 0_u64);
    // Bytes from `start` up to the end of the record whose beginning is not yet known.
    let mut block: Vec<u8> = Vec::new();
    let mut result = size;
    while start > 0 {
        let length = BLOCK_BYTES.min(usize::try_from(start).unwrap_or(BLOCK_BYTES));
        start -= length as u64;
        file.seek(SeekFrom::Start(start)).await?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).await?;
        bytes.extend_from_slice(&block);
        block = bytes;
        while let Some(feed) = block[..block.len().saturating_sub(1)].iter().rposition(|byte| *byte == b'\n') {
            if counts(&block[feed + 1..]) {
                found += 1;
            }
            if found > lines {
                return Ok(result);
            }
            result = start + feed as u64 + 1;
            block.truncate(feed + 1);
        }
    }
    if counts(&block) && found + 1 > lines { Ok(result) } else { Ok(0) }
}

/// Whether a record ends a line of the container; a record without line feed is still being written.
fn counts(record: &[u8]) -> bool {
    record.strip_suffix(b"\n").and_then(parse).is_some_and(|line| !line.partial)
}

#[cfg(test)]
mod tests;
