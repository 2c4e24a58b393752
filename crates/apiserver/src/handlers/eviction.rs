//! Eviction: a deletion that asks the PodDisruptionBudgets first.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use schema::selector::LabelSelector;
use serde_json::{Value, json};

use super::{
    admit::{Admission, Gate},
    create::Ownership,
    delete, receive,
    update::{self, Change},
    write,
};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    meta,
    options::{DeleteOptions, Query},
    output,
    status::{ApiError, Cause},
};

const BUDGETS: &str = "policy/poddisruptionbudgets";
/// After how many seconds an eviction that a budget refused may be tried again.
const RETRY_SECONDS: u32 = 10;

/// Answers a POST of an Eviction.
pub(super) async fn create(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let mut eviction = receive::decode(call, body)?.value;
    let write_options = write::options(call)?;
    let admission = Admission::create(call, &write_options);
    let state = admission.mutate(Some(&mut eviction)).await?;
    admission.validate(&state, Some(&eviction)).await?;
    let mut options = DeleteOptions::parse(&Query::default(), eviction.get("deleteOptions"))?;
    options.dry_run |= write_options.dry_run;
    let snapshot = call.server.snapshot();
    let stored = snapshot.get(&call.served.collection, &call.path());
    let pod = codec::stored(&stored.ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?.bytes)?;
    if !is_over(&pod) {
        let budgets = snapshot.range(BUDGETS, &format!("{}/", call.namespace), None);
        let matching: Vec<String> = budgets
            .filter(|(_, object)| codec::stored(&object.bytes).is_ok_and(|budget| protects(&budget, &pod)))
            .map(|(path, _)| path.to_string())
            .collect();
        match matching.as_slice() {
            [] => {}
            [budget] => spend(call, budget, options.dry_run).await?,
            _ => {
                return Err(ApiError::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        }
    }
    let mut main = call.about(&call.served, &call.path());
    main.verb = "delete";
    delete::delete_object(&main, &options, Gate::Open).await?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    output::encoded(call, &success, StatusCode::CREATED)
}

/// Whether a pod's end disturbs nobody: it has run its course, was never started, or is going already.
fn is_over(pod: &Value) -> bool {
    meta::is_terminating(pod) || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn protects(budget: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    LabelSelector::from_object(&budget["spec"]["selector"])
        .is_ok_and(|selector| selector.matches(|key| labels[key].as_str()))
}

/// Takes one disruption off the budget, or refuses.
async fn spend(call: &Call, budget: &str, dry_run: bool) -> Result<(), ApiError> {
    let served = call.server.registry.find("policy", "v1", "poddisruptionbudgets");
    let mut own = call.about(&served.ok_or_else(ApiError::no_such_resource)?, budget);
    own.subresource = "status".into();
    let change = |old: &Value| {
        let allowed = old["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            let mut refused = ApiError::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                RETRY_SECONDS,
            );
            let healthy = old["status"]["currentHealthy"].as_i64().unwrap_or(0);
            let desired = old["status"]["desiredHealthy"].as_i64().unwrap_or(0);
            refused.details.get_or_insert_default().causes.push(Cause {
                reason: "DisruptionBudget".into(),
                message: format!(
                    "The disruption budget {} needs {desired} healthy pods and has {healthy} currently",
                    meta::name(old)
                ),
                field: String::new(),
            });
            return Err(refused);
        }
        let mut object = old.clone();
        meta::of(&mut object).remove("resourceVersion");
        object["status"]["disruptionsAllowed"] = (allowed - 1).into();
        object["status"]["disruptedPods"][&call.name] = meta::time(call.now).into();
        Ok(Change { object, ownership: Ownership::Track })
    };
    let mut options = write::options(call)?;
    options.dry_run = dry_run;
    update::change_object(&own, &options, Gate::Open, change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_protect_what_they_select_while_it_runs() {
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
        assert!(!is_over(&pod));
        assert!(protects(&json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), &pod));
        assert!(!protects(&json!({"spec": {"selector": {"matchLabels": {"a": "c"}}}}), &pod));
        assert!(is_over(&json!({"status": {"phase": "Succeeded"}})));
    }
}
