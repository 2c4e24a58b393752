use std::fs;

use tempfile::TempDir;

use super::*;
use crate::idempotency::store::contract::{KEEP, LEASE, answer, begin, claim, holds, id, keep, print};

fn open(directory: &TempDir) -> LogStore {
    let directory = directory.path().join("log");
    LogStore::open(LogConfig { directory, records_max: 10_000, bytes_max: 1 << 30 }).unwrap()
}

fn segments(directory: &TempDir) -> Vec<PathBuf> {
    let files = fs::read_dir(directory.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_log_is_a_store() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    holds(&store, &store).await;
}

#[tokio::test]
async fn what_is_kept_is_there_after_a_restart_and_claims_are_not() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    keep(&store, 1, answer("first")).await;
    keep(&store, 2, answer("second")).await;
    claim(&store, 3).await;
    // its time is over at once
    let lease = claim(&store, 4).await;
    store.finish(now(), id(4), lease, answer("short"), Duration::ZERO).await.unwrap();
    let config = LogConfig { directory: directory.path().join("log"), records_max: 10, bytes_max: 1 << 20 };
    assert!(matches!(LogStore::open(config), Err(LogError::Locked(_))), "one process at a time");
    let size = store.size();
    drop(store);
    let store = open(&directory);
    assert_eq!(store.size().2, size.2);
    assert_eq!(begin(&store, 1).await, Begin::Done(answer("first")));
    assert_eq!(begin(&store, 2).await, Begin::Done(answer("second")));
    assert_eq!(store.begin(now(), id(2), print(1), LEASE).await.unwrap(), Begin::Mismatch);
    claim(&store, 3).await;
    claim(&store, 4).await;
}

#[tokio::test]
async fn whatever_a_crash_cuts_short_what_came_before_is_kept() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    keep(&store, 1, answer("first")).await;
    let before = fs::metadata(&segments(&directory)[0]).unwrap().len();
    keep(&store, 2, answer("second")).await;
    drop(store);
    let whole = fs::read(&segments(&directory)[0]).unwrap();
    for cut in [0, 5, 16, 17, 40, before - 1, before, before + 1, before + 9, whole.len() as u64 - 1] {
        fs::write(&segments(&directory)[0], &whole[..cut as usize]).unwrap();
        let store = open(&directory);
        if cut >= before {
            assert_eq!(begin(&store, 1).await, Begin::Done(answer("first")), "cut at {cut}");
        } else {
            claim(&store, 1).await;
        }
        // and it goes on from there
        keep(&store, 2, answer("again")).await;
        drop(store);
        assert_eq!(begin(&open(&directory), 2).await, Begin::Done(answer("again")), "cut at {cut}");
    }
    let mut damaged = whole.clone();
    damaged[before as usize + 50] ^= 1;
    fs::write(&segments(&directory)[0], damaged).unwrap();
    let store = open(&directory);
    assert_eq!(begin(&store, 1).await, Begin::Done(answer("first")));
    claim(&store, 2).await;
}

#[tokio::test]
async fn many_at_once_are_all_kept() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(open(&directory));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { keep(&store, number, answer(&number.to_string())).await });
    }
    tasks.join_all().await;
    drop(store);
    let store = open(&directory);
    for number in 0..100 {
        assert_eq!(begin(&store, number).await, Begin::Done(answer(&number.to_string())));
    }
}

#[tokio::test]
async fn a_log_does_not_outgrow_what_is_kept_in_it() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    keep(&store, 1, answer("long")).await;
    let large = "x".repeat(1 << 20);
    for number in 0..60 {
        let lease = claim(&store, 100 + number % 100).await;
        store.finish(now(), id(100 + number % 100), lease, answer(&large), Duration::ZERO).await.unwrap();
    }
    let (records, _, bytes) = store.size();
    assert!(bytes <= 4 * SEGMENT_BYTES, "{bytes} bytes for {records} records");
    let on_disk: u64 = segments(&directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(on_disk, bytes, "what is deleted is deleted");
    assert_eq!(begin(&store, 1).await, Begin::Done(answer("long")), "what is kept was moved");
    drop(store);
    assert_eq!(begin(&open(&directory), 1).await, Begin::Done(answer("long")));
}

#[tokio::test]
async fn a_full_log_refuses_what_is_new() {
    let directory = TempDir::new().unwrap();
    let config = LogConfig { directory: directory.path().to_owned(), records_max: 2, bytes_max: 10_000 };
    let store = LogStore::open(config).unwrap();
    keep(&store, 1, answer("first")).await;
    keep(&store, 2, answer("second")).await;
    assert!(matches!(store.begin(now(), id(3), print(3), LEASE).await, Err(LogError::Full)));
    assert_eq!(begin(&store, 1).await, Begin::Done(answer("first")));
}

#[tokio::test]
async fn an_answer_that_the_disk_refuses_is_known_to_this_process() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    // a segment that may only be read
    let path = segments(&directory).remove(0);
    store.shared.turn.lock().await.file = Arc::new(File::open(path).unwrap());
    let lease = claim(&store, 1).await;
    assert!(store.finish(now(), id(1), lease, answer("kept"), KEEP).await.is_err());
    assert_eq!(begin(&store, 1).await, Begin::Done(answer("kept")));
}
