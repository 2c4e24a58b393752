//! The example as its team runs it: the ledger outlives its pod, its journal is migrated once, a day is closed once, and a
//! drain leaves orders at work.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use system_tests::{
    Instance, Options, eventually,
    example::order,
    http::{self, Load},
    need_root,
};

/// Two orders as version 1 of the ledger wrote them, and what a crash left of a third.
const OLD_JOURNAL: &str = concat!(
    r#"{"idempotency_key":"old-1","order_id":"old-1","debtor":"a","creditor":"b","amount_minor":109,"currency":"USD"}"#,
    "\n",
    r#"{"idempotency_key":"old-2","order_id":"old-2","debtor":"a","creditor":"b","amount_minor":109,"currency":"USD"}"#,
    "\n",
    r#"{"idempotency_key":"old-3","or"#,
);
/// When that was last written to.
const OLD_DAY: &str = "2026-01-15";

/// Half of the calls that reach the ledger's Service in the mesh fail.
const SICK: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ledger, namespace: settlement}
spec:
  parentRefs: [{group: "", kind: Service, name: ledger, port: 8080}]
  rules: [{backendRefs: [{name: ledger, port: 8080}]}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: sick-ledger, namespace: settlement}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ledger}]
  faultInjection: {abort: {httpStatus: 503, percentage: 50}}
"#;
/// How long it is sick.
const SICKNESS: Duration = Duration::from_secs(60);

fn instance_with_example() -> Instance {
    let instance = Instance::start(Options { node: true, ..Options::default() });
    instance.install_example();
    instance
}

/// kubectl in the example's namespace.
fn kubectl(instance: &Instance, arguments: &[&str]) -> String {
    instance.kubectl(&[&["-n", "settlement"], arguments].concat())
}

fn ledger_pod(instance: &Instance) -> Option<Value> {
    instance.get(&["pod", "ledger-0", "-n", "settlement"])
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}

fn manifest(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/settlement/manifests").join(file))
        .unwrap()
}

#[test]
fn the_ledger_outlives_its_pod() {
    if !need_root("the_ledger_outlives_its_pod") {
        return;
    }
    let instance = instance_with_example();
    let before = ledger_pod(&instance).unwrap();
    let load = Load::orders(&instance.gateway_url("/orders"), 4, "kept");
    eventually("the load runs", || (load.answered() > 50).then_some(()));
    kubectl(&instance, &["delete", "pod", "ledger-0"]);
    let after = eventually("another pod under the same name", || {
        ledger_pod(&instance).filter(|pod| pod["metadata"]["uid"] != before["metadata"]["uid"] && is_ready(pod))
    });
    assert_eq!(after["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-ledger-0");
    let answered = load.answered();
    eventually("orders are settled again", || (load.answered() > answered + 50).then_some(()));
    let outcome = load.stop();
    let mut keys = instance.ledger_journal().keys;
    let written = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), written, "a key settles once");
    let lost: Vec<_> = outcome.answered.iter().filter(|key| keys.binary_search(key).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged and not in the journal: {lost:?}");
    // The pod has a name of its own, by which the governing Service leads to it.
    let named = instance.get(&["endpointslices", "-n", "settlement", "-l", "kubernetes.io/service-name=ledger-pods"]);
    assert_eq!(named.unwrap()["items"][0]["endpoints"][0]["hostname"], "ledger-0");
    let claims = kubectl(&instance, &["get", "pvc", "-o", "name"]);
    assert_eq!(claims.trim(), "persistentvolumeclaim/data-ledger-0");
}

#[test]
fn an_old_journal_is_migrated_once_and_its_days_are_closed_once() {
    if !need_root("an_old_journal_is_migrated_once_and_its_days_are_closed_once") {
        return;
    }
    let instance = instance_with_example();
    // The state before the update: a journal of version 1, and nothing migrated yet.
    kubectl(&instance, &["wait", "--for=condition=complete", "job/ledger-migrate-v2", "--timeout=60s"]);
    kubectl(&instance, &["delete", "job", "ledger-migrate-v2"]);
    kubectl(&instance, &["scale", "statefulset/ledger", "--replicas=0"]);
    eventually("the ledger's pod is gone", || ledger_pod(&instance).is_none().then_some(()));
    let journal = instance.ledger_folder().join("settlements.jsonl");
    fs::write(&journal, OLD_JOURNAL).unwrap();
    let written = jiff::civil::date(2026, 1, 15).at(12, 0, 0, 0).in_tz("Europe/Lisbon").unwrap().timestamp();
    fs::File::options().append(true).open(&journal).unwrap().set_modified(written.into()).unwrap();
    // The update: the ledger waits for the Job.
    kubectl(&instance, &["scale", "statefulset/ledger", "--replicas=1"]);
    eventually("the ledger waits", || {
        let log = instance.kubectl_output(&["-n", "settlement", "logs", "ledger-0"]);
        String::from_utf8_lossy(&log.stdout).contains("waiting for the migration").then_some(())
    });
    assert!(!is_ready(&ledger_pod(&instance).unwrap()));
    instance.apply(&manifest("20-ledger.yaml"));
    eventually("the ledger serves", || ledger_pod(&instance).filter(is_ready));
    let url = instance.gateway_url("/orders");
    let known = eventually("an order from before is known", || {
        http::post(&url, "old-1", &order("old-1")).ok().filter(|(status, _)| status.is_success())
    });
    assert_eq!(known.0, 200);
    let migrated = json!({"format": 2, "migrated": {"from": 1, "settlements": 2}});
    assert_eq!(instance.ledger_journal().header, migrated);
    assert_eq!(fs::read_to_string(journal.with_file_name("settlements.v1.jsonl")).unwrap(), OLD_JOURNAL);
    // Once more, beside the running ledger.
    kubectl(&instance, &["wait", "--for=condition=complete", "job/ledger-migrate-v2", "--timeout=60s"]);
    kubectl(&instance, &["delete", "job", "ledger-migrate-v2"]);
    instance.apply(&manifest("20-ledger.yaml"));
    kubectl(&instance, &["wait", "--for=condition=complete", "job/ledger-migrate-v2", "--timeout=60s"]);
    assert!(kubectl(&instance, &["logs", "job/ledger-migrate-v2"]).contains("nothing to migrate"));
    assert_eq!(instance.ledger_journal().header, migrated);
    assert_eq!(ledger_pod(&instance).unwrap()["status"]["containerStatuses"][0]["restartCount"], 0);
    close_days(&instance);
}

/// The CronJob's work, started three times, two of them at once: every day is closed once.
fn close_days(instance: &Instance) {
    let close_day = instance.get(&["cronjob", "close-day", "-n", "settlement"]).unwrap();
    assert_eq!(
        (&close_day["spec"]["timeZone"], &close_day["spec"]["concurrencyPolicy"]),
        (&json!("Europe/Lisbon"), &json!("Forbid"))
    );
    let yesterday = || jiff::Zoned::now().in_tz("Europe/Lisbon").unwrap().date().yesterday().unwrap().to_string();
    let before = yesterday();
    let start = |name: &str| kubectl(instance, &["create", "job", name, "--from=cronjob/close-day"]);
    let wait = |name: &str| {
        let job = format!("job/{name}");
        kubectl(instance, &["wait", "--for=condition=complete", &job, "--timeout=60s"])
    };
    start("first");
    start("second");
    wait("first");
    wait("second");
    start("third");
    wait("third");
    let mut wanted = vec![(OLD_DAY.to_owned(), 2), (before.clone(), 0)];
    // A test may run at midnight.
    if yesterday() != before {
        wanted = instance.ledger_journal().closed;
        assert!(wanted.len() <= 3 && wanted[0] == (OLD_DAY.to_owned(), 2), "{wanted:?}");
    }
    assert_eq!(instance.ledger_journal().closed, wanted);
    let days = http::get(&instance.gateway_url("/api/days")).unwrap().1;
    let days: Value = serde_json::from_slice(&days).unwrap();
    let shown = json!({"closed": true, "settlements": 2, "amounts_minor": {"USD": 218}});
    assert_eq!(days["days"][OLD_DAY], shown);
}

/// Calls of the ledger in the mesh by the status that orders got.
fn calls(instance: &Instance, status: &str) -> u64 {
    let of = [r#"destination_service_name="ledger""#, r#"reporter="source""#, &format!(r#"response_code="{status}""#)];
    let metrics = instance.kubectl(&["get", "--raw", "/metrics"]);
    let lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let counted = lines.filter(|line| of.iter().all(|label| line.contains(label)));
    counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[test]
fn a_ledger_that_fails_half_of_its_calls_for_a_minute_loses_and_doubles_nothing() {
    if !need_root("a_ledger_that_fails_half_of_its_calls_for_a_minute_loses_and_doubles_nothing") {
        return;
    }
    let instance = instance_with_example();
    instance.kubectl(&["label", "namespace", "settlement", "istio.io/dataplane-mode=ambient"]);
    instance.apply(SICK);
    // What orders holds open was opened before there was a route, and goes on as it is.
    kubectl(&instance, &["rollout", "restart", "deployment/orders"]);
    kubectl(&instance, &["rollout", "status", "deployment/orders", "--timeout=90s"]);
    let load = Load::orders(&instance.gateway_url("/orders"), 2, "sick");
    let since = Instant::now();
    eventually("half of the calls fail", || (calls(&instance, "503") > 20).then_some(()));
    while since.elapsed() < SICKNESS {
        let answered = load.answered();
        eventually("orders are settled all the same", || (load.answered() > answered + 20).then_some(()));
    }
    let (failed, made) = (calls(&instance, "503"), calls(&instance, "201"));
    assert!(failed * 3 > made, "the ledger was sick: {failed} calls failed, {made} did not");
    let outcome = load.stop();
    let mut keys = instance.ledger_journal().keys;
    let written = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), written, "a key settles once");
    let lost: Vec<_> = outcome.answered.iter().filter(|key| keys.binary_search(key).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged and not in the journal: {lost:?}");
    // What was not settled was said not to be, and can be sent again.
    kubectl(&instance, &["delete", "backendtrafficpolicy", "sick-ledger"]);
    let unsettled = outcome.unanswered.iter().filter(|key| keys.binary_search(key).is_err());
    for key in unsettled.take(20) {
        eventually("it is settled now", || {
            let placed = http::post(&instance.gateway_url("/orders"), key, &order(key)).ok()?;
            placed.0.is_success().then_some(())
        });
    }
}

#[test]
fn a_drain_leaves_orders_at_work_until_the_budget_is_gone() {
    if !need_root("a_drain_leaves_orders_at_work_until_the_budget_is_gone") {
        return;
    }
    let instance = instance_with_example();
    let node = instance.kubectl(&["get", "nodes", "-o", "name"]);
    let drain = |timeout: &str| {
        // what the node holds besides has no budget and would go
        let only = "--pod-selector=app.kubernetes.io/name=orders";
        instance.try_kubectl(&["drain", node.trim(), "--ignore-daemonsets", only, timeout], "")
    };
    let ready = || kubectl(&instance, &["get", "deployment", "orders", "-o", "jsonpath={.status.readyReplicas}"]);
    let allowed = || {
        let budget = instance.get(&["pdb", "orders", "-n", "settlement"])?;
        (budget["status"]["disruptionsAllowed"] == 1).then_some(())
    };
    eventually("one may go", allowed);
    let load = Load::orders(&instance.gateway_url("/orders"), 2, "drained");
    // The one machine is the only place: what is evicted cannot begin anew, and its fellow has to stay.
    let refused = drain("--timeout=7s").expect_err("a drain of the only node does not end");
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget"), "{refused}");
    assert_eq!(ready(), "1");
    let outcome = load.stop();
    assert!(outcome.sent > 100 && outcome.failed == 0, "of {}: {:?}", outcome.sent, outcome.failures);
    instance.kubectl(&["uncordon", node.trim()]);
    eventually("both work again, and one may go", || allowed().filter(|()| ready() == "2"));
    // Who takes the budget away has decided otherwise.
    kubectl(&instance, &["delete", "pdb", "orders"]);
    drain("--timeout=60s").expect("nothing stands in the way");
    eventually("nothing of orders runs", || (ready() != "1" && ready() != "2").then_some(()));
    instance.kubectl(&["uncordon", node.trim()]);
    eventually("orders are settled again", || {
        let placed = http::post(&instance.gateway_url("/orders"), "after", &order("after")).ok()?;
        placed.0.is_success().then_some(())
    });
}
