//! Clients that users bring: Helm, the official Python client, and the kube runtime that operators are built on.

use std::{collections::BTreeMap, process::Command, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        Controller,
        controller::Action,
        finalizer::{self, Event, finalizer},
        reflector, watcher,
    },
};
use serde_json::json;
use system_tests::{Instance, Options, PATIENCE};

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/chart");
    let instance = Instance::start(Options::default());
    instance.play("helm", &include_str!("clients/helm.txt").replace("CHART", chart));
}

#[test]
fn the_official_python_client_works_unchanged() {
    let instance = Instance::start(Options::default());
    let Ok(python) = std::env::var("PYTHON") else {
        println!("skipped: PYTHON names no interpreter with the kubernetes package (make test sets it)");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/official.py");
    let output = Command::new(python).arg(script).arg(instance.kubeconfig()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed.matches("passed:").count(), 7, "{printed}");
}

async fn client(instance: &Instance) -> Client {
    let kubeconfig = Kubeconfig::read_from(instance.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(BTreeMap::from([("value".to_owned(), value.to_owned())])),
        ..Default::default()
    }
}

/// A reflector that starts with a streamed list keeps a copy of the cluster's state.
#[tokio::test]
async fn a_reflector_follows_a_streamed_list() {
    let instance = Instance::start(Options::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&instance).await);
    maps.create(&PostParams::default(), &map("before", "1")).await.unwrap();
    let (store, writer) = reflector::store();
    let stream = reflector(writer, watcher(maps.clone(), watcher::Config::default().streaming_lists()));
    let mut stream = Box::pin(stream);
    let follow = async {
        let named = |name: &str| store.state().into_iter().find(|object| object.name_any() == name);
        maps.create(&PostParams::default(), &map("after", "1")).await.unwrap();
        let change = json!({"data": {"value": "2"}});
        maps.patch("before", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        maps.delete("after", &DeleteParams::default()).await.unwrap();
        let mut seen = false;
        while let Some(event) = stream.next().await {
            event.unwrap();
            seen |= named("after").is_some();
            let changed = named("before").is_some_and(|object| object.data.as_ref().unwrap()["value"] == "2");
            // a list that came late shows only the end
            if changed && named("after").is_none() {
                break;
            }
        }
        seen
    };
    tokio::time::timeout(PATIENCE, follow).await.expect("the reflector follows in time");
}

/// What a controller of the test does: it keeps a copy of every map that asks for one, and cleans up after itself.
#[tokio::test]
async fn a_controller_reconciles_with_a_finalizer() {
    let instance = Instance::start(Options::default());
    let client = client(&instance).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let wanted = watcher::Config::default().labels("copied=yes");
    let controller = Controller::new(maps.clone(), wanted).run(reconcile, give_up, Arc::new(maps.clone()));
    let running = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    let mut source = map("source", "1");
    source.metadata.labels = Some(BTreeMap::from([("copied".to_owned(), "yes".to_owned())]));
    maps.create(&PostParams::default(), &source).await.unwrap();
    let copy = kube::runtime::wait::await_condition(maps.clone(), "source-copy", |copy: Option<&ConfigMap>| {
        copy.is_some_and(|copy| copy.data.as_ref().is_some_and(|data| data["value"] == "1"))
    });
    tokio::time::timeout(PATIENCE, copy).await.expect("a copy is made").unwrap();
    maps.delete("source", &DeleteParams::default()).await.unwrap();
    for name in ["source", "source-copy"] {
        let gone =
            kube::runtime::wait::await_condition(maps.clone(), name, |object: Option<&ConfigMap>| object.is_none());
        tokio::time::timeout(PATIENCE, gone).await.expect("both go").unwrap();
    }
    running.abort();
}

async fn reconcile(object: Arc<ConfigMap>, maps: Arc<Api<ConfigMap>>) -> Result<Action, finalizer::Error<kube::Error>> {
    let done = finalizer(&maps, "example.com/copy", object, |event| async {
        match event {
            Event::Apply(object) => {
                let copy = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("{}-copy", object.name_any())},
                    "data": object.data,
                });
                maps.patch(&format!("{}-copy", object.name_any()), &PatchParams::apply("copier"), &Patch::Apply(copy))
                    .await?;
            }
            Event::Cleanup(object) => {
                let copy = format!("{}-copy", object.name_any());
                match maps.delete(&copy, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => drop(other?),
                }
            }
        }
        Ok::<_, kube::Error>(Action::await_change())
    });
    done.await
}

fn give_up(_: Arc<ConfigMap>, _: &finalizer::Error<kube::Error>, _: Arc<Api<ConfigMap>>) -> Action {
    Action::requeue(Duration::from_millis(100))
}

/// Two candidates that write one lease by its version: never do both hold it.
#[tokio::test]
async fn a_lease_has_one_holder_at_a_time() {
    let instance = Instance::start(Options::default());
    let leases: Api<Lease> = Api::default_namespaced(client(&instance).await);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"},
        "spec": {"leaseDurationSeconds": 10, "leaseTransitions": 0}});
    leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    let take = |name: &'static str| {
        let leases = leases.clone();
        async move {
            let mut taken = 0;
            for _ in 0..20 {
                let mut lease = leases.get("one").await.unwrap();
                let spec = lease.spec.as_mut().unwrap();
                spec.holder_identity = Some(name.to_owned());
                spec.lease_transitions = spec.lease_transitions.map(|count| count + 1);
                match leases.replace("one", &PostParams::default(), &lease).await {
                    Ok(_) => taken += 1,
                    Err(kube::Error::Api(status)) => assert_eq!(status.code, 409),
                    Err(error) => panic!("{error}"),
                }
            }
            taken
        }
    };
    let (first, second) = tokio::join!(take("a"), take("b"));
    let lease = leases.get("one").await.unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(first + second), "every success counts once");
}
