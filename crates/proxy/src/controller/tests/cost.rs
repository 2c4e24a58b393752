//! What one change costs must not depend on how much else there is.

use std::time::Instant;

use super::*;

/// Routes to `shop/edge`: half of them by hostname, half of them by path.
fn routes(count: usize) -> (Cluster, Core) {
    let mut cluster = Cluster::new();
    cluster.listen(http());
    for number in 0..count {
        cluster.put("HTTPRoute", "shop", &format!("r{number}"), route(number, "web"));
    }
    let core = cluster.compile();
    (cluster, core)
}

fn route(number: usize, backend: &str) -> Value {
    let rules = |path: String| {
        json!([{"matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": backend, "port": 80}]}])
    };
    let parents = json!([{"name": "edge"}]);
    match number % 2 {
        0 => {
            json!({"spec": {"parentRefs": parents, "hostnames": [format!("h{number}.test")], "rules": rules("/".into())}})
        }
        _ => json!({"spec": {"parentRefs": parents, "rules": rules(format!("/p{number}/x"))}}),
    }
}

#[test]
fn one_change_compiles_one_route() {
    let (mut cluster, mut core) = routes(200);
    core.take_told();
    cluster.put("HTTPRoute", "shop", "r7", route(7, "api"));
    core.apply([Item::Route(RouteKind::Http, Key::new("shop", "r7"))], &cluster);
    let told: Vec<_> = core.take_told().into_iter().filter(|item| matches!(item, Item::Route(..))).collect();
    assert_eq!(told, [Item::Route(RouteKind::Http, Key::new("shop", "r7"))]);
    assert_eq!(
        (taken(&core, 80, "h", "/p7/x"), taken(&core, 80, "h", "/p9/x")),
        ("shop/api:80".into(), "shop/web:80".into())
    );
    assert_eq!(attached(&core, "http"), 200);
}

#[test]
fn a_change_among_5000_routes_costs_about_what_one_among_50_does() {
    let cost = |count: usize| {
        let (mut cluster, mut core) = routes(count);
        // The best of many is what it costs; the rest is what else the machine does.
        let mut best = Duration::MAX;
        for round in 0..40 {
            for number in [count / 2, count / 2 + 1] {
                let name = format!("r{number}");
                cluster.put("HTTPRoute", "shop", &name, route(number, if round % 2 == 0 { "api" } else { "web" }));
                let published = core.table();
                let start = Instant::now();
                core.apply([Item::Route(RouteKind::Http, Key::new("shop", &name))], &cluster);
                best = best.min(start.elapsed());
                drop(published);
            }
        }
        best
    };
    let (few, many) = (cost(50), cost(5000));
    assert!(many < few * 8 + Duration::from_millis(1), "{few:?} among 50, {many:?} among 5,000");
}
