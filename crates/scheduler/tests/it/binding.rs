//! Bindings behind a gate that can refuse them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, ApiServerConfig, User};
use http::{Method, Request, Response};
use identity::TokenSigner;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use reconcile::Informers;
use scheduler::Scheduler;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Far more than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client whose first `refusals` bindings fail on the way.
fn gated(server: &Arc<ApiServer>, refusals: usize) -> Client {
    let service = server.service(Some(User::new("test", &["system:masters"])));
    let left = Arc::new(AtomicUsize::new(refusals));
    let gate = tower::service_fn(move |request: Request<Body>| {
        let (mut service, left) = (service.clone(), Arc::clone(&left));
        async move {
            let binding = request.method() == Method::POST && request.uri().path().ends_with("/binding");
            let refuse = |left: usize| left.checked_sub(1);
            if binding && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                    "reason": "InternalError", "message": "refused by the test"});
                let body = apiserver::full(status.to_string());
                return Ok::<_, Infallible>(Response::builder().status(500).body(body).unwrap());
            }
            service.call(request).await
        }
    });
    Client::new(gate, "default")
}

async fn create<K>(client: &Client, value: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(value).unwrap();
    Api::<K>::namespaced(client.clone(), "default").create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_bindings_give_their_room_back_and_are_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = store::Store::open(directory.path().join("store"), store::Options::default()).unwrap();
    let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://test").unwrap();
    let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
    server.bootstrap().await.unwrap();
    let client = gated(&server, 3);
    create::<ServiceAccount>(&client, json!({"metadata": {"name": "default"}})).await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "only"},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}}))
    .unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &node).await.unwrap();
    nodes
        .replace_status(
            "only",
            &PostParams::default(),
            &Node { metadata: nodes.get("only").await.unwrap().metadata, ..node },
        )
        .await
        .unwrap();
    // in a whole cluster a controller takes the taint of a new node off once it is ready
    let ready = json!({"spec": {"taints": null}});
    nodes.patch("only", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    // Exactly as much as the node has: room that is not given back would leave one waiting.
    for at in 0..4 {
        create::<Pod>(
            &client,
            json!({"metadata": {"name": format!("p{at}")}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "500m"}}}]}}),
        )
        .await;
    }
    create::<Pod>(
        &client,
        json!({"metadata": {"name": "foreign"}, "spec": {"schedulerName": "other",
        "containers": [{"name": "c", "image": "web:1"}]}}),
    )
    .await;

    let informers = Informers::new(client.clone());
    let stop = CancellationToken::new();
    let (watching, until) = (informers.clone(), stop.clone());
    let watches = tokio::spawn(async move { watching.run(until).await });
    let scheduling =
        tokio::spawn(Scheduler::new(&informers, client, &scheduler::Configuration::default(), 1).run(stop.clone()));

    let pods = informers.of::<Pod>();
    let mut changes = pods.subscribe();
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("only"));
    let all_bound = async {
        while pods.list().iter().filter(|pod| bound(pod)).count() < 4 {
            changes.next().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all_bound).await.expect("all pods are bound");
    let foreign = pods.get("default", "foreign").unwrap();
    assert!(!bound(&foreign), "another scheduler's pod is left alone");
    stop.cancel();
    scheduling.await.unwrap().unwrap();
    watches.await.unwrap().unwrap();
}
