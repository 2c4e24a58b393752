use serde_json::{Value, json};

use crate::fixture::*;

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec})
}

#[test]
fn defaults_by_type() {
    let services = resource("", "services");
    let made = prepared(&services, service(json!({"ports": [{"port": 80}]})));
    assert_eq!(
        made["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let made = prepared(&services, service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]})));
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    let made = prepared(&services, service(json!({"clusterIP": "None", "sessionAffinity": "ClientIP"})));
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(made["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let made = prepared(&services, service(json!({"type": "ExternalName", "externalName": "a.b"})));
    assert!(made["spec"].get("ipFamilies").is_none() && made["spec"].get("internalTrafficPolicy").is_none());
}

#[test]
fn services_that_break_rules() {
    let services = resource("", "services");
    for (spec, message) in [
        (json!({"clusterIP": "None"}), "[]"),
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0}]}),
            "[spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive]",
        ),
        (json!({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}), "spec.ports[1].name: Required value"),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
            r#"spec.ports[1]: Duplicate value: {"port":1,"protocol":"TCP"}"#,
        ),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
            r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#,
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"type": "Odd", "ports": [{"port": 1}]}),
            r#"spec.type: Unsupported value: "Odd": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
    ] {
        let mut found = created(&services, service(spec.clone()));
        if let Some((first, _)) = found.split_once(", spec.externalTrafficPolicy") {
            found = first.trim_start_matches('[').to_owned();
        }
        assert_eq!(found, message, "{spec}");
    }
    let mut odd = service(json!({"ports": [{"port": 1}]}));
    odd["metadata"]["name"] = "9a".into();
    assert!(
        created(&services, odd).starts_with(r#"metadata.name: Invalid value: "9a": a DNS-1035 label must consist"#)
    );
}

#[test]
fn an_update_keeps_what_was_allocated_and_drops_what_the_type_no_longer_needs() {
    let services = resource("", "services");
    let mut old = prepared(&services, service(json!({"type": "NodePort", "ports": [{"port": 80}]})));
    old["spec"]["clusterIP"] = "10.0.0.5".into();
    old["spec"]["clusterIPs"] = json!(["10.0.0.5"]);
    old["spec"]["ports"][0]["nodePort"] = 30001.into();
    let update = |spec: Value| {
        let mut new = service(spec);
        with(&services, |strategy, cx| {
            strategy.default(&mut new);
            strategy.prepare_update(cx, &mut new, &old);
            (strategy.validate_update(cx, &new, &old).to_string(), new)
        })
    };
    let (errors, new) = update(json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}));
    assert_eq!((errors.as_str(), &new["spec"]["clusterIP"]), ("[]", &json!("10.0.0.5")));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
    let (errors, new) = update(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30001}]}));
    assert_eq!(errors, "[]");
    assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    let (errors, _) = update(json!({"type": "NodePort", "clusterIP": "10.0.0.6", "ports": [{"port": 80}]}));
    assert_eq!(errors, r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.6"]: may not change once set"#);
    let (errors, new) = update(json!({"type": "ExternalName", "externalName": "a.b", "ports": []}));
    assert_eq!((errors.as_str(), new["spec"].get("clusterIP")), ("[]", None));
}
