//! Eviction: a deletion that asks the PodDisruptionBudgets first.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use schema::selector::LabelSelector;
use serde_json::{Value, json};
use store::Snapshot;
use strategy::tree;

use super::{
    admit::{Admission, Gate},
    create::Ownership,
    delete, receive,
    update::{self, Change},
    write::{self, ATTEMPTS_MAX},
};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    meta,
    options::{DeleteOptions, Query},
    output,
    status::{ApiError, Cause, GroupResource},
};

const BUDGETS: &str = "policy/poddisruptionbudgets";
/// After how many seconds an eviction may be tried again whose budget the controller has yet to look at.
const RETRY_SECONDS: u32 = 10;
/// Evictions that a budget has granted and its controller has not seen the end of, beyond which it grants no more.
const DISRUPTED_PODS_MAX: usize = 2000;

/// What a budget says to the eviction of a pod that it protects.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The pod was not counted as healthy, so that nothing is taken off the budget; it has to be the same still when it
    /// is deleted.
    Uncounted,
    /// One disruption is taken off the budget.
    Spend,
}

/// Answers a POST of an Eviction.
pub(super) async fn create(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let write_options = write::options(call)?;
    let mut eviction = receive::object(call, body, write_options.field_validation)?;
    receive::check_named(call, &mut eviction)?;
    let admission = Admission::create(call, &write_options);
    let state = admission.mutate(Some(&mut eviction)).await?;
    admission.validate(&state, Some(&eviction)).await?;
    let mut options = DeleteOptions::parse(&Query::default(), eviction.get("deleteOptions"))?;
    options.dry_run |= write_options.dry_run;
    evict(call, &options).await?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    output::encoded(call, &success, StatusCode::CREATED)
}

/// Deletes the pod if nothing protects it (any more).
async fn evict(call: &Call, options: &DeleteOptions) -> Result<(), ApiError> {
    let mut main = call.about(&call.served, &call.path());
    main.verb = "delete";
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.server.snapshot();
        let stored = snapshot.get(&call.served.collection, &call.path());
        let stored = stored.ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?;
        let pod = codec::stored(&stored.bytes)?;
        delete::check_preconditions(call, options, &pod)?;
        let budget = if is_over(&pod) { None } else { budget_of(call, &snapshot, &pod)? };
        let insists = match &budget {
            Some((_, budget)) if verdict(budget, &pod) == Verdict::Uncounted => true,
            Some((path, _)) => {
                spend(call, path, options.dry_run).await?;
                false
            }
            // one that is yet to start may be ready, and protected, by the time it is deleted
            None => phase(&pod) == "Pending" && !meta::is_terminating(&pod),
        };
        let mut options = options.clone();
        let insists = insists && options.resource_version.is_none();
        if insists {
            options.resource_version = Some(stored.revision.0.to_string());
        }
        let gone = match announce(call, &mut options).await {
            Ok(()) => delete::delete_object(&main, &options, Gate::Open).await.map(drop),
            Err(error) => Err(error),
        };
        match gone {
            // somebody changed the pod since it was judged
            Err(error) if error.reason == "Conflict" && insists => {
                if let Some((_, budget)) = &budget {
                    return Err(unsettled(meta::name(budget)));
                }
            }
            outcome => return outcome,
        }
    }
    Err(ApiError::modified(call.group_resource(), &call.name))
}

/// Writes into the pod's status why it goes. Who insists on the pod's version goes on with the one this makes.
async fn announce(call: &Call, options: &mut DeleteOptions) -> Result<(), ApiError> {
    let mut own = call.about(&call.served, &call.path());
    own.verb = "update";
    own.subresource = "status".into();
    let change = |old: &Value| {
        let mut object = old.clone();
        let why = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "observedGeneration": tree::at(old, &["metadata", "generation"])});
        meta::put_condition(&mut object["status"], why, &meta::time(call.now));
        match &options.resource_version {
            Some(version) => meta::of(&mut object).insert("resourceVersion".into(), version.as_str().into()),
            None => meta::of(&mut object).remove("resourceVersion"),
        };
        Ok(Change { object, ownership: Ownership::Applied })
    };
    let mut write_options = write::options(call)?;
    write_options.dry_run = options.dry_run;
    let outcome = update::change_object(&own, &write_options, Gate::Open, change).await?;
    if options.resource_version.is_some() && !options.dry_run {
        let pod = output::served(call, outcome.object)?;
        options.resource_version = Some(tree::text_at(&pod, &["metadata", "resourceVersion"]).to_owned());
    }
    Ok(())
}

fn phase(pod: &Value) -> &str {
    tree::text_at(pod, &["status", "phase"])
}

/// Whether a pod's end disturbs nobody: it has run its course, was never started, or is going already.
fn is_over(pod: &Value) -> bool {
    meta::is_terminating(pod) || matches!(phase(pod), "Succeeded" | "Failed" | "Pending")
}

/// The budget that protects a pod, with its path. More than one is more than an eviction can ask.
fn budget_of(call: &Call, snapshot: &Snapshot, pod: &Value) -> Result<Option<(String, Value)>, ApiError> {
    let mut found = None;
    for (path, object) in snapshot.range(BUDGETS, &format!("{}/", call.namespace), None) {
        let budget = codec::stored(&object.bytes)?;
        if !protects(&budget, pod) {
            continue;
        }
        if found.is_some() {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "", why));
        }
        found = Some((path.to_string(), budget));
    }
    Ok(found)
}

/// A budget without a selector protects nothing, one with an empty selector everything.
fn protects(budget: &Value, pod: &Value) -> bool {
    let (selector, labels) = (&budget["spec"]["selector"], &pod["metadata"]["labels"]);
    selector.is_object()
        && LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(|key| labels[key].as_str()))
}

fn verdict(budget: &Value, pod: &Value) -> Verdict {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    if tree::list(&pod["status"], "conditions").iter().any(ready) {
        return Verdict::Spend;
    }
    let (healthy, desired) = (count(budget, "currentHealthy"), count(budget, "desiredHealthy"));
    let always = tree::text_at(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    if always || (healthy >= desired && desired > 0) { Verdict::Uncounted } else { Verdict::Spend }
}

fn count(budget: &Value, field: &str) -> i64 {
    budget["status"][field].as_i64().unwrap_or_default()
}

/// The refusal of an eviction, which may be tried again after some seconds, or whenever the client thinks fit.
fn violation(message: String, retry_after_seconds: u32) -> ApiError {
    let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
    let what = "Cannot evict pod as it would violate the pod's disruption budget.";
    ApiError::too_many_requests(what, retry_after_seconds).with_causes(vec![cause])
}

fn unsettled(budget: &str) -> ApiError {
    violation(format!("The disruption budget {budget} is still being processed by the server."), RETRY_SECONDS)
}

/// A budget that has granted one disruption more, unless it refuses.
fn spent(budget: &Value, pod: &str, now: jiff::Timestamp) -> Result<Value, ApiError> {
    let name = meta::name(budget);
    let forbidden = |why: &str| {
        let subject = GroupResource { group: "policy", resource: "poddisruptionbudget" };
        Err(ApiError::forbidden(subject, name, why))
    };
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or_default();
    if count(budget, "observedGeneration") < generation {
        return Err(unsettled(name));
    }
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if tree::map(&budget["status"], "disruptedPods").len() > DISRUPTED_PODS_MAX {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let conditions = tree::list(&budget["status"], "conditions");
        let failed = |known: &&Value| known["type"] == "DisruptionAllowed" && known["reason"] == "SyncFailed";
        let (desired, healthy) = (count(budget, "desiredHealthy"), count(budget, "currentHealthy"));
        let what = match conditions.iter().find(failed) {
            Some(failed) => {
                let why = tree::text(failed, "message");
                format!("does not allow evicting pods currently because it failed sync: {why}")
            }
            None => format!("needs {desired} healthy pods and has {healthy} currently"),
        };
        return Err(violation(format!("The disruption budget {name} {what}"), 0));
    }
    let mut budget = budget.clone();
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    status["disruptedPods"][pod] = meta::time(now).into();
    if allowed == 1 {
        let mut none_left =
            json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": ""});
        none_left["observedGeneration"] = status["observedGeneration"].clone();
        meta::put_condition(status, none_left, &meta::time(now));
    }
    Ok(budget)
}

/// Takes one disruption off the stored budget, or refuses.
async fn spend(call: &Call, budget: &str, dry_run: bool) -> Result<(), ApiError> {
    let served = call.server.registry.find("policy", "v1", "poddisruptionbudgets");
    let mut own = call.about(&served.ok_or_else(ApiError::no_such_resource)?, budget);
    own.subresource = "status".into();
    let change = |old: &Value| {
        let mut object = spent(old, &call.name, call.now)?;
        meta::of(&mut object).remove("resourceVersion");
        Ok(Change { object, ownership: Ownership::Track })
    };
    let mut options = write::options(call)?;
    options.dry_run = dry_run;
    update::change_object(&own, &options, Gate::Open, change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": status})
    }

    #[test]
    fn budgets_protect_what_they_select_while_it_runs() {
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
        assert!(!is_over(&pod));
        assert!(protects(&json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), &pod));
        assert!(!protects(&json!({"spec": {"selector": {"matchLabels": {"a": "c"}}}}), &pod));
        assert!(protects(&json!({"spec": {"selector": {}}}), &pod));
        assert!(!protects(&json!({"spec": {}}), &pod));
        assert!(is_over(&json!({"status": {"phase": "Succeeded"}})));
    }

    #[test]
    fn unhealthy_pods_go_for_nothing_where_enough_others_are_healthy_or_the_budget_says_so() {
        let healthy = |current: i64, desired: i64| json!({"currentHealthy": current, "desiredHealthy": desired});
        let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(verdict(&budget(healthy(2, 2)), &unready), Verdict::Uncounted);
        assert_eq!(verdict(&budget(healthy(1, 2)), &unready), Verdict::Spend);
        assert_eq!(verdict(&budget(healthy(0, 0)), &unready), Verdict::Spend);
        assert_eq!(verdict(&budget(healthy(2, 2)), &ready), Verdict::Spend);
        let mut always = budget(healthy(1, 2));
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert_eq!(verdict(&always, &unready), Verdict::Uncounted);
        assert_eq!(verdict(&always, &ready), Verdict::Spend);
    }

    #[test]
    fn a_budget_counts_what_it_grants_and_says_why_it_refuses() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let spend = |status: Value| spent(&budget(status), "p", now);
        let granted = spend(json!({"observedGeneration": 2, "disruptionsAllowed": 1})).unwrap();
        assert_eq!(granted["status"]["disruptionsAllowed"], 0);
        assert_eq!(granted["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert_eq!(granted["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = |status: Value| {
            let error = spend(status).unwrap_err();
            let cause = error.details.as_ref().and_then(|details| details.causes.first());
            (error.code, cause.map_or_else(|| error.message.clone(), |cause| cause.message.clone()))
        };
        let stale = refused(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
        assert_eq!(stale, (429, "The disruption budget b is still being processed by the server.".into()));
        let none = refused(json!({"observedGeneration": 2, "desiredHealthy": 3, "currentHealthy": 2}));
        assert_eq!(none, (429, "The disruption budget b needs 3 healthy pods and has 2 currently".into()));
        let failed = refused(json!({"observedGeneration": 2,
            "conditions": [{"type": "DisruptionAllowed", "reason": "SyncFailed", "message": "why"}]}));
        assert!(failed.1.ends_with("because it failed sync: why"), "{failed:?}");
        assert_eq!(refused(json!({"observedGeneration": 2, "disruptionsAllowed": -1})).0, 403);
        let many: serde_json::Map<String, Value> =
            (0..=DISRUPTED_PODS_MAX).map(|n| (n.to_string(), "".into())).collect();
        assert_eq!(refused(json!({"observedGeneration": 2, "disruptionsAllowed": 1, "disruptedPods": many})).0, 403);
    }
}
