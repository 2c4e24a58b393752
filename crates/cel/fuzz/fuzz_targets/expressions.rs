//! Any text as an expression of Kubernetes' environment: parsed, checked, estimated and, within a budget, evaluated over a
//! small document.
#![no_main]

use std::sync::LazyLock;

use cel::cost::UnknownSizes;
use cel::{Bindings, Env, Field, ObjectType, Type, Value};
use libfuzzer_sys::fuzz_target;

static TYPE: LazyLock<Type> = LazyLock::new(|| {
    let fields = vec![
        Field::new("name", Type::String),
        Field::new("count", Type::Int),
        Field::new("at", Type::Timestamp),
        Field::new("items", Type::list(Type::Int)),
        Field::new("labels", Type::map(Type::String, Type::String)),
        Field::new("any", Type::Dyn),
    ];
    Type::Object(ObjectType::new("Self", fields))
});
static ENV: LazyLock<Env> =
    LazyLock::new(|| Env::builder().library(cel::library::kubernetes()).variable("self", TYPE.clone()).build());
static DOCUMENT: LazyLock<serde_json::Value> = LazyLock::new(|| {
    serde_json::json!({"name": "web", "count": 3, "at": "2024-02-29T12:00:00Z", "items": [1, 2, 3],
        "labels": {"app": "web"}, "any": {"a": [1, "x", null, 1.5]}})
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let program = match ENV.compile(text, &[]) {
        Ok(program) => program,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let estimate = program.estimate(&UnknownSizes);
    assert!(estimate.min <= estimate.max, "{estimate:?}");
    let mut bindings = Bindings::new(&ENV);
    if let Ok(value) = Value::json(&DOCUMENT, &TYPE) {
        bindings.set(0, value);
    }
    if let Ok(value) = program.evaluate(&bindings, &mut 100_000) {
        let _ = value.to_string();
    }
});
