//! Container output as the CRI log format: `time stream F|P line`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Longest line in one entry; a longer one is split into partial entries, as containerd does it.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Size at which a log file is put aside; the kubelet's default.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Files kept, the current one among them; the kubelet's default.
const LOG_FILES_MAX: u32 = 5;

/// The name of a stream in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes a container's log and rotates it.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    length_max: u64,
    /// Begun lines: standard output's and standard error's.
    pending: [Vec<u8>; 2],
}

impl Log {
    /// Opens the log for appending.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, length_max: LOG_BYTES_MAX, pending: [Vec::new(), Vec::new()] })
    }

    /// Opens the file anew: somebody has moved the old one away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    /// Adds what a stream printed.
    pub(super) fn write(&mut self, stream: Stream, now: jiff::Timestamp, mut bytes: &[u8]) -> io::Result<()> {
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - pending.len();
            match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    entry(&mut entries, now, stream, b'F', &[&pending, &bytes[..end]]);
                    pending = Vec::new();
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() >= room => {
                    entry(&mut entries, now, stream, b'P', &[&pending, &bytes[..room]]);
                    pending = Vec::new();
                    bytes = &bytes[room..];
                }
                None => {
                    pending.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        self.pending[stream as usize] = pending;
        self.append(&entries)
    }

    /// Ends both streams: a line without an end is written as the part that it is, so that readers do not end it either.
    pub(super) fn finish(&mut self, now: jiff::Timestamp) -> io::Result<()> {
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                entry(&mut entries, now, stream, b'P', &[&pending]);
            }
        }
        self.append(&entries)
    }

    fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.length > 0 && self.length + entries.len() as u64 > self.length_max {
            self.rotate()?;
        }
        self.file.write_all(entries)?;
        self.length += entries.len() as u64;
        Ok(())
    }

    /// Moves `log` to `log.1`, `log.1` to `log.2` and so on, and forgets the last.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut path = self.path.clone();
            path.as_mut_os_string().push(format!(".{number}"));
            path
        };
        for number in (1..LOG_FILES_MAX - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))?;
        self.reopen()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn entry(out: &mut Vec<u8>, now: jiff::Timestamp, stream: Stream, tag: u8, parts: &[&[u8]]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{now:.9} {} {} ", stream.name(), tag as char);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Log) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(&directory.path().join("0.log")).unwrap();
        (directory, log)
    }

    fn text(directory: &tempfile::TempDir) -> String {
        fs::read_to_string(directory.path().join("0.log")).unwrap()
    }

    fn at(seconds: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn lines_are_joined_and_streams_kept_apart() {
        let (directory, mut log) = log();
        log.write(Stream::Stdout, at(0), b"a\nb").unwrap();
        log.write(Stream::Stderr, at(1), b"err\n").unwrap();
        log.write(Stream::Stdout, at(2), b"c\nend").unwrap();
        log.finish(at(3)).unwrap();
        assert_eq!(
            text(&directory),
            "1970-01-01T00:00:00.000000000Z stdout F a\n\
             1970-01-01T00:00:01.000000000Z stderr F err\n\
             1970-01-01T00:00:02.000000000Z stdout F bc\n\
             1970-01-01T00:00:03.000000000Z stdout P end\n"
        );
    }

    #[test]
    fn long_line_becomes_partial_entries() {
        let (directory, mut log) = log();
        log.write(Stream::Stdout, at(0), &vec![b'x'; LINE_BYTES_MAX + 1]).unwrap();
        log.write(Stream::Stdout, at(0), b"\n").unwrap();
        let text = text(&directory);
        let tags: Vec<_> = text.lines().map(|line| (&line[38..39], line.len() - 40)).collect();
        assert_eq!(tags, [("P", LINE_BYTES_MAX), ("F", 1)]);
    }

    #[test]
    fn full_log_is_put_aside_and_the_oldest_forgotten() {
        let (directory, mut log) = log();
        log.length_max = 50;
        for number in 0..9 {
            log.write(Stream::Stdout, at(0), format!("line {number}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
        assert!(text(&directory).ends_with("line 8\n"));
        assert!(fs::read_to_string(directory.path().join("0.log.4")).unwrap().ends_with("line 4\n"));
    }
}
