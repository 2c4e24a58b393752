//! What controllers tell monitoring, under the names of client-go's workqueue and leader election.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Queues of controllers that run, by the controller's name. They outlive nothing: a queue that is gone is not shown.
static QUEUES: Mutex<Vec<(&'static str, Weak<dyn Counted>)>> = Mutex::new(Vec::new());
/// Whether this process leads, by the name of the Lease.
static LEADING: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());

/// What a queue has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) retried: u64,
    pub(crate) waiting: u64,
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
        let sum = queues.entry(name).or_default();
        sum.added += counts.added;
        sum.retried += counts.retried;
        sum.waiting += counts.waiting;
    }
    let mut family = |name: &str, kind: &str, help: &str, value: fn(&Counts) -> u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (controller, counts) in &queues {
            let _ = writeln!(out, "{name}{{name=\"{controller}\"}} {}", value(counts));
        }
    };
    family("workqueue_adds_total", "counter", "Keys added to the queue.", |counts| counts.added);
    family("workqueue_depth", "gauge", "Keys that wait in the queue now.", |counts| counts.waiting);
    family("workqueue_retries_total", "counter", "Keys added again after a failure.", |counts| counts.retried);
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
        let queue = |added| Arc::new(Fixed(Counts { added, retried: 1, waiting: 2 }));
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
