//! Threads that serve connections, each with a reactor of its own.
//!
//! A connection is served from its first byte to its last on the thread that it was given to, and so is what is asked of
//! backends for it. Threads that take work from each other wake each other for it, which costs more than forwarding a small
//! request does; and what the rest of the process does in the meantime would stand in the same queue.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Threads at most: more would serve more than a machine of this kind can be asked for.
pub(super) const MOST: usize = 8;

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the thread that asks, below [`MOST`] and one more: 0 is any thread that serves no connections.
pub(super) fn place() -> usize {
    PLACE.get()
}

/// The threads; they end when this is dropped.
pub(super) struct Workers {
    threads: Vec<Worker>,
    stop: CancellationToken,
}

struct Worker {
    runtime: Handle,
    open: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it is there.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    fn start(place: usize, stop: CancellationToken) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Worker { runtime: runtime.handle().clone(), open: Arc::default() };
        thread::Builder::new().name("gateway".to_owned()).spawn(move || {
            PLACE.set(place);
            runtime.block_on(stop.cancelled());
        })?;
        Ok(worker)
    }
}

impl Workers {
    /// Starts so many threads, [`MOST`] at most, or as many as the system has room for.
    pub(super) fn start(count: usize) -> Workers {
        let mut workers = Workers { threads: Vec::new(), stop: CancellationToken::new() };
        for place in 1..=count.min(MOST) {
            match Worker::start(place, workers.stop.clone()) {
                Ok(worker) => workers.threads.push(worker),
                Err(error) => warn!(%error, "a thread that would serve connections could not be started"),
            }
        }
        workers
    }

    /// Serves a connection on the thread that has the fewest.
    pub(super) fn spawn<F>(&self, tasks: &mut JoinSet<()>, serve: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // With none the runtime that accepts it does.
        let Some(worker) = self.threads.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) else {
            tasks.spawn(serve);
            return;
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&worker.open));
        let counted = async move {
            serve.await;
            drop(open);
        };
        tasks.spawn_on(counted, &worker.runtime);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Notify, mpsc};

    use super::*;

    #[tokio::test]
    async fn each_connection_goes_where_the_fewest_are_and_stays_there() {
        let workers = Workers::start(2);
        let (mut tasks, go) = (JoinSet::new(), Arc::new(Notify::new()));
        let (said, mut heard) = mpsc::unbounded_channel();
        for _ in 0..4 {
            let (said, go) = (said.clone(), Arc::clone(&go));
            workers.spawn(&mut tasks, async move {
                let (waiting, first) = (go.notified(), place());
                said.send(first).unwrap();
                waiting.await;
                tokio::task::yield_now().await;
                assert_eq!(place(), first);
            });
        }
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(heard.recv().await.unwrap());
        }
        places.sort_unstable();
        assert_eq!(places, [1, 1, 2, 2]);
        go.notify_waiters();
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        assert!(workers.threads.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 0));
        assert_eq!(place(), 0);
    }
}
