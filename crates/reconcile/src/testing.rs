//! An API server of one collection for the tests of this crate: lists, watches, and remembers writes.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request other than a read.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    objects: Vec<Value>,
    revision: u64,
    watchers: Vec<mpsc::UnboundedSender<String>>,
    queries: Vec<String>,
    writes: Vec<Write>,
    streamed_lists: bool,
    watch_opened: Arc<Notify>,
}

/// The server; cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { revision: 1, streamed_lists: true, ..State::default() })))
    }

    pub(crate) fn without_streamed_lists() -> Self {
        let api = Self::new();
        api.0.lock().streamed_lists = false;
        api
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(api.handle(request).await) }
            }),
            "default",
        )
    }

    /// Writes an object past all watches (when `announce` is false) or with an event.
    pub(crate) fn put(&self, name: &str, label: &str, uid: &str, announce: bool) {
        let mut state = self.0.lock();
        state.revision += 1;
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": name, "namespace": "default", "uid": uid, "labels": {"app": label},
            "resourceVersion": state.revision.to_string(), "managedFields": [{"manager": "test"}]}});
        let before = state.objects.len();
        state.objects.retain(|o| o["metadata"]["name"] != name);
        let verb = if state.objects.len() == before { "ADDED" } else { "MODIFIED" };
        state.objects.push(object.clone());
        if announce {
            state.send(json!({"type": verb, "object": object}));
        }
    }

    pub(crate) fn remove(&self, name: &str, announce: bool) {
        let mut state = self.0.lock();
        state.revision += 1;
        let at = state.objects.iter().position(|o| o["metadata"]["name"] == name).unwrap();
        let mut object = state.objects.remove(at);
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if announce {
            state.send(json!({"type": "DELETED", "object": object}));
        }
    }

    /// Tells all watches that their resource version is too old, and ends them.
    pub(crate) fn expire_watches(&self) {
        let mut state = self.0.lock();
        state.send(json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}}));
        state.watchers.clear();
    }

    pub(crate) fn writes(&self) -> Vec<Write> {
        self.0.lock().writes.clone()
    }

    /// Query strings of all reads so far.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.0.lock().queries.clone()
    }

    /// Waits until a watch is opened after this call was polled first.
    pub(crate) async fn watch_opened(&self) {
        let opened = Arc::clone(&self.0.lock().watch_opened);
        opened.notified().await;
    }

    async fn handle(&self, request: Request<Body>) -> Reply {
        let (parts, body) = request.into_parts();
        if parts.method != Method::GET {
            let bytes = body.collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            let path = parts.uri.path().to_owned();
            self.0.lock().writes.push(Write { method: parts.method, path, body: body.clone() });
            return reply(200, &body);
        }
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut state = self.0.lock();
        state.queries.push(query.clone());
        if !query.contains("watch=true") {
            let list = json!({"apiVersion": "v1", "kind": "ConfigMapList",
                "metadata": {"resourceVersion": state.revision.to_string()}, "items": state.objects});
            return reply(200, &list);
        }
        let initial = query.contains("sendInitialEvents=true");
        if initial && !state.streamed_lists {
            return reply(
                422,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "sendInitialEvents: Forbidden", "reason": "Invalid", "code": 422}),
            );
        }
        state.open_watch(initial)
    }
}

impl State {
    fn send(&mut self, event: Value) {
        let line = format!("{event}\n");
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn open_watch(&mut self, initial: bool) -> Reply {
        let (sender, receiver) = mpsc::unbounded_channel::<String>();
        if initial {
            for object in &self.objects {
                sender.send(format!("{}\n", json!({"type": "ADDED", "object": object}))).unwrap();
            }
            let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
                "resourceVersion": self.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
            sender.send(format!("{bookmark}\n")).unwrap();
        }
        self.watchers.push(sender);
        self.watch_opened.notify_one();
        let lines = stream::unfold(receiver, |mut lines| async move {
            let line = lines.recv().await?;
            Some((line, lines))
        });
        let frames = lines.map(|line| Ok(http_body::Frame::data(Bytes::from(line))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn reply(code: u16, body: &Value) -> Reply {
    let body = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}
