//! How long a connection may take for what, where its listener's policy says so.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Instant,
};

use super::hello::Http;
use crate::routing::Client;

/// What is going on on a connection.
#[derive(Debug)]
pub(crate) struct Pace {
    http: Http,
    head: Duration,
    idle: Duration,
    lifetime: Option<Duration>,
    abrupt: bool,
    requests_max: u32,
    /// Requests under way.
    active: AtomicU32,
    /// Requests so far.
    requests: AtomicU32,
    /// Something of the next request's head is there.
    begun: AtomicBool,
    /// The next answer is the last one.
    last: AtomicBool,
    changed: Notify,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// In its own time: what is under way is answered.
    Politely,
    /// At once: it is in the middle of a head that does not end.
    Now,
}

/// A request under way; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<Pace>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

impl Pace {
    /// By what a policy says, else what holds without one.
    pub(crate) fn new(client: &Client, http: Http, default: Duration) -> Arc<Self> {
        Arc::new(Pace {
            http,
            head: client.times.head.unwrap_or(default),
            idle: client.times.idle.unwrap_or(default),
            lifetime: client.connections.lifetime,
            abrupt: client.http1.abrupt,
            requests_max: client.connections.requests.filter(|most| *most > 0).unwrap_or(u32::MAX),
            active: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            begun: AtomicBool::new(false),
            last: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Counts a request.
    pub(crate) fn request(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.begun.store(false, Ordering::Release);
        if self.requests.fetch_add(1, Ordering::AcqRel) + 1 >= self.requests_max {
            self.last.store(true, Ordering::Release);
        }
        self.changed.notify_one();
        Active(Arc::clone(self))
    }

    /// Whether an answer is the last one of the connection.
    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Ordering::Acquire)
    }

    /// Bytes have come.
    fn read(&self) {
        if self.active.load(Ordering::Acquire) == 0 && !self.begun.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// Waits until the connection has to end.
    pub(crate) async fn over(&self) -> Over {
        let mut until = self.lifetime.map(|lifetime| Instant::now() + lifetime);
        loop {
            let busy = self.active.load(Ordering::Acquire) > 0;
            let begun = self.http == Http::One && self.begun.load(Ordering::Acquire);
            if self.is_last() && self.http == Http::Two {
                return Over::Politely;
            }
            let (limit, over) = match (busy, begun) {
                (true, _) => (None, Over::Politely),
                (false, true) => (Some(self.head), Over::Now),
                (false, false) => (Some(self.idle), Over::Politely),
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(limit.map(|limit| Instant::now() + limit)) => return over,
                () = sleep(until) => {
                    until = None;
                    if self.http == Http::Two || self.abrupt {
                        return Over::Politely;
                    }
                    // The client could be about to send a request, which would be lost; it is told with the next answer.
                    self.last.store(true, Ordering::Release);
                }
            }
        }
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// A stream whose reads are noticed.
pub(crate) struct Paced<S> {
    stream: S,
    pace: Option<Arc<Pace>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, pace: Option<Arc<Pace>>) -> Self {
        Paced { stream, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(pace) = &self.pace
            && buffer.filled().len() > before
        {
            pace.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The same for a connection that may have no policy, and then has no end of this kind.
pub(crate) async fn over(pace: Option<&Arc<Pace>>) -> Over {
    match pace {
        Some(pace) => pace.over().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{ConnectionTerms, Times};

    fn pace(http: Http, lifetime: Option<u64>, requests: Option<u32>) -> Arc<Pace> {
        let times =
            Times { head: Some(Duration::from_secs(1)), idle: Some(Duration::from_secs(10)), ..Times::default() };
        let lifetime = lifetime.map(Duration::from_secs);
        let connections = ConnectionTerms { lifetime, requests, ..ConnectionTerms::default() };
        Pace::new(&Client { times, connections, ..Client::default() }, http, Duration::from_secs(30))
    }

    async fn after(pace: &Pace) -> (Over, u64) {
        let began = Instant::now();
        let over = pace.over().await;
        (over, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_politely_and_half_a_head_at_once() {
        let idle = pace(Http::One, None, None);
        assert_eq!(after(&idle).await, (Over::Politely, 10));
        idle.read();
        assert_eq!(after(&idle).await, (Over::Now, 1));
        let active = idle.request();
        let waited = tokio::time::timeout(Duration::from_secs(60), idle.over()).await;
        assert!(waited.is_err(), "what is under way has time");
        drop(active);
        assert_eq!(after(&idle).await, (Over::Politely, 10));
        let two = pace(Http::Two, None, None);
        two.read();
        assert_eq!(after(&two).await, (Over::Politely, 10), "frames are no half of a head");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifetime_ends_with_the_next_answer_or_at_once() {
        let one = pace(Http::One, Some(3), None);
        let _active = one.request();
        assert!(tokio::time::timeout(Duration::from_secs(60), one.over()).await.is_err());
        assert!(one.is_last());
        let two = pace(Http::Two, Some(3), None);
        let _active = two.request();
        assert_eq!(after(&two).await, (Over::Politely, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted() {
        let one = pace(Http::One, None, Some(2));
        drop(one.request());
        assert!(!one.is_last());
        drop(one.request());
        assert!(one.is_last());
    }
}
