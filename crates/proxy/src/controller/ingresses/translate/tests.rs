//! A translated Ingress answers as the Ingress did.

use serde_json::{Value, json};

use super::{Translation, translate};

fn ingress(name: &str, spec: Value, annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), json!(value))).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations}, "spec": spec,
    })
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths = paths.iter().map(|(path, kind, service)| {
        json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
    });
    json!({"host": host, "http": {"paths": paths.collect::<Vec<_>>()}})
}

/// Kind, name and the named part of the spec of every object.
fn kinds(translation: &Translation) -> Vec<String> {
    let told = |object: &Value| {
        format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
    };
    translation.objects.iter().map(told).collect()
}

#[test]
fn a_namespace_has_one_gateway_and_an_ingress_a_route_for_each_of_its_hosts() {
    let tls = json!([{"hosts": ["a.test"], "secretName": "cert"}]);
    let spec = json!({
        "tls": tls, "rules": [rule("a.test", &[("/", "Prefix", "web")]), rule("b.test", &[("/x", "Exact", "api")])],
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
    });
    let translation = translate(&[ingress("main", spec, &[])], "keelson");
    assert_eq!(translation.notes, Vec::<String>::new());
    assert_eq!(
        kinds(&translation),
        [
            "Gateway ingress",
            "HTTPRoute main-0",
            "HTTPRoute main-0-to-https",
            "HTTPRoute main-1",
            "HTTPRoute main-default",
        ]
    );
    let [gateway, first, to_https, second, _] = &*translation.objects else { panic!() };
    assert_eq!(gateway["spec"]["listeners"][1]["tls"]["certificateRefs"], json!([{"name": "cert"}]));
    assert_eq!(first["spec"]["parentRefs"], json!([{"name": "ingress", "sectionName": "https-0"}]));
    assert_eq!(to_https["spec"]["parentRefs"], json!([{"name": "ingress", "sectionName": "http"}]));
    let path = json!({"type": "Exact", "value": "/x"});
    assert_eq!(second["spec"]["rules"][0]["matches"], json!([{"path": path}]));
    assert_eq!(translate(&[], "keelson"), Translation::default());
}

#[test]
fn the_output_depends_on_the_input_and_not_on_its_order() {
    let spec = |host: &str| json!({"rules": [rule(host, &[("/", "Prefix", "web")])]});
    let objects = [ingress("b", spec("b.test"), &[("limit-rps", "5")]), ingress("a", spec("a.test"), &[])];
    let mut turned = objects.clone();
    turned.reverse();
    assert_eq!(translate(&objects, "keelson"), translate(&turned, "keelson"));
}

#[test]
fn policies_are_about_the_routes_of_their_ingress() {
    let annotations = [
        ("limit-rps", "5"),
        ("upstream-hash-by", "$http_x_user"),
        ("proxy-body-size", "8m"),
        ("proxy-next-upstream", "error http_502"),
        ("whitelist-source-range", "10.0.0.0/8"),
        ("auth-type", "basic"),
        ("auth-secret", "users"),
    ];
    let spec = json!({"rules": [rule("a.test", &[("/", "Prefix", "web")])]});
    let translation = translate(&[ingress("main", spec, &annotations)], "keelson");
    let of = |kind: &str| translation.objects.iter().find(|object| object["kind"] == kind).unwrap()["spec"].clone();
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "main"}]);
    let traffic = of("BackendTrafficPolicy");
    assert_eq!(traffic["targetRefs"], target);
    assert_eq!(traffic["requestBuffer"], json!({"limit": "8388608"}));
    assert_eq!(traffic["loadBalancer"]["consistentHash"]["headers"], json!([{"name": "x-user"}]));
    assert_eq!(traffic["retry"]["retryOn"]["httpStatusCodes"], json!([502]));
    let security = of("SecurityPolicy");
    assert_eq!(security["targetRefs"], target);
    assert_eq!(security["basicAuth"], json!({"users": {"name": "users"}}));
    let principal = json!({"clientCIDRs": ["10.0.0.0/8"]});
    assert_eq!(security["authorization"]["rules"][0]["principal"], principal);
    assert!(translation.notes.iter().all(|note| note.starts_with("Ingress shop/main: ")), "{:?}", translation.notes);
}

#[test]
fn what_has_no_equivalent_is_told() {
    for (annotation, told) in [
        (("limit-connections", "2"), "limit-connections has no equivalent"),
        (("service-upstream", "true"), "service-upstream has no equivalent"),
        (("configuration-snippet", "x"), "a snippet is configuration of nginx"),
        (("no-such", "x"), "is not one of ingress-nginx's"),
        (("mirror-target", "https://elsewhere.example.com"), "is no Service of the cluster"),
        (("backend-protocol", "HTTPS"), "BackendTLSPolicy"),
        (("auth-type", "digest"), "it lets nobody in here"),
        (("upstream-hash-by", "$host$uri"), "more than one part"),
    ] {
        let spec = json!({"rules": [rule("a.test", &[("/", "Prefix", "web")])]});
        let notes = translate(&[ingress("main", spec, &[annotation])], "keelson").notes;
        assert!(notes.iter().any(|note| note.contains(told)), "{annotation:?}: {notes:?}");
    }
}
