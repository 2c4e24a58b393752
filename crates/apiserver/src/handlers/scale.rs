//! The `scale` subresource: `autoscaling/v1` Scale in front of whatever counts replicas.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use schema::{apply::Operation, selector::LabelSelector};
use serde_json::{Value, json};

use super::{
    admit::{Gate, View},
    create::Ownership,
    patch::{self, Patch},
    receive::{self, Expected},
    update::{self, Change},
    write,
};
use crate::{
    body::Body,
    crd::ScalePaths,
    dispatch::Call,
    meta,
    options::WriteOptions,
    output::{self, Payload},
    status::{ApiError, Cause},
};

/// Where the object of a call keeps what Scale shows.
fn paths(call: &Call) -> ScalePaths {
    let declared = call.served.version().and_then(|version| version.scale.clone());
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
    let selector = match (&paths.label_selector, call.served.is_custom()) {
        (Some(pointer), _) => object.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
        (None, true) => None,
        (None, false) => selector(&object["spec"]["selector"]),
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

/// Answers a GET of the scale.
pub(super) async fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let snapshot = call.server.snapshot();
    let stored = snapshot.get(&call.served.collection, &call.path());
    let stored = stored.ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?;
    let scale = scale_of(call, &*write::load(call, stored).await?);
    output::object(call, Payload::Served(scale), StatusCode::OK)
}

/// Answers a PUT of the scale.
pub(super) async fn update(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut scale = receive::object(call, body, options.field_validation)?;
    receive::check_address(call, &mut scale)?;
    check(call, &mut scale)?;
    set(call, &options, |_| Ok(scale.clone())).await
}

/// Answers a PATCH of the scale.
pub(super) async fn patch(call: &Arc<Call>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let patch = patch::decode(call, body)?;
    if let Patch::Apply { config, .. } = patch {
        return apply(call, &options, config).await;
    }
    set(call, &options, |live| {
        let mut scale = patch.outcome(call, &options, live)?;
        check(call, &mut scale)?;
        if scale["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"] {
            meta::of(&mut scale).remove("resourceVersion");
        }
        Ok(scale)
    })
    .await
}

/// Answers an apply of a Scale: who applies it owns the field that counts the replicas, in the object itself.
async fn apply(call: &Call, options: &WriteOptions, mut config: Value) -> Result<Response<Body>, ApiError> {
    let expected = Expected::at(call)?;
    receive::check_kind(&expected, &mut config)?;
    receive::check_declared(call, &expected, &mut config)?;
    receive::check_address(call, &mut config)?;
    let replicas = config.pointer("/spec/replicas").cloned();
    check(call, &mut config)?;
    let pointer = paths(call).spec_replicas;
    let main = main(call);
    let mut wanted = json!({"apiVersion": call.served.api_version, "kind": call.served.resource.kind,
        "metadata": {"name": call.name}});
    if call.served.resource.namespaced {
        wanted["metadata"]["namespace"] = call.namespace.as_str().into();
    }
    if let Some(replicas) = replicas {
        put(&mut wanted, &pointer, replicas);
    }
    let manager = write::manager(&main, options, Operation::Apply);
    let force = options.force == Some(true);
    let change = |old: &Value| {
        check_uid(call, &config, old)?;
        let merged = schema::apply::apply(call.served.schema(), Some(old), &wanted, &manager, force);
        let mut object = merged.map_err(write::apply_failed)?.object;
        if object.pointer(&pointer).is_none() {
            put(&mut object, &pointer, 0.into());
        }
        expect(&mut object, &config);
        Ok(Change { object, ownership: Ownership::Applied })
    };
    store(call, &main, options, change).await
}

/// The same request about the object itself: whoever scales owns the replicas through this door.
fn main(call: &Call) -> Call {
    let mut main = call.about(&call.served, &call.path());
    main.subresource = "scale".into();
    main
}

/// Has the object insist on the version that a Scale names.
fn expect(object: &mut Value, scale: &Value) {
    match scale["metadata"]["resourceVersion"].as_str() {
        Some(version) => object["metadata"]["resourceVersion"] = version.into(),
        None => {
            meta::of(object).remove("resourceVersion");
        }
    }
}

fn check_uid(call: &Call, scale: &Value, object: &Value) -> Result<(), ApiError> {
    let (wanted, live) = (meta::uid(scale), meta::uid(object));
    if wanted.is_empty() || wanted == live {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {live}");
    Err(ApiError::conflict(call.group_resource(), &call.name, why))
}

/// Checks the replicas, which are none where a Scale does not say.
fn check(call: &Call, scale: &mut Value) -> Result<(), ApiError> {
    let count = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
    if count < 0 {
        let message = format!("Invalid value: {count}: must be greater than or equal to 0");
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: "spec.replicas".into() };
        return Err(ApiError::invalid("autoscaling", "Scale", &call.name, vec![cause]));
    }
    put(scale, "/spec/replicas", count.into());
    Ok(())
}

async fn set(
    call: &Call,
    options: &WriteOptions,
    wanted: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let pointer = paths(call).spec_replicas;
    let change = |old: &Value| {
        let wanted = wanted(&scale_of(call, old))?;
        check_uid(call, &wanted, old)?;
        let mut object = old.clone();
        put(&mut object, &pointer, wanted["spec"]["replicas"].clone());
        expect(&mut object, &wanted);
        Ok(Change { object, ownership: Ownership::Track })
    };
    store(call, &main(call), options, change).await
}

async fn store(
    call: &Call,
    main: &Call,
    options: &WriteOptions,
    change: impl FnMut(&Value) -> Result<Change, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let outcome = update::change_object(main, options, Gate::Shown(call, &ScaleView(call)), change).await?;
    let object = output::served(call, outcome.object)?;
    output::object(call, Payload::Served(scale_of(call, &object)), StatusCode::OK)
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
