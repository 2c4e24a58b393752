//! Who waits for the events of a group: a place and a waker each, all taken by one wake-up.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
};

use parking_lot::Mutex;

/// Those who wait, and how often they were woken.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    wakes: AtomicU64,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Waiters {
    /// A place to wait at.
    pub(super) fn join(&self) -> usize {
        let Places { wakers, free } = &mut *self.places.lock();
        free.pop().unwrap_or_else(|| {
            wakers.push(None);
            wakers.len() - 1
        })
    }

    pub(super) fn leave(&self, place: usize) {
        let mut places = self.places.lock();
        places.wakers[place] = None;
        places.free.push(place);
    }

    /// How often they were woken so far.
    pub(super) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Acquire)
    }

    /// Waits for the next wake-up; false when there was one since `wakes` was read.
    pub(super) fn wait(&self, place: usize, wakes: u64, waker: &Waker) -> bool {
        let mut places = self.places.lock();
        if self.wakes.load(Ordering::Relaxed) != wakes {
            return false;
        }
        match &mut places.wakers[place] {
            Some(known) => known.clone_from(waker),
            vacant => *vacant = Some(waker.clone()),
        }
        true
    }

    /// Wakes everybody who waits.
    pub(super) fn wake(&self) {
        let woken: Vec<Waker> = {
            let mut places = self.places.lock();
            self.wakes.fetch_add(1, Ordering::Release);
            places.wakers.iter_mut().filter_map(Option::take).collect()
        };
        // without the lock, which the first of them will soon want
        for waker in woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_woken_once_and_who_looks_too_late_does_not_wait() {
        let (waiters, count) = (Waiters::default(), Arc::<Count>::default());
        let waker = Waker::from(count.clone());
        let (first, second) = (waiters.join(), waiters.join());
        let wakes = waiters.wakes();
        assert!(waiters.wait(first, wakes, &waker));
        assert!(waiters.wait(first, wakes, &waker));
        waiters.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!waiters.wait(second, wakes, &waker));
        assert!(waiters.wait(second, waiters.wakes(), &waker));
        waiters.leave(second);
        waiters.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(waiters.join(), second);
    }
}
