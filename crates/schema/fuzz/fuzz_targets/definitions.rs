//! Two documents, split at a zero byte: the schema of a custom resource and an object of it. Whatever is accepted as a
//! schema must be able to prune, complete and judge any object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schema::{Schema, definition, expressions, json};

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, second) = bytes.split_at(at);
    let Ok((document, _)) = json::parse(first) else { return };
    for error in definition::check(&document, "s", true) {
        let _ = error.to_string();
    }
    if !definition::check(&document, "s", false).is_empty() {
        return;
    }
    let schema = Schema::from_crd(Some(&document)).expect("what is accepted can be used");
    let Ok((mut object, _)) = json::parse(second.get(1..).unwrap_or_default()) else { return };
    let old = object.clone();
    let _ = schema::prune(&schema, &mut object);
    schema::default(&schema, &mut object);
    let _ = schema::validate(&schema, &object, Some(&old));
    if let Some(rules) = expressions::compile(&document) {
        let _ = rules.validate(&object, Some(&old));
    }
});
