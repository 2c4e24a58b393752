//! The count of a DaemonSet's templates. The field that held it is gone, and an annotation shows it in its place, which
//! clients see and send back, and which only the server changes.

use serde_json::Value;

use crate::tree;

const ANNOTATION: &str = "deprecated.daemonset.template.generation";

fn of(object: &Value) -> i64 {
    tree::text_at(object, &["metadata", "annotations", ANNOTATION]).parse().unwrap_or(0)
}

fn set(object: &mut Value, count: i64) {
    let Some(metadata) = tree::child_mut(object, "metadata") else { return };
    if let Some(annotations) = tree::map_mut(metadata, "annotations") {
        annotations.insert(ANNOTATION.to_owned(), count.to_string().into());
    }
}

/// Shows the count, which is nothing yet, in an object that does not.
pub(super) fn default(object: &mut Value) {
    if tree::at(object, &["metadata", "annotations", ANNOTATION]).is_none() {
        set(object, 0);
    }
}

/// Begins counting.
pub(super) fn begin(object: &mut Value) {
    set(object, of(object).max(1));
}

/// Goes on counting from the state before.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    let changed = new.pointer("/spec/template") != old.pointer("/spec/template");
    set(new, of(old) + i64::from(changed));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_other_template_is_counted_and_no_client_counts() {
        let mut made = json!({"metadata": {"name": "d"}, "spec": {"template": {"a": 1}}});
        default(&mut made);
        assert_eq!(of(&made), 0);
        begin(&mut made);
        assert_eq!(of(&made), 1);
        let mut same = made.clone();
        set(&mut same, 9);
        carry_over(&mut same, &made);
        assert_eq!(of(&same), 1);
        let mut other = json!({"metadata": {"annotations": null}, "spec": {"template": {"a": 2}}});
        carry_over(&mut other, &made);
        assert_eq!(other["metadata"]["annotations"], json!({(ANNOTATION): "2"}));
    }
}
