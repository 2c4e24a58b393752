//! Whether a node's labels and taints let a pod onto it.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Whether the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
            Some(_) => false,
        }
}

/// Whether the pod's node selector and required node affinity let it onto the node.
pub fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// Whether the node matches the term; an empty term matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|wanted| matches(wanted, label(node, &wanted.key)))
        && fields.iter().all(|wanted| matches(wanted, name.filter(|_| wanted.key == "metadata.name")))
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn matches(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|listed| listed == value);
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(have, bound)| have > bound),
        "Lt" => compare().is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("the test's own object")
    }

    #[test]
    fn tolerations_cover_taints_as_the_api_says() {
        let taint: Taint = of(json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        for (toleration, expected) in [
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "j", "operator": "Exists"}), false),
        ] {
            assert_eq!(tolerates(&of(toleration.clone()), &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn selectors_and_affinity_have_to_match_both() {
        let node: Node = of(json!({"metadata": {"name": "a", "labels": {"disk": "ssd", "cores": "8"}}}));
        let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let expression = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        let named =
            |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        for (selector, terms, expected) in [
            (json!({}), Value::Null, true),
            (json!({"disk": "ssd"}), Value::Null, true),
            (json!({"disk": "hdd"}), Value::Null, false),
            (json!({}), named("a"), true),
            (json!({}), named("b"), false),
            (json!({"disk": "hdd"}), named("a"), false),
            (json!({}), expression("disk", "In", json!(["ssd", "hdd"])), true),
            (json!({}), expression("disk", "NotIn", json!(["ssd"])), false),
            (json!({}), expression("zone", "NotIn", json!(["x"])), true),
            (json!({}), expression("disk", "Exists", json!([])), true),
            (json!({}), expression("disk", "DoesNotExist", json!([])), false),
            (json!({}), expression("cores", "Gt", json!(["4"])), true),
            (json!({}), expression("cores", "Lt", json!(["4"])), false),
            (json!({}), expression("disk", "Gt", json!(["4"])), false),
            (json!({}), json!([{}]), false),
            (json!({}), json!([]), false),
        ] {
            let mut spec = json!({"containers": [], "nodeSelector": selector});
            if !terms.is_null() {
                spec["affinity"] = affinity(terms.clone());
            }
            assert_eq!(is_selected(&of(spec), &node), expected, "{selector} {terms}");
        }
    }
}
