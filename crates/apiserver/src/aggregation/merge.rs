//! What aggregated servers add to this server's discovery and OpenAPI documents. Pure.

use std::{cmp::Reverse, sync::Arc};

use serde_json::{Map, Value, json};

use super::Remote;
use crate::resources::version_priority;

/// Priorities that this server's own groups of definitions have.
const OWN_GROUP: i64 = 1000;
const OWN_VERSION: i64 = 100;

/// Adds group-versions to a list of groups, each with `versions`; `named` and `entry` make a group and a version of one
/// of them. Groups that rank above those of definitions come before these, which begin at `custom`.
fn add(
    groups: &mut Vec<Value>,
    custom: usize,
    remotes: &[Arc<Remote>],
    name: impl Fn(&Value) -> String,
    new: impl Fn(&str) -> Value,
    entry: impl Fn(&Remote) -> Value,
) {
    let mut sorted: Vec<&Arc<Remote>> = remotes.iter().filter(|remote| !remote.group.is_empty()).collect();
    sorted.sort_by_key(|remote| (Reverse(remote.group_priority), remote.group.clone()));
    let mut at = custom.min(groups.len());
    for remote in sorted {
        let known = groups.iter().position(|group| name(group) == remote.group);
        let index = known.unwrap_or_else(|| {
            let index = if remote.group_priority > OWN_GROUP { at } else { groups.len() };
            at += usize::from(remote.group_priority > OWN_GROUP);
            groups.insert(index, new(&remote.group));
            index
        });
        let Some(versions) = groups[index]["versions"].as_array_mut() else { continue };
        versions.retain(|known| known["version"] != remote.version.as_str());
        versions.push(entry(remote));
        let priority = |version: &Value| {
            let version = version["version"].as_str().unwrap_or_default();
            let own = remotes.iter().find(|known| known.group == remote.group && known.version == version);
            (own.map_or(OWN_VERSION, |remote| remote.version_priority), version_priority(version))
        };
        versions.sort_by_key(|version| Reverse(priority(version)));
    }
}

/// Adds to the groups of an APIGroupList.
pub(crate) fn classic(groups: &mut Vec<Value>, custom: usize, remotes: &[Arc<Remote>]) {
    let name = |group: &Value| group["name"].as_str().unwrap_or_default().to_owned();
    let new = |name: &str| json!({"name": name, "versions": []});
    add(
        groups,
        custom,
        remotes,
        name,
        new,
        |remote| json!({"groupVersion": format!("{}/{}", remote.group, remote.version), "version": remote.version}),
    );
    for group in groups {
        group["preferredVersion"] = group["versions"][0].clone();
    }
}

/// Adds to the items of an APIGroupDiscoveryList.
pub(crate) fn aggregated(groups: &mut Vec<Value>, custom: usize, remotes: &[Arc<Remote>]) {
    let name = |group: &Value| group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let new = |name: &str| json!({"metadata": {"name": name}, "versions": []});
    add(groups, custom, remotes, name, new, |remote| {
        let said = remote.discovered.load();
        let resources = said.as_ref().map_or_else(|| json!([]), |said| said.resources.clone());
        let freshness = if remote.available && said.is_some() { "Current" } else { "Stale" };
        json!({"version": remote.version, "resources": resources, "freshness": freshness})
    });
}

/// The resources of an APIResourceList as aggregated discovery lists them.
pub(super) fn resources(remote: &Remote, list: &Value) -> Value {
    let listed = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = |resource: &Value| {
        let or = |field: &str, own: &str| resource[field].as_str().unwrap_or(own).to_owned();
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": resource["kind"]})
    };
    let mut found: Vec<Value> = Vec::new();
    for resource in listed.iter().filter(|resource| !text(&resource["name"]).contains('/')) {
        let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut entry = json!({"resource": resource["name"], "responseKind": kind(resource), "scope": scope,
            "singularResource": text(&resource["singularName"]), "verbs": resource["verbs"]});
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry[field] = resource[field].clone();
            }
        }
        found.push(entry);
    }
    for resource in listed {
        let name = text(&resource["name"]);
        let Some((main, sub)) = name.split_once('/') else { continue };
        let entry = json!({"subresource": sub, "responseKind": kind(resource), "verbs": resource["verbs"]});
        if let Some(parent) = found.iter_mut().find(|known| known["resource"] == main) {
            match parent["subresources"].as_array_mut() {
                Some(list) => list.push(entry),
                None => parent["subresources"] = json!([entry]),
            }
        }
    }
    Value::Array(found)
}

/// Adds paths and types to an OpenAPI v2 document. What this server knows already stays as it is.
pub(crate) fn open_api_v2(document: &mut Value, remotes: &[Arc<Remote>]) {
    for remote in remotes {
        let said = remote.discovered.load();
        let Some(theirs) = said.as_ref().and_then(|said| said.open_api_v2.as_ref()) else { continue };
        let below = format!("{}/", remote.path());
        add_missing(document, theirs, "paths", |path| path.starts_with(&below));
        add_missing(document, theirs, "definitions", |_| true);
        // their paths refer to theirs
        add_missing(document, theirs, "parameters", |_| true);
    }
}

fn add_missing(document: &mut Value, theirs: &Value, part: &str, wanted: impl Fn(&str) -> bool) {
    let none = Map::new();
    let Some(ours) = document.get_mut(part).and_then(Value::as_object_mut) else { return };
    for (key, value) in theirs[part].as_object().unwrap_or(&none).iter().filter(|(key, _)| wanted(key)) {
        if !ours.contains_key(key) {
            ours.insert(key.clone(), value.clone());
        }
    }
}

/// Adds group-versions to the index of OpenAPI v3 documents.
pub(crate) fn open_api_v3(index: &mut Value, remotes: &[Arc<Remote>]) {
    for remote in remotes {
        let said = remote.discovered.load();
        if let Some(url) = said.as_ref().and_then(|said| said.open_api_v3.as_ref()) {
            index["paths"][remote.path().trim_start_matches('/')] = json!({"serverRelativeURL": url});
        }
    }
}
