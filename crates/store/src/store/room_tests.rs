//! A disk that runs full and has room again, and backups.

use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::{tests::*, *};
use crate::{Encoded, Mutation, Precondition, RestoreError, disk::LogFile};

/// The system's files on a disk of a size that the test sets. What is reserved counts, by file.
#[derive(Clone)]
struct Small {
    dir: std::path::PathBuf,
    bytes: Arc<AtomicU64>,
}

struct SmallFile(Box<dyn LogFile>, Small);

impl Small {
    fn used(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).unwrap();
        files.filter_map(|entry| entry.unwrap().metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

impl Disk for Small {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(SmallFile(Os.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(SmallFile(Os.open(path)?, self.clone())))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Os.sync_dir(dir)
    }
}

impl LogFile for SmallFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.1.used() + len > self.1.bytes.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.allocate(offset, len)
    }
}

fn remove(path: &str, at: Revision) -> Write {
    let last = Encoded { bytes: b"{}".to_vec(), revision_at: None };
    let key = Key { collection: "core/pods".into(), path: path.into() };
    Write { key, precondition: Precondition::Revision(at), mutation: Mutation::Delete(last) }
}

#[tokio::test]
async fn full_disk_refuses_writes_goes_on_deleting_and_recovers_alone() {
    let dir = TempDir::new().unwrap();
    let bytes = Arc::new(AtomicU64::new(26 << 20));
    let disk = Small { dir: dir.path().to_owned(), bytes: Arc::clone(&bytes) };
    let store = Store::open_on(Box::new(disk.clone()), dir.path(), Options::default()).unwrap();
    let text = "x".repeat(64 << 10);
    let mut made = Vec::new();
    let error = loop {
        let path = format!("a/{}", made.len());
        match store.commit(vec![create(&path, &text)]).await {
            Ok(committed) => made.push((path, committed.revision)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::Full(_)), "{error}");
    assert!(made.len() > 100, "{} objects fit", made.len());
    assert!(matches!(store.health(), Health::Failing(_)));
    assert_eq!(store.snapshot().count("core/pods", "", None), made.len());
    for (path, revision) in made.drain(..100) {
        store.commit_freeing(vec![remove(&path, revision)]).await.unwrap();
        let refused = store.commit(vec![create("b/1", &text)]).await;
        assert!(matches!(refused, Err(CommitError::Full(_))), "what is left is for deletions");
    }
    drop(store);
    // a start on the full disk serves what is there, and deletes on
    let store = Store::open_on(Box::new(disk), dir.path(), Options::default()).unwrap();
    assert_eq!(store.snapshot().count("core/pods", "", None), made.len());
    let (path, revision) = made.remove(0);
    store.commit_freeing(vec![remove(&path, revision)]).await.unwrap();
    assert!(matches!(store.commit(vec![create("b/1", &text)]).await, Err(CommitError::Full(_))));
    bytes.store(1 << 30, Ordering::SeqCst);
    while store.commit(vec![create("b/2", &text)]).await.is_err() {}
    assert!(matches!(store.health(), Health::Serving));
    let before = content(&store.snapshot());
    drop(store);
    let store = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(content(&store.snapshot()), before);
}

#[tokio::test]
async fn a_backup_is_one_revision_and_restores_it() {
    let (dir, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = Store::open(dir.path(), Options::default()).unwrap();
    for n in 0..50 {
        store.commit(vec![create(&format!("a/{n}"), "x")]).await.unwrap();
    }
    let file = dir.path().join("backup");
    let mut bytes = Vec::new();
    let revision = store.backup(&mut bytes).unwrap();
    let before = content(&store.snapshot());
    store.commit(vec![create("b/1", "later")]).await.unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let found = crate::backup::verify(&file).unwrap();
    assert_eq!((found.revision, found.objects), (revision, 50));

    let restored = crate::backup::restore(&file, empty.path(), false).unwrap();
    assert_eq!(restored, found);
    let again = Store::open(empty.path(), Options::default()).unwrap();
    assert_eq!((content(&again.snapshot()), again.revision()), (before.clone(), revision));
    assert_eq!(again.commit(vec![create("c/1", "x")]).await.unwrap().revision.0, revision.0 + 1);

    let restore = |force| crate::backup::restore(&file, empty.path(), force);
    assert!(matches!(restore(true), Err(RestoreError::Directory(OpenError::InUse { .. }))));
    drop(again);
    assert!(matches!(restore(false), Err(RestoreError::NotEmpty { .. })));
    restore(true).unwrap();
    assert_eq!(content(&Store::open(empty.path(), Options::default()).unwrap().snapshot()), before);

    for damaged in [&bytes[..bytes.len() - 1], &[&bytes[..100], &[bytes[100] ^ 1], &bytes[101..]].concat()] {
        std::fs::write(&file, damaged).unwrap();
        assert!(matches!(crate::backup::verify(&file), Err(OpenError::Corrupt { .. })));
        assert!(matches!(crate::backup::restore(&file, empty.path(), true), Err(RestoreError::Backup(_))));
    }
    assert_eq!(content(&Store::open(empty.path(), Options::default()).unwrap().snapshot()), before);
}
