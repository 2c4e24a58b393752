//! Upstream's tables for its binder, by their numbers; [`notation`] says how objects are written.

mod notation;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use notation::{NOT_SET, claim, show_claim, show_volume, volume};

/// What a merge patch does.
fn merge<T: serde::Serialize + serde::de::DeserializeOwned>(object: &T, patch: &Value) -> T {
    fn into(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                into(&mut target[key], value);
            }
        }
    }
    let mut value = serde_json::to_value(object).unwrap();
    into(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

fn apply(change: &Change, volume: &mut PersistentVolume, claim: &mut PersistentVolumeClaim) {
    match change {
        Change::Volume(patch) => *volume = merge(volume, patch),
        Change::VolumeStatus(status) => *volume = merge(volume, &json!({"status": status})),
        Change::Claim(patch) => *claim = merge(claim, patch),
        Change::ClaimStatus(status) => *claim = merge(claim, &json!({"status": status})),
    }
}

fn class(name: &str) -> Option<Arc<StorageClass>> {
    let (provisioner, mode) = match name {
        "wait" => ("external.io/test", "WaitForFirstConsumer"),
        "outside" => ("external.io/test", "Immediate"),
        "built-in" => ("kubernetes.io/no-provisioner", "Immediate"),
        _ => return None,
    };
    let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    Some(Arc::new(serde_json::from_value(class).unwrap()))
}

/// What a claim and its volumes become, and the reason of the event.
fn sync_claim(volumes: &[&str], before: &str, pods: &[&str]) -> (Vec<String>, String, String) {
    let mut held = claim(before);
    let mut all: Vec<PersistentVolume> = volumes.iter().map(|text| volume(text)).collect();
    let offers: Vec<_> = all.iter().cloned().map(Arc::new).collect();
    let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
    let around = Surroundings {
        named: offers.iter().find(|volume| volume_name(&held) == Some(&volume.name_any())).cloned(),
        offers: &offers,
        class: class(claim_class(&held)),
        default_class: None,
        unscheduled: &pods,
    };
    let mut event = NOT_SET.to_owned();
    let mut told = |telling: Telling| {
        event = format!("{} {}", if telling.is_warning { "Warning" } else { "Normal" }, telling.reason);
    };
    let status = |held: &mut PersistentVolumeClaim, phase| {
        if let Some(change) = binding::claim_status(held, phase, None) {
            apply(&change, &mut volume("x 1 x"), held);
        }
    };
    match steps::of_claim(&held, around) {
        ClaimStep::Bind(chosen) => {
            let at = all.iter().position(|volume| volume.name_any() == chosen.name_any()).unwrap();
            let mut writes = 0;
            while let Some(change) = binding::bind(&all[at], &held) {
                apply(&change, &mut all[at], &mut held);
                writes += 1;
                assert!(writes <= BINDING_WRITES_MAX, "{before}");
            }
        }
        ClaimStep::Wait(telling) => {
            telling.into_iter().for_each(&mut told);
            status(&mut held, "Pending");
        }
        ClaimStep::Lose(telling) => {
            told(telling);
            status(&mut held, "Lost");
        }
        ClaimStep::Broken(telling) => told(telling),
        ClaimStep::Provision { by, .. } => told(steps::awaiting(&by)),
        ClaimStep::TakeClass(class) => panic!("nobody offers {class}"),
        ClaimStep::Rest => {}
    }
    let shown = all.iter().zip(volumes).map(|(volume, like)| show_volume(volume, like)).collect();
    (shown, show_claim(&held, before), event)
}

type Row<'a> = (&'a str, &'a [&'a str], &'a str, &'a [&'a str], &'a str, &'a str);

fn check_claims(rows: &[Row<'_>]) {
    for (title, volumes, before, expected, after, event) in rows {
        let (shown, claim, told) = sync_claim(volumes, before, &[]);
        assert_eq!(shown, *expected, "{title}: the volumes");
        assert_eq!((claim.as_str(), told.as_str()), (*after, *event), "{title}: the claim");
    }
}

#[test]
fn unbound_claims_take_what_fits() {
    const BOUND_V: &[&str] = &["v 1Gi Bound =claim:uid c"];
    check_claims(&[
        ("1-1", &["v 1Gi Available"], "1Gi Pending", BOUND_V, "1Gi Bound >v c b got=1Gi", "-"),
        (
            "1-2 too small",
            &["v 1Gi Available"],
            "10Gi Pending",
            &["v 1Gi Available"],
            "10Gi Pending",
            "Normal FailedBinding",
        ),
        ("1-3", &["v 1Gi Available"], "10Gi Bound", &["v 1Gi Available"], "10Gi Pending", "Normal FailedBinding"),
        (
            "1-4 the smallest",
            &["a 10Gi Available", "b 1Gi Available"],
            "1Gi Pending",
            &["a 10Gi Available", "b 1Gi Bound =claim:uid c"],
            "1Gi Bound >b c b got=1Gi",
            "-",
        ),
        (
            "1-5 set aside by name",
            &["a 10Gi Available =claim", "b 1Gi Available"],
            "1Gi Pending",
            &["a 10Gi Bound =claim:uid", "b 1Gi Available"],
            "1Gi Bound >a c b got=10Gi",
            "-",
        ),
        (
            "1-6 by uid",
            &["a 10Gi Available =claim:uid", "b 1Gi Available"],
            "1Gi Pending",
            &["a 10Gi Bound =claim:uid", "b 1Gi Available"],
            "1Gi Bound >a c b got=10Gi",
            "-",
        ),
        (
            "1-7 for another",
            &["v 10Gi Available =claim:other"],
            "1Gi Pending",
            &["v 10Gi Available =claim:other"],
            "1Gi Pending",
            "Normal FailedBinding",
        ),
        (
            "1-8 after a crash",
            &["v 1Gi Available =claim:uid c"],
            "1Gi Pending",
            BOUND_V,
            "1Gi Bound >v c b got=1Gi",
            "-",
        ),
        ("1-9 after a crash", BOUND_V, "1Gi Pending", BOUND_V, "1Gi Bound >v c b got=1Gi", "-"),
        ("1-10 after a crash", BOUND_V, "1Gi Pending >v c b", BOUND_V, "1Gi Bound >v c b got=1Gi", "-"),
        (
            "1-11 selector",
            &["v 1Gi Available l"],
            "1Gi Pending l",
            &["v 1Gi Bound =claim:uid c l"],
            "1Gi Bound >v c b l got=1Gi",
            "-",
        ),
        (
            "1-12 selector",
            &["v 1Gi Available"],
            "1Gi Pending l",
            &["v 1Gi Available"],
            "1Gi Pending l",
            "Normal FailedBinding",
        ),
        (
            "1-13 delayed",
            &["v 1Gi Available class=wait"],
            "1Gi Pending class=wait",
            &["v 1Gi Available class=wait"],
            "1Gi Pending class=wait",
            "Normal WaitForFirstConsumer",
        ),
        (
            "1-14 delayed, set aside",
            &["v 1Gi Available =claim class=wait"],
            "1Gi Pending class=wait",
            &["v 1Gi Bound =claim:uid class=wait"],
            "1Gi Bound >v c b class=wait got=1Gi",
            "-",
        ),
        (
            "1-17 not available",
            &["a 1Gi Pending", "b 1Gi Failed", "c 1Gi Released"],
            "1Gi Pending",
            &["a 1Gi Pending", "b 1Gi Failed", "c 1Gi Released"],
            "1Gi Pending",
            "Normal FailedBinding",
        ),
        (
            "1-18 provisioned for a node",
            &["v 1Gi Available =claim:uid class=wait"],
            "1Gi Pending n class=wait",
            &["v 1Gi Bound =claim:uid class=wait"],
            "1Gi Bound >v c b n class=wait got=1Gi",
            "-",
        ),
        (
            "13-5 no class",
            &["v 1Gi Available class=gold"],
            "1Gi Pending class=silver",
            &["v 1Gi Available class=gold"],
            "1Gi Pending class=silver",
            "Warning ProvisioningFailed",
        ),
        (
            "built in",
            &[],
            "1Gi Pending class=built-in",
            &[],
            "1Gi Pending class=built-in",
            "Warning ProvisioningFailed",
        ),
        ("outside", &[], "1Gi Pending class=outside", &[], "1Gi Pending class=outside", "Normal ExternalProvisioning"),
        (
            "outside, delayed",
            &[],
            "1Gi Pending n class=wait",
            &[],
            "1Gi Pending n class=wait",
            "Normal ExternalProvisioning",
        ),
        (
            "14-8-1 mode",
            &["v 1Gi Available =claim mode=Block"],
            "1Gi Pending mode=Filesystem",
            &["v 1Gi Available =claim mode=Block"],
            "1Gi Pending mode=Filesystem",
            "Normal FailedBinding",
        ),
    ]);
}

#[test]
fn claims_that_name_a_volume_get_that_or_none() {
    check_claims(&[
        (
            "1-15",
            &["a 10Gi Available", "b 1Gi Available"],
            "1Gi Pending >a",
            &["a 10Gi Bound =claim:uid c", "b 1Gi Available"],
            "1Gi Bound >a b got=10Gi",
            "-",
        ),
        (
            "1-16 access",
            &["v 1Gi Available"],
            "1Gi Pending >v access=ReadWriteMany",
            &["v 1Gi Available"],
            "1Gi Pending >v access=ReadWriteMany",
            "Warning VolumeMismatch",
        ),
        ("2-1 absent", &[], "10Gi Pending >v", &[], "10Gi Pending >v", "-"),
        ("2-2 absent", &[], "10Gi Bound >v got=10Gi", &[], "10Gi Pending >v", "-"),
        ("2-3", &["v 1Gi Available"], "1Gi Pending >v", &["v 1Gi Bound =claim:uid c"], "1Gi Bound >v b got=1Gi", "-"),
        (
            "2-4",
            &["v 1Gi Available =claim"],
            "1Gi Pending >v",
            &["v 1Gi Bound =claim:uid"],
            "1Gi Bound >v b got=1Gi",
            "-",
        ),
        (
            "2-5",
            &["v 1Gi Available =claim:uid"],
            "1Gi Pending >v",
            &["v 1Gi Bound =claim:uid"],
            "1Gi Bound >v b got=1Gi",
            "-",
        ),
        (
            "2-6 taken",
            &["v 1Gi Bound =other:x"],
            "1Gi Bound >v",
            &["v 1Gi Bound =other:x"],
            "1Gi Pending >v",
            "Warning FailedBinding",
        ),
        (
            "2-7 taken",
            &["v 1Gi Bound =other:x"],
            "1Gi Bound >v c",
            &["v 1Gi Bound =other:x"],
            "1Gi Bound >v c",
            "Warning FailedBinding",
        ),
        (
            "2-8 a selector does not matter",
            &["v 1Gi Available"],
            "1Gi Pending >v l",
            &["v 1Gi Bound =claim:uid c"],
            "1Gi Bound >v b l got=1Gi",
            "-",
        ),
        (
            "2-9 size",
            &["v 1Gi Available"],
            "2Gi Bound >v",
            &["v 1Gi Available"],
            "2Gi Pending >v",
            "Warning VolumeMismatch",
        ),
        (
            "2-10 class",
            &["v 1Gi Available class=gold"],
            "1Gi Bound >v",
            &["v 1Gi Available class=gold"],
            "1Gi Pending >v",
            "Warning VolumeMismatch",
        ),
        (
            "14-8 mode",
            &["v 1Gi Available mode=Block"],
            "1Gi Pending >v",
            &["v 1Gi Available mode=Block"],
            "1Gi Pending >v",
            "Warning VolumeMismatch",
        ),
    ]);
}

#[test]
fn bound_claims_keep_their_volume_or_are_lost() {
    check_claims(&[
        ("3-1", &[], "10Gi Bound c b got=10Gi", &[], "10Gi Lost c b", "Warning ClaimLost"),
        ("3-2", &[], "10Gi Bound >v c b got=10Gi", &[], "10Gi Lost >v c b", "Warning ClaimLost"),
        (
            "3-3",
            &["v 10Gi Available"],
            "10Gi Pending >v c b",
            &["v 10Gi Bound =claim:uid c"],
            "10Gi Bound >v c b got=10Gi",
            "-",
        ),
        (
            "3-4",
            &["v 10Gi Available =claim:x"],
            "10Gi Pending >v c b",
            &["v 10Gi Available =claim:x"],
            "10Gi Lost >v c b",
            "Warning ClaimMisbound",
        ),
        (
            "3-5",
            &["v 10Gi Available =claim:uid"],
            "10Gi Pending >v b",
            &["v 10Gi Bound =claim:uid"],
            "10Gi Bound >v b got=10Gi",
            "-",
        ),
        (
            "3-6",
            &["v 10Gi Available =other:x"],
            "10Gi Pending >v b",
            &["v 10Gi Available =other:x"],
            "10Gi Lost >v b",
            "Warning ClaimMisbound",
        ),
        (
            "resized",
            &["v 10Gi Bound =claim:uid c"],
            "10Gi Bound >v c b got=5Gi",
            &["v 10Gi Bound =claim:uid c"],
            "10Gi Bound >v c b got=5Gi",
            "-",
        ),
    ]);
}

#[test]
fn a_delayed_claim_says_for_which_pods_it_waits() {
    for (pods, expected) in [
        (&["web"][..], "waiting for pod web to be scheduled"),
        (&["a", "b"], "waiting for pods a,b to be scheduled"),
        (&[], "waiting for first consumer to be created before binding"),
    ] {
        let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let around =
            Surroundings { named: None, offers: &[], class: class("wait"), default_class: None, unscheduled: &pods };
        let step = steps::of_claim(&claim("1Gi Pending class=wait"), around);
        assert!(matches!(&step, ClaimStep::Wait(Some(telling)) if telling.message == expected), "{step:?}");
    }
}

#[test]
fn a_claim_that_said_nothing_takes_the_default_class_unless_a_volume_fits() {
    let offers = [Arc::new(volume("v 1Gi Available"))];
    let step = |offers: &[Arc<PersistentVolume>], text: &str| {
        let default_class = Some("new".to_owned());
        let around = Surroundings { named: None, offers, class: None, default_class, unscheduled: &[] };
        steps::of_claim(&claim(text), around)
    };
    assert!(matches!(step(&[], "1Gi Pending"), ClaimStep::TakeClass(class) if class == "new"));
    assert!(matches!(step(&offers, "1Gi Pending"), ClaimStep::Bind(_)));
    let mut none = claim("1Gi Pending");
    none.spec.as_mut().unwrap().storage_class_name = Some(String::new());
    let around =
        Surroundings { named: None, offers: &[], class: None, default_class: Some("new".into()), unscheduled: &[] };
    assert!(matches!(steps::of_claim(&none, around), ClaimStep::Wait(Some(_))), "it wants no class");
}

/// What a volume becomes, and the reason of the event.
fn sync_volume(before: &str, other: Option<&str>) -> (String, String) {
    let held = volume(before);
    let other = other.map(|text| match text.strip_prefix('!') {
        Some(text) => merge(&claim(text), &json!({"metadata": {"uid": "other"}})),
        None => claim(text),
    });
    let mut event = NOT_SET.to_owned();
    let mut after = held.clone();
    let write = |volume: &PersistentVolume, change: Option<Change>| {
        let mut volume = volume.clone();
        if let Some(change) = change {
            apply(&change, &mut volume, &mut claim("1 x"));
        }
        volume
    };
    match steps::of_volume(&held, other.as_ref()) {
        VolumeStep::Phase(phase) => after = write(&held, binding::phase(&held, phase, "")),
        VolumeStep::Rest => {}
        VolumeStep::Mismatch(telling, _) => event = telling.reason.to_owned(),
        VolumeStep::Release(reclaim) => {
            after = write(&after, binding::phase(&after, "Released", ""));
            if let Reclaim::Fail(telling) = reclaim {
                after = write(&after, binding::phase(&after, "Failed", &telling.message));
                event = telling.reason.to_owned();
            }
        }
        VolumeStep::Unbind => {
            after = write(&after, Some(binding::unbind(&after)));
            after = write(&after, binding::phase(&after, "Available", ""));
        }
    }
    (show_volume(&after, before), event)
}

#[test]
fn volumes_follow_their_claims() {
    for (title, before, claim, after, event) in [
        ("4-1", "v 10Gi Pending", None, "v 10Gi Available", "-"),
        ("4-2 set aside", "v 10Gi Pending =claim", None, "v 10Gi Available =claim", "-"),
        ("4-3 no claim", "v 10Gi Bound =claim:uid", None, "v 10Gi Released =claim:uid", "-"),
        ("4-4 another uid", "v 10Gi Bound =claim:uid", Some("!10Gi Bound >v b"), "v 10Gi Released =claim:uid", "-"),
        ("4-5 to be bound", "v 10Gi Bound =claim:uid c", Some("10Gi Pending"), "v 10Gi Bound =claim:uid c", "-"),
        ("4-6 bound", "v 10Gi Available =claim:uid", Some("10Gi Bound >v"), "v 10Gi Bound =claim:uid", "-"),
        ("4-7 elsewhere", "v 10Gi Bound =claim:uid c", Some("10Gi Bound >x"), "v 10Gi Available", "-"),
        ("4-8 elsewhere, by a user", "v 10Gi Bound =claim:uid", Some("10Gi Bound >x"), "v 10Gi Available =claim", "-"),
        (
            "4-10 nobody deletes it",
            "v 10Gi Bound =claim:uid policy=Delete",
            None,
            "v 10Gi Failed =claim:uid policy=Delete",
            "VolumeFailedDelete",
        ),
        (
            "5-x recycled",
            "v 10Gi Bound =claim:uid policy=Recycle",
            None,
            "v 10Gi Failed =claim:uid policy=Recycle",
            "VolumeFailedRecycle",
        ),
        (
            "8-3 built in",
            "v 1Gi Bound =claim:uid k policy=Delete",
            None,
            "v 1Gi Failed =claim:uid k policy=Delete",
            "VolumeFailedDelete",
        ),
        (
            "8-10 outside",
            "v 1Gi Bound =claim:uid c p policy=Delete",
            None,
            "v 1Gi Released =claim:uid c p policy=Delete",
            "-",
        ),
        (
            "8-12 two for one",
            "v 1Gi Bound =claim:uid p policy=Delete",
            Some("1Gi Bound >x"),
            "v 1Gi Released =claim:uid p policy=Delete",
            "-",
        ),
        (
            "14-13 mode",
            "v 1Gi Available =claim:uid c",
            Some("1Gi Pending mode=Block"),
            "v 1Gi Available =claim:uid c",
            "VolumeMismatch",
        ),
        (
            "14-14 mode",
            "v 1Gi Available =claim:uid c mode=Block",
            Some("1Gi Pending mode=Block"),
            "v 1Gi Available =claim:uid c mode=Block",
            "-",
        ),
        (
            "unknown",
            "v 1Gi Bound =claim:uid policy=Burn",
            None,
            "v 1Gi Failed =claim:uid policy=Burn",
            "VolumeUnknownReclaimPolicy",
        ),
    ] {
        assert_eq!(sync_volume(before, claim), (after.to_owned(), event.to_owned()), "{title}");
    }
}

#[test]
fn the_volume_that_gives_the_least_too_much_is_best() {
    let best = |volumes: &[&str], wish: &str| {
        let volumes: Vec<_> = volumes.iter().map(|text| Arc::new(volume(text))).collect();
        matching::best(&claim(wish), &volumes, false).map(|volume| volume.name_any())
    };
    let more_modes = |text: &str| {
        let more = json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"]}});
        Arc::new(merge(&volume(text), &more))
    };
    assert_eq!(
        best(&["a 5G Available", "b 5Gi Available", "c 4.9Gi Available"], "4.6Gi Pending").as_deref(),
        Some("a")
    );
    assert_eq!(best(&["a 5G Available", "b 5Gi Available"], "4.9Gi Pending").as_deref(), Some("b"));
    assert_eq!(
        best(&["b 1Gi Available", "a 1Gi Available"], "1Mi Pending").as_deref(),
        Some("a"),
        "the same every time"
    );
    let offers = [more_modes("small 1Gi Available"), Arc::new(volume("large 9Gi Available"))];
    let found = matching::best(&claim("1Gi Pending"), &offers, false);
    assert_eq!(found.unwrap().name_any(), "large", "fewer access modes come first, as upstream");
    let going = merge(&volume("v 1Gi Available"), &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(matching::best(&claim("1Gi Pending"), &[Arc::new(going)], false).is_none());
}
