//! Keeping the objects of priority and fairness as they should be: the mandatory and the suggested ones are made and
//! repaired, and each FlowSchema's status says whether its priority level exists.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use serde_json::{Value, json};
use strategy::flow::objects::{self, LEVELS, SCHEMAS};
use strategy::tree::{list, text, text_at};
use tokio_util::sync::CancellationToken;

use crate::{body, bootstrap::BootstrapError, codec, meta, server::ApiServer};

/// How often the seats are divided anew, as upstream.
const REBALANCE_PERIOD: Duration = Duration::from_secs(10);
/// How often everything is looked at although nothing was changed; upstream's period.
const REPAIR_PERIOD: Duration = Duration::from_secs(60);
/// How long changes gather before they are looked at.
const GATHER: Duration = Duration::from_millis(100);

/// Who makes the objects, and who writes their status.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn path(collection: &str) -> String {
    format!("{ROOT}/{}", collection.rsplit('/').next().unwrap_or_default())
}

/// A write that has to be made.
#[derive(Debug, PartialEq)]
struct Repair {
    method: Method,
    path: String,
    body: Value,
}

impl ApiServer {
    /// Makes and repairs the objects that every cluster has.
    pub(crate) async fn ensure_flow_objects(self: &Arc<Self>) -> Result<(), BootstrapError> {
        let repairs = self.flow_repairs();
        let writes = repairs.iter().map(|repair| self.repair(repair));
        futures::future::join_all(writes).await.into_iter().collect()
    }

    fn flow_repairs(&self) -> Vec<Repair> {
        let snapshot = self.snapshot();
        let mut repairs = Vec::new();
        for (collection, wanted) in [(LEVELS, objects::levels()), (SCHEMAS, objects::schemas())] {
            for wanted in wanted {
                let name = meta::name(wanted);
                let stored = snapshot.get(collection, name).and_then(|object| codec::stored(&object.bytes).ok());
                let path = path(collection);
                match stored {
                    None => repairs.push(Repair { method: Method::POST, path, body: wanted.clone() }),
                    Some(stored) => {
                        let repaired = objects::repaired(collection, wanted, &stored);
                        let path = format!("{path}/{name}");
                        repairs.extend(repaired.map(|body| Repair { method: Method::PUT, path, body }));
                    }
                }
            }
        }
        repairs
    }

    /// The FlowSchemas whose status does not say what is so.
    fn flow_statuses(&self, now: jiff::Timestamp) -> Vec<Repair> {
        let snapshot = self.snapshot();
        let schemas = snapshot.range(SCHEMAS, "", None).filter_map(|(_, object)| codec::stored(&object.bytes).ok());
        let status = |schema: Value| {
            let level = text_at(&schema, &["spec", "priorityLevelConfiguration", "name"]);
            let condition = dangling(level, snapshot.get(LEVELS, level).is_some());
            let known = list(&schema["status"], "conditions").iter().find(|known| text(known, "type") == "Dangling");
            let same = |known: &Value| ["status", "reason", "message"].iter().all(|key| known[key] == condition[key]);
            if known.is_some_and(same) {
                return None;
            }
            let turned = known.is_none_or(|known| known["status"] != condition["status"]);
            let mut condition = condition;
            condition["lastTransitionTime"] = match known.filter(|_| !turned) {
                Some(known) => known["lastTransitionTime"].clone(),
                None => meta::time(now).into(),
            };
            let name = meta::name(&schema);
            let body = json!({
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
                "status": {"conditions": [condition]}
            });
            let path = format!("{}/{name}/status", path(SCHEMAS));
            Some(Repair { method: Method::PATCH, path, body })
        };
        schemas.filter_map(status).collect()
    }

    async fn repair(self: &Arc<Self>, repair: &Repair) -> Result<(), BootstrapError> {
        let (manager, content_type) = match repair.method {
            Method::PATCH => (CONSUMER, "application/apply-patch+yaml"),
            _ => (PRODUCER, "application/json"),
        };
        let force = if repair.method == Method::PATCH { "&force=true" } else { "" };
        let address = format!("{}?fieldManager={manager}{force}", repair.path);
        let mut request = Request::new(body::full(Bytes::from(repair.body.to_string())));
        *request.method_mut() = repair.method.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.ask_itself(&address, request).await
    }

    /// Keeps seats, objects and statuses current until `stop`.
    pub(crate) async fn maintain_flow(self: &Arc<Self>, stop: &CancellationToken) {
        let mut rebalance = tokio::time::interval(REBALANCE_PERIOD);
        let mut repair = tokio::time::interval(REPAIR_PERIOD);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rebalance.tick() => {
                    self.flow.rebalance();
                    continue;
                }
                _ = repair.tick() => {}
                () = self.flow.changed.notified() => tokio::time::sleep(GATHER).await,
            }
            if let Err(error) = self.ensure_flow_objects().await {
                tracing::warn!(%error, "an object of priority and fairness could not be repaired");
            }
            let statuses = self.flow_statuses(jiff::Timestamp::now());
            let writes = statuses.iter().map(|status| self.repair(status));
            for error in futures::future::join_all(writes).await.into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "the status of a FlowSchema could not be written");
            }
        }
    }
}

/// The condition of a FlowSchema that names `level`.
fn dangling(level: &str, exists: bool) -> Value {
    let (status, reason, but) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {but}");
    json!({"type": "Dangling", "status": status, "reason": reason, "message": message})
}
