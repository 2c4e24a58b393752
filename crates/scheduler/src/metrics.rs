//! What the scheduler tells monitoring, under upstream's names.
//!
//! The loop alone counts, a few times per pod, so that one lock that nobody else wants is all it takes. What the queue and
//! the snapshot hold now is told once per turn.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::plugins::{PLUGINS, PluginSet};
use histogram::{Histogram, doubling};

mod histogram;
#[cfg(test)]
mod tests;

/// Upper bounds of attempts and of the search for a node, in seconds.
const ATTEMPT: [f64; 15] = doubling(0.001);
/// Upper bounds of the time from the queue to the node, in seconds.
const SLI: [f64; 20] = doubling(0.01);
/// Upper bounds of the time plug-ins take, in seconds.
const STEP: [f64; 12] = doubling(0.0001);
/// Upper bounds of how often a pod was tried.
const TRIES: [f64; 5] = doubling(1.0);
/// Upper bounds of how many pods had to leave.
const VICTIMS: [f64; 7] = doubling(1.0);
/// From so many attempts on pods are counted together, to keep the number of series small.
const ATTEMPTS_MAX: u32 = 15;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The pod is bound.
    Scheduled,
    /// No node takes it.
    Unschedulable,
    /// It could not be bound.
    Error,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Scheduled, Self::Unschedulable, Self::Error];

    fn label(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// A part of an attempt: upstream's extension point, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Nodes that take the pod were searched.
    Filter,
    /// They were compared.
    Score,
    /// Room was found that can be made, or not.
    PostFilter { found: bool },
    /// The pod's volumes were bound, or not.
    PreBind { done: bool },
    /// The pod was bound, or not.
    Bind { done: bool },
}

impl Step {
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Filter => ("Filter", "Success"),
            Self::Score => ("Score", "Success"),
            Self::PostFilter { found: true } => ("PostFilter", "Success"),
            Self::PostFilter { found: false } => ("PostFilter", "Unschedulable"),
            Self::PreBind { done: true } => ("PreBind", "Success"),
            Self::PreBind { done: false } => ("PreBind", "Error"),
            Self::Bind { done: true } => ("Bind", "Success"),
            Self::Bind { done: false } => ("Bind", "Error"),
        }
    }
}

/// Measures the parts of one attempt.
pub(crate) struct Stopwatch {
    began: Instant,
    last: Instant,
    steps: Vec<(Step, Duration)>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, steps: Vec::with_capacity(2) }
    }

    /// When it was started.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// A part has ended, and the next one begins.
    pub(crate) fn ended(&mut self, step: Step) {
        let now = Instant::now();
        self.steps.push((step, now.duration_since(self.last)));
        self.last = now;
    }
}

/// What the queue has taken in, by where it was put and what had happened.
pub(crate) type Incoming = BTreeMap<(&'static str, &'static str), u64>;

/// What waits, and what is known, now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) active: usize,
    pub(crate) backoff: usize,
    pub(crate) unschedulable: usize,
    pub(crate) gated: usize,
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
    pub(crate) assumed: usize,
}

/// Pods that wait, by `schedulerName` and by the place of the plug-in that refused them.
pub(crate) type Refused = BTreeMap<String, [u32; PLUGINS.len()]>;

/// Adds a pod that these plug-ins refused to the count, or takes it off.
pub(crate) fn count_refusal(refused: &mut Refused, scheduler: &str, plugins: PluginSet, change: i32) {
    if plugins == 0 {
        return;
    }
    if !refused.contains_key(scheduler) {
        refused.insert(scheduler.to_owned(), [0; PLUGINS.len()]);
    }
    for (place, count) in refused.get_mut(scheduler).into_iter().flatten().enumerate() {
        if plugins & (1 << place) != 0 {
            *count = count.saturating_add_signed(change);
        }
    }
}

#[derive(Debug, Default)]
struct ProfileValues {
    attempts: [Histogram<15>; 3],
    steps: BTreeMap<Step, Histogram<12>>,
}

#[derive(Debug, Default)]
struct Values {
    profiles: BTreeMap<String, ProfileValues>,
    algorithm: Histogram<15>,
    tries: Histogram<5>,
    /// By the number of attempts, the last place for all beyond.
    sli: BTreeMap<u32, Histogram<20>>,
    preemptions: u64,
    victims: Histogram<7>,
    incoming: Incoming,
    gauges: Gauges,
    refused: Refused,
}

/// What the scheduler has done since the process began, and what waits now. It outlives the scheduler, which begins anew when
/// it leads again.
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<Values>,
}

impl Metrics {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decision was made, which took these parts.
    pub(crate) fn decided(&self, profile: &str, watch: &Stopwatch) {
        let mut values = self.values.lock();
        values.algorithm.note(&ATTEMPT, watch.last.duration_since(watch.began).as_secs_f64());
        values.preemptions +=
            watch.steps.iter().filter(|(step, _)| matches!(step, Step::PostFilter { .. })).count() as u64;
        let steps = &mut values.profiles.entry(profile.to_owned()).or_default().steps;
        for (step, took) in &watch.steps {
            steps.entry(*step).or_default().note(&STEP, took.as_secs_f64());
        }
    }

    /// A part of an attempt beside the decision.
    pub(crate) fn step(&self, profile: &str, step: Step, took: Duration) {
        let mut values = self.values.lock();
        let steps = &mut values.profiles.entry(profile.to_owned()).or_default().steps;
        steps.entry(step).or_default().note(&STEP, took.as_secs_f64());
    }

    /// An attempt is over.
    pub(crate) fn attempted(&self, profile: &str, outcome: Outcome, took: Duration) {
        let mut values = self.values.lock();
        let attempts = &mut values.profiles.entry(profile.to_owned()).or_default().attempts;
        attempts[outcome as usize].note(&ATTEMPT, took.as_secs_f64());
    }

    /// A pod was bound, so long after it came and with so many attempts.
    pub(crate) fn bound(&self, attempts: u32, took: Duration) {
        let mut values = self.values.lock();
        values.tries.note(&TRIES, f64::from(attempts));
        values.sli.entry(attempts.min(ATTEMPTS_MAX)).or_default().note(&SLI, took.as_secs_f64());
    }

    /// Room is made by sending away so many pods.
    pub(crate) fn preempts(&self, victims: usize) {
        self.values.lock().victims.note(&VICTIMS, victims as f64);
    }

    /// What waits now, and what has come since this was told the last time.
    pub(crate) fn tell(&self, gauges: Gauges, incoming: Incoming, refused: &Refused) {
        let mut values = self.values.lock();
        values.gauges = gauges;
        for (series, more) in incoming {
            *values.incoming.entry(series).or_default() += more;
        }
        if values.refused != *refused {
            values.refused.clone_from(refused);
        }
    }

    /// Appends everything in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let values = self.values.lock();
        values.render_attempts(out);
        values.render_preemption(out);
        values.render_queue(out);
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

impl Values {
    fn render_attempts(&self, out: &mut String) {
        let name = "scheduler_schedule_attempts_total";
        let help = "Attempts to schedule pods, by their result: unschedulable is a pod that no node takes, error a failure of the \
                    scheduler.";
        head(out, name, "counter", help);
        let attempts = |each: &mut dyn FnMut(&str, &str, &Histogram<15>)| {
            for (profile, values) in &self.profiles {
                for (outcome, attempts) in Outcome::ALL.into_iter().zip(&values.attempts) {
                    if attempts.count() > 0 {
                        each(profile, outcome.label(), attempts);
                    }
                }
            }
        };
        attempts(&mut |profile, result, times| {
            let _ = writeln!(out, "{name}{{profile=\"{profile}\",result=\"{result}\"}} {}", times.count());
        });
        let name = "scheduler_scheduling_attempt_duration_seconds";
        head(out, name, "histogram", "How long attempts took, decision and binding together.");
        attempts(&mut |profile, result, times| {
            times.render(name, &ATTEMPT, &format!("profile=\"{profile}\",result=\"{result}\","), out);
        });
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        head(out, name, "histogram", "How long decisions took.");
        self.algorithm.render(name, &ATTEMPT, "", out);
        let name = "scheduler_framework_extension_point_duration_seconds";
        head(out, name, "histogram", "How long all plug-ins of an extension point took together.");
        for (profile, values) in &self.profiles {
            for (step, times) in &values.steps {
                let (point, status) = step.labels();
                let labels = format!("extension_point=\"{point}\",profile=\"{profile}\",status=\"{status}\",");
                times.render(name, &STEP, &labels, out);
            }
        }
        let name = "scheduler_pod_scheduling_attempts";
        head(out, name, "histogram", "How many attempts it took until a pod was bound.");
        self.tries.render(name, &TRIES, "", out);
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        let help = "How long pods took from the queue to their node, with all attempts.";
        head(out, name, "histogram", help);
        for (attempts, times) in &self.sli {
            let more = if *attempts == ATTEMPTS_MAX { "+" } else { "" };
            times.render(name, &SLI, &format!("attempts=\"{attempts}{more}\","), out);
        }
    }

    fn render_preemption(&self, out: &mut String) {
        let name = "scheduler_preemption_attempts_total";
        head(out, name, "counter", "Attempts to make room by driving pods out.");
        let _ = writeln!(out, "{name} {}", self.preemptions);
        let name = "scheduler_preemption_victims";
        head(out, name, "histogram", "How many pods are driven out for one.");
        self.victims.render(name, &VICTIMS, "", out);
    }

    fn render_queue(&self, out: &mut String) {
        let gauges = &self.gauges;
        let mut gauge = |name: &str, help: &str, label: &str, values: &[(&str, usize)]| {
            head(out, name, "gauge", help);
            for (of, value) in values {
                let _ = writeln!(out, "{name}{{{label}=\"{of}\"}} {value}");
            }
        };
        let pending = [
            ("active", gauges.active),
            ("backoff", gauges.backoff),
            ("gated", gauges.gated),
            ("unschedulable", gauges.unschedulable),
        ];
        gauge("scheduler_pending_pods", "Pods that wait for a node, by where they wait.", "queue", &pending);
        let cached = [("assumed_pods", gauges.assumed), ("nodes", gauges.nodes), ("pods", gauges.pods)];
        gauge("scheduler_cache_size", "Nodes, pods, and pods on their way to a node that are known.", "type", &cached);
        let name = "scheduler_queue_incoming_pods_total";
        head(out, name, "counter", "Pods that were put into the queue, by where and why.");
        for ((queue, event), count) in &self.incoming {
            let _ = writeln!(out, "{name}{{event=\"{event}\",queue=\"{queue}\"}} {count}");
        }
        let name = "scheduler_unschedulable_pods";
        head(out, name, "gauge", "Pods that wait because this plug-in refused them; some were refused by several.");
        for (profile, plugins) in &self.refused {
            for (plugin, count) in PLUGINS.iter().zip(plugins).filter(|(_, count)| **count > 0) {
                let _ = writeln!(out, "{name}{{plugin=\"{}\",profile=\"{profile}\"}} {count}", plugin.name);
            }
        }
    }
}
