//! Loads, how long their operations took, and the table they end up in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinSet;

/// Clock ticks of `/proc/PID/stat` a second: fixed in Linux's interface to user space.
const TICKS_A_SECOND: f64 = 100.0;

/// How long operations took, in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The quantiles, in milliseconds.
    fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [f64; N] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        quantiles.map(|quantile| {
            let at = ((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1));
            sorted.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
        })
    }
}

/// What a load came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    pub(crate) took: Duration,
    /// Why it ended early.
    pub(crate) failure: Option<String>,
}

/// Runs `op(0)` to `op(count - 1)` on `workers` tasks, until the first failure or the end of the patience.
pub(crate) async fn drive<F, Fut>(count: usize, workers: usize, patience: Duration, op: F) -> Outcome
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (next, op) = (next.clone(), op.clone());
        tasks.spawn(async move {
            let mut latencies = Latencies::default();
            while start.elapsed() < patience {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let sent = Instant::now();
                if let Err(error) = op(number).await {
                    return (latencies, Some(format!("{error:#}")));
                }
                latencies.add(sent.elapsed());
            }
            (latencies, None)
        });
    }
    together(tasks, start).await
}

/// What the tasks of a measurement that began at `start` came to.
async fn together(mut tasks: JoinSet<(Latencies, Option<String>)>, start: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(ended) = tasks.join_next().await {
        let (latencies, failure) = ended.unwrap_or_else(|error| (Latencies::default(), Some(error.to_string())));
        outcome.latencies.extend(latencies);
        outcome.failure = outcome.failure.or(failure);
    }
    outcome.took = start.elapsed();
    outcome
}

/// Runs `op` at a rate for a time, on `workers` tasks. An operation counts from when it was due, not from when a worker
/// came to it: a server that stalls delays all that wait.
pub(crate) async fn pace<F, Fut>(rate: usize, workers: usize, time: Duration, op: F) -> Outcome
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let start = Instant::now();
    let count = (rate as f64 * time.as_secs_f64()) as usize;
    let due = move |number: usize| start + Duration::from_secs_f64(number as f64 / rate as f64);
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let op = op.clone();
        tasks.spawn(async move {
            let (mut latencies, mut failure) = (Latencies::default(), None);
            for number in (worker..count).step_by(workers) {
                if start.elapsed() > 2 * time {
                    return (latencies, Some("the server does not keep up with the rate".to_owned()));
                }
                tokio::time::sleep_until(due(number).into()).await;
                match op(number).await {
                    Ok(()) => latencies.add(due(number).elapsed()),
                    Err(error) => failure = Some(format!("{error:#}")),
                }
            }
            (latencies, failure)
        });
    }
    together(tasks, start).await
}

/// The table, and the processes it is about.
pub(crate) struct Report {
    pids: Vec<u32>,
}

impl Report {
    pub(crate) fn new(pids: Vec<u32>) -> Self {
        Self { pids }
    }

    pub(crate) fn title(&self, text: &str) {
        println!("== {text}");
    }

    /// A line about a load.
    pub(crate) fn load(&self, name: &str, outcome: &Outcome, detail: &str) {
        let count = outcome.latencies.len();
        self.events(name, count, outcome.took, &outcome.latencies, detail);
        if let Some(failure) = &outcome.failure {
            println!("   {name}: failed after {count}: {failure}");
        }
    }

    /// A line about so many things in a time.
    pub(crate) fn events(&self, name: &str, count: usize, took: Duration, latencies: &Latencies, detail: &str) {
        let [half, most] = latencies.quantiles([0.5, 0.99]);
        println!(
            "{name:<36} {:>9.0} /s   p50 {half:>9.2} ms   p99 {most:>9.2} ms   rss {:>7.1} MiB   {detail}",
            count as f64 / took.as_secs_f64().max(1e-9),
            self.resident_mib(),
        );
    }

    /// A line about a moment.
    pub(crate) fn took(&self, name: &str, took: Duration, detail: &str) {
        println!("{name:<36} {:>9.1} ms   {detail}", took.as_secs_f64() * 1e3);
    }

    /// A line about memory and the CPU time spent so far.
    pub(crate) fn memory(&self, name: &str) {
        println!("{name:<36} {:>9.1} MiB   cpu {:.2} s so far", self.resident_mib(), self.cpu_seconds());
    }

    /// Resident memory of the server's processes.
    pub(crate) fn resident_mib(&self) -> f64 {
        let kib = |pid: &u32| -> Option<f64> {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find(|line| line.starts_with("VmRSS"))?.split_whitespace().nth(1)?.parse().ok()
        };
        self.pids.iter().filter_map(kib).sum::<f64>() / 1024.0
    }

    /// CPU time of the server's processes.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks = |pid: &u32| -> Option<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // the name before may hold spaces
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
            Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
        };
        self.pids.iter().filter_map(ticks).sum::<f64>() / TICKS_A_SECOND
    }
}
