//! The API's verbs, one after the other, beside everything that exists.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value;

use crate::{
    Size,
    measure::{Latencies, Outcome, Report, drive},
    objects,
    population::WRITERS,
    target::{APPLY, JSON, MERGE, Target, content},
};

/// Writes of the row with one writer.
const ALONE: usize = 500;
/// Reads per write of a row: reads are that much cheaper.
const READS_PER_WRITE: usize = 4;
/// Lists of everything, and who asks for them.
const FULL_LISTS: usize = 10;
const FULL_LISTERS: usize = 2;
/// Lists of a part of everything by selector.
const SELECTED_LISTS: usize = 40;

/// A load over one server.
struct Row<'a> {
    target: &'a Arc<Target>,
    report: &'a Report,
    patience: Duration,
}

impl Row<'_> {
    /// Requests made from their number, and what their answers weigh together.
    async fn of<F>(&self, name: &str, count: usize, workers: usize, request: F)
    where
        F: Fn(usize) -> (Method, String, Option<(&'static str, Vec<u8>)>) + Clone + Send + 'static,
    {
        let (target, bytes) = (self.target.clone(), Arc::new(AtomicUsize::new(0)));
        let weighed = bytes.clone();
        let outcome = drive(count, workers, self.patience, move |number| {
            let (method, path, content) = request(number);
            let (target, bytes) = (target.clone(), bytes.clone());
            async move {
                let answer = target.send(method, &path, content).await?;
                bytes.fetch_add(answer.len(), Ordering::Relaxed);
                Ok(())
            }
        })
        .await;
        let mib = weighed.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
        let detail = format!("{workers} at once, {:.0} MiB/s", mib / outcome.took.as_secs_f64());
        self.report.load(name, &outcome, &detail);
    }
}

pub(crate) async fn run(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    report.title("verbs, over all namespaces");
    let row = Row { target, report, patience: size.patience };
    let (namespaces, pods) = (size.namespaces, size.pods);
    let map = |number: usize| format!("row-{number:06}");
    let map_path = move |number: usize| format!("{}/{}", objects::config_maps(number % namespaces), map(number));
    let create = move |prefix: &'static str| {
        move |number: usize| {
            let object = objects::config_map(&format!("{prefix}-{number:06}"), "0");
            (Method::POST, objects::config_maps(number % namespaces), Some(content(JSON, &object)))
        }
    };
    row.of("create", ALONE, 1, create("alone")).await;
    row.of("create", size.writes, WRITERS, create("row")).await;
    let get = move |number: usize| (Method::GET, objects::pod_path(number * 7919 % pods, namespaces), None);
    row.of("get a pod", size.writes * READS_PER_WRITE, WRITERS, get).await;
    let update = move |number: usize| {
        let object = objects::config_map(&map(number), "1");
        (Method::PUT, map_path(number), Some(content(JSON, &object)))
    };
    row.of("update", size.writes, WRITERS, update).await;
    let apply = move |number: usize| {
        let object = objects::config_map(&map(number), "2");
        let path = format!("{}?fieldManager=scale&force=true", map_path(number));
        (Method::PATCH, path, Some(content(APPLY, &object)))
    };
    row.of("server-side apply", size.writes, WRITERS, apply).await;
    let status = move |number: usize| {
        let path = format!("{}/status", objects::pod_path(number % pods, namespaces));
        (Method::PATCH, path, Some(content(MERGE, &objects::pod_status(number / pods))))
    };
    row.of("patch a pod's status", size.writes, WRITERS, status).await;
    let list = move |number: usize| {
        (Method::GET, format!("/api/v1/namespaces/{}/pods", objects::namespace(number * 7919 % namespaces)), None)
    };
    row.of("list the pods of a namespace", size.writes, WRITERS, list).await;
    lists(&row, size).await?;
    let delete = move |number: usize| {
        let path = format!("{}?gracePeriodSeconds=0", objects::config_maps(number));
        (Method::DELETE, path, None)
    };
    row.of("delete the ConfigMaps of a namespace", namespaces, WRITERS, delete).await;
    Ok(())
}

/// Lists that are about all pods.
async fn lists(row: &Row<'_>, size: &Size) -> Result<()> {
    let all = |query: &'static str| move |_: usize| (Method::GET, format!("/api/v1/pods{query}"), None);
    row.of("list all pods", FULL_LISTS, FULL_LISTERS, all("")).await;
    row.of("list all pods, any version", FULL_LISTS, FULL_LISTERS, all("?resourceVersion=0")).await;
    let of_node = |version: &'static str| {
        move |number: usize| {
            let node = objects::node(number);
            (Method::GET, format!("/api/v1/pods?{version}fieldSelector=spec.nodeName%3D{node}"), None)
        }
    };
    row.of("list the pods of a node", SELECTED_LISTS, FULL_LISTERS, of_node("")).await;
    row.of("list the pods of a node, any version", SELECTED_LISTS, FULL_LISTERS, of_node("resourceVersion=0&")).await;
    let labelled =
        |number: usize| (Method::GET, format!("/api/v1/pods?labelSelector=app%3Dapp-{:02}", number % 100), None);
    row.of("list the pods with a label", SELECTED_LISTS, FULL_LISTERS, labelled).await;
    pages(row, size.pods).await
}

/// One walk over all pods in pages, while nothing changes.
async fn pages(row: &Row<'_>, pods: usize) -> Result<()> {
    let (mut latencies, mut seen, mut token) = (Latencies::default(), 0, String::new());
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        let path = format!("/api/v1/pods?limit=500&continue={token}");
        let page = row.target.get(&path).await?;
        latencies.add(asked.elapsed());
        let page: Value = serde_json::from_slice(&page)?;
        seen += page["items"].as_array().map_or(0, Vec::len);
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => token = next.replace('=', "%3D").replace('+', "%2B"),
            _ => break,
        }
        if start.elapsed() > row.patience {
            bail!("paging takes longer than the patience");
        }
    }
    if seen < pods {
        bail!("the pages held {seen} of {pods} pods");
    }
    let outcome = Outcome { latencies, took: start.elapsed(), failure: None };
    row.report.load("list all pods in pages of 500", &outcome, "one after the other");
    Ok(())
}
