use serde_json::json;

use super::*;
use crate::Snapshot;

fn pod(name: &str, priority: i32) -> PodInfo {
    let requests = crate::Resources { cpu_milli: 500, pods: 1, ..crate::Resources::default() };
    PodInfo { key: Key::new("default", name), uid: name.into(), priority, requests, ..PodInfo::default() }
}

fn names(queue: &mut PodQueue) -> Vec<String> {
    std::iter::from_fn(|| queue.pop()).map(|pod| pod.key.name.clone()).collect()
}

fn node(cpu: &str) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let node = json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": cpu, "pods": "10"}}});
    snapshot.set_node(&serde_json::from_value(node).unwrap());
    snapshot
}

#[tokio::test(start_paused = true)]
async fn priority_goes_before_arrival() {
    let now = Instant::now();
    let mut queue = PodQueue::new();
    for (name, priority) in [("first", 0), ("second", 0), ("urgent", 10)] {
        queue.update(pod(name, priority), now);
    }
    assert_eq!(names(&mut queue), ["urgent", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn only_a_node_that_helps_wakes_a_parked_pod() {
    let start = Instant::now();
    let mut queue = PodQueue::new();
    queue.update(pod("p", 0), start);
    let tried = queue.pop().unwrap();
    queue.park(&tried, start);
    queue.update(pod("p", 0), start);
    assert!(queue.pop().is_none(), "an update that changes nothing for scheduling does not wake it");

    let later = start + Duration::from_secs(2);
    queue.node_changed(node("100m").node("a").unwrap(), later);
    assert!(queue.pop().is_none(), "too small a node");
    queue.node_changed(node("1").node("a").unwrap(), later);
    assert_eq!(names(&mut queue), ["p"]);
}

#[tokio::test(start_paused = true)]
async fn a_woken_pod_still_waits_for_its_back_off() {
    let start = Instant::now();
    let mut queue = PodQueue::new();
    queue.update(pod("p", 0), start);
    let tried = queue.pop().unwrap();
    queue.park(&tried, start);
    queue.node_changed(node("1").node("a").unwrap(), start);
    assert!(queue.pop().is_none());
    assert_eq!(queue.next_at(), Some(start + BACKOFF_MIN));
    queue.advance(start + BACKOFF_MIN);
    assert_eq!(names(&mut queue), ["p"]);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_longer_each_time() {
    let start = Instant::now();
    let mut queue = PodQueue::new();
    queue.update(pod("p", 0), start);
    for expected in [1, 2, 4, 8, 10, 10] {
        let tried = queue.pop().unwrap();
        queue.back_off(&tried, start);
        let at = queue.next_at().unwrap();
        assert_eq!((at - start).as_secs(), expected);
        queue.advance(at);
    }
}

#[tokio::test(start_paused = true)]
async fn parked_pods_are_tried_again_in_the_end() {
    let start = Instant::now();
    let mut queue = PodQueue::new();
    queue.update(pod("p", 0), start);
    let tried = queue.pop().unwrap();
    queue.park(&tried, start);
    queue.advance(start + PARKED_MAX);
    assert_eq!(names(&mut queue), ["p"]);
    queue.remove(&Key::new("default", "p"));
    assert!(queue.next_at().is_none() && queue.entries.is_empty());
}
