//! Audit events in a file, one line of JSON each, rotated by size as upstream's log back end does it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, tz::TimeZone};

/// Where the log goes and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The file; `-` is standard output, which nothing rotates.
    pub path: PathBuf,
    /// Size from which the file is put aside.
    pub bytes_max: u64,
    /// Files put aside that are kept.
    pub backups_max: usize,
    /// Age from which files put aside are removed; `None` keeps them.
    pub age_max: Option<Duration>,
}

/// The open log.
pub(super) struct Log {
    options: LogOptions,
    file: Output,
}

enum Output {
    Standard,
    File {
        file: File,
        bytes: u64,
    },
    /// The last attempt to open it failed; the next write tries again.
    Closed,
}

impl Log {
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        if options.path == Path::new("-") {
            return Ok(Self { options, file: Output::Standard });
        }
        if let Some(folder) = options.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open(&options.path)?;
        Ok(Self { options, file })
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut rest = lines;
        while !rest.is_empty() {
            if let Output::Closed = self.file {
                self.file = open(&self.options.path)?;
            }
            let (now, later) = match &mut self.file {
                Output::Standard => (rest, &rest[rest.len()..]),
                Output::File { bytes, .. } => split(rest, self.options.bytes_max.saturating_sub(*bytes), *bytes == 0),
                Output::Closed => return Err(io::ErrorKind::NotFound.into()),
            };
            self.put(now)?;
            rest = later;
            if !rest.is_empty() {
                self.rotate()?;
            }
        }
        Ok(())
    }

    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Output::Standard => io::stdout().lock().write_all(lines),
            Output::File { file, bytes } => {
                file.write_all(lines)?;
                *bytes += lines.len() as u64;
                Ok(())
            }
            Output::Closed => Ok(()),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = Output::Closed;
        let time = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let (stem, extension) = self.name();
        let mut aside = self.options.path.with_file_name(format!("{stem}-{time}{extension}"));
        // two within a millisecond must not become one
        for count in 1.. {
            if !aside.exists() {
                break;
            }
            aside = self.options.path.with_file_name(format!("{stem}-{time}_{count}{extension}"));
        }
        fs::rename(&self.options.path, aside)?;
        self.file = open(&self.options.path)?;
        self.prune()
    }

    /// The file's name without and with its extension: `audit` and `.log`.
    fn name(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let extension = text(self.options.path.extension()).map(|extension| format!(".{extension}"));
        (text(self.options.path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
    }

    /// Removes what is put aside beyond number and age.
    fn prune(&self) -> io::Result<()> {
        let (stem, extension) = self.name();
        let folder = self.options.path.parent().unwrap_or(Path::new("."));
        let mut aside = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let dated = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if dated.is_some_and(|date| date.starts_with(|c: char| c.is_ascii_digit())) {
                aside.push((name, entry.path(), entry.metadata()?.modified()?));
            }
        }
        // the date in the name orders them, newest first
        aside.sort_by(|a, b| b.0.cmp(&a.0));
        let now = SystemTime::now();
        for (index, (_, path, modified)) in aside.iter().enumerate() {
            let age = now.duration_since(*modified).unwrap_or_default();
            if index >= self.options.backups_max || self.options.age_max.is_some_and(|max| age > max) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Output> {
    // who did what is for the administrator's eyes
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Output::File { file, bytes })
}

/// The lines that still fit into `room`, and the others; a new file takes one line however long it is.
fn split(lines: &[u8], room: u64, is_new: bool) -> (&[u8], &[u8]) {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if lines.len() <= room {
        return (lines, &[]);
    }
    let fitting = memchr::memrchr(b'\n', &lines[..room.min(lines.len())]).map(|at| at + 1);
    let first = || memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1);
    lines.split_at(fitting.unwrap_or_else(|| if is_new { first() } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, bytes_max: u64, backups_max: usize) -> Log {
        let path = folder.join("deep/audit.log");
        Log::open(LogOptions { path, bytes_max, backups_max, age_max: Some(Duration::from_secs(3600)) }).unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("deep")).unwrap();
        let mut contents: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        contents.sort();
        contents.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    #[test]
    fn files_hold_whole_lines_up_to_their_size_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 10, 2);
        log.write(b"aaa\nbbb\nccc\n").unwrap();
        assert_eq!(files(folder.path()), ["aaa\nbbb\n", "ccc\n"]);
        log.write(b"a line longer than a file\nd\n").unwrap();
        log.write(b"e\n").unwrap();
        assert_eq!(files(folder.path()), ["ccc\n", "a line longer than a file\n", "d\ne\n"]);
    }

    #[test]
    fn a_restart_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), 100, 1).write(b"a\n").unwrap();
        log(folder.path(), 100, 1).write(b"b\n").unwrap();
        assert_eq!(files(folder.path()), ["a\nb\n"]);
    }

    #[test]
    fn lines_are_split_where_they_fit() {
        assert_eq!(split(b"a\nbb\n", 5, false), (&b"a\nbb\n"[..], &b""[..]));
        assert_eq!(split(b"a\nbb\n", 4, false), (&b"a\n"[..], &b"bb\n"[..]));
        assert_eq!(split(b"a\nbb\n", 0, false), (&b""[..], &b"a\nbb\n"[..]));
        assert_eq!(split(b"aaa\nbb\n", 2, true), (&b"aaa\n"[..], &b"bb\n"[..]));
    }
}
