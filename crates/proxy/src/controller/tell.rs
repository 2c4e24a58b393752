//! Telling about Ingresses, and about Istio's kinds, what became of them.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kinds::istio::IstioStatus;
use kube::{Api, Resource};
use reconcile::{EventType, Informer, Key, Object};
use serde::de::DeserializeOwned;

use super::{Controller, lookup::Lookup as _, status};
use crate::mesh;

impl Controller {
    /// Writes into the status of a kind of Istio's what of it is not followed.
    pub(super) async fn tell_istio<K>(
        &self,
        informer: &Informer<K>,
        key: &Key,
        wrong: Option<Vec<String>>,
        status_of: fn(&K) -> Option<&IstioStatus>,
    ) -> Result<(), kube::Error>
    where
        K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (Some(wrong), Some(object)) = (wrong, informer.get(&key.namespace, &key.name)) else { return Ok(()) };
        let known = status_of(&object);
        let status = mesh::status::of(known, &wrong, object.meta().generation, Timestamp::now());
        mesh::status::write(&Api::namespaced(self.client.clone(), &key.namespace), &*object, known, &status).await
    }

    pub(super) async fn tell_ingress(&self, key: &Key) -> Result<(), kube::Error> {
        let reports = self.core.lock().ingress(key).map(|plan| plan.reports.clone());
        let (Some(reports), Some(ingress)) = (reports, self.view.ingress(key)) else {
            self.reported.lock().remove(key);
            return Ok(());
        };
        let bindings = self.server.bindings().borrow().clone();
        let status = status::ingress(&ingress, self.server.addresses(), &bindings);
        self.write(&*ingress, ingress.status.as_ref(), &status).await?;
        let before = match reports.is_empty() {
            true => self.reported.lock().remove(key),
            false => self.reported.lock().insert(key.clone(), reports.clone()),
        };
        let before = before.unwrap_or_default();
        for report in reports.iter().filter(|report| !before.contains(report)) {
            self.recorder.about(&*ingress, EventType::Warning, report.reason, report.message.clone());
        }
        Ok(())
    }
}
