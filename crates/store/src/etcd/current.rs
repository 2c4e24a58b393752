//! How far etcd is: the revision that a read must have reached to see everything that was acknowledged before it began.
//!
//! One question to etcd serves everybody who asked before it was put; who comes while it is on its way waits for the next.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{client::Client, connection::CallError, keys, messages::Range, waiters::Waiters};

/// Readers waiting for the next question.
const QUEUE: usize = 4096;
/// How long events may take before they are asked for. They come within milliseconds; without the wait each read beside a
/// write would ask.
const EVENTS_PATIENCE: Duration = Duration::from_millis(50);
/// How long a read waits for the mirror after that.
const MIRROR_PATIENCE: Duration = Duration::from_secs(5);

type Answer = oneshot::Sender<Result<u64, CallError>>;

/// Asks for etcd's revision.
pub(super) struct Current {
    client: Arc<Client>,
    waiters: Arc<Waiters>,
    questions: mpsc::Sender<Answer>,
    marking: tokio::sync::Mutex<()>,
}

impl Current {
    /// The asking end, and the task that asks.
    pub(super) fn new(client: Arc<Client>, waiters: Arc<Waiters>) -> (Self, impl Future<Output = ()> + Send) {
        let (questions, queue) = mpsc::channel(QUEUE);
        let task = run(Arc::clone(&client), queue);
        (Current { client, waiters, questions, marking: tokio::sync::Mutex::default() }, task)
    }

    /// Waits until the mirror holds everything that was committed, by whichever server, before this was called.
    pub(super) async fn reached(&self) -> Result<(), CallError> {
        let (answer, answered) = oneshot::channel();
        let closed = || CallError::Unsent("the store is closed".to_owned());
        self.questions.send(answer).await.map_err(|_| closed())?;
        let revision = answered.await.map_err(|_| closed())??;
        if self.waiters.wait(revision, EVENTS_PATIENCE).await {
            return Ok(());
        }
        self.mark(revision).await?;
        if self.waiters.wait(revision, MIRROR_PATIENCE).await { Ok(()) } else { Err(CallError::TimedOut) }
    }

    /// Writes a key that the watch sees. A revision in which none of the watched keys changed has no event of its own; the
    /// event of a later one tells that it has passed. (Asking the watch for its progress would do the same, were the answer
    /// not allowed to overtake events in etcd before 3.4.25 and 3.5.8.)
    async fn mark(&self, revision: u64) -> Result<(), CallError> {
        let _one_at_a_time = self.marking.lock().await;
        if self.waiters.reached() < revision {
            let key = format!("{}marker", keys::OWN);
            self.client.put(key.as_bytes(), b"").await?;
        }
        Ok(())
    }
}

/// Answers until the asking end is gone.
async fn run(client: Arc<Client>, mut queue: mpsc::Receiver<Answer>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        // a key that is not there: what counts is the revision at which it was looked for
        let range = Range { key: keys::OWN.as_bytes(), count_only: true, ..Range::default() };
        let revision = client.range(&range).await.map(|response| response.revision);
        for answer in waiting.drain(..) {
            let _ = answer.send(revision.clone());
        }
    }
}
