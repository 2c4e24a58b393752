//! Plans with manifests: applies them, waits until nothing moves any more, and looks what has a node.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1::{Event, Node, Pod, ReplicationController},
    },
};
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};
use reconcile::{Change, Informer, Informers, Subscription};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    SimulateError,
    fit::{Fit, Maker, Seen},
    manifests::{Manifests, Refused, apply},
};

/// How long nothing has to happen to pods until it is looked whether all have a node.
const PAUSE: Duration = Duration::from_millis(500);
/// How long nothing has to happen until the rest is given up: more than the first back-offs of scheduler and controllers.
const QUIET: Duration = Duration::from_secs(6);
/// How long it may take at most.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Looks are for controllers that have something to say; of more of their failures the rest are alike.
const FAILURES_MAX: u32 = 5000;

/// Applies manifests and finds out what fits.
pub(crate) struct Planner {
    client: Client,
    manifests: Manifests,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

impl Planner {
    pub(crate) fn new(client: Client, manifests: Manifests, informers: &Informers) -> Self {
        Self { client, manifests, pods: informers.of(), nodes: informers.of() }
    }

    /// Plans until all have a node, nothing moves any more, or the time is over.
    pub(crate) async fn run(&self, time: Option<Duration>, end: &CancellationToken) -> Result<Fit, SimulateError> {
        let over = Instant::now() + time.unwrap_or(TIME_MAX);
        let mut changes = self.pods.subscribe();
        let refused = apply(&self.client, &self.manifests).await.map_err(SimulateError::Plan)?;
        let mut last = Instant::now();
        loop {
            let looked = paused(&mut changes, &mut last, over, end).await;
            let settled = last.elapsed() >= QUIET;
            let stopped = !looked || Instant::now() >= over;
            let fit = self.look(refused.clone(), settled || !stopped).await.map_err(SimulateError::Plan)?;
            if settled || stopped || fit.workloads.iter().all(|workload| workload.unplaced.is_empty()) {
                return Ok(fit);
            }
        }
    }

    async fn look(&self, refused: Vec<Refused>, settled: bool) -> Result<Fit, kube::Error> {
        let seen = Seen {
            nodes: self.nodes.list().into_iter().map(|node| Node::clone(&node)).collect(),
            pods: self.pods.list().into_iter().map(|pod| Pod::clone(&pod)).collect(),
            makers: makers(&self.client).await?,
            failures: failures(&self.client).await?,
            refused,
        };
        Ok(seen.fit(settled))
    }
}

/// Waits until pods have not changed for a pause more; false when it is to end. `last` is when something changed last.
async fn paused(changes: &mut Subscription<Pod>, last: &mut Instant, over: Instant, end: &CancellationToken) -> bool {
    let mut wake = Instant::now() + PAUSE;
    loop {
        tokio::select! {
            () = end.cancelled() => return false,
            change = changes.next() => match change {
                Some(change) if is_news(&change) => {
                    *last = Instant::now();
                    wake = *last + PAUSE;
                }
                Some(_) => {}
                None => return false,
            },
            () = sleep_until(wake.min(over)) => return true,
        }
    }
}

/// Whether a change says more than that a pod was tried again in vain.
fn is_news(change: &Change<Pod>) -> bool {
    let Change::Applied { old: Some(old), new } = change else { return true };
    old.spec != new.spec || {
        let of = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        of(old) != of(new)
    }
}

async fn all<K>(client: &Client) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    Ok(Api::<K>::all(client.clone()).list(&ListParams::default()).await?.items)
}

fn maker<K: Resource<DynamicType = ()>>(object: &K, wanted: Option<i32>) -> Maker {
    let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    Maker {
        kind: KINDS.iter().find(|kind| **kind == K::kind(&())).copied().unwrap_or_default(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        made_by: owner.map(|owner| owner.uid.clone()),
        wanted: wanted.map_or(0, i64::from),
    }
}

/// Kinds that make pods, or make what makes them.
const KINDS: [&str; 6] = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController", "Job"];

async fn makers(client: &Client) -> Result<Vec<Maker>, kube::Error> {
    let mut makers = Vec::new();
    for one in all::<Deployment>(client).await? {
        makers.push(maker(&one, one.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1))));
    }
    for one in all::<ReplicaSet>(client).await? {
        makers.push(maker(&one, one.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1))));
    }
    for one in all::<StatefulSet>(client).await? {
        makers.push(maker(&one, one.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1))));
    }
    for one in all::<ReplicationController>(client).await? {
        makers.push(maker(&one, one.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1))));
    }
    for one in all::<DaemonSet>(client).await? {
        makers.push(maker(&one, one.status.as_ref().map(|status| status.desired_number_scheduled)));
    }
    for one in all::<Job>(client).await? {
        makers.push(maker(&one, one.spec.as_ref().map(at_a_time)));
    }
    Ok(makers)
}

/// Pods that a Job runs side by side.
fn at_a_time(spec: &k8s_openapi::api::batch::v1::JobSpec) -> i32 {
    if spec.suspend == Some(true) {
        return 0;
    }
    let parallelism = spec.parallelism.unwrap_or(1);
    spec.completions.map_or(parallelism, |completions| completions.min(parallelism))
}

/// What controllers said of pods that they could not create, by their objects' uids.
async fn failures(client: &Client) -> Result<HashMap<String, String>, kube::Error> {
    let failed = ListParams::default().fields("type=Warning,reason=FailedCreate").limit(FAILURES_MAX);
    let events = Api::<Event>::all(client.clone()).list(&failed).await?;
    let said = events.items.into_iter().filter_map(|event| Some((event.involved_object.uid?, event.message?)));
    Ok(said.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_runs_no_more_side_by_side_than_it_has_to_do() {
        let of = |spec| at_a_time(&serde_json::from_value(spec).unwrap());
        let with =
            |completions, parallelism| json!({"completions": completions, "parallelism": parallelism, "template": {}});
        assert_eq!(of(with(json!(2), json!(5))), 2);
        assert_eq!(of(with(json!(9), json!(5))), 5);
        assert_eq!(of(with(json!(null), json!(3))), 3);
        assert_eq!(of(json!({"template": {}, "suspend": true})), 0);
    }
}
