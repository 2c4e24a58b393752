//! Keeps one cache current: list (streamed where the server can), then watch, resume, and list again when told 410.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::AsyncBufRead;
use http::{HeaderValue, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, request};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Listed};
use crate::events::{Event, EventError, Events};
use crate::{Object, Selector};

/// Objects per page of a list: client-go's page size.
const LIST_PAGE_SIZE: u32 = 500;
/// How long the server keeps one watch open; 290 s is what kube and client-go ask for at most.
const WATCH_SECONDS: u32 = 290;
/// A watch that is silent this long after the server should have closed it is dead.
const WATCH_IDLE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A streamed list that brings nothing for this long comes from a server that ignores `sendInitialEvents`.
const STREAMED_LIST_IDLE_LIMIT: Duration = Duration::from_secs(10);
/// First pause after a failed list or watch: short, because at start the server may be milliseconds from ready.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause: a kind may be installed later (CRD), and a server that is down should be found again soon.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Events that subscribers are told of together at most, so that they can begin with the first of a long burst.
const TOLD_TOGETHER_MAX: usize = 64;
/// Marks the bookmark that ends a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("cannot build request")]
    Request(#[source] request::Error),
    #[error("cannot list")]
    List(#[source] kube::Error),
    #[error("cannot watch")]
    Watch(#[source] kube::Error),
    #[error("server ended the watch: {0}")]
    Status(Box<kube::core::Status>),
    #[error("cannot read the watch")]
    Event(#[source] EventError),
    #[error("cannot read the list")]
    Page(#[source] serde_json::Error),
    #[error("list has no resource version")]
    NoResourceVersion,
    #[error("server ended a streamed list before it was complete")]
    Truncated,
    #[error("server does not stream lists")]
    StreamedListUnsupported,
}

impl From<EventError> for WatchError {
    fn from(error: EventError) -> Self {
        match error {
            EventError::Status(status) => Self::Status(status),
            other @ (EventError::Read(_) | EventError::Decode(_)) => Self::Event(other),
        }
    }
}

/// Where the watcher stands between two requests.
enum Position {
    /// Nothing is known: a complete list is needed.
    Unknown,
    /// The cache shows this resource version.
    At(String),
}

pub(crate) struct Watcher<K: Object> {
    client: Client,
    request: Request,
    selector: Selector,
    cache: Arc<Cache<K>>,
    streamed_lists: bool,
}

impl<K: Object> Watcher<K> {
    pub(crate) fn new(client: Client, url: String, selector: Selector, cache: Arc<Cache<K>>) -> Self {
        Self { client, request: Request::new(url), selector, cache, streamed_lists: true }
    }

    /// Watches until `stop`; the cache counts as stopped once this future is gone.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let cache = Arc::clone(&self.cache);
        tokio::select! {
            () = stop.cancelled() => {}
            () = cache.keep_small() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        let mut position = Position::Unknown;
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = self.cache.revision();
            let result = match &mut position {
                Position::Unknown if self.streamed_lists => self.streamed_list(&mut position).await,
                Position::Unknown => self.list(&mut position).await,
                Position::At(version) => {
                    let mut version = std::mem::take(version);
                    let result = self.resume(&mut version).await;
                    position = Position::At(version);
                    result
                }
            };
            let Err(error) = result else {
                backoff = BACKOFF_MIN;
                continue;
            };
            if matches!(error, WatchError::StreamedListUnsupported) {
                self.streamed_lists = false;
                continue;
            }
            if expired(&error) {
                position = Position::Unknown;
            }
            if self.cache.revision() > before {
                backoff = BACKOFF_MIN;
            }
            tracing::debug!(url = %self.request.url_path, error = &error as &dyn std::error::Error, "watch failed");
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.8..1.2))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn watch_params(&self, initial: bool) -> WatchParams {
        WatchParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: initial,
        }
    }

    fn watch_request(&self, initial: bool, version: &str) -> Result<http::Request<Vec<u8>>, WatchError> {
        let params = self.watch_params(initial);
        let request = match K::metadata_api() {
            true => self.request.watch_metadata(&params, version),
            false => self.request.watch(&params, version),
        };
        let mut request = request.map_err(WatchError::Request)?;
        // servers that compress each event by itself would be understood up to the first one
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(request)
    }

    /// One watch that first brings all objects, then changes.
    async fn streamed_list(&self, position: &mut Position) -> Result<(), WatchError> {
        let request = self.watch_request(true, "0")?;
        let mut events = match self.client.request_stream(request).await {
            Ok(lines) => Events::new(lines),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 405 | 422) => {
                return Err(WatchError::StreamedListUnsupported);
            }
            Err(error) => return Err(WatchError::Watch(error)),
        };
        let mut listed = Listed::default();
        loop {
            let event = match tokio::time::timeout(STREAMED_LIST_IDLE_LIMIT, events.next()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) => return Err(WatchError::Truncated),
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) => return Err(WatchError::StreamedListUnsupported),
            };
            match event {
                Event::Applied(object) => self.cache.fill(object, &mut listed)?,
                Event::Deleted(_) => {}
                Event::Error(status) => return Err(WatchError::Status(status)),
                Event::Bookmark(bookmark) => {
                    if bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                        let mut version = bookmark.metadata.resource_version;
                        self.cache.listed(&listed, &version);
                        drop(listed);
                        let result = self.follow(events, &mut version).await;
                        *position = Position::At(version);
                        return result;
                    }
                }
            }
        }
    }

    /// A complete list in pages.
    async fn list(&self, position: &mut Position) -> Result<(), WatchError> {
        let mut params = ListParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            limit: Some(LIST_PAGE_SIZE),
            ..ListParams::default()
        };
        let mut listed = Listed::default();
        loop {
            let request = match K::metadata_api() {
                true => self.request.list_metadata(&params),
                false => self.request.list(&params),
            };
            let request = request.map_err(WatchError::Request)?;
            let page = self.client.request_text(request).await.map_err(WatchError::List)?;
            let page = page.as_bytes();
            let [metadata, items] = splice::find_each(page, 0..page.len(), ["metadata", "items"]);
            let metadata = metadata.ok_or(WatchError::NoResourceVersion)?;
            let metadata: ListMeta = serde_json::from_slice(&page[metadata]).map_err(WatchError::Page)?;
            for item in items.into_iter().flat_map(|items| splice::items(page, items)) {
                self.cache.fill(&page[item], &mut listed)?;
            }
            match metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = metadata.resource_version.filter(|version| !version.is_empty());
                    let version = version.ok_or(WatchError::NoResourceVersion)?;
                    self.cache.listed(&listed, &version);
                    *position = Position::At(version);
                    return Ok(());
                }
            }
        }
    }

    async fn resume(&self, version: &mut String) -> Result<(), WatchError> {
        let request = self.watch_request(false, version)?;
        let lines = self.client.request_stream(request).await.map_err(WatchError::Watch)?;
        let before = version.clone();
        self.follow(Events::new(lines), version).await?;
        if *version == before {
            // A server that closes at once must not be asked in a tight loop.
            tokio::time::sleep(BACKOFF_MIN).await;
        }
        Ok(())
    }

    /// Applies changes until the server closes the watch.
    async fn follow(&self, events: Events<impl AsyncBufRead + Unpin>, version: &mut String) -> Result<(), WatchError> {
        let result = self.apply(events, version).await;
        self.cache.announce();
        result
    }

    async fn apply(
        &self,
        mut events: Events<impl AsyncBufRead + Unpin>,
        version: &mut String,
    ) -> Result<(), WatchError> {
        let mut untold = 0;
        loop {
            let mut reading = pin!(events.next());
            // Those who wait are woken once for all events that have come together.
            let next = match futures::poll!(&mut reading) {
                Poll::Ready(next) if untold < TOLD_TOGETHER_MAX => Ok(next),
                Poll::Ready(next) => {
                    self.tell(&mut untold);
                    Ok(next)
                }
                Poll::Pending => {
                    self.tell(&mut untold);
                    tokio::time::timeout(WATCH_IDLE_LIMIT, reading).await
                }
            };
            untold += 1;
            let seen = match next {
                Ok(Ok(Some(Event::Applied(object)))) => self.cache.apply(object),
                Ok(Ok(Some(Event::Deleted(object)))) => self.cache.delete(object),
                Ok(Ok(Some(Event::Bookmark(bookmark)))) => {
                    self.cache.observed(bookmark.metadata.resource_version.parse().unwrap_or(0));
                    Ok(Some(bookmark.metadata.resource_version))
                }
                Ok(Ok(Some(Event::Error(status)))) => return Err(WatchError::Status(status)),
                Ok(Ok(None)) | Err(_) => return Ok(()),
                Ok(Err(error)) => Err(error),
            };
            match seen {
                Ok(Some(seen)) => *version = seen,
                Ok(None) => {}
                // One object that cannot be decoded must not hide all others.
                Err(EventError::Decode(error)) => {
                    tracing::warn!(url = %self.request.url_path, %error, "watch event cannot be decoded");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn tell(&self, untold: &mut usize) {
        if *untold > 0 {
            self.cache.announce();
            *untold = 0;
        }
    }
}

impl<K: Object> Drop for Watcher<K> {
    fn drop(&mut self) {
        self.cache.stop();
    }
}

/// Whether the resource version we hold is too old for the server.
fn expired(error: &WatchError) -> bool {
    match error {
        WatchError::Status(status) => status.code == 410,
        WatchError::List(kube::Error::Api(status)) | WatchError::Watch(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}
