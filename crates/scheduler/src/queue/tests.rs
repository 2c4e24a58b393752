use super::*;
use crate::shape::ShapeParts;

/// All plug-ins hear of the event.
const ALL: PluginSet = PluginSet::MAX;

fn pod(name: &str, priority: i32) -> PodInfo {
    shaped(name, ShapeParts { priority, ..ShapeParts::default() })
}

fn shaped(name: &str, parts: ShapeParts) -> PodInfo {
    PodInfo {
        key: Key::new("default", name),
        uid: name.into(),
        shape: Arc::new(Shape::new(parts)),
        ..PodInfo::default()
    }
}

fn names(queue: &mut PodQueue) -> Vec<String> {
    std::iter::from_fn(|| queue.pop()).map(|attempt| attempt.pod.key.name.clone()).collect()
}

/// A queue with a parked pod of each name, all alike.
fn parked(names: &[&str], now: Instant) -> PodQueue {
    let mut queue = PodQueue::new(Backoff::default());
    for name in names {
        queue.update(pod(name, 0), now);
        let tried = queue.pop().unwrap().pod;
        queue.park(&tried, 1, now);
    }
    queue
}

#[tokio::test(start_paused = true)]
async fn priority_goes_before_arrival() {
    let now = Instant::now();
    let mut queue = PodQueue::new(Backoff::default());
    for (name, priority) in [("first", 0), ("second", 0), ("urgent", 10)] {
        queue.update(pod(name, priority), now);
    }
    assert_eq!(names(&mut queue), ["urgent", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn only_an_event_that_helps_wakes_a_parked_pod() {
    let start = Instant::now();
    let mut queue = parked(&["p"], start);
    queue.update(pod("p", 0), start);
    assert!(queue.pop().is_none(), "an update that changes nothing for scheduling does not wake it");

    let later = start + Duration::from_secs(2);
    queue.happened("NodeAdd", later, ALL, |_, plugins| plugins & 2 != 0);
    assert!(queue.pop().is_none(), "another plug-in refused it");
    queue.happened("NodeAdd", later, ALL, |_, plugins| plugins & 1 != 0);
    assert_eq!(names(&mut queue), ["p"]);
}

#[tokio::test(start_paused = true)]
async fn one_pod_of_a_group_is_woken_and_each_success_wakes_the_next() {
    let start = Instant::now();
    let mut queue = parked(&["a", "b", "c"], start);
    let later = start + Duration::from_secs(2);
    queue.happened("NodeAdd", later, ALL, |_, _| true);
    queue.happened("NodeAdd", later, ALL, |_, _| true);
    let first = queue.pop().unwrap().pod;
    assert_eq!(&first.key.name, "a");
    assert!(queue.pop().is_none(), "the others wait for what becomes of it");
    queue.placed(&first, later);
    let second = queue.pop().unwrap().pod;
    assert_eq!(&second.key.name, "b");
    queue.park(&second, 1, later);
    assert!(queue.pop().is_none(), "after a failure the group sleeps on");
    queue.happened("NodeAdd", later, ALL, |_, _| true);
    assert_eq!(names(&mut queue), ["c"], "whose back-off ended first");
}

#[tokio::test(start_paused = true)]
async fn a_woken_pod_that_goes_away_passes_the_chance_on() {
    let start = Instant::now();
    let mut queue = parked(&["a", "b"], start);
    let later = start + Duration::from_secs(2);
    queue.happened("NodeAdd", later, ALL, |_, _| true);
    queue.remove(&Key::new("default", "a"), later);
    assert_eq!(names(&mut queue), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_pod_itself_ends_parking() {
    let start = Instant::now();
    let mut queue = parked(&["p"], start);
    let later = start + Duration::from_secs(2);
    queue.update(pod("p", 7), later);
    assert_eq!(names(&mut queue), ["p"]);
    assert!(!queue.has_parked());
}

#[tokio::test(start_paused = true)]
async fn a_woken_pod_waits_for_its_back_off_only_while_there_are_others() {
    let start = Instant::now();
    let mut queue = parked(&["p"], start);
    queue.happened("NodeAdd", start, ALL, |_, _| true);
    queue.update(pod("other", 0), start);
    assert_eq!(queue.waiting(), (1, 1, 0));
    assert_eq!(queue.next_at(), Some(start + Backoff::default().initial));
    assert_eq!(names(&mut queue), ["other", "p"]);
    assert_eq!((queue.waiting(), queue.next_at()), ((0, 0, 0), None));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_could_not_be_bound_waits_for_its_back_off() {
    let start = Instant::now();
    let mut queue = PodQueue::new(Backoff::default());
    queue.update(pod("p", 0), start);
    let tried = queue.pop().unwrap();
    assert_eq!((tried.number, tried.since), (1, start));
    queue.back_off(&tried.pod, start);
    assert!(queue.pop().is_none());
    queue.update(pod("p", 5), start);
    assert!(queue.pop().is_none(), "a change does not shorten it");
    queue.advance(start + Backoff::default().initial);
    let again = queue.pop().unwrap();
    assert_eq!((again.number, again.since), (2, start));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_counted_by_place_cause_and_plugin() {
    let start = Instant::now();
    let mut queue = parked(&["a", "b", "c"], start);
    assert_eq!(queue.waiting(), (0, 0, 3));
    assert_eq!(queue.refused()[""][0], 3);
    let later = start + Duration::from_secs(2);
    queue.happened("AssignedPodDelete", later, ALL, |_, _| true);
    assert_eq!(queue.waiting(), (1, 0, 2));
    assert_eq!(queue.refused()[""][0], 3, "until it is tried again");
    queue.pop().unwrap();
    queue.remove(&Key::new("default", "b"), later);
    assert_eq!((queue.waiting(), queue.refused()[""][0]), ((0, 0, 1), 1));
    queue.advance(later + PARKED_MAX);
    let incoming = queue.take_incoming();
    let wanted = [
        (("active", "AssignedPodDelete"), 1),
        (("active", "UnschedulablePodAdd"), 3),
        (("active", "UnschedulableTimeout"), 1),
        (("unschedulable", "ScheduleAttemptFailure"), 3),
    ];
    assert_eq!(incoming.into_iter().collect::<Vec<_>>(), wanted);
    assert!(queue.take_incoming().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_longer_each_time() {
    let start = Instant::now();
    let mut queue = PodQueue::new(Backoff::default());
    queue.update(pod("p", 0), start);
    for expected in [1, 2, 4, 8, 10, 10] {
        let tried = queue.pop().unwrap().pod;
        queue.back_off(&tried, start);
        let at = queue.next_at().unwrap();
        assert_eq!((at - start).as_secs(), expected);
        queue.advance(at);
    }
}

#[tokio::test(start_paused = true)]
async fn parked_pods_are_tried_again_in_the_end() {
    let start = Instant::now();
    let mut queue = parked(&["p"], start);
    queue.advance(start + PARKED_MAX);
    assert_eq!(names(&mut queue), ["p"]);
    queue.remove(&Key::new("default", "p"), start);
    assert!(queue.next_at().is_none() && queue.entries.is_empty() && !queue.has_parked());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_of_an_event_that_means_nothing_to_who_refused() {
    let start = Instant::now();
    let mut queue = parked(&["p"], start);
    queue.update(pod("unrefused", 1), start);
    let tried = queue.pop().unwrap().pod;
    queue.park(&tried, 0, start);
    let later = start + Duration::from_secs(2);
    queue.happened("AssignedPodAdd", later, 2, |shape, _| {
        assert_eq!(shape.priority, 1, "the other was refused by the first plug-in");
        true
    });
    assert_eq!(names(&mut queue), ["unrefused"]);
    queue.happened("NodeAdd", later, 1, |_, _| true);
    assert_eq!(names(&mut queue), ["p"]);
    for name in ["p", "unrefused"] {
        queue.remove(&Key::new("default", name), later);
    }
    queue.happened("NodeAdd", later, ALL, |_, _| true);
    assert!(queue.parked.is_empty() && queue.by_plugins.is_empty());
}
