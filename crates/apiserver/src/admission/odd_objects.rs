//! No object, however odd, makes a strategy, a table or admission panic.

use std::sync::Arc;

use kinds::Resource;
use serde_json::{Value, json};
use strategy::{User, WriteContext, of, table};

use super::{AdmissionRequest, ObjectReader, Operation, RequestOptions, mutate, validate};

/// Changed copies of each object that are tried; few, because every build pays for them.
const COPIES: u64 = 4;

/// A small generator of numbers, always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

/// Replaces something somewhere below `value`, never the object itself.
fn disturb(value: &mut Value, numbers: &mut Numbers, depth: usize) {
    let children: Vec<&mut Value> = match value {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => Vec::new(),
    };
    let count = children.len();
    if (count == 0 || numbers.below(6) == 0) && depth > 0 {
        *value =
            [json!(null), json!(""), json!("ä/%x"), json!(-7), json!([]), json!({}), json!([null, 1]), json!(true)]
                [numbers.below(8)]
            .clone();
    } else if count > 0 {
        let chosen = numbers.below(count);
        if let Some(child) = children.into_iter().nth(chosen) {
            disturb(child, numbers, depth + 1);
        }
    }
}

/// A cluster in which every object looks like the one under test.
struct Mirror(Arc<Value>);

impl ObjectReader for Mirror {
    fn get(&self, _collection: &str, _path: &str) -> Option<Arc<Value>> {
        Some(self.0.clone())
    }

    fn list(&self, _collection: &str, _prefix: &str) -> Vec<Arc<Value>> {
        vec![self.0.clone(), self.0.clone()]
    }
}

fn exercise(resource: &Resource, object: &Value, old: &Value) {
    let user = User::new("u", &[]);
    let (strategy, now) = (of(resource), jiff::Timestamp::UNIX_EPOCH);
    for subresource in [None, Some("status"), Some("binding"), Some("resize"), Some("finalize")] {
        let cx = WriteContext { now, resource, subresource, user: &user, dry_run: false };
        let mut new = object.clone();
        strategy.default(&mut new);
        for (operation, old) in [(Operation::Create, None), (Operation::Update, Some(old))] {
            let request = AdmissionRequest {
                operation,
                resource,
                subresource,
                namespace: "n",
                name: "x",
                generate_name: "",
                user: &user,
                old,
                options: RequestOptions::None,
                dry_run: false,
                now,
            };
            // Whether it is refused does not matter here.
            let mirror = Mirror(Arc::new(old.cloned().unwrap_or_default()));
            let _refused = mutate(&mirror, &request, Some(&mut new)).is_err();
            let _refused = validate(&mirror, &request, Some(&new)).is_err();
        }
        strategy.prepare_update(&cx, &mut new, old);
        strategy.validate_update(&cx, &new, old).to_string();
        strategy.prepare_create(&cx, &mut new);
        strategy.validate_create(&cx, &new).to_string();
        strategy.fields(&new);
        strategy.warnings(&new);
        strategy.grace_period_seconds(&new, None);
        assert_eq!(table::cells(resource, &new, now).len(), table::columns(resource).len());
    }
}

#[test]
fn odd_objects_make_nothing_panic() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/kubernetes-api-fixtures");
    if std::fs::metadata(folder).is_err() {
        println!("skipped: no fixtures at {folder}");
        return;
    }
    let mut numbers = Numbers(1);
    let mut tried = 0;
    for resource in kinds::builtin() {
        let group = if resource.group.is_empty() { "core" } else { &resource.group };
        let path = format!("{folder}/{group}.{}.{}.json", resource.version, resource.kind);
        let Ok(bytes) = std::fs::read(path) else { continue };
        let object: Value = serde_json::from_slice(&bytes).unwrap();
        exercise(resource, &object, &object);
        for _ in 0..COPIES {
            let mut odd = object.clone();
            for _ in 0..=numbers.below(4) {
                disturb(&mut odd, &mut numbers, 0);
            }
            exercise(resource, &odd, &object);
            exercise(resource, &object, &odd);
        }
        tried += 1;
    }
    assert!(tried > 40, "only {tried} kinds had a fixture");
}
