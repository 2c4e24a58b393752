//! Claims and volumes in one line each.
//!
//! A volume is `name size phase` and then what it has of `=claim` or `=claim:uid` (its claim), `c` (bound by the
//! controller), `p` (made by an outside provisioner), `k` (by a built-in one), `l` (labels), and `class=`, `policy=`, `mode=`.
//! A claim is called `claim` with the uid `uid`; it is `size phase` and then `>volume`, `c`, `b` (binding completed), `n` (a
//! node is selected), `l` (a selector), `class=`, `mode=`, `access=`, `got=` (its capacity).

use serde_json::{Map, Value, json};

use super::super::*;

/// No event.
pub(super) const NOT_SET: &str = "-";

fn words(text: &str) -> (Vec<&str>, Map<String, Value>) {
    let mut pairs = Map::new();
    let mut plain = Vec::new();
    for word in text.split(' ') {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                pairs.insert(key.to_owned(), value.into());
            }
            _ => plain.push(word),
        }
    }
    (plain, pairs)
}

pub(super) fn volume(text: &str) -> PersistentVolume {
    let (plain, pairs) = words(text);
    let has = |mark: &str| plain[3..].contains(&mark);
    let mut annotations = json!({});
    for (mark, name, value) in [
        ("c", BOUND, "yes"),
        ("p", facts::PROVISIONED_BY, "external.io/test"),
        ("k", facts::PROVISIONED_BY, "kubernetes.io/x"),
    ] {
        if has(mark) {
            annotations[name] = value.into();
        }
    }
    let claim = plain[3..].iter().find_map(|word| word.strip_prefix('=')).map(|claim| {
        let (name, uid) = claim.split_once(':').map_or((claim, Value::Null), |(name, uid)| (name, uid.into()));
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "ns", "name": name, "uid": uid})
    });
    let labels = if has("l") { json!({"foo": "true"}) } else { Value::Null };
    serde_json::from_value(json!({
        "metadata": {"name": plain[0], "annotations": annotations, "labels": labels},
        "spec": {
            "capacity": {"storage": plain[1]}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "claimRef": claim,
            "storageClassName": pairs.get("class"), "volumeMode": pairs.get("mode"),
            "persistentVolumeReclaimPolicy": pairs.get("policy").cloned().unwrap_or("Retain".into()),
        },
        "status": {"phase": plain[2]},
    }))
    .unwrap()
}

const BOUND: &str = facts::BOUND_BY_CONTROLLER;

pub(super) fn show_volume(volume: &PersistentVolume, like: &str) -> String {
    let mut text = like.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    text.push(facts::volume_phase(volume).to_owned());
    if let Some(key) = claim_of(volume) {
        let uid = facts::claim_uid(volume).map_or(String::new(), |uid| format!(":{uid}"));
        text.push(format!("={}{uid}", key.name));
    }
    text.extend(has(volume, BOUND).then(|| "c".to_owned()));
    let kept =
        |word: &&str| ["p", "k", "l"].contains(word) || word.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    text.extend(like.split(' ').skip(3).filter(kept).map(str::to_owned));
    text.join(" ")
}

pub(super) fn claim(text: &str) -> PersistentVolumeClaim {
    let (plain, pairs) = words(text);
    let has = |mark: &str| plain[2..].contains(&mark);
    let mut annotations = json!({});
    for (mark, name) in [("c", BOUND), ("b", BIND_COMPLETED), ("n", facts::SELECTED_NODE)] {
        if has(mark) {
            annotations[name] = "yes".into();
        }
    }
    let selector = if has("l") { json!({"matchLabels": {"foo": "true"}}) } else { Value::Null };
    let access = pairs.get("access").map_or(json!(["ReadWriteOnce", "ReadOnlyMany"]), |mode| json!([mode]));
    serde_json::from_value(json!({
        "metadata": {"name": "claim", "namespace": "ns", "uid": "uid", "annotations": annotations},
        "spec": {
            "accessModes": access, "resources": {"requests": {"storage": plain[0]}}, "selector": selector,
            "storageClassName": pairs.get("class"), "volumeMode": pairs.get("mode"),
            "volumeName": plain[2..].iter().find_map(|word| word.strip_prefix('>')),
        },
        "status": {"phase": plain[1], "capacity": pairs.get("got").map(|size| json!({"storage": size}))},
    }))
    .unwrap()
}

pub(super) fn show_claim(claim: &PersistentVolumeClaim, like: &str) -> String {
    let mut text = vec![like.split(' ').next().unwrap().to_owned(), facts::claim_phase(claim).to_owned()];
    text.extend(volume_name(claim).map(|name| format!(">{name}")));
    text.extend(has(claim, BOUND).then(|| "c".to_owned()));
    text.extend(has(claim, BIND_COMPLETED).then(|| "b".to_owned()));
    let kept = |word: &&str| ["n", "l"].contains(word) || (word.contains('=') && !word.starts_with("got="));
    text.extend(like.split(' ').skip(2).filter(kept).map(str::to_owned));
    let got = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage").cloned());
    text.extend(got.map(|got| format!("got={}", got.0)));
    text.join(" ")
}
