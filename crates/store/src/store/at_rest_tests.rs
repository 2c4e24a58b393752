//! What lies on the disk when objects are sealed, and what a restart makes of it.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{tests::*, *};
use crate::AtRestError;

/// Seals secrets by adding a number to every byte; the number stands in front.
struct Shift {
    number: u8,
}

impl AtRest for Shift {
    fn seal(&self, collection: &str, path: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        if path.ends_with("unsealable") {
            return Err(AtRestError("no random numbers".to_owned()));
        }
        let sealed = || [b'S', self.number].into_iter().chain(plain.iter().map(|b| b.wrapping_add(self.number)));
        Ok((collection == SECRETS).then(|| sealed().collect()))
    }

    fn open(&self, _: &str, _: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        match stored {
            [b'S', number, sealed @ ..] if *number <= self.number => {
                Ok(Some(sealed.iter().map(|b| b.wrapping_sub(*number)).collect()))
            }
            [b'S', number, ..] => Err(AtRestError(format!("key {number} is unknown"))),
            _ => Ok(None),
        }
    }

    fn stale(&self, collection: &str, _: &str, stored: &[u8]) -> bool {
        collection == SECRETS && !stored.starts_with(&[b'S', self.number])
    }
}

const SECRETS: &str = "core/secrets";

fn options(number: u8) -> Options {
    Options { at_rest: Some(Arc::new(Shift { number })), ..Options::default() }
}

fn secret(path: &str, text: &str) -> Write {
    let mut write = create(path, text);
    write.key.collection = SECRETS.into();
    write
}

/// Whether any file of the store holds this text.
fn on_disk(dir: &tempfile::TempDir, text: &[u8]) -> bool {
    std::fs::read_dir(dir.path()).unwrap().any(|entry| match std::fs::read(entry.unwrap().path()) {
        Ok(bytes) => memchr::memmem::find(&bytes, text).is_some(),
        // the open store replaces its files
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            false
        }
    })
}

#[tokio::test]
async fn sealed_objects_are_plain_in_memory_and_never_on_the_disk() {
    let dir = tempfile::TempDir::new().unwrap();
    let small = Options { segment_bytes: 8 << 10, ..options(1) };
    let store = Store::open(dir.path(), small.clone()).unwrap();
    store.commit(vec![secret("a/1", "hidden"), create("a/1", "shown")]).await.unwrap();
    for n in 0..100 {
        // enough for several segments and a checkpoint
        store.commit(vec![secret(&format!("b/{n}"), &"hidden".repeat(64))]).await.unwrap();
    }
    let before = content(&store.snapshot());
    assert!(before.iter().any(|line| line.contains("hidden")));
    drop(store);
    assert!(on_disk(&dir, b"shown") && !on_disk(&dir, b"hidden"));
    let store = Store::open(dir.path(), small).unwrap();
    assert_eq!(content(&store.snapshot()), before);
}

#[tokio::test]
async fn an_older_key_is_gone_from_the_disk_after_the_next_start() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    store.commit(vec![secret("a/1", "hidden")]).await.unwrap();
    let before = content(&store.snapshot());
    drop(store);
    assert!(on_disk(&dir, b"hidden"), "without a hook objects are kept as they are");
    for number in [3, 4] {
        let store = Store::open(dir.path(), options(number)).unwrap();
        assert_eq!(content(&store.snapshot()), before);
        // the checkpoint is written beside the commits; closing the store would stop it half way
        while on_disk(&dir, b"hidden") || !on_disk(&dir, &[b'S', number]) {
            tokio::task::yield_now().await;
        }
    }
    let error = Store::open(dir.path(), options(3)).err().unwrap();
    assert!(matches!(&error, OpenError::Sealed { source, .. } if source.to_string() == "key 4 is unknown"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_sealed_is_not_kept() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Store::open(dir.path(), options(1)).unwrap();
    let error = store.commit(vec![secret("a/unsealable", "hidden")]).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot seal core/secrets/a/unsealable: no random numbers");
    assert_eq!(store.revision(), Revision(0));
    store.commit(vec![secret("a/1", "x")]).await.unwrap();
    assert_eq!(store.revision(), Revision(1));
}

/// As [`Shift`], with a number that changes.
struct Turning(AtomicU8);

impl Turning {
    fn now(&self) -> Shift {
        Shift { number: self.0.load(Ordering::SeqCst) }
    }
}

impl AtRest for Turning {
    fn seal(&self, collection: &str, path: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        self.now().seal(collection, path, plain)
    }

    fn open(&self, collection: &str, path: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, AtRestError> {
        self.now().open(collection, path, stored)
    }

    fn stale(&self, collection: &str, path: &str, stored: &[u8]) -> bool {
        self.now().stale(collection, path, stored)
    }
}

#[tokio::test]
async fn what_is_kept_is_kept_anew_when_the_keys_change() {
    let dir = tempfile::TempDir::new().unwrap();
    let turning = Arc::new(Turning(AtomicU8::new(3)));
    let options = Options { at_rest: Some(turning.clone()), ..Options::default() };
    let store = Store::open(dir.path(), options).unwrap();
    store.commit(vec![secret("a/1", "hidden")]).await.unwrap();
    assert!(on_disk(&dir, &[b'S', 3]));
    turning.0.store(4, Ordering::SeqCst);
    let before = store.revision();
    store.rewrite().await.unwrap();
    while on_disk(&dir, &[b'S', 3]) || !on_disk(&dir, &[b'S', 4]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.revision(), before, "nothing was written that anybody could see");
    store.commit(vec![secret("a/2", "hidden")]).await.unwrap();
    assert_eq!(store.revision(), Revision(before.0 + 1));
}
