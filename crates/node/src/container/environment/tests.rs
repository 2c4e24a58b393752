use serde_json::json;

use super::*;

fn sources() -> Sources {
    let config = serde_json::from_value(json!({"data": {"A": "from-map", "B": "b"}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"S": "c2VjcmV0"}})).unwrap();
    Sources {
        namespace: "ns".into(),
        config_maps: [("cm".to_owned(), config)].into(),
        secrets: [("sec".to_owned(), secret)].into(),
    }
}

fn render(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut container = container;
    container["name"] = "c".into();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]},
    }))
    .unwrap();
    let services = [("API_HOST".to_owned(), "10.0.0.1".to_owned())].into();
    environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &PodFacts::default(), &sources(), &services)
}

#[test]
fn later_definitions_win_and_expand_earlier_ones() {
    let variables = render(json!({
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "secretRef": {"name": "sec"}}],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "C", "value": "$(A)-$(B)-$(P_S)-$(API_HOST)-$(NONE)-$$(A)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "B"}}},
            {"name": "SKIPPED", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": true}}},
        ],
    }))
    .unwrap();
    let expected = [
        ("A", "own"),
        ("B", "b"),
        ("P_S", "secret"),
        ("C", "own-b-secret-10.0.0.1-$(NONE)-$(A)"),
        ("NAME", "p"),
        ("KEY", "b"),
        ("API_HOST", "10.0.0.1"),
    ];
    assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn what_is_missing_is_named() {
    let cases = [
        (json!({"envFrom": [{"configMapRef": {"name": "x"}}]}), "configmap \"x\" not found"),
        (json!({"envFrom": [{"secretRef": {"name": "x"}}]}), "secret \"x\" not found"),
        (
            json!({"env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}),
            "couldn't find key k in ConfigMap ns/cm",
        ),
        (
            json!({"env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "k"}}}]}),
            "couldn't find key k in Secret ns/sec",
        ),
    ];
    for (container, expected) in cases {
        assert_eq!(render(container).unwrap_err().to_string(), expected);
    }
    assert_eq!(render(json!({"envFrom": [{"secretRef": {"name": "x", "optional": true}}]})).unwrap().len(), 1);
}

#[test]
fn expansion_leaves_what_it_does_not_know() {
    let known = |name: &str| (name == "A").then_some("a");
    for (text, expected) in [
        ("$(A)", "a"),
        ("x$(A)y$(B)", "xay$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$A $( $", "$A $( $"),
        ("$(A", "$(A"),
    ] {
        assert_eq!(expand(text, known), expected, "{text}");
    }
}

#[test]
fn services_become_variables() {
    let service = |namespace: &str, name: &str, ip: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "http-api", "port": 80}, {"port": 53, "protocol": "UDP"}]},
        }))
        .unwrap()
    };
    let services = [
        service("default", "kubernetes", "10.0.0.1"),
        service("ns", "my-app", "10.0.0.2"),
        service("ns", "headless", "None"),
        service("other", "far", "10.0.0.3"),
    ];
    let all = service_variables(services.iter(), "ns", true);
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("MY_APP_SERVICE_HOST", "10.0.0.2"),
        ("MY_APP_SERVICE_PORT", "80"),
        ("MY_APP_SERVICE_PORT_HTTP_API", "80"),
        ("MY_APP_PORT", "tcp://10.0.0.2:80"),
        ("MY_APP_PORT_53_UDP_PROTO", "udp"),
        ("MY_APP_PORT_80_TCP_ADDR", "10.0.0.2"),
    ] {
        assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!all.keys().any(|name| name.starts_with("FAR") || name.starts_with("HEADLESS")));
    assert!(service_variables(services.iter(), "ns", false).keys().all(|name| name.starts_with("KUBERNETES")));
}
