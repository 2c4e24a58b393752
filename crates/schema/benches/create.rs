//! What a create costs before it reaches the store: decoding, pruning and tracking, per object.
//!
//! `cargo bench -p schema` prints microseconds per step, the best of several rounds.

use std::hint::black_box;
use std::time::Instant;

use schema::apply::{Manager, Operation, apply, track_update};
use schema::{builtin, json, protobuf, prune};
use serde_json::{Value, json};

const ROUNDS: usize = 20;
const PER_ROUND: usize = 2_000;

fn measure(name: &str, mut step: impl FnMut()) {
    let round = |step: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..PER_ROUND).for_each(|_| step());
        start.elapsed().as_secs_f64() * 1e6 / PER_ROUND as f64
    };
    let best = (0..ROUNDS).map(|_| round(&mut step)).fold(f64::INFINITY, f64::min);
    println!("{name:<40} {best:>8.2} µs");
}

fn config_map() -> Value {
    let data: serde_json::Map<String, Value> =
        (0..8).map(|at| (format!("key-{at}"), Value::from("x".repeat(100)))).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": "settings", "namespace": "default", "labels": {"app": "web", "tier": "front"}}})
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
    "spec": {
        "containers": [{
            "name": "web", "image": "web:1", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"containerPort": 8080, "protocol": "TCP", "name": "http"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
    }})
}

fn main() {
    let start = Instant::now();
    black_box(builtin());
    println!("{:<40} {:>8.2} µs", "decode the table of types", start.elapsed().as_secs_f64() * 1e6);
    let start = Instant::now();
    black_box(kinds::builtin());
    println!("{:<40} {:>8.2} µs", "decode the table of resources", start.elapsed().as_secs_f64() * 1e6);

    let manager = |operation| Manager {
        name: "bench".to_owned(),
        operation,
        api_version: "v1".to_owned(),
        subresource: String::new(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        reset: &["status"],
        only: &[],
    };
    for (kind, object) in [("ConfigMap", config_map()), ("Pod", pod())] {
        let Some(schema) = builtin().get(&format!("io.k8s.api.core.v1.{kind}")) else { continue };
        let bytes = object.to_string().into_bytes();
        println!("{kind}, {} bytes", bytes.len());
        measure("  parse", || drop(black_box(json::parse(&bytes))));
        measure("  clone", || drop(black_box(object.clone())));
        let mut own = object.clone();
        measure("  prune", || drop(black_box(prune(&schema, &mut own))));
        let update = manager(Operation::Update);
        measure("  clone and track a create", || {
            let mut new = object.clone();
            drop(black_box(track_update(&schema, None, &mut new, &update)));
            drop(black_box(new));
        });
        measure("  parse, prune, track, serialise", || {
            let Ok((mut new, _)) = json::parse(&bytes) else { return };
            black_box(prune(&schema, &mut new));
            drop(black_box(track_update(&schema, None, &mut new, &update)));
            drop(black_box(serde_json::to_vec(&new)));
        });
        let mut live = object.clone();
        drop(track_update(&schema, None, &mut live, &update));
        let mut changed = live.clone();
        changed["metadata"]["labels"]["app"] = json!("other");
        let other = Manager { name: "other".to_owned(), ..update.clone() };
        measure("  clone and track an update of a label", || {
            let mut new = changed.clone();
            drop(black_box(track_update(&schema, Some(&live), &mut new, &other)));
            drop(black_box(new));
        });
        let Ok(encoded) = protobuf::encode(&object) else { continue };
        measure("  decode protobuf", || drop(black_box(protobuf::decode(&encoded))));
        measure("  encode protobuf", || drop(black_box(protobuf::encode(&object))));
        let applier = manager(Operation::Apply);
        let Ok(live) = apply(&schema, None, &object, &applier, false) else { continue };
        measure("  apply without a change", || {
            drop(black_box(apply(&schema, Some(&live.object), &object, &applier, false)));
        });
    }
}
