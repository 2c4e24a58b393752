//! Many watches at once: all of one namespace, one of each namespace, and one of each node.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::{
    Size,
    measure::{Latencies, Outcome, Report, drive, pace},
    objects::{self, NODES},
    population::WRITERS,
    target::{JSON, MERGE, Target, content},
};

/// Connections that the watches share.
const CONNECTIONS: usize = 16;
/// Updates a second that the watches of one namespace are told of at a rate that every server keeps up with, and how long.
const CALM_RATE: usize = 5;
const CALM: Duration = Duration::from_secs(3);
/// Updates as fast as they go, each told to every watch of one namespace, and by how many writers.
const BURST: usize = 100;
const BURST_WRITERS: usize = 4;
/// Before the time of the write in what is written.
const MARK: &str = "sent-";

/// What the watches have been told.
pub(crate) struct Seen {
    epoch: Instant,
    count: AtomicUsize,
    latencies: Mutex<Latencies>,
    ended: AtomicUsize,
}

impl Seen {
    pub(crate) fn new() -> Arc<Self> {
        let (count, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { epoch: Instant::now(), count, latencies: Mutex::default(), ended })
    }

    /// What a write carries so that its arrival can be timed.
    pub(crate) fn stamp(&self) -> String {
        format!("{MARK}{:012}", self.epoch.elapsed().as_micros())
    }

    /// Reads a watch to its end.
    pub(crate) async fn follow(self: Arc<Self>, mut events: Incoming) {
        let mut line = Vec::new();
        while let Some(Ok(frame)) = events.frame().await {
            let Some(chunk) = frame.data_ref() else { continue };
            let now = self.epoch.elapsed();
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    self.note(&line, now);
                    line.clear();
                }
            }
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, line: &[u8], now: Duration) {
        let Some(at) = memchr::memmem::find(line, MARK.as_bytes()) else { return };
        let digits = &line[at + MARK.len()..(at + MARK.len() + 12).min(line.len())];
        let Some(sent) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) else { return };
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(now.saturating_sub(Duration::from_micros(sent)));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many events have come since the last time, and takes them.
    pub(crate) async fn take(&self, expected: usize, start: Instant, patience: Duration) -> Outcome {
        while self.count.load(Ordering::Relaxed) < expected && start.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = start.elapsed();
        let seen = self.count.swap(0, Ordering::Relaxed);
        let latencies = std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = self.ended.load(Ordering::Relaxed);
        let short = seen < expected || ended > 0;
        let failure = short.then(|| format!("{seen} of {expected} events came, {ended} watches were ended"));
        Outcome { latencies, took, failure }
    }
}

/// Watches that run until they are dropped.
struct Watches {
    seen: Arc<Seen>,
    _running: JoinSet<()>,
    _connections: Arc<Target>,
}

/// Opens a watch of each path, from now on.
async fn open(target: &Target, name: &str, paths: Vec<String>, report: &Report) -> Result<Watches> {
    let connections = target.apart(CONNECTIONS).await?;
    let first = target.read("/api/v1/configmaps?limit=1").await?;
    let version = first["metadata"]["resourceVersion"].as_str().context("a list has no resourceVersion")?.to_owned();
    let (before, start, seen, count) = (report.resident_mib(), Instant::now(), Seen::new(), paths.len());
    let mut running = JoinSet::new();
    for path in paths {
        let joint = if path.contains('?') { '&' } else { '?' };
        let watch = connections.watch(&format!("{path}{joint}watch=true&resourceVersion={version}")).await?;
        running.spawn(seen.clone().follow(watch));
    }
    let each = (report.resident_mib() - before) * 1024.0 / count as f64;
    report.took(name, start.elapsed(), &format!("{count} opened, {each:.1} KiB each"));
    Ok(Watches { seen, _running: running, _connections: connections })
}

pub(crate) async fn run(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    report.title(&format!("{} watches", size.watchers));
    one_namespace(target, size, report).await?;
    each_namespace(target, size, report).await?;
    each_node(target, size, report).await
}

/// An update of a ConfigMap that carries when it was sent.
async fn update(target: &Target, namespace: usize, name: &str, seen: &Seen) -> Result<()> {
    let object = objects::config_map(name, &seen.stamp());
    let path = format!("{}/{name}", objects::config_maps(namespace));
    target.send(Method::PUT, &path, Some(content(JSON, &object))).await.map(drop)
}

/// Every watch sees every update.
async fn one_namespace(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let maps = objects::config_maps(0);
    for writer in 0..BURST_WRITERS {
        target.ensure(&maps, &objects::config_map(&format!("watched-{writer}"), "0")).await?;
    }
    let watches = open(target, "watches of one namespace", vec![maps; size.watchers], report).await?;
    let op = |name: &'static str| {
        let (target, seen) = (target.clone(), watches.seen.clone());
        move |number: usize| {
            let (target, seen) = (target.clone(), seen.clone());
            async move { update(&target, 0, &format!("{name}-{}", number % BURST_WRITERS), &seen).await }
        }
    };
    let start = Instant::now();
    let wrote = pace(CALM_RATE, 1, CALM, op("watched")).await;
    let told = watches.seen.take(wrote.latencies.len() * size.watchers, start, size.patience).await;
    report.load("told, calm", &told, &format!("{CALM_RATE} updates a second, each to all"));
    let start = Instant::now();
    let wrote = drive(BURST, BURST_WRITERS, size.patience, op("watched")).await;
    let told = watches.seen.take(wrote.latencies.len() * size.watchers, start, size.patience).await;
    report.load("told, as fast as it goes", &told, &format!("{BURST} updates, each to all"));
    Ok(())
}

/// Every update is seen by the watch of its namespace alone.
async fn each_namespace(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let namespaces = size.namespaces.min(size.watchers);
    let prepared = {
        let target = target.clone();
        drive(namespaces, WRITERS, size.patience, move |number| {
            let target = target.clone();
            async move { target.ensure(&objects::config_maps(number), &objects::config_map("watched-own", "0")).await }
        })
        .await
    };
    if let Some(failure) = prepared.failure {
        anyhow::bail!(failure);
    }
    let paths = (0..namespaces).map(objects::config_maps).collect();
    let watches = open(target, "watches, one a namespace", paths, report).await?;
    let start = Instant::now();
    let (writer, seen) = (target.clone(), watches.seen.clone());
    let wrote = drive(size.writes, WRITERS, size.patience, move |number| {
        let (target, seen) = (writer.clone(), seen.clone());
        async move { update(&target, number % namespaces, "watched-own", &seen).await }
    })
    .await;
    let told = watches.seen.take(wrote.latencies.len(), start, size.patience).await;
    report.load("updates beside them", &wrote, "64 writers, over all namespaces");
    report.load("told", &told, "each to one");
    Ok(())
}

/// Every kubelet sees the pods of its node alone.
async fn each_node(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let of_node = |number: usize| format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", objects::node(number));
    let watches = open(target, "watches, one a node", (0..NODES).map(of_node).collect(), report).await?;
    let start = Instant::now();
    let (writer, seen, size) = (target.clone(), watches.seen.clone(), size.clone());
    let patience = size.patience;
    let wrote = drive(size.writes, WRITERS, patience, move |number| {
        let (target, seen) = (writer.clone(), seen.clone());
        let path = format!("{}/status", objects::pod_path(number % size.pods, size.namespaces));
        async move {
            let status = serde_json::json!({"status": {"message": seen.stamp()}});
            target.send(Method::PATCH, &path, Some(content(MERGE, &status))).await.map(drop)
        }
    })
    .await;
    let told = watches.seen.take(wrote.latencies.len(), start, patience).await;
    report.load("pod status beside them", &wrote, "64 writers, over all pods");
    report.load("told", &told, "each to one");
    Ok(())
}
