//! The allocator, and giving freed memory back to the system once a burst of work is over.
//!
//! Every write makes and drops trees of small pieces, on whichever thread it is woken. With free lists of the thread's own
//! (mimalloc) that takes a fifth less time than with the C library's arenas, and fewer pages stay that are held by one small
//! piece. Huge pages are left alone (the dependency's `no_thp`): they cost a quarter more memory and save no time.
//!
//! What a burst freed (a large manifest parsed, a document of every schema made) is kept for a moment for the next one, but
//! one busy minute must not mark a process that is idle for days. The same holds for the program itself: most of its code is
//! run at the start or once in a while, and mapped from then on. It is let go as well; the kernel keeps what others need no
//! room for, so that what is run again is mapped again without being read from disk.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    io,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// How long a process must have been idle; also how often that is looked at, which costs one read of a small file.
const PERIOD: Duration = Duration::from_secs(5);
/// Processor time in a period, in the kernel's ticks of 10 ms, below which it counts as idle: 15 % of one core, more than a
/// thousand nodes take that renew their leases and do nothing else.
const IDLE_TICKS: u64 = 75;

/// How long freed pages are kept, in milliseconds. With the allocator's own second a busy server never gives any back and
/// grows by a third; with none at all it fetches them again for the next write.
const PURGE_DELAY_MS: libc::c_long = 50;
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// What the allocator aligns every piece to that is at least as large (its `MI_MAX_ALIGN_SIZE`).
const ALIGNED: usize = 16;

/// Asks mimalloc in the way that is cheapest for it. Its own binding asks for an alignment each time, although nearly every
/// piece has it anyway: most requests then miss the short path, and those that are no power of two take a larger piece.
struct Allocator;

const fn is_aligned_anyway(layout: Layout) -> bool {
    layout.align() <= ALIGNED && layout.align() <= layout.size()
}

// SAFETY: all pieces come from mimalloc, which gives each out once until it is freed, as large as was asked for; they are
// aligned as asked, either because every piece of that size is or because it was told to.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_aligned_anyway(layout) {
            // SAFETY: any size may be asked for.
            return unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the alignment of a layout is a power of two.
        unsafe { libmimalloc_sys::mi_malloc_aligned(layout.size(), layout.align()) }.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_aligned_anyway(layout) {
            // SAFETY: any size may be asked for.
            return unsafe { libmimalloc_sys::mi_zalloc(layout.size()) }.cast();
        }
        // SAFETY: the alignment of a layout is a power of two.
        unsafe { libmimalloc_sys::mi_zalloc_aligned(layout.size(), layout.align()) }.cast()
    }

    unsafe fn dealloc(&self, piece: *mut u8, _: Layout) {
        // SAFETY: the caller gives back a piece that came from here.
        unsafe { libmimalloc_sys::mi_free(piece.cast()) };
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGNED && layout.align() <= size {
            // SAFETY: the caller gives back a piece that came from here, for one of another size.
            return unsafe { libmimalloc_sys::mi_realloc(piece.cast(), size) }.cast();
        }
        // SAFETY: as above, and the alignment of a layout is a power of two.
        unsafe { libmimalloc_sys::mi_realloc_aligned(piece.cast(), size, layout.align()) }.cast()
    }
}

/// Bursts of work that have ended.
static BURSTS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Those of them after which this thread has given its free pages back.
    static SEEN: Cell<u32> = const { Cell::new(0) };
}

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

/// Runs until `stop`; `rest` lets go of what others keep for a burst.
pub(crate) async fn run(rest: impl Fn() + Send, stop: CancellationToken) -> io::Result<()> {
    // starting up is a burst as well
    let mut activity = Activity { ticks: 0, worked: true };
    while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let ticks = processor_ticks(&stat).ok_or_else(|| io::Error::other(format!("no processor time in {stat:?}")))?;
        if activity.burst_ended(ticks) {
            rest();
            give_back();
            let_go_of_program()?;
        }
    }
    Ok(())
}

/// Returns free pages: those of threads that ended at once, those of the others when they have nothing to do. Some
/// milliseconds at most, in a process that has nothing else to do.
fn give_back() {
    BURSTS.fetch_add(1, Ordering::Relaxed);
    collect();
    tracing::debug!("giving free memory back");
}

/// What a thread does before it sleeps: gives its free pages back, once after each burst. The allocator keeps pages by thread.
pub(crate) fn before_sleep() {
    let bursts = BURSTS.load(Ordering::Relaxed);
    if SEEN.replace(bursts) != bursts {
        collect();
    }
}

fn collect() {
    // SAFETY: the function touches only memory that nobody has allocated.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Unmaps the program's code and constants, until they are used again: some 600 faults of 64 KiB in the worst case.
fn let_go_of_program() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for place in program(&maps, (let_go_of_program as *const ()).addr()) {
        let start = std::ptr::with_exposed_provenance_mut(place.start);
        // SAFETY: nobody has written to these pages, so that they are the same when they come back from the file.
        if unsafe { libc::madvise(start, place.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where the code that holds the address `here` and the constants in front of it lie, from the text of `/proc/self/maps`.
/// What lies behind the code may have been written by the loader.
fn program(maps: &str, here: usize) -> Vec<Range<usize>> {
    let mut found: Vec<(Range<usize>, &str)> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let place = fields.next().and_then(|place| place.split_once('-'));
        let (Some((start, end)), Some(access)) = (place, fields.next()) else { continue };
        let [Ok(start), Ok(end)] = [start, end].map(|address| usize::from_str_radix(address, 16)) else { continue };
        let Some(file) = fields.nth(3).filter(|file| file.starts_with('/')) else { continue };
        found.retain(|(_, other)| *other == file);
        match access {
            "r--p" => found.push((start..end, file)),
            "r-xp" => {
                found.push((start..end, file));
                if (start..end).contains(&here) {
                    return found.into_iter().map(|(place, _)| place).collect();
                }
            }
            _ => found.clear(),
        }
    }
    Vec::new()
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
        assert!(!activity.burst_ended(200));
        assert!(!activity.burst_ended(300), "still busy");
        assert!(activity.burst_ended(300));
    }

    #[test]
    fn every_piece_is_as_large_and_as_aligned_as_was_asked_for() {
        for align in (0..14).map(|shift| 1 << shift) {
            for size in [1, 7, 8, 15, 16, 17, 24, 40, 100, 640, 1000, 1025, 4096, 5000, 70_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: each piece is used within its size and given back once.
                unsafe {
                    let pieces: Vec<*mut u8> =
                        (0..4).flat_map(|_| [ALLOCATOR.alloc(layout), ALLOCATOR.alloc_zeroed(layout)]).collect();
                    for piece in pieces {
                        assert_eq!(piece.addr() % align, 0, "{size} {align}");
                        piece.write_bytes(7, size);
                        let larger = ALLOCATOR.realloc(piece, layout, size + 100);
                        assert_eq!((larger.addr() % align, larger.add(size - 1).read()), (0, 7), "{size} {align}");
                        larger.add(size).write_bytes(7, 100);
                        ALLOCATOR.dealloc(larger, Layout::from_size_align(size + 100, align).unwrap());
                    }
                }
            }
        }
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
    fn of_the_program_only_what_is_never_written_is_let_go() {
        let maps = "\
            4fd71800000-4fdb1800000 rw-p 00000000 00:00 0 \n\
            561000000000-561000001000 r--p 00000000 fe:00 11 /bin/keelson\n\
            561000001000-561000009000 r-xp 00001000 fe:00 11 /bin/keelson\n\
            561000009000-56100000a000 r--p 00009000 fe:00 11 /bin/keelson\n\
            56100000a000-56100000b000 rw-p 0000a000 fe:00 11 /bin/keelson\n\
            7f0000000000-7f0000001000 r--p 00000000 fe:00 12 /lib/libc.so.6\n\
            7f0000001000-7f0000009000 r-xp 00001000 fe:00 12 /lib/libc.so.6\n\
            7fff00000000-7fff00001000 r-xp 00000000 00:00 0 [vdso]\n";
        let both = vec![0x561000000000..0x561000001000, 0x561000001000..0x561000009000];
        assert_eq!(program(maps, 0x561000001234), both);
        assert!(program(maps, 0x561000009123).is_empty());
        assert!(program(maps, 0x7fff00000010).is_empty());
        assert!(program("", 1).is_empty());
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = (let_go_of_program as *const ()).addr();
        assert!(program(&own, here).iter().any(|place| place.contains(&here)));
        let_go_of_program().unwrap();
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
