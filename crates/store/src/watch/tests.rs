//! Windows and cursors, without a store.

use bytes::Bytes;

use super::*;
use crate::{Key, Object};

fn windows(events: usize) -> Arc<Windows> {
    let limits =
        WindowLimits { events, bytes: 1 << 20, small: 1 << 20, total_bytes: 1 << 20, age: Duration::from_secs(60) };
    Arc::new(Windows::new(limits, Revision(10)))
}

fn event(collection: &str, path: &str, revision: u64) -> Arc<Event> {
    let key = Key { collection: collection.into(), path: path.into() };
    let object = Object { revision: Revision(revision), bytes: Bytes::from_static(b"{}") };
    Arc::new(Event::new(key, object, None, false))
}

fn append(windows: &Windows, collection: &str, path: &str, revision: u64) {
    windows.append([event(collection, path, revision)].into_iter(), Revision(revision)).wake();
}

fn revisions(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|e| e.object.revision.0).collect()
}

#[test]
fn watch_starts_at_the_origin_and_not_before() {
    let windows = windows(8);
    let error = windows.watch(&"pods".into(), "", Revision(9)).unwrap_err();
    assert_eq!(error, WatchError::Compacted { oldest: Revision(10) });
    append(&windows, "pods", "a/1", 11);
    append(&windows, "pods", "a/2", 12);
    let mut watch = windows.watch(&"pods".into(), "", Revision(10)).unwrap();
    assert_eq!(revisions(&watch.take(10).unwrap()), [11, 12]);
    let mut watch = windows.watch(&"pods".into(), "", Revision(11)).unwrap();
    assert_eq!(revisions(&watch.take(10).unwrap()), [12]);
}

#[test]
fn slow_watcher_is_told_the_oldest_revision_it_may_start_from() {
    let windows = windows(4);
    let mut watch = windows.watch(&"pods".into(), "", Revision(10)).unwrap();
    for revision in 11..=16 {
        append(&windows, "pods", "a/1", revision);
    }
    assert_eq!(watch.take(1).unwrap_err(), WatchError::Compacted { oldest: Revision(12) });
    assert_eq!(watch.position(), Revision(10));
    let mut watch = windows.watch(&"pods".into(), "", Revision(12)).unwrap();
    assert_eq!(revisions(&watch.take(10).unwrap()), [13, 14, 15, 16]);
}

#[test]
fn window_is_bounded_by_bytes_and_age() {
    let bytes = 2 * EVENT_BYTES;
    let limits = WindowLimits { events: 100, bytes, small: 1 << 20, total_bytes: bytes, age: Duration::from_secs(60) };
    let mut window = Window::new(Revision(0));
    let start = Instant::now();
    for revision in 1..=3 {
        window.push(start, event("pods", "a", revision), &limits);
    }
    assert_eq!((window.events.len(), window.floor), (2, Revision(1)));
    window.push(start + Duration::from_secs(61), event("pods", "a", 4), &limits);
    assert_eq!((window.events.len(), window.bytes, window.floor), (1, EVENT_BYTES, Revision(3)));
}

#[test]
fn the_window_of_a_small_collection_is_small() {
    let limits = WindowLimits {
        events: 100_000,
        bytes: 64 << 10,
        small: 8 << 10,
        total_bytes: 1 << 20,
        age: Duration::from_secs(60),
    };
    let object = |revision: u64, size: usize| Object { revision: Revision(revision), bytes: vec![b'x'; size].into() };
    let fill = |size: usize, measured: Option<&Snapshot>| {
        let windows = Windows::new(limits, Revision(0));
        if let Some(state) = measured {
            windows.measure(state);
        }
        for revision in 1..=200 {
            let key = Key { collection: "pods".into(), path: "a".into() };
            let previous = (revision > 1).then(|| object(revision - 1, size));
            let event = Arc::new(Event::new(key, object(revision, size), previous, false));
            windows.append([event].into_iter(), Revision(revision)).wake();
        }
        windows.held.load(Ordering::Relaxed)
    };
    assert!(fill(1000, None) <= 8 << 10);
    let mut state = Snapshot::default();
    let key = Key { collection: "pods".into(), path: "b".into() };
    state.apply(&key, Some(object(1, 20_000)));
    let beside = fill(1000, Some(&state));
    assert!((38_000..=42_000).contains(&beside), "what was there before counts: {beside}");
}

#[test]
fn what_an_object_was_counts_once() {
    let object = |revision: u64| Object { revision: Revision(revision), bytes: vec![b'x'; revision as usize].into() };
    let change = |now: u64, before: Option<u64>, deleted| {
        let key = Key { collection: "pods".into(), path: "a".into() };
        Event::new(key, object(now), before.map(object), deleted)
    };
    let bytes = |now, before, deleted| held(&change(now, before, deleted)) - EVENT_BYTES;
    assert_eq!(bytes(11, None, false), 0, "it is in the snapshot");
    assert_eq!(bytes(12, Some(11), false), 11);
    assert_eq!(bytes(13, Some(12), true), 12 + 13, "it is in no snapshot any more");
}

#[test]
fn all_windows_together_are_bounded_and_the_largest_gives_way() {
    let total_bytes = 32 * EVENT_BYTES;
    let limits =
        WindowLimits { events: 100, bytes: 1 << 20, small: 1 << 20, total_bytes, age: Duration::from_secs(60) };
    let windows = Arc::new(Windows::new(limits, Revision(10)));
    append(&windows, "nodes", "n", 11);
    for revision in 12..100 {
        append(&windows, "pods", "a/1", revision);
        let held: usize = windows.collections.read().all.iter().map(|collection| collection.read().bytes).sum();
        assert_eq!(windows.held.load(Ordering::Relaxed), held);
        assert!(held <= total_bytes);
    }
    let events = |name: &str| windows.collection(&name.into()).read().events.len();
    assert!(events("pods") >= 26, "no more is dropped than makes room for a while");
    assert_eq!(events("nodes"), 1);
    windows.restart(Revision(100));
    assert_eq!(windows.held.load(Ordering::Relaxed), 0);
}

#[test]
fn quiet_collection_gives_its_memory_back_while_others_are_written() {
    let limits =
        WindowLimits { events: 100, bytes: 1 << 20, small: 1 << 20, total_bytes: 1 << 20, age: Duration::ZERO };
    let windows = Arc::new(Windows::new(limits, Revision(10)));
    append(&windows, "pods", "a/1", 11);
    let pods = windows.collection(&"pods".into());
    std::thread::sleep(Duration::from_millis(1));
    append(&windows, "nodes", "n", 12);
    append(&windows, "nodes", "n", 13);
    let window = pods.read();
    assert_eq!((window.events.len(), window.bytes, window.floor), (0, 0, Revision(11)));
}

#[test]
fn position_stays_behind_undelivered_events_and_follows_the_head_otherwise() {
    let windows = windows(8);
    let mut watch = windows.watch(&"pods".into(), "a/", Revision(10)).unwrap();
    append(&windows, "nodes", "n", 11);
    assert_eq!(watch.position(), Revision(11));
    append(&windows, "pods", "a/1", 12);
    append(&windows, "pods", "b/1", 13);
    append(&windows, "pods", "a/2", 14);
    assert_eq!(watch.position(), Revision(11));
    assert_eq!(revisions(&watch.take(1).unwrap()), [12]);
    assert_eq!(watch.position(), Revision(13), "what the watch is not about is not waited for");
    assert_eq!(revisions(&watch.take(9).unwrap()), [14]);
    append(&windows, "nodes", "n", 15);
    assert_eq!(watch.position(), Revision(15));
}

#[test]
fn events_of_one_transaction_survive_a_cut_between_them() {
    let windows = windows(8);
    let mut watch = windows.watch(&"pods".into(), "", Revision(10)).unwrap();
    let both = [event("pods", "a", 11), event("pods", "b", 11)];
    windows.append(both.into_iter(), Revision(11)).wake();
    assert_eq!(watch.take(1).unwrap()[0].key.path, "a".into());
    assert_eq!(watch.position(), Revision(10), "half a transaction is not delivered");
    assert_eq!(watch.take(1).unwrap()[0].key.path, "b".into());
    assert_eq!(watch.position(), Revision(11));
}

#[tokio::test]
async fn next_wakes_on_append_and_loses_nothing_when_dropped() {
    let windows = windows(8);
    let mut watch = windows.watch(&"pods".into(), "a/", Revision(10)).unwrap();
    assert!(futures_now(watch.next(1)).is_none());
    append(&windows, "pods", "b/1", 11);
    assert!(futures_now(watch.next(1)).is_none());
    append(&windows, "pods", "a/1", 12);
    assert_eq!(revisions(&watch.next(8).await.unwrap()), [12]);
    let waiting = tokio::spawn(async move { watch.next(8).await });
    tokio::task::yield_now().await;
    windows.close();
    assert_eq!(waiting.await.unwrap().unwrap_err(), WatchError::Closed);
}

#[tokio::test]
async fn watch_of_a_namespace_sleeps_through_what_happens_in_others_and_misses_nothing() {
    let windows = windows(4);
    let mut watch = windows.watch(&"pods".into(), "a/", Revision(10)).unwrap();
    assert!(futures_now(watch.next(8)).is_none());
    for revision in 11..=20 {
        append(&windows, "pods", "b/1", revision);
        assert!(futures_now(watch.next(8)).is_none() && watch.is_current, "not woken");
    }
    assert_eq!(watch.position(), Revision(20));
    append(&windows, "pods", "a/1", 21);
    assert_eq!(revisions(&watch.next(8).await.unwrap()), [21]);
    append(&windows, "pods", "a/2", 22);
    for revision in 23..=26 {
        append(&windows, "pods", "b/1", revision);
    }
    let error = watch.next(8).await.unwrap_err();
    assert_eq!(error, WatchError::Compacted { oldest: Revision(22) });
    assert_eq!(watch.position(), Revision(10));
}

#[test]
fn groups_of_watchers_go_with_the_last_of_them() {
    let windows = windows(4);
    let watch = |prefix: &str| windows.watch(&"pods".into(), prefix, Revision(10)).unwrap();
    let (all, first, second) = (watch(""), watch("a/"), watch("a/"));
    let groups = || windows.collection(&"pods".into()).read().groups.len();
    assert_eq!(groups(), 2);
    drop(first);
    assert_eq!(groups(), 2);
    drop((all, second));
    assert_eq!(groups(), 0);
}

/// Polls once.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
