//! Events. Upstream means to keep fields of an `events.k8s.io` event from changing and compares the new event with itself:
//! whatever changes is taken, and clients (the conformance suite among them) rely on it.

use serde_json::Value;

use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    names,
    tree::{self, int, some, text, text_at},
};

/// Longest texts of an event, in bytes.
const INSTANCE_BYTES_MAX: usize = 128;
const ACTION_BYTES_MAX: usize = 128;
const REASON_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

/// Events, of the core group and of `events.k8s.io`.
pub(crate) struct Event;

impl Strategy for Event {
    fn check(&self, cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let key = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
        let subject = text_at(object, &[key, "namespace"]);
        let namespace = tree::namespace(object);
        let dated = some(object, "eventTime").is_some();
        // Events about objects without a namespace stand in `default`, or where the system keeps its own.
        let matches = if subject.is_empty() {
            namespace == "default" || dated && namespace == "kube-system"
        } else {
            dated || subject == namespace
        };
        if !matches {
            let path = Path::new("involvedObject");
            errors.invalid(&path.child("namespace"), subject, "does not match event.namespace");
        }
        if dated {
            check_report(object, errors);
        }
        if cx.resource.group == "events.k8s.io" && old.is_none() {
            check_new(object, errors);
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let key = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
        let subject = |field: &str| text_at(object, &[key, field]).to_owned();
        let first = |options: [&[&str]; 2]| {
            let [one, other] = options.map(|keys| text_at(object, keys));
            if one.is_empty() { other.to_owned() } else { one.to_owned() }
        };
        let component = first([&["reportingComponent"], &["reportingController"]]);
        let source = first([&["source", "component"], &["deprecatedSource", "component"]]);
        vec![
            ("involvedObject.kind", subject("kind")),
            ("involvedObject.namespace", subject("namespace")),
            ("involvedObject.name", subject("name")),
            ("involvedObject.uid", subject("uid")),
            ("involvedObject.apiVersion", subject("apiVersion")),
            ("involvedObject.resourceVersion", subject("resourceVersion")),
            ("involvedObject.fieldPath", subject("fieldPath")),
            ("regarding.kind", subject("kind")),
            ("regarding.namespace", subject("namespace")),
            ("regarding.name", subject("name")),
            ("regarding.uid", subject("uid")),
            ("regarding.apiVersion", subject("apiVersion")),
            ("regarding.resourceVersion", subject("resourceVersion")),
            ("regarding.fieldPath", subject("fieldPath")),
            ("reason", text(object, "reason").to_owned()),
            ("reportingComponent", component.clone()),
            ("reportingController", component.clone()),
            // an event of the newer kind has no source of its own
            ("source", if source.is_empty() { component } else { source }),
            ("type", text(object, "type").to_owned()),
        ]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// Checks who reports, and what: an event with a time of its own says both.
fn check_report(object: &Value, errors: &mut FieldErrors) {
    // the core group calls the controller a component
    let either = |one: &str, other: &str| {
        let value = text(object, one);
        if value.is_empty() { text(object, other).to_owned() } else { value.to_owned() }
    };
    let controller = either("reportingController", "reportingComponent");
    let path = Path::new("reportingController");
    if controller.is_empty() {
        errors.required(&path, "");
    } else if let Some(message) = names::qualified(&controller) {
        errors.invalid(&path, controller, message);
    }
    for (key, value, max) in [
        ("reportingInstance", text(object, "reportingInstance").to_owned(), INSTANCE_BYTES_MAX),
        ("action", text(object, "action").to_owned(), ACTION_BYTES_MAX),
        ("reason", text(object, "reason").to_owned(), REASON_BYTES_MAX),
    ] {
        if value.is_empty() {
            errors.required(&Path::new(key), "");
        } else if value.len() > max {
            errors.invalid(&Path::new(key), "", format!("can have at most {max} characters"));
        }
    }
    if either("note", "message").len() > NOTE_BYTES_MAX {
        errors.invalid(&Path::new("message"), "", format!("can have at most {NOTE_BYTES_MAX} characters"));
    }
}

/// Checks what a new event of `events.k8s.io` must and must not carry.
fn check_new(object: &Value, errors: &mut FieldErrors) {
    if some(object, "eventTime").is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(object, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    for (key, name) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let set = some(object, key).is_some_and(|value| !tree::is_empty(value) && value.as_i64() != Some(0));
        if set {
            errors.invalid(&Path::new(name), "", "needs to be unset");
        }
    }
    check_series(object, errors);
}

fn check_series(object: &Value, errors: &mut FieldErrors) {
    let Some(series) = some(object, "series") else { return };
    if int(series, "count").unwrap_or(0) < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if some(series, "lastObservedTime").is_none() {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}
