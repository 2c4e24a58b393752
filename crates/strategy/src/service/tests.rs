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

#[test]
fn an_update_of_ports_keeps_node_ports_by_name() {
    let services = resource("", "services");
    let of = |spec: &str, ports: Value| service(json!({"type": spec, "ports": ports}));
    let held = json!([{"name": "p", "port": 80, "nodePort": 93}, {"name": "q", "port": 81, "nodePort": 94}]);
    for (before, after, ports, wanted) in [
        ("NodePort", "NodePort", json!([{"name": "p", "port": 8080}, {"name": "q", "port": 81}]), json!([93, 94])),
        ("NodePort", "NodePort", json!([{"name": "q", "port": 80}, {"name": "r", "port": 81}]), json!([94, null])),
        (
            "NodePort",
            "NodePort",
            json!([{"name": "p", "port": 80}, {"name": "q", "port": 1, "nodePort": 93}]),
            json!([null, 93]),
        ),
        ("LoadBalancer", "NodePort", json!([{"name": "p", "port": 80}]), json!([93])),
        ("NodePort", "LoadBalancer", json!([{"name": "p", "port": 80}]), json!([93])),
        ("ClusterIP", "NodePort", json!([{"name": "p", "port": 80}]), json!([null])),
        ("NodePort", "ClusterIP", json!([{"name": "p", "port": 80, "nodePort": 93}]), json!([null])),
        ("NodePort", "ClusterIP", json!([{"name": "p", "port": 80, "nodePort": 7}]), json!([7])),
    ] {
        let old = prepared(&services, of(before, held.clone()));
        let mut new = of(after, ports);
        with(&services, |strategy, cx| {
            strategy.default(&mut new);
            strategy.prepare_update(cx, &mut new, &old);
        });
        let ports = new["spec"]["ports"].as_array().unwrap();
        let found: Vec<_> = ports.iter().map(|port| port.get("nodePort").cloned().unwrap_or_default()).collect();
        assert_eq!(json!(found), wanted, "{before} -> {after}: {new}");
    }
}

#[test]
fn what_only_outside_clients_need_goes_with_them() {
    let services = resource("", "services");
    let updated = |old: Value, new: Value| {
        let old = prepared(&services, service(old));
        let mut new = service(new);
        with(&services, |strategy, cx| {
            strategy.default(&mut new);
            strategy.prepare_update(cx, &mut new, &old);
            (strategy.validate_update(cx, &new, &old).to_string(), new)
        })
    };
    let ports = json!([{"port": 80}]);
    let with_external = json!({"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "ports": ports});
    let (errors, new) = updated(with_external, json!({"externalTrafficPolicy": "Local", "ports": ports}));
    assert_eq!((errors.as_str(), new["spec"].get("externalTrafficPolicy")), ("[]", None));
    let balanced = |port: i64| json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port, "ports": ports});
    let (errors, new) = updated(balanced(30001), balanced(0));
    assert_eq!((errors.as_str(), &new["spec"]["healthCheckNodePort"]), ("[]", &json!(30001)));
    let (errors, _) = updated(balanced(30001), balanced(30002));
    assert_eq!(errors, "spec.healthCheckNodePort: Invalid value: 30002: field is immutable");
    let mut cluster = balanced(30001);
    cluster["externalTrafficPolicy"] = "Cluster".into();
    let (errors, new) = updated(balanced(30001), cluster);
    assert_eq!((errors.as_str(), new["spec"].get("healthCheckNodePort")), ("[]", None));
}
