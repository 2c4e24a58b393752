//! Watches: the present state where it is asked for, then every change, as one line of JSON each (or one frame of
//! protobuf).
//!
//! A change is encoded once for all watchers that take objects as they are stored: the frame lies beside the event. What
//! is ready together goes out as one chunk, and bookmarks tell idle watchers how far they are.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use rand::RngExt as _;
use serde_json::{Value, json};
use store::{Event, Object, Revision, Snapshot, Watch, WatchError};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::list;
use crate::{
    body::{self, Body, BoxError},
    codec, conversion,
    convert::Form,
    dispatch::Call,
    metrics::Scope,
    negotiation::{Encoding, Shape},
    options::ListOptions,
    output::{self, Payload, Tables},
    selection::Selection,
    status::ApiError,
    websocket,
};

/// Events taken from the store at once: a burst leaves in few chunks, and one slow watcher holds no lock for long.
const EVENTS_AT_ONCE: usize = 256;
/// Events for which a watch keeps room.
const NEWS_KEPT: usize = 4;
/// Bytes of a chunk of events, after which the next one begins.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a line adds to its object, about.
const FRAME_BYTES: usize = 40;
/// How often an idle watcher that asked for bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// Shortest life of a watch whose client names none; as upstream, the real one is up to twice that.
const TIMEOUT_SECONDS_MIN: u64 = 1800;

/// Media type of a watch in protobuf: each event behind its length in four bytes.
const PROTOBUF_FRAMES: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Answers a watch.
pub(super) async fn watch(call: &Arc<Call>) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::of_watch(&call.query())?;
    let selection = Selection::parse(&call.served, &options, &call.name)?;
    if let Shape::Table(version) = call.accepted.shape {
        // what is wrong with the parameters is told at once and not in every event
        Tables::new(call, version)?;
    }
    let snapshot = call.server.snapshot();
    let current = snapshot.revision().0;
    if let Some(asked) = options.resource_version.filter(|asked| *asked > current) {
        return Err(ApiError::too_large_resource_version(asked, current));
    }
    let from_now = options.resource_version.is_none_or(|asked| asked == 0);
    let initial = options.send_initial_events.unwrap_or(from_now);
    // "the most recent" without the events that lead there
    let after = if initial || from_now { snapshot.revision() } else { Revision(options.resource_version.unwrap_or(0)) };
    let prefix = list::prefix(call);
    let watch = match call.server.store.watch(&call.served.collection, &prefix, after) {
        Ok(watch) => watch,
        Err(error) => return Ok(response(call, body::full(error_line(call, &gone(error, after))))),
    };
    let timeout = options
        .timeout_seconds
        .unwrap_or_else(|| rand::rng().random_range(TIMEOUT_SECONDS_MIN..=2 * TIMEOUT_SECONDS_MIN));
    let mut watching = Watching {
        encoder: Encoder { call: call.clone(), selection, columns_sent: false },
        watch,
        converting: None,
        news: Vec::new(),
        ready: VecDeque::new(),
        busy: false,
        alarm: Alarm::new(options.allow_bookmarks, Duration::from_secs(timeout)),
        draining: Box::pin(call.caller.draining.clone().cancelled_owned()),
        _open: Open::new(call.clone()),
        ended: false,
    };
    if initial {
        watching.initial(&snapshot, &prefix, options.send_initial_events == Some(true)).await?;
    }
    Ok(response(call, watching.boxed_unsync()))
}

/// The client's wish for the events over a WebSocket, one message each.
pub(super) fn socket(call: &mut Call) -> Result<Option<websocket::Wanted>, ApiError> {
    let socket = websocket::Wanted::take(&mut call.parts, websocket::Kind::Lines)?;
    if socket.is_some() && call.accepted.encoding == Encoding::Protobuf {
        return Err(ApiError::not_acceptable("application/json"));
    }
    Ok(socket)
}

fn response(call: &Call, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let content_type = match call.accepted.encoding {
        Encoding::Json | Encoding::Yaml => HeaderValue::from_static("application/json"),
        Encoding::Protobuf => HeaderValue::from_static(PROTOBUF_FRAMES),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn gone(error: WatchError, asked: Revision) -> ApiError {
    match error {
        WatchError::Compacted { oldest } => {
            ApiError::expired(format!("too old resource version: {} ({})", asked.0, oldest.0))
        }
        WatchError::Closed => ApiError::unavailable("the server is shutting down"),
    }
}

fn error_line(call: &Call, error: &ApiError) -> Bytes {
    line(call, "ERROR", &error.to_value())
}

fn line(call: &Call, kind: &str, object: &Value) -> Bytes {
    match call.accepted.encoding {
        Encoding::Json | Encoding::Yaml => json_line(kind, object),
        Encoding::Protobuf => protobuf_frame(kind, object),
    }
}

/// An event behind its length. One that cannot be encoded becomes an error that can: clients then list anew.
fn protobuf_frame(kind: &str, object: &Value) -> Bytes {
    let encoded = schema::protobuf::encode(object).map(|object| schema::protobuf::watch_event(kind, &object));
    let event = encoded.or_else(|error| {
        let error = ApiError::internal(error).to_value();
        schema::protobuf::encode(&error).map(|error| schema::protobuf::watch_event("ERROR", &error))
    });
    let event = event.unwrap_or_default();
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat().into()
}

fn json_line(kind: &str, object: &Value) -> Bytes {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(b"{\"type\":\"");
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(b"\",\"object\":");
    codec::write_json(&mut bytes, object);
    bytes.extend_from_slice(b"}\n");
    bytes.into()
}

/// What [`raw_line`] puts around an object, for the store to put it there at the commit.
pub const FRAMES: store::Frames = store::Frames {
    created: b"{\"type\":\"ADDED\",\"object\":",
    changed: b"{\"type\":\"MODIFIED\",\"object\":",
    deleted: b"{\"type\":\"DELETED\",\"object\":",
    end: b"}\n",
};

fn raw_line(kind: &str, object: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(object.len() + 40);
    bytes.extend_from_slice(b"{\"type\":\"");
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(b"\",\"object\":");
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(b"}\n");
    bytes.into()
}

/// Counts the watch while it lives.
struct Open(Arc<Call>);

impl Open {
    fn new(call: Arc<Call>) -> Self {
        let open = Self(call);
        open.gauge().fetch_add(1, Relaxed);
        open
    }

    fn gauge(&self) -> &AtomicI64 {
        let Call { served, name, namespace, .. } = &*self.0;
        served.metrics.watches(Scope::of("watch", !name.is_empty(), !namespace.is_empty()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Relaxed);
    }
}

/// Turns events into lines of one client's shape.
struct Encoder {
    call: Arc<Call>,
    selection: Selection,
    columns_sent: bool,
}

impl Encoder {
    /// The line of a change, `None` when the client selects neither state of the object.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let kind = match (&event.previous, event.deleted) {
            (_, true) => "DELETED",
            (None, false) => "ADDED",
            (Some(_), false) => "MODIFIED",
        };
        let kind = if self.selection.is_everything() { kind } else { self.selected(event, kind)? };
        if !output::is_verbatim(&self.call) {
            let object =
                if kind == "DELETED" && !event.deleted { with_revision(event)? } else { event.object.bytes.clone() };
            return Some(self.shaped(kind, object));
        }
        match kind {
            // the frame beside the event is of the change itself, not of what a selection makes of it
            "MODIFIED" if event.previous.is_some() && !event.deleted => Some(self.frame(event, kind)),
            "ADDED" if event.previous.is_none() => Some(self.frame(event, kind)),
            "DELETED" if event.deleted => Some(self.frame(event, kind)),
            "DELETED" => Some(raw_line(kind, &with_revision(event)?)),
            kind => Some(raw_line(kind, &event.object.bytes)),
        }
    }

    fn frame(&self, event: &Event, kind: &str) -> Bytes {
        event.frame.get_or_init(|| raw_line(kind, &event.object.bytes)).clone()
    }

    /// What the change is to a client that sees only selected objects.
    fn selected(&self, event: &Event, kind: &'static str) -> Option<&'static str> {
        let matches = |bytes: &Bytes| self.selection.matches(&self.call.served, &event.key.path, bytes);
        let before = event.previous.as_ref().is_some_and(|previous| matches(&previous.bytes));
        let now = !event.deleted && matches(&event.object.bytes);
        match (before, now) {
            (true, true) => Some(kind),
            (false, true) => Some("ADDED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }

    fn shaped(&mut self, kind: &str, object: Bytes) -> Bytes {
        if output::is_metadata(&self.call)
            && let Ok(metadata) = output::metadata_of(&object)
        {
            return raw_line(kind, &metadata);
        }
        let shaped = output::served(&self.call, Payload::Stored(object)).and_then(|object| {
            Ok(match self.call.accepted.shape {
                Shape::Object => object,
                Shape::PartialMetadata(version) => output::partial(object, version),
                Shape::Table(version) => {
                    let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                    let first = !std::mem::replace(&mut self.columns_sent, true);
                    Tables::new(&self.call, version)?.table(vec![object], meta, first)
                }
            })
        });
        match shaped {
            Ok(value) => line(&self.call, kind, &value),
            Err(error) => error_line(&self.call, &error),
        }
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.0.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let served = &self.call.served;
        let object = match self.call.accepted.shape {
            Shape::Object => {
                json!({"kind": served.resource.kind, "apiVersion": served.api_version, "metadata": metadata})
            }
            Shape::PartialMetadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": metadata})
            }
            Shape::Table(version) => json!({"kind": "Table", "apiVersion": version.api_version(), "metadata": metadata,
                "columnDefinitions": null, "rows": []}),
        };
        line(&self.call, "BOOKMARK", &object)
    }
}

/// The last selected state of an object that left the selection, carrying the revision of the change that took it out.
fn with_revision(event: &Event) -> Option<Bytes> {
    let mut object = codec::stored(&event.previous.as_ref()?.bytes).ok()?;
    object["metadata"]["resourceVersion"] = event.object.revision.0.to_string().into();
    Some(object.to_string().into())
}

/// When a watch has something to say although nothing happens.
struct Alarm {
    /// `None` for clients that asked for none.
    bookmark: Option<Instant>,
    end: Instant,
    /// Until the earlier of the two.
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new(bookmarks: bool, timeout: Duration) -> Self {
        let now = Instant::now();
        let (bookmark, end) = (bookmarks.then(|| now + BOOKMARK_PERIOD), now + timeout);
        let sleep = Box::pin(tokio::time::sleep_until(bookmark.map_or(end, |bookmark| bookmark.min(end))));
        Self { bookmark, end, sleep }
    }

    /// Waits for the next one; tells whether it is the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        ready!(self.sleep.as_mut().poll(cx));
        let rung = self.sleep.deadline();
        self.bookmark = self.bookmark.map(|_| rung + BOOKMARK_PERIOD);
        self.sleep.as_mut().reset(self.bookmark.map_or(self.end, |bookmark| bookmark.min(self.end)));
        Poll::Ready(rung >= self.end)
    }
}

/// A watch on its way: the body of its answer.
struct Watching {
    encoder: Encoder,
    watch: Watch,
    /// Events that the definition's webhook is asked about.
    converting: Option<BoxFuture<'static, Result<Vec<Arc<Event>>, ApiError>>>,
    /// Empty between polls; kept for its memory.
    news: Vec<Arc<Event>>,
    ready: VecDeque<Bytes>,
    /// Whether there were news when they were last asked for.
    busy: bool,
    alarm: Alarm,
    /// Kept over the whole watch, so that waiting for the next event does not queue up for it anew.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: Open,
    ended: bool,
}

impl http_body::Body for Watching {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = self.get_mut();
        loop {
            if let Some(chunk) = me.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if me.ended {
                return Poll::Ready(None);
            }
            ready!(me.poll_more(cx));
        }
    }
}

impl Watching {
    /// Queues the present state.
    async fn initial(&mut self, snapshot: &Snapshot, prefix: &str, announced_end: bool) -> Result<(), ApiError> {
        let call = self.encoder.call.clone();
        let mut chunk = BytesMut::new();
        if call.served.form == Form::Webhook {
            let objects = snapshot.range(&call.served.collection, prefix, None);
            let (paths, stored): (Vec<_>, Vec<_>) = objects.map(|(path, object)| (path, object.clone())).unzip();
            for (path, object) in paths.into_iter().zip(conversion::objects(&call, stored).await?) {
                self.add_initial(&mut chunk, path, &object);
            }
        } else {
            let turn = list::objects_in_a_turn(&call, &self.encoder.selection);
            let objects = self.encoder.selection.candidates(snapshot, &call.served.collection, prefix, None);
            for (index, (path, object)) in objects.enumerate() {
                self.add_initial(&mut chunk, path, object);
                if index % turn == turn - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
        if announced_end && self.alarm.bookmark.is_some() {
            chunk.extend_from_slice(&self.encoder.bookmark(snapshot.revision(), true));
        }
        if !chunk.is_empty() {
            self.ready.push_back(chunk.freeze());
        }
        Ok(())
    }

    fn add_initial(&mut self, chunk: &mut BytesMut, path: &str, object: &Object) {
        let (selection, call) = (&self.encoder.selection, &self.encoder.call);
        if !selection.is_everything() && !selection.matches(&call.served, path, &object.bytes) {
            return;
        }
        let bytes = call.served.bytes(object);
        let line =
            if output::is_verbatim(call) { raw_line("ADDED", &bytes) } else { self.encoder.shaped("ADDED", bytes) };
        chunk.extend_from_slice(&line);
        if chunk.len() >= CHUNK_BYTES {
            self.ready.push_back(chunk.split().freeze());
        }
    }

    /// Waits for something that may be worth telling, or for the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(converting) = &mut self.converting {
            let converted = ready!(converting.as_mut().poll(cx));
            self.converting = None;
            match converted {
                Ok(events) => self.queue(&events),
                Err(error) => self.fail(&error),
            }
            return Poll::Ready(());
        }
        let news = self.watch.poll_next(cx, EVENTS_AT_ONCE, &mut self.news);
        let was_busy = std::mem::replace(&mut self.busy, news.is_ready());
        match news {
            Poll::Ready(Ok(())) => self.take(),
            Poll::Ready(Err(error)) => self.fail(&gone(error, self.watch.position())),
            Poll::Pending => {}
        }
        // the common case, some news and then a pause, looks at clock and signal once; a bookmark would promise too much
        // while events are being converted
        if (self.busy && !was_busy) || self.ended || self.converting.is_some() {
            return Poll::Ready(());
        }
        if self.draining.as_mut().poll(cx).is_ready() {
            self.finish();
        } else if let Poll::Ready(is_end) = self.alarm.poll(cx) {
            if is_end { self.finish() } else { self.bookmark() }
        } else if !self.busy {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.ready.push_back(error_line(&self.encoder.call, error));
    }

    /// Tells the client how far it is, if it wants to know.
    fn bookmark(&mut self) {
        if self.alarm.bookmark.is_some() {
            let line = self.encoder.bookmark(self.watch.position(), false);
            self.ready.push_back(line);
        }
    }

    /// Ends the watch; a last bookmark lets the client go on from here.
    fn finish(&mut self) {
        self.ended = true;
        self.bookmark();
    }

    /// Whether objects of the definition are stored in another version since the watch began, so that what is stored is
    /// no longer what it speaks. Its client begins anew, as with upstream.
    fn is_outdated(&self) -> bool {
        let served = &self.encoder.call.served;
        if !served.is_custom() || served.form != Form::Stored {
            return false;
        }
        let resource = &served.resource;
        let now = self.encoder.call.server.registry.find(&resource.group, &resource.version, &resource.plural);
        now.is_some_and(|now| now.form != Form::Stored)
    }

    /// Makes of the news what the client is told.
    fn take(&mut self) {
        let mut news = std::mem::take(&mut self.news);
        if self.is_outdated() {
            // without a bookmark, which would say that these events were sent
            self.ended = true;
        } else if self.encoder.call.served.form == Form::Webhook {
            let call = self.encoder.call.clone();
            self.converting = Some(Box::pin(async move { conversion::events(&call, news).await }));
        } else {
            self.queue(&news);
            news.clear();
            // a burst must not hold its memory for ever
            news.shrink_to(NEWS_KEPT);
            self.news = news;
        }
    }

    fn queue(&mut self, events: &[Arc<Event>]) {
        self.encoder.call.served.metrics.watch_events.fetch_add(events.len() as u64, Relaxed);
        // one event for everybody, the common case, is passed on without a copy; and so are all to who sits in this process,
        // for whom a chunk saves nothing
        if events.len() == 1 || self.encoder.call.caller.peer.is_none() {
            let encoder = &mut self.encoder;
            self.ready.extend(events.iter().filter_map(|event| encoder.event(event)));
            return;
        }
        let bytes: usize = events.iter().map(|event| event.object.bytes.len() + FRAME_BYTES).sum();
        let mut chunk = BytesMut::with_capacity(bytes.min(CHUNK_BYTES));
        for event in events {
            let Some(line) = self.encoder.event(event) else { continue };
            chunk.extend_from_slice(&line);
            if chunk.len() >= CHUNK_BYTES {
                self.ready.push_back(chunk.split().freeze());
            }
        }
        if !chunk.is_empty() {
            self.ready.push_back(chunk.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_frames_events_as_they_are_framed_here() {
        let frame = |head: &[u8]| Bytes::from([head, b"{}", FRAMES.end].concat());
        assert_eq!(frame(FRAMES.created), raw_line("ADDED", b"{}"));
        assert_eq!(frame(FRAMES.changed), raw_line("MODIFIED", b"{}"));
        assert_eq!(frame(FRAMES.deleted), raw_line("DELETED", b"{}"));
    }
}
