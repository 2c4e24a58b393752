//! The ledger's directory: who may write to it, and in which version its journal is.
//!
//! Version 1 was a file of bare settlements. Version 2 begins with a line that names the version, and its settlements
//! belong to a day, which can be closed. A ledger begins a new journal in the current version and refuses to touch an
//! old one: `ledger migrate` brings it forward, once.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::journal::{Entry, Settlement};

/// The version that this ledger writes.
pub const VERSION: u32 = 2;
/// Pause between two looks at something that another process changes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The journal in a ledger's directory.
pub fn journal(directory: &Path) -> PathBuf {
    directory.join("settlements.jsonl")
}

/// The first line of a journal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the lines below.
    pub format: u32,
    /// Where it was migrated, from which version, and how many settlements there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrated: Option<Migrated>,
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrated {
    /// The version there was.
    pub from: u32,
    /// The settlements that were taken over.
    pub settlements: u64,
}

/// Which journal lies in a directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// None.
    Nothing,
    /// One of an older version.
    Older(u32),
    /// One of this version.
    Current,
}

/// The right to write in a directory; the kernel takes it back when the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else writes in the directory, for so long at most.
    ///
    /// # Errors
    /// `WouldBlock` when somebody still does.
    pub fn take(directory: &Path, patience: Duration) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(directory.join("lock"))?;
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process writes to it"));
                }
            }
        }
    }

    /// Takes the lock as soon as the directory holds a journal of this version, or none; waits for a migration as long as
    /// it takes, and for another writer as long as `patience`.
    ///
    /// # Errors
    /// As [`Lock::take`], and when the journal is of a newer version.
    pub fn take_when_current(directory: &Path, patience: Duration) -> io::Result<Self> {
        let mut told = false;
        loop {
            let lock = Self::take(directory, patience)?;
            let Found::Older(version) = found(directory)? else { return Ok(lock) };
            drop(lock);
            if !std::mem::replace(&mut told, true) {
                tracing::info!(version, wanted = VERSION, "waiting for the migration of the journal");
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Looks at the journal of a directory.
///
/// # Errors
/// When it cannot be read, or is of a version that a newer ledger wrote.
pub fn found(directory: &Path) -> io::Result<Found> {
    let file = match File::open(journal(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        file => file?,
    };
    let mut line = String::new();
    BufReader::new(file).read_line(&mut line)?;
    match serde_json::from_str::<Header>(&line) {
        // Version 1 had no such line.
        Err(_) => Ok(Found::Older(1)),
        Ok(Header { format: VERSION, .. }) => Ok(Found::Current),
        Ok(Header { format, .. }) if format < VERSION => Ok(Found::Older(format)),
        Ok(Header { format, .. }) => {
            Err(invalid(format!("version {format} is newer than {VERSION}, which is known here")))
        }
    }
}

/// Begins an empty journal; the file appears with its first line on the disk, or not at all.
pub fn begin(directory: &Path) -> io::Result<()> {
    replace(directory, &line(&Header { format: VERSION, migrated: None })?)
}

/// Brings the journal of a directory to this version, and says what that took; `None` where there was nothing to do.
///
/// The new file takes the old one's place in one step, and the old one is kept beside it, so a migration may be cut off
/// anywhere and run again.
///
/// # Errors
/// When a file cannot be read or written, or another process still writes after `patience`.
pub fn migrate(directory: &Path, zone: &TimeZone, patience: Duration) -> io::Result<Option<Migrated>> {
    if matches!(found(directory)?, Found::Current | Found::Nothing) {
        return Ok(None);
    }
    let _lock = Lock::take(directory, patience)?;
    let Found::Older(from) = found(directory)? else { return Ok(None) };
    let path = journal(directory);
    // Nothing in the old file says when something was settled: it was before the file's last change.
    let day = Timestamp::try_from(fs::metadata(&path)?.modified()?).map_err(invalid)?.to_zoned(zone.clone()).date();
    let settlements = bare_settlements(&fs::read_to_string(&path)?)?;
    let migrated = Migrated { from, settlements: settlements.len() as u64 };
    let mut lines = line(&Header { format: VERSION, migrated: Some(migrated.clone()) })?;
    for settlement in settlements {
        lines.extend(line(&Entry::Settled { day, settlement })?);
    }
    match fs::hard_link(&path, directory.join(format!("settlements.v{from}.jsonl"))) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => replace(directory, &lines)?,
    }
    Ok(Some(migrated))
}

/// The lines of version 1, without one that a crash left unfinished.
fn bare_settlements(text: &str) -> io::Result<Vec<Settlement>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| invalid(format!("line {}: {error}", number + 1)))
    };
    whole.lines().enumerate().map(parse).collect()
}

fn replace(directory: &Path, content: &[u8]) -> io::Result<()> {
    let (path, new) = (journal(directory), directory.join("settlements.new"));
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(directory)?.sync_all()
}

/// A line of the journal.
pub fn line(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(content)?;
    line.push(b'\n');
    Ok(line)
}

/// The day it is in a time zone.
pub fn today(zone: &TimeZone) -> Date {
    Timestamp::now().to_zoned(zone.clone()).date()
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = concat!(
        r#"{"idempotency_key":"k1","order_id":"o","debtor":"a","creditor":"b","amount_minor":5,"currency":"EUR"}"#,
        "\n",
        r#"{"idempotency_key":"k2","order_id":"o","debtor":"a","creditor":"b","amount_minor":6,"currency":"EUR"}"#,
        "\n",
        r#"{"idempotency_key":"torn"#,
    );

    #[test]
    fn an_old_journal_is_migrated_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(journal(directory.path()), OLD).unwrap();
        assert_eq!(found(directory.path()).unwrap(), Found::Older(1));
        let did = migrate(directory.path(), &TimeZone::UTC, Duration::ZERO).unwrap();
        assert_eq!(did, Some(Migrated { from: 1, settlements: 2 }));
        assert_eq!(found(directory.path()).unwrap(), Found::Current);
        let after = fs::read_to_string(journal(directory.path())).unwrap();
        assert_eq!(after.lines().count(), 3);
        assert_eq!(migrate(directory.path(), &TimeZone::UTC, Duration::ZERO).unwrap(), None);
        assert_eq!(fs::read_to_string(journal(directory.path())).unwrap(), after);
        assert_eq!(fs::read_to_string(directory.path().join("settlements.v1.jsonl")).unwrap(), OLD);
    }

    #[test]
    fn a_migration_that_was_cut_off_is_done_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(journal(directory.path()), OLD).unwrap();
        // what one leaves that ended before the new file took the old one's place
        fs::hard_link(journal(directory.path()), directory.path().join("settlements.v1.jsonl")).unwrap();
        fs::write(directory.path().join("settlements.new"), "{\"format\":2}\n{\"sett").unwrap();
        let did = migrate(directory.path(), &TimeZone::UTC, Duration::ZERO).unwrap();
        assert_eq!(did, Some(Migrated { from: 1, settlements: 2 }));
        assert_eq!(fs::read_to_string(directory.path().join("settlements.v1.jsonl")).unwrap(), OLD);
    }

    #[test]
    fn nothing_is_migrated_under_a_writer_and_nothing_written_in_an_old_journal() {
        let directory = tempfile::tempdir().unwrap();
        let writer = Lock::take(directory.path(), Duration::ZERO).unwrap();
        fs::write(journal(directory.path()), OLD).unwrap();
        let refused = migrate(directory.path(), &TimeZone::UTC, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        let path = directory.path().to_owned();
        let waiting = thread::spawn(move || Lock::take_when_current(&path, Duration::from_secs(60)).map(drop));
        thread::sleep(2 * LOOK_AGAIN);
        assert!(!waiting.is_finished());
        migrate(directory.path(), &TimeZone::UTC, Duration::from_secs(60)).unwrap();
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_journal_of_a_newer_ledger_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(journal(directory.path()), "{\"format\":3}\n").unwrap();
        let refused = found(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("version 3 is newer than 2"), "{refused}");
    }
}
