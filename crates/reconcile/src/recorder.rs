//! Writes core/v1 Events about objects, merged and limited as client-go does it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Pace;
use correlator::{Correlator, Verdict};

mod correlator;
#[cfg(test)]
mod tests;

/// Events waiting to be written; more are dropped, as client-go's broadcaster does, because events are hints. It keeps the
/// events of a burst of some thousand pods.
const QUEUE_EVENTS_MAX: usize = 4096;
/// Events written at once: enough to share the commits of others, few enough to leave the server to more urgent requests.
const WRITES_MAX: u32 = 8;
/// Events a recorder may write as fast as it can, and by how many a second that refills: events of a burst come after what they
/// tell of. It is twenty times what client-go lets a component ask.
const BURST: u32 = 64;
const PER_SECOND: u32 = 1000;
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
        let events = Events { client, component: component.into(), host: host.into() };
        let writer = Writer { events, correlator: Correlator::default() };
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

/// What becomes of one event object.
struct Writing {
    occurrence: Box<Occurrence>,
    name: String,
    message: String,
    count: i32,
    first: Timestamp,
    /// Whether the object is there already.
    exists: bool,
}

struct Writer {
    events: Events,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut writes = Writes::default();
        // when all is used up, a write each is worth waking for
        let mut pace = Pace::new(BURST, PER_SECOND, WRITES_MAX);
        loop {
            let has_room = writes.running.len() < WRITES_MAX as usize;
            let pause = pace.pause(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(pause), if has_room && !pause.is_zero() => {}
                command = queue.recv(), if has_room && pause.is_zero() => match command {
                    Some(Command::Record(occurrence)) => {
                        if let Some(writing) = self.judge(occurrence) {
                            pace.spend();
                            writes.begin(&self.events, writing);
                        }
                    }
                    Some(Command::Flush(done)) => {
                        while writes.end(&self.events).await {}
                        // The one who asked may have stopped waiting.
                        let _ = done.send(());
                    }
                    None => return,
                },
                true = writes.end(&self.events), if !writes.running.is_empty() => {}
            }
        }
    }

    fn judge(&mut self, occurrence: Box<Occurrence>) -> Option<Writing> {
        match self.correlator.observe(&occurrence) {
            Verdict::Drop => None,
            Verdict::New { name, message } => {
                let first = occurrence.at;
                Some(Writing { occurrence, name, message, count: 1, first, exists: false })
            }
            Verdict::Again { name, message, count, first } => {
                Some(Writing { occurrence, name, message, count, first, exists: true })
            }
        }
    }
}

/// Writes under way; never two of one event object, whose later state follows when the earlier is written.
#[derive(Default)]
struct Writes {
    running: FuturesUnordered<BoxFuture<'static, String>>,
    next: HashMap<String, Option<Writing>>,
}

impl Writes {
    fn begin(&mut self, events: &Events, writing: Writing) {
        match self.next.entry(writing.name.clone()) {
            // counts add up: what waits already is part of this
            Entry::Occupied(mut under_way) => {
                under_way.insert(Some(writing));
            }
            Entry::Vacant(free) => {
                free.insert(None);
                self.running.push(events.clone().write(writing).boxed());
            }
        }
    }

    /// Waits until one has ended, and goes on with what waits for it; false when there is none.
    async fn end(&mut self, events: &Events) -> bool {
        let Some(name) = self.running.next().await else { return false };
        if let Some(Some(writing)) = self.next.remove(&name) {
            self.begin(events, writing);
        }
        true
    }
}

/// How events are written, and by whom.
#[derive(Clone)]
struct Events {
    client: Client,
    component: Arc<str>,
    host: Arc<str>,
}

impl Events {
    /// Writes one event object; returns its name.
    async fn write(self, writing: Writing) -> String {
        let occurrence = &writing.occurrence;
        let namespace = occurrence.about.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let create = || self.create(&writing, namespace);
        let result = if writing.exists {
            let at = Time(occurrence.at);
            let patch = json!({"count": writing.count, "lastTimestamp": at, "message": writing.message});
            match api.patch(&writing.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // Events expire; the count goes on in a new object.
                Err(kube::Error::Api(status)) if status.is_not_found() => create().await,
                other => other.map(drop),
            }
        } else {
            create().await
        };
        match result {
            Ok(()) => {}
            // A namespace that is going away takes no events.
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_not_found() => {
                tracing::debug!(reason = occurrence.reason, %status, "event rejected");
            }
            Err(error) => tracing::warn!(reason = occurrence.reason, %error, "cannot write event"),
        }
        writing.name
    }

    /// What the server answers is the event again, and not looked at.
    async fn create(&self, writing: &Writing, namespace: &str) -> Result<(), kube::Error> {
        let event = serde_json::to_vec(&self.render(writing, namespace)).map_err(kube::Error::SerdeError)?;
        let request = Request::new(Event::url_path(&(), Some(namespace)));
        let request = request.create(&PostParams::default(), event).map_err(kube::Error::BuildRequest)?;
        self.client.request_text(request).await.map(drop)
    }

    fn render(&self, writing: &Writing, namespace: &str) -> Event {
        let occurrence = &writing.occurrence;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let name = Some(writing.name.clone());
        Event {
            metadata: ObjectMeta { name, namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            involved_object: occurrence.about.clone(),
            type_: Some(occurrence.kind.as_str().to_owned()),
            reason: Some(occurrence.reason.clone()),
            action: some(&occurrence.action),
            message: Some(writing.message.clone()),
            count: Some(writing.count),
            first_timestamp: Some(Time(writing.first)),
            last_timestamp: Some(Time(occurrence.at)),
            reporting_component: some(&self.component),
            reporting_instance: some(&self.host),
            source: Some(EventSource { component: some(&self.component), host: some(&self.host) }),
            ..Event::default()
        }
    }
}
