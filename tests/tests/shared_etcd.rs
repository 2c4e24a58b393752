//! Servers that share an etcd behave as one.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use system_tests::{
    Instance,
    etcd::{Etcd, need_etcd},
    eventually,
};

/// Names of objects by a field of theirs.
fn field(instance: &Instance, kind: &str, pointer: &str) -> Vec<Value> {
    let list = instance.get(&[kind]).expect("a list");
    list["items"].as_array().into_iter().flatten().filter_map(|item| item.pointer(pointer)).cloned().collect()
}

#[test]
fn addresses_and_ports_are_handed_out_once() {
    if !need_etcd("addresses_and_ports_are_handed_out_once") {
        return;
    }
    const EACH: usize = 12;
    let etcd = Etcd::start();
    let servers = etcd.servers(2, &[]);
    std::thread::scope(|scope| {
        for (number, server) in servers.iter().enumerate() {
            scope.spawn(move || {
                let service = |n: usize| {
                    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s-{number}-{n}")},
                        "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
                };
                for n in 0..EACH {
                    server.apply(&service(n).to_string());
                }
            });
        }
    });
    for server in &servers {
        let addresses: BTreeSet<String> =
            field(server, "services", "/spec/clusterIP").iter().map(Value::to_string).collect();
        let ports: BTreeSet<String> =
            field(server, "services", "/spec/ports/0/nodePort").iter().map(Value::to_string).collect();
        // the Service kubernetes has an address too
        assert_eq!((addresses.len(), ports.len()), (2 * EACH + 1, 2 * EACH));
    }
    // what one server freed another hands out again
    let freed = servers[0].get(&["service", "s-0-0"]).unwrap()["spec"]["clusterIP"].clone();
    servers[0].kubectl(&["delete", "service", "s-0-0"]);
    servers[1].apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "again"},
            "spec": {"clusterIP": freed, "ports": [{"port": 80}]}})
        .to_string(),
    );
    let taken = servers[0].kubectl_fails(
        &["create", "-f", "-"],
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "twice"},
            "spec": {"clusterIP": freed, "ports": [{"port": 80}]}})
        .to_string(),
    );
    assert!(taken.contains("provided IP is already allocated"), "{taken}");
}

#[test]
fn a_quota_of_services_holds_whichever_server_is_asked() {
    if !need_etcd("a_quota_of_services_holds_whichever_server_is_asked") {
        return;
    }
    const EACH: usize = 8;
    const HARD: usize = 9;
    let etcd = Etcd::start();
    let servers = etcd.servers(2, &[]);
    servers[0].kubectl(&["create", "namespace", "team"]);
    let quota = |server: &Instance, field: &str| {
        let quota = server.get(&["quota", "q", "-n", "team"])?;
        quota["status"][field]["services"].as_str().map(str::to_owned)
    };
    servers[0].kubectl(&["create", "quota", "q", "-n", "team", &format!("--hard=services={HARD}")]);
    eventually("the quota is counted", || quota(&servers[1], "used"));
    // each write that loses to one of the other server's is judged anew, by the quota as it is then
    let made: usize = std::thread::scope(|scope| {
        let create = |number: usize| {
            let server = &servers[number];
            move || {
                let one = |n: usize| {
                    let name = format!("s-{number}-{n}");
                    let output =
                        server.kubectl_output(&["create", "service", "nodeport", &name, "--tcp=80", "-n", "team"]);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success() || said.contains("exceeded quota: q"), "{said}");
                    usize::from(output.status.success())
                };
                (0..EACH).map(one).sum::<usize>()
            }
        };
        let threads = [0, 1].map(|number| scope.spawn(create(number)));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, HARD);
    for server in &servers {
        let list = server.get(&["services", "-n", "team"]).unwrap();
        let items = list["items"].as_array().unwrap();
        let ports: BTreeSet<String> =
            items.iter().map(|item| item["spec"]["ports"][0]["nodePort"].to_string()).collect();
        assert_eq!((items.len(), ports.len()), (HARD, HARD));
        assert_eq!(quota(server, "used"), Some(HARD.to_string()));
    }
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: small}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: '!has(object.data.size) || int(object.data.size) < 10'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: small}
spec: {policyName: small, validationActions: [Deny]}
";

#[test]
fn what_one_server_is_told_the_other_knows() {
    if !need_etcd("what_one_server_is_told_the_other_knows") {
        return;
    }
    let etcd = Etcd::start();
    let servers = etcd.servers(2, &[]);
    // what was acknowledged is seen at once
    for n in 0..10 {
        let name = format!("map-{n}");
        servers[n % 2].kubectl(&["create", "configmap", &name]);
        assert!(servers[(n + 1) % 2].get(&["configmap", &name]).is_some(), "{name}");
    }
    // a namespace of the one takes objects of the other
    servers[0].kubectl(&["create", "namespace", "team"]);
    servers[1].kubectl(&["create", "configmap", "first", "-n", "team"]);
    // Secrets are sealed in etcd, with the key that the servers share
    servers[0].kubectl(&["create", "secret", "generic", "secret", "--from-literal=password=not-for-the-disk"]);
    let secret = servers[1].get(&["secret", "secret"]).expect("the other server opens it");
    let encoded = secret["data"]["password"].as_str().unwrap().to_owned();
    let kept = files_below(etcd.data_dir());
    let lies_there = |text: &str| kept.iter().any(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()));
    assert!(lies_there("/registry/secrets/default/secret") && !lies_there(&encoded));
    // what is kept in memory besides the objects follows
    servers[0].apply(DEFINITION);
    eventually("the other server serves the new kind", || servers[1].get(&["widgets"]));
    servers[0].kubectl(&["create", "clusterrole", "reader", "--verb=get", "--resource=pods"]);
    servers[0].kubectl(&["create", "clusterrolebinding", "jane", "--clusterrole=reader", "--user=jane"]);
    let may =
        |server: &Instance| server.kubectl_output(&["auth", "can-i", "get", "pods", "--as=jane"]).status.success();
    eventually("the other server grants it", || may(&servers[1]).then_some(()));
    servers[0].kubectl(&["delete", "clusterrolebinding", "jane"]);
    eventually("the other server takes it back", || (!may(&servers[1])).then_some(()));
    servers[0].apply(POLICY);
    let tries = |server: &Instance| {
        let maps = ["create", "configmap", "big", "--dry-run=server", "--from-literal=size=11"];
        server.kubectl_output(&maps).status.success()
    };
    eventually("the other server keeps to the policy", || (!tries(&servers[1])).then_some(()));
    servers[0].kubectl(&["delete", "validatingadmissionpolicybinding", "small"]);
    eventually("the other server forgets the policy", || tries(&servers[1]).then_some(()));
}

/// The content of all files below a folder.
fn files_below(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(std::fs::read(path).unwrap()) }
    }
    found
}

#[test]
fn without_etcd_memory_is_read_and_nothing_is_written() {
    if !need_etcd("without_etcd_memory_is_read_and_nothing_is_written") {
        return;
    }
    let mut etcd = Etcd::start();
    let servers = etcd.servers(1, &[]);
    let server = &servers[0];
    server.kubectl(&["create", "configmap", "map"]);
    etcd.kill();
    // any state will do
    let raw = server.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps?resourceVersion=0"]);
    assert!(raw.contains("\"map\""), "{raw}");
    // the newest state is not known
    let refused = server.kubectl_fails(&["get", "--raw", "/api/v1/namespaces/default/configmaps"], "");
    assert!(refused.contains("etcd cannot be reached"), "{refused}");
    let refused = server.kubectl_fails(&["create", "configmap", "later"], "");
    assert!(refused.contains("etcd"), "{refused}");
    eventually("the server is not ready", || {
        (!server.kubectl_output(&["get", "--raw", "/readyz"]).status.success()).then_some(())
    });
    etcd.resume();
    eventually("it recovers alone", || {
        server.kubectl_output(&["create", "configmap", "later"]).status.success().then_some(())
    });
    eventually("it is ready again", || {
        server.kubectl_output(&["get", "--raw", "/readyz"]).status.success().then_some(())
    });
}

#[test]
fn etcd_is_spoken_to_with_certificates() {
    if !need_etcd("etcd_is_spoken_to_with_certificates") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = identity::Authority::load_or_create(folder.path(), now).unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let localhost = [std::net::IpAddr::from([127, 0, 0, 1])];
    let pair = authority.server("etcd", &["localhost".to_owned()], &localhost, now).unwrap();
    let client = authority.client("keelson", None, now).unwrap();
    let ca = file("authority.pem", &authority.certificate_pem());
    let (certificate, key) = (file("etcd.pem", &pair.certificate_pem), file("etcd.key", &pair.key_pem));
    let arguments = ["--cert-file", &certificate, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let etcd = Etcd::start_with(&arguments);
    let setting = |name: &str, value: String| (name.to_owned(), value);
    let environment = [
        setting("KEELSON_STORE_CA_FILE", ca),
        setting("KEELSON_STORE_CERT_FILE", file("client.pem", &client.certificate_pem)),
        setting("KEELSON_STORE_KEY_FILE", file("client.key", &client.key_pem)),
    ];
    let servers = etcd.servers(1, &environment);
    servers[0].kubectl(&["create", "configmap", "map"]);
    assert!(servers[0].get(&["configmap", "map"]).is_some());
}
