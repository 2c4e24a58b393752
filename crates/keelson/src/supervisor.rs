//! Owns every long-running task of the process: each has a name, a stop signal and a fate.
//!
//! A task that ends although nobody asked it to is restarted after a growing pause, because every loop we run is
//! level-triggered and finds its work again; only tasks declared [`Fate::Essential`] end the process. A panic counts as
//! an early end.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Pause before the first restart.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause between restarts: long enough not to burn a core, short enough to heal while someone watches.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A task that ran this long is taken as healthy again, and its pause starts from the minimum.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a task's early end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The process cannot go on without it.
    Essential,
    /// It is started again.
    Restarted,
}

type Outcome = anyhow::Result<()>;
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Why each task is not running at the moment; a task that runs has `None`.
#[derive(Clone, Default)]
pub(crate) struct States(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl States {
    fn set(&self, name: &str, trouble: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), trouble);
    }

    /// Names of all tasks.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Whether a task runs, for the readiness endpoint.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            Some(None) => Ok(()),
            Some(Some(trouble)) => Err(trouble.clone()),
            None => Err("not started".to_owned()),
        }
    }
}

/// The set of running tasks.
pub(crate) struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<(String, Outcome)>,
    states: States,
}

/// What was left when the shutdown budget ran out.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// How many tasks were cut.
    pub cut: usize,
}

impl Supervisor {
    /// An empty set whose tasks stop with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new(), states: States::default() }
    }

    /// How the tasks are; stays current.
    pub(crate) fn states(&self) -> States {
        self.states.clone()
    }

    /// The signal that ends all tasks.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task; `make` is called again for each restart.
    pub(crate) fn start<F, Fut, E>(&mut self, name: &str, fate: Fate, mut make: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let (name, stop) = (name.to_owned(), self.stop.clone());
        let make = move |stop: CancellationToken| -> Running {
            let task = make(stop);
            Box::pin(async move { task.await.map_err(Into::into) })
        };
        let states = self.states.clone();
        states.set(&name, None);
        self.tasks.spawn(async move {
            let outcome = supervise(&name, fate, stop, &states, make).await;
            (name, outcome)
        });
    }

    /// Waits until the stop signal is given or an essential task ends.
    ///
    /// # Errors
    /// Names the essential task that ended, and why.
    pub(crate) async fn watch(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                Some(ended) = self.tasks.join_next() => {
                    if let Ok((name, Err(error))) = ended {
                        return Err(error.context(format!("{name} failed")));
                    }
                }
                else => return Ok(()),
            }
        }
    }

    /// Gives the stop signal and waits at most `budget`, then cuts what is left.
    pub(crate) async fn drain(mut self, budget: Duration) -> Drained {
        self.stop.cancel();
        let deadline = Instant::now() + budget;
        while let Ok(Some(_)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {}
        let cut = self.tasks.len();
        self.tasks.shutdown().await;
        Drained { cut }
    }
}

async fn supervise(
    name: &str,
    fate: Fate,
    stop: CancellationToken,
    states: &States,
    mut make: impl FnMut(CancellationToken) -> Running,
) -> Outcome {
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        let started = Instant::now();
        // A task of its own, so that a panic ends it and not the supervisor; aborted when the supervisor is cut.
        let mut task = JoinSet::new();
        task.spawn(make(stop.clone()));
        states.set(name, None);
        let error = match task.join_next().await {
            _ if stop.is_cancelled() => return Ok(()),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("it ended without being asked to"),
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => anyhow::anyhow!("it panicked: {panic}"),
        };
        states.set(name, Some(crate::exit::chain(&error)));
        if fate == Fate::Essential {
            return Err(error);
        }
        if started.elapsed() > HEALTHY_AFTER {
            pause = RESTART_PAUSE_MIN;
        }
        tracing::error!(task = name, error = %crate::exit::chain(&error), ?pause, "task ended early; starting it again");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RESTART_PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_restarted_task_is_started_again_after_an_error_and_a_panic() {
        let runs = Arc::new(AtomicUsize::new(0));
        let mut supervisor = Supervisor::new(CancellationToken::new());
        let counted = runs.clone();
        supervisor.start("flaky", Fate::Restarted, move |stop| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => anyhow::bail!("first"),
                    1 => panic!("second"),
                    _ => stop.cancel(),
                }
                Ok(())
            }
        });
        supervisor.watch().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_early_is_named() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("api", Fate::Essential, |_| async { anyhow::Ok(()) });
        let states = supervisor.states();
        assert_eq!(states.check("api"), Ok(()));
        let error = supervisor.watch().await.unwrap_err();
        assert!(states.check("api").is_err_and(|trouble| trouble.contains("without being asked")));
        assert!(format!("{error:#}").starts_with("api failed: it ended"), "{error:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_signal_is_cut_at_the_budget() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("deaf", Fate::Restarted, |_| std::future::pending::<anyhow::Result<()>>());
        assert_eq!(supervisor.drain(Duration::from_secs(1)).await.cut, 1);
    }
}
