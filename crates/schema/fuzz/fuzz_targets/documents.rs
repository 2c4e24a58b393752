//! Any bytes as JSON, YAML, selectors, quantities and field sets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schema::apply::FieldSet;
use schema::quantity::Quantity;
use schema::selector::{FieldSelector, LabelSelector};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((value, _)) = schema::json::parse(bytes) {
        if let Ok(set) = FieldSet::parse(&value) {
            assert_eq!(FieldSet::parse(&set.to_value()), Ok(set.clone()));
            let _ = set.paths();
        }
        let _ = schema::Schema::from_crd(Some(&value));
        let _ = LabelSelector::from_object(&value);
    }
    let _ = schema::yaml::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
    }
    let _ = FieldSelector::parse(text);
    if let Ok(quantity) = Quantity::parse(text) {
        assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
    }
});
