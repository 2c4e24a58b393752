//! What the kernel knows about this process, under the names every Prometheus client uses, and how many tasks it has.

use std::fmt::Write as _;

/// Ticks of the kernel's clock in `/proc`: a hundred on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// Appends the metrics; what cannot be read is left out.
pub(crate) fn render(out: &mut String) {
    let mut gauge = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the name of the process may hold anything, so counting begins behind it
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |index: usize| fields.get(index).copied();
    let cpu = field(11).zip(field(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    let help = "Total user and system CPU time spent in seconds.";
    gauge("process_cpu_seconds_total", "counter", help, cpu);
    gauge("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(20));
    let resident = field(21).map(|pages| pages * PAGE_BYTES as f64);
    gauge("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident);
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    gauge("process_open_fds", "gauge", "Number of open file descriptors.", files);
    let help = "Maximum number of open file descriptors.";
    gauge("process_max_fds", "gauge", help, open_files_max());
    let help = "Start time of the process since unix epoch in seconds.";
    gauge(
        "process_start_time_seconds",
        "gauge",
        help,
        field(19).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND),
    );
}

/// Appends the number of tasks: what `go_goroutines` is for upstream, it grows when one is left behind.
pub(crate) fn render_tasks(out: &mut String) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let help = "Tasks of the asynchronous runtime that exist.";
    let alive = runtime.metrics().num_alive_tasks();
    let _ = writeln!(out, "# HELP tokio_alive_tasks {help}\n# TYPE tokio_alive_tasks gauge\ntokio_alive_tasks {alive}");
}

fn open_files_max() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|time| time.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn tasks_are_counted_as_they_come_and_go() {
        let count = || {
            let mut out = String::new();
            super::render_tasks(&mut out);
            out.rsplit(' ').next().unwrap().trim().parse::<u32>().unwrap()
        };
        let before = count();
        let task = tokio::spawn(std::future::pending::<()>());
        assert_eq!(count(), before + 1);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(count(), before);
    }

    #[test]
    fn this_process_uses_memory() {
        let mut out = String::new();
        super::render(&mut out);
        let line = out.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).unwrap();
        let bytes: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(bytes > 1e6, "{out}");
        assert!(out.contains("process_start_time_seconds ") && out.contains("process_max_fds "));
    }
}
