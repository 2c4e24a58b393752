//! Carrying a write to its end although nobody waits for its answer any more.
//!
//! A commit is followed by what the server keeps besides the store: indexes, allocations. Were a write dropped with its
//! request, because the client went away or its time was up, the commit could happen and the rest not.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A write that has begun. Dropped before its end, it goes on as a task of `rest`; otherwise it costs nothing.
pub(super) struct Carried<T: Send + 'static> {
    write: Option<BoxFuture<'static, T>>,
    rest: TaskTracker,
}

impl<T: Send + 'static> Carried<T> {
    /// `write`, whose rest belongs to `rest` when it is dropped.
    pub(super) fn new(write: BoxFuture<'static, T>, rest: TaskTracker) -> Self {
        Self { write: Some(write), rest }
    }
}

impl<T: Send + 'static> Future for Carried<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(write) = self.write.as_mut() else { return Poll::Pending };
        let answer = std::task::ready!(write.as_mut().poll(cx));
        self.write = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        // without a runtime the process is ending, and the next start reads the store
        if let (Some(write), Ok(runtime)) = (self.write.take(), Handle::try_current()) {
            self.rest.spawn_on(async move { drop(write.await) }, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use futures::FutureExt as _;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_goes_on() {
        let (committed, done) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let write = {
            let (committed, done) = (committed.clone(), done.clone());
            async move {
                committed.notified().await;
                done.store(true, Ordering::Release);
            }
        };
        let rest = TaskTracker::new();
        let mut carried = Carried::new(write.boxed(), rest.clone());
        assert!((&mut carried).now_or_never().is_none());
        drop(carried);
        assert_eq!(rest.len(), 1);
        committed.notify_one();
        rest.close();
        rest.wait().await;
        assert!(done.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn a_write_that_ends_leaves_nothing() {
        let rest = TaskTracker::new();
        assert_eq!(Carried::new(std::future::ready(7).boxed(), rest.clone()).await, 7);
        assert!(rest.is_empty());
    }
}
