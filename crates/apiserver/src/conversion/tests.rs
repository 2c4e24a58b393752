use serde_json::json;

use super::{exchange::decode, *};

fn object(version: &str) -> Value {
    json!({"apiVersion": format!("g.io/{version}"), "kind": "Thing",
        "metadata": {"name": "a", "uid": "1", "resourceVersion": "7", "labels": {"l": "1"}}, "data": version})
}

fn answer(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn read_answer(answer: Value) -> Result<Vec<Value>, String> {
    decode(ReviewVersion::V1, "u", "g.io/v2", &[&object("v1")], answer)
}

#[test]
fn only_labels_and_annotations_of_the_metadata_change() {
    let mut converted = object("v2");
    converted["metadata"]["labels"] = json!({"l": "2"});
    converted["metadata"]["annotations"] = json!({"a": "b"});
    converted["metadata"]["resourceVersion"] = "9".into();
    converted["metadata"]["finalizers"] = json!(["x"]);
    let objects = read_answer(answer(vec![converted])).unwrap();
    assert_eq!(
        objects[0]["metadata"],
        json!({"name": "a", "uid": "1", "resourceVersion": "7", "labels": {"l": "2"}, "annotations": {"a": "b"}})
    );
    assert_eq!(objects[0]["data"], "v2");
}

#[test]
fn an_answer_that_does_not_fit_is_refused_with_its_reason() {
    let wrong = |change: fn(&mut Value)| {
        let mut answer = answer(vec![object("v2")]);
        change(&mut answer);
        read_answer(answer).unwrap_err()
    };
    assert_eq!(wrong(|answer| answer["response"] = Value::Null), "failed: no response provided");
    assert_eq!(
        wrong(|answer| answer["response"]["uid"] = "x".into()),
        "failed: expected response.uid=\"u\", got \"x\""
    );
    assert_eq!(
        wrong(|answer| answer["response"]["result"] = json!({"status": "Failure", "message": "too old"})),
        "failed: too old"
    );
    assert_eq!(wrong(|answer| answer["response"]["convertedObjects"] = json!([])), "returned 0 objects, expected 1");
    let odd = |change: fn(&mut Value)| {
        let mut converted = object("v2");
        change(&mut converted);
        read_answer(answer(vec![converted])).unwrap_err()
    };
    assert_eq!(
        odd(|converted| converted["apiVersion"] = "g.io/v3".into()),
        "returned invalid converted object at index 0: invalid groupVersion (expected g.io/v2, received g.io/v3)"
    );
    assert_eq!(
        odd(|converted| converted["metadata"]["name"] = "b".into()),
        "returned invalid converted object at index 0: must have the same name: a != b"
    );
    assert!(
        odd(|converted| converted["metadata"]["labels"] = json!({"l": "-"}))
            .starts_with("returned invalid metadata in object at index 0: metadata.labels: Invalid value")
    );
}

#[test]
fn what_was_converted_is_kept_within_bounds() {
    let mut kept = Kept::default();
    let big = Bytes::from(vec![b' '; KEPT_BYTES_MAX / 4]);
    kept.insert("v2", Bytes::from_static(b"a"), big.clone());
    assert_eq!(kept.by_version["v2"].len(), 1);
    for name in ["b", "c", "d", "e"] {
        kept.insert("v2", Bytes::from(name), big.clone());
    }
    assert!(kept.bytes <= KEPT_BYTES_MAX && kept.by_version["v2"].len() < 5);
}
