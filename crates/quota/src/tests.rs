use serde_json::json;

use super::*;

fn item(plural: &str, object: &Value) -> Item {
    Item::of("", plural, object, Timestamp::UNIX_EPOCH)
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

fn charge(item: &Item, quota: &Value) -> Result<String, String> {
    let charged = item.charge(quota, &item.usage).map_err(|refusal| refusal.to_string())?;
    Ok(charged.map(|amounts| amounts.to_string()).unwrap_or_default())
}

#[test]
fn a_pod_counts_itself_and_what_it_asks_for() {
    let object = json!({"spec": {
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}},
            {"name": "b", "resources": {"requests": {"cpu": 1, "hugepages-2Mi": "4Mi"}}}],
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}},
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}}],
        "overhead": {"cpu": "100m", "memory": "10Mi"}}});
    let usage = item("pods", &object).usage;
    assert_eq!(
        usage.to_string(),
        "count/pods=1,cpu=2100m,hugepages-2Mi=4Mi,limits.memory=1034Mi,memory=10Mi,pods=1,requests.cpu=2100m,\
         requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi,requests.memory=10Mi"
    );
    let mut ended = object;
    ended["status"] = json!({"phase": "Succeeded"});
    assert_eq!(item("pods", &ended).usage.to_string(), "count/pods=1");
    let stuck = json!({"metadata": {"deletionTimestamp": "1969-12-31T23:00:00Z", "deletionGracePeriodSeconds": 30}});
    assert_eq!(item("pods", &stuck).usage.to_string(), "count/pods=1");
}

#[test]
fn a_resize_counts_the_larger_of_wanted_and_held() {
    let mut object = pod(json!({"requests": {"cpu": "1"}}));
    object["status"] = json!({"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]});
    assert_eq!(item("pods", &object).usage.get("cpu").unwrap().to_string(), "3");
    object["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "5".into();
    assert_eq!(item("pods", &object).usage.get("cpu").unwrap().to_string(), "5");
    object["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
    assert_eq!(item("pods", &object).usage.get("cpu").unwrap().to_string(), "3");
}

#[test]
fn services_and_claims_count_what_they_take() {
    let service = |spec: Value| item("services", &json!({"spec": spec})).usage.to_string();
    assert_eq!(
        service(json!({"type": "NodePort", "ports": [{}, {}]})),
        "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2"
    );
    assert_eq!(
        service(
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 30000}, {}]})
        ),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"
    );
    let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    assert_eq!(
        item("persistentvolumeclaims", &claim).usage.to_string(),
        "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
    );
    assert_eq!(item("secrets", &json!({})).usage.to_string(), "count/secrets=1,secrets=1");
    let deployment = Item::of("apps", "deployments", &json!({}), Timestamp::UNIX_EPOCH);
    assert_eq!(deployment.usage.to_string(), "count/deployments.apps=1");
}

#[test]
fn names_lead_to_the_kinds_that_count_for_them() {
    let cases = [
        ("pods", Some(Kind::Pods)),
        ("requests.nvidia.com/gpu", Some(Kind::Pods)),
        ("hugepages-1Gi", Some(Kind::Pods)),
        ("services.nodeports", Some(Kind::Services)),
        ("gold.storageclass.storage.k8s.io/requests.storage", Some(Kind::Claims)),
        ("secrets", Some(Kind::Other("secrets".into()))),
        ("count/deployments.apps", Some(Kind::Other("deployments.apps".into()))),
        ("count/pods", Some(Kind::Pods)),
        ("bogus", None),
        ("requests.kubernetes.io/x", None),
    ];
    for (name, kind) in cases {
        assert_eq!(Kind::counting(name), kind, "{name}");
        if let Some(kind) = kind {
            assert!(kind.counts_for(name), "{name}");
        }
    }
    assert_eq!(Kind::of("apps", "deployments").resource(), ("apps", "deployments"));
}

#[test]
fn what_exceeds_a_quota_is_refused_in_upstreams_words() {
    let small = item("pods", &pod(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}})));
    let full = quota(json!({"pods": "1", "cpu": "10"}), json!({"pods": "1", "cpu": "1"}));
    assert_eq!(
        charge(&small, &full),
        Err("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1".into())
    );
    let open = quota(json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"}));
    assert_eq!(charge(&small, &open), Ok("pods=2,requests.cpu=1".into()));
    let unknown = quota(json!({"pods": "2", "cpu": "3"}), json!({"pods": "1"}));
    assert_eq!(charge(&small, &unknown), Err("status unknown for quota: q, resources: cpu,pods".into()));
    let not_computed = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}});
    assert_eq!(charge(&small, &not_computed), Ok(String::new()));
    let other = quota(json!({"services": "0"}), json!({"services": "0"}));
    assert_eq!(charge(&small, &other), Ok(String::new()));
}

#[test]
fn a_quota_of_compute_makes_containers_say_what_they_want() {
    let open = quota(
        json!({"limits.cpu": "10", "limits.memory": "1Gi", "requests.memory": "1Gi"}),
        json!({"limits.cpu": "0", "limits.memory": "0", "requests.memory": "0"}),
    );
    let mut object = pod(json!({"requests": {"memory": "1Mi"}}));
    object["spec"]["initContainers"] = json!([{"name": "a"}]);
    assert_eq!(
        charge(&item("pods", &object), &open),
        Err("failed quota: q: must specify limits.cpu for: a,c; limits.memory for: a,c; requests.memory for: a".into())
    );
    object["spec"]["resources"] = json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "1Mi"}});
    assert_eq!(charge(&item("pods", &object), &open), Err("failed quota: q: must specify limits.cpu".into()));
}

#[test]
fn only_the_difference_is_charged_and_giving_back_is_never_refused() {
    let old = item("services", &json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}));
    let new = item("services", &json!({"spec": {"type": "LoadBalancer", "ports": [{}]}}));
    let delta = new.usage.minus(&old.usage);
    assert_eq!(delta.to_string(), "services.loadbalancers=1,services.nodeports=-1");
    let quota = quota(
        json!({"services": "1", "services.nodeports": "0", "services.loadbalancers": "1"}),
        json!({"services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}),
    );
    let charged = new.charge(&quota, &delta).unwrap().unwrap();
    assert_eq!(charged.to_string(), "services=1,services.loadbalancers=1,services.nodeports=1");
}

#[test]
fn scopes_choose_objects() {
    let scoped = |scopes: Value, selector: Value, object: &Value| {
        let quota = json!({"spec": {"scopes": scopes, "scopeSelector": {"matchExpressions": selector}}});
        item("pods", object).in_scope(&quota)
    };
    let idle = pod(json!({}));
    let busy = pod(json!({"requests": {"cpu": "1"}}));
    let with = |key: &str, value: Value| {
        let mut object = idle.clone();
        object["spec"][key] = value;
        object
    };
    assert!(scoped(json!(["BestEffort", "NotTerminating"]), json!([]), &idle));
    assert!(!scoped(json!(["BestEffort"]), json!([]), &busy) && scoped(json!(["NotBestEffort"]), json!([]), &busy));
    assert!(scoped(json!(["Terminating"]), json!([]), &with("activeDeadlineSeconds", json!(5))));
    let classes =
        |operator: &str, values: Value| json!([{"scopeName": "PriorityClass", "operator": operator, "values": values}]);
    let high = with("priorityClassName", json!("high"));
    for (operator, values, of_high, of_none) in [
        ("In", json!(["high"]), true, false),
        ("NotIn", json!(["high"]), false, true),
        ("Exists", json!([]), true, false),
        ("DoesNotExist", json!([]), false, true),
    ] {
        assert_eq!(scoped(json!([]), classes(operator, values.clone()), &high), of_high, "{operator}");
        assert_eq!(scoped(json!([]), classes(operator, values), &idle), of_none, "{operator}");
    }
    let term = json!([{"topologyKey": "k", "namespaceSelector": {}}]);
    let nosy = with("affinity", json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}));
    assert!(scoped(json!(["CrossNamespacePodAffinity"]), json!([]), &nosy));
    assert!(!scoped(json!(["CrossNamespacePodAffinity"]), json!([]), &idle));
    let quota = json!({"spec": {"scopes": ["BestEffort"]}});
    assert!(!item("secrets", &json!({})).in_scope(&quota), "only pods have such scopes");
    let claim = json!({"spec": {"volumeAttributesClassName": "gold"}});
    let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [
        {"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}]}}});
    assert!(item("persistentvolumeclaims", &claim).in_scope(&quota));
}
