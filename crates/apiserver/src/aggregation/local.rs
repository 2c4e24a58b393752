//! APIServices of what this server answers itself: one for each group-version, made when it appears.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::future;
use http::{Method, Request};
use serde_json::{Value, json};

use super::COLLECTION;
use crate::{body, bootstrap::BootstrapError, codec, server::ApiServer};

const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// Marks an APIService that the server itself keeps: `onstart` for built-in groups, `true` for those of definitions.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of the groups that definitions make.
const CUSTOM: (i64, i64) = (1000, 100);

/// Priorities of a built-in group-version, as upstream orders them.
fn priorities(group: &str, version: &str) -> (i64, i64) {
    let own = match group {
        "" => return (18000, 1),
        "apps" => 17800,
        "events.k8s.io" => 17750,
        "authentication.k8s.io" => 17700,
        "authorization.k8s.io" => 17600,
        "autoscaling" => 17500,
        "batch" => 17400,
        "certificates.k8s.io" => 17300,
        "networking.k8s.io" => 17200,
        "policy" => 17100,
        "rbac.authorization.k8s.io" => 17000,
        "storage.k8s.io" => 16800,
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" => 16700,
        "scheduling.k8s.io" => 16600,
        "coordination.k8s.io" => 16500,
        "node.k8s.io" => 16300,
        "discovery.k8s.io" => 16200,
        "flowcontrol.apiserver.k8s.io" => return (16100, 21),
        "internal.apiserver.k8s.io" => return (16000, 9),
        "resource.k8s.io" => return (15900, 20),
        _ => 15000,
    };
    (own, if (group, version) == ("autoscaling", "v2") { 30 } else { 15 })
}

impl ApiServer {
    /// Makes the APIServices that are missing, and removes those whose definition is gone.
    pub(crate) async fn complete_local_api_services(self: &Arc<Self>) -> Result<(), BootstrapError> {
        let (snapshot, table) = (self.snapshot(), self.registry.table());
        let mut wanted = HashSet::new();
        let mut missing = Vec::new();
        // the group that serves APIServices has none itself
        for group in table.groups.iter().filter(|group| group.name != "apiregistration.k8s.io") {
            for version in &group.versions {
                let name = format!("{}.{}", version.version, group.name);
                if snapshot.get(COLLECTION, &name).is_none() {
                    let custom = version.resources.first().is_some_and(|served| served.is_custom());
                    let (mark, (group_priority, version_priority)) = match custom {
                        true => ("true", CUSTOM),
                        false => ("onstart", priorities(&group.name, &version.version)),
                    };
                    missing.push(json!({"metadata": {"name": name, "labels": {AUTOMANAGED: mark}},
                        "spec": {"group": group.name, "version": version.version,
                            "groupPriorityMinimum": group_priority, "versionPriority": version_priority}}));
                }
                wanted.insert(name);
            }
        }
        // at once, so that one write to the disk takes them all
        let made = missing.iter().map(|service| self.ensure(PATH, service));
        future::try_join_all(made).await?;
        for (name, object) in snapshot.range(COLLECTION, "", None) {
            if wanted.contains(&**name) {
                continue;
            }
            let kept = codec::stored(&object.bytes).unwrap_or(Value::Null);
            if kept["metadata"]["labels"][AUTOMANAGED] == "true" && kept["spec"]["service"].is_null() {
                let mut request = Request::new(body::full(Bytes::new()));
                *request.method_mut() = Method::DELETE;
                self.ask_itself(&format!("{PATH}/{name}"), request).await?;
            }
        }
        Ok(())
    }
}
