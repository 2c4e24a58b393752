//! What the Job controller tells monitoring, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use parking_lot::Mutex;

use super::view::number;

/// Counts since the process began.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Jobs that ended, by completion mode, result and reason.
    finished: BTreeMap<(&'static str, &'static str, String), u64>,
    /// Pods that were counted, by completion mode and result.
    pods: BTreeMap<(&'static str, &'static str), u64>,
}

static COUNTS: Mutex<Counts> = Mutex::new(Counts { finished: BTreeMap::new(), pods: BTreeMap::new() });

fn mode(spec: &JobSpec) -> &'static str {
    if spec.completion_mode.as_deref() == Some("Indexed") { "Indexed" } else { "NonIndexed" }
}

impl Counts {
    fn pods(&mut self, spec: &JobSpec, before: &JobStatus, after: &JobStatus) {
        for (result, before, after) in
            [("succeeded", before.succeeded, after.succeeded), ("failed", before.failed, after.failed)]
        {
            let more = number(after).saturating_sub(number(before));
            *self.pods.entry((mode(spec), result)).or_default() += more as u64;
        }
    }

    fn finished(&mut self, spec: &JobSpec, reason: &str) {
        let (result, reason) = if reason == "Completed" { ("succeeded", "") } else { ("failed", reason) };
        *self.finished.entry((mode(spec), result, reason.to_owned())).or_default() += 1;
    }

    fn render(&self, out: &mut String) {
        let head = |out: &mut String, name: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        };
        let name = "job_controller_job_finished_total";
        head(out, name, "Finished Jobs.");
        for ((mode, result, reason), count) in &self.finished {
            let labels = format!("completion_mode=\"{mode}\",reason=\"{reason}\",result=\"{result}\"");
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
        let name = "job_controller_job_pods_finished_total";
        head(out, name, "Finished pods that Jobs have counted.");
        for ((mode, result), count) in &self.pods {
            let _ = writeln!(out, "{name}{{completion_mode=\"{mode}\",result=\"{result}\"}} {count}");
        }
    }
}

/// Notes what a written status counts more than the one before.
pub(super) fn counted(spec: &JobSpec, before: &JobStatus, after: &JobStatus) {
    COUNTS.lock().pods(spec, before, after);
}

/// Notes that a Job ended; `reason` is that of its event.
pub(super) fn finished(spec: &JobSpec, reason: &str) {
    COUNTS.lock().finished(spec, reason);
}

/// Appends the counts in Prometheus' text format.
pub(crate) fn render(out: &mut String) {
    COUNTS.lock().render(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_pods_are_counted_by_mode_and_result() {
        let spec = JobSpec { completion_mode: Some("Indexed".into()), ..JobSpec::default() };
        let status = |succeeded, failed| JobStatus { succeeded, failed, ..JobStatus::default() };
        let mut counts = Counts::default();
        counts.pods(&spec, &status(None, Some(1)), &status(Some(3), Some(2)));
        // an elastic Job that shrank has fewer
        counts.pods(&spec, &status(Some(3), Some(2)), &status(Some(1), Some(2)));
        counts.finished(&spec, "Completed");
        counts.finished(&JobSpec::default(), "DeadlineExceeded");
        let mut out = String::new();
        counts.render(&mut out);
        for line in [
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 3",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"failed\"} 1",
            "job_controller_job_finished_total{completion_mode=\"Indexed\",reason=\"\",result=\"succeeded\"} 1",
            "job_controller_job_finished_total{completion_mode=\"NonIndexed\",reason=\"DeadlineExceeded\",result=\"failed\"} 1",
        ] {
            assert!(out.lines().any(|known| known == line), "{line}\n{out}");
        }
    }
}
