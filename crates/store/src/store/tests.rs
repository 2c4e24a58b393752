//! The whole store in one process: transactions, watches, restarts, and disks that fail.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
};

use tempfile::TempDir;

use super::*;
use crate::{
    Encoded, Key, Mutation, Precondition,
    disk::LogFile,
    log::{SEGMENT_SUFFIX, segment_path},
};

fn key(path: &str) -> Key {
    Key { collection: "core/pods".into(), path: path.into() }
}

fn object(text: &str) -> Encoded {
    let bytes = format!("{{\"rv\":\"\",\"text\":\"{text}\"}}").into_bytes();
    Encoded { bytes, revision_at: Some(7) }
}

pub(super) fn create(path: &str, text: &str) -> Write {
    Write { key: key(path), precondition: Precondition::Absent, mutation: Mutation::Put(object(text)) }
}

fn update(path: &str, at: Revision, text: &str) -> Write {
    Write { key: key(path), precondition: Precondition::Revision(at), mutation: Mutation::Put(object(text)) }
}

fn delete(path: &str, at: Revision) -> Write {
    Write { key: key(path), precondition: Precondition::Revision(at), mutation: Mutation::Delete(object("gone")) }
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), Options::default()).unwrap()
}

/// Everything a snapshot holds, as text.
pub(super) fn content(snapshot: &Snapshot) -> Vec<String> {
    let lines = snapshot.collections().flat_map(|c| {
        snapshot
            .range(c, "", None)
            .map(move |(path, o)| format!("{c}/{path}@{} {}", o.revision, String::from_utf8_lossy(&o.bytes)))
    });
    lines.collect()
}

#[tokio::test]
async fn transaction_gets_one_revision_written_into_its_objects() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    assert_eq!(store.revision(), Revision(0));
    let committed = store.commit(vec![create("a/1", "x"), create("a/2", "y")]).await.unwrap();
    assert_eq!(committed.revision, Revision(1));
    assert_eq!(committed.objects[1].bytes, r#"{"rv":"1","text":"y"}"#);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get("core/pods", "a/1").unwrap().bytes, r#"{"rv":"1","text":"x"}"#);
    let before = store.snapshot();
    store.commit(vec![update("a/1", Revision(1), "z"), delete("a/2", Revision(1))]).await.unwrap();
    assert_eq!(content(&store.snapshot()), [r#"core/pods/a/1@2 {"rv":"2","text":"z"}"#]);
    assert_eq!(before.count("core/pods", "a/", None), 2, "a snapshot in hand never changes");
}

#[tokio::test]
async fn a_store_that_is_closed_lets_another_have_the_directory_while_handles_of_it_are_left() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a", "x")]).await.unwrap();
    store.close();
    store.close();
    assert!(matches!(store.commit(vec![create("b", "x")]).await, Err(CommitError::Closed)));
    let next = open(&dir);
    next.commit(vec![create("b", "x")]).await.unwrap();
    assert_eq!(store.snapshot().count("core/pods", "b", None), 0, "what is read is what was there");
    assert_eq!(next.snapshot().count("core/pods", "", None), 2, "and nothing that was acknowledged is lost");
}

#[tokio::test]
async fn precondition_that_fails_leaves_nothing_of_the_transaction() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a/1", "x")]).await.unwrap();
    let error = store.commit(vec![create("a/2", "y"), create("a/1", "y")]).await.unwrap_err();
    assert_eq!(error.to_string(), "core/pods/a/1: expected nothing, found revision 1");
    let error = store.commit(vec![update("a/1", Revision(9), "y")]).await.unwrap_err();
    assert_eq!(error.to_string(), "core/pods/a/1: expected revision 9, found revision 1");
    let error = store.commit(vec![delete("a/3", Revision(1))]).await.unwrap_err();
    assert_eq!(error.to_string(), "core/pods/a/3: expected revision 1, found nothing");
    assert_eq!((store.revision(), store.snapshot().count("core/pods", "", None)), (Revision(1), 1));
}

#[tokio::test]
async fn transaction_that_could_never_be_logged_is_refused_with_its_reason() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut huge = create("a/1", "");
    huge.mutation = Mutation::Put(Encoded { bytes: vec![b' '; committer::TRANSACTION_BYTES], revision_at: None });
    let mut gap = create("a/1", "");
    gap.mutation = Mutation::Put(Encoded { bytes: b"{}".to_vec(), revision_at: Some(3) });
    let long = create(&"n".repeat(5000), "");
    for (writes, reason) in [
        (vec![], "it has no writes"),
        (vec![huge], "exceed 16777216"),
        (vec![gap], "has its revision beyond its end"),
        (vec![long], "has more than 4096 bytes"),
        (vec![create("a/1", ""), create("a/1", "")], "core/pods/a/1 is written twice"),
    ] {
        let error = store.commit(writes).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(store.revision(), Revision(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_to_one_object_exactly_one_wins_each_revision() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a/1", "start")]).await.unwrap();
    let writers = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut won = 0;
            for _ in 0..50 {
                let at = store.snapshot().get("core/pods", "a/1").unwrap().revision;
                won += u64::from(store.commit(vec![update("a/1", at, "x")]).await.is_ok());
            }
            won
        })
    });
    let mut won = 0;
    for writer in writers.collect::<Vec<_>>() {
        won += writer.await.unwrap();
    }
    assert_eq!(store.revision(), Revision(1 + won));
}

#[tokio::test]
async fn what_a_watch_delivered_is_found_by_a_read() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut watch = store.watch(&"core/pods".into(), "a/", Revision(0)).unwrap();
    store.commit(vec![create("a/1", "x")]).await.unwrap();
    store.commit(vec![delete("a/1", Revision(1))]).await.unwrap();
    let events = watch.next(10).await.unwrap();
    assert_eq!(events.len(), 2);
    assert!(events[0].previous.is_none() && !events[0].deleted);
    assert_eq!(events[1].previous.as_ref().unwrap().revision, Revision(1));
    assert!(events[1].deleted);
    assert_eq!(events[1].object.bytes, r#"{"rv":"2","text":"gone"}"#);
    assert_eq!(watch.position(), Revision(2));
    assert!(store.revision() >= watch.position());
    drop(store);
    assert_eq!(watch.next(1).await.unwrap_err(), WatchError::Closed);
}

#[tokio::test]
async fn restart_finds_state_and_window_again() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for n in 0..20 {
        store.commit(vec![create(&format!("a/{n}"), "x")]).await.unwrap();
    }
    store.commit(vec![delete("a/3", Revision(4))]).await.unwrap();
    let before = content(&store.snapshot());
    drop(store);
    let store = open(&dir);
    assert_eq!(content(&store.snapshot()), before);
    let mut watch = store.watch(&"core/pods".into(), "", Revision(18)).unwrap();
    let events = watch.next(10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.object.revision.0).collect::<Vec<_>>(), [19, 20, 21]);
    assert_eq!(events[2].previous.as_ref().unwrap().revision, Revision(4));
    assert_eq!(store.commit(vec![create("a/3", "x")]).await.unwrap().revision, Revision(22));
}

#[tokio::test]
async fn checkpoints_bound_the_log_and_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let mut at = store.commit(vec![create("a/1", "x")]).await.unwrap().revision;
    let text = "x".repeat(4 << 10);
    for _ in 0..400 {
        at = store.commit(vec![update("a/1", at, &text)]).await.unwrap().revision;
    }
    let before = content(&store.snapshot());
    drop(store);
    let segments = fs::read_dir(dir.path()).unwrap().filter_map(Result::ok);
    let segments = segments.filter(|e| e.file_name().to_string_lossy().ends_with(SEGMENT_SUFFIX)).count();
    assert!(segments < 20, "{segments} of some 27 segments are left");
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!((content(&store.snapshot()), store.revision()), (before, at));
    let oldest = store.watch(&"core/pods".into(), "", Revision(1)).unwrap_err();
    assert!(matches!(oldest, WatchError::Compacted { oldest } if oldest > Revision(1) && oldest <= at));
}

#[tokio::test]
async fn retained_snapshots_are_found_by_revision_and_bounded() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), Options { retained: 2, ..Options::default() }).unwrap();
    for n in 1..=3 {
        store.commit(vec![create(&format!("a/{n}"), "x")]).await.unwrap();
        store.retain(&store.snapshot());
    }
    store.commit(vec![create("a/4", "x")]).await.unwrap();
    assert!(store.snapshot_at(Revision(1)).is_none());
    assert_eq!(store.snapshot_at(Revision(2)).unwrap().count("core/pods", "", None), 2);
    assert_eq!(store.snapshot_at(Revision(4)).unwrap().count("core/pods", "", None), 4);
    assert!(store.snapshot_at(Revision(5)).is_none());
}

#[tokio::test]
async fn a_collection_is_found_as_it_was_at_any_revision_of_the_window() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for n in 1..=4 {
        store.commit(vec![create(&format!("a/{n}"), "x")]).await.unwrap();
    }
    let pods: Arc<str> = "core/pods".into();
    for revision in 1..=4 {
        let past = store.rewound(&pods, Revision(revision)).unwrap();
        assert_eq!((past.revision(), past.count(&pods, "", None)), (Revision(revision), revision as usize));
    }
    assert!(store.rewound(&pods, Revision(9)).is_none(), "the future is not known");
}

#[test]
fn directory_in_use_is_refused_with_the_pid_of_its_user() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let Err(OpenError::InUse { pid, .. }) = Store::open(dir.path(), Options::default()) else { panic!("opened twice") };
    assert_eq!(pid, Some(std::process::id()));
    drop(store);
    open(&dir);
}

/// A store of three revisions, closed; returns the path and content of its log up to the reserved rest.
async fn three_revisions(dir: &TempDir) -> (PathBuf, Vec<u8>) {
    let store = open(dir);
    for n in 1..=3 {
        store.commit(vec![create(&format!("a/{n}"), "x")]).await.unwrap();
    }
    drop(store);
    let path = segment_path(dir.path(), Revision(0));
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    (path, bytes[..end].to_vec())
}

#[tokio::test]
async fn log_cut_at_any_byte_opens_with_whole_transactions_only() {
    let dir = TempDir::new().unwrap();
    let (path, bytes) = three_revisions(&dir).await;
    for len in 0..bytes.len() {
        // The file ends there, or space follows that was reserved and never written.
        let mut cut = bytes[..len].to_vec();
        cut.resize(if len % 2 == 0 { len } else { bytes.len() + 100 }, 0);
        fs::write(&path, cut).unwrap();
        let store = open(&dir);
        let head = store.revision().0;
        assert!(head < 3 && store.snapshot().count("core/pods", "", None) as u64 == head, "cut at {len}");
        let again = store.commit(vec![create("b/1", "after")]).await.unwrap();
        drop(store);
        assert_eq!(open(&dir).revision(), again.revision, "cut at {len}");
    }
}

#[tokio::test]
async fn damage_before_the_last_batch_is_an_error_that_names_file_and_offset() {
    let dir = TempDir::new().unwrap();
    let (path, bytes) = three_revisions(&dir).await;
    let last = memchr::memmem::rfind(&bytes, b"KFRM").unwrap();
    for at in 0..last {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        match Store::open(dir.path(), Options::default()).err() {
            Some(OpenError::Corrupt { path: named, offset, .. }) => {
                assert!(named == path && offset <= at as u64, "damage at {at} reported at {offset}");
            }
            Some(OpenError::NewerVersion { .. }) if (8..12).contains(&at) => {}
            other => panic!("damage at {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "a refused open changes nothing");
    }
}

#[tokio::test]
async fn directory_of_a_newer_version_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let (path, mut bytes) = three_revisions(&dir).await;
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(dir.path(), Options::default()).err().unwrap();
    assert!(matches!(&error, OpenError::NewerVersion { found: 2, supported: 1, path: p } if *p == path));
    assert!(error.to_string().ends_with("has format version 2, and this build reads up to 1"), "{error}");
}

const FINE: u8 = 0;
const FULL: u8 = 1;
const SYNC_FAILS: u8 = 2;

/// The system's files with a switch that makes them fail.
struct Faulty(Arc<AtomicU8>);

struct FaultyFile(Box<dyn LogFile>, Arc<AtomicU8>);

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(FaultyFile(Os.create(path)?, Arc::clone(&self.0))))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(FaultyFile(Os.open(path)?, Arc::clone(&self.0))))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Os.sync_dir(dir)
    }
}

impl LogFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) == FULL {
            self.0.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) == SYNC_FAILS {
            return Err(io::Error::other("device error"));
        }
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) == FULL {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }
}

#[tokio::test]
async fn full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    let dir = TempDir::new().unwrap();
    let fault = Arc::new(AtomicU8::new(FINE));
    let store = Store::open_on(Box::new(Faulty(Arc::clone(&fault))), dir.path(), Options::default()).unwrap();
    store.commit(vec![create("a/1", "x")]).await.unwrap();
    fault.store(FULL, Ordering::SeqCst);
    for _ in 0..2 {
        let error = store.commit(vec![create("a/2", "refused")]).await.unwrap_err();
        assert!(matches!(error, CommitError::Full(_)), "{error}");
    }
    assert!(matches!(store.health(), Health::Failing(_)));
    assert_eq!((store.revision(), store.snapshot().count("core/pods", "", None)), (Revision(1), 1));
    fault.store(FINE, Ordering::SeqCst);
    // a full disk is looked at again from time to time
    while store.commit(vec![create("a/3", "y")]).await.is_err() {}
    assert!(matches!(store.health(), Health::Serving));
    let before = content(&store.snapshot());
    drop(store);
    assert_eq!(content(&open(&dir).snapshot()), before);
}

#[tokio::test]
async fn failed_sync_ends_writes_for_good_and_a_restart_knows_only_what_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let fault = Arc::new(AtomicU8::new(FINE));
    let store = Store::open_on(Box::new(Faulty(Arc::clone(&fault))), dir.path(), Options::default()).unwrap();
    store.commit(vec![create("a/1", "x")]).await.unwrap();
    fault.store(SYNC_FAILS, Ordering::SeqCst);
    assert!(matches!(store.commit(vec![create("a/2", "x")]).await, Err(CommitError::Refused(_))));
    fault.store(FINE, Ordering::SeqCst);
    assert!(matches!(store.commit(vec![create("a/2", "x")]).await, Err(CommitError::Refused(_))));
    assert!(matches!(store.health(), Health::Broken(_)));
    assert!(store.snapshot().get("core/pods", "a/1").is_some(), "reads go on");
    drop(store);
    let store = open(&dir);
    assert_eq!((store.revision(), store.snapshot().count("core/pods", "", None)), (Revision(1), 1));
}
