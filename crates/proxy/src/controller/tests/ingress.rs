//! Ingresses beside Gateways.

use super::*;

#[test]
fn ingress_shares_the_table() {
    let mut cluster = Cluster::new();
    for (name, controller, default) in [("keelson", "keelson.dev/ingress", "true"), ("nginx", "k8s.io/nginx", "false")]
    {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default});
        let class = json!({"metadata": {"annotations": annotations}, "spec": {"controller": controller}});
        cluster.put("IngressClass", "", name, class);
    }
    let backend = |name: &str, port: Value| json!({"service": {"name": name, "port": port}});
    let paths = json!({"paths": [
        {"path": "/api", "pathType": "Prefix", "backend": backend("api", json!({"number": 80}))},
        {"path": "/api", "pathType": "Exact", "backend": backend("web", json!({"name": "http"}))},
        {"path": "/gone", "pathType": "Prefix", "backend": backend("gone", json!({"number": 80}))},
    ]});
    let main = json!({"spec": {
        "rules": [{"host": "shop.test", "http": paths}, {"host": "*.shop.test", "http": paths}],
        "defaultBackend": backend("web", json!({"number": 80})),
        "tls": [{"hosts": ["shop.test"], "secretName": "cert"}],
    }});
    cluster.put("Ingress", "shop", "main", main);
    let other = json!({"ingressClassName": "nginx", "defaultBackend": backend("api", json!({"number": 80}))});
    cluster.put("Ingress", "shop", "other", json!({"spec": other}));
    let mut core = cluster.compile();
    assert!(core.ingress(&Key::new("shop", "main")).is_some() && core.ingress(&Key::new("shop", "other")).is_none());
    for (port, host, path, expected) in [
        (80, "shop.test", "/api", "https://shop.test/api"),
        (443, "shop.test", "/api", "shop/web:80"),
        (80, "a.shop.test", "/api/x", "shop/api:80"),
        (80, "b.a.shop.test", "/api/x", "shop/web:80"),
        (80, "a.shop.test", "/other", "shop/web:80"),
        (80, "a.shop.test", "/gone", "shop/gone:80"),
        (80, "unknown.test", "/", "shop/web:80"),
        (443, "shop.test", "/api/x", "shop/api:80"),
        (443, "a.shop.test", "/api/x", "404"),
    ] {
        assert_eq!(taken(&core, port, host, path), expected, "{port} {host}{path}");
    }
    cluster.remove("Ingress", "shop", "main");
    core.apply([Item::Ingress(Key::new("shop", "main"))], &cluster);
    assert_eq!(core.table().sites().count(), 0);
}
