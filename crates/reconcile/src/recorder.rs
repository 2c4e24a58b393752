//! Writes core/v1 Events about objects, merged and limited as client-go does it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use correlator::{Correlator, Verdict};

mod correlator;
#[cfg(test)]
mod tests;

/// Events waiting to be written; more are dropped, as client-go's broadcaster does, because events are hints.
const QUEUE_EVENTS_MAX: usize = 1000;
/// Longest message the API accepts (core/v1 Event validation).
const MESSAGE_BYTES_MAX: usize = 1024;

/// Whether an event tells of normal operation or of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Nothing is wrong.
    Normal,
    /// Something needs attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing that happened, before it is merged with its like.
#[derive(Clone, Debug)]
struct Occurrence {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    action: String,
    message: String,
    at: Timestamp,
}

enum Command {
    Record(Box<Occurrence>),
    Flush(oneshot::Sender<()>),
}

/// Records events in the background; cheap to clone. The writing task ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    writer: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Recorder {
    /// A recorder for `component`, for example `replicaset-controller`. Call it inside a tokio runtime.
    pub fn new(client: Client, component: &str) -> Self {
        Self::with_host(client, component, "")
    }

    /// A recorder for `component` on the node `host`, for example `kubelet` on `node-a`.
    pub fn with_host(client: Client, component: &str, host: &str) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE_EVENTS_MAX);
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::default(),
        };
        Self { inner: Arc::new(Inner { commands, writer: tokio::spawn(writer.run(queue)) }) }
    }

    /// Records that something happened to `about`. Never waits: when too many events wait, this one is dropped.
    ///
    /// `reason` is the short CamelCase cause, `action` what was done (may be empty), `message` the text for people.
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let occurrence = Occurrence {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: truncated(message.into()),
            at: Timestamp::now(),
        };
        if self.inner.commands.try_send(Command::Record(Box::new(occurrence))).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }

    /// Records that something happened to an object of a kind known at compile time.
    pub fn about<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about = object.object_ref(&());
        about.resource_version.clone_from(&object.meta().resource_version);
        self.event(&about, kind, reason, "", message);
    }

    /// Waits until everything recorded so far is written or given up.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.inner.commands.send(Command::Flush(done)).await.is_ok() {
            // An error means the writer is gone, and with it everything there was to wait for.
            let _ = flushed.await;
        }
    }
}

fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.recv().await {
            match command {
                Command::Record(occurrence) => self.record(*occurrence).await,
                Command::Flush(done) => {
                    // The one who asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    async fn record(&mut self, occurrence: Occurrence) {
        let namespace =
            occurrence.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let result = match self.correlator.observe(&occurrence) {
            Verdict::Drop => return,
            Verdict::New { name, message } => {
                let event = self.render(&occurrence, &namespace, name, message, 1, occurrence.at);
                api.create(&PostParams::default(), &event).await.map(drop)
            }
            Verdict::Again { name, message, count, first } => {
                let patch = json!({"count": count, "lastTimestamp": Time(occurrence.at), "message": message});
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    // Events expire; the count goes on in a new object.
                    Err(kube::Error::Api(status)) if status.is_not_found() => {
                        let event = self.render(&occurrence, &namespace, name, message, count, first);
                        api.create(&PostParams::default(), &event).await.map(drop)
                    }
                    other => other.map(drop),
                }
            }
        };
        match result {
            Ok(()) => {}
            // A namespace that is going away takes no events.
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_not_found() => {
                tracing::debug!(reason = occurrence.reason, %status, "event rejected");
            }
            Err(error) => tracing::warn!(reason = occurrence.reason, %error, "cannot write event"),
        }
    }

    fn render(
        &self,
        occurrence: &Occurrence,
        namespace: &str,
        name: String,
        message: String,
        count: i32,
        first: Timestamp,
    ) -> Event {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            involved_object: occurrence.about.clone(),
            type_: Some(occurrence.kind.as_str().to_owned()),
            reason: Some(occurrence.reason.clone()),
            action: some(&occurrence.action),
            message: Some(message),
            count: Some(count),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(occurrence.at)),
            reporting_component: some(&self.component),
            reporting_instance: some(&self.host),
            source: Some(EventSource { component: some(&self.component), host: some(&self.host) }),
            ..Event::default()
        }
    }
}
