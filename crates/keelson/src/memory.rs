//! The allocator, and giving freed memory back to the system once a burst of work is over.
//!
//! Every write makes and drops trees of small pieces, on whichever thread it is woken. With free lists of the thread's own
//! (mimalloc) that takes a fifth less time than with the C library's arenas, and fewer pages stay that are held by one small
//! piece. Huge pages are left alone (the dependency's `no_thp`): they cost a quarter more memory and save no time.
//!
//! What a burst freed (a large manifest parsed, a document of every schema made) is kept for a moment for the next one, but
//! one busy minute must not mark a process that is idle for days.

use std::{io, time::Duration};

use tokio_util::sync::CancellationToken;

/// How long a process must have been idle; also how often that is looked at, which costs one read of a small file.
const PERIOD: Duration = Duration::from_secs(5);
/// Processor time in a period, in the kernel's ticks of 10 ms, below which it counts as idle: 5 % of one core.
const IDLE_TICKS: u64 = 25;

/// How long freed pages are kept, in milliseconds. With the allocator's own second a busy server never gives any back and
/// grows by a third; with none at all it fetches them again for the next write.
const PURGE_DELAY_MS: libc::c_long = 50;
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sets the allocator up for a server.
pub(crate) fn set_up() {
    // SAFETY: the function only stores a number, and no other thread is there yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
}

/// What the process has been doing.
#[derive(Debug, Default)]
struct Activity {
    ticks: u64,
    /// Whether work was done since memory was last given back.
    worked: bool,
}

impl Activity {
    /// Takes the processor time used so far, one period after the last; tells whether a burst has just ended.
    fn burst_ended(&mut self, ticks: u64) -> bool {
        let used = ticks.saturating_sub(std::mem::replace(&mut self.ticks, ticks));
        if used >= IDLE_TICKS {
            self.worked = true;
            return false;
        }
        std::mem::take(&mut self.worked)
    }
}

/// Processor time used by a process, from the text of its `/proc/PID/stat`.
fn processor_ticks(stat: &str) -> Option<u64> {
    // the second field is the program's name in brackets, which may hold anything
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Runs until `stop`.
pub(crate) async fn run(stop: CancellationToken) -> io::Result<()> {
    // starting up is a burst as well
    let mut activity = Activity { ticks: 0, worked: true };
    while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let ticks = processor_ticks(&stat).ok_or_else(|| io::Error::other(format!("no processor time in {stat:?}")))?;
        if activity.burst_ended(ticks) {
            give_back();
        }
    }
    Ok(())
}

/// Returns free pages, of this thread and of those that ended. Some milliseconds at most, in a process that has nothing
/// else to do.
fn give_back() {
    // SAFETY: the function touches only memory that nobody has allocated.
    unsafe { libmimalloc_sys::mi_collect(true) };
    tracing::debug!("gave free memory back");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_each_burst() {
        let mut activity = Activity { ticks: 0, worked: true };
        assert!(!activity.burst_ended(100), "busy starting");
        assert!(activity.burst_ended(110), "idle after that");
        assert!(!activity.burst_ended(120), "nothing done since");
        assert!(!activity.burst_ended(160));
        assert!(!activity.burst_ended(300), "still busy");
        assert!(activity.burst_ended(300));
    }

    #[test]
    fn the_option_is_the_one_meant() {
        // SAFETY: the function only reads a number.
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(delay, 1000, "a delay of a second is the default of this option and of no other");
        set_up();
        // SAFETY: as above.
        assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, PURGE_DELAY_MS);
    }

    #[test]
    fn processor_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 5 0 1 2 3";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a) S 1"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(processor_ticks(&own).is_some());
    }
}
