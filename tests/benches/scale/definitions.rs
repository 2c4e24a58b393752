//! Many CustomResourceDefinitions: how soon each is established and found, and what they cost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::{
    Size,
    measure::{Report, drive},
    objects::{self, Kind},
    target::{JSON, Target, content},
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Who installs at once: as many as a client that applies a folder has requests under way.
const INSTALLERS: usize = 8;
/// How often is looked whether something has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long the server is left alone before its memory is read.
const REST: Duration = Duration::from_secs(2);

pub(crate) async fn run(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let bytes = objects::definition(0).to_string().len();
    report.title(&format!("{} CustomResourceDefinitions of {} KiB", size.definitions, bytes / 1024));
    // what the documents cost without them is none of theirs
    documents(target, &objects::kind(0), false, report, size.patience).await?;
    tokio::time::sleep(REST).await;
    let before = report.resident_mib();
    report.memory("memory before");
    let start = Instant::now();
    let (installer, patience) = (target.clone(), size.patience);
    let installed = drive(size.definitions, INSTALLERS, 2 * size.patience, move |number| {
        let target = installer.clone();
        async move { install(&target, number, patience).await }
    })
    .await;
    report.load("install until established", &installed, "8 at once");
    let found = found_in_discovery(target, 0..installed.latencies.len(), patience).await?;
    report.took("all in discovery since the start", start.elapsed(), &format!("last looked up in {found:.1?}"));
    tokio::time::sleep(REST).await;
    report.memory("memory with them");
    let each = (report.resident_mib() - before) * 1024.0 / installed.latencies.len().max(1) as f64;
    report.title(&format!("each costs {each:.0} KiB; one more beside them"));
    one_more(target, size, report).await
}

/// Creates an object of each kind: what is not needed before the first use has to come about by then.
pub(crate) async fn use_all(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    report.title("every definition in use");
    let user = target.clone();
    let used = drive(size.definitions, INSTALLERS, size.patience, move |number| {
        let target = user.clone();
        let kind = objects::kind(number);
        async move { target.ensure(&objects_path(&kind), &kind.object("first")).await }
    })
    .await;
    report.load("create the first of each kind", &used, "8 at once");
    tokio::time::sleep(REST).await;
    report.memory("memory with all in use");
    Ok(())
}

fn objects_path(kind: &Kind) -> String {
    format!("/apis/{}/v1/namespaces/default/{}", kind.group, kind.plural)
}

fn established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Established" && one["status"] == "True")
}

/// Creates a definition and waits until it is established.
async fn install(target: &Target, number: usize, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let body = content(JSON, &objects::definition(number));
    let mut definition: Value = serde_json::from_slice(&target.send(Method::POST, DEFINITIONS, Some(body)).await?)?;
    while !established(&definition) {
        if start.elapsed() > patience {
            bail!("{} is not established", objects::kind(number).name());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        definition = target.read(&format!("{DEFINITIONS}/{}", objects::kind(number).name())).await?;
    }
    Ok(())
}

/// Waits until discovery shows the resources of these numbers; how long the last look took.
async fn found_in_discovery(target: &Target, numbers: std::ops::Range<usize>, patience: Duration) -> Result<Duration> {
    let start = Instant::now();
    let mut missing: Vec<Kind> = numbers.map(objects::kind).collect();
    loop {
        let asked = Instant::now();
        let (_, answer) = target.exchange(Method::GET, "/apis", AGGREGATED, None).await?;
        if holds(&answer, "APIGroupDiscoveryList") {
            missing.retain(|kind| !holds(&answer, &format!("\"{}\"", kind.plural)));
        } else {
            // a server from before aggregated discovery
            let mut still = Vec::new();
            for kind in missing {
                let path = format!("/apis/{}/v1", kind.group);
                let (_, answer) = target.exchange(Method::GET, &path, JSON, None).await?;
                if !holds(&answer, &format!("\"{}\"", kind.plural)) {
                    still.push(kind);
                }
            }
            missing = still;
        }
        let Some(one) = missing.first() else { return Ok(asked.elapsed()) };
        if start.elapsed() > patience {
            bail!("discovery does not show {} and {} more", one.name(), missing.len() - 1);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    memchr::memmem::find(body, text.as_bytes()).is_some()
}

/// From the request that makes a definition until all that clients look at has it.
async fn one_more(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let (number, kind) = (size.definitions, objects::kind(size.definitions));
    let start = Instant::now();
    install(target, number, size.patience).await?;
    report.took("one more: established", start.elapsed(), "");
    found_in_discovery(target, number..number + 1, size.patience).await?;
    report.took("one more: in discovery", start.elapsed(), "");
    documents(target, &kind, true, report, size.patience).await
}

/// Reads the OpenAPI documents, until they know a kind where it is `expected` there.
async fn documents(target: &Target, kind: &Kind, expected: bool, report: &Report, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let (status, index) = target.exchange(Method::GET, "/openapi/v3", JSON, None).await?;
    if status == StatusCode::OK {
        report.took("OpenAPI v3: index", start.elapsed(), &size_of(&index));
        if expected {
            document_v3(target, kind, report, patience).await?;
        }
    } else {
        report.took("OpenAPI v3: index", start.elapsed(), "not served");
    }
    for (name, accept) in [("OpenAPI v2: JSON", JSON), ("OpenAPI v2: protobuf", V2_PROTOBUF)] {
        let start = Instant::now();
        loop {
            let asked = Instant::now();
            let (_, document) = target.exchange(Method::GET, "/openapi/v2", accept, None).await?;
            if !expected || holds(&document, &kind.kind) {
                report.took(name, asked.elapsed(), &size_of(&document));
                break;
            }
            if start.elapsed() > patience / 4 {
                report.took(name, asked.elapsed(), "does not know it yet");
                break;
            }
            tokio::time::sleep(10 * LOOK_AGAIN).await;
        }
        if expected {
            report.took(&format!("{name}, knows it after"), start.elapsed(), "");
        }
    }
    Ok(())
}

/// Reads the OpenAPI v3 document of a kind's group until it knows the kind.
async fn document_v3(target: &Target, kind: &Kind, report: &Report, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let path = format!("apis/{}/v1", kind.group);
    while start.elapsed() < patience {
        let index = target.read("/openapi/v3").await?;
        if let Some(url) = index["paths"][&path]["serverRelativeURL"].as_str() {
            let asked = Instant::now();
            let document = target.get(url).await?;
            if holds(&document, &kind.kind) {
                report.took("OpenAPI v3: document of its group", asked.elapsed(), &size_of(&document));
                report.took("OpenAPI v3: knows it after", start.elapsed(), "");
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    bail!("/openapi/v3 does not know {}", kind.kind)
}

fn size_of(document: &[u8]) -> String {
    format!("{} KiB", document.len() / 1024)
}

/// Deletes the definitions, and with them their objects.
pub(crate) async fn delete(target: &Arc<Target>, size: &Size, report: &Report) -> Result<()> {
    let deleting = target.clone();
    let deleted = drive(size.definitions + 1, INSTALLERS, size.patience, move |number| {
        let target = deleting.clone();
        let path = format!("{DEFINITIONS}/{}", objects::kind(number).name());
        async move { target.exchange(Method::DELETE, &path, JSON, None).await.map(drop) }
    })
    .await;
    report.load("delete definitions and their objects", &deleted, "8 at once");
    Ok(())
}
