//! When a connection's task has its turn.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, SeqCst},
        },
    },
    task::{Wake, Waker},
};

use futures::task::AtomicWaker;

/// Nobody has rung; who does wakes the task.
const IDLE: u8 = 0;
/// The task runs and will look once more before it sleeps.
const IN_TURN: u8 = 1;
/// The same, and there is something to look at.
const RUNG: u8 = 2;

/// Wakes a connection's task. During the task's own turn it only notes that somebody rang: a stream that hands over a
/// frame rings for the connection, and the connection that sends it is the one who polled the stream.
#[derive(Default)]
pub(super) struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    pub(super) fn ring(&self) {
        if self.state.compare_exchange(IN_TURN, RUNG, AcqRel, Acquire) == Err(IDLE) {
            self.task.wake();
        }
    }

    /// Begins a turn of `task`.
    pub(super) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.state.store(IN_TURN, SeqCst);
    }

    /// Whether somebody rang since this was asked last; the turn goes on.
    pub(super) fn has_rung(&self) -> bool {
        self.state.swap(IN_TURN, AcqRel) == RUNG
    }

    /// Ends the turn; who rang during its last moments gets another one.
    pub(super) fn end(&self) {
        if self.state.swap(IDLE, SeqCst) == RUNG {
            self.task.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn who_rings_during_a_turn_is_heard_in_it_or_gets_another() {
        let (bell, wakes) = (Bell::default(), Arc::<Wakes>::default());
        let task = wakes.clone().into();
        bell.begin(&task);
        bell.ring();
        assert!(bell.has_rung() && !bell.has_rung());
        bell.end();
        assert_eq!(wakes.0.load(Relaxed), 0);
        bell.ring();
        assert_eq!(wakes.0.load(Relaxed), 1);
        bell.begin(&task);
        bell.ring();
        bell.end();
        assert_eq!(wakes.0.load(Relaxed), 2);
    }
}
