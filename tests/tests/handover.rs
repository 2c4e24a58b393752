//! One process takes over from another: an upgrade that no client of the gateway notices.

use std::fs;

use system_tests::{
    Instance, Options, eventually,
    http::{self, Load},
    need_root,
};

/// Requests that are answered before, between and after two handovers.
const ANSWERED: usize = 100;

#[test]
fn clients_of_the_gateway_do_not_notice_that_another_process_takes_over() {
    if !need_root("clients_of_the_gateway_do_not_notice_that_another_process_takes_over") {
        return;
    }
    let mut instance = Instance::start(Options { node: true, ..Options::default() });
    instance.install_example();
    let api = instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let load = Load::orders(&instance.gateway_url("/orders"), 8, "handed");
    let mut pids = vec![instance.pid()];
    for _ in 0..2 {
        let answered = load.answered();
        eventually("the load runs", || (load.answered() > answered + ANSWERED).then_some(()));
        instance.replace();
        pids.push(instance.pid());
    }
    let answered = load.answered();
    eventually("the load goes on", || (load.answered() > answered + ANSWERED).then_some(()));
    let outcome = load.stop();
    assert_eq!(outcome.failed, 0, "of {} requests: {:?}", outcome.sent, outcome.failures);
    pids.dedup();
    assert_eq!(pids.len(), 3, "each time another process");
    let run = fs::read_to_string(instance.data_dir().join("run.json")).expect("the last process says what runs");
    let run: serde_json::Value = serde_json::from_str(&run).expect("JSON");
    assert_eq!(run["pid"], instance.pid());
    let after = instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    assert_eq!(after, api, "the API's port is kept too");
    // The new process follows changes.
    instance.kubectl(&["-n", "settlement", "delete", "httproute", "--all"]);
    eventually("the routes are gone", || {
        http::get(&instance.gateway_url("/")).ok().filter(|(status, _)| status.as_u16() == 404)
    });
}

#[test]
fn who_takes_over_from_nobody_starts_and_who_is_not_let_is_told() {
    let mut instance = Instance::start(Options::default());
    instance.terminate();
    instance.replace();
    let refused = instance.keelson(&["up", "--no-node", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    instance.terminate();
    assert!(!instance.data_dir().join("handover.sock").exists(), "nothing is left");
    instance.resume();
}
