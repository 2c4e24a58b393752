//! Everything at once, at a rate that every server keeps up with, without and with somebody who lists all pods each second.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use http::Method;
use tokio::task::JoinSet;

use crate::{
    Size,
    measure::{Outcome, Report, pace},
    objects,
    target::{APPLY, Content, JSON, MERGE, Target, content},
    watchers::Seen,
};

/// How long it goes on without, and with, the full lists.
const WITHOUT_LISTS: Duration = Duration::from_secs(5);
const WITH_LISTS: Duration = Duration::from_secs(10);
/// Watches of all pods.
const WATCHES: usize = 50;
/// Tasks of each kind of request: enough that a stall of a second is no stall of the load.
const WORKERS: usize = 32;

/// A kind of request and how many of it there are a second.
struct Kind {
    name: &'static str,
    rate: usize,
    request: fn(&Size, usize) -> (Method, String, Option<Content>),
}

const KINDS: [Kind; 6] = [
    Kind { name: "get", rate: 400, request: get },
    Kind { name: "list a namespace", rate: 50, request: list },
    Kind { name: "create", rate: 100, request: create },
    Kind { name: "update", rate: 100, request: update },
    Kind { name: "server-side apply", rate: 50, request: apply },
    Kind { name: "patch a pod's status", rate: 100, request: status },
];

fn get(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    (Method::GET, objects::pod_path(number * 7919 % size.pods, size.namespaces), None)
}

fn list(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    let namespace = objects::namespace(number * 7919 % size.namespaces);
    (Method::GET, format!("/api/v1/namespaces/{namespace}/pods"), None)
}

fn create(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    let object = objects::config_map(&format!("mixed-{}", jiff::Timestamp::now().as_nanosecond()), "0");
    (Method::POST, objects::config_maps(number % size.namespaces), Some(content(JSON, &object)))
}

fn update(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    let object = objects::config_map("mixed", &number.to_string());
    let path = format!("{}/mixed", objects::config_maps(number * 31 % size.namespaces));
    (Method::PUT, path, Some(content(JSON, &object)))
}

fn apply(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    let object = objects::config_map("mixed", &number.to_string());
    let path = format!("{}/mixed", objects::config_maps(number * 17 % size.namespaces));
    (Method::PATCH, format!("{path}?fieldManager=scale&force=true"), Some(content(APPLY, &object)))
}

fn status(size: &Size, number: usize) -> (Method, String, Option<Content>) {
    let path = format!("{}/status", objects::pod_path(number * 7919 % size.pods, size.namespaces));
    (Method::PATCH, path, Some(content(MERGE, &objects::pod_status(number))))
}

pub(crate) async fn run(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    for namespace in 0..size.namespaces {
        let path = format!("{}/mixed?fieldManager=scale&force=true", objects::config_maps(namespace));
        let body = content(APPLY, &objects::config_map("mixed", "0"));
        target.send(Method::PATCH, &path, Some(body)).await?;
    }
    report.title("mixed load, 50 watches of all pods");
    load(target, size, report, WITHOUT_LISTS, 0).await?;
    report.title("the same, and a list of all pods every second");
    load(target, size, report, WITH_LISTS, 1).await
}

/// One kind's load over connections of its own.
async fn of_kind(target: Arc<Target>, size: Size, kind: Kind, time: Duration) -> (&'static str, Outcome, usize) {
    let (name, rate) = (kind.name, kind.rate);
    let request = kind.request;
    let outcome = pace(rate, WORKERS, time, move |number| {
        let (target, (method, path, content)) = (target.clone(), request(&size, number));
        async move { target.send(method, &path, content).await.map(drop) }
    })
    .await;
    (name, outcome, rate)
}

async fn load(target: &Arc<Target>, size: &Size, report: &Report, time: Duration, lists: usize) -> Result<()> {
    let watching = target.apart(2).await?;
    let newest = target.read("/api/v1/pods?limit=1").await?;
    let version = newest["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut watches = JoinSet::new();
    for _ in 0..WATCHES {
        let watch = watching.watch(&format!("/api/v1/pods?watch=true&resourceVersion={version}")).await?;
        watches.spawn(Seen::new().follow(watch));
    }
    let cpu = report.cpu_seconds();
    let mut loads = JoinSet::new();
    for kind in KINDS {
        loads.spawn(of_kind(target.apart(2).await?, size.clone(), kind, time));
    }
    if lists > 0 {
        let kind =
            Kind { name: "list all pods", rate: lists, request: |_, _| (Method::GET, "/api/v1/pods".to_owned(), None) };
        loads.spawn(of_kind(target.apart(1).await?, size.clone(), kind, time));
    }
    let mut ended = loads.join_all().await;
    ended.sort_by_key(|(name, ..)| *name);
    for (name, outcome, rate) in ended {
        report.load(name, &outcome, &format!("{rate} a second wanted"));
    }
    let busy = (report.cpu_seconds() - cpu) / time.as_secs_f64();
    report.title(&format!("{busy:.2} cores busy"));
    Ok(())
}
