//! The built-in controllers: each drives one kind's objects from what is there to what their spec asks for.
//!
//! Not here: scheduling (crate `scheduler`), and what happens on a node (crate `node`). A controller is a module with a
//! `run` function and one line in [`registry`]; its decisions are pure functions of (desired, observed, now), its loop only
//! reads shared informers and carries decisions out through the API. They work against any cluster's API server.
//!
//! Main types: [`run`] and [`ControllersConfig`]; [`render_metrics`] for monitoring.
//!
//! Invariants:
//! - a controller writes only what is its own: other owners' objects are adopted only when they have no controller;
//! - a write that rests on cached state carries a uid or resource version, so stale caches lead to a retry, not to damage;
//! - every reconcile may be cut off at any await and repeated.

mod batch;
mod bootstrap_tokens;
mod brief;
mod certificates;
mod clusterrole_aggregation;
mod conditions;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volumes;
mod garbage_collector;
mod gather;
mod history;
mod job;
mod legacy_tokens;
mod metrics;
mod namespace;
mod node_lifecycle;
mod owners;
mod pending;
mod percentage;
mod pod_control;
mod pod_gc;
mod pods;
mod replicaset;
mod resource_quota;
mod root_ca;
mod selector;
mod service_addresses;
mod service_cidr;
mod serviceaccount;
mod statefulset;
mod taint_eviction;
mod token_secrets;
mod ttl_after_finished;
mod unwritten;
mod volume_binder;
mod volume_protection;

pub use context::{Clock, ControllersConfig, ControllersError, EvictionRates, Keys};

use std::sync::Arc;

use context::{Clients, Context};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use reconcile::Informers;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Appends what the controllers of this process tell monitoring, in Prometheus' text format.
pub fn render_metrics(out: &mut String) {
    cronjob::render_metrics(out);
    endpointslice::render_metrics(out);
    garbage_collector::render_metrics(out);
    job::render_metrics(out);
    node_lifecycle::render_metrics(out);
    pod_gc::render_metrics(out);
    replicaset::render_metrics(out);
    statefulset::render_metrics(out);
    root_ca::render_metrics(out);
    taint_eviction::render_metrics(out);
    ttl_after_finished::render_metrics(out);
}

type Start = fn(Context, CancellationToken) -> BoxFuture<'static, ()>;

/// Name, service account in `kube-system` and start of every controller; adding one is a module and a line here.
fn registry() -> Vec<(&'static str, &'static str, Start)> {
    vec![
        ("bootstrap-signer", "bootstrap-signer", |context, stop| bootstrap_tokens::sign(context, stop).boxed()),
        ("clusterrole-aggregation", "clusterrole-aggregation-controller", |context, stop| {
            clusterrole_aggregation::run(context, stop).boxed()
        }),
        ("cronjob", "cronjob-controller", |context, stop| cronjob::run(context, stop).boxed()),
        ("csr-approver", "certificate-controller", |context, stop| certificates::approver::run(context, stop).boxed()),
        ("csr-cleaner", "certificate-controller", |context, stop| certificates::cleaner::run(context, stop).boxed()),
        ("csr-signer", "certificate-controller", |context, stop| certificates::signer::run(context, stop).boxed()),
        ("daemonset", "daemon-set-controller", |context, stop| daemonset::run(context, stop).boxed()),
        ("deployment", "deployment-controller", |context, stop| deployment::run(context, stop).boxed()),
        ("disruption", "disruption-controller", |context, stop| disruption::run(context, stop).boxed()),
        ("endpoints", "endpoint-controller", |context, stop| endpoints::run(context, stop).boxed()),
        ("endpointslice", "endpointslice-controller", |context, stop| endpointslice::run(context, stop).boxed()),
        ("endpointslice-mirroring", "endpointslicemirroring-controller", |context, stop| {
            endpointslice_mirroring::run(context, stop).boxed()
        }),
        ("ephemeral-volume", "ephemeral-volume-controller", |context, stop| {
            ephemeral_volumes::run(context, stop).boxed()
        }),
        ("garbage-collector", "generic-garbage-collector", |context, stop| {
            garbage_collector::run(context, stop).boxed()
        }),
        ("job", "job-controller", |context, stop| job::run(context, stop).boxed()),
        ("legacy-service-account-token-cleaner", "legacy-service-account-token-cleaner", |context, stop| {
            legacy_tokens::run(context, stop).boxed()
        }),
        ("namespace", "namespace-controller", |context, stop| namespace::run(context, stop).boxed()),
        ("node-lifecycle", "node-controller", |context, stop| node_lifecycle::run(context, stop).boxed()),
        ("pod-gc", "pod-garbage-collector", |context, stop| pod_gc::run(context, stop).boxed()),
        ("replicaset", "replicaset-controller", |context, stop| replicaset::run(context, stop).boxed()),
        ("replicationcontroller", "replication-controller", |context, stop| {
            replicaset::run_replication_controllers(context, stop).boxed()
        }),
        ("resource-quota", "resourcequota-controller", |context, stop| resource_quota::run(context, stop).boxed()),
        ("root-ca", "root-ca-cert-publisher", |context, stop| root_ca::run(context, stop).boxed()),
        ("service-addresses", "service-cidrs-controller", |context, stop| {
            service_addresses::run(context, stop).boxed()
        }),
        ("service-cidr", "service-cidrs-controller", |context, stop| service_cidr::run(context, stop).boxed()),
        ("serviceaccount", "service-account-controller", |context, stop| serviceaccount::run(context, stop).boxed()),
        ("statefulset", "statefulset-controller", |context, stop| statefulset::run(context, stop).boxed()),
        ("taint-eviction", "node-controller", |context, stop| taint_eviction::run(context, stop).boxed()),
        ("token-cleaner", "token-cleaner", |context, stop| bootstrap_tokens::clean(context, stop).boxed()),
        ("token-secrets", "tokens-controller", |context, stop| token_secrets::run(context, stop).boxed()),
        ("ttl-after-finished", "ttl-after-finished-controller", |context, stop| {
            ttl_after_finished::run(context, stop).boxed()
        }),
        ("persistentvolume-binder", "persistent-volume-binder", |context, stop| {
            volume_binder::run(context, stop).boxed()
        }),
        ("volume-protection", "pvc-protection-controller", |context, stop| {
            volume_protection::run(context, stop).boxed()
        }),
    ]
}

/// Runs all controllers until `stop`; an error names the controller that ended early. Each writes under its own service
/// account in `kube-system`, for which `clients` gives a client.
pub async fn run(
    informers: Informers,
    clients: impl Fn(&str) -> Client + Send + Sync + 'static,
    config: ControllersConfig,
    stop: CancellationToken,
) -> Result<(), ControllersError> {
    let shared = (Arc::new(clients) as Clients, Arc::new(config));
    let mut running = JoinSet::new();
    for (name, account, start) in registry() {
        let context = Context::new(&informers, account, Arc::clone(&shared.0), Arc::clone(&shared.1));
        let task = start(context, stop.clone());
        running.spawn(async move {
            let result = std::panic::AssertUnwindSafe(task).catch_unwind().await;
            (name, result.is_err())
        });
    }
    while let Some(ended) = running.join_next().await {
        let (name, panicked) = ended.map_err(ControllersError::Task)?;
        if panicked || !stop.is_cancelled() {
            return Err(ControllersError::Ended(name));
        }
    }
    Ok(())
}
