use std::collections::HashMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::json;

use super::*;
use crate::Metadata;

fn map(name: &str, version: u64) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"n": version.to_string()}, "metadata": {
        "name": name, "namespace": "default", "uid": "u", "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "test"}]}})
    .to_string()
}

/// What a process holds: objects by name.
fn holding(objects: &[(&str, &str)]) -> (Original, HashMap<String, Bytes>) {
    let held: HashMap<String, Bytes> =
        objects.iter().map(|(name, text)| ((*name).to_owned(), Bytes::copy_from_slice(text.as_bytes()))).collect();
    let found = held.clone();
    (
        Arc::new(move |namespace, name| {
            let bytes = (namespace == "default").then(|| found.get(name).cloned()).flatten()?;
            Some(Held { path: format!("{namespace}/{name}").into(), bytes })
        }),
        held,
    )
}

fn is_same_memory(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr()
}

#[test]
fn bytes_that_the_process_holds_are_kept_once() {
    let (present, later) = (map("a", 5), map("a", 6));
    let (original, held) = holding(&[("a", &present)]);
    let kept = |served: &str| {
        Kept::<ConfigMap>::new(served.as_bytes(), Some(&original), &Arc::new(Recent::new())).unwrap().bytes.clone()
    };
    assert!(is_same_memory(&kept(&present), &held["a"]));
    let copied = kept(&later);
    assert!(!is_same_memory(&copied, &held["a"]), "what is held is another revision");
    let copied: serde_json::Value = serde_json::from_slice(&copied).unwrap();
    assert_eq!((&copied["metadata"]["managedFields"], &copied["data"]["n"]), (&json!(null), &json!("6")));
    assert!(!is_same_memory(&kept(&present.replace("\"n\"", "\"m\"")), &held["a"]), "it is shown otherwise");
    assert!(!is_same_memory(&kept(r#"{"metadata":{}}"#), &held["a"]));

    let partial = |served: &str| {
        Kept::<Metadata>::new(served.as_bytes(), Some(&original), &Arc::new(Recent::new())).unwrap().bytes.clone()
    };
    let metadata = r#"{"metadata":{"name":"a","namespace":"default","resourceVersion":"5"}}"#;
    assert!(is_same_memory(&partial(metadata), &held["a"]), "it has the metadata");
    assert!(!is_same_memory(&partial(&metadata.replace("\"5\"", "\"6\"")), &held["a"]));
    assert!(!is_same_memory(&partial(&metadata.replace("\"5\"", "\"\"")), &held["a"]));
    assert!(!is_same_memory(&partial(r#"{"metadata":{"name":"a","namespace":"default"}}"#), &held["a"]));
}

#[test]
fn metadata_is_decoded_again_from_the_whole_object() {
    let whole = map("a", 5);
    let (original, _) = holding(&[("a", &whole)]);
    let metadata = r#"{"metadata":{"name":"a","namespace":"default","resourceVersion":"5","uid":"u"}}"#;
    let recent = Arc::new(Recent::<Metadata>::new());
    let kept = Kept::new(metadata.as_bytes(), Some(&original), &recent).unwrap();
    assert_eq!(kept.bytes, whole);
    kept.forget();
    assert_eq!(kept.object().uid().as_deref(), Some("u"));
    assert!(kept.object().managed_fields().is_empty());
}

fn decoded(kept: &Kept<ConfigMap>) -> bool {
    kept.decoded.lock().is_some()
}

#[tokio::test(start_paused = true)]
async fn an_object_nobody_looks_at_is_decoded_again_for_who_does() {
    let recent = Arc::new(Recent::new());
    let names: Vec<String> = (0..DECODED_MIN + 3).map(|number| format!("m-{number}")).collect();
    let kept: Vec<Arc<Kept<ConfigMap>>> =
        names.iter().map(|name| Kept::new(map(name, 5).as_bytes(), None, &recent).unwrap()).collect();
    let object = kept[1].object();
    assert!(recent.age(Instant::now()), "there are more than are kept in any case");
    assert!(kept.iter().all(|kept| decoded(kept)), "all of them have just arrived");

    tokio::time::advance(DECODED_FOR).await;
    assert!(!recent.age(Instant::now()));
    let forgotten: Vec<usize> = (0..kept.len()).filter(|at| !decoded(&kept[*at])).collect();
    assert_eq!(forgotten, [0, 2, 3], "the oldest, but none that was looked at");
    assert!(Arc::ptr_eq(&object, &kept[1].object()));

    let again = kept[0].object();
    assert_eq!((again.name_any(), &again.data.as_ref().unwrap()["n"]), ("m-0".into(), &"5".to_owned()));
    assert!(Arc::ptr_eq(&again, &kept[0].object()), "decoded once for all who look");
    assert!(again.metadata.managed_fields.is_none());
}

#[test]
fn no_more_are_decoded_at_once_than_the_bound_says() {
    let recent = Arc::new(Recent::new());
    let kept: Vec<Arc<Kept<ConfigMap>>> = (0..DECODED_MAX + 10)
        .map(|number| Kept::new(map(&number.to_string(), 5).as_bytes(), None, &recent).unwrap())
        .collect();
    assert_eq!(kept.iter().filter(|kept| decoded(kept)).count(), DECODED_MAX);
    for kept in &kept {
        kept.object();
    }
    assert_eq!(kept.iter().filter(|kept| decoded(kept)).count(), DECODED_MAX);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_forgotten() {
    let recent = Arc::new(Recent::new());
    for number in 0..2 * DECODED_MIN {
        Kept::<ConfigMap>::new(map(&number.to_string(), 5).as_bytes(), None, &recent).unwrap();
    }
    tokio::time::advance(DECODED_FOR).await;
    recent.age(Instant::now());
    assert_eq!(recent.decoded.lock().len(), DECODED_MIN);
}

#[test]
fn bytes_that_are_no_object_of_the_kind_are_refused() {
    let recent = Arc::new(Recent::<ConfigMap>::new());
    assert!(matches!(Kept::new(br#"{"metadata":7}"#, None, &recent), Err(EventError::Decode(_))));
    assert!(recent.decoded.lock().is_empty());
}
