//! Gives freed memory back to the system once a burst of work is over.
//!
//! The C library keeps what a burst freed (a large manifest parsed, a document of every schema made) for the next one, so
//! that one busy minute would mark a process that is idle for days. Under load nothing is given back: it would only be
//! fetched again.

use std::{io, time::Duration};

use tokio_util::sync::CancellationToken;

/// How long a process must have been idle; also how often that is looked at, which costs one read of a small file.
const PERIOD: Duration = Duration::from_secs(5);
/// Processor time in a period, in the kernel's ticks of 10 ms, below which it counts as idle: 5 % of one core.
const IDLE_TICKS: u64 = 25;

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

/// Returns free pages of all arenas. Some milliseconds at most, in a process that has nothing else to do.
#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: the function takes the allocator's own locks and touches only memory that nobody has allocated.
    let returned = unsafe { libc::malloc_trim(0) };
    tracing::debug!(some = returned == 1, "gave free memory back");
}

/// Other C libraries return memory on their own.
#[cfg(not(target_env = "gnu"))]
const fn give_back() {}

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
    fn processor_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 5 0 1 2 3";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a) S 1"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(processor_ticks(&own).is_some());
    }
}
