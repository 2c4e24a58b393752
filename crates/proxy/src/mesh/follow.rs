//! Keeps the directory and the endpoints current, once the mesh has a pod.

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use reconcile::{Change, Informers, Key};
use tokio::sync::oneshot;

use super::Shared;
use crate::controller::service_of;

/// Follows until it is dropped; tells when everything that there was is known.
pub(crate) async fn run(shared: &Shared, informers: &Informers, ready: oneshot::Sender<()>) {
    let (pods, services, slices) = (informers.of::<Pod>(), informers.of::<Service>(), informers.of::<EndpointSlice>());
    if !(pods.synced().await && services.synced().await && slices.synced().await) {
        return;
    }
    let (mut pods, mut services, mut slices) = (pods.subscribe(), services.subscribe(), slices.subscribe());
    while let Some(change) = pods.try_next() {
        pod(shared, &change);
    }
    while let Some(change) = services.try_next() {
        service(shared, &change);
    }
    // who waited may have given up
    let _told = ready.send(());
    loop {
        tokio::select! {
            Some(change) = pods.next() => pod(shared, &change),
            Some(change) = services.next() => service(shared, &change),
            Some(change) = slices.next() => if let Some(key) = service_of(change.object()) {
                shared.endpoints.refresh(&key);
            },
            else => return,
        }
    }
}

fn pod(shared: &Shared, change: &Change<Pod>) {
    match change {
        Change::Applied { new, .. } => {
            let workload = shared.directory.put_pod(new);
            if let Some(pod) = shared.captured.read().by_uid.get(&*workload.uid) {
                pod.update(shared, workload);
            }
        }
        Change::Deleted(last) => shared.directory.remove_pod(last),
    }
}

fn service(shared: &Shared, change: &Change<Service>) {
    let key = Key::of(&**change.object());
    match change {
        Change::Applied { new, .. } => shared.directory.put_service(new),
        Change::Deleted(last) => shared.directory.remove_service(last),
    }
    shared.endpoints.refresh(&key);
    if let Change::Deleted(_) = change {
        // forgets those that no connection uses
        shared.endpoints.backends(&key);
    }
    // policies may be about the Service
    for pod in shared.captured.read().by_uid.values() {
        let workload = pod.workload();
        if *workload.namespace == *key.namespace {
            pod.update(shared, workload);
        }
    }
}
