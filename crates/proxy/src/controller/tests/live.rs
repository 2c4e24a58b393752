//! The whole gateway against an API server of fixed lists.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::*;
use crate::server::{ServerConfig, Sockets};

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves lists by the last element of their path, watches that say nothing more, and passes patches on.
fn client(lists: Arc<HashMap<&'static str, Vec<Value>>>, patches: mpsc::UnboundedSender<(String, Value)>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (lists, patches) = (Arc::clone(&lists), patches.clone());
        async move { Ok::<_, Infallible>(answer(request, &lists, &patches).await) }
    });
    Client::new(service, "default")
}

async fn answer(
    request: Request<Body>,
    lists: &HashMap<&'static str, Vec<Value>>,
    patches: &mpsc::UnboundedSender<(String, Value)>,
) -> Reply {
    let path = request.uri().path().to_owned();
    if request.method() == Method::PATCH {
        let body: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        let _ = patches.send((path, body));
        return reply(200, &json!({"metadata": {}, "spec": {"gatewayClassName": "", "controllerName": ""}}));
    }
    let query = request.uri().query().unwrap_or_default();
    if query.contains("sendInitialEvents") {
        return reply(
            422,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "sendInitialEvents: Forbidden", "reason": "Invalid", "code": 422}),
        );
    }
    if query.contains("watch=true") {
        return Response::new(StreamBody::new(futures::stream::pending()).boxed_unsync());
    }
    let items = lists.get(path.rsplit('/').next().unwrap()).cloned().unwrap_or_default();
    reply(200, &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}))
}

fn reply(code: u16, body: &Value) -> Reply {
    Response::builder().status(code).body(Full::new(Bytes::from(body.to_string())).boxed_unsync()).unwrap()
}

/// A backend that answers every connection once.
async fn backend(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").await;
        }
    });
    address
}

fn objects(backend: SocketAddr) -> HashMap<&'static str, Vec<Value>> {
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "resourceVersion": "7", "uid": name});
    let mut slice = meta("web-1");
    slice["labels"] = json!({"kubernetes.io/service-name": "web"});
    HashMap::from([
        (
            "gatewayclasses",
            vec![json!({"metadata": {"name": "keelson"}, "spec": {"controllerName": "keelson.dev/gateway"}})],
        ),
        (
            "gateways",
            vec![json!({"metadata": meta("edge"), "spec": {"gatewayClassName": "keelson",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})],
        ),
        (
            "httproutes",
            vec![json!({"metadata": meta("web"), "spec": {"parentRefs": [{"name": "edge"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})],
        ),
        ("services", vec![json!({"metadata": meta("web"), "spec": {"ports": [{"port": 80}]}})]),
        (
            "customresourcedefinitions",
            vec![json!({"metadata": {"name": "gateways.gateway.networking.k8s.io",
            "annotations": {"gateway.networking.k8s.io/bundle-version": "v0.0.0"}}})],
        ),
        (
            "endpointslices",
            vec![json!({"metadata": slice, "addressType": "IPv4", "ports": [{"port": backend.port()}],
            "endpoints": [{"addresses": [backend.ip().to_string()]}]})],
        ),
    ])
}

#[tokio::test]
async fn objects_become_a_table_and_their_status() {
    let mut tasks = JoinSet::new();
    let backend = backend(&mut tasks).await;
    let (patches, mut patched) = mpsc::unbounded_channel();
    let informers = Informers::new(client(Arc::new(objects(backend)), patches));
    let stop = CancellationToken::new();
    let addresses = vec![Ipv4Addr::LOCALHOST.into()];
    let server = Server::new(ServerConfig { addresses, ephemeral: true, sockets: Sockets::default(), threads: 0 });
    let controller = Controller::new(&informers, server.clone(), None, PathBuf::new());
    let mut bindings = server.bindings();
    let (running, stopped) = (server.clone(), stop.clone());
    tasks.spawn(async move { running.run(stopped).await });
    tasks.spawn(controller.run(stop.clone()));
    tasks.spawn({
        let stop = stop.clone();
        async move { informers.run(stop).await.unwrap() }
    });
    let group = "/apis/gateway.networking.k8s.io/v1";
    let class = format!("{group}/gatewayclasses/keelson/status");
    let reason = |body: &Value, at: usize| body["status"]["conditions"][at]["reason"].clone();
    let mut statuses = HashMap::new();
    // The release of the definitions is told as soon as it is known, which traffic does not wait for.
    while statuses.len() < 3 || statuses.get(&class).is_none_or(|body| reason(body, 1) != "UnsupportedVersion") {
        let (path, body) = patched.recv().await.unwrap();
        statuses.insert(path, body);
    }
    let gateway = &statuses[&format!("{group}/namespaces/shop/gateways/edge/status")];
    assert_eq!(gateway["metadata"]["resourceVersion"], "7");
    assert_eq!(gateway["status"]["addresses"][0]["value"], "127.0.0.1");
    assert_eq!(gateway["status"]["listeners"][0]["attachedRoutes"], 1);
    let route = &statuses[&format!("{group}/namespaces/shop/httproutes/web/status")];
    assert_eq!(route["status"]["parents"][0]["conditions"][0]["status"], "True");
    assert_eq!(reason(&statuses[&class], 0), "Accepted");
    let bound = bindings.wait_for(|b| !b.is_empty()).await.unwrap().values().next().unwrap().clone().unwrap();
    let mut stream = TcpStream::connect(bound).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    stop.cancel();
}
