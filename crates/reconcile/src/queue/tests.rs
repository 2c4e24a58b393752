use std::time::Duration;

use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn equal_keys_are_merged_and_never_run_twice_at_once() {
    let queue = Queue::new();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.get().await, Some("a"));
    queue.add("a");
    assert_eq!(queue.get().await, Some("b"));
    assert_eq!(queue.len(), 0, "a is under way, so it waits");
    queue.done(&"a");
    assert_eq!(queue.get().await, Some("a"), "added while under way: runs again");
    queue.done(&"a");
    queue.done(&"b");
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_delays_wins() {
    let queue = Queue::new();
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(10));
    queue.add_after("a", Duration::from_secs(2));
    queue.add_after("a", Duration::from_secs(30));
    assert_eq!(queue.get().await, Some("a"));
    assert_eq!(start.elapsed().as_secs(), 2);
    queue.done(&"a");
    let again = tokio::time::timeout(Duration::from_secs(100), queue.get()).await;
    assert!(again.is_err(), "merged into one");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_delay_wakes_a_waiting_get() {
    let queue = Queue::new();
    queue.add_after("late", Duration::from_secs(60));
    let start = Instant::now();
    let waiter = queue.clone();
    let (got, ()) = tokio::join!(waiter.get(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        queue.add_after("soon", Duration::from_secs(3));
    });
    assert_eq!((got, start.elapsed().as_secs()), (Some("soon"), 4));
}

#[test]
fn retry_backs_off_exponentially_up_to_the_limit() {
    let queue = Queue::new();
    let pauses: Vec<u128> = (0..4).map(|_| queue.retry("a").as_millis()).collect();
    assert_eq!(pauses, [5, 10, 20, 40]);
    for _ in 0..40 {
        queue.retry("a");
    }
    assert_eq!(queue.retry("a"), RETRY_MAX);
    queue.forget(&"a");
    assert_eq!(queue.failures(&"a"), 0);
    assert_eq!(queue.retry("a").as_millis(), 5);
}

#[tokio::test]
async fn close_releases_waiters() {
    let queue = Queue::<u32>::new();
    let (got, ()) = tokio::join!(queue.get(), async { queue.close() });
    assert_eq!(got, None);
}

#[tokio::test(start_paused = true)]
async fn a_burst_that_was_worked_on_leaves_no_room_behind() {
    let queue = Queue::new();
    for key in 0..4 * ROOM_KEPT {
        queue.add(key);
        queue.retry(key);
    }
    for _ in 0..8 * ROOM_KEPT {
        let key = queue.get().await.unwrap();
        queue.forget(&key);
        queue.done(&key);
    }
    let state = queue.shared.state.lock();
    assert!(state.dirty.is_empty() && state.delayed_at.is_empty());
    for room in [state.dirty.capacity(), state.ready.capacity(), state.delayed_at.capacity(), state.failures.capacity()]
    {
        assert!(room <= ROOM_KEPT, "{room}");
    }
}
