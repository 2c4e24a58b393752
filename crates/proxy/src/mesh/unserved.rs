//! Kinds of Istio that are kept and not followed: who writes one is told so in its status.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kinds::istio::{IstioStatus, RequestAuthentication};
use kube::{Api, Resource};
use reconcile::{Change, Informers, Key, Object};
use serde::de::DeserializeOwned;
use tracing::debug;

use super::status;

/// Tells of every object, until it is dropped or the informers stop.
pub(crate) async fn run(informers: &Informers) {
    tell::<RequestAuthentication>(informers, |object| object.status.as_ref()).await;
}

async fn tell<K>(informers: &Informers, status_of: fn(&K) -> Option<&IstioStatus>)
where
    K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let wrong = [format!("{} is not followed yet", K::kind(&()))];
    let mut changes = informers.of::<K>().subscribe();
    while let Some(change) = changes.next().await {
        let Change::Applied { new, .. } = &change else { continue };
        let known = status_of(new);
        let status = status::of(known, &wrong, new.meta().generation, Timestamp::now());
        let key = Key::of(&**new);
        let api = Api::<K>::namespaced(informers.client().clone(), &key.namespace);
        // one that changed meanwhile comes again as another change
        if let Err(error) = status::write(&api, &**new, known, &status).await {
            debug!(object = %key, %error, "a status was not written");
        }
    }
}
