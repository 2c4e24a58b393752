//! What a rule costs: compiling it, and evaluating it over a JSON object.
//!
//! `cargo bench -p cel` prints nanoseconds per step, the best of several rounds.

use std::hint::black_box;
use std::time::Instant;

use cel::{Bindings, Env, Field, ObjectType, Type, Value};
use serde_json::json;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 5_000;

/// Plain, quantified, of text, and of an absent field.
const RULES: [&str; 5] = [
    "self.replicas <= self.maxReplicas",
    "self.ports.all(p, p.port > 0 && p.port < 65536)",
    "self.name.matches('^[a-z0-9-]+$') && self.name.size() <= 63",
    "!has(self.tier) || self.tier in ['front', 'back', 'data']",
    "self.labels.all(k, k.startsWith('app') || self.labels[k] != '')",
];

fn measure(name: &str, mut step: impl FnMut()) {
    let round = |step: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..PER_ROUND).for_each(|_| step());
        start.elapsed().as_secs_f64() * 1e9 / PER_ROUND as f64
    };
    let best = (0..ROUNDS).map(|_| round(&mut step)).fold(f64::INFINITY, f64::min);
    println!("{name:<80} {best:>8.0} ns");
}

fn main() {
    let port = ObjectType::new("Port", vec![Field::new("name", Type::String), Field::new("port", Type::Int)]);
    let fields = vec![
        Field::new("replicas", Type::Int),
        Field::new("maxReplicas", Type::Int),
        Field::new("name", Type::String),
        Field::new("tier", Type::String),
        Field::new("labels", Type::map(Type::String, Type::String)),
        Field::new("ports", Type::list(Type::Object(port))),
    ];
    let ty = Type::Object(ObjectType::new("Spec", fields));
    let env = Env::builder().variable("self", ty.clone()).build();
    let document = json!({"replicas": 3, "maxReplicas": 10, "name": "web-front", "tier": "front",
        "labels": {"app": "web", "app.kubernetes.io/part-of": "shop", "team": "blue"},
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}, {"name": "metrics", "port": 9090}]});
    measure("make the standard environment", || drop(black_box(Env::builder().build())));
    for rule in RULES {
        measure(&format!("compile  {rule}"), || drop(black_box(env.compile(rule, &[Type::Bool]))));
        let Ok(program) = env.compile(rule, &[Type::Bool]) else { continue };
        measure(&format!("evaluate {rule}"), || {
            let mut bindings = Bindings::new(&env);
            if let Ok(value) = Value::json(&document, &ty) {
                bindings.set(0, value);
            }
            drop(black_box(program.evaluate(&bindings, &mut 1_000_000)));
        });
    }
}
