//! The `scale` subresource: `autoscaling/v1` Scale in front of whatever counts replicas.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use schema::selector::LabelSelector;
use serde_json::{Value, json};

use super::{
    admit::{Gate, View},
    create::Ownership,
    patch::{self, Patch},
    receive,
    update::{self, Change},
    write,
};
use crate::{
    body::Body,
    crd::ScalePaths,
    dispatch::Call,
    meta,
    options::WriteOptions,
    output,
    status::{ApiError, Cause},
};

const SCALE_TYPE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// Where the object of a call keeps what Scale shows.
fn paths(call: &Call) -> ScalePaths {
    let custom = call.served.custom.as_ref();
    let declared = custom.and_then(|(definition, index)| definition.versions.get(*index)?.scale.clone());
    declared.unwrap_or_else(|| ScalePaths {
        spec_replicas: "/spec/replicas".into(),
        status_replicas: "/status/replicas".into(),
        label_selector: None,
    })
}

/// The Scale of an object.
fn scale_of(call: &Call, object: &Value) -> Value {
    let paths = paths(call);
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let metadata = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": count(&paths.spec_replicas)},
        "status": {"replicas": count(&paths.status_replicas)},
    });
    meta::tidy(&mut scale);
    let selector = match (&paths.label_selector, &call.served.custom) {
        (Some(pointer), _) => object.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
        (None, Some(_)) => None,
        (None, None) => selector(&object["spec"]["selector"]),
    };
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The string form of a label selector object, or of the plain map that replication controllers have.
fn selector(selector: &Value) -> Option<String> {
    let map = selector.as_object()?;
    if map.contains_key("matchLabels") || map.contains_key("matchExpressions") {
        return LabelSelector::from_object(selector).ok().map(|selector| selector.to_string());
    }
    let labels = map.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    Some(LabelSelector::from_labels(labels).to_string())
}

fn respond(scale: &Value) -> Response<Body> {
    output::value(scale, StatusCode::OK)
}

/// Answers a GET of the scale.
pub(super) async fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let snapshot = call.server.snapshot();
    let stored = snapshot.get(&call.served.collection, &call.path());
    let stored = stored.ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?;
    Ok(respond(&scale_of(call, &write::load(call, stored).await?)))
}

/// Answers a PUT of the scale.
pub(super) async fn update(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut scale = receive::decode(call, body)?.value;
    check(call, &mut scale)?;
    set(call, &options, |_| Ok(scale.clone())).await
}

/// Answers a PATCH of the scale.
pub(super) async fn patch(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let patch = patch::decode(call, body)?;
    let schema = schema::builtin().get(SCALE_TYPE).ok_or_else(|| ApiError::internal("the type Scale is missing"))?;
    set(call, &options, |live| {
        let mut scale = match &patch {
            // an applied Scale sets the replicas, which is all a Scale can set
            Patch::Apply { config, .. } => {
                let mut scale = live.clone();
                schema::patch::merge(&mut scale, config);
                scale
            }
            other => other.patched(&schema, live)?,
        };
        check(call, &mut scale)?;
        if scale["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"] {
            meta::of(&mut scale).remove("resourceVersion");
        }
        Ok(scale)
    })
    .await
}

fn check(call: &Call, scale: &mut Value) -> Result<(), ApiError> {
    if let Some(kind) = scale["kind"].as_str().filter(|kind| *kind != "Scale") {
        return Err(ApiError::bad_request(format!("{kind} cannot be handled as a Scale")));
    }
    let replicas = &scale["spec"]["replicas"];
    let wrong = |message: String| {
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: "spec.replicas".into() };
        ApiError::invalid("autoscaling", "Scale", &call.name, vec![cause])
    };
    match replicas {
        Value::Null => {
            scale["spec"]["replicas"] = 0.into();
            Ok(())
        }
        _ => match replicas.as_i64() {
            Some(count) if count < 0 => {
                Err(wrong(format!("Invalid value: {count}: must be greater than or equal to 0")))
            }
            Some(_) => Ok(()),
            None => Err(ApiError::bad_request(format!("spec.replicas must be an integer, not {replicas}"))),
        },
    }
}

async fn set(
    call: &Call,
    options: &WriteOptions,
    wanted: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let view = ScaleView(call);
    let pointer = paths(call).spec_replicas;
    let mut main = call.about(&call.served, &call.path());
    // whoever scales owns the replicas through this door
    main.subresource = "scale".into();
    let change = |old: &Value| {
        let wanted = wanted(&scale_of(call, old))?;
        let mut object = old.clone();
        put(&mut object, &pointer, wanted["spec"]["replicas"].clone());
        match wanted["metadata"]["resourceVersion"].as_str() {
            Some(version) => object["metadata"]["resourceVersion"] = version.into(),
            None => {
                meta::of(&mut object).remove("resourceVersion");
            }
        }
        Ok(Change { object, ownership: Ownership::Track })
    };
    let outcome = update::change_object(&main, options, Gate::Shown(call, &view), change).await?;
    let object = output::served(call, outcome.object)?;
    Ok(respond(&scale_of(call, &object)))
}

/// Admission sees the Scale, not what is scaled.
struct ScaleView<'a>(&'a Call);

impl View for ScaleView<'_> {
    fn show(&self, object: &Value) -> Value {
        scale_of(self.0, object)
    }

    fn take(&self, scale: &Value, object: &mut Value) {
        put(object, &paths(self.0).spec_replicas, scale["spec"]["replicas"].clone());
    }
}

/// Sets the value at a pointer, making the objects on the way.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for name in pointer.trim_start_matches('/').split('/') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_take_their_string_form() {
        assert_eq!(selector(&json!({"matchLabels": {"a": "b"}})).as_deref(), Some("a=b"));
        assert_eq!(selector(&json!({"a": "b"})).as_deref(), Some("a=b"));
        assert_eq!(selector(&Value::Null), None);
    }

    #[test]
    fn a_missing_spec_is_made_for_the_replicas() {
        let mut object = json!({"metadata": {}});
        put(&mut object, "/spec/size/count", 3.into());
        assert_eq!(object["spec"]["size"]["count"], 3);
    }
}
