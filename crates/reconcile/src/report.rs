//! What controllers tell monitoring, under the names of client-go's workqueue and leader election.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// Queues of controllers that run, by the controller's name. They outlive nothing: a queue that is gone is not shown.
static QUEUES: Mutex<Vec<(&'static str, Weak<dyn Counted>)>> = Mutex::new(Vec::new());
/// Whether this process leads, by the name of the Lease.
static LEADING: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());

/// Upper bounds of the times of keys, in seconds, and how Go prints them: from ten nanoseconds on, each ten times the one
/// before.
const BOUNDS: [(f64, &str); 12] = [
    (1e-8, "1e-08"),
    (1e-7, "1e-07"),
    (1e-6, "1e-06"),
    (1e-5, "9.999999999999999e-06"),
    (1e-4, "9.999999999999999e-05"),
    (1e-3, "0.001"),
    (0.01, "0.01"),
    (0.1, "0.1"),
    (1.0, "1"),
    (10.0, "10"),
    (100.0, "100"),
    (1000.0, "1000"),
];

/// How long keys took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// One for each bound, and one for what is beyond the last.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Times {
    /// Notes one.
    pub(crate) fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|(bound, _)| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum += took;
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    fn render(&self, name: &str, controller: &str, out: &mut String) {
        let mut total = 0;
        let bounds = BOUNDS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        for (bound, count) in bounds.zip(self.counts) {
            total += count;
            let _ = writeln!(out, "{name}_bucket{{name=\"{controller}\",le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum{{name=\"{controller}\"}} {}", self.sum.as_secs_f64());
        let _ = writeln!(out, "{name}_count{{name=\"{controller}\"}} {total}");
    }
}

/// What a queue has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) retried: u64,
    pub(crate) waiting: u64,
    /// How long keys waited for work.
    pub(crate) queued: Times,
    /// How long the work on them took.
    pub(crate) worked: Times,
    /// How long the keys that are worked on have been, together.
    pub(crate) unfinished: Duration,
    /// How long the one of them has been that is worked on the longest.
    pub(crate) longest: Duration,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.added += other.added;
        self.retried += other.retried;
        self.waiting += other.waiting;
        self.queued.add(&other.queued);
        self.worked.add(&other.worked);
        self.unfinished += other.unfinished;
        self.longest = self.longest.max(other.longest);
    }
}

/// A queue that can be counted.
pub(crate) trait Counted: Send + Sync {
    fn counts(&self) -> Counts;
}

/// Shows a queue as the one of a controller, for as long as it lives.
pub(crate) fn watch(name: &'static str, queue: &Arc<impl Counted + 'static>) {
    let queue: Weak<dyn Counted> = Arc::downgrade(queue) as _;
    let mut queues = QUEUES.lock();
    queues.retain(|(_, known)| known.strong_count() > 0);
    queues.push((name, queue));
}

/// Notes that this process would lead, and does not yet.
pub(crate) fn would_lead(lease: &str) {
    LEADING.lock().insert(lease.to_owned(), false);
}

/// This process leads while this lives.
pub(crate) struct Leads<'a>(&'a str);

impl<'a> Leads<'a> {
    pub(crate) fn by(lease: &'a str) -> Self {
        LEADING.lock().insert(lease.to_owned(), true);
        Self(lease)
    }
}

impl Drop for Leads<'_> {
    fn drop(&mut self) {
        would_lead(self.0);
    }
}

/// Appends the metrics of all controllers of this process in Prometheus' text format.
pub fn render_metrics(out: &mut String) {
    let mut queues: BTreeMap<&str, Counts> = BTreeMap::new();
    for (name, queue) in &*QUEUES.lock() {
        let Some(counts) = queue.upgrade().map(|queue| queue.counts()) else { continue };
        // two controllers of one name are one to monitoring
        queues.entry(name).or_default().add(&counts);
    }
    let mut family = |name: &str, kind: &str, help: &str, value: fn(&Counts) -> f64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (controller, counts) in &queues {
            let _ = writeln!(out, "{name}{{name=\"{controller}\"}} {}", value(counts));
        }
    };
    family("workqueue_adds_total", "counter", "Keys added to the queue.", |counts| counts.added as f64);
    family("workqueue_depth", "gauge", "Keys that wait in the queue now.", |counts| counts.waiting as f64);
    let help = "Keys added again after a failure.";
    family("workqueue_retries_total", "counter", help, |counts| counts.retried as f64);
    let help = "How long keys have been worked on that are not done, in seconds.";
    family("workqueue_unfinished_work_seconds", "gauge", help, |counts| counts.unfinished.as_secs_f64());
    let help = "How long the key has been worked on that has been the longest, in seconds.";
    family("workqueue_longest_running_processor_seconds", "gauge", help, |counts| counts.longest.as_secs_f64());
    let mut times = |name: &str, help: &str, of: fn(&Counts) -> &Times| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (controller, counts) in &queues {
            of(counts).render(name, controller, out);
        }
    };
    times("workqueue_queue_duration_seconds", "How long keys waited in the queue.", |counts| &counts.queued);
    times("workqueue_work_duration_seconds", "How long the work on keys took.", |counts| &counts.worked);
    let name = "leader_election_master_status";
    let _ = writeln!(out, "# HELP {name} Whether this process leads.\n# TYPE {name} gauge");
    for (lease, leads) in &*LEADING.lock() {
        let _ = writeln!(out, "{name}{{name=\"{lease}\"}} {}", u8::from(*leads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Counts);

    impl Counted for Fixed {
        fn counts(&self) -> Counts {
            self.0
        }
    }

    #[test]
    fn queues_are_shown_while_they_live() {
        let queue = |added| {
            let mut counts =
                Counts { added, retried: 1, waiting: 2, longest: Duration::from_secs(added), ..Counts::default() };
            counts.queued.note(Duration::from_millis(50));
            Arc::new(Fixed(counts))
        };
        let (first, second) = (queue(3), queue(4));
        watch("shown", &first);
        watch("shown", &second);
        would_lead("another-lease");
        let leads = Leads::by("a-lease");
        let shown = || {
            let mut out = String::new();
            render_metrics(&mut out);
            out
        };
        let both = shown();
        for line in [
            "workqueue_adds_total{name=\"shown\"} 7",
            "workqueue_depth{name=\"shown\"} 4",
            "workqueue_retries_total{name=\"shown\"} 2",
            "workqueue_longest_running_processor_seconds{name=\"shown\"} 4",
            "workqueue_queue_duration_seconds_bucket{name=\"shown\",le=\"0.01\"} 0",
            "workqueue_queue_duration_seconds_bucket{name=\"shown\",le=\"0.1\"} 2",
            "workqueue_queue_duration_seconds_sum{name=\"shown\"} 0.1",
            "workqueue_work_duration_seconds_count{name=\"shown\"} 0",
            "leader_election_master_status{name=\"a-lease\"} 1",
            "leader_election_master_status{name=\"another-lease\"} 0",
        ] {
            assert!(both.lines().any(|known| known == line), "{line}\n{both}");
        }
        drop(leads);
        assert!(shown().contains("leader_election_master_status{name=\"a-lease\"} 0"));
        drop(first);
        assert!(shown().contains("workqueue_adds_total{name=\"shown\"} 4"));
        drop(second);
        assert!(!shown().contains("name=\"shown\""));
    }
}
