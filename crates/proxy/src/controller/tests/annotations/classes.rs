//! What an IngressClass says for all of its Ingresses, and pages in place of errors.

use ::http::StatusCode;

use super::{traffic::rule_of, *};

fn with_parameters(parameters: Value, data: Option<Value>) -> Cluster {
    let mut cluster = cluster();
    let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    let spec = json!({"controller": "keelson.dev/ingress", "parameters": parameters});
    cluster.put("IngressClass", "", "keelson", json!({"metadata": {"annotations": annotations}, "spec": spec}));
    if let Some(data) = data {
        cluster.put("ConfigMap", "system", "ingress", json!({"data": data}));
    }
    put(&mut cluster, "main", &[("/", "Prefix", "web")], &[("proxy-read-timeout", "7")]);
    cluster
}

fn map() -> Value {
    json!({"kind": "ConfigMap", "name": "ingress", "namespace": "system", "scope": "Namespace"})
}

#[test]
fn an_ingress_says_what_it_says_and_its_class_the_rest() {
    let data =
        json!({"proxy-read-timeout": "9", "proxy-body-size": "2m", "limit-rps": "5", "limit-req-status-code": "429"});
    let core = with_parameters(map(), Some(data)).compile();
    assert_eq!(reports(&core, "main"), Vec::<String>::new());
    let traffic = rule_of(&core, ROOT).traffic.unwrap();
    assert_eq!((traffic.silence, traffic.body_max), (Some(Duration::from_secs(7)), Some(2 << 20)));
    assert_eq!(traffic.rates[0].status, StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn parameters_that_are_not_followed_are_told_at_each_ingress() {
    for (parameters, data, told) in [
        (map(), None, "parameters of IngressClass keelson: ConfigMap system/ingress not found"),
        (
            json!({"kind": "ConfigMap", "name": "ingress", "scope": "Cluster"}),
            None,
            "parameters of IngressClass keelson: ConfigMap ingress needs a namespace and the scope Namespace",
        ),
        (
            json!({"apiGroup": "x.test", "kind": "Wish", "name": "a"}),
            None,
            "parameters of IngressClass keelson: Wish a: only a ConfigMap is followed",
        ),
        (
            map(),
            Some(json!({"worker-processes": "4"})),
            "worker-processes of the IngressClass's parameters: it is not one that is known",
        ),
        (
            map(),
            Some(json!({"proxy-body-size": "x"})),
            "proxy-body-size of the IngressClass's parameters: \"x\" is no size such as 8m, 512k or 1000",
        ),
    ] {
        let core = with_parameters(parameters, data).compile();
        assert_eq!(reports(&core, "main"), [format!("InvalidParameters: {told}")]);
    }
    let core = with_parameters(map(), Some(json!({"auth-type": "digest"}))).compile();
    assert_eq!(outcome(&core, ROOT), "503", "who must be kept out is");
}

#[test]
fn pages_come_from_the_default_backend() {
    let pages = |annotations: &[(&str, &str)], own: bool| {
        let mut cluster = cluster();
        let mut spec = json!({"rules": [rule("shop.test", &[("/", "Prefix", "web")])]});
        if own {
            spec["defaultBackend"] = json!({"service": {"name": "api", "port": {"number": 81}}});
        }
        put_spec(&mut cluster, "main", spec, annotations);
        let core = cluster.compile();
        let pages = rule_of(&core, ROOT).pages;
        let found = pages.map(|pages| {
            let statuses: Vec<_> = pages.statuses.iter().map(|status| status.as_u16()).collect();
            (pages.backend.name().to_owned(), statuses, pages.vacant)
        });
        (found, reports(&core, "main"))
    };
    let found = |name: &str, statuses: &[u16], vacant| Some((name.to_owned(), statuses.to_vec(), vacant));
    assert_eq!(pages(&[], true).0, None);
    let both = [("default-backend", "api"), ("custom-http-errors", "404, 503")];
    assert_eq!(pages(&both, false), (found("shop/api:80", &[404, 503], true), Vec::new()));
    assert_eq!(pages(&both[..1], false).0, found("shop/api:80", &[], true));
    assert_eq!(pages(&both[1..], true).0, found("shop/api:81", &[404, 503], false));
    let (none, told) = pages(&both[1..], false);
    assert!(none.is_none() && told[0].contains("nobody has the pages"), "{told:?}");
    let (none, told) = pages(&[("default-backend", "gone")], false);
    assert_eq!(
        (none, &*told),
        (None, &["BackendNotFound: default-backend: Service shop/gone not found".to_owned()][..])
    );
    let (_, told) = pages(&[("custom-http-errors", "200")], true);
    assert!(told[0].contains("\"200\" is no status of an error"), "{told:?}");
}
