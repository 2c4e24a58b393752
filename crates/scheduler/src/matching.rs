//! Tolerations against taints, and node selectors against labels.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

type Labels = BTreeMap<String, String>;

/// Whether one of `tolerations` covers `taint`.
pub(crate) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let effect = text(&toleration.effect);
        let key = text(&toleration.key);
        if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
            return false;
        }
        match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
            Some(_) => false,
        }
    })
}

/// Whether a node of that name and these labels matches one of `terms`.
pub(crate) fn matches_any_term(terms: &[NodeSelectorTerm], name: &str, labels: &Labels) -> bool {
    terms.iter().any(|term| matches_term(term, name, labels))
}

/// Whether the node matches the term; an empty term matches nothing.
pub(crate) fn matches_term(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| matches(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|field| matches(field, (field.key == "metadata.name").then_some(name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|listed| listed == value);
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
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
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_cover_taints_as_the_api_says() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        for (given, expected) in [
            (toleration("k", "Equal", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Equal", "w", "NoSchedule"), false),
            (toleration("k", "Exists", "", "NoExecute"), false),
            (toleration("k", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("j", "Exists", "", ""), false),
        ] {
            assert_eq!(tolerated(std::slice::from_ref(&given), &taint), expected, "{given:?}");
        }
    }

    #[test]
    fn selector_operators_match_as_the_api_says() {
        let labels = Labels::from([("disk".into(), "ssd".into()), ("cores".into(), "8".into())]);
        for (key, operator, values, expected) in [
            ("disk", "In", vec!["ssd", "hdd"], true),
            ("disk", "NotIn", vec!["ssd"], false),
            ("zone", "NotIn", vec!["a"], true),
            ("disk", "Exists", vec![], true),
            ("disk", "DoesNotExist", vec![], false),
            ("cores", "Gt", vec!["4"], true),
            ("cores", "Lt", vec!["4"], false),
            ("disk", "Gt", vec!["4"], false),
        ] {
            let requirement = NodeSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.into_iter().map(String::from).collect()),
            };
            let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
            assert_eq!(matches_term(&term, "n", &labels), expected, "{key} {operator}");
        }
        assert!(!matches_term(&NodeSelectorTerm::default(), "n", &labels));
    }
}
