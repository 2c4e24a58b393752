//! What the tests of strategies share.

use kinds::{GroupVersionKind, Resource, Subresource};
use serde_json::Value;

use super::{Strategy, WriteContext, of};
use crate::User;

/// A row for `plural` of `group`, with a status subresource.
pub(crate) fn resource(group: &str, plural: &str) -> Resource {
    let cluster_scoped = [
        "namespaces",
        "nodes",
        "persistentvolumes",
        "storageclasses",
        "priorityclasses",
        "clusterroles",
        "clusterrolebindings",
        "customresourcedefinitions",
        "ingressclasses",
        "runtimeclasses",
    ];
    Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        singular: plural.trim_end_matches('s').to_owned(),
        kind: String::new(),
        list_kind: String::new(),
        namespaced: !cluster_scoped.contains(&plural),
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: Vec::new(),
        subresources: vec![Subresource {
            name: "status".to_owned(),
            kind: GroupVersionKind { group: group.to_owned(), version: "v1".to_owned(), kind: String::new() },
            verbs: Vec::new(),
        }],
        schema: "io.k8s.x".to_owned(),
    }
}

/// Runs `act` with the context of a write.
pub(crate) fn with<R>(resource: &Resource, act: impl FnOnce(&dyn Strategy, &WriteContext<'_>) -> R) -> R {
    let user = User::new("tester", &[]);
    let cx =
        WriteContext { now: jiff::Timestamp::UNIX_EPOCH, resource, subresource: None, user: &user, dry_run: false };
    act(of(resource), &cx)
}

/// Defaults and prepares a new object.
pub(crate) fn prepared(resource: &Resource, mut object: Value) -> Value {
    with(resource, |strategy, cx| {
        strategy.default(&mut object);
        strategy.prepare_create(cx, &mut object);
    });
    object
}

/// What is wrong with a new object, after defaults.
pub(crate) fn created(resource: &Resource, object: Value) -> String {
    let object = prepared(resource, object);
    with(resource, |strategy, cx| strategy.validate_create(cx, &object)).to_string()
}

/// What is wrong with a change, after defaults.
pub(crate) fn updated(resource: &Resource, mut new: Value, old: &Value) -> String {
    with(resource, |strategy, cx| {
        strategy.default(&mut new);
        strategy.prepare_update(cx, &mut new, old);
        strategy.validate_update(cx, &new, old)
    })
    .to_string()
}

/// What is wrong with a change of the status.
pub(crate) fn status_updated(resource: &Resource, mut new: Value, old: &Value) -> String {
    with(resource, |strategy, cx| {
        let cx = WriteContext { now: cx.now, resource, subresource: Some("status"), user: cx.user, dry_run: false };
        strategy.prepare_update(&cx, &mut new, old);
        strategy.validate_update(&cx, &new, old)
    })
    .to_string()
}
