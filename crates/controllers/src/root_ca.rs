//! Publishes the cluster CA's certificate to every namespace as the ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use reconcile::{Change, Queue, Selector, feed, run_controller};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, failed, is_already_exists, is_namespace_terminating, is_not_found, run_with_feeds, synced,
};
use crate::metrics::{Family, Histogram};

const NAME: &str = "kube-root-ca.crt";
const DATA_KEY: &str = "ca.crt";
/// Upstream's explanation on the object.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
                           the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                           distributions of Kubernetes clusters.";
/// Creations are independent of each other; a handful hides their latency.
const WORKERS: usize = 4;

static SYNCS: Family =
    Family::counter("root_ca_cert_publisher_sync_total", "Times a namespace was looked at, by the answer.", &["code"]);
static SYNC_DURATION: Histogram = Histogram::new(
    "root_ca_cert_publisher_sync_duration_seconds",
    "How long it took to look at a namespace and write what follows.",
    &["code"],
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    SYNCS.render(out);
    SYNC_DURATION.render(out);
}

/// Notes how it went, as the status code the API server answered with.
fn note(result: Option<&kube::Error>, took: Duration) {
    let code = match result {
        None => "200".to_owned(),
        Some(kube::Error::Api(status)) => status.code.to_string(),
        Some(_) => "500".to_owned(),
    };
    SYNCS.increase(&[&code]);
    SYNC_DURATION.observe_time(&[&code], took);
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    None,
    Create,
    Repair,
}

fn decide(namespace: Option<&Namespace>, published: Option<&ConfigMap>, ca_pem: &str) -> Action {
    if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return Action::None;
    }
    match published {
        None => Action::Create,
        Some(map) => {
            let data = map.data.as_ref();
            let right = data.is_some_and(|data| data.len() == 1 && data.get(DATA_KEY).is_some_and(|pem| pem == ca_pem));
            if right { Action::None } else { Action::Repair }
        }
    }
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let namespaces = context.informers.of::<Namespace>();
    let maps = context.informers.of_selected::<ConfigMap>(Selector::fields("metadata.name=kube-root-ca.crt"));
    if !synced(&stop, async { namespaces.synced().await && maps.synced().await }).await {
        return;
    }
    let queue: Queue<String> = Queue::new();
    let from_namespaces = feed(&namespaces, &queue, |change| match change {
        Change::Applied { new, .. } => Some(new.name_any()),
        Change::Deleted(_) => None,
    });
    let from_maps = feed(&maps, &queue, |change| change.object().namespace());
    let reconcile = |namespace: String| {
        let (context, namespaces, maps) = (context.clone(), namespaces.clone(), maps.clone());
        async move {
            let api = context.api::<ConfigMap>(&namespace);
            let ca_pem = &context.config.ca_pem;
            let (current, began) = (maps.get(&namespace, NAME), Instant::now());
            let result = match decide(namespaces.get("", &namespace).as_deref(), current.as_deref(), ca_pem) {
                Action::None => {
                    note(None, began.elapsed());
                    return Ok::<_, ReconcileError>(None);
                }
                Action::Create => api.create(&PostParams::default(), &config_map(ca_pem)).await,
                Action::Repair => {
                    // A merge patch keeps other keys, so they are named for removal.
                    let other = current.iter().flat_map(|map| map.data.iter().flatten().map(|(key, _)| key.clone()));
                    let mut data: BTreeMap<String, serde_json::Value> = other.map(|key| (key, json!(null))).collect();
                    data.insert(DATA_KEY.into(), json!(ca_pem));
                    api.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await
                }
            };
            note(result.as_ref().err(), began.elapsed());
            match result {
                Err(e) if is_already_exists(&e) || is_not_found(&e) || is_namespace_terminating(&e) => Ok(None),
                Err(error) => Err(failed("publish", format!("configmap {namespace}/{NAME}"))(error)),
                Ok(_) => Ok(None),
            }
        }
    };
    let run = run_controller("root-ca", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_namespaces, from_maps)).await;
}

fn config_map(ca_pem: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::core::ObjectMeta {
            name: Some(NAME.into()),
            annotations: Some(BTreeMap::from([("kubernetes.io/description".into(), DESCRIPTION.into())])),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(DATA_KEY.into(), ca_pem.into())])),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_created_and_repaired_while_the_namespace_lives() {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let leaving: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))
                .unwrap();
        let right = config_map("pem");
        let wrong = config_map("old");
        for (namespace, map, expected) in [
            (Some(&namespace), None, Action::Create),
            (Some(&namespace), Some(&right), Action::None),
            (Some(&namespace), Some(&wrong), Action::Repair),
            (Some(&leaving), None, Action::None),
            (None, None, Action::None),
        ] {
            assert_eq!(decide(namespace, map, "pem"), expected);
        }
    }
}
