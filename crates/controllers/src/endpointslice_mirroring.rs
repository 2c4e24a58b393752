//! EndpointSlice mirroring: Endpoints that somebody keeps by hand, for a Service without a selector, are shown as
//! EndpointSlices too, which is what everybody reads.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_namespace_terminating, run_with_feeds, synced};
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::pending::{LAG_RETRY, PendingWrites};
use slices::Write;

mod slices;
#[cfg(test)]
mod tests;

/// Endpoints mirrored at once, upstream's default.
const WORKERS: usize = 5;
/// The value of [`MANAGED_BY`] for slices kept here: upstream's, whose work this is.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label, set to `true`, are not mirrored: whoever writes them writes slices too.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock, not addresses.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Controller {
    context: Context,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    mirrored: Index<EndpointSlice>,
    pending: PendingWrites,
}

/// The Endpoints that a slice mirrors.
fn source_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(MANAGED_BY).filter(|manager| *manager == MANAGER)?;
    Some(Key::new(slice.metadata.namespace.as_deref()?, labels.get(SERVICE_NAME)?))
}

/// Whether the Endpoints are to be mirrored, going by themselves.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true");
    !skipped && !endpoints.annotations().contains_key(LEADER)
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let services = context.informers.of::<Service>();
    let endpoints = context.informers.of::<Endpoints>();
    let slices = context.informers.of::<EndpointSlice>();
    let all = async { services.synced().await && endpoints.synced().await && slices.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "endpoint-slice-mirroring-controller"),
        mirrored: slices.index("mirrored", |slice| source_of(slice).map(|key| key.to_string()).into_iter().collect()),
        pending: PendingWrites::default(),
        services: services.clone(),
        endpoints: endpoints.clone(),
        slices: slices.clone(),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let of_services = |change: &Change<Service>| {
        // Endpoints of a service with a selector have a controller of their own.
        let before = matches!(change, Change::Applied { old: Some(old), .. } if !has_selector(old));
        (before || !has_selector(change.object())).then(|| Key::of(change.object().as_ref()))
    };
    let feeds = futures::future::join3(
        feed(&services, &queue, of_services),
        feed(&endpoints, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&slices, &queue, |change| source_of(change.object())),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    let run = run_controller("endpointslice-mirroring", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, feeds).await;
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        if self.pending.lags(key, self.slices.revision(), |name, _| self.slices.get(&key.namespace, name).is_none()) {
            return Ok(Some(LAG_RETRY));
        }
        let existing = self.mirrored.get(&key.to_string());
        let endpoints = self.endpoints.get(&key.namespace, &key.name).filter(|endpoints| is_mirrored(endpoints));
        // those of a service with a selector have slices of another controller
        let service = self.services.get(&key.namespace, &key.name).filter(|service| !has_selector(service));
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            for slice in existing {
                self.write(key, Write::Delete(slice)).await?;
            }
            self.pending.forget(key);
            return Ok(None);
        };
        let plan = slices::decide(&endpoints, &existing);
        if plan.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            self.recorder.about(endpoints.as_ref(), EventType::Warning, "InvalidIPAddress", message);
        }
        if plan.beyond > 0 {
            let message = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                slices::ADDRESSES_MAX,
                plan.beyond + plan.invalid
            );
            self.recorder.about(endpoints.as_ref(), EventType::Warning, "TooManyAddressesToMirror", message);
        }
        for write in plan.writes {
            self.write(key, write).await?;
        }
        Ok(None)
    }

    async fn write(&self, key: &Key, write: Write) -> Result<(), ReconcileError> {
        let api = self.context.api::<EndpointSlice>(&key.namespace);
        match write {
            Write::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(created) => self.pending.wrote(key, &created.metadata),
                Err(error) if is_namespace_terminating(&error) => {}
                Err(error) => return Err(failed("create endpointslice of endpoints", key)(error)),
            },
            Write::Update(slice) => {
                let updated = api.replace(&slice.name_any(), &PostParams::default(), &slice).await;
                let updated = updated.map_err(failed("update endpointslice of endpoints", key))?;
                self.pending.wrote(key, &updated.metadata);
            }
            Write::Delete(slice) => {
                let preconditions = Some(Preconditions { uid: slice.uid(), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                let result = gone_is_done(api.delete(&slice.name_any(), &params).await);
                result.map_err(failed("delete endpointslice of endpoints", key))?;
                self.pending.deleted(key, &slice.metadata);
            }
        }
        Ok(())
    }
}
