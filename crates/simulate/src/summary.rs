//! What came of a simulation, to be printed or read by programs.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{Done, Options, fit::Fit, pods::Counted};

/// Times kept of one kind; of more the newest stay. A million are four megabytes.
const SAMPLES_MAX: usize = 1 << 20;

/// What came of it all.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Simulated nodes.
    pub nodes: usize,
    /// How long it went on.
    pub seconds: f64,
    /// How often nodes failed.
    pub node_failures: u64,
    /// What became of the pods on simulated nodes.
    pub pods: Fared,
    /// The pods that were created here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadSummary>,
    /// What of the manifests fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
}

/// What became of pods on simulated nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fared {
    /// Taken by a node.
    pub begun: u64,
    /// Of those, that came to run.
    pub running: u64,
    /// That ended well.
    pub succeeded: u64,
    /// That ended otherwise.
    pub failed: u64,
    /// That are gone.
    pub deleted: u64,
    /// Writes that told the API so.
    pub writes: u64,
}

/// The pods that were created at a rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadSummary {
    /// Pods a second that were asked for.
    pub pods_per_second: f64,
    /// Pods a second that were created.
    pub pods_per_second_reached: f64,
    /// Created.
    pub created: u64,
    /// Refused by the API.
    pub refused: u64,
    /// One of the refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// That got a node.
    pub scheduled: u64,
    /// That became ready, or ended.
    pub ready: u64,
    /// How long the API took to create one.
    pub creating: Latency,
    /// From when it was sent until it had a node.
    pub scheduling: Latency,
    /// From when it was sent until it was ready.
    pub becoming_ready: Latency,
    /// Why those without a node have none, the most frequent first.
    pub unscheduled: Vec<Reason>,
}

/// Why pods have no node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How many.
    pub pods: u64,
    /// What the scheduler says.
    pub message: String,
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Half of the times are no longer.
    pub p50_ms: f64,
    /// 99 of 100 times are no longer.
    pub p99_ms: f64,
    /// The longest time.
    pub max_ms: f64,
}

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
    count: usize,
}

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.micros.len() < SAMPLES_MAX {
            self.micros.push(micros);
        } else {
            self.micros[self.count % SAMPLES_MAX] = micros;
        }
        self.count += 1;
    }

    pub(crate) fn summary(&self) -> Latency {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        Latency { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

impl Summary {
    pub(crate) fn new(options: &Options, took: Duration, node_failures: u64, counted: Counted, done: Done) -> Self {
        let Counted { adopted, running, succeeded, failed, deleted, writes } = counted;
        let pods = Fared { begun: adopted, running, succeeded, failed, deleted, writes };
        Self {
            nodes: options.nodes.count,
            seconds: took.as_secs_f64(),
            node_failures,
            pods,
            load: done.load,
            fit: done.fit,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, seconds, node_failures, pods, load, fit } = self;
        if let Some(fit) = fit {
            return write!(f, "{fit}");
        }
        writeln!(f, "nodes     {nodes} for {seconds:.0} s, {node_failures} failures")?;
        let Fared { begun, running, succeeded, failed, deleted, writes } = pods;
        write!(f, "pods      {begun} begun, {running} came to run, {succeeded} succeeded, {failed} failed, ")?;
        write!(f, "{deleted} gone, {writes} writes")?;
        let Some(load) = load else { return Ok(()) };
        write!(
            f,
            "\nload      {} created, {:.1}/s of {}/s",
            load.created, load.pods_per_second_reached, load.pods_per_second
        )?;
        write!(f, ", {} refused, {} scheduled, {} ready", load.refused, load.scheduled, load.ready)?;
        for (what, latency) in
            [("created", load.creating), ("scheduled", load.scheduling), ("ready", load.becoming_ready)]
        {
            let Latency { p50_ms, p99_ms, max_ms } = latency;
            write!(f, "\n{what:<9} p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms")?;
        }
        for Reason { pods, message } in &load.unscheduled {
            write!(f, "\nno node   {pods} pods: {message}")?;
        }
        if let Some(refusal) = &load.refusal {
            write!(f, "\nrefused   {refusal}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), Latency { p50_ms: 0.0, p99_ms: 0.0, max_ms: 0.0 });
        for millis in (1..=200).rev() {
            latencies.add(Duration::from_millis(millis));
        }
        assert_eq!(latencies.summary(), Latency { p50_ms: 100.0, p99_ms: 198.0, max_ms: 200.0 });
    }

    #[test]
    fn of_too_many_times_the_newest_stay() {
        let mut latencies = Latencies::default();
        for number in 0..SAMPLES_MAX + 10 {
            latencies.add(Duration::from_millis(if number < 10 { 1000 } else { 1 }));
        }
        assert_eq!(latencies.micros.len(), SAMPLES_MAX);
        assert_eq!(latencies.summary().max_ms, 1.0);
    }
}
