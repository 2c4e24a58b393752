//! Liveness, readiness and startup probes of one container run.

mod action;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Probe};
use runtime::{Runtime, api::ContainerId};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};

pub(crate) use action::run_handler;

/// The first pause of [`eagerly`]; doubled each time.
const EAGER_PAUSE: Duration = Duration::from_millis(50);

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What the probes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The startup probe passed, or there is none.
    Started,
    /// Readiness changed.
    Ready(bool),
    /// One probe failed; the text is for an event.
    Failed(Kind, String),
    /// The startup or liveness probe failed for good.
    Unhealthy(Kind),
}

/// A finding about one run of a container.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) container: String,
    pub(crate) id: ContainerId,
    pub(crate) finding: Finding,
}

/// What probes act on.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) id: ContainerId,
    pub(crate) container: Arc<Container>,
    /// Address the probes connect to unless they name another host.
    pub(crate) ip: String,
}

/// Counts results against the thresholds.
#[derive(Debug)]
pub(crate) struct Threshold {
    success: i32,
    failure: i32,
    /// Results of the same kind in a row.
    streak: i32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Threshold {
    pub(crate) fn new(probe: &Probe) -> Self {
        Self {
            success: probe.success_threshold.unwrap_or(1).max(1),
            failure: probe.failure_threshold.unwrap_or(3).max(1),
            streak: 0,
            last: None,
            verdict: None,
        }
    }

    /// Takes one result; returns the verdict when it changes.
    pub(crate) fn record(&mut self, passed: bool) -> Option<bool> {
        self.streak = if self.last == Some(passed) { self.streak.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let needed = if passed { self.success } else { self.failure };
        if self.streak < needed || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        Some(passed)
    }
}

/// Probes a container for as long as it is polled.
pub(crate) async fn run(target: Target, reports: mpsc::Sender<Report>) {
    let container = Arc::clone(&target.container);
    let report = Reporter { container: container.name.clone(), id: target.id.clone(), reports };
    if let Some(probe) = &container.startup_probe
        && !watch(&target, probe, Kind::Startup, &report).await
    {
        return;
    }
    if !report.send(Finding::Started).await {
        return;
    }
    let liveness = async {
        if let Some(probe) = &container.liveness_probe {
            watch(&target, probe, Kind::Liveness, &report).await;
        }
    };
    let readiness = async {
        match &container.readiness_probe {
            Some(probe) => drop(watch(&target, probe, Kind::Readiness, &report).await),
            None => drop(report.send(Finding::Ready(true)).await),
        }
    };
    tokio::join!(liveness, readiness);
}

struct Reporter {
    container: String,
    id: ContainerId,
    reports: mpsc::Sender<Report>,
}

impl Reporter {
    async fn send(&self, finding: Finding) -> bool {
        let report = Report { container: self.container.clone(), id: self.id.clone(), finding };
        self.reports.send(report).await.is_ok()
    }
}

/// Runs one probe until it is decided (startup), has failed for good (startup, liveness), or for ever (readiness).
/// Returns whether a startup probe passed.
async fn watch(target: &Target, probe: &Probe, kind: Kind, report: &Reporter) -> bool {
    let seconds = |value: Option<i32>, default: i32, least: i32| {
        Duration::from_secs(u64::try_from(value.unwrap_or(default).max(least)).unwrap_or_default())
    };
    let period = seconds(probe.period_seconds, 10, 1);
    let timeout = seconds(probe.timeout_seconds, 1, 1);
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0, 0)).await;
    let attempt = || async { action::probe(target, probe, timeout).await };
    let mut up = kind != Kind::Liveness && eagerly(period, || async { attempt().await.is_ok() }).await;
    let mut ticks = interval_at(Instant::now() + if up { period } else { Duration::ZERO }, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut threshold = Threshold::new(probe);
    loop {
        let failure = if std::mem::take(&mut up) {
            None
        } else {
            ticks.tick().await;
            attempt().await.err()
        };
        let verdict = threshold.record(failure.is_none());
        if let Some(text) = failure
            && !report.send(Finding::Failed(kind, text)).await
        {
            return false;
        }
        match (kind, verdict) {
            (_, None) | (Kind::Liveness, Some(true)) => {}
            (Kind::Startup, Some(true)) => return true,
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                report.send(Finding::Unhealthy(kind)).await;
                return false;
            }
            (Kind::Readiness, Some(ready)) => {
                report.send(Finding::Ready(ready)).await;
            }
        }
    }
}

/// Asks again and again, at growing pauses, until the answer is yes or one period is over.
///
/// A server needs some milliseconds to listen. Asked once at its start and then a period later, it would stay without
/// traffic for that period. These questions are not counted as failures and tell nobody.
async fn eagerly<F: Future<Output = bool>>(period: Duration, ask: impl Fn() -> F) -> bool {
    let end = Instant::now() + period;
    let mut pause = EAGER_PAUSE;
    loop {
        if ask().await {
            return true;
        }
        if Instant::now() + pause >= end {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_up_yet_is_asked_again_soon_but_not_for_ever() {
        let asked = Cell::new(0);
        let ask = |yes_at: i32| {
            asked.set(asked.get() + 1);
            let answer = asked.get() == yes_at;
            async move { answer }
        };
        assert!(eagerly(Duration::from_secs(3600), || ask(3)).await);
        assert_eq!(asked.replace(0), 3);
        assert!(!eagerly(Duration::from_millis(60), || ask(99)).await);
        assert!(asked.get() <= 2);
    }

    #[test]
    fn verdicts_need_their_threshold_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut threshold = Threshold::new(&probe);
        let results = [true, true, true, false, false, true, false, false, false, false, true, true];
        let verdicts: Vec<_> = results.iter().map(|passed| threshold.record(*passed)).collect();
        let mut expected = vec![None; results.len()];
        expected[1] = Some(true);
        expected[8] = Some(false);
        expected[11] = Some(true);
        assert_eq!(verdicts, expected);
    }
}
