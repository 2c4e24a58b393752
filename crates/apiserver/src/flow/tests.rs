use serde_json::json;
use strategy::User;

use super::*;
use crate::testing;

async fn control(objects: &[(&str, Value)]) -> FlowControl {
    let directory = tempfile::tempdir().unwrap();
    let store = testing::store(directory.path());
    for (collection, object) in objects {
        let name = text_at(object, &["metadata", "name"]).to_owned();
        testing::put(&store, collection, &name, object).await;
    }
    let control = FlowControl::new(SEATS);
    control.reload(&store);
    control
}

async fn complete() -> FlowControl {
    let levels = objects::levels().iter().map(|level| (LEVELS, level.clone()));
    let schemas = objects::schemas().iter().map(|schema| (SCHEMAS, schema.clone()));
    control(&levels.chain(schemas).collect::<Vec<_>>()).await
}

fn asked<'a>(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
    Attributes { user, verb, group, resource, subresource: "", namespace, name: "", path: None }
}

fn schema_of(control: &FlowControl, attributes: &Attributes<'_>) -> (String, String) {
    let gate = control.enter(attributes, || 1).unwrap();
    (gate.schema.name.clone(), gate.schema.level.name.clone())
}

#[tokio::test]
async fn requests_are_of_the_schemas_upstream_would_pick() {
    let control = complete().await;
    let node = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let account =
        User::new("system:serviceaccount:kube-system:dns", &["system:serviceaccounts", "system:authenticated"]);
    let other = User::new("system:serviceaccount:web:app", &["system:serviceaccounts", "system:authenticated"]);
    let alice = User::new("alice", &["system:authenticated"]);
    let admin = User::new("admin", &["system:masters", "system:authenticated"]);
    let manager = User::new("system:kube-controller-manager", &["system:authenticated"]);
    let of = |attributes: &Attributes<'_>| schema_of(&control, attributes);
    let pair = |schema: &str, level: &str| (schema.to_owned(), level.to_owned());
    let leases = "coordination.k8s.io";
    assert_eq!(of(&asked(&node, "update", leases, "leases", "kube-node-lease")), pair("system-node-high", "node-high"));
    assert_eq!(of(&asked(&node, "get", "", "nodes", "")), pair("system-node-high", "node-high"));
    assert_eq!(of(&asked(&node, "list", "", "pods", "")), pair("system-nodes", "system"));
    assert_eq!(
        of(&asked(&account, "update", leases, "leases", "x")),
        pair("system-leader-election", "leader-election")
    );
    assert_eq!(of(&asked(&account, "list", "", "pods", "")), pair("kube-system-service-accounts", "workload-high"));
    assert_eq!(of(&asked(&other, "list", "", "pods", "web")), pair("service-accounts", "workload-low"));
    assert_eq!(of(&asked(&manager, "list", "", "pods", "")), pair("kube-controller-manager", "workload-high"));
    assert_eq!(of(&asked(&alice, "list", "", "pods", "web")), pair("global-default", "global-default"));
    assert_eq!(of(&asked(&admin, "list", "", "pods", "web")), pair("exempt", "exempt"));
    let probe = Attributes { path: Some("/livez"), ..asked(&alice, "get", "", "", "") };
    assert_eq!(of(&probe), pair("probes", "exempt"));
    let deeper = Attributes { path: Some("/livez/etcd"), ..probe };
    assert_eq!(of(&deeper), pair("global-default", "global-default"));
}

#[tokio::test]
async fn mandatory_objects_are_in_force_while_they_are_missing() {
    let control = control(&[]).await;
    let alice = User::new("alice", &["system:authenticated"]);
    let (schema, level) = schema_of(&control, &asked(&alice, "list", "", "pods", "web"));
    assert_eq!((schema.as_str(), level.as_str()), ("catch-all", "catch-all"));
}

#[tokio::test]
async fn flows_are_told_apart_by_user_or_namespace() {
    let control = complete().await;
    let table = control.table.load();
    let schema = |name: &str| table.schemas.iter().find(|schema| schema.name == name).unwrap().clone();
    let (alice, bob) = (User::new("alice", &[]), User::new("bob", &[]));
    let (of_alice, of_bob) = (asked(&alice, "get", "", "pods", "a"), asked(&bob, "get", "", "pods", "a"));
    let elsewhere = asked(&alice, "get", "", "pods", "b");
    let by_user = schema("global-default");
    assert_ne!(by_user.flow(&of_alice), by_user.flow(&of_bob));
    assert_eq!(by_user.flow(&of_alice), by_user.flow(&elsewhere));
    let by_namespace = schema("kube-scheduler");
    assert_eq!(by_namespace.flow(&of_alice), by_namespace.flow(&of_bob));
    assert_ne!(by_namespace.flow(&of_alice), by_namespace.flow(&elsewhere));
}

#[tokio::test]
async fn a_schema_without_its_level_is_out_of_force() {
    let mut stray = objects::schemas().last().unwrap().clone();
    stray["metadata"]["name"] = "stray".into();
    stray["spec"]["matchingPrecedence"] = 2.into();
    stray["spec"]["priorityLevelConfiguration"]["name"] = "nowhere".into();
    let control = control(&[(SCHEMAS, stray)]).await;
    let alice = User::new("alice", &["system:authenticated"]);
    assert_eq!(schema_of(&control, &asked(&alice, "get", "", "pods", "a")).0, "catch-all");
}

#[test]
fn lists_are_as_wide_as_what_they_go_over() {
    assert_eq!(width(1, 245), 1);
    assert_eq!(width(100, 245), 1);
    assert_eq!(width(250, 245), 3);
    assert_eq!(width(1_000_000, 245), 10);
    assert_eq!(width(1_000_000, 20), 3);
    assert_eq!(width(1_000_000, 0), 1);
}

#[tokio::test]
async fn idle_levels_lend_their_seats_and_the_state_is_told() {
    let control = complete().await;
    let alice = User::new("alice", &["system:authenticated"]);
    let attributes = asked(&alice, "get", "", "pods", "a");
    let level = control.enter(&attributes, || 1).unwrap().schema.level.clone();
    let nominal = level.nominal();
    let mut held = Vec::new();
    for _ in 0..nominal {
        held.push(control.enter(&attributes, || 1).unwrap().pass().await.unwrap());
    }
    let waiting: Vec<Gate> = (0..100).map(|_| control.enter(&attributes, || 1).unwrap()).collect();
    assert!(level.state().waiting > 0);
    control.rebalance();
    assert!(level.state().limit > nominal, "{:?}", level.state());
    assert_eq!(level.state().waiting, 0);
    let mut metrics = String::new();
    control.metrics(&mut metrics);
    let line = format!(
        "apiserver_flowcontrol_current_executing_requests{{flow_schema=\"global-default\",priority_level=\"global-default\"}} {nominal}\n"
    );
    assert!(metrics.contains(&line), "{metrics}");
    assert!(control.dump("dump_priority_levels").unwrap().contains("\nglobal-default, 0, false, false, 0, "));
    assert!(control.dump("dump_requests").is_some() && control.dump("x").is_none());
    drop((waiting, held));
    assert_eq!(level.state().taken, 0);
}

#[test]
fn levels_read_their_numbers() {
    let level = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 7, "lendablePercent": 5,
        "borrowingLimitPercent": 9, "limitResponse": {"type": "Queue", "queuing": {"queues": 3, "handSize": 2, "queueLengthLimit": 4}}}}});
    assert_eq!(shares(&level), Shares { shares: 7, lendable_percent: 5, borrowing_percent: Some(9) });
    assert_eq!(response(&level), Response::Queue(Queuing { queues: 3, hand_size: 2, length_max: 4 }));
    assert_eq!(response(&json!({"spec": {"type": "Exempt"}})), Response::Exempt);
}
