//! The loop that runs a reconcile function over a queue, and the pump that fills the queue from an informer.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Change, Informer, Object, Queue};

/// How long reconciles under way may take to end after stop; then they are aborted, which is safe because they are
/// level-triggered.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Failures of one key before they are worth a warning: conflicts and races heal themselves at once.
const FAILURES_QUIET: u32 = 5;

/// Runs `reconcile` for each key of `queue`, at most `workers` at once, until `stop`.
///
/// `Ok(None)` ends the key's back-off, `Ok(Some(after))` also queues it again after that time, and an error (or a panic)
/// queues it with exponential back-off.
pub async fn run_controller<K, F, Fut, E>(
    name: &'static str,
    queue: Queue<K>,
    workers: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + Debug + Send + 'static,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    queue.watched_as(name);
    let mut running = JoinSet::new();
    let mut keys: HashMap<Id, K> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = running.join_next_with_id(), if !running.is_empty() => {
                finish(name, &queue, &mut keys, ended);
            }
            key = queue.get(), if keys.len() < workers.max(1) => {
                let Some(key) = key else { break };
                let task = running.spawn(reconcile(key.clone()));
                keys.insert(task.id(), key);
            }
        }
    }
    let drain = async {
        while let Some(ended) = running.join_next_with_id().await {
            finish(name, &queue, &mut keys, ended);
        }
    };
    if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
        tracing::warn!(controller = name, "reconciles under way did not end in time and are aborted");
        running.shutdown().await;
    }
}

type Ended<E> = Result<(Id, Result<Option<Duration>, E>), JoinError>;

fn finish<K, E>(name: &'static str, queue: &Queue<K>, keys: &mut HashMap<Id, K>, ended: Ended<E>)
where
    K: Clone + Eq + Hash + Debug,
    E: Display,
{
    let id = match &ended {
        Ok((id, _)) => *id,
        Err(error) => error.id(),
    };
    let Some(key) = keys.remove(&id) else { return };
    match ended {
        Ok((_, Ok(after))) => {
            queue.forget(&key);
            if let Some(after) = after {
                queue.add_after(key.clone(), after);
            }
        }
        Ok((_, Err(error))) => {
            let pause = queue.retry(key.clone());
            if queue.failures(&key) > FAILURES_QUIET {
                tracing::warn!(controller = name, ?key, %error, ?pause, "reconcile failed");
            } else {
                tracing::debug!(controller = name, ?key, %error, ?pause, "reconcile failed");
            }
        }
        Err(error) => {
            tracing::error!(controller = name, ?key, %error, "reconcile panicked");
            queue.retry(key.clone());
        }
    }
    queue.done(&key);
}

/// Adds to `queue` the keys that `map` names for each change of `informer`, until the informer stops.
pub async fn feed<O, K, I>(informer: &Informer<O>, queue: &Queue<K>, mut map: impl FnMut(&Change<O>) -> I)
where
    O: Object,
    K: Clone + Eq + Hash,
    I: IntoIterator<Item = K>,
{
    let mut changes = informer.subscribe();
    while let Some(change) = changes.next().await {
        for key in map(&change) {
            queue.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_retried_until_success() {
        let queue = Queue::new();
        queue.add("a");
        let runs = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let (counter, end) = (Arc::clone(&runs), stop.clone());
        run_controller("test", queue.clone(), 2, stop, move |_key| {
            let (counter, end) = (Arc::clone(&counter), end.clone());
            async move {
                match counter.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("not yet"),
                    1 => panic!("expected by the test"),
                    2 => Ok(Some(Duration::from_secs(3600))),
                    _ => {
                        end.cancel();
                        Ok(None)
                    }
                }
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 4);
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_keys_run_at_once_than_there_are_workers() {
        let queue = Queue::new();
        for key in 0..20 {
            queue.add(key);
        }
        let stop = CancellationToken::new();
        let now = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
        let (state, end) = (Arc::clone(&now), stop.clone());
        run_controller("test", queue, 3, stop, move |_key| {
            let (state, end) = (Arc::clone(&state), end.clone());
            async move {
                let at_once = state.0.fetch_add(1, Ordering::SeqCst) + 1;
                state.1.fetch_max(at_once, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                state.0.fetch_sub(1, Ordering::SeqCst);
                if state.2.fetch_add(1, Ordering::SeqCst) + 1 == 20 {
                    end.cancel();
                }
                Ok::<_, String>(None)
            }
        })
        .await;
        assert_eq!((now.1.load(Ordering::SeqCst), now.2.load(Ordering::SeqCst)), (3, 20));
    }
}
