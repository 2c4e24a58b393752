use super::*;

fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
    Toleration { key: key.into(), operator: operator.into(), value: value.into(), effect: effect.into() }
}

#[test]
fn tolerations_cover_taints_as_the_api_says() {
    let taint = |value: &str| Taint {
        key: "k".into(),
        value: Some(value.into()),
        effect: "NoSchedule".into(),
        time_added: None,
    };
    for (given, value, expected) in [
        (toleration("k", "Equal", "v", "NoSchedule"), "v", true),
        (toleration("k", "", "v", ""), "v", true),
        (toleration("k", "Equal", "w", "NoSchedule"), "v", false),
        (toleration("k", "Exists", "", "NoExecute"), "v", false),
        (toleration("k", "Exists", "", ""), "v", true),
        (toleration("", "Exists", "", ""), "v", true),
        (toleration("j", "Exists", "", ""), "v", false),
        (toleration("k", "Gt", "5", ""), "6", true),
        (toleration("k", "Gt", "5", ""), "5", false),
        (toleration("k", "Lt", "5", ""), "4", true),
        (toleration("k", "Lt", "5", ""), "v", false),
    ] {
        assert_eq!(tolerated(std::slice::from_ref(&given), &taint(value)), expected, "{given:?} {value}");
    }
}

#[test]
fn node_terms_match_as_the_api_says() {
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
        ("disk", "Resembles", vec!["ssd"], false),
    ] {
        let values: Vec<String> = values.into_iter().map(String::from).collect();
        let term = NodeTerm { expressions: vec![Requirement::new(key, operator, Some(&values))], fields: vec![] };
        assert_eq!(term.matches("n", &labels), expected, "{key} {operator}");
    }
    assert!(!NodeTerm::default().matches("n", &labels), "an empty term matches nothing");
    let named = |name: &str| NodeTerm { expressions: vec![], fields: vec![Requirement::equals(NAME_FIELD, name)] };
    assert!(named("n").matches("n", &labels) && !named("m").matches("n", &labels));
    assert!(!NodeDemand { labels: Labels::new(), terms: Some(vec![]) }.accepts("n", &labels));
}

#[test]
fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
    assert!(!Selector::of(None).selects(&Labels::new()));
    assert!(Selector::of(Some(&LabelSelector::default())).selects(&Labels::new()));
    let mut absent = Selector::of(None);
    absent.and(Requirement::equals("a", "b"));
    assert!(!absent.selects(&Labels::from([("a".into(), "b".into())])));
}
